//! Which ids a user namespace can have: the caller's own as 0, then the subordinate ones.

use super::isolation::IsolationError;

/// The setuid programs that write maps on behalf of plain users, for users and for groups.
pub(super) const MAPPERS: [&str; 2] = ["newuidmap", "newgidmap"];
const FILES: [&str; 2] = ["/etc/subuid", "/etc/subgid"];

/// A run of consecutive ids of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IdRange {
    start: u32,
    count: u32,
}

/// What the caller may map.
#[derive(Debug)]
pub(super) struct Ids {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) uids: Vec<IdRange>,
    pub(super) gids: Vec<IdRange>,
}

impl Ids {
    pub(super) fn of_caller() -> Result<Self, IsolationError> {
        let (uid, gid) = (nix::unistd::Uid::current(), nix::unistd::Gid::current());
        let name = name_of(uid.as_raw());
        let read = |file: &'static str| {
            let text = std::fs::read(file).unwrap_or_default();
            let ranges = ranges(&String::from_utf8_lossy(&text), name.as_deref(), uid.as_raw());
            if ranges.is_empty() {
                let user = name.clone().unwrap_or_else(|| uid.to_string());
                return Err(IsolationError::NoSubordinateIds { user, file });
            }
            Ok(ranges)
        };
        Ok(Self {
            uid: uid.as_raw(),
            gid: gid.as_raw(),
            uids: read(FILES[0])?,
            gids: read(FILES[1])?,
        })
    }

    /// How many users there can be, root included.
    pub(super) fn count(&self) -> u32 {
        self.uids.iter().fold(1, |sum: u32, range| sum.saturating_add(range.count))
    }
}

fn name_of(uid: u32) -> Option<String> {
    // The C library's look-up would load modules, which a static binary can't.
    let passwd = std::fs::read("/etc/passwd").ok()?;
    let text = String::from_utf8_lossy(&passwd);
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// Finds the ranges of a user, by name or number, in the text of a subuid or subgid file.
fn ranges(text: &str, name: Option<&str>, uid: u32) -> Vec<IdRange> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next()?;
            let start = fields.next()?.parse().ok()?;
            let count = fields.next()?.parse().ok().filter(|count| *count > 0)?;
            let owns = Some(owner) == name || owner.parse() == Ok(uid);
            owns.then_some(IdRange { start, count })
        })
        .collect()
}

/// Returns the arguments of a mapper: triples of first id inside, first id outside, count.
pub(super) fn arguments(own: u32, ranges: &[IdRange]) -> Vec<String> {
    let mut arguments = vec!["0".to_owned(), own.to_string(), "1".to_owned()];
    let mut inside = 1u32;
    for range in ranges {
        arguments.extend([inside, range.start, range.count].map(|it| it.to_string()));
        inside = inside.saturating_add(range.count);
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_ranges_by_name_and_number() {
        let text = "ann:100000:65536\nbob:1:2\n1000:300000:10\nann:bad:1\n\nann:5:0\n";
        let found = ranges(text, Some("ann"), 1000);
        assert_eq!(
            found,
            [IdRange { start: 100_000, count: 65_536 }, IdRange { start: 300_000, count: 10 }]
        );
        assert_eq!(ranges(text, None, 7), []);
        assert_eq!(arguments(1000, &found).join(" "), "0 1000 1 1 100000 65536 65537 300000 10");
    }
}
