//! Writing a table: the script that sfdisk(8) reads on standard input, and the steps around it.
//!
//! No text from the layout reaches the script unchecked: what is not of a narrow form was refused by
//! [`shape`](crate::check::shape), and names are escaped.

use std::fmt::Write as _;

use systemimager_core::{Action, Arg, DiskLayout, Phase, Result, Step};

use crate::check::{fitted, shape};
use crate::table::{Label, MIB, Table, is_extended};

/// Steps that write the table and wait for its partitions.
pub fn plan(layout: &DiskLayout) -> Result<Vec<Step>> {
    let label = Label::of(layout)?;
    shape(layout, label)?;
    let table = Table::new(label, layout.sector_size, layout.size, layout.node.as_str())?;
    fitted(layout, &table)?;
    let disk = &layout.node;
    if label == Label::None {
        let mut argv = Arg::words(["wipefs", "--all"]);
        argv.push(Arg::Device(disk.clone()));
        let what = format!("take partition table and signatures off {disk}");
        return Ok(vec![
            Step::new(Phase::Partition, what, Action::Run { argv, stdin: None })
                .destroying([disk.clone()])
                .providing([disk.clone()]),
        ]);
    }
    // Old signatures of the whole disk and at the new partitions' starts go too: udev and blkid would
    // take them for what is there. sfdisk refuses a disk that is in use, and tells the kernel itself. To sfdisk all
    // partitions of a new table are new ones: where some stay, it must not wipe.
    let keeps = layout.partitions.iter().any(|partition| partition.preserve);
    let wipe = if keeps { "never" } else { "always" };
    let mut argv = Arg::words(["sfdisk", "--wipe", wipe, "--wipe-partitions", wipe]);
    argv.push(Arg::Device(disk.clone()));
    // Nothing can be made on an extended partition, so nobody waits for its node.
    let nodes: Vec<_> = layout
        .partitions
        .iter()
        .filter(|partition| !is_extended(label, partition))
        .map(|partition| partition.node.clone())
        .collect();
    let count = match layout.partitions.len() {
        1 => "1 partition".to_owned(),
        count => format!("{count} partitions"),
    };
    let kept: Vec<&str> =
        layout.partitions.iter().filter(|partition| partition.preserve).map(|it| it.node.as_str()).collect();
    let keeping = if keeps { format!(", keeping {}", kept.join(" and ")) } else { String::new() };
    let what = format!("write a {} table with {count} to {disk}{keeping}", layout.label);
    let stdin = Some(script(layout, &table));
    let new: Vec<_> = layout
        .partitions
        .iter()
        .filter(|it| !it.preserve && !is_extended(label, it))
        .map(|it| it.node.clone())
        .collect();
    let destroyed = if keeps { new.clone() } else { vec![disk.clone()] };
    let mut steps = vec![
        Step::new(Phase::Partition, what, Action::Run { argv, stdin }).destroying(destroyed).providing(nodes.clone()),
    ];
    if !nodes.is_empty() {
        let what = format!("wait for the partitions of {disk}");
        steps.push(Step::new(Phase::Partition, what, Action::Settle { nodes: nodes.clone() }));
    }
    if keeps {
        for node in &new {
            let mut argv = Arg::words(["wipefs", "--all"]);
            argv.push(Arg::Device(node.clone()));
            let what = format!("take old signatures off {node}");
            let step = Step::new(Phase::Partition, what, Action::Run { argv, stdin: None });
            steps.push(step.destroying([node.clone()]));
        }
    }
    Ok(steps)
}

/// The script. Everything in sectors, everything said: sfdisk rounds and chooses nothing.
fn script(layout: &DiskLayout, table: &Table) -> String {
    let mut text = format!("label: {}\n", layout.label);
    if let Some(id) = &layout.id {
        let _ = writeln!(text, "label-id: {id}");
    }
    text.push_str("unit: sectors\n");
    let sectors = |bytes: Option<systemimager_core::Size>| bytes.map_or(0, |size| size.0 / table.sector);
    let before_first_mib = layout.partitions.iter().any(|part| part.start.is_some_and(|start| start.0 < MIB));
    if table.label == Label::Gpt && before_first_mib {
        // By default sfdisk declares everything below 1 MiB unusable.
        let _ = writeln!(text, "first-lba: {}", table.first() / table.sector);
    }
    text.push('\n');
    let mut partitions: Vec<_> = layout.partitions.iter().collect();
    partitions.sort_by_key(|partition| partition.number);
    for partition in partitions {
        let (number, kind) = (partition.number, &partition.kind);
        let (start, size) = (sectors(partition.start), sectors(partition.size));
        let _ = write!(text, "{number} : start={start}, size={size}, type={kind}");
        if let Some(uuid) = &partition.uuid {
            let _ = write!(text, ", uuid={uuid}");
        }
        if let Some(name) = &partition.name {
            let _ = write!(text, ", name=\"{}\"", escape(name));
        }
        if let Some(attributes) = &partition.attributes {
            let _ = write!(text, ", attrs=\"{attributes}\"");
        }
        if partition.bootable {
            text.push_str(", bootable");
        }
        text.push('\n');
    }
    text
}

