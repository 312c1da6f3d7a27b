//! Why a snapshot cannot be read or written.

use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Kind;

/// Why a snapshot cannot be read or written. Paths are those *in* the snapshot, not of the host.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The kernel refused an operation.
    #[error("cannot {action} `{}`", Escaped::path(path))]
    Io {
        /// What was tried: a verb phrase that reads well before the path.
        action: &'static str,
        /// The path in the snapshot.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Something that is no directory stands where one is needed.
    #[error("`{}` is a {kind}, not a directory", Escaped::path(path))]
    NotADirectory {
        /// The path in the snapshot.
        path: PathBuf,
        /// What it is.
        kind: Kind,
    },
    /// A directory stands where something else is to be made.
    #[error("`{}` is a directory", Escaped::path(path))]
    IsADirectory {
        /// The path in the snapshot.
        path: PathBuf,
    },
    /// Something that is no regular file was to be opened as one.
    #[error("`{}` is a {kind}, not a file", Escaped::path(path))]
    NotAFile {
        /// The path in the snapshot.
        path: PathBuf,
        /// What it is.
        kind: Kind,
    },
    /// More than 40 symbolic links were met on one path.
    #[error("too many symbolic links in `{}`", Escaped::path(path))]
    TooManyLinks {
        /// The path as it was asked for.
        path: PathBuf,
    },
    /// A name is empty, `.`, `..`, or holds a slash or a NUL byte.
    #[error("`{}` is not the name of a file", Escaped::path(name))]
    InvalidName {
        /// The name.
        name: PathBuf,
    },
    /// An owner has no place in this user's id map, and this kind of file cannot note it down.
    #[error(
        "`{}` belongs to {uid}:{gid}, which this user has no subordinate id for",
        Escaped::path(path)
    )]
    Owner {
        /// The path in the snapshot.
        path: PathBuf,
        /// The user that was to own it.
        uid: u32,
        /// The group that was to own it.
        gid: u32,
    },
    /// A file grew or shrank while it was copied.
    #[error("a file changed while it was copied: {expected} bytes expected, {found} found")]
    Changed {
        /// Its size when the copy began, in bytes.
        expected: u64,
        /// How many bytes there were.
        found: u64,
    },
}

impl SnapshotError {
    /// Wraps what the kernel said about `path`.
    pub(crate) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.to_owned(), source: source.into() }
    }

    /// Names the path in an error of a function that only had open files, such as
    /// [`copy_file`](super::copy_file).
    #[must_use]
    pub fn at(self, path: &Path) -> Self {
        match self {
            Self::Io { action, source, .. } => Self::Io { action, path: path.to_owned(), source },
            other => other,
        }
    }

    /// The kernel's error, where it is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// Shows bytes that may come from a hostile archive: control characters, backquotes and what is no
/// UTF-8 as `\xNN`, so that a name cannot talk to the terminal.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(pub &'a [u8]);

impl<'a> Escaped<'a> {
    /// Shows a path.
    pub fn path(path: &'a Path) -> Self {
        Self(path.as_os_str().as_bytes())
    }
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Longer names say nothing more to a person.
        const SHOWN_BYTES: usize = 512;
        let (shown, rest) = self.0.split_at(self.0.len().min(SHOWN_BYTES));
        for chunk in shown.utf8_chunks() {
            for char in chunk.valid().chars() {
                match char {
                    '\\' => f.write_str("\\\\")?,
                    '`' => f.write_str("\\x60")?,
                    c if c.is_ascii_control() => write!(f, "\\x{:02x}", u32::from(c))?,
                    c if is_invisible(c) => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                    c => write!(f, "{c}")?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        if rest.is_empty() { Ok(()) } else { f.write_str("…") }
    }
}

/// C1 controls, and the characters that reorder or hide the text around them.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_a_terminal_obeys() {
        let check = |bytes: &[u8], expected: &str| {
            assert_eq!(Escaped(bytes).to_string(), expected);
        };
        check(b"usr/bin/env", "usr/bin/env");
        check(b"x\x1b]0;owned\x07", "x\\x1b]0;owned\\x07");
        check(b"caf\xe9", "caf\\xe9");
        check("\u{fc}n\u{ef}-\u{202e}gpj".as_bytes(), "\u{fc}n\u{ef}-\\u{202e}gpj");
        check(b"a\nb\\`", "a\\x0ab\\\\\\x60");
        assert!(Escaped(&[b'n'; 6000]).to_string().len() < 520);
    }
}
