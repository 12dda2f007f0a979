//! What the engine does for a plugin. Plugins open and spawn nothing by themselves.

use crate::data::{BlockDevice, BytePath, Bytes, Chunk, Exit, Level, Place, ProcessId, Progress, Spawn, ToolOutput};
use crate::error::Result;

/// The engine's side, as a plugin sees it.
///
/// Calls may come from any thread of the plugin, are guarded, and never re-enter the plugin. A
/// long-running method polls [`Host::cancelled`] at least once a second and then ends with
/// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled). Plugins install no signal handlers and never fork.
pub trait Host: Send + Sync {
    /// The contents of a file (at most 16 MiB), `path` absolute in `place`. Symbolic links are
    /// followed inside `place` only.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Invalid` (too large, not a regular file).
    fn read(&self, place: &Place, path: &BytePath) -> Result<Bytes>;

    /// The names in a directory, sorted, without `.` and `..`.
    ///
    /// # Errors
    /// `NotFound`, `Denied`.
    fn list(&self, place: &Place, path: &BytePath) -> Result<Vec<BytePath>>;

    /// Runs a registered *read-only* tool (`sfdisk --json DEV`, `dumpe2fs -h DEV`, `blkid -p …`) on the
    /// running system.
    ///
    /// # Errors
    /// `Denied` (not registered, or these arguments are not read-only), `Missing`, `Failed` (exit not 0).
    fn run(&self, tool: &str, args: &[BytePath]) -> Result<ToolOutput>;

    /// The disks of the running machine.
    ///
    /// # Errors
    /// `Failed`.
    fn block_devices(&self) -> Result<Vec<BlockDevice>>;

    /// Says something to the log.
    fn log(&self, level: Level, message: &str);

    /// Says how far the work is; call at most a few times a second.
    fn progress(&self, progress: &Progress);

    /// The caller wants an end.
    fn cancelled(&self) -> bool;

    /// Starts a program (transports only).
    ///
    /// # Errors
    /// `Denied` (not a transport), `Missing`.
    fn spawn(&self, program: &Spawn) -> Result<ProcessId>;

    /// Waits at most `timeout_ms` for standard output of a started program.
    ///
    /// # Errors
    /// `NotFound` (no such process).
    fn read_output(&self, process: ProcessId, timeout_ms: u32) -> Result<Chunk>;

    /// Waits for the end of a started program. Its output must have been read to the end.
    ///
    /// # Errors
    /// `NotFound`.
    fn wait(&self, process: ProcessId) -> Result<Exit>;

    /// Ends a started program (SIGTERM, then SIGKILL); `wait` still has to be called.
    ///
    /// # Errors
    /// `NotFound`.
    fn stop(&self, process: ProcessId) -> Result<()>;
}

/// Runs a program to its end: `take` gets what it prints as it comes, and it is stopped when the caller wants an end. Cancellation
/// is looked at every `wait_ms`. How it ended is for the caller to judge, and so is whether [`Host::cancelled`] ended it.
///
/// # Errors
/// It cannot be started or read.
pub fn run_to_end(host: &dyn Host, program: &Spawn, wait_ms: u32, take: &mut dyn FnMut(&[u8])) -> Result<Exit> {
    let process = host.spawn(program)?;
    let mut stopped = false;
    loop {
        if host.cancelled() && !stopped {
            host.stop(process)?;
            stopped = true;
        }
        let chunk = match host.read_output(process, wait_ms) {
            Ok(chunk) => chunk,
            Err(error) => {
                // Nobody reads it any more: it must not linger on a full pipe.
                host.stop(process)?;
                host.wait(process)?;
                return Err(error);
            }
        };
        take(&chunk.stdout);
        if chunk.ended {
            return host.wait(process);
        }
    }
}

/// Reads a file that may be absent.
///
/// # Errors
/// As [`Host::read`], but absence is `Ok(None)`.
pub fn read_if_there(host: &dyn Host, place: &Place, path: &str) -> Result<Option<Bytes>> {
    match host.read(place, &path.into()) {
        Ok(contents) => Ok(Some(contents)),
        Err(error) if error.kind == crate::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
