//! From Kaniko's flags to those of `mica build`.

use std::path::PathBuf;

use super::contexts;
use super::flags::Given;
use super::registries::{self, wrong};
use crate::cli::CliError;
use crate::cli::args::{BuildArgs, ProgressArg};
use crate::cli::build::extra::{DigestFiles, DigestForm};
use crate::cli::build::{csv, fields};
use crate::oci::Reference;
use crate::parser;

/// The tag of a cache in a repository that Kaniko keeps layers in under other tags.
const CACHE_TAG: &str = "mica";

/// Turns the flags that were given into `build`. Gives what is to be said of them.
pub(super) fn apply(given: &Given, build: &mut BuildArgs) -> Result<Vec<String>, CliError> {
    contexts::apply(given, build)?;
    let mut pushed = names(given, build)?;
    outputs(given, build, !pushed.is_empty())?;
    let mut said = Vec::new();
    if let Some(cache) = cache(given, build, &mut said)? {
        pushed.push(cache);
    }
    build.extra.registries = registries::overrides(given, &pushed)?;
    build.extra.forgives_immutable = given.is("push-ignore-immutable-tag-errors");
    if given.is("single-snapshot") {
        build.docker.squash = Some("true".to_owned());
    }
    if given.is("reproducible") && build.source_date_epoch.is_none() {
        build.source_date_epoch = Some("0".to_owned());
    }
    progress(given, build)?;
    Ok(said)
}

/// The names of `--destination`, which are those of the image. Gives those that it is pushed to.
fn names(given: &Given, build: &mut BuildArgs) -> Result<Vec<Reference>, CliError> {
    let destinations: Vec<String> = given.many("destination").map(str::to_owned).collect();
    let names = destinations.iter().map(|name| name.parse());
    let names: Vec<Reference> = names.collect::<Result<_, _>>()?;
    if !destinations.is_empty() && !build.tag.is_empty() {
        let why = "`--tag` stands beside `--destination`: either `--destination` names what is \
                   pushed, or `--tag` with `--push`";
        return Err(CliError::Usage(why.to_owned()));
    }
    let of_build = ["context", "tag", "output", "push", "load", "check", "call"];
    let is_asked = of_build.iter().any(|id| given.is_set(id));
    if destinations.is_empty() && !given.is("no-push") && !is_asked {
        let why = "nothing says where the image goes: give `--destination`, or `--no-push`";
        return Err(CliError::Usage(why.to_owned()));
    }
    build.tag.extend(destinations);
    Ok(if given.is("no-push") { Vec::new() } else { names })
}

/// Where the image goes, and its digest.
fn outputs(given: &Given, build: &mut BuildArgs, is_pushed: bool) -> Result<(), CliError> {
    let mut shape = Vec::new();
    match given.one("compression") {
        None => {}
        Some(method @ ("gzip" | "zstd")) => shape.push(format!("compression={method}")),
        Some(other) => return Err(wrong("compression", other, "there are gzip and zstd")),
    }
    if let Some(level) = given.one("compression-level").filter(|level| *level != "-1") {
        shape.push(format!("compression-level={level}"));
    }
    let compressed = fields::compressed("--compression", &shape)?;
    match given.one("image-format") {
        None => {}
        Some(format @ ("docker" | "oci")) => {
            shape.push(format!("oci-mediatypes={}", format == "oci"));
        }
        Some(other) => return Err(wrong("image-format", other, "there are docker and oci")),
    }
    let mut output = |kind: &[&str], path: Option<&str>| {
        let dest = path.map(|path| csv::quoted(&format!("dest={path}")));
        let kind = kind.iter().map(|field| (*field).to_owned());
        let fields: Vec<String> = kind.chain(dest).chain(shape.iter().cloned()).collect();
        build.output.push(fields.join(","));
    };
    if let Some(path) = given.one("tar-path") {
        output(&["type=docker"], Some(path));
    }
    if let Some(path) = given.one("oci-layout-path") {
        output(&["type=oci", "tar=false"], Some(path));
    }
    if is_pushed {
        output(&["type=registry"], None);
    }
    let forms = [
        ("digest-file", DigestForm::Bare),
        ("image-name-with-digest-file", DigestForm::Repository),
        ("image-name-tag-with-digest-file", DigestForm::Tag),
    ];
    let mut files = Vec::new();
    for (flag, form) in forms {
        let Some(path) = given.one(flag) else { continue };
        if path.contains("://") {
            return Err(wrong(flag, path, "it is written to files of this container only"));
        }
        if form != DigestForm::Bare && build.tag.is_empty() {
            return Err(wrong(flag, path, "there is no name: give one with `--destination`"));
        }
        files.push((PathBuf::from(path), form));
    }
    build.extra.digests = (!files.is_empty()).then_some(DigestFiles { files, compressed });
    Ok(())
}

