//! `--output`: where a build goes.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::env::{Ran, TestEnv, bare, plain_user, with_base};
use crate::image::{SavedImage, members};

const DOCKERFILE: &str = "FROM scratch\nCOPY --chown=1000:1001 --chmod=0640 a /a\nCOPY d /d/\n";

fn context(env: &TestEnv) -> PathBuf {
    let context = env.context(&[("Dockerfile", DOCKERFILE), ("a", "A"), ("d/b", "B")]);
    symlink("/nowhere", context.join("d/link")).expect("a link");
    context
}

/// `key=value` with a path of the test's own for `[out]`.
fn spec(text: &str, out: &Path) -> String {
    text.replace("[out]", out.to_str().expect("UTF-8"))
}

#[track_caller]
fn built(env: &TestEnv, context: &Path, args: &[&str]) -> Ran {
    let ran = env.build(context, args);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    ran
}

fn is_empty(env: &TestEnv) -> bool {
    env.mica(["images", "-q"]).success().is_empty()
}

fn a_folder(env: &TestEnv) {
    let (context, out) = (context(env), env.path("home/out"));
    built(env, &context, &["-t", "app", "-o", out.to_str().expect("UTF-8")]);
    let at = |name: &str| fs::symlink_metadata(out.join(name)).expect("it is there");
    assert_eq!(fs::read_to_string(out.join("a")).expect("to read"), "A");
    let home = fs::metadata(env.path("home")).expect("the home");
    assert_eq!((at("a").mode() & 0o7777, at("a").uid()), (0o640, home.uid()));
    assert_eq!(fs::metadata(&out).expect("the folder").mode() & 0o7777, 0o700);
    assert_eq!(fs::read_link(out.join("d/link")).expect("a link"), Path::new("/nowhere"));
    assert!(is_empty(env), "an image that only went elsewhere is not in the store");
}

#[test]
fn a_folder_gets_the_files() {
    let Some(env) = bare() else { return };
    a_folder(&env);
}

#[test]
fn a_folder_gets_the_files_of_a_plain_user() {
    let Some(env) = plain_user() else { return };
    env.mica(["rmi", "base"]).success();
    a_folder(&env);
}

#[test]
fn what_is_in_the_folder_stays_unless_it_is_in_the_way() {
    let Some(env) = bare() else { return };
    let (context, out) = (context(&env), env.path("home/out"));
    let outside = env.context(&[("victim", "V"), ("b", "mine")]);
    fs::create_dir(&out).expect("a folder");
    fs::write(out.join("kept"), "K").expect("to write");
    // A folder where a file is to be, a link where a folder is to be.
    fs::create_dir_all(out.join("a/full")).expect("a folder");
    symlink(&outside, out.join("d")).expect("a link");
    env.give(&out);
    let args = ["-o", &spec("type=local,dest=[out]", &out)];
    for _ in 0..2 {
        built(&env, &context, &args);
        assert_eq!(fs::read_to_string(out.join("a")).expect("to read"), "A");
        assert_eq!(fs::read_to_string(out.join("kept")).expect("to read"), "K");
        assert!(!out.join("d").is_symlink());
        assert_eq!(fs::read_to_string(outside.join("b")).expect("to read"), "mine");
        // A link where a file is to be, for the second time.
        fs::remove_file(out.join("d/b")).expect("to remove");
        symlink(outside.join("victim"), out.join("d/b")).expect("a link");
    }
    built(&env, &context, &args);
    assert_eq!(fs::read_to_string(out.join("d/b")).expect("to read"), "B");
    assert_eq!(fs::read_to_string(outside.join("victim")).expect("to read"), "V");
    let left: Vec<_> = fs::read_dir(&out).expect("to list").flatten().collect();
    assert!(left.iter().all(|entry| !entry.file_name().to_string_lossy().starts_with(".mica")));
}

