//! One long-running child, such as a daemon: its output is watched, it is stopped when dropped.
//!
//! The child leads a process group of its own, and gets SIGTERM when **the thread that spawned it**
//! ends (PDEATHSIG is tied to the thread, not to the process). So spawn from a thread that lives as
//! long as the child is needed; [`super::supervisor`] is that thread for most uses.
//!
//! Programs that end by themselves soon belong to [`super::run`].

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::command_error::CommandError;
use super::process::{Pipes, Process, pump};
use super::run::{Cmd, Stream};
use super::tail::{Lines, Secrets, Tail};

/// How long a dropped child may take to end by itself.
const DROP_GRACE: Duration = Duration::from_secs(2);

/// Takes a child's lines, one a call, in a thread of its own.
pub type LineSink = Box<dyn FnMut(Stream, &str) + Send>;

/// Where a child's output goes; secrets are masked on every way, and the last lines are always kept.
#[derive(Default)]
pub enum Output {
    /// To the program's log, a line an event.
    #[default]
    Log,
    /// Appended to this file.
    File(PathBuf),
    /// To this function, a line a call, from another thread.
    Lines(LineSink),
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Log => f.write_str("Log"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Lines(_) => f.write_str("Lines(..)"),
        }
    }
}

/// A running child.
#[derive(Debug)]
pub struct Child {
    name: String,
    argv: String,
    process: Arc<Process>,
    tail: Arc<Mutex<Tail>>,
    secrets: Secrets,
    reader: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Child {
    /// Starts it. `name` is how logs and errors call it.
    ///
    /// # Errors
    /// The program is missing or cannot be started, or its log file cannot be opened.
    pub fn spawn(name: &str, cmd: Cmd, output: Output) -> Result<Self, CommandError> {
        Self::spawn_with(name, cmd, output, || {})
    }

    /// As [`Self::spawn`]; calls `ended` once the child has ended and its output was read.
    pub(super) fn spawn_with(
        name: &str,
        cmd: Cmd,
        output: Output,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<Self, CommandError> {
        let cmd = cmd.own_group();
        let secrets = cmd.secrets().clone();
        let mut writer = Writer::open(name, output, secrets.clone()).map_err(|e| cmd.io("opening the log of", e))?;
        let (process, pipes) = cmd.start(true)?;
        let process = Arc::new(process);
        let tail = Arc::new(Mutex::new(Tail::default()));
        let reader = {
            let (process, tail, input) = (Arc::clone(&process), Arc::clone(&tail), cmd.input_bytes());
            thread::Builder::new().name(format!("read {name}")).spawn(move || {
                read(&process, pipes, &input, &tail, &mut writer);
                ended();
            })
        };
        let argv = cmd.describe();
        let child = Self { name: name.to_owned(), argv, process, tail, secrets, reader: Mutex::new(None) };
        match reader {
            Ok(handle) => *child.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle),
            Err(error) => return Err(cmd.io("watching", error)), // dropping `child` stops it
        }
        tracing::debug!(name, pid = child.pid(), command = child.argv, "started");
        Ok(child)
    }

    /// How it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
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

    /// Its status, if it has ended.
    ///
    /// # Errors
    /// Its status was lost: something else in this process reaps children.
    pub fn try_wait(&self) -> Result<Option<ExitStatus>, CommandError> {
        self.process.try_status().map_err(|e| self.io("waiting for", e))
    }

    /// Waits at most this long. `None`: it runs still.
    ///
    /// # Errors
    /// As [`Self::try_wait`].
    pub fn wait_timeout(&self, limit: Duration) -> Result<Option<ExitStatus>, CommandError> {
        self.process.wait(Some(Instant::now() + limit)).map_err(|e| self.io("waiting for", e))
    }

    /// Sends a signal to its whole group; nothing happens once it has ended.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn signal(&self, signal: Signal) -> Result<(), CommandError> {
        self.process.signal(signal).map_err(|e| self.io("signalling", e))
    }

    /// Asks it to end with `signal`, waits for `grace`, then kills its whole group.
    ///
    /// # Errors
    /// It does not die: it hangs in the kernel.
    pub fn stop(&self, signal: Signal, grace: Duration) -> Result<ExitStatus, CommandError> {
        let status = self.process.stop(signal, grace).map_err(|e| self.io("stopping", e))?;
        if let Some(reader) = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // It may be the reader itself that stops us, from its line callback.
            if reader.thread().id() != thread::current().id() && reader.join().is_err() {
                tracing::warn!(name = self.name, "the function that takes this child's lines panicked");
            }
        }
        Ok(status)
    }

    /// The last lines it printed, secrets masked.
    #[must_use]
    pub fn tail(&self) -> String {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner).text(&self.secrets)
    }

    fn io(&self, doing: &'static str, error: io::Error) -> CommandError {
        CommandError::Io { doing, argv: self.argv.clone(), error }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Err(error) = self.stop(Signal::TERM, DROP_GRACE) {
            tracing::warn!(name = self.name, %error, "a child could not be stopped");
        }
    }
}

