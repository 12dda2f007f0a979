//! The plugin's side: guards every call against panics, turns JSON into typed calls, gives the plugin
//! a [`Host`] that calls back, and sends the plugin's tracing events to it.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use abi_stable::sabi_trait::TD_Opaque;
use abi_stable::std_types::{RErr, ROk, RSlice, RStr, RVec};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::waist::{Answer, CreateResult, HostRef, RawPlugin, RawPlugin_TO};
use super::{decode_answer, encode, panic_text};
use crate::contract::{
    Bootloader, FileSystem, HostIdentity, Kind, Partitioner, Transport, Wire, dispatch_bootloader, dispatch_filesystem,
    dispatch_identity, dispatch_partitioner, dispatch_transport,
};
use crate::data::{BlockDevice, BytePath, Bytes, Chunk, Exit, Level, Place, ProcessId, Progress, Spawn, ToolOutput};
use crate::error::{PluginError, Result};
use crate::host::Host;

/// A plugin of any of the five kinds.
pub enum Instance {
    /// Moves trees.
    Transport(Box<dyn Transport>),
    /// Makes and mounts file systems.
    FileSystem(Box<dyn FileSystem>),
    /// Reads and writes partition tables.
    Partitioner(Box<dyn Partitioner>),
    /// Makes machines and media boot.
    Bootloader(Box<dyn Bootloader>),
    /// Tells who a machine is.
    HostIdentity(Box<dyn HostIdentity>),
}

impl Instance {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Instance::Transport(_) => Kind::Transport,
            Instance::FileSystem(_) => Kind::FileSystem,
            Instance::Partitioner(_) => Kind::Partitioner,
            Instance::Bootloader(_) => Kind::Bootloader,
            Instance::HostIdentity(_) => Kind::HostIdentity,
        }
    }

    fn dispatch(&self, method: &str, input: &[u8], host: &dyn Host) -> Result<Vec<u8>> {
        match self {
            Instance::Transport(plugin) => dispatch_transport(&**plugin, method, input, host),
            Instance::FileSystem(plugin) => dispatch_filesystem(&**plugin, method, input, host),
            Instance::Partitioner(plugin) => dispatch_partitioner(&**plugin, method, input, host),
            Instance::Bootloader(plugin) => dispatch_bootloader(&**plugin, method, input, host),
            Instance::HostIdentity(plugin) => dispatch_identity(&**plugin, method, input, host),
        }
    }
}

/// Runs `work`; a panic becomes an error that blames the plugin.
fn guarded<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(PluginError::bug(format!("the plugin panicked in {what}: {}", panic_text(panic)))))
}

fn answer(result: Result<Vec<u8>>) -> Answer {
    match result {
        Ok(json) => ROk(json.into()),
        Err(error) => RErr(error_json(&error)),
    }
}

pub(super) fn error_json(error: &PluginError) -> RVec<u8> {
    // Strings only: it always has a JSON form.
    serde_json::to_vec(error).unwrap_or_default().into()
}

/// A plugin whose panics are errors; both forms, opened and linked, are called through it.
pub(crate) struct Guarded(Option<Instance>);

impl Guarded {
    /// Guards a plugin.
    pub(crate) fn new(instance: Instance) -> Self {
        Self(Some(instance))
    }
}

impl Wire for Guarded {
    fn call(&self, method: &str, input: &[u8], host: &dyn Host) -> Result<Vec<u8>> {
        guarded(method, || {
            self.0.as_ref().ok_or_else(|| PluginError::bug("the plugin was dropped"))?.dispatch(method, input, host)
        })
    }
}

impl RawPlugin for Guarded {
    fn call(&self, method: RStr<'_>, input: RSlice<'_, u8>, host: HostRef<'_>) -> Answer {
        let host = HostBehind(host);
        let _current = CurrentHost::enter(&host);
        answer(Wire::call(self, method.as_str(), input.as_slice(), &host))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let instance = self.0.take();
        // A panic in a plugin's Drop would otherwise end the process at the boundary.
        let _ = guarded("drop", || {
            drop(instance);
            Ok(())
        });
    }
}

