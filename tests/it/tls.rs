//! Registries that talk TLS: whom mica believes, what it shows, and where plain HTTP is a way.

use crate::env::{self, Ran, TestEnv, write};
use crate::registry::{Authority, Registry};

/// The certificates of a test, and a place with a registry in TLS that has `app:1`.
struct Setup {
    env: TestEnv,
    authority: Authority,
    registry: Registry,
}

impl Setup {
    /// A registry that asks its clients for a certificate of `clients`, where there is one.
    fn new(clients: Option<&Authority>) -> Option<Self> {
        let env = env::bare()?;
        let authority = Authority::new("the registry's authority");
        let registry = Registry::start_tls(authority.server(clients));
        registry.push("app", "1", &[("one", "first")]);
        Some(Self { env, authority, registry })
    }

    /// Puts files below `~/.config`.
    fn config(&self, files: &[(&str, &str)]) {
        let home = self.env.path("home");
        drop(std::fs::remove_dir_all(home.join(".config")));
        for (name, text) in files {
            write(&home.join(".config"), name, &text.replace("HOST", &self.registry.host));
        }
        self.env.give(&home);
    }

    /// A file in the registry's folder of `certs.d`.
    fn certs_d(&self, name: &str) -> String {
        format!("docker/certs.d/{}/{name}", self.registry.host)
    }

    /// Pulls the image into a store that has nothing.
    fn pull(&self, args: &[&str]) -> Ran {
        drop(std::fs::remove_dir_all(self.env.store()));
        let name = self.registry.name("app:1");
        let all = ["pull"].iter().chain(args).copied().chain([name.as_str()]);
        self.env.mica(all)
    }

    #[track_caller]
    fn pulls(&self, args: &[&str]) {
        let ran = self.pull(args);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    }

    /// What a pull that fails says.
    #[track_caller]
    fn refused(&self, args: &[&str]) -> String {
        self.registry.requests();
        let ran = self.pull(args);
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert!(self.registry.requests().is_empty(), "nothing is asked of whom nobody trusts");
        ran.stderr.trim_end().replace(&self.registry.host, "HOST")
    }
}

#[test]
fn an_authority_of_the_users_is_believed() {
    let Some(setup) = Setup::new(None) else { return };
    let pem = setup.authority.pem();
    setup.config(&[(&setup.certs_d("ca.crt"), &pem)]);
    setup.pulls(&[]);
    setup.pulls(&["--tls-verify"]);
    let settings = "[registry.\"HOST\"]\nca = \"ca.pem\"\n";
    setup.config(&[("mica/config.toml", settings), ("mica/ca.pem", &pem)]);
    setup.pulls(&[]);
    setup.pulls(&["--tls-verify"]);
    // As for every program: by a variable.
    setup.config(&[("ca.pem", &pem)]);
    let mut command = setup.env.command(["pull", "--tls-verify", &setup.registry.name("app:1")]);
    command.env("SSL_CERT_FILE", setup.env.path("home/.config/ca.pem"));
    assert_eq!(Ran::of(&mut command).code, Some(0));
}

