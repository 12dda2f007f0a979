//! How the traits cross a shared-object boundary: a narrow waist of `#[sabi_trait]` objects that carry
//! a method's name and JSON. Authors never see it; nothing outside this folder and the loader names an
//! abi_stable type, so that the waist can be replaced.
#![allow(unsafe_code, reason = "crossing the boundary is what this module is for")]

#[cfg(feature = "loader")]
mod host_side;
mod identity;
#[cfg(feature = "loader")]
mod library;
mod plugin_side;
mod waist;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{ErrorKind, PluginError, Result};

#[cfg(feature = "loader")]
pub(crate) use host_side::Loaded;
pub use identity::{IDENTITY_PREFIX, Identification, ROOT_PREFIX};
#[cfg(feature = "loader")]
pub(crate) use library::{OpenError, open_library};
pub(crate) use plugin_side::{Guarded, make_guarded};

#[doc(hidden)]
pub mod private {
    //! What `declare_plugin!` expands to. Not part of the contract.
    pub use super::identity::{join, length, panic_name, text};
    pub use super::plugin_side::{Instance, create};
    pub use super::waist::{CreateResult, PluginRoot, PluginRoot_Ref};
    pub use abi_stable::library::{CheckTypeLayout, LibHeader, RootModuleError};
    pub use abi_stable::marker_type::ErasedPrefix;
    pub use abi_stable::prefix_type::{PrefixRef, PrefixRefTrait, WithMetadata};
    pub use abi_stable::std_types::{ROk, RResult, RStr};
    pub use inventory;
}

/// JSON of a value.
///
/// # Errors
/// `PluginBug` if it has none (a map with keys that are not strings, say).
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| PluginError::bug(format!("a value has no JSON form: {error}")))
}

/// A request from JSON.
///
/// # Errors
/// `Invalid`: it has another shape than this side knows.
pub fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| {
        PluginError::new(
            ErrorKind::Invalid,
            format!(
                "the plugin does not understand the request ({error}); it was built for contract {}",
                crate::CONTRACT_VERSION
            ),
        )
    })
}

/// A plugin's answer from JSON.
///
/// # Errors
/// `PluginBug`: it has another shape than this side knows.
pub fn decode_answer<T: DeserializeOwned>(json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| {
        PluginError::bug(format!(
            "the plugin's answer is not of the contract's shape ({error}); report it to its author"
        ))
    })
}

/// The text of a caught panic. What was thrown is leaked: its own Drop may panic, where nothing catches it.
pub(crate) fn panic_text(panic: Box<dyn std::any::Any + Send>) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into());
    std::mem::forget(panic);
    text
}
