//! Reading a disk's table: `sfdisk --json` through the host, parsed into a layout.
//!
//! What sfdisk prints is data from a disk that anybody may have written: every number is checked.

use serde::Deserialize;
use systemimager_core::contract::PartitionerCapture;
use systemimager_core::{
    DiskLayout, DiskRule, ErrorKind, Host, NodeName, PartitionLayout, PluginError, Result, Size, ToolOutput,
};

use crate::table::{Label, unserved};

/// What sfdisk(8) says of a disk without a table, when it exits 1.
const NO_TABLE: &str = "does not contain a recognized partition table";

#[derive(Deserialize)]
struct Dump {
    partitiontable: Table,
}

#[derive(Deserialize)]
struct Table {
    label: String,
    id: Option<String>,
    device: Option<String>,
    unit: Option<String>,
    sectorsize: Option<u32>,
    #[serde(default)]
    partitions: Vec<Partition>,
}

#[derive(Deserialize)]
struct Partition {
    node: String,
    start: u64,
    size: u64,
    #[serde(rename = "type")]
    kind: String,
    uuid: Option<String>,
    name: Option<String>,
    attrs: Option<String>,
    #[serde(default)]
    bootable: bool,
}

/// Reads the table of the disk.
pub fn capture(host: &dyn Host, request: &PartitionerCapture) -> Result<DiskLayout> {
    match host.run("sfdisk", &["--json".into(), request.disk.path.clone()]) {
        Ok(output) if output.code == 0 => parse(&output.stdout, request),
        Ok(output) if says_no_table(&output.stderr) => Ok(bare(request)),
        Ok(output) => Err(went_wrong(request, &output)),
        Err(error) if error.kind == ErrorKind::Failed && says_no_table(&error.to_string()) => Ok(bare(request)),
        Err(error) => Err(error),
    }
}

fn says_no_table(text: &str) -> bool {
    text.contains(NO_TABLE)
}

fn went_wrong(request: &PartitionerCapture, output: &ToolOutput) -> PluginError {
    PluginError::failed(format!(
        "reading the partition table of {} failed: sfdisk exited with {}",
        request.disk.path, output.code
    ))
    .with("stderr", output.stderr.trim())
}

/// A disk without a table.
fn bare(request: &PartitionerCapture) -> DiskLayout {
    DiskLayout {
        node: request.node.clone(),
        label: "none".into(),
        id: None,
        size: request.disk.size,
        sector_size: request.disk.sector_size,
        rule: DiskRule::default(),
        partitions: Vec::new(),
    }
}

fn parse(json: &[u8], request: &PartitionerCapture) -> Result<DiskLayout> {
    let disk = &request.disk.path;
    let garbage = |why: String| {
        PluginError::failed(format!(
            "sfdisk --json {disk} printed what cannot be a partition table: {why}; \
             look at the disk with fdisk -l and repair its table"
        ))
    };
    let dump: Dump = serde_json::from_slice(json).map_err(|error| garbage(error.to_string()))?;
    let table = dump.partitiontable;
    let mut layout = DiskLayout { label: table.label, id: table.id, ..bare(request) };
    match Label::of(&layout) {
        Ok(Label::Gpt | Label::Dos) => {}
        Ok(Label::None) | Err(_) => return Err(unserved(disk, &layout.label)),
    }
    if let Some(unit) = table.unit.filter(|unit| unit != "sectors") {
        return Err(garbage(format!("it counts in {unit:?}, not in sectors")));
    }
    // sfdisk before util-linux 2.35 does not print the sector size.
    layout.sector_size = table.sectorsize.unwrap_or(request.disk.sector_size);
    let device = table.device.unwrap_or_default();
    for partition in table.partitions {
        let number = number(&partition.node, &device)
            .ok_or_else(|| garbage(format!("the partition {:?} has no number", partition.node)))?;
        let bytes = |sectors: u64| sectors.checked_mul(u64::from(layout.sector_size));
        let (start, size) = match (bytes(partition.start), bytes(partition.size)) {
            (Some(start), Some(size)) if size > 0 && start.checked_add(size).is_some() => (start, size),
            _ => {
                return Err(garbage(format!(
                    "partition {number} starts at sector {} and has {} sectors",
                    partition.start, partition.size
                )));
            }
        };
        layout.partitions.push(PartitionLayout {
            node: node(&request.node, number)?,
            number,
            start: Some(Size(start)),
            size: Some(Size(size)),
            kind: partition.kind,
            name: partition.name,
            uuid: partition.uuid,
            attributes: partition.attrs,
            bootable: partition.bootable,
            min_size: None,
            preserve: false,
            preserve_label: None,
        });
    }
    layout.partitions.sort_by_key(|partition| partition.number);
    if let Some(pair) = layout.partitions.windows(2).find(|pair| pair[0].number == pair[1].number) {
        return Err(garbage(format!("partition {} is there twice", pair[0].number)));
    }
    Ok(layout)
}

