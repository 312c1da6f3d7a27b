//! [`TestEnv`]: a store, a home and contexts of a test's own, and short ways to run mica in them.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use nix::unistd::{Gid, Uid, User, chown};
use serde_json::Value;

use crate::image::SavedImage;

const BUSYBOX: &str = "/bin/busybox";

/// Where mica finds `newuidmap`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A place where mica runs. When it goes, its store has to be sound.
pub(crate) struct TestEnv {
    dir: tempfile::TempDir,
    /// Runs mica where it isn't the user that runs the test.
    user: Option<User>,
    checked: bool,
}

/// How mica ended and what it wrote.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// Standard output, byte by byte.
    pub(crate) bytes: Vec<u8>,
}

/// Says that a test does not run here, past the test harness's capture.
pub(crate) fn skip(reason: &str) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("test").to_owned();
    writeln!(std::io::stderr(), "skipped: {name}: {reason}").expect("to say so");
}

/// An environment, or the reason why mica does not run here at all.
pub(crate) fn bare() -> Option<TestEnv> {
    TestEnv::of(None)
}

/// An environment whose store has the image `base`: busybox.
pub(crate) fn with_base() -> Option<TestEnv> {
    bare()?.and_base()
}

/// An environment with `base` that is a plain user's even where root runs the tests.
pub(crate) fn plain_user() -> Option<TestEnv> {
    if !is_root() {
        return with_base();
    }
    let Some(user) = subordinate_user() else {
        skip("no plain user has ids in /etc/subuid");
        return None;
    };
    TestEnv::of(Some(user))?.and_base()
}

/// An environment with `base` that is the user's `nobody`, who has no subordinate ids; only where root
/// runs the tests.
pub(crate) fn single_id() -> Option<TestEnv> {
    let text = fs::read_to_string("/etc/subuid").unwrap_or_default();
    let nobody = User::from_name("nobody").ok().flatten();
    let Some(nobody) = nobody.filter(|_| is_root() && !text.contains("nobody:")) else {
        skip("needs root, and a user `nobody` without subordinate ids");
        return None;
    };
    TestEnv::of(Some(nobody))?.and_base()
}

/// Like [`with_base`], for what only root can prepare.
pub(crate) fn root_only() -> Option<TestEnv> {
    if is_root() {
        return with_base();
    }
    skip("needs root");
    None
}

pub(crate) fn is_root() -> bool {
    Uid::effective().is_root()
}

fn subordinate_user() -> Option<User> {
    let text = fs::read_to_string("/etc/subuid").ok()?;
    let names = text.lines().filter_map(|line| line.split(':').next());
    names.filter_map(|name| User::from_name(name).ok()?).find(|user| !user.uid.is_root())
}

impl TestEnv {
    fn of(user: Option<User>) -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("mica-it-").tempdir().expect("a directory");
        let env = Self { dir, user, checked: true };
        for part in ["home", "tmp", "contexts"] {
            fs::create_dir(env.path(part)).expect("a directory");
        }
        if let Some(user) = &env.user {
            fs::set_permissions(env.dir.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
            // The target folder may be closed to that user.
            copy_program(env!("CARGO_BIN_EXE_mica").as_ref(), &env.path("mica"));
            for part in ["", "home", "tmp", "contexts"] {
                give(&env.path(part), user.uid, user.gid);
            }
        }
        match env.isolation() {
            Ok(_) => Some(env),
            Err(reason) => {
                skip(&reason);
                None
            }
        }
    }

    fn and_base(self) -> Option<Self> {
        let Some(tar) = base_tar() else {
            skip("no /bin/busybox: install busybox-static");
            return None;
        };
        let args = ["import", "-", "base", "--change", "ENV PATH=/bin"];
        self.mica_with_input(args, tar).success();
        Some(self)
    }

    /// A path inside this environment.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// The test breaks the store on purpose: nobody looks at the end whether it is sound.
    pub(crate) fn expect_damage(&mut self) {
        self.checked = false;
    }

    /// The isolation that `mica info` names, or why there is none.
    pub(crate) fn isolation(&self) -> Result<String, String> {
        let info: Value =
            serde_json::from_str(&self.mica(["info", "--format", "json"]).success()).expect("JSON");
        match info["Isolation"].as_str() {
            Some("none") => Err(info["IsolationReason"].to_string()),
            mode => Ok(mode.expect("a mode").to_owned()),
        }
    }

