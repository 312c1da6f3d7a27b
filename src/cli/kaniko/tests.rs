//! Command lines of Kaniko, and what they come to.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::contexts::{Source, dockerfile, source};
use super::flags::FLAGS;
use super::*;

/// What a command line comes to.
fn parsed(line: &str) -> Result<(BuildArgs, Vec<String>), String> {
    let words = std::iter::once("executor").chain(line.split_whitespace());
    let matches = flags::command().try_get_matches_from(words).map_err(|err| err.to_string())?;
    let given = Given::new(matches);
    let mut build = BuildArgs::from_arg_matches(given.matches()).map_err(|err| err.to_string())?;
    let mut said = moot(&given).map_err(|err| err.to_string())?;
    said.extend(translate::apply(&given, &mut build).map_err(|err| err.to_string())?);
    Ok((build, said))
}

#[track_caller]
fn build(line: &str) -> BuildArgs {
    parsed(line).expect(line).0
}

#[track_caller]
fn refused(line: &str, expected: &str) {
    let message = parsed(line).expect_err(line);
    assert!(message.contains(expected), "{line}: {message}");
}

#[test]
fn the_page_has_all_flags() {
    let page = include_str!("../../../docs/kaniko.md");
    let rows = page.lines().filter(|line| line.starts_with("| `--"));
    let listed: BTreeMap<&str, &str> = rows
        .map(|row| {
            let mut cells = row.split('|').skip(1);
            let flag = cells.next().and_then(|cell| cell.split('`').nth(1)).expect("a flag");
            (&flag[2..], cells.next().expect("a fate").trim())
        })
        .collect();
    let known: BTreeMap<&str, &str> = FLAGS
        .iter()
        .map(|flag| {
            let fate = match flag.fate {
                Fate::Done => "done",
                Fate::Same(_) => "as in `mica build`",
                Fate::Moot(_) => "nothing to do",
                Fate::Refused(_) => "refused",
            };
            (flag.name, fate)
        })
        .collect();
    assert_eq!(listed, known);
    for alias in FLAGS.iter().filter_map(|flag| flag.alias) {
        assert!(page.contains(&format!("`--{alias}`")), "{alias}");
    }
}

#[test]
fn what_there_is_nothing_to_do_for_is_said_once() {
    for flag in FLAGS {
        let line = format!("--no-push --{}=1", flag.name);
        match flag.fate {
            Fate::Moot(why) => {
                let said = parsed(&line).expect(&line).1;
                assert_eq!(said, [format!("note: `--{}` changes nothing: {why}", flag.name)]);
            }
            Fate::Refused(why) => refused(&line, why),
            Fate::Done | Fate::Same(_) => {}
        }
    }
}

#[test]
fn a_pipeline_of_kaniko() {
    let line = "--context /ctx --dockerfile /ctx/Containerfile --destination r.example/app:1 \
                -d r.example/app:2 --build-arg A=1 --label b=c --target t --custom-platform=linux/amd64";
    let args = build(line);
    assert_eq!(args.context, PathBuf::from("/ctx"));
    assert_eq!(args.file, Some("/ctx/Containerfile".into()));
    assert_eq!(args.tag, ["r.example/app:1", "r.example/app:2"]);
    assert_eq!(args.output, ["type=registry"]);
    assert_eq!(args.build_arg, ["A=1"]);
    assert_eq!(args.label, ["b=c"]);
    assert_eq!(args.target.as_deref(), Some("t"));
    assert_eq!(args.platform.as_deref(), Some("linux/amd64"));
    assert!(!args.no_cache && !args.push);
    assert_eq!(build("--no-push").context, PathBuf::from("/workspace/"));
    assert_eq!(build("--no-push -c=dir:///a --context-sub-path b").context, PathBuf::from("/a/b"));
}

#[test]
fn a_pipeline_of_docker() {
    let args = build("-t app -f Other --cpu-shares 5 --cache-from r.example/c .");
    assert_eq!(args.context, PathBuf::from("."));
    assert_eq!(args.file, Some("Other".into()));
    assert_eq!((args.tag, args.output), (vec!["app".to_owned()], Vec::new()));
    assert_eq!(build(".").context, PathBuf::from("."));
}

