//! `RUN --mount=…`: mounts as written, and their values once variables are known.
//!
//! See <https://docs.docker.com/reference/dockerfile/#run---mount>. Options are separated by
//! commas as in CSV, and read from left to right: `required` is accepted only behind the `type`
//! that allows it.

use super::ast::Word;
use super::diagnostic::{Diagnostic, quote};
use super::span::Span;
use super::suggest::nearest;

/// A mount as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The whole value of the flag.
    pub word: Word,
    /// The options, in order.
    pub options: Vec<MountOption>,
}

/// One option of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOption {
    /// Which one.
    pub key: MountKey,
    /// Where its name stands.
    pub key_span: Span,
    /// What stands behind the equals sign, where there is one.
    pub value: Option<Word>,
}

/// The options of a mount; each may be written in more than one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MountKey {
    /// `type`.
    Type,
    /// `from`: a stage, image or context; holds no variables.
    From,
    /// `source`, `src`.
    Source,
    /// `target`, `dst`, `destination`.
    Target,
    /// `readonly`, `ro`.
    ReadOnly,
    /// `readwrite`, `rw`.
    ReadWrite,
    /// `required`, of secrets and ssh.
    Required,
    /// `size`, of a tmpfs.
    Size,
    /// `id`, of caches, secrets and ssh.
    Id,
    /// `sharing`, of caches.
    Sharing,
    /// `mode`, in octal.
    Mode,
    /// `uid`.
    Uid,
    /// `gid`.
    Gid,
    /// `env`, of secrets: the variable to put the secret in.
    Env,
}

const KEYS: [(&str, MountKey); 19] = [
    ("type", MountKey::Type),
    ("from", MountKey::From),
    ("source", MountKey::Source),
    ("src", MountKey::Source),
    ("target", MountKey::Target),
    ("dst", MountKey::Target),
    ("destination", MountKey::Target),
    ("readonly", MountKey::ReadOnly),
    ("ro", MountKey::ReadOnly),
    ("readwrite", MountKey::ReadWrite),
    ("rw", MountKey::ReadWrite),
    ("required", MountKey::Required),
    ("size", MountKey::Size),
    ("id", MountKey::Id),
    ("sharing", MountKey::Sharing),
    ("mode", MountKey::Mode),
    ("uid", MountKey::Uid),
    ("gid", MountKey::Gid),
    ("env", MountKey::Env),
];

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum MountType {
    /// Files of the context, a stage or an image.
    #[default]
    Bind,
    /// A folder that outlives the build.
    Cache,
    /// An empty folder in memory.
    Tmpfs,
    /// A secret, as a file or a variable.
    Secret,
    /// The socket of an ssh agent.
    Ssh,
}

const TYPES: [(&str, MountType); 5] = [
    ("bind", MountType::Bind),
    ("cache", MountType::Cache),
    ("tmpfs", MountType::Tmpfs),
    ("secret", MountType::Secret),
    ("ssh", MountType::Ssh),
];

impl MountType {
    /// The name, in lower case.
    pub fn name(self) -> &'static str {
        TYPES.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// Who may use a cache at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sharing {
    /// All at once.
    #[default]
    Shared,
    /// One; others get a cache of their own.
    Private,
    /// One; others wait.
    Locked,
}

const SHARINGS: [(&str, Sharing); 3] =
    [("shared", Sharing::Shared), ("private", Sharing::Private), ("locked", Sharing::Locked)];

/// A mount with all values known; paths and ids are as written, defaults are not filled in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MountSpec {
    /// What is mounted.
    pub kind: MountType,
    /// A stage, image or context.
    pub from: Option<String>,
    /// The path in `from`; for a secret, its id.
    pub source: Option<String>,
    /// Where to; relative to the working folder, if relative.
    pub target: Option<String>,
    /// Whether writing is refused.
    pub read_only: bool,
    /// Whether the lack of the secret or agent fails the build.
    pub required: bool,
    /// The size of a tmpfs in bytes.
    pub size_bytes: Option<u64>,
    /// The id of the cache, secret or agent.
    pub id: Option<String>,
    /// Who may use the cache at the same time, where it is given.
    pub sharing: Option<Sharing>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// The owner.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// The variable to put the secret in.
    pub env: Option<String>,
}

