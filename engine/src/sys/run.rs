//! Running a program to its end: the one way to do so.
//!
//! ```no_run
//! use systemimager_engine::sys::{Cmd, Tool};
//! let table: serde_json::Value =
//!     Cmd::tool(Tool::Sfdisk).args(["--json", "/dev/sda"]).read_json()?;
//! # Ok::<(), systemimager_engine::sys::CommandError>(())
//! ```
//!
//! What holds for every run: arguments are a list, never a shell string; stdin is `/dev/null` unless
//! given; the environment is empty but for a few harmless names, `LC_ALL=C` and a `PATH` with the
//! system directories, so that a stray `RSYNC_RSH` or `MKE2FS_CONFIG` changes nothing; both outputs
//! are read at the same time, in bounded memory; an error carries the quoted arguments, the status
//! and the last lines of output; values given as secrets are shown nowhere; the program is asked to
//! end if the thread that waits for it ends.

use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::de::DeserializeOwned;

use super::calls::{Apart, BeforeExec, before_exec};
use super::command_error::CommandError;
use super::process::{Ended, Pipes, Process, pump};
use super::quote::quote_all;
use super::tail::{Lines, Secrets, Tail};
use super::tool::{self, Program, STANDARD_DIRS, Tool};

/// What stdout may hold by default before a program is stopped, bytes.
const STDOUT_LIMIT: usize = 64 * 1024 * 1024;
/// How long a program that is to be stopped may take to end.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// What is passed on of our own environment.
const INHERITED: [&str; 5] = ["HOME", "USER", "LOGNAME", "TERM", "TMPDIR"];

type Result<T> = std::result::Result<T, CommandError>;

/// Which output a piece of text came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a program reads as stdin.
#[derive(Debug, Default)]
pub enum Input {
    /// `/dev/null`.
    #[default]
    Null,
    /// These bytes, then end of file.
    Bytes(Vec<u8>),
    /// An open file, from where it stands.
    File(File),
    /// Our own stdin: for an administrator's shell.
    Inherit,
}

/// Where a program's outputs go.
#[derive(Debug, Default)]
enum Sink {
    /// To us.
    #[default]
    Captured,
    /// Stdout into a file, stderr to us.
    File(File),
    /// Both to our own.
    Inherit,
    /// Both to our stderr.
    Stderr,
}

/// What a program that ran to its end left.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code or signal.
    pub status: ExitStatus,
    /// All of stdout.
    pub stdout: Vec<u8>,
    /// The last lines of stderr, secrets masked.
    pub stderr: String,
}

/// A program to run, with everything that belongs to it. Debug shows names of variables, not values.
pub struct Cmd {
    program: Program,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    inherit_env: bool,
    secrets: Secrets,
    input: Input,
    sink: Sink,
    dir: Option<PathBuf>,
    chroot: Option<PathBuf>,
    /// Processes of its own; `true`: with the terminal.
    apart: Option<bool>,
    timeout: Option<Duration>,
    stdout_limit: usize,
    cancel: Option<Arc<AtomicBool>>,
    group: bool,
    death_signal: Option<Signal>,
}

/// Receives lines as they come.
type OnLine<'a> = &'a mut dyn FnMut(Stream, &str);

