//! Starting and ending processes as PID 1. It reaps every process there is, which `engine::sys` forbids
//! to whoever starts programs there: so PID 1 starts its few by itself, here.
#![allow(clippy::disallowed_methods, reason = "PID 1 reaps all processes and must not use engine::sys to start any")]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C").env("HOME", "/root").current_dir("/");
    super::signals::unblocked(&mut command);
    command
}

fn pid(child: &std::process::Child) -> io::Result<Pid> {
    let raw = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    raw.ok_or_else(|| io::Error::other("the new process has no usable number"))
}

/// Starts the agent; both its outputs come out of the descriptor. `after` is how the one before it ended, if there was
/// one.
pub(super) fn agent(program: &Path, after: Option<&str>) -> io::Result<(Pid, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    let errors = write.try_clone()?;
    let child = command(program)
        .args(after.map(|how| ["--after", how]).into_iter().flatten())
        .stdin(Stdio::null())
        .stdout(Stdio::from(write))
        .stderr(Stdio::from(errors))
        .process_group(0)
        .spawn()?;
    Ok((pid(&child)?, read))
}

/// Starts a shell that owns this terminal.
pub(super) fn shell(terminal: &Path) -> io::Result<Pid> {
    let open = |flags: OFlags| rustix::fs::open(terminal, flags | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty());
    let (input, output, errors) = (open(OFlags::RDWR)?, open(OFlags::RDWR)?, open(OFlags::RDWR)?);
    let is_serial = !terminal.file_name().is_some_and(|name| {
        name.to_string_lossy().strip_prefix("tty").is_some_and(|rest| rest.starts_with(|it: char| it.is_ascii_digit()))
    });
    // setsid -c makes its stdin the controlling terminal of the new session: job control and ^C work.
    let child = command(Path::new("/usr/bin/busybox"))
        .args(["setsid", "-c", "/usr/bin/busybox", "sh"])
        .env("PATH", format!("{PATH}:{}", crate::places::RESCUE_DIR))
        .env("TERM", if is_serial { "vt102" } else { "linux" })
        .env("PS1", "systemimager# ")
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(output))
        .stderr(Stdio::from(errors))
        .spawn()?;
    pid(&child)
}

/// Asks every other process to end, waits, and kills what is left. `ends` becomes readable when one has ended
/// (a signalfd(2) of SIGCHLD, emptied by `empty`).
pub(super) fn end_all(grace: Duration, ends: Option<BorrowedFd<'_>>, empty: &mut dyn FnMut()) {
    for (signal, patience) in [(Signal::TERM, grace), (Signal::KILL, Duration::from_secs(1))] {
        if signal_all(signal).is_err() {
            return;
        }
        let deadline = Instant::now() + patience;
        loop {
            empty();
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(_)) => continue,
                Ok(None) => {}
                // Nobody is left.
                Err(_) => return,
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let limit = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut fds: Vec<PollFd<'_>> = ends.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
            // An interruption is looked into like an end.
            let _ = poll(&mut fds, Some(&limit));
        }
    }
}

fn signal_all(signal: Signal) -> rustix::io::Result<()> {
    // Only PID 1 may: anywhere else it would end the whole session of whoever tries this.
    if rustix::process::getpid() != Pid::INIT {
        return Err(rustix::io::Errno::PERM);
    }
    // With this number it is kill(-1): all processes but PID 1 itself.
    rustix::process::kill_process_group(Pid::INIT, signal)
}

/// The blocked signals of a process started here, as /proc tells.
#[cfg(test)]
pub(super) fn mask_of_a_child() -> Option<String> {
    let output = command(Path::new("/bin/cat")).arg("/proc/self/status").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.lines().find_map(|line| line.strip_prefix("SigBlk:"))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_outputs_come_out_of_one_descriptor() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let script = dir.path().join("agent");
        std::fs::write(&script, "#!/bin/sh\necho out; echo err >&2; env | sort | head -c 8; echo \"$1=$2\"; exit 3\n")
            .expect("write");
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        let (pid, output) = agent(&script, Some("was killed")).expect("started");
        let status = rustix::process::waitpid(Some(pid), WaitOptions::empty()).expect("waited").expect("ended").1;
        assert_eq!(status.exit_status(), Some(3));
        let mut bytes = [0; 100];
        let count = rustix::io::read(&output, &mut bytes).expect("output");
        assert_eq!(std::str::from_utf8(&bytes[..count]), Ok("out\nerr\nHOME=/ro--after=was killed\n"));
    }

    #[test]
    fn nobody_but_pid_1_signals_all() {
        assert_eq!(signal_all(Signal::CONT), Err(rustix::io::Errno::PERM));
    }
}
