//! The only types with a stable layout: an object for the plugin, one for the host, and the root that
//! makes the first. They carry names and bytes, so they need never change.
#![allow(non_camel_case_types, non_local_definitions, missing_docs, reason = "made by abi_stable's macros")]

use abi_stable::library::RootModule;
use abi_stable::sabi_types::{RRef, VersionStrings};
use abi_stable::std_types::{RBox, RResult, RSlice, RStr, RVec};
use abi_stable::{StableAbi, declare_root_module_statics, package_version_strings, sabi_trait};

/// The answer of either side: JSON, or a `PluginError` as JSON.
pub type Answer = RResult<RVec<u8>, RVec<u8>>;

/// The engine, as a plugin reaches it.
#[sabi_trait]
pub trait RawHost: Send + Sync {
    /// Calls a method of [`Host`](crate::Host).
    #[sabi(last_prefix_field)]
    fn call(&self, method: RStr<'_>, input: RSlice<'_, u8>) -> Answer;
}

/// A host that outlives one call.
pub type HostRef<'a> = RawHost_TO<'a, RRef<'a, ()>>;

/// A plugin, as the engine reaches it.
#[sabi_trait]
pub trait RawPlugin: Send + Sync {
    /// Calls a method of the plugin's trait. Never unwinds.
    #[sabi(last_prefix_field)]
    fn call(&self, method: RStr<'_>, input: RSlice<'_, u8>, host: HostRef<'_>) -> Answer;
}

/// An owned plugin.
pub type PluginBox = RawPlugin_TO<'static, RBox<()>>;

/// What `create` returns: a plugin, or why there is none (JSON of a `PluginError`).
pub type CreateResult = RResult<PluginBox, RVec<u8>>;

/// The root of a plugin library.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginRoot_Ref)))]
#[sabi(missing_field(panic))]
pub struct PluginRoot {
    /// Makes a plugin, another one at each call. Never unwinds.
    #[sabi(last_prefix_field)]
    pub create: extern "C" fn() -> CreateResult,
}

impl RootModule for PluginRoot_Ref {
    declare_root_module_statics! {PluginRoot_Ref}
    const BASE_NAME: &'static str = "systemimager_plugin";
    const NAME: &'static str = "systemimager_plugin";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}