/// The reading thread's work: all output until the end.
fn read(process: &Process, pipes: Pipes, input: &[u8], tail: &Mutex<Tail>, writer: &mut Writer) {
    let result = pump(process, pipes, input, None, None, &mut |stream, bytes| {
        tail.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
        writer.take(stream, bytes);
        ControlFlow::Continue(())
    });
    writer.finish();
    if let Err(error) = result {
        tracing::warn!(pid = process.pid(), %error, "reading a child's output");
    }
}

/// Brings output to where it should go, line by line.
pub(super) struct Writer {
    name: String,
    to: To,
    secrets: Secrets,
    stdout: Lines,
    stderr: Lines,
}

enum To {
    Log,
    File(File),
    Lines(LineSink),
}

impl Writer {
    pub(super) fn open(name: &str, output: Output, secrets: Secrets) -> io::Result<Self> {
        let to = match output {
            Output::Log => To::Log,
            Output::File(path) => To::File(OpenOptions::new().create(true).append(true).open(path)?),
            Output::Lines(function) => To::Lines(function),
        };
        Ok(Self { name: name.to_owned(), to, secrets, stdout: Lines::default(), stderr: Lines::default() })
    }

    pub(super) fn take(&mut self, stream: Stream, bytes: &[u8]) {
        let lines = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        lines.push(bytes, &mut |line| self.to.line(&self.name, stream, &self.secrets.mask(line)));
    }

    pub(super) fn finish(&mut self) {
        let (to, name, secrets) = (&mut self.to, &self.name, &self.secrets);
        self.stdout.flush(&mut |line| to.line(name, Stream::Stdout, &secrets.mask(line)));
        self.stderr.flush(&mut |line| to.line(name, Stream::Stderr, &secrets.mask(line)));
    }
}

impl To {
    fn line(&mut self, name: &str, stream: Stream, line: &str) {
        match self {
            Self::Log => tracing::info!(target: "child", name, "{line}"),
            Self::File(file) => {
                if let Err(error) = writeln!(file, "{line}") {
                    tracing::warn!(name, %error, "writing the log of a child");
                }
            }
            Self::Lines(function) => function(stream, line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn sh(script: &str) -> Cmd {
        Cmd::argv(["sh", "-c", script]).expect("sh is a name")
    }

    #[test]
    fn lives_until_stopped() {
        let (send, lines) = mpsc::channel();
        let output = Output::Lines(Box::new(move |_, line| {
            let _ = send.send(line.to_owned());
        }));
        let child = Child::spawn("sleeper", sh("echo ready; exec sleep 1000"), output).expect("started");
        assert_eq!(lines.recv_timeout(Duration::from_secs(10)).as_deref(), Ok("ready"));
        assert_eq!(child.try_wait().expect("status"), None);
        assert_eq!(child.wait_timeout(Duration::from_millis(20)).expect("status"), None);
        let status = child.stop(Signal::TERM, Duration::from_secs(10)).expect("stopped");
        assert_eq!(super::super::command_error::ended(status), "was killed by signal 15");
        assert_eq!(child.tail(), "ready");
        // Once reaped, nothing is signalled any more.
        child.signal(Signal::KILL).expect("no-op");
        assert_eq!(child.stop(Signal::TERM, Duration::ZERO).expect("again"), status);
    }

    #[test]
    fn a_stubborn_child_is_killed_with_its_helpers() {
        let script = "trap '' TERM; sleep 1000 & echo $!; while :; do sleep 1000; done";
        let (send, lines) = mpsc::channel();
        let output = Output::Lines(Box::new(move |_, line| {
            let _ = send.send(line.to_owned());
        }));
        let child = Child::spawn("stubborn", sh(script), output).expect("started");
        let helper = lines.recv_timeout(Duration::from_secs(10)).expect("a line");
        let status = child.stop(Signal::TERM, Duration::from_millis(100)).expect("killed");
        assert_eq!(super::super::command_error::ended(status), "was killed by signal 9");
        assert!(super::super::process::dies(&helper), "the helper lives on");
    }

    #[test]
    fn the_log_file_holds_both_outputs_without_secrets() {
        let log = tempfile::NamedTempFile::new().expect("temporary file");
        let cmd = sh("echo out; echo err $KEY >&2; printf rest").env_secret("KEY", "hunter2");
        let child = Child::spawn("talker", cmd, Output::File(log.path().into())).expect("started");
        assert!(child.wait_timeout(Duration::from_secs(10)).expect("status").is_some());
        child.stop(Signal::TERM, Duration::ZERO).expect("already ended");
        let text = std::fs::read_to_string(log.path()).expect("log");
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["err ***", "out", "rest"]);
    }

    #[test]
    fn dropping_stops_it() {
        let child = Child::spawn("sleeper", sh("exec sleep 1000"), Output::Log).expect("started");
        let pid = child.pid();
        drop(child);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn ends_with_the_thread_that_started_it() {
        let (send, receive) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let child = Child::spawn("orphan", sh("exec sleep 1000"), Output::Log).expect("started");
            send.send(child).expect("sent");
        });
        let child = receive.recv().expect("child");
        thread.join().expect("no panic");
        let status = child.wait_timeout(Duration::from_secs(10)).expect("status").expect("ended");
        assert_eq!(super::super::command_error::ended(status), "was killed by signal 15");
    }
}
