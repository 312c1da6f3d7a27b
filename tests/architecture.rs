//! The house rules that a reader could only hope for otherwise: who may import whom, who may print,
//! where `unsafe` is, how long a file may be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A module, and what of the crate it may use besides itself.
const MAY_IMPORT: [(&str, &[&str]); 19] = [
    ("oci", &[]),
    ("http", &[]),
    ("mount", &[]),
    ("ssh", &[]),
    ("parser", &[]),
    ("lint", &["parser"]),
    ("snapshot", &["oci"]),
    ("layer", &["oci", "snapshot"]),
    ("runtime", &["mount"]),
    ("flat", &["mount", "snapshot", "runtime"]),
    ("store", &["oci", "snapshot", "layer"]),
    ("cache", &["oci", "snapshot", "layer", "store"]),
    ("fetch", &["oci", "http", "snapshot"]),
    ("export", &["oci", "snapshot", "layer", "store"]),
    ("registry", &["oci", "http", "layer", "store", "export"]),
    ("import", &["oci", "snapshot", "layer", "store"]),
    ("shared", &["oci", "store", "cache", "export", "import", "registry"]),
    (
        "builder",
        &[
            "oci", "http", "mount", "ssh", "parser", "lint", "snapshot", "layer", "runtime",
            "store", "cache", "fetch",
        ],
    ),
    (
        "cli",
        &[
            "oci", "http", "mount", "ssh", "parser", "lint", "snapshot", "layer", "runtime",
            "flat", "store", "cache", "fetch", "registry", "export", "import", "shared", "builder",
        ],
    ),
];

/// A file has at most this many lines, those of `tests.rs` aside.
const MAX_LINES: usize = 700;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below a folder, by their paths from the repository's root, with their texts.
fn sources(folder: &str) -> BTreeMap<String, String> {
    let files = walkdir::WalkDir::new(root().join(folder)).into_iter().map(|e| e.expect("to walk"));
    let rust = files.filter(|file| file.path().extension().is_some_and(|kind| kind == "rs"));
    let sources: BTreeMap<_, _> = rust
        .map(|file| {
            let name = file.path().strip_prefix(root()).expect("below the root");
            (name.display().to_string(), fs::read_to_string(file.path()).expect("UTF-8"))
        })
        .collect();
    assert!(!sources.is_empty(), "no files in {folder}");
    sources
}

/// The top module of a file, if it is below one.
fn module(file: &str) -> Option<&str> {
    let top = file.strip_prefix("src/")?.split('/').next()?;
    Some(top.strip_suffix(".rs").unwrap_or(top)).filter(|name| !["lib", "main"].contains(name))
}

/// The lines of a file that are neither comments nor documentation.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim_start()));
    lines.filter(|(_, line)| !line.starts_with("//"))
}

/// The modules that a text names behind `crate::`.
fn imported(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let joined: String = code(text).map(|(_, line)| line).collect::<Vec<_>>().join(" ");
    for rest in joined.split("crate::").skip(1) {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        match rest.strip_prefix('{') {
            Some(group) => {
                // The first name of each part of `crate::{a::b, c::{d, e}}`.
                let mut depth = 0;
                let mut name = String::new();
                let mut taken = false;
                for c in group.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => {
                            names.insert(std::mem::take(&mut name));
                            taken = false;
                        }
                        c if depth == 0 && is_name(c) && !taken => name.push(c),
                        ':' => taken = true,
                        _ => {}
                    }
                }
                names.insert(name);
            }
            None => {
                names.insert(rest.chars().take_while(|c| is_name(*c)).collect());
            }
        }
    }
    names.remove("");
    names
}

#[test]
fn imports_are_read_right() {
    let text = "use crate::a::B;\n// crate::not\nuse crate::{c::{D, E}, f, g::H};\nfn x() { crate::i::j() }";
    assert_eq!(imported(text), ["a", "c", "f", "g", "i"].map(str::to_owned).into());
}

