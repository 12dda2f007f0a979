//! The engine's side of the contract's [`Host`]: what plugins may read, run and say.
//!
//! Reads stay inside the place they are asked about; only calls known to be read-only run; starting
//! programs is for transports, which the engine gives a host of their own ([`EngineHost::for_transport`]).

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use systemimager_core::data::ToolOutput;
use systemimager_core::{
    Arg, BlockDevice, BytePath, Bytes, Chunk, ErrorKind, Exit, Host, Level, Place, PluginError, ProcessId, Progress,
    Registry, Result, Secret, Spawn,
};

use crate::helper;
use crate::sys::{self, Cmd, CommandError, Program, Running, Signal, SysError, Tool};

/// Most that [`Host::read`] returns, bytes.
const READ_LIMIT: u64 = 16 << 20;
/// How long a started program may take to end by itself after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);
/// How long a read-only tool may take.
const TOOL_LIMIT: Duration = Duration::from_secs(120);

/// Takes progress as it comes.
pub type ProgressSink = Arc<dyn Fn(&Progress) + Send + Sync>;

/// Takes a log line as it comes.
pub type LogSink = Arc<dyn Fn(Level, &str) + Send + Sync>;

/// Secrets by name. `Debug` shows the names only.
#[derive(Clone, Default)]
pub struct Secrets(BTreeMap<String, Vec<u8>>);

impl Secrets {
    /// With one more.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        self.0.insert(name.into(), bytes.into());
        self
    }

    /// Whether there is one of that name.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The bytes of a secret.
    ///
    /// # Errors
    /// `Missing`: there is none of that name.
    pub fn get(&self, secret: &Secret) -> Result<&[u8]> {
        self.0
            .get(&secret.0)
            .map(Vec::as_slice)
            .ok_or_else(|| PluginError::new(ErrorKind::Missing, format!("the secret \"{}\" was not given", secret.0)))
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_set().entries(self.0.keys()).finish()
    }
}

/// The engine, as plugins see it.
#[derive(Clone)]
pub struct EngineHost {
    secrets: Secrets,
    progress: ProgressSink,
    log: LogSink,
    cancel: Arc<AtomicBool>,
    may_spawn: bool,
    /// What starts the helper of the transport that it is for.
    helper: Vec<OsString>,
    running: Arc<Mutex<HashMap<u64, Arc<Running>>>>,
    next: Arc<AtomicU64>,
}

impl EngineHost {
    /// A host with these secrets, that logs through tracing and shows no progress.
    pub fn new(secrets: Secrets) -> Self {
        Self {
            secrets,
            progress: Arc::new(|_| {}),
            log: Arc::new(trace),
            cancel: Arc::default(),
            may_spawn: false,
            helper: Vec::new(),
            running: Arc::default(),
            next: Arc::new(AtomicU64::new(1)),
        }
    }

    /// The same, showing progress.
    #[must_use]
    pub fn with_progress(mut self, sink: ProgressSink) -> Self {
        self.progress = sink;
        self
    }

    /// The same, logging elsewhere.
    #[must_use]
    pub fn with_log(mut self, sink: LogSink) -> Self {
        self.log = sink;
        self
    }

    /// The same, which this transport may start programs with.
    #[must_use]
    pub fn for_transport(&self, registry: &Registry, id: &str) -> Self {
        // One that cannot be started is told of where it is needed.
        let helper = helper::words(registry, id).unwrap_or_default();
        Self { may_spawn: true, helper, ..self.clone() }
    }

    /// The flag that cancels what runs; set it from a signal handler's thread.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancel)
    }

    /// The bytes of a secret.
    ///
    /// # Errors
    /// `Missing`: there is none of that name.
    pub fn secret(&self, secret: &Secret) -> Result<&[u8]> {
        self.secrets.get(secret)
    }

    fn process(&self, id: ProcessId) -> Result<Arc<Running>> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running
            .get(&id.0)
            .cloned()
            .ok_or_else(|| PluginError::new(ErrorKind::NotFound, format!("there is no started program {}", id.0)))
    }

    fn open(&self, place: &Place, path: &BytePath, flags: OFlags) -> Result<std::os::fd::OwnedFd> {
        let root = place.root();
        let base = rustix::fs::open(root.as_path(), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| errno("opening", &root, error))?;
        let inside = path.as_bytes();
        let inside = &inside[inside.iter().take_while(|byte| **byte == b'/').count()..];
        let inside = if inside.is_empty() { b".".as_slice() } else { inside };
        // Links in an image may point anywhere; they are followed as if the place were the root.
        rustix::fs::openat2(base, inside, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)
            .map_err(|error| errno("opening", &root.join(path.as_bytes()), error))
    }
}

