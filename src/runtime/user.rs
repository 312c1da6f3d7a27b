//! Looks a `USER` up in the contents of passwd and group files, as Docker does.
//!
//! Pure: the C library's look-up would read the host's files and load modules. As Docker has it, a
//! number that is missing or is none counts as 0; lines too long to be meant seriously do not count.

/// The largest passwd or group file that is read, in bytes.
pub const FILE_LIMIT: u64 = 10 << 20;
/// The longest line that counts, in bytes: a group line lists its members.
const LINE_LIMIT: usize = 64 << 10;
/// The largest id that Docker accepts, since -1 means "no change" to the kernel.
const ID_LIMIT: u32 = i32::MAX as u32;

/// An identity to run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user's number.
    pub uid: u32,
    /// The primary group's number.
    pub gid: u32,
    /// Supplementary groups, without the primary one.
    pub groups: Vec<u32>,
    /// The home directory: that of the first line with the user's number, `/` where there is none.
    pub home: String,
}

/// A user or group that can't be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// A name without an entry.
    #[error("unable to find user {name}: no matching entries in passwd file")]
    UnknownUser {
        /// The name as given.
        name: String,
    },
    /// A group name without an entry.
    #[error("unable to find group {name}: no matching entries in group file")]
    UnknownGroup {
        /// The name as given.
        name: String,
    },
    /// The file that a look-up needs is not there.
    #[error("unable to find user {user}: there is no {path}")]
    NoFile {
        /// Who is looked up.
        user: String,
        /// The file.
        path: String,
    },
    /// A number that no process can run as.
    #[error("uids and gids must be in range 0-{ID_LIMIT}, not {number}")]
    OutOfRange {
        /// The number as given.
        number: String,
    },
}

/// Resolves `spec` (empty, `user`, `user:group`; names or numbers) in the files' contents.
///
/// Numbers need no entry; where they have one it gives the group, the home and the further groups.
///
/// # Errors
/// A name without an entry, or a number out of range.
pub fn lookup(spec: &str, passwd: &[u8], group: &[u8]) -> Result<User, UserError> {
    let (user, explicit_group) = spec.split_once(':').unwrap_or((spec, ""));
    let user = if user.is_empty() { "0" } else { user };
    let number = numeric(user)?;
    let entry = find(user, number, passwd);
    let (uid, gid) = match (&entry, number) {
        (Some(entry), _) => (entry.uid, entry.gid),
        (None, Some(uid)) => (uid, 0),
        (None, None) => return Err(UserError::UnknownUser { name: user.to_owned() }),
    };
    // As runc, which knows the number alone, and takes what the line says even if that is nothing.
    let home = passwd_lines(passwd).find(|entry| entry.uid == uid).map_or("/", |entry| entry.home);
    let mut found = User { uid, gid, groups: Vec::new(), home: home.to_owned() };
    if !explicit_group.is_empty() {
        found.gid = group_id(explicit_group, group)?;
    } else if let Some(entry) = entry {
        found.groups = groups_of(entry.name, group);
        found.groups.retain(|&id| id != found.gid);
    }
    Ok(found)
}

/// Whether a passwd file has a line for `user`, a name or a number.
pub fn is_listed(user: &str, passwd: &[u8]) -> bool {
    numeric(user).is_ok_and(|number| find(user, number, passwd).is_some())
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn find<'a>(user: &str, number: Option<u32>, passwd: &'a [u8]) -> Option<Entry<'a>> {
    passwd_lines(passwd)
        .find(|entry| number.map_or(entry.name == user, |number| number == entry.uid))
}

fn passwd_lines(file: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    lines(file).filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = id(fields.nth(1));
        let gid = id(fields.next());
        let home = fields.nth(1).unwrap_or_default();
        Some(Entry { name, uid, gid, home })
    })
}

/// Resolves a group name or number in the contents of a group file.
///
/// # Errors
/// A name without an entry, or a number out of range.
pub fn group_id(group: &str, file: &[u8]) -> Result<u32, UserError> {
    if let Some(number) = numeric(group)? {
        return Ok(number);
    }
    group_lines(file)
        .find(|(name, ..)| *name == group)
        .map(|(_, id, _)| id)
        .ok_or_else(|| UserError::UnknownGroup { name: group.to_owned() })
}

