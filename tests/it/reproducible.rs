//! `SOURCE_DATE_EPOCH`: the same image, wherever and whenever and by whomever it is built.

use std::path::{Path, PathBuf};

use crate::env::{Ran, TestEnv, is_root, plain_user, with_base};

const EPOCH: u64 = 1_600_000_000;

/// The same base in each store: one archive, which says when it was made.
/// Gives one environment the base image of the other.
pub(crate) fn same_base(from: &TestEnv, to: &TestEnv) {
    let archive = from.mica(["save", "base"]).bytes;
    to.mica(["rmi", "base"]).success();
    to.mica_with_input(["load"], &archive).success();
}

fn context(env: &TestEnv) -> PathBuf {
    env.context(&[
        ("Dockerfile", "FROM base AS build\nRUN mkdir /out && echo 1 >/out/one && ln /out/one /out/two\n\
            FROM base\nWORKDIR /srv\nCOPY --from=build /out out\nCOPY --chown=app . .\nRUN chown -R app:extra out && chmod 4711 out/one && rm -r /home/app && mkfifo /p\nUSER app\nRUN echo mine >/tmp/mine\nLABEL a=b\n"),
        ("src/main", "code"),
        ("src/empty/", ""),
    ])
}

#[track_caller]
fn build(env: &TestEnv, context: &Path) -> String {
    let mut command = env.command(["build", "-q", "-t", "app"]);
    command.arg(context).env("SOURCE_DATE_EPOCH", EPOCH.to_string());
    Ran::of(&mut command).success().trim().to_owned()
}

#[test]
fn two_stores_give_the_same_image() {
    let (Some(first), Some(second)) = (with_base(), with_base()) else { return };
    same_base(&first, &second);
    let one = build(&first, &context(&first));
    // Files' times and the second's clock differ by now.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let two = build(&second, &context(&second));
    assert_eq!(one, two);
    assert!(first.mica(["save", "app"]).bytes == second.mica(["save", "app"]).bytes);
}

#[test]
fn no_time_is_later() {
    let Some(env) = with_base() else { return };
    let id = build(&env, &context(&env));
    let image = env.saved(&id);
    assert_eq!(image.config["created"], "2020-09-13T12:26:40Z");
    let made = image.layers[1..].iter().flatten();
    for (path, file) in made {
        assert!(file.mtime <= EPOCH, "{path}: {}", file.mtime);
    }
    let flag = env.id_of(&context(&env), &["--source-date-epoch", &EPOCH.to_string()]);
    let arg = format!("SOURCE_DATE_EPOCH={EPOCH}");
    let arg = env.id_of(&context(&env), &["--build-arg", &arg]);
    assert_eq!((&flag, &arg), (&id, &id));
}

#[test]
fn root_and_a_plain_user_give_the_same_image() {
    if !is_root() {
        return crate::env::skip("needs root, which can be a plain user too");
    }
    let (Some(root), Some(user)) = (with_base(), plain_user()) else { return };
    assert_eq!((root.isolation(), user.isolation()), (Ok("root".into()), Ok("userns".into())));
    same_base(&root, &user);
    assert_eq!(build(&root, &context(&root)), build(&user, &context(&user)));
    assert!(root.mica(["save", "app"]).bytes == user.mica(["save", "app"]).bytes);
    assert_eq!(user.shell("app", "id -u; stat -c %u:%g out/one"), "1000\n1000:55\n");
}

#[test]
fn the_order_of_files_and_the_number_of_jobs_do_not_count() {
    let (Some(first), Some(second)) = (with_base(), with_base()) else { return };
    same_base(&first, &second);
    let names: Vec<String> = (0..50).map(|n| format!("f{n}")).collect();
    let dockerfile = (
        "Dockerfile",
        "FROM base AS a\nCOPY f1* /\nFROM base AS b\nCOPY f2* /\nFROM base\nCOPY --from=a / /a\nCOPY --from=b / /b\nCOPY . /all/\n",
    );
    let forward: Vec<_> =
        [dockerfile].into_iter().chain(names.iter().map(|n| (n.as_str(), "x"))).collect();
    let backward: Vec<_> = forward.iter().rev().copied().collect();
    let epoch = ["--source-date-epoch", "1600000000", "-j"];
    let one = first.id_of(&first.context(&forward), &[&epoch[..], &["1"]].concat());
    let two = second.id_of(&second.context(&backward), &[&epoch[..], &["8"]].concat());
    assert_eq!(one, two);
}