fn trace(level: Level, message: &str) {
    match level {
        Level::Error => tracing::error!("{message}"),
        Level::Warn => tracing::warn!("{message}"),
        Level::Info => tracing::info!("{message}"),
        Level::Debug => tracing::debug!("{message}"),
        Level::Trace => tracing::trace!("{message}"),
    }
}

fn errno(doing: &str, path: &BytePath, error: Errno) -> PluginError {
    let kind = match error {
        Errno::NOENT | Errno::NOTDIR => ErrorKind::NotFound,
        Errno::ACCESS | Errno::PERM => ErrorKind::Denied,
        Errno::LOOP | Errno::ISDIR | Errno::NAMETOOLONG => ErrorKind::Invalid,
        Errno::NOSPC | Errno::DQUOT => ErrorKind::NoSpace,
        _ => ErrorKind::Failed,
    };
    PluginError::new(kind, format!("{doing} {path}: {error}"))
}

/// A plugin's argv as it is run outside an install, where there is nothing but text.
///
/// # Errors
/// A word of it names something of an install: which.
pub fn texts(argv: &[Arg]) -> std::result::Result<Vec<OsString>, String> {
    let text = |arg: &Arg| match arg {
        Arg::Text(text) => Ok(text.as_os_str().to_owned()),
        other => Err(format!("the transport plugin names {other:?}, which has no meaning outside an install")),
    };
    argv.iter().map(text).collect()
}

/// The contract's error of a program's.
pub fn command_error(error: &CommandError) -> PluginError {
    let kind = match error {
        CommandError::NotFound { .. } | CommandError::NotInTree { .. } => ErrorKind::Missing,
        CommandError::BadProgram { .. } => ErrorKind::Invalid,
        CommandError::Cancelled { .. } => ErrorKind::Cancelled,
        _ => ErrorKind::Failed,
    };
    PluginError::new(kind, error.to_string())
}

fn sys_error(error: &SysError) -> PluginError {
    match error {
        SysError::Command(error) => command_error(error),
        SysError::Refused(why) => PluginError::new(ErrorKind::Denied, why.clone()),
        SysError::Io { .. } => PluginError::failed(error.to_string()),
    }
}

impl Host for EngineHost {
    fn read(&self, place: &Place, path: &BytePath) -> Result<Bytes> {
        use std::io::Read as _;
        // A fifo must not block the reader: NONBLOCK, then the type is looked at.
        let file = std::fs::File::from(self.open(place, path, OFlags::RDONLY | OFlags::NONBLOCK)?);
        let failed = |error: std::io::Error| PluginError::failed(format!("reading {path}: {error}"));
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(PluginError::invalid(format!("{path} is not a regular file")));
        }
        let mut bytes = Vec::new();
        // Files in /proc and /sys have length 0, so the limit is on what is read.
        file.take(READ_LIMIT + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > READ_LIMIT {
            return Err(PluginError::invalid(format!("{path} is larger than {} MiB", READ_LIMIT >> 20)));
        }
        Ok(bytes.into())
    }

