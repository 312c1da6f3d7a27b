//! Git repositories: which commit a name means, and the files of a commit.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, chmodat, fchmod, unlinkat};

use super::program::{Ended, Git, Protocols};
use super::{FetchError, Fetcher, GitUrl, make_dir};
use crate::oci::Digest;
use crate::snapshot::{Handle, Timestamp, Walk, WalkEvent, remove_tree};

/// What is wanted of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitSource {
    /// The repository, the ref, the checksum and the folder.
    pub url: GitUrl,
    /// Whether `.git` stays.
    pub keep_git_dir: bool,
    /// Whether submodules are fetched.
    pub submodules: bool,
}

/// What a name of a repository means now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// The commit.
    pub commit: String,
    /// What the name itself means: the commit, or the annotated tag that names it.
    pub object: String,
    /// The whole name: `refs/heads/main`; `None` for a commit that was named itself.
    pub reference: Option<String>,
}

impl GitSource {
    /// What a URL asks for, with what it leaves open.
    pub fn new(url: GitUrl) -> Self {
        let keep_git_dir = url.keep_git_dir.unwrap_or(false);
        let submodules = url.submodules.unwrap_or(true);
        Self { url, keep_git_dir, submodules }
    }

    /// The folder in the repository, as the names that lead to it.
    pub fn folder(&self) -> Vec<&OsStr> {
        let mut names = Vec::new();
        for part in Path::new(self.url.subdir.as_deref().unwrap_or_default()).components() {
            match part {
                Component::Normal(name) => names.push(name),
                // As BuildKit: nothing is above the repository.
                Component::ParentDir => drop(names.pop()),
                _ => {}
            }
        }
        names
    }

    fn keeps_git_dir(&self) -> bool {
        // As BuildKit: a folder of a repository is no repository.
        self.keep_git_dir && self.folder().is_empty()
    }
}

