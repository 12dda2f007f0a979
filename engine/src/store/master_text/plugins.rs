//! A master held against the plugins that are there.

use std::collections::BTreeSet;
use std::path::Path;

use systemimager_core::data::ToolOutput;
use systemimager_core::{
    BlockDevice, BytePath, Bytes, Chunk, ErrorKind, Exit, Host, ImageFacts, Kind, Level, Place, PluginError, ProcessId,
    Progress, Registry, Result, Spawn,
};
use toml_edit::Document;

use super::place::Places;
use crate::plan::making::unmakable;
use crate::store::master::{Master, NO_BOOTLOADER};

/// What the master names and no plugin is there for: `FILE:LINE:COLUMN: …`, a string for each. Empty: all are there.
/// `text` is the text that `master` was read from.
pub fn check_plugins(master: &Master, registry: &Registry, file: &Path, text: &str) -> Vec<String> {
    // `parse` has read this very text before; should it be another, the places are lost, not the faults.
    let document = Document::parse(text).unwrap_or_else(|_| Document::default());
    let places = Places::new(file, text, document.as_item());
    let mut faults = Vec::new();
    let mut wanted: Vec<(String, Kind, &str)> = master
        .transports
        .iter()
        .enumerate()
        .map(|(index, id)| (format!("transports.{index}"), Kind::Transport, id.as_str()))
        .collect();
    wanted.push(("partitioner".into(), Kind::Partitioner, &master.partitioner));
    if master.bootloader != NO_BOOTLOADER {
        wanted.push(("bootloader".into(), Kind::Bootloader, &master.bootloader));
    }
    wanted.push(("identity.plugin".into(), Kind::HostIdentity, &master.identity.plugin));
    for (keys, kind, id) in wanted {
        if let Err(error) = registry.find(kind, id) {
            faults.push(format!("{}: {error}", places.of(&keys)));
        }
    }
    let mut served: BTreeSet<String> = BTreeSet::new();
    for (id, plugin) in registry.filesystems() {
        match plugin.types(&Nothing, ()) {
            Ok(types) => served.extend(types.into_iter().map(|kind| kind.name)),
            Err(error) => {
                faults.push(format!("{}: the file-system plugin {id} does not tell its types: {error}", file.display()))
            }
        }
    }
    for (index, filesystem) in master.layout.filesystems.iter().enumerate() {
        if !served.contains(&filesystem.kind) {
            let have = if served.is_empty() {
                "none".to_owned()
            } else {
                served.iter().cloned().collect::<Vec<_>>().join(", ")
            };
            faults.push(format!(
                "{}: no plugin serves file systems of type {} (served: {have}); put the plugin that does into the \
                 plugin directory, or choose another type",
                places.of(&format!("layout.filesystem.{index}.type")),
                filesystem.kind
            ));
        }
    }
    for (index, volume) in master.layout.volumes.iter().enumerate() {
        faults.push(format!(
            "{}: {} is a {} volume, and no plugin serves volumes of that kind; lay the disks out without it",
            places.of(&format!("layout.volume.{index}.kind")),
            volume.node,
            volume.kind
        ));
    }
    faults
}

/// File systems of the master that no machine could have with its image, of which `facts` are known:
/// `FILE:LINE:COLUMN: …`, a string for each. Whether they fit a machine's disks, only a plan for that machine tells.
pub fn check_file_systems(
    master: &Master,
    facts: &ImageFacts,
    registry: &Registry,
    file: &Path,
    text: &str,
) -> Vec<String> {
    let document = Document::parse(text).unwrap_or_else(|_| Document::default());
    let places = Places::new(file, text, document.as_item());
    let refused = unmakable(master, facts, registry, &Nothing);
    refused
        .into_iter()
        .map(|(index, why)| format!("{}: {why}", places.of(&format!("layout.filesystem.{index}"))))
        .collect()
}

/// A host that has nothing: the types a plugin serves may not depend on the machine that asks.
struct Nothing;

fn nothing<T>() -> Result<T> {
    Err(PluginError::new(ErrorKind::Denied, "nothing is read or run while a master is checked"))
}

impl Host for Nothing {
    fn read(&self, _: &Place, _: &BytePath) -> Result<Bytes> {
        nothing()
    }
    fn list(&self, _: &Place, _: &BytePath) -> Result<Vec<BytePath>> {
        nothing()
    }
    fn run(&self, _: &str, _: &[BytePath]) -> Result<ToolOutput> {
        nothing()
    }
    fn block_devices(&self) -> Result<Vec<BlockDevice>> {
        nothing()
    }
    fn log(&self, _: Level, _: &str) {}
    fn progress(&self, _: &Progress) {}
    fn cancelled(&self) -> bool {
        false
    }
    fn spawn(&self, _: &Spawn) -> Result<ProcessId> {
        nothing()
    }
    fn read_output(&self, _: ProcessId, _: u32) -> Result<Chunk> {
        nothing()
    }
    fn wait(&self, _: ProcessId) -> Result<Exit> {
        nothing()
    }
    fn stop(&self, _: ProcessId) -> Result<()> {
        nothing()
    }
}
