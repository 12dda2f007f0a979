//! Disks that an agent left half written when it was killed: their boot code is erased, so that the machine
//! does not start something that is not whole.
//!
//! Nothing else of them is touched; partition tables and contents stay for who looks into it.

use std::ffi::OsStr;
use std::fs::{File, FileType};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use systemimager_engine::sys::boot_code;

/// Makes each disk in `list` (a path a line, and after a tab where on it besides its first sector; absent: none)
/// unbootable. Returns what is to be said.
pub(crate) fn unboot_all(list: &Path) -> Vec<String> {
    unboot_listed(list, Path::new("/dev"), &|kind| kind.is_block_device())
}

/// `dev` and `is_disk` are what counts as a disk: a test has none to lose.
fn unboot_listed(list: &Path, dev: &Path, is_disk: &dyn Fn(&FileType) -> bool) -> Vec<String> {
    let bytes = match std::fs::read(list) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            return vec![format!(
                "reading {}: {error}; which disks are half written is not known: do not boot from them",
                list.display()
            )];
        }
    };
    let disks = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    disks
        .map(|line| match line.iter().rposition(|byte| *byte == b'\t') {
            Some(at) => (&line[..at], std::str::from_utf8(&line[at + 1..]).ok().and_then(|it| it.parse().ok())),
            None => (line, Some(0)),
        })
        .map(|(disk, place)| (Path::new(OsStr::from_bytes(disk)), place))
        .map(|(disk, place)| match unboot(disk, place, dev, is_disk) {
            Ok(()) => {
                format!("{} was half written; its boot code is erased, it does not boot", disk.display())
            }
            Err(error) => format!(
                "{} was half written and may try to boot: {error}; erase its first {} bytes by hand",
                disk.display(),
                boot_code::LENGTH
            ),
        })
        .collect()
}

fn unboot(disk: &Path, place: Option<u64>, dev: &Path, is_disk: &dyn Fn(&FileType) -> bool) -> io::Result<()> {
    let place = place.ok_or_else(|| io::Error::other("the place on it is no number"))?;
    // Names below /dev/disk are links; what counts is where they lead.
    let real: PathBuf = disk.canonicalize()?;
    if !real.starts_with(dev.canonicalize()?) {
        return Err(io::Error::other(format!("it is not below {}", dev.display())));
    }
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let file = File::options().write(true).custom_flags(flags).open(&real)?;
    if !is_disk(&file.metadata()?.file_type()) {
        return Err(io::Error::other("it is not a block device"));
    }
    file.write_all_at(&boot_code::erased(place), place)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_code_and_nothing_else_is_erased() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let at = |name: &str| dir.path().join(name);
        let dev = at("dev");
        std::fs::create_dir_all(dev.join("disk")).expect("a directory");
        for name in ["dev/sda", "dev/sdb", "dev/sdc", "elsewhere"] {
            std::fs::write(at(name), [0xAA; 1024]).expect("written");
        }
        std::os::unix::fs::symlink("../sdb", dev.join("disk/by-name")).expect("a link");
        std::os::unix::fs::symlink(at("elsewhere"), dev.join("out")).expect("a link");
        let list = at("destroyed");
        let lines = [
            "dev/sda",
            "dev/sda\t512",
            "dev/disk/by-name",
            "dev/absent",
            "elsewhere",
            "dev/../elsewhere",
            "dev/out",
            "dev/disk",
        ];
        let text: Vec<String> = lines.iter().map(|name| at(name).display().to_string()).collect();
        std::fs::write(&list, format!("{}\n\n", text.join("\n"))).expect("written");

        let said = unboot_listed(&list, &dev, &FileType::is_file);
        assert_eq!(said.len(), lines.len(), "{said:?}");
        for (line, (name, says)) in said.iter().zip(lines.iter().zip([
            "its boot code is erased, it does not boot",
            "its boot code is erased, it does not boot",
            "its boot code is erased, it does not boot",
            "may try to boot: No such file",
            "is not below",
            "is not below",
            "is not below",
            "may try to boot: Is a directory",
        ])) {
            let name = name.split('\t').next().unwrap_or_default();
            assert!(line.contains(name) && line.contains(says), "{name}: {line}");
        }
        std::fs::write(&list, format!("{}\tx", at("dev/sdc").display())).expect("written");
        let said = unboot_listed(&list, &dev, &FileType::is_file);
        assert!(said[0].contains("may try to boot: the place on it is no number"), "{said:?}");
        let mut erased = vec![0xAA; 1024];
        erased[..boot_code::LENGTH].copy_from_slice(&boot_code::erased(0));
        let mut twice = erased.clone();
        twice[512..512 + boot_code::LENGTH].fill(0);
        for (name, expected) in [
            ("dev/sda", &twice),
            ("dev/sdb", &erased),
            ("dev/sdc", &vec![0xAA; 1024]),
            ("elsewhere", &vec![0xAA; 1024]),
        ] {
            assert_eq!(&std::fs::read(at(name)).expect("read"), expected, "{name}");
        }
    }

    #[test]
    fn only_block_devices_are_disks() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (file, list) = (dir.path().join("sda"), dir.path().join("destroyed"));
        assert!(unboot_all(&list).is_empty(), "nothing was destroyed");
        std::fs::write(&file, [0xAA; 1024]).expect("written");
        std::fs::write(&list, format!("{}\n/dev/null\nrelative", file.display())).expect("written");
        let said = unboot_all(&list);
        assert!(said[0].contains("it is not below /dev"), "{said:?}");
        assert!(
            said[1].contains("/dev/null was half written and may try to boot: it is not a block device"),
            "{said:?}"
        );
        assert!(said[2].contains("relative was half written and may try to boot: No such file"), "{said:?}");
        assert_eq!(std::fs::read(&file).expect("read"), [0xAA; 1024]);
    }
}
