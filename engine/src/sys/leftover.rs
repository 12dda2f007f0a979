//! Ending a process that an earlier run of ours left behind.
//!
//! Children get a signal when we die ([`super::child`]), but the kernel takes that back from one that changes
//! its user, as daemons do. After a crash such a one runs on; the next start finds it by its pid file. Others take
//! their time to end; the next start finds them by the port that they still hold.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::error::{Result, SysError};
use super::ports::{self, Protocol};
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
    let ours = |line: &[u8]| line.split(|byte| *byte == 0).any(|word| word.ends_with(argument.as_os_str().as_bytes()));
    end_if(pid, &ours, grace)
}

/// Ends the processes that hold a TCP port of this network namespace and were started with just these arguments, however
/// the program itself was called. True: there was one, and it has ended.
///
/// # Errors
/// One does not end within `grace`, not even of SIGKILL.
pub fn end_holders(port: u16, arguments: &[OsString], grace: Duration) -> Result<bool> {
    let ours = |line: &[u8]| {
        let words = line.strip_suffix(b"\0").unwrap_or(line).split(|byte| *byte == 0).skip(1);
        words.eq(arguments.iter().map(|word| word.as_bytes()))
    };
    let mut ended = false;
    for pid in ports::holders(Protocol::Tcp, IpAddr::V4(Ipv4Addr::UNSPECIFIED), port) {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            ended |= end_if(pid, &ours, grace)?;
        }
    }
    Ok(ended)
}

/// Ends a process if it is ours by its command line, of words that each end in NUL.
fn end_if(pid: Pid, ours: &dyn Fn(&[u8]) -> bool, grace: Duration) -> Result<bool> {
    let id = pid.as_raw_nonzero();
    let place = PathBuf::from(format!("/proc/{id}/cmdline"));
    let signalling = |error: Errno| SysError::io(format!("ending process {id} of an earlier run by"), &place, error);
    // Held before it is looked at: the id cannot pass to another process under us.
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(Errno::SRCH) => return Ok(false),
        Err(error) => return Err(signalling(error)),
    };
    if !fs::read(&place).is_ok_and(|line| ours(&line)) {
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
            .map_err(|error| SysError::io("waiting for the end of", &place, error))?
            > 0
        {
            return Ok(true);
        }
    }
    Err(SysError::Refused(format!("process {id} of an earlier run does not end; end it by hand")))
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

    #[test]
    fn who_holds_a_port_is_ended_if_it_is_ours() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let grace = Duration::from_secs(5);
        // Another's, this very test.
        assert!(!end_holders(port, &["--daemon".into()], grace).expect("looked at"));
        drop(listener);
        assert!(!end_holders(port, &[], grace).expect("nobody"));
        let dir = tempfile::tempdir().expect("temporary directory");
        let config = dir.path().join("rsyncd.conf");
        fs::write(&config, "use chroot = no\n").expect("written");
        let arguments = ["--daemon", "--no-detach"].map(String::from).into_iter();
        let more = [format!("--config={}", config.display()), format!("--port={port}"), "--address=127.0.0.1".into()];
        let arguments: Vec<OsString> = arguments.chain(more).map(OsString::from).collect();
        let words = std::iter::once(OsString::from("rsync")).chain(arguments.iter().cloned());
        let Ok(cmd) = Cmd::argv(words) else {
            println!("SKIPPED: who_holds_a_port_is_ended_if_it_is_ours: the program rsync is not installed");
            return;
        };
        let Ok(child) = Child::spawn("rsync", cmd, ChildOutput::Log) else {
            println!("SKIPPED: who_holds_a_port_is_ended_if_it_is_ours: the program rsync is not installed");
            return;
        };
        let deadline = Instant::now() + grace;
        while ports::holders(Protocol::Tcp, IpAddr::V4(Ipv4Addr::UNSPECIFIED), port).is_empty() {
            assert!(Instant::now() < deadline, "it listens");
            std::thread::yield_now();
        }
        assert!(!end_holders(port, &arguments[..4], grace).expect("with other arguments"));
        assert!(child.try_wait().expect("status").is_none());
        assert!(end_holders(port, &arguments, grace).expect("ended"));
        assert!(child.wait_timeout(grace).expect("status").is_some());
    }
}
