//! `login` and `logout`.

use std::fs;

use crate::env::{bare, write};
use crate::registry::{Auth, Registry};

#[test]
fn login_asks_the_registry_and_keeps_what_it_accepts() {
    let Some(env) = bare() else { return };
    let config = env.path("home/.docker/config.json");
    for (auth, command) in
        [(Auth::Basic("me:hush"), "-u"), (Auth::Bearer("me:hush", 9), "--username")]
    {
        let registry = Registry::start();
        registry.require(auth);
        let host = registry.host.as_str();
        let args = ["login", command, "me", "--password-stdin", host];
        let ran = env.mica_with_input(args, b"wrong\n");
        assert_eq!(ran.code, Some(1));
        assert!(
            ran.stderr.starts_with(&format!("error: cannot log in to `{host}`: access to")),
            "{}",
            ran.stderr
        );
        assert!(!fs::read_to_string(&config).unwrap_or_default().contains(host));
        let ran = env.mica_with_input(args, b"hush\r\n");
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (Some(0), "Login Succeeded\n"),
            "{}",
            ran.stderr
        );
        let shown = ran.stderr.replace(host, "[host]");
        assert!(!shown.contains("hush"), "{shown}");
        insta::allow_duplicates! {
            insta::assert_snapshot!(env.filter(&shown), @r"
            warning: your credentials are stored unencrypted in `[dir]/home/.docker/config.json`
            hint: a credential helper keeps them better: https://docs.docker.com/go/credential-store/
            ");
        }
        let kept: serde_json::Value =
            serde_json::from_slice(&fs::read(&config).expect("a file")).expect("JSON");
        assert_eq!(kept["auths"][host]["auth"], "bWU6aHVzaA==");
        // What is known is not asked for again.
        let again = env.mica(["login", host]);
        assert_eq!(again.code, Some(0), "{}", again.stderr);
        assert!(again.stderr.contains("existing credentials"), "{}", again.stderr);
        env.mica(["logout", host]).success();
        let ran = env.mica(["login", host]);
        assert_eq!(ran.code, Some(1));
        insta::allow_duplicates! {
            insta::assert_snapshot!(ran.stderr, @r"
            error: no terminal to ask for a user name and a password on
            hint: give them with `--username NAME --password-stdin`
            ");
        }
    }
}

#[test]
fn flags_of_login_that_do_not_go_together() {
    let Some(env) = bare() else { return };
    for args in [
        ["login", "--password-stdin", "r.example", "--tls-verify"].as_slice(),
        &["login", "-u", "me", "-p", "x", "--password-stdin", "r.example"],
        &["login", "-u", "me", "-p", "", "r.example"],
        &["login", "-u", "me", "-p", "x", "../etc"],
    ] {
        let ran = env.mica(args);
        assert_eq!(ran.code, Some(2), "{args:?}: {}", ran.stderr);
    }
}

/// A helper is told everything by its standard input, and nothing is in the file then.
#[test]
fn a_helper_keeps_what_it_is_told() {
    let Some(env) = bare() else { return };
    let registry = Registry::start();
    registry.require(Auth::Basic("me:hush"));
    let host = registry.host.as_str();
    let helper = "#!/bin/sh\necho \"$@\" >> \"$HOME/calls\"\ncase $1 in store) cat > \"$HOME/kept\" ;;\n\
                  get) sed 's/.*/&/' \"$HOME/kept\" ;; erase) cat > /dev/null; rm \"$HOME/kept\" ;; esac\n";
    write(&env.path("home"), "bin/docker-credential-test", helper);
    write(&env.path("home/.docker"), "config.json", r#"{"credsStore": "test"}"#);
    let helper = env.path("home/bin/docker-credential-test");
    fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("chmod");
    env.give(&env.path("home"));
    let path = format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", env.path("home/bin").display());
    let run = |args: &[&str]| crate::env::Ran::of(env.command(args).env("PATH", &path));
    run(&["login", "-u", "me", "-p", "hush", host]).success();
    let kept = fs::read_to_string(env.path("home/kept")).expect("a file");
    assert_eq!(kept, format!(r#"{{"ServerURL":"{host}","Username":"me","Secret":"hush"}}"#));
    let config = fs::read_to_string(env.path("home/.docker/config.json")).expect("a file");
    assert!(
        config.contains(host) && !config.contains("hush") && !config.contains("auth\""),
        "{config}"
    );
    let again = run(&["login", host]);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    run(&["logout", host]).success();
    let calls = fs::read_to_string(env.path("home/calls")).expect("a file");
    assert_eq!(calls, "store\nget\nerase\n");
    assert!(!env.path("home/kept").exists());
}

/// An identity token stands in the file, or a helper gives it for the user `<token>`. It goes to the realm
/// of the registry alone, and what it is changed for dies in the middle of a push.
#[test]
fn identity_tokens_are_used() {
    let Some(env) = bare() else { return };
    let helper = "#!/bin/sh\necho '{\"Username\": \"<token>\", \"Secret\": \"id/en+tity\"}'\n";
    write(&env.path("home"), "bin/docker-credential-test", helper);
    let path = env.path("home/bin/docker-credential-test");
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let folders = format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", env.path("home/bin").display());
    for config in
        [r#"{"auths": {"HOST": {"identitytoken": "id/en+tity"}}}"#, r#"{"credsStore": "test"}"#]
    {
        let registry = Registry::start();
        registry.require(Auth::Identity("id/en+tity", 4));
        let config = config.replace("HOST", &registry.host);
        write(&env.path("home/.docker"), "config.json", &config);
        env.give(&env.path("home"));
        let name = registry.name("team/app:1");
        let context = env.context(&[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "a")]);
        let args = ["build", "--push", "-t", &name, context.to_str().expect("UTF-8")];
        let ran = crate::env::Ran::of(env.command(args).env("PATH", &folders));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(!ran.stderr.contains("id/en"), "{}", ran.stderr);
        let requests = registry.requests();
        let (realm, rest): (Vec<_>, Vec<_>) =
            requests.iter().partition(|asked| asked.path == "/token");
        assert!(realm.len() >= 2 && realm.iter().all(|asked| asked.method == "POST"), "{realm:?}");
        assert!(realm.iter().all(|asked| asked.query.is_empty()), "{realm:?}");
        let shown = rest.iter().filter_map(|asked| asked.headers.get("authorization"));
        assert!(
            shown.clone().count() > 0
                && shown.into_iter().all(|text| text.starts_with("Bearer token"))
        );
    }
}

/// A token is asked for what a request needs: here to write to one repository and to read of another.
#[test]
fn tokens_are_for_one_repository() {
    let Some(env) = bare() else { return };
    let registry = Registry::start();
    registry.require(Auth::Bearer("me:hush", usize::MAX));
    let host = registry.host.as_str();
    env.mica_with_input(["login", "-u", "me", "--password-stdin", host], b"hush\n").success();
    let context = env.context(&[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "a")]);
    let (one, two) = (registry.name("one:1"), registry.name("deep/two:1"));
    env.id_of(&context, &["-t", &one, "-t", &two]);
    let scopes = || {
        let requests = registry.requests();
        let queries = requests.iter().filter(|asked| asked.path == "/token");
        let mut scopes: Vec<String> = queries
            .map(|asked| {
                let pairs = asked.query.split('&').filter_map(|pair| pair.strip_prefix("scope="));
                pairs.collect::<Vec<_>>().join(" ").replace("%2C", ",")
            })
            .collect();
        scopes.sort();
        scopes.dedup();
        scopes
    };
    scopes();
    env.mica(["push", &one]).success();
    assert_eq!(scopes(), ["repository:one:pull,push"]);
    env.mica(["push", &two]).success();
    assert_eq!(
        scopes(),
        ["repository:deep/two:pull,push", "repository:deep/two:pull,push repository:one:pull"]
    );
    env.mica(["rmi", &one]).success();
    env.mica(["pull", &one]).success();
    assert_eq!(scopes(), ["repository:one:pull"]);
}

#[test]
fn logout_forgets_one_registry_and_nothing_else() {
    let Some(env) = bare() else { return };
    let config = r#"{"auths": {"r.example": {"auth": "dTpw"}, "https://index.docker.io/v1/":
        {"auth": "dTpw"}, "o.example": {"auth": "dTpw"}}, "psFormat": "table"}"#;
    write(&env.path("home/.docker"), "config.json", config);
    env.give(&env.path("home"));
    let said = env.mica(["logout", "https://r.example"]).success();
    assert_eq!(said, "Removing login credentials for r.example\n");
    let said = env.mica(["logout"]).success();
    assert_eq!(said, "Removing login credentials for https://index.docker.io/v1/\n");
    env.mica(["logout", "never.example"]).success();
    let left = fs::read(env.path("home/.docker/config.json")).expect("a file");
    let left: serde_json::Value = serde_json::from_slice(&left).expect("JSON");
    let expected =
        serde_json::json!({"auths": {"o.example": {"auth": "dTpw"}}, "psFormat": "table"});
    assert_eq!(left, expected);
}

#[test]
fn a_damaged_file_of_credentials_is_named_and_stays() {
    let Some(env) = bare() else { return };
    write(&env.path("home/.docker"), "config.json", "{\"auths\": hush");
    env.give(&env.path("home"));
    let ran = env.mica(["logout", "r.example"]);
    assert_eq!(ran.code, Some(1));
    insta::assert_snapshot!(env.filter(&ran.stderr), @"error: [dir]/home/.docker/config.json: not valid JSON in line 1");
    let text = fs::read_to_string(env.path("home/.docker/config.json")).expect("a file");
    assert_eq!(text, "{\"auths\": hush");
}
