//! Blocks out of datagrams, in whatever order they come. Pure; what it holds is bounded.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::bits::Bits;
use crate::block::Whole;
use crate::pack::manifest::Manifest;
use crate::wire::datagram::{Datagram, Kind, repair_symbols, source_symbols};
use crate::wire::message::{Report, as_runs};

/// Bytes that are held of blocks that are not written yet.
const ROOM: usize = 40 << 20;

struct Partial {
    kind: Kind,
    length: u32,
    source: u16,
    bytes: Vec<u8>,
    have: Vec<bool>,
    got: u16,
    repair: Vec<(u16, Vec<u8>)>,
}

impl Partial {
    fn lacks(&self) -> u16 {
        self.source.saturating_sub(self.got)
    }
}

/// What has come of a session.
pub struct Assembler {
    symbol_size: u16,
    needs: Bits,
    partial: BTreeMap<u32, Partial>,
    /// Blocks that are whole, and are being verified and written.
    at_work: HashSet<u32>,
    room: usize,
    used: usize,
    highest: u64,
    received: u64,
    foreign: u64,
    done: Vec<u32>,
    dropped: BTreeSet<u32>,
    /// Somebody asked how it stands.
    pub polled: bool,
}

impl Assembler {
    /// For these blocks.
    pub fn new(needs: Bits, symbol_size: u16) -> Self {
        Self {
            symbol_size,
            needs,
            partial: BTreeMap::new(),
            at_work: HashSet::new(),
            room: ROOM,
            used: 0,
            highest: 0,
            received: 0,
            foreign: 0,
            done: Vec::new(),
            dropped: BTreeSet::new(),
            polled: false,
        }
    }

    /// What is still needed, what is being written included.
    pub fn needs(&self) -> &Bits {
        &self.needs
    }

