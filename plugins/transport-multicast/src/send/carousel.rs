//! What is sent next, to a group whose members need different things: decided from what they report, purely.
//!
//! Blocks go round. One that somebody needs is sent once, all its symbols in order; then those who got it say how many symbols
//! they lack, and as many of repair are sent as the worst of them lacks, whichever those were: one symbol mends another loss at
//! each. Who comes later gets what is sent from then on, and the rest when the round comes by again. Nobody is waited for long:
//! who does not report in time gets the block the next time round.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::bits::Bits;
use crate::wire::datagram::repair_symbols;
use crate::wire::message::{Report, numbers};

/// Bytes on their way to the group that not all have confirmed: what a receiver has to keep in memory.
const WINDOW: usize = 24 << 20;
/// How long a block's receivers are waited for, at least and at most; in between, as most of them take.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));
/// So many times as long while there is something else to send.
const LEISURE: u32 = 4;
/// Who says nothing for so long is not waited for at all.
const SILENT: Duration = Duration::from_secs(2);
/// Between two questions how they stand, when there is nothing else to send.
const POLL: Duration = Duration::from_millis(8);
/// After so many blocks of which all symbols there are were not enough for somebody, it gets no more from the group.
const STRIKES: u32 = 4;
/// The last blocks come with as much repair as the others needed: there is nothing to be sent while it is asked for.
const LAST: u32 = 8;
/// And a little more; but no more than so many of a thousand.
const SPARE: u32 = 2;
const SPARE_MAX: f64 = 200.0;

/// A member of the group.
pub type Id = u64;

/// What is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// All symbols of a block's own, and of so many thousand of these so much repair: see [`spare`].
    Source(u32, u16),
    /// Symbols of repair of a block: the first of them (of repair, from 0), and how many.
    Repair(u32, u16, u16),
    /// A question how they stand.
    Poll,
    /// Nothing before so long.
    Wait(Duration),
    /// Nothing until somebody joins or says something.
    Idle,
}

/// A block on its way.
#[derive(Debug)]
struct Burst {
    block: u32,
    bytes: usize,
    /// Numbers of its first and of its last datagram so far.
    begin: u64,
    end: u64,
    sent: Instant,
    /// Symbols of repair were sent too.
    mended: bool,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    source: u16,
    bytes: usize,
    repaired: u16,
}

#[derive(Debug)]
struct Member {
    needs: Bits,
    /// Of blocks of which something came, how many symbols lack.
    lacks: HashMap<u32, u16>,
    /// The largest number of a datagram that it had at its last report.
    highest: u64,
    /// Datagrams before this one were not for it.
    since: u64,
    heard: Instant,
    /// How long after it was sent it says of something that it came.
    lag: Duration,
    /// Blocks one after another of which all that there is was not enough for it.
    strikes: u32,
}

/// The members, what they need, and what is on its way.
#[derive(Debug)]
pub struct Carousel {
    members: BTreeMap<Id, Member>,
    /// How many members need each block.
    wanted: Vec<u32>,
    /// How many blocks somebody needs.
    left: u32,
    open: VecDeque<Burst>,
    /// Blocks on their way, to find them.
    on_way: Bits,
    /// Of blocks that were sent and are still needed: their symbols, bytes, and how many symbols of repair were sent.
    known: HashMap<u32, Known>,
    bytes: usize,
    cursor: u32,
    /// Of a thousand symbols, how many lacked at first, on the average of the last blocks.
    usual: f64,
    polled: Option<Instant>,
    /// Milliseconds between reports.
    interval: Duration,
}

impl Carousel {
    /// For so many blocks, nobody being there yet.
    pub fn new(blocks: u32, interval: Duration) -> Self {
        Self {
            members: BTreeMap::new(),
            wanted: vec![0; blocks as usize],
            left: 0,
            open: VecDeque::new(),
            on_way: Bits::none(blocks),
            known: HashMap::new(),
            bytes: 0,
            cursor: 0,
            usual: 0.0,
            polled: None,
            interval,
        }
    }

