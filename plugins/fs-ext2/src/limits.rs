//! What an image can read: which features its e2fsprogs and its boot loader know, and what follows for a file system
//! that is made for it.
//!
//! What is not known limits nothing that a master asks for, but then nothing new is made by default either.

use std::collections::BTreeMap;

use systemimager_core::contract::FileSystemMake;
use systemimager_core::host::read_if_there;
use systemimager_core::{Host, Place, Result};

/// A release of e2fsprogs: `1.47.0`.
pub type Version = (u32, u32, u32);

/// A feature, the first release of e2fsprogs whose e2fsck takes a file system with it, and its bit of the superblock's
/// `s_feature_incompat` (none for those that a reader may pass over).
///
/// Sources: doc/RelNotes of e2fsprogs (1.41.0 "ext4 filesystem features, in particular extents, uninit_bg, flex_bg,
/// huge_file, and dir_nlink"; 1.42 bigalloc, MMP, quota, 64-bit; 1.42.10 sparse_super2; 1.43 "metadata checksum,
/// checksum seed, inline data, encryption, project quota"; 1.44.0 large_dir, ea_inode; 1.44.4 verity; 1.45.1 casefold
/// under that name; 1.46.0 fast_commit, stable_inodes; 1.47.0 orphan_file), and ext4(5); bits: lib/ext2fs/ext2_fs.h.
const FEATURES: [(&str, Version, Option<u32>); 31] = [
    ("64bit", (1, 42, 0), Some(0x80)),
    ("bigalloc", (1, 42, 0), None),
    ("casefold", (1, 45, 1), Some(0x20000)),
    ("dir_index", (1, 0, 0), None),
    ("dir_nlink", (1, 41, 0), None),
    ("ea_inode", (1, 44, 0), Some(0x400)),
    ("encrypt", (1, 43, 0), Some(0x10000)),
    ("ext_attr", (1, 0, 0), None),
    ("extent", (1, 41, 0), Some(0x40)),
    ("extra_isize", (1, 41, 0), None),
    ("fast_commit", (1, 46, 0), None),
    ("filetype", (1, 0, 0), Some(0x2)),
    ("flex_bg", (1, 41, 0), Some(0x200)),
    ("has_journal", (1, 0, 0), None),
    ("huge_file", (1, 41, 0), None),
    ("inline_data", (1, 43, 0), Some(0x8000)),
    ("large_dir", (1, 44, 0), Some(0x4000)),
    ("large_file", (1, 0, 0), None),
    ("meta_bg", (1, 0, 0), Some(0x10)),
    ("metadata_csum", (1, 43, 0), None),
    ("metadata_csum_seed", (1, 43, 0), Some(0x2000)),
    ("mmp", (1, 42, 0), Some(0x100)),
    ("orphan_file", (1, 47, 0), None),
    ("project", (1, 43, 0), None),
    ("quota", (1, 42, 0), None),
    ("resize_inode", (1, 0, 0), None),
    ("sparse_super", (1, 0, 0), None),
    ("sparse_super2", (1, 42, 10), None),
    ("stable_inodes", (1, 46, 0), None),
    ("uninit_bg", (1, 41, 0), None),
    ("verity", (1, 44, 4), None),
];

/// What is made where a master names no features, by type: what mke2fs.conf(5) of 1.43 has. Later defaults
/// (`metadata_csum_seed`, `orphan_file`) are left out: many a kernel and boot loader does not read them, and nobody
/// asked for them. What replaces `metadata_csum` and is older stands in [`OLDER`].
const ANY: [&str; 6] = ["dir_index", "ext_attr", "filetype", "large_file", "resize_inode", "sparse_super"];
const JOURNAL: [&str; 1] = ["has_journal"];
const EXT4: [&str; 7] = ["64bit", "dir_nlink", "extent", "extra_isize", "flex_bg", "huge_file", "metadata_csum"];
/// A default, and what stands in for it where it is not known.
const OLDER: (&str, &str) = ("metadata_csum", "uninit_bg");

/// The fact under which the version of e2fsprogs stands in [`systemimager_core::ImageFacts::filesystems`].
pub const VERSION: &str = "e2fsprogs";
/// The fact under which a boot loader tells which incompatible features it reads, a mask: `0x163d6`.
pub const INCOMPAT: &str = "ext2-incompat";

/// Where e2fsck is; it is what looks at a file system before it is mounted.
const E2FSCK: [&str; 4] = ["/sbin/e2fsck", "/usr/sbin/e2fsck", "/usr/bin/e2fsck", "/bin/e2fsck"];

