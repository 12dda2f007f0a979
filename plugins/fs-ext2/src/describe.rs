//! What dumpe2fs(8) says of a file system, as facts with which it can be made again.

use systemimager_core::contract::{FileSystemDescribe, FileSystemFacts};
use systemimager_core::{Host, Level, PluginError, Result};

use crate::features::{Feature, sort};
use crate::options::{Options, percent};

/// The default mount options that mke2fs.conf(5) gives where nobody changed it, sorted.
const USUAL_MOUNT_OPTIONS: [&str; 2] = ["acl", "user_xattr"];

/// Describes the file system on a device, mounted or not.
pub fn describe(host: &dyn Host, request: &FileSystemDescribe) -> Result<FileSystemFacts> {
    let device = &request.device;
    let output = host.run("dumpe2fs", &["-h".into(), device.clone()])?;
    let text = output.stdout.lossy();
    let fields = Fields(&text);
    let missing = |key: &str| {
        PluginError::failed(format!(
            "dumpe2fs -h {device} printed no {key:?}; see that {device} holds an {} file system and that \
             e2fsprogs is not older than 1.43",
            request.fstype
        ))
    };
    let label = fields.label();
    if label.is_some_and(|label| label.contains('\u{fffd}')) {
        return Err(PluginError::failed(format!(
            "the label of {device} is not UTF-8, and a master file cannot hold it; give it another with e2label"
        )));
    }

    let mut features = Vec::new();
    let all = fields.last("Filesystem features").ok_or_else(|| missing("Filesystem features"))?;
    for name in all.split_whitespace().filter(|name| *name != "(none)") {
        match sort(name) {
            Feature::Makeable => features.push(name.to_owned()),
            Feature::State => {}
            Feature::Unknown => host.log(
                Level::Warn,
                &format!("{device} has the feature {name}, which mke2fs cannot make: installed machines will lack it"),
            ),
        }
    }
    features.sort();

    let mut mount_options: Vec<&str> =
        fields.last("Default mount options").unwrap_or_default().split_whitespace().collect();
    mount_options.sort_unstable();
    if mount_options != USUAL_MOUNT_OPTIONS {
        host.log(
            Level::Warn,
            &format!(
                "the superblock of {device} has the default mount options {mount_options:?}; mke2fs can give only \
                 those of its configuration: name them in fstab too, so that installed machines have them"
            ),
        );
    }

    let block_size = fields.number("Block size").ok_or_else(|| missing("Block size"))?;
    let blocks = fields.number("Block count").ok_or_else(|| missing("Block count"))?;
    let inodes = fields.number("Inode count").ok_or_else(|| missing("Inode count"))?;
    let reserved = fields.number("Reserved block count").ok_or_else(|| missing("Reserved block count"))?;
    let options = Options {
        features: Some(features),
        block_size: Some(block_size),
        cluster_size: fields.number("Cluster size"),
        // Of revision 0 there is none, and its inodes have 128 bytes.
        inode_size: Some(fields.number("Inode size").unwrap_or(128)),
        inode_ratio: ratio(blocks, block_size, inodes),
        flex_bg_size: fields.number("Flex block group size"),
        reserved: thousandths(reserved, blocks),
        errors: fields.last("Errors behavior").and_then(errors).map(str::to_owned),
    };
    Ok(FileSystemFacts {
        uuid: fields.last("Filesystem UUID").filter(|uuid| *uuid != "<none>").map(str::to_owned),
        label: label.map(str::to_owned),
        options: options.to_map(),
    })
}

/// `Key:   value` lines. A label may hold anything, newlines and the like of these lines included; it is
/// printed before all that is taken from here, so that the last line of a key is the true one.
struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    fn lines(&self, key: &'static str) -> impl DoubleEndedIterator<Item = &'a str> {
        self.0.lines().filter_map(move |line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
    }

    fn last(&self, key: &'static str) -> Option<&'a str> {
        self.lines(key).next_back()
    }

    fn number(&self, key: &'static str) -> Option<u64> {
        self.last(key)?.parse().ok()
    }

    fn label(&self) -> Option<&'a str> {
        self.lines("Filesystem volume name").next().filter(|label| *label != "<none>" && !label.is_empty())
    }
}

fn errors(words: &str) -> Option<&'static str> {
    match words {
        "Continue" => Some("continue"),
        "Remount read-only" => Some("remount-ro"),
        "Panic" => Some("panic"),
        _ => None,
    }
}

/// Bytes for each inode. mke2fs fills up the last block of each group's inode table, so that there are a few
/// inodes more than asked for: what is near one of the ratios of mke2fs.conf(5) was made with it.
fn ratio(blocks: u64, block_size: u64, inodes: u64) -> Option<u64> {
    let exact = (u128::from(blocks) * u128::from(block_size)).checked_div(u128::from(inodes))?;
    let exact = u64::try_from(exact).unwrap_or(u64::MAX).clamp(1024, 1 << 26);
    let usual = [4096, 8192, 16384, 32768, 65536, 1 << 20, 1 << 22];
    Some(usual.into_iter().find(|usual| exact.abs_diff(*usual) <= usual / 10).unwrap_or(exact))
}