    fn want(&mut self, block: u32) {
        if let Some(wanted) = self.wanted.get_mut(block as usize) {
            *wanted += 1;
            self.left += u32::from(*wanted == 1);
        }
    }

    fn unwant(&mut self, block: u32) {
        if let Some(wanted) = self.wanted.get_mut(block as usize) {
            let was = *wanted;
            *wanted = wanted.saturating_sub(1);
            if was == 1 {
                self.left -= 1;
                self.known.remove(&block);
            }
        }
    }

    /// Somebody joins, or says anew what it needs. `number` is that of the next datagram.
    pub fn join(&mut self, id: Id, needs: Bits, number: u64, now: Instant) {
        self.leave(id);
        for block in needs.iter() {
            self.want(block);
        }
        let member = Member {
            needs,
            lacks: HashMap::new(),
            highest: 0,
            since: number,
            heard: now,
            lag: Duration::ZERO,
            strikes: 0,
        };
        self.members.insert(id, member);
    }

    /// Somebody leaves.
    pub fn leave(&mut self, id: Id) {
        if let Some(member) = self.members.remove(&id) {
            for block in member.needs.iter() {
                self.unwant(block);
            }
        }
    }

    /// How many are there that need something.
    pub fn members(&self) -> usize {
        self.members.values().filter(|member| !member.needs.is_empty()).count()
    }

    /// Somebody reports. What it says of blocks that there are not is passed over. Returns the blocks that it has now.
    pub fn report(&mut self, id: Id, report: &Report, now: Instant) -> Vec<u32> {
        let blocks = self.wanted.len() as u32;
        let Some(member) = self.members.get_mut(&id) else { return Vec::new() };
        member.heard = now;
        member.highest = member.highest.max(report.highest);
        let came = self.open.iter().rev().find(|burst| burst.end <= member.highest && burst.begin >= member.since);
        if let Some(burst) = came {
            let lag = now.saturating_duration_since(burst.sent);
            // The smallest of the last: what came earlier was only heard of later.
            member.lag = lag.min(member.lag.max(PATIENCE.0 / 2) * 2);
        }
        let done: Vec<u32> = numbers(&report.done, blocks).filter(|block| member.needs.remove(*block)).collect();
        // What lacks nothing is being written: as good as done.
        let partial = report.partial.iter().copied();
        let written: Vec<u32> = partial
            .clone()
            .filter(|(block, lacks)| *lacks == 0 && member.needs.remove(*block))
            .map(|it| it.0)
            .collect();
        // All that are partial now; what was before is done, or was dropped.
        member.lacks = partial.filter(|(block, _)| member.needs.has(*block)).collect();
        let mut again = Vec::new();
        for block in numbers(&report.dropped, blocks) {
            member.lacks.remove(&block);
            if member.needs.insert(block) {
                again.push(block);
            }
        }
        if !done.is_empty() {
            member.strikes = 0;
        }
        for block in done.iter().chain(&written) {
            self.unwant(*block);
        }
        for block in again {
            self.want(block);
        }
        done
    }

    /// Who gets nothing out of what is sent, whatever is sent.
    pub fn hopeless(&self) -> Vec<Id> {
        self.members.iter().filter(|(_, member)| member.strikes >= STRIKES).map(|(id, _)| *id).collect()
    }

    /// What somebody still needs.
    pub fn needs(&self, id: Id) -> Option<&Bits> {
        self.members.get(&id).map(|member| &member.needs)
    }

    /// The blocks that will probably be sent next, after those on their way.
    pub fn ahead(&self, count: usize) -> Vec<u32> {
        let all = self.wanted.len() as u32;
        if self.left == 0 {
            return Vec::new();
        }
        (0..all).map(|step| (self.cursor + step) % all.max(1)).filter(|block| self.is_due(*block)).take(count).collect()
    }

