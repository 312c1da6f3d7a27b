//! The fields of a flag like `type=registry,ref=app:cache`, asked for one by one.

use std::path::{Path, PathBuf};

use super::outputs::{Compressed, Destination};
use crate::cli::CliError;
use crate::layer::Compression;
use crate::parser;

/// The fields of one flag that nobody has asked for yet.
pub(super) struct Fields<'a> {
    flag: &'static str,
    text: &'a str,
    left: Vec<(String, String)>,
}

impl<'a> Fields<'a> {
    /// Those of `text`, which was given with `flag`.
    pub(super) fn of(
        flag: &'static str,
        text: &'a str,
        fields: Vec<String>,
    ) -> Result<Self, CliError> {
        let mut left: Vec<(String, String)> = Vec::new();
        for field in fields {
            let Some((key, value)) = field.split_once('=') else {
                let why = format!("`{}` is no KEY=VALUE", field.escape_debug());
                return Err(wrong(flag, text, &why));
            };
            let key = match key.trim() {
                // The key of an annotation is the user's own.
                key if key.starts_with("annotation") => key.to_owned(),
                key => key.to_lowercase(),
            };
            left.retain(|(known, _)| *known != key);
            left.push((key, value.to_owned()));
        }
        Ok(Self { flag, text, left })
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.left.iter().any(|(known, value)| known == key && !value.is_empty())
    }

    pub(super) fn take(&mut self, key: &str) -> Option<String> {
        let index = self.left.iter().position(|(known, _)| known == key)?;
        Some(self.left.remove(index).1)
    }

    /// All whose keys begin so.
    pub(super) fn take_all(&mut self, prefix: &str) -> Vec<(String, String)> {
        let (taken, left) = std::mem::take(&mut self.left)
            .into_iter()
            .partition(|(key, _)| key.starts_with(prefix));
        self.left = left;
        taken
    }

    /// One that is true or false, in the words that Go takes for it.
    pub(super) fn take_bool(&mut self, key: &str) -> Result<Option<bool>, CliError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let is_set = parser::boolean(&value)
            .ok_or_else(|| self.wrong(&format!("`{key}` is neither true nor false")))?;
        Ok(Some(is_set))
    }

    /// The file that `dest` names.
    pub(super) fn dest(&mut self) -> Result<Option<Destination>, CliError> {
        let Some(dest) = self.take("dest").filter(|dest| !dest.is_empty()) else { return Ok(None) };
        if dest == "-" {
            return Ok(Some(Destination::Stdout));
        }
        if Path::new(&dest).is_dir() {
            let why = format!("destination file `{}` is a directory", dest.escape_debug());
            return Err(self.wrong(&why));
        }
        Ok(Some(Destination::File(dest.into())))
    }

    /// The folder that `dest` names.
    pub(super) fn dest_folder(&mut self, kind: &str) -> Result<PathBuf, CliError> {
        match self.take("dest").as_deref() {
            None | Some("") => Err(self.wrong(&format!("dest is required for {kind} exporter"))),
            Some("-") => Err(self.wrong(&format!("dest cannot be stdout for {kind} exporter"))),
            Some(dest) => folder(self.flag, self.text, dest),
        }
    }

    /// How layers are compressed.
    pub(super) fn compressed(&mut self) -> Result<Compressed, CliError> {
        let compression = match self.take("compression").as_deref() {
            None | Some("gzip") => Compression::Gzip,
            Some("zstd") => Compression::Zstd,
            Some("uncompressed") => Compression::None,
            Some(other) => {
                let why = format!(
                    "unsupported compression type `{}`: uncompressed, gzip, zstd",
                    other.escape_debug()
                );
                return Err(self.wrong(&why));
            }
        };
        let level = self.take("compression-level").map(|level| {
            let parsed = level.parse().ok().filter(|level| compression.levels().contains(level));
            let levels = compression.levels();
            let why = format!("`compression-level` is a number from 0 to {}", levels.end());
            parsed.ok_or_else(|| self.wrong(&why))
        });
        let force = self.take_bool("force-compression")?.unwrap_or(false);
        Ok(Compressed { compression, level: level.transpose()?, force })
    }

    /// Refuses what nobody has asked for: it was to make a difference.
    pub(super) fn end(&self) -> Result<(), CliError> {
        let Some((key, _)) = self.left.first() else { return Ok(()) };
        Err(self.wrong(&format!("`{}` is not supported", key.escape_debug())))
    }

    /// The flag cannot mean this.
    pub(super) fn wrong(&self, why: &str) -> CliError {
        wrong(self.flag, self.text, why)
    }
}

/// How layers are compressed, as fields say it that were written with `flag`.
pub(in crate::cli) fn compressed(
    flag: &'static str,
    fields: &[String],
) -> Result<Compressed, CliError> {
    Fields::of(flag, &fields.join(","), fields.to_vec())?.compressed()
}

/// A flag that cannot mean what was written.
pub(super) fn wrong(flag: &str, text: &str, why: &str) -> CliError {
    CliError::Usage(format!("`{flag} {}`: {why}", text.escape_debug()))
}

/// The folder at `dest`, which need not be there yet.
pub(super) fn folder(flag: &str, text: &str, dest: &str) -> Result<PathBuf, CliError> {
    let path = PathBuf::from(dest);
    if path.exists() && !path.is_dir() {
        let why = format!("destination directory `{}` is a file", dest.escape_debug());
        return Err(wrong(flag, text, &why));
    }
    Ok(path)
}
