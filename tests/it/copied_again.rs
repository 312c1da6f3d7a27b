//! A COPY that is done again after something changed: what did not change is taken from the layer
//! before, and only that.

use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sys::stat::UtimensatFlags;

use crate::env::{TestEnv, with_base, write};

/// Folders that a COPY makes for its destination have no other time to be given, and no later one: two
/// builds are compared, and a second may end between them.
const EPOCH: &str = "1000000000";

/// Gives all of a context that has another the same time, and lets so much pass that a change shows.
fn settle(context: &Path) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for entry in walkdir::WalkDir::new(context).into_iter().flatten() {
        let has = entry.metadata().expect("read").modified().expect("a time");
        if has != time {
            let file = File::open(entry.path()).expect("opened");
            file.set_times(FileTimes::new().set_modified(time)).expect("set");
        }
    }
    std::thread::sleep(Duration::from_millis(50));
}

/// A context with these files, built.
fn built(env: &TestEnv, dockerfile: &str, files: &[(&str, &str)]) -> PathBuf {
    let context = env.context(files);
    write(&context, "Dockerfile", dockerfile);
    env.give(&context);
    settle(&context);
    env.id_of(&context, &["--source-date-epoch", EPOCH, "-t", "before"]);
    context
}

/// What `script` says in an image of the context now; one that is built elsewhere is the same.
#[track_caller]
fn now(env: &TestEnv, context: &Path, script: &str) -> String {
    settle(context);
    let epoch = ["--source-date-epoch", EPOCH];
    let id = env.id_of(context, &epoch);
    let fresh = with_base().expect("as before");
    let layers = |env: &TestEnv, id: &str| env.saved(id).config["rootfs"]["diff_ids"].clone();
    let elsewhere = fresh.context(&[]);
    let mut copy = std::process::Command::new("cp");
    copy.args(["-a", "--"]).arg(context.join(".")).arg(&elsewhere);
    assert!(copy.status().expect("cp runs").success());
    fresh.give(&elsewhere);
    assert_eq!(layers(env, &id), layers(&fresh, &fresh.id_of(&elsewhere, &epoch)));
    env.shell(&id, script)
}

#[test]
fn a_file_is_what_it_is_now() {
    let Some(env) = with_base() else { return };
    let files = [("src/a/one", "1"), ("src/a/two", "2"), ("src/b/three", "3"), ("src/b/four", "4")];
    let context = built(&env, "FROM base\nCOPY src /app\nRUN true\n", &files);
    write(&context, "src/a/two", "5");
    fs::remove_file(context.join("src/b/three")).expect("removed");
    write(&context, "src/b/five", "6");
    let script = "cd /app; grep -r . . | sort";
    assert_eq!(now(&env, &context, script), "./a/one:1\n./a/two:5\n./b/five:6\n./b/four:4\n");
    // What was there before the last change is there again.
    write(&context, "src/a/two", "2");
    write(&context, "src/b/three", "7");
    let text = "./a/one:1\n./a/two:2\n./b/five:6\n./b/four:4\n./b/three:7\n";
    assert_eq!(now(&env, &context, script), text);
}

/// Neither times nor sizes tell, nor does any file's change time: only which file it is.
#[test]
fn a_folder_that_took_anothers_place_is_seen() {
    let Some(env) = with_base() else { return };
    let files = [("src/a", "1"), ("src/b", "2"), ("new/a", "3"), ("new/b", "4"), ("c", "5")];
    let context = built(&env, "FROM base\nCOPY src /app\nCOPY c /\nRUN true\n", &files);
    fs::rename(context.join("src"), context.join("old")).expect("moved");
    fs::rename(context.join("new"), context.join("src")).expect("moved");
    assert_eq!(now(&env, &context, "cat /app/a /app/b /c"), "345");
    fs::rename(context.join("src"), context.join("new")).expect("moved");
    fs::rename(context.join("old"), context.join("src")).expect("moved");
    write(&context, "src/b", "6");
    assert_eq!(now(&env, &context, "cat /app/a /app/b /c"), "165");
}

#[test]
fn of_two_that_came_to_one_place_the_one_that_is_left_counts() {
    let Some(env) = with_base() else { return };
    let dockerfile = "FROM base\nCOPY */f /app/\nCOPY one two /all/\nRUN true\n";
    let files = [("one/f", "1"), ("two/f", "2"), ("one/g", "3"), ("two/g", "4")];
    let context = built(&env, dockerfile, &files);
    assert_eq!(env.shell("before", "cat /app/f /all/f /all/g"), "224");
    fs::remove_file(context.join("two/f")).expect("removed");
    assert_eq!(now(&env, &context, "cat /app/f /all/f /all/g"), "114");
}

#[test]
fn an_owner_is_looked_up_anew() {
    let Some(env) = with_base() else { return };
    let dockerfile = "ARG ID\nFROM base\nARG ID\nRUN echo me:x:$ID:$ID::/:/bin/sh >>/etc/passwd\n\
                      COPY --chown=me:1 src /app\nRUN true\n";
    let context = built(&env, dockerfile, &[("src/a", "1"), ("src/b", "2")]);
    for id in ["77", "78"] {
        settle(&context);
        let built = env.id_of(&context, &["--build-arg", &format!("ID={id}")]);
        let owner = env.shell(&built, "stat -c %u:%g /app/a /app/b");
        assert_eq!(owner, format!("{id}:1\n{id}:1\n"));
    }
}

#[test]
fn modes_and_xattrs_that_changed_are_seen() {
    use std::os::unix::fs::PermissionsExt;
    let Some(env) = with_base() else { return };
    let files = [("src/a", "1"), ("src/b", "2"), ("src/c", "3")];
    let context = built(&env, "FROM base\nCOPY src /app\nRUN true\n", &files);
    fs::set_permissions(context.join("src/a"), PermissionsExt::from_mode(0o751)).expect("chmod");
    assert_eq!(now(&env, &context, "cd /app; stat -c %n:%a a b").lines().next(), Some("a:751"));
    let times = nix::sys::time::TimeSpec::new(1_100_000_000, 0);
    let path = context.join("src/b");
    nix::sys::stat::utimensat(
        nix::fcntl::AT_FDCWD,
        &path,
        &times,
        &times,
        UtimensatFlags::NoFollowSymlink,
    )
    .expect("set");
    std::thread::sleep(Duration::from_millis(50));
    write(&context, "src/c", "4");
    let id = env.id_of(&context, &[]);
    assert_eq!(env.shell(&id, "cd /app; stat -c %Y b; cat c"), "1100000000\n4");
}