#[test]
fn another_authority_is_not_believed() {
    let Some(setup) = Setup::new(None) else { return };
    let other = Authority::new("somebody else").pem();
    setup.config(&[(&setup.certs_d("ca.crt"), &other)]);
    insta::assert_snapshot!(setup.refused(&[]), @r"
    error: cannot reach `https://HOST/v2/app/manifests/1`: its certificate is not signed by anybody who is trusted here
    hint: name who signed it as `ca` in mica's config.toml, or do without by `--tls-verify=false`
    ");
    setup.pulls(&["--tls-verify=false"]);
    let settings = "[registry.\"HOST\"]\nca = \"ca.pem\"\n";
    setup.config(&[("mica/config.toml", settings), ("mica/ca.pem", &other)]);
    assert!(setup.refused(&[]).contains("certificate"), "a `ca` is looked at on this machine, too");
    let settings = "[registry.\"HOST\"]\nca = \"ca.pem\"\ninsecure = true\n";
    setup.config(&[("mica/config.toml", settings), ("mica/ca.pem", &other)]);
    setup.pulls(&[]);
}

#[test]
fn this_machines_own_registries_need_no_certificate() {
    let Some(setup) = Setup::new(None) else { return };
    setup.pulls(&[]);
    setup.pulls(&["--tls-verify=false"]);
    assert!(setup.refused(&["--tls-verify=true"]).contains("certificate"));
}

#[test]
fn plain_http_has_to_be_asked_for() {
    let Some(env) = env::bare() else { return };
    let Some(registry) = Registry::start_in_the_open() else {
        return env::skip("this machine has no address but its own");
    };
    registry.push("app", "1", &[("one", "first")]);
    let name = registry.name("app:1");
    let ran = env.mica(["pull", &name]);
    assert_eq!((ran.code, registry.requests().len()), (Some(1), 0), "{ran:?}");
    insta::assert_snapshot!(ran.stderr.trim_end().replace(&registry.host, "HOST"), @r"
    error: cannot reach `https://HOST/v2/app/manifests/1`: it does not talk TLS
    hint: plain HTTP has to be asked for: `http = true` in mica's config.toml, or `--tls-verify=false`
    ");
    assert_eq!(env.mica(["pull", "--tls-verify=false", &name]).code, Some(0));
    for key in ["http", "insecure"] {
        let settings = format!("[registry.\"{}\"]\n{key} = true\n", registry.host);
        write(&env.path("home/.config/mica"), "config.toml", &settings);
        env.give(&env.path("home"));
        assert_eq!(env.mica(["pull", &name]).code, Some(0), "{key}");
        assert_eq!(env.mica(["pull", "--tls-verify", &name]).code, Some(1), "{key}");
    }
}

#[test]
fn a_certificate_of_our_own_is_shown() {
    let clients = Authority::new("the clients' authority");
    let Some(setup) = Setup::new(Some(&clients)) else { return };
    let (cert, key) = clients.client();
    let stranger = Authority::new("nobody").client();
    insta::assert_snapshot!(setup.refused(&[]), @r"
    error: cannot reach `https://HOST/v2/app/manifests/1`: it ends the TLS connection: CertificateRequired
    hint: if it wants a certificate of yours, name that as `cert` and `key` in mica's config.toml
    ");
    let (cert_path, key_path) = (setup.certs_d("client.cert"), setup.certs_d("client.key"));
    setup.config(&[(&cert_path, &cert), (&key_path, &key)]);
    setup.pulls(&[]);
    let ca_path = setup.certs_d("ca.crt");
    setup.config(&[(&cert_path, &cert), (&key_path, &key), (&ca_path, &setup.authority.pem())]);
    setup.pulls(&[]);
    setup.config(&[(&cert_path, &stranger.0), (&key_path, &stranger.1)]);
    assert!(setup.refused(&[]).contains("certificate"));
    let settings = "[registry.\"HOST\"]\ncert = \"client.pem\"\nkey = \"key.pem\"\n";
    setup.config(&[
        ("mica/config.toml", settings),
        ("mica/client.pem", &cert),
        ("mica/key.pem", &key),
    ]);
    setup.pulls(&[]);
    // What is set and cannot be used is named.
    setup.config(&[(&cert_path, &cert)]);
    let said = setup.env.filter(&setup.refused(&[]));
    assert!(said.contains(".key") && said.contains("cannot use"), "{said}");
}

/// A password goes through TLS as well as in the open, and tokens come from a realm in TLS.
#[test]
fn credentials_go_to_a_registry_in_tls() {
    use crate::registry::Auth;
    let Some(setup) = Setup::new(None) else { return };
    setup.registry.require(Auth::Bearer("me:hush", 3));
    let host = setup.registry.host.as_str();
    let login = ["login", "-u", "me", "--password-stdin", host];
    setup.env.mica_with_input(login, b"hush\n").success();
    setup.pulls(&[]);
}
