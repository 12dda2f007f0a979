//! How much a machine may say: so many at once, and so many a second after that. Pure: the clock is given.

use std::time::Instant;

/// A bucket that fills with time and is emptied by what is said.
#[derive(Debug, Clone)]
pub struct Allowance {
    most: f64,
    a_second: f64,
    left: f64,
    at: Instant,
}

impl Allowance {
    /// `most` at once, `a_second` in the long run.
    pub fn new(most: u32, a_second: u32, now: Instant) -> Self {
        Self { most: most.into(), a_second: a_second.into(), left: most.into(), at: now }
    }

    /// Takes one; false: nothing is left, it is to be tried later.
    pub fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * self.a_second).min(self.most);
        self.at = now;
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_and_then_a_rate() {
        let begin = Instant::now();
        let mut allowance = Allowance::new(3, 2, begin);
        let at = |seconds: u64, millis: u64| begin + Duration::from_millis(seconds * 1000 + millis);
        let taken: Vec<bool> = (0..5).map(|_| allowance.take(begin)).collect();
        assert_eq!(taken, [true, true, true, false, false]);
        assert!(!allowance.take(at(0, 400)));
        assert!(allowance.take(at(0, 500)));
        assert!(!allowance.take(at(0, 600)));
        let taken: Vec<bool> = (0..4).map(|_| allowance.take(at(100, 0))).collect();
        assert_eq!(taken, [true, true, true, false], "it never holds more than at first");
    }
}