/// What a tree tells: the version of its e2fsprogs. Read from e2fsck itself, which says it, so that each package
/// manager is served; nothing of it is run.
pub fn detect(host: &dyn Host, place: &Place) -> Result<BTreeMap<String, String>> {
    for path in E2FSCK {
        if let Some(program) = read_if_there(host, place, path)? {
            return Ok(version_in(&program.0).map(|version| (VERSION.to_owned(), version)).into_iter().collect());
        }
    }
    Ok(BTreeMap::new())
}

/// The only text in a program that is a version of e2fsprogs.
fn version_in(program: &[u8]) -> Option<String> {
    let texts = program.split(|byte| *byte == 0).filter_map(|text| std::str::from_utf8(text).ok());
    let mut versions: Vec<&str> = texts.filter(|text| text.len() < 16 && parse(text).is_some()).collect();
    versions.dedup();
    match versions.as_slice() {
        [version] => Some((*version).to_owned()),
        _ => None,
    }
}

/// `1.47.0`, `1.42`, `1.46-WIP`: two or three numbers, the first of them 1, the second of two digits.
fn parse(text: &str) -> Option<Version> {
    let (numbers, _) = text.split_once('-').unwrap_or((text, ""));
    let number = |part: &str| part.bytes().all(|it| it.is_ascii_digit()).then(|| part.parse::<u32>().ok()).flatten();
    let mut parts = numbers.split('.');
    let version = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("1"), Some(minor), None, _) if minor.len() == 2 => (1, number(minor)?, 0),
        (Some("1"), Some(minor), Some(patch), None) if minor.len() == 2 => (1, number(minor)?, number(patch)?),
        _ => return None,
    };
    Some(version)
}

/// What is known of who reads a file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readers {
    /// The image's e2fsprogs.
    pub tools: Option<Version>,
    /// The boot loader, where it reads this file system and tells what it knows: its name, its mask.
    pub boot_loader: Option<(String, u32)>,
}

impl Readers {
    /// `own`: the facts of this plugin's [`detect`].
    pub fn of(request: &FileSystemMake, own: &str) -> Self {
        let image = &request.image;
        let tools = image.filesystems.get(own).and_then(|facts| parse(facts.get(VERSION)?));
        let boot_loader = request.boot_loader.as_ref().and_then(|id| {
            let mask = image.bootloaders.get(id)?.get(INCOMPAT)?;
            Some((id.clone(), u32::from_str_radix(mask.strip_prefix("0x")?, 16).ok()?))
        });
        Self { tools, boot_loader }
    }

    /// Who does not read a feature, and what to do; `None`: all do that are known.
    pub fn against(&self, feature: &str) -> Option<String> {
        let (_, since, bit) = FEATURES.iter().find(|(name, ..)| *name == feature)?;
        let shown = |(major, minor, patch): Version| format!("{major}.{minor}.{patch}");
        if let Some(tools) = self.tools.filter(|tools| tools < since) {
            return Some(format!(
                "the feature {feature} needs e2fsprogs {}, and the image has {}, whose e2fsck refuses such a file system",
                shown(*since),
                shown(tools)
            ));
        }
        match (&self.boot_loader, bit) {
            (Some((name, mask)), Some(bit)) if mask & bit == 0 => {
                Some(format!("the image's boot loader {name} does not read a file system with the feature {feature}"))
            }
            _ => None,
        }
    }

    /// The features of a file system of which the master says nothing, sorted.
    pub fn defaults(&self, fstype: &str) -> Vec<&'static str> {
        let journal: &[&str] = if fstype == "ext2" { &[] } else { &JOURNAL };
        let more: &[&str] = if fstype == "ext4" { &EXT4 } else { &[] };
        let known = |name: &&'static str| self.against(name).is_none();
        let mut features: Vec<&str> = ANY.iter().chain(journal).chain(more).copied().filter(known).collect();
        if fstype == "ext4" && !features.contains(&OLDER.0) {
            features.extend(Some(OLDER.1).filter(known));
        }
        features.sort_unstable();
        features
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{Feature, MAKEABLE, sort};
    use systemimager_core::testing::RecordedHost;

    #[test]
    fn each_feature_has_a_release() {
        assert_eq!(FEATURES.map(|(name, ..)| name), MAKEABLE);
        for name in ANY.iter().chain(&JOURNAL).chain(&EXT4).chain([&OLDER.1]) {
            assert_eq!(sort(name), Feature::Makeable, "{name}");
        }
    }

