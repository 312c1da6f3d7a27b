//! [`State`]: what a stage has come to after some of its instructions.

use super::scope::Scope;
use crate::builder::graph::VertexId;
use crate::oci::{Descriptor, History, ImageConfig, Platform};
use crate::store::Image;

/// Docker's `PATH` where an image has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What histories say of who made an entry. Tools that read histories know this one.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// A stage after some of its instructions.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// The vertex with its files; `None` while there are none.
    pub(super) root: Option<VertexId>,
    pub(super) config: ImageConfig,
    /// The layers that the base image brought.
    pub(super) base_layers: Vec<Descriptor>,
    /// How many entries of the history the base image brought.
    pub(super) base_history: usize,
    pub(super) scope: Scope,
    /// Whether this stage has a CMD, which an ENTRYPOINT then leaves alone.
    pub(super) has_cmd: bool,
}

impl State {
    /// `FROM scratch`.
    pub(super) fn scratch(platform: &Platform) -> Self {
        let mut config = ImageConfig::scratch(platform);
        config.config.working_dir = "/".into();
        Self::of(config, Vec::new(), None)
    }

    /// FROM of an image whose files are the result of `root`.
    pub(super) fn image(image: Image, root: Option<VertexId>) -> Self {
        let layers = image.manifest.layers().to_vec();
        let mut config = image.config;
        config.created = None;
        fit_history(&mut config, layers.len());
        Self::of(config, layers, root)
    }

    fn of(config: ImageConfig, base_layers: Vec<Descriptor>, root: Option<VertexId>) -> Self {
        let base_history = config.history.len();
        let scope = Scope::default();
        Self { root, config, base_layers, base_history, scope, has_cmd: false }
    }

    /// FROM of another stage.
    pub(super) fn inherit(self) -> Self {
        Self { has_cmd: false, ..self }
    }

    /// What happens at every FROM: the variables of the base come into force.
    pub(super) fn begin(&mut self) {
        if self.config.config.env("PATH").is_none() {
            self.config.config.set_env("PATH", DEFAULT_PATH);
        }
        for pair in &self.config.config.env {
            if let Some((name, value)) = pair.split_once('=')
                && !name.is_empty()
            {
                self.scope.set(name, value);
            }
        }
    }

    /// Notes an instruction in the history. When it was done is filled in when the image is made.
    pub(super) fn note(&mut self, created_by: String, makes_layer: bool) {
        self.config.history.push(History {
            created: None,
            created_by: Some(created_by),
            author: None,
            comment: Some(COMMENT.into()),
            empty_layer: !makes_layer,
        });
    }

    /// The folder that relative paths start from, absolute.
    pub(super) fn working_dir(&self) -> &str {
        match self.config.config.working_dir.as_str() {
            "" => "/",
            dir => dir,
        }
    }
}

/// Makes a history of exactly so many layers out of whatever an image says.
fn fit_history(config: &mut ImageConfig, layers: usize) {
    let mut seen = 0;
    for entry in &mut config.history {
        if !entry.empty_layer {
            seen += 1;
            entry.empty_layer = seen > layers;
        }
    }
    for _ in seen..layers {
        config.history.push(History::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histories_are_made_to_fit_their_layers() {
        let check = |empty: &[bool], layers: usize, expected: &[bool]| {
            let mut config = ImageConfig::scratch(&Platform::host());
            let entry = |empty: &bool| History { empty_layer: *empty, ..History::default() };
            config.history = empty.iter().map(entry).collect();
            fit_history(&mut config, layers);
            let found: Vec<bool> = config.history.iter().map(|entry| entry.empty_layer).collect();
            assert_eq!(found, expected);
        };
        check(&[false, true, false], 2, &[false, true, false]);
        check(&[], 2, &[false, false]);
        check(&[false, false, false], 1, &[false, true, true]);
    }
}
