//! What a layout must hold to before anything is computed from it, and after.

use systemimager_core::{DiskLayout, PartitionLayout, PluginError, Result, Size};

use crate::table::{LARGEST, Label, Table, is_extended, is_logical};

/// What needs no disk: numbers, types, names, identifiers, at most one open size.
pub fn shape(layout: &DiskLayout, label: Label) -> Result<()> {
    let disk = &layout.node;
    if label == Label::None {
        return match layout.partitions.first() {
            Some(partition) => Err(PluginError::invalid(format!(
                "{disk} is to have no partition table (label none), and yet the partition {}; \
                 take the partition away or choose gpt or dos",
                partition.node
            ))),
            None => Ok(()),
        };
    }
    if let Some(id) = layout.id.as_deref() {
        let (good, form) = match label {
            Label::Gpt => (is_guid(id), "a GUID"),
            _ => (id.strip_prefix("0x").is_some_and(|hex| is_hex(hex, 8)), "0x and up to 8 hexadecimal digits"),
        };
        if !good {
            return Err(PluginError::invalid(format!(
                "the id {id:?} of {disk} is not {form}; correct it or leave it out"
            )));
        }
    }
    let mut numbers = std::collections::BTreeSet::new();
    for partition in &layout.partitions {
        one(partition, label)?;
        if !numbers.insert(partition.number) {
            return Err(PluginError::invalid(format!(
                "{disk} has two partitions with the number {}; give each its own",
                partition.number
            )));
        }
    }
    if layout.partitions.iter().filter(|partition| partition.size.is_none()).count() > 1 {
        return Err(PluginError::invalid(format!(
            "more than one partition of {disk} leaves its size open; only one can take what is left"
        )));
    }
    logical(layout, label)
}

fn one(partition: &PartitionLayout, label: Label) -> Result<()> {
    let node = &partition.node;
    let invalid = |why: String| Err(PluginError::invalid(format!("the partition {node} {why}")));
    let (name, most) = (&layout_name(label), label.most());
    if partition.number == 0 || partition.number > most {
        return invalid(format!("has the number {}; a {name} table has 1 to {most}", partition.number));
    }
    if partition.size == Some(Size(0)) {
        return invalid("has the size 0; give it one, or leave it out for all that is left".into());
    }
    if let Some(large) =
        [partition.start, partition.size, partition.min_size].into_iter().flatten().find(|size| size.0 > LARGEST)
    {
        return invalid(format!("starts or ends at {large}, beyond the end of any disk"));
    }
    let kind = &partition.kind;
    match label {
        Label::Gpt if !is_guid(kind) => return invalid(format!("has the type {kind:?}; gpt needs a GUID")),
        Label::Dos if !is_hex(kind, 2) || kind.bytes().all(|byte| byte == b'0') => {
            return invalid(format!("has the type {kind:?}; dos needs one or two hexadecimal digits, as 83"));
        }
        _ => {}
    }
    if label == Label::Dos {
        let only_gpt = [("name", &partition.name), ("uuid", &partition.uuid), ("attributes", &partition.attributes)];
        if let Some((field, _)) = only_gpt.into_iter().find(|(_, value)| value.is_some()) {
            return invalid(format!("has a {field}, which a dos table cannot hold; leave it out or use gpt"));
        }
        return Ok(());
    }
    if partition.bootable {
        return invalid("is bootable, a flag of dos tables; gpt has the attribute LegacyBIOSBootable".into());
    }
    if let Some(uuid) = partition.uuid.as_deref().filter(|uuid| !is_guid(uuid)) {
        return invalid(format!("has the uuid {uuid:?}, which is not a GUID; correct it or leave it out"));
    }
    if let Some(name) = partition.name.as_deref().filter(|name| name.encode_utf16().count() > 36 || name.contains('\0'))
    {
        return invalid(format!("has the name {name:?}; gpt holds 36 UTF-16 units without NUL: shorten it"));
    }
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, ':' | ',' | ' ');
    if let Some(attributes) = partition.attributes.as_deref().filter(|text| !text.chars().all(plain)) {
        return invalid(format!(
            "has the attributes {attributes:?}; sfdisk knows RequiredPartition, NoBlockIOProtocol, \
             LegacyBIOSBootable and GUID:48 to GUID:63"
        ));
    }
    Ok(())
}

