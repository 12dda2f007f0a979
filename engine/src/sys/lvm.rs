//! The volume group that an LVM physical volume belongs to, read from the copy of the group's description on it.
//! No LVM tool is needed, and none of it is interpreted beyond names.
//!
//! Format (lvm2, lib/format_text/layout.h): in one of the first four sectors a label `LABELONE … LVM2 001`, whose
//! header says where the areas lie; each metadata area begins with a sector that says where the text lies. What a
//! disk says is data that anybody may have written: every number is checked, and little is read.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const SECTOR: usize = 512;
/// Sectors in which a label may lie.
const LABEL_SECTORS: usize = 4;
/// Longest text that is read, bytes: a group of hundreds of volumes.
const LONGEST: u64 = 4 << 20;
/// Areas that are looked at.
const MOST_AREAS: usize = 16;
const MAGIC: &[u8; 16] = b" LVM2 x[5A%r0N*>";

/// A volume group, as one of its physical volumes describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its UUID, as LVM writes it.
    pub id: String,
    /// UUIDs of all its physical volumes, as LVM writes them.
    pub volumes: BTreeSet<String>,
}

/// The group that the physical volume on a device belongs to; none where it belongs to none or does not say.
#[must_use]
pub fn group(device: &Path) -> Option<Group> {
    let file = File::open(device).ok()?;
    let mut start = [0; SECTOR * LABEL_SECTORS];
    file.read_exact_at(&mut start, 0).ok()?;
    let label = start.chunks(SECTOR).find(|sector| sector.starts_with(b"LABELONE"))?;
    for (offset, size) in metadata_areas(label) {
        let mut header = [0; SECTOR];
        if file.read_exact_at(&mut header, offset).is_err() {
            continue;
        }
        let Some((at, length)) = text_place(&header, size) else { continue };
        let mut text = vec![0; usize::try_from(length).ok()?];
        // The area is a ring: the text may go on at its beginning, after the header.
        let first = length.min(size.checked_sub(at)?);
        let (head, tail) = text.split_at_mut(usize::try_from(first).ok()?);
        let read = file.read_exact_at(head, offset.checked_add(at)?).is_ok()
            && (tail.is_empty() || file.read_exact_at(tail, offset.checked_add(SECTOR as u64)?).is_ok());
        if let Some(group) = read.then(|| parse(&String::from_utf8_lossy(&text))).flatten() {
            return Some(group);
        }
    }
    None
}

/// Offset and size of the metadata areas that a label lists.
fn metadata_areas(label: &[u8]) -> Vec<(u64, u64)> {
    let header = number(label, 20, 4).and_then(|at| usize::try_from(at).ok()).unwrap_or(32);
    // UUID (32 bytes), size of the device, then two lists of (offset, size), each ended by zeros.
    let mut at = header.saturating_add(40);
    let mut lists = [Vec::new(), Vec::new()];
    for list in &mut lists {
        for _ in 0..MOST_AREAS {
            let (Some(offset), Some(size)) = (number(label, at, 8), number(label, at + 8, 8)) else { break };
            at += 16;
            if offset == 0 {
                break;
            }
            list.push((offset, size));
        }
    }
    let [_, metadata] = lists;
    metadata
}

/// Offset in the area and length of the current text.
fn text_place(header: &[u8], size: u64) -> Option<(u64, u64)> {
    if header.get(4..20)? != MAGIC {
        return None;
    }
    // Checksum, magic, version, start, size; then places of texts: offset, length, checksum, flags.
    let (at, length) = (number(header, 40, 8)?, number(header, 48, 8)?);
    let fits = at >= SECTOR as u64 && at < size && length > 0 && length <= LONGEST && length <= size;
    fits.then_some((at, length))
}

fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(width)?)?;
    Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// The text is `NAME {`, then `key = value` and further sections. Of interest are the first `id` and the `id`s in
