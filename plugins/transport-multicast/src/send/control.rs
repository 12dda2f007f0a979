//! How fast a group is sent to, and who is too slow for it: decided from what its members lose, purely.
//!
//! What all lose may be a wire that is bad, or one that is full. Which it is shows when less is sent for a moment: from a full
//! one less is lost then. What one alone loses is its own: it gets its blocks over a channel of its own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::carousel::Id;

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Datagrams that say nothing yet; so few in so long a time are an idle group.
const FEW: u64 = 100;
const IDLE: Duration = Duration::from_secs(2);
/// What all may lose without being looked into, and what is as good as nothing.
const SHARED: f64 = 0.10;
const NOTHING: f64 = 0.02;
/// How long less is sent to see what comes of it.
const TRY: Duration = Duration::from_millis(750);
/// Where the rate is not the site's own word: at first so many bytes a second, and twice as many at each look.
const FIRST: f64 = 2_000_000.0;
/// By how much it goes up at each look: where it is far below what the wire was full at, and where it is near.
const RISE: (f64, f64) = (1.25, 1.03);
const FAR: f64 = 0.8;
/// The least, bytes a second.
const LEAST: f64 = 125_000.0;
/// Nobody has said anything for so long, with so much sent meanwhile: they do not get through any more.
const UNHEARD: Duration = Duration::from_millis(700);
/// Who loses so much more than the others, and so much altogether, so many times, is too slow.
const APART: f64 = 0.20;
const ALONE: f64 = 0.30;
const TIMES: u32 = 8;

#[derive(Debug, Default)]
struct Seen {
    highest: u64,
    received: u64,
    /// At the last look.
    at: Option<(u64, u64)>,
    loss: f64,
    /// At the last look there was something new of it.
    is_new: bool,
    /// How often it was too slow, one after another.
    slow: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// Twice as much at each look, until something is lost.
    Starting,
    /// As fast as may be.
    Steady,
    /// Less, since then, because so much was lost; what arrived and what was sent before, datagrams a second.
    Trying(Instant, f64, f64),
    /// The wire was full: carefully up again.
    Rising,
}

/// The rate of a group.
#[derive(Debug)]
pub struct Control {
    most: f64,
    rate: f64,
    phase: Phase,
    /// What all may lose: more where the wire is just bad.
    borne: f64,
    /// What the wire was full at.
    full: f64,
    looked: Instant,
    /// Between two reports of one member, at most.
    interval: Duration,
    /// The number of the last datagram at the last look, and when somebody was last heard.
    number: u64,
    heard: Instant,
    seen: BTreeMap<Id, Seen>,
}

impl Control {
    /// At most so many bytes a second; at once, if that is the site's own word.
    pub fn new(most: u64, at_once: bool, now: Instant) -> Self {
        let most = most as f64;
        let (rate, phase) = if at_once || most <= FIRST { (most, Phase::Steady) } else { (FIRST, Phase::Starting) };
        Self {
            most,
            rate,
            phase,
            borne: SHARED,
            full: most,
            looked: now,
            interval: Duration::ZERO,
            number: 0,
            heard: now,
            seen: BTreeMap::new(),
        }
    }

