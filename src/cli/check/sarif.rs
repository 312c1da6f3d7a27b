//! Findings as SARIF 2.1.0, which code hosts and editors read.

use serde_json::{Value, json};

use super::{Checked, report};
use crate::lint::{Finding, Rule};

const SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";

/// A log of one run.
pub(super) fn sarif(checked: &[Checked]) -> String {
    let rule = |rule: &Rule| {
        json!({
            "id": rule.name(),
            "shortDescription": { "text": rule.description() },
            "help": { "text": format!("See {}", rule.page()) },
        })
    };
    let rules: Vec<Value> = Rule::ALL.iter().map(rule).collect();
    let mut results = Vec::new();
    for one in checked {
        results.extend(one.findings.iter().map(|finding| warning(one, finding)));
        if let Some((message, span)) = one.error_place() {
            let region =
                span.map(|span| json!({ "startLine": report::lines_of(&one.text, span).0 }));
            results.push(result("error", &message, &one.file, region));
        }
    }
    let document = json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "mica",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            } },
            "results": results,
        }],
    });
    format!("{document:#}")
}

fn warning(one: &Checked, finding: &Finding) -> Value {
    let (first, last) = report::lines_of(&one.text, finding.extent);
    let region = json!({ "startLine": first, "endLine": last });
    let mut result = result("warning", &finding.message, &one.file, Some(region));
    result["ruleId"] = json!(finding.rule.name());
    result["ruleIndex"] = json!(Rule::ALL.iter().position(|rule| *rule == finding.rule));
    result
}

fn result(level: &str, message: &str, file: &str, region: Option<Value>) -> Value {
    let mut location = json!({ "artifactLocation": { "uri": uri(file) } });
    if let Some(region) = region {
        location["region"] = region;
    }
    json!({
        "level": level,
        "message": { "text": message },
        "locations": [{ "physicalLocation": location }],
    })
}

/// A path as a relative or absolute URI reference.
fn uri(path: &str) -> String {
    let mut uri = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri
}
