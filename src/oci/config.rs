//! [`ImageConfig`]: what an image is made of and how its containers start (image spec, "Image
//! Configuration"), with the fields that Docker adds to it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize};

use super::{DiffId, DocumentError, Platform};

/// An image config. Serialized with its fields in a fixed order, so that equal configs have equal
/// digests; members that mica does not know are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The processor, by Go's `GOARCH`.
    pub architecture: String,
    /// Who made the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// How containers of the image start.
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: ContainerConfig,
    /// When the image was made (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// One entry for each instruction, oldest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub history: Vec<History>,
    /// The operating system, by Go's `GOOS`.
    pub os: String,
    /// The layers.
    pub rootfs: RootFs,
    /// The processor's variant.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Members of the document that mica does not interpret.
    #[serde(flatten)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

/// The layers of an image, by the digests of their uncompressed tars.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Base first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<DiffId>,
}

/// What one instruction did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// When (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Who.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Which builder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether it made no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// How containers of an image start. The field order is Docker's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    /// `user[:group]`, by name or number.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `port/protocol`.
    #[serde(with = "set_as_map", skip_serializing_if = "BTreeSet::is_empty")]
    pub exposed_ports: BTreeSet<String>,
    /// `NAME=value`, in the order in which the names first came.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// What is run, with [`ContainerConfig::cmd`] as its arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// What is run where there is no entrypoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Folders that containers keep outside their layers.
    #[serde(with = "set_as_map", skip_serializing_if = "BTreeSet::is_empty")]
    pub volumes: BTreeSet<String>,
    /// Where the command starts.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Free text by key.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The signal that stops a container.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Docker: the command is one already quoted line. Kept for equality with Docker's configs.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
    /// Docker: how to find out whether a container is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Docker: instructions for who builds on this image.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// Docker: what runs the shell forms.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
}

/// A container's health check. Durations are in nanoseconds; 0 leaves the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, or `CMD` or `CMD-SHELL` and what is run.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Between two checks.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// For one check.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// In which failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between two checks in the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that make a container unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

impl ImageConfig {
    /// The config of an image without layers, for `platform`.
    pub fn scratch(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture.clone(),
            author: None,
            config: ContainerConfig::default(),
            created: None,
            history: Vec::new(),
            os: platform.os.clone(),
            rootfs: RootFs { kind: "layers".into(), diff_ids: Vec::new() },
            variant: platform.variant.clone(),
            extra: BTreeMap::new(),
        }
    }

    /// Reads a config.
    ///
    /// # Errors
    /// [`DocumentError::Json`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        serde_json::from_slice(bytes)
            .map_err(|source| DocumentError::Json { what: "image config", source })
    }

    /// The JSON of this config.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a config of plain strings serializes")
    }

    /// Says that the image runs on `platform`.
    pub fn set_platform(&mut self, platform: &Platform) {
        self.architecture.clone_from(&platform.architecture);
        self.os.clone_from(&platform.os);
        self.variant.clone_from(&platform.variant);
    }

    /// The platform that the image runs on.
    pub fn platform(&self) -> Platform {
        Platform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            variant: self.variant.clone(),
        }
    }
}

impl ContainerConfig {
    /// The value of an environment variable.
    pub fn env(&self, name: &str) -> Option<&str> {
        self.env.iter().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }

    /// Sets an environment variable, in its old place where it has one.
    pub fn set_env(&mut self, name: &str, value: &str) {
        let pair = format!("{name}={value}");
        let same = |old: &&mut String| old.split('=').next() == Some(name);
        match self.env.iter_mut().find(same) {
            Some(old) => *old = pair,
            None => self.env.push(pair),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// Docker writes `null` where a list or map is empty.
fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Configs write a set as a map of `{}`.
mod set_as_map {
    use std::collections::{BTreeMap, BTreeSet};

    use serde::{Deserialize, Deserializer, Serializer};
    use serde_json::{Value, json};

    pub(super) fn serialize<S: Serializer>(
        set: &BTreeSet<String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(set.iter().map(|member| (member, json!({}))))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeSet<String>, D::Error> {
        let map = Option::<BTreeMap<String, Value>>::deserialize(deserializer)?;
        Ok(map.unwrap_or_default().into_keys().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_unknown_members() {
        let text = br#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Cmd":null},
            "rootfs":{"type":"layers","diff_ids":null},"history":null,"moby.x":1}"#;
        let config = ImageConfig::parse(text).expect("valid");
        assert_eq!(config.config, ContainerConfig::default());
        assert_eq!(config.extra["moby.x"], 1);
        let again = ImageConfig::parse(&config.to_bytes()).expect("valid");
        assert_eq!(again, config);
    }

    #[test]
    fn env_is_replaced_in_place() {
        let mut config = ContainerConfig::default();
        for (name, value) in [("A", "1"), ("AB", "2"), ("A", "3")] {
            config.set_env(name, value);
        }
        assert_eq!(config.env, ["A=3", "AB=2"]);
        assert_eq!(config.env("A"), Some("3"));
        assert_eq!(config.env("B"), None);
    }

    #[test]
    fn an_array_is_no_config() {
        assert!(ImageConfig::parse(br#"[{"architecture":"amd64"}]"#).is_err());
    }
}