/// Whether a text is the whole name of a commit.
fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64)
        && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl Fetcher<'_> {
    /// Which commit a source means now. The server is asked, but for one that names its commit.
    ///
    /// # Errors
    /// [`FetchError`].
    pub fn pin(&self, source: &GitSource) -> Result<Pinned, FetchError> {
        let url = &source.url;
        if let Some(checksum) = &url.checksum
            && (checksum.is_empty() || !checksum.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Err(FetchError::GitChecksum(checksum.clone()));
        }
        let pinned = match url.reference.as_deref() {
            Some(name) if is_commit(name) => {
                let commit = name.to_owned();
                Pinned { object: commit.clone(), commit, reference: None }
            }
            _ => self.ask_remote(url)?,
        };
        match &url.checksum {
            Some(expected)
                if ![&pinned.commit, &pinned.object]
                    .iter()
                    .any(|id| id.starts_with(expected.to_lowercase().as_str())) =>
            {
                Err(FetchError::Commit { expected: expected.clone(), found: pinned.commit })
            }
            _ => Ok(pinned),
        }
    }

    fn ask_remote(&self, url: &GitUrl) -> Result<Pinned, FetchError> {
        let name = url.reference.as_deref().unwrap_or("HEAD");
        let peeled = format!("{name}^{{}}");
        let git = self.git(url)?;
        let args = ["ls-remote", "--symref", "--", &url.remote, name, &peeled].map(OsStr::new);
        let listed = git.run("read the refs of", Protocols::Remote, &args)?;
        let listed = String::from_utf8_lossy(&listed);
        let lines: Vec<(&str, &str)> =
            listed.lines().filter_map(|line| line.split_once('\t')).collect();
        let find = |wanted: &str| {
            let found = lines.iter().find(|(id, name)| *name == wanted && is_commit(id));
            found.map(|(id, _)| (*id).to_owned())
        };
        let no_ref =
            || FetchError::NoRef { remote: url.remote.clone(), reference: name.to_owned() };
        if name == "HEAD" {
            let branch = lines.iter().find_map(|(target, _)| target.strip_prefix("ref: "));
            let reference = branch.unwrap_or("HEAD").to_owned();
            let commit = find("HEAD").ok_or_else(no_ref)?;
            return Ok(Pinned { object: commit.clone(), commit, reference: Some(reference) });
        }
        // As BuildKit: a whole name, then a branch, then a tag.
        let short = |folder: &str| format!("{folder}{}", name.strip_prefix(folder).unwrap_or(name));
        for reference in [short("refs/"), short("refs/heads/"), short("refs/tags/")] {
            if let Some(object) = find(&reference) {
                let commit = find(&format!("{reference}^{{}}")).unwrap_or_else(|| object.clone());
                return Ok(Pinned { commit, object, reference: Some(reference) });
            }
        }
        Err(no_ref())
    }

    /// Puts the files of a pinned commit at `target`, which is made, and tells when it was committed.
    /// Files have mode 644 or 755 and the commit's time.
    ///
    /// # Errors
    /// [`FetchError`]. Nothing is at `target` then.
    pub fn checkout(
        &self,
        source: &GitSource,
        pinned: &Pinned,
        target: &Path,
    ) -> Result<i64, FetchError> {
        let git = self.git(&source.url)?;
        let (repository, _lock) = self.repository(&git, &pinned.commit)?;
        bring(&git, &repository, pinned)?;
        let time = commit_time(&git, &repository, &pinned.commit)?;
        let tree = self.fresh("checkout")?;
        make_dir(&tree)?;
        // Submodules need a repository around them. One of their own, so that what a commit says of
        // them is never mixed up with what another said.
        let submodules = source.submodules && has_submodules(&git, &repository, &pinned.commit)?;
        let result = if source.keeps_git_dir() || submodules {
            clone(&git, &repository, pinned, &tree)
        } else {
            check_out(&git, &repository, pinned, &tree)
        };
        let result = result
            .and_then(|()| if submodules { update_submodules(&git, &tree) } else { Ok(()) })
            .and_then(|()| {
                let tidied = tidy(&tree, source.keeps_git_dir(), time);
                tidied.map_err(FetchError::io("read", &tree))?;
                let folder = subdir(source, &tree)?;
                fs::rename(&folder, target).map_err(FetchError::io("move", &folder))
            });
        // What is left of it goes with the scratch folder, if it does not go now.
        let _removed = Handle::open(&self.scratch)
            .and_then(|dir| remove_tree(&dir, tree.file_name().unwrap_or_default()));
        result.map(|()| time)
    }

    fn git<'g>(&'g self, url: &'g GitUrl) -> Result<Git<'g>, FetchError> {
        let home = self.scratch.join("home");
        make_dir(&home)?;
        let dir = self.dir.join("git");
        make_dir(&dir)?;
        let known_hosts = dir.join("known_hosts");
        let authorization = self
            .git_authorization(url)?
            .map(|value| (token_scope(&url.remote).to_owned(), format!("Authorization: {value}")));
        let cancelled = &self.cancelled;
        Ok(Git { remote: &url.remote, home, known_hosts, authorization, cancelled })
    }

    fn git_authorization(&self, url: &GitUrl) -> Result<Option<String>, FetchError> {
        if !url.remote.starts_with("http") {
            return Ok(None);
        }
        for place in [format!(".{}", url.host), String::new()] {
            if let Some(header) = self.secret(&format!("GIT_AUTH_HEADER{place}"))? {
                return Ok(Some(header));
            }
            if let Some(token) = self.secret(&format!("GIT_AUTH_TOKEN{place}"))? {
                return Ok(Some(crate::http::basic("x-access-token", &token)));
            }
        }
        Ok(url.authorization.as_ref().map(|known| known.0.clone()))
    }

    /// The repository on this machine that keeps what was fetched from a remote one, locked.
    fn repository(&self, git: &Git<'_>, commit: &str) -> Result<(PathBuf, File), FetchError> {
        let format = if commit.len() == 64 { "sha256" } else { "sha1" };
        let name = Digest::of(format!("{format} {}", git.remote).as_bytes()).hex();
        let path = self.dir.join("git").join(&name);
        let lock_path = path.with_extension("lock");
        let mut options = OpenOptions::new();
        let lock = options.create(true).truncate(false).write(true).mode(0o600).open(&lock_path);
        let lock = lock.map_err(FetchError::io("open", &lock_path))?;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if self.cancelled.is() => {
                    return Err(FetchError::Cancelled);
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)),
                Err(TryLockError::Error(err)) => {
                    return Err(FetchError::io("lock", &lock_path)(err));
                }
            }
        }
        if !path.join("HEAD").exists() {
            let format = format!("--object-format={format}");
            let args = [
                OsStr::new("init"),
                "-q".as_ref(),
                "--bare".as_ref(),
                format.as_ref(),
                path.as_os_str(),
            ];
            git.run("make a copy of", Protocols::Local, &args)?;
        }
        // We hold the lock: whoever left these is dead.
        for left in ["shallow.lock", "config.lock", "index.lock"] {
            drop(fs::remove_file(path.join(left)));
        }
        Ok((path, lock))
    }
}

