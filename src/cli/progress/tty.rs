//! A live view for terminals: what is done stays, what is at work is redrawn below it.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};

use super::{Draw, Lines, TAIL_LINES, keep, ui};
use crate::builder::graph::VertexId;
use crate::builder::progress::Event;

/// How often the clocks of the steps at work move on.
const TICK: Duration = Duration::from_millis(100);

const DIM: Style = Style::new().dimmed();
const BLUE: Style = AnsiColor::Blue.on_default();
const RED: Style = AnsiColor::Red.on_default();

/// Hands events to a thread that draws, so that no step waits for the terminal's pace.
pub(super) struct Live {
    events: Option<Sender<Change>>,
    drawer: Option<JoinHandle<()>>,
}

/// An event that owns what it says.
enum Change {
    Started(VertexId, String),
    Cached(String),
    Output(VertexId, Vec<u8>),
    Warning(String),
    Ended(VertexId, Duration, bool),
}

impl Live {
    pub(super) fn start() -> Self {
        let (events, changes) = mpsc::channel();
        let drawer = std::thread::Builder::new().spawn(move || {
            let mut screen = Screen::default();
            loop {
                match changes.recv_timeout(TICK) {
                    Ok(change) => {
                        screen.apply(change);
                        for change in changes.try_iter() {
                            screen.apply(change);
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                screen.draw();
            }
            screen.draw();
        });
        // Without a thread, nothing is drawn.
        let drawer = drawer.ok();
        Self { events: drawer.as_ref().map(|_| events), drawer }
    }
}

impl Draw for Live {
    fn draw(&mut self, event: &Event<'_>) {
        let change = match event {
            // Listed when all is done.
            Event::Checked { .. } => return,
            Event::Started { vertex, name } => Change::Started(*vertex, (*name).to_owned()),
            Event::Cached { name, .. } => Change::Cached((*name).to_owned()),
            Event::Output { vertex, bytes } => Change::Output(*vertex, bytes.to_vec()),
            Event::Warning { text, .. } => Change::Warning((*text).to_owned()),
            Event::Done { vertex, took } => Change::Ended(*vertex, *took, true),
            Event::Failed { vertex, took } => Change::Ended(*vertex, *took, false),
        };
        if let Some(events) = &self.events {
            // The drawer is gone only where its terminal is.
            drop(events.send(change));
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.events = None;
        if let Some(drawer) = self.drawer.take() {
            drop(drawer.join());
        }
    }
}

#[derive(Default)]
struct Screen {
    working: BTreeMap<VertexId, Working>,
    /// Lines to be written above what is redrawn.
    finished: Vec<String>,
    /// How many lines were drawn the last time.
    drawn: usize,
}

struct Working {
    name: String,
    started: Instant,
    lines: Lines,
    tail: VecDeque<String>,
}

impl Screen {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Started(vertex, name) => {
                let (started, lines, tail) = (Instant::now(), Lines::default(), VecDeque::new());
                self.working.insert(vertex, Working { name, started, lines, tail });
            }
            Change::Cached(name) => {
                self.finished.push(format!("{BLUE}=> CACHED {}{BLUE:#}", ui::plain(&name)));
            }
            Change::Output(vertex, bytes) => {
                if let Some(step) = self.working.get_mut(&vertex) {
                    let tail = &mut step.tail;
                    step.lines.push(&bytes, |line| keep(tail, line));
                }
            }
            Change::Warning(text) => self.finished.push(format!("warning: {}", ui::plain(&text))),
            Change::Ended(vertex, took, well) => {
                let Some(mut step) = self.working.remove(&vertex) else { return };
                let style = if well { BLUE } else { RED };
                let (name, seconds) = (ui::plain(&step.name), took.as_secs_f64());
                self.finished.push(format!("{style}=> {name}{style:#} {seconds:.1}s"));
                if !well {
                    step.lines.flush(|line| keep(&mut step.tail, line));
                    let tail = step.tail.iter().rev().take(TAIL_LINES).rev();
                    self.finished
                        .extend(tail.map(|line| format!("{DIM} > {}{DIM:#}", ui::plain(line))));
                }
            }
        }
    }

    fn draw(&mut self) {
        let (width, height) = rustix::termios::tcgetwinsize(std::io::stderr())
            .map_or((80, 24), |size| (usize::from(size.ws_col), usize::from(size.ws_row)));
        let (width, height) = (width.max(20), height.max(4));
        let mut out = String::new();
        if self.drawn > 0 {
            out.push_str(&format!("\x1b[{}A", self.drawn));
        }
        out.push_str("\r\x1b[J");
        for line in self.finished.drain(..) {
            out.push_str(&line);
            out.push('\n');
        }
        let mut live = Vec::new();
        for step in self.working.values() {
            let seconds = step.started.elapsed().as_secs_f64();
            live.push(cut(&format!("=> {} {seconds:.1}s", ui::plain(&step.name)), width));
            if let Some(line) = step.tail.back() {
                let line = cut(&format!(" > {}", ui::plain(line)), width);
                live.push(format!("{DIM}{line}{DIM:#}"));
            }
        }
        live.truncate(height - 1);
        self.drawn = live.len();
        for line in live {
            out.push_str(&line);
            out.push('\n');
        }
        // Nobody watches where this fails.
        drop(anstream::stderr().lock().write_all(out.as_bytes()));
    }
}

fn cut(text: &str, width: usize) -> String {
    text.chars().take(width.saturating_sub(1)).collect()
}
