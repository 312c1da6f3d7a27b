//! [`Paced`]: a body that comes in too slowly is one that broke off.

use std::io::{self, Read};
use std::time::{Duration, Instant};

/// So many bytes in a second are as good as none.
const LEAST_BYTES_PER_SEC: u128 = 1 << 10;

/// A body of which at least so much has to come that whoever waits for it sees its end. Only time spent
/// waiting counts: its reader may be as slow as it likes.
pub(super) struct Paced<R> {
    body: R,
    /// For how long it may be too slow.
    patience: Duration,
    waited: Duration,
    /// Bytes that came while it was waited for.
    came: usize,
}

impl<R> Paced<R> {
    pub(super) fn new(body: R, patience: Duration) -> Self {
        Self { body, patience, waited: Duration::ZERO, came: 0 }
    }
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let started = Instant::now();
        let read = self.body.read(buffer)?;
        self.waited += started.elapsed();
        self.came += read;
        if self.waited < self.patience {
            return Ok(read);
        }
        let least = LEAST_BYTES_PER_SEC * self.waited.as_millis() / 1000;
        if read > 0 && (self.came as u128) < least {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it is too slow"));
        }
        (self.waited, self.came) = (Duration::ZERO, 0);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives so many bytes every few milliseconds, so many times.
    struct Drip {
        bytes: usize,
        left: usize,
    }

    impl Read for Drip {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.left == 0 {
                return Ok(0);
            }
            std::thread::sleep(Duration::from_millis(5));
            self.left -= 1;
            let read = self.bytes.min(buffer.len());
            buffer[..read].fill(7);
            Ok(read)
        }
    }

    #[test]
    fn a_drip_is_an_end_and_a_trickle_is_not() {
        let patience = Duration::from_millis(20);
        let read = |bytes, left, patience| {
            let mut body = Paced::new(Drip { bytes, left }, patience);
            io::copy(&mut body, &mut io::sink()).map_err(|err| err.kind())
        };
        assert_eq!(read(0, 0, patience), Ok(0));
        assert_eq!(read(1, 1000, patience), Err(io::ErrorKind::TimedOut));
        assert_eq!(read(4000, 20, patience), Ok(20 * 4000));
        assert_eq!(read(1, 20, Duration::from_mins(1)), Ok(20));
    }
}
