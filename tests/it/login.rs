//! `login` and `logout`.

use std::fs;

use crate::env::{bare, write};

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