fn groups_of(user: &str, file: &[u8]) -> Vec<u32> {
    let mut groups: Vec<u32> = group_lines(file)
        .filter(|(_, _, members)| members.split(',').any(|member| member == user))
        .map(|(_, id, _)| id)
        .collect();
    groups.dedup();
    groups
}

fn group_lines(file: &[u8]) -> impl Iterator<Item = (&str, u32, &str)> {
    lines(file).filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let id = id(fields.nth(1));
        Some((name, id, fields.next().unwrap_or("")))
    })
}

fn id(field: Option<&str>) -> u32 {
    field.and_then(|field| field.parse().ok()).unwrap_or_default()
}

fn lines(file: &[u8]) -> impl Iterator<Item = &str> {
    file.split(|&byte| byte == b'\n')
        .filter(|line| line.len() <= LINE_LIMIT)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// What Go reads as a number is one, even where a user has that name.
fn numeric(text: &str) -> Result<Option<u32>, UserError> {
    let Ok(number) = text.parse::<i64>() else { return Ok(None) };
    match u32::try_from(number) {
        Ok(number) if number <= ID_LIMIT => Ok(Some(number)),
        _ => Err(UserError::OutOfRange { number: text.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nbroken\n# note\n\
        app:x:1000:1001:App,,,:/home/app:/bin/sh\nnohome:x:7:8:::\n4242:x:9:9::/four:/bin/sh\n\
        twin:x:1000:5::/twin:/bin/sh\n";
    const GROUP: &[u8] = b"root:x:0:root\nbin:x:1:root,app\napp:x:1001:app\nwheel:x:10:app,root\n";

    #[track_caller]
    fn check(spec: &str, uid: u32, gid: u32, groups: &[u32], home: &str) {
        let expected = User { uid, gid, groups: groups.to_vec(), home: home.to_owned() };
        assert_eq!(lookup(spec, PASSWD, GROUP), Ok(expected), "{spec}");
    }

    #[test]
    fn resolves_as_docker_does() {
        check("", 0, 0, &[1, 10], "/root");
        check("root", 0, 0, &[1, 10], "/root");
        check("0", 0, 0, &[1, 10], "/root");
        check("app", 1000, 1001, &[1, 10], "/home/app");
        check("1000", 1000, 1001, &[1, 10], "/home/app");
        check("app:bin", 1000, 1, &[], "/home/app");
        check("app:55", 1000, 55, &[], "/home/app");
        check("app:", 1000, 1001, &[1, 10], "/home/app");
        check("77", 77, 0, &[], "/");
        check("77:88", 77, 88, &[], "/");
        check("+77", 77, 0, &[], "/");
        check("nohome", 7, 8, &[], "");
        check("twin", 1000, 5, &[], "/home/app");
        check("4242", 4242, 0, &[], "/");
        check(":wheel", 0, 10, &[], "/root");
        check("broken", 0, 0, &[], "/root");
    }

    #[test]
    fn refuses_what_is_not_there() {
        let name = || "ghost".to_owned();
        assert_eq!(lookup("ghost", PASSWD, GROUP), Err(UserError::UnknownUser { name: name() }));
        assert_eq!(
            lookup("app:ghost", PASSWD, GROUP),
            Err(UserError::UnknownGroup { name: name() })
        );
        for number in ["4294967295", "2147483648", "99999999999999", "-1"] {
            let expected = UserError::OutOfRange { number: number.to_owned() };
            assert_eq!(lookup(number, PASSWD, GROUP), Err(expected));
        }
    }

    #[test]
    fn survives_hostile_files() {
        let endless = vec![b'a'; 1 << 20];
        assert!(lookup("a", &endless, &endless).is_err());
        assert!(lookup("0", b"\xff\xfe:x:0:0", b"").is_ok());
        assert_eq!(lookup("", b"", b"").expect("root needs no file").uid, 0);
    }
}
