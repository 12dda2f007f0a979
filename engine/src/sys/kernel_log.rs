//! What the kernel says of a disk that failed. A write that a disk refused for good is told in the kernel's log at
//! once; the program that wrote hears of it much later, or never, since it wrote to memory.
//!
//! It reads only what is said from a moment on, and never waits. Sources: Documentation/ABI/testing/dev-kmsg and
//! `blk_print_req_error` (block/blk-mq.c; `blk_update_request` and `print_req_error` in older kernels) of Linux.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;

/// The log, one record a read.
const LOG: &str = "/dev/kmsg";
/// Bytes of the longest record (`CONSOLE_EXT_LOG_MAX`, `PRINTKRB_RECORD_MAX`).
const RECORD_MAX: usize = 8192;
/// How many records are read at a time: a disk that fails can say more than is read.
const AT_ONCE: usize = 10_000;

/// The kernel's log from a moment on.
#[derive(Debug)]
pub struct KernelLog<R = File>(R);

/// A write that a disk did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The kernel's name of the whole disk: `sda`.
    pub disk: String,
    /// The kernel's words.
    pub says: String,
}

impl KernelLog {
    /// What is said from now on.
    ///
    /// # Errors
    /// The log cannot be read here (it needs `CAP_SYSLOG`).
    pub fn from_now() -> std::io::Result<Self> {
        let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
        let mut log = OpenOptions::new().read(true).custom_flags(nonblock).open(LOG)?;
        log.seek(SeekFrom::End(0))?;
        Ok(Self(log))
    }
}

impl<R: Read> KernelLog<R> {
    /// The first refused write among what was said since it was asked last, to a disk that `of` knows.
    pub fn refused(&mut self, of: impl Fn(&str) -> bool) -> Option<Refused> {
        let mut record = [0; RECORD_MAX];
        for _ in 0..AT_ONCE {
            let length = match self.0.read(&mut record) {
                Ok(0) => return None,
                Ok(length) => length,
                // What was not read in time was overwritten: the next read goes on with what is left.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => continue,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return None,
            };
            let text = String::from_utf8_lossy(record.get(..length)?);
            if let Some(found) = refused_write(&text).filter(|it| of(&it.disk)) {
                return Some(found);
            }
        }
        None
    }
}

/// Reads a record: `3,1234,567890,-;I/O error, dev sda, sector 2048 op 0x1:(WRITE) flags 0x0 …`.
fn refused_write(record: &str) -> Option<Refused> {
    let says = record.split_once(';')?.1.lines().next()?;
    if !says.contains(":(WRITE)") {
        return None;
    }
    let (_, after) = says.split_once(" error, dev ")?;
    let (disk, _) = after.split_once(", sector ")?;
    let is_name = !disk.is_empty() && disk.bytes().all(|it| it.is_ascii_graphic() && it != b'/');
    is_name.then(|| Refused { disk: disk.to_owned(), says: says.chars().filter(|it| !it.is_control()).collect() })
}

/// Whether a device (`sda2`, `nvme0n1p2`, `sda`) is a disk (`sda`, `nvme0n1`) or a partition of it.
#[must_use]
pub fn is_on(device: &str, disk: &str) -> bool {
    let Some(rest) = device.strip_prefix(disk) else { return false };
    let digits = if disk.ends_with(|it: char| it.is_ascii_digit()) { rest.strip_prefix('p') } else { Some(rest) };
    rest.is_empty() || digits.is_some_and(|it| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_write_is_known_by_its_words() {
        for (record, expected) in [
            ("3,9,1,-;I/O error, dev sda, sector 20 op 0x1:(WRITE) flags 0x4800 phys_seg 8\n SUBSYSTEM=block\n", "sda"),
            ("3,9,1,-;blk_update_request: I/O error, dev vda, sector 20 op 0x1:(WRITE) flags 0x0 phys_seg 1\n", "vda"),
            ("2,9,1,-;critical medium error, dev nvme0n1, sector 2 op 0x1:(WRITE) flags 0x0\n", "nvme0n1"),
            ("3,9,1,-;I/O error, dev cciss/c0d0, sector 2 op 0x1:(WRITE) flags 0x0\n", ""),
            // A disk that cannot discard, a stick that cannot be read.
            ("3,9,1,-;I/O error, dev sda, sector 20 op 0x3:(DISCARD) flags 0x0\n", ""),
            ("3,9,1,-;critical target error, dev sda, sector 20 op 0x9:(WRITE_ZEROES) flags 0x0\n", ""),
            ("3,9,1,-;I/O error, dev sr0, sector 0 op 0x0:(READ) flags 0x0\n", ""),
            // Kernels before 5.1 do not say what was tried.
            ("3,9,1,-;print_req_error: I/O error, dev sda, sector 20\n", ""),
            ("6,9,1,-;sd 0:0:0:0: [sda] Attached SCSI disk\n", ""),
            ("I/O error, dev sda, sector 20 op 0x1:(WRITE)", ""),
            ("", ""),
        ] {
            let found = refused_write(record).map(|it| it.disk).unwrap_or_default();
            assert_eq!(found, expected, "{record}");
        }
    }

    #[test]
    fn partitions_are_on_their_disk() {
        for (device, disk, expected) in [
            ("sda", "sda", true),
            ("sda2", "sda", true),
            ("sda12", "sda", true),
            ("sdaa2", "sda", false),
            ("sdaa", "sda", false),
            ("nvme0n1p2", "nvme0n1", true),
            ("nvme0n12", "nvme0n1", false),
            ("nvme0n1p", "nvme0n1", false),
            ("mmcblk0p1", "mmcblk0", true),
            ("sdb1", "sda", false),
        ] {
            assert_eq!(is_on(device, disk), expected, "{device} {disk}");
        }
    }

    /// Gives a record a read, as the kernel does; `None` stands for what was overwritten.
    struct Records(Vec<Option<&'static str>>);

    impl Read for Records {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.0.is_empty() {
                return Err(ErrorKind::WouldBlock.into());
            }
            let Some(record) = self.0.remove(0) else { return Err(ErrorKind::BrokenPipe.into()) };
            (&mut &mut *buffer).write(record.as_bytes())
        }
    }

    use std::io::Write as _;

    #[test]
    fn what_was_said_is_read_to_its_end() {
        let of = |disk: &'static str| move |it: &str| it == disk;
        let said = vec![
            Some("6,1,1,-;eth0: link up\n"),
            None,
            Some("3,2,1,-;I/O error, dev sdb, sector 7 op 0x1:(WRITE) flags 0x0\n"),
            Some("3,3,1,-;I/O error, dev sda, sector 8 op 0x1:(WRITE) flags 0x0\n"),
        ];
        let mut log = KernelLog(Records(said));
        let found = log.refused(of("sda")).expect("a refused write");
        assert_eq!(found.says, "I/O error, dev sda, sector 8 op 0x1:(WRITE) flags 0x0");
        assert_eq!(log.refused(of("sda")), None);
    }
}
