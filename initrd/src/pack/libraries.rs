//! Where the dynamic loader would find a library, without running anything of what is packed.
//!
//! The order is that of ld.so(8): the program's own run path, the cache (`ldconfig -p`), the default
//! directories. `LD_LIBRARY_PATH` is left out on purpose: it is not there in the miniature system.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use systemimager_engine::sys::{Cmd, Tool};

use super::elf::{self, Elf, Machine};

/// Directories that loaders of the distributions search by themselves.
const DEFAULT_DIRS: [&str; 8] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
];

/// A library that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The file, as the loader would open it (it may be a symbolic link).
    pub path: PathBuf,
    /// It lies where every loader looks, or where its user's own run path leads; otherwise only the
    /// cache led to it, and the miniature system has no cache.
    pub found_without_cache: bool,
}

/// Finds libraries by name.
#[derive(Debug, Default)]
pub struct Libraries {
    cache: BTreeMap<String, Vec<PathBuf>>,
}

impl Libraries {
    /// With this machine's cache. A machine without `ldconfig` has only the default directories.
    ///
    /// # Errors
    /// `ldconfig` is there and fails.
    pub fn of_this_machine() -> Result<Self> {
        let dirs = systemimager_engine::sys::tool::search_dirs();
        if systemimager_engine::sys::tool::find(Tool::Ldconfig, &dirs).is_err() {
            return Ok(Self::default());
        }
        let text = Cmd::tool(Tool::Ldconfig).arg("-p").read().context("reading the cache of libraries")?;
        Ok(Self { cache: parse_cache(&String::from_utf8_lossy(&text)) })
    }

    /// The library `name` as `user` (at `user_path`) would get it; `None` if there is none for its machine.
    ///
    /// # Errors
    /// A candidate cannot be read.
    pub fn find(&self, name: &str, user: &Elf, user_path: &Path) -> Result<Option<Found>> {
        let origin = user_path.parent().unwrap_or(Path::new("/"));
        let own = user.search.iter().filter(|dir| !dir.is_empty()).map(|dir| expand(dir, origin).join(name));
        self.first(name, own, user.machine)
    }

    /// A library that is opened by name at run time.
    ///
    /// # Errors
    /// A candidate cannot be read.
    pub fn find_for(&self, name: &str, machine: Machine) -> Result<Option<Found>> {
        self.first(name, std::iter::empty(), machine)
    }

    fn first(&self, name: &str, own: impl Iterator<Item = PathBuf>, machine: Machine) -> Result<Option<Found>> {
        if name.contains('/') {
            let path = PathBuf::from(name);
            return Ok(fits(&path, machine)?.then_some(Found { path, found_without_cache: true }));
        }
        let defaults = DEFAULT_DIRS.iter().map(|dir| Path::new(dir).join(name));
        let cached = self.cache.get(name).into_iter().flatten().cloned();
        for path in own.map(|path| (path, true)).chain(cached.map(|path| {
            let default = path.parent().is_some_and(|dir| DEFAULT_DIRS.iter().any(|known| dir == Path::new(known)));
            (path, default)
        })) {
            if fits(&path.0, machine)? {
                return Ok(Some(Found { path: path.0, found_without_cache: path.1 }));
            }
        }
        for path in defaults {
            if fits(&path, machine)? {
                return Ok(Some(Found { path, found_without_cache: true }));
            }
        }
        Ok(None)
    }
}

fn fits(path: &Path, machine: Machine) -> Result<bool> {
    if !path.is_file() {
        return Ok(false);
    }
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    // A linker script or a broken file of that name is passed over, as the loader does.
    Ok(elf::parse(&bytes).ok().flatten().is_some_and(|elf| elf.machine == machine))
}

fn expand(dir: &str, origin: &Path) -> PathBuf {
    let origin = origin.to_string_lossy();
    PathBuf::from(dir.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin))
}

/// Lines `\tlibz.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libz.so.1`. Those for one kind of CPU
/// (`hwcap`) are left out: the machine to be installed may have another.
pub(crate) fn parse_cache(text: &str) -> BTreeMap<String, Vec<PathBuf>> {
    let mut cache: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for line in text.lines() {
        let Some((left, path)) = line.split_once(" => ") else { continue };
        let Some((name, flags)) = left.trim().split_once(" (") else { continue };
        if !flags.contains("hwcap") {
            cache.entry(name.to_owned()).or_default().push(path.into());
        }
    }
    cache
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_read_without_cpu_variants() {
        let text = "2 libs found in cache `/etc/ld.so.cache'\n\
            \tlibz.so.1 (libc6,x86-64, hwcap: \"x86-64-v3\") => /lib/v3/libz.so.1\n\
            \tlibz.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libz.so.1\n\
            \tlibz.so.1 (libc6) => /lib32/libz.so.1\n\
            Cache generated by: ldconfig\n";
        let cache = parse_cache(text);
        let paths = ["/lib/x86_64-linux-gnu/libz.so.1", "/lib32/libz.so.1"].map(PathBuf::from);
        assert_eq!(cache.get("libz.so.1").map(Vec::as_slice), Some(paths.as_slice()));
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn libc_is_found_for_this_program_and_for_no_other_machine() {
        let exe = std::env::current_exe().expect("our own path");
        let elf = elf::parse(&std::fs::read(&exe).expect("our own file")).expect("well-formed").expect("ELF");
        let libraries = Libraries::of_this_machine().expect("ldconfig");
        let libc = libraries.find("libc.so.6", &elf, &exe).expect("readable").expect("there");
        assert!(libc.found_without_cache, "{libc:?}");
        assert_eq!(libraries.find("libno-such.so.9", &elf, &exe).expect("readable"), None);
        let other = Machine { number: elf.machine.number.wrapping_add(1), ..elf.machine };
        assert_eq!(libraries.find_for("libc.so.6", other).expect("readable"), None);
    }

    #[test]
    fn the_run_path_comes_first() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let exe = std::env::current_exe().expect("our own path");
        std::fs::copy(&exe, dir.path().join("libc.so.6")).expect("copy");
        let mut elf = elf::parse(&std::fs::read(&exe).expect("our own file")).expect("well-formed").expect("ELF");
        elf.search = vec!["$ORIGIN/lib".into()];
        std::fs::create_dir(dir.path().join("lib")).expect("mkdir");
        std::fs::rename(dir.path().join("libc.so.6"), dir.path().join("lib/libc.so.6")).expect("rename");
        let user = dir.path().join("program");
        let found = Libraries::default().find("libc.so.6", &elf, &user).expect("readable").expect("there");
        assert_eq!(found.path, dir.path().join("lib/libc.so.6"));
    }
}
