//! [`Graph`]: what has to be done, and to what. Pure data; nothing here touches a disk.
//!
//! Only what makes files is a vertex. What only changes the image config (ENV, LABEL, CMD, …) is
//! folded into the config and into the environment of the RUN steps behind it.

use std::net::IpAddr;

use crate::cache::KeyHasher;
use crate::fetch::GitSource;
use crate::http::Url;
use crate::oci::Digest;
use crate::parser::Span;
use crate::store::Image;

/// A vertex of one [`Graph`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VertexId(usize);

impl VertexId {
    /// Its number: vertices are numbered from 0, inputs before those that need them.
    pub fn index(self) -> usize {
        self.0
    }
}

/// The vertices of a build, inputs before those that need them.
#[derive(Debug, Default)]
pub struct Graph {
    vertices: Vec<Vertex>,
}

/// One step of a build: an operation and the file system that it starts from.
#[derive(Debug)]
pub struct Vertex {
    /// What is done.
    pub op: Op,
    /// The file system that it is done to; `None` for an empty one.
    pub root: Option<VertexId>,
    /// As people know it: `[build 2/5] RUN make`.
    pub name: String,
    /// The instruction; `None` for what no instruction of the Dockerfile says.
    pub span: Option<Span>,
    /// Whether it is done even where the cache has its result.
    pub no_cache: bool,
}

/// What a vertex does.
#[derive(Debug)]
pub enum Op {
    /// Provides the files of a stored image.
    Image(Box<Image>),
    /// Provides the file that a URL gives.
    Http(HttpOp),
    /// Provides the files of a git repository.
    Git(Box<GitSource>),
    /// Runs a command.
    Run(RunOp),
    /// Copies files, for COPY and ADD.
    Copy(CopyOp),
    /// Makes a folder, for WORKDIR.
    MakeDir(MakeDirOp),
}

/// Where files come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tree {
    /// A build context, by its number in the request.
    Context(usize),
    /// The result of a vertex.
    Vertex(VertexId),
    /// Nothing: an empty file system.
    Scratch,
}

/// One tree that an operation reads, and what of it.
#[derive(Debug)]
pub(super) struct Reads<'a> {
    pub(super) tree: Tree,
    pub(super) what: What<'a>,
}

/// What is read of a tree.
#[derive(Debug)]
pub(super) enum What<'a> {
    /// What a source of a COPY matches.
    Copied { item: &'a CopyItem, excludes: &'a [String] },
    /// All below a path.
    Path(&'a str),
}

/// A file that a URL gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpOp {
    /// Where it is.
    pub url: Url,
    /// What it has to be.
    pub checksum: Option<Digest>,
    /// Its name in the result, one component.
    pub name: String,
}

/// A command in a sandbox.
#[derive(Debug, Clone)]
pub struct RunOp {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// `NAME=value`: the image's environment and the ARGs in scope.
    pub env: Vec<String>,
    /// `NAME=value` that are handed over and not part of the key: proxies that no ARG declares.
    pub hidden_env: Vec<String>,
    /// The folder that it starts in.
    pub cwd: String,
    /// `user[:group]`, by name or number; empty for root.
    pub user: String,
    /// Whether the step has a network.
    pub network: bool,
    /// Whether it runs with all privileges.
    pub insecure: bool,
    /// Host names beside those that `/etc/hosts` always has.
    pub hosts: Vec<(String, IpAddr)>,
    /// The host's name.
    pub hostname: String,
    /// What is mounted, in order.
    pub mounts: Vec<RunMount>,
    /// A file that is there while the step runs, for a here-document with a `#!` line: its path and
    /// its text.
    pub script: Option<(String, String)>,
    /// Bytes of `/dev/shm`.
    pub shm_size: Option<u64>,
    /// Name, soft and hard limit.
    pub ulimits: Vec<(String, u64, u64)>,
}

/// One `RUN --mount`.
#[derive(Debug, Clone)]
pub struct RunMount {
    /// An absolute path in the root file system.
    pub target: String,
    /// What is there while the step runs.
    pub kind: MountKind,
}

/// What a mount shows.
#[derive(Debug, Clone)]
pub enum MountKind {
    /// Files of a context or a stage; what is written there is thrown away.
    Bind {
        /// Where they come from.
        from: Tree,
        /// The path there.
        source: String,
        /// Whether the step may write.
        writable: bool,
    },
    /// A folder that later steps find as this one leaves it.
    Cache {
        /// Its name, whose hash is its folder.
        id: String,
        /// Who may use it at the same time.
        sharing: Sharing,
        /// What it holds at first.
        from: Tree,
        /// The path there; without anything to fill it with, that in the folder.
        source: String,
        /// Whether the step may write.
        writable: bool,
        /// The folder's mode, owner and group when it is made.
        owner: (u32, u32, u32),
    },
    /// An empty folder in memory.
    Tmpfs {
        /// At most so many bytes; `None` for the kernel's default.
        size: Option<u64>,
        /// Whether the step may write.
        writable: bool,
    },
    /// A secret, as a file or as a variable.
    Secret {
        /// Its name on the command line.
        id: String,
        /// Whether it must have been given.
        required: bool,
        /// The variable that holds it.
        env: Option<String>,
        /// Whether it is a file (too).
        file: bool,
        /// The file's mode, owner and group.
        owner: (u32, u32, u32),
    },
    /// The socket of an ssh agent.
    Ssh {
        /// Its name on the command line.
        id: String,
        /// Whether it must have been given.
        required: bool,
        /// The socket's mode, owner and group.
        owner: (u32, u32, u32),
    },
}

