//! Fitting a layout to a disk that may be larger, smaller, or have other sectors than the one it came from.
//!
//! What is kept, in this order of preference:
//! 1. Every start and size as captured. Space beyond the last partition stays free, unless a partition
//!    leaves its size open: that one takes all that the others leave, and those that lie after it on the
//!    disk move to the end, so that nothing lies idle.
//! 2. If that does not fit the disk, or the sectors differ and the starts are none of this disk's: order and
//!    sizes; starts are chosen anew, one after another at whole MiB, and an extended partition becomes as
//!    large as its logical ones ask for.
//!
//! 3. If that does not fit either, partitions with a `min_size` shrink, the last one first, none further than
//!    that.
//!
//! Around partitions that are preserved the others are laid by [`around`](crate::around).
//!
//! Files are pulled into new file systems, so moving a partition costs nothing. Other sizes never shrink.

use systemimager_core::{BlockDevice, DiskLayout, PluginError, Result, Size};

use crate::around::{Wish, lay, stretches};
use crate::check::{amount, fitted, shape};
use crate::place::{Misfit, Piece, Room, place};
use crate::table::{Label, MIB, Table, is_extended, is_logical, round_up};

/// The layout with a start and a size for every partition of this disk.
pub fn fit(layout: &DiskLayout, disk: &BlockDevice) -> Result<DiskLayout> {
    let label = Label::of(layout)?;
    shape(layout, label)?;
    let table = Table::new(label, disk.sector_size, disk.size, &disk.path.to_string())?;
    let mut fitted_layout = DiskLayout { size: disk.size, sector_size: disk.sector_size, ..layout.clone() };
    fitted_layout.partitions.sort_by_key(|partition| partition.number);

    let same_sectors = layout.sector_size == disk.sector_size;
    let mut pieces = Pieces::of(&fitted_layout, &table);
    let whole = pieces.all.iter().filter_map(|piece| piece.start).all(|start| start.is_multiple_of(table.sector));
    if same_sectors && !whole {
        return Err(PluginError::invalid(format!(
            "a partition of {} does not start at a whole sector of {} bytes; correct its start or leave it out",
            layout.node, table.sector
        )));
    }
    if fitted_layout.partitions.iter().any(|partition| partition.preserve) {
        around(&mut fitted_layout, &pieces, &table, disk, whole)?;
        fitted(&fitted_layout, &table)?;
        return Ok(fitted_layout);
    }
    let kept = if whole { pieces.lay(&table, false) } else { Err(Misfit::Short { needed: 0 }) };
    let placed = match kept {
        Ok(placed) => placed,
        Err(Misfit::Overlap { index, free }) if same_sectors => {
            return Err(overlap(&fitted_layout, &pieces, index, free));
        }
        Err(_) => {
            pieces.all.iter_mut().for_each(|piece| piece.start = None);
            let mut slack = slack(&fitted_layout, &table);
            loop {
                let misfit = match pieces.lay(&table, true) {
                    Ok(placed) => break placed,
                    Err(misfit) => misfit,
                };
                if !pieces.shrink(&mut slack, &misfit, &table) {
                    return Err(too_small(&fitted_layout, &pieces, disk, &table, &misfit));
                }
            }
        }
    };
    for (partition, (start, size)) in fitted_layout.partitions.iter_mut().zip(placed) {
        partition.start = Some(Size(start));
        partition.size = Some(Size(size));
    }
    fitted(&fitted_layout, &table)?;
    Ok(fitted_layout)
}