/// The cache. Gives its name, if it is in a registry.
fn cache(
    given: &Given,
    build: &mut BuildArgs,
    said: &mut Vec<String>,
) -> Result<Option<Reference>, CliError> {
    let wanted = given.bool("cache");
    if wanted == Some(false)
        || wanted == Some(true) && given.bool("cache-run-layers") == Some(false)
    {
        build.no_cache = true;
        return Ok(None);
    }
    if wanted.is_none() {
        if given.one("cache-repo").is_some() {
            said.push("note: `--cache-repo` changes nothing without `--cache=true`".to_owned());
        }
        return Ok(None);
    }
    if let Some(text) = given.one("cache-ttl") {
        let why = "write it like 336h";
        let ttl = parser::nanoseconds(text).filter(|ttl| *ttl >= 0);
        let ttl = ttl.ok_or_else(|| wrong("cache-ttl", text, why))?;
        if build.source_date_epoch.is_some() || given.is("reproducible") {
            let why = "layers have no time of their own in a reproducible build";
            said.push(format!("note: `--cache-ttl` changes nothing: {why}"));
        } else {
            let ttl = jiff::SignedDuration::from_nanos(ttl);
            build.extra.cache_since = jiff::Timestamp::now().checked_sub(ttl).ok();
        }
    }
    let repository = match (given.one("cache-repo"), build.tag.first()) {
        (Some(repository), _) => repository.to_owned(),
        (None, Some(name)) => {
            let name: Reference = name.parse()?;
            format!("{}/{}/cache", name.domain(), name.path())
        }
        (None, None) => {
            let why = "`--cache=true` needs `--cache-repo` where there is no `--destination`";
            return Err(CliError::Usage(why.to_owned()));
        }
    };
    let exports = !given.is("no-push-cache");
    if let Some(folder) = repository.strip_prefix("oci:") {
        let field = |key: &str| csv::quoted(&format!("{key}={folder}"));
        build.cache_from.push(format!("type=local,{}", field("src")));
        if exports {
            build.cache_to.push(format!("type=local,{},mode=max", field("dest")));
        }
        return Ok(None);
    }
    let is_tagged = repository.rsplit('/').next().is_some_and(|last| last.contains(':'));
    let name = if is_tagged { repository } else { format!("{repository}:{CACHE_TAG}") };
    let reference: Reference = name.parse()?;
    build.cache_from.push(format!("type=registry,ref={reference}"));
    if exports {
        build.cache_to.push(format!("type=registry,ref={reference},mode=max"));
    }
    Ok(Some(reference))
}

/// How much is shown, and in which form. `--progress` counts more.
fn progress(given: &Given, build: &mut BuildArgs) -> Result<(), CliError> {
    let format = match given.one("log-format") {
        None => None,
        Some("text") => Some(ProgressArg::Plain),
        Some("color") => Some(ProgressArg::Auto),
        Some("json") => Some(ProgressArg::Rawjson),
        Some(other) => return Err(wrong("log-format", other, "there are text, color and json")),
    };
    let is_quiet = match given.one("verbosity") {
        None | Some("warn" | "warning" | "info" | "debug" | "trace") => false,
        Some("panic" | "fatal" | "error") => true,
        Some(other) => {
            let why = "there are panic, fatal, error, warn, info, debug and trace";
            return Err(wrong("verbosity", other, why));
        }
    };
    let format = if is_quiet { Some(ProgressArg::Quiet) } else { format };
    if !given.is_set("progress")
        && let Some(format) = format
    {
        build.progress = format;
    }
    Ok(())
}
