//! What this program starts itself as, which is no command: nobody types it, and it has no options.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use systemimager_core::Registry;
use systemimager_engine::{door, helper};

/// If the program was called as one of them, runs it to its end.
pub fn run() -> Option<ExitCode> {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    door::run(&words).or_else(|| helper::run(&words, load, || Ok(Registry::linked()?)))
}

#[cfg(feature = "loader")]
fn load(registry: &mut Registry, file: &Path) -> Result<()> {
    Ok(systemimager_core::loader::load_file(registry, file).map(drop)?)
}

#[cfg(not(feature = "loader"))]
fn load(_: &mut Registry, file: &Path) -> Result<()> {
    anyhow::bail!("{} is a file, and this program has its plugins linked in", file.display())
}