    /// Makes a fresh folder with these files; a name that ends in `/` is a folder.
    pub(crate) fn context(&self, files: &[(&str, &str)]) -> PathBuf {
        let dir = tempfile::tempdir_in(self.path("contexts")).expect("a directory").keep();
        fs::set_permissions(&dir, PermissionsExt::from_mode(0o755)).expect("chmod");
        for (name, text) in files {
            write(&dir, name, text);
        }
        self.give(&dir);
        dir
    }

    /// A context of a Dockerfile alone.
    pub(crate) fn dockerfile(&self, text: &str) -> PathBuf {
        self.context(&[("Dockerfile", text)])
    }

    /// Makes what was written belong to the user that mica runs as.
    pub(crate) fn give(&self, dir: &Path) {
        let Some(user) = &self.user else { return };
        for entry in walkdir::WalkDir::new(dir) {
            give(entry.expect("to walk").path(), user.uid, user.gid);
        }
    }

    /// mica as this environment's user, with nothing of the caller's environment.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        self.command_in(&self.store(), args)
    }

    /// The same for another store.
    pub(crate) fn command_in<S: AsRef<OsStr>>(
        &self,
        store: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        let mica = match &self.user {
            None => PathBuf::from(env!("CARGO_BIN_EXE_mica")),
            Some(_) => self.path("mica"),
        };
        let mut command = self.program(mica);
        command
            .arg("--root")
            .arg(store)
            .args(args)
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.path("tmp"))
            .current_dir(self.path("contexts"))
            .stdin(Stdio::null());
        command
    }

    /// Any program as this environment's user.
    pub(crate) fn program(&self, program: impl AsRef<OsStr>) -> Command {
        let Some(user) = &self.user else { return Command::new(program) };
        let mut command = Command::new("setpriv");
        let (uid, gid) = (user.uid.to_string(), user.gid.to_string());
        command.args(["--reuid", &uid, "--regid", &gid, "--init-groups"]).arg(program);
        command
    }

    /// Runs mica to its end.
    pub(crate) fn mica<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        Ran::of(&mut self.command(args))
    }

    pub(crate) fn mica_with_input<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        input: &[u8],
    ) -> Ran {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("to start mica");
        let mut stdin = child.stdin.take().expect("a pipe");
        let output = std::thread::scope(|scope| {
            // mica may well end before it has read everything.
            scope.spawn(move || drop(stdin.write_all(input)));
            child.wait_with_output().expect("to wait for mica")
        });
        Ran::from(output)
    }

    /// `mica build ARGS CONTEXT`, in plain progress.
    pub(crate) fn build(&self, context: &Path, args: &[&str]) -> Ran {
        let all = ["build"].iter().chain(args).map(OsStr::new).chain([context.as_os_str()]);
        self.mica(all)
    }

    /// Builds a Dockerfile without a context; it has to succeed.
    #[track_caller]
    pub(crate) fn built(&self, dockerfile: &str) -> SavedImage {
        let context = self.dockerfile(dockerfile);
        self.built_from(&context, &[])
    }

    /// Builds; it has to succeed.
    #[track_caller]
    pub(crate) fn built_from(&self, context: &Path, args: &[&str]) -> SavedImage {
        let id = self.id_of(context, args);
        self.saved(&id)
    }

    /// Builds; it has to succeed. Returns the image's ID.
    #[track_caller]
    pub(crate) fn id_of(&self, context: &Path, args: &[&str]) -> String {
        let args: Vec<&str> = ["-q"].iter().chain(args).copied().collect();
        self.build(context, &args).success().trim().to_owned()
    }

    /// What an image is, by way of an archive.
    #[track_caller]
    pub(crate) fn saved(&self, image: &str) -> SavedImage {
        let saved = self.mica(["save", "--format", "oci-archive", image]);
        assert_eq!(saved.code, Some(0), "{saved:?}");
        SavedImage::read(&saved.bytes)
    }

    /// Runs a shell command in an image; it has to succeed.
    #[track_caller]
    pub(crate) fn shell(&self, image: &str, script: &str) -> String {
        self.mica(["run", image, "/bin/sh", "-c", script]).success()
    }

    /// Hides in a text what differs from run to run.
    pub(crate) fn filter(&self, text: &str) -> String {
        let dir = self.dir.path().to_str().expect("a path in UTF-8");
        let lines = text.lines().map(|line| filter_line(&line.replace(dir, "[dir]")));
        lines.collect::<Vec<_>>().join("\n")
    }
}

