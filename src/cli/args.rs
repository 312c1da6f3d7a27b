//! The command line as typed. The words are Docker's wherever Docker has one.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::runtime::isolation::Request;

/// Builds OCI images from Dockerfiles. No daemon, no root needed.
#[derive(Debug, Parser)]
#[command(name = "mica", version, max_term_width = 100, disable_help_subcommand = true)]
pub(super) struct Cli {
    /// Folder of images and build cache [default: /var/lib/mica for root, else
    /// ~/.local/share/mica]
    #[arg(long, global = true, env = "MICA_ROOT", value_name = "DIR", hide_env_values = true)]
    pub root: Option<PathBuf>,
    /// How mica is kept apart from the host; `mica info` shows what works here
    #[arg(
        long,
        global = true,
        env = "MICA_ISOLATION",
        value_name = "MODE",
        value_enum,
        default_value = "auto",
        hide_default_value = true,
        hide_env_values = true
    )]
    pub isolation: IsolationArg,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum IsolationArg {
    /// The strongest that works
    #[value(alias = "default")]
    Auto,
    /// Root's namespaces
    Root,
    /// A user namespace
    Userns,
    /// A chroot on a copy of the files
    Chroot,
}

impl From<IsolationArg> for Request {
    fn from(arg: IsolationArg) -> Self {
        match arg {
            IsolationArg::Auto => Self::Auto,
            IsolationArg::Root => Self::Root,
            IsolationArg::Userns => Self::UserNamespace,
            IsolationArg::Chroot => Self::Chroot,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Build an image from a Dockerfile
    #[command(args_override_self = true)]
    Build(Box<BuildArgs>),
    /// Run a command in a new container of an image, in the foreground
    Run(Box<RunArgs>),
    /// List images
    Images(ImagesArgs),
    /// Give an image one more name
    Tag(TagArgs),
    /// Remove names of images, and images that have no name left
    Rmi(RmiArgs),
    /// Show an image's config and digests as JSON
    Inspect(ImageNames),
    /// Show how an image was made
    History(HistoryArgs),
    /// Get an image from its registry
    Pull(PullArgs),
    /// Write images to an archive
    Save(SaveArgs),
    /// Read images from an archive
    Load(LoadArgs),
    /// Make an image of the tar of a root file system
    Import(ImportArgs),
    /// Bring images into a registry
    Push(PushArgs),
    /// Find images in a registry
    Search(SearchArgs),
    /// Prove to a registry who you are, and keep what does it
    Login(LoginArgs),
    /// Forget the credentials for a registry
    Logout(LogoutArgs),
    /// Check Dockerfiles, and mend what can be mended
    Check(LintArgs),
    /// Show how mica works on this machine
    Info(InfoArgs),
    /// Show the version
    Version,
    /// Look after the store
    #[command(subcommand)]
    System(SystemCommand),
    /// Manage images
    #[command(subcommand)]
    Image(ImageCommand),
}

/// `docker image …`, for those whose fingers know it.
#[derive(Debug, Subcommand)]
pub(super) enum ImageCommand {
    /// List images
    #[command(alias = "list")]
    Ls(ImagesArgs),
    /// Remove names of images, and images that have no name left
    #[command(alias = "remove")]
    Rm(RmiArgs),
    /// Give an image one more name
    Tag(TagArgs),
    /// Show an image's config and digests as JSON
    Inspect(ImageNames),
    /// Show how an image was made
    History(HistoryArgs),
    /// Get an image from its registry
    Pull(PullArgs),
    /// Write images to an archive
    Save(SaveArgs),
    /// Read images from an archive
    Load(LoadArgs),
    /// Make an image of the tar of a root file system
    Import(ImportArgs),
    /// Bring images into a registry
    Push(PushArgs),
}

#[derive(Debug, Subcommand)]
pub(super) enum SystemCommand {
    /// Verify everything in the store
    Check(CheckArgs),
    /// Remove the build cache, images without a name, and what no other image needs
    Prune,
}

#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    /// Folder that COPY and ADD read from, git repository, URL of a tar or a Dockerfile, or `-` for
    /// one on standard input
    #[arg(value_name = "PATH|URL|-")]
    pub context: PathBuf,
    /// Name of the image; may be given more than once
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub tag: Vec<String>,
    /// Dockerfile, by path or URL, or `-` for standard input [default: PATH/Dockerfile]
    #[arg(short, long, value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// Set an ARG; without a value it is taken from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub build_arg: Vec<String>,
    /// Another folder, git repository, URL or image (`docker-image://NAME`, `oci-layout://PATH[:TAG]`)
    /// that stands for a stage or an image in the Dockerfile
    #[arg(long, value_name = "NAME=VALUE")]
    pub build_context: Vec<String>,
    /// Stage to build [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Platform of the image
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Ask registries for base images: always, where the store lacks them [default], or never
    #[arg(long, value_enum, default_value = "missing", default_missing_value = "always",
        num_args = 0..=1, require_equals = true, value_name = "WHEN", hide_default_value = true,
        hide_possible_values = true)]
    pub pull: PullPolicy,
    /// Verify the certificates of registries; `false` also allows plain HTTP
    #[arg(long, value_name = "BOOL", require_equals = true, num_args = 0..=1,
        default_missing_value = "true")]
    pub tls_verify: Option<bool>,
    /// Run every step anew
    #[arg(long)]
    pub no_cache: bool,
    /// Run the steps of these stages anew
    #[arg(long, value_name = "STAGE[,STAGE]", conflicts_with = "no_cache")]
    pub no_cache_filter: Vec<String>,
    /// Use the steps that others have built: NAME, or type=registry,ref=NAME, or type=local,src=DIR
    #[arg(long, value_name = "CACHE")]
    pub cache_from: Vec<String>,
    /// Share the steps of this build: type=registry,ref=NAME or type=local,dest=DIR, with mode=min|max; or type=inline
    #[arg(long, value_name = "CACHE")]
    pub cache_to: Vec<String>,
    /// Add a label to the image
    #[arg(long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,
    /// Network of RUN steps
    #[arg(long, value_enum, default_value = "default", value_name = "MODE")]
    pub network: NetworkArg,
    /// Let RUN steps use what the Dockerfile asks for
    #[arg(long, value_name = "ENTITLEMENT")]
    pub allow: Vec<String>,
    /// Secret for `RUN --mount=type=secret`
    #[arg(long, value_name = "id=ID[,src=PATH|,env=NAME]")]
    pub secret: Vec<String>,
    /// Agent for `RUN --mount=type=ssh`: its socket [default: `$SSH_AUTH_SOCK`], or files with keys
    #[arg(long, value_name = "default|ID[=SOCKET|KEY[,KEY]]")]
    pub ssh: Vec<String>,
    /// Host name for RUN steps
    #[arg(long, value_name = "HOST:IP")]
    pub add_host: Vec<String>,
    /// Size of /dev/shm in RUN steps
    #[arg(long, value_name = "BYTES")]
    pub shm_size: Option<String>,
    /// Limit of RUN steps
    #[arg(long, value_name = "TYPE=SOFT[:HARD]")]
    pub ulimit: Vec<String>,
    /// No time in the image is later than this, in seconds since 1970, or than that of the `context`
    #[arg(long, env = "SOURCE_DATE_EPOCH", value_name = "SECONDS", hide_env_values = true)]
    pub source_date_epoch: Option<String>,
    /// How progress is shown
    #[arg(
        long,
        value_enum,
        default_value = "auto",
        env = "BUILDKIT_PROGRESS",
        value_name = "TYPE"
    )]
    pub progress: ProgressArg,
    /// Show nothing but the image's ID
    #[arg(short, long)]
    pub quiet: bool,
    /// How many steps run at once
    #[arg(short, long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Check the Dockerfile and build nothing
    #[arg(long)]
    pub check: bool,
    /// Tell about the build instead of doing it: check, outline, targets, subrequests.describe
    #[arg(long, value_name = "METHOD[,format=text|json]", default_value = "build")]
    pub call: String,
    #[command(flatten)]
    pub docker: super::build::docker::DockerFlags,
    /// What only other tools' flags ask for.
    #[arg(skip)]
    pub extra: super::build::extra::Extra,
    /// Write the image's ID to a file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// Where the result goes instead of the store: a folder for its files, `-` for a tar of them, or
    /// type=local|tar|oci|docker|image|registry|cacheonly,dest=PATH,…; may be given more than once
    #[arg(short, long, value_name = "DEST", allow_hyphen_values = true)]
    pub output: Vec<String>,
    /// Keep the image in the store, whatever --output says
    #[arg(long)]
    pub load: bool,
    /// Push the image to the registry of its names
    #[arg(long)]
    pub push: bool,
    /// Add an annotation to the image's manifest, or to what points to it (manifest-descriptor:)
    #[arg(long, value_name = "[LEVEL:]NAME=VALUE")]
    pub annotation: Vec<String>,
    /// Write digests and names of the image to a file, as JSON
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum NetworkArg {
    /// The host's.
    Default,
    /// The host's.
    Host,
    /// None but loopback.
    None,
}

