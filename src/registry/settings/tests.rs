//! From files to endpoints.

use std::fs;

use super::*;

/// Settings of one folder that stands for all places.
fn settings(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<Settings, SettingsError>) {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, text).expect("to write");
    }
    let at = |name: &str| dir.path().join(name);
    let places = Places {
        own: vec![at("system.toml"), at("user.toml")],
        docker: vec![at("daemon.json")],
        certificates: vec![at("certs.d")],
    };
    let settings = Settings::read(places);
    (dir, settings)
}

/// `base` of each endpoint, marked where it is a mirror or unverified.
#[track_caller]
fn check(files: &[(&str, &str)], host: &str, expected: &[&str]) {
    let (_dir, settings) = settings(files);
    let shown: Vec<String> = settings
        .expect("valid")
        .endpoints(host)
        .into_iter()
        .map(|endpoint| {
            let mirror = if endpoint.is_mirror { "mirror " } else { "" };
            let verify = if endpoint.tls.verify { "" } else { " unverified" };
            format!("{mirror}{}{verify}", endpoint.base)
        })
        .collect();
    assert_eq!(shown, expected, "{host} by {files:?}");
}

#[test]
fn without_any_file() {
    check(&[], "docker.io", &["https://registry-1.docker.io"]);
    check(&[], "r.example:5000", &["https://r.example:5000"]);
    for host in ["localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]:5000"] {
        let https = format!("https://{host} unverified");
        check(&[], host, &[&https, &format!("http://{host} unverified")]);
    }
    check(&[], "localhost.example", &["https://localhost.example"]);
}

#[test]
fn our_own_files() {
    let system = "[registry.'docker.io']\nmirrors = ['https://a.example/', 'b.example:1/hub']\n\
                  [registry.'r.example']\nhttp = true\n";
    let user = "[registry.'r.example']\ninsecure = true\n\
                [registry.'m.example']\nmirrors = ['http://n.example', 'r.example']\n";
    let hub = [
        "mirror https://a.example",
        "mirror https://b.example:1/hub",
        "https://registry-1.docker.io",
    ];
    check(&[("system.toml", system)], "docker.io", &hub);
    check(&[("system.toml", system)], "r.example", &["http://r.example"]);
    let both = [("system.toml", system), ("user.toml", user)];
    check(&both, "docker.io", &hub);
    check(&both, "r.example", &["https://r.example unverified", "http://r.example unverified"]);
    check(
        &both,
        "m.example",
        &[
            "mirror http://n.example",
            "mirror https://r.example unverified",
            "mirror http://r.example unverified",
            "https://m.example",
        ],
    );
}

#[test]
fn dockers_files() {
    let daemon = r#"{"debug": true, "registry-mirrors": ["http://m:5000/"],
        "insecure-registries": ["r.example:80", "10.0.0.0/8", "fd00::/8", "http://old.example/"]}"#;
    let files = [("daemon.json", daemon)];
    check(&files, "docker.io", &["mirror http://m:5000", "https://registry-1.docker.io"]);
    check(&files, "r.example", &["https://r.example"]);
    for host in ["r.example:80", "10.1.2.3:5000", "[fd00::1]", "old.example"] {
        let https = format!("https://{host} unverified");
        check(&files, host, &[&https, &format!("http://{host} unverified")]);
    }
    check(&files, "11.0.0.1", &["https://11.0.0.1"]);
    // Ours are asked in place of Docker's.
    let ours = ("user.toml", "[registry.'docker.io']\nmirrors = ['o.example']\n");
    check(
        &[files[0], ours],
        "docker.io",
        &["mirror https://o.example", "https://registry-1.docker.io"],
    );
    check(&[("daemon.json", " \n")], "r.example", &["https://r.example"]);
}

