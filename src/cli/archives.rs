//! `save`, `load`, `import`: images in and out of archives.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::Path;

use super::args::{ArchiveFormat, ImportArgs, LoadArgs, SaveArgs};
use super::{CliError, Context, ui};
use crate::builder;
use crate::export::{self, Options};
use crate::import;
use crate::oci::Reference;
use crate::runtime::CancelToken;
use crate::store::Image;

pub(super) fn save(context: &Context, args: &SaveArgs) -> Result<(), CliError> {
    let cancel = CancelToken::new().map_err(CliError::Stdout)?;
    let registries = super::pull::registries(None, &cancel);
    let store = context.open_fetching_store(&registries)?;
    let mut images: Vec<(Vec<Reference>, Image)> = Vec::new();
    for text in &args.images {
        let named = store.find(text)?;
        // An image that was asked for by its ID is saved without names, as Docker does.
        let name = text.parse().ok().filter(|name: &Reference| name.to_string() == named.name);
        match images.iter_mut().find(|(_, image)| image.id() == named.id) {
            Some((names, _)) => names.extend(name),
            None => images.push((name.into_iter().collect(), store.image(&named.manifest)?)),
        }
    }
    let options = match args.format {
        ArchiveFormat::DockerArchive => Options::docker(),
        ArchiveFormat::OciArchive => Options::oci(),
    };
    match args.output.as_deref() {
        Some(path) if path != Path::new("-") => {
            export::write_file(path, |out| export::save(&store, &images, &options, out).map(drop))?;
        }
        _ if io::stdout().is_terminal() => return Err(CliError::ArchiveToTerminal),
        _ => {
            let mut out = io::BufWriter::with_capacity(1 << 20, io::stdout().lock());
            export::save(&store, &images, &options, &mut out)?;
            io::Write::flush(&mut out).map_err(CliError::Stdout)?;
        }
    }
    Ok(())
}

pub(super) fn load(context: &Context, args: &LoadArgs) -> Result<(), CliError> {
    let store = context.open_store()?;
    let loaded = import::load(&store, open_input(args.input.as_deref())?)?;
    for image in loaded {
        for name in &image.names {
            let label = if args.quiet { "" } else { "Loaded image: " };
            ui::line(&format!("{label}{}", name.familiar()))?;
        }
        if image.names.is_empty() {
            let label = if args.quiet { "" } else { "Loaded image ID: " };
            ui::line(&format!("{label}{}", image.id))?;
        }
    }
    Ok(())
}

pub(super) fn import(context: &Context, args: &ImportArgs) -> Result<(), CliError> {
    let store = context.open_store()?;
    let name: Option<Reference> = args.name.as_deref().map(str::parse).transpose()?;
    let input = open_input(Some(&args.file))?;
    let config = builder::config_of_changes(&args.change).map_err(CliError::Change)?;
    let message = args.message.clone().unwrap_or_else(|| {
        format!("imported from {}", ui::plain(&args.file.display().to_string()))
    });
    let created = jiff::Timestamp::now().to_string();
    let image = import::root_fs(&store, input, import::RootFs { name, message, config, created })?;
    ui::line(&image.id().to_string())
}

/// A file, or standard input for none and for `-`.
fn open_input(path: Option<&Path>) -> Result<File, CliError> {
    let failed = |path: &Path, source| CliError::Read { path: path.into(), source };
    match path {
        Some(path) if path != Path::new("-") => File::open(path).map_err(|err| failed(path, err)),
        _ if io::stdin().is_terminal() => Err(CliError::InputFromTerminal),
        _ => {
            let input = io::stdin().as_fd().try_clone_to_owned();
            input.map(File::from).map_err(|err| failed(Path::new("standard input"), err))
        }
    }
}