    fn is_due(&self, block: u32) -> bool {
        self.wanted.get(block as usize).is_some_and(|wanted| *wanted > 0) && !self.on_way.has(block)
    }

    /// What is to be sent now.
    pub fn next(&mut self, now: Instant) -> Next {
        let is_more = self.bytes < WINDOW && !self.ahead(1).is_empty();
        let patience = self.patience() * if is_more { LEISURE } else { 1 };
        let mut index = 0;
        while let Some(burst) = self.open.get(index) {
            match self.judge(burst, patience, now) {
                Verdict::Waits => index += 1,
                Verdict::Lacks(lacks) => {
                    let (block, mended) = (burst.block, burst.mended);
                    self.learn((block, mended), lacks);
                    return self.repair(block, lacks);
                }
                Verdict::Closed => self.close(index),
            }
        }
        if self.bytes < WINDOW
            && let Some(block) = self.ahead(1).first().copied()
        {
            self.cursor = block + 1;
            return match self.lacked(block) {
                Some(lacks) => self.repair(block, lacks),
                None => Next::Source(block, self.foresee(block)),
            };
        }
        if self.open.is_empty() {
            return Next::Idle;
        }
        match self.polled.map(|polled| POLL.saturating_sub(now.saturating_duration_since(polled))) {
            Some(left) if !left.is_zero() => Next::Wait(left),
            _ => {
                self.polled = Some(now);
                Next::Poll
            }
        }
    }

    /// How long it takes most of them to say that something came, and then some.
    fn patience(&self) -> Duration {
        let mut lags: Vec<Duration> = self.members.values().map(|member| member.lag).collect();
        lags.sort_unstable();
        let most = lags.get(lags.len() / 2).copied().unwrap_or_default();
        (most * 2).max(self.interval * 3).clamp(PATIENCE.0, PATIENCE.1)
    }

    /// So much lacked of a block when only its own symbols had been sent.
    fn learn(&mut self, burst: (u32, bool), lacks: u16) {
        let (block, mended) = burst;
        let source = self.known.get(&block).map_or(u16::MAX, |known| known.source);
        if !mended {
            self.usual += (f64::from(lacks) * 1000.0 / f64::from(source.max(1)) - self.usual) / 8.0;
        }
    }

    /// How much repair goes with a block's own symbols: none, but for the last blocks.
    fn foresee(&self, block: u32) -> u16 {
        let is_last = self.left <= LAST + self.open.len() as u32;
        if is_last && !self.known.contains_key(&block) { self.usual.min(SPARE_MAX) as u16 } else { 0 }
    }

    /// The next symbols of repair of a block, a few more than lack.
    fn repair(&self, block: u32, lacks: u16) -> Next {
        let Some(known) = self.known.get(&block) else { return Next::Source(block, 0) };
        let left = repair_symbols(known.source).saturating_sub(known.repaired);
        Next::Repair(block, known.repaired, with_spare(lacks, known.source).min(left))
    }

    /// Of a block that comes round again: how much the worst lacks, if all who need it have the most of it, and there are as many
    /// symbols of repair that nobody has.
    fn lacked(&self, block: u32) -> Option<u16> {
        let known = self.known.get(&block)?;
        let mut most = 0;
        for member in self.members.values().filter(|member| member.needs.has(block)) {
            most = most.max(*member.lacks.get(&block)?);
        }
        let left = repair_symbols(known.source).saturating_sub(known.repaired);
        (most > 0 && most <= left).then_some(most)
    }

    fn close(&mut self, index: usize) {
        let Some(burst) = self.open.remove(index) else { return };
        self.learn((burst.block, burst.mended), 0);
        self.on_way.remove(burst.block);
        self.bytes -= burst.bytes;
        let Some(known) = self.known.get(&burst.block).filter(|known| known.repaired >= repair_symbols(known.source))
        else {
            return;
        };
        // Of all that was sent it got less than a half of what it needs.
        let half = known.source / 2;
        let still =
            |it: &&mut Member| it.highest >= burst.end && it.lacks.get(&burst.block).is_some_and(|lacks| *lacks > half);
        for member in self.members.values_mut().filter(still) {
            member.strikes += 1;
        }
    }

