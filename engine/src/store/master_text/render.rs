//! A master as commented TOML, laid out for the administrator who is going to edit it.
//!
//! Reading the text again gives the same master. Values are always quoted by the TOML library, never by hand.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use systemimager_core::{
    BytePath, DiskLayout, DiskRule, FileSystemLayout, MountLayout, OverrideName, PartitionLayout, VolumeLayout,
};
use toml_edit::{Array, InlineTable, Value};

use crate::store::master::{Hook, Master};

const HEADER: &str = "\
# The master file of an image: how machines that get it are installed. Edit it to your needs, then run
# `systemimager check`, which tells the line and column of what is wrong. `systemimager plan IMAGE --host HOST`
# shows every step of an install without doing any.
#
# A machine that is to differ gets its own copy in place of its link: replace HOST.sh by a copy of this file.
";

/// The master as text.
pub fn render(master: &Master) -> String {
    let mut out = Text(HEADER.to_owned());
    out.gap();
    out.remark("Version of this format.");
    out.key("format", i64::from(master.format));
    out.remark("The image that is installed.");
    out.key("image", master.image.as_str());
    out.gap();
    out.remark("Plugins, by the ids that `systemimager plugin list` shows.");
    out.remark("Transports in order: the first that works moves the bulk, the last makes the tree exact.");
    out.key("transports", master.transports.iter().map(String::as_str).collect::<Array>());
    if master.allow_plain {
        out.remark("Those that move the image in the clear may stand beside those that do not.");
        out.key("allow_plain", true);
    }
    if master.allow_keyless {
        out.remark("Declared machines may have the image by their address alone.");
        out.key("allow_keyless", true);
    }
    out.key("partitioner", master.partitioner.as_str());
    out.remark("The boot loader, or \"none\".");
    out.key("bootloader", master.bootloader.as_str());
    out.gap();
    out.remark("What a machine does when it is installed: \"reboot\", \"poweroff\" or \"shell\".");
    out.key("final_action", word(&master.final_action));
    out.gap();
    out.remark("Overrides: directories of the image server whose files are laid over the image, in this order, when a");
    out.remark("machine is installed and when it is updated. After them a host's own, where there is one of its name.");
    out.key("overrides", master.overrides.iter().map(OverrideName::as_str).collect::<Array>());
    out.gap();
    out.remark(
        "Who the machine is. `sources` in order; none: the plugin's own. `scrub`: what clones must not share; absent: all.",
    );
    out.line("[identity]");
    out.key("plugin", master.identity.plugin.as_str());
    out.key("sources", master.identity.sources.iter().map(String::as_str).collect::<Array>());
    if let Some(scrub) = &master.identity.scrub {
        out.key("scrub", scrub.iter().map(String::as_str).collect::<Array>());
    }
    out.gap();
    out.remark("How the installed machine gets its addresses: \"static\" (those it had while being installed,");
    out.remark("written down), \"dhcp\" (asked for at each boot), or \"keep\" (what the image has is left alone).");
    out.line("[network]");
    out.key("mode", word(&master.network.mode));
    let layout = &master.layout;
    out.gap();
    out.remark(
        "Hooks: programs of the image server that an install runs: at = \"pre-install\" in the miniature system before",
    );
    out.remark(
        "the disks are looked at, at = \"post-install\" in the installed system. on_failure: \"stop\" or \"warn\".",
    );
    if master.hooks.is_empty() {
        out.line("# [[hook]]");
        out.line("# at = \"post-install\"");
        out.line("# run = \"NAME\"");
        out.line("# on_failure = \"stop\"");
    }
    master.hooks.iter().for_each(|hook| out.hook(hook));
    out.gap();
    if layout.is_empty() {
        out.remark("No disks: this image can be pulled into a directory, but not installed on a machine.");
    } else {
        out.remark("Disks and their partitions. `node` is a name for use in this file. `match` says which disk of a");
        out.remark("machine is meant: order (from 0, by bus), serial, wwn, path, model (* and ? match), min_size,");
        out.remark("max_size, rotational; all that is given must fit. Sizes have a unit: B, KiB, MiB, GiB or TiB.");
        out.remark(
            "One partition of a disk may say size = \"*\": it gets what is left. Others may shrink to a min_size.",
        );
    }
    layout.disks.iter().for_each(|disk| out.disk(disk));
    layout.volumes.iter().for_each(|volume| out.volume(volume));
    if !layout.filesystems.is_empty() {
        out.gap();
        out.remark(
            "File systems and swap, each on the node of a partition. A `uuid` is given to every machine, so that",
        );
        out.remark("fstab and the boot loader hold; `new_uuid = true` makes a fresh one each time.");
    }
    layout.filesystems.iter().for_each(|filesystem| out.filesystem(filesystem));
    if !layout.mounts.is_empty() {
        out.gap();
        out.remark("Where they are mounted. `options` hold while the machine is being installed.");
    }
    layout.mounts.iter().for_each(|mount| out.mount(mount));
    out.0
}

