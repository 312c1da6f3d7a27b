//! What a build tells while it goes on. The library never prints: who asked for the build draws.

use std::time::Duration;

use super::graph::VertexId;
use crate::lint::Finding;

/// One thing that happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A vertex is at work. Its output and its end follow.
    Started {
        /// Which.
        vertex: VertexId,
        /// As people know it: `[build 2/5] RUN make`.
        name: &'a str,
    },
    /// A vertex was found in the cache. Nothing else follows.
    Cached {
        /// Which.
        vertex: VertexId,
        /// As people know it.
        name: &'a str,
    },
    /// What a RUN step wrote, as it came: no whole lines, not always text.
    Output {
        /// Which.
        vertex: VertexId,
        /// At most 64 KiB.
        bytes: &'a [u8],
    },
    /// Something that the user should know and that does not stop the build.
    Warning {
        /// Which vertex, where it concerns one.
        vertex: Option<VertexId>,
        /// One line.
        text: &'a str,
    },
    /// The Dockerfile is understood. Comes once, before anything is built.
    Checked {
        /// What is odd about it.
        findings: &'a [Finding],
    },
    /// A vertex is done.
    Done {
        /// Which.
        vertex: VertexId,
        /// How long it took.
        took: Duration,
    },
    /// A vertex failed; the error itself is what the build returns.
    Failed {
        /// Which.
        vertex: VertexId,
        /// How long it took.
        took: Duration,
    },
}

/// Takes events. Several threads call it at once.
pub trait Progress: Sync {
    /// Something happened.
    fn event(&self, event: &Event<'_>);
}

/// Keeps nothing.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: &Event<'_>) {}
}
