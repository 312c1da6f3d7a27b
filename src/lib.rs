//! Builds OCI images from Dockerfiles, without a daemon, as root or as a plain user.
//!
//! This is the library behind the `mica` command. A build goes one way:
//!
//! ```text
//! text ─parser→ Dockerfile ─lower→ Graph + config ─solve→ Snapshot ─assemble→ Image ─export→ archive
//! ```
//!
//! # Modules
//!
//! | module | what it holds | may use |
//! |---|---|---|
//! | [`oci`] | digests, names, manifests, configs; no I/O | |
//! | [`http`] | requests, and responses whose bodies are read as they come | |
//! | [`mount`] | mounts as plain data | |
//! | [`ssh`] | agents, and the door through which a step reaches one | |
//! | [`parser`] | the language: any bytes give a tree and diagnostics | |
//! | [`lint`] | what is odd about a Dockerfile that can be built | `parser` |
//! | [`snapshot`] | layer directories read as one root, and the topmost written | `oci` |
//! | [`layer`] | layer directories ↔ tars, compression | `oci`, `snapshot` |
//! | [`runtime`] | one process in a sandbox, to its end | `mount` |
//! | [`store`] | images, layers and blobs on disk, shared by processes | `oci`, `snapshot`, `layer` |
//! | [`cache`] | what a step would make, found by what it is made from | `oci`, `snapshot`, `layer`, `store` |
//! | [`fetch`] | files of URLs and of git repositories | `oci`, `http`, `snapshot` |
//! | [`export`], [`import`] | images out to archives and in | `oci`, `snapshot`, `layer`, `store` |
//! | [`registry`] | registries: where they are, images out of them and into them | `oci`, [`http`], `layer`, `store`, `export` |
//! | [`shared`] | the cache that machines share, in a registry or a folder | `oci`, `store`, `cache`, `export`, `import`, `registry` |
//! | [`builder`] | graph, solver, operations: from a Dockerfile to an image | all above but the last four |
//! | [`cli`] | the command line | all |
//!
//! # Example
//!
//! Builds the Dockerfile of a folder. The sandbox starts the program again, so `main` has to begin
//! with [`runtime::init_if_child`], and to enter the namespaces that mica works in before there are
//! threads.
//!
//! ```no_run
//! use mica::builder::{self, BuildContext, BuildRequest, Options, Secrets, Services, progress};
//! use mica::cache::{StepCache, content::FileCache};
//! use mica::lint::Checks;
//! use mica::runtime::{self, CancelToken, isolation};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     runtime::init_if_child();
//!     let sandbox = isolation::enter(isolation::Request::Auto)?.sandbox()?;
//!
//!     let store = mica::store::Store::open("/var/lib/mica".as_ref())?;
//!     let cache_dir = store.path().join("cache");
//!     let folder = std::path::Path::new("/home/me/app");
//!     let files = FileCache::open(&cache_dir, folder);
//!     let context = BuildContext::open(folder, Some(&folder.join("Dockerfile")), files)?;
//!
//!     let parsed = mica::parser::parse(&std::fs::read(folder.join("Dockerfile"))?);
//!     assert!(parsed.is_ok(), "{:?}", parsed.diagnostics);
//!     let request = BuildRequest {
//!         dockerfile: parsed.dockerfile,
//!         contexts: vec![context],
//!         options: Options::default(),
//!         epoch: None,
//!         reads_files: false,
//!         checks: Checks::default(),
//!     };
//!     let services = Services {
//!         store: &store,
//!         images: &store,
//!         cache: &StepCache::new(&cache_dir),
//!         shared: None,
//!         sandbox: sandbox.as_ref(),
//!         progress: &progress::Silent,
//!         secrets: &Secrets::default(),
//!         ssh: &mica::ssh::Agents::default(),
//!         cancel: &CancelToken::new()?,
//!         now: &jiff::Timestamp::now,
//!         jobs: 4,
//!         since: None,
//!     };
//!     let built = builder::build(&request, &services)?;
//!     store.tag(&"app:latest".parse()?, &built.image)?;
//!     println!("{}", built.image.id());
//!     Ok(())
//! }
//! ```

pub mod builder;
pub mod cache;
pub mod cli;
pub mod export;
pub mod fetch;
pub mod flat;
pub mod http;
pub mod import;
pub mod layer;
pub mod lint;
pub mod mount;
pub mod oci;
pub mod parser;
pub mod registry;
pub mod runtime;
pub mod shared;
pub mod snapshot;
pub mod ssh;
pub mod store;