    /// How long it takes from one report of a member to the next.
    pub fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
    }

    /// Bytes a second.
    pub fn rate(&self) -> u64 {
        self.rate as u64
    }

    /// What somebody reported: the largest number it has seen, and how many datagrams came.
    pub fn report(&mut self, id: Id, highest: u64, received: u64, now: Instant) {
        self.heard = now;
        let seen = self.seen.entry(id).or_default();
        seen.highest = seen.highest.max(highest);
        seen.received = seen.received.max(received);
    }

    /// Somebody has left.
    pub fn leave(&mut self, id: Id) {
        self.seen.remove(&id);
    }

    /// Looks, if it is time, with the number of the last datagram; returns who is too slow for the group.
    pub fn look(&mut self, number: u64, now: Instant) -> Vec<Id> {
        let since = now.saturating_duration_since(self.looked);
        if since < LOOK {
            return Vec::new();
        }
        let sent = number.saturating_sub(self.number);
        if sent < FEW && since < IDLE && !self.seen.is_empty() {
            return Vec::new();
        }
        (self.looked, self.number) = (now, number);
        if self.seen.is_empty() || sent < FEW {
            self.heard = now;
            return Vec::new();
        }
        if now.saturating_duration_since(self.heard) > UNHEARD.max(self.interval * 3) {
            self.set(self.rate / 2.0);
            (self.phase, self.heard) = (Phase::Rising, now);
            return Vec::new();
        }
        let mut losses = Vec::new();
        for seen in self.seen.values_mut() {
            seen.is_new = false;
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
            seen.is_new = true;
            losses.push(seen.loss);
        }
        losses.sort_by(f64::total_cmp);
        // Of two, the better one.
        let Some(shared) = losses.get(losses.len().saturating_sub(1) / 2).copied() else { return Vec::new() };
        self.follow(shared, sent as f64 / since.as_secs_f64(), now);
        let mut slow = Vec::new();
        // What is lost while the rate itself is in question says nothing of one.
        let several = self.seen.len() > 1 && matches!(self.phase, Phase::Steady | Phase::Rising);
        for (id, seen) in self.seen.iter_mut().filter(|(_, seen)| seen.is_new) {
            let is_slow = several && seen.loss > ALONE && seen.loss > shared + APART;
            seen.slow = if is_slow { seen.slow + 1 } else { 0 };
            if seen.slow >= TIMES {
                slow.push(*id);
            }
        }
        slow
    }

    fn set(&mut self, rate: f64) {
        self.rate = rate.clamp(LEAST.min(self.most), self.most);
    }

    /// Follows what all lose of so many datagrams that are sent in a second.
    fn follow(&mut self, shared: f64, sent: f64, now: Instant) {
        let arrives = sent * (1.0 - shared);
        let less = |control: &mut Self| {
            control.set(control.rate * (1.0 - shared).max(0.05) * 0.9);
            control.phase = Phase::Trying(now, arrives, sent);
        };
        match self.phase {
            Phase::Trying(began, arrived, sent_before) => {
                if now.saturating_duration_since(began) < TRY {
                    return;
                }
                // Of a bad wire as much less arrives as is sent; of a full one no less.
                let fewer = sent / sent_before.max(1.0);
                if arrives > arrived * (1.0 + fewer) / 2.0 {
                    self.full = self.rate;
                    if shared > self.borne { less(self) } else { self.phase = Phase::Rising }
                } else {
                    self.borne = shared + SHARED;
                    self.set(self.rate / fewer.clamp(0.05, 1.0));
                    self.phase = Phase::Rising;
                }
            }
            _ if shared > self.borne => less(self),
            Phase::Starting if shared <= NOTHING => {
                self.set(self.rate * 2.0);
                if self.rate >= self.most {
                    self.phase = Phase::Steady;
                }
            }
            Phase::Starting => self.phase = Phase::Rising,
            Phase::Rising if self.rate >= self.most => self.phase = Phase::Steady,
            Phase::Rising if self.rate < self.full * FAR => self.set(self.rate * RISE.0),
            Phase::Rising => {
                self.set(self.rate * RISE.1);
                self.full = self.full.max(self.rate);
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
        let mut state: BTreeMap<Id, f64> = BTreeMap::new();
        for id in members {
            state.insert(*id, control.seen.get(id).map_or(0.0, |seen| seen.received as f64));
        }
        let (mut slow, mut number) = (Vec::new(), control.number);
        for _ in 0..seconds * 4 {
            now += LOOK;
            let sent = control.rate / 1400.0 / 4.0;
            number += sent as u64;
            for (id, received) in &mut state {
                *received += sent * (1.0 - lose(*id, control.rate));
                control.report(*id, number, *received as u64, now);
            }
            slow.extend(control.look(number, now));
        }
        slow
    }

    #[test]
    fn a_bad_wire_does_not_slow_it_down() {
        for loss in [0.0, 0.05, 0.2, 0.4] {
            let mut control = Control::new(25_000_000, true, Instant::now());
            assert!(run(&mut control, 15, &[1, 2, 3], &|_, _| loss).is_empty());
            assert_eq!(control.rate(), 25_000_000, "{loss}");
        }
    }

    #[test]
    fn a_full_wire_does() {
        for (most, at_once, full) in
            [(25_000_000, true, 10_000_000.0), (1_000_000_000, true, 5_000_000.0), (1_000_000_000, false, 5_000_000.0)]
        {
            let mut control = Control::new(most, at_once, Instant::now());
            let lose = |_: Id, rate: f64| (1.0 - full / rate).max(0.0);
            run(&mut control, 20, &[1, 2, 3], &lose);
            let mut rates = Vec::new();
            for _ in 0..20 {
                run(&mut control, 1, &[1, 2, 3], &lose);
                rates.push(control.rate() as f64 / full);
            }
            rates.sort_by(f64::total_cmp);
            assert!(rates[0] > 0.6 && rates[10] > 0.85 && rates[19] < 1.4, "{most} {at_once}: {rates:?}");
            // It becomes free again.
            run(&mut control, 60, &[1, 2, 3], &|_, _| 0.0);
            assert_eq!(control.rate(), most);
        }
    }

    #[test]
    fn a_rate_that_nobody_named_is_approached() {
        let mut control = Control::new(1_000_000_000, false, Instant::now());
        run(&mut control, 1, &[1], &|_, _| 0.0);
        assert!(control.rate() < 40_000_000);
        run(&mut control, 3, &[1], &|_, _| 0.0);
        assert_eq!(control.rate(), 1_000_000_000);
    }

    #[test]
    fn who_cannot_even_say_that_it_is_too_much_is_sent_less() {
        let mut control = Control::new(1_000_000_000, true, Instant::now());
        control.report(1, 1, 1, control.looked);
        let (mut now, mut number) = (control.looked, 0);
        for _ in 0..80 {
            now += LOOK;
            number += 1_000;
            control.look(number, now);
        }
        assert_eq!(control.rate(), LEAST as u64);
    }

    #[test]
    fn one_that_is_slow_slows_nobody() {
        let mut control = Control::new(25_000_000, true, Instant::now());
        let lose = |id: Id, _: f64| if id == 2 { 0.8 } else { 0.01 };
        let slow = run(&mut control, 4, &[1, 2, 3], &lose);
        assert_eq!(slow.first(), Some(&2));
        assert!(slow.iter().all(|id| *id == 2));
        assert_eq!(control.rate(), 25_000_000);
        // Of two the slower one.
        let mut control = Control::new(25_000_000, true, Instant::now());
        assert_eq!(run(&mut control, 4, &[1, 2], &lose).first(), Some(&2));
    }
}
