//! Findings as text, and as the JSON of BuildKit's `lint` request.

use serde_json::{Value, json};

use super::{Checked, report, ui};
use crate::builder::BuildError;
use crate::cli::CliError;
use crate::cli::progress::base64;
use crate::parser::Span;

/// Writes all findings in their places, and why a Dockerfile cannot be built.
pub(in crate::cli) fn text(checked: &[Checked]) -> Result<(), CliError> {
    for one in checked {
        let mut findings: Vec<_> = one.findings.iter().collect();
        findings.sort_by_key(|finding| report::lines_of(&one.text, finding.extent).0);
        for finding in &findings {
            ui::line(&report::finding_in_place(&one.file, &one.text, finding))?;
        }
        if let Some(error) = &one.error {
            report::build_error(&one.file, &one.text, error);
        }
    }
    let broken = checked.iter().filter_map(|one| one.error.as_ref());
    if broken.clone().any(|error| !matches!(error, BuildError::Checks(_))) {
        return Ok(());
    }
    let count: usize = checked.iter().map(|one| one.findings.len()).sum();
    if count > 0 {
        ui::line("")?;
    }
    ui::line(&match count {
        0 => "Check complete, no warnings found.".to_owned(),
        1 => "Check complete, 1 warning has been found!".to_owned(),
        count => format!("Check complete, {count} warnings have been found!"),
    })
}

/// The document of `docker build --call=check,format=json`.
pub(in crate::cli) fn json(checked: &[Checked]) -> String {
    let mut warnings = Vec::new();
    let mut error = None;
    for (index, one) in checked.iter().enumerate() {
        let location = |span: Span| {
            let mut location = location(&one.text, span);
            if index > 0 {
                location["sourceIndex"] = json!(index);
            }
            location
        };
        warnings.extend(one.findings.iter().map(|finding| {
            json!({
                "ruleName": finding.rule.name(),
                "description": finding.rule.description(),
                "detail": finding.message,
                "location": location(finding.extent),
            })
        }));
        error = error.or_else(|| {
            let (message, span) = one.error_place()?;
            let location = span.map_or_else(|| json!({}), location);
            Some(json!({ "message": message, "location": location }))
        });
    }
    let source = |one: &Checked| {
        let data = base64(one.text.as_bytes());
        json!({ "filename": one.file, "data": data, "language": "Dockerfile" })
    };
    let sources: Vec<Value> = checked.iter().map(source).collect();
    let mut document = json!({ "warnings": warnings, "sources": sources });
    if let Some(error) = error {
        document["buildError"] = error;
    }
    format!("{document:#}")
}

/// A place as BuildKit's requests give it.
pub(in crate::cli) fn location(text: &str, span: Span) -> Value {
    let (first, last) = report::lines_of(text, span);
    json!({ "ranges": [{ "start": { "line": first }, "end": { "line": last } }] })
}
