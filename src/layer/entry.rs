//! [`Entry`]: what a tar's header says of a file, in the form that all our tars have.

use std::io::Write;

use tar::{Builder, EntryType, Header};

use super::{LayerError, Result};
use crate::snapshot::Metadata;

/// The xattr that is kept in layers: what a program may do without being root's.
pub(super) const CAPABILITY: &str = "security.capability";

/// One header to be.
pub(super) struct Entry {
    pub(super) kind: EntryType,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime_secs: i64,
    pub(super) size: u64,
    pub(super) rdev: Option<(u32, u32)>,
    pub(super) capability: Option<Vec<u8>>,
}

impl Entry {
    pub(super) fn new(kind: EntryType, path: Vec<u8>, metadata: &Metadata) -> Self {
        Self {
            kind,
            path,
            link: Vec::new(),
            mode: metadata.mode,
            uid: metadata.uid,
            gid: metadata.gid,
            mtime_secs: metadata.mtime.secs,
            size: 0,
            rdev: None,
            capability: None,
        }
    }

    /// A whiteout: an empty file about which nothing but the name matters.
    pub(super) fn mark(path: Vec<u8>) -> Self {
        Self {
            kind: EntryType::Regular,
            path,
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            mtime_secs: 0,
            size: 0,
            rdev: None,
            capability: None,
        }
    }

    /// Writes the header, and a pax header in front of it if something does not fit in.
    pub(super) fn write<W: Write>(&self, tar: &mut Builder<W>) -> Result<()> {
        let (header, records) = self.encode();
        let borrowed = records.iter().map(|(key, value)| (*key, value.as_slice()));
        tar.append_pax_extensions(borrowed).map_err(LayerError::write)?;
        tar.get_mut().write_all(header.as_bytes()).map_err(LayerError::write)
    }

    /// The header, and the pax records for what it cannot say.
    fn encode(&self) -> (Header, Vec<(&'static str, Vec<u8>)>) {
        /// What 7 and 11 octal digits can hold.
        const MAX_ID: u64 = 0o7_777_777;
        const MAX_SIZE: u64 = 0o77_777_777_777;
        let mut records = Vec::new();
        let mut number = |key, value: u64, max| {
            if value <= max {
                return value;
            }
            records.push((key, value.to_string().into_bytes()));
            0
        };
        let mut header = Header::new_ustar();
        header.set_entry_type(self.kind);
        header.set_mode(self.mode);
        header.set_uid(number("uid", self.uid.into(), MAX_ID));
        header.set_gid(number("gid", self.gid.into(), MAX_ID));
        header.set_size(number("size", self.size, MAX_SIZE));
        match u64::try_from(self.mtime_secs) {
            Ok(secs) => header.set_mtime(number("mtime", secs, MAX_SIZE)),
            Err(_) => records.push(("mtime", self.mtime_secs.to_string().into_bytes())),
        }
        if let Some(ustar) = header.as_ustar_mut() {
            if let Some((major, minor)) = self.rdev {
                ustar.set_device_major(major);
                ustar.set_device_minor(minor);
            }
            if !put_text(&mut ustar.name, &self.path) {
                records.push(("path", self.path.clone()));
            }
            if !put_text(&mut ustar.linkname, &self.link) {
                records.push(("linkpath", self.link.clone()));
            }
        }
        if let Some(value) = &self.capability {
            records.push(("SCHILY.xattr.security.capability", without_namespace(value)));
        }
        header.set_cksum();
        (header, records)
    }
}

/// Writes a name into a header's field, as much of it as there is room for. The answer is whether it
/// stands there as every reader will read it: whole, and ASCII, or else not UTF-8, which no pax record
/// may be.
fn put_text(field: &mut [u8; 100], text: &[u8]) -> bool {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
    text.len() <= field.len() && (text.is_ascii() || std::str::from_utf8(text).is_err())
}

/// A capability set that was given in a user namespace names the namespace's root (version 3). In an
/// image it is everybody's (version 2).
pub(super) fn without_namespace(value: &[u8]) -> Vec<u8> {
    const VERSION: u32 = 0xff00_0000;
    match value.first_chunk::<4>().map(|magic| u32::from_le_bytes(*magic)) {
        Some(magic) if magic & VERSION == 0x0300_0000 && value.len() == 24 => {
            let magic = magic & !VERSION | 0x0200_0000;
            [&magic.to_le_bytes(), &value[4..20]].concat()
        }
        _ => value.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_lose_their_namespace() {
        let mut v3 = vec![1, 0, 0, 3];
        v3.extend(4..20);
        v3.extend([0xa0, 0x86, 1, 0]);
        let v2 = without_namespace(&v3);
        assert_eq!((&v2[..4], &v2[4..]), (&[1, 0, 0, 2][..], &v3[4..20]));
        assert_eq!(without_namespace(&v2), v2);
        assert_eq!(without_namespace(b""), b"");
    }
}
