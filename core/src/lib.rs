//! The contract between SystemImager and its plugins.
//!
//! Five traits ([`contract`]) answer what a transport, a file system, a partitioner, a boot loader
//! and a host identity are; plain data types ([`data`]) are what they exchange; [`abi`] carries both
//! across a shared-object boundary. A plugin *probes* (reads, through [`Host`]) and *plans* (returns
//! [`Step`]s); the engine executes. Only a transport moves bytes itself, and that through [`Host`] too.
//!
//! This crate is versioned apart from the rest: a breaking change here breaks every site's plugins.
//! It must not spawn, mount or open anything outside the loader, and must not know any plugin by name.

// `declare_plugin!` names this crate by its public name, also from its own tests.
extern crate self as systemimager_core;

pub mod abi;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod contract;
pub mod data;
pub mod error;
pub mod host;
pub mod left_out;
#[cfg(feature = "loader")]
pub mod loader;
mod plugin;
pub mod registry;
#[cfg(feature = "testing")]
pub mod testing;

pub use contract::{Bootloader, FileSystem, HostIdentity, Kind, Partitioner, Transport};
pub use data::*;
pub use error::{ErrorKind, PluginError, Result};
pub use host::Host;
pub use registry::Registry;

/// The version of the contract: this crate's own.
pub const CONTRACT_VERSION: &str = env!("CARGO_PKG_VERSION");