/// Who may use a cache mount at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Everybody.
    Shared,
    /// Nobody: whoever comes second gets another folder.
    Private,
    /// Nobody: whoever comes second waits.
    Locked,
}

/// Files that are copied to one place.
#[derive(Debug, Clone)]
pub struct CopyOp {
    /// What is copied, in order.
    pub items: Vec<CopyItem>,
    /// An absolute path; with a slash at its end it is a folder.
    pub destination: String,
    /// `user[:group]`, by name or number, of `--chown`.
    pub owner: Option<String>,
    /// The mode of `--chmod`, octal or symbolic.
    pub mode: Option<Mode>,
    /// What the sources do not include, as patterns of a `.dockerignore`.
    pub excludes: Vec<String>,
}

/// One source of a [`CopyOp`].
#[derive(Debug, Clone)]
pub enum CopyItem {
    /// What a pattern matches in a tree.
    Files {
        /// Where.
        from: Tree,
        /// An absolute path in it, with wildcards.
        pattern: String,
        /// With `--parents`: the folder that the pattern is split at, and the pattern below it, whose
        /// folders are kept below the destination.
        pivot: Option<(String, String)>,
        /// Whether archives are unpacked (ADD).
        unpack: bool,
    },
    /// A file whose text stands in the Dockerfile.
    Inline {
        /// Its name.
        name: String,
        /// Its text.
        text: String,
    },
}

/// The value of `--chmod`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// These permission bits.
    Octal(u32),
    /// Changes in the language of chmod(1).
    Symbolic(String),
}

/// A folder and those that lead to it.
#[derive(Debug, Clone)]
pub struct MakeDirOp {
    /// An absolute path.
    pub path: String,
    /// Whom what is made belongs to, as `user[:group]`; empty for root.
    pub user: String,
}

impl Graph {
    /// Adds a vertex whose inputs are there already.
    pub fn add(&mut self, vertex: Vertex) -> VertexId {
        self.vertices.push(vertex);
        VertexId(self.vertices.len() - 1)
    }

    /// The vertex that does what `is_it` looks for, if there is one already.
    pub fn find(&self, is_it: impl Fn(&Op) -> bool) -> Option<VertexId> {
        self.vertices.iter().position(|vertex| is_it(&vertex.op)).map(VertexId)
    }

    /// A vertex.
    pub fn get(&self, id: VertexId) -> &Vertex {
        &self.vertices[id.0]
    }

    /// Whether a vertex only provides the files of a stored image.
    pub fn is_image(&self, id: VertexId) -> bool {
        matches!(self.get(id).op, Op::Image(_))
    }

    /// All vertices that `target` needs and `target` itself, inputs first.
    pub fn reachable(&self, target: VertexId) -> Vec<VertexId> {
        let mut needed = vec![false; self.vertices.len()];
        needed[target.0] = true;
        // Inputs have smaller numbers, so one pass from the end sees everybody's needs first.
        for index in (0..=target.0).rev() {
            if needed[index] {
                for input in self.vertices[index].inputs() {
                    needed[input.0] = true;
                }
            }
        }
        (0..=target.0).filter(|index| needed[*index]).map(VertexId).collect()
    }
}

impl Vertex {
    /// The vertices whose results it reads.
    pub fn inputs(&self) -> impl Iterator<Item = VertexId> {
        let sources = self.op.reads().into_iter().filter_map(|reads| match reads.tree {
            Tree::Vertex(id) => Some(id),
            Tree::Context(_) | Tree::Scratch => None,
        });
        self.root.into_iter().chain(sources)
    }
}

