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
use crate::runtime::user;

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

    fn named_user(&self, name: &str) -> Result<(u32, u32), BuildError> {
        let passwd = self.read_root("etc/passwd", name)?;
        if let Ok(found) = user::lookup(name, &passwd, &[]) {
            return Ok((found.uid, found.gid));
        }
        self.warn(&format!("no user `{name}` in /etc/passwd: its files belong to root"));
        Ok((0, 0))
    }

    fn named_group(&self, name: &str) -> Result<Option<u32>, BuildError> {
        let groups = self.read_root("etc/group", name)?;
        let found = user::group_id(name, &groups).ok();
        if found.is_none() {
            self.warn(&format!("no group `{name}` in /etc/group: its files get the user's group"));
        }
        Ok(found)
    }

    /// A file of the root file system; empty where there is none.
    fn read_root(&self, path: &str, name: &str) -> Result<Vec<u8>, BuildError> {
        if self.vertex.root.is_none() {
            let message = format!("`{name}` cannot be looked up: the stage has no files yet");
            return Err(BuildError::Copy(message));
        }
        let view = self.view()?;
        match view.resolve(Path::new(path))?.entry {
            Some(entry) if entry.metadata().is_file() => read_small(&view, &entry),
            _ => Ok(Vec::new()),
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
}
