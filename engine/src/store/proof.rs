//! Proof, before anything is pulled, that the store's file system can hold what images hold.
//!
//! One of each kind is made and looked at again; nothing is concluded from the file system's name.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use systemimager_core::Size;

use super::image_store::ImageStore;
use crate::sys::remove::remove_tree;
use crate::sys::statfs;

/// Room that is left free besides what an image takes.
const MARGIN_BYTES: u64 = 16 << 20;
/// The same, in files.
const MARGIN_INODES: u64 = 256;

impl ImageStore {
    /// Proves that the store holds attributes, ACLs, holes, links and devices.
    ///
    /// # Errors
    /// The first thing that it does not hold, with what to do.
    pub fn prove(&self) -> Result<()> {
        let dir = self.staging(&format!(".proof.{}", std::process::id()))?;
        remove_tree(&dir)?;
        fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
        let result = prove_in(&dir, self.root());
        let removed = remove_tree(&dir);
        result?;
        Ok(removed?)
    }

    /// There is room for a tree of this size beside the images that are there. Returns what is
    /// lacking, if anything.
    ///
    /// # Errors
    /// The store cannot be asked.
    pub fn lacks_room(&self, bytes: u64, inodes: u64) -> Result<Option<String>> {
        let space = statfs::space(self.root())?;
        let bytes = bytes.saturating_add(MARGIN_BYTES);
        let inodes = inodes.saturating_add(MARGIN_INODES);
        let root = self.root().display();
        if bytes > space.free_bytes {
            return Ok(Some(format!(
                "the capture needs {} beside the images that are there, and {root} has {} free; make room, or \
                 leave something out with --exclude",
                mib(bytes),
                mib(space.free_bytes)
            )));
        }
        Ok(space.free_inodes.filter(|free| inodes > *free).map(|free| {
            format!("the capture needs {inodes} inodes beside the images that are there, and {root} has {free} free")
        }))
    }
}

fn mib(bytes: u64) -> Size {
    Size(bytes.div_ceil(1 << 20) << 20)
}

/// `user::rw-,user:1:r--,group::r--,mask::r--,other::---` as the kernel keeps it (acl(5), version 2).
const ACL: [u8; 44] = [
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 1, 0, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16, 0, 4, 0,
    255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
];
/// `cap_net_raw+ep`, revision 2 (capabilities(7)).
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn prove_in(dir: &Path, root: &Path) -> Result<()> {
    let file = dir.join("file");
    fs::write(&file, "x").with_context(|| format!("writing {}", file.display()))?;
    let attribute = |name: &str, value: &[u8]| -> io::Result<bool> {
        rustix::fs::setxattr(&file, name, value, XattrFlags::empty())?;
        let mut buffer = [0; 64];
        let length = rustix::fs::getxattr(&file, name, &mut buffer)?;
        Ok(buffer.get(..length) == Some(value))
    };
    type Proof<'a> = (&'a str, Box<dyn Fn() -> io::Result<bool> + 'a>);
    let proofs: [Proof<'_>; 10] = [
        ("extended attributes of users (user.*)", Box::new(|| attribute("user.systemimager", b"x"))),
        ("trusted extended attributes (trusted.*)", Box::new(|| attribute("trusted.systemimager", b"x"))),
        ("ACLs", Box::new(|| attribute("system.posix_acl_access", &ACL))),
        ("file capabilities", Box::new(|| attribute("security.capability", &CAPABILITY))),
        (
            "sparse files",
            Box::new(|| {
                let hole = File::create_new(dir.join("hole"))?;
                hole.set_len(8 << 20)?;
                Ok(hole.metadata()?.blocks() * 512 < 1 << 20)
            }),
        ),
        (
            "hard links",
            Box::new(|| {
                fs::hard_link(&file, dir.join("link"))?;
                Ok(fs::metadata(&file)?.nlink() == 2)
            }),
        ),
        (
            "symbolic links",
            Box::new(|| {
                symlink("nowhere", dir.join("symlink"))?;
                Ok(true)
            }),
        ),
        (
            "device files",
            Box::new(|| {
                let null = dir.join("null");
                rustix::fs::mknodat(CWD, &null, FileType::CharacterDevice, Mode::RUSR, rustix::fs::makedev(1, 3))?;
                Ok(fs::symlink_metadata(&null)?.rdev() == rustix::fs::makedev(1, 3))
            }),
        ),
        (
            "owners above 2^31",
            Box::new(|| {
                std::os::unix::fs::chown(&file, Some(3_000_000_000), Some(3_000_000_000))?;
                Ok(fs::metadata(&file)?.uid() == 3_000_000_000)
            }),
        ),
        (
            "times to the nanosecond",
            Box::new(|| {
                let time = Timespec { tv_sec: 1_000_000_000, tv_nsec: 123_456_789 };
                rustix::fs::utimensat(
                    CWD,
                    &file,
                    &Timestamps { last_access: time, last_modification: time },
                    rustix::fs::AtFlags::empty(),
                )?;
                Ok(fs::metadata(&file)?.mtime_nsec() == 123_456_789)
            }),
        ),
    ];
    for (what, proof) in proofs {
        let why = match proof() {
            Ok(true) => continue,
            Ok(false) => "they do not come back as they were written".to_owned(),
            Err(error) => error.to_string(),
        };
        bail!(
            "the file system of {} does not hold {what}: {why}; images need one that does, such as ext4, xfs or \
             btrfs on a disk of this machine: mount one there, or set paths.images to one",
            root.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn room_is_compared() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(Some(dir.path()), None).unwrap();
        fs::create_dir_all(config.images()).unwrap();
        let store = ImageStore::new(&config);
        assert_eq!(store.lacks_room(0, 0).unwrap(), None);
        let says = store.lacks_room(u64::MAX / 2, 0).unwrap().unwrap();
        assert!(says.contains("the capture needs") && says.contains("--exclude"), "{says}");
    }

    #[test]
    fn a_file_system_without_attributes_is_refused() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: a_file_system_without_attributes_is_refused: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mounted = dir.path().join("ramfs");
        fs::create_dir(&mounted).unwrap();
        let result = crate::sys::namespace::in_private_mounts(|| {
            // ramfs holds no attributes, but sockets, links and devices.
            let guard = crate::sys::mount::MountGuard::pseudo("ramfs", &mounted, &[] as &[&str]).unwrap();
            let result = prove_in(guard.target(), guard.target());
            guard.close().unwrap();
            result
        });
        let error = result.unwrap().unwrap_err().to_string();
        assert!(error.contains("does not hold extended attributes of users"), "{error}");
        // The directory of the tests' own file system, on the other hand, holds all.
        let plain = dir.path().join("plain");
        fs::create_dir(&plain).unwrap();
        prove_in(&plain, &plain).unwrap();
    }
}