/// Fetches a commit, unless it is here: by its own name, else by the ref's, else everything, since
/// not every server serves every question.
fn bring(git: &Git<'_>, repository: &Path, pinned: &Pinned) -> Result<(), FetchError> {
    if has(git, repository, &pinned.object)? {
        return Ok(());
    }
    let object = pinned.object.as_str();
    let reference = pinned.reference.as_deref().unwrap_or(object);
    let everything = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"];
    let ways: [(bool, &[&str]); 4] =
        [(true, &[object]), (true, &[reference]), (false, &[object]), (false, &everything)];
    let mut last = None;
    for (shallow, refs) in ways {
        let mut args = vec![git_dir(repository), "fetch".into(), "-q".into(), "--no-tags".into()];
        if shallow {
            args.push("--depth=1".into());
        } else if repository.join("shallow").exists() {
            args.push("--unshallow".into());
        }
        args.extend(["--force", "--update-head-ok", "--", git.remote].map(OsString::from));
        args.extend(refs.iter().map(OsString::from));
        let args: Vec<&OsStr> = args.iter().map(OsString::as_os_str).collect();
        let ended = git.try_run(Protocols::Remote, &args)?;
        if ended.status.success() && has(git, repository, object)? {
            return Ok(());
        }
        if !ended.status.success() && !may_go_otherwise(&ended) {
            return Err(git.failed("fetch", &ended));
        }
        last = Some(ended);
    }
    match last {
        Some(ended) if !ended.status.success() => Err(git.failed("fetch", &ended)),
        _ => Err(FetchError::NoRef { remote: git.remote.to_owned(), reference: object.to_owned() }),
    }
}

/// Whether a server refused the question, and not the answer.
fn may_go_otherwise(ended: &Ended) -> bool {
    let texts = [
        "shallow",
        "--depth",
        "not our ref",
        "unadvertised object",
        "couldn't find remote ref",
        "no such remote ref",
    ];
    let stderr = ended.stderr.to_lowercase();
    texts.iter().any(|text| stderr.contains(text))
}

fn git_dir(path: &Path) -> OsString {
    let mut arg = OsString::from("--git-dir=");
    arg.push(path);
    arg
}

fn has(git: &Git<'_>, repository: &Path, object: &str) -> Result<bool, FetchError> {
    let commit = format!("{object}^{{commit}}");
    let dir = git_dir(repository);
    let args = [dir.as_os_str(), "cat-file".as_ref(), "-e".as_ref(), commit.as_ref()];
    Ok(git.try_run(Protocols::Local, &args)?.status.success())
}

fn commit_time(git: &Git<'_>, repository: &Path, commit: &str) -> Result<i64, FetchError> {
    let dir = git_dir(repository);
    let args =
        [dir.as_os_str(), "show".as_ref(), "-s".as_ref(), "--format=%ct".as_ref(), commit.as_ref()];
    let out = git.run("read the commit of", Protocols::Local, &args)?;
    Ok(String::from_utf8_lossy(&out).trim().parse().unwrap_or_default())
}

fn has_submodules(git: &Git<'_>, repository: &Path, commit: &str) -> Result<bool, FetchError> {
    let dir = git_dir(repository);
    let file = format!("{commit}:.gitmodules");
    let args = [dir.as_os_str(), "cat-file".as_ref(), "-e".as_ref(), file.as_ref()];
    Ok(git.try_run(Protocols::Local, &args)?.status.success())
}

/// The files of a commit without a repository around them.
fn check_out(
    git: &Git<'_>,
    repository: &Path,
    pinned: &Pinned,
    tree: &Path,
) -> Result<(), FetchError> {
    // An index says what is checked out already, which is nothing.
    drop(fs::remove_file(repository.join("index")));
    let mut work_tree = OsString::from("--work-tree=");
    work_tree.push(tree);
    let dir = git_dir(repository);
    let args = [
        dir.as_os_str(),
        &work_tree,
        "checkout".as_ref(),
        "-q".as_ref(),
        "--force".as_ref(),
        pinned.commit.as_ref(),
        "--".as_ref(),
        tree.as_os_str(),
    ];
    let ended = git.try_run(Protocols::Local, &args)?;
    // A commit without files matches nothing.
    let is_empty = ended.stderr.contains("did not match any file");
    if !ended.status.success() && !is_empty {
        return Err(git.failed("check out", &ended));
    }
    Ok(())
}