/// Runs a plugin's constructor.
///
/// # Errors
/// `PluginBug` if it panics.
pub(crate) fn make_guarded(make: fn() -> Instance) -> Result<Instance> {
    guarded("its constructor", || Ok(make()))
}

/// Makes a plugin for the dynamic form.
pub fn create(make: fn() -> Instance) -> CreateResult {
    // The library has its own tracing globals; what it says goes to the host of the call under way.
    let _ = tracing::subscriber::set_global_default(Forward);
    match make_guarded(make) {
        Ok(instance) => ROk(RawPlugin_TO::from_value(Guarded::new(instance), TD_Opaque)),
        Err(error) => RErr(error_json(&error)),
    }
}

/// The host on the other side.
struct HostBehind<'a>(HostRef<'a>);

impl HostBehind<'_> {
    fn ask<I: Serialize, O: DeserializeOwned>(&self, method: &str, input: &I) -> Result<O> {
        let input = encode(input)?;
        match self.0.call(RStr::from(method), RSlice::from(input.as_slice())) {
            ROk(json) => decode_answer(&json),
            RErr(json) => Err(decode_answer(&json)?),
        }
    }
}

impl Host for HostBehind<'_> {
    fn read(&self, place: &Place, path: &BytePath) -> Result<Bytes> {
        self.ask("read", &(place, path))
    }
    fn list(&self, place: &Place, path: &BytePath) -> Result<Vec<BytePath>> {
        self.ask("list", &(place, path))
    }
    fn run(&self, tool: &str, args: &[BytePath]) -> Result<ToolOutput> {
        self.ask("run", &(tool, args))
    }
    fn block_devices(&self) -> Result<Vec<BlockDevice>> {
        self.ask("block_devices", &())
    }
    fn log(&self, level: Level, message: &str) {
        // A log line that cannot be delivered is no reason to fail.
        let _: Result<()> = self.ask("log", &(level, message));
    }
    fn progress(&self, progress: &Progress) {
        let _: Result<()> = self.ask("progress", progress);
    }
    fn cancelled(&self) -> bool {
        self.ask("cancelled", &()).unwrap_or(true)
    }
    fn spawn(&self, program: &Spawn) -> Result<ProcessId> {
        self.ask("spawn", program)
    }
    fn read_output(&self, process: ProcessId, timeout_ms: u32) -> Result<Chunk> {
        self.ask("read_output", &(process, timeout_ms))
    }
    fn wait(&self, process: ProcessId) -> Result<Exit> {
        self.ask("wait", &process)
    }
    fn stop(&self, process: ProcessId) -> Result<()> {
        self.ask("stop", &process)
    }
}

thread_local! {
    static CURRENT: Cell<Option<*const HostBehind<'static>>> = const { Cell::new(None) };
}

/// While this lives, the thread's tracing events go to one host.
struct CurrentHost(Option<*const HostBehind<'static>>);

impl CurrentHost {
    fn enter(host: &HostBehind<'_>) -> Self {
        let pointer: *const HostBehind<'_> = host;
        // Only the lifetime is erased; `drop` puts the old value back before `host` goes.
        Self(CURRENT.replace(Some(pointer.cast())))
    }
}

impl Drop for CurrentHost {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

/// Sends events to the host of the call under way; events outside a call have no listener.
struct Forward;

impl tracing::Subscriber for Forward {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let Some(host) = CURRENT.get() else { return };
        let mut text = Text(String::new());
        event.record(&mut text);
        let level = match *event.metadata().level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::INFO => Level::Info,
            tracing::Level::DEBUG => Level::Debug,
            tracing::Level::TRACE => Level::Trace,
        };
        // SAFETY: `CurrentHost` of the same thread set the pointer and clears it before the host goes.
        unsafe { &*host }.log(level, &text.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

struct Text(String);

impl tracing::field::Visit for Text {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        use std::fmt::Write as _;
        let gap = if self.0.is_empty() { "" } else { " " };
        // Writing to a String does not fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{gap}{value:?}"),
            name => write!(self.0, "{gap}{name}={value:?}"),
        };
    }
}
