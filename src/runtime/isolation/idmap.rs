//! Which ids a user namespace can have: the caller's own as 0, then the subordinate ones; or, for root
//! of a container, those that the container has.

use rustix::thread::CapabilitySet;

use super::IsolationError;

/// The setuid programs that write maps on behalf of plain users, for users and for groups.
pub(super) const MAPPERS: [&str; 2] = ["newuidmap", "newgidmap"];
const FILES: [&str; 2] = ["/etc/subuid", "/etc/subgid"];

/// A run of consecutive ids of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct IdRange {
    start: u32,
    count: u32,
}

/// What the caller may map, and how.
#[derive(Debug)]
pub(super) enum Mapping {
    /// All ids that the caller's own namespace has, each to itself: the text of both maps.
    Own {
        uids: String,
        gids: String,
    },
    Subordinate(Ids),
}

impl Mapping {
    pub(super) fn of_caller() -> Result<Self, IsolationError> {
        let maps = CapabilitySet::SETUID | CapabilitySet::SETGID;
        let held = rustix::thread::capabilities(None).map_err(std::io::Error::from)?;
        if nix::unistd::Uid::effective().is_root() && held.effective.contains(maps) {
            let read = |file: &str| std::fs::read_to_string(file).map(|text| identity(&text));
            let (uids, gids) = (read("/proc/self/uid_map")?, read("/proc/self/gid_map")?);
            return Ok(Self::Own { uids, gids });
        }
        Ids::of_caller().map(Self::Subordinate)
    }

    /// How many users there can be, root included.
    pub(super) fn count(&self) -> u32 {
        match self {
            Self::Own { uids, .. } => uids
                .lines()
                .filter_map(|line| line.split(' ').nth(2)?.parse().ok())
                .fold(0, u32::saturating_add),
            Self::Subordinate(ids) => ids.count(),
        }
    }
}

/// Turns the map of a namespace into that of one inside it with the same ids.
fn identity(map: &str) -> String {
    let mut text = String::new();
    for line in map.lines() {
        let mut words = line.split_ascii_whitespace();
        if let (Some(first), Some(count)) = (words.next(), words.nth(1)) {
            text.push_str(&format!("{first} {first} {count}\n"));
        }
    }
    text
}

/// The ids of a plain user.
#[derive(Debug)]
pub(super) struct Ids {
    uid: u32,
    gid: u32,
    uids: Vec<IdRange>,
    gids: Vec<IdRange>,
}

impl Ids {
    fn of_caller() -> Result<Self, IsolationError> {
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

    fn count(&self) -> u32 {
        self.uids.iter().fold(1, |sum: u32, range| sum.saturating_add(range.count))
    }

    /// What the mappers for users and for groups are to be told.
    pub(super) fn arguments(&self) -> [Vec<String>; 2] {
        [arguments(self.uid, &self.uids), arguments(self.gid, &self.gids)]
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
fn arguments(own: u32, ranges: &[IdRange]) -> Vec<String> {
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
    fn root_of_a_container_maps_what_it_has() {
        let map = "         0     100000      65536\n     65536          7          1\n";
        assert_eq!(identity(map), "0 0 65536\n65536 65536 1\n");
        let mapping = Mapping::Own { uids: identity(map), gids: String::new() };
        assert_eq!(mapping.count(), 65537);
    }

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
