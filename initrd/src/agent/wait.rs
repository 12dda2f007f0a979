//! Waiting for something with a deadline.

use std::time::{Duration, Instant};

/// How often a condition is looked at that gives no event (a carrier, a file of another process).
const EVERY: Duration = Duration::from_millis(100);

/// Looks until `condition` gives something, or the time is over.
pub fn until<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        let left = deadline.checked_duration_since(Instant::now())?;
        pause(EVERY.min(left));
    }
}

/// Lets time pass between two tries of something that is allowed to fail. Never for synchronisation:
/// what can be waited for is waited for with [`until`].
pub fn pause(time: Duration) {
    std::thread::park_timeout(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_with_the_condition_or_the_time() {
        let mut count = 0;
        let third = until(Duration::from_secs(60), || {
            count += 1;
            (count == 3).then_some(count)
        });
        assert_eq!(third, Some(3));
        let begun = Instant::now();
        assert_eq!(until::<()>(Duration::from_millis(150), || None), None);
        assert!(begun.elapsed() >= Duration::from_millis(150));
    }
}
