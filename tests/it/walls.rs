//! What a step cannot do. `docs/isolation.md` has a table of it, which says what holds in which mode:
//! these tests are what makes it true. Each attack is tried outside, too, where it has to succeed.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use crate::env::{
    Ran, TestEnv, copy_program, is_root, plain_user, root_only, single_id, skip, with_base,
};

/// Where an attack works, to show that it is one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Works {
    /// For whoever runs the tests.
    Anybody,
    /// For root, in a mount namespace of its own.
    Root,
    /// For root, in a chroot.
    Chrooted,
    /// Inside, where it is allowed.
    Inside,
    /// Where it would do harm, or nowhere on some machines.
    Untried,
}

use Works::{Anybody, Chrooted, Inside, Root, Untried};

/// The rows of the table, with the deeds of `attack.c` and where those work.
const ATTACKS: &[(&str, &[(&str, Works)])] = &[
    (
        "leave its root by a second chroot, or by `..`",
        &[("leave-by-chroot CANARY", Chrooted), ("climb CANARY", Anybody)],
    ),
    ("leave it by `root`, `cwd` and `fd` of processes", &[("leave-by-proc CANARY", Anybody)]),
    ("open files by their handles", &[("open-by-handle", Root)]),
    (
        "mount, unmount, change mounts",
        &[
            ("mount", Root),
            ("bind", Root),
            ("unmount", Root),
            ("open-tree", Root),
            ("new-mount", Root),
            ("mount-setattr", Root),
        ],
    ),
    (
        "make namespaces, or join others",
        &[
            ("unshare-user", Root),
            ("unshare-mounts", Root),
            ("clone-user", Root),
            ("clone3-user", Root),
            ("setns", Root),
        ],
    ),
    (
        "open disks and the kernel's log by device nodes that it makes",
        &[("device b:DISK", Untried), ("device c:1:11", Root)],
    ),
    (
        "send signals to mica",
        &[
            ("kill PID", Anybody),
            ("tgkill PID", Anybody),
            ("sigqueue PID", Anybody),
            ("pidfd-signal PID", Anybody),
            ("sigio PID", Anybody),
        ],
    ),
    (
        "look into mica, take what it has open, set its limits",
        &[
            ("ptrace PID", Anybody),
            ("read-memory PID", Anybody),
            ("write-memory PID", Anybody),
            ("pidfd-getfd PID", Anybody),
            ("prlimit PID", Anybody),
        ],
    ),
    ("read mica's environment and arguments", &[("environ NEKOT", Anybody)]),
    ("read secrets of other steps", &[("search TERCES", Inside)]),
    ("use the kernel's keyrings", &[("add-key", Root), ("keyctl", Root)]),
    (
        "use bpf, perf, io_uring, userfaultfd",
        &[("bpf", Root), ("perf", Untried), ("io-uring", Root), ("userfaultfd", Root)],
    ),
    (
        "load modules, read the kernel's log, rename the host",
        &[("init-module", Untried), ("syslog", Root), ("sethostname", Root)],
    ),
    (
        "write the kernel's settings: `core_pattern`, `sysrq`, `release_agent`, …",
        &[("settings", Root), ("release-agent", Untried)],
    ),
    ("raise its own limits", &[("raise-limit", Untried)]),
    ("reach abstract sockets of the host", &[("abstract SOCKET", Anybody)]),
    ("find System V memory of others", &[("shm-find KEY", Anybody)]),
    ("listen to the network", &[("packet", Root)]),
];

/// Backwards on command lines, so that nothing but the thing itself is found.
const TOKEN: &str = "token-of-the-environment";
const SECRET: &str = "secret-of-another-step";

fn backwards(text: &str) -> String {
    text.chars().rev().collect()
}

/// The attacks as a static program, if there is a C compiler.
fn attack() -> Option<&'static Path> {
    static PROGRAM: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("attack");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/walls/attack.c");
        let made = Command::new("cc")
            .args(["-w", "-O1", "-static", "-o"])
            .args([&program, &source])
            .status();
        made.is_ok_and(|it| it.success()).then_some(program)
    });
    let program = PROGRAM.as_deref();
    if program.is_none() {
        skip("no C compiler that links statically");
    }
    program
}

