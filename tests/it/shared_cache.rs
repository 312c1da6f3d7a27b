//! `--cache-from` and `--cache-to`: what one machine has built, another one finds.

use std::path::Path;

use mica::oci::Digest;
use serde_json::Value;

use crate::env::{TestEnv, bare, with_base};
use crate::registry::{Fault, Registry, Reply};

const STEPS: &str = "FROM base AS side\nRUN echo side >/side\nFROM base\nRUN cat /proc/uptime >/now\n\
                     COPY --from=side /side /from-side\nRUN cat /from-side /now >/both\n";

/// What a machine that has only the base does and says.
struct Machine(TestEnv);

/// What became of a build.
struct Built {
    id: String,
    /// The steps that ran, by their texts.
    redone: Vec<String>,
    said: String,
}

impl Machine {
    fn new() -> Option<Self> {
        with_base().map(Self)
    }

    #[track_caller]
    fn build(&self, dockerfile: &str, args: &[&str]) -> Built {
        let context = self.0.dockerfile(dockerfile);
        let ran = self.0.build(&context, args);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let name = |line: &str| {
            let start = line.split(" DONE").next()?;
            let named = |other: &&str| other.starts_with(&format!("{start} ["));
            Some(ran.stderr.lines().find(named)?.split_once("] ")?.1.to_owned())
        };
        let done = ran.stderr.lines().filter(|line| line.contains(" DONE "));
        let redone = done.filter_map(name).collect();
        let id = ran.stderr.lines().find_map(|line| line.strip_prefix("built "));
        let id = id.expect("an image").to_owned();
        Built { id, redone, said: self.0.filter(&ran.stderr) }
    }
}

/// A registry and two machines with the same base image.
fn machines() -> Option<(Registry, Machine, Machine)> {
    let base = with_base()?.mica(["save", "base"]).bytes;
    let machine = || {
        let env = bare()?;
        env.mica_with_input(["load"], &base).success();
        Some(Machine(env))
    };
    Some((Registry::start(), machine()?, machine()?))
}

fn exported(registry: &Registry, mode: &str) -> String {
    format!("type=registry,ref={},mode={mode}", registry.name("cache:main"))
}

/// Of what was asked, the layers that were fetched.
fn fetched(registry: &Registry, asked: &[String], repository: &str) -> usize {
    let configs: Vec<String> = registry
        .names()
        .iter()
        .filter_map(|name| {
            let (repository, tag) = name.split_once(':')?;
            let manifest: Value =
                serde_json::from_slice(&registry.manifest(repository, tag)?).ok()?;
            Some(manifest["config"]["digest"].as_str()?.to_owned())
        })
        .collect();
    let prefix = format!("GET /v2/{repository}/blobs/");
    let blobs = asked.iter().filter_map(|line| line.strip_prefix(&prefix));
    blobs.filter(|digest| !configs.iter().any(|config| config == digest)).count()
}

#[test]
fn a_cold_machine_runs_nothing_and_fetches_no_layer() {
    let Some((registry, one, two)) = machines() else { return };
    let first = one.build(STEPS, &["--cache-to", &exported(&registry, "max")]);
    assert_eq!(first.redone.len(), 4);
    registry.asked();
    let (from, app) = (registry.name("cache:main"), registry.name("app:1"));
    let second = two.build(STEPS, &["--cache-from", &from, "--push", "-t", &app]);
    assert_eq!((second.redone.len(), &second.id), (0, &first.id), "{}", second.said);
    let asked = registry.asked();
    assert_eq!(fetched(&registry, &asked, "cache"), 0, "{asked:?}");
    let manifest: Value = serde_json::from_slice(&registry.manifest("app", "1").expect("pushed"))
        .expect("a manifest");
    let layers = manifest["layers"].as_array().expect("layers").len();
    let mounts = asked.iter().filter(|line| line.starts_with("POST ")).count();
    assert_eq!(mounts, layers + 1, "all layers, and an upload of the config: {asked:?}");
    assert!(asked.len() <= layers + 10, "{asked:?}");
    // The image is whole: what it holds comes when it is read.
    assert_eq!(two.0.shell(&app, "cat /from-side"), "side\n");
    let asked = registry.asked();
    assert!(fetched(&registry, &asked, "app") > 0, "{asked:?}");
    // And without the cache, what was found there is found here.
    assert_eq!(two.build(STEPS, &[]).id, first.id);
}

#[test]
fn a_step_that_changed_gets_the_layers_below_it() {
    let Some((registry, one, two)) = machines() else { return };
    one.build(STEPS, &["--cache-to", &exported(&registry, "max")]);
    registry.asked();
    let from = registry.name("cache:main");
    let changed = STEPS.replace("/now >/both", "/now >/other");
    let built = two.build(&changed, &["--cache-from", &from, "-t", "app"]);
    assert_eq!(built.redone, ["RUN cat /from-side /now >/other"]);
    let asked = registry.asked();
    assert_eq!(fetched(&registry, &asked, "cache"), 2, "not that of the other stage: {asked:?}");
    assert_eq!(two.0.shell("app", "head -n 1 /other"), "side\n");
}

