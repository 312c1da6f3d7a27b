//! What a build does for each file: looks, remembers, hashes, packs. Each at one size and at twice that;
//! `cargo bench --bench files` shows them side by side.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use mica::cache::KeyHasher;
use mica::cache::content::FileCache;
use mica::layer;
use mica::oci::Digest;
use mica::snapshot::{Entry, Handle, View};
use tempfile::TempDir;

fn main() {
    divan::main();
}

/// A folder with `files` files of `bytes` bytes, 100 to a folder.
fn tree(files: usize, bytes: usize) -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for file in 0..files {
        let folder = dir.path().join(format!("folder-{:04}", file / 100));
        if file % 100 == 0 {
            fs::create_dir(&folder).expect("made");
        }
        let text: Vec<u8> = (0..=250).cycle().skip(file % 251).take(bytes).collect();
        fs::write(folder.join(format!("file-{file:06}.js")), text).expect("written");
    }
    dir
}

fn view(dir: &Path) -> View {
    View::plain(Handle::open(dir).expect("opened")).expect("a view")
}

fn all_files(view: &View) -> Vec<Entry> {
    let folders = view.read_dir(&view.root()).expect("read");
    folders.iter().flat_map(|folder| view.read_dir(folder).expect("read")).collect()
}

#[divan::bench(args = [5_000, 10_000])]
fn look_at_each_file(bencher: Bencher, files: usize) {
    let dir = tree(files, 1);
    bencher.counter(ItemsCount::new(files)).bench_local(|| all_files(&view(dir.path())).len());
}

#[divan::bench(args = [5_000, 10_000])]
fn believe_each_digest(bencher: Bencher, files: usize) {
    let (dir, kept) = (tree(files, 1), tempfile::tempdir().expect("a folder"));
    let view = view(dir.path());
    let entries = all_files(&view);
    let ask = |cache: &FileCache| {
        for entry in &entries {
            let open = || File::open(dir.path().join(entry.path()));
            cache.digest(entry.path(), entry.metadata(), open).expect("a digest");
        }
    };
    // What was made just now is not believed.
    std::thread::sleep(std::time::Duration::from_millis(50));
    let cache = FileCache::open(kept.path(), dir.path());
    ask(&cache);
    cache.save(&kept.path().join("scratch"));
    bencher
        .counter(ItemsCount::new(files))
        .bench_local(|| ask(&FileCache::open(kept.path(), dir.path())));
}

#[divan::bench(args = [32, 64])]
fn hash_a_large_file_of_mib(bencher: Bencher, mib: usize) {
    let dir = tree(1, mib << 20);
    let view = view(dir.path());
    let entries = all_files(&view);
    let path: PathBuf = dir.path().join(entries[0].path());
    bencher.counter(BytesCount::new(mib << 20)).bench_local(|| {
        let open = || File::open(&path);
        FileCache::none().digest(entries[0].path(), entries[0].metadata(), open).expect("a digest")
    });
}

#[divan::bench(args = [2_500, 5_000])]
fn pack_a_layer_of_files(bencher: Bencher, files: usize) {
    let dir = tree(files, 3_000);
    bencher.counter(ItemsCount::new(files)).bench_local(|| pack(dir.path()));
}

#[divan::bench(args = [32, 64])]
fn pack_a_layer_of_mib(bencher: Bencher, mib: usize) {
    let dir = tree(1, mib << 20);
    bencher.counter(BytesCount::new(mib << 20)).bench_local(|| pack(dir.path()));
}

fn pack(dir: &Path) -> layer::Packed {
    layer::pack(&Handle::open(dir).expect("opened"), std::io::sink()).expect("packed")
}

#[divan::bench(args = [5_000, 10_000])]
fn key_of_files(bencher: Bencher, files: usize) {
    let digest = Digest::of(b"file");
    bencher.counter(ItemsCount::new(files)).bench_local(|| {
        let mut key = KeyHasher::new("bench");
        for _ in 0..files {
            key.field("name", "file-000123.js");
            key.number("kind", 0);
            key.number("mode", 0o644);
            key.digest("bytes", digest);
        }
        key.finish()
    });
}
