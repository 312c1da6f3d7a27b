//! Finds the command and becomes it.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::errno::Errno;

use super::container::path_of;
use super::error::SetupError;
use super::spec::ExecSpec;
use super::user::User;

/// A command, ready for execve: nothing is left to fail but the execution itself.
pub(super) struct Command {
    name: String,
    candidates: Vec<CString>,
    argv: Vec<CString>,
    env: Vec<CString>,
}

impl Command {
    pub(super) fn new(spec: &ExecSpec, user: &User) -> Result<Self, SetupError> {
        let Some(program) = spec.argv.first().filter(|program| !program.is_empty()) else {
            return Err(SetupError::Invalid { reason: "there is no command to run".to_owned() });
        };
        let mut env = Vec::with_capacity(spec.env.len() + 1);
        for (key, value) in &spec.env {
            // The value may be a secret: it is not told.
            let pair = joined(&[key, OsStr::new("="), value]);
            env.push(pair.map_err(|_| SetupError::Invalid {
                reason: format!("the variable `{}` has a NUL byte in it", key.to_string_lossy()),
            })?);
        }
        if !spec.env.iter().any(|(key, _)| key == "HOME") {
            env.push(joined(&[OsStr::new("HOME="), OsStr::new(&user.home)])?);
        }
        let argv = spec.argv.iter().map(|it| joined(&[it])).collect::<Result<_, _>>()?;
        let candidates = if program.as_bytes().contains(&b'/') {
            vec![joined(&[program])?]
        } else {
            let path = path_of(&spec.env);
            let directories = path.as_bytes().split(|&byte| byte == b':');
            directories
                .map(|directory| {
                    let directory = if directory.is_empty() { b"." } else { directory };
                    joined(&[OsStr::from_bytes(directory), OsStr::new("/"), program])
                })
                .collect::<Result<_, _>>()?
        };
        Ok(Self { name: program.to_string_lossy().into_owned(), candidates, argv, env })
    }

    /// Becomes the command; returns why it can't.
    pub(super) fn execute(self) -> SetupError {
        let mut denied = None;
        for candidate in &self.candidates {
            match nix::unistd::execve(candidate, &self.argv, &self.env) {
                Ok(never) => match never {},
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                // As every shell does: one that may not be executed doesn't end the search.
                Err(error) => {
                    denied.get_or_insert(error);
                }
            }
        }
        match denied {
            Some(errno) => SetupError::CommandDenied { command: self.name, errno: errno as i32 },
            None => SetupError::CommandNotFound { command: self.name },
        }
    }
}

fn joined(parts: &[&OsStr]) -> Result<CString, SetupError> {
    let mut text = OsString::new();
    for part in parts {
        text.push(part);
    }
    CString::new(text.into_vec()).map_err(|error| {
        let text = String::from_utf8_lossy(&error.into_vec()).replace('\0', "\\0");
        SetupError::Invalid { reason: format!("`{text}` has a NUL byte in it") }
    })
}
