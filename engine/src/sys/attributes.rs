//! Giving one file the attributes of another (owner, mode, extended attributes, ACLs and capabilities among them), and a
//! directory its own time back.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{Gid, Mode, Stat, Timespec, Timestamps, Uid};
use xattr::FileExt as _;

/// Gives `to` what `from` has; what else `to` has stays. Returns what is known of `from`.
///
/// # Errors
/// One cannot be read or set; the file system holds no such attributes.
pub fn copy(from: &File, to: &File) -> io::Result<Stat> {
    let stat = rustix::fs::fstat(from)?;
    // The owner first: a change of it takes set-user-id and capabilities away.
    rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    for name in from.list_xattr()? {
        if let Some(value) = from.get_xattr(&name)? {
            to.set_xattr(&name, &value)?;
        }
    }
    Ok(stat)
}

/// Gives `to` the attributes of another of its kind, its times included.
///
/// # Errors
/// As [`copy`].
pub fn alike(from: &File, to: &File) -> io::Result<()> {
    let stat = copy(from, to)?;
    let time = |tv_sec, tv_nsec: u64| Timespec { tv_sec, tv_nsec: tv_nsec.cast_signed() };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    Ok(rustix::fs::futimens(to, &times)?)
}
/// Does something in the directory of `place`, which keeps the time of its last change.
///
/// # Errors
/// That of `work`; or the directory cannot be looked at, or its time not be set.
pub fn keeping_times<E: From<io::Error>>(place: &Path, work: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    let Some(parent) = place.parent() else { return work() };
    let directory = File::open(parent)?;
    let changed = directory.metadata()?.modified()?;
    work()?;
    Ok(directory.set_modified(changed)?)
}
