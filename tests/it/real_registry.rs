//! Against Docker's own registry, where it is installed (Debian: `docker-registry`) or
//! `MICA_TEST_REGISTRY` names it.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::env::{self, TestEnv, skip, write};
use crate::registry::Authority;

/// A registry of its own for one test.
struct Real {
    process: Child,
    host: String,
    env: TestEnv,
}

impl Real {
    fn start() -> Option<Self> {
        Self::start_with("", &[])
    }

    /// With more lines for `http` in its configuration, and the files of which these speak.
    fn start_with(http: &str, files: &[(&str, &str)]) -> Option<Self> {
        let env = env::bare()?;
        let Some(program) = program() else {
            skip("no docker-registry is installed, and MICA_TEST_REGISTRY names none");
            return None;
        };
        let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("one");
        let (host, folder) = (free.to_string(), env.path("registry"));
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: \
             {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: {host}\n{http}",
            folder.join("data").display()
        );
        write(&folder, "config.yml", &config.replace("FOLDER", folder.to_str().expect("UTF-8")));
        for (name, text) in files {
            write(&folder, name, text);
        }
        let mut command = Command::new(program);
        command.arg("serve").arg(folder.join("config.yml"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().expect("to start the registry");
        let real = Self { process, host, env };
        let answers = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            TcpStream::connect(free).is_ok()
        });
        assert!(answers, "the registry does not start");
        Some(real)
    }

    fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.host)
    }

    /// Builds an image of two layers, and gives it a name here.
    fn build(&self, name: &str) -> String {
        let numbers = (0..300_000u32).map(|n| n.wrapping_mul(40_503).to_string());
        let text = numbers.collect::<Vec<_>>().join(" ");
        let dockerfile = "FROM scratch\nCOPY a /\nCOPY b /\nENV A=b\n";
        let files = [("Dockerfile", dockerfile), ("a", name), ("b", &text)];
        self.env.id_of(&self.env.context(&files), &["-t", &self.name(name)])
    }

    /// Pulls into another store, and gives the image's ID there.
    fn pulled_elsewhere(&self, name: &str) -> String {
        let store = self.env.path("elsewhere");
        drop(std::fs::remove_dir_all(&store));
        let run = |args: &[&str]| {
            env::Ran::of(&mut self.env.command_in(&store, args)).success().trim().to_owned()
        };
        run(&["pull", "-q", name]);
        run(&["images", "-q", "--no-trunc"])
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("MICA_TEST_REGISTRY") {
        return Some(path.into());
    }
    let folders = ["/usr/bin", "/usr/local/bin", "/bin"];
    folders.map(|folder| Path::new(folder).join("docker-registry")).into_iter().find(|p| p.exists())
}

#[test]
fn pushed_mounted_and_pulled() {
    let Some(real) = Real::start() else { return };
    let (one, two) = (real.name("team/one:1"), real.name("two:latest"));
    let id = real.build("team/one:1");
    let said = real.env.mica(["push", &one]).success();
    assert!(said.starts_with("1: digest: sha256:"), "{said}");
    assert_eq!(real.env.mica(["push", &one]).success(), said);
    assert_eq!(real.pulled_elsewhere(&one), id);
    real.env.mica(["tag", &one, &two]).success();
    let ran = real.env.mica(["push", &two]);
    assert_eq!(ran.stderr.matches("Mounted from another repository").count(), 3, "{}", ran.stderr);
    assert_eq!(real.pulled_elsewhere(&two), id);
    for (method, kind) in [("zstd", "zstd"), ("uncompressed", "tar")] {
        let name = real.name(&format!("kinds:{method}"));
        real.env.mica(["tag", &one, &name]).success();
        let compression = format!("--compression={method}");
        real.env.mica(["push", "--force-compression", &compression, &name]).success();
        assert_eq!(real.pulled_elsewhere(&name), id, "{kind}");
    }
}

#[test]
fn pulled_from_a_real_registry_in_tls() {
    let authority = Authority::new("the registry's authority");
    let tls = "  tls: {certificate: FOLDER/cert.pem, key: FOLDER/key.pem}\n";
    let (cert, key) = authority.server_pem();
    let Some(real) = Real::start_with(tls, &[("cert.pem", &cert), ("key.pem", &key)]) else {
        return;
    };
    let id = real.build("app:1");
    let name = real.name("app:1");
    let ran = real.env.mica(["push", "--tls-verify", &name]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("is not signed by anybody who is trusted here"), "{}", ran.stderr);
    let folder = real.env.path("home/.config/docker/certs.d").join(&real.host);
    write(&folder, "ca.crt", &authority.pem());
    real.env.give(&real.env.path("home"));
    real.env.mica(["push", "--tls-verify", &name]).success();
    assert_eq!(real.pulled_elsewhere(&name), id);
}

#[test]
fn a_base_out_of_a_real_registry() {
    let Some(real) = Real::start() else { return };
    real.build("base:1");
    real.env.mica(["push", &real.name("base:1")]).success();
    real.env.mica(["rmi", &real.name("base:1")]).success();
    real.env.mica(["system", "prune"]).success();
    let text = format!("FROM {}\nCOPY --from={0} /a /c\n", real.name("base:1"));
    let app = real.name("app:1");
    let context = real.env.dockerfile(&text);
    let metadata = real.env.path("tmp/metadata.json");
    let file = metadata.to_str().expect("UTF-8");
    let args = ["--push", "-t", &app, "--metadata-file", file];
    real.env.build(&context, &args).success();
    let metadata: Value =
        serde_json::from_slice(&std::fs::read(&metadata).expect("a file")).expect("JSON");
    let digest = metadata["containerimage.digest"].as_str().expect("a digest");
    let by_digest = format!("{}@{digest}", real.name("app"));
    assert_eq!(real.pulled_elsewhere(&by_digest), real.env.id_of(&context, &[]));
}
