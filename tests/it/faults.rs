//! Everything that can go wrong between mica and a registry. `docs/registries.md` has a table of it,
//! which says what the user sees: these tests are what makes it true.

use std::collections::BTreeMap;
use std::sync::Mutex;

use mica::oci::{Descriptor, Digest, Platform};

use crate::env::{self, Ran, TestEnv};
use crate::push;
use crate::registry::{Auth, Fault, Pushed, Registry, Reply, blob_path};

/// What is prepared for each fault.
struct World {
    env: TestEnv,
    registry: Registry,
    /// Another server, which the registry may lead to.
    elsewhere: Registry,
}

impl World {
    fn new() -> Option<Self> {
        let (registry, elsewhere) = (Registry::start(), Registry::start());
        Some(Self { env: env::bare()?, registry, elsewhere })
    }

    /// What stands on standard error, as the documentation has it; nothing for what went well.
    fn seen(&self, ran: &Ran) -> String {
        if ran.code == Some(0) {
            return "nothing".to_owned();
        }
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let is_message = |line: &&str| line.starts_with("error: ") || line.starts_with("hint: ");
        let lines: Vec<&str> = ran.stderr.lines().filter(is_message).collect();
        as_documented(&lines.join("<br>"), &[(&self.registry, "HOST"), (&self.elsewhere, "OTHER")])
    }
}

/// A text without what differs from run to run.
fn as_documented(text: &str, hosts: &[(&Registry, &str)]) -> String {
    let mut text = text.to_owned();
    for (registry, name) in hosts {
        text = text.replace(&registry.host, name);
    }
    while let Some(start) = text.find("sha256:") {
        text.replace_range(start..start + "sha256:".len() + 64, "DIGEST");
    }
    // Which of them is refused first is up to the scheduler.
    text.replace("the config DIGEST", "the layer DIGEST").replace('|', "\\|")
}

/// A row: the name of a fault, and how it comes about.
struct Case<T> {
    name: &'static str,
    arrange: fn(&World, &T),
}

impl<T> Case<T> {
    const fn new(name: &'static str, arrange: fn(&World, &T)) -> Self {
        Self { name, arrange }
    }
}

/// What `see` shows of all cases is what the documentation's table below `heading` says.
fn check<T>(heading: &str, cases: &[Case<T>], see: impl Fn(&Case<T>) -> Option<String> + Sync)
where
    T: Sync,
{
    let seen: Mutex<BTreeMap<&str, String>> = Mutex::default();
    let next = Mutex::new(cases.iter());
    std::thread::scope(|scope| {
        // Most of them wait.
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let Some(case) = next.lock().expect("no panic").next() else { return };
                    if let Some(text) = see(case) {
                        seen.lock().expect("no panic").insert(case.name, text);
                    }
                }
            });
        }
    });
    let seen = seen.into_inner().expect("no panic");
    if seen.is_empty() {
        return;
    }
    let show = |rows: &BTreeMap<&str, String>| {
        rows.iter().map(|(name, text)| format!("{name}: {text}")).collect::<Vec<_>>().join("\n")
    };
    assert_same_lines(&show(&documented(heading)), &show(&seen));
}

/// Says which lines differ.
#[track_caller]
fn assert_same_lines(expected: &str, found: &str) {
    let lacks = |in_it: &str, line: &&str| !in_it.lines().any(|other| other == *line);
    let missing: Vec<_> = expected.lines().filter(|line| lacks(found, line)).collect();
    let unknown: Vec<_> = found.lines().filter(|line| lacks(expected, line)).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "docs/registries.md says:\n{}\n\nwhat is seen:\n{}\n",
        missing.join("\n"),
        unknown.join("\n")
    );
}

/// The first and the last column of the table below a heading.
fn documented(heading: &str) -> BTreeMap<&'static str, String> {
    let text = include_str!("../../docs/registries.md");
    let (_, section) = text.split_once(&format!("\n## {heading}\n")).expect("the heading");
    let section = section.split("\n## ").next().expect("a section");
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(1);
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        (cells[0], cells[2].to_owned())
    })
    .collect()
}

/// Faults of a registry that `app:1`, with two layers, is pulled from.
#[test]
fn faults_of_a_pull() {
    check("When a pull goes wrong", PULLS, |case| {
        let world = World::new()?;
        let files = [("one", "first"), ("two", &"x".repeat(40_000))];
        let pushed = world.registry.push("app", "1", &files);
        (case.arrange)(&world, &pushed);
        let name = world.registry.name("app:1");
        let ran = world.env.mica(["pull", &name]);
        let images = world.env.mica(["images", "-q"]).success();
        assert_eq!(images.is_empty(), ran.code == Some(1), "{}: {ran:?}", case.name);
        assert!(!ran.stderr.contains("hush"), "{ran:?}");
        Some(world.seen(&ran))
    });
}

