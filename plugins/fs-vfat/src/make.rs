//! The step that makes a FAT file system: size of its FAT, volume id, label. Pure.
//!
//! How many clusters a FAT can count decides how large the file system may be: Microsoft's FAT specification 1.03,
//! "FAT type determination". A cluster has at most 32 KiB, which all readers take.

use std::collections::BTreeMap;

use systemimager_core::{Action, Arg, FileSystemLayout, Phase, PluginError, Result, Size, Step};

/// The option that says how many bits an entry of the FAT has: 12, 16 or 32.
pub const FAT_SIZE: &str = "fat_size";
/// Longest label, bytes.
const LONGEST_LABEL: usize = 11;
/// Letters that a label cannot have (mkfs.fat(8) refuses them, or another system does).
const NOT_IN_LABELS: &str = "*?.,;:/\\|+=<>[]\"";

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What a FAT of so many bits can hold: bytes at least and at most. A FAT32 has no fewer than 65525 clusters, of 512
/// bytes and more, and reserved sectors besides.
fn range(bits: &str) -> Option<(u64, u64)> {
    match bits {
        "12" => Some((64 * KIB, 127 * MIB)),
        "16" => Some((5 * MIB, 2047 * MIB)),
        "32" => Some((33 * MIB, 2 << 40)),
        _ => None,
    }
}

/// The step. `size` is that of the partition, where it is known.
///
/// # Errors
/// `Invalid`: a volume id, label, or option that a FAT cannot have, or a size at which it cannot be.
pub fn plan(fs: &FileSystemLayout, size: Option<Size>) -> Result<Vec<Step>> {
    let invalid = |why: String| PluginError::invalid(format!("the file system {} {why}", fs.node));
    // -I: also on a disk without a partition table.
    let mut argv = Arg::words(["mkfs.vfat", "-I"]);
    if let Some(bits) = fat_size(&fs.options).map_err(invalid)? {
        let (least, most) =
            range(bits).ok_or_else(|| invalid(format!("is to have fat_size = {bits:?}; a FAT has 12, 16 or 32")))?;
        if let Some(size) = size
            && !(least..=most).contains(&size.0)
        {
            return Err(invalid(format!(
                "is to be a FAT{bits} on {size}, and a FAT{bits} has {} to {}; give its partition another size, or take \
                 fat_size out of its options",
                Size(least),
                Size(most)
            )));
        }
        argv.extend(Arg::words(["-F", bits]));
    }
    if let Some(uuid) = fs.uuid.as_deref().filter(|_| !fs.new_uuid) {
        let id = volume_id(uuid).ok_or_else(|| {
            invalid(format!("is to have the UUID {uuid:?}; that of a FAT is a volume id like ABCD-1234"))
        })?;
        argv.extend(Arg::words(["-i", &id]));
    }
    if let Some(label) = &fs.label {
        let fine = |letter: char| matches!(letter, ' '..='~') && !NOT_IN_LABELS.contains(letter);
        if label.is_empty() || label.len() > LONGEST_LABEL || !label.chars().all(fine) || label.starts_with(' ') {
            return Err(invalid(format!(
                "is to have the label {label:?}; that of a FAT has 1 to {LONGEST_LABEL} letters of ASCII, none of {NOT_IN_LABELS}"
            )));
        }
        argv.extend(Arg::words(["-n", label]));
    }
    argv.push(Arg::Device(fs.on.clone()));
    Ok(vec![
        Step::new(Phase::Format, format!("make the vfat file system {}", fs.node), Action::Run { argv, stdin: None })
            .destroying([fs.on.clone()])
            .providing([fs.node.clone()]),
    ])
}

fn fat_size(options: &BTreeMap<String, String>) -> std::result::Result<Option<&str>, String> {
    match options.keys().find(|key| *key != FAT_SIZE) {
        Some(unknown) => Err(format!("has the option {unknown:?}; vfat knows {FAT_SIZE} only, take the other out")),
        None => Ok(options.get(FAT_SIZE).map(String::as_str)),
    }
}

/// `ABCD1234` of `ABCD-1234`, as blkid(8) and fstab write it.
fn volume_id(uuid: &str) -> Option<String> {
    let (high, low) = uuid.split_once('-')?;
    let fine = |half: &str| half.len() == 4 && half.bytes().all(|byte| byte.is_ascii_hexdigit());
    (fine(high) && fine(low)).then(|| format!("{high}{low}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::{ErrorKind, NodeName};

    fn layout(uuid: Option<&str>, label: Option<&str>, options: &[(&str, &str)]) -> FileSystemLayout {
        let node = |name: &str| NodeName::try_from(name).unwrap();
        FileSystemLayout {
            uuid: uuid.map(str::to_owned),
            label: label.map(str::to_owned),
            options: options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ..FileSystemLayout::new(node("boot-efi"), node("disk0p1"), "vfat")
        }
    }

    #[test]
    fn made_as_it_was() {
        let size = Some(Size(512 * MIB));
        for (name, fs, words) in [
            ("plain", layout(None, None, &[]), vec!["mkfs.vfat", "-I"]),
            (
                "all",
                layout(Some("ABCD-1234"), Some("my ESP"), &[("fat_size", "32")]),
                vec!["mkfs.vfat", "-I", "-F", "32", "-i", "ABCD1234", "-n", "my ESP"],
            ),
            (
                "a new id",
                FileSystemLayout { new_uuid: true, ..layout(Some("ABCD-1234"), None, &[]) },
                vec!["mkfs.vfat", "-I"],
            ),
        ] {
            let steps = plan(&fs, size).unwrap();
            let mut expected = Arg::words(words);
            expected.push(Arg::Device(fs.on.clone()));
            assert_eq!(steps[0].action, Action::Run { argv: expected, stdin: None }, "{name}");
            assert_eq!((&steps[0].destroys, &steps[0].provides), (&vec![fs.on], &vec![fs.node]), "{name}");
        }
    }

    #[test]
    fn what_a_fat_cannot_be_is_refused() {
        let one = |key, value| layout(None, None, &[(key, value)]);
        for (name, fs, mebibytes, says) in [
            ("uuid", layout(Some("b8f08195-d958-4ccd-bfed-b00eee31ffd5"), None, &[]), 64, "volume id like ABCD-1234"),
            ("short", layout(Some("ABC-1234"), None, &[]), 64, "volume id like ABCD-1234"),
            ("letters", layout(Some("ABCG-1234"), None, &[]), 64, "volume id like ABCD-1234"),
            ("long label", layout(None, Some("twelve chars"), &[]), 64, "1 to 11 letters of ASCII"),
            ("label", layout(None, Some("a:b"), &[]), 64, "1 to 11 letters of ASCII"),
            ("no label", layout(None, Some(""), &[]), 64, "1 to 11 letters of ASCII"),
            ("option", one("su", "64k"), 64, "has the option \"su\"; vfat knows fat_size only"),
            ("bits", one("fat_size", "64"), 64, "a FAT has 12, 16 or 32"),
            ("small", one("fat_size", "32"), 32, "is to be a FAT32 on 32 MiB, and a FAT32 has 33 MiB to 2 TiB"),
            ("large", one("fat_size", "16"), 4096, "is to be a FAT16 on 4 GiB"),
        ] {
            let error = plan(&fs, Some(Size(mebibytes * MIB))).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid, "{name}");
            assert!(error.message.contains(says), "{name}: {error}");
        }
    }
}