impl Op {
    /// What it reads of trees, in order, beside the file system that it is done to.
    pub(super) fn reads(&self) -> Vec<Reads<'_>> {
        match self {
            Self::Image(_) | Self::Http(_) | Self::Git(_) | Self::MakeDir(_) => Vec::new(),
            Self::Copy(copy) => copy
                .items
                .iter()
                .filter_map(|item| match item {
                    CopyItem::Files { from, .. } => Some(Reads {
                        tree: *from,
                        what: What::Copied { item, excludes: &copy.excludes },
                    }),
                    CopyItem::Inline { .. } => None,
                })
                .collect(),
            Self::Run(run) => run
                .mounts
                .iter()
                .filter_map(|mount| match &mount.kind {
                    MountKind::Bind { from, source, .. }
                    | MountKind::Cache { from, source, .. } => {
                        Some(Reads { tree: *from, what: What::Path(source) })
                    }
                    MountKind::Tmpfs { .. } | MountKind::Secret { .. } | MountKind::Ssh { .. } => {
                        None
                    }
                })
                .collect(),
        }
    }

    /// Adds to `key` all of the operation that its result depends on, but for its inputs. The
    /// table in [`crate::cache`] says what that is.
    pub fn encode(&self, key: &mut KeyHasher) {
        match self {
            Self::Image(image) => {
                key.list(
                    "diff ids",
                    image.config.rootfs.diff_ids.iter().map(|id| *id.0.as_bytes()),
                );
            }
            // The bytes count and not the URL; the commit, and not the name that led to it.
            Self::Http(http) => key.field("name", &http.name),
            Self::Git(git) => {
                key.list("folder", git.folder().iter().map(|name| name.as_encoded_bytes()));
                key.number("submodules", git.submodules.into());
                // What `.git` says of where it came from.
                key.list("git dir", git.keep_git_dir.then_some(&git.url.remote));
            }
            Self::Run(run) => run.encode(key),
            Self::Copy(copy) => copy.encode(key),
            Self::MakeDir(dir) => {
                key.field("path", &dir.path);
                key.field("user", &dir.user);
            }
        }
    }

    /// What kind of operation it is, for keys.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Image(_) => "image",
            Self::Http(_) => "http",
            Self::Git(_) => "git",
            Self::Run(_) => "run",
            Self::Copy(_) => "copy",
            Self::MakeDir(_) => "mkdir",
        }
    }
}

impl RunMount {
    /// Whether it is the socket of an agent.
    pub(super) fn is_ssh(&self) -> bool {
        matches!(self.kind, MountKind::Ssh { .. })
    }
}

impl RunOp {
    fn encode(&self, key: &mut KeyHasher) {
        key.list("argv", &self.argv);
        key.list("env", &self.env);
        key.field("cwd", &self.cwd);
        key.field("user", &self.user);
        key.number("network", self.network.into());
        key.list("hosts", self.hosts.iter().map(|(name, _)| name));
        key.field("hostname", &self.hostname);
        key.number("insecure", self.insecure.into());
        if let Some((path, text)) = &self.script {
            key.field("script", path);
            key.field("text", text);
        }
        key.number("shm", self.shm_size.unwrap_or_default());
        for (name, soft, hard) in &self.ulimits {
            key.field("ulimit", name);
            key.number("soft", *soft);
            key.number("hard", *hard);
        }
        for mount in &self.mounts {
            key.field("mount", &mount.target);
            mount.kind.encode(key);
        }
    }
}

impl MountKind {
    fn encode(&self, key: &mut KeyHasher) {
        match self {
            Self::Bind { from: _, source, writable } => {
                key.field("bind", source);
                key.number("writable", (*writable).into());
            }
            Self::Cache { id, sharing, source, writable, owner, from: _ } => {
                key.field("cache", id);
                key.number("sharing", *sharing as u64);
                key.field("source", source);
                key.number("writable", (*writable).into());
                encode_owner(*owner, key);
            }
            Self::Tmpfs { size, writable } => {
                key.number("tmpfs", size.unwrap_or_default());
                key.number("writable", (*writable).into());
            }
            Self::Secret { id, required, env, file, owner } => {
                key.field("secret", id);
                key.number("required", (*required).into());
                key.field("env", env.as_deref().unwrap_or_default());
                key.number("file", (*file).into());
                encode_owner(*owner, key);
            }
            Self::Ssh { id, required, owner } => {
                key.field("ssh", id);
                key.number("required", (*required).into());
                encode_owner(*owner, key);
            }
        }
    }
}

fn encode_owner((mode, uid, gid): (u32, u32, u32), key: &mut KeyHasher) {
    key.number("mode", mode.into());
    key.number("uid", uid.into());
    key.number("gid", gid.into());
}

impl CopyOp {
    fn encode(&self, key: &mut KeyHasher) {
        key.field("destination", &self.destination);
        key.list("owner", &self.owner);
        match &self.mode {
            None => {}
            Some(Mode::Octal(mode)) => key.number("mode", (*mode).into()),
            Some(Mode::Symbolic(mode)) => key.field("mode", mode),
        }
        key.list("excludes", &self.excludes);
        for item in &self.items {
            match item {
                CopyItem::Files { from: _, pattern, pivot, unpack } => {
                    key.field("files", pattern);
                    key.list("pivot", pivot.iter().flat_map(|(folder, rest)| [folder, rest]));
                    key.number("unpack", (*unpack).into());
                }
                CopyItem::Inline { name, text } => {
                    key.field("inline", name);
                    key.field("text", text);
                }
            }
        }
    }
}