    #[test]
    fn versions() {
        for (text, expected) in [
            ("1.47.0", Some((1, 47, 0))),
            ("1.42", Some((1, 42, 0))),
            ("1.42.13", Some((1, 42, 13))),
            ("1.46-WIP", Some((1, 46, 0))),
            ("1.2.3", None),
            ("1.47.0.1", None),
            ("1.4x", None),
            ("1.", None),
            ("2.40", None),
            ("", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
        for (program, expected) in [
            (&b"\x7fELF\x00\x01\x00EXT2FS\x001.47.0\x005-Feb-2023\x00"[..], Some("1.47.0")),
            (b"a\x001.46.2\x00b\x001.46.2\x00", Some("1.46.2")),
            (b"a\x001.46.2\x00b\x001.47.0\x00", None),
            (b"uses 1.47.0 of it\x00", None),
            (b"", None),
        ] {
            assert_eq!(version_in(program).as_deref(), expected);
        }
        let place = Place::Tree { root: "/x".into() };
        let host = RecordedHost::new().file("/usr/sbin/e2fsck", "x\u{0}1.46.5\u{0}y");
        assert_eq!(detect(&host, &place).unwrap(), BTreeMap::from([("e2fsprogs".into(), "1.46.5".into())]));
        assert!(detect(&RecordedHost::new(), &place).unwrap().is_empty(), "no tools");
    }

    fn readers(tools: Option<Version>, mask: Option<u32>) -> Readers {
        Readers { tools, boot_loader: mask.map(|mask| ("loader".into(), mask)) }
    }

    #[test]
    fn who_does_not_read_what() {
        let upstream = Some(0x103d6);
        let tools = |since: &str, has: &str, name: &str| {
            format!(
                "the feature {name} needs e2fsprogs {since}, and the image has {has}, whose e2fsck refuses such a file system"
            )
        };
        let loader =
            |name: &str| format!("the image's boot loader loader does not read a file system with the feature {name}");
        type Row<'a> = (&'a str, Option<Version>, Option<u32>, &'a str, Option<String>);
        let rows: [Row<'_>; 11] = [
            ("nothing is known", None, None, "orphan_file", None),
            ("new tools", Some((1, 47, 0)), None, "orphan_file", None),
            ("old tools", Some((1, 46, 6)), None, "orphan_file", Some(tools("1.47.0", "1.46.6", "orphan_file"))),
            ("csum seed came with 1.43", Some((1, 43, 0)), None, "metadata_csum_seed", None),
            ("Debian 8", Some((1, 42, 12)), None, "metadata_csum", Some(tools("1.43.0", "1.42.12", "metadata_csum"))),
            ("RHEL 6", Some((1, 41, 12)), None, "64bit", Some(tools("1.42.0", "1.41.12", "64bit"))),
            (
                "the loader does not",
                Some((1, 47, 0)),
                upstream,
                "metadata_csum_seed",
                Some(loader("metadata_csum_seed")),
            ),
            ("a patched loader does", Some((1, 47, 0)), Some(0x163d6), "metadata_csum_seed", None),
            ("what a reader passes over", Some((1, 47, 0)), upstream, "orphan_file", None),
            ("casefold", None, upstream, "casefold", Some(loader("casefold"))),
            ("checksums do not keep a loader from reading", None, upstream, "metadata_csum", None),
        ];
        for (name, tools, mask, feature, expected) in rows {
            assert_eq!(readers(tools, mask).against(feature), expected, "{name}");
        }
    }

    #[test]
    fn defaults_are_what_all_read() {
        let any = "dir_index ext_attr filetype large_file resize_inode sparse_super";
        let ext4 = "64bit dir_index dir_nlink ext_attr extent extra_isize filetype flex_bg has_journal huge_file \
                    large_file metadata_csum resize_inode sparse_super";
        type Row<'a> = (&'a str, &'a str, Option<Version>, Option<u32>, String);
        let rows: [Row<'_>; 6] = [
            ("ext2", "ext2", None, None, any.into()),
            ("ext3", "ext3", Some((1, 47, 0)), None, any.replace("large_file", "has_journal large_file")),
            ("ext4, nothing known", "ext4", None, None, ext4.into()),
            ("ext4, the newest", "ext4", Some((1, 47, 0)), Some(0x163d6), ext4.into()),
            (
                "ext4 of 1.42",
                "ext4",
                Some((1, 42, 13)),
                None,
                ext4.replace("metadata_csum resize_inode sparse_super", "resize_inode sparse_super uninit_bg"),
            ),
            ("ext4 for a loader without 64bit", "ext4", Some((1, 47, 0)), Some(0x246), ext4.replace("64bit ", "")),
        ];
        for (name, fstype, tools, mask, expected) in rows {
            assert_eq!(readers(tools, mask).defaults(fstype).join(" "), expected, "{name}");
        }
    }
}
