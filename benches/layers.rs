//! What packing and unpacking layers costs: compressing, inflating, hashing, writing tars and files.
//! `cargo bench --bench layers`.

use std::fs;
use std::io::{Write, sink};
use std::num::NonZeroUsize;
use std::path::Path;

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use mica::layer::{self, Below, Compression};
use mica::oci::Digest;
use mica::snapshot::{Handle, Upper, View};

fn main() {
    divan::main();
}

/// Source-like text and noise, as much of each.
fn data(bytes: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words = ["const", "return", "function", "license", "value", "export", "undefined", "map"];
    let mut data = Vec::with_capacity(bytes + 64);
    while data.len() < bytes / 2 {
        let word = words[usize::try_from(next() % 8).expect("below 8")];
        let number = next() % 100_000;
        data.extend_from_slice(format!("{word} {number:x};\n").as_bytes());
    }
    while data.len() < bytes {
        data.extend_from_slice(&next().to_le_bytes());
    }
    data.truncate(bytes);
    data
}

const BYTES: usize = 32 << 20;

fn gzip(data: &[u8], level: Option<u32>, threads: usize) -> Vec<u8> {
    let threads = NonZeroUsize::new(threads).expect("one or more");
    let encoder = Compression::Gzip.encoder(level, Vec::new(), threads);
    let mut encoder = encoder.expect("threads");
    encoder.write_all(data).expect("memory");
    encoder.finish().expect("memory")
}

#[divan::bench(args = [None, Some(0), Some(1), Some(4), Some(6), Some(9)])]
fn compress(bencher: Bencher<'_, '_>, level: Option<u32>) {
    let data = data(BYTES);
    bencher.counter(BytesCount::new(BYTES)).bench_local(|| gzip(black_box(&data), level, 1));
}

#[divan::bench(args = [1, 2, 4])]
fn compress_on_threads(bencher: Bencher<'_, '_>, threads: usize) {
    let data = data(BYTES);
    bencher.counter(BytesCount::new(BYTES)).bench_local(|| gzip(black_box(&data), None, threads));
}

#[divan::bench]
fn inflate(bencher: Bencher<'_, '_>) {
    let packed = gzip(&data(BYTES), None, 2);
    bencher.counter(BytesCount::new(BYTES)).bench_local(|| {
        let (_, mut plain) = layer::open_archive(black_box(&packed[..])).expect("gzip");
        std::io::copy(&mut plain, &mut sink()).expect("what was compressed")
    });
}

#[divan::bench]
fn hash(bencher: Bencher<'_, '_>) {
    let data = data(BYTES);
    bencher.counter(BytesCount::new(BYTES)).bench_local(|| Digest::of(black_box(&data)));
}

/// A tree of so many files of 8 KiB, 50 in each folder.
fn tree(root: &Path, files: usize) {
    let content = data(8 << 10);
    for number in 0..files {
        let folder = root.join(format!("{:03}", number / 50));
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join(format!("{number}.js")), &content).expect("a file");
    }
}

#[divan::bench(args = [1000, 2000])]
fn pack(bencher: Bencher<'_, '_>, files: usize) {
    let dir = tempfile::tempdir().expect("a folder");
    tree(dir.path(), files);
    let handle = Handle::open(dir.path()).expect("the folder");
    bencher.counter(files).bench_local(|| layer::pack(&handle, sink()).expect("a tar"));
}

/// The tar of [`tree`].
fn tar_of(files: usize) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a folder");
    tree(dir.path(), files);
    let mut tar = Vec::new();
    layer::pack(&Handle::open(dir.path()).expect("the folder"), &mut tar).expect("a tar");
    tar
}

/// Unpacks the tar of so many files, each time into a folder of its own: removing many files slows down
/// the making of others.
fn unpack<T>(bencher: Bencher<'_, '_>, files: usize, apply: impl Fn(&[u8], Handle) -> T) {
    let dir = tempfile::tempdir().expect("a folder");
    let tar = tar_of(files);
    let mut round = 0;
    bencher.counter(files).bench_local(|| {
        round += 1;
        let target = dir.path().join(round.to_string());
        fs::create_dir(&target).expect("a folder");
        apply(&tar, Handle::open(&target).expect("the folder"))
    });
}

#[divan::bench(args = [1000, 2000])]
fn apply(bencher: Bencher<'_, '_>, files: usize) {
    unpack(bencher, files, |tar, dir| {
        let lowers = View::open(std::iter::empty::<&Path>()).expect("no layers");
        let upper = Upper::new(dir, &lowers).expect("a folder");
        layer::apply(tar, &upper, layer::Options::LAYER).expect("a tar")
    });
}

/// The same with its frame, on top of what is not there yet.
#[divan::bench(args = [1000, 2000])]
fn apply_early(bencher: Bencher<'_, '_>, files: usize) {
    unpack(bencher, files, |tar, dir| {
        let below = Below::Later(&|| View::new(Vec::new()));
        layer::apply_early(tar, &dir, below, Some(&mut sink())).expect("a tar")
    });
}

#[divan::bench(args = [1000, 2000])]
fn pack_framed(bencher: Bencher<'_, '_>, files: usize) {
    let dir = tempfile::tempdir().expect("a folder");
    let handle = Handle::open(dir.path()).expect("the folder");
    let mut frame = Vec::new();
    let below = Below::Later(&|| View::new(Vec::new()));
    layer::apply_early(&tar_of(files)[..], &handle, below, Some(&mut frame)).expect("a tar");
    bencher.counter(files).bench_local(|| layer::pack_framed(&frame[..], &handle, sink()));
}
