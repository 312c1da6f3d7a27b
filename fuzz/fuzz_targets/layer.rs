//! Any bytes as a layer's tar, and then as a frame: an error, or the same bytes again; and nothing beside
//! the layer directory is read or written.
#![no_main]

use std::io::sink;

use libfuzzer_sys::fuzz_target;
use mica::layer::{Below, apply_early, pack_framed};
use mica::snapshot::{Handle, View};

fuzz_target!(|tar: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = Handle::open(folder.path()).expect("the folder");
    let nothing = || View::new(Vec::new());
    let mut frame = Vec::new();
    let unpacked = apply_early(tar, &dir, Below::Later(&nothing), Some(&mut frame));
    if unpacked.is_ok_and(|early| early.framed) {
        let mut again = Vec::new();
        pack_framed(&frame[..], &dir, &mut again).expect("its files are there");
        assert!(again == tar);
    }
    let _any = pack_framed(tar, &dir, sink());
});