#[test]
fn modules_import_only_what_they_may() {
    let table: BTreeMap<_, _> = MAY_IMPORT.into_iter().collect();
    let mut wrong = Vec::new();
    for (file, text) in sources("src") {
        let Some(module) = module(&file) else { continue };
        let Some(allowed) = table.get(module) else {
            wrong.push(format!("{file}: the module `{module}` is not in the table"));
            continue;
        };
        for name in imported(&text) {
            if name == module || allowed.contains(&name.as_str()) || !table.contains_key(&*name) {
                continue;
            }
            wrong.push(format!("{file}: `{module}` may not use `{name}`"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_table_has_no_circle() {
    let table: BTreeMap<_, _> = MAY_IMPORT.into_iter().collect();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    while done.len() < table.len() {
        let next = table.iter().find(|(name, uses)| {
            !done.contains(*name) && uses.iter().all(|used| done.contains(used))
        });
        done.insert(next.expect("a module whose imports are all settled").0);
    }
}

/// What stands outside of a file's tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

fn is_tests(file: &str) -> bool {
    file.ends_with("/tests.rs")
}

#[test]
fn only_the_command_line_prints() {
    // The sandbox's terminal is the command's own standard stream, which it takes, not prints to.
    let streams = ["runtime/container.rs", "runtime/terminal.rs"];
    let words = ["println!", "print!", "dbg!", "io::stdout()", "io::stderr()"];
    let mut wrong = Vec::new();
    for (file, text) in sources("src") {
        if file.starts_with("src/cli/") || is_tests(&file) {
            continue;
        }
        for (number, line) in code(without_tests(&text)) {
            let takes = streams.iter().any(|name| file.ends_with(name)) && line.contains("as_fd()");
            if words.iter().any(|word| line.contains(word)) && !takes {
                wrong.push(format!("{file}:{number}: {line}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_is_in_one_file() {
    let with: Vec<String> = ["src", "tests"]
        .into_iter()
        .flat_map(sources)
        .filter(|(file, _)| file != "tests/architecture.rs")
        .filter(|(_, text)| {
            code(text).any(|(_, line)| {
                ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
                    .iter()
                    .any(|word| line.contains(word))
            })
        })
        .map(|(file, _)| file)
        .collect();
    assert_eq!(with, ["src/runtime/sys.rs"]);
}

#[test]
fn files_are_short() {
    let all = ["src", "tests"].into_iter().flat_map(sources);
    let long: Vec<String> = all
        .filter(|(file, text)| !is_tests(file) && text.lines().count() > MAX_LINES)
        .map(|(file, text)| format!("{file}: {} lines", text.lines().count()))
        .collect();
    assert!(long.is_empty(), "over {MAX_LINES} lines: {long:?}");
}

#[test]
fn every_file_says_what_it_is_for() {
    let all = ["src", "tests"].into_iter().flat_map(sources);
    let silent: Vec<String> =
        all.filter(|(_, text)| !text.starts_with("//!")).map(|(file, _)| file).collect();
    assert!(silent.is_empty(), "no `//!` on the first line: {silent:?}");
}

/// Data that no test reads is no data: the sources name each entry of `testdata`, and each folder
/// in it by its own name. A folder of cases is read as a whole.
#[test]
fn all_test_data_is_used() {
    let sources = ["src", "tests", "fuzz"].into_iter().flat_map(sources);
    let texts: String = sources.map(|(_, text)| text).collect();
    let data = root().join("testdata");
    for entry in walkdir::WalkDir::new(&data).min_depth(1).max_depth(2) {
        let entry = entry.expect("to walk");
        let path = entry.path().strip_prefix(root()).expect("below the root").display();
        let name = entry.file_name().to_string_lossy();
        let named = match entry.depth() {
            1 => texts.contains(&path.to_string()),
            _ => !entry.file_type().is_dir() || texts.contains(&format!("\"{name}\"")),
        };
        assert!(named, "nobody reads {path}");
    }
}

#[test]
fn the_readme_begins_with_commands() {
    let Ok(text) = fs::read_to_string(root().join("README.md")) else {
        println!("skipped: there is no README.md yet");
        return;
    };
    let block = text.split("```").nth(1).expect("a fenced block");
    let commands: Vec<&str> =
        block.lines().skip(1).filter(|line| !line.trim().is_empty()).collect();
    assert!(!commands.is_empty(), "the first fenced block is empty");
    let before = text.split("```").next().expect("a text");
    assert!(before.contains("Quick start"), "it stands under `Quick start`");
}
