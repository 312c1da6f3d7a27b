//! The tar of a layer whose files are here.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use super::layers::FRAME;
use super::{LayerRecord, Store, StoreError};
use crate::layer::{self, LayerError, Packed};
use crate::snapshot::Handle;

impl Store {
    /// Whether [`Store::write_tar`] gives the tar of a layer: it was made here, or how it came is known. Of
    /// others there are the files and a blob.
    pub fn has_tar(&self, record: &LayerRecord) -> bool {
        match (record.is_away(), &record.blob) {
            (true, _) => false,
            (false, None) => true,
            (false, Some(_)) => self.frame_path(record).is_ok_and(|path| path.exists()),
        }
    }

    /// Writes a layer's tar and says what was written, which is the layer's if its digest is.
    ///
    /// # Errors
    /// [`StoreError::NoLayer`] for one that is away, [`StoreError::Pack`].
    pub fn write_tar(&self, record: &LayerRecord, out: impl Write) -> Result<Packed, StoreError> {
        let dir = self.layer_dir(record)?;
        let files = Handle::open(&dir).map_err(StoreError::io("open", &dir))?;
        let path = self.frame_path(record)?;
        let packed = match File::open(&path) {
            Ok(frame) => layer::pack_framed(frame, &files, out),
            Err(err) if err.kind() == io::ErrorKind::NotFound => layer::pack(&files, out),
            Err(source) => Err(LayerError::Read { source }),
        };
        packed.map_err(StoreError::Pack)
    }

    fn frame_path(&self, record: &LayerRecord) -> Result<PathBuf, StoreError> {
        Ok(self.layer_dir(record)?.with_file_name(FRAME))
    }
}
