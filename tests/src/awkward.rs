//! Makes a tree full of files that are hard to copy: one of everything that file systems and
//! copiers were ever seen to stumble over.
//!
//! The tree is the same at every run, byte for byte and time for time. It needs root and a file
//! system with ACLs, `user.*` and `trusted.*` attributes, holes, nanoseconds and times before
//! 1970 (ext4, xfs, btrfs). It must not set the immutable flag: a tree that cannot be removed
//! again is no test material.

use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{FileType, OFlags};

use crate::at::{Dir, Time};

/// The size of the large sparse file that the acceptance test asks for.
pub const FIVE_GIB: u64 = 5 << 30;

/// The time that everything in the tree has which gets no time of its own.
pub const ORDINARY: Time = Time::new(1_600_000_000, 123_456_789);

/// What may be chosen about the tree.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Size of `sparse/big`, at least 16 MiB; it takes about 200 KiB of space whatever its size.
    pub big: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options { big: FIVE_GIB }
    }
}

/// Names that are legal and awkward; each is used for a file, and some for directories.
pub const NAMES: &[&[u8]] = &[
    b"new\nline",
    b"\n",
    b"ends in newline\n",
    b"carriage\r\nreturn",
    b"\xff\xfe not UTF-8 \x80",
    b"latin-1 \xe9t\xe9",
    "composed \u{e9}".as_bytes(),
    "decomposed e\u{301}".as_bytes(),
    "wide \u{1f427}".as_bytes(),
    b"-rf",
    b"--delete",
    b"-",
    b"--",
    b" leading blank",
    b"trailing blank ",
    b" ",
    b"\ttab\t",
    b"control \x01\x07\x1b[31m\x7f",
    b"*",
    b"**",
    b"?",
    b"[a-z]*{x,y}?",
    b"[!unclosed",
    b"$HOME ${PATH} $(id) `id`",
    b"; rm x & | > y < z",
    b"'single' \"double\"",
    b"back\\slash\\",
    b"\\#012\\n",
    b"#comment",
    b"~",
    b"~root",
    b"!bang",
    b"%s%n%41",
    b"colon:colon",
    b"host::module",
    b"user@host:path",
    b"comma,equals=",
    b".hidden",
    b"...",
    b"..two",
    b". filter",
    b"+ filter",
    b"- filter",
    b"file~",
    b".file.Xa3bQz",
    b"CASE",
    b"case",
];

/// The types that a name can have, for the changes from each to each.
pub const KINDS: &[&str] = &["file", "dir", "symlink", "fifo", "socket", "char", "block"];