/// The text so far.
struct Text(String);

impl Text {
    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    fn gap(&mut self) {
        self.0.push('\n');
    }

    fn remark(&mut self, words: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# {words}");
    }

    fn key(&mut self, key: &str, value: impl Into<Value>) {
        let _ = writeln!(self.0, "{key} = {}", value.into());
    }

    fn maybe(&mut self, key: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.key(key, value);
        }
    }

    fn flag(&mut self, key: &str, set: bool) {
        if set {
            self.key(key, true);
        }
    }

    fn options(&mut self, options: &BTreeMap<String, String>) {
        if !options.is_empty() {
            self.key("options", options.iter().map(|(key, value)| (key, value.as_str())).collect::<InlineTable>());
        }
    }

    fn table(&mut self, name: &str) {
        self.gap();
        self.line(name);
    }

    fn hook(&mut self, hook: &Hook) {
        self.line("[[hook]]");
        self.key("at", hook.at.name());
        self.key("run", hook.run.as_str());
        self.key("on_failure", word(&hook.on_failure));
    }

    fn disk(&mut self, disk: &DiskLayout) {
        self.table("[[layout.disk]]");
        self.key("node", disk.node.as_str());
        self.remark("\"gpt\", \"dos\", or \"none\" for a disk without a table.");
        self.key("label", disk.label.as_str());
        self.maybe("id", disk.id.as_deref());
        self.remark("The size of the disk that was captured.");
        self.key("size", disk.size.to_string());
        self.key("sector_size", i64::from(disk.sector_size));
        self.key("match", rule(&disk.rule));
        disk.partitions.iter().for_each(|partition| self.partition(partition));
    }

    fn partition(&mut self, partition: &PartitionLayout) {
        self.table("[[layout.disk.partition]]");
        self.key("node", partition.node.as_str());
        self.key("number", i64::from(partition.number));
        self.maybe("start", partition.start.map(|start| start.to_string()));
        self.maybe("size", partition.size.map(|size| size.to_string()));
        self.maybe("min_size", partition.min_size.map(|size| size.to_string()));
        self.key("type", partition.kind.as_str());
        self.maybe("name", partition.name.as_deref());
        self.maybe("uuid", partition.uuid.as_deref());
        self.maybe("attributes", partition.attributes.as_deref());
        self.flag("bootable", partition.bootable);
        self.flag("preserve", partition.preserve);
        self.maybe("preserve_label", partition.preserve_label.as_deref());
    }

    fn volume(&mut self, volume: &VolumeLayout) {
        self.table("[[layout.volume]]");
        self.key("node", volume.node.as_str());
        self.key("kind", volume.kind.as_str());
        self.key("on", volume.on.iter().map(systemimager_core::NodeName::as_str).collect::<Array>());
        self.options(&volume.options);
    }

    fn filesystem(&mut self, filesystem: &FileSystemLayout) {
        self.table("[[layout.filesystem]]");
        self.key("node", filesystem.node.as_str());
        self.key("on", filesystem.on.as_str());
        self.key("type", filesystem.kind.as_str());
        self.maybe("uuid", filesystem.uuid.as_deref());
        self.flag("new_uuid", filesystem.new_uuid);
        self.maybe("label", filesystem.label.as_deref());
        self.options(&filesystem.options);
    }

    fn mount(&mut self, mount: &MountLayout) {
        self.table("[[layout.mount]]");
        self.key("node", mount.node.as_str());
        self.key("at", path(&mount.at));
        if !mount.options.is_empty() {
            self.key("options", mount.options.as_str());
        }
        self.maybe("subvolume", mount.subvolume.as_ref().map(path));
    }
}

fn rule(rule: &DiskRule) -> InlineTable {
    let mut table = InlineTable::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            table.insert(key, value);
        }
    };
    put("order", rule.order.map(|order| i64::from(order).into()));
    put("serial", rule.serial.as_deref().map(Value::from));
    put("wwn", rule.wwn.as_deref().map(Value::from));
    put("path", rule.path.as_deref().map(Value::from));
    put("model", rule.model.as_deref().map(Value::from));
    put("min_size", rule.min_size.map(|size| size.to_string().into()));
    put("max_size", rule.max_size.map(|size| size.to_string().into()));
    put("rotational", rule.rotational.map(Value::from));
    table
}

/// As in JSON: text, or `{ base64 = "…" }` where the path is not UTF-8.
fn path(path: &BytePath) -> Value {
    match serde_json::to_value(path) {
        Ok(serde_json::Value::String(text)) => text.into(),
        Ok(serde_json::Value::Object(object)) => {
            object.iter().filter_map(|(key, value)| Some((key, value.as_str()?))).collect::<InlineTable>().into()
        }
        // A path has no third form.
        _ => path.to_string().into(),
    }
}

/// The word that stands for a plain enum's value, the same in TOML and JSON.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}