#[test]
fn what_contradicts_itself_is_refused() {
    refused("", "nothing says where the image goes");
    refused("--context /a .", "there is one context");
    refused("--cache true --context /a -d r.example/a", "there is one context");
    refused("-d r.example/a -t b", "`--tag` stands beside `--destination`");
    refused("--cache=maybe -d r.example/a", "neither true nor false");
    refused("--no-push --cache", "needs `--cache-repo`");
    refused("--no-push --image-name-with-digest-file x", "there is no name");
    refused("-d r.example/a --digest-file https://x.example/y", "files of this container only");
    refused("-d r.example/a --compression lz4", "there are gzip and zstd");
    refused("-d r.example/a --compression-level 99", "a number from 0 to 9");
    refused("-d r.example/a --log-format xml", "text, color and json");
    refused("-d r.example/a -v loud", "there are panic");
    refused("-d r.example/a --image-format x", "there are docker and oci");
    refused("-d r.example/a --cache --cache-ttl soon", "write it like 336h");
    refused("-d r.example/a --registry-certificate r.example", "write it as HOST=FILE");
    refused("-d r.example/a --registry-client-cert r.example=a", "write it as HOST=CERT,KEY");
    refused("-d r.example/a --registry-map r.example", "write it as REGISTRY=MIRROR");
    refused("-d r.example/a --registry-mirror ftp://x", "neither `https:` nor `http:`");
    refused("-d r.example/a --insecure-registry plain", "is not the host of a registry");
    refused("-d r.example/a --nonsense", "unexpected argument");
}

#[test]
fn caches() {
    let check = |line: &str, from: &[&str], to: &[&str]| {
        let args = build(&format!("-d r.example/a:1 {line}"));
        assert_eq!(args.cache_from, from, "{line}");
        assert_eq!(args.cache_to, to, "{line}");
        args
    };
    let own = "type=registry,ref=r.example/a/cache:mica";
    let max = |place: &str| format!("{place},mode=max");
    check("", &[], &[]);
    check("--cache", &[own], &[&max(own)]);
    check("--cache=true --no-push-cache", &[own], &[]);
    let other = "type=registry,ref=s.example:5/c:mica";
    check("--cache=true --cache-repo s.example:5/c", &[other], &[&max(other)]);
    let tagged = "type=registry,ref=s.example/c:x";
    check("--cache --cache-repo=s.example/c:x", &[tagged], &[&max(tagged)]);
    let folder = "type=local,\"dest=/a,b\",mode=max";
    check("--cache --cache-repo oci:/a,b", &["type=local,\"src=/a,b\""], &[folder]);
    assert!(check("--cache=false", &[], &[]).no_cache);
    assert!(check("--cache --cache-run-layers=false", &[], &[]).no_cache);
    let args = check("--cache --cache-ttl 1h30m", &[own], &[&max(own)]);
    let age = args.extra.cache_since.map(|since| jiff::Timestamp::now().duration_since(since));
    assert!(age.is_some_and(|age| (5400..5460).contains(&age.as_secs())), "{age:?}");
    let said = |line: &str| parsed(&format!("-d r.example/a {line}")).expect(line).1.len();
    assert_eq!(said("--cache --cache-ttl 1h --reproducible"), 1);
    assert_eq!(said("--cache-repo r.example/c"), 1);
}

#[test]
fn outputs() {
    let check = |line: &str, expected: &[&str]| {
        assert_eq!(build(line).output, expected, "{line}");
    };
    check("--no-push", &[]);
    check("--no-push -d r.example/a", &[]);
    check("--no-push --tar-path /a,b.tar", &["type=docker,\"dest=/a,b.tar\""]);
    check("-d r.example/a --tarPath x", &["type=docker,dest=x", "type=registry"]);
    check(
        "-d r.example/a --oci-layout-path x --compression zstd --compression-level 5",
        &[
            "type=oci,tar=false,dest=x,compression=zstd,compression-level=5",
            "type=registry,compression=zstd,compression-level=5",
        ],
    );
    check("-d r.example/a --no-push= --tar-path= --compression=", &["type=registry"]);
    check("-d r.example/a --compression-level -1", &["type=registry"]);
    check("-d r.example/a --image-format docker", &["type=registry,oci-mediatypes=false"]);
    let args = build("--no-push --single-snapshot --reproducible --digest-file d -v error");
    assert_eq!(args.docker.squash.as_deref(), Some("true"));
    assert_eq!(args.source_date_epoch.as_deref(), Some("0"));
    assert_eq!(args.extra.digests.map(|digests| digests.files.len()), Some(1));
    assert_eq!(args.progress, crate::cli::args::ProgressArg::Quiet);
    let args = build("--no-push --log-format=text --reproducible=false");
    assert_eq!(args.progress, crate::cli::args::ProgressArg::Plain);
    assert_eq!(args.source_date_epoch, None);
}