/// The cells of a mode's column, by the rows' titles.
fn documented(mode: &str) -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/isolation.md");
    let text = fs::read_to_string(path).expect("the page");
    let (_, section) = text.split_once("\n## What a step cannot do\n").expect("the section");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let mut rows = rows.map(|row| row.split(" | ").collect::<Vec<_>>());
    let header = rows.next().expect("a header");
    let column = header.iter().position(|cell| *cell == mode).expect(mode);
    rows.map(|row| (row[0].to_owned(), row[column].to_owned())).collect()
}

/// What there is outside to be attacked; it goes with this.
struct World<'a> {
    env: &'a TestEnv,
    program: PathBuf,
    canary: PathBuf,
    socket: String,
    key: String,
    _listener: UnixListener,
}

impl<'a> World<'a> {
    fn new(env: &'a TestEnv, program: &Path) -> Self {
        let folder = env.context(&[("canary", "canary")]);
        let path = folder.join("attack");
        copy_program(program, &path);
        let inode = fs::metadata(&path).expect("the program").ino();
        let socket = format!("mica-walls-{}-{inode}", std::process::id());
        let address = SocketAddr::from_abstract_name(&socket).expect("a name");
        let listener = UnixListener::bind_addr(&address).expect("to listen");
        let key = (inode & 0x3fff_ffff).to_string();
        let world = Self {
            env,
            program: path,
            canary: folder.join("canary"),
            socket,
            key,
            _listener: listener,
        };
        world.memory("shm-make");
        world
    }

    fn memory(&self, deed: &str) {
        let status = self.env.program(&self.program).args([deed, &self.key]).output();
        assert!(status.is_ok_and(|it| it.status.success()));
    }

    /// Whether the kernel can keep steps from abstract sockets.
    fn has_scopes(&self) -> bool {
        self.outside("has-scopes", Anybody)
    }

    /// A process like mica, which ends at a signal.
    fn victim(&self) -> Victim {
        let mut sleep = self.env.program("sleep");
        sleep.arg("600").env("TOKEN", TOKEN).stdin(Stdio::null()).stdout(Stdio::null());
        Victim(sleep.stderr(Stdio::null()).spawn().expect("a process"))
    }

    /// A deed's words, aimed at what is here.
    fn aim(&self, deed: &str, victim: &Victim) -> Vec<String> {
        let device = fs::metadata("/").expect("the root").dev();
        let [major, minor] = [nix::sys::stat::major(device), nix::sys::stat::minor(device)];
        let word = |word: &str| {
            word.replace("CANARY", self.canary.to_str().expect("text"))
                .replace("PID", &victim.0.id().to_string())
                .replace("DISK", &format!("{major}:{minor}"))
                .replace("NEKOT", &backwards(TOKEN))
                .replace("TERCES", &backwards(SECRET))
                .replace("SOCKET", &self.socket)
                .replace("KEY", &self.key)
        };
        deed.split(' ').map(word).collect()
    }

    /// Does a deed outside; whether it was done.
    fn outside(&self, deed: &str, works: Works) -> bool {
        let mut victim = self.victim();
        let words = self.aim(deed, &victim);
        let mut command = match works {
            Works::Anybody => self.env.program(&self.program),
            Works::Root => {
                let mut command = Command::new("unshare");
                command.args(["--mount", "--uts"]).arg(&self.program);
                command
            }
            _ => {
                let mut command = Command::new("chroot");
                command.arg(self.program.parent().expect("a folder")).arg("/attack");
                command
            }
        };
        let ran = Ran::of(command.args(words));
        // A signal takes its time.
        let ended = |_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            victim.has_ended()
        };
        ran.stdout.contains(" broke") || (0..100).any(ended)
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        self.memory("shm-remove");
    }
}

/// A process to be attacked; it ends with this.
struct Victim(Child);

impl Victim {
    fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("to look").is_some()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.0.kill().expect("to end it");
        self.0.wait().expect("to wait");
    }
}

