//! One JSON object a line, of the shape that `docker build --progress rawjson` gives: `vertexes` begin
//! and end, `logs` are what they write, in base64.

use std::collections::HashMap;
use std::io::Write;

use serde_json::{Value, json};

use super::Draw;
use crate::builder::graph::VertexId;
use crate::builder::progress::Event;
use crate::oci::Digest;

#[derive(Default)]
pub(super) struct Json {
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
            Event::Done { vertex, .. } => self.ended(*vertex, &now, None),
            Event::Failed { vertex, .. } => self.ended(*vertex, &now, Some("failed")),
        };
        // Nobody listens where this fails.
        drop(writeln!(std::io::stderr().lock(), "{object}"));
    }
}

impl Json {
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

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte));
        let group = group << (8 * (3 - chunk.len()));
        for position in 0..4 {
            let index = group >> (18 - 6 * position) & 63;
            let padded = position > chunk.len();
            out.push(if padded { '=' } else { char::from(ALPHABET[index as usize]) });
        }
    }
    out
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
