//! What a plugin library says of itself before any of its code runs: a JSON text in an exported symbol,
//! whose name ends in the plugin's identifier so that several can be linked into one program.

use serde::{Deserialize, Serialize};

use crate::contract::Kind;

/// Exported symbols of the texts: `<IDENTITY_PREFIX><Kind>__<id>`.
pub const IDENTITY_PREFIX: &str = "systemimager_plugin_identity__";

/// Exported symbols of the roots, as [`IDENTITY_PREFIX`].
pub const ROOT_PREFIX: &str = "systemimager_plugin_root__";

/// The text's fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identification {
    /// Its name within its kind: `ext2`.
    pub id: String,
    /// Its kind.
    pub kind: Kind,
    /// One line for people.
    pub about: String,
    /// Version of the plugin's crate.
    pub version: String,
    /// Version of the contract it was built for.
    pub contract: String,
    /// `unwind` or `abort`: `abort` voids the guard around each call.
    pub panic: String,
    /// Architecture it was built for.
    pub arch: String,
}

/// Length of all parts together.
pub const fn length(parts: &[&str]) -> usize {
    let mut sum = 0;
    let mut index = 0;
    while index < parts.len() {
        sum += parts[index].len();
        index += 1;
    }
    sum
}

/// The parts, one after the other, as an array for a static.
///
/// # Panics
/// In constant evaluation only, if `N` is not their length.
pub const fn join<const N: usize>(parts: &[&str]) -> [u8; N] {
    let mut array = [0; N];
    let mut at = 0;
    let mut index = 0;
    while index < parts.len() {
        let bytes = parts[index].as_bytes();
        let mut byte = 0;
        while byte < bytes.len() {
            array[at] = bytes[byte];
            at += 1;
            byte += 1;
        }
        index += 1;
    }
    assert!(at == N, "N is the length of all parts");
    array
}

/// How a panic ends in the crate that expands `declare_plugin!`: the macro passes its own `cfg!`.
pub const fn panic_name(aborts: bool) -> &'static str {
    if aborts { "abort" } else { "unwind" }
}

/// The text of an array made by [`join`].
pub const fn text(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => "",
    }
}