/// Tries everything in one mode; `words` take it.
fn try_all(env: &TestEnv, words: &[&str], mode: &str) {
    let Some(program) = attack() else { return };
    let world = World::new(env, program);
    let deeds = || ATTACKS.iter().flat_map(|(row, deeds)| deeds.iter().map(move |it| (*row, it.0)));
    let mut victims: Vec<Victim> = deeds().map(|_| world.victim()).collect();
    let mut script = String::from(
        "FROM base\nCOPY attack /attack\n\
         RUN --mount=type=secret,id=s --mount=type=cache,target=/cache mkdir -p /tmp && echo control $(/attack search TERCES)\n\
         RUN --mount=type=cache,target=/cache <<END\n",
    )
    .replace("TERCES", &backwards(SECRET));
    for ((_, deed), victim) in deeds().zip(&victims) {
        script += &format!("echo did $(/attack {})\n", world.aim(deed, victim).join(" "));
    }
    script += "END\n";
    let context = env.context(&[("Dockerfile", &script), ("secret", SECRET)]);
    fs::copy(&world.program, context.join("attack")).expect("to copy");
    env.give(&context);
    let secret = format!("id=s,src={}", context.join("secret").display());
    let args =
        ["build", "--progress", "plain", "--secret", &secret, context.to_str().expect("text")];
    let mut command = env.command(words.iter().chain(&args));
    let ran = Ran::of(command.env("TOKEN", TOKEN));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("control search broke"), "{}", ran.stderr);

    let said: Vec<&str> =
        ran.stderr.lines().filter_map(|line| Some(line.split_once(" did ")?.1)).collect();
    assert_eq!(said.len(), victims.len(), "{}", ran.stderr);
    let cells = documented(mode);
    let mut wrong = String::new();
    for (((row, deed), victim), said) in deeds().zip(&mut victims).zip(said) {
        assert_eq!(said.split(' ').next(), deed.split(' ').next());
        let broke = said.ends_with(" broke") || victim.has_ended();
        let (_, cell) = cells.iter().find(|(title, _)| title == row).expect(row);
        let right = match cell.as_str() {
            "stopped" => !broke,
            "stopped by Landlock" => !broke || !world.has_scopes(),
            // Nothing else may stand there.
            other => other == "not stopped" && broke,
        };
        if !right {
            wrong += &format!("{mode}: {row}: {deed}: {cell}, but {said}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn root_is_held() {
    if let Some(env) = root_only() {
        try_all(&env, &[], "root");
    }
}

#[test]
fn many_ids_are_held() {
    if let Some(env) = plain_user() {
        try_all(&env, &[], "userns, many ids");
    }
}

#[test]
fn one_id_is_held() {
    if let Some(env) = single_id() {
        try_all(&env, &[], "userns, one id");
    }
}

#[test]
fn a_chroot_is_held() {
    if let Some(env) = root_only() {
        try_all(&env, &["--isolation", "chroot"], "chroot");
    }
}

/// An attack that never works shows nothing.
#[test]
fn attacks_work_where_nothing_stops_them() {
    let (Some(env), Some(program)) = (with_base(), attack()) else { return };
    let world = World::new(&env, program);
    for (_, deeds) in ATTACKS {
        for (deed, works) in *deeds {
            let tried = match works {
                Anybody => true,
                Root | Chrooted => is_root(),
                Inside | Untried => false,
            };
            assert!(!tried || world.outside(deed, *works), "{deed}");
        }
    }
}

/// What has a test of its own, by which it is stopped in every mode.
const OTHERS: &[&str] = &[
    "write outside of its root by COPY, ADD, WORKDIR or mounts, through links",
    "go on after its end, and write to its layer",
    "write to files of other layers",
    "type into the user's terminal",
];
/// What nothing stops, here as under Docker.
const LIMITS: &str = "use up processors, memory, disk, process numbers";

#[test]
fn the_table_is_what_is_tested() {
    for mode in ["root", "userns, many ids", "userns, one id", "chroot"] {
        let cells = documented(mode);
        let titles: Vec<&str> = cells.iter().map(|(title, _)| title.as_str()).collect();
        let attacks = ATTACKS.iter().map(|(title, _)| *title);
        let tested: Vec<&str> = attacks.chain(OTHERS.iter().copied()).chain([LIMITS]).collect();
        assert_eq!(titles, tested);
        for (title, cell) in &cells {
            let expected = if title == LIMITS { "not stopped" } else { "stopped" };
            assert!(
                cell == expected || !OTHERS.contains(&title.as_str()) && title != LIMITS,
                "{title}"
            );
        }
    }
}

/// Does the same in each mode that this machine has.
fn in_each_mode(test: impl Fn(&TestEnv, &[&str])) {
    let root: &[&str] = &[];
    let chroot: &[&str] = &["--isolation", "chroot"];
    let modes: [(_, &[&str]); 4] =
        [(root_only(), root), (plain_user(), root), (single_id(), root), (root_only(), chroot)];
    for (env, words) in &modes {
        if let Some(env) = env {
            test(env, words);
        }
    }
}

fn build(env: &TestEnv, words: &[&str], context: &Path, args: &[&str]) -> Ran {
    let context = context.to_str().expect("text");
    env.mica([words, &["build", "--progress", "plain"], args, &[context]].concat())
}

/// In a chroot that is a mount point, all goes as ever; but behind the root there is another one.
#[test]
fn a_chroot_around_mica_is_no_way_out() {
    let (Some(env), Some(program)) = (root_only(), attack()) else { return };
    let world = World::new(&env, program);
    let script =
        "FROM base\nCOPY attack /attack\nARG C\nRUN echo did $(/attack leave-by-chroot $C)\n";
    let context = env.dockerfile(script);
    copy_program(program, &context.join("attack"));
    let canary = format!("C={}", world.canary.display());
    let context = context.to_str().expect("text");
    let mica = env.command(["build", "--progress", "plain", "--build-arg", &canary, context]);
    let enter = r#"mount --rbind / "$0" && exec chroot "$0" "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", enter]).arg(env.context(&[]));
    let ran = Ran::of(command.arg(mica.get_program()).args(mica.get_args()));
    assert!(ran.stderr.contains("did leave-by-chroot held"), "{}", ran.stderr);
}

/// Links of an image that lead to a folder of the host, as a place to copy to and from.
#[test]
fn copies_stay_in_the_root() {
    in_each_mode(|env, words| {
        let outside = env.context(&[("canary", "canary")]);
        let look = || {
            let names = fs::read_dir(&outside).expect("to list").count();
            let [folder, file] = [&outside, &outside.join("canary")].map(|it| {
                let it = fs::metadata(it).expect("the canary");
                (it.ctime(), it.ctime_nsec(), it.nlink())
            });
            (names, folder, file)
        };
        let before = look();
        let (path, ups) = (outside.display(), "../".repeat(40));
        let script = format!(
            "FROM base AS links\n\
             RUN ln -s {path} /abs && ln -s {ups}{path} /ups && ln -s {path}/canary /file && \
             ln -s {path}/new /dangling && ln -s .. /parent\n\
             COPY f /abs/copied\nCOPY f /ups/\nCOPY f /file\nCOPY f /dangling\nADD d /abs/d/\n\
             COPY f {ups}{path}/climbed\nCOPY f /parent/parent/parent{path}/parents\n\
             WORKDIR /ups/work\nRUN pwd >made && chown 0 made\n\
             FROM base\nCOPY --from=links /abs/ /from/\nCOPY --from=links {ups}{path} /from/\n\
             RUN --mount=from=links,source=/ups,target=/m --mount=type=cache,target=/file/c \
             cp -r /m /mounted\n"
        );
        let context = env.context(&[("Dockerfile", &script), ("f", "f"), ("d/g", "g")]);
        build(env, words, &context, &["-t", "copied"]).success();
        assert_eq!(look(), before);
        let files = env.saved("copied").files();
        for name in ["copied", "f", "new", "d/g", "climbed", "parents", "work/made"] {
            assert!(files.contains_key(&format!("from/{name}")), "{name}: {files:?}");
        }
        assert_eq!(files["from/canary"].bytes, b"f", "written inside, through the link");
        assert!(files.contains_key("mounted/copied"));
    });
}

/// What a step leaves running would go on changing its layer, while that is read and after it.
#[test]
fn nothing_goes_on_after_a_step() {
    in_each_mode(|env, words| {
        let script = "FROM base\nRUN <<END\nmkdir -p /d/e\n\
             echo 'while :; do echo 4718.1 >>/d/log; rm -rf /d/e; ln -s /bin /d/e; rm /d/e; mkdir -p /d/e; : >/d/e/f; done' >/loop\n\
             for i in 1 2 3; do (trap '' TERM HUP INT; setsid sh /loop 4718.1 >/dev/null 2>&1 </dev/null &) ; done\n\
             while ! test -e /d/log; do :; done\nEND\n";
        build(env, words, &env.dockerfile(script), &["-t", "left"]).success();
        let running = Ran::of(Command::new("pgrep").args(["-f", "4718.1"]));
        assert_eq!(running.stdout, "");
        let [one, two] = [(); 2].map(|()| env.saved("left").file("d/log").bytes);
        assert_eq!(one, two);
    });
}

/// Layers share files that did not change: whoever writes to one gets a copy.
#[test]
fn no_step_writes_to_another_layer() {
    in_each_mode(|env, words| {
        let context = env.context(&[
            ("Dockerfile", "FROM base\nCOPY d /d\nRUN ls /d && rm -rf /d/rw\n"),
            ("d/one", "1"),
            ("d/two", "2"),
        ]);
        build(env, words, &context, &["-t", "first"]).success();
        fs::write(context.join("d/two"), "changed").expect("to write");
        let more = "FROM base\nCOPY d /d\n\
                    RUN ln /d/one /linked && echo more >>/linked && echo more >>/d/two\n\
                    RUN --mount=from=first,target=/m,rw echo more >>/m/d/one && ln /m/d/one /m/x && \
                    chmod 777 /m/d /m/d/two\n";
        fs::write(context.join("Dockerfile"), more).expect("to write");
        build(env, words, &context, &["-t", "second"]).success();
        let [first, second] = ["first", "second"].map(|name| env.saved(name));
        assert_eq!((first.text("d/one"), first.text("d/two")), ("1".into(), "2".into()));
        let files = second.files();
        let one = ["d/one", "linked"].map(|name| files[name].bytes.as_slice());
        assert!(one.contains(&b"1more\n".as_slice()), "{one:?}");
    });
}

/// Characters that are pushed into a terminal are typed by its user, as far as the shell can tell.
#[test]
fn nothing_is_typed_for_the_user() {
    let Some(program) = attack() else { return };
    let under_terminal = |command: &Command| {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<_> = words.map(|it| format!("'{}'", it.to_string_lossy())).collect();
        let mut script = Command::new("script");
        script.args(["-qec", &words.join(" "), "/dev/null"]).stdin(Stdio::null());
        for (name, value) in command.get_envs() {
            script.env(name, value.unwrap_or_default());
        }
        script.output().ok().map(Ran::from)
    };
    in_each_mode(|env, words| {
        let world = World::new(env, program);
        let mut outside = env.program(&world.program);
        let Some(ran) = under_terminal(outside.arg("tiocsti")) else {
            return skip("`script` is not installed");
        };
        assert!(ran.stdout.contains("tiocsti broke"), "{ran:?}");
        let context =
            env.dockerfile("FROM base\nCOPY attack /attack\nRUN echo did $(/attack tiocsti)\n");
        fs::copy(&world.program, context.join("attack")).expect("to copy");
        env.give(&context);
        let args = ["build", "--progress", "plain", context.to_str().expect("text")];
        let ran = under_terminal(&env.command(words.iter().chain(&args))).expect("to run");
        assert!(ran.stdout.contains("did tiocsti held"), "{ran:?}");
    });
}