    fn list(&self, place: &Place, path: &BytePath) -> Result<Vec<BytePath>> {
        let dir = self.open(place, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let entries = rustix::fs::Dir::new(dir).map_err(|error| errno("listing", path, error))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| errno("listing", path, error))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(BytePath::new(name));
            }
        }
        names.sort();
        Ok(names)
    }

    fn run(&self, tool: &str, args: &[BytePath]) -> Result<ToolOutput> {
        let registered = Tool::by_name(tool).ok_or_else(|| {
            PluginError::new(ErrorKind::Denied, format!("{tool} is not a registered tool; a probe may not run it"))
        })?;
        sys::read_only::read_only_allowed(registered, args).map_err(|error| sys_error(&error))?;
        let cmd = Cmd::tool(registered)
            .args(args)
            .timeout(TOOL_LIMIT)
            .stdout_limit(READ_LIMIT as usize)
            .cancel_when(self.cancel_flag());
        let output = cmd.output().map_err(|error| command_error(&error))?;
        let stderr = output.stderr;
        match output.status.code() {
            Some(0) => Ok(ToolOutput { code: 0, stdout: output.stdout.into(), stderr }),
            code => Err(PluginError::failed(format!(
                "{} {}: {}",
                cmd.describe(),
                sys::command_error::ended(output.status),
                stderr.trim()
            ))
            .with("exit", code.map_or_else(|| "signal".to_owned(), |code| code.to_string()))),
        }
    }

    fn block_devices(&self) -> Result<Vec<BlockDevice>> {
        crate::hardware::block_devices().map_err(|error| PluginError::failed(format!("{error:#}")))
    }

    fn log(&self, level: Level, message: &str) {
        (self.log)(level, message);
    }

    fn progress(&self, progress: &Progress) {
        (self.progress)(progress);
    }

    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    fn spawn(&self, program: &Spawn) -> Result<ProcessId> {
        if !self.may_spawn {
            return Err(PluginError::new(ErrorKind::Denied, "only a transport may start programs"));
        }
        let mut words = texts(&program.argv).map_err(PluginError::invalid)?;
        helper::stand_for_self(&mut words, &self.helper);
        let mut words = words.into_iter();
        let name = words.next().ok_or_else(|| PluginError::invalid("a program without argv"))?;
        let named = Program::named(&name).map_err(|error| command_error(&error))?;
        let mut cmd = Cmd::new(named).args(words);
        for (key, value) in &program.env {
            cmd = cmd.env(key, value);
        }
        for (key, secret) in &program.secret_env {
            cmd = cmd.env_secret(key, std::ffi::OsStr::from_bytes(self.secrets.get(secret)?));
        }
        for line in &program.helpers {
            let value = helper::line(&self.helper, &line.words)
                .map_err(|error| PluginError::invalid(format!("the program of {}: {error:#}", line.env)))?;
            cmd = cmd.env(&line.env, value);
        }
        if let Some(stdin) = &program.stdin {
            cmd = cmd.stdin_bytes(stdin.0.clone());
        }
        if let Some(dir) = &program.cwd {
            cmd = cmd.dir(dir.as_path());
        }
        let running = Running::start(&name.to_string_lossy(), cmd).map_err(|error| command_error(&error))?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::new(running));
        Ok(ProcessId(id))
    }

    fn read_output(&self, process: ProcessId, timeout_ms: u32) -> Result<Chunk> {
        let chunk = self
            .process(process)?
            .read(64 << 10, Duration::from_millis(timeout_ms.into()))
            .map_err(|error| command_error(&error))?;
        Ok(Chunk { stdout: chunk.stdout.into(), ended: chunk.eof })
    }

    fn wait(&self, process: ProcessId) -> Result<Exit> {
        let running = self.process(process)?;
        let status = running.wait(None).map_err(|error| command_error(&error))?;
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&process.0);
        Ok(Exit {
            code: status.and_then(|status| status.code()),
            signal: status.and_then(|status| status.signal()),
            stderr: running.stderr_tail(),
        })
    }

    fn stop(&self, process: ProcessId) -> Result<()> {
        self.process(process)?.stop(Signal::TERM, GRACE).map(drop).map_err(|error| command_error(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stay_in_their_place() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/inside"), "in").unwrap();
        std::os::unix::fs::symlink("/etc/inside", dir.path().join("absolute")).unwrap();
        std::os::unix::fs::symlink("../../../etc/passwd", dir.path().join("etc/climb")).unwrap();
        let host = EngineHost::new(Secrets::default());
        let place = Place::Tree { root: dir.path().into() };
        assert_eq!(&*host.read(&place, &"/absolute".into()).unwrap(), b"in");
        for (name, path, kind) in [
            ("a link that climbs out", "/etc/climb", ErrorKind::NotFound),
            ("dots", "/../../etc/passwd", ErrorKind::NotFound),
            ("a directory", "/etc", ErrorKind::Invalid),
            ("absent", "/x", ErrorKind::NotFound),
        ] {
            assert_eq!(host.read(&place, &path.into()).unwrap_err().kind, kind, "{name}");
        }
        assert_eq!(host.list(&place, &"/etc".into()).unwrap(), vec![BytePath::from("climb"), BytePath::from("inside")]);
    }

    #[test]
    fn only_what_reads_is_run_and_only_transports_start() {
        let host = EngineHost::new(Secrets::default());
        for (tool, args) in
            [("sfdisk", vec!["--delete", "/dev/x"]), ("rm", vec!["-rf", "/x"]), ("mkswap", vec!["/dev/x"])]
        {
            let args: Vec<BytePath> = args.into_iter().map(BytePath::from).collect();
            assert_eq!(host.run(tool, &args).unwrap_err().kind, ErrorKind::Denied, "{tool}");
        }
        let echo = Spawn { argv: Arg::words(["echo", "hi"]), ..Spawn::default() };
        assert_eq!(host.spawn(&echo).unwrap_err().kind, ErrorKind::Denied);
        let host = host.for_transport(&Registry::default(), "none");
        let id = host.spawn(&echo).unwrap();
        let mut out = Vec::new();
        loop {
            let chunk = host.read_output(id, 1000).unwrap();
            out.extend_from_slice(&chunk.stdout);
            if chunk.ended {
                break;
            }
        }
        assert_eq!(out, b"hi\n");
        assert_eq!(host.wait(id).unwrap().code, Some(0));
        assert_eq!(host.wait(id).unwrap_err().kind, ErrorKind::NotFound);
    }
}
