//! Fitting a layout around partitions that stay where they are.
//!
//! What stays cuts the disk into stretches. The others keep the places that the layout gives them if those lie in
//! free stretches. Otherwise they are placed anew: one after another, each into the first stretch that has room,
//! at whole MiB; first at their full sizes, and if that fails at their least ones. What is then left of a
//! stretch goes to those in it that are smaller than they would be, in order, and at last to the one whose size is open.
//!
//! Pure arithmetic, as in [`place`](crate::place).

use std::ops::Range;

use crate::place::{Piece, Room, place};
use crate::table::{MIB, round_down, round_up};

/// A partition to be placed; bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Where the layout has it.
    pub start: Option<u64>,
    /// Its full size; absent: all that is left (at most one says so).
    pub size: Option<u64>,
    /// The size that it needs: of one with a size a sector at least.
    pub least: u64,
}

/// Why they cannot be placed: this wish finds no stretch with `needed` bytes, the longest that is left has `left`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom {
    pub index: usize,
    pub needed: u64,
    pub left: u64,
}

/// The stretches of `space` that the kept ranges leave.
pub fn stretches(space: Range<u64>, kept: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut kept = kept.to_vec();
    kept.sort_unstable_by_key(|range| range.start);
    let mut free = Vec::new();
    let mut at = space.start;
    for range in kept {
        free.push(at..range.start);
        at = at.max(range.end);
    }
    free.push(at..space.end);
    free.retain(|range| range.start < range.end);
    free
}

/// Where each comes to lie.
pub fn lay(wishes: &[Wish], free: &[Range<u64>], keep_starts: bool) -> Result<Vec<Range<u64>>, NoRoom> {
    if let Some(placed) = keep_starts.then(|| as_they_are(wishes, free)).flatten() {
        return Ok(placed);
    }
    let full: Vec<u64> = wishes.iter().map(|wish| wish.size.unwrap_or(wish.least.max(MIB))).collect();
    let least: Vec<u64> =
        wishes.iter().map(|wish| wish.size.map_or(wish.least.max(MIB), |it| wish.least.min(it))).collect();
    anew(wishes, &full, free).or_else(|_| anew(wishes, &least, free))
}

/// At the starts that they have, if all have one and lie free; an open one reaches to the next or the stretch's end.
fn as_they_are(wishes: &[Wish], free: &[Range<u64>]) -> Option<Vec<Range<u64>>> {
    let starts: Vec<u64> = wishes.iter().map(|wish| wish.start).collect::<Option<_>>()?;
    let mut placed = vec![0..0; wishes.len()];
    for stretch in free {
        let mut inside: Vec<usize> =
            (0..wishes.len()).filter(|at| starts.get(*at).is_some_and(|it| stretch.contains(it))).collect();
        inside.sort_unstable_by_key(|at| starts.get(*at));
        let mut next = stretch.end;
        for at in inside.into_iter().rev() {
            let (wish, start) = (wishes.get(at)?, *starts.get(at)?);
            let end = match wish.size {
                Some(size) => start.checked_add(size)?,
                None => round_down(next, MIB),
            };
            let enough = wish.size.is_some() || end >= start.checked_add(wish.least.max(MIB))?;
            if end > next || !enough {
                return None;
            }
            *placed.get_mut(at)? = start..end;
            next = start;
        }
    }
    placed.iter().all(|range| range.start < range.end).then_some(placed)
}

