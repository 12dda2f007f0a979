//! From what plugins say they need to the files that must be packed: programs with their libraries,
//! interpreters of scripts, files, libraries that are opened by name.
//!
//! Nothing is written. What is missing is named all at once, with the package that brings it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use systemimager_core::Needs;
use systemimager_engine::sys::tool::{Program, search_dirs};

use super::elf::{self, Elf, GlibcVersion, Machine};
use super::libraries::Libraries;
use super::tree::{Packed, Source};

/// Where plugins lie in the miniature system.
pub const PLUGIN_DIR: &str = "/usr/lib/systemimager/plugins";

/// Everything that these needs and these plugin files ask for, to be laid into the miniature system.
///
/// # Errors
/// Programs, libraries or files are missing: each by name, with its package where it is known. Something
/// asks for a newer glibc than the one that is packed with it.
pub fn pack_needs(needs: &[Needs], plugins: &[PathBuf]) -> Result<Packed> {
    pack_bundle(needs, plugins, &[])
}

/// The same with a site's hooks: files, where they go, and whether they run in the miniature system.
///
/// # Errors
/// As [`pack_needs`].
pub fn pack_bundle(needs: &[Needs], plugins: &[PathBuf], hooks: &[PackedHook]) -> Result<Packed> {
    let mut packer = Packer::new()?;
    for needs in needs {
        packer.needs(needs);
    }
    for plugin in plugins {
        packer.plugin(plugin);
    }
    for hook in hooks {
        packer.hook(&hook.file, &hook.to, hook.here);
    }
    packer.finish()
}

/// A hook that goes with a bundle.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PackedHook {
    /// Its file on this machine.
    pub file: PathBuf,
    /// Where it goes.
    pub to: PathBuf,
    /// It runs in the miniature system, and needs its interpreter or its libraries there.
    pub here: bool,
}

/// Collects files and what they need in turn. Faults are gathered, so that one message names all.
pub(super) struct Packer {
    packed: Packed,
    libraries: Libraries,
    dirs: Vec<PathBuf>,
    seen: BTreeSet<PathBuf>,
    machine: Option<Machine>,
    /// Real paths and the glibc they ask for.
    asks: Vec<(PathBuf, GlibcVersion)>,
    glibc: Option<GlibcVersion>,
    libc_dir: Option<PathBuf>,
    faults: Vec<String>,
}

