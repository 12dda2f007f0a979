//! Locks between processes (flock(2)), with messages that say who holds one and what for.
//!
//! The lock file is never removed: two processes could then hold "the" lock on two files. It holds a
//! line a holder, `PID purpose`, only for messages; what counts is the kernel's lock, which ends with
//! its process whatever happens. So a stale line does no harm, and lines of dead processes are
//! dropped in passing.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::error::{Result, SysError};
use super::quote::quote;

/// Whether others may hold the lock at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Others may share it.
    Shared,
    /// Nobody else may hold it.
    Exclusive,
}

/// A lock that is held until this goes.
#[derive(Debug)]
#[must_use = "dropping the guard unlocks"]
pub struct Lock {
    file: File,
    path: PathBuf,
    entry: String,
}

impl Lock {
    /// Takes the lock at once. `purpose` is what others are told: `capture of image web`.
    ///
    /// # Errors
    /// [`SysError::Refused`] when somebody holds it, naming them; or the file cannot be opened.
    pub fn try_take(path: &Path, mode: Mode, purpose: &str) -> Result<Self> {
        Self::attempt(path, mode, purpose)?.ok_or_else(|| {
            let holders = holders(path);
            let by = if holders.is_empty() { "another process".to_owned() } else { holders.join(", ") };
            SysError::Refused(format!(
                "{purpose}: {} is locked by {by}; wait until that has ended, or stop it",
                quote(path)
            ))
        })
    }

    /// As [`Self::try_take`], but `Ok(None)` when somebody holds it.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn attempt(path: &Path, mode: Mode, purpose: &str) -> Result<Option<Self>> {
        let operation = match mode {
            Mode::Shared => FlockOperation::NonBlockingLockShared,
            Mode::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        let file = open(path)?;
        match flock(&file, operation) {
            Ok(()) => Self::taken(file, path, purpose).map(Some),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(SysError::io("locking", path, error)),
        }
    }

    /// Takes the lock, waiting as long as it takes; logs for whom.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn wait(path: &Path, mode: Mode, purpose: &str) -> Result<Self> {
        if let Some(lock) = Self::attempt(path, mode, purpose)? {
            return Ok(lock);
        }
        tracing::info!(lock = %path.display(), holders = holders(path).join(", "), purpose, "waiting for a lock");
        let operation = match mode {
            Mode::Shared => FlockOperation::LockShared,
            Mode::Exclusive => FlockOperation::LockExclusive,
        };
        let file = open(path)?;
        loop {
            match flock(&file, operation) {
                Ok(()) => return Self::taken(file, path, purpose),
                Err(Errno::INTR) => {}
                Err(error) => return Err(SysError::io("locking", path, error)),
            }
        }
    }

    fn taken(file: File, path: &Path, purpose: &str) -> Result<Self> {
        let purpose: String = purpose.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let mut lock = Self { file, path: path.to_path_buf(), entry: format!("{} {purpose}", std::process::id()) };
        let mut lines = entries(&mut lock.file);
        lines.push(lock.entry.clone());
        lock.write(&lines).map_err(|e| SysError::io("writing the purpose into", path, e))?;
        Ok(lock)
    }

    /// The lock file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn write(&mut self, lines: &[String]) -> std::io::Result<()> {
        let mut text = String::new();
        for line in lines {
            let _ = writeln!(text, "{line}");
        }
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(text.as_bytes())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut lines = entries(&mut self.file);
        if let Some(at) = lines.iter().position(|line| *line == self.entry) {
            lines.remove(at);
        }
        if let Err(error) = self.write(&lines) {
            tracing::debug!(lock = %self.path.display(), %error, "removing the purpose from a lock");
        }
        // Said, and not left to closing: a child that another thread is just forking has the file
        // open too until it execs, and would hold the lock for that moment.
        if let Err(error) = flock(&self.file, FlockOperation::Unlock) {
            tracing::warn!(lock = %self.path.display(), %error, "unlocking");
        }
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .map_err(|e| SysError::io("opening the lock", path, e))
}

/// The lines of processes that live.
fn entries(file: &mut File) -> Vec<String> {
    let mut text = String::new();
    // Bounded, and only for messages: a damaged file costs no more than a name.
    if file.seek(SeekFrom::Start(0)).is_err() || file.take(1 << 16).read_to_string(&mut text).is_err() {
        return Vec::new();
    }
    text.lines().filter(|line| alive(line)).map(str::to_owned).collect()
}

fn alive(line: &str) -> bool {
    let pid = line.split(' ').next().unwrap_or_default();
    !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()) && Path::new("/proc").join(pid).exists()
}

/// `capture of image web (process 812)`, one a holder, as far as is known.
#[must_use]
pub fn holders(path: &Path) -> Vec<String> {
    let Ok(mut file) = File::open(path) else { return Vec::new() };
    let lines = entries(&mut file);
    lines.iter().filter_map(|l| l.split_once(' ')).map(|(pid, what)| format!("{what} (process {pid})")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_hold_what() {
        use Mode::{Exclusive as E, Shared as S};
        for (name, first, second, fine) in [
            ("readers share", S, S, true),
            ("a writer waits for readers", S, E, false),
            ("readers wait for a writer", E, S, false),
            ("one writer", E, E, false),
        ] {
            let dir = tempfile::tempdir().expect("temporary directory");
            let path = dir.path().join("lock");
            let held = Lock::try_take(&path, first, "pull\nof web").expect("free");
            let again = Lock::try_take(&path, second, "capture of web");
            assert_eq!(again.is_ok(), fine, "{name}");
            if let Err(error) = &again {
                let expected = format!(
                    "capture of web: {} is locked by pull of web (process {}); wait until that has ended, or stop it",
                    path.display(),
                    std::process::id()
                );
                assert_eq!(error.to_string(), expected, "{name}");
            }
            drop(held);
            drop(again);
            drop(Lock::try_take(&path, E, "next").expect("free again"));
            assert_eq!(std::fs::read_to_string(&path).expect("lock file"), "", "{name}");
        }
    }

    #[test]
    fn waiting_ends_with_the_holder() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("lock");
        let held = Lock::try_take(&path, Mode::Exclusive, "first").expect("free");
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| Lock::wait(&path, Mode::Shared, "second").map(drop));
            drop(held);
            waiter.join().expect("no panic").expect("taken");
        });
    }

    #[test]
    fn stale_and_damaged_lines_do_no_harm() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("lock");
        std::fs::write(&path, b"4999999 gone\n../1 x\n\xff\n").expect("written");
        assert!(holders(&path).is_empty());
        let held = Lock::try_take(&path, Mode::Exclusive, "mine").expect("free");
        assert_eq!(holders(&path), [format!("mine (process {})", std::process::id())]);
        drop(held);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).expect("symlink");
        assert!(Lock::try_take(&link, Mode::Shared, "x").is_err(), "links are not followed");
    }
}