    /// Symbols were sent, with these numbers of datagrams, the first and the last.
    pub fn sent(&mut self, next: Next, (source, bytes): (u16, usize), numbers: (u64, u64), now: Instant) {
        let (block, repaired) = match next {
            Next::Source(block, 0) => (block, None),
            Next::Source(block, per_mille) => (block, Some(spare(source, per_mille))),
            Next::Repair(block, first, count) => (block, Some(first.saturating_add(count))),
            _ => return,
        };
        let known = self.known.entry(block).or_insert(Known { source, bytes, repaired: 0 });
        let all = repair_symbols(known.source);
        // With all of its own symbols, those of repair begin anew.
        known.repaired = repaired.unwrap_or(if known.repaired >= all { 0 } else { known.repaired });
        let bytes = known.bytes;
        if let Some(burst) = self.open.iter_mut().find(|burst| burst.block == block) {
            (burst.end, burst.sent, burst.mended) = (numbers.1, now, true);
        } else {
            let (begin, end) = numbers;
            let mended = repaired.is_some();
            self.open.push_back(Burst { block, bytes, begin, end, sent: now, mended });
            self.on_way.insert(block);
            self.bytes += bytes;
        }
    }

    fn judge(&self, burst: &Burst, patience: Duration, now: Instant) -> Verdict {
        let Some(known) = self.known.get(&burst.block) else { return Verdict::Closed };
        let patient = now.saturating_duration_since(burst.sent) < patience;
        let mut most = 0;
        for member in self.members.values() {
            if member.since > burst.begin || !member.needs.has(burst.block) {
                continue;
            }
            if member.highest < burst.end {
                if patient && now.saturating_duration_since(member.heard) < SILENT {
                    return Verdict::Waits;
                }
                continue;
            }
            // Of whom nothing came, or who had no room for it, gets it the next time round.
            if let Some(lacks) = member.lacks.get(&burst.block) {
                // No more than that can lack, whatever it says.
                most = most.max((*lacks).min(known.source));
            }
        }
        let left = known.repaired < repair_symbols(known.source);
        if most > 0 && left { Verdict::Lacks(most) } else { Verdict::Closed }
    }
}

/// How many symbols of repair go with so many of a block's own, for so many of a thousand that will lack.
pub fn spare(source: u16, per_mille: u16) -> u16 {
    let wanted = (u32::from(source) * u32::from(per_mille)).div_ceil(1000) + SPARE;
    if per_mille == 0 { 0 } else { wanted.min(repair_symbols(source).into()) as u16 }
}

/// How many symbols are sent where so many lack: some of these will be lost too.
fn with_spare(lacks: u16, source: u16) -> u16 {
    let loss = f64::from(lacks) / f64::from(source.max(1));
    let wanted = f64::from(lacks) / (1.0 - loss.min(0.5));
    (wanted.ceil() as u16).max(lacks)
}

enum Verdict {
    /// Somebody who got it has not said how it stands.
    Waits,
    /// So many symbols are to be sent.
    Lacks(u16),
    /// Nobody who got it needs more of it, or it is for the next time round.
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::as_runs;

    const SOURCE: u16 = 100;

    struct Lab {
        carousel: Carousel,
        now: Instant,
        number: u64,
    }

    impl Lab {
        fn new(blocks: u32) -> Self {
            Self { carousel: Carousel::new(blocks, Duration::from_millis(50)), now: Instant::now(), number: 1 }
        }

        fn join(&mut self, id: Id, runs: &[(u32, u32)]) {
            let bits = Bits::of_runs(runs, self.carousel.wanted.len() as u32);
            self.carousel.join(id, bits, self.number, self.now);
        }

