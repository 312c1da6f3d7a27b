//! File-system states on disk: a stack of layer directories read as one root, and its topmost one
//! written.
//!
//! # Layer directories
//!
//! A layer directory holds exactly what one layer adds to those below it, in the form that
//! OverlayFS reads with its `userxattr` option:
//!
//! | meaning | on disk |
//! |---|---|
//! | a file, directory, link, … of the layer | itself, with owner, mode, times and xattrs |
//! | `NAME` of a lower layer is gone (whiteout) | a character device 0:0 called `NAME`, or a stub of one |
//! | nothing of the lower directory shows (opaque) | the xattr `user.overlay.opaque` = `y` |
//! | a device or an owner that this user cannot make | the xattr `user.mica.stat`, see [`Stub`] |
//! | such an owner of a link, pipe or socket | the xattr `user.mica.links` of its directory |
//!
//! The same form is used in every mode of isolation, so that a directory is a lower of a kernel
//! mount and input of this module alike. [`View`] reads a stack without a mount, [`Upper`] writes
//! into the topmost directory of one, with the meaning that the same change through a mount has.
//!
//! # Invariant
//!
//! No path of an image, an archive, a context or a Dockerfile is joined to a path of the host and
//! opened by name. Names are walked one component at a time below held directory handles, never
//! through a symbolic link: those are read and followed by us, inside the root.

mod attributes;
mod checkout;
mod copy;
mod dirs;
mod error;
mod handle;
mod metadata;
mod owners;
mod remove;
mod resolve;
#[cfg(test)]
mod tests;
mod upper;
mod upper_dir;
mod view;
mod view_walk;

pub use attributes::Attributes;
pub use checkout::Checkout;
pub use copy::{Copied, copy_file};
pub use error::{Escaped, SnapshotError};
pub use handle::{Handle, Walk, WalkEvent, open_regular, read_regular, size_of_regular};
pub use metadata::{Kind, Metadata, Stub, Timestamp};
pub use remove::remove_tree;
pub use resolve::Resolved;
pub use upper::Upper;
pub use upper_dir::{NewFile, UpperDir};
pub(crate) use view::Listed;
pub use view::{Entry, View};
pub use view_walk::{ViewEvent, ViewWalk};

/// What the functions of this module return.
pub type Result<T> = std::result::Result<T, SnapshotError>;
