//! `mica build`: from the words of the command line to a [`BuildRequest`].

mod cache;
mod call;
mod contexts;
mod credentials;
pub(super) mod csv;
mod deliver;
pub(super) mod docker;
pub(super) mod extra;
pub(super) mod fields;
pub(super) mod flags;
pub(super) mod input;
mod outputs;

use std::path::PathBuf;
use std::process::ExitCode;

pub(super) use call::{Call, call};
use deliver::{Delivered, Delivery};
use outputs::Output;

use super::args::{BuildArgs, NetworkArg, ProgressArg};
use super::progress::Drawing;
use super::pull::{self, Puller};
use super::signals::unless_cancelled;
use super::{CliError, Context, report, threads, ui};
use crate::builder::progress::{Event, Progress};
use crate::builder::{
    self, Access, BuildError, BuildRequest, BuildResult, NamedContexts, Options, Secrets, Services,
};
use crate::cache::StepCache;
use crate::lint::{self, Checks, Finding};
use crate::oci::{Platform, Reference};
use crate::parser::{self, Parsed};
use crate::registry::Registries;
use crate::runtime::CancelToken;
use crate::ssh::Agents;
use crate::store::Store;

/// Steps wait for disks and networks too: even one core runs this many at once.
const MIN_JOBS: usize = 4;

pub(super) fn build(context: &Context, args: &BuildArgs) -> Result<ExitCode, CliError> {
    let names: Vec<Reference> =
        args.tag.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
    let platform = pull::platform(args.platform.as_deref())?;
    let outputs = outputs::parse(args, &names, &platform)?;
    let cancel = super::signals::cancel_token()?;
    let registries = pull::registries_with(args.tls_verify, args.extra.registries.clone(), &cancel);
    let store = context.open_fetching_store(&registries)?;
    let named = contexts::named(&args.build_context, Some(&store), &platform)?;
    let (secrets, agents) = (credentials::secrets(&args.secret)?, credentials::ssh(&args.ssh)?);
    let mut build_args = flags::build_args(&args.build_arg, args.source_date_epoch.as_deref())?;
    let shared = shared_cache(args, &build_args)?;
    let access = Access { store: &store, secrets: &secrets, cancel: &cancel };
    let keep_git_dir = flags::keeps_git_dir(&build_args);
    let input = input::open(args, &named.others, access, keep_git_dir)?;
    let input::Input { contexts, file, text, time } = input;
    let (parsed, text) = parse(&file, &text)?;
    let checks = checks(&parsed, &build_args, &file, &text)?;
    let request = BuildRequest {
        dockerfile: parsed.dockerfile,
        contexts,
        epoch: flags::epoch(&mut build_args, time)?,
        reads_files: outputs.iter().any(Output::reads_files),
        options: Options {
            inline_cache: shared.inline,
            ..options(args, build_args, named.names, platform)?
        },
        checks,
    };
    let stop = || cancel.is_cancelled();
    let tools = Tools {
        context,
        store: &store,
        registries: &registries,
        secrets: &secrets,
        agents: &agents,
        cancel: &cancel,
        places: shared.places(&store, &registries, &stop),
    };
    let Built { result, findings, said } = tools.build(args, &request, (&file, &text))?;
    if !args.quiet && !matches!(args.progress, ProgressArg::Quiet | ProgressArg::Rawjson) {
        report::findings(&text, &findings);
    }
    let failed = |source| CliError::Build { file, text, source: Box::new(source) };
    let result = result.map_err(failed).map_err(unless_cancelled(&cancel))?;
    let delivery = Delivery {
        store: &store,
        registries: &registries,
        image: &result.image,
        epoch: request.epoch,
        platform: &request.options.platform,
        forgives_immutable: args.extra.forgives_immutable,
        stop: &stop,
    };
    let mut delivered = delivery.deliver(&outputs).map_err(unless_cancelled(&cancel))?;
    delivered.said.splice(0..0, said);
    if let Some(digests) = &args.extra.digests {
        digests.write(&names, delivery.digest(&delivered, digests.compressed)?)?;
    }
    tell(args, &outputs, &result.image.id().to_string(), &delivered)?;
    Ok(ExitCode::SUCCESS)
}

/// The shared caches that were asked for.
fn shared_cache(
    args: &BuildArgs,
    build_args: &builder::BuildArgs,
) -> Result<cache::CacheFlags, CliError> {
    let shared = cache::parse(&args.cache_from, &args.cache_to, build_args)?;
    if shared.inline && args.docker.squashes() {
        let why = "`--squash` leaves no layers that an inline cache could hold";
        return Err(CliError::Usage(why.to_owned()));
    }
    Ok(shared)
}