        /// Sends what is next.
        fn step(&mut self) -> Next {
            let next = self.carousel.next(self.now);
            let count = match next {
                Next::Source(_, per_mille) => u64::from(SOURCE + spare(SOURCE, per_mille)),
                Next::Repair(_, _, count) => count.into(),
                Next::Poll => 1,
                _ => 0,
            };
            if count > 0 {
                let numbers = (self.number, self.number + count - 1);
                self.number += count;
                self.carousel.sent(next, (SOURCE, 1 << 20), numbers, self.now);
            }
            next
        }

        fn report(&mut self, id: Id, done: &[u32], partial: &[(u32, u16)]) {
            let report = Report {
                highest: self.number - 1,
                done: as_runs(done.iter().copied()),
                partial: partial.to_vec(),
                ..Report::default()
            };
            self.carousel.report(id, &report, self.now);
        }
    }

    #[test]
    fn all_is_sent_once_and_repaired_by_the_largest_lack() {
        let mut lab = Lab::new(2);
        lab.join(1, &[(0, 2)]);
        lab.join(2, &[(0, 2)]);
        assert_eq!([lab.step(), lab.step(), lab.step()], [Next::Source(0, 0), Next::Source(1, 0), Next::Poll]);
        lab.report(1, &[], &[(0, 3), (1, 1)]);
        assert!(matches!(lab.step(), Next::Wait(_)), "the other has not said anything");
        lab.report(2, &[1], &[(0, 10)]);
        assert_eq!(lab.step(), Next::Repair(0, 0, 12));
        assert_eq!(lab.step(), Next::Repair(1, 0, 2));
        lab.report(1, &[0, 1], &[]);
        lab.report(2, &[], &[(0, 1)]);
        assert_eq!(lab.step(), Next::Repair(0, 12, 2), "others than before");
        lab.report(2, &[0], &[]);
        assert_eq!((lab.step(), lab.carousel.members()), (Next::Idle, 0));
    }

    #[test]
    fn who_comes_later_is_served_when_the_round_comes_by() {
        let mut lab = Lab::new(4);
        lab.join(1, &[(0, 4)]);
        assert_eq!([lab.step(), lab.step()], [Next::Source(0, 0), Next::Source(1, 0)]);
        lab.join(2, &[(0, 4)]);
        assert_eq!([lab.step(), lab.step()], [Next::Source(2, 0), Next::Source(3, 0)]);
        lab.report(1, &[0, 1, 2, 3], &[]);
        lab.report(2, &[2, 3], &[]);
        assert_eq!([lab.step(), lab.step()], [Next::Source(0, 0), Next::Source(1, 0)]);
        lab.report(2, &[0, 1], &[]);
        assert_eq!(lab.step(), Next::Idle);
    }

    #[test]
    fn who_heard_a_part_of_what_was_sent_before_it_joined_gets_the_rest() {
        let mut lab = Lab::new(2);
        lab.join(1, &[(0, 2)]);
        lab.step();
        lab.join(2, &[(0, 2)]);
        lab.step();
        let mut lacks = 60;
        lab.report(1, &[0, 1], &[]);
        lab.report(2, &[1], &[(0, lacks)]);
        let mut sent = Vec::new();
        while lacks > 0 {
            let next = lab.step();
            match next {
                // Only those are of use that it does not have.
                Next::Repair(0, first, count) => {
                    let new = (first..first + count).filter(|symbol| !sent.contains(symbol)).collect::<Vec<_>>();
                    lacks = lacks.saturating_sub(new.len() as u16);
                    sent.extend(new);
                }
                Next::Source(0, 0) => lacks = 0,
                Next::Poll => {}
                other => panic!("{other:?} with {lacks} lacking"),
            }
            lab.report(2, &[], &[(0, lacks)]);
        }
        assert_eq!(lab.carousel.members(), 0, "it is at work on it");
    }

