//! Putting pieces one after another into a stretch of disk. Pure arithmetic: it knows neither labels nor disks.
//!
//! Starts and sizes are at most [`LARGEST`](crate::table::LARGEST) each and there are at most 128, so that
//! no sum leaves 64 bits.

use std::ops::Range;

use crate::table::{MIB, round_down, round_up};

/// A piece to place; bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where it starts; absent: at the next MiB after the piece before it.
    pub start: Option<u64>,
    /// How long it is; absent: all that the others leave. At most one piece says so, and those after it
    /// must not have a start.
    pub size: Option<u64>,
    /// What an open one must get at least; 0: one MiB.
    pub least: u64,
}

/// Why the pieces cannot be placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misfit {
    /// The piece of this index starts before `free`, where the one before it (or the table) ends.
    Overlap { index: usize, free: u64 },
    /// The stretch would have to reach up to here.
    Short { needed: u64 },
}

/// The stretch.
#[derive(Debug, Clone)]
pub struct Room {
    /// First byte and the byte after the last.
    pub space: Range<u64>,
    /// Bytes to leave free before each piece (for the chain of logical partitions).
    pub gap: u64,
}

/// Where each piece comes to lie.
pub fn place(pieces: &[Piece], room: &Room) -> Result<Vec<Range<u64>>, Misfit> {
    let mut placed: Vec<Range<u64>> = Vec::with_capacity(pieces.len());
    let mut free = room.space.start;
    let mut rest = pieces.iter().enumerate();
    while let Some((index, piece)) = rest.next() {
        let start = match piece.start {
            Some(start) if start < free + room.gap => return Err(Misfit::Overlap { index, free: free + room.gap }),
            Some(start) => start,
            None => round_up(free + room.gap, MIB),
        };
        if let Some(size) = piece.size {
            free = start + size;
            placed.push(start..free);
            continue;
        }
        let after: Vec<u64> = rest.by_ref().map(|(_, piece)| piece.size.unwrap_or(0)).collect();
        // An open piece may shrink to its least, not further. Without one that is a MiB: else it would be no room for anything.
        let floor = if piece.least == 0 { start + MIB } else { round_up(start + piece.least, MIB) };
        let least = after.iter().fold(floor, |free, size| round_up(free + room.gap, MIB) + size);
        if least > room.space.end {
            return Err(Misfit::Short { needed: least });
        }
        placed.extend(fill(start, &after, room));
        return Ok(placed);
    }
    if free > room.space.end { Err(Misfit::Short { needed: free }) } else { Ok(placed) }
}

/// The open piece from `start`, and those after it packed against the end, each at a whole MiB. The caller
/// has seen that the open one keeps a MiB at least, so that the whole MiB at which it ends lies after its start.
fn fill(start: u64, after: &[u64], room: &Room) -> Vec<Range<u64>> {
    let mut limit = room.space.end;
    let mut placed = Vec::with_capacity(after.len() + 1);
    for size in after.iter().rev() {
        let start = round_down(limit.saturating_sub(*size), MIB);
        placed.push(start..start + size);
        limit = start.saturating_sub(room.gap);
    }
    placed.push(start..round_down(limit, MIB));
    placed.reverse();
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mib(pieces: &[(Option<u64>, Option<u64>)]) -> Vec<Piece> {
        let bytes = |value: Option<u64>| value.map(|value| value * MIB);
        pieces.iter().map(|(start, size)| Piece { start: bytes(*start), size: bytes(*size), least: 0 }).collect()
    }

    #[test]
    fn pieces_are_placed() {
        // Everything in MiB; the stretch is 0..100 less 16 KiB at each end.
        let room = Room { space: 16384..100 * MIB - 16384, gap: 0 };
        let logical = Room { gap: 512, ..room.clone() };
        type Row<'a> = (&'a str, &'a Room, Vec<(Option<u64>, Option<u64>)>, Result<Vec<(u64, u64)>, Misfit>);
        let rows: Vec<Row> = vec![
            ("nothing", &room, vec![], Ok(vec![])),
            ("kept", &room, vec![(Some(7), Some(3)), (Some(10), Some(5))], Ok(vec![(7, 10), (10, 15)])),
            ("one after another", &room, vec![(None, Some(3)), (None, Some(5))], Ok(vec![(1, 4), (4, 9)])),
            ("open last", &room, vec![(None, Some(3)), (None, None)], Ok(vec![(1, 4), (4, 99)])),
            (
                "open amid",
                &room,
                vec![(Some(2), Some(3)), (Some(8), None), (None, Some(4)), (None, Some(5))],
                Ok(vec![(2, 5), (8, 90), (90, 94), (94, 99)]),
            ),
            ("gaps", &logical, vec![(None, Some(3)), (None, Some(3))], Ok(vec![(1, 4), (5, 8)])),
            ("gaps, open", &logical, vec![(None, None), (None, Some(3))], Ok(vec![(1, 95), (96, 99)])),
            (
                "overlap",
                &room,
                vec![(Some(2), Some(3)), (Some(4), Some(1))],
                Err(Misfit::Overlap { index: 1, free: 5 * MIB }),
            ),
            ("in the table", &room, vec![(Some(0), Some(3))], Err(Misfit::Overlap { index: 0, free: 16384 })),
            ("too long", &room, vec![(Some(90), Some(10))], Err(Misfit::Short { needed: 100 * MIB })),
            (
                "no room for the open one",
                &room,
                vec![(Some(90), None), (None, Some(9))],
                Err(Misfit::Short { needed: 100 * MIB }),
            ),
        ];
        for (name, room, pieces, expected) in rows {
            let placed = place(&mib(&pieces), room).map(|ranges| {
                assert!(ranges.iter().all(|range| range.start % MIB == 0 && range.end % MIB == 0), "{name}");
                ranges.iter().map(|range| (range.start / MIB, range.end / MIB)).collect::<Vec<_>>()
            });
            assert_eq!(placed, expected, "{name}");
        }
    }

    #[test]
    fn an_open_piece_ends_at_a_whole_mebibyte() {
        let room = Room { space: 0..2 * MIB + 700, gap: 0 };
        let open = [Piece { start: Some(MIB + 512), size: None, least: 0 }];
        assert_eq!(place(&open, &room).unwrap().first(), Some(&(MIB + 512..2 * MIB)));
        let room = Room { space: 0..2 * MIB + 511, gap: 0 };
        assert_eq!(place(&open, &room), Err(Misfit::Short { needed: 2 * MIB + 512 }));
    }

    #[test]
    fn an_open_piece_keeps_its_least() {
        let sized = Piece { start: None, size: Some(3 * MIB), least: 0 };
        for (least, start, end, expected) in [
            (5 * MIB, MIB, 9 * MIB, Ok(MIB..6 * MIB)),
            (5 * MIB, MIB, 9 * MIB - 1, Err(Misfit::Short { needed: 9 * MIB })),
            // It ends at a whole MiB, wherever it starts.
            (5 * MIB, MIB + 512, 10 * MIB, Ok(MIB + 512..7 * MIB)),
            (5 * MIB, MIB + 512, 10 * MIB - 1, Err(Misfit::Short { needed: 10 * MIB })),
            (MIB + 1, MIB, 6 * MIB, Ok(MIB..3 * MIB)),
        ] {
            let open = Piece { start: Some(start), size: None, least };
            let placed = place(&[open, sized], &Room { space: 0..end, gap: 0 });
            assert_eq!(placed.map(|ranges| ranges[0].clone()), expected, "{least} from {start} up to {end}");
        }
    }
}
