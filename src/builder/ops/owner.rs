//! Whom `--chown` and WORKDIR give files to: `user[:group]`, by BuildKit's rules.
//!
//! | user | | group | |
//! |---|---|---|---|
//! | a number | that, and the group of the same number | a number | that |
//! | `root`, or nothing | 0:0 | `root`, or nothing | 0; without the colon, that of the user |
//! | a name | as `/etc/passwd` has it | a name | as `/etc/group` has it |
//! | an unknown name | 0:0, with a warning | an unknown name | that of the user, with a warning |

use std::path::Path;

use super::Work;
use crate::builder::BuildError;
use crate::builder::context::read_small;
use crate::builder::progress::Event;
use crate::runtime::user::{self, UserError};
use crate::runtime::{SandboxError, SetupError};

const PASSWD: &str = "etc/passwd";
const GROUP: &str = "etc/group";

impl Work<'_> {
    /// The numbers of `user[:group]`; `None` for none.
    pub(super) fn owner(&self, text: Option<&str>) -> Result<Option<(u32, u32)>, BuildError> {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let (uid, user_gid) = match number(user) {
            Some(number) => (number, number),
            None => self.named_user(user)?,
        };
        let gid = match group {
            None => user_gid,
            Some(group) => match number(group) {
                Some(number) => number,
                None => self.named_group(group)?.unwrap_or(user_gid),
            },
        };
        Ok(Some((uid, gid)))
    }

    /// Who a step runs as, for the sandbox. As BuildKit: two numbers are not looked up; for all others
    /// there has to be a passwd file, and a group file for who is in it or names a group.
    pub(super) fn step_user(&self, spec: &str) -> Result<String, BuildError> {
        if let Some((uid, gid)) = numbers(spec) {
            return Ok(format!("{uid}:{gid}"));
        }
        let missing = |path: &str| BuildError::Sandbox {
            step: self.vertex.name.clone(),
            source: SandboxError::Setup(SetupError::User {
                source: UserError::NoFile { user: spec.to_owned(), path: format!("/{path}") },
            }),
        };
        if !spec.is_empty() {
            let (user, group) = spec.split_once(':').unwrap_or((spec, ""));
            let passwd = self.read_root(PASSWD, spec)?.ok_or_else(|| missing(PASSWD))?;
            if !group.is_empty() || user::is_listed(user, &passwd) {
                self.read_root(GROUP, spec)?.ok_or_else(|| missing(GROUP))?;
            }
        }
        Ok(spec.to_owned())
    }

    fn named_user(&self, name: &str) -> Result<(u32, u32), BuildError> {
        let passwd = self.read_root(PASSWD, name)?.unwrap_or_default();
        if let Ok(found) = user::lookup(name, &passwd, &[]) {
            return Ok((found.uid, found.gid));
        }
        self.warn(&format!("no user `{name}` in /etc/passwd: its files belong to root"));
        Ok((0, 0))
    }

    fn named_group(&self, name: &str) -> Result<Option<u32>, BuildError> {
        let groups = self.read_root(GROUP, name)?.unwrap_or_default();
        let found = user::group_id(name, &groups).ok();
        if found.is_none() {
            self.warn(&format!("no group `{name}` in /etc/group: its files get the user's group"));
        }
        Ok(found)
    }

    /// A file of the root file system, where there is one.
    fn read_root(&self, path: &str, name: &str) -> Result<Option<Vec<u8>>, BuildError> {
        if self.vertex.root.is_none() {
            let message = format!("`{name}` cannot be looked up: the stage has no files yet");
            return Err(BuildError::Copy(message));
        }
        let view = self.view()?;
        match view.resolve(Path::new(path))?.entry {
            Some(entry) if entry.metadata().is_file() => read_small(&view, &entry).map(Some),
            _ => Ok(None),
        }
    }

    fn warn(&self, text: &str) {
        self.services.progress.event(&Event::Warning { vertex: Some(self.id), text });
    }
}

/// As BuildKit: what is beyond 31 bits is a name, if anything.
fn number(text: &str) -> Option<u32> {
    match text {
        "" | "root" => Some(0),
        digits => digits.parse::<i32>().ok()?.try_into().ok(),
    }
}

/// The numbers of `user:group`, where both are.
fn numbers(spec: &str) -> Option<(u32, u32)> {
    let number = |text: &str| if text == "root" { Some(0) } else { text.parse().ok() };
    let (user, group) = spec.split_once(':')?;
    Some((number(user)?, number(group)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_number() {
        for (text, expected) in [
            ("", Some(0)),
            ("root", Some(0)),
            ("007", Some(7)),
            ("+5", Some(5)),
            ("2147483647", Some(2_147_483_647)),
            ("2147483648", None),
            ("-5", None),
            ("0x10", None),
            ("app", None),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
    }

    #[test]
    fn who_is_not_looked_up() {
        for (text, expected) in [
            ("5:6", Some((5, 6))),
            ("root:7", Some((0, 7))),
            ("5", None),
            ("5:", None),
            (":6", None),
            ("app:6", None),
        ] {
            assert_eq!(numbers(text), expected, "{text}");
        }
    }
}
