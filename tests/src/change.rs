//! Changes the [awkward tree](crate::awkward) in every way in which a machine changes between
//! two captures.
//!
//! Four sets, to be applied once each and in any order: [`everything`], where each change moves
//! size or time of what it changes; [`attributes`], where mode, owner, attributes and ACLs change
//! and size and time stay; [`quiet`], where content changes and size and time stay, which only a
//! comparison of the contents can find; [`split`], where fifos and symbolic links that were one
//! file become two, which a copier that updates in place (rsync 3.2.7) does not follow.

use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{FileType, OFlags};

use crate::at::{Dir, Time};
use crate::awkward::{CAP_BPF, CAP_NET_RAW, NAMES, acl, capability, deepest, kind_pairs, make_kind};

/// The time that changed things get.
pub const CHANGED: Time = Time::new(1_700_000_000, 987_654_321);

/// Changes content, size, type, mode, owner, times, attributes, ACLs, capabilities, hard links
/// and holes; deletes, adds and renames. Size or time moves with every change.
pub fn everything(root: &Path) -> Result<()> {
    let top = Dir::open(root)?;
    type Part = fn(&Dir) -> Result<()>;
    let parts: [(&str, Part); 13] = [
        ("names", names),
        ("content", content),
        ("modes", modes),
        ("owners", owners),
        ("links", links),
        ("symlinks", symlinks),
        ("special", special),
        ("sparse", sparse),
        ("xattrs", xattrs),
        ("moves", moves),
        ("types", types),
        ("deep", |_| Ok(())),
        ("times", times),
    ];
    for (name, part) in parts {
        part(&top.child(name.as_bytes())?)
            .with_context(|| format!("changing the awkward part {name} in {}", root.display()))?;
    }
    deep(&top).context("changing the awkward part deep")
}

/// Changes mode, owner, attributes, ACLs and capabilities; size and time of modification stay.
/// Returns the paths that it changed.
pub fn attributes(root: &Path) -> Result<Vec<Vec<u8>>> {
    let top = Dir::open(root)?;
    let mut changed: Vec<Vec<u8>> = Vec::new();
    let mut note = |path: &str| changed.push(path.as_bytes().to_vec());
    for path in ["modes/file-0444", "modes/dir-0111", "special/loop"] {
        top.chmod(path.as_bytes(), 0o4511)?;
        note(path);
    }
    for path in ["owners/file-1-2", "owners/dir-1-2", "owners/link-1-2", "special/large-char"] {
        top.chown(path.as_bytes(), 2_900_000_000, 2_900_000_001)?;
        note(path);
    }
    top.chmod(b"owners/file-1-2", 0o6755)?;
    for path in ["xattrs/user", "xattrs/dir-user"] {
        top.set_xattr(path.as_bytes(), b"user.comment", b"changed and nothing else")?;
        note(path);
    }
    for path in ["xattrs/trusted", "xattrs/dir-trusted", "symlinks/trusted"] {
        top.set_xattr(path.as_bytes(), b"trusted.new", b"\x00")?;
        note(path);
    }
    top.set_xattr(b"xattrs/capable", b"security.capability", &capability(CAP_NET_RAW))?;
    note("xattrs/capable");
    top.set_xattr(b"xattrs/acl", b"system.posix_acl_access", &acl(12, 13, 5))?;
    note("xattrs/acl");
    top.remove_xattr(b"xattrs/dir-default-acl", b"system.posix_acl_default")?;
    note("xattrs/dir-default-acl");
    changed.sort();
    Ok(changed)
}

/// Changes contents; size and time of modification stay. Returns the paths that it changed.
pub fn quiet(root: &Path) -> Result<Vec<Vec<u8>>> {
    let top = Dir::open(root)?;
    let changed: [&[u8]; 2] = [b"content/quiet", b"sparse/comb"];
    for path in changed {
        let time = top.meta(path)?.mtime;
        top.open_file(path, OFlags::RDWR)?.write_at(2, b"QUIET")?;
        top.set_mtime(path, time)?;
    }
    Ok(changed.iter().map(|path| path.to_vec()).collect())
}