/// As `sfdisk --dump` writes names: bytes that could end the name or the line, or are not ASCII, as `\xHH`.
fn escape(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'"' | b'\\' | 0..=0x1f | 0x7f.. => {
                let _ = write!(text, "\\x{byte:02x}");
            }
            plain => text.push(char::from(plain)),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::{DiskRule, NodeName, PartitionLayout, Size};

    fn node(name: &str) -> NodeName {
        NodeName::try_from(name).unwrap()
    }

    fn partition(number: u32, start: u64, size: u64, kind: &str) -> PartitionLayout {
        PartitionLayout {
            node: node(&format!("disk0p{number}")),
            number,
            start: Some(Size(start * 512)),
            size: Some(Size(size * 512)),
            kind: kind.into(),
            name: None,
            uuid: None,
            attributes: None,
            bootable: false,
            min_size: None,
            preserve: false,
            preserve_label: None,
        }
    }

    fn layout(label: &str, partitions: Vec<PartitionLayout>) -> DiskLayout {
        DiskLayout {
            node: node("disk0"),
            label: label.into(),
            id: None,
            size: Size(1 << 30),
            sector_size: 512,
            rule: DiskRule::default(),
            partitions,
        }
    }

    const LINUX: &str = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";

    #[test]
    fn dos() {
        let mut layout = layout(
            "dos",
            vec![partition(5, 24576, 100, "83"), partition(1, 2048, 20480, "83"), partition(2, 24574, 4096, "5")],
        );
        layout.id = Some("0x12345678".into());
        layout.partitions[1].bootable = true;
        let steps = plan(&layout).unwrap();
        let [write, wait] = steps.as_slice() else { panic!("{steps:?}") };
        let mut argv = Arg::words(["sfdisk", "--wipe", "always", "--wipe-partitions", "always"]);
        argv.push(Arg::Device(node("disk0")));
        let script = "label: dos\nlabel-id: 0x12345678\nunit: sectors\n\n\
                      1 : start=2048, size=20480, type=83, bootable\n\
                      2 : start=24574, size=4096, type=5\n\
                      5 : start=24576, size=100, type=83\n";
        assert_eq!(write.action, Action::Run { argv, stdin: Some(script.into()) });
        assert_eq!(write.what, "write a dos table with 3 partitions to disk0");
        assert_eq!(write.destroys, [node("disk0")]);
        assert_eq!(write.provides, [node("disk0p5"), node("disk0p1")]);
        assert_eq!(wait.action, Action::Settle { nodes: write.provides.clone() });
    }

    #[test]
    fn gpt_with_everything() {
        let mut layout = layout("gpt", vec![partition(1, 2048, 100, LINUX), partition(14, 34, 2014, LINUX)]);
        layout.partitions[0].name = Some("a\"b\\c\nd é, x=1".into());
        layout.partitions[0].uuid = Some(LINUX.to_lowercase());
        layout.partitions[0].attributes = Some("LegacyBIOSBootable GUID:63".into());
        let steps = plan(&layout).unwrap();
        let Action::Run { stdin: Some(script), .. } = &steps[0].action else { panic!("{steps:?}") };
        let expected = format!(
            "label: gpt\nunit: sectors\nfirst-lba: 34\n\n\
             1 : start=2048, size=100, type={LINUX}, uuid={}, name=\"a\\x22b\\x5cc\\x0ad \\xc3\\xa9, x=1\", \
             attrs=\"LegacyBIOSBootable GUID:63\"\n\
             14 : start=34, size=2014, type={LINUX}\n",
            LINUX.to_lowercase()
        );
        assert_eq!(*script, expected);
    }

    #[test]
    fn what_is_preserved_is_not_wiped() {
        let mut layout = layout(
            "dos",
            vec![
                partition(1, 2048, 20480, "83"),
                partition(2, 40960, 4096, "5"),
                partition(3, 22528, 2048, "82"),
                partition(5, 43008, 100, "83"),
            ],
        );
        layout.id = Some("0x12345678".into());
        layout.partitions[2].preserve = true;
        let steps = plan(&layout).unwrap();
        let words = |step: &Step| match &step.action {
            Action::Run { argv, .. } => argv.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(steps.len(), 4, "{steps:?}");
        let with = |words: &[&str], at: &str| {
            let mut argv = Arg::words(words.iter().copied());
            argv.push(Arg::Device(node(at)));
            argv
        };
        assert_eq!(words(&steps[0]), with(&["sfdisk", "--wipe", "never", "--wipe-partitions", "never"], "disk0"));
        assert_eq!(steps[0].what, "write a dos table with 4 partitions to disk0, keeping disk0p3");
        assert!(matches!(steps[1].action, Action::Settle { .. }));
        assert_eq!(words(&steps[2]), with(&["wipefs", "--all"], "disk0p1"));
        assert_eq!(words(&steps[3]), with(&["wipefs", "--all"], "disk0p5"));
        assert_eq!(steps[3].destroys, [node("disk0p5")]);
        assert_eq!(steps[0].destroys, [node("disk0p1"), node("disk0p5")]);
        assert_eq!(steps[0].provides, [node("disk0p1"), node("disk0p3"), node("disk0p5")]);
    }

    #[test]
    fn no_table() {
        let steps = plan(&layout("none", vec![])).unwrap();
        assert_eq!(steps.len(), 1);
        assert_eq!((&steps[0].destroys, &steps[0].provides), (&vec![node("disk0")], &vec![node("disk0")]));
    }

    type Spoil = fn(&mut DiskLayout);

    #[test]
    fn what_cannot_be_written_is_refused() {
        let rows: &[(&str, &str, Spoil, &str)] = &[
            ("open", "gpt", |l| l.partitions[0].size = None, "the partition disk0p1 has no start or no size yet; fit"),
            ("odd", "gpt", |l| l.partitions[0].start = Some(Size(1048577)), "not whole sectors of 512"),
            (
                "in the table",
                "gpt",
                |l| l.partitions[0].start = Some(Size(512)),
                "where the gpt table is; begin at 17408",
            ),
            (
                "beyond",
                "gpt",
                |l| l.partitions[0].size = Some(Size(1 << 30)),
                "ends at 1 GiB, and disk0 has room up to 1023.9 MiB",
            ),
            (
                "overlap",
                "gpt",
                |l| l.partitions[1].start = l.partitions[0].start,
                "the partitions disk0p1 and disk0p2 overlap",
            ),
            ("number", "gpt", |l| l.partitions[0].number = 129, "has the number 129; a gpt table has 1 to 128"),
            ("twice", "gpt", |l| l.partitions[0].number = 2, "disk0 has two partitions with the number 2"),
            ("type", "gpt", |l| l.partitions[0].kind = "83".into(), "has the type \"83\"; gpt needs a GUID"),
            ("script in type", "gpt", |l| l.partitions[0].kind.push_str("\n2 : size=1"), "gpt needs a GUID"),
            (
                "script in id",
                "gpt",
                |l| l.id = Some("x\nlabel: dos".into()),
                "the id \"x\\nlabel: dos\" of disk0 is not a GUID",
            ),
            (
                "script in attributes",
                "gpt",
                |l| l.partitions[0].attributes = Some("a\"\n".into()),
                "has the attributes",
            ),
            ("uuid", "gpt", |l| l.partitions[0].uuid = Some("x".into()), "has the uuid \"x\", which is not a GUID"),
            ("name", "gpt", |l| l.partitions[0].name = Some("x".repeat(37)), "gpt holds 36 UTF-16 units"),
            ("bootable", "gpt", |l| l.partitions[0].bootable = true, "a flag of dos tables"),
            ("huge", "gpt", |l| l.partitions[0].size = Some(Size(u64::MAX)), "beyond the end of any disk"),
            ("dos type", "dos", |_| {}, "dos needs one or two hexadecimal digits"),
            ("label", "sun", |_| {}, "disk0 has a \"sun\" partition table"),
            ("none", "none", |_| {}, "is to have no partition table (label none), and yet the partition disk0p1"),
        ];
        for (name, label, spoil, says) in rows {
            let mut layout = layout(label, vec![partition(1, 2048, 2048, LINUX), partition(2, 4096, 2048, LINUX)]);
            spoil(&mut layout);
            let error = plan(&layout).unwrap_err();
            assert!(error.message.contains(says), "{name}: {error}");
        }
    }
}
