//! One JSON object a line, of the shape that `docker build --progress rawjson` gives: `vertexes` begin
//! and end, `logs` are what they write, in base64.

use std::collections::HashMap;
use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::super::report;
use super::Draw;
use crate::builder::graph::VertexId;
use crate::builder::progress::Event;
use crate::lint::Finding;
use crate::oci::Digest;

pub(super) struct Json {
    /// The Dockerfile's name and text.
    file: String,
    text: String,
    /// What was said of the steps that are at work.
    begun: HashMap<VertexId, Value>,
}

impl Draw for Json {
    fn draw(&mut self, event: &Event<'_>) {
        let now = jiff::Timestamp::now().to_string();
        let object = match event {
            Event::Started { vertex, name } => {
                let begun = json!({ "digest": digest(*vertex), "name": name, "started": now });
                self.begun.insert(*vertex, begun.clone());
                json!({ "vertexes": [begun] })
            }
            Event::Cached { vertex, name } => json!({ "vertexes": [{
                "digest": digest(*vertex), "name": name, "started": now, "completed": now,
                "cached": true,
            }] }),
            Event::Output { vertex, bytes } => json!({ "logs": [{
                "vertex": digest(*vertex), "stream": 1, "data": base64(bytes), "timestamp": now,
            }] }),
            Event::Warning { text, .. } => {
                json!({ "warnings": [{ "level": 1, "short": base64(text.as_bytes()) }] })
            }
            Event::Checked { findings: [] } => return,
            Event::Checked { findings } => {
                let warnings: Vec<Value> =
                    findings.iter().map(|finding| self.warning(finding)).collect();
                json!({ "warnings": warnings })
            }
            Event::Done { vertex, .. } => self.ended(*vertex, &now, None),
            Event::Failed { vertex, .. } => self.ended(*vertex, &now, Some("failed")),
        };
        // Nobody listens where this fails.
        drop(writeln!(std::io::stderr().lock(), "{object}"));
    }
}

impl Json {
    /// Speaks of the build of a Dockerfile of this name and text.
    pub(super) fn of(file: &str, text: &str) -> Self {
        Self { file: file.to_owned(), text: text.to_owned(), begun: HashMap::new() }
    }

    fn warning(&self, finding: &Finding) -> Value {
        let (first, last) = report::lines_of(&self.text, finding.extent);
        let short = report::finding_line(&self.text, finding);
        json!({
            "level": 1,
            "short": base64(short.as_bytes()),
            "detail": [base64(finding.rule.description().as_bytes())],
            "sourceInfo": { "filename": self.file, "language": "Dockerfile" },
            "range": [{ "start": { "line": first }, "end": { "line": last } }],
        })
    }

    fn ended(&mut self, vertex: VertexId, now: &str, error: Option<&str>) -> Value {
        let mut ended = self.begun.remove(&vertex).unwrap_or_else(|| json!({}));
        ended["completed"] = json!(now);
        if let Some(error) = error {
            ended["error"] = json!(error);
        }
        json!({ "vertexes": [ended] })
    }
}

/// What stands for a vertex: the same in all lines of one build.
fn digest(vertex: VertexId) -> String {
    Digest::of(vertex.index().to_string().as_bytes()).to_string()
}

pub(in crate::cli) fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_of_the_rfc() {
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")];
        for (text, expected) in cases {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }
}
