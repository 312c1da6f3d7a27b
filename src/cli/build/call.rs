//! `mica build --call`: what a Dockerfile says of itself, with nothing built.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::{contexts, flags, input, options, parse};
use crate::builder::{self, BuildContext, CheckRequest, Options, Outline, OutlineMount};
use crate::cli::args::BuildArgs;
use crate::cli::check::{self, LazyStore};
use crate::cli::progress::base64;
use crate::cli::pull;
use crate::cli::{CliError, ui};
use crate::lint::{self, Checks};
use crate::parser::{Instruction, Statement};
use crate::runtime::CancelToken;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Check,
    Outline,
    Targets,
    Describe,
}

/// The methods with the names that BuildKit gives them and what they are for.
const METHODS: [(&str, &str); 4] = [
    ("lint", "Lint a Dockerfile"),
    ("outline", "List all parameters current build target supports"),
    ("targets", "List all targets current build supports"),
    ("subrequests.describe", "List available subrequest types"),
];

/// A request of `--call`.
#[derive(Debug)]
pub(in crate::cli) struct Call {
    method: Method,
    json: bool,
}

impl Call {
    /// What the command line asks for; `None` for a build.
    pub(in crate::cli) fn of(args: &BuildArgs) -> Result<Option<Self>, CliError> {
        let mut fields = args.call.split(',');
        let method = match fields.next().unwrap_or_default() {
            "" | "build" if args.check => Method::Check,
            "" | "build" => return Ok(None),
            "check" | "lint" => Method::Check,
            "outline" => Method::Outline,
            "targets" => Method::Targets,
            "subrequests.describe" => Method::Describe,
            other => {
                let message = format!(
                    "unsupported request `{}`: there are build, check, outline, targets, \
                     subrequests.describe",
                    other.escape_debug()
                );
                return Err(CliError::Usage(message));
            }
        };
        let mut json = false;
        for field in fields {
            json = match field {
                "format=json" => true,
                "format=text" => false,
                other => {
                    let message = format!("`--call`: invalid option `{}`", other.escape_debug());
                    return Err(CliError::Usage(message));
                }
            };
        }
        Ok(Some(Self { method, json }))
    }
}