const MANIFEST: &str = "/v2/app/manifests/1";

fn layer(pushed: &Pushed) -> String {
    blob_path("app", &pushed.layers[1])
}

/// Lets a request fail as often as it is repeated, and once more.
const ALWAYS: usize = 20;

fn always(world: &World, part: &str, fault: Fault) {
    (0..ALWAYS).for_each(|_| world.registry.plan(part, 1, fault));
}

const PULLS: &[Case<Pushed>] = &[
    Case::new("429 with Retry-After", |world, _| {
        let slow = Reply::error(429, "TOOMANYREQUESTS", "slow down").header("Retry-After", "0");
        (0..2).for_each(|_| world.registry.once(MANIFEST, slow.clone()));
    }),
    Case::new("429, to be repeated in an hour", |world, _| {
        always(world, MANIFEST, Fault::Answer(429, "Retry-After: 3600"));
    }),
    Case::new("5xx", |world, pushed| {
        for status in [500, 502, 503] {
            world.registry.plan(&layer(pushed), 1, Fault::Answer(status, ""));
        }
    }),
    Case::new("5xx that stays", |world, _| {
        always(world, MANIFEST, Fault::Answer(503, ""));
    }),
    Case::new("the connection breaks before the answer", |world, _| {
        (0..2).for_each(|_| world.registry.plan(MANIFEST, 1, Fault::Mute));
    }),
    Case::new("it always breaks before the answer", |world, _| {
        always(world, MANIFEST, Fault::Mute);
    }),
    Case::new("a reset in the middle of a blob", |world, pushed| {
        world.registry.plan(&layer(pushed), 1, Fault::Break(30_000));
    }),
    Case::new("resets without progress", |world, pushed| {
        always(world, &layer(pushed), Fault::Break(100));
    }),
    Case::new("a blob with a wrong digest, once", |world, pushed| {
        world.registry.plan(&layer(pushed), 1, Fault::Garble);
    }),
    Case::new("a blob with a wrong digest", |world, pushed| {
        always(world, &layer(pushed), Fault::Garble);
    }),
    Case::new("a manifest with a wrong digest", |world, _| {
        let digest = format!("sha256:{}", "4".repeat(64));
        let lie = Reply::new(200, "{}").header("Docker-Content-Digest", &digest);
        world.registry.always(MANIFEST, lie);
    }),
    Case::new("a blob that is too short", |world, pushed| {
        always(world, &layer(pushed), Fault::Short);
    }),
    Case::new("a blob that does not end", |world, pushed| {
        always(world, &layer(pushed), Fault::Endless);
    }),
    Case::new("a manifest that does not end", |world, _| {
        always(world, MANIFEST, Fault::Endless);
    }),
    Case::new("a page instead of a manifest", |world, _| {
        let page = Reply::new(200, "<html>\u{1b}[1mplease log in");
        world.registry.always(MANIFEST, page.header("Content-Type", "text/html"));
    }),
    Case::new("an index that knows another size", |world, pushed| {
        let platform = Some(Platform::host());
        let manifest = Descriptor { size: 7, platform, ..pushed.manifest.clone() };
        world.registry.index("app", "1", &[manifest]);
    }),
    Case::new("a redirect to another host", |world, pushed| {
        world.registry.require(Auth::Nothing);
        let bytes = world.registry.blob(&pushed.layers[1].digest.to_string()).expect("there");
        world.elsewhere.always("/there", Reply::new(200, bytes));
        redirect(world, pushed, "/there");
    }),
    Case::new("a redirect to a host that wants to know who asks", |world, pushed| {
        let refusal = Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\"");
        world.elsewhere.always("/there", refusal);
        redirect(world, pushed, "/there");
    }),
    Case::new("redirects in a circle", |world, _| {
        let here = Reply::new(307, "").header("Location", MANIFEST);
        world.registry.always(MANIFEST, here);
    }),
    Case::new("an expired token", |world, _| {
        logged_in(world);
        world.registry.require(Auth::Bearer("me:hush", 1));
    }),
    Case::new("a token that is never good enough", |world, _| {
        logged_in(world);
        world.registry.require(Auth::Bearer("me:hush", 0));
        let challenge = format!("Bearer realm=\"{}/token\"", world.registry.url());
        let refusal = Reply::error(401, "UNAUTHORIZED", "authentication required");
        world.registry.always(MANIFEST, refusal.header("WWW-Authenticate", &challenge));
    }),
    Case::new("a wrong password", |world, _| {
        logged_in(world);
        world.registry.require(Auth::Bearer("me:other", 0));
    }),
    Case::new("nobody is logged in", |world, _| {
        world.registry.require(Auth::Basic("me:hush"));
    }),
    Case::new("tokens from a place that is none", |world, _| {
        logged_in(world);
        let refusal = Reply::new(401, "");
        let challenge = "Bearer realm=\"file:///etc/passwd\"";
        world.registry.always(MANIFEST, refusal.header("WWW-Authenticate", challenge));
    }),
    Case::new("a mirror that is not there", |world, _| mirror(world, "127.0.0.1:1")),
    Case::new("a mirror with other bytes", |world, pushed| {
        mirror(world, &world.elsewhere.host);
        let files = [("one", "first"), ("two", &"x".repeat(40_000))];
        let copy = world.elsewhere.push("app", "1", &files);
        assert_eq!(copy.digest, pushed.digest);
        world.elsewhere.plan(&layer(pushed), 1, Fault::Garble);
    }),
    Case::new("a mirror that is tired", |world, _| {
        mirror(world, &world.elsewhere.host);
        (0..ALWAYS).for_each(|_| world.elsewhere.plan("GET", 1, Fault::Answer(503, "")));
    }),
    Case::new("the name is not there", |world, _| {
        world.registry.always(MANIFEST, Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown"));
    }),
];