    /// Blocks that are needed, and of which nothing is being written.
    pub fn lacking(&self) -> impl Iterator<Item = u32> + '_ {
        self.needs.iter().filter(|block| !self.at_work.contains(block))
    }

    /// How many blocks are being verified and written.
    pub fn at_work(&self) -> usize {
        self.at_work.len()
    }

    /// Something came that was no datagram of the session.
    pub fn foreign(&mut self) {
        self.foreign += 1;
    }

    /// Datagrams that were none of the session.
    #[cfg(test)]
    pub fn strangers(&self) -> u64 {
        self.foreign
    }

    /// Takes a datagram; the block, if it is whole with it.
    pub fn take(&mut self, number: u64, datagram: &Datagram<'_>, manifest: &Manifest) -> Option<Whole> {
        self.highest = self.highest.max(number);
        let Datagram { kind, block, length, symbol, bytes } = *datagram;
        if kind == Kind::Poll {
            self.received += 1;
            self.polled = true;
            return None;
        }
        if !self.needs.has(block) || self.at_work.contains(&block) {
            self.received += 1;
            return None;
        }
        let wanted = manifest.block(block).length;
        let fits = if kind == Kind::Plain { length == wanted } else { length <= wanted };
        let source = source_symbols(length, self.symbol_size);
        let repair = symbol.checked_sub(source);
        if !fits
            || bytes.len() != usize::from(self.symbol_size)
            || repair.is_some_and(|it| it >= repair_symbols(source))
        {
            self.foreign += 1;
            return None;
        }
        if !self.partial.contains_key(&block) {
            let size = usize::from(source) * usize::from(self.symbol_size);
            if self.used + size > self.room {
                self.dropped.insert(block);
                return None;
            }
            self.used += size;
            let partial = Partial {
                kind,
                length,
                source,
                bytes: vec![0; size],
                have: vec![false; source.into()],
                got: 0,
                repair: Vec::new(),
            };
            self.partial.insert(block, partial);
        }
        self.received += 1;
        let partial = self.partial.get_mut(&block)?;
        if (partial.kind, partial.length) != (kind, length) {
            return None;
        }
        match repair {
            None => {
                let have = partial.have.get_mut(usize::from(symbol)).filter(|have| !**have)?;
                let at = usize::from(symbol) * bytes.len();
                partial.bytes.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
                *have = true;
            }
            Some(repair) => {
                if partial.repair.iter().any(|(had, _)| *had == repair) {
                    return None;
                }
                self.used += bytes.len();
                partial.repair.push((repair, bytes.to_vec()));
            }
        }
        partial.got += 1;
        if partial.got < partial.source {
            return None;
        }
        let Partial { kind, length, bytes, have, repair, .. } = self.partial.remove(&block)?;
        self.at_work.insert(block);
        Some(Whole { number: block, kind, length, bytes, have, repair })
    }

    /// A block that comes by another way is being written: what had come of it is not needed. False: it is not needed itself.
    pub fn takes_whole(&mut self, block: u32, size: usize) -> bool {
        if !self.needs.has(block) || !self.at_work.insert(block) {
            return false;
        }
        if let Some(partial) = self.partial.remove(&block) {
            self.forget(partial.bytes.len() + partial.repair.iter().map(|(_, bytes)| bytes.len()).sum::<usize>());
        }
        self.used += size;
        true
    }

    /// A block that held so much has been written, or was wrong.
    pub fn worked(&mut self, block: u32, held: usize, right: bool) {
        self.at_work.remove(&block);
        self.forget(held);
        if right {
            if self.needs.remove(block) {
                self.done.push(block);
            }
        } else {
            self.dropped.insert(block);
        }
    }

    fn forget(&mut self, size: usize) {
        self.used = self.used.saturating_sub(size);
    }

    /// How it stands, to be told.
    pub fn report(&mut self) -> Report {
        self.polled = false;
        let mut done = std::mem::take(&mut self.done);
        done.sort_unstable();
        let mut partial: Vec<(u32, u16)> = self.partial.iter().map(|(block, it)| (*block, it.lacks())).collect();
        partial.extend(self.at_work.iter().filter(|block| self.needs.has(**block)).map(|block| (*block, 0)));
        let dropped = std::mem::take(&mut self.dropped).into_iter();
        let dropped = as_runs(dropped.filter(|block| self.needs.has(*block) && !self.at_work.contains(block)));
        Report {
            highest: self.highest,
            received: self.received,
            foreign: self.foreign,
            done: as_runs(done),
            partial,
            dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Encoded;
    use crate::pack::make::make;
    use crate::tree::Dir;

    const SIZE: u16 = 1000;

    fn lab() -> (Manifest, Vec<Encoded>) {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = vec![0; 3_000_000];
        getrandom::fill(&mut bytes).unwrap();
        std::fs::write(dir.path().join("f"), &bytes).unwrap();
        let manifest = make(&Dir::open(dir.path()).unwrap(), None).unwrap().manifest;
        let blocks = bytes.chunks(1 << 20).map(|plain| Encoded::new(plain.to_vec(), SIZE)).collect();
        (manifest, blocks)
    }

    fn all(manifest: &Manifest) -> Assembler {
        let count = manifest.block_count();
        Assembler::new(Bits::of_runs(&[(0, count)], count), SIZE)
    }

    fn datagram(block: u32, encoded: &Encoded, symbol: u16) -> Datagram<'_> {
        Datagram { kind: encoded.kind, block, length: encoded.length, symbol, bytes: encoded.symbol(symbol) }
    }

    #[test]
    fn blocks_come_of_symbols_in_any_order_and_twice() {
        let (manifest, blocks) = lab();
        let mut assembler = all(&manifest);
        let source = blocks[1].source();
        let mut number = 0;
        let mut take = |assembler: &mut Assembler, symbol| {
            number += 1;
            assembler.take(number, &datagram(1, &blocks[1], symbol), &manifest)
        };
        for symbol in (10..source).rev() {
            assert!(take(&mut assembler, symbol).is_none());
            assert!(take(&mut assembler, symbol).is_none());
        }
        assert_eq!(assembler.report().partial, [(1, 10)]);
        for repair in 0..9 {
            assert!(take(&mut assembler, source + repair).is_none());
        }
        assert!(take(&mut assembler, source).is_none(), "twice");
        let whole = take(&mut assembler, source + 20).unwrap();
        assert_eq!(assembler.report().partial, [(1, 0)]);
        let held = whole.size();
        assert!(whole.plain(&manifest.block(1), SIZE).is_ok());
        assembler.worked(1, held, true);
        let report = assembler.report();
        assert_eq!((report.done, report.partial.len(), assembler.used), (vec![(1, 1)], 0, 0));
        assert!(take(&mut assembler, 3).is_none());
        assert_eq!(assembler.needs().iter().collect::<Vec<_>>(), [0, 2]);
    }

    #[test]
    fn what_has_no_room_or_is_wrong_is_needed_anew() {
        let (manifest, blocks) = lab();
        let mut assembler = all(&manifest);
        assembler.room = 1_500_000;
        let take = |assembler: &mut Assembler, number, block: u32| {
            assembler.take(number, &datagram(block, &blocks[block as usize], 0), &manifest)
        };
        for block in 0..2 {
            assert!(take(&mut assembler, u64::from(block) + 1, block).is_none());
        }
        let report = assembler.report();
        assert_eq!((report.received, report.highest, &report.dropped[..]), (1, 2, &[(1, 1)][..]));
        assert!(assembler.report().dropped.is_empty());
        assert!(assembler.takes_whole(0, 5) && !assembler.takes_whole(0, 5));
        assembler.worked(0, 5, false);
        assert_eq!((assembler.used, assembler.report().dropped), (0, vec![(0, 1)]));
        assert_eq!(assembler.lacking().collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn nonsense_is_counted() {
        let (manifest, blocks) = lab();
        let mut assembler = all(&manifest);
        let right = datagram(0, &blocks[0], 0);
        for (name, odd) in [
            ("a wrong length", Datagram { length: right.length - 1, ..right }),
            ("a short symbol", Datagram { bytes: &right.bytes[1..], ..right }),
            ("no such symbol", Datagram { symbol: u16::MAX, ..right }),
            ("longer than plain", Datagram { kind: Kind::Zstd, length: right.length + 1, ..right }),
        ] {
            let before = assembler.strangers();
            assert!(assembler.take(1, &odd, &manifest).is_none() && assembler.strangers() == before + 1, "{name}");
        }
        assert!(assembler.take(1, &Datagram { block: 77, ..right }, &manifest).is_none());
        assert_eq!(assembler.report().partial, []);
    }
}