/// Answers a request.
pub(in crate::cli) fn call(
    root: Option<PathBuf>,
    args: &BuildArgs,
    call: &Call,
) -> Result<ExitCode, CliError> {
    if call.method == Method::Describe {
        describe(call.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let platform = pull::platform(args.platform.as_deref())?;
    let named = contexts::named(&args.build_context, None, &platform)?;
    let cancel =
        CancelToken::new().map_err(|source| CliError::Read { path: "eventfd".into(), source })?;
    let input::Input { contexts, file, text, .. } = input::open_to_check(args, &cancel)?;
    let build_args = flags::build_args(&args.build_arg, args.source_date_epoch.as_deref())?;
    let options = options(args, build_args, named.names, platform)?;
    let images = LazyStore::new(root);
    let context = contexts.first();
    match call.method {
        Method::Check => {
            let checked = [check::run(file, &text, context, &options, &images)];
            if call.json {
                ui::line(&check::json(&checked))?;
            } else {
                check::text(&checked)?;
            }
            return Ok(check::exit_code(&checked));
        }
        Method::Outline => {
            let outline = outline(file, &text, context, &options, &images)?;
            let text = String::from_utf8_lossy(&text);
            say(&if call.json { outline_json(&outline, &text) } else { outline_text(&outline) })?;
        }
        Method::Targets | Method::Describe => {
            let (parsed, text) = parse(&file, &text)?;
            let targets = targets(&parsed.dockerfile.statements);
            say(&if call.json { targets_json(&targets, &text) } else { targets_text(&targets) })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn say(text: &str) -> Result<(), CliError> {
    ui::line(text.trim_end_matches('\n'))
}

fn outline(
    file: String,
    bytes: &[u8],
    context: Option<&BuildContext>,
    options: &Options,
    images: &LazyStore,
) -> Result<Outline, CliError> {
    let (parsed, text) = parse(&file, bytes)?;
    let dockerfile = &parsed.dockerfile;
    let request = CheckRequest { dockerfile, options, context, all_stages: false };
    builder::check(&request, images, &mut Checks::default()).map_err(|source| CliError::Build {
        file,
        text,
        source: Box::new(source),
    })
}

fn outline_text(outline: &Outline) -> String {
    let mut parts = Vec::new();
    let mut head = String::new();
    for (title, value) in [("TARGET", &outline.name), ("DESCRIPTION", &outline.description)] {
        if let Some(value) = value {
            let width = if outline.description.is_some() { 13 } else { 8 };
            head.push_str(&format!("{:width$}{}\n", format!("{title}:"), ui::plain(value)));
        }
    }
    parts.push(head);
    let table = |titles: &[&str], rows: Vec<Vec<String>>| {
        let titles = titles.iter().map(|title| (*title).to_owned()).collect();
        if rows.is_empty() {
            return String::new();
        }
        ui::table(&[vec![titles], rows].concat())
    };
    let of_args = outline.args.iter().map(|arg| {
        let value = arg.value.clone().unwrap_or_default();
        vec![arg.name.clone(), value, arg.description.clone().unwrap_or_default()]
    });
    parts.push(table(&["BUILD ARG", "VALUE", "DESCRIPTION"], of_args.collect()));
    let required = |mount: &OutlineMount| {
        let required = if mount.required { "true" } else { "" };
        vec![mount.name.clone(), required.to_owned()]
    };
    let rows = |mounts: &[OutlineMount]| mounts.iter().map(required).collect();
    parts.push(table(&["SECRET", "REQUIRED"], rows(&outline.secrets)));
    parts.push(table(&["SSH", "REQUIRED"], rows(&outline.ssh)));
    let caches = outline.caches.iter().map(|cache| vec![cache.name.clone()]).collect();
    parts.push(table(&["CACHE"], caches));
    parts.retain(|part| !part.is_empty());
    parts.join("\n")
}

/// An object of those fields that have a value.
fn object(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let given = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => true,
    };
    let fields = fields.into_iter().filter(|(_, value)| given(value));
    Value::Object(fields.map(|(name, value)| (name.to_owned(), value)).collect())
}

fn outline_json(outline: &Outline, text: &str) -> String {
    let mounts = |mounts: &[OutlineMount], name: &'static str| {
        let one = |mount: &OutlineMount| {
            object([
                (name, json!(mount.name)),
                ("required", json!(mount.required)),
                ("location", check::location(text, mount.extent)),
            ])
        };
        mounts.iter().map(one).collect::<Value>()
    };
    let arg = |arg: &builder::OutlineArg| {
        object([
            ("name", json!(arg.name)),
            ("description", json!(arg.description)),
            ("value", json!(arg.value)),
            ("location", check::location(text, arg.extent)),
        ])
    };
    let document = object([
        ("name", json!(outline.name)),
        ("description", json!(outline.description)),
        ("args", outline.args.iter().map(arg).collect()),
        ("secrets", mounts(&outline.secrets, "name")),
        ("ssh", mounts(&outline.ssh, "name")),
        ("cache", mounts(&outline.caches, "id")),
        ("sources", json!([base64(text.as_bytes())])),
    ]);
    format!("{document:#}")
}

/// A stage, as its FROM tells of it.
struct Target<'a> {
    name: String,
    description: Option<&'a str>,
    base: &'a str,
    platform: Option<&'a str>,
    statement: &'a Statement,
}

fn targets(statements: &[Statement]) -> Vec<Target<'_>> {
    fn target(statement: &Statement) -> Option<Target<'_>> {
        let Instruction::From(from) = &statement.instruction else { return None };
        let name = from.alias.as_ref().map(|alias| alias.text.to_lowercase()).unwrap_or_default();
        Some(Target {
            description: lint::described(&statement.comments, &name),
            name,
            base: &from.image.text,
            platform: from.platform.as_ref().map(|word| word.text.as_str()),
            statement,
        })
    }
    statements.iter().filter_map(target).collect()
}

fn targets_text(targets: &[Target<'_>]) -> String {
    let mut rows = vec![vec!["TARGET".to_owned(), "DESCRIPTION".to_owned()]];
    for (number, target) in targets.iter().enumerate() {
        let is_default = number + 1 == targets.len();
        let mut name = target.name.clone();
        if is_default {
            let space = if name.is_empty() { "" } else { " " };
            name.push_str(&format!("{space}(default)"));
        }
        rows.push(vec![name, target.description.unwrap_or_default().to_owned()]);
    }
    ui::table(&rows)
}

fn targets_json(targets: &[Target<'_>], text: &str) -> String {
    let one = |(number, target): (usize, &Target<'_>)| {
        object([
            ("name", json!(target.name)),
            ("default", json!(number + 1 == targets.len())),
            ("description", json!(target.description)),
            ("base", json!(target.base)),
            ("platform", json!(target.platform)),
            ("location", check::location(text, lint::extent(target.statement))),
        ])
    };
    let targets: Value = targets.iter().enumerate().map(one).collect();
    format!("{:#}", json!({ "targets": targets, "sources": [base64(text.as_bytes())] }))
}

fn describe(as_json: bool) -> Result<(), CliError> {
    if !as_json {
        let mut rows = vec![["NAME", "VERSION", "DESCRIPTION"].map(str::to_owned).to_vec()];
        rows.extend(METHODS.map(|(name, text)| [name, "1.0.0", text].map(str::to_owned).to_vec()));
        return say(&ui::table(&rows));
    }
    let one = |(name, text): (&str, &str)| {
        let target = json!([{ "name": "target", "description": "Target build stage" }]);
        let opts = if name == "outline" { target } else { json!([]) };
        let metadata = ["result.json", "result.txt"].map(|name| json!({ "name": name }));
        json!({
            "name": format!("frontend.{name}"),
            "version": "1.0.0",
            "type": "rpc",
            "description": text,
            "opts": opts,
            "metadata": metadata,
        })
    };
    ui::line(&format!("{:#}", METHODS.map(one).into_iter().collect::<Value>()))
}