#[test]
fn contexts() {
    let none = |_: &str| None;
    let word = |text: &str| Some(Source::Word(text.to_owned()));
    let repository = |text: &str| Some(Source::Repository(text.to_owned()));
    let check = |text: &str, below: Option<&str>, git: Option<&str>, expected: Option<Source>| {
        assert_eq!(source(text, below, git, &none).ok(), expected, "{text}");
    };
    check("/a", None, None, Some(Source::Folder("/a".into())));
    check("dir://a", Some("b"), None, Some(Source::Folder("a/b".into())));
    check("tar:///a.tar.gz", None, None, Some(Source::Archive("/a.tar.gz".into())));
    check("tar://stdin", None, None, word("-"));
    check("https://h.example/a.tar.gz", None, None, word("https://h.example/a.tar.gz"));
    for remote in ["gs://b/a.tar.gz", "s3://b/a.tar.gz"] {
        check(remote, None, None, None);
    }
    let plain = repository("https://h.example/a.git?submodules=false#");
    check("git://h.example/a", None, None, plain);
    let branch = repository("https://h.example/a.git?submodules=false#refs/heads/b:sub");
    check("git://h.example/a.git#refs/heads/b", Some("sub"), None, branch);
    let commit = repository("https://h.example/a.git?submodules=false#0123");
    check("git://h.example/a#refs/heads/b#0123", None, None, commit);
    let options = Some("branch=c,single-branch=true,recurse-submodules=true");
    let branch = repository("https://h.example/a.git?submodules=true#c");
    check("git://h.example/a#b", None, options, branch);
    check("git://h.example/a", None, Some("insecure-skip-tls=true"), None);
    check("git://h.example/a", None, Some("nonsense=1"), None);
    let error = source("s3://u:secret@h.example/a", None, None, &none).expect_err("refused");
    assert!(!error.to_string().contains("secret"), "{error}");
    assert_eq!(build("--no-push -c tar://a --context-sub-path b").extra.below, Some("b".into()));
    assert_eq!(build("--no-push -c git://h.example/a --context-sub-path b").extra.below, None);
}

#[test]
fn who_asks_for_a_repository() {
    let check = |vars: &[(&str, &str)], expected: &str| {
        let env = |name: &str| {
            let found = vars.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let found = source("git://h.example/a", None, None, &env).expect("a repository");
        let Source::Repository(word) = found else { panic!("{found:?}") };
        assert_eq!(word, format!("{expected}h.example/a.git?submodules=false#"));
    };
    check(&[("GIT_TOKEN", "a/b@c")], "https://a%2Fb%40c:@");
    check(&[("GIT_USERNAME", "u"), ("GIT_PASSWORD", "p:")], "https://u:p%3A@");
    check(&[("GIT_PULL_METHOD", "http")], "http://");
    check(&[("GIT_PULL_METHOD", "gopher")], "https://");
}

#[test]
fn dockerfiles() {
    let folder = Source::Folder("/ctx".into());
    let check = |named: Option<&str>, source: &Source, there: &str, expected: Option<&str>| {
        let found = dockerfile(named.map(PathBuf::from), source, |path| path == Path::new(there));
        assert_eq!(found, expected.map(PathBuf::from), "{named:?}");
    };
    check(None, &folder, "", None);
    check(Some("d"), &folder, "", Some("/ctx/d"));
    check(Some("/x/d"), &folder, "/x/d", Some("/x/d"));
    check(Some("d"), &Source::Archive("/a".into()), "", Some("d"));
    check(Some("https://h.example/d"), &folder, "", Some("https://h.example/d"));
    check(Some("-"), &folder, "", Some("-"));
    let here = dockerfile(Some("d".into()), &folder, |_| true).expect("a file");
    assert!(here.is_absolute() && here.ends_with("d"));
}

#[test]
fn the_name_it_is_called_by() {
    let check = |name: &str, expected: bool| assert_eq!(is_called(Some(name.as_ref())), expected);
    check("/kaniko/executor", true);
    check("executor", true);
    check("/usr/bin/mica", false);
    check("/executor/mica", false);
    flags::command().debug_assert();
    for flag in FLAGS {
        assert_eq!(flag.is_explained(), flag.fate == Fate::Done, "{}", flag.name);
    }
}
