//! How much is done at once, where a machine lets a user or a container have few processes.

use std::num::NonZeroUsize;

use nix::sys::resource::{Resource, getrlimit};

use super::CliError;

/// Where a container sees how many processes it may have.
const CGROUP_FILES: [&str; 2] = ["/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"];
/// Of all processes and threads that are allowed, one in so many is for each kind of work.
const SHARE: usize = 8;

/// How many threads one kind of work may have: one for each core, unless that were too many.
pub(super) fn at_once() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    allowed().map_or(cores, |most| (most / SHARE).clamp(1, cores))
}

/// Keeps the pool of threads small where that is needed; else, it comes when it is first used.
///
/// # Errors
/// [`CliError::Threads`] where not even a small one can be had.
pub(super) fn prepare() -> Result<(), CliError> {
    if allowed().is_none() {
        return Ok(());
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(at_once());
    pool.build_global().map_err(|error| CliError::Threads(std::io::Error::other(error)))
}

/// How many processes and threads there may be, if that is few for the number of cores.
fn allowed() -> Option<usize> {
    let limit = getrlimit(Resource::RLIMIT_NPROC).ok();
    let own = limit.and_then(|(soft, _)| usize::try_from(soft).ok());
    let files = CGROUP_FILES.iter().filter_map(|file| std::fs::read_to_string(file).ok());
    let most = own.into_iter().chain(files.filter_map(|text| text.trim().parse().ok())).min()?;
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    (most < 128 + SHARE * cores).then_some(most)
}