/// Makes two of what was one fifo, and of what was one symbolic link, under two names; the new
/// one has another time. rsync, finding a node or link of the right kind, adjusts it in place,
/// and with it the other name. Returns the paths that are files of their own now.
pub fn split(root: &Path) -> Result<Vec<Vec<u8>>> {
    let links = Dir::open(root)?.child(b"links")?;
    links.remove(b"there/fifo")?;
    links.make_node(b"there/fifo", FileType::Fifo, (0, 0))?;
    stamp(&links, "there/fifo")?;
    links.remove(b"there/symlink")?;
    links.make_symlink(b"there/symlink", b"../there/three")?;
    stamp(&links, "there/symlink")?;
    Ok([b"links/there/fifo".as_slice(), b"links/there/symlink"].map(<[u8]>::to_vec).to_vec())
}

fn stamp(dir: &Dir, path: &str) -> Result<()> {
    dir.set_mtime(path.as_bytes(), CHANGED)
}

/// Replaces a file by a new one.
fn replace(dir: &Dir, path: &[u8], content: &[u8]) -> Result<()> {
    dir.remove(path)?;
    dir.make_file(path, content)?;
    dir.set_mtime(path, CHANGED)
}

fn names(dir: &Dir) -> Result<()> {
    for (index, name) in NAMES.iter().enumerate() {
        match index % 4 {
            0 => replace(dir, name, b"other content")?,
            1 => dir.remove(name)?,
            2 => dir.rename(name, &[b"renamed ", *name].concat())?,
            _ => {}
        }
    }
    dir.rename(&[b'n'; 255], &[b'm'; 255])?;
    dir.make_file(&[0xfd; 255], b"new and long")?;
    dir.make_file(b"--new\n\xfe*", b"new")?;
    let dirs = dir.child(b"- dirs *\n\xff")?;
    for (index, name) in NAMES.iter().enumerate() {
        match index % 4 {
            0 => dirs.remove(name)?,
            1 => dirs.child(name)?.make_file(b"new * \n", b"new")?,
            2 => dirs.rename(name, &[b"renamed ", *name].concat())?,
            _ => {}
        }
    }
    Ok(())
}

fn content(dir: &Dir) -> Result<()> {
    let open = |name: &str| dir.open_file(name.as_bytes(), OFlags::RDWR);
    let size = |name: &str| Ok::<u64, anyhow::Error>(dir.meta(name.as_bytes())?.size);
    open("same-size")?.write_at(100, b"SAME SIZE, OTHER TIME")?;
    open("grown")?.write_at(size("grown")?, &vec![b'g'; 100_000])?;
    open("truncated")?.set_size(size("truncated")? / 2)?;
    open("emptied")?.set_size(0)?;
    open("filled")?.write_at(0, b"no longer empty")?;
    open("noise")?.write_at(1_234_567, b"a few bytes amidst much that stays")?;
    for name in ["same-size", "grown", "truncated", "emptied", "filled", "noise", "touched"] {
        stamp(dir, name)?;
    }
    replace(dir, b"rewritten", b"another file under the old name")?;
    dir.remove(b"deleted")?;
    dir.make_file(b"added", b"added")
}

fn modes(dir: &Dir) -> Result<()> {
    for (name, mode) in [
        ("chmod-file", 0o6755),
        ("chmod-dir", 0o3700),
        ("suid-lost", 0o0755),
        ("file-0000", 0o0644),
        ("dir-0000", 0o0700),
    ] {
        dir.chmod(name.as_bytes(), mode)?;
        stamp(dir, name)?;
    }
    dir.make_dir(b"added-0000")?.make_file(b"inside", b"inside")?;
    dir.chmod(b"added-0000", 0)
}

fn owners(dir: &Dir) -> Result<()> {
    for name in ["chown-file", "chown-suid", "chown-capable", "chown-dir", "chown-link"] {
        dir.chown(name.as_bytes(), 3_500_000_000, 2_500_000_000)?;
        stamp(dir, name)?;
    }
    dir.chmod(b"chown-suid", 0o4755)?;
    dir.set_xattr(b"chown-capable", b"security.capability", &capability(CAP_NET_RAW))
}

