//! For plugins' own tests: a recorded [`Host`], whose files and tools answer what the test laid down, and the
//! suite that `systemimager plugin check` runs.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::data::{BlockDevice, BytePath, Bytes, Chunk, Exit, Level, Place, ProcessId, Progress, Spawn, ToolOutput};
use crate::error::{ErrorKind, PluginError, Result};
use crate::host::Host;

/// A host that answers from what was recorded, and records what it was told.
#[derive(Default)]
pub struct RecordedHost {
    /// Files, by absolute path; the place is not looked at.
    pub files: BTreeMap<BytePath, Bytes>,
    /// Tools' output, by `tool arg arg` (arguments as shown, joined by blanks).
    pub tools: BTreeMap<String, ToolOutput>,
    /// Disks.
    pub disks: Vec<BlockDevice>,
    /// What the next started programs print and how they end, in order.
    pub programs: Mutex<Vec<(Vec<Bytes>, Exit)>>,
    /// Programs that were started.
    pub spawned: Mutex<Vec<Spawn>>,
    /// Lines that were logged.
    pub logged: Mutex<Vec<(Level, String)>>,
    /// Progress that was reported.
    pub progressed: Mutex<Vec<Progress>>,
    /// What `cancelled` answers.
    pub cancel: std::sync::atomic::AtomicBool,
    running: Mutex<BTreeMap<u64, (Vec<Bytes>, Exit)>>,
}

impl RecordedHost {
    /// A host without anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a file.
    #[must_use]
    pub fn file(mut self, path: &str, contents: impl Into<Bytes>) -> Self {
        self.files.insert(path.into(), contents.into());
        self
    }

    /// With the output of a tool that exits 0, by its command line.
    #[must_use]
    pub fn tool(mut self, command: &str, stdout: impl Into<Bytes>) -> Self {
        self.tools.insert(command.into(), ToolOutput { stdout: stdout.into(), ..ToolOutput::default() });
        self
    }

    /// With a program that may be started next: its output in chunks, and its end.
    #[must_use]
    pub fn program(self, chunks: &[&str], exit: Exit) -> Self {
        if let Ok(mut programs) = self.programs.lock() {
            programs.push((chunks.iter().map(|chunk| Bytes::from(*chunk)).collect(), exit));
        }
        self
    }
}

/// Tries the plugin of the crate under test, with a host where nothing is, as `systemimager plugin check` does.
///
/// # Panics
/// The contract is not kept, with a line for each breach; or `declare_plugin!` was not called in this crate.
pub fn assert_conforms() {
    let registry = match crate::Registry::linked() {
        Ok(registry) => registry,
        Err(error) => panic!("{error}"),
    };
    assert!(
        !registry.all().is_empty(),
        "no plugin is here; call declare_plugin! in src/lib.rs, and this in a test there"
    );
    for plugin in registry.all() {
        let lines = crate::conformance::conformance(plugin, &RecordedHost::new());
        let failed: Vec<String> = lines.iter().filter(|line| !line.ok).map(ToString::to_string).collect();
        assert!(failed.is_empty(), "{} does not keep the contract:\n{}", plugin.name(), failed.join("\n"));
    }
}

fn no(kind: ErrorKind, what: String) -> PluginError {
    PluginError::new(kind, what)
}

fn gone<T>(_: T) -> PluginError {
    PluginError::bug("a thread of the test panicked")
}

impl Host for RecordedHost {
    fn read(&self, _: &Place, path: &BytePath) -> Result<Bytes> {
        self.files.get(path).cloned().ok_or_else(|| no(ErrorKind::NotFound, format!("{path}: no such file")))
    }

    fn list(&self, _: &Place, path: &BytePath) -> Result<Vec<BytePath>> {
        let mut prefix = path.as_bytes().to_vec();
        if !prefix.ends_with(b"/") {
            prefix.push(b'/');
        }
        let mut names: Vec<BytePath> = self
            .files
            .keys()
            .filter_map(|file| file.as_bytes().strip_prefix(prefix.as_slice()))
            .filter_map(|rest| rest.split(|byte| *byte == b'/').next())
            .map(BytePath::new)
            .collect();
        names.dedup();
        if names.is_empty() { Err(no(ErrorKind::NotFound, format!("{path}: no such directory"))) } else { Ok(names) }
    }

    fn run(&self, tool: &str, args: &[BytePath]) -> Result<ToolOutput> {
        let mut command = tool.to_owned();
        for arg in args {
            command.push(' ');
            command.push_str(&arg.to_string());
        }
        self.tools.get(&command).cloned().ok_or_else(|| no(ErrorKind::Denied, format!("not recorded: {command}")))
    }

    fn block_devices(&self) -> Result<Vec<BlockDevice>> {
        Ok(self.disks.clone())
    }

    fn log(&self, level: Level, message: &str) {
        if let Ok(mut logged) = self.logged.lock() {
            logged.push((level, message.to_owned()));
        }
    }

    fn progress(&self, progress: &Progress) {
        if let Ok(mut progressed) = self.progressed.lock() {
            progressed.push(progress.clone());
        }
    }

    fn cancelled(&self) -> bool {
        self.cancel.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn spawn(&self, program: &Spawn) -> Result<ProcessId> {
        let mut spawned = self.spawned.lock().map_err(gone)?;
        spawned.push(program.clone());
        let mut programs = self.programs.lock().map_err(gone)?;
        if programs.is_empty() {
            return Err(no(ErrorKind::Missing, "no program was recorded".into()));
        }
        let id = spawned.len() as u64;
        self.running.lock().map_err(gone)?.insert(id, programs.remove(0));
        Ok(ProcessId(id))
    }

    fn read_output(&self, process: ProcessId, _: u32) -> Result<Chunk> {
        let mut running = self.running.lock().map_err(gone)?;
        let (chunks, _) = running.get_mut(&process.0).ok_or_else(|| no(ErrorKind::NotFound, "no process".into()))?;
        if chunks.is_empty() {
            return Ok(Chunk { stdout: Bytes::default(), ended: true });
        }
        Ok(Chunk { stdout: chunks.remove(0), ended: false })
    }

    fn wait(&self, process: ProcessId) -> Result<Exit> {
        let mut running = self.running.lock().map_err(gone)?;
        running.remove(&process.0).map(|(_, exit)| exit).ok_or_else(|| no(ErrorKind::NotFound, "no process".into()))
    }

    fn stop(&self, _: ProcessId) -> Result<()> {
        Ok(())
    }
}
