//! `/proc/self/mountinfo` as data (proc(5)): pure, no file is opened here.
//!
//! Paths are bytes: a mount point may hold blanks (written `\040`) and need not be UTF-8.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// Unique among the mounts that are there now.
    pub id: u32,
    /// The mount it is mounted on.
    pub parent: u32,
    /// Device number of the file system: (major, minor). (0, n) for those without a device, and btrfs.
    pub device: (u32, u32),
    /// The directory of the file system that is seen here; not `/` for binds and btrfs subvolumes.
    pub root: PathBuf,
    /// Where it is seen.
    pub mount_point: PathBuf,
    /// Options of this mount (`rw`, `nosuid`).
    pub options: Vec<String>,
    /// Type, with subtype (`ext4`, `fuse.sshfs`).
    pub fstype: String,
    /// Usually a device path; whatever the mounter said.
    pub source: OsString,
    /// Options of the file system (`errors=remount-ro`).
    pub super_options: Vec<String>,
}

/// A line that is not as proc(5) says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the mount table: {why}")]
pub struct BadMountInfo {
    /// From 1.
    pub line: usize,
    /// What is wrong.
    pub why: &'static str,
}

/// Parses the whole table, in its order: later mounts hide earlier ones on the same directory.
///
/// # Errors
/// A line that is not as proc(5) says.
pub fn parse(text: &[u8]) -> Result<Vec<MountInfo>, BadMountInfo> {
    text.split(|b| *b == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
        .map(|(at, line)| parse_line(line).map_err(|why| BadMountInfo { line: at + 1, why }))
        .collect()
}

fn parse_line(line: &[u8]) -> Result<MountInfo, &'static str> {
    let mut fields = line.split(|b| *b == b' ');
    let mut next = |why| fields.next().filter(|f| !f.is_empty()).ok_or(why);
    let id = number(next("the id is missing")?).ok_or("the id is not a number")?;
    let parent = number(next("the parent is missing")?).ok_or("the parent is not a number")?;
    let device = device(next("the device is missing")?).ok_or("the device is not MAJOR:MINOR")?;
    let root = path(next("the root is missing")?);
    let mount_point = path(next("the mount point is missing")?);
    let options = list(next("the options are missing")?);
    // Any number of optional fields, ended by a dash.
    while next("the dash is missing")? != b"-" {}
    let fstype = String::from_utf8_lossy(&unescape(next("the type is missing")?)).into_owned();
    // The source may be empty, and then so is its field.
    let source = OsString::from_vec(unescape(fields.next().ok_or("the source is missing")?));
    let super_options = list(fields.next().ok_or("the file system's options are missing")?);
    Ok(MountInfo { id, parent, device, root, mount_point, options, fstype, source, super_options })
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// `8:1`, as sysfs's `dev` files write it too.
pub(super) fn device(field: &[u8]) -> Option<(u32, u32)> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn path(field: &[u8]) -> PathBuf {
    OsString::from_vec(unescape(field)).into()
}

fn list(field: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(&unescape(field)).into_owned();
    text.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect()
}

/// Undoes `\040` and the like: a backslash and three octal digits. Anything else stays.
#[must_use]
pub fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        if let (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) = (first, tail) {
            out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = after;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

/// The mount that a path lies on: the one with the longest mount point above it, and of several on
/// one directory the last. The path must be absolute, without symlinks and `..`.
#[must_use]
pub fn covering<'a>(mounts: &'a [MountInfo], path: &std::path::Path) -> Option<&'a MountInfo> {
    mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.mount_point))
        .max_by_key(|mount| mount.mount_point.as_os_str().len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    fn plain() -> MountInfo {
        MountInfo {
            id: 36,
            parent: 35,
            device: (98, 0),
            root: "/mnt1".into(),
            mount_point: "/mnt2".into(),
            options: vec!["rw".into(), "noatime".into()],
            fstype: "ext3".into(),
            source: "/dev/root".into(),
            super_options: vec!["rw".into(), "errors=continue".into()],
        }
    }

    #[test]
    fn lines() {
        let bytes = |b: &[u8]| PathBuf::from(OsStr::from_bytes(b));
        let rows: &[(&str, &[u8], Result<MountInfo, &str>)] = &[
            ("proc(5)", b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue", Ok(plain())),
            ("no optional field", b"36 35 98:0 /mnt1 /mnt2 rw,noatime - ext3 /dev/root rw,errors=continue", Ok(plain())),
            (
                "three optional fields",
                b"36 35 98:0 /mnt1 /mnt2 rw,noatime shared:1 master:2 propagate_from:3 - ext3 /dev/root rw,errors=continue",
                Ok(plain()),
            ),
            (
                "escapes",
                b"36 35 98:0 /mnt1 /a\\040b\\011c\\012d\\134e\\043f rw,noatime - ext3 /dev/root rw,errors=continue",
                Ok(MountInfo { mount_point: "/a b\tc\nd\\e#f".into(), ..plain() }),
            ),
            (
                "not utf-8",
                b"36 35 98:0 /mnt1 /\xff rw,noatime - ext3 /dev/root rw,errors=continue",
                Ok(MountInfo { mount_point: bytes(b"/\xff"), ..plain() }),
            ),
            (
                "a mount point called dash",
                b"36 35 98:0 /mnt1 - rw,noatime - ext3 /dev/root rw,errors=continue",
                Ok(MountInfo { mount_point: "-".into(), ..plain() }),
            ),
            (
                "empty source",
                b"36 35 98:0 /mnt1 /mnt2 rw,noatime - ext3  rw,errors=continue",
                Ok(MountInfo { source: OsString::new(), ..plain() }),
            ),
            ("empty line is no line", b"36 35", Err("line 1 of the mount table: the device is missing")),
            ("no dash", b"36 35 98:0 / / rw shared:1", Err("line 1 of the mount table: the dash is missing")),
            ("bad device", b"36 35 98 / / rw - a b c", Err("line 1 of the mount table: the device is not MAJOR:MINOR")),
            ("bad id", b"x 35 9:8 / / rw - a b c", Err("line 1 of the mount table: the id is not a number")),
            ("cut off", b"36 35 9:8 / / rw - a b", Err("line 1 of the mount table: the file system's options are missing")),
        ];
        for (name, line, expected) in rows {
            let got = parse(line).map_err(|e| e.to_string());
            assert_eq!(got, expected.clone().map(|m| vec![m]).map_err(str::to_owned), "{name}");
        }
        assert_eq!(parse(b"\n\n"), Ok(vec![]));
    }

    #[test]
    fn half_escapes_stay() {
        for (input, expected) in [("\\04", "\\04"), ("\\999", "\\999"), ("\\", "\\"), ("\\0400", " 0")] {
            assert_eq!(unescape(input.as_bytes()), expected.as_bytes(), "{input}");
        }
    }

    #[test]
    fn the_mount_a_path_lies_on() {
        let at = |id, point: &str| MountInfo { id, mount_point: point.into(), ..plain() };
        let mounts = [at(1, "/"), at(2, "/home"), at(3, "/home"), at(4, "/homes/x")];
        for (path, id) in [("/etc", 1), ("/home/a", 3), ("/homes", 1), ("/homes/x/y", 4)] {
            assert_eq!(covering(&mounts, Path::new(path)).map(|m| m.id), Some(id), "{path}");
        }
    }

    #[test]
    fn this_machine() {
        let text = std::fs::read("/proc/self/mountinfo").expect("proc is mounted");
        let mounts = parse(&text).expect("as proc(5) says");
        assert!(covering(&mounts, Path::new("/proc/self")).is_some_and(|m| m.fstype == "proc"));
    }
}