fn links(dir: &Dir) -> Result<()> {
    replace(dir, b"there/broken", b"a file of its own now")?;
    dir.open_file(b"here/rewritten", OFlags::RDWR)?.write_at(0, b"WILL")?;
    stamp(dir, "here/rewritten")?;
    dir.remove(b"there/shrinks")?;
    dir.make_hard_link(b"here/grows", b"there/further/grows")?;
    // Two pairs, cut the other way: (here, there) become (here 1, here 2) and (there 1, there 2).
    for place in ["here", "there"] {
        let (first, second) = (format!("{place}/re-1"), format!("{place}/re-2"));
        dir.remove(second.as_bytes())?;
        replace(dir, first.as_bytes(), format!("grouped anew {place}").as_bytes())?;
        dir.make_hard_link(first.as_bytes(), second.as_bytes())?;
    }
    dir.chmod(b"here/attr", 0o600)?;
    dir.set_xattr(b"here/attr", b"user.new", b"seen by both names")?;
    stamp(dir, "here/attr")?;
    dir.remove(b"there/merges")?;
    dir.make_hard_link(b"here/merges", b"there/merges")?;
    stamp(dir, "here/merges")?;
    dir.remove(b"there/null")?;
    (0..100).try_for_each(|n| dir.remove(format!("there/many-{n}").as_bytes()))?;
    dir.make_hard_link(b"here/many", b"there/further/many")
}

fn symlinks(dir: &Dir) -> Result<()> {
    let replace = |name: &str, target: &[u8]| -> Result<()> {
        dir.remove(name.as_bytes())?;
        dir.make_symlink(name.as_bytes(), target)
    };
    replace("retargeted", b"target-2")?;
    replace("absolute", b"/usr/lib/absolute")?;
    replace("long", &b"other/".repeat(600))?;
    dir.remove(b"deleted")?;
    dir.make_symlink(b"added", b"-new\ntarget")?;
    dir.chown(b"owned", 7, 3_000_000_002)?;
    stamp(dir, "owned")?;
    dir.set_xattr(b"trusted", b"trusted.on-a-link", b"changed")?;
    stamp(dir, "trusted")
}

fn special(dir: &Dir) -> Result<()> {
    dir.remove(b"renumbered")?;
    dir.make_node(b"renumbered", FileType::CharacterDevice, (4, 65))?;
    dir.remove(b"large-block")?;
    dir.make_node(b"large-block", FileType::BlockDevice, (259, 65_537))?;
    dir.chmod(b"chmod-fifo", 0o666)?;
    stamp(dir, "chmod-fifo")?;
    dir.remove(b"deleted-socket")?;
    dir.make_node(b"added-socket", FileType::Socket, (0, 0))?;
    dir.make_node(b"added-fifo", FileType::Fifo, (0, 0))
}

fn sparse(dir: &Dir) -> Result<()> {
    let open = |name: &str| dir.open_file(name.as_bytes(), OFlags::RDWR);
    let block = vec![b'D'; 64 << 10];
    let big = open("big")?;
    let size = dir.meta(b"big")?.size;
    big.punch_hole(0, 4096)?;
    big.write_at(size / 4, b"a quarter")?;
    // The data moves by a megabyte, the size stays.
    let moved = open("moved")?;
    moved.punch_hole(0, 8 << 20)?;
    moved.write_at(2 << 20, &block)?;
    moved.write_at(6 << 20, &block)?;
    open("filled")?.write_at(0, &vec![b'f'; 8 << 20])?;
    open("punched")?.punch_hole(0, 8 << 20)?;
    open("longer-hole")?.set_size(64 << 20)?;
    open("data-in-hole")?.write_at((3 << 20) + 5, b"amidst the hole")?;
    open("one-hole")?.write_at(128 << 20, b"no longer one hole")?;
    open("hole-at-end")?.set_size(64 << 10)?;
    for name in ["big", "moved", "filled", "punched", "longer-hole", "data-in-hole", "one-hole", "hole-at-end"] {
        stamp(dir, name)?;
    }
    dir.make_file(b"added", b"")?;
    open("added")?.set_size(100 << 20)
}

