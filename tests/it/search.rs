//! `search`: by Docker Hub's way, and by the catalog of others.

use serde_json::json;

use crate::env::{TestEnv, bare};
use crate::registry::{Auth, Registry, Reply};

/// A registry with five repositories.
fn registry() -> Registry {
    let registry = Registry::start();
    for repository in ["app", "team/app", "team/tool", "xapp", "zebra"] {
        registry.push(repository, "1", &[("f", "x")]);
    }
    registry
}

#[track_caller]
fn found(env: &TestEnv, registry: &Registry, args: &[&str]) -> String {
    let args = ["search"].iter().chain(args).map(|arg| arg.replace("HOST", &registry.host));
    env.mica(args).success().replace(&registry.host, "localhost:50000")
}

#[track_caller]
fn refused(env: &TestEnv, registry: &Registry, args: &[&str]) -> (Option<i32>, String) {
    let args = ["search"].iter().chain(args).map(|arg| arg.replace("HOST", &registry.host));
    let ran = env.mica(args);
    (ran.code, ran.stderr.replace(&registry.host, "HOST"))
}

#[test]
fn the_catalog_is_searched_page_by_page() {
    let Some(env) = bare() else { return };
    let registry = registry();
    insta::assert_snapshot!(found(&env, &registry, &["HOST/app"]), @r"
    NAME                       DESCRIPTION   STARS   OFFICIAL
    localhost:50000/app                      0
    localhost:50000/team/app                 0
    localhost:50000/xapp                     0
    ");
    let pages = ["GET /v1/search", "GET /v2/_catalog", "GET /v2/_catalog", "GET /v2/_catalog"];
    assert_eq!(registry.asked(), pages);
    // No further than it is wanted.
    assert_eq!(found(&env, &registry, &["--limit=1", "HOST/app"]).lines().count(), 2);
    assert_eq!(registry.asked(), pages[..2]);
    assert_eq!(found(&env, &registry, &["HOST/"]).lines().count(), 6);
    assert_eq!(found(&env, &registry, &["HOST/nothing"]).lines().count(), 1);
    // A catalog is not for everybody.
    registry.require(Auth::Bearer("me:hush", usize::MAX));
    insta::assert_snapshot!(refused(&env, &registry, &["HOST/app"]).1, @r"
    error: access to the catalog of `HOST` is denied: unauthorized
    hint: it may not exist; if it is private, log in with `mica login HOST`
    ");
    let login = ["login", "-u", "me", "--password-stdin", registry.host.as_str()];
    env.mica_with_input(login, b"hush\n").success();
    registry.requests();
    assert_eq!(found(&env, &registry, &["HOST/app"]).lines().count(), 4);
    let requests = registry.requests();
    let scopes = requests.iter().filter(|asked| asked.path == "/token");
    assert!(
        scopes.clone().count() > 0
            && scopes.into_iter().all(|asked| asked.query.contains("scope=registry:catalog:%2A")),
        "{requests:?}"
    );
}

#[test]
fn a_search_is_asked_first() {
    let Some(env) = bare() else { return };
    let registry = registry();
    let long = "first line\nand \u{1b}[1m a second one that goes on and on and on and on";
    registry.finds(json!([
        { "name": "app", "description": long, "star_count": 3, "is_official": false },
        { "name": "team/app", "description": null, "star_count": 30, "is_official": true },
        { "name": "xapp" },
    ]));
    insta::assert_snapshot!(found(&env, &registry, &["HOST/app"]), @r"
    NAME       DESCRIPTION                                          STARS   OFFICIAL
    app        first line and \u{1b}[1m a second one that goes o…   3
    team/app                                                        30      [OK]
    xapp                                                            0
    ");
    let asked = registry.requests();
    assert_eq!((asked.len(), asked[0].query.as_str()), (1, "q=app&n=25"));
    insta::assert_snapshot!(found(&env, &registry, &["--format=json", "-f", "stars=3", "HOST/app"]), @r#"
    {"Description":"first line and \u001b[1m a second one that goes o…","IsOfficial":"false","Name":"app","StarCount":"3"}
    {"Description":"","IsOfficial":"true","Name":"team/app","StarCount":"30"}
    "#);
    assert!(
        found(&env, &registry, &["--no-trunc", "HOST/app"])
            .contains("goes on and on and on and on ")
    );
    let official = found(&env, &registry, &["--filter", "is-official=true", "HOST/app"]);
    assert_eq!(official.lines().count(), 2, "{official}");
    // What is looked for is no part of the question.
    found(&env, &registry, &["HOST/a&n=9 b#c"]);
    assert_eq!(registry.requests().last().expect("one").query, "q=a%26n%3D9%20b%23c&n=25");
}

#[test]
fn registries_without_either() {
    let Some(env) = bare() else { return };
    let registry = registry();
    registry.always("/v1/search", Reply::new(200, "<html>welcome"));
    registry.always("/v2/_catalog", Reply::error(404, "UNSUPPORTED", "no"));
    insta::assert_snapshot!(refused(&env, &registry, &["HOST/app"]).1, @r"
    error: `HOST` offers neither a search nor a catalog of its repositories
    hint: ask whoever runs it for the name
    ");
    registry.always("/v2/_catalog", Reply::new(200, "[]"));
    insta::assert_snapshot!(
        refused(&env, &registry, &["HOST/app"]).1,
        @"error: the catalog of `HOST` is not what the registry says: its answer is no list of repositories"
    );
    // One that never ends is read to some end.
    let page = json!({ "repositories": ["a"] }).to_string();
    let again = "</v2/_catalog?last=a>; rel=\"next\"";
    registry.always("/v2/_catalog", Reply::new(200, page).header("Link", again));
    registry.requests();
    assert_eq!(found(&env, &registry, &["HOST/zzz"]).lines().count(), 1);
    assert_eq!(registry.requests().len(), 101);
}

#[test]
fn words_that_make_no_sense() {
    let Some(env) = bare() else { return };
    let registry = registry();
    for args in [
        ["--limit=0", "HOST/x"].as_slice(),
        &["--limit=101", "HOST/x"],
        &["--filter=stars", "HOST/x"],
        &["--filter=foo=1", "HOST/x"],
        &["http://HOST/x"],
        &[""],
        &["a..b:x/y"],
    ] {
        let (code, said) = refused(&env, &registry, args);
        assert_eq!(code, Some(2), "{args:?}: {said}");
    }
    assert_eq!(registry.requests().len(), 0);
}
