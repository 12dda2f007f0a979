//! A pace: so many bytes a second, by all who share it; those of several may be within one of all of them.

use std::sync::{Arc, Mutex, PoisonError};
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
pub struct Pace {
    own: Mutex<State>,
    within: Option<Arc<Pace>>,
}

impl Pace {
    /// So many bytes a second.
    pub fn new(rate: u64) -> Self {
        Self { own: Mutex::new(State { rate: rate.max(1) as f64, due: Instant::now() }), within: None }
    }

    /// So many bytes a second, of those that all who are within another may send.
    pub fn within(rate: u64, all: &Arc<Pace>) -> Self {
        Self { within: Some(Arc::clone(all)), ..Self::new(rate) }
    }

    /// Another rate from now on.
    pub fn set(&self, rate: u64) {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).rate = rate.max(1) as f64;
    }

    /// Waits until so many bytes may go.
    pub fn take(&self, bytes: usize) {
        let wait = self.claim(bytes, Instant::now());
        if wait > AT_ONCE {
            // This is a pace, not a wait for something to happen.
            std::thread::sleep(wait);
        }
    }

    /// Counts bytes that somebody sends; how long they have to wait. Who sends by another pace need not: the others wait then.
    pub fn claim(&self, bytes: usize, now: Instant) -> Duration {
        let of_all = self.within.as_ref().map_or(Duration::ZERO, |all| all.claim(bytes, now));
        let mut state = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        state.due = state.due.max(now.checked_sub(LATE).unwrap_or(now));
        let wait = state.due.saturating_duration_since(now);
        let time = Duration::from_secs_f64(bytes as f64 / state.rate);
        state.due += time;
        wait.max(of_all)
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

    #[test]
    fn several_keep_one_together() {
        let all = Arc::new(Pace::new(1_000_000));
        let each = [Pace::within(1_000_000, &all), Pace::within(700_000, &all)];
        let begin = Instant::now();
        let mut now = begin;
        for _ in 0..500 {
            now += each.each_ref().map(|pace| pace.claim(1000, now)).into_iter().max().unwrap_or_default();
        }
        let took = (now - begin).as_secs_f64();
        assert!((0.97..1.01).contains(&took), "{took}");
        // One alone has its own.
        let later = now;
        for _ in 0..700 {
            now += each[1].claim(1000, now);
        }
        let took = (now - later).as_secs_f64();
        assert!((0.97..1.01).contains(&took), "{took}");
    }
}