#[test]
fn the_flag_overrules() {
    let files = [("user.toml", "[registry.'r.example']\nhttp = true\n")];
    let bases = |verify, host: &str| {
        let (_dir, settings) = settings(&files);
        let endpoints = settings.expect("valid").tls_verify(Some(verify)).endpoints(host);
        endpoints.into_iter().map(|endpoint| endpoint.base).collect::<Vec<_>>()
    };
    for host in ["r.example", "localhost:5000", "other.example"] {
        assert_eq!(bases(true, host), [format!("https://{host}")]);
        assert_eq!(bases(false, host), [format!("https://{host}"), format!("http://{host}")]);
    }
}

#[test]
fn certificates_are_found() {
    let files = [
        ("certs.d/r.example:5000/ca.crt", ""),
        ("certs.d/r.example:5000/client.cert", ""),
        ("certs.d/r.example:5000/client.key", ""),
        ("certs.d/localhost:5000/ca.crt", ""),
        ("user.toml", "[registry.'o.example']\nca = 'o.pem'\ncert = '/abs/c.pem'\nkey = 'k.pem'\n"),
    ];
    let (dir, settings) = settings(&files);
    let settings = settings.expect("valid");
    let tls = |host: &str| settings.endpoints(host).remove(0).tls;
    let at = |name: &str| dir.path().join(name);
    let docker = at("certs.d/r.example:5000");
    assert_eq!(tls("r.example:5000").ca, [docker.join("ca.crt")]);
    let client =
        ClientCertificate { cert: docker.join("client.cert"), key: docker.join("client.key") };
    assert_eq!(tls("r.example:5000").client, Some(client));
    assert!(tls("r.example").ca.is_empty());
    assert_eq!(tls("o.example").ca, [at("o.pem")]);
    let client = ClientCertificate { cert: "/abs/c.pem".into(), key: at("k.pem") };
    assert_eq!(tls("o.example").client, Some(client));
    // This machine's own registry is verified once there is something to verify it by.
    assert!(tls("localhost:5000").verify && !tls("localhost:5001").verify);
    assert_eq!(settings.endpoints("localhost:5000").len(), 1);
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let cases = [
        ("user.toml", "\n\n[registry.'r.example']\nmirror = []\n", ":4: unknown field `mirror`"),
        ("user.toml", "[registries]\n", ":1: unknown field `registries`"),
        ("user.toml", "[registry.'r.example']\nhttp = 1\n", ":2: invalid type"),
        ("user.toml", "a = \n", ":1: "),
        ("user.toml", "[registry.plain]\nhttp = true\n", ":1: `plain` is not the host of"),
        ("user.toml", "[registry.'../../etc']\n", ":1: `../../etc` is not the host of"),
        ("user.toml", "[registry.'r.example']\nmirrors = ['ftp://x.example']\n", ":2: the mirror"),
        (
            "user.toml",
            "[registry.'r.example']\nmirrors = ['https://u:p@x.example']\n",
            ":2: the mi",
        ),
        (
            "user.toml",
            "[registry.'r.example']\nmirrors = ['x.example/%2e?a=b']\n",
            ":2: the mirror",
        ),
        ("user.toml", "[registry.'r.example']\ncert = 'c.pem'\n", ": `cert` needs a `key`"),
        ("daemon.json", "{\n\"registry-mirrors\": 1}", ":2: invalid type"),
        ("daemon.json", r#"{"insecure-registries": ["1.2.3.4/99"]}"#, ": `insecure-registries`: "),
    ];
    for (name, text, expected) in cases {
        let (_dir, settings) = settings(&[(name, text)]);
        let shown = settings.expect_err(text).to_string();
        assert!(shown.contains(name) && shown.contains(expected), "{text}: {shown}");
    }
}

#[test]
fn a_command_line_counts_more() {
    let (_dir, settings) =
        settings(&[("user.toml", "[registry.'docker.io']\nmirrors = ['o.example']\n")]);
    let mut said = Overrides::default();
    said.mirror("index.docker.io", "http://m.example/hub").expect("a mirror");
    said.mirror("docker.io", "n.example:5000").expect("a mirror");
    said.insecure("n.example:5000").expect("a registry");
    said.certificate("r.example", "/r.pem".into()).expect("a registry");
    said.insecure_but(["docker.io".to_owned(), "r.example".to_owned()]);
    let settings = settings.expect("valid").overridden(&said);
    let hub: Vec<_> = settings
        .endpoints("docker.io")
        .into_iter()
        .map(|at| (at.base, at.prefix, at.is_mirror, at.tls.verify))
        .collect();
    let own = |base: &str| (base.to_owned(), String::new(), false, true);
    assert_eq!(
        hub,
        [
            ("http://m.example".to_owned(), "hub/".to_owned(), true, false),
            ("https://n.example:5000".to_owned(), String::new(), true, false),
            ("http://n.example:5000".to_owned(), String::new(), true, false),
            own("https://registry-1.docker.io"),
        ]
    );
    let trusted = settings.endpoints("r.example").remove(0).tls;
    assert!(trusted.verify && trusted.ca == [PathBuf::from("/r.pem")]);
    assert!(!settings.endpoints("other.example")[0].tls.verify && !settings.only_mirrors());
    for wrong in ["plain", "a b", "r.example/x"] {
        assert!(said.insecure(wrong).is_err(), "{wrong}");
    }
    assert!(said.mirror("docker.io", "ftp://x.example").is_err());
}

#[test]
fn networks() {
    let within = |a: &str, n: &str, bits| is_within(a.parse().unwrap(), n.parse().unwrap(), bits);
    assert!(within("10.1.2.3", "10.0.0.0", 8) && !within("11.1.2.3", "10.0.0.0", 8));
    assert!(within("1.2.3.4", "0.0.0.0", 0) && within("::1", "::", 0));
    assert!(within("1.2.3.4", "1.2.3.4", 32) && !within("1.2.3.5", "1.2.3.4", 32));
    assert!(within("::ffff:10.0.0.1", "10.0.0.0", 8) && !within("10.0.0.1", "::", 0));
}

proptest::proptest! {
    /// What is taken for a mirror is a place that can be asked, with nobody's password in it.
    #[test]
    fn mirrors_of_any_kind(
        mirror in r"(https?://|ftp://)?[a-zA-Z0-9.:@é_\[\]-]{0,14}[/a-z0-9%?#. ~-]{0,10}",
    ) {
        let text = format!("[registry.\"docker.io\"]\nmirrors = ['{mirror}']\n");
        let (_dir, settings) = settings(&[("user.toml", &text)]);
        let Ok(settings) = settings else { return Ok(()) };
        let endpoints = settings.endpoints("docker.io");
        proptest::prop_assert_eq!(endpoints.len(), 2);
        for endpoint in endpoints {
            let url = crate::http::Url::parse(&format!("{}/v2/", endpoint.base));
            let url = url.expect("it is taken for one");
            proptest::prop_assert!(url.credentials().is_none() && url.query().is_none());
        }
    }

    #[test]
    fn files_of_any_kind(own in r#"(\[registry|"r.example"|\]|[a-z]+ ?= ?|true|\[|'x'|[{},]|\n|é){0,12}"#, docker in r#"([{}\[\],:]|"registry-mirrors"|"insecure-registries"|"[0-9./a-z]{0,9}"|[0-9]){0,9}"#) {
        let (dir, read) = settings(&[("user.toml", &own), ("daemon.json", &docker)]);
        match read {
            Ok(_) | Err(SettingsError::Value { .. }) => {}
            Err(SettingsError::Syntax { line, path, .. }) => {
                let text = fs::read_to_string(&path).expect("it was there");
                proptest::prop_assert!((1..=text.lines().count() + 1).contains(&line));
                proptest::prop_assert!(path.starts_with(dir.path()));
            }
            Err(err @ SettingsError::Read { .. }) => proptest::prop_assert!(false, "{}", err),
        }
    }
}
