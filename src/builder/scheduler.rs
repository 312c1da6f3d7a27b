//! In which order vertices run, and how many at once. It knows nothing of caches or operations.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Condvar, Mutex, PoisonError};

/// Work that waits for other work.
#[derive(Debug)]
pub(super) struct Task<K> {
    /// Its name. Of the tasks that could run, the smallest runs first.
    pub(super) id: K,
    /// The tasks whose results it needs.
    pub(super) needs: Vec<K>,
}

struct State<K, T, E> {
    ready: BTreeSet<K>,
    /// How many results each task still waits for.
    missing: HashMap<K, usize>,
    results: HashMap<K, T>,
    unfinished: usize,
    failure: Option<E>,
}

/// Runs all `tasks`, each once and after those that it needs, at most `jobs` at once, and gives all
/// results, those in `known` included.
///
/// # Errors
/// The first error of a task. Tasks that are at work then are waited for; no others are started.
pub(super) fn run<K, T, E>(
    tasks: &[Task<K>],
    known: HashMap<K, T>,
    jobs: usize,
    work: impl Fn(K, &HashMap<K, T>) -> Result<T, E> + Sync,
) -> Result<HashMap<K, T>, E>
where
    K: Copy + Ord + Hash + Send + Sync,
    T: Clone + Send,
    E: Send,
{
    let mut dependants: HashMap<K, Vec<K>> = HashMap::new();
    let mut missing = HashMap::new();
    for task in tasks {
        let needs: BTreeSet<K> =
            task.needs.iter().copied().filter(|id| !known.contains_key(id)).collect();
        missing.insert(task.id, needs.len());
        for need in needs {
            dependants.entry(need).or_default().push(task.id);
        }
    }
    let ready = missing.iter().filter(|(_, count)| **count == 0).map(|(id, _)| *id).collect();
    let state = State { ready, missing, results: known, unfinished: tasks.len(), failure: None };
    let (state, changed) = (Mutex::new(state), Condvar::new());
    let needs: HashMap<K, &Task<K>> = tasks.iter().map(|task| (task.id, task)).collect();
    std::thread::scope(|scope| {
        let worker = || worker(&state, &changed, &needs, &dependants, &work);
        for number in 0..jobs.min(tasks.len()) {
            let started = std::thread::Builder::new().spawn_scoped(scope, worker);
            // Where threads are scarce, those that there are do all the work.
            if started.is_err() {
                if number == 0 {
                    worker();
                }
                break;
            }
        }
    });
    let state = state.into_inner().unwrap_or_else(PoisonError::into_inner);
    match state.failure {
        Some(failure) => Err(failure),
        None => Ok(state.results),
    }
}

fn worker<K, T, E>(
    state: &Mutex<State<K, T, E>>,
    changed: &Condvar,
    tasks: &HashMap<K, &Task<K>>,
    dependants: &HashMap<K, Vec<K>>,
    work: &(impl Fn(K, &HashMap<K, T>) -> Result<T, E> + Sync),
) where
    K: Copy + Ord + Hash,
    T: Clone,
{
    let mut guard = state.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if guard.unfinished == 0 || guard.failure.is_some() {
            return;
        }
        let Some(id) = guard.ready.pop_first() else {
            guard = changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let inputs = tasks[&id]
            .needs
            .iter()
            .filter_map(|need| Some((*need, guard.results.get(need)?.clone())))
            .collect();
        drop(guard);
        let result = work(id, &inputs);
        guard = state.lock().unwrap_or_else(PoisonError::into_inner);
        guard.unfinished -= 1;
        match result {
            Ok(result) => {
                guard.results.insert(id, result);
                for dependant in dependants.get(&id).into_iter().flatten() {
                    if let Some(count) = guard.missing.get_mut(dependant) {
                        *count -= 1;
                        if *count == 0 {
                            guard.ready.insert(*dependant);
                        }
                    }
                }
            }
            Err(err) => {
                guard.failure.get_or_insert(err);
            }
        }
        changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn task(id: u32, needs: &[u32]) -> Task<u32> {
        Task { id, needs: needs.to_vec() }
    }

    #[test]
    fn inputs_come_first_and_each_task_runs_once() {
        let tasks = [task(3, &[1, 2, 1]), task(1, &[0]), task(2, &[0, 9]), task(0, &[])];
        let runs = AtomicUsize::new(0);
        for jobs in 1..5 {
            let results = run(&tasks, HashMap::from([(9, 100)]), jobs, |id, inputs| {
                runs.fetch_add(1, Ordering::Relaxed);
                Ok::<_, ()>(id + inputs.values().sum::<u32>())
            });
            assert_eq!(results.expect("no failure")[&3], 3 + 1 + 102);
        }
        assert_eq!(runs.into_inner(), 4 * 4);
    }

    #[test]
    fn a_failure_stops_what_has_not_begun() {
        let tasks = [task(0, &[]), task(1, &[0]), task(2, &[1])];
        let result =
            run(&tasks, HashMap::new(), 2, |id, _| if id == 1 { Err("one") } else { Ok(id) });
        assert_eq!(result.map(drop), Err("one"));
    }

    #[test]
    fn independent_tasks_run_at_once() {
        let barrier = std::sync::Barrier::new(3);
        let tasks = [task(0, &[]), task(1, &[]), task(2, &[])];
        let result = run(&tasks, HashMap::new(), 3, |id, _| {
            barrier.wait();
            Ok::<_, ()>(id)
        });
        assert!(result.is_ok());
    }
}