impl Cmd {
    /// Runs this program.
    #[must_use]
    pub fn new(program: impl Into<Program>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            inherit_env: false,
            secrets: Secrets::default(),
            input: Input::Null,
            sink: Sink::Captured,
            dir: None,
            chroot: None,
            apart: None,
            timeout: None,
            stdout_limit: STDOUT_LIMIT,
            cancel: None,
            group: false,
            death_signal: Some(Signal::TERM),
        }
    }

    /// Runs a registered tool.
    #[must_use]
    pub fn tool(tool: Tool) -> Self {
        Self::new(tool)
    }

    /// Runs `argv[0]` with the rest as arguments.
    ///
    /// # Errors
    /// [`CommandError::BadProgram`] for an empty list or an `argv[0]` that [`Program::named`] refuses.
    pub fn argv<A: AsRef<OsStr>>(argv: impl IntoIterator<Item = A>) -> Result<Self> {
        let mut words = argv.into_iter();
        let program = match words.next() {
            Some(name) => Program::named(name)?,
            None => Program::named("")?,
        };
        Ok(Self::new(program).args(words))
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_os_string());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_os_string()));
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_os_string(), value.as_ref().to_os_string()));
        self
    }

    /// Sets a variable whose value is shown nowhere, not even where the program itself prints it.
    #[must_use]
    pub fn env_secret(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.secrets.add(value.as_ref());
        self.env(name, value)
    }

    /// Hides this text in all output that goes to people; for secrets that travel by file or stdin.
    #[must_use]
    pub fn hide(mut self, secret: impl AsRef<OsStr>) -> Self {
        self.secrets.add(secret.as_ref());
        self
    }

    /// Passes on our whole environment (still with `LC_ALL=C`): for developer commands only.
    #[must_use]
    pub fn inherit_env(mut self) -> Self {
        self.inherit_env = true;
        self
    }

    /// Bytes to read as stdin.
    #[must_use]
    pub fn stdin_bytes(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin(Input::Bytes(bytes.into()))
    }

    /// What to read as stdin.
    #[must_use]
    pub fn stdin(mut self, input: Input) -> Self {
        self.input = input;
        self
    }

    /// Stdout goes into this file, from where it stands.
    #[must_use]
    pub fn stdout_file(mut self, file: File) -> Self {
        self.sink = Sink::File(file);
        self
    }

    /// Both outputs go where ours go: for what a person watches. Errors then quote no output.
    #[must_use]
    pub fn inherit_output(mut self) -> Self {
        self.sink = Sink::Inherit;
        self
    }

    /// Both outputs go to our stderr: for what a person watches while stdout is for programs. Errors then quote no output.
    #[must_use]
    pub fn output_to_stderr(mut self) -> Self {
        self.sink = Sink::Stderr;
        self
    }

    /// Working directory; inside the root where one is set.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Runs inside this tree (chroot(2)); the program is looked for there, in [`STANDARD_DIRS`].
    /// Only [`super::target_env`] uses it: a tree also needs /dev, /proc and the like.
    #[must_use]
    pub(super) fn chroot(mut self, root: impl Into<PathBuf>) -> Self {
        self.chroot = Some(root.into());
        self
    }

    /// Gives it a process namespace of its own, seen at `/proc` of the root that is set: all that it starts ends with it,
    /// and with us. The mount table has to be one of our own. With `terminal` that of stdin is the program's meanwhile.
    /// Only [`super::apart`] uses it.
    #[must_use]
    pub(super) fn apart(mut self, terminal: bool) -> Self {
        self.apart = Some(terminal);
        self.death_signal = Some(Signal::KILL);
        self
    }

    /// Stops it when it has not ended by then. Without this there is no limit.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// How much it may print on stdout, bytes (64 MiB unless set).
    #[must_use]
    pub fn stdout_limit(mut self, bytes: usize) -> Self {
        self.stdout_limit = bytes;
        self
    }

    /// Stops it soon (0.1 s) after this flag is set.
    #[must_use]
    pub fn cancel_when(mut self, flag: Arc<AtomicBool>) -> Self {
        self.cancel = Some(flag);
        self
    }

    /// Makes it lead a process group of its own: a stop reaches its helpers too, and Ctrl-C at a
    /// terminal reaches us alone.
    #[must_use]
    pub fn own_group(mut self) -> Self {
        self.group = true;
        self
    }

    /// Lets it live on when the thread that started it ends.
    #[must_use]
    pub fn outlive_us(mut self) -> Self {
        self.death_signal = None;
        self
    }

    /// The command for people: program and arguments, quoted, secrets masked.
    #[must_use]
    pub fn describe(&self) -> String {
        let words = quote_all(std::iter::once(self.program.name()).chain(self.args.iter().map(OsString::as_os_str)));
        match &self.chroot {
            Some(root) => format!("{} (in {})", self.secrets.mask(&words), super::quote::quote(root)),
            None => self.secrets.mask(&words),
        }
    }

    /// Runs it; anything but exit status 0 is an error.
    ///
    /// # Errors
    /// Every variant of [`CommandError`].
    pub fn run(&self) -> Result<()> {
        // Output is read so that an error can quote it, and otherwise dropped.
        self.checked(false, None).map(|_| ())
    }

    /// Runs it and hands out each line of both outputs as it comes; anything but status 0 is an error.
    /// A line ends at `\n` or `\r`.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_lines(&self, on_line: OnLine<'_>) -> Result<()> {
        self.checked(false, Some(on_line)).map(|_| ())
    }

    /// Runs it and returns stdout; anything but status 0 is an error.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn read(&self) -> Result<Vec<u8>> {
        self.checked(true, None).map(|output| output.stdout)
    }

    /// Runs it and returns stdout as text, without the last line ends.
    ///
    /// # Errors
    /// As [`Self::run`], and when the text is not UTF-8.
    pub fn read_string(&self) -> Result<String> {
        let mut text = String::from_utf8(self.read()?).map_err(|e| self.bad_output("text", &e.to_string()))?;
        text.truncate(text.trim_end_matches('\n').len());
        Ok(text)
    }

    /// Runs it and reads stdout as JSON.
    ///
    /// # Errors
    /// As [`Self::run`], and when stdout is not JSON of that shape.
    pub fn read_json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.read()?).map_err(|e| self.bad_output("JSON", &e.to_string()))
    }

    /// Runs it and returns how it ended, whatever that was.
    ///
    /// # Errors
    /// As [`Self::run`], but never [`CommandError::Failed`].
    pub fn output(&self) -> Result<Output> {
        self.execute(true, None).map(|(output, _)| output)
    }

    /// Becomes the program, in this process. Returns only if that fails.
    #[must_use]
    pub fn exec(mut self) -> CommandError {
        // There is no parent of ours between; what ours asked for stays.
        self.death_signal = None;
        match self.command() {
            Ok(mut command) => self.cannot_start(command.exec()),
            Err(error) => error,
        }
    }

    fn checked(&self, keep: bool, on_line: Option<OnLine<'_>>) -> Result<Output> {
        let (output, tail) = self.execute(keep, on_line)?;
        if output.status.success() {
            Ok(output)
        } else {
            Err(CommandError::Failed { argv: self.describe(), status: output.status, tail })
        }
    }

    /// The one place where a program is run to its end. Returns also what to quote in an error.
    fn execute(&self, keep: bool, mut on_line: Option<OnLine<'_>>) -> Result<(Output, String)> {
        let started = Instant::now();
        let (process, pipes) = self.start(matches!(self.sink, Sink::Captured))?;
        let mut seen = Seen::default();
        let mut stdout = Vec::new();
        let limit = self.stdout_limit;
        let mut sink = |stream: Stream, bytes: &[u8]| {
            seen.take(stream, bytes, &self.secrets, &mut on_line);
            if keep && stream == Stream::Stdout {
                if stdout.len() + bytes.len() > limit {
                    return ControlFlow::Break(());
                }
                stdout.extend_from_slice(bytes);
            }
            ControlFlow::Continue(())
        };
        let input = match &self.input {
            Input::Bytes(bytes) => bytes.as_slice(),
            _ => &[],
        };
        let deadline = self.timeout.map(|limit| started + limit);
        let pumped = pump(&process, pipes, input, deadline, self.cancel.as_deref(), &mut sink);
        if !matches!(pumped, Ok(Ended::Exited)) {
            process.stop(Signal::TERM, STOP_GRACE).map_err(|e| self.io("stopping", e))?;
        }
        seen.finish(&self.secrets, &mut on_line);
        let argv = || self.describe();
        match pumped.map_err(|e| self.io("reading the output of", e))? {
            Ended::Exited => {}
            Ended::TimedOut => {
                let after = self.timeout.unwrap_or_default();
                return Err(CommandError::TimedOut { argv: argv(), after, tail: seen.tail(&self.secrets) });
            }
            Ended::Cancelled => return Err(CommandError::Cancelled { argv: argv() }),
            Ended::Refused => return Err(CommandError::TooMuchOutput { argv: argv(), limit }),
        }
        let status = process
            .wait(None)
            .map_err(|e| self.io("waiting for", e))?
            .ok_or_else(|| self.io("waiting for", io::Error::other("it has no exit status")))?;
        tracing::debug!(
            command = %self.describe(), %status, seconds = started.elapsed().as_secs_f32(), "ran"
        );
        let tail = seen.tail(&self.secrets);
        Ok((Output { status, stdout, stderr: seen.stderr.text(&self.secrets) }, tail))
    }

    /// Forks and execs. `capture_stdout` is false where stdout goes elsewhere.
    pub(super) fn start(&self, capture_stdout: bool) -> Result<(Process, Pipes)> {
        let mut command = self.command()?;
        let duplicate = |file: &File| file.try_clone().map_err(|e| self.io("giving a file to", e));
        command.stdin(match &self.input {
            Input::Null => Stdio::null(),
            Input::Bytes(_) => Stdio::piped(),
            Input::File(file) => duplicate(file)?.into(),
            Input::Inherit => Stdio::inherit(),
        });
        match &self.sink {
            Sink::Inherit => {
                command.stdout(Stdio::inherit()).stderr(Stdio::inherit());
            }
            Sink::Stderr => {
                command.stdout(io::stderr()).stderr(Stdio::inherit());
            }
            Sink::File(file) => {
                command.stdout(duplicate(file)?).stderr(Stdio::piped());
            }
            Sink::Captured => {
                command.stdout(if capture_stdout { Stdio::piped() } else { Stdio::null() }).stderr(Stdio::piped());
            }
        }
        tracing::trace!(command = %self.describe(), "starting");
        let child = command.spawn().map_err(|e| self.cannot_start(e))?;
        Process::adopt(child, self.group).map_err(|e| self.io("watching", e))
    }

    #[allow(clippy::disallowed_methods, reason = "the one place that spawns")]
    fn command(&self) -> Result<Command> {
        let dirs = match &self.chroot {
            Some(_) => STANDARD_DIRS.map(PathBuf::from).to_vec(),
            None => tool::search_dirs(),
        };
        let mut command = match &self.chroot {
            // Found by the child, inside: from here an absolute symlink in the tree would lead out.
            Some(_) => Command::new(self.program.name()),
            None => Command::new(self.program.find_in(&dirs)?),
        };
        command.args(&self.args);
        if !self.inherit_env {
            command.env_clear();
            let home = if self.chroot.is_some() { None } else { Some(INHERITED) };
            for name in home.into_iter().flatten() {
                if let Some(value) = env::var_os(name) {
                    command.env(name, value);
                }
            }
        }
        if self.chroot.is_some() {
            command.env("HOME", "/root");
        }
        command.env("LC_ALL", "C").env("PATH", tool::path_value(&dirs));
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if self.group {
            command.process_group(0);
        }
        let chroot = match &self.chroot {
            Some(root) => {
                let dir = self.dir.as_deref().unwrap_or(Path::new("/"));
                Some((self.c_string(root)?, self.c_string(dir)?))
            }
            None => {
                if let Some(dir) = &self.dir {
                    command.current_dir(dir);
                }
                None
            }
        };
        let apart = match (self.apart, &self.chroot) {
            (Some(terminal), Some(root)) => {
                let proc = root.join("proc");
                Some(Apart { proc: self.c_string(&proc)?, proc_sys: self.c_string(&proc.join("sys"))?, terminal })
            }
            _ => None,
        };
        before_exec(&mut command, BeforeExec { death_signal: self.death_signal, chroot, apart });
        Ok(command)
    }

    fn cannot_start(&self, error: io::Error) -> CommandError {
        if error.kind() == io::ErrorKind::NotFound {
            if let Some(root) = &self.chroot {
                return CommandError::NotInTree { program: self.program.clone(), root: root.clone() };
            }
            if let Some(dir) = self.dir.as_deref().filter(|dir| !dir.is_dir()) {
                let why = format!("its working directory {} is not there", super::quote::quote(dir));
                return CommandError::Spawn { argv: self.describe(), error: io::Error::other(why) };
            }
        }
        CommandError::Spawn { argv: self.describe(), error }
    }

    fn c_string(&self, path: &Path) -> Result<CString> {
        CString::new(path.as_os_str().as_bytes())
            .map_err(|e| CommandError::Spawn { argv: self.describe(), error: e.into() })
    }

    fn bad_output(&self, expected: &'static str, why: &str) -> CommandError {
        CommandError::BadOutput { argv: self.describe(), expected, why: self.secrets.mask(why) }
    }

    pub(super) fn io(&self, doing: &'static str, error: io::Error) -> CommandError {
        CommandError::Io { doing, argv: self.describe(), error }
    }

    /// For processes that run on: what this type knows and they need.
    pub(super) fn input_bytes(&self) -> Vec<u8> {
        match &self.input {
            Input::Bytes(bytes) => bytes.clone(),
            _ => Vec::new(),
        }
    }

    pub(super) fn secrets(&self) -> &Secrets {
        &self.secrets
    }
}

