//! From a plan's nodes to this machine's devices, and waiting until they are there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use systemimager_core::{BlockDevice, Layout, NodeName};

use crate::sys::block::partition_path;
use crate::sys::dirwatch::DirWatch;

/// How long the kernel may take to show a partition.
pub const SETTLE: Duration = Duration::from_secs(30);

/// The devices of a layout's nodes.
pub struct Nodes(BTreeMap<NodeName, PathBuf>);

impl Nodes {
    /// Disks by the plan's choice, partitions by their number, file systems by what they are on.
    pub fn new(layout: &Layout, disks: &BTreeMap<NodeName, BlockDevice>) -> Self {
        let mut nodes = BTreeMap::new();
        for disk in &layout.disks {
            let Some(device) = disks.get(&disk.node) else { continue };
            let path: PathBuf = device.path.clone().into();
            for partition in &disk.partitions {
                nodes.insert(partition.node.clone(), partition_path(&path, partition.number));
            }
            nodes.insert(disk.node.clone(), path);
        }
        for fs in &layout.filesystems {
            if let Some(path) = nodes.get(&fs.on).cloned() {
                nodes.insert(fs.node.clone(), path);
            }
        }
        Self(nodes)
    }

    /// The device of a node.
    ///
    /// # Errors
    /// The plan's layout has no such node.
    pub fn device(&self, node: &NodeName) -> Result<&Path> {
        self.0.get(node).map(PathBuf::as_path).with_context(|| format!("the plan has no node {node}"))
    }

    /// Waits until the devices of these nodes are there.
    ///
    /// # Errors
    /// One is not, within [`SETTLE`].
    pub fn settle(&self, wanted: &[NodeName]) -> Result<()> {
        let paths = wanted.iter().map(|node| self.device(node)).collect::<Result<Vec<_>>>()?;
        wait_for(&paths, SETTLE)
    }
}

/// Waits for files to appear, woken by the kernel as their directories change.
fn wait_for(paths: &[&Path], limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    let dirs: BTreeSet<&Path> = paths.iter().map(|path| path.parent().unwrap_or(Path::new("/"))).collect();
    let watch = DirWatch::new(dirs)?;
    loop {
        // Looked at after the watch is set: what appears in between is not missed.
        let Some(missing) = paths.iter().find(|path| !path.exists()) else { return Ok(()) };
        if !watch.wait(Some(deadline.saturating_duration_since(Instant::now())))? && !missing.exists() {
            bail!(
                "{} did not appear within {} s: the kernel does not see the partition; \
                 is the disk's old table in use?",
                missing.display(),
                limit.as_secs()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_what_appears_and_names_what_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let late = dir.path().join("late");
        let maker = {
            let late = late.clone();
            std::thread::spawn(move || std::fs::write(late, "").unwrap())
        };
        wait_for(&[&late], Duration::from_secs(10)).unwrap();
        maker.join().unwrap();
        let never = dir.path().join("never");
        let error = wait_for(&[&never], Duration::from_millis(20)).unwrap_err().to_string();
        assert!(error.contains("never did not appear"), "{error}");
    }
}