/// What a build is done with.
struct Tools<'a> {
    context: &'a Context,
    store: &'a Store,
    registries: &'a Registries,
    secrets: &'a Secrets,
    agents: &'a Agents,
    cancel: &'a CancelToken,
    places: cache::Places<'a>,
}

/// What became of a build.
struct Built {
    result: Result<BuildResult, BuildError>,
    findings: Vec<Finding>,
    /// What is to be said of shared caches.
    said: Vec<String>,
}

impl Tools<'_> {
    /// Builds, and draws how it goes. The Dockerfile is given by its name and its text.
    fn build(
        &self,
        args: &BuildArgs,
        request: &BuildRequest,
        (file, text): (&str, &str),
    ) -> Result<Built, CliError> {
        let progress = Drawing::new(args.progress, args.quiet, file, text);
        let sandbox = self.context.sandbox(self.store)?;
        let services = Services {
            store: self.store,
            images: &Puller::new(self.store, self.registries, args.pull),
            cache: &StepCache::new(&self.store.path().join("cache")),
            shared: None,
            sandbox: sandbox.as_ref(),
            progress: &progress,
            secrets: self.secrets,
            ssh: self.agents,
            cancel: self.cancel,
            now: &jiff::Timestamp::now,
            jobs: args.jobs.unwrap_or_else(default_jobs).max(1),
            since: args.extra.cache_since,
        };
        let warn = |text: &str| progress.event(&Event::Warning { vertex: None, text });
        let mut said = Vec::new();
        let result = self.places.during(&warn, &mut said, |shared| {
            builder::build(request, &Services { shared, ..services })
        });
        Ok(Built { result, findings: progress.findings(), said })
    }
}

/// Reads a Dockerfile that has no errors.
fn parse(file: &str, text: &[u8]) -> Result<(Parsed, String), CliError> {
    let parsed = parser::parse(text);
    let text = String::from_utf8_lossy(text).into_owned();
    if parsed.is_ok() {
        return Ok((parsed, text));
    }
    Err(CliError::Dockerfile { file: file.to_owned(), text, found: parsed.diagnostics })
}

fn checks(
    parsed: &Parsed,
    build_args: &builder::BuildArgs,
    file: &str,
    text: &str,
) -> Result<Checks, CliError> {
    let given = build_args.get(lint::OVERRIDE).map(String::as_str);
    Checks::new(parsed, given).map_err(|error| CliError::Dockerfile {
        file: file.to_owned(),
        text: text.to_owned(),
        found: vec![*error],
    })
}

/// Says what has become of the build: in files, and to whoever is there.
fn tell(
    args: &BuildArgs,
    outputs: &[Output],
    id: &str,
    delivered: &Delivered,
) -> Result<(), CliError> {
    let write = |path: &Option<PathBuf>, text: &str| match path {
        Some(path) => std::fs::write(path, text)
            .map_err(|source| CliError::Write { path: path.clone(), source }),
        None => Ok(()),
    };
    write(&args.iidfile, id)?;
    write(&args.metadata_file, &delivered.metadata())?;
    let is_image = outputs.iter().any(Output::is_image);
    if args.quiet {
        // Standard output may hold an archive.
        if is_image && !outputs.iter().any(Output::is_stdout) {
            ui::line(id)?;
        }
    } else if args.progress != ProgressArg::Rawjson {
        if is_image {
            ui::say(&format!("built {id}"));
        }
        delivered.said.iter().for_each(|line| ui::say(line));
    }
    Ok(())
}

fn default_jobs() -> usize {
    threads::at_once().max(MIN_JOBS)
}

fn options(
    args: &BuildArgs,
    build_args: builder::BuildArgs,
    named_contexts: NamedContexts,
    platform: Platform,
) -> Result<Options, CliError> {
    args.docker.check()?;
    Ok(Options {
        target: args.target.clone(),
        build_args,
        labels: args.label.iter().map(|label| flags::pair(label)).collect(),
        named_contexts,
        platform,
        no_cache: args.no_cache,
        no_cache_filter: flags::stages(&args.no_cache_filter),
        network: args.network != NetworkArg::None,
        host_network: args.network == NetworkArg::Host,
        allow: flags::allowed(&args.allow)?,
        hosts: flags::hosts(&args.add_host)?,
        shm_size: args.shm_size.as_deref().map(flags::bytes).transpose()?.flatten(),
        ulimits: args.ulimit.iter().map(|limit| flags::ulimit(limit)).collect::<Result<_, _>>()?,
        inline_cache: false,
        squash: args.docker.squashes(),
    })
}
