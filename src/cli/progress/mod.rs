//! Drawing a build's events: plain lines, a live view, JSON, or nothing until something fails.

mod json;
mod plain;
mod tty;

pub(super) use json::base64;

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use super::args::ProgressArg;
use super::ui;
use crate::builder::graph::VertexId;
use crate::builder::progress::{Event, Progress};
use crate::lint::Finding;

/// What draws events in one way. Calls come one at a time.
trait Draw: Send {
    fn draw(&mut self, event: &Event<'_>);
}

/// Draws events as the command line asks.
pub(super) struct Drawing {
    draw: Mutex<Box<dyn Draw>>,
    /// What is said of the Dockerfile when all else is said.
    findings: Mutex<Vec<Finding>>,
}

impl Drawing {
    /// Draws the build of a Dockerfile of this name and text.
    pub(super) fn new(kind: ProgressArg, quiet: bool, file: &str, text: &str) -> Self {
        let draw: Box<dyn Draw> = match kind {
            _ if quiet => Box::new(Quiet::default()),
            ProgressArg::Quiet => Box::new(Quiet::default()),
            ProgressArg::Rawjson => Box::new(json::Json::of(file, text)),
            ProgressArg::Tty => Box::new(tty::Live::start()),
            ProgressArg::Auto if ui::can_draw() => Box::new(tty::Live::start()),
            ProgressArg::Auto | ProgressArg::Plain => Box::new(plain::Plain::start()),
        };
        Self { draw: Mutex::new(draw), findings: Mutex::default() }
    }

    /// What is odd about the Dockerfile.
    pub(super) fn findings(&self) -> Vec<Finding> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Progress for Drawing {
    fn event(&self, event: &Event<'_>) {
        if let Event::Checked { findings } = event {
            let mut known = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
            known.extend_from_slice(findings);
        }
        self.draw.lock().unwrap_or_else(PoisonError::into_inner).draw(event);
    }
}

/// Cuts what steps write into lines, in bounded memory.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
}

/// A line without an end is cut here.
const MAX_LINE_BYTES: usize = 64 << 10;

impl Lines {
    /// Gives each whole line to `line`.
    fn push(&mut self, bytes: &[u8], mut line: impl FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.rest.extend(piece);
            if piece.ends_with(b"\n") || self.rest.len() >= MAX_LINE_BYTES {
                self.flush(&mut line);
            }
        }
    }

    /// Gives what is left to `line`.
    fn flush(&mut self, mut line: impl FnMut(&str)) {
        if !self.rest.is_empty() {
            let text = String::from_utf8_lossy(&self.rest);
            line(text.trim_end_matches(['\n', '\r']));
            self.rest.clear();
        }
    }
}

/// How many of a failed step's last lines are shown where its output was not.
const TAIL_LINES: usize = 20;

/// Shows the last lines of a step that fails, and nothing else.
#[derive(Default)]
struct Quiet {
    tails: HashMap<VertexId, (Lines, VecDeque<String>)>,
}

impl Draw for Quiet {
    fn draw(&mut self, event: &Event<'_>) {
        match event {
            Event::Output { vertex, bytes } => {
                let (lines, tail) = self.tails.entry(*vertex).or_default();
                lines.push(bytes, |line| keep(tail, line));
            }
            Event::Done { vertex, .. } => drop(self.tails.remove(vertex)),
            Event::Failed { vertex, .. } => {
                if let Some((mut lines, mut tail)) = self.tails.remove(vertex) {
                    lines.flush(|line| keep(&mut tail, line));
                    for line in tail {
                        ui::say(&format!("> {}", ui::plain(&line)));
                    }
                }
            }
            Event::Warning { text, .. } => ui::say(&format!("warning: {}", ui::plain(text))),
            _ => {}
        }
    }
}

fn keep(tail: &mut VecDeque<String>, line: &str) {
    if tail.len() == TAIL_LINES {
        tail.pop_front();
    }
    tail.push_back(line.chars().take(1000).collect());
}
