//! A started process: waiting for its end as an event, signalling it safely, moving its pipes.
//!
//! The base of [`super::run`], [`super::child`] and [`super::running`], which say what each is for.
//! It builds no command lines.
//!
//! Two rules shape it:
//! - *A process id is ours only until the process is reaped.* A thread waits without reaping; signals
//!   are sent under a lock that knows whether reaping has happened. So a signal never hits a stranger
//!   that was given the same number.
//! - *The end of a process is a file descriptor*, the read end of a pipe that the waiting thread
//!   closes. So it can be polled together with the output, with a deadline, on any kernel
//!   (pidfd_open(2) would need 5.3; this also runs on old master clients).
//!
//! A program that reaps all children (`waitpid(-1)`, as PID 1 does) must not start processes here:
//! their status would be lost.

use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{ChildStderr, ChildStdin, ChildStdout, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

use super::run::Stream;

/// How long output may still come after the process itself has ended, because a background process
/// holds the pipe open.
const AFTERGLOW: Duration = Duration::from_millis(500);
/// How often a cancel flag is looked at. A flag is no event, so this is the one place that polls.
const CANCEL_EVERY: Duration = Duration::from_millis(100);
/// How long a killed process may take to vanish; longer means it hangs in the kernel.
const KILL_WAIT: Duration = Duration::from_secs(10);
const CHUNK: usize = 64 * 1024;

/// A process that was started and will be reaped here.
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    /// Whether it leads a process group of its own.
    group: bool,
    exit: OwnedFd,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    child: std::process::Child,
    status: Option<ExitStatus>,
}

/// Our ends of its pipes; each is `None` where the stream goes elsewhere.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    pub(super) stdin: Option<ChildStdin>,
    pub(super) stdout: Option<ChildStdout>,
    pub(super) stderr: Option<ChildStderr>,
}