fn logical(layout: &DiskLayout, label: Label) -> Result<()> {
    let disk = &layout.node;
    let extended: Vec<_> = layout.partitions.iter().filter(|partition| is_extended(label, partition)).collect();
    if let Some(inner) = extended.iter().find(|partition| is_logical(label, partition)) {
        return Err(PluginError::invalid(format!(
            "the partition {} is an extended one with the number {}; only 1 to 4 can be extended",
            inner.node, inner.number
        )));
    }
    if extended.len() > 1 {
        return Err(PluginError::invalid(format!("{disk} has {} extended partitions; dos allows one", extended.len())));
    }
    let mut numbers: Vec<u32> =
        layout.partitions.iter().filter(|part| is_logical(label, part)).map(|part| part.number).collect();
    numbers.sort_unstable();
    if !numbers.is_empty() && extended.is_empty() {
        return Err(PluginError::invalid(format!(
            "{disk} has logical partitions (5 and above) and no extended one (type 5, f or 85) to hold them; add it"
        )));
    }
    // They are a chain: a number is a place in it, and none can be left out.
    if let Some((expected, found)) = (5..).zip(numbers).find(|(expected, found)| expected != found) {
        return Err(PluginError::invalid(format!(
            "{disk} has the logical partition {found} and no {expected}; number them from 5 without gaps"
        )));
    }
    Ok(())
}

/// That every partition has a place, on whole sectors, on the disk, within reach, and its own.
pub fn fitted(layout: &DiskLayout, table: &Table) -> Result<()> {
    let mut top = Vec::new();
    let mut inner = Vec::new();
    let mut container = None;
    for partition in &layout.partitions {
        let node = &partition.node;
        let (Some(Size(start)), Some(Size(size))) = (partition.start, partition.size) else {
            return Err(PluginError::invalid(format!(
                "the partition {node} has no start or no size yet; fit it to a disk first"
            )));
        };
        let end = start.saturating_add(size);
        if !start.is_multiple_of(table.sector) || !size.is_multiple_of(table.sector) {
            return Err(PluginError::invalid(format!(
                "the partition {node} starts at {start} and has {size} bytes, not whole sectors of {}; correct it",
                table.sector
            )));
        }
        if start < table.first() {
            return Err(PluginError::invalid(format!(
                "the partition {node} starts at byte {start}, where the {} table is; begin at {} or later (1 MiB is usual)",
                layout.label,
                table.first()
            )));
        }
        if end > table.reach() {
            return Err(PluginError::invalid(format!(
                "the partition {node} ends at {}, and a dos table reaches {} in sectors of {} bytes; \
                 use gpt, or give it a smaller size",
                amount(end),
                amount(table.reach()),
                table.sector
            )));
        }
        if end > table.end() {
            return Err(PluginError::invalid(format!(
                "the partition {node} ends at {}, and {} has room up to {}",
                amount(end),
                layout.node,
                amount(table.end())
            )));
        }
        if is_extended(table.label, partition) {
            container = Some(start..end);
        }
        // A logical partition has a sector before it that leads to it.
        if is_logical(table.label, partition) {
            inner.push((start.saturating_sub(table.sector), end, node));
        } else {
            top.push((start, end, node));
        }
    }
    for list in [&mut top, &mut inner] {
        list.sort_unstable_by_key(|(start, ..)| *start);
        let overlap = list.iter().zip(list.iter().skip(1)).find(|(first, second)| second.0 < first.1);
        if let Some((first, second)) = overlap {
            return Err(PluginError::invalid(format!(
                "the partitions {} and {} overlap: the first ends at byte {}, the second starts at byte {}",
                first.2, second.2, first.1, second.0
            )));
        }
    }
    if let Some((_, _, node)) =
        inner.iter().find(|(start, end, _)| container.as_ref().is_none_or(|all| *start < all.start || *end > all.end))
    {
        return Err(PluginError::invalid(format!(
            "the logical partition {node} does not lie in the extended one of {}; move it or make that larger",
            layout.node
        )));
    }
    Ok(())
}

/// Bytes for people: one decimal in the largest unit that gives at least 1.
pub fn amount(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let Some((unit, shift)) = units.into_iter().find(|(_, shift)| bytes >> shift > 0) else {
        return format!("{bytes} B");
    };
    let tenths = (u128::from(bytes) * 10) >> shift;
    if tenths.is_multiple_of(10) {
        format!("{} {unit}", tenths / 10)
    } else {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

fn layout_name(label: Label) -> &'static str {
    match label {
        Label::Gpt => "gpt",
        Label::Dos => "dos",
        Label::None => "none",
    }
}

fn is_hex(text: &str, most: usize) -> bool {
    !text.is_empty() && text.len() <= most && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// 8-4-4-4-12 hexadecimal digits (RFC 9562).
fn is_guid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12]) && parts.iter().all(|part| is_hex(part, 12))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1 << 30, "1 GiB"),
            (3 << 29, "1.5 GiB"),
            ((8 << 30) + (100 << 20), "8 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(amount(bytes), text);
        }
    }

    #[test]
    fn guids() {
        assert!(is_guid("0FC63DAF-8483-4772-8E79-3D69D8477DE4"));
        for bad in ["", "0FC63DAF", "0FC63DAF-8483-4772-8E79-3D69D8477DE4-", "0FC63DAG-8483-4772-8E79-3D69D8477DE4"] {
            assert!(!is_guid(bad), "{bad}");
        }
    }
}