/// The files of a commit as a repository of their own, as `git clone --depth=1` makes it.
fn clone(git: &Git<'_>, repository: &Path, pinned: &Pinned, tree: &Path) -> Result<(), FetchError> {
    let own = tree.join(".git");
    let local = |args: &[&OsStr]| git.run("clone", Protocols::Local, args).map(drop);
    let format = if pinned.commit.len() == 64 { "sha256" } else { "sha1" };
    let format = format!("--object-format={format}");
    local(&["init".as_ref(), "-q".as_ref(), format.as_ref(), tree.as_os_str()])?;
    // A name, since only names can be fetched from everywhere.
    let name = format!("refs/mica/{}", pinned.object);
    let bare = git_dir(repository);
    local(&[&bare, "update-ref".as_ref(), name.as_ref(), pinned.object.as_ref()])?;
    let named = pinned.reference.as_deref().filter(|name| name.starts_with("refs/"));
    let refspec = format!("{name}:{}", named.unwrap_or_default());
    let mut from = OsString::from("file://");
    from.push(repository);
    let dir = git_dir(&own);
    let mut work_tree = OsString::from("--work-tree=");
    work_tree.push(tree);
    let in_tree = |args: &[&str], more: &[&OsStr]| {
        let own: [&OsStr; 2] = [&dir, &work_tree];
        let args: Vec<&OsStr> = own
            .into_iter()
            .chain(args.iter().map(OsStr::new))
            .chain(more.iter().copied())
            .collect();
        local(&args)
    };
    let fetch = ["fetch", "-q", "-u", "--no-tags", "--depth=1"];
    in_tree(&fetch, &[&from, refspec.as_ref()])?;
    in_tree(&["checkout", "-q", &pinned.commit], &[])?;
    in_tree(&["remote", "add", "origin", git.remote], &[])?;
    in_tree(&["reflog", "expire", "--all", "--expire=now"], &[])?;
    drop(fs::remove_file(own.join("FETCH_HEAD")));
    Ok(())
}

fn update_submodules(git: &Git<'_>, tree: &Path) -> Result<(), FetchError> {
    let update = ["submodule", "-q", "update", "--init", "--recursive", "--force", "--depth=1"];
    let args: Vec<&OsStr> =
        ["-C".as_ref(), tree.as_os_str()].into_iter().chain(update.map(OsStr::new)).collect();
    let ended = git.try_run(Protocols::Remote, &args)?;
    if ended.status.success() { Ok(()) } else { Err(git.failed("fetch the submodules of", &ended)) }
}

/// Gives all files of a checkout the modes and the time that they have everywhere, and takes away
/// what was only there to get them.
fn tidy(tree: &Path, keep_git_dir: bool, time: i64) -> io::Result<()> {
    let time = Timestamp::from_secs(time);
    let root = Handle::open(tree)?;
    if !keep_git_dir {
        remove_tree(&root, OsStr::new(".git"))?;
    }
    let mut walk = Walk::new(root.try_clone()?)?;
    while let Some(event) = walk.advance()? {
        match event {
            WalkEvent::Enter(_) => fchmod(walk.dir(), Mode::from_raw_mode(0o755))?,
            WalkEvent::Leave => walk.dir().set_own_mtime(time)?,
            // The file by which a submodule finds its repository, which is not here.
            WalkEvent::Leaf(_) if walk.name() == ".git" && !keep_git_dir => {
                unlinkat(walk.dir(), walk.name(), AtFlags::empty())?;
            }
            WalkEvent::Leaf(metadata) => {
                if metadata.is_file() && !walk.path().starts_with(".git") {
                    let mode = if metadata.mode & 0o100 == 0 { 0o644 } else { 0o755 };
                    let mode = Mode::from_raw_mode(mode);
                    chmodat(walk.dir(), walk.name(), mode, AtFlags::empty())?;
                }
                walk.dir().set_mtime(walk.name(), time)?;
            }
        }
    }
    fchmod(&root, Mode::from_raw_mode(0o755))?;
    root.set_own_mtime(time)
}

/// The folder that is wanted. A link on the way is refused: it could lead anywhere.
fn subdir(source: &GitSource, tree: &Path) -> Result<PathBuf, FetchError> {
    let failed = |reason| FetchError::Subdir {
        subdir: source.url.subdir.clone().unwrap_or_default(),
        reason,
    };
    let mut path = tree.to_owned();
    let mut dir = Handle::open(tree).map_err(FetchError::io("open", tree))?;
    for name in source.folder() {
        let found = dir.stat(name).map_err(FetchError::io("read", &path))?;
        match found {
            None => return Err(failed("it is not in the repository")),
            Some(metadata) if !metadata.is_dir() => return Err(failed("it is no folder")),
            Some(_) => {}
        }
        dir = dir.directory(name).map_err(FetchError::io("open", &path))?;
        path.push(name);
    }
    Ok(path)
}

/// Where a token may be sent. As BuildKit: one for a repository on github.com is good for all there,
/// so that submodules can be private too.
fn token_scope(remote: &str) -> &str {
    let all = ["https://github.com/", "https://www.github.com/"];
    all.into_iter().find(|prefix| remote.starts_with(prefix)).unwrap_or(remote)
}