impl Packer {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            packed: Packed::default(),
            libraries: Libraries::of_this_machine()?,
            dirs: search_dirs(),
            seen: BTreeSet::new(),
            machine: None,
            asks: Vec::new(),
            glibc: None,
            libc_dir: None,
            faults: Vec::new(),
        })
    }

    pub(super) fn needs(&mut self, needs: &Needs) {
        for program in &needs.programs {
            self.program(&program.name, &program.package);
        }
        for file in &needs.files {
            let path = file.as_path();
            let done = if path.is_dir() { self.packed.put_all(path) } else { self.file(path).map(drop) };
            self.note(done);
        }
        for library in &needs.libraries {
            self.library(library, true);
        }
    }

    /// A program by name, with its package for the message where it is missing.
    pub(super) fn program(&mut self, name: &str, package: &str) -> Option<PathBuf> {
        let found = Program::named(name).and_then(|program| program.find_in(&self.dirs));
        match found {
            Ok(path) => match self.file(&path) {
                Ok(real) => Some(real),
                Err(error) => {
                    self.note::<()>(Err(error));
                    None
                }
            },
            Err(_) => {
                self.faults.push(format!("the program {name} is not on this machine; install the package {package}"));
                None
            }
        }
    }

    /// A plugin file, into [`PLUGIN_DIR`].
    pub(super) fn plugin(&mut self, path: &Path) {
        let Some(name) = path.file_name() else {
            return self.faults.push(format!("{} is no plugin file", path.display()));
        };
        self.place(path, &Path::new(PLUGIN_DIR).join(name), 0o644);
    }

    /// A hook: with what it needs where it runs in the miniature system, alone where it runs in the installed one.
    pub(super) fn hook(&mut self, path: &Path, to: &Path, here: bool) {
        if here {
            self.place(path, to, 0o755);
        } else {
            self.packed.put(to, Source::File(path.to_path_buf()), 0o755);
        }
    }

    /// A file at another path than it has here, with the libraries it needs.
    pub(super) fn place(&mut self, from: &Path, to: &Path, mode: u32) {
        match from.canonicalize() {
            Ok(real) => {
                self.packed.put(to, Source::File(real.clone()), mode);
                let done = self.contents(&real);
                self.note(done);
            }
            Err(error) => self.faults.push(format!("reading {}: {error}", from.display())),
        }
    }

    /// A library by name; of the machine of what was packed before it.
    pub(super) fn library(&mut self, name: &str, needed: bool) {
        let machine = match self.machine.or_else(machine_of_this_program) {
            Some(machine) => machine,
            None => return self.faults.push(format!("{name}: it is not known for which machine it is to be")),
        };
        match self.libraries.find_for(name, machine) {
            Ok(Some(found)) => {
                let done = self.found_library(name, &found);
                self.note(done);
            }
            Ok(None) if needed => self
                .faults
                .push(format!("the library {name} is not on this machine; install the package that brings it")),
            Ok(None) => {}
            Err(error) => self.note::<()>(Err(error)),
        }
    }

    pub(super) fn put(&mut self, path: &str, source: Source, mode: u32) {
        self.packed.put(path, source, mode);
    }

    /// All that was collected.
    pub(super) fn finish(mut self) -> Result<Packed> {
        if let Some(packed) = &self.glibc {
            for (path, asks) in &self.asks {
                if asks > packed {
                    self.faults.push(format!(
                        "{} needs glibc {asks}, and this machine's, which is packed, is {packed}; \
                         use one that was built for an older distribution, or pack on a newer one",
                        path.display()
                    ));
                }
            }
        }
        if !self.faults.is_empty() {
            self.faults.dedup();
            bail!("what the miniature system needs cannot be packed:\n  {}", self.faults.join("\n  "));
        }
        Ok(self.packed)
    }

    fn note<T>(&mut self, done: Result<T>) {
        if let Err(error) = done {
            self.faults.push(format!("{error:#}"));
        }
    }

    fn file(&mut self, path: &Path) -> Result<PathBuf> {
        let real = self.packed.put_file(path)?;
        self.contents(&real)?;
        Ok(real)
    }

    /// What a file needs: libraries of an ELF file, the interpreter of a script.
    fn contents(&mut self, real: &Path) -> Result<()> {
        if !self.seen.insert(real.to_path_buf()) {
            return Ok(());
        }
        let bytes = std::fs::read(real).with_context(|| format!("reading {}", real.display()))?;
        if let Some(interpreter) = script_interpreter(&bytes) {
            return self
                .file(Path::new(&interpreter))
                .map(drop)
                .with_context(|| format!("{} is a script for {interpreter}", real.display()));
        }
        let Some(elf) = elf::parse(&bytes).with_context(|| format!("looking into {}", real.display()))? else {
            return Ok(());
        };
        self.machine.get_or_insert(elf.machine);
        if let Some(version) = &elf.needs_glibc {
            self.asks.push((real.to_path_buf(), version.clone()));
        }
        if let Some(version) = &elf.defines_glibc {
            self.glibc = self.glibc.take().max(Some(version.clone()));
        }
        if let Some(interpreter) = &elf.interpreter {
            self.file(Path::new(interpreter)).with_context(|| format!("packing the loader of {}", real.display()))?;
        }
        for name in &elf.needed {
            self.needed(name, &elf, real)?;
        }
        Ok(())
    }

    fn needed(&mut self, name: &str, user: &Elf, user_path: &Path) -> Result<()> {
        match self.libraries.find(name, user, user_path)? {
            Some(found) => self.found_library(name, &found),
            None => {
                self.faults
                    .push(format!("the library {name}, which {} needs, is not on this machine", user_path.display()));
                Ok(())
            }
        }
    }

    fn found_library(&mut self, name: &str, found: &super::libraries::Found) -> Result<()> {
        let real = self.file(&found.path)?;
        if name == "libc.so.6" {
            self.libc_dir = real.parent().map(Path::to_path_buf);
        }
        // Without a cache only default directories are searched: libc's is one for certain.
        if let (false, Some(dir)) = (found.found_without_cache, &self.libc_dir) {
            self.packed.put(dir.join(name), Source::Link(real), 0o777);
        }
        Ok(())
    }
}