#[test]
fn layers_are_merged_and_names_of_one_file_stay_one() {
    let Some(env) = with_base() else { return };
    let context = env.dockerfile(
        "FROM base\nRUN echo 1 >/one && ln /one /two && mkdir /gone && touch /gone/x && chmod 4755 /one\n\
         RUN rm -r /gone /etc/group && touch /etc/new\n",
    );
    let out = env.path("home/out");
    built(&env, &context, &["-o", out.to_str().expect("UTF-8")]);
    let at = |name: &str| fs::metadata(out.join(name)).expect("it is there");
    assert_eq!((at("one").ino(), at("one").mode() & 0o7777), (at("two").ino(), 0o4755));
    assert!(out.join("etc/passwd").exists() && out.join("etc/new").exists());
    assert!(!out.join("gone").exists() && !out.join("etc/group").exists());
    let ran = built(&env, &context, &["-o", "-"]);
    let files = crate::image::layer(&ran.bytes);
    assert_eq!(files["two"].link.as_deref(), Some("one"));
    assert!(files.contains_key("etc/passwd") && files.contains_key("etc/new"));
    assert!(files.keys().all(|name| !name.contains(".wh.") && !name.starts_with("gone")));
}

#[test]
fn a_tar_keeps_owners_and_an_epoch_is_everybodys_time() {
    let Some(env) = bare() else { return };
    let (context, out) = (context(&env), env.path("home/x.tar"));
    let args = ["-o", &spec("type=tar,dest=[out]", &out), "--build-arg", "SOURCE_DATE_EPOCH=7"];
    built(&env, &context, &args);
    let files = crate::image::layer(&fs::read(&out).expect("the tar"));
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(names, ["a", "d", "d/b", "d/link"]);
    assert_eq!((files["a"].owner, files["a"].mode), ((1000, 1001), 0o640));
    assert!(files.values().all(|file| file.mtime == 7));
    let folder = env.path("home/folder");
    let epoch = ["-o", folder.to_str().expect("UTF-8"), "--build-arg", "SOURCE_DATE_EPOCH=7"];
    built(&env, &context, &epoch);
    for name in ["a", "d", "d/b", "d/link"] {
        let metadata = fs::symlink_metadata(folder.join(name)).expect("it is there");
        assert_eq!(metadata.mtime(), 7, "{name}");
    }
}

/// The manifest of the first image of an archive.
fn manifest(archive: &[u8]) -> (Value, Value) {
    let members = members(archive);
    let index: Value = serde_json::from_slice(&members["index.json"]).expect("JSON");
    let entry = index["manifests"][0].clone();
    let hex = entry["digest"].as_str().expect("a digest").trim_start_matches("sha256:");
    let manifest = &members[&format!("blobs/sha256/{hex}")];
    (entry, serde_json::from_slice(manifest).expect("JSON"))
}

#[test]
fn archives_in_all_words_and_compressions() {
    let Some(env) = bare() else { return };
    let (context, out) = (context(&env), env.path("home/x.tar"));
    let oci = "application/vnd.oci.image";
    let docker = "application/vnd.docker";
    let v2 = "distribution.manifest.v2+json";
    let check = |kind: &str, manifest_type: String, layer_type: String| {
        let args = ["-t", "app:1", "-o", &spec(&format!("{kind},dest=[out]"), &out)];
        built(&env, &context, &args);
        let bytes = fs::read(&out).expect("the archive");
        // All digests, sizes and diff IDs are verified here.
        let image = SavedImage::read(&bytes);
        assert_eq!((image.text("a"), image.file("a").owner), ("A".into(), (1000, 1001)));
        let (entry, manifest) = manifest(&bytes);
        assert_eq!(entry["mediaType"], manifest_type.as_str(), "{kind}");
        assert_eq!(manifest["mediaType"], manifest_type.as_str(), "{kind}");
        assert_eq!(manifest["layers"][0]["mediaType"], layer_type.as_str(), "{kind}");
        assert_eq!(entry["annotations"]["io.containerd.image.name"], "docker.io/library/app:1");
        assert_eq!(members(&bytes).contains_key("manifest.json"), kind.contains("docker"));
        assert!(is_empty(&env), "{kind}");
        assert!(env.mica(["load", "-i", out.to_str().expect("UTF-8")]).success().contains("app:1"));
        env.mica(["rmi", "app:1"]).success();
    };
    let (manifest, layer) = (format!("{oci}.manifest.v1+json"), format!("{oci}.layer.v1.tar"));
    check("type=oci", manifest.clone(), format!("{layer}+gzip"));
    check("type=docker", manifest.clone(), format!("{layer}+gzip"));
    check("type=oci,compression=zstd", manifest.clone(), format!("{layer}+zstd"));
    check(
        "type=oci,compression=gzip,compression-level=1",
        manifest.clone(),
        format!("{layer}+gzip"),
    );
    check("type=oci,compression=uncompressed", manifest, layer);
    let diff = format!("{docker}.image.rootfs.diff.tar");
    let kind = "type=docker,oci-mediatypes=false";
    check(kind, format!("{docker}.{v2}"), format!("{diff}.gzip"));
    let kind = "type=oci,oci-mediatypes=0,compression=uncompressed";
    check(kind, format!("{docker}.{v2}"), diff);
}

