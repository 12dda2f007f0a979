//! A tree of files changed from outside: the target of an install, the TFTP root of the server.
//!
//! Carries out the steps that are about files; nothing here runs programs or touches disks.

pub mod edit;
mod inside;
pub mod pattern;

use anyhow::{Context, Result};
use systemimager_core::{Action, BytePath, Contents};

pub use inside::Inside;

/// Carries out an action that is about files. `false`: it is about something else, nothing was done.
///
/// # Errors
/// Why the file could not be changed.
pub fn apply(inside: &Inside, action: &Action) -> Result<bool> {
    match action {
        Action::MakeDirectory { path, mode } => inside.make_directory(path, *mode)?,
        Action::WriteFile { path, contents, mode } => {
            let bytes = match contents {
                Contents::Bytes(bytes) => bytes.0.clone(),
                Contents::CopyOf(source) => {
                    std::fs::read(source.as_path()).with_context(|| format!("reading {source}"))?
                }
            };
            inside.write(path, &bytes, *mode)?;
        }
        Action::SetLine { path, prefix, line } => change(inside, path, |text| edit::set_line(text, prefix, line))?,
        Action::SetBlock { path, begin, end, block } => {
            change(inside, path, |text| edit::set_block(text, begin, end, block))?;
        }
        Action::Remove { path } => inside.remove(path)?,
        Action::Symlink { path, to } => inside.symlink(path, to)?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn change(inside: &Inside, path: &BytePath, change: impl FnOnce(&[u8]) -> Vec<u8>) -> Result<()> {
    let old = inside.read(path)?;
    let new = change(old.as_deref().unwrap_or_default());
    // What is as it should be keeps its times.
    if old.as_deref() == Some(new.as_slice()) {
        return Ok(());
    }
    inside.write(path, &new, 0o644)
}