/// The reserved share, rounded to what a person would have asked for.
fn thousandths(reserved: u64, blocks: u64) -> Option<u64> {
    let exact = u64::try_from((u128::from(reserved) * 100_000).checked_div(u128::from(blocks))?).ok()?.min(50_000);
    // mke2fs rounds down to whole blocks.
    let nearest = (exact + 500) / 1000 * 1000;
    let wanted = if exact.abs_diff(nearest) <= 5 { nearest } else { exact };
    debug_assert!(percent(wanted).len() <= 6);
    Some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::ErrorKind;
    use systemimager_core::testing::RecordedHost;

    const EXT4: &str = "Filesystem volume name:   <none>\n\
        Last mounted on:          /\n\
        Filesystem UUID:          b8f08195-d958-4ccd-bfed-b00eee31ffd5\n\
        Filesystem features:      has_journal ext_attr dir_index filetype needs_recovery extent 64bit FEATURE_I31\n\
        Default mount options:    user_xattr acl\n\
        Errors behavior:          Remount read-only\n\
        Inode count:              524288\n\
        Block count:              2096896\n\
        Reserved block count:     104844\n\
        Block size:               4096\n\
        Inode size:\t          256\n\
        Flex block group size:    16\n";

    fn run(text: &str) -> (Result<FileSystemFacts>, RecordedHost) {
        let host = RecordedHost::new().tool("dumpe2fs -h /dev/x", text);
        let request = FileSystemDescribe { device: "/dev/x".into(), fstype: "ext4".into() };
        (describe(&host, &request), host)
    }

    #[test]
    fn an_ext4() {
        let (facts, host) = run(EXT4);
        let facts = facts.unwrap();
        assert_eq!(facts.uuid.as_deref(), Some("b8f08195-d958-4ccd-bfed-b00eee31ffd5"));
        assert_eq!(facts.label, None);
        let seen: Vec<_> = facts.options.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let expected = [
            ("block_size", "4096"),
            ("errors", "remount-ro"),
            ("features", "64bit dir_index ext_attr extent filetype has_journal"),
            ("flex_bg_size", "16"),
            ("inode_ratio", "16384"),
            ("inode_size", "256"),
            ("reserved_percent", "5"),
        ];
        assert_eq!(seen, expected);
        let logged = host.logged.lock().unwrap();
        assert_eq!(logged.len(), 1);
        assert!(logged[0].1.contains("has the feature FEATURE_I31"), "{logged:?}");
        let (_, host) = run(&EXT4.replace("user_xattr acl", "journal_data").replace(" FEATURE_I31", ""));
        let logged = host.logged.lock().unwrap();
        assert_eq!(logged.len(), 1);
        assert!(logged[0].1.contains("default mount options [\"journal_data\"]; mke2fs"), "{logged:?}");
    }

    #[test]
    fn a_label_cannot_pose_as_other_fields() {
        let text = EXT4.replace("<none>", "a b\nFilesystem UUID:  evil\nBlock size: 1");
        let facts = run(&text).0.unwrap();
        assert_eq!(facts.label.as_deref(), Some("a b"));
        assert_eq!(facts.uuid.as_deref(), Some("b8f08195-d958-4ccd-bfed-b00eee31ffd5"));
        assert_eq!(facts.options["block_size"], "4096");
    }

    #[test]
    fn hostile_output() {
        for (name, text, says) in [
            ("empty", String::new(), "printed no \"Filesystem features\"; see that /dev/x holds an ext4 file system"),
            ("no block size", EXT4.replace("Block size", "X"), "printed no \"Block size\""),
            ("huge", EXT4.replace("2096896", "99999999999999999999999"), "printed no \"Block count\""),
            ("negative", EXT4.replace("524288", "-1"), "printed no \"Inode count\""),
            ("label", EXT4.replace("<none>", "\u{fffd}"), "the label of /dev/x is not UTF-8"),
        ] {
            let error = run(&text).0.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Failed, "{name}");
            assert!(error.message.contains(says), "{name}: {error}");
        }
        // Nonsense that can be computed with is no panic; what comes of it can be read back.
        let largest = u64::MAX.to_string();
        for number in ["0", "1", &largest] {
            for field in ["524288", "2096896", "104844", "4096\n"] {
                let facts = run(&EXT4.replace(field, &format!("{number}\n"))).0.unwrap();
                assert!(!facts.options.is_empty());
            }
        }
    }

    #[test]
    fn ratios_and_shares() {
        for (blocks, block_size, inodes, expected) in [
            (307_200, 1024, 76_912, Some(4096)),
            (2_096_896, 4096, 524_288, Some(16384)),
            (100_000, 4096, 80_000, Some(5120)),
            (100, 1024, 0, None),
        ] {
            assert_eq!(ratio(blocks, block_size, inodes), expected);
        }
        for (reserved, blocks, expected) in [
            (15_360, 307_200, Some(5000)),
            (104_844, 2_096_896, Some(5000)),
            (0, 100, Some(0)),
            (1, 80, Some(1250)),
            (1, 0, None),
        ] {
            assert_eq!(thousandths(reserved, blocks), expected);
        }
    }
}
