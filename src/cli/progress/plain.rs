//! Stable lines for pipes and CI: `#3 [2/4] RUN make`, `#3 0.52 compiling`, `#3 DONE 0.6s`.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::time::Instant;

use super::{Draw, Lines, ui};
use crate::builder::graph::VertexId;
use crate::builder::progress::Event;

/// Numbers steps in the order in which they begin.
pub(super) struct Plain {
    steps: HashMap<VertexId, Step>,
    next: usize,
    /// Whether control characters must be kept from the reader.
    terminal: bool,
}

struct Step {
    number: usize,
    started: Instant,
    lines: Lines,
}

impl Plain {
    pub(super) fn start() -> Self {
        Self { steps: HashMap::new(), next: 1, terminal: std::io::stderr().is_terminal() }
    }

    fn begin(&mut self, vertex: VertexId, name: &str) -> usize {
        let number = self.next;
        self.next += 1;
        ui::say(&format!("#{number} {}", ui::plain(name)));
        let step = Step { number, started: Instant::now(), lines: Lines::default() };
        self.steps.insert(vertex, step);
        number
    }

    fn output(&mut self, vertex: VertexId, bytes: &[u8]) {
        let Some(step) = self.steps.get_mut(&vertex) else { return };
        let (number, seconds) = (step.number, step.started.elapsed().as_secs_f64());
        let terminal = self.terminal;
        // What a step writes goes on as it is, unless a terminal would obey it.
        step.lines.push(bytes, |line| say_line(number, seconds, line, terminal));
    }

    fn end(&mut self, vertex: VertexId, how: &str) {
        let Some(mut step) = self.steps.remove(&vertex) else { return };
        let (number, seconds) = (step.number, step.started.elapsed().as_secs_f64());
        step.lines.flush(|line| say_line(number, seconds, line, self.terminal));
        ui::say(&format!("#{number} {how} {seconds:.1}s\n"));
    }
}

fn say_line(number: usize, seconds: f64, line: &str, terminal: bool) {
    let line = if terminal { ui::plain(line) } else { line.to_owned() };
    let mut err = std::io::stderr().lock();
    // Nobody listens where this fails.
    drop(writeln!(err, "#{number} {seconds:.3} {line}"));
}

impl Draw for Plain {
    fn draw(&mut self, event: &Event<'_>) {
        match event {
            Event::Started { vertex, name } => drop(self.begin(*vertex, name)),
            Event::Cached { vertex, name } => {
                let number = self.begin(*vertex, name);
                self.steps.remove(vertex);
                ui::say(&format!("#{number} CACHED\n"));
            }
            Event::Output { vertex, bytes } => self.output(*vertex, bytes),
            Event::Warning { text, .. } => ui::say(&format!("warning: {}", ui::plain(text))),
            // Listed when all is done.
            Event::Checked { .. } => {}
            Event::Done { vertex, .. } => self.end(*vertex, "DONE"),
            Event::Failed { vertex, .. } => self.end(*vertex, "FAILED"),
        }
    }
}