impl Drop for TestEnv {
    fn drop(&mut self) {
        if self.checked && self.store().exists() && !std::thread::panicking() {
            let ran = self.mica(["system", "check"]);
            assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""), "the store is not sound");
        }
        if !is_root() {
            self.remove_foreign_files();
        }
    }
}

impl TestEnv {
    /// A plain user cannot remove what belongs to its subordinate ids, but mica can.
    fn remove_foreign_files(&self) {
        let ids = self.mica(["images", "-q", "--no-trunc"]).stdout;
        if !ids.is_empty() {
            self.mica(["rmi", "--force"].into_iter().chain(ids.lines()));
        }
        self.mica(["system", "prune"]);
    }
}

impl Ran {
    pub(crate) fn of(command: &mut Command) -> Self {
        command.output().expect("to start mica").into()
    }

    /// Standard output of what has to succeed.
    #[track_caller]
    pub(crate) fn success(self) -> String {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self.stdout
    }
}

impl From<std::process::Output> for Ran {
    fn from(output: std::process::Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
            bytes: output.stdout,
        }
    }
}

/// Copies a program so that it can be run at once: if this process wrote it, a child that another test
/// starts in the same moment might still have it open for writing.
pub(crate) fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").args([from, to]).status();
    assert!(copied.is_ok_and(|it| it.success()), "to copy {}", from.display());
}

/// Writes a file of a context, and the folders above it.
pub(crate) fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    if name.ends_with('/') {
        return fs::create_dir_all(path).expect("a directory");
    }
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    fs::write(path, text).expect("to write a file");
}

fn give(path: &Path, uid: Uid, gid: Gid) {
    chown(path, Some(uid), Some(gid)).expect("to give a file away");
}

fn filter_line(line: &str) -> String {
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let is_step = words[0].starts_with('#');
    for (index, word) in words.iter_mut().enumerate() {
        if is_step && index == 1 && word.contains('.') && word.parse::<f64>().is_ok() {
            "[time]".clone_into(word);
        }
        let seconds = word.strip_suffix('s').and_then(|number| number.parse::<f64>().ok());
        if is_step && index == 2 && seconds.is_some() {
            "[time]".clone_into(word);
        }
    }
    without_digests(&words.join(" "))
}

/// A text with `[digest]` for each `sha256:` that 64 digits follow.
fn without_digests(text: &str) -> String {
    let mut parts = text.split("sha256:");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.bytes().take_while(u8::is_ascii_hexdigit).count();
        if digits == 64 {
            out.push_str("[digest]");
            out.push_str(&part[digits..]);
        } else {
            out.push_str("sha256:");
            out.push_str(part);
        }
    }
    out
}

/// The root file system of the image `base`, if there is a busybox to make it of.
pub(crate) fn base_tar() -> Option<&'static [u8]> {
    static TAR: LazyLock<Option<Vec<u8>>> = LazyLock::new(|| {
        let busybox = fs::read(BUSYBOX).ok()?;
        let mut tar = tar::Builder::new(Vec::new());
        let applets = Command::new(BUSYBOX).arg("--list").output().ok()?.stdout;
        for folder in ["bin", "etc", "home/app", "root", "tmp"] {
            let mode = if folder == "tmp" { 0o1777 } else { 0o755 };
            append(&mut tar, tar::EntryType::Directory, folder, mode, b"");
        }
        append(&mut tar, tar::EntryType::Regular, "bin/busybox", 0o755, &busybox);
        for applet in String::from_utf8(applets).ok()?.lines().filter(|name| *name != "busybox") {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            header.set_mode(0o777);
            tar.append_link(&mut header, format!("bin/{applet}"), "busybox").ok()?;
        }
        let passwd = b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n";
        append(&mut tar, tar::EntryType::Regular, "etc/passwd", 0o644, passwd);
        let group = b"root:x:0:\napp:x:1001:\nextra:x:55:app\n";
        append(&mut tar, tar::EntryType::Regular, "etc/group", 0o644, group);
        tar.into_inner().ok()
    });
    TAR.as_deref()
}

/// Adds a file to a tar that is made in memory.
pub(crate) fn append(
    tar: &mut tar::Builder<Vec<u8>>,
    kind: tar::EntryType,
    name: &str,
    mode: u32,
    bytes: &[u8],
) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, name, bytes).expect("to write to memory");
}
