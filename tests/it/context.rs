//! What of the user's folder a build sees.

use crate::env::{bare, write};

const COPY_ALL: &str = "FROM scratch\nCOPY . /\n";

fn copied(env: &crate::env::TestEnv, files: &[(&str, &str)], args: &[&str]) -> Vec<String> {
    let context = env.context(files);
    let image = env.built_from(&context, args);
    image.files().into_keys().collect()
}

#[test]
fn dockerignore_hides_and_shows_again() {
    let Some(env) = bare() else { return };
    let files = [
        ("Dockerfile", COPY_ALL),
        (
            ".dockerignore",
            "# comment\n*.log\n!keep.log\n/only-top\n**/deep.tmp\nfolder/*\n!folder/kept\n.dockerignore\nDockerfile\n",
        ),
        ("a.log", ""),
        ("keep.log", ""),
        ("sub/a.log", ""),
        ("only-top", ""),
        ("sub/only-top", ""),
        ("sub/more/deep.tmp", ""),
        ("folder/gone", ""),
        ("folder/kept", ""),
    ];
    let expected =
        ["folder", "folder/kept", "keep.log", "sub", "sub/a.log", "sub/more", "sub/only-top"];
    assert_eq!(copied(&env, &files, &[]), expected);
}

#[test]
fn the_dockerfile_s_own_ignore_file_wins() {
    let Some(env) = bare() else { return };
    let context = env.context(&[
        ("other.Dockerfile", COPY_ALL),
        ("other.Dockerfile.dockerignore", "a\n*ocker*\n"),
        (".dockerignore", "b\n"),
        ("a", ""),
        ("b", ""),
    ]);
    let file = context.join("other.Dockerfile");
    let image = env.built_from(&context, &["-f", file.to_str().expect("UTF-8")]);
    assert_eq!(image.files().into_keys().collect::<Vec<_>>(), ["b"]);
}

#[test]
fn the_dockerfile_may_be_elsewhere_or_on_standard_input() {
    let Some(env) = bare() else { return };
    let context = env.context(&[("a", "A")]);
    let elsewhere = env.context(&[("D", "FROM scratch\nCOPY a /from-file\n")]);
    let image = env.built_from(&context, &["-f", elsewhere.join("D").to_str().expect("UTF-8")]);
    assert!(image.has("from-file"));
    let path = context.to_str().expect("UTF-8");
    let ran =
        env.mica_with_input(["build", "-q", "-f", "-", path], b"FROM scratch\nCOPY a /piped\n");
    assert!(env.saved(ran.success().trim()).has("piped"));
}

#[test]
fn lower_case_dockerfile() {
    let Some(env) = bare() else { return };
    assert_eq!(copied(&env, &[("dockerfile", COPY_ALL), ("x", "")], &[]), ["dockerfile", "x"]);
}

#[test]
fn a_relative_context_is_that_of_the_working_folder() {
    let Some(env) = bare() else { return };
    write(&env.path("contexts"), "rel/Dockerfile", COPY_ALL);
    write(&env.path("contexts"), "rel/x", "X");
    let ran = env.mica(["build", "-q", "rel"]);
    assert_eq!(env.saved(ran.success().trim()).text("x"), "X");
    let mut command = env.command(["build", "-q", "."]);
    command.current_dir(env.path("contexts/rel"));
    let ran = crate::env::Ran::of(&mut command);
    assert_eq!(env.saved(ran.success().trim()).text("x"), "X");
}

#[test]
fn a_hidden_link_leads_nowhere() {
    let Some(env) = bare() else { return };
    for (source, rule) in [("link", "link"), ("folder/link", "folder"), ("to-d/a", "to-*")] {
        let text = format!("FROM scratch\nCOPY {source} /x\n");
        let context = env.context(&[("Dockerfile", &text), (".dockerignore", rule), ("d/a", "A")]);
        std::fs::create_dir(context.join("folder")).expect("a folder");
        for (link, target) in [("link", "d/a"), ("folder/link", "../d/a"), ("to-d", "d")] {
            std::os::unix::fs::symlink(target, context.join(link)).expect("a link");
        }
        let ran = env.build(&context, &[]);
        assert_eq!(ran.code, Some(1), "{source}: {}", ran.stderr);
    }
}

#[test]
fn a_folder_is_no_ignore_file() {
    let Some(env) = bare() else { return };
    let files = [("Dockerfile", "FROM scratch\nCOPY a /\n"), (".dockerignore/a", "*"), ("a", "")];
    assert_eq!(copied(&env, &files, &[]), ["a"]);
}

#[test]
fn an_ignore_file_beside_that_is_no_file_is_refused_at_once() {
    let Some(env) = bare() else { return };
    let context = env.context(&[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "")]);
    let beside = context.join("Dockerfile.dockerignore");
    nix::unistd::mkfifo(&beside, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    env.give(&context);
    let ran = env.build(&context, &[]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("it is no regular file"), "{}", ran.stderr);
}

#[test]
fn the_plain_beginning_of_a_pattern_has_to_be_there() {
    let Some(env) = bare() else { return };
    for (source, code) in [("gone/*", Some(1)), ("gone*", Some(0)), ("d/z*", Some(0))] {
        let text = format!("FROM scratch\nCOPY {source} /x/\n");
        let ran = env.build(&env.context(&[("Dockerfile", &text), ("d/a", "A")]), &[]);
        assert_eq!(ran.code, code, "{source}: {}", ran.stderr);
    }
}

#[test]
fn names_of_one_file_stay_one_within_a_source() {
    let Some(env) = bare() else { return };
    let text = "FROM scratch\nCOPY d /folder/\nCOPY d/a d/b /files/\nCOPY d/* /matches/\n";
    let context = env.context(&[("Dockerfile", text), ("d/a", "A")]);
    std::fs::hard_link(context.join("d/a"), context.join("d/b")).expect("a link");
    let image = env.built_from(&context, &[]);
    let kind = |path| image.file(path).kind;
    assert_eq!(kind("folder/b"), tar::EntryType::Link);
    assert_eq!(kind("files/b"), tar::EntryType::Regular);
    assert_eq!(kind("matches/b"), tar::EntryType::Regular);
}

#[test]
fn a_link_does_not_lead_out_of_the_context() {
    let Some(env) = bare() else { return };
    let outside = env.context(&[("secret", "S")]);
    let context = env.dockerfile("FROM scratch\nCOPY link/secret /stolen\n");
    std::os::unix::fs::symlink(&outside, context.join("link")).expect("a link");
    let ran = env.build(&context, &[]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("error: `/link/secret` is not found"), "{}", ran.stderr);
}
