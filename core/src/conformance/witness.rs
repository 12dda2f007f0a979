//! The host that a plugin under test sees: it reads like the real one, starts nothing, and remembers what it
//! was asked.

use std::sync::{Mutex, PoisonError};

use crate::data::{BlockDevice, BytePath, Bytes, Chunk, Exit, Level, Place, ProcessId, Progress, Spawn, ToolOutput};
use crate::error::{ErrorKind, PluginError, Result};
use crate::host::Host;

/// A host behind which another one answers.
pub(super) struct Witness<'a> {
    host: &'a dyn Host,
    asked: Mutex<Vec<String>>,
    spawned: Mutex<Vec<Spawn>>,
}

impl<'a> Witness<'a> {
    pub(super) fn new(host: &'a dyn Host) -> Self {
        Self { host, asked: Mutex::default(), spawned: Mutex::default() }
    }

    /// What was read, and what would have been started.
    pub(super) fn testimony(self) -> (Vec<String>, Vec<Spawn>) {
        let asked = self.asked.into_inner().unwrap_or_else(PoisonError::into_inner);
        (asked, self.spawned.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, what: String) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

fn no_process<T>() -> Result<T> {
    Err(PluginError::new(ErrorKind::NotFound, "no program was started"))
}

impl Host for Witness<'_> {
    fn read(&self, place: &Place, path: &BytePath) -> Result<Bytes> {
        self.note(format!("the file {path}"));
        self.host.read(place, path)
    }

    fn list(&self, place: &Place, path: &BytePath) -> Result<Vec<BytePath>> {
        self.note(format!("the directory {path}"));
        self.host.list(place, path)
    }

    fn run(&self, tool: &str, args: &[BytePath]) -> Result<ToolOutput> {
        self.note(format!("the output of {tool}"));
        self.host.run(tool, args)
    }

    fn block_devices(&self) -> Result<Vec<BlockDevice>> {
        self.note("the machine's disks".into());
        self.host.block_devices()
    }

    fn log(&self, level: Level, message: &str) {
        self.host.log(level, message);
    }

    fn progress(&self, _: &Progress) {}

    fn cancelled(&self) -> bool {
        false
    }

    fn spawn(&self, program: &Spawn) -> Result<ProcessId> {
        self.spawned.lock().unwrap_or_else(PoisonError::into_inner).push(program.clone());
        Err(PluginError::new(ErrorKind::Missing, "plugin check starts no programs"))
    }

    fn read_output(&self, _: ProcessId, _: u32) -> Result<Chunk> {
        no_process()
    }

    fn wait(&self, _: ProcessId) -> Result<Exit> {
        no_process()
    }

    fn stop(&self, _: ProcessId) -> Result<()> {
        no_process()
    }
}
