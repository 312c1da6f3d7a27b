//! Dockerfiles, and what Docker says of them.

use std::collections::HashMap;

use super::super::scope::BuildArgs;
use super::super::{Inputs, Lowered, NoImages, Options, Purpose, lower};
use crate::builder::BuildError;
use crate::builder::ignore::Ignore;
use crate::lint::{self, Checks, Finding};
use crate::parser;

/// A case of `testdata/checks.txt`.
#[derive(Default)]
struct Case {
    name: String,
    flags: Vec<String>,
    parts: HashMap<String, String>,
}

/// `=== name flags…` begins a case, `--- part` a part of it; the first part is the Dockerfile.
fn cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut part = String::new();
    for line in text.lines() {
        if let Some(head) = line.strip_prefix("=== ") {
            let mut words = head.split(' ').map(str::to_owned);
            let name = words.next().unwrap_or_default();
            cases.push(Case { name, flags: words.collect(), parts: HashMap::new() });
            part = "Dockerfile".to_owned();
        } else if let Some(name) = line.strip_prefix("--- ") {
            name.clone_into(&mut part);
        } else if let Some(case) = cases.last_mut() {
            let text = case.parts.entry(part.clone()).or_default();
            text.push_str(line);
            text.push('\n');
        }
    }
    cases
}

fn options(flags: &[String]) -> Options {
    let mut options = Options::default();
    for flag in flags {
        match flag.split_once('=') {
            Some(("--target", target)) => options.target = Some(target.to_owned()),
            Some(("--build-arg", arg)) => {
                let (name, value) = arg.split_once('=').unwrap_or((arg, ""));
                options.build_args.insert(name.to_owned(), value.to_owned());
            }
            _ => panic!("{flag}"),
        }
    }
    options
}

/// What checks say of a case: `Rule first-last message`, and the error that ends them.
fn said(case: &Case) -> String {
    let text = &case.parts["Dockerfile"];
    let parsed = parser::parse(text.as_bytes());
    let options = options(&case.flags);
    let ignore = case.parts.get("ignore").map(|text| Ignore::parse(text.as_bytes()).unwrap());
    let given = BuildArgs::get(&options.build_args, lint::OVERRIDE).map(String::as_str);
    let mut checks = match Checks::new(&parsed, given) {
        Ok(checks) => checks,
        Err(error) => return format!("error: {}\n", error.message),
    };
    let is_error = |found: &&parser::Diagnostic| found.severity == parser::Severity::Error;
    let mut error = parsed.diagnostics.iter().find(is_error).map(|error| error.message.clone());
    if error.is_none() {
        let inputs = Inputs {
            dockerfile: &parsed.dockerfile,
            options: &options,
            images: &NoImages,
            ignore: ignore.as_ref(),
            purpose: Purpose::Check { all_stages: options.target.is_none() },
        };
        error = lower(&inputs, &mut checks).err().map(|err| err.to_string());
    }
    let mut out: String = checks.found().iter().map(|found| line(text, found)).collect();
    if let Some(error) = error.or_else(|| checks.violation()) {
        out.push_str(&format!("error: {error}\n"));
    }
    out
}

fn line(text: &str, finding: &Finding) -> String {
    let (rule, extent) = (finding.rule.name(), finding.extent);
    let line_of = |at: usize| text[..at].matches('\n').count() + 1;
    let (first, last) = (line_of(extent.start), line_of(extent.end.max(extent.start)));
    let lines = if first == last { first.to_string() } else { format!("{first}-{last}") };
    format!("{rule} {lines} {}\n", finding.message)
}

#[test]
fn as_docker_says() {
    let all = cases(include_str!("../../../testdata/checks.txt"));
    let mut wrong = String::new();
    for case in &all {
        let (found, expected) = (said(case), case.parts.get("said").cloned().unwrap_or_default());
        if found != expected {
            wrong.push_str(&format!("{}:\n{found}instead of:\n{expected}\n", case.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(all.len() > 100, "{}", all.len());
}

/// Checks all stages of a Dockerfile that needs no image.
fn lower_all(parsed: &parser::Parsed, checks: &mut Checks) -> Result<Lowered, BuildError> {
    let inputs = Inputs {
        dockerfile: &parsed.dockerfile,
        options: &Options::default(),
        images: &NoImages,
        ignore: None,
        purpose: Purpose::Check { all_stages: true },
    };
    lower(&inputs, checks)
}

/// What a Dockerfile comes down to: the config, and the steps without their names and places.
fn lowered(text: &str) -> String {
    let parsed = parser::parse(text.as_bytes());
    assert!(parsed.is_ok(), "{text}\n{:?}", parsed.diagnostics);
    let lowered = lower_all(&parsed, &mut Checks::default()).expect(text);
    let steps = lowered.target.map(|target| lowered.graph.reachable(target)).unwrap_or_default();
    let steps: Vec<String> = steps
        .into_iter()
        .map(|id| lowered.graph.get(id))
        .map(|step| format!("{:?} on {:?}\n", step.op, step.root))
        .collect();
    format!("{:?}\n{}", lowered.config, steps.concat())
}

fn fixed(text: &str) -> String {
    let parsed = parser::parse(text.as_bytes());
    let mut checks = Checks::new(&parsed, None).unwrap();
    lower_all(&parsed, &mut checks).expect(text);
    lint::fix(&parsed.dockerfile, text, checks.found()).unwrap_or_else(|| text.to_owned())
}

/// Pieces of Dockerfiles that have something to mend, or look as if.
const PIECES: &[&str] = &[
    "from scratch as B\n",
    "FROM scratch As c\n",
    "From scratch AS Dd\n",
    "FROM scratch\n",
    "ENV a b\n",
    "env A $a ${b:-x y} c\n",
    "ENV its 'one thing'  here\n",
    "Env q \"quoted  text\" \\\n more\n",
    "LABEL x.y  some text = with # signs\n",
    "label z a=b c\n",
    "ENV e a\\ b\n",
    "EXPOSE 80/TCP 81/Udp\n",
    "expose ${n:-9}/TCP\n",
    "RUN a \\\n\n  b \\\n# c\n \n  d\n",
    "run <<X\n\ny \\\n\nX\n",
    "COPY a \\\n\t\n /b\n",
    "ONBUILD env a b\n",
    "# check=skip=LegacyKeyValueFormat\nENV k v w\n",
    "cmd a b\n",
    "USER \\\n\n  u\n",
];

proptest::proptest! {
    #[test]
    fn a_fix_changes_nothing_that_is_built(
        pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..12),
    ) {
        let text = format!("FROM scratch AS First\nENV a 1\n{}", pieces.concat());
        let mended = fixed(&text);
        proptest::prop_assert_eq!(lowered(&text), lowered(&mended), "{}\n{}", &text, &mended);
        proptest::prop_assert_eq!(fixed(&mended), mended.clone(), "{}", &mended);
    }
}
