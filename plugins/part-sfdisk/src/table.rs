//! What a partition table takes of a disk, and what it can address.
//!
//! Sources: UEFI specification 2.10, section 5.3 (GPT: header and 16 KiB of entries at both ends); the
//! PC's master boot record (32-bit sector numbers, extended partitions as chains).

use systemimager_core::{DiskLayout, PartitionLayout, PluginError, Result, Size};

/// What partitions are aligned to when this plugin chooses where they start.
pub const MIB: u64 = 1 << 20;

/// Larger than any disk, and so small that the sum over a full table stays within 64 bits.
pub const LARGEST: u64 = 1 << 55;

/// Bytes of the entries of a GPT: 128 of 128 bytes.
const GPT_ENTRIES: u64 = 128 * 128;

/// A kind of table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// GUID partition table.
    Gpt,
    /// Master boot record.
    Dos,
    /// No table at all.
    None,
}

impl Label {
    /// From [`DiskLayout::label`].
    pub fn of(layout: &DiskLayout) -> Result<Self> {
        match layout.label.as_str() {
            "gpt" => Ok(Label::Gpt),
            "dos" => Ok(Label::Dos),
            "none" => Ok(Label::None),
            other => Err(unserved(&layout.node, other)),
        }
    }

    /// The highest partition number; of a dos table sfdisk(8) knows 60.
    pub fn most(self) -> u32 {
        match self {
            Label::Gpt => 128,
            Label::Dos => 60,
            Label::None => 0,
        }
    }
}

/// The refusal of a label that this plugin does not serve.
pub fn unserved(disk: &dyn std::fmt::Display, label: &str) -> PluginError {
    PluginError::unsupported(format!(
        "{disk} has a {label:?} partition table, and this plugin serves gpt, dos and none; \
         use another partitioner, or partition the disk anew with gpt"
    ))
}

/// The room on one disk.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Its kind.
    pub label: Label,
    /// Bytes of a logical sector.
    pub sector: u64,
    /// Bytes of the disk, whole sectors.
    pub disk: u64,
}

impl Table {
    /// A table of this kind on a disk of this size.
    pub fn new(label: Label, sector_size: u32, size: Size, disk: &str) -> Result<Self> {
        let sector = u64::from(sector_size);
        if !(512..=65536).contains(&sector) || !sector.is_power_of_two() {
            return Err(PluginError::invalid(format!(
                "{disk} has sectors of {sector_size} bytes; a power of two from 512 to 65536 is needed"
            )));
        }
        if size.0 > LARGEST {
            return Err(PluginError::invalid(format!("{disk} is said to hold {size}, more than any disk does")));
        }
        Ok(Self { label, sector, disk: round_down(size.0, sector) })
    }

    /// Sectors of the GPT's entries, in bytes.
    fn entries(&self) -> u64 {
        round_up(GPT_ENTRIES, self.sector)
    }

    /// The first byte that a partition may have.
    pub fn first(&self) -> u64 {
        match self.label {
            Label::Gpt => 2 * self.sector + self.entries(),
            Label::Dos => self.sector,
            Label::None => 0,
        }
    }

    /// Bytes at the end of the disk that the table takes for itself (GPT's backup).
    pub fn tail(&self) -> u64 {
        match self.label {
            Label::Gpt => self.sector + self.entries(),
            Label::Dos | Label::None => 0,
        }
    }

    /// The byte after the last that a partition may have.
    pub fn end(&self) -> u64 {
        self.disk.saturating_sub(self.tail())
    }

    /// The byte after the last that the table's sector numbers reach.
    pub fn reach(&self) -> u64 {
        match self.label {
            Label::Dos => self.sector << 32,
            Label::Gpt | Label::None => u64::MAX,
        }
    }
}

/// The partition is the container of the logical ones (of a `dos` table).
pub fn is_extended(label: Label, partition: &PartitionLayout) -> bool {
    let kind = partition.kind.trim_start_matches('0').to_ascii_lowercase();
    label == Label::Dos && matches!(kind.as_str(), "5" | "f" | "85")
}

/// The partition lies in the extended one (of a `dos` table).
pub fn is_logical(label: Label, partition: &PartitionLayout) -> bool {
    label == Label::Dos && partition.number > 4
}

/// The next multiple of `unit`, a power of two. `bytes` stays far below 2^64 ([`LARGEST`]).
pub fn round_up(bytes: u64, unit: u64) -> u64 {
    round_down(bytes.saturating_add(unit - 1), unit)
}

/// The multiple of `unit`, a power of two, at or below.
pub fn round_down(bytes: u64, unit: u64) -> u64 {
    bytes & !(unit - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_table_takes() {
        let rows = [
            ("gpt 512", Label::Gpt, 512, 34 * 512, 33 * 512),
            ("gpt 4096", Label::Gpt, 4096, 6 * 4096, 5 * 4096),
            ("dos", Label::Dos, 512, 512, 0),
            ("none", Label::None, 512, 0, 0),
        ];
        for (name, label, sector, first, tail) in rows {
            let table = Table::new(label, sector, Size(1 << 30), "x").unwrap();
            assert_eq!((table.first(), table.tail()), (first, tail), "{name}");
        }
        for sector in [0, 1, 511, 513, 1000, 1 << 17, u32::MAX] {
            assert!(Table::new(Label::Gpt, sector, Size(1 << 30), "x").is_err(), "{sector}");
        }
        assert!(Table::new(Label::Gpt, 512, Size(u64::MAX), "x").is_err());
    }
}
