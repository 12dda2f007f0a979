//! How fast a group is sent to, and who is too slow for it: decided from what its members lose, purely.
//!
//! What all lose may be a wire that is bad, or one that is full. Which it is shows when less is sent for a moment: from a full
//! one less is lost then. What one alone loses is its own: it gets its blocks over a channel of its own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::carousel::Id;

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Datagrams that say nothing yet.
const FEW: u64 = 200;
/// What all may lose without being looked into.
const SHARED: f64 = 0.10;
/// How long less is sent to see what comes of it.
const TRY: Duration = Duration::from_millis(750);
/// By how much, of the most, it goes up again each second.
const RISE: f64 = 0.05;
/// The least, of the most.
const LEAST: f64 = 0.02;
/// Who loses so much more than the others, and so much altogether, so many times, is too slow.
const APART: f64 = 0.20;
const ALONE: f64 = 0.30;
const TIMES: u32 = 3;

#[derive(Debug, Default)]
struct Seen {
    highest: u64,
    received: u64,
    /// At the last look.
    at: Option<(u64, u64)>,
    loss: f64,
    /// How often it was too slow, one after another.
    slow: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// As fast as may be.
    Steady,
    /// Less, since then, because so much was lost.
    Trying(Instant, f64),
    /// The wire was full: carefully up again.
    Rising(Instant),
}

/// The rate of a group.
#[derive(Debug)]
pub struct Control {
    most: f64,
    rate: f64,
    phase: Phase,
    /// What all may lose: more where the wire is just bad.
    borne: f64,
    looked: Instant,
    seen: BTreeMap<Id, Seen>,
}

impl Control {
    /// At most so many bytes a second.
    pub fn new(most: u64, now: Instant) -> Self {
        let most = most as f64;
        Self { most, rate: most, phase: Phase::Steady, borne: SHARED, looked: now, seen: BTreeMap::new() }
    }

    /// Bytes a second.
    pub fn rate(&self) -> u64 {
        self.rate as u64
    }

    /// What somebody reported: the largest number it has seen, and how many datagrams came.
    pub fn report(&mut self, id: Id, highest: u64, received: u64) {
        let seen = self.seen.entry(id).or_default();
        seen.highest = seen.highest.max(highest);
        seen.received = seen.received.max(received);
    }

    /// Somebody has left.
    pub fn leave(&mut self, id: Id) {
        self.seen.remove(&id);
    }

    /// Looks, if it is time; returns who is too slow for the group.
    pub fn look(&mut self, now: Instant) -> Vec<Id> {
        let since = now.saturating_duration_since(self.looked);
        if since < LOOK {
            return Vec::new();
        }
        self.looked = now;
        let mut losses = Vec::new();
        for seen in self.seen.values_mut() {
            let Some((highest, received)) = seen.at else {
                seen.at = (seen.received > 0).then_some((seen.highest, seen.received));
                continue;
            };
            let (sent, came) = (seen.highest - highest, seen.received.saturating_sub(received));
            if sent < FEW {
                continue;
            }
            seen.at = Some((seen.highest, seen.received));
            seen.loss = 1.0 - (came as f64 / sent as f64).min(1.0);
            losses.push(seen.loss);
        }
        losses.sort_by(f64::total_cmp);
        // Of two, the better one.
        let Some(shared) = losses.get(losses.len().saturating_sub(1) / 2).copied() else { return Vec::new() };
        self.follow(shared, since, now);
        let mut slow = Vec::new();
        let several = self.seen.len() > 1;
        for (id, seen) in &mut self.seen {
            let is_slow = several && seen.loss > ALONE && seen.loss > shared + APART;
            seen.slow = if is_slow { seen.slow + 1 } else { 0 };
            if seen.slow >= TIMES {
                slow.push(*id);
            }
        }
        slow
    }

    fn follow(&mut self, shared: f64, since: Duration, now: Instant) {
        match self.phase {
            Phase::Trying(began, before) => {
                if now.saturating_duration_since(began) < TRY {
                    return;
                }
                if shared < before * 0.5 {
                    self.phase = Phase::Rising(now);
                } else {
                    // It is lost at any rate.
                    (self.phase, self.rate, self.borne) = (Phase::Steady, self.most, shared.max(before) + SHARED);
                }
            }
            _ if shared > self.borne => {
                self.rate = (self.rate * (1.0 - shared) * 0.95).max(self.most * LEAST);
                self.phase = Phase::Trying(now, shared);
            }
            Phase::Rising(_) => {
                self.rate += self.most * RISE * since.as_secs_f64();
                if self.rate >= self.most {
                    (self.rate, self.phase) = (self.most, Phase::Steady);
                }
            }
            Phase::Steady => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends for some seconds to members who lose what `lose` says for a rate.
    fn run(control: &mut Control, seconds: u64, members: &[Id], lose: &dyn Fn(Id, f64) -> f64) -> Vec<Id> {
        let mut now = control.looked;
        let mut state: BTreeMap<Id, (u64, f64)> = BTreeMap::new();
        for id in members {
            let seen = control.seen.get(id).map_or((0, 0.0), |seen| (seen.highest, seen.received as f64));
            state.insert(*id, seen);
        }
        let mut slow = Vec::new();
        for _ in 0..seconds * 4 {
            now += LOOK;
            for id in members {
                let Some((highest, received)) = state.get_mut(id) else { continue };
                let sent = control.rate / 1400.0 / 4.0;
                *highest += sent as u64;
                *received += sent * (1.0 - lose(*id, control.rate));
                control.report(*id, *highest, *received as u64);
            }
            slow.extend(control.look(now));
        }
        slow
    }

    #[test]
    fn a_bad_wire_does_not_slow_it_down() {
        for loss in [0.0, 0.05, 0.2] {
            let mut control = Control::new(25_000_000, Instant::now());
            assert!(run(&mut control, 10, &[1, 2, 3], &|_, _| loss).is_empty());
            assert_eq!(control.rate(), 25_000_000, "{loss}");
        }
    }

    #[test]
    fn a_full_wire_does() {
        let mut control = Control::new(25_000_000, Instant::now());
        let full = |_: Id, rate: f64| (1.0 - 10_000_000.0 / rate).max(0.0);
        assert!(run(&mut control, 20, &[1, 2, 3], &full).is_empty());
        let rate = control.rate();
        assert!((8_000_000..13_000_000).contains(&rate), "{rate}");
        // It becomes free again.
        run(&mut control, 20, &[1, 2, 3], &|_, _| 0.0);
        assert_eq!(control.rate(), 25_000_000);
    }

    #[test]
    fn one_that_is_slow_slows_nobody() {
        let mut control = Control::new(25_000_000, Instant::now());
        let lose = |id: Id, _: f64| if id == 2 { 0.8 } else { 0.01 };
        let slow = run(&mut control, 3, &[1, 2, 3], &lose);
        assert_eq!(slow.first(), Some(&2));
        assert!(slow.iter().all(|id| *id == 2));
        assert_eq!(control.rate(), 25_000_000);
        // Of two the slower one.
        let mut control = Control::new(25_000_000, Instant::now());
        assert_eq!(run(&mut control, 3, &[1, 2], &lose).first(), Some(&2));
    }
}
