//! A pace: so many bytes a second, by all who share it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What may be made up for when somebody was late.
const LATE: Duration = Duration::from_millis(20);
/// What goes out at once rather than by a sleep for each.
const AT_ONCE: Duration = Duration::from_millis(1);

#[derive(Debug)]
struct State {
    rate: f64,
    due: Instant,
}

/// A pace that several threads keep together.
#[derive(Debug)]
pub struct Pace(Mutex<State>);

impl Pace {
    /// So many bytes a second.
    pub fn new(rate: u64) -> Self {
        Self(Mutex::new(State { rate: rate.max(1) as f64, due: Instant::now() }))
    }

    /// Another rate from now on.
    pub fn set(&self, rate: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).rate = rate.max(1) as f64;
    }

    /// Waits until so many bytes may go.
    pub fn take(&self, bytes: usize) {
        let wait = self.claim(bytes, Instant::now());
        if wait > AT_ONCE {
            // This is a pace, not a wait for something to happen.
            std::thread::sleep(wait);
        }
    }

    /// Counts bytes that somebody sends by another pace: the others wait for them.
    pub fn spend(&self, bytes: usize) {
        let _ = self.claim(bytes, Instant::now());
    }

    fn claim(&self, bytes: usize, now: Instant) -> Duration {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.due = state.due.max(now.checked_sub(LATE).unwrap_or(now));
        let wait = state.due.saturating_duration_since(now);
        let time = Duration::from_secs_f64(bytes as f64 / state.rate);
        state.due += time;
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_kept() {
        let pace = Pace::new(1_000_000);
        let begin = Instant::now();
        let mut now = begin;
        for _ in 0..1000 {
            now += pace.claim(1000, now);
        }
        let took = (now - begin).as_secs_f64();
        assert!((0.97..1.01).contains(&took), "{took}");
        // Who was away does not make up for all of it.
        now += Duration::from_secs(10);
        let later = now;
        for _ in 0..1000 {
            now += pace.claim(1000, now);
        }
        let took = (now - later).as_secs_f64();
        assert!((0.97..1.01).contains(&took), "{took}");
    }
}