#[test]
fn a_layer_that_is_gone_is_made_anew() {
    let Some((registry, one, two)) = machines() else { return };
    one.build(STEPS, &["--cache-to", &exported(&registry, "max")]);
    let from = registry.name("cache:main");
    two.build(STEPS, &["--cache-from", &from]);
    registry.unlink("cache");
    let changed = STEPS.replace("/now >/both", "/now >/other");
    let built = two.build(&changed, &["-t", "app"]);
    assert!(built.said.contains("cannot be had"), "{}", built.said);
    assert!(built.redone.contains(&"RUN cat /proc/uptime >/now".to_owned()), "{}", built.said);
    assert_eq!(two.0.shell("app", "head -n 1 /other"), "side\n");
}

#[test]
fn min_has_the_steps_of_the_image_and_max_has_all() {
    let Some((registry, one, two)) = machines() else { return };
    let changed = STEPS.replace("COPY --from=side /side /from-side", "COPY --from=side /side /x");
    let changed = changed.replace("/from-side /now", "/x");
    one.build(STEPS, &["--cache-to", &exported(&registry, "min")]);
    let from = registry.name("cache:main");
    let built = two.build(&changed, &["--cache-from", &from]);
    let side = "RUN echo side >/side".to_owned();
    assert!(built.redone.contains(&side), "{}", built.said);
    let Some(three) = Machine::new() else { return };
    let same = one.build(STEPS, &["--cache-to", &exported(&registry, "max")]);
    assert_eq!(same.redone, [""; 0]);
    let built = three.build(&changed, &["--cache-from", &from]);
    assert!(!built.redone.contains(&side), "{}", built.said);
}

#[test]
fn nothing_new_is_nothing_sent() {
    let Some((registry, one, _)) = machines() else { return };
    let to = exported(&registry, "max");
    one.build(STEPS, &["--cache-to", &to]);
    registry.asked();
    let again = one.build(STEPS, &["--cache-to", &to]);
    let asked = registry.asked();
    assert!(asked.iter().all(|line| line.starts_with("GET ")), "{asked:?}");
    assert!(again.said.contains("has it all"), "{}", again.said);
}

/// Two machines that read the same, and write one after the other: what the slower one overwrites is
/// found nevertheless.
#[test]
fn nobody_loses_what_another_one_wrote() {
    let Some((registry, one, two)) = machines() else { return };
    let others = STEPS.replace("side", "other");
    let (to, from) = (exported(&registry, "max"), registry.name("cache:main"));
    one.build(STEPS, &["--cache-to", &to]);
    registry.retag("cache", "main", "stale");
    two.build(&others, &["--cache-to", &to]);
    registry.retag("cache", "stale", "main");
    let Some(three) = Machine::new() else { return };
    for dockerfile in [STEPS, &others] {
        let built = three.build(dockerfile, &["--cache-from", &from]);
        assert_eq!(built.redone, [""; 0], "{}", built.said);
    }
    // Whoever writes next puts it together, and leaves one tag beside the name.
    three.build(&STEPS.replace("side", "third"), &["--cache-to", &to]);
    let names: Vec<_> =
        registry.names().into_iter().filter(|name| name.contains("mica-")).collect();
    assert_eq!(names.len(), 1, "{names:?}");
    registry.asked();
    let Some(four) = Machine::new() else { return };
    assert_eq!(four.build(&others, &["--cache-from", &from]).redone, [""; 0]);
    let asked = registry.asked();
    assert_eq!(asked.len(), 3, "the manifest, its config, the tags: {asked:?}");
}

#[test]
fn a_registry_that_keeps_all_tags() {
    let Some((registry, one, two)) = machines() else { return };
    registry.rule(|asked| {
        let refused = asked.method == "DELETE" && asked.path.contains("/manifests/");
        refused.then(|| Reply::error(405, "UNSUPPORTED", "unsupported"))
    });
    let (to, from) = (exported(&registry, "max"), registry.name("cache:main"));
    for name in ["side", "second", "third"] {
        one.build(&STEPS.replace("side", name), &["--cache-to", &to]);
    }
    assert_eq!(registry.names().iter().filter(|name| name.contains("mica-")).count(), 3);
    registry.asked();
    assert_eq!(two.build(STEPS, &["--cache-from", &from]).redone, [""; 0]);
    assert_eq!(registry.asked().len(), 3, "what the name holds is not read again");
}