/// 2 of `/dev/sda2` on `/dev/sda`, `/dev/nvme0n1p2` on `/dev/nvme0n1`, `…-part2` on `…`. The device's own
/// digits must not be taken for the partition's.
fn number(node: &str, device: &str) -> Option<u32> {
    let rest = node.strip_prefix(device).unwrap_or(node);
    let digits = rest.len() - rest.bytes().rev().take_while(u8::is_ascii_digit).count();
    rest.get(digits..)?.parse().ok().filter(|number| *number > 0)
}

fn node(disk: &NodeName, number: u32) -> Result<NodeName> {
    NodeName::try_from(format!("{disk}p{number}")).map_err(|error| PluginError::invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::testing::RecordedHost;
    use systemimager_core::{BlockDevice, Bytes};

    fn request() -> PartitionerCapture {
        PartitionerCapture {
            disk: BlockDevice {
                path: "/dev/x".into(),
                size: Size(1 << 30),
                sector_size: 512,
                ..BlockDevice::default()
            },
            node: NodeName::try_from("disk0").unwrap(),
        }
    }

    fn run(json: &str) -> Result<DiskLayout> {
        capture(&RecordedHost::new().tool("sfdisk --json /dev/x", json), &request())
    }

    #[test]
    fn a_gpt() {
        let layout = run(r#"{"partitiontable": {"label":"gpt", "id":"AA", "device":"/dev/x", "unit":"sectors",
            "firstlba":34, "lastlba":409566, "sectorsize":4096, "partitions": [
            {"node":"/dev/x14", "start":34, "size":10, "type":"T14", "uuid":"U", "name":"a\"b", "attrs":"GUID:63"},
            {"node":"/dev/x1", "start":4096, "size":4000, "type":"T1"}]}}"#)
        .unwrap();
        assert_eq!((layout.label.as_str(), layout.id.as_deref(), layout.sector_size), ("gpt", Some("AA"), 4096));
        assert_eq!(layout.size, Size(1 << 30));
        let [one, fourteen] = layout.partitions.as_slice() else { panic!("{layout:?}") };
        assert_eq!((one.number, one.node.as_str(), one.start), (1, "disk0p1", Some(Size(4096 * 4096))));
        assert_eq!((fourteen.number, fourteen.size), (14, Some(Size(40960))));
        assert_eq!(fourteen.name.as_deref(), Some("a\"b"));
        assert_eq!(fourteen.attributes.as_deref(), Some("GUID:63"));
    }

    #[test]
    fn a_dos_table_without_sector_size() {
        let layout = run(r#"{"partitiontable": {"label":"dos", "id":"0x12345678", "device":"/dev/x", "partitions": [
            {"node":"/dev/x1", "start":2048, "size":10, "type":"83", "bootable":true},
            {"node":"/dev/x2", "start":4094, "size":9000, "type":"f"},
            {"node":"/dev/x5", "start":4096, "size":10, "type":"82"}]}}"#)
        .unwrap();
        let seen: Vec<_> =
            layout.partitions.iter().map(|part| (part.number, part.kind.as_str(), part.bootable)).collect();
        assert_eq!(seen, [(1, "83", true), (2, "f", false), (5, "82", false)]);
        assert_eq!(layout.partitions[1].start, Some(Size(4094 * 512)));
    }

    #[test]
    fn no_table_is_no_error() {
        let says = "sfdisk: /dev/x: does not contain a recognized partition table\n";
        let mut host = RecordedHost::new();
        let output = ToolOutput { code: 1, stdout: Bytes::default(), stderr: says.into() };
        host.tools.insert("sfdisk --json /dev/x".into(), output);
        let layout = capture(&host, &request()).unwrap();
        assert_eq!((layout.label.as_str(), layout.partitions.len()), ("none", 0));

        let output = ToolOutput { code: 1, stdout: Bytes::default(), stderr: "sfdisk: cannot open /dev/x".into() };
        host.tools.insert("sfdisk --json /dev/x".into(), output);
        let error = capture(&host, &request()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Failed);
        assert!(error.to_string().contains("stderr: sfdisk: cannot open"), "{error}");
    }

    #[test]
    fn hostile_output() {
        let part = |fields: &str| {
            format!(r#"{{"partitiontable":{{"label":"gpt","device":"/dev/x","partitions":[{{{fields}}}]}}}}"#)
        };
        let huge = u64::MAX;
        let rows = [
            ("empty", String::new(), ErrorKind::Failed, "EOF"),
            ("not JSON", "x".into(), ErrorKind::Failed, "expected value"),
            ("no table", "{}".into(), ErrorKind::Failed, "missing field `partitiontable`"),
            ("no type", part(r#""node":"/dev/x1","start":1,"size":1"#), ErrorKind::Failed, "missing field `type`"),
            (
                "no number",
                part(r#""node":"/dev/x","start":1,"size":1,"type":"83""#),
                ErrorKind::Failed,
                "has no number",
            ),
            (
                "number 0",
                part(r#""node":"/dev/x0","start":1,"size":1,"type":"83""#),
                ErrorKind::Failed,
                "has no number",
            ),
            (
                "number too large",
                part(r#""node":"/dev/x99999999999","start":1,"size":1,"type":"83""#),
                ErrorKind::Failed,
                "has no number",
            ),
            (
                "huge start",
                part(&format!(r#""node":"/dev/x1","start":{huge},"size":1,"type":"83""#)),
                ErrorKind::Failed,
                "partition 1 starts at sector 18446744073709551615",
            ),
            (
                "huge sum",
                part(&format!(r#""node":"/dev/x1","start":{0},"size":{0},"type":"83""#, huge / 512)),
                ErrorKind::Failed,
                "partition 1 starts at",
            ),
            ("size 0", part(r#""node":"/dev/x1","start":1,"size":0,"type":"83""#), ErrorKind::Failed, "has 0 sectors"),
            (
                "negative",
                part(r#""node":"/dev/x1","start":-1,"size":1,"type":"83""#),
                ErrorKind::Failed,
                "invalid value",
            ),
            (
                "sun",
                r#"{"partitiontable":{"label":"sun"}}"#.into(),
                ErrorKind::Unsupported,
                "/dev/x has a \"sun\" partition table, and this plugin serves gpt, dos and none",
            ),
            (
                "cylinders",
                r#"{"partitiontable":{"label":"dos","unit":"cylinders"}}"#.into(),
                ErrorKind::Failed,
                "counts in \"cylinders\"",
            ),
        ];
        for (name, json, kind, says) in rows {
            let error = run(&json).unwrap_err();
            assert_eq!(error.kind, kind, "{name}: {error}");
            assert!(error.message.contains(says), "{name}: {error}");
        }
    }

    #[test]
    fn numbers_of_nodes() {
        for (node, device, expected) in [
            ("/dev/sda1", "/dev/sda", Some(1)),
            ("/dev/nvme0n1p12", "/dev/nvme0n1", Some(12)),
            ("/dev/mmcblk0p1", "/dev/mmcblk0", Some(1)),
            ("/dev/disk/by-id/x-9-part3", "/dev/disk/by-id/x-9", Some(3)),
            ("/dev/sda7", "", Some(7)),
            ("/dev/nvme0n1", "/dev/nvme0n1", None),
            ("", "", None),
        ] {
            assert_eq!(number(node, device), expected, "{node}");
        }
    }
}