impl Mount {
    /// Parses the value of a `--mount` flag; keys are checked, values are not.
    pub(crate) fn parse(word: Word) -> Result<Self, Diagnostic> {
        let mut options = Vec::new();
        for (field, offset) in fields(&word)? {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (field.as_str(), None),
            };
            let span_of = |start: usize, len: usize| match offset {
                Some(offset) => word.part(offset + start..offset + start + len),
                None => word.span,
            };
            let key_span = span_of(0, key.len());
            let key = known_key(key, value.is_some(), key_span)?;
            let value = value.map(|value| Word {
                text: value.to_owned(),
                span: span_of(field.len() - value.len(), value.len()),
            });
            if let (MountKey::From, Some(value)) = (key, &value)
                && has_variable(&value.text)
            {
                return Err(from_variable("from", value.span));
            }
            options.push(MountOption { key, key_span, value });
        }
        Ok(Self { word, options })
    }

    /// Whether any value holds something to expand.
    pub(crate) fn is_literal(&self) -> bool {
        !self.word.text.contains(['$', '\\', '`', '\'', '"'])
    }

    /// The mount's values, each passed through `expand` first.
    ///
    /// # Errors
    ///
    /// A [`Diagnostic`] for what `expand` refuses, for values that are no number, boolean or name
    /// as they should be, and for options that do not go with the type.
    pub fn resolve(
        &self,
        expand: &mut dyn FnMut(&Word) -> Result<String, Diagnostic>,
    ) -> Result<MountSpec, Diagnostic> {
        let mut spec = MountSpec::default();
        let mut read_only = None;
        for option in &self.options {
            let value = match &option.value {
                Some(word) => Some((expand(word)?, word.span)),
                None => None,
            };
            option.apply(value, &mut spec, &mut read_only)?;
        }
        spec.read_only =
            read_only.unwrap_or(!matches!(spec.kind, MountType::Cache | MountType::Tmpfs));
        self.check(&spec)?;
        Ok(spec)
    }

    fn check(&self, spec: &MountSpec) -> Result<(), Diagnostic> {
        let kind = spec.kind.name();
        let fail =
            |message: String| Err(Diagnostic::error("invalid-mount", self.word.span, message));
        let owned = matches!(spec.kind, MountType::Secret | MountType::Ssh | MountType::Cache);
        for (name, given) in [
            ("mode", spec.mode.is_some()),
            ("uid", spec.uid.is_some()),
            ("gid", spec.gid.is_some()),
        ] {
            if given && !owned {
                return fail(format!("{name} not allowed for `{kind}` mounts"));
            }
        }
        if spec.sharing.is_some() && spec.kind != MountType::Cache {
            return fail(format!("sharing not allowed for `{kind}` mounts"));
        }
        let given = |value: &Option<String>| value.as_ref().is_some_and(|value| !value.is_empty());
        if given(&spec.source) && matches!(spec.kind, MountType::Ssh | MountType::Tmpfs) {
            return fail(format!("source not allowed for `{kind}` mounts"));
        }
        if spec.kind != MountType::Secret {
            return Ok(());
        }
        if given(&spec.from) {
            return fail("secret mount should not have a from".to_owned());
        }
        if !given(&spec.source) && !given(&spec.target) && !given(&spec.id) {
            return fail("invalid secret mount: one of id, source, target required".to_owned());
        }
        if given(&spec.source) && given(&spec.id) {
            return fail("invalid secret mount: both source and id can't be set".to_owned());
        }
        Ok(())
    }
}