#[test]
fn base_layers_are_compressed_anew_only_by_force() {
    let Some(env) = bare() else { return };
    let (first, out) = (env.path("home/base.tar"), env.path("home/x.tar"));
    built(&env, &context(&env), &["-t", "gz", "-o", &spec("type=oci,dest=[out]", &first)]);
    env.mica(["load", "-i", first.to_str().expect("UTF-8")]).success();
    let child = env.context(&[("Dockerfile", "FROM gz\nCOPY c /\n"), ("c", "C")]);
    let types = |spec_text: &str| {
        built(&env, &child, &["-o", &spec(spec_text, &out)]);
        let bytes = fs::read(&out).expect("the archive");
        assert_eq!(SavedImage::read(&bytes).text("a"), "A");
        let (_, manifest) = manifest(&bytes);
        let layers = manifest["layers"].as_array().expect("layers").clone();
        let types = layers.iter().map(|layer| {
            let name = layer["mediaType"].as_str().expect("a type");
            name.rsplit(['.', '+']).next().expect("an end").to_owned()
        });
        types.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(types("type=oci,dest=[out],compression=zstd"), "gzip gzip zstd");
    assert_eq!(
        types("type=oci,dest=[out],compression=zstd,force-compression=true"),
        "zstd zstd zstd"
    );
    let plain = "type=oci,dest=[out],compression=uncompressed,force-compression=true";
    assert_eq!(types(plain), "tar tar tar");
}

#[test]
fn a_layout_keeps_what_it_holds() {
    let Some(env) = bare() else { return };
    let (context, out) = (context(&env), env.path("home/layout"));
    let to = spec("type=oci,tar=false,dest=[out]", &out);
    let other = env.dockerfile("FROM scratch\nLABEL x=y\n");
    built(&env, &context, &["-o", &to, "-t", "one:1"]);
    built(&env, &context, &["-o", &to, "-t", "two:2"]);
    built(&env, &context, &["-o", &to]);
    built(&env, &other, &["-o", &to, "-t", "one:1"]);
    let index: Value =
        serde_json::from_slice(&fs::read(out.join("index.json")).expect("an index")).expect("JSON");
    let entries = index["manifests"].as_array().expect("manifests");
    let tags: Vec<&str> = entries
        .iter()
        .map(|entry| entry["annotations"]["org.opencontainers.image.ref.name"].as_str())
        .map(|tag| tag.expect("a tag"))
        .collect();
    assert_eq!(tags, ["2", "latest", "1"]);
    assert_eq!(entries[0]["digest"], entries[1]["digest"]);
    assert_ne!(entries[0]["digest"], entries[2]["digest"]);
    for blob in fs::read_dir(out.join("blobs/sha256")).expect("blobs").flatten() {
        let mut bytes = Vec::new();
        fs::File::open(blob.path()).expect("a blob").read_to_end(&mut bytes).expect("to read");
        assert_eq!(mica::oci::Digest::of(&bytes).hex(), *blob.file_name().to_string_lossy());
    }
    fs::write(out.join("index.json"), "{").expect("to write");
    let ran = env.build(&context, &["-o", &to]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("is no OCI image layout"), "{}", ran.stderr);
}

#[test]
fn annotations_go_where_their_level_says() {
    let Some(env) = bare() else { return };
    let (context, out) = (context(&env), env.path("home/x.tar"));
    let output = "type=oci,dest=[out],annotation.a=1,annotation-manifest-descriptor.b=2,\
                  annotation[linux/s390x].no=no";
    built(
        &env,
        &context,
        &["-o", &spec(output, &out), "--annotation", "manifest,manifest-descriptor:c=3"],
    );
    let (entry, manifest) = manifest(&fs::read(&out).expect("the archive"));
    assert_eq!(manifest["annotations"], serde_json::json!({"a": "1", "c": "3"}));
    assert_eq!(entry["annotations"], serde_json::json!({"b": "2", "c": "3"}));
    // In the store they are kept, and an archive of `save` has them too.
    built(&env, &context, &["-t", "app", "--annotation", "k=v"]);
    let saved = env.mica(["save", "--format", "oci-archive", "app"]);
    let (_, manifest) = self::manifest(&saved.bytes);
    assert_eq!(manifest["annotations"], serde_json::json!({"k": "v"}));
}

#[test]
fn what_is_named_in_the_store() {
    let Some(env) = bare() else { return };
    let (context, out) = (context(&env), env.path("home/out"));
    let to_folder = out.to_str().expect("UTF-8");
    let check = |args: &[&str], expected: &[&str]| {
        built(&env, &context, args);
        let listed = env.mica(["images", "--format", "json"]).success();
        let images = listed.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let names: Vec<String> = images
            .map(|image| format!("{}:{}", image["Repository"], image["Tag"]).replace('"', ""))
            .collect();
        assert_eq!(names, expected, "{args:?}");
        for name in names.iter().filter(|name| !name.contains("none")) {
            env.mica(["rmi", name]).success();
        }
        env.mica(["system", "prune"]).success();
    };
    check(&["-t", "t:1", "-o", to_folder], &[]);
    check(&["-t", "t:1", "-o", to_folder, "--load"], &["t:1"]);
    check(&["-t", "t:1", "-o", "type=image,name=n:1"], &["t:1"]);
    check(&["-o", "type=image,\"name=n:1,n:2\",push=false,unpack=true"], &["n:1", "n:2"]);
    check(&["-o", "type=docker,name=n:1", "-o", to_folder], &["n:1"]);
    check(&["-o", "type=image"], &["<none>:<none>"]);
    check(&["-t", "t:1", "-o", "type=image,store=false"], &[]);
    check(&["-t", "t:1", "-o", "type=cacheonly"], &[]);
    check(&["-t", "t:1", "-o", ""], &["t:1"]);
}

#[test]
fn the_metadata_file_tells_what_was_made() {
    let Some(env) = bare() else { return };
    let (context, file, id) = (context(&env), env.path("home/meta"), env.path("home/id"));
    let (file_name, id_name) = (file.to_str().expect("UTF-8"), id.to_str().expect("UTF-8"));
    let metadata = |args: &[&str]| -> Value {
        built(&env, &context, &[args, &["--metadata-file", file_name]].concat());
        serde_json::from_slice(&fs::read(&file).expect("the file")).expect("JSON")
    };
    let found = metadata(&["-t", "a", "-t", "b:2", "--iidfile", id_name]);
    assert_eq!(found["containerimage.config.digest"], fs::read_to_string(&id).expect("an ID"));
    assert_eq!(found["image.name"], "docker.io/library/a:latest,docker.io/library/b:2");
    let shown: Value = serde_json::from_str(&env.mica(["inspect", "a"]).success()).expect("JSON");
    assert_eq!(found["containerimage.digest"], shown[0]["Digest"]);
    assert_eq!(found["containerimage.descriptor"]["digest"], shown[0]["Digest"]);
    assert_eq!(found["containerimage.descriptor"]["platform"]["os"], "linux");
    let archive = env.path("home/x.tar");
    let found = metadata(&["-o", &spec("type=oci,dest=[out]", &archive)]);
    let (entry, _) = manifest(&fs::read(&archive).expect("the archive"));
    assert_eq!(found["containerimage.digest"], entry["digest"]);
    assert!(found.get("image.name").is_none());
    assert_eq!(
        metadata(&["-o", env.path("home/out").to_str().expect("UTF-8")]),
        serde_json::json!({})
    );
}

#[test]
fn an_archive_on_standard_output_is_alone_there() {
    let Some(env) = bare() else { return };
    let context = context(&env);
    let ran = built(&env, &context, &["-q", "-o", "type=oci", "--progress", "plain"]);
    assert_eq!(SavedImage::read(&ran.bytes).text("a"), "A");
    let ran = built(&env, &context, &["-q", "-o", "-"]);
    assert_eq!(members(&ran.bytes)["d/b"], b"B");
}

#[test]
fn what_cannot_be_written_leaves_what_was_there() {
    let Some(env) = bare() else { return };
    let context = context(&env);
    for kind in ["tar", "oci", "docker"] {
        let output = format!("type={kind},dest={}", env.path("home/none/x").display());
        let ran = env.build(&context, &["-o", &output]);
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert!(ran.stderr.contains("cannot write "), "{}", ran.stderr);
    }
    let out = env.path("home/x.tar");
    fs::write(&out, "old").expect("to write");
    let broken = env.dockerfile("FROM scratch\nCOPY nothing /\n");
    let ran = env.build(&broken, &["-o", &spec("type=tar,dest=[out]", &out)]);
    assert_eq!(ran.code, Some(1));
    assert_eq!(fs::read_to_string(&out).expect("to read"), "old");
}

#[test]
#[expect(clippy::too_many_lines, reason = "one snapshot of all messages")]
fn outputs_that_are_none() {
    let Some(env) = bare() else { return };
    let context = context(&env);
    let file = context.join("a");
    let mut said = String::new();
    let mut check = |args: &[&str]| {
        let ran = env.build(&context, args);
        assert_eq!(ran.code, Some(2), "{args:?}: {}", ran.stderr);
        let context = context.to_str().expect("UTF-8");
        said.push_str(&env.filter(&ran.stderr.replace(context, "[context]")));
        said.push('\n');
    };
    for output in [
        "type=local",
        "type=local,dest=-",
        &spec("type=local,dest=[out]", &file),
        &spec("type=tar,dest=[out]", &context),
        "type=tar,mode=copy",
        "type=local,dest=x,mode=delete",
        "type=nope",
        "type=oci,compression=estargz",
        "type=oci,compression=gzip,compression-level=10",
        "type=oci,force-compression=maybe",
        "type=docker,tar=false,dest=x",
        "type=image,compression=zstd",
        "type=image,dangling-name-prefix=x",
        "type=image,name=Upper",
        "type=image,push=true",
        "type=registry",
        "type=oci,annotation-index.a=b",
        "type=oci,annotation=b",
        "name=a,type",
        "\"type=oci",
    ] {
        check(&["-o", output]);
    }
    check(&["--push"]);
    check(&["-o", "-", "-o", "type=oci"]);
    check(&["-o", "x", "--iidfile", "y"]);
    check(&["--annotation", "a"]);
    check(&["--annotation", "index:a=b"]);
    check(&["--annotation", "else:a=b"]);
    check(&["--annotation", "=b"]);
    insta::assert_snapshot!(said, @r#"
    error: `--output type=local`: dest is required for local exporter
    error: `--output type=local,dest=-`: dest cannot be stdout for local exporter
    error: `--output type=local,dest=[context]/a`: destination directory `[context]/a` is a file
    error: `--output type=tar,dest=[context]`: destination file `[context]` is a directory
    error: `--output type=tar,mode=copy`: `mode` is not supported
    error: `--output type=local,dest=x,mode=delete`: `mode` other than `copy` is not supported
    error: `--output type=nope`: its type is none of local, tar, oci, docker, image, registry, cacheonly
    error: `--output type=oci,compression=estargz`: unsupported compression type `estargz`: uncompressed, gzip, zstd
    error: `--output type=oci,compression=gzip,compression-level=10`: `compression-level` is a number from 0 to 9
    error: `--output type=oci,force-compression=maybe`: `force-compression` is neither true nor false
    error: `--output type=docker,tar=false,dest=x`: `tar=false` is for type=oci
    error: `--output type=image,compression=zstd`: layers of the store are not compressed: push, or give type=oci a dest
    error: `--output type=image,dangling-name-prefix=x`: `dangling-name-prefix` is not supported
    error: invalid reference format: repository name of `Upper` must be lowercase
    error: tag is needed when pushing to registry: give one with `--tag`
    error: tag is needed when pushing to registry: give one with `--tag`
    error: `--output type=oci,annotation-index.a=b`: `annotation-index.a`: index annotations not supported for single platform export
    error: `--output type=oci,annotation=b`: `annotation`: it has no key
    error: `--output name=a,type`: `type` is no KEY=VALUE
    error: `--output \"type=oci`: a quote is not closed
    error: tag is needed when pushing to registry: give one with `--tag`
    error: multiple outputs configured to write to stdout
    error: local and tar exporters are incompatible with image ID file
    error: invalid annotation `a`: expected key=value
    error: invalid annotation `index:a=b`: index annotations not supported for single platform export
    error: invalid annotation `else:a=b`: unknown annotation type `else`
    error: invalid annotation `=b`: it has no key
    "#);
}