/// An ACL for one more user and group, as `system.posix_acl_access` and `_default` hold it.
/// `user` and `group` are ids, which may be above 2³¹.
pub fn acl(user: u32, group: u32, permissions: u16) -> Vec<u8> {
    const ANYONE: u32 = u32::MAX;
    let entries: [(u16, u16, u32); 6] = [
        (0x01, 6, ANYONE),               // owner
        (0x02, permissions, user),       // named user
        (0x04, 4, ANYONE),               // owning group
        (0x08, permissions, group),      // named group
        (0x10, permissions | 4, ANYONE), // mask
        (0x20, 0, ANYONE),               // others
    ];
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

/// A file capability set as `security.capability` (revision 2) holds it; bit *n* is capability *n*.
pub fn capability(permitted: u64) -> Vec<u8> {
    const REVISION_2_EFFECTIVE: u32 = 0x0200_0001;
    let low = (permitted & 0xffff_ffff) as u32;
    let high = (permitted >> 32) as u32;
    [REVISION_2_EFFECTIVE, low, 0, high, 0].iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// CAP_NET_RAW, as `ping` has it.
pub const CAP_NET_RAW: u64 = 1 << 13;
/// CAP_BPF, which lies in the high word.
pub const CAP_BPF: u64 = 1 << 39;

/// Makes the tree at `root`, which must not exist.
pub fn make(root: &Path, options: &Options) -> Result<()> {
    anyhow::ensure!(options.big >= 16 << 20, "the large sparse file needs at least 16 MiB to have room for its holes");
    std::fs::create_dir(root).with_context(|| {
        format!("making {}; the awkward tree wants a directory that does not exist yet", root.display())
    })?;
    let top = Dir::open(root)?;
    type Part = fn(&Dir, &Options) -> Result<()>;
    let parts: [(&str, Part); 12] = [
        ("names", |dir, _| names(dir)),
        ("content", |dir, _| content(dir)),
        ("modes", |dir, _| modes(dir)),
        ("owners", |dir, _| owners(dir)),
        ("links", |dir, _| links(dir)),
        ("symlinks", |dir, _| symlinks(dir)),
        ("special", |dir, _| special(dir)),
        ("sparse", sparse),
        ("xattrs", |dir, _| xattrs(dir)),
        ("moves", |dir, _| moves(dir)),
        ("types", |dir, _| types(dir)),
        ("deep", |dir, _| deep(dir)),
    ];
    for (name, part) in parts {
        let dir = top.make_dir(name.as_bytes())?;
        part(&dir, options).with_context(|| format!("making the awkward part {name} in {}", root.display()))?;
    }
    settle(&top).context("setting the times of the awkward tree")?;
    // These have times of their own, so they come after the others have settled.
    let dir = top.make_dir(b"times")?;
    times(&dir).context("making the awkward part times")?;
    top.set_mtime(b"times", ORDINARY)?;
    top.set_mtime(b".", ORDINARY)
}

/// Gives everything the ordinary time, from the bottom up.
fn settle(dir: &Dir) -> Result<()> {
    for name in dir.names()? {
        if dir.meta(&name)?.is_dir() {
            settle(&dir.child(&name)?)?;
        }
        dir.set_mtime(&name, ORDINARY)?;
    }
    Ok(())
}

fn names(dir: &Dir) -> Result<()> {
    for name in NAMES {
        dir.make_file(name, name)?;
    }
    let longest = [b'n'; 255];
    dir.make_file(&longest, b"255 bytes")?;
    let longest_raw = [0xfe; 255];
    dir.make_file(&longest_raw, b"255 bytes that are no characters")?;
    let dirs = dir.make_dir(b"- dirs *\n\xff")?;
    for name in NAMES {
        let inner = dirs.make_dir(name)?;
        inner.make_file(name, b"inside")?;
    }
    dirs.make_dir(&longest)?.make_file(&longest, b"inside")
}

fn content(dir: &Dir) -> Result<()> {
    for name in ["same-size", "grown", "truncated", "emptied", "rewritten", "quiet", "deleted", "touched", "kept"] {
        dir.make_file(name.as_bytes(), format!("this is what {name} holds\n").repeat(100).as_bytes())?;
    }
    dir.make_file(b"empty", b"")?;
    dir.make_file(b"filled", b"")?;
    // More than any copier takes at once, and no period that its blocks could share.
    let mut noise = Vec::with_capacity(3 << 20);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    while noise.len() < 3 << 20 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        noise.extend((state >> 16).to_le_bytes());
    }
    dir.make_file(b"noise", &noise)?;
    noise.rotate_left(700_001);
    dir.make_file(b"noise-shifted", &noise)
}

fn modes(dir: &Dir) -> Result<()> {
    for mode in [0o4755, 0o2755, 0o6711, 0o1644, 0o7777, 0o0000, 0o0200, 0o0444, 0o4000] {
        let name = format!("file-{mode:04o}");
        dir.make_file(name.as_bytes(), name.as_bytes())?;
        dir.chmod(name.as_bytes(), mode)?;
    }
    for mode in [0o1777, 0o2775, 0o3770, 0o0000, 0o0111, 0o0333, 0o7777] {
        let name = format!("dir-{mode:04o}");
        dir.make_dir(name.as_bytes())?.make_file(b"inside", b"inside")?;
        dir.chmod(name.as_bytes(), mode)?;
    }
    for name in ["chmod-file", "chmod-dir", "suid-lost"] {
        if name.ends_with("dir") {
            dir.make_dir(name.as_bytes())?;
        } else {
            dir.make_file(name.as_bytes(), name.as_bytes())?;
        }
    }
    dir.chmod(b"suid-lost", 0o4755)
}

/// Ids that overflow 8, 16 and 31 bits, and the greatest there is (2³²−1 means "unchanged").
pub const IDS: &[(u32, u32)] = &[
    (0, 0),
    (1, 2),
    (65_534, 65_535),
    (65_536, 70_000),
    (2_147_483_647, 2_147_483_648),
    (2_147_483_649, 3_000_000_000),
    (4_294_967_294, 4_294_967_294),
];

fn owners(dir: &Dir) -> Result<()> {
    for (uid, gid) in IDS {
        let name = format!("{uid}-{gid}");
        let (file, sub, link) = (format!("file-{name}"), format!("dir-{name}"), format!("link-{name}"));
        dir.make_file(file.as_bytes(), name.as_bytes())?;
        dir.make_dir(sub.as_bytes())?;
        dir.make_symlink(link.as_bytes(), b"nowhere")?;
        for path in [&file, &sub, &link] {
            dir.chown(path.as_bytes(), *uid, *gid)?;
        }
        // An owner's change clears suid: a copier that does it in the wrong order loses the bit.
        dir.chmod(file.as_bytes(), 0o6755)?;
    }
    for name in ["chown-file", "chown-suid", "chown-capable"] {
        dir.make_file(name.as_bytes(), name.as_bytes())?;
        dir.chown(name.as_bytes(), 1000, 1000)?;
    }
    dir.chmod(b"chown-suid", 0o4755)?;
    dir.set_xattr(b"chown-capable", b"security.capability", &capability(CAP_NET_RAW))?;
    dir.make_dir(b"chown-dir")?;
    dir.make_symlink(b"chown-link", b"nowhere")
}

fn links(dir: &Dir) -> Result<()> {
    for sub in ["here", "there", "there/further"] {
        dir.make_dir(sub.as_bytes())?;
    }
    let group = |names: &[&str], content: &str| -> Result<()> {
        dir.make_file(names[0].as_bytes(), content.as_bytes())?;
        names[1..].iter().try_for_each(|name| dir.make_hard_link(names[0].as_bytes(), name.as_bytes()))
    };
    group(&["here/three", "there/three", "there/further/three"], "three names in three directories")?;
    group(&["here/broken", "there/broken", "there/further/broken"], "one of them will be a file of its own")?;
    group(&["here/rewritten", "there/rewritten"], "will be rewritten in place")?;
    group(&["here/shrinks", "there/shrinks", "there/further/shrinks"], "will lose a name")?;
    group(&["here/grows", "there/grows"], "will win a name")?;
    group(&["here/re-1", "there/re-1"], "will be grouped anew")?;
    group(&["here/re-2", "there/re-2"], "will be grouped anew")?;
    group(&["here/attr", "there/attr"], "will change its attributes")?;
    // The same content, size and time, yet two files: no copier may join them.
    group(&["here/twin"], "twin")?;
    group(&["there/twin"], "twin")?;
    group(&["here/merges"], "will be joined")?;
    group(&["there/merges"], "will be joined")?;
    dir.chmod(b"here/three", 0o4711)?;
    dir.set_xattr(b"here/three", b"user.shared", b"by three names")?;
    dir.make_symlink(b"here/symlink", b"../there/three")?;
    dir.make_hard_link(b"here/symlink", b"there/symlink")?;
    dir.make_node(b"here/fifo", FileType::Fifo, (0, 0))?;
    dir.make_hard_link(b"here/fifo", b"there/fifo")?;
    dir.make_node(b"here/null", FileType::CharacterDevice, (1, 3))?;
    dir.make_hard_link(b"here/null", b"there/null")?;
    // More than a byte can count.
    group(&["here/many"], "three hundred names")?;
    (0..300).try_for_each(|n| dir.make_hard_link(b"here/many", format!("there/many-{n}").as_bytes()))
}

fn symlinks(dir: &Dir) -> Result<()> {
    let long = [b"long/".repeat(799), b"end".to_vec()].concat();
    let targets: [(&str, &[u8]); 14] = [
        ("dangling", b"no/such/file"),
        ("absolute", b"/etc/hostname"),
        ("outside", b"../../../../../../../../etc/shadow"),
        ("self", b"self"),
        ("up", b".."),
        ("dot", b"."),
        ("long", &long),
        ("newline", b"a\nb\xff"),
        ("dash", b"-rf"),
        ("slashes", b"..//.././/names///"),
        ("to-dir", b"../names"),
        ("fast-60", &[b's'; 60]), // the first length that ext4 does not keep in the inode
        ("retargeted", b"target-1"),
        ("deleted", b"target"),
    ];
    for (name, target) in targets {
        dir.make_symlink(name.as_bytes(), target)?;
    }
    dir.make_symlink(b"owned", b"nowhere")?;
    dir.chown(b"owned", 3_000_000_001, 1000)?;
    dir.make_symlink(b"trusted", b"nowhere")?;
    dir.set_xattr(b"trusted", b"trusted.on-a-link", b"\x00\x01\xff")
}

fn special(dir: &Dir) -> Result<()> {
    let nodes = [
        ("fifo", FileType::Fifo, (0, 0)),
        ("socket", FileType::Socket, (0, 0)),
        ("null", FileType::CharacterDevice, (1, 3)),
        ("loop", FileType::BlockDevice, (7, 200)),
        ("zero-zero", FileType::CharacterDevice, (0, 0)), // an overlay file system's whiteout
        ("large-char", FileType::CharacterDevice, (4095, 1_048_575)),
        ("large-block", FileType::BlockDevice, (259, 65_536)),
        ("renumbered", FileType::CharacterDevice, (1, 5)),
        ("chmod-fifo", FileType::Fifo, (0, 0)),
        ("deleted-socket", FileType::Socket, (0, 0)),
    ];
    for (name, kind, rdev) in nodes {
        dir.make_node(name.as_bytes(), kind, rdev)?;
        dir.chown(name.as_bytes(), 2_200_000_000, 5)?;
        dir.chmod(name.as_bytes(), 0o1620)?;
    }
    dir.set_xattr(b"fifo", b"trusted.on-a-fifo", b"value")?;
    dir.set_xattr(b"null", b"system.posix_acl_access", &acl(1000, 3_000_000_000, 6))
}

/// Ranges of `sparse/big` that hold data: at its start, in its middle, at its end.
pub fn big_data(size: u64) -> [(u64, &'static [u8]); 3] {
    [(0, b"start"), (size / 2 + 12_345, b"middle"), (size - 3, b"end")]
}

fn sparse(dir: &Dir, options: &Options) -> Result<()> {
    let file = |name: &str, size: u64, data: &[(u64, &[u8])]| -> Result<()> {
        dir.make_file(name.as_bytes(), b"")?;
        let file = dir.open_file(name.as_bytes(), OFlags::RDWR)?;
        file.set_size(size)?;
        data.iter().try_for_each(|(offset, bytes)| file.write_at(*offset, bytes))
    };
    let block = vec![b'd'; 64 << 10];
    file("big", options.big, &big_data(options.big))?;
    file("one-hole", 256 << 20, &[])?;
    file("small-hole", 4097, &[])?;
    file("hole-at-end", (8 << 20) + 1, &[(0, &block)])?;
    file("hole-at-start", 8 << 20, &[((8 << 20) - (64 << 10), &block)])?;
    let comb: Vec<(u64, &[u8])> = (0..32).map(|n| (n * (256 << 10), block.as_slice())).collect();
    file("comb", 8 << 20, &comb)?;
    for name in ["moved", "filled", "punched", "longer-hole", "data-in-hole"] {
        file(name, 8 << 20, &[(1 << 20, &block), (5 << 20, &block)])?;
    }
    // Unaligned: no copier's block begins where the data does.
    file("unaligned", (2 << 20) + 17, &[(1_000_003, b"x"), (1_999_999, b"y")])
}

fn xattrs(dir: &Dir) -> Result<()> {
    let long_name = [b"user.".to_vec(), vec![b'n'; 250]].concat();
    let long_value = vec![0xa5; 2500];
    let values: [(&str, &[u8], &[u8]); 16] = [
        ("user", b"user.comment", b"plain"),
        ("user", b"user.empty", b""),
        ("user", b"user.binary", b"\x00\n\xff\x00"),
        ("user", b"user.with blank\n\xff=", b"odd name"),
        ("long-name", &long_name, b"255 bytes of name"),
        ("long-value", b"user.long", &long_value),
        ("trusted", b"trusted.overlay.origin", b"\x00\xfb"),
        ("trusted", b"trusted.other", b"root only"),
        ("capable", b"security.capability", &capability(CAP_NET_RAW | CAP_BPF)),
        ("everything", b"security.capability", &capability(CAP_NET_RAW)),
        ("everything", b"user.a", b"1"),
        ("everything", b"trusted.b", b"2"),
        ("everything", b"system.posix_acl_access", &acl(3_000_000_000, 4_000_000_000, 5)),
        ("acl", b"system.posix_acl_access", &acl(1000, 2_147_483_648, 7)),
        ("unreadable", b"user.comment", b"on a file of mode 0"),
        ("unreadable", b"system.posix_acl_access", &acl(1001, 1002, 0)),
    ];
    for (name, attribute, value) in values {
        if !dir.has(name.as_bytes())? {
            dir.make_file(name.as_bytes(), name.as_bytes())?;
        }
        dir.set_xattr(name.as_bytes(), attribute, value)?;
    }
    dir.chmod(b"unreadable", 0)?;
    for name in
        ["dir-user", "dir-trusted", "dir-acl", "dir-default-acl", "dir-both-acls", "dir-change", "dir-acl-change"]
    {
        dir.make_dir(name.as_bytes())?.make_file(b"inside", b"made before any default ACL")?;
    }
    dir.set_xattr(b"dir-user", b"user.comment", b"on a directory")?;
    dir.set_xattr(b"dir-trusted", b"trusted.overlay.opaque", b"y")?;
    dir.set_xattr(b"dir-acl", b"system.posix_acl_access", &acl(1000, 1000, 7))?;
    dir.set_xattr(b"dir-default-acl", b"system.posix_acl_default", &acl(1000, 1000, 7))?;
    dir.set_xattr(b"dir-both-acls", b"system.posix_acl_access", &acl(7, 3_000_000_000, 5))?;
    dir.set_xattr(b"dir-both-acls", b"system.posix_acl_default", &acl(3_000_000_000, 7, 1))?;
    // Made below a default ACL: the copy must not inherit what the original does not have.
    dir.make_dir(b"dir-default-acl/no-acl")?;
    dir.remove_xattr(b"dir-default-acl/no-acl", b"system.posix_acl_access")?;
    dir.remove_xattr(b"dir-default-acl/no-acl", b"system.posix_acl_default")?;
    dir.chmod(b"dir-default-acl/no-acl", 0o750)?;
    for name in [
        "added",
        "changed",
        "removed",
        "acl-added",
        "acl-changed",
        "acl-removed",
        "cap-added",
        "cap-changed",
        "cap-removed",
    ] {
        dir.make_file(name.as_bytes(), name.as_bytes())?;
    }
    for name in ["changed", "removed", "dir-change"] {
        dir.set_xattr(name.as_bytes(), b"user.comment", b"before")?;
        dir.set_xattr(name.as_bytes(), b"trusted.comment", b"before")?;
    }
    for name in ["acl-changed", "acl-removed", "dir-acl-change"] {
        dir.set_xattr(name.as_bytes(), b"system.posix_acl_access", &acl(1000, 1000, 6))?;
    }
    dir.set_xattr(b"dir-acl-change", b"system.posix_acl_default", &acl(1000, 1000, 6))?;
    for name in ["cap-changed", "cap-removed"] {
        dir.set_xattr(name.as_bytes(), b"security.capability", &capability(CAP_NET_RAW))?;
    }
    Ok(())
}

fn moves(dir: &Dir) -> Result<()> {
    for name in
        ["renamed-dir", "deleted-dir", "deleted-dir/below", "swapped-1", "swapped-2", "target", "empty", "empty/nested"]
    {
        dir.make_dir(name.as_bytes())?;
    }
    for name in [
        "renamed",
        "over",
        "overwritten",
        "travels",
        "renamed-dir/inside",
        "deleted-dir/inside",
        "deleted-dir/below/inside",
    ] {
        dir.make_file(name.as_bytes(), name.as_bytes())?;
    }
    dir.make_file(b"swapped-1/inside", b"first")?;
    dir.make_file(b"swapped-2/inside", b"the second")?;
    dir.make_symlink(b"deleted-dir/link", b"../target")?;
    dir.make_file(b"deleted \n\xff*", b"gone soon")?;
    dir.make_file(b"--deleted", b"gone soon")
}

/// Makes something of one of [`KINDS`]; a directory gets content.
pub(crate) fn make_kind(dir: &Dir, name: &[u8], kind: &str) -> Result<()> {
    match kind {
        "file" => dir.make_file(name, b"a file"),
        "dir" => {
            let sub = dir.make_dir(name)?;
            sub.make_file(b"inside", b"inside")?;
            sub.make_dir(b"below")?.make_file(b"-deep\n", b"deeper")
        }
        "symlink" => dir.make_symlink(name, b"../names"),
        "fifo" => dir.make_node(name, FileType::Fifo, (0, 0)),
        "socket" => dir.make_node(name, FileType::Socket, (0, 0)),
        "char" => dir.make_node(name, FileType::CharacterDevice, (1, 7)),
        "block" => dir.make_node(name, FileType::BlockDevice, (7, 7)),
        other => anyhow::bail!("{other} is no kind of file; choose one of {}", KINDS.join(", ")),
    }
}

/// Every pair of different kinds; what is made as `FROM-to-TO` begins as FROM.
pub(crate) fn kind_pairs() -> impl Iterator<Item = (String, &'static str, &'static str)> {
    let pairs = KINDS.iter().flat_map(|from| KINDS.iter().map(move |to| (*from, *to)));
    pairs.filter(|(from, to)| from != to).map(|(from, to)| (format!("{from}-to-{to}"), from, to))
}

fn types(dir: &Dir) -> Result<()> {
    for (name, from, _) in kind_pairs() {
        make_kind(dir, name.as_bytes(), from)?;
    }
    Ok(())
}

/// Thirteen directories of 250 bytes: paths of more than 3,200 bytes, for the whole tree still
/// to be copied by programs that build paths, which end at 4,096.
fn deep(dir: &Dir) -> Result<()> {
    let component = [b'd'; 250];
    let mut deepest = dir.make_dir(&component)?;
    for _ in 0..12 {
        deepest = deepest.make_dir(&component)?;
    }
    deepest.make_file(b"file", b"far down")?;
    deepest.make_file(b"changed", b"far down, and will change")?;
    deepest.make_file(b"deleted", b"far down, and will go")?;
    deepest.make_symlink(b"link", b"file")?;
    deepest.make_hard_link(b"file", b"second name")?;
    deepest.set_xattr(b"file", b"user.depth", b"3,200 bytes")?;
    deepest.set_xattr(b"file", b"system.posix_acl_access", &acl(1000, 1000, 4))?;
    deepest.make_node(b"fifo", FileType::Fifo, (0, 0))
}

/// The directory at the end of the long paths.
pub(crate) fn deepest(root: &Dir) -> Result<Dir> {
    (0..13).try_fold(root.child(b"deep")?, |dir, _| dir.child(&[b'd'; 250]))
}

fn times(dir: &Dir) -> Result<()> {
    let times = [
        ("one-nanosecond", Time::new(1_000_000_000, 1)),
        ("last-nanosecond", Time::new(1_000_000_000, 999_999_999)),
        ("epoch", Time::new(0, 0)),
        ("just-after-epoch", Time::new(0, 1)),
        ("just-before-epoch", Time::new(-1, 500_000_000)),
        ("before-1970", Time::new(-631_152_000, 987_654_321)), // 1950
        ("after-2038", Time::new(2_147_483_648, 1)),
        ("future", Time::new(7_258_118_400, 5)), // 2200
    ];
    for (name, time) in times {
        let (sub, link, fifo) = (format!("dir-{name}"), format!("link-{name}"), format!("fifo-{name}"));
        dir.make_file(name.as_bytes(), name.as_bytes())?;
        dir.make_dir(sub.as_bytes())?.make_file(b"inside", b"inside")?;
        dir.make_symlink(link.as_bytes(), name.as_bytes())?;
        dir.make_node(fifo.as_bytes(), FileType::Fifo, (0, 0))?;
        dir.set_mtime(format!("{sub}/inside").as_bytes(), time)?;
        for path in [name, &sub, &link, &fifo] {
            dir.set_mtime(path.as_bytes(), time)?;
        }
    }
    Ok(())
}