/// When a registry is asked for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum PullPolicy {
    /// Whether or not the store has it.
    #[value(aliases = ["true", "1"])]
    Always,
    /// Where the store lacks it.
    #[value(aliases = ["false", "0"])]
    Missing,
    /// Not at all.
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ProgressArg {
    /// A live view on a terminal, else plain.
    Auto,
    /// A live view.
    Tty,
    /// Lines.
    Plain,
    /// A JSON object for each event.
    Rawjson,
    /// Nothing.
    #[value(alias = "none")]
    Quiet,
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Image to run
    pub image: String,
    /// Command and arguments in place of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
    /// Ask the image's registry for it: always, where the store lacks it, or never
    #[arg(long, value_enum, default_value = "missing", value_name = "WHEN")]
    pub pull: PullPolicy,
    /// Platform of the image that is pulled
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Accepted for Docker's sake: a container never outlives its command
    #[arg(long)]
    pub rm: bool,
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Set a variable; without a value it is taken from the environment
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Mount a folder or file of the host
    #[arg(short, long, value_name = "HOST:CONTAINER[:ro]")]
    pub volume: Vec<String>,
    /// Folder that the command starts in
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// User and group, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Network
    #[arg(long, value_enum, default_value = "default", value_name = "MODE")]
    pub network: NetworkArg,
    /// Program in place of the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Host name of the container
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct ImagesArgs {
    /// Show only this repository, or this image
    pub name: Option<String>,
    /// Show only IDs
    #[arg(short, long)]
    pub quiet: bool,
    /// Show whole IDs
    #[arg(long)]
    pub no_trunc: bool,
    /// Show a table or JSON lines
    #[arg(long, value_enum, default_value = "table")]
    pub format: ListFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ListFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, Args)]
