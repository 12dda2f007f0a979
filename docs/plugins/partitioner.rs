//! GPT tables by sfdisk(8): read with `--json`, laid out anew at whole MiB on each disk, written by a script.
//!
//! A plugin for disks that are laid out from the front; it keeps sizes, not starts.

use std::fmt::Write as _;

use serde::Deserialize;
use systemimager_core::contract::{Partitioner, PartitionerCapture, PartitionerFit, PartitionerPlan};
use systemimager_core::{
    Action, Arg, DiskLayout, ErrorKind, Host, Needs, PartitionLayout, Phase, PluginError, Program, Result, Role, Size,
    Step, declare_plugin,
};

/// The plugin.
pub struct Plugin;

declare_plugin! {
    kind: Partitioner,
    id: packed_gpt,
    about: "GPT tables, partitions one after the other",
    make: Plugin,
}

/// Where the first partition begins, what all are aligned to, and what is left for the second table at the end.
const MIB: u64 = 1 << 20;
/// Larger than any disk; sums of 128 of them still fit in 64 bits.
const LARGEST: u64 = 1 << 55;

/// What `sfdisk --json` prints; numbers are sectors.
#[derive(Deserialize)]
struct Dump {
    partitiontable: Table,
}

#[derive(Deserialize)]
struct Table {
    label: String,
    #[serde(default = "usual_sector")]
    sectorsize: u32,
    #[serde(default)]
    partitions: Vec<Found>,
}

#[derive(Deserialize)]
struct Found {
    node: String,
    size: u64,
    #[serde(rename = "type")]
    kind: String,
    uuid: Option<String>,
}

fn usual_sector() -> u32 {
    512
}

impl Partitioner for Plugin {
    fn labels(&self, _: &dyn Host, (): ()) -> Result<Vec<String>> {
        Ok(vec!["gpt".into()])
    }

    fn needs(&self, _: &dyn Host, role: Role) -> Result<Needs> {
        Ok(match role {
            Role::MasterClient | Role::Installer => {
                Needs { programs: vec![Program::new("sfdisk", "fdisk")], ..Needs::default() }
            }
            Role::Server | Role::InstalledClient => Needs::default(),
        })
    }

    /// Runs on the master client. What a disk says of itself may have been written by anybody: nothing is trusted.
    fn capture(&self, host: &dyn Host, request: PartitionerCapture) -> Result<DiskLayout> {
        let disk = &request.disk;
        let output = host.run("sfdisk", &["--json".into(), disk.path.clone()])?;
        let odd = |why: String| PluginError::new(ErrorKind::Failed, format!("the table of {}: {why}", disk.path));
        let dump: Dump = serde_json::from_slice(&output.stdout).map_err(|error| odd(format!("sfdisk said {error}")))?;
        let table = dump.partitiontable;
        served(&table.label)?;
        let mut partitions = Vec::new();
        for found in table.partitions {
            let digits = found.node.rsplit(|letter: char| !letter.is_ascii_digit()).next().unwrap_or_default();
            let number: u32 = digits.parse().map_err(|_| odd(format!("{:?} has no number", found.node)))?;
            let size =
                found.size.checked_mul(table.sectorsize.into()).ok_or_else(|| odd("a size is too large".into()))?;
            // Nodes of partitions are called <disk>p<number>.
            let node = format!("{}p{number}", request.node).parse().map_err(|error| odd(format!("{error}")))?;
            // By constructor: fields that a later version of the contract appends have their defaults.
            let mut partition = PartitionLayout::new(node, number, found.kind);
            (partition.size, partition.uuid) = (Some(Size(size)), found.uuid);
            partitions.push(partition);
        }
        let mut layout = DiskLayout::new(request.node, "gpt", disk.size, table.sectorsize);
        layout.partitions = partitions;
        Ok(layout)
    }

    /// Pure. Gives every partition a start and a size on this disk, or says what is needed and what is there.
    fn fit(&self, _: &dyn Host, request: PartitionerFit) -> Result<DiskLayout> {
        let (mut layout, disk) = (request.layout, request.disk);
        check(&layout)?;
        let usable = disk.size.0.min(LARGEST).saturating_sub(MIB);
        let mut needed = MIB;
        for partition in &layout.partitions {
            needed += round_up(partition.size.map_or(MIB, |size| size.0));
        }
        if needed > usable {
            return Err(PluginError::invalid(format!(
                "{} does not fit {}: {} are needed, {} are there; take a larger disk, or make partitions smaller",
                layout.node,
                disk.path,
                Size(needed + MIB),
                disk.size
            )));
        }
        let left = (usable - needed) / MIB * MIB;
        let mut at = MIB;
        layout.partitions.sort_by_key(|partition| partition.number);
        for partition in &mut layout.partitions {
            let size = partition.size.map_or(MIB + left, |size| round_up(size.0));
            partition.start = Some(Size(at));
            partition.size = Some(Size(size));
            at += size;
        }
        layout.size = disk.size;
        layout.sector_size = disk.sector_size;
        Ok(layout)
    }