#[test]
fn what_fails_is_a_warning() {
    let Some((registry, one, _)) = machines() else { return };
    let (to, from) = (exported(&registry, "max"), registry.name("cache:main"));
    let shown = |built: &Built| {
        let lines = built.said.lines().filter(|line| line.starts_with("warning"));
        let hidden = |line: &str| {
            let line = line.replace(&registry.host, "[host]");
            // Steps that ran at another time have another index.
            match line.split_once(".mica-") {
                Some((start, rest)) => format!("{start}.mica-[digest]{}", &rest[16..]),
                None => line,
            }
        };
        lines.map(hidden).collect::<Vec<_>>().join("\n")
    };
    let built = one.build(STEPS, &["--cache-from", &from]);
    insta::assert_snapshot!(shown(&built), @"warning: there is no cache at [host]/cache:main yet");
    registry.plan("PUT /v2/cache/manifests", 1, Fault::Answer(403, ""));
    let built = one.build(STEPS, &["--cache-to", &to]);
    insta::assert_snapshot!(shown(&built), @"warning: cannot export the cache to [host]/cache:main: access to `[host]/cache:main.mica-[digest]` is denied: as planned");
    let digest = Digest::of(b"{}").to_string();
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.mica.cache.config.v1+json","digest":"{digest}","size":2}},"layers":[]}}"#
    );
    let reply = Reply::new(200, manifest);
    let reply = reply.header("Content-Type", "application/vnd.oci.image.manifest.v1+json");
    registry.always("/v2/cache/manifests/main", reply);
    registry.always(&format!("/v2/cache/blobs/{digest}"), Reply::new(200, "{}"));
    let built = one.build(STEPS, &["--no-cache", "--cache-from", &from, "--cache-to", &to]);
    insta::assert_snapshot!(shown(&built), @r"
    warning: cannot read the cache of [host]/cache:main: what is at [host]/cache:main cannot be used: it is no cache of mica: missing field `version` at line 1 column 2
    warning: cannot export the cache to [host]/cache:main: what is at [host]/cache:main cannot be used: it is no cache of mica: missing field `version` at line 1 column 2
    ");
}

#[test]
fn a_folder() {
    let Some((_, one, two)) = machines() else { return };
    let folder = one.0.path("shared");
    let path = folder.display();
    let (to, from) = (format!("type=local,dest={path},mode=max"), format!("type=local,src={path}"));
    let first = one.build(STEPS, &["--cache-to", &to]);
    two.0.give(&folder);
    let second = two.build(STEPS, &["--cache-from", &from, "-t", "app"]);
    assert_eq!((second.redone.len(), &second.id), (0, &first.id), "{}", second.said);
    // It may go: the store has what it needs.
    let blobs = |folder: &Path| folder.join("blobs/sha256").read_dir().expect("a folder").count();
    let before = blobs(&folder);
    assert!(one.build(STEPS, &["--cache-to", &to]).said.contains("has it all"));
    assert_eq!(blobs(&folder), before);
    std::fs::remove_dir_all(&folder).expect("removed");
    assert_eq!(two.0.shell("app", "cat /from-side"), "side\n");
    let built = two.build(&STEPS.replace("side", "x"), &["--cache-from", &from]);
    assert!(built.said.contains("there is no cache at"), "{}", built.said);
}

#[test]
fn an_image_holds_the_steps_of_its_layers() {
    let Some((registry, one, two)) = machines() else { return };
    let app = registry.name("app:1");
    let first = one.build(STEPS, &["--cache-to", "type=inline", "--push", "-t", &app]);
    let args = ["--cache-from", &app, "--build-arg", "BUILDKIT_INLINE_CACHE=1", "-t", "app"];
    let second = two.build(STEPS, &args);
    assert_eq!((second.redone.len(), &second.id), (0, &first.id), "{}", second.said);
    assert_eq!(two.0.shell("app", "cat /from-side"), "side\n");
}

#[test]
fn what_cannot_be_meant() {
    let Some(machine) = Machine::new() else { return };
    let context = machine.0.dockerfile("FROM base\n");
    let mut said = String::new();
    for (flag, value) in [
        ("--cache-to", "type=gha"),
        ("--cache-to", "type=x"),
        ("--cache-to", "dest=x"),
        ("--cache-to", "type=registry"),
        ("--cache-to", "type=registry,ref=a,mode=most"),
        ("--cache-to", "type=registry,ref=a,x=1"),
        ("--cache-to", "type=local"),
        ("--cache-to", "type=inline,mode=max"),
        ("--cache-from", "type=local"),
        ("--cache-from", "type=local,src=x,digest=y"),
        ("--cache-from", "A B"),
        ("--cache-from", "type=registry,ref=a,registry.insecure=true"),
    ] {
        let ran = machine.0.build(&context, &[flag, value]);
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        said += &ran.stderr;
    }
    insta::assert_snapshot!(said, @r"
    error: `--cache-to type=gha`: mica keeps a shared cache in a registry or in a folder
    error: `--cache-to type=x`: `type` is registry, local or inline
    error: `--cache-to dest=x`: `type` is required
    error: `--cache-to type=registry`: `ref` is required: the name of the cache
    error: `--cache-to type=registry,ref=a,mode=most`: `mode` is min or max
    error: `--cache-to type=registry,ref=a,x=1`: `x` is not supported
    error: `--cache-to type=local`: `dest` is required: a folder
    error: `--cache-to type=inline,mode=max`: an image holds the steps of its own layers only
    error: `--cache-from type=local`: `src` is required: a folder
    error: `--cache-from type=local,src=x,digest=y`: `digest` is no digest
    error: `--cache-from A B`: invalid reference format: repository name of `A B` must be lowercase
    error: `--cache-from type=registry,ref=a,registry.insecure=true`: `registry.insecure` is for a daemon's settings: use `--tls-verify=false`
    ");
}