impl fmt::Debug for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&OsStr> = self.env.iter().map(|(name, _)| name.as_os_str()).collect();
        f.debug_struct("Cmd").field("argv", &self.describe()).field("env", &names).finish_non_exhaustive()
    }
}

/// What is remembered of both outputs while they pass.
#[derive(Default)]
struct Seen {
    stdout: Tail,
    stderr: Tail,
    stdout_lines: Lines,
    stderr_lines: Lines,
}

impl Seen {
    fn take(&mut self, stream: Stream, bytes: &[u8], secrets: &Secrets, on_line: &mut Option<OnLine<'_>>) {
        let (tail, lines) = match stream {
            Stream::Stdout => (&mut self.stdout, &mut self.stdout_lines),
            Stream::Stderr => (&mut self.stderr, &mut self.stderr_lines),
        };
        tail.push(bytes);
        if let Some(on_line) = on_line {
            lines.push(bytes, &mut |line| on_line(stream, &secrets.mask(line)));
        }
    }

    fn finish(&mut self, secrets: &Secrets, on_line: &mut Option<OnLine<'_>>) {
        if let Some(on_line) = on_line {
            self.stdout_lines.flush(&mut |line| on_line(Stream::Stdout, &secrets.mask(line)));
            self.stderr_lines.flush(&mut |line| on_line(Stream::Stderr, &secrets.mask(line)));
        }
    }

