//! What the tests of the loader share: the fixtures' shared objects, damaged copies of them, hosts.
#![allow(dead_code, reason = "each test program uses a part")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use systemimager_core::{
    BlockDevice, BytePath, Bytes, Chunk, Exit, Host, Level, Place, ProcessId, Progress, Result, Spawn, ToolOutput,
};
use tempfile::TempDir;

/// The shared object of a fixture: cargo builds it beside the test program.
pub fn fixture(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.set_file_name(format!("libfixture_{name}.so"));
    assert!(path.exists(), "{} is absent; dev-dependencies were not built", path.display());
    path
}

/// Says why a test does not run, if it cannot: only root can lay down files that the loader takes.
pub fn lacks_root(test: &str) -> bool {
    let lacks = !rustix::process::geteuid().is_root();
    if lacks {
        println!("SKIPPED: {test}: only root can make files that belong to root; run it as root");
    }
    lacks
}

/// A directory that the loader trusts, whatever the umask.
pub fn trusted_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    mode(dir.path(), 0o755);
    dir
}

/// Sets permission bits.
pub fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A copy of a fixture that the loader trusts.
pub fn copy(name: &str, to: &Path) -> PathBuf {
    changed(name, to, |_| ())
}

/// A changed copy of a fixture.
pub fn changed(name: &str, to: &Path, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let mut bytes = std::fs::read(fixture(name)).unwrap();
    change(&mut bytes);
    std::fs::write(to, bytes).unwrap();
    mode(to, 0o755);
    to.to_owned()
}

/// Puts `new`, filled up with blanks, in every place of `old`; there must be one.
pub fn replace(bytes: &mut [u8], old: &str, new: &str) {
    assert!(new.len() <= old.len(), "{new:?} is longer than {old:?}");
    let new = format!("{new:width$}", width = old.len());
    let places: Vec<_> = bytes
        .windows(old.len())
        .enumerate()
        .filter(|(_, window)| *window == old.as_bytes())
        .map(|(at, _)| at)
        .collect();
    assert!(!places.is_empty(), "{old:?} is not in the file");
    for place in places {
        bytes[place..place + old.len()].copy_from_slice(new.as_bytes());
    }
}

/// A host with a bug: whatever a plugin asks for, it panics.
pub struct PanickingHost;

fn bug() -> ! {
    panic!("on purpose, in the host")
}

impl Host for PanickingHost {
    fn read(&self, _: &Place, _: &BytePath) -> Result<Bytes> {
        bug()
    }
    fn list(&self, _: &Place, _: &BytePath) -> Result<Vec<BytePath>> {
        bug()
    }
    fn run(&self, _: &str, _: &[BytePath]) -> Result<ToolOutput> {
        bug()
    }
    fn block_devices(&self) -> Result<Vec<BlockDevice>> {
        bug()
    }
    fn log(&self, _: Level, _: &str) {
        bug()
    }
    fn progress(&self, _: &Progress) {
        bug()
    }
    fn cancelled(&self) -> bool {
        bug()
    }
    fn spawn(&self, _: &Spawn) -> Result<ProcessId> {
        bug()
    }
    fn read_output(&self, _: ProcessId, _: u32) -> Result<Chunk> {
        bug()
    }
    fn wait(&self, _: ProcessId) -> Result<Exit> {
        bug()
    }
    fn stop(&self, _: ProcessId) -> Result<()> {
        bug()
    }
}
