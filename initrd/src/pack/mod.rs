//! Packs the miniature system: exactly what it needs, found on this machine, tried before it is used.
//!
//! - [`elf`], [`libraries`], [`needs`], [`tree`]: from needs to a set of files
//! - [`modules`], [`kernel`], [`firmware`]: from a kernel to the drivers that belong to it, and their firmware
//! - [`cpio`], [`compress`]: from a set of files to an initrd
//! - [`probe`]: whether it runs; [`build`]: all of it

pub mod base;
pub mod build;
pub mod compress;
pub mod cpio;
pub mod elf;
pub mod firmware;
pub mod fit;
pub mod kernel;
pub mod libraries;
pub mod modules;
pub mod needs;
pub mod probe;
pub mod tree;

pub use base::Contents;
pub use build::{BuildReport, BuildRequest, build};
pub use modules::Asked;
pub use needs::{PLUGIN_DIR, PackedHook, pack_bundle, pack_needs};
pub use tree::{Packed, PackedEntry, Source};
