//! A started process whose stdout the caller reads as it comes: what a transport plugin drives
//! through its host (start → read, read, … → wait).
//!
//! Stderr is read all the time in the background, so the process can never block on it; its last
//! lines are kept. stdout is *not* read ahead: a caller that stops reading makes the process wait.
//!
//! Start it through [`super::supervisor::Supervisor::start_running`] where the calling thread may end
//! before the process: it gets SIGTERM when the thread that started it ends.

use std::io::{self, Read};
use std::process::{ChildStdout, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;

use super::child::{Output, Writer};
use super::command_error::CommandError;
use super::process::{Pipes, Process, pump, wait_for};
use super::run::Cmd;
use super::tail::{Secrets, Tail};

/// How long a dropped process may take to end by itself.
const DROP_GRACE: Duration = Duration::from_secs(2);
/// Most that one read returns, bytes: sizes may come from a plugin.
const READ_MAX: usize = 1024 * 1024;

/// What one read brought. Empty and not `eof` means: nothing within the time given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chunk {
    /// Bytes, in order.
    pub stdout: Vec<u8>,
    /// No more will come.
    pub eof: bool,
}

/// The process. Its methods may be called from any thread; dropping it stops it.
#[derive(Debug)]
pub struct Running {
    name: String,
    argv: String,
    process: Arc<Process>,
    stdout: Mutex<Option<ChildStdout>>,
    tail: Arc<Mutex<Tail>>,
    secrets: Secrets,
    reader: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Running {
    /// Starts it, leading a process group of its own.
    ///
    /// # Errors
    /// The program is missing or cannot be started.
    pub fn start(name: &str, cmd: Cmd) -> Result<Self, CommandError> {
        let cmd = cmd.own_group();
        let (process, mut pipes) = cmd.start(true)?;
        let stdout = pipes.stdout.take();
        let running = Self {
            name: name.to_owned(),
            argv: cmd.describe(),
            process: Arc::new(process),
            stdout: Mutex::new(None),
            tail: Arc::default(),
            secrets: cmd.secrets().clone(),
            reader: Mutex::new(None),
        };
        if let Some(pipe) = &stdout {
            rustix::io::ioctl_fionbio(pipe, true).map_err(|e| cmd.io("reading", e.into()))?;
        }
        *lock(&running.stdout) = stdout;
        let handle = running.watch(pipes, cmd.input_bytes()).map_err(|e| cmd.io("watching", e))?;
        *lock(&running.reader) = Some(handle);
        Ok(running)
    }

    /// The thread that feeds stdin and keeps stderr's last lines.
    fn watch(&self, pipes: Pipes, input: Vec<u8>) -> io::Result<thread::JoinHandle<()>> {
        let (process, tail) = (Arc::clone(&self.process), Arc::clone(&self.tail));
        let mut log = Writer::open(&self.name, Output::Log, self.secrets.clone())?;
        thread::Builder::new().name(format!("read {}", self.name)).spawn(move || {
            let result = pump(&process, pipes, &input, None, None, &mut |stream, bytes| {
                lock(&tail).push(bytes);
                log.take(stream, bytes);
                std::ops::ControlFlow::Continue(())
            });
            log.finish();
            if let Err(error) = result {
                tracing::warn!(pid = process.pid(), %error, "reading stderr");
            }
        })
    }

    /// Its process id, which is also that of its group.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The command, for people.
    #[must_use]
    pub fn describe(&self) -> &str {
        &self.argv
    }

    /// Returns as soon as there is something, at most `max` bytes (and at most 1 MiB), or when
    /// `timeout` has passed.
    ///
    /// # Errors
    /// Reading fails.
    pub fn read(&self, max: usize, timeout: Duration) -> Result<Chunk, CommandError> {
        self.read_some(max.clamp(1, READ_MAX), Instant::now() + timeout).map_err(|e| self.io("reading", e))
    }

    fn read_some(&self, max: usize, deadline: Instant) -> io::Result<Chunk> {
        let mut stdout = lock(&self.stdout);
        let mut buffer = vec![0; max];
        loop {
            let Some(pipe) = stdout.as_mut() else { return Ok(Chunk { eof: true, ..Chunk::default() }) };
            // Asked before reading: whatever the process wrote before it ended is then in the pipe,
            // and an empty pipe afterwards means the end, even if a helper still holds it open.
            let ended = self.process.wait_exit(Some(Instant::now()))?;
            match pipe.read(&mut buffer) {
                Ok(0) => *stdout = None,
                Ok(count) => {
                    buffer.truncate(count);
                    return Ok(Chunk { stdout: buffer, eof: false });
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if ended {
                        *stdout = None;
                        continue;
                    }
                    if Instant::now() >= deadline {
                        return Ok(Chunk::default());
                    }
                    let mut fds = [
                        PollFd::new(pipe, PollFlags::IN),
                        PollFd::from_borrowed_fd(self.process.exit_fd(), PollFlags::IN),
                    ];
                    wait_for(&mut fds, Some(deadline))?;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Waits for its end, at most `limit` (`None`: for ever). `Ok(None)`: it runs still. What it
    /// prints meanwhile stays in the pipe, so read to the end first: it may be waiting for that.
    ///
    /// # Errors
    /// Its status was lost.
    pub fn wait(&self, limit: Option<Duration>) -> Result<Option<ExitStatus>, CommandError> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let status = self.process.wait(deadline).map_err(|e| self.io("waiting for", e))?;
        if status.is_some() {
            self.join();
        }
        Ok(status)
    }

    /// As [`Self::wait`] without limit; anything but status 0 is an error with stderr's last lines.
    ///
    /// # Errors
    /// [`CommandError::Failed`].
    pub fn finish(&self) -> Result<(), CommandError> {
        match self.wait(None)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(CommandError::Failed { argv: self.argv.clone(), status, tail: self.stderr_tail() }),
            None => Err(self.io("waiting for", io::Error::other("it has no exit status"))),
        }
    }

    /// Asks it to end, then kills its group.
    ///
    /// # Errors
    /// It does not die: it hangs in the kernel.
    pub fn stop(&self, signal: Signal, grace: Duration) -> Result<ExitStatus, CommandError> {
        let status = self.process.stop(signal, grace).map_err(|e| self.io("stopping", e))?;
        self.join();
        Ok(status)
    }

    /// The last lines of stderr, secrets masked. Complete after [`Self::wait`].
    #[must_use]
    pub fn stderr_tail(&self) -> String {
        lock(&self.tail).text(&self.secrets)
    }

    /// Waits until stderr was read to its end.
    fn join(&self) {
        if let Some(reader) = lock(&self.reader).take()
            && reader.join().is_err()
        {
            tracing::warn!(name = self.name, "the thread that reads stderr panicked");
        }
    }

    fn io(&self, doing: &'static str, error: io::Error) -> CommandError {
        CommandError::Io { doing, argv: self.argv.clone(), error }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its own pipe first: one that waits for us to read can then end by itself.
        *lock(&self.stdout) = None;
        if let Err(error) = self.stop(Signal::TERM, DROP_GRACE) {
            tracing::warn!(name = self.name, %error, "a process could not be stopped");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    fn start(script: &str) -> Running {
        Running::start("test", Cmd::argv(["sh", "-c", script]).expect("argv")).expect("started")
    }

    fn read_all(running: &Running) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let chunk = running.read(4096, LONG).expect("read");
            assert!(chunk.stdout.len() <= 4096);
            all.extend(chunk.stdout);
            if chunk.eof {
                return all;
            }
        }
    }

    #[test]
    fn output_comes_in_pieces_then_the_end() {
        let running = start("head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2; echo bye >&2");
        assert_eq!(read_all(&running).len(), 300_000);
        running.finish().expect("status 0");
        assert!(running.stderr_tail().ends_with("bye"));
        assert!(running.read(1, LONG).expect("again").eof);
    }

    #[test]
    fn a_read_gives_up_in_time() {
        let running = start("exec sleep 1000");
        let chunk = running.read(10, Duration::from_millis(50)).expect("read");
        assert_eq!(chunk, Chunk { stdout: vec![], eof: false });
        assert_eq!(running.wait(Some(Duration::from_millis(10))).expect("status"), None);
        running.stop(Signal::TERM, LONG).expect("stopped");
    }

    #[test]
    fn a_failure_says_why() {
        let running = start("echo partial; echo no route >&2; exit 10");
        assert_eq!(read_all(&running), b"partial\n");
        let error = running.finish().expect_err("status 10").to_string();
        assert!(error.ends_with("exited with status 10: no route"), "{error}");
    }

    #[test]
    fn a_helper_that_keeps_the_pipe_is_no_end_for_us() {
        let running = start("sleep 1000 & echo done");
        assert_eq!(read_all(&running), b"done\n");
    }

    #[test]
    fn a_process_blocked_on_output_ends_when_dropped() {
        let running = start("exec yes");
        assert!(!running.read(10, LONG).expect("read").stdout.is_empty());
        let pid = running.pid();
        drop(running);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