/// `physical_volumes`.
fn parse(text: &str) -> Option<Group> {
    let mut sections: Vec<&str> = Vec::new();
    let mut group: Option<Group> = None;
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim().trim_end_matches('\0');
        if let Some(name) = line.strip_suffix('{') {
            sections.push(name.trim());
            if sections.len() == 1 && group.is_none() {
                group = Some(Group { name: name.trim().to_owned(), id: String::new(), volumes: BTreeSet::new() });
            }
        } else if line == "}" {
            sections.pop()?;
            if sections.is_empty() {
                break;
            }
        } else if let Some(id) = line.strip_prefix("id = \"").and_then(|rest| rest.strip_suffix('"'))
            && let Some(group) = &mut group
        {
            match sections.as_slice() {
                [_] => id.clone_into(&mut group.id),
                [_, "physical_volumes", _] => {
                    group.volumes.insert(id.to_owned());
                }
                _ => {}
            }
        }
    }
    // Names have letters, digits and these (lvm(8)); what else it says comes to consoles.
    let plain = |name: &str| name.chars().all(|letter| letter.is_ascii_alphanumeric() || "+_.-".contains(letter));
    let mut group = group.filter(|it| !it.name.is_empty() && !it.id.is_empty() && plain(&it.name) && plain(&it.id))?;
    group.volumes.retain(|id| plain(id));
    Some(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "vg0 {\nid = \"67ZhLr\"\nseqno = 1\nstatus = [\"READ\"]\n\nphysical_volumes {\n\npv0 {\nid = \"HDRJIi\"\n\
        device = \"/dev/sda2\"\t# Hint only\n}\npv1 {\nid = \"ybMtlU\"\n}\n}\n\nlogical_volumes {\n\nroot {\nid = \"x\"\n}\n}\n\n}\n\
        # Generated by LVM2\ncontents = \"Text\"\n\0";

    /// A device with a label in its second sector, an area at 4096, and the text `at` bytes into it.
    fn device(area: u64, at: u64, text: &str) -> tempfile::NamedTempFile {
        let mut bytes = vec![0; 4096 + area as usize];
        let mut put = |at: usize, data: &[u8]| bytes[at..at + data.len()].copy_from_slice(data);
        put(512, b"LABELONE");
        put(512 + 20, &32_u32.to_le_bytes());
        put(512 + 24, b"LVM2 001");
        // A data area, the end of that list, then the metadata area.
        put(512 + 72, &(1_u64 << 20).to_le_bytes());
        put(512 + 72 + 32, &4096_u64.to_le_bytes());
        put(512 + 72 + 40, &area.to_le_bytes());
        put(4096 + 4, MAGIC);
        put(4096 + 40, &at.to_le_bytes());
        put(4096 + 48, &(text.len() as u64).to_le_bytes());
        let first = text.len().min(area.saturating_sub(at) as usize);
        put(4096 + at.min(area - 1) as usize, &text.as_bytes()[..first.min((area - at.min(area - 1)) as usize)]);
        put(4096 + 512, &text.as_bytes()[first..]);
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), bytes).expect("written");
        file
    }

    #[test]
    fn a_group_is_read() {
        let expected = Group {
            name: "vg0".into(),
            id: "67ZhLr".into(),
            volumes: ["HDRJIi".to_owned(), "ybMtlU".to_owned()].into(),
        };
        // Whole, and round the end of the ring.
        for at in [512, 4096, 8192 - 100] {
            assert_eq!(group(device(8192, at, TEXT).path()), Some(expected.clone()), "{at}");
        }
    }

    #[test]
    fn what_is_no_group_is_none() {
        for (name, area, at, text) in [
            ("no text", 8192, 512, ""),
            ("in the header", 8192, 100, TEXT),
            ("beyond the area", 8192, 9000, ""),
            ("cut", 8192, 512, "vg0 {\n"),
            ("no name", 8192, 512, "{\nid = \"x\"\n}\n"),
            ("unbalanced", 8192, 512, "}\nvg0 {\n"),
        ] {
            assert_eq!(group(device(area, at, text).path()), None, "{name}");
        }
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        assert_eq!(group(file.path()), None);
        std::fs::write(file.path(), vec![0xff; 1 << 16]).expect("written");
        assert_eq!(group(file.path()), None);
        let mut label = vec![0xff; SECTOR];
        label[..8].copy_from_slice(b"LABELONE");
        std::fs::write(file.path(), label.repeat(8)).expect("written");
        assert_eq!(group(file.path()), None);
    }
}
