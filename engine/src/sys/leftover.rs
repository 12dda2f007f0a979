//! Ending a process that an earlier run of ours left behind.
//!
//! Children get a signal when we die ([`super::child`]), but the kernel takes that back from one that changes
//! its user, as daemons do. After a crash such a one runs on; the next start finds it by its pid file.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::error::{Result, SysError};
use super::process::wait_for;

/// Ends the process whose id `pid_file` holds, if `argument` is among the arguments it was started with: after
/// a reboot, any process may have that id. True: it was there, and has ended.
///
/// # Errors
/// The pid file cannot be read, or the process does not end within `grace`, not even of SIGKILL.
pub fn end(pid_file: &Path, argument: &Path, grace: Duration) -> Result<bool> {
    let text = match fs::read_to_string(pid_file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(SysError::io("reading", pid_file, error)),
    };
    let Some(pid) = text.trim().parse().ok().filter(|pid| *pid > 1).and_then(Pid::from_raw) else { return Ok(false) };
    let signalling = |error: Errno| SysError::io(format!("ending process {} of", text.trim()), pid_file, error);
    // Held before it is looked at: the id cannot pass to another process under us.
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(Errno::SRCH) => return Ok(false),
        Err(error) => return Err(signalling(error)),
    };
    let ours = fs::read(format!("/proc/{}/cmdline", text.trim()))
        .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word.ends_with(argument.as_os_str().as_bytes())));
    if !ours {
        return Ok(false);
    }
    for signal in [Signal::TERM, Signal::KILL] {
        match pidfd_send_signal(&process, signal) {
            Ok(()) => {}
            Err(Errno::SRCH) => return Ok(true),
            Err(error) => return Err(signalling(error)),
        }
        let mut fds = [PollFd::new(&process, PollFlags::IN)];
        if wait_for(&mut fds, Some(Instant::now() + grace))
            .map_err(|error| SysError::io("waiting for", pid_file, error))?
            > 0
        {
            return Ok(true);
        }
    }
    Err(SysError::Refused(format!("process {} of an earlier run does not end; end it by hand", text.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{Child, ChildOutput, Cmd};

    #[test]
    fn only_ours_is_ended() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (file, conf) = (dir.path().join("pid"), dir.path().join("conf"));
        let grace = Duration::from_secs(5);
        assert!(!end(&file, &conf, grace).expect("absent"));
        let script = ["sh", "-c", "sleep 60; true", "sh", &format!("--conf={}", conf.display())];
        let child = Child::spawn("left", Cmd::argv(script).expect("argv"), ChildOutput::Log).expect("started");
        for (name, text) in [("empty", ""), ("garbage", "x"), ("all", "-1"), ("group", "0"), ("init", "1")] {
            fs::write(&file, text).expect("written");
            assert!(!end(&file, &conf, grace).expect(name), "{name}");
        }
        fs::write(&file, format!("{}\n", child.pid())).expect("written");
        assert!(!end(&file, Path::new("/another"), grace).expect("another's"));
        assert!(child.try_wait().expect("status").is_none());
        assert!(end(&file, &conf, grace).expect("ended"));
        assert!(child.wait_timeout(grace).expect("status").is_some());
        assert!(!end(&file, &conf, grace).expect("gone"));
    }
}