pub(super) struct TagArgs {
    /// Name or ID of an image
    pub source: String,
    /// New name
    pub target: String,
}

#[derive(Debug, Args)]
pub(super) struct RmiArgs {
    /// Names or IDs
    #[arg(required = true)]
    pub images: Vec<String>,
    /// Remove an image by its ID although it has several names
    #[arg(short, long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub(super) struct ImageNames {
    /// Names or IDs
    #[arg(required = true)]
    pub images: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    /// Name or ID
    pub image: String,
    /// Show whole instructions
    #[arg(long)]
    pub no_trunc: bool,
    /// Show a table or JSON lines
    #[arg(long, value_enum, default_value = "table")]
    pub format: ListFormat,
}

#[derive(Debug, Args)]
pub(super) struct PullArgs {
    /// Image, as `NAME[:TAG|@DIGEST]`
    pub name: String,
    /// Platform of the image, where the name stands for several
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Print only the image's full name
    #[arg(short, long)]
    pub quiet: bool,
    /// Verify the certificates of the registry; `false` also allows plain HTTP
    #[arg(long, value_name = "BOOL", require_equals = true, num_args = 0..=1,
        default_missing_value = "true")]
    pub tls_verify: Option<bool>,
}

#[derive(Debug, Args)]
pub(super) struct SaveArgs {
    /// Names or IDs
    #[arg(required = true)]
    pub images: Vec<String>,
    /// File to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Kind of archive
    #[arg(long, value_enum, default_value = "docker-archive")]
    pub format: ArchiveFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ArchiveFormat {
    /// What `docker save` writes: an OCI layout with Docker's manifest.json; layers as they are.
    DockerArchive,
    /// An OCI layout as a tar; layers compressed.
    OciArchive,
}

#[derive(Debug, Args)]
pub(super) struct LoadArgs {
    /// Archive, compressed or not [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Show only names
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// Tar of a root file system, compressed or not; `-` for standard input
    pub file: PathBuf,
    /// Name of the image
    pub name: Option<String>,
    /// Apply a Dockerfile instruction (CMD, ENV, …) to the image's config
    #[arg(short, long, value_name = "INSTRUCTION", action = ArgAction::Append)]
    pub change: Vec<String>,
    /// Text for the image's history
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct PushArgs {
    /// Names of images; the registry is part of a name
    #[arg(required = true, value_name = "NAME[:TAG]")]
    pub names: Vec<String>,
    /// Push all tags of the repository
    #[arg(short, long)]
    pub all_tags: bool,
    /// Show nothing but names
    #[arg(short, long)]
    pub quiet: bool,
    /// How layers are compressed that are not yet
    #[arg(long, value_enum, default_value = "gzip")]
    pub compression: CompressionArg,
    /// How hard they are compressed [default: 1 for gzip, 3 for zstd]
    #[arg(long, value_name = "N")]
    pub compression_level: Option<u32>,
    /// Compress layers anew that are compressed in another way
    #[arg(long)]
    pub force_compression: bool,
    /// Verify the certificates of the registry; `false` also allows plain HTTP
    #[arg(long, value_name = "BOOL", require_equals = true, num_args = 0..=1,
        default_missing_value = "true")]
    pub tls_verify: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum CompressionArg {
    /// What every registry and runtime reads.
    Gzip,
    /// Smaller and faster.
    Zstd,
    /// None.
    Uncompressed,
}

#[derive(Debug, Args)]
pub(super) struct SearchArgs {
    /// Part of a name; with a registry in front, that is searched in place of Docker Hub
    #[arg(value_name = "[REGISTRY/]TERM")]
    pub term: String,
    /// How many are shown at most, up to 100
    #[arg(long, value_name = "N", default_value_t = 25)]
    pub limit: usize,
    /// Show only those: stars=N, is-official=BOOL
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
    /// Show whole descriptions
    #[arg(long)]
    pub no_trunc: bool,
    /// Show a table or JSON lines
    #[arg(long, value_enum, default_value = "table")]
    pub format: ListFormat,
    /// Verify the certificates of the registry; `false` also allows plain HTTP
    #[arg(long, value_name = "BOOL", require_equals = true, num_args = 0..=1,
        default_missing_value = "true")]
    pub tls_verify: Option<bool>,
}

