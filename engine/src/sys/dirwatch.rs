//! Waiting until something changes in directories (inotify(7)): for whoever would otherwise look every second.
//!
//! It says that something changed, not what: who is woken looks at the whole, so that no event can be lost.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

use super::error::{Result, SysError};

/// Directories that are watched.
#[derive(Debug)]
pub struct DirWatch(OwnedFd);

impl DirWatch {
    /// Watches these directories, not what is below them.
    ///
    /// # Errors
    /// One is not there.
    pub fn new<'a>(dirs: impl IntoIterator<Item = &'a Path>) -> Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
            .map_err(|error| SysError::io("watching", "/", error))?;
        let flags = inotify::WatchFlags::CREATE
            | inotify::WatchFlags::CLOSE_WRITE
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::MOVED_FROM;
        for dir in dirs {
            inotify::add_watch(&fd, dir, flags).map_err(|error| SysError::io("watching", dir, error))?;
        }
        Ok(Self(fd))
    }

    /// Waits for a change; false: there was none within `limit` (absent: waits as long as it takes).
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(&self, limit: Option<Duration>) -> Result<bool> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout = left.map(|left| Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            });
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], timeout.as_ref()) {
                Ok(0) => return Ok(false),
                Ok(_) => {
                    self.drain();
                    return Ok(true);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(SysError::io("waiting for changes in", "/", error)),
            }
        }
    }

    /// Takes all events there are: one change is often several.
    fn drain(&self) {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.0, &mut buffer);
        while reader.next().is_ok() {}
    }
}

/// For who waits for other things too; it becomes readable when something changed.
impl From<DirWatch> for OwnedFd {
    fn from(watch: DirWatch) -> OwnedFd {
        watch.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_wake_and_silence_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let watch = DirWatch::new([dir.path()]).unwrap();
        assert!(!watch.wait(Some(Duration::ZERO)).unwrap());
        std::fs::write(dir.path().join("a"), "x").unwrap();
        assert!(watch.wait(Some(Duration::from_secs(10))).unwrap());
        assert!(!watch.wait(Some(Duration::ZERO)).unwrap(), "all events of one change are taken at once");
        std::fs::remove_file(dir.path().join("a")).unwrap();
        assert!(watch.wait(None).unwrap());
        let error = DirWatch::new([dir.path().join("no").as_path()]).unwrap_err().to_string();
        assert!(error.starts_with("watching ") && error.contains("/no"), "{error}");
    }
}