/// Gives every partition a place beside those that are preserved.
fn around(
    layout: &mut DiskLayout,
    pieces: &Pieces,
    table: &Table,
    disk: &BlockDevice,
    keep_starts: bool,
) -> Result<()> {
    let mut kept = Vec::new();
    for partition in layout.partitions.iter().filter(|it| it.preserve) {
        let (Some(start), Some(size)) = (partition.start, partition.size) else {
            return Err(PluginError::invalid(format!(
                "the partition {} is preserved, and it is not said where it lies",
                partition.node
            )));
        };
        if is_logical(table.label, partition) || is_extended(table.label, partition) {
            return Err(PluginError::unsupported(format!(
                "the partition {} hangs on the extended one of {}; only primary partitions can be preserved",
                partition.node, layout.node
            )));
        }
        kept.push(start.0..start.0.saturating_add(size.0));
    }
    let is_kept = |index: &usize| layout.partitions.get(*index).is_some_and(|it| it.preserve);
    let order: Vec<usize> = pieces.top.iter().copied().filter(|index| !is_kept(index)).collect();
    let slack = slack(layout, table);
    let wish = |index: &usize| {
        let piece = pieces.all[*index];
        if Some(*index) == pieces.container && !pieces.inner.is_empty() {
            return pieces.container_wish(piece.start);
        }
        let least = piece.size.map_or(piece.least, |size| size - slack[*index]);
        Wish { start: piece.start, size: piece.size, least: round_up(least, table.sector) }
    };
    let wishes: Vec<Wish> = order.iter().map(wish).collect();
    let free = stretches(table.first()..table.end(), &kept);
    let ranges = lay(&wishes, &free, keep_starts).map_err(|no| {
        let names: Vec<&str> = layout.partitions.iter().filter(|it| it.preserve).map(|it| it.node.as_str()).collect();
        let node = order.get(no.index).and_then(|index| layout.partitions.get(*index)).map(|it| it.node.as_str());
        let needed = round_up(no.needed, MIB);
        PluginError::invalid(format!(
            "{} does not fit {} around {}, which stays as it is: {} needs {}, and no free stretch that is left has more \
             than {}; make partitions smaller, give one a min_size, or take preserve = true away",
            layout.node,
            disk.path,
            names.join(" and "),
            node.unwrap_or_default(),
            amount(needed),
            amount(no.left),
        ))
    })?;
    for (index, range) in order.iter().zip(&ranges) {
        let partition = &mut layout.partitions[*index];
        (partition.start, partition.size) = (Some(Size(range.start)), Some(Size(range.end - range.start)));
    }
    let container = order.iter().zip(ranges).find(|(index, _)| Some(**index) == pieces.container);
    if let Some((_, range)) = container {
        let room = Room { space: range, gap: table.sector };
        let mut inner = pieces.clone();
        forget_starts_after_open(&mut inner.all, &pieces.inner);
        let as_is = if keep_starts { inner.place(&inner.all, &pieces.inner, &room).ok() } else { None };
        let placed = match as_is {
            Some(placed) => placed,
            None => {
                pieces.inner.iter().for_each(|index| inner.all[*index].start = None);
                let placed = inner.place(&inner.all, &pieces.inner, &room);
                placed.map_err(|misfit| too_small(layout, pieces, disk, table, &misfit))?
            }
        };
        for (index, range) in pieces.inner.iter().zip(placed) {
            let partition = &mut layout.partitions[*index];
            (partition.start, partition.size) = (Some(Size(range.start)), Some(Size(range.end - range.start)));
        }
    }
    Ok(())
}

/// By how many bytes each partition may shrink.
fn slack(layout: &DiskLayout, table: &Table) -> Vec<u64> {
    let one =
        |size: Size, least: Size| round_up(size.0, table.sector).saturating_sub(round_up(least.0.max(1), table.sector));
    layout.partitions.iter().map(|it| it.size.zip(it.min_size).map_or(0, |(size, least)| one(size, least))).collect()
}

/// The partitions as pieces, and the order in which they lie on the disk.
#[derive(Clone)]
struct Pieces {
    /// By partition, as in the layout.
    all: Vec<Piece>,
    /// Indexes of primary partitions, in the order of the disk.
    top: Vec<usize>,
    /// Indexes of logical ones.
    inner: Vec<usize>,
    /// Index of the extended one.
    container: Option<usize>,
}

