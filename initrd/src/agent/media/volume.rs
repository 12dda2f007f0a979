//! Which file system a device may hold, by its first bytes. Pure; mounting is what tells for certain.

/// How much of a device's beginning is looked at, bytes.
pub const HEAD: usize = 36 * 1024;

/// A file system that a medium has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Volume {
    /// FAT.
    Fat,
    /// ext2, ext3, ext4.
    Ext,
    /// A CD's.
    Iso,
}

impl Volume {
    /// Type for mount(2).
    pub fn fstype(self) -> &'static str {
        match self {
            Volume::Fat => "vfat",
            // The kernels of today have one driver for all three.
            Volume::Ext => "ext4",
            Volume::Iso => "iso9660",
        }
    }

    /// Options for looking at what belongs to somebody else. `noload`: a journal that wants to be replayed stays as it is;
    /// `errors=continue`: nor may a damaged one stop this machine, as its own superblock may ask.
    pub fn options(self) -> &'static [&'static str] {
        match self {
            Volume::Fat => &["ro", "nosuid", "nodev", "noexec", "errors=continue"],
            Volume::Ext => &["ro", "nosuid", "nodev", "noexec", "noload", "errors=continue"],
            Volume::Iso => &["ro", "nosuid", "nodev", "noexec"],
        }
    }
}

/// What may be there, the likeliest first: who makes one file system over another leaves marks of the first.
pub fn of(head: &[u8]) -> Vec<Volume> {
    let fat = is_fat(head).then_some(Volume::Fat);
    // `s_magic` of the superblock at 1024 (Documentation/filesystems/ext4/super.rst).
    let ext = (bytes(head, 1024 + 56) == Some(*b"\x53\xef")).then_some(Volume::Ext);
    // ECMA-119, 8.1: a volume descriptor in sector 16.
    let iso = (bytes(head, 16 * 2048 + 1) == Some(*b"CD001")).then_some(Volume::Iso);
    [fat, ext, iso].into_iter().flatten().collect()
}

/// By the BIOS parameter block (Microsoft's FAT specification, 3.1): the text `FAT32` in it means nothing, and a partition
/// table ends with the same two bytes.
fn is_fat(head: &[u8]) -> bool {
    let word = |at| bytes(head, at).map(u16::from_le_bytes);
    let byte = |at| head.get(at).copied();
    let jumps = matches!(bytes(head, 0), Some([0xeb, _, 0x90] | [0xe9, _, _]));
    let sector = word(11).is_some_and(|size| matches!(size, 512 | 1024 | 2048 | 4096));
    let cluster = byte(13).is_some_and(u8::is_power_of_two);
    let reserved = word(14).is_some_and(|count| count > 0);
    let fats = byte(16).is_some_and(|count| matches!(count, 1 | 2));
    let medium = byte(21).is_some_and(|kind| kind == 0xf0 || kind >= 0xf8);
    jumps && sector && cluster && reserved && fats && medium && bytes(head, 510) == Some([0x55, 0xaa])
}

fn bytes<const N: usize>(head: &[u8], at: usize) -> Option<[u8; N]> {
    head.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut head = vec![0; HEAD];
        for (at, bytes) in parts {
            head[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        head
    }

    const BLOCK: (usize, &[u8]) = (11, &[0, 2, 1, 32, 0, 2, 0, 0, 0, 0, 0xf8]);

    #[test]
    fn marks() {
        let jump: (usize, &[u8]) = (0, &[0xeb, 0x58, 0x90]);
        let end: (usize, &[u8]) = (510, &[0x55, 0xaa]);
        let ext: (usize, &[u8]) = (1080, &[0x53, 0xef]);
        let iso: (usize, &[u8]) = (32769, b"CD001");
        let rows: &[(&str, Vec<u8>, &[Volume])] = &[
            ("nothing", vec![], &[]),
            ("zeros", head(&[]), &[]),
            ("short", head(&[ext])[..1081].to_vec(), &[]),
            ("a partition table", head(&[end]), &[]),
            ("FAT", head(&[jump, BLOCK, end]), &[Volume::Fat]),
            ("FAT without its end", head(&[jump, BLOCK]), &[]),
            ("a boot sector of another kind", head(&[jump, end]), &[]),
            ("ext2", head(&[ext]), &[Volume::Ext]),
            ("CD", head(&[iso]), &[Volume::Iso]),
            ("CD that can be a stick", head(&[iso, end]), &[Volume::Iso]),
            ("FAT over ext2", head(&[jump, BLOCK, end, ext]), &[Volume::Fat, Volume::Ext]),
        ];
        for (name, head, expected) in rows {
            assert_eq!(of(head), *expected, "{name}");
        }
    }

    #[test]
    fn what_the_programs_make() {
        use systemimager_engine::sys::{Cmd, Program};
        let dir = tempfile::tempdir().expect("temporary directory");
        for (program, args, expected) in [
            ("mkfs.vfat", vec!["-C", "FILE", "1440"], Volume::Fat),
            ("mkfs.vfat", vec!["-F", "32", "-C", "FILE", "65536"], Volume::Fat),
            ("mke2fs", vec!["-q", "-t", "ext2", "FILE", "1440"], Volume::Ext),
        ] {
            let file = dir.path().join(format!("{program}-{}", args.len()));
            let args = args.iter().map(|arg| if *arg == "FILE" { file.as_os_str() } else { arg.as_ref() });
            let made = Cmd::new(Program::named(program).expect("a name")).args(args).run();
            if let Err(error @ systemimager_engine::sys::CommandError::NotFound { .. }) = made {
                let line = format!("SKIPPED: what_the_programs_make: {error}\n");
                let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
                continue;
            }
            made.expect("made");
            let head = std::fs::read(&file).expect("read");
            assert_eq!(of(&head[..HEAD]), [expected], "{program}");
        }
    }
}
