//! How long loading all plugins of a directory takes, or a bare dlopen of each: for `cargo xtask bench load`.
//!
//! Prints nanoseconds. Each way needs a process of its own: a library is opened for the first time only once.
#![allow(unsafe_code, reason = "opens libraries without the loader, to compare with it")]

use std::path::PathBuf;
use std::time::Instant;

use systemimager_core::{Registry, loader};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(what), Some(dir)) = (args.next(), args.next()) else {
        return Err("name a way (dlopen or load) and a directory of plugins".into());
    };
    let dir = PathBuf::from(dir);
    let nanoseconds = match what.to_str() {
        Some("dlopen") => {
            let files: std::io::Result<Vec<PathBuf>> = std::fs::read_dir(&dir)?.map(|it| Ok(it?.path())).collect();
            let mut files = files?;
            files.sort();
            let begun = Instant::now();
            for file in files {
                // SAFETY: the plugins' constructors only register them; they are never closed.
                std::mem::forget(unsafe { libloading::Library::new(file) }?);
            }
            begun.elapsed().as_nanos()
        }
        Some("load") => {
            let mut registry = Registry::default();
            let begun = Instant::now();
            for (path, result) in loader::load_dir(&mut registry, &dir) {
                result.map_err(|error| format!("{}: {error}", path.display()))?;
            }
            begun.elapsed().as_nanos()
        }
        _ => return Err("the way is dlopen or load".into()),
    };
    println!("{nanoseconds}");
    Ok(())
}