#[derive(Debug, Args)]
pub(super) struct LoginArgs {
    /// Registry [default: Docker Hub]
    pub server: Option<String>,
    /// User name
    #[arg(short, long, value_name = "NAME")]
    pub username: Option<String>,
    /// Password or access token; every process of this machine can see it
    #[arg(short, long, conflicts_with = "password_stdin")]
    pub password: Option<String>,
    /// Take the password from standard input
    #[arg(long, requires = "username")]
    pub password_stdin: bool,
    /// Verify the certificates of the registry; `false` also allows plain HTTP
    #[arg(long, value_name = "BOOL", require_equals = true, num_args = 0..=1,
        default_missing_value = "true")]
    pub tls_verify: Option<bool>,
}

#[derive(Debug, Args)]
pub(super) struct LogoutArgs {
    /// Registry [default: Docker Hub]
    pub server: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct LintArgs {
    /// Folder of the Dockerfile, or the Dockerfile itself
    #[arg(value_name = "PATH", default_value = ".")]
    pub path: PathBuf,
    /// Dockerfile; may be given more than once
    #[arg(short, long, value_name = "FILE")]
    pub file: Vec<PathBuf>,
    /// Stage to check, with those it needs [default: all]
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Set an ARG; without a value it is taken from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub build_arg: Vec<String>,
    /// Mend what can be mended without a change of what is built
    #[arg(long)]
    pub fix: bool,
    /// Show text, or JSON as `docker build --call=check,format=json` does, or SARIF 2.1.0
    #[arg(long, value_enum, default_value = "text")]
    pub format: CheckFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum CheckFormat {
    /// For people.
    Text,
    /// For programs that know BuildKit.
    Json,
    /// For programs that know other checkers.
    Sarif,
}

#[derive(Debug, Args)]
pub(super) struct InfoArgs {
    /// Show a table or JSON
    #[arg(long, value_enum, default_value = "table")]
    pub format: ListFormat,
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Remove what is broken, so that the next build makes it anew
    #[arg(long)]
    pub repair: bool,
}