impl Process {
    /// Takes over a child that was just spawned.
    pub(super) fn adopt(mut child: std::process::Child, group: bool) -> io::Result<(Self, Pipes)> {
        let pipes = Pipes { stdin: child.stdin.take(), stdout: child.stdout.take(), stderr: child.stderr.take() };
        match watch(&child) {
            Ok((pid, exit)) => Ok((Self { pid, group, exit, state: Mutex::new(State { child, status: None }) }, pipes)),
            Err(error) => {
                // Nobody could ever wait for it with a deadline: do not leave it running.
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Becomes readable when the process has ended.
    pub(super) fn exit_fd(&self) -> BorrowedFd<'_> {
        self.exit.as_fd()
    }

    /// Waits for the end until the deadline (`None`: for ever); does not reap. True: it has ended.
    pub(super) fn wait_exit(&self, deadline: Option<Instant>) -> io::Result<bool> {
        loop {
            let mut fds = [PollFd::new(&self.exit, PollFlags::IN)];
            match wait_for(&mut fds, deadline) {
                Ok(0) if deadline.is_some_and(|d| Instant::now() >= d) => return Ok(false),
                Ok(0) => {}
                Ok(_) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }

    /// The exit status if it has ended; reaps.
    pub(super) fn try_status(&self) -> io::Result<Option<ExitStatus>> {
        if let Some(status) = self.lock().status {
            return Ok(Some(status));
        }
        if !self.wait_exit(Some(Instant::now()))? {
            return Ok(None);
        }
        let mut state = self.lock();
        if state.status.is_none() {
            // Returns at once: the process is a zombie, its waiter has said so.
            state.status = Some(state.child.wait()?);
        }
        Ok(state.status)
    }

    /// Waits until the deadline, then reaps.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> io::Result<Option<ExitStatus>> {
        if self.wait_exit(deadline)? { self.try_status() } else { Ok(None) }
    }

    /// Sends a signal, to the whole group where it leads one. Nothing happens once it was reaped.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        let state = self.lock();
        if state.status.is_some() {
            return Ok(());
        }
        let sent = if self.group { kill_process_group(self.pid, signal) } else { kill_process(self.pid, signal) };
        match sent {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks it to end, gives it `grace`, then kills it, and what is left of its group.
    ///
    /// # Errors
    /// Also when it does not even die of SIGKILL: it hangs in the kernel, mostly on a dead disk.
    pub(super) fn stop(&self, signal: Signal, grace: Duration) -> io::Result<ExitStatus> {
        if let Some(status) = self.lock().status {
            return Ok(status);
        }
        self.signal(signal)?;
        self.wait_exit(Some(Instant::now() + grace))?;
        // Also when it has ended in time: its helpers may not have. Before reaping, because until
        // then the number of the group is surely ours.
        self.signal(Signal::KILL)?;
        self.wait(Some(Instant::now() + KILL_WAIT))?.ok_or_else(|| {
            io::Error::other(format!(
                "process {} does not die; it hangs in the kernel, look at its disks and network file systems",
                self.pid()
            ))
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned lock only means that another thread panicked while holding it; the state is
        // two plain values, each set in one go.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread that waits for the end and says so by closing its end of a pipe.
fn watch(child: &std::process::Child) -> io::Result<(Pid, OwnedFd)> {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::other("the kernel gave a process id that is none"))?;
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    thread::Builder::new().name(format!("wait {}", child.id())).stack_size(256 * 1024).spawn(move || {
        while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
        {
        }
        drop(write);
    })?;
    Ok((pid, read))
}

/// Why [`pump`] came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The process has ended and its output was read.
    Exited,
    /// The deadline passed.
    TimedOut,
    /// The cancel flag was set.
    Cancelled,
    /// The receiver of the output wants no more.
    Refused,
}

/// Moves data between us and the process until it ends: writes `input`, hands each chunk of output
/// to `sink`. Everything at once in one loop, so neither side can block the other.
pub(super) fn pump(
    process: &Process,
    pipes: Pipes,
    mut input: &[u8],
    deadline: Option<Instant>,
    cancel: Option<&AtomicBool>,
    sink: &mut dyn FnMut(Stream, &[u8]) -> ControlFlow<()>,
) -> io::Result<Ended> {
    let Pipes { mut stdin, mut stdout, mut stderr } = pipes;
    if let Some(pipe) = &stdin {
        rustix::io::ioctl_fionbio(pipe, true)?;
    }
    if let Some(pipe) = &stdout {
        rustix::io::ioctl_fionbio(pipe, true)?;
    }
    if let Some(pipe) = &stderr {
        rustix::io::ioctl_fionbio(pipe, true)?;
    }
    let mut buffer = vec![0; CHUNK];
    let mut exited: Option<Instant> = None;
    loop {
        if input.is_empty() {
            stdin = None; // end of file for the process
        }
        if !drain(&mut stdout, &mut buffer, Stream::Stdout, sink)?
            || !drain(&mut stderr, &mut buffer, Stream::Stderr, sink)?
        {
            return Ok(Ended::Refused);
        }
        let silent = stdout.is_none() && stderr.is_none();
        if exited.is_some_and(|at| silent || Instant::now() >= at + AFTERGLOW) {
            return Ok(Ended::Exited);
        }
        if cancel.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
            return Ok(Ended::Cancelled);
        }
        let now = Instant::now();
        if exited.is_none() && deadline.is_some_and(|d| now >= d) {
            return Ok(Ended::TimedOut);
        }

        let wake = [
            exited.map(|at| at + AFTERGLOW),
            if exited.is_none() { deadline } else { None },
            cancel.map(|_| now + CANCEL_EVERY),
        ];
        let mut fds = Vec::with_capacity(4);
        if exited.is_none() {
            fds.push(PollFd::from_borrowed_fd(process.exit_fd(), PollFlags::IN));
        }
        fds.extend(stdin.iter().map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
        fds.extend(stdout.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        fds.extend(stderr.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        wait_for(&mut fds, wake.into_iter().flatten().min())?;
        let ended = exited.is_none() && fds.first().is_some_and(|fd| !fd.revents().is_empty());
        if ended {
            exited = Some(Instant::now());
            stdin = None;
        }
        if let Some(pipe) = &mut stdin {
            match pipe.write(input) {
                Ok(count) => input = &input[count..],
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                // It need not read all it is given; its exit status says whether that was right.
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => stdin = None,
                Err(e) => return Err(e),
            }
        }
    }
}

/// Reads what is there. False: the sink wants no more. At end of file the pipe becomes `None`.
fn drain<P: Read>(
    pipe: &mut Option<P>,
    buffer: &mut [u8],
    stream: Stream,
    sink: &mut dyn FnMut(Stream, &[u8]) -> ControlFlow<()>,
) -> io::Result<bool> {
    // A bounded number of reads: a program that prints without pause must not keep us from looking
    // at the deadline.
    for _ in 0..16 {
        let Some(open) = pipe else { return Ok(true) };
        match open.read(buffer) {
            Ok(0) => *pipe = None,
            Ok(count) => {
                if sink(stream, &buffer[..count]).is_break() {
                    return Ok(false);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

/// poll(2) with a deadline; an interrupting signal counts as "nothing yet".
pub(super) fn wait_for(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<usize> {
    let timeout = match deadline {
        None => None,
        Some(deadline) => {
            // One second of seconds too many would only mean one more turn of the caller's loop.
            let left = deadline.saturating_duration_since(Instant::now()).min(Duration::from_secs(86_400));
            Some(Timespec::try_from(left).map_err(io::Error::other)?)
        }
    };
    match poll(fds, timeout.as_ref()) {
        Ok(count) => Ok(count),
        Err(rustix::io::Errno::INTR) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// For tests: whether a process that was not started here ends within ten seconds.
#[cfg(test)]
pub(super) fn dies(pid: &str) -> bool {
    let pid = pid.parse().ok().and_then(Pid::from_raw).expect("a process id");
    let Ok(fd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
        return true;
    };
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    wait_for(&mut fds, Some(Instant::now() + Duration::from_secs(10))).is_ok_and(|count| count > 0)
}