impl MountOption {
    fn apply(
        &self,
        value: Option<(String, Span)>,
        spec: &mut MountSpec,
        read_only: &mut Option<bool>,
    ) -> Result<(), Diagnostic> {
        let (text, span) = value.unwrap_or_else(|| ("true".to_owned(), self.key_span));
        let invalid = |what: &str| {
            let message = format!("invalid value for {what}: {}", quote(&text));
            Diagnostic::error("invalid-mount", span, message)
        };
        let allowed = |kinds: &[MountType], kind: MountType, what: &str| {
            let message = format!("unexpected key `{what}` for mount type `{}`", kind.name());
            let error = Diagnostic::error("invalid-mount", self.key_span, message);
            if kinds.contains(&kind) { Ok(()) } else { Err(error) }
        };
        match self.key {
            MountKey::Type => spec.kind = choice(&text, span, "mount type", &TYPES)?,
            MountKey::Sharing => {
                spec.sharing = Some(choice(&text, span, "sharing value", &SHARINGS)?);
            }
            MountKey::ReadOnly => {
                *read_only = Some(boolean(&text).ok_or_else(|| invalid("readonly"))?);
            }
            MountKey::ReadWrite => {
                *read_only = Some(!boolean(&text).ok_or_else(|| invalid("readwrite"))?);
            }
            MountKey::Required => {
                allowed(&[MountType::Secret, MountType::Ssh], spec.kind, "required")?;
                spec.required = boolean(&text).ok_or_else(|| invalid("required"))?;
            }
            MountKey::Size => {
                allowed(&[MountType::Tmpfs], spec.kind, "size")?;
                spec.size_bytes = Some(size(&text).ok_or_else(|| invalid("size"))?);
            }
            MountKey::Mode => spec.mode = Some(number(&text, 8).ok_or_else(|| invalid("mode"))?),
            MountKey::Uid => spec.uid = Some(number(&text, 10).ok_or_else(|| invalid("uid"))?),
            MountKey::Gid => spec.gid = Some(number(&text, 10).ok_or_else(|| invalid("gid"))?),
            MountKey::From => spec.from = Some(text),
            MountKey::Source => spec.source = Some(text),
            MountKey::Target => spec.target = Some(text),
            MountKey::Id => spec.id = Some(text),
            MountKey::Env => spec.env = Some(text),
        }
        Ok(())
    }
}

/// Whether `text` holds a dollar sign with something behind it.
pub(crate) fn has_variable(text: &str) -> bool {
    text.find('$').is_some_and(|at| at + 1 < text.len())
}

/// The error for a variable where a stage must be named.
pub(crate) fn from_variable(name: &str, span: Span) -> Diagnostic {
    let message = format!("variable expansion is not supported for {name}");
    Diagnostic::error("from-variable", span, message)
        .with_hint("name a stage: `FROM $VARIABLE AS name` with a global ARG")
}

/// The options of a mount, and where in the word each starts if it stands there as it is.
fn fields(word: &Word) -> Result<Vec<(String, Option<usize>)>, Diagnostic> {
    let fail = || {
        let message = "failed to parse mount options: a quote is out of place";
        Err(Diagnostic::error("invalid-mount", word.span, message))
    };
    let mut fields = Vec::new();
    let mut rest = word.text.as_str();
    loop {
        let offset = word.text.len() - rest.len();
        let after;
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            let mut tail = quoted;
            loop {
                let Some((part, behind)) = tail.split_once('"') else { return fail() };
                field.push_str(part);
                tail = behind;
                let Some(more) = tail.strip_prefix('"') else { break };
                field.push('"');
                tail = more;
            }
            fields.push((field, None));
            after = tail;
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            if rest[..end].contains('"') {
                return fail();
            }
            fields.push((rest[..end].to_owned(), Some(offset)));
            after = &rest[end..];
        }
        match after.strip_prefix(',') {
            Some(behind) => rest = behind,
            None if after.is_empty() => return Ok(fields),
            None => return fail(),
        }
    }
}

fn known_key(name: &str, has_value: bool, span: Span) -> Result<MountKey, Diagnostic> {
    let lower = name.to_ascii_lowercase();
    let Some((_, key)) = KEYS.iter().find(|(known, _)| *known == lower) else {
        let names: Vec<&str> = KEYS.iter().map(|(name, _)| *name).collect();
        let hint = match nearest(name, &names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known keys: `{}`", names.join("`, `")),
        };
        let message = if has_value {
            format!("unexpected key {} in mount options", quote(name))
        } else {
            format!("invalid field {} in mount options: must be a key=value pair", quote(name))
        };
        return Err(Diagnostic::error("invalid-mount", span, message).with_hint(hint));
    };
    let bare = matches!(key, MountKey::ReadOnly | MountKey::ReadWrite | MountKey::Required);
    if !has_value && !bare {
        let message =
            format!("invalid field {} in mount options: must be a key=value pair", quote(name));
        return Err(Diagnostic::error("invalid-mount", span, message));
    }
    Ok(*key)
}

/// The choice that `text` names, in whatever case.
fn choice<T: Copy>(
    text: &str,
    span: Span,
    what: &str,
    choices: &[(&str, T)],
) -> Result<T, Diagnostic> {
    let lower = text.to_ascii_lowercase();
    choices.iter().find(|(name, _)| *name == lower).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let message = format!("unsupported {what} {}", quote(text));
        let hint = match nearest(text, &names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("use one of `{}`", names.join("`, `")),
        };
        Diagnostic::error("invalid-mount", span, message).with_hint(hint)
    })
}

