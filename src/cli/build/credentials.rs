//! `--secret` and `--ssh`: what a step may be given and nobody else.

use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::csv;
use crate::builder::{Secret, Secrets};
use crate::cli::{CliError, ui};
use crate::ssh::Agents;

/// `id=ID[,src=FILE|,env=NAME][,type=file|env]`, as CSV. Of two with one id, the last counts.
pub(super) fn secrets(given: &[String]) -> Result<Secrets, CliError> {
    // As Docker: what a script leaves empty is nothing.
    let given = given.iter().filter(|text| !text.is_empty());
    given
        .map(|text| {
            let source = Source::parse(text)?;
            let (id, secret) = (source.id.clone(), source.secret());
            // A file that is not there is no surprise for the step that needs it.
            if let Secret::File(path) = &secret {
                let failed = |source| CliError::Read { path: path.clone(), source };
                std::fs::metadata(path).map_err(failed)?;
            }
            Ok((id, secret))
        })
        .collect()
}

/// A `--secret` as written. Its text is in no error: somebody may have put the value there.
#[derive(Debug, Default, PartialEq, Eq)]
struct Source {
    id: String,
    file: Option<String>,
    env: Option<String>,
}

impl Source {
    fn parse(text: &str) -> Result<Self, CliError> {
        let wrong = |why: &str| CliError::Usage(format!("`--secret`: {why}"));
        let how = "write it as id=ID,src=FILE or id=ID,env=NAME";
        let (mut id, mut file, mut env, mut kind) = (None, None, None, None);
        for field in csv::fields(text).map_err(wrong)? {
            let (key, value) = field.split_once('=').ok_or_else(|| wrong(how))?;
            let value = Some(value.to_owned());
            match key.to_ascii_lowercase().as_str() {
                "id" => id = value,
                "src" | "source" => file = value,
                "env" => env = value,
                "type" => kind = value,
                _ => return Err(wrong("it takes id, src, env and type")),
            }
        }
        match kind.as_deref() {
            Some("env") if env.is_none() => env = file.take(),
            None | Some("env" | "file") => {}
            Some(_) => return Err(wrong("there are the types `file` and `env`")),
        }
        let id = id.filter(|id| !id.is_empty()).ok_or_else(|| wrong("it has no id"))?;
        let given = |value: Option<String>| value.filter(|value| !value.is_empty());
        Ok(Self { id, file: given(file), env: given(env) })
    }

    /// A variable wins over a file; without either, the id names one of them.
    fn secret(self) -> Secret {
        let variable = |name: &str| std::env::var_os(name).map(OsStringExt::into_vec);
        match (self.env, self.file) {
            (Some(name), _) => Secret::Value(variable(&name).unwrap_or_else(|| {
                let name = ui::plain(&name);
                ui::say(&format!(
                    "warning: the secret `{}` is empty: the variable `{name}` is not set",
                    ui::plain(&self.id)
                ));
                Vec::new()
            })),
            (None, Some(path)) => Secret::File(PathBuf::from(path)),
            (None, None) => match variable(&self.id) {
                Some(value) => Secret::Value(value),
                None => Secret::File(PathBuf::from(self.id)),
            },
        }
    }
}

/// `ID[=SOCKET]`, `ID=KEY[,KEY…]`; without either, the agent that the environment names.
pub(super) fn ssh(given: &[String]) -> Result<Agents, CliError> {
    let mut agents = Agents::default();
    // As Docker: what a script leaves empty is nothing.
    for text in given.iter().filter(|text| !text.is_empty()) {
        let (id, paths) = text.split_once('=').unwrap_or((text, ""));
        let id = if id.is_empty() { "default" } else { id };
        let mut paths: Vec<PathBuf> =
            paths.split(',').filter(|path| !path.is_empty()).map(PathBuf::from).collect();
        if paths.is_empty() {
            let socket = std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty());
            let socket = socket.ok_or_else(|| {
                let why = "no agent is running: SSH_AUTH_SOCK is not set";
                CliError::Usage(format!("`--ssh {}`: {why}", id.escape_debug()))
            })?;
            paths.push(socket.into());
        }
        agents.add(id, &paths, ui::can_ask())?;
    }
    Ok(agents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, file: Option<&str>, env: Option<&str>) {
        let own = |text: Option<&str>| text.map(str::to_owned);
        let expected = Source { id: "a".to_owned(), file: own(file), env: own(env) };
        assert_eq!(Source::parse(text).ok(), Some(expected), "{text}");
    }

    #[test]
    fn secrets_by_file_and_by_variable() {
        check("id=a", None, None);
        check("id=a,src=/x", Some("/x"), None);
        check("ID=a,Source=/x,type=file", Some("/x"), None);
        check("id=a,env=X", None, Some("X"));
        check("type=env,id=a,src=X", None, Some("X"));
        check("id=a,type=env", None, None);
        check("id=a,src=/x,env=X", Some("/x"), Some("X"));
        check(r#"id=a,"src=/x,y""#, Some("/x,y"), None);
    }

    #[test]
    fn what_is_no_secret_is_refused_without_its_text() {
        for text in [
            "src=hunter2",
            "id=,src=hunter2",
            "hunter2",
            "id=a,hunter2=b",
            "id=a,type=hunter2",
            "id=a,src=\"hunter2",
        ] {
            let error = Source::parse(text).expect_err(text).to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