fn redirect(world: &World, pushed: &Pushed, to: &str) {
    let to = format!("{}{to}", world.elsewhere.url());
    world.registry.always(&layer(pushed), Reply::new(307, "").header("Location", &to));
}

fn mirror(world: &World, host: &str) {
    let settings =
        format!("[registry.\"{}\"]\nmirrors = [\"http://{host}\"]\n", world.registry.host);
    env::write(&world.env.path("home/.config/mica"), "config.toml", &settings);
    world.env.give(&world.env.path("home"));
}

fn logged_in(world: &World) {
    // `me:hush`
    let config =
        format!(r#"{{"auths": {{"{}": {{"auth": "bWU6aHVzaA=="}}}}}}"#, world.registry.host);
    env::write(&world.env.path("home/.docker"), "config.json", &config);
    world.env.give(&world.env.path("home"));
}

/// What is left of a push that went well although something went wrong.
#[derive(Clone, Copy, Default)]
struct Left {
    /// Whether bytes that had arrived were sent again.
    resent: bool,
    /// Uploads that nobody ended, as nobody knew of them.
    open: usize,
}

/// Faults of a registry that `app:1`, with two layers and a config, is pushed to.
#[test]
fn faults_of_a_push() {
    check("When a push goes wrong", PUSHES, |case| {
        let world = World::new()?;
        let name = world.registry.name("app:1");
        push::app(&world.env, &name);
        (case.arrange)(&world, &());
        let ran = world.env.mica(["push", &name]);
        assert!(!ran.stderr.contains("hush"), "{ran:?}");
        let seen = world.seen(&ran);
        if ran.code == Some(0) {
            arrived(&world, case.name);
        } else {
            assert_eq!(world.registry.names(), [""; 0], "{}: no name moves", case.name);
            assert_eq!(ran.stdout, "", "{}", case.name);
        }
        Some(seen)
    });
}

/// The registry has the image whole, and nothing was sent again without need.
fn arrived(world: &World, case: &str) {
    let registry = &world.registry;
    assert!(registry.is_through(), "{case}: all of it happened");
    let size = push::check(&world.env, registry, "app", "1");
    let left = LEFT.iter().find(|(name, _)| *name == case).map(|(_, left)| *left);
    let left = left.unwrap_or_default();
    let received = registry.received();
    assert!(received == size || left.resent && received > size, "{case}: {received} of {size}");
    assert_eq!(registry.open_uploads(), left.open, "{case}");
}

/// Those that cost something.
const LEFT: &[(&str, Left)] = &[
    ("the answer to a POST gets lost", Left { resent: false, open: 1 }),
    ("the answer to a commit gets lost", Left { resent: true, open: 0 }),
    ("half of an upload arrives", Left { resent: true, open: 0 }),
    ("a byte changes on the way, once", Left { resent: true, open: 0 }),
    ("503 to an upload", Left { resent: true, open: 0 }),
    ("an upload is forgotten", Left { resent: true, open: 1 }),
    ("the token dies in the middle of a push", Left { resent: true, open: 0 }),
];

const PUSHES: &[Case<()>] = &[
    Case::new("an upload is cut off", |world, ()| {
        world.registry.plan("PATCH", 1, Fault::Cut(100_000));
    }),
    Case::new("all uploads are cut off", |world, ()| {
        (1..=3).for_each(|nth| world.registry.plan("PATCH", nth, Fault::Cut(0)));
    }),
    Case::new("uploads are cut off again and again", |world, ()| {
        (2..=4).for_each(|nth| world.registry.plan("PATCH", nth, Fault::Cut(1000)));
    }),
    Case::new("the answer to an upload gets lost", |world, ()| {
        world.registry.plan("PATCH", 1, Fault::Mute);
    }),
    Case::new("the answer to a commit gets lost", |world, ()| {
        world.registry.plan("PUT /v2/app/blobs", 1, Fault::Mute);
    }),
    Case::new("the answer to a POST gets lost", |world, ()| {
        world.registry.plan("POST", 1, Fault::Mute);
    }),
    Case::new("half of an upload arrives", |world, ()| {
        world.registry.plan("PATCH", 2, Fault::Half);
    }),
    Case::new("a byte changes on the way, once", |world, ()| {
        world.registry.plan("PATCH", 2, Fault::Flip);
    }),
    Case::new("bytes change on the way", |world, ()| always(world, "PATCH", Fault::Flip)),
    Case::new("503 to an upload", |world, ()| {
        world.registry.plan("PATCH", 1, Fault::Answer(503, ""));
    }),
    Case::new("500 to a POST", |world, ()| {
        world.registry.plan("POST", 2, Fault::Answer(500, ""));
    }),
    Case::new("429 with Retry-After to a POST", |world, ()| {
        world.registry.plan("POST", 1, Fault::Answer(429, "Retry-After: 0"));
    }),
    Case::new("502 to the manifest", |world, ()| {
        world.registry.plan("PUT /v2/app/manifests", 1, Fault::Answer(502, ""));
    }),
    Case::new("an upload is forgotten", |world, ()| {
        world.registry.plan("PATCH", 1, Fault::Cut(1000));
        world.registry.plan("GET", 1, Fault::Answer(404, ""));
    }),
    Case::new("there is no room", |world, ()| {
        always(world, "PUT /v2/app/blobs", Fault::Answer(507, ""));
    }),
    Case::new("a layer is too large for the registry", |world, ()| {
        world.registry.plan("PATCH", 1, Fault::Answer(413, ""));
    }),
    Case::new("pushing is not allowed", |world, ()| {
        always(world, "POST", Fault::Answer(403, ""));
    }),
    Case::new("the tag may not move", |world, ()| {
        world.registry.plan("PUT /v2/app/manifests", 1, Fault::Answer(409, ""));
    }),
    Case::new("the token dies in the middle of a push", |world, ()| {
        logged_in(world);
        world.registry.require(Auth::Bearer("me:hush", 6));
    }),
    Case::new("uploads that another host takes", |world, ()| {
        let to = format!("{}/v2/app/blobs/uploads/1", world.elsewhere.url());
        let accepted = Reply::new(202, "").header("Location", &to);
        world.registry.always("/v2/app/blobs/uploads/", accepted);
        world.elsewhere.require(Auth::Basic("me:hush"));
        logged_in(world);
    }),
];

/// Servers that fall silent. The binary waits a minute for the next byte; this waits not so long.
#[test]
fn transfers_that_stall() {
    use mica::http::Limits;
    use mica::registry::Registries;
    use mica::registry::credentials::{Credentials, Places};
    use mica::registry::settings::Settings;
    use std::io::Read;
    use std::time::Duration;

    let cases: &[Case<String>] = &[
        Case::new("a transfer that stalls", |world, path| {
            world.registry.plan(path, 1, Fault::Stall(30_000));
        }),
        Case::new("a transfer that stalls again and again", |world, path| {
            always(world, path, Fault::Stall(100));
        }),
    ];
    check("When a transfer stalls", cases, |case| {
        let world = World::new()?;
        let pushed = world.registry.push("app", "1", &[("two", &"x".repeat(40_000))]);
        let blob = &pushed.layers[0];
        (case.arrange)(&world, &blob_path("app", blob));
        let short = Duration::from_millis(300);
        let limits = Limits { stall: short, pause: short / 10, ..Limits::default() };
        let credentials = Credentials::at(Places::default());
        let registries = Registries::new(|| Ok(Settings::default()), credentials, limits, || false);
        let repository = registries.repository_named(&world.registry.name("app")).expect("a name");
        let mut bytes = Vec::new();
        let read = repository.blob(blob, 0, true).expect("an answer").read_to_end(&mut bytes);
        Some(match read {
            Ok(_) => {
                assert_eq!(Digest::of(&bytes), blob.digest);
                "nothing".to_owned()
            }
            Err(err) => as_documented(&format!("error: {err}"), &[(&world.registry, "HOST")]),
        })
    });
}