/// A boolean in the words that Go's `strconv.ParseBool` takes for one.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A number without a sign.
fn number(text: &str, radix: u32) -> Option<u32> {
    u32::from_str_radix(text, radix).ok().filter(|_| !text.starts_with('+'))
}

/// A size like `64m`, `1.5GiB`, `1 kB` or `4096`, in bytes; units are powers of 1024.
pub fn size(text: &str) -> Option<u64> {
    let digits = text.find(|ch: char| !ch.is_ascii_digit() && ch != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let power = match unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit) {
        "" if unit != "ib" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let scale = 1024_u128.pow(power);
    let digits = &fraction[..fraction.len().min(18)];
    let part = if digits.is_empty() {
        0
    } else {
        digits.parse::<u128>().ok()? * scale / 10_u128.pow(u32::try_from(digits.len()).ok()?)
    };
    u64::try_from(u128::from(whole.parse::<u64>().ok()?) * scale + part).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<MountSpec, String> {
        let word = Word { text: text.to_owned(), span: Span::new(0, text.len()) };
        let mount = Mount::parse(word).map_err(|error| error.message)?;
        mount.resolve(&mut |word| Ok(word.text.clone())).map_err(|error| error.message)
    }

    #[test]
    fn options_become_a_spec() {
        let spec =
            resolve("type=cache,id=a,target=/x,sharing=Locked,mode=0750,uid=1,gid=2").unwrap();
        assert_eq!((spec.kind, spec.read_only), (MountType::Cache, false));
        assert_eq!((spec.sharing, spec.mode), (Some(Sharing::Locked), Some(0o750)));
        assert_eq!((spec.uid, spec.gid), (Some(1), Some(2)));
        assert!(resolve("target=/x").unwrap().read_only);
        assert!(!resolve("target=/x,rw").unwrap().read_only);
        assert!(!resolve("TARGET=/x,ro=false").unwrap().read_only);
        assert!(resolve("type=secret,id=a,required").unwrap().required);
        assert_eq!(resolve("type=tmpfs,target=/t,size=1.5k").unwrap().size_bytes, Some(1536));
        assert_eq!(resolve("\"target=/a,b\",ro").unwrap().target.as_deref(), Some("/a,b"));
        assert_eq!(resolve("type=secret,id=a,env=A").unwrap().env.as_deref(), Some("A"));
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("64", Some(64)),
            ("64b", Some(64)),
            ("1k", Some(1024)),
            ("2MB", Some(2 << 20)),
            ("1 GiB", Some(1 << 30)),
            ("1.5m", Some(3 << 19)),
            ("0", Some(0)),
            ("", None),
            ("x", None),
            ("-1", None),
            ("1bb", None),
            ("1ib", None),
            ("1  k", None),
            ("1kk", None),
            ("99999999999999999p", None),
        ] {
            assert_eq!(size(text), expected, "{text}");
        }
    }

    #[test]
    fn wrong_options_are_refused() {
        for (text, message) in [
            ("zzz=1", "unexpected key `zzz`"),
            ("zzz", "must be a key=value pair"),
            ("target", "must be a key=value pair"),
            ("", "must be a key=value pair"),
            ("type=bogus,target=/x", "unsupported mount type `bogus`"),
            ("type=cache,target=/x,sharing=no", "unsupported sharing value `no`"),
            ("target=/x,ro=maybe", "invalid value for readonly: `maybe`"),
            ("target=/x,mode=9", "invalid value for mode: `9`"),
            ("target=/x,uid=+1", "invalid value for uid"),
            ("target=/x,mode=0700", "mode not allowed for `bind` mounts"),
            ("required,type=secret,id=x", "unexpected key `required` for mount type `bind`"),
            ("target=/x,size=1", "unexpected key `size` for mount type `bind`"),
            ("from=$x,target=/x", "variable expansion is not supported for from"),
            ("type=secret", "invalid secret mount"),
            ("type=secret,id=a,src=b", "both source and id"),
            ("type=secret,id=a,from=b", "should not have a from"),
            ("target=/x,sharing=shared", "sharing not allowed"),
            ("type=ssh,source=a", "source not allowed for `ssh` mounts"),
            ("type=tmpfs,target=/x,source=a", "source not allowed for `tmpfs` mounts"),
            ("a\"b", "a quote is out of place"),
            ("\"a", "a quote is out of place"),
        ] {
            let error = resolve(text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