    #[test]
    fn nobody_is_waited_for_long() {
        let mut lab = Lab::new(1);
        lab.join(1, &[(0, 1)]);
        lab.join(2, &[(0, 1)]);
        lab.step();
        lab.report(1, &[], &[(0, 2)]);
        assert_eq!(lab.step(), Next::Poll);
        lab.now += PATIENCE.0;
        assert_eq!(lab.step(), Next::Repair(0, 0, 3));
        lab.report(1, &[0], &[]);
        lab.now += PATIENCE.0;
        assert_eq!(lab.step(), Next::Source(0, 0), "for the one that is late");
        lab.now += SILENT;
        // It is silent: what it was sent is not waited for, but it still needs it.
        assert_eq!(lab.step(), Next::Source(0, 0));
        lab.carousel.leave(2);
        assert_eq!(lab.step(), Next::Idle);
    }

    #[test]
    fn what_is_absurd_changes_nothing() {
        let mut lab = Lab::new(2);
        lab.join(1, &[(0, u32::MAX), (7, 1)]);
        lab.step();
        lab.step();
        let absurd = Report {
            highest: u64::MAX,
            done: vec![(5, u32::MAX), (u32::MAX, u32::MAX)],
            partial: vec![(0, u16::MAX), (9, 1), (u32::MAX, 9)],
            dropped: vec![(1, 1)],
            ..Report::default()
        };
        lab.carousel.report(1, &absurd, lab.now);
        // No more than its symbols, and no more than there are of repair.
        assert_eq!(lab.step(), Next::Repair(0, 0, repair_symbols(SOURCE)));
        for _ in 0..STRIKES - 1 {
            assert!(lab.carousel.hopeless().is_empty());
            assert!(matches!(lab.step(), Next::Source(..)));
            let again = Report { partial: vec![(0, 99), (1, 99)], ..absurd.clone() };
            while !matches!(lab.carousel.next(lab.now), Next::Source(..)) {
                lab.step();
                lab.carousel.report(1, &again, lab.now);
            }
        }
        assert_eq!(lab.carousel.hopeless(), [1]);
        lab.carousel.report(9, &absurd, lab.now);
        lab.carousel.leave(9);
        assert_eq!(lab.carousel.members(), 1);
    }

    #[test]
    fn a_window_bounds_what_is_on_its_way() {
        let mut lab = Lab::new(100);
        lab.join(1, &[(0, 100)]);
        let mut sent = 0;
        while matches!(lab.step(), Next::Source(..)) {
            sent += 1;
        }
        assert_eq!(sent, WINDOW >> 20);
    }

    #[test]
    fn the_last_blocks_come_with_what_the_others_needed() {
        let blocks = 40;
        let mut lab = Lab::new(blocks);
        lab.join(1, &[(0, blocks)]);
        let mut foreseen = Vec::new();
        loop {
            let sent = lab.number;
            match lab.step() {
                Next::Source(block, per_mille) => {
                    foreseen.push(per_mille);
                    let lacks = 5_u16.saturating_sub(spare(SOURCE, per_mille));
                    if lacks > 0 {
                        lab.report(1, &[], &[(block, lacks)]);
                    } else {
                        lab.report(1, &[block], &[]);
                    }
                }
                Next::Repair(block, 0, 6) => lab.report(1, &[block], &[]),
                Next::Idle => break,
                other => panic!("{other:?} after {sent}"),
            }
        }
        let (first, last) = foreseen.split_at(foreseen.len() - LAST as usize);
        assert!(first.iter().all(|it| *it == 0), "{foreseen:?}");
        assert!(last.iter().all(|it| (40..=50).contains(it)), "{foreseen:?}");
        assert_eq!([spare(SOURCE, 0), spare(SOURCE, 50), spare(8, 200), spare(u16::MAX, 200)], [0, 7, 4, 8192]);
    }
}
