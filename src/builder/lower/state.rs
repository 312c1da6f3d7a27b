//! [`State`]: what a stage has come to after some of its instructions.

use std::collections::HashMap;

use super::checks::Seen;
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
    /// Where in the config's environment each variable stands.
    env_places: HashMap<String, usize>,
    /// What checks have to remember.
    pub(super) seen: Seen,
}

impl State {
    /// `FROM scratch`.
    pub(super) fn scratch(platform: &Platform) -> Self {
        let mut config = ImageConfig::scratch(platform);
        config.config.working_dir = "/".into();
        let mut state = Self::of(config, Vec::new(), None);
        state.seen.folders = Some(Vec::new());
        state
    }

    /// FROM of an image that is not known: it may hold any variable.
    pub(super) fn unknown(platform: &Platform) -> Self {
        let mut state = Self::scratch(platform);
        state.seen.unknown_base = true;
        state.seen.folders = None;
        state
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
        let env_places = HashMap::new();
        let seen = Seen::default();
        Self { root, config, base_layers, base_history, scope, has_cmd: false, env_places, seen }
    }

    /// FROM of another stage.
    pub(super) fn inherit(self) -> Self {
        Self { has_cmd: false, seen: self.seen.inherit(), ..self }
    }

    /// What happens at every FROM: the variables of the base come into force.
    pub(super) fn begin(&mut self) {
        if self.config.config.env("PATH").is_none() {
            self.config.config.set_env("PATH", DEFAULT_PATH);
        }
        self.env_places.clear();
        for (place, pair) in self.config.config.env.iter().enumerate() {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            self.env_places.entry(name.to_owned()).or_insert(place);
            if !name.is_empty() && pair.len() > name.len() {
                self.scope.set(name, value);
            }
        }
    }

    /// Sets an environment variable of the image, in its old place where it has one.
    pub(super) fn set_env(&mut self, name: &str, value: &str) {
        self.scope.set(name, value);
        let pair = format!("{name}={value}");
        let env = &mut self.config.config.env;
        // The config knows a variable by what stands before the first equals sign.
        let known = name.split('=').next().unwrap_or(name);
        if let Some(place) = self.env_places.get(known).filter(|_| known == name) {
            env[*place] = pair;
        } else {
            self.env_places.entry(known.to_owned()).or_insert(env.len());
            env.push(pair);
        }
    }

    /// About how many bytes a copy takes.
    pub(super) fn size_bytes(&self) -> usize {
        let config = &self.config.config;
        let text = |text: &String| text.len() + 64;
        let history = self.config.history.iter().filter_map(|entry| entry.created_by.as_ref());
        let labels = config.labels.iter().map(|(name, value)| name.len() + value.len() + 128);
        let env = config.env.iter().map(|pair| 2 * text(pair));
        let triggers = config.on_build.iter().map(text);
        let texts = history.map(text).chain(labels).chain(env).chain(triggers);
        texts.sum::<usize>() + self.scope.size_bytes()
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

    /// How many layers there are.
    pub(super) fn layers(&self) -> usize {
        self.config.history.iter().filter(|entry| !entry.empty_layer).count()
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