impl Pieces {
    fn of(layout: &DiskLayout, table: &Table) -> Self {
        let all: Vec<Piece> = layout
            .partitions
            .iter()
            .map(|partition| Piece {
                start: partition.start.map(|start| start.0),
                size: partition.size.map(|size| round_up(size.0, table.sector)),
                least: partition.min_size.map_or(0, |size| size.0),
            })
            .collect();
        let in_order = |logical: bool| {
            let mut order = Vec::new();
            let mut last = 0;
            for (index, partition) in layout.partitions.iter().enumerate() {
                if is_logical(table.label, partition) == logical {
                    // One without a start lies after the one numbered before it.
                    last = partition.start.map_or(last, |start| start.0);
                    order.push((last, index));
                }
            }
            order.sort_unstable();
            order.into_iter().map(|(_, index)| index).collect::<Vec<_>>()
        };
        let container = layout.partitions.iter().position(|partition| is_extended(table.label, partition));
        Self { all, top: in_order(false), inner: in_order(true), container }
    }

    /// What the container of the logical partitions asks for: each of them, and a MiB for what leads to it.
    fn container_wish(&self, start: Option<u64>) -> Wish {
        let size = |index: &usize| self.all[*index].size.unwrap_or_else(|| self.all[*index].least.max(MIB));
        let least = self.inner.iter().map(|index| round_up(size(index), MIB) + MIB).sum();
        let open = self.inner.iter().any(|index| self.all[*index].size.is_none());
        Wish { start, size: (!open).then_some(least), least }
    }

    /// Makes pieces smaller by what is lacking, the last one first; false where none can give anything.
    fn shrink(&mut self, slack: &mut [u64], misfit: &Misfit, table: &Table) -> bool {
        let Misfit::Short { needed } = misfit else { return false };
        let mut lacking = round_up(needed.saturating_sub(table.end()).max(1), MIB);
        let mut shrunk = false;
        for (piece, slack) in self.all.iter_mut().zip(slack).rev() {
            let give = lacking.min(*slack);
            if let Some(size) = piece.size.as_mut().filter(|_| give > 0) {
                *size -= give;
                *slack -= give;
                lacking -= give;
                shrunk = true;
            }
        }
        shrunk
    }

    /// Start and size of each partition. `tight`: an extended partition is only as large as it must be.
    fn lay(&self, table: &Table, tight: bool) -> Result<Vec<(u64, u64)>, Misfit> {
        let mut pieces = self.all.clone();
        let open_inside = self.inner.iter().any(|index| pieces[*index].size.is_none());
        if let Some(container) = self.container {
            if open_inside {
                pieces[container].size = None;
            }
            forget_starts_after_open(&mut pieces, &self.top);
            if pieces[container].start.is_none() {
                self.inner.iter().for_each(|index| pieces[*index].start = None);
            }
            forget_starts_after_open(&mut pieces, &self.inner);
            if let Some(given) = pieces[container].size {
                let asked = self.span(&pieces, container, table)?;
                let keep = !tight || self.inner.is_empty();
                pieces[container].size = Some(if keep { asked.max(given) } else { asked });
            }
        } else {
            forget_starts_after_open(&mut pieces, &self.top);
        }

        let mut placed = vec![(0, 0); pieces.len()];
        let room = Room { space: table.first()..table.end(), gap: 0 };
        for (index, range) in self.top.iter().zip(self.place(&pieces, &self.top, &room)?) {
            placed[*index] = (range.start, range.end - range.start);
        }
        if let Some(container) = self.container {
            let (start, size) = placed[container];
            let room = Room { space: start..start + size, gap: table.sector };
            let ranges = self.place(&pieces, &self.inner, &room).map_err(|misfit| match misfit {
                // What the container lacks, the disk lacks.
                Misfit::Short { needed } => Misfit::Short { needed: needed + (table.end() - room.space.end) },
                overlap => overlap,
            })?;
            for (index, range) in self.inner.iter().zip(ranges) {
                placed[*index] = (range.start, range.end - range.start);
            }
        }
        Ok(placed)
    }