fn xattrs(dir: &Dir) -> Result<()> {
    dir.set_xattr(b"added", b"user.comment", b"added")?;
    dir.set_xattr(b"added", b"trusted.comment", b"added")?;
    dir.set_xattr(b"changed", b"user.comment", b"AFTER!")?;
    dir.set_xattr(b"changed", b"trusted.comment", b"after, and longer")?;
    dir.remove_xattr(b"removed", b"user.comment")?;
    dir.remove_xattr(b"removed", b"trusted.comment")?;
    dir.set_xattr(b"acl-added", b"system.posix_acl_access", &acl(1000, 3_100_000_000, 6))?;
    dir.set_xattr(b"acl-changed", b"system.posix_acl_access", &acl(1001, 1000, 7))?;
    dir.remove_xattr(b"acl-removed", b"system.posix_acl_access")?;
    dir.set_xattr(b"cap-added", b"security.capability", &capability(CAP_BPF))?;
    dir.set_xattr(b"cap-changed", b"security.capability", &capability(CAP_NET_RAW | CAP_BPF))?;
    dir.remove_xattr(b"cap-removed", b"security.capability")?;
    // Written anew, so that the kernel drops the capability; then it is given again.
    dir.open_file(b"everything", OFlags::RDWR)?.write_at(0, b"EVERYTHING, longer")?;
    dir.set_xattr(b"everything", b"security.capability", &capability(CAP_BPF))?;
    dir.set_xattr(b"dir-change", b"user.comment", b"after")?;
    dir.remove_xattr(b"dir-change", b"trusted.comment")?;
    dir.set_xattr(b"dir-acl-change", b"system.posix_acl_access", &acl(1001, 1000, 5))?;
    dir.remove_xattr(b"dir-acl-change", b"system.posix_acl_default")?;
    let files = ["added", "changed", "removed", "everything", "dir-change", "dir-acl-change"];
    let lists = ["acl-added", "acl-changed", "acl-removed", "cap-added", "cap-changed", "cap-removed"];
    files.iter().chain(&lists).try_for_each(|name| stamp(dir, name))
}

fn moves(dir: &Dir) -> Result<()> {
    dir.rename(b"renamed", b"renamed-away")?;
    dir.rename(b"renamed-dir", b"renamed-dir-away")?;
    dir.rename(b"over", b"overwritten")?;
    stamp(dir, "overwritten")?;
    dir.rename(b"travels", b"target/travelled")?;
    dir.rename(b"swapped-1", b"between")?;
    dir.rename(b"swapped-2", b"swapped-1")?;
    dir.rename(b"between", b"swapped-2")?;
    for name in ["swapped-1/inside", "swapped-2/inside"] {
        stamp(dir, name)?;
    }
    dir.remove(b"deleted-dir")?;
    dir.remove(b"deleted \n\xff*")?;
    dir.remove(b"--deleted")?;
    dir.remove(b"empty/nested")?;
    dir.make_dir(b"added-dir")?.make_dir(b"added-below")?.make_file(b"inside", b"new")
}

fn types(dir: &Dir) -> Result<()> {
    for (name, _, to) in kind_pairs() {
        dir.remove(name.as_bytes())?;
        make_kind(dir, name.as_bytes(), to)?;
        stamp(dir, &name)?;
    }
    Ok(())
}

fn deep(root: &Dir) -> Result<()> {
    let dir = deepest(root)?;
    replace(&dir, b"changed", b"far down, and changed")?;
    dir.remove(b"deleted")?;
    dir.make_file(b"added", b"far down, and new")
}

fn times(dir: &Dir) -> Result<()> {
    dir.set_mtime(b"epoch", Time::new(-1_000_000_000, 1))?;
    dir.set_mtime(b"future", Time::new(1_000_000_000, 2))?;
    dir.set_mtime(b"one-nanosecond", Time::new(1_000_000_000, 2))?;
    dir.set_mtime(b"dir-before-1970", Time::new(-631_152_000, 987_654_322))?;
    dir.set_mtime(b"link-after-2038", Time::new(2_147_483_648, 2))?;
    dir.set_mtime(b"fifo-epoch", Time::new(1, 0))
}