/// `sizes` are what each has to get at least.
fn anew(wishes: &[Wish], sizes: &[u64], free: &[Range<u64>]) -> Result<Vec<Range<u64>>, NoRoom> {
    let mut stretches: Vec<(Range<u64>, Vec<usize>)> =
        free.iter().map(|it| (round_up(it.start, MIB)..it.end, Vec::new())).collect();
    let used = |inside: &[usize]| -> u64 {
        inside.iter().filter_map(|at| sizes.get(*at)).map(|size| round_up(*size, MIB)).sum()
    };
    let left =
        |(range, inside): &(Range<u64>, Vec<usize>)| range.end.saturating_sub(range.start.saturating_add(used(inside)));
    // The open one last: into the stretch that has most left.
    let open = wishes.iter().position(|wish| wish.size.is_none());
    let sized = (0..wishes.len()).filter(|at| Some(*at) != open);
    for at in sized.chain(open) {
        let needed = sizes.get(at).copied().unwrap_or_default();
        let fits: Vec<usize> =
            (0..stretches.len()).filter(|it| stretches.get(*it).is_some_and(|it| left(it) >= needed)).collect();
        let most = |it: &usize| stretches.get(*it).map_or(0, left);
        let best = if Some(at) == open { fits.iter().copied().max_by_key(most) } else { fits.first().copied() };
        let Some((_, inside)) = best.and_then(|it| stretches.get_mut(it)) else {
            let left = stretches.iter().map(left).max().unwrap_or_default();
            return Err(NoRoom { index: at, needed, left });
        };
        inside.push(at);
        inside.sort_unstable();
    }
    let mut placed = vec![0..0; wishes.len()];
    for stretch in &stretches {
        let mut spare = round_down(left(stretch), MIB);
        let mut pieces = Vec::new();
        for at in &stretch.1 {
            let (Some(wish), Some(size)) = (wishes.get(*at), sizes.get(*at)) else { continue };
            let grown = wish.size.map_or(*size, |full| full.min(size.saturating_add(spare)));
            spare -= round_down(grown.saturating_sub(*size), MIB).min(spare);
            pieces.push(Piece { start: None, size: wish.size.map(|_| grown), least: wish.least });
        }
        let room = Room { space: stretch.0.clone(), gap: 0 };
        match place(&pieces, &room) {
            Ok(ranges) => {
                for (at, range) in stretch.1.iter().zip(ranges) {
                    if let Some(place) = placed.get_mut(*at) {
                        *place = range;
                    }
                }
            }
            Err(_) => {
                let (index, left) = (stretch.1.first().copied().unwrap_or_default(), left(stretch));
                return Err(NoRoom { index, needed: used(&stretch.1), left });
            }
        }
    }
    Ok(placed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In MiB: start, size, least.
    fn wish((start, size, least): (Option<u64>, Option<u64>, u64)) -> Wish {
        Wish { start: start.map(|it| it * MIB), size: size.map(|it| it * MIB), least: least * MIB }
    }

    #[test]
    fn around_what_stays() {
        let space = 34 * 512..100 * MIB - 33 * 512;
        // Name, kept, wishes, where they come to lie; all in MiB.
        type Asked = (Option<u64>, Option<u64>, u64);
        type Row<'a> = (&'a str, &'a [(u64, u64)], &'a [Asked], Result<&'a [(u64, u64)], usize>);
        let rows: &[Row] = &[
            ("nothing else", &[(10, 20)], &[], Ok(&[])),
            (
                "at their starts",
                &[(10, 20)],
                &[(Some(1), Some(9), 9), (Some(30), Some(5), 5)],
                Ok(&[(1, 10), (30, 35)]),
            ),
            (
                "one start is taken",
                &[(10, 20)],
                &[(Some(1), Some(9), 9), (Some(15), Some(5), 5)],
                Ok(&[(1, 10), (20, 25)]),
            ),
            ("one after another", &[(10, 20)], &[(None, Some(4), 4), (None, Some(5), 5)], Ok(&[(1, 5), (5, 10)])),
            ("the next stretch", &[(10, 20)], &[(None, Some(6), 6), (None, Some(5), 5)], Ok(&[(1, 7), (20, 25)])),
            (
                "back to the first",
                &[(10, 20)],
                &[(None, Some(6), 6), (None, Some(9), 9), (None, Some(2), 2)],
                Ok(&[(1, 7), (20, 29), (7, 9)]),
            ),
            ("the open one gets most", &[(10, 20)], &[(None, None, 0), (None, Some(5), 5)], Ok(&[(20, 99), (1, 6)])),
            (
                "open, between two",
                &[(1, 5), (80, 99)],
                &[(None, Some(10), 10), (None, None, 1)],
                Ok(&[(5, 15), (15, 80)]),
            ),
            (
                "open at its start",
                &[(10, 20)],
                &[(Some(20), None, 0), (Some(90), Some(9), 9)],
                Ok(&[(20, 90), (90, 99)]),
            ),
            ("an open start that is taken", &[(10, 20)], &[(Some(12), None, 0)], Ok(&[(20, 99)])),
            ("shrinks", &[(10, 60)], &[(None, Some(50), 30), (None, Some(20), 5)], Ok(&[(60, 99), (1, 10)])),
            ("no room", &[(10, 60)], &[(None, Some(50), 40)], Err(0)),
            ("no room for the second", &[(10, 60)], &[(None, Some(39), 39), (None, Some(10), 10)], Err(1)),
            ("no room for the open one", &[(1, 60)], &[(None, Some(39), 39), (None, None, 0)], Err(1)),
            ("all is taken", &[(1, 99)], &[(None, None, 0)], Err(0)),
        ];
        for (name, kept, wishes, expected) in rows {
            let kept: Vec<Range<u64>> = kept.iter().map(|(start, end)| start * MIB..end * MIB).collect();
            let wishes: Vec<Wish> = wishes.iter().copied().map(wish).collect();
            let placed = lay(&wishes, &stretches(space.clone(), &kept), true);
            let placed = placed.map(|it| it.iter().map(|it| (it.start / MIB, it.end / MIB)).collect::<Vec<_>>());
            assert_eq!(placed.as_deref().map_err(|it| it.index), *expected, "{name}");
        }
    }

    #[test]
    fn never_over_what_stays_nor_over_each_other() {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let mut placed = 0;
        for round in 0..20_000 {
            let space = 34 * 512..(50 + random(100)) * MIB - random(4) * 512;
            let mut kept = Vec::new();
            let mut at = space.start;
            for _ in 0..random(4) {
                let start = at + random(30) * MIB + random(2) * 512;
                at = (start + 512 + random(20) * MIB).min(space.end);
                if start < at {
                    kept.push(start..at);
                }
            }
            let mut wishes: Vec<Wish> = (0..random(5))
                .map(|_| {
                    let size = 512 + random(30) * MIB;
                    let start = (random(3) == 0).then(|| random(60) * MIB + random(2) * 512);
                    Wish {
                        start,
                        size: Some(size),
                        least: if random(2) == 0 { size } else { (size / 2 / 512 * 512).max(512) },
                    }
                })
                .collect();
            if random(2) == 0
                && let Some(open) = wishes.last_mut()
            {
                open.size = None;
            }
            let Ok(ranges) = lay(&wishes, &stretches(space.clone(), &kept), random(2) == 0) else { continue };
            placed += 1;
            let mut all: Vec<Range<u64>> = ranges.iter().chain(&kept).cloned().collect();
            all.sort_unstable_by_key(|it| it.start);
            assert!(
                all.iter().all(|it| it.start < it.end && it.start >= space.start && it.end <= space.end),
                "{round}: {all:?}"
            );
            assert!(all.windows(2).all(|pair| pair[0].end <= pair[1].start), "{round}: {all:?}");
            for (wish, range) in wishes.iter().zip(&ranges) {
                let size = range.end - range.start;
                assert!(size >= wish.least.min(wish.size.unwrap_or(u64::MAX)), "{round}: {wish:?} {range:?}");
                assert!(wish.size.is_none_or(|full| size <= full), "{round}: {wish:?} {range:?}");
            }
        }
        assert!(placed > 5000, "only {placed} were placed: the test tests nothing");
    }
}