/// The interpreter of a script's first line (execve(2)).
fn script_interpreter(bytes: &[u8]) -> Option<String> {
    let line = bytes.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let text = std::str::from_utf8(line).ok()?;
    text.split_whitespace().next().map(str::to_owned)
}

fn machine_of_this_program() -> Option<Machine> {
    let bytes = std::fs::read("/proc/self/exe").ok()?;
    elf::parse(&bytes).ok().flatten().map(|elf| elf.machine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::Program;

    #[test]
    fn a_program_comes_with_its_loader_and_libraries() {
        let needs = Needs { programs: vec![Program::new("cat", "coreutils")], ..Needs::default() };
        let packed = pack_needs(&[needs], &[]).expect("coreutils are everywhere");
        let names: Vec<String> =
            packed.entries().filter_map(|entry| Some(entry.path.file_name()?.to_string_lossy().into_owned())).collect();
        for expected in ["cat", "libc.so.6"] {
            assert!(names.iter().any(|name| name == expected), "{expected} is not among {names:?}");
        }
        assert!(names.iter().any(|name| name.starts_with("ld-linux")), "{names:?}");
        assert!(packed.entries().all(|entry| !entry.path.starts_with("/lib") && !entry.path.starts_with("/bin")));
    }

    #[test]
    fn all_that_is_missing_is_named_at_once() {
        let needs = Needs {
            programs: vec![Program::new("mkfs.nosuch", "nosuch-tools"), Program::new("cat", "coreutils")],
            files: vec!["/no/such/file".into()],
            libraries: vec!["libno-such.so.7".into()],
            ..Needs::default()
        };
        let error = pack_needs(&[needs], &["/no/such/plugin.so".into()]).expect_err("missing").to_string();
        for says in [
            "the program mkfs.nosuch is not on this machine; install the package nosuch-tools",
            "/no/such/file",
            "the library libno-such.so.7 is not on this machine",
            "reading /no/such/plugin.so",
        ] {
            assert!(error.contains(says), "{says}: {error}");
        }
    }

    #[test]
    fn a_newer_glibc_than_the_packed_one_is_refused() {
        let mut packer = Packer::new().expect("ldconfig");
        packer.program("cat", "coreutils");
        packer.asks.push(("/x/libnew.so".into(), GlibcVersion::parse("GLIBC_99.1").expect("a version")));
        let error = packer.finish().expect_err("too new").to_string();
        assert!(error.contains("/x/libnew.so needs glibc 99.1, and this machine's, which is packed, is 2."), "{error}");
    }

    #[test]
    fn a_script_brings_its_interpreter() {
        for (name, input, expected) in [
            ("plain", "#!/bin/sh\n", Some("/bin/sh")),
            ("blank and argument", "#! /usr/bin/env perl\nx", Some("/usr/bin/env")),
            ("no line end", "#!/bin/sh", Some("/bin/sh")),
            ("empty", "#!\n", None),
            ("none", "echo", None),
        ] {
            assert_eq!(script_interpreter(input.as_bytes()).as_deref(), expected, "{name}");
        }
        let dir = tempfile::tempdir().expect("temporary directory");
        let script = dir.path().join("script");
        std::fs::write(&script, "#!/no/such/shell\n").expect("write");
        let needs = Needs { files: vec![script.into()], ..Needs::default() };
        let error = pack_needs(&[needs], &[]).expect_err("no such shell").to_string();
        assert!(error.contains("is a script for /no/such/shell"), "{error}");
    }
}
