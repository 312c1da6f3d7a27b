//! Why a layer cannot be packed or unpacked.

use std::io;
use std::path::PathBuf;

use crate::snapshot::{Escaped, SnapshotError};

/// Why a layer cannot be packed or unpacked. Names are shown with control characters escaped.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The archive cannot be read; a truncated or corrupt compressed stream is this, too.
    #[error("cannot read the archive")]
    Read {
        /// What the reader said.
        #[source]
        source: io::Error,
    },
    /// The archive cannot be written.
    #[error("cannot write the archive")]
    Write {
        /// What the writer said.
        #[source]
        source: io::Error,
    },
    /// The layer directory cannot be read.
    #[error("cannot read `{}`", Escaped::path(path))]
    Walk {
        /// The path in the layer.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The archive is not a well-formed tar.
    #[error("malformed archive at entry {entry}: {reason}")]
    Malformed {
        /// Which header it is, the first being 1; those that only describe the next one count.
        entry: u64,
        /// What is wrong with it.
        reason: Malformed,
    },
    /// An entry is well-formed, but must not or cannot be part of a layer.
    #[error("`{}` {reason}", Escaped::path(path))]
    Refused {
        /// The entry's name.
        path: PathBuf,
        /// Why not.
        reason: Refusal,
    },
    /// An entry cannot be made.
    #[error("cannot unpack `{}`", Escaped::path(path))]
    Unpack {
        /// The entry's name.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: SnapshotError,
    },
}

/// What is wrong with a tar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The header's checksum does not match, so it may be no header at all.
    #[error("the checksum is wrong")]
    Checksum,
    /// The archive ends in the middle of an entry.
    #[error("the archive is cut off")]
    Truncated,
    /// A numeric field is no number, negative, or too large for what it means.
    #[error("the {0} is not valid")]
    Number(&'static str),
    /// A pax record does not have the form `LENGTH KEY=VALUE\n`.
    #[error("a pax record is not valid")]
    PaxRecord,
    /// A long name or pax header is larger than any real one.
    #[error("{bytes} bytes of extended header are too many")]
    HeaderTooLong {
        /// The size that the header claims.
        bytes: u64,
    },
    /// A path has a NUL byte in it.
    #[error("a name has a NUL byte in it")]
    Nul,
    /// The entry's type is not known.
    #[error("entry type `{}` is not known", Escaped(&[*.0]))]
    Type(u8),
    /// The map of a sparse file does not make sense.
    #[error("the map of a sparse file is not valid")]
    SparseMap,
}

/// Why an entry must not or cannot be part of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// More directories in one another than anything needs.
    #[error("is more than 512 directories deep")]
    TooDeep,
    /// A path that no system call takes.
    #[error("is longer than the 4095 bytes that a path may have")]
    TooLong,
    /// A hard link's target does not exist in the root.
    #[error("is a hard link to a file that is not there")]
    MissingTarget,
    /// A character device 0:0, which OverlayFS takes for a whiteout.
    #[error("is a character device 0:0")]
    DeviceZero,
    /// An entry of an archive of files has a name like `../x`.
    #[error("has a name that leads out of the archive")]
    Outside,
    /// A whiteout that does not name one file of its directory.
    #[error("is not a valid whiteout")]
    Whiteout,
    /// A whiteout of a file of a layer below that this layer links to.
    #[error("deletes a file that the layer links to")]
    LinkedAndGone,
    /// The name of a real file begins with `.wh.`, so that no layer can hold it.
    #[error("has a name that means a deletion in a layer")]
    Unrepresentable,
    /// A file changed its size while it was packed.
    #[error("changed while it was read")]
    Changed,
}

impl LayerError {
    pub(crate) fn read(source: io::Error) -> Self {
        Self::Read { source }
    }

    pub(crate) fn write(source: io::Error) -> Self {
        Self::Write { source }
    }
}