    /// Bytes that the logical partitions ask of their container.
    fn span(&self, pieces: &[Piece], container: usize, table: &Table) -> Result<u64, Misfit> {
        // A container without a start will get one at a whole MiB: 0 stands for it.
        let start = pieces[container].start.unwrap_or(0);
        let room = Room { space: start..u64::MAX, gap: table.sector };
        let ranges = self.place(pieces, &self.inner, &room)?;
        Ok(ranges.last().map_or(0, |range| range.end - start))
    }

    fn place(&self, pieces: &[Piece], order: &[usize], room: &Room) -> Result<Vec<std::ops::Range<u64>>, Misfit> {
        let chosen: Vec<Piece> = order.iter().map(|index| pieces[*index]).collect();
        place(&chosen, room).map_err(|misfit| match misfit {
            Misfit::Overlap { index, free } => Misfit::Overlap { index: order[index], free },
            short => short,
        })
    }
}

fn forget_starts_after_open(pieces: &mut [Piece], order: &[usize]) {
    let mut open = false;
    for index in order {
        if open {
            pieces[*index].start = None;
        }
        open |= pieces[*index].size.is_none();
    }
}

fn overlap(layout: &DiskLayout, pieces: &Pieces, index: usize, free: u64) -> PluginError {
    let Some(partition) = layout.partitions.get(index) else {
        return PluginError::bug("an overlap without a partition");
    };
    let order = if pieces.inner.contains(&index) { &pieces.inner } else { &pieces.top };
    let before =
        order.iter().take_while(|other| **other != index).last().and_then(|other| layout.partitions.get(*other));
    let holder = match (before, pieces.inner.contains(&index)) {
        (Some(before), _) => format!("partition {}, which lies before it,", before.node),
        (None, true) => "the head of the extended partition".to_owned(),
        (None, false) => format!("the {} table", layout.label),
    };
    PluginError::invalid(format!(
        "the partition {} starts at byte {}, but {holder} takes everything up to byte {free}; \
         move it, or leave its start out to have it placed",
        partition.node,
        partition.start.map_or(0, |start| start.0),
    ))
}

fn too_small(layout: &DiskLayout, pieces: &Pieces, disk: &BlockDevice, table: &Table, misfit: &Misfit) -> PluginError {
    let needed = match misfit {
        Misfit::Short { needed } => *needed,
        Misfit::Overlap { free, .. } => *free,
    };
    let advice = if layout.partitions.iter().any(|partition| partition.size.is_none()) {
        "take a larger disk, or make the other partitions smaller"
    } else {
        "take a larger disk, make partitions smaller, or leave one's size out so that it takes what is left"
    };
    // In whole MiB upwards for what is needed, downwards for what is there: the figures must not look equal.
    let needed = round_up(needed.saturating_add(table.tail()), MIB);
    // What each asks for; an extended one only holds others.
    let (mut sum, mut terms) = (0_u64, Vec::new());
    for (partition, piece) in layout.partitions.iter().zip(&pieces.all) {
        if is_extended(table.label, partition) {
            continue;
        }
        let size = piece.size.unwrap_or_else(|| piece.least.max(MIB));
        let least = if partition.size.is_none() || partition.min_size.is_some() { " at least" } else { "" };
        sum = sum.saturating_add(size);
        terms.push(format!("{}{least} {}", partition.node, Size(size)));
    }
    terms.push(format!("table and alignment {}", Size(needed.saturating_sub(sum))));
    PluginError::invalid(format!(
        "{} does not fit {}: its partitions need {} ({}), the disk has {} ({}): {}; {advice}",
        layout.node,
        disk.path,
        Size(needed),
        amount(needed),
        disk.size,
        amount(disk.size.0),
        terms.join(" + "),
    ))
}

#[cfg(test)]
mod tests;
