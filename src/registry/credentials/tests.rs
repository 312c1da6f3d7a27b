//! Files and helpers, from both ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::*;

fn basic(user: &str, password: &str) -> Credential {
    Credential::Basic { user: user.to_owned(), password: password.to_owned() }
}

/// Credentials of one `config.json`.
fn with(text: &str) -> (tempfile::TempDir, Credentials) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("docker/config.json");
    fs::create_dir(dir.path().join("docker")).expect("a folder");
    fs::write(&path, text).expect("to write");
    let places = Places { docker: Some(path), ..Places::default() };
    (dir, Credentials::at(places))
}

#[test]
fn forms_of_an_entry() {
    // `u:p:q`, with and without padding, and with the NULs that old Dockers wrote.
    let cases = [
        (r#"{"auth": "dTpwOnE="}"#, Some(basic("u", "p:q"))),
        (r#"{"auth": "dTpwOnE"}"#, Some(basic("u", "p:q"))),
        (r#"{"auth": "dTpwAAA="}"#, Some(basic("u", "p"))),
        (r#"{"username": "u", "password": "p"}"#, Some(basic("u", "p"))),
        (r#"{"auth": "dTo=", "identitytoken": "t"}"#, Some(Credential::IdentityToken("t".into()))),
        ("{}", None),
        (r#"{"auth": ""}"#, None),
    ];
    for (entry, expected) in cases {
        let (_dir, credentials) = with(&format!(r#"{{"auths": {{"r.example": {entry}}}}}"#));
        assert_eq!(credentials.get("r.example").expect(entry), expected, "{entry}");
        assert_eq!(credentials.get("other.example").expect(entry), None);
    }
}

#[test]
fn names_of_a_registry() {
    let found = |key: &str, host: &str| {
        let (_dir, credentials) = with(&format!(r#"{{"auths": {{"{key}": {{"auth": "dTpw"}}}}}}"#));
        credentials.get(host).expect(key).is_some()
    };
    for (key, host) in [
        ("https://index.docker.io/v1/", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("docker.io", "docker.io"),
        ("https://r.example:5000/v2/", "r.example:5000"),
        ("http://r.example", "r.example"),
        ("r.example/v1/", "r.example"),
    ] {
        assert!(found(key, host), "{key} is {host}");
    }
    for (key, host) in [
        ("r.example:5000", "r.example"),
        ("r.example", "r.example:5000"),
        // For one repository alone.
        ("r.example/team/app", "r.example"),
        ("evil.example/r.example", "r.example"),
        ("r.example.evil.example", "r.example"),
    ] {
        assert!(!found(key, host), "{key} is not {host}");
    }
}

#[test]
fn no_secret_is_shown() {
    let shown =
        format!("{:?} {:?}", basic("user", "hush"), Credential::IdentityToken("hush".into()));
    assert!(!shown.contains("hush") && !shown.contains("user"), "{shown}");
    for text in [
        r#"{"auths": {"r.example": {"auth": "aHVzaC1odXNo"}}}"#,
        r#"{"auths": {"r.example": {"auth": hush}}}"#,
        r#"{"auths": {"r.example": {"auth": "hush"#,
        r#"["hush"]"#,
    ] {
        let (_dir, credentials) = with(text);
        let err = credentials.get("r.example").expect_err(text);
        let shown = format!("{err} {err:?}");
        assert!(!shown.contains("hush") && !shown.contains("aHVz"), "{shown}");
        assert!(shown.contains("config.json"), "{shown}");
    }
}

#[test]
fn other_places() {
    let (dir, mut credentials) = with(r#"{"auths": {"a.example": {"auth": "YTph"}}}"#);
    let podman = dir.path().join("auth.json");
    fs::write(
        &podman,
        r#"{"auths": {"a.example": {"auth": "cDpw"}, "p.example": {"auth": "cDpw"}}}"#,
    )
    .expect("to write");
    credentials.places.podman = vec![dir.path().join("none.json"), podman];
    credentials.places.variable = Some(r#"{"auths": {"v.example": {"auth": "djp2"}}}"#.into());
    let user = |host: &str| match credentials.get(host).expect(host) {
        Some(Credential::Basic { user, .. }) => user,
        other => format!("{other:?}"),
    };
    assert_eq!([user("a.example"), user("p.example"), user("v.example")], ["a", "p", "v"]);
    assert_eq!(credentials.get("n.example").expect("no error"), None);
}

#[test]
fn kept_and_removed_beside_what_else_is_there() {
    let (dir, credentials) = with(
        "{\"HttpHeaders\": {\"X\": \"1\"}, \"auths\": {\"https://r.example/v1/\": {\"auth\": \"\"},
          \"o.example\": {\"auth\": \"bzpv\"}}, \"zzz\": [1.50]}",
    );
    let path = dir.path().join("docker/config.json");
    assert_eq!(credentials.get("r.example").expect("no error"), None);
    let hush = basic("u", "p");
    let kept = credentials.keep("r.example", "u", &hush).expect("to keep");
    assert_eq!(kept, Kept::File(path.clone()));
    assert_eq!(credentials.get("r.example").expect("no error"), Some(hush));
    let token = Credential::IdentityToken("t".into());
    credentials.keep("docker.io", "u", &token).expect("to keep");
    insta::assert_snapshot!(fs::read_to_string(&path).expect("a file"), @r#"
    {
    	"HttpHeaders": {
    		"X": "1"
    	},
    	"auths": {
    		"o.example": {
    			"auth": "bzpv"
    		},
    		"r.example": {
    			"auth": "dTpw"
    		},
    		"https://index.docker.io/v1/": {
    			"auth": "dTo=",
    			"identitytoken": "t"
    		}
    	},
    	"zzz": [
    		1.5
    	]
    }
    "#);
    let mode = fs::metadata(&path).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for host in ["r.example", "docker.io", "never.example"] {
        credentials.remove(host).expect("to remove");
        assert_eq!(credentials.get(host).expect("no error"), None);
    }
    assert!(credentials.get("o.example").expect("no error").is_some());
    let beside = fs::read_dir(path.parent().expect("a parent")).expect("a folder").count();
    assert_eq!(beside, 1, "nothing lies beside it");
}

#[test]
fn a_linked_file_stays_linked_and_a_missing_one_is_made() {
    let (dir, credentials) = with("");
    let (path, target) = (dir.path().join("docker/config.json"), dir.path().join("dotfiles.json"));
    fs::rename(&path, &target).expect("to rename");
    std::os::unix::fs::symlink(&target, &path).expect("a link");
    credentials.keep("r.example", "u", &basic("u", "p")).expect("to keep");
    assert!(fs::symlink_metadata(&path).expect("there").is_symlink());
    assert!(fs::read_to_string(&target).expect("a file").contains("dTpw"));
    let fresh = dir.path().join("new/folder/config.json");
    let credentials = Credentials::at(Places { docker: Some(fresh.clone()), ..Places::default() });
    credentials.remove("r.example").expect("nothing to remove");
    assert!(!fresh.exists());
    credentials.keep("r.example", "u", &basic("u", "p")).expect("to keep");
    let mode = |path: &std::path::Path| fs::metadata(path).expect("there").permissions().mode();
    assert_eq!(mode(&fresh) & 0o777, 0o600);
    assert_eq!(mode(fresh.parent().expect("a parent")) & 0o777, 0o700);
}

#[test]
fn which_helper() {
    let (_dir, credentials) = with(
        r#"{"credsStore": "all", "credHelpers": {"r.example": "own", "https://index.docker.io/v1/": "hub",
            "x.example": "../../x", "y.example": 1}}"#,
    );
    let config = ConfigFile::read(credentials.docker_file().expect("a path")).expect("valid");
    for (host, name) in [("r.example", "own"), ("docker.io", "hub"), ("z.example", "all")] {
        assert_eq!(config.helper(host).expect(host).as_deref(), Some(name));
    }
    let err = credentials.get("x.example").expect_err("no name");
    assert!(matches!(err, CredentialError::HelperName(_)), "{err}");
    assert!(credentials.get("y.example").is_err());
    for name in ["", "a/b", "a b", ".", "a;b", &"a".repeat(101)] {
        assert!(Helper::new(name).is_err(), "{name}");
    }
    let err = credentials.get("r.example").expect_err("no program");
    insta::assert_snapshot!(err, @"cannot run the credential helper `docker-credential-own`");
}

/// A helper made of a shell script.
fn script(dir: &std::path::Path, text: &str, time_limit: Duration) -> Helper {
    let path = dir.join("docker-credential-x");
    let make = "cat > \"$0\" && chmod +x \"$0\"";
    // Written by another process: while this one holds it open for writing, a test that forks
    // beside it could keep it from being run.
    let mut shell = std::process::Command::new("/bin/sh")
        .args(["-c", make])
        .arg(&path)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("a shell");
    let text = format!("#!/bin/sh\ncd {}\n{text}", dir.display());
    let mut stdin = shell.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut stdin, text.as_bytes()).expect("to write");
    drop(stdin);
    assert!(shell.wait().expect("to wait").success());
    Helper { program: path.display().to_string(), time_limit }
}

#[test]
fn what_a_helper_is_told_and_tells() {
    let dir = tempfile::tempdir().expect("a folder");
    let text = r#"
        read -r line
        echo "$# $1 $line" >> asked
        case "$1 $line" in
        "get r.example") echo '{"ServerURL": "r.example", "Username": "u", "Secret": "p"}' ;;
        "get t.example") echo '{"ServerURL": "t.example", "Username": "<token>", "Secret": "t"}' ;;
        "get n.example"|"erase n.example") echo 'credentials not found in native keychain'; exit 1 ;;
        "get b.example") echo '{"Username": "hush", hush' ;;
        "get f.example") printf 'the keyring\nis locked'; exit 1 ;;
        store*|erase*) ;;
        esac
    "#;
    let helper = script(dir.path(), text, Duration::from_secs(20));
    assert_eq!(helper.get("r.example").expect("one"), Some(basic("u", "p")));
    let token = Some(Credential::IdentityToken("t".into()));
    assert_eq!(helper.get("t.example").expect("one"), token);
    assert_eq!(helper.get("n.example").expect("none"), None);
    let bad = helper.get("b.example").expect_err("no JSON").to_string();
    assert!(bad.contains("its answer is not JSON") && !bad.contains("hush"), "{bad}");
    let locked = helper.get("f.example").expect_err("locked").to_string();
    assert!(locked.ends_with(r"failed: the keyring\nis locked"), "{locked}");
    helper.erase("n.example").expect("nothing to erase");
    helper.store("s.example", "u", "p\"q").expect("to store");
    let asked = fs::read_to_string(dir.path().join("asked")).expect("a file");
    let last = r#"1 store {"ServerURL":"s.example","Username":"u","Secret":"p\"q"}"#;
    assert_eq!(asked.lines().last(), Some(last));
    assert!(asked.starts_with("1 get r.example\n"), "{asked}");
}

#[test]
fn a_helper_has_a_time_limit() {
    let dir = tempfile::tempdir().expect("a folder");
    let helper = script(dir.path(), "exec sleep 60", Duration::from_millis(100));
    let err = helper.get("r.example").expect_err("too long");
    assert!(err.to_string().ends_with("it took too long"), "{err}");
}

proptest::proptest! {
    #[test]
    fn what_is_kept_is_found(user in "[^:\\x00]{1,12}", password in "[^\\x00]{1,12}") {
        let (_dir, credentials) = with("{}");
        let own = basic(&user, &password);
        credentials.keep("r.example", &user, &own).expect("kept");
        proptest::prop_assert_eq!(credentials.get("r.example").expect("read"), Some(own));
    }

    /// Whatever stands in a file: it is understood, or an error that quotes nothing of it.
    #[test]
    fn files_of_any_kind(auth in "[A-Za-z0-9+/=é]{0,16}", key in r"(https?://)?r\.example[:/a-z0-9]{0,6}") {
        let auth = format!("hush{auth}");
        let text = serde_json::json!({ "auths": { key: { "auth": auth } } }).to_string();
        let (_dir, credentials) = with(&text);
        if let Err(err) = credentials.get("r.example") {
            proptest::prop_assert!(!err.to_string().contains("hush"), "{}", err);
        }
        let cut = &text[..text.len() - 1];
        let (_dir, credentials) = with(cut);
        let err = credentials.get("r.example").expect_err("no JSON").to_string();
        proptest::prop_assert!(!err.contains("hush"), "{}", err);
    }
}
