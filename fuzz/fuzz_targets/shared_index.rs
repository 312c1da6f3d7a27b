//! The index of a shared cache: what can be read is written and read again as it was, and merging it with
//! itself adds nothing. The first line holds the number of blobs, the rest is the config.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mica::cache::SharedIndex;
use mica::oci::{Descriptor, MediaType};

fuzz_target!(|input: &[u8]| {
    let (count, config) = input.split_first().unwrap_or((&0, b""));
    let blob = Descriptor::of(MediaType::ImageLayerGzip, b"x");
    let Ok(mut index) = SharedIndex::parse(config, &vec![blob; usize::from(*count)]) else { return };
    index.prune();
    let (config, blobs) = index.to_document();
    let mut again = SharedIndex::parse(&config, &blobs).expect("what was written can be read");
    again.merge(&index);
    assert_eq!(again.to_document(), (config, blobs));
});