    /// What an error quotes: stderr, or stdout where a program complains there.
    fn tail(&self, secrets: &Secrets) -> String {
        let stderr = self.stderr.text(secrets);
        if stderr.is_empty() { self.stdout.text(secrets) } else { stderr }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    /// Tests may use a shell; the program does not.
    fn sh(script: &str) -> Cmd {
        Cmd::argv(["sh", "-c", script]).expect("sh is a name")
    }

    #[test]
    fn results_and_messages() {
        let rows: &[(&str, Cmd, std::result::Result<&str, &str>)] = &[
            ("text", sh("printf 'a\nb\n\n'"), Ok("a\nb")),
            ("stdin is empty", sh("cat"), Ok("")),
            ("stdin bytes", sh("cat").stdin_bytes(*b"hello"), Ok("hello")),
            ("stdin not read", sh("exit 0").stdin_bytes(vec![0; 1 << 20]), Ok("")),
            ("argument with a blank", Cmd::argv(["printf", "%s", "a b"]).expect("argv"), Ok("a b")),
            ("locale", sh("echo $LC_ALL"), Ok("C")),
            ("variable", sh("echo $X").env("X", "1"), Ok("1")),
            ("directory", sh("pwd").dir("/usr"), Ok("/usr")),
            ("status", sh("exit 3"), Err("sh -c 'exit 3' exited with status 3")),
            ("signal", sh("kill -9 $$"), Err("sh -c 'kill -9 $$' was killed by signal 9")),
            (
                "one line of stderr",
                sh("echo no >&2; exit 1"),
                Err("sh -c 'echo no >&2; exit 1' exited with status 1: no"),
            ),
            (
                "two lines",
                sh("echo a >&2; echo b >&2; exit 1"),
                Err("sh -c 'echo a >&2; echo b >&2; exit 1' exited with status 1:\n  a\n  b"),
            ),
            ("complains on stdout", sh("echo no; exit 1"), Err("sh -c 'echo no; exit 1' exited with status 1: no")),
            (
                "secret in the output",
                sh("echo key $KEY >&2; exit 1").env_secret("KEY", "hunter2"),
                Err("sh -c 'echo key $KEY >&2; exit 1' exited with status 1: key ***"),
            ),
            ("too much", sh("yes").stdout_limit(1000), Err("sh -c yes printed more than 1000 bytes and was stopped")),
            (
                "too long",
                sh("echo here >&2; exec sleep 100").timeout(Duration::from_millis(300)),
                Err("sh -c 'echo here >&2; exec sleep 100' was stopped after 0.3 seconds without an end: here"),
            ),
            (
                "not text",
                sh("printf '\\377'"),
                Err(
                    "sh -c $'printf \\'\\\\377\\'' printed what cannot be read as text: invalid utf-8 sequence of 1 bytes from index 0",
                ),
            ),
            (
                "no directory",
                sh("pwd").dir("/no/such"),
                Err("starting sh -c pwd: its working directory /no/such is not there"),
            ),
            (
                "no file",
                Cmd::argv(["/no/such/program"]).expect("argv"),
                Err("/no/such/program is not an executable file"),
            ),
        ];
        for (name, cmd, expected) in rows {
            let got = cmd.read_string().map_err(|e| e.to_string());
            assert_eq!(got.as_deref().map_err(String::as_str), *expected, "{name}");
        }
    }

    #[test]
    fn both_outputs_at_once_without_deadlock() {
        // More than a pipe holds, on both, while as much is fed in.
        let script = "cat & head -c 3000000 /dev/zero >&2; wait";
        let output = sh(script).stdin_bytes(vec![b'x'; 3_000_000]).output().expect("ran");
        // A background process of a shell without job control reads /dev/null: only the outputs matter.
        assert!(output.status.success());
        let output = sh("head -c 3000000 /dev/zero >&2; cat").stdin_bytes(vec![b'x'; 3_000_000]);
        assert_eq!(output.read().expect("ran").len(), 3_000_000);
    }

    #[test]
    fn a_background_process_does_not_hold_us() {
        let started = Instant::now();
        assert_eq!(sh("sleep 30 & echo done").own_group().read_string().expect("ran"), "done");
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_timeout_ends_the_whole_group() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let pid = dir.path().join("pid");
        let error = sh("sleep 1000 & echo $! > pid; wait")
            .dir(dir.path())
            .own_group()
            .timeout(Duration::from_millis(300))
            .run()
            .expect_err("too long");
        assert!(matches!(error, CommandError::TimedOut { .. }), "{error}");
        let helper = std::fs::read_to_string(&pid).expect("pid was written");
        assert!(crate::sys::process::dies(helper.trim()), "the helper lives on");
    }

    #[test]
    fn a_flag_stops_it() {
        let flag = Arc::new(AtomicBool::new(false));
        let cmd = sh("sleep 100").own_group().cancel_when(Arc::clone(&flag));
        let error = std::thread::scope(|scope| {
            let run = scope.spawn(|| cmd.run());
            flag.store(true, Ordering::Relaxed);
            run.join().expect("no panic").expect_err("cancelled")
        });
        assert_eq!(error.to_string(), "sh -c 'sleep 100' was stopped on request");
    }

    #[test]
    fn environment_is_small_and_secrets_stay_hidden() {
        let cmd = Cmd::argv(["env"]).expect("argv").env_secret("RSYNC_PASSWORD", "hunter2");
        let text = cmd.read_string().expect("ran");
        for line in text.lines() {
            let name = line.split('=').next().unwrap_or_default();
            let known = INHERITED.contains(&name) || ["LC_ALL", "PATH", "RSYNC_PASSWORD"].contains(&name);
            assert!(known, "{line}");
        }
        assert!(text.contains("RSYNC_PASSWORD=hunter2"));
        assert!(!format!("{cmd:?}").contains("hunter2"));
        let hidden = sh("true hunter2").hide("hunter2");
        assert_eq!(hidden.describe(), "sh -c 'true ***'");
    }

    #[test]
    fn lines_come_as_they_are_printed() {
        let mut seen = Vec::new();
        sh("echo a; printf '10%%\r20%%\r'; printf end")
            .run_lines(&mut |stream, line| seen.push((stream, line.to_owned())))
            .expect("ran");
        let expected = ["a", "10%", "20%", "end"].map(|l| (Stream::Stdout, l.to_owned()));
        assert_eq!(seen, expected);
    }

    #[test]
    fn json() {
        let list: Vec<u32> = sh("echo '[1,2]'").read_json().expect("json");
        assert_eq!(list, [1, 2]);
        let error = sh("echo '[1,'").read_json::<Vec<u32>>().expect_err("broken").to_string();
        assert!(error.contains("printed what cannot be read as JSON: EOF while parsing"), "{error}");
    }

    #[test]
    fn stdout_into_a_file() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        sh("echo data").stdout_file(file.reopen().expect("reopen")).run().expect("ran");
        assert_eq!(std::fs::read(file.path()).expect("read"), b"data\n");
    }
}
