//! The links of `/dev/disk/by-uuid`, `by-partuuid`, `by-label` and `by-partlabel` in a place without
//! udev: GRUB's `10_linux` writes `root=/dev/vda2` into the menu where they are absent, and such a
//! machine boots only on the same kind of disk.
//!
//! What is there already (udev's) is left alone. Nothing is probed: the caller knows the values.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::error::{Result, SysError};

/// A block device and the names it should be found by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// `/dev/sda2`, or deeper as `/dev/mapper/x`.
    pub dev: PathBuf,
    /// UUID of the file system or swap area.
    pub uuid: Option<String>,
    /// UUID of the partition.
    pub partuuid: Option<String>,
    /// Label of the file system.
    pub label: Option<String>,
    /// Label of the partition.
    pub partlabel: Option<String>,
}

/// Makes the missing links below `dev_dir` (a tree's /dev) and returns them. They are relative, so
/// they hold inside and outside a chroot.
///
/// # Errors
/// A device outside /dev, a name that is no file name, or the file system refuses.
pub fn populate_by_links(dev_dir: &Path, devices: &[Names]) -> Result<Vec<PathBuf>> {
    let mut made = Vec::new();
    for device in devices {
        let inside = device.dev.strip_prefix("/dev").map_err(|_| {
            SysError::Refused(format!("{} is not below /dev: it can have no link there", device.dev.display()))
        })?;
        let target = Path::new("../..").join(inside);
        let names = [
            ("by-uuid", &device.uuid),
            ("by-partuuid", &device.partuuid),
            ("by-label", &device.label),
            ("by-partlabel", &device.partlabel),
        ];
        for (kind, name) in names {
            let Some(name) = name.as_deref().filter(|name| !name.is_empty()) else { continue };
            let dir = dev_dir.join("disk").join(kind);
            fs::create_dir_all(&dir).map_err(|e| SysError::io("making", &dir, e))?;
            let link = dir.join(encode(name));
            match symlink(&target, &link) {
                Ok(()) => made.push(link),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(SysError::io("linking", &link, error)),
            }
        }
    }
    Ok(made)
}

/// Removes links that [`populate_by_links`] made, and directories that are empty then. What is gone
/// already, or cannot be removed, is left: it does no harm.
pub fn remove_links(made: &[PathBuf]) {
    for link in made {
        let Err(error) = fs::remove_file(link) else { continue };
        tracing::debug!(link = %link.display(), %error, "a device link stays");
    }
    for dir in made.iter().filter_map(|link| link.parent()) {
        // Fails, as it should, while there are other links in it.
        let _ = fs::remove_dir(dir).and_then(|()| dir.parent().map_or(Ok(()), fs::remove_dir));
    }
}

/// A value as udev writes it in a file name: what is not plain becomes `\x20`. So no value can leave
/// the directory.
#[must_use]
pub fn encode(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for (at, c) in value.char_indices() {
        // udev lets a dot begin a name; `.` and `..` would be directories here.
        let only_dots = c == '.' && at == 0 && value.chars().all(|c| c == '.');
        let plain = c.is_ascii_alphanumeric() || "#+-.:=@_".contains(c);
        if (plain || !c.is_ascii()) && !only_dots {
            out.push(c);
        } else {
            out.push_str(&format!("\\x{:02x}", u32::from(c)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding() {
        for (input, expected) in [
            ("3b0a-9f", "3b0a-9f"),
            ("my disk", "my\\x20disk"),
            ("a/b", "a\\x2fb"),
            ("../../etc", "..\\x2f..\\x2fetc"),
            ("..", "\\x2e."),
            (".", "\\x2e"),
            ("back\\slash", "back\\x5cslash"),
            ("grün", "grün"),
            ("line\nend", "line\\x0aend"),
        ] {
            assert_eq!(encode(input), expected, "{input}");
        }
    }

    #[test]
    fn missing_links_are_made() {
        let dev = tempfile::tempdir().expect("temporary directory");
        let names = |path: &str| Names { dev: path.into(), ..Names::default() };
        let devices = [
            Names { uuid: Some("u-1".into()), partuuid: Some("p-1".into()), ..names("/dev/vda1") },
            Names { uuid: Some("u-2".into()), label: Some("my data".into()), ..names("/dev/mapper/vg-x") },
            Names { label: Some(String::new()), ..names("/dev/vda3") },
        ];
        let made = populate_by_links(dev.path(), &devices).expect("made");
        assert_eq!(made.len(), 4);
        for (link, target) in [
            ("by-uuid/u-1", "../../vda1"),
            ("by-partuuid/p-1", "../../vda1"),
            ("by-uuid/u-2", "../../mapper/vg-x"),
            ("by-label/my\\x20data", "../../mapper/vg-x"),
        ] {
            let path = dev.path().join("disk").join(link);
            assert_eq!(fs::read_link(&path).expect("a link"), Path::new(target), "{link}");
        }
        assert_eq!(populate_by_links(dev.path(), &devices).expect("again"), Vec::<PathBuf>::new());
        let foreign = dev.path().join("disk/by-uuid/udev");
        symlink("../../vdb", &foreign).expect("symlink");
        remove_links(&made);
        assert!(foreign.is_symlink() && !dev.path().join("disk/by-label").exists());
        assert_eq!(fs::read_dir(dev.path().join("disk/by-uuid")).expect("listed").count(), 1);
        let error = populate_by_links(dev.path(), &[names("/srv/x")]).expect_err("outside").to_string();
        assert_eq!(error, "/srv/x is not below /dev: it can have no link there");
    }
}