    /// Pure. Destroys the disk's node, provides those of the partitions.
    fn plan(&self, _: &dyn Host, request: PartitionerPlan) -> Result<Vec<Step>> {
        let layout = request.layout;
        check(&layout)?;
        let sector = u64::from(layout.sector_size);
        let mut script = "label: gpt\nunit: sectors\n\n".to_owned();
        for partition in &layout.partitions {
            let (Some(start), Some(size)) = (partition.start, partition.size) else {
                return Err(PluginError::invalid(format!("{} has no start or size; fit comes first", partition.node)));
            };
            if sector == 0 || start.0 % sector != 0 || size.0 % sector != 0 || start.0 > LARGEST {
                return Err(PluginError::invalid(format!(
                    "{} is not whole sectors of {sector}; fit it",
                    partition.node
                )));
            }
            let (number, kind) = (partition.number, &partition.kind);
            // Writing to a String does not fail.
            let _ = write!(script, "{number} : start={}, size={}, type={kind}", start.0 / sector, size.0 / sector);
            if let Some(uuid) = &partition.uuid {
                let _ = write!(script, ", uuid={uuid}");
            }
            script.push('\n');
        }
        // sfdisk gets the disk as an argument, never in its script: the node becomes a device only on the machine.
        let mut argv = Arg::words(["sfdisk", "--wipe", "always", "--wipe-partitions", "always"]);
        argv.push(Arg::Device(layout.node.clone()));
        let nodes: Vec<_> = layout.partitions.iter().map(|partition| partition.node.clone()).collect();
        let what = format!("write a GPT to {}", layout.node);
        let write = Step::new(Phase::Partition, what, Action::Run { argv, stdin: Some(script) });
        let mut steps = vec![write.destroying([layout.node.clone()]).providing(nodes.clone())];
        if !nodes.is_empty() {
            let what = format!("wait for the partitions of {}", layout.node);
            steps.push(Step::new(Phase::Partition, what, Action::Settle { nodes }));
        }
        Ok(steps)
    }
}

fn served(label: &str) -> Result<()> {
    if label == "gpt" {
        return Ok(());
    }
    Err(PluginError::unsupported(format!("{label:?} tables are not served here, only gpt; use another partitioner")))
}

/// Nothing of a layout reaches sfdisk's script that is not of a narrow form.
fn check(layout: &DiskLayout) -> Result<()> {
    served(&layout.label)?;
    let mut numbers = std::collections::BTreeSet::new();
    let mut open = 0;
    for partition in &layout.partitions {
        let wrong = |why: &str| Err(PluginError::invalid(format!("the partition {} {why}", partition.node)));
        if !(1..=128).contains(&partition.number) || !numbers.insert(partition.number) {
            return wrong("has a number that is there twice, or is not 1 to 128");
        }
        if partition.size.is_some_and(|size| size.0 == 0 || size.0 > LARGEST) {
            return wrong("has a size of 0, or one that no disk has");
        }
        if partition.start.is_some_and(|start| start.0 > LARGEST) {
            return wrong("starts behind the end of any disk");
        }
        if !is_guid(&partition.kind) || partition.uuid.as_deref().is_some_and(|uuid| !is_guid(uuid)) {
            return wrong("has a type or uuid that is no GUID");
        }
        if partition.name.is_some() || partition.attributes.is_some() || partition.bootable {
            return wrong("has a name, attributes or a flag, which are not served here; take them out of the master");
        }
        open += u32::from(partition.size.is_none());
    }
    if open > 1 {
        return Err(PluginError::invalid(format!("{} has {open} partitions without a size; one may be", layout.node)));
    }
    Ok(())
}

fn is_guid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &&str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12]) && parts.iter().all(hex)
}

fn round_up(bytes: u64) -> u64 {
    bytes.div_ceil(MIB) * MIB
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use systemimager_core::testing::{RecordedHost, assert_conforms};

    use super::*;

    #[test]
    fn keeps_the_contract() {
        assert_conforms();
    }

    #[test]
    fn what_is_captured_fits_a_larger_disk() {
        let linux = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";
        let table = json!({"partitiontable": {"label": "gpt", "sectorsize": 512, "partitions": [
            {"node": "/dev/sda1", "start": 2048, "size": 204_800, "type": linux},
        ]}});
        let host = RecordedHost::new().tool("sfdisk --json /dev/sda", table.to_string());
        let disk = json!({
            "name": "sda", "path": "/dev/sda", "size": "1 GiB", "sector_size": 512,
            "removable": false, "read_only": false, "rotational": false,
        });
        let request = serde_json::from_value(json!({"disk": disk, "node": "disk0"})).unwrap();
        let mut layout = Plugin.capture(&host, request).unwrap();
        assert_eq!(layout.partitions[0].size, Some(Size(100 * MIB)));

        layout.partitions[0].size = None;
        let request = serde_json::from_value(json!({"layout": layout, "disk": disk})).unwrap();
        let fitted = Plugin.fit(&host, request).unwrap();
        assert_eq!(fitted.partitions[0].size, Some(Size(1022 * MIB)));
        let steps = Plugin.plan(&host, PartitionerPlan { layout: fitted }).unwrap();
        let Action::Run { stdin: Some(script), .. } = &steps[0].action else { panic!("{steps:?}") };
        assert!(script.ends_with(&format!("1 : start=2048, size=2093056, type={linux}\n")), "{script}");
    }
}
