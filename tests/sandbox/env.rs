//! A root file system of busybox, and short ways to run things in it.

use std::path::{Path, PathBuf};

use mica::mount::Overlay;
use mica::runtime::isolation::Mode;
use mica::runtime::{
    CancelToken, ExecSpec, ExitStatus, NamespaceSandbox, Sandbox, SandboxError, Stream,
};

const BUSYBOX: &str = "/bin/busybox";

pub(crate) struct Env {
    pub(crate) mode: Mode,
    pub(crate) sandbox: NamespaceSandbox,
    directory: tempfile::TempDir,
}

/// What a run said and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// One step: a fresh upper directory over the busybox layer.
pub(crate) struct Step {
    pub(crate) spec: ExecSpec,
    pub(crate) upper: PathBuf,
    _directory: tempfile::TempDir,
}

impl Env {
    pub(crate) fn new(mode: Mode) -> Result<Self, String> {
        if !Path::new(BUSYBOX).exists() {
            return Err(format!("{BUSYBOX} is missing: install busybox-static"));
        }
        let directory = tempfile::tempdir_in("/var/tmp").map_err(|error| error.to_string())?;
        let layer = directory.path().join("layer");
        for part in ["bin", "etc", "root", "tmp", "home"] {
            std::fs::create_dir_all(layer.join(part)).map_err(|error| error.to_string())?;
        }
        std::fs::copy(BUSYBOX, layer.join("bin/busybox")).map_err(|error| error.to_string())?;
        for applet in ["sh", "true", "sleep", "cat", "ls", "id", "env", "mount", "mknod", "stat"] {
            std::os::unix::fs::symlink("busybox", layer.join("bin").join(applet))
                .map_err(|error| error.to_string())?;
        }
        std::fs::write(
            layer.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n",
        )
        .map_err(|error| error.to_string())?;
        std::fs::write(layer.join("etc/group"), "root:x:0:\napp:x:1001:\nextra:x:55:app\n")
            .map_err(|error| error.to_string())?;
        let sandbox = NamespaceSandbox::new(mode).map_err(|error| error.to_string())?;
        Ok(Self { mode, sandbox, directory })
    }

    pub(crate) fn layer(&self) -> PathBuf {
        self.directory.path().join("layer")
    }

    /// Prepares a shell command.
    pub(crate) fn step(&self, script: &str) -> Step {
        self.step_over(&[], script)
    }

    /// Prepares a shell command with further layers on top of busybox, the topmost first.
    pub(crate) fn step_over(&self, layers: &[&Path], script: &str) -> Step {
        let directory = tempfile::tempdir_in(self.directory.path()).expect("a directory");
        let (upper, work) = (directory.path().join("upper"), directory.path().join("work"));
        std::fs::create_dir(&upper).expect("an upper directory");
        std::fs::create_dir(&work).expect("a work directory");
        let lowers = layers.iter().map(|it| it.to_path_buf()).chain([self.layer()]).collect();
        let rootfs = Overlay::writable(lowers, &upper, work);
        let mut spec = ExecSpec::new(rootfs, ["/bin/sh", "-c", script]);
        spec.env.push(("PATH".into(), "/bin".into()));
        Step { spec, upper, _directory: directory }
    }

    /// A fresh directory, removed with the environment.
    pub(crate) fn fresh(&self) -> PathBuf {
        tempfile::tempdir_in(self.directory.path()).expect("a directory").keep()
    }

    pub(crate) fn run(&self, spec: &ExecSpec) -> Result<Ran, SandboxError> {
        self.run_until(spec, &CancelToken::new().expect("a token"))
    }

    pub(crate) fn run_until(
        &self,
        spec: &ExecSpec,
        cancel: &CancelToken,
    ) -> Result<Ran, SandboxError> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut output = |stream: Stream, bytes: &[u8]| match stream {
            Stream::Stdout => stdout.extend_from_slice(bytes),
            Stream::Stderr => stderr.extend_from_slice(bytes),
        };
        let status = self.sandbox.run(spec, &mut output, cancel)?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Ran { status, stdout: text(stdout), stderr: text(stderr) })
    }

    /// Runs a shell command that has to succeed; returns what it printed.
    #[track_caller]
    pub(crate) fn shell(&self, script: &str) -> String {
        self.expect(&self.step(script))
    }

    #[track_caller]
    pub(crate) fn expect(&self, step: &Step) -> String {
        match self.run(&step.spec) {
            Ok(ran) if ran.status.success() => ran.stdout,
            other => panic!("{other:?}"),
        }
    }
}

/// Everything below a directory, as relative paths.
pub(crate) fn tree(directory: &Path) -> Vec<String> {
    let mut found: Vec<String> = walkdir::WalkDir::new(directory)
        .min_depth(1)
        .into_iter()
        .map(|it| it.expect("to walk"))
        .map(|it| it.path().strip_prefix(directory).expect("below").display().to_string())
        .collect();
    found.sort();
    found
}
