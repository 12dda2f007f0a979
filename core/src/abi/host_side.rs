//! The host's side: reaches a loaded plugin as a [`Wire`], and answers its calls back.

use std::panic::{AssertUnwindSafe, catch_unwind};

use abi_stable::sabi_trait::TD_Opaque;
use abi_stable::sabi_types::RRef;
use abi_stable::std_types::{RErr, ROk, RSlice, RStr};

use super::plugin_side::error_json;
use super::waist::{Answer, CreateResult, PluginBox, RawHost, RawHost_TO};
use super::{decode, decode_answer, encode, panic_text};
use crate::contract::Wire;
use crate::data::{Level, ProcessId};
use crate::error::{PluginError, Result};
use crate::host::Host;

/// A plugin object behind the boundary.
pub(crate) struct Loaded {
    pub(super) plugin: PluginBox,
    pub(super) create: extern "C" fn() -> CreateResult,
}

impl Loaded {
    /// Makes one. Its library is never closed, so that it can be done again at any time.
    pub(super) fn make(create: extern "C" fn() -> CreateResult) -> Result<Self> {
        match create() {
            ROk(plugin) => Ok(Self { plugin, create }),
            RErr(json) => Err(decode_answer(&json)?),
        }
    }

    /// What makes another of the same library.
    pub(crate) fn again(&self) -> impl Fn() -> Result<Self> + Send + Sync + 'static {
        let create = self.create;
        move || Self::make(create)
    }
}

impl Wire for Loaded {
    fn call(&self, method: &str, input: &[u8], host: &dyn Host) -> Result<Vec<u8>> {
        let adapter = Adapter(host);
        let host = RawHost_TO::from_ptr(RRef::new(&adapter), TD_Opaque);
        match self.plugin.call(RStr::from(method), RSlice::from(input), host) {
            ROk(json) => Ok(json.into_vec()),
            RErr(json) => Err(decode_answer(&json)?),
        }
    }
}

struct Adapter<'a>(&'a dyn Host);

impl Adapter<'_> {
    fn dispatch(&self, method: &str, input: &[u8]) -> Result<Vec<u8>> {
        let host = self.0;
        match method {
            "read" => {
                let (place, path) = decode(input)?;
                encode(&host.read(&place, &path)?)
            }
            "list" => {
                let (place, path) = decode(input)?;
                encode(&host.list(&place, &path)?)
            }
            "run" => {
                let (tool, args): (String, Vec<_>) = decode(input)?;
                encode(&host.run(&tool, &args)?)
            }
            "block_devices" => encode(&host.block_devices()?),
            "log" => {
                let (level, message): (Level, String) = decode(input)?;
                host.log(level, &message);
                encode(&())
            }
            "progress" => {
                host.progress(&decode(input)?);
                encode(&())
            }
            "cancelled" => encode(&host.cancelled()),
            "spawn" => encode(&host.spawn(&decode(input)?)?),
            "read_output" => {
                let (process, timeout_ms): (ProcessId, u32) = decode(input)?;
                encode(&host.read_output(process, timeout_ms)?)
            }
            "wait" => encode(&host.wait(decode(input)?)?),
            "stop" => encode(&host.stop(decode(input)?)?),
            _ => Err(PluginError::unsupported(format!(
                "the host, of contract {}, has no method {method}; use a newer systemimager",
                crate::CONTRACT_VERSION
            ))),
        }
    }
}

impl RawHost for Adapter<'_> {
    fn call(&self, method: RStr<'_>, input: RSlice<'_, u8>) -> Answer {
        let result = catch_unwind(AssertUnwindSafe(|| self.dispatch(method.as_str(), input.as_slice())));
        match result {
            Ok(Ok(json)) => ROk(json.into()),
            Ok(Err(error)) => RErr(error_json(&error)),
            Err(panic) => RErr(error_json(&PluginError::failed(format!(
                "a bug in systemimager itself, in {method}: {}",
                panic_text(panic)
            )))),
        }
    }
}
