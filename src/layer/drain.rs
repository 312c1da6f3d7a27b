//! [`Drain`]: a large new file on its way to the disk.

use std::fs::File;
use std::num::NonZeroU64;
use std::ops::Range;

use rustix::fs::{Advice, fadvise};

/// So much is handed to the disk at once.
const STEP_BYTES: u64 = 8 << 20;

/// So far behind, the disk is mostly done.
const BEHIND_BYTES: u64 = 64 << 20;

/// So much of a file stays in memory for whoever reads it next.
const KEPT_BYTES: u64 = 64 << 20;

/// Has the disk take what is written to a new file while more of it comes, so that to flush it in the end
/// takes no longer than it must. A large file does not take all memory meanwhile: what is beyond its
/// beginning makes room once it is on the disk.
#[derive(Debug, Default)]
pub struct Drain {
    /// So far the disk is at work on it.
    begun: u64,
}

impl Drain {
    /// Says that `file` was written up to `position`.
    pub fn up_to(&mut self, file: &File, position: u64) {
        if let Some(Range { start, end }) = self.next(position) {
            // Linux takes this as a reason to begin writing what is not on the disk, and to forget what is.
            let _hint = fadvise(file, start, NonZeroU64::new(end - start), Advice::DontNeed);
        }
    }

    /// What the disk is to take now.
    fn next(&mut self, position: u64) -> Option<Range<u64>> {
        // Something may have been taken back.
        self.begun = self.begun.min(position);
        if position - self.begun < STEP_BYTES {
            return None;
        }
        let behind = self.begun.saturating_sub(BEHIND_BYTES).max(KEPT_BYTES);
        let start = behind.min(self.begun);
        self.begun = position;
        Some(start..position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_goes_to_the_disk_and_the_beginning_stays() {
        let mut drain = Drain::default();
        let (mut begun, mut forgotten_from) = (0, u64::MAX);
        for position in (0..1 << 30).step_by(3 << 20) {
            let Some(range) = drain.next(position) else { continue };
            assert!(range.start <= begun && range.end == position, "{range:?}");
            if range.start < begun {
                forgotten_from = forgotten_from.min(range.start);
            }
            begun = position;
        }
        assert!(begun > (1 << 30) - STEP_BYTES - (3 << 20));
        assert!(
            (KEPT_BYTES..KEPT_BYTES + STEP_BYTES).contains(&forgotten_from),
            "{forgotten_from}"
        );
        assert_eq!(drain.next(5 << 20), None, "what was taken back");
        assert_eq!(drain.next(14 << 20), Some(5 << 20..14 << 20));
    }
}
