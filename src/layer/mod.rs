//! Layer directories ↔ layer tars: packing, unpacking and compression.
//!
//! [`pack()`] makes the tar of a layer directory, a pure function of it, so that a layer can be hashed
//! when it is made and written when somebody wants it. [`apply()`] is the way back, and the one place
//! where archives of strangers become files: it trusts nothing in them. [`compress`] is what lies
//! between a tar and a blob.

mod ahead;
mod apply;
mod behind;
mod beside;
pub mod compress;
mod deflate;
mod drain;
mod early;
mod entry;
mod error;
mod frame;
mod gzip;
mod header;
mod huffman;
mod members;
mod outside;
mod pack;
mod pack_view;
#[cfg(test)]
mod round_trip;
mod sparse;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod times;

pub use ahead::{Ahead, read_ahead};
pub use apply::{Applied, Options, Whiteouts, apply};
pub use behind::{Behind, write_behind};
pub(crate) use beside::HashBeside;
pub use compress::{Compression, Encoder, Format, decoder, open_archive};
pub use drain::Drain;
pub use early::{Below, Early, apply_early};
pub use error::{LayerError, Malformed, Refusal};
pub use frame::pack_framed;
pub use gzip::GzipEncoder;
pub(crate) use members::{MemberKind, Members};
pub use outside::Outside;
pub use pack::{Packed, pack, pack_with};
pub use pack_view::pack_view;
pub use times::clamp_times;

/// What the functions of this module return.
pub type Result<T> = std::result::Result<T, LayerError>;

/// How deep directories may lie in one another. No real image comes near it, and most programs that
/// walk or remove trees by recursion end somewhere above.
const MAX_DEPTH: usize = 512;
/// The bytes of a path that a system call takes, without the NUL at its end (`PATH_MAX`). A layer with
/// a longer one is of no use to other tools.
const MAX_PATH: usize = 4095;
/// What the names of files begin with that stand for a deletion (image spec, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
/// The file that hides all that lower layers have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What AUFS called its own files, which are no part of an image.
const AUFS: &[u8] = b".wh..wh.";

/// How many bytes [`begins_archive`] needs to see.
pub const SNIFF_BYTES: usize = header::BLOCK_BYTES;

/// Whether a stream of which this is the start, as much of [`SNIFF_BYTES`] as there is, is rather an
/// archive than text: compressed, or a tar's first header.
pub fn begins_archive(start: &[u8]) -> bool {
    let header = start.first_chunk().map(|block| header::Block(*block));
    Format::sniff(start) != Format::Plain
        || header.is_some_and(|header| !header.is_zero() && header.check().is_ok())
}

/// Whether a file is a tar, plain or compressed, with at least one entry: what ADD unpacks.
pub fn is_archive(file: impl std::io::Read + Send) -> bool {
    let Ok((_, tar)) = open_archive(file) else { return false };
    matches!(Members::new(tar).advance(), Ok(Some(_)))
}
