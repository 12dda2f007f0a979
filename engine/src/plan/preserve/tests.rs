//! What is refused, what is taken over, and which steps may not be.

use super::*;
use systemimager_core::{Bytes, Contents, Holder, MountLayout, Size, Written};

const LINUX: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";
const MIB: u64 = 1 << 20;

fn node(name: &str) -> NodeName {
    NodeName::try_from(name).unwrap()
}

fn ext4(label: &str) -> Signature {
    Signature { kind: "ext4".into(), uuid: "aa-1".into(), label: label.into(), part_of: String::new() }
}

fn info(number: u32, start: u64, size: u64) -> PartitionInfo {
    PartitionInfo {
        name: format!("sda{number}"),
        number,
        start: Size(start * MIB),
        size: Size(size * MIB),
        kind: LINUX.into(),
        uuid: format!("p-{number}"),
        label: String::new(),
        flags: 0,
        signatures: vec![],
    }
}

/// Root on 1, swap on 2, and 3 with data, found on a disk with three partitions.
fn layout() -> Layout {
    let partition = |number: u32, size: Option<u64>| PartitionLayout {
        size: size.map(|it| Size(it * MIB)),
        ..PartitionLayout::new(node(&format!("disk0p{number}")), number, LINUX.to_uppercase())
    };
    let data = PartitionLayout { preserve: true, ..partition(3, None) };
    let mut disk = DiskLayout::new(node("disk0"), "gpt", Size(1000 * MIB), 512);
    disk.partitions = vec![partition(1, Some(100)), partition(2, None), data];
    let uuid = |uuid: &str, fs: FileSystemLayout| FileSystemLayout { uuid: Some(uuid.into()), ..fs };
    Layout {
        disks: vec![disk],
        volumes: vec![],
        filesystems: vec![
            uuid("r-1", FileSystemLayout::new(node("root"), node("disk0p1"), "ext4")),
            uuid("s-1", FileSystemLayout::new(node("swap"), node("disk0p2"), "swap")),
            uuid("d-1", FileSystemLayout::new(node("data"), node("disk0p3"), "ext4")),
        ],
        mounts: vec![MountLayout::new(node("root"), "/"), MountLayout::new(node("data"), "/srv/data")],
    }
}

fn device() -> BlockDevice {
    let data = PartitionInfo {
        label: "data \"1\"".into(),
        flags: 0x8001_0000_0000_0004,
        signatures: vec![ext4("DATA")],
        ..info(3, 300, 200)
    };
    BlockDevice {
        name: "sda".into(),
        path: "/dev/sda".into(),
        size: Size(1000 * MIB),
        sector_size: 512,
        partitions: vec![info(1, 1, 99), info(2, 100, 200), data],
        looked_at: true,
        table: "gpt".into(),
        table_id: "T-1".into(),
        ..BlockDevice::default()
    }
}

fn chosen(device: BlockDevice) -> BTreeMap<NodeName, BlockDevice> {
    BTreeMap::from([(node("disk0"), device)])
}

fn resolved(mut layout: Layout, device: BlockDevice) -> Result<Layout, Vec<String>> {
    let mut problems = Vec::new();
    let failed = resolve(&mut layout, &chosen(device), &mut problems);
    assert_eq!(failed.is_empty(), problems.is_empty(), "{problems:?}");
    if problems.is_empty() { Ok(layout) } else { Err(problems) }
}

#[test]
fn it_is_taken_over_as_it_is() {
    let expected = PartitionLayout {
        start: Some(Size(300 * MIB)),
        size: Some(Size(200 * MIB)),
        kind: LINUX.into(),
        name: Some("data \"1\"".into()),
        uuid: Some("p-3".into()),
        attributes: Some("LegacyBIOSBootable GUID:48,63".into()),
        ..layout().disks[0].partitions[2].clone()
    };
    let by = |label: Option<&str>, number: u32| {
        let mut layout = layout();
        layout.disks[0].id = Some("of the master client".into());
        layout.disks[0].partitions[2].preserve_label = label.map(str::to_owned);
        layout.disks[0].partitions[2].number = number;
        layout.disks[0].partitions[2].uuid = Some("of the master client".into());
        let layout = resolved(layout, device()).unwrap();
        assert_eq!(layout.disks[0].id.as_deref(), Some("T-1"));
        let data = layout.filesystems.iter().find(|fs| fs.node == node("data")).unwrap();
        assert_eq!((data.uuid.as_deref(), data.label.as_deref()), (Some("aa-1"), Some("DATA")));
        layout.disks[0].partitions[2].clone()
    };
    for (label, number) in [(None, 3), (Some("data \"1\""), 7), (Some("DATA"), 7)] {
        let label_of = label.map(str::to_owned);
        assert_eq!(by(label, number), PartitionLayout { preserve_label: label_of, ..expected.clone() }, "{label:?}");
    }
    // What is planned after a failed attempt is the same: only what stays counts.
    let mut again = device();
    again.partitions = vec![info(1, 500, 7), device().partitions[2].clone()];
    assert_eq!(resolved(layout(), again), resolved(layout(), device()));
}

#[test]
fn of_a_dos_table() {
    let mut layout = layout();
    layout.disks[0].label = "dos".into();
    layout.disks[0].partitions.iter_mut().for_each(|it| it.kind = "83".into());
    let mut device = device();
    (device.table, device.table_id) = ("dos".into(), "0x1234abcd".into());
    device.partitions.iter_mut().for_each(|it| (it.kind, it.uuid) = ("83".into(), String::new()));
    device.partitions[2].flags = 0x80;
    let layout = resolved(layout, device).unwrap();
    let data = &layout.disks[0].partitions[2];
    assert!(data.bootable && data.uuid.is_none() && data.name.is_none() && data.attributes.is_none(), "{data:?}");
    assert_eq!(layout.disks[0].id.as_deref(), Some("0x1234abcd"));
}

type Spoil = fn(&mut Layout, &mut BlockDevice);

#[test]
fn each_misfit_is_refused() {
    const START: &str = "disk0p3 cannot be preserved on /dev/sda (unnamed, 1000 MiB, unknown bus): ";
    let rows: &[(&str, Spoil, &str)] = &[
        ("unseen", |_, d| d.looked_at = false, "what stands on the disk could not be read"),
        (
            "new disk",
            |_, d| {
                d.table.clear();
                d.partitions.clear();
            },
            "the disk has no partition table (gpt or dos), so there is nothing to preserve; on a new disk take the line \
             preserve = true of the partition disk0p3 in the master file away",
        ),
        (
            "another table",
            |_, d| d.table = "dos".into(),
            "the disk has a dos table and the layout a gpt table, and what is preserved stays in its table; write label = \
             \"dos\" into its [[layout.disk]], or take preserve = true away",
        ),
        (
            "the disk is a member",
            |_, d| d.signatures.push(Signature { part_of: "the md array m (u)".into(), ..ext4("") }),
            "the disk as a whole is a part of the md array m (u), which has to go",
        ),
        (
            "absent",
            |_, d| drop(d.partitions.pop()),
            "there is no partition with the number 3 (there: 1 (99 MiB), 2 (200 MiB)); correct number or preserve_label, or \
             take the line preserve = true of the partition disk0p3 in the master file away to have it made",
        ),
        (
            "no such label",
            |l, _| l.disks[0].partitions[2].preserve_label = Some("x".into()),
            "there is no partition with the name or label \"x\" (there: 1 (99 MiB), 2 (200 MiB), 3 \"data \"1\"\" (200 MiB, \
             ext4 \"DATA\"))",
        ),
        (
            "label twice",
            |l, d| {
                l.disks[0].partitions[2].preserve_label = Some("DATA".into());
                d.partitions[0].label = "DATA".into();
            },
            "more than one is a partition with the name or label \"DATA\" (1 \"DATA\" (99 MiB), 3 ",
        ),
        (
            "number taken",
            |l, _| {
                l.disks[0].partitions[2].preserve_label = Some("DATA".into());
                (l.disks[0].partitions[0].number, l.disks[0].partitions[2].number) = (3, 1);
            },
            "it has the number 3 there, which disk0p1 is to get; give disk0p1 another number in the master file",
        ),
        (
            "too small",
            |l, _| l.disks[0].partitions[2].size = Some(Size(201 * MIB)),
            "partition 3 has 200 MiB, and the layout asks for 201 MiB; write size = \"200 MiB\", or leave size and min_size \
             out to keep it as it is",
        ),
        (
            "type",
            |l, _| l.disks[0].partitions[2].kind = "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F".into(),
            "partition 3 has the type 0fc63daf-8483-4772-8e79-3d69d8477de4, and the layout says \
             0657FD6D-A4AB-43C4-84E5-0933C84B4F4F; write type = \"0fc63daf-8483-4772-8e79-3d69d8477de4\", or",
        ),
        (
            "no file system",
            |_, d| d.partitions[2].signatures.clear(),
            "the layout has the file system data (ext4) on it, and partition 3 holds none",
        ),
        (
            "another file system",
            |_, d| d.partitions[2].signatures[0].kind = "xfs".into(),
            "the layout has the file system data (ext4) on it, and partition 3 holds xfs; write type = \"xfs\" for data",
        ),
        (
            "two marks",
            |_, d| d.partitions[2].signatures.push(Signature { kind: "swap".into(), ..Signature::default() }),
            "partition 3 has the marks of ext4 and swap, which contradict each other",
        ),
        (
            "physical volume",
            |l, d| {
                drop(l.filesystems.pop());
                d.partitions[2].signatures = vec![Signature {
                    kind: "LVM2_member".into(),
                    part_of: "the volume group vg0 (x)".into(),
                    ..Signature::default()
                }];
            },
            "partition 3 is a part of the volume group vg0 (x) (LVM2_member), and volumes are not preserved",
        ),
        (
            "member without a name",
            |l, d| {
                drop(l.filesystems.pop());
                d.partitions[2].signatures[0].kind = "linux_raid_member".into();
            },
            "partition 3 is a part (linux_raid_member), and volumes are not preserved",
        ),
        (
            "held",
            |_, d| {
                d.holders = vec![Holder { name: "dm-0".into(), title: "crypt".into(), on: vec!["sda3".into()] }];
            },
            "crypt stands on partition 3; stop it first",
        ),
        (
            "logical",
            |l, d| {
                l.disks[0].label = "dos".into();
                d.table = "dos".into();
                d.partitions[2].number = 5;
                l.disks[0].partitions[2].number = 5;
            },
            "partition 5 is a logical one, which hangs on the partitions beside it; only primary ones (1 to 4) can be",
        ),
        (
            "extended",
            |l, d| {
                l.disks[0].label = "dos".into();
                d.table = "dos".into();
                d.partitions[2].kind = "f".into();
                l.disks[0].partitions[2].kind = "0F".into();
            },
            "partition 3 is the extended one, which only holds others",
        ),
    ];
    for (name, spoil, says) in rows {
        let (mut layout, mut device) = (layout(), device());
        spoil(&mut layout, &mut device);
        let problems = resolved(layout, device).expect_err(name);
        assert_eq!(problems.len(), 1, "{name}: {problems:?}");
        assert!(problems[0].starts_with(&format!("{START}{says}")), "{name}: {}", problems[0]);
    }
    // Asked for less than there is, in the words of min_size, or for exactly that: fine.
    for (size, least) in [(Some(200), None), (Some(1), None), (Some(300), Some(200)), (None, Some(100))] {
        let mut layout = layout();
        let data = &mut layout.disks[0].partitions[2];
        (data.size, data.min_size) = (size.map(|it| Size(it * MIB)), least.map(|it: u64| Size(it * MIB)));
        resolved(layout, device()).unwrap();
    }
}

#[test]
fn what_is_made_must_not_look_like_what_stays() {
    let mut twin = layout();
    twin.filesystems[0].uuid = Some("AA-1".into());
    let problems = resolved(twin, device()).unwrap_err();
    let says = "disk0p3 cannot be preserved: its file system has the UUID aa-1, which root is to get as well; give one of \
                them another (new_uuid = true for root)";
    assert_eq!(problems, [says]);
    let mut twin = layout();
    twin.disks[0].partitions[0].uuid = Some("P-3".into());
    let problems = resolved(twin, device()).unwrap_err();
    assert!(problems[0].starts_with("disk0p3 cannot be preserved: its partition has the UUID p-3, which disk0p1"));
    // Two that are one.
    let mut two = layout();
    two.disks[0].partitions[1].preserve = true;
    two.disks[0].partitions[1].preserve_label = Some("DATA".into());
    two.filesystems.remove(1);
    let problems = resolved(two, device()).unwrap_err();
    assert!(problems.iter().any(|it| it.contains("its partition 3 is disk0p2 already")), "{problems:?}");
}

#[test]
fn a_partitioner_that_does_not_keep_it_is_refused() {
    let before = resolved(layout(), device()).unwrap().disks.remove(0);
    let mut fitted = before.clone();
    (fitted.partitions[0].start, fitted.partitions[1].start) = (Some(Size(MIB)), Some(Size(101 * MIB)));
    fitted.partitions[1].size = Some(Size(199 * MIB));
    assert_eq!(unkept(&before, &fitted), Vec::<String>::new());
    type Change = fn(&mut DiskLayout);
    let rows: [(&str, Change, &str); 7] = [
        ("gone", |l| drop(l.partitions.pop()), "the partitioner leaves it out"),
        ("moved", |l| l.partitions[2].start = Some(Size(301 * MIB)), "the partitioner moves or changes it"),
        ("grown", |l| l.partitions[2].size = Some(Size(201 * MIB)), "the partitioner moves or changes it"),
        ("renamed", |l| l.partitions[2].name = None, "the partitioner moves or changes it"),
        ("renumbered", |l| l.partitions[2].number = 4, "the partitioner moves or changes it"),
        ("table's id", |l| l.id = None, "the partitioner moves or changes it"),
        ("overlaid", |l| l.partitions[1].size = Some(Size(199 * MIB + 512)), "the partitioner lays disk0p2 over it"),
    ];
    for (name, change, says) in rows {
        let mut fitted = fitted.clone();
        change(&mut fitted);
        let problems = unkept(&before, &fitted);
        assert_eq!(problems.len(), 1, "{name}: {problems:?}");
        assert!(problems[0].contains(says), "{name}: {problems:?}");
    }
}

#[test]
fn no_step_may_touch_it() {
    let layout = resolved(layout(), device()).unwrap();
    let run = |argv: Vec<Arg>| Action::Run { argv, stdin: None };
    let inside = |argv: Vec<Arg>| Action::InTarget { argv, stdin: None };
    let at = |name: &str| Arg::Device(node(name));
    let step = |by: &str, action: Action| Step { by: by.into(), ..Step::new(Phase::Format, "it", action) };
    let wipe = || Action::Wipe { disks: vec![node("disk0")] };
    let write =
        |path: &str| Action::WriteFile { path: path.into(), contents: Contents::Bytes(Bytes::default()), mode: 0o644 };
    let mount =
        |name: &str| Action::Mount { node: node(name), at: "/x".into(), fstype: "ext4".into(), options: String::new() };
    let rows: Vec<(&str, Step, Option<&str>)> = vec![
        ("wiping the rest", step("engine", wipe()).destroying([node("disk0")]), None),
        (
            "partitioning",
            step("partitioner x", run(vec!["p".into(), at("disk0")]))
                .destroying([node("disk0p1")])
                .providing([node("disk0p1"), node("disk0p3")]),
            None,
        ),
        (
            "a partitioner that knows of nothing preserved",
            step("partitioner x", run(vec!["p".into(), at("disk0")])).destroying([node("disk0")]),
            Some("destroy disk0"),
        ),
        ("another partition", step("file-system x", run(vec![at("disk0p1")])).destroying([node("disk0p1")]), None),
        ("boot code", step("bootloader x", inside(vec!["grub-install".into(), at("disk0")])), None),
        ("another device", step("file-system x", run(vec!["/dev/sda30".into()])), None),
        ("a file beside it", step("host-identity x", write("/srv/database")), None),
        ("its mount point", step("engine", Action::MakeDirectory { path: "/srv/data".into(), mode: 0o755 }), None),
        (
            "destroyed",
            step("file-system x", run(vec!["mkfs".into()])).destroying([node("disk0p3")]),
            Some("destroy disk0p3"),
        ),
        (
            "its file system destroyed",
            step("partitioner x", run(vec![])).destroying([node("data")]),
            Some("destroy data"),
        ),
        ("destroyed by the engine", step("engine", wipe()).destroying([node("disk0p3")]), Some("destroy disk0p3")),
        ("made", step("file-system x", run(vec![])).providing([node("data")]), Some("make data")),
        ("formatted, unsaid", step("file-system x", run(vec![at("data")])), Some("give data to a program")),
        (
            "discarded by the partitioner",
            step("partitioner x", run(vec!["blkdiscard".into(), at("disk0p3")])),
            Some("give disk0p3 to a program"),
        ),
        (
            "by a prefix",
            step("bootloader x", inside(vec![Arg::PrefixedDevice("--to=".into(), node("disk0p3"))])),
            Some("give disk0p3 to a program"),
        ),
        ("by its device", step("file-system x", run(vec!["of=/dev/sda3".into()])), Some("give /dev/sda3 to a program")),
        (
            "the whole disk destroyed",
            step("file-system x", run(vec![])).destroying([node("disk0")]),
            Some("destroy disk0"),
        ),
        ("the whole disk", step("file-system x", run(vec![at("disk0")])), Some("give disk0 to a program")),
        ("mounted", step("file-system x", mount("data")), Some("mount data")),
        ("mounted by the engine", step("engine", mount("data")), Some("mount data")),
        ("written to", step("host-identity x", write("/srv/data/x")), Some("write to /srv/data")),
        (
            "written below",
            step("host-identity x", write("/etc/x")).writing([Written::below("/srv/data/")]),
            Some("write to /srv/data"),
        ),
    ];
    for (name, step, says) in rows {
        let problems = guard(&layout, &chosen(device()), std::slice::from_ref(&step));
        let expected: Vec<String> = says
            .iter()
            .map(|says| {
                format!(
                    "{}: the step \"it\" would {says}, and disk0p3 is preserved; report it to the plugin's author",
                    step.by
                )
            })
            .collect();
        assert_eq!(problems, expected, "{name}");
        // Where nothing is preserved all of it may be.
        let mut free = layout.clone();
        free.disks[0].partitions[2].preserve = false;
        assert!(guard(&free, &chosen(device()), &[step]).is_empty(), "{name}");
    }
}

#[test]
fn the_installed_machine_mounts_it() {
    let wanted = layout();
    let found = resolved(layout(), device()).unwrap();
    let entry = |spec: &str, file: &str, fstype: &str, options: &str| FstabEntry {
        spec: spec.into(),
        file: file.into(),
        fstype: fstype.into(),
        options: options.split(',').map(str::to_owned).collect(),
    };
    let root = entry("UUID=r-1", "/", "ext4", "defaults");
    let line = |prefix: &str, line: &str| Some((prefix.to_owned(), line.to_owned()));
    let ours = "UUID=aa-1\t/srv/data\text4\tnoatime\t0\t2";
    let rows = [
        ("none", vec![], line("UUID=aa-1", "UUID=aa-1\t/srv/data\text4\tdefaults\t0\t2"), 2),
        ("its UUID", vec![entry("UUID=AA-1", "/srv/data", "ext4", "noatime")], None, 2),
        ("its label", vec![entry("LABEL=DATA", "/srv/data/", "ext4", "noatime")], None, 2),
        ("its name", vec![entry("PARTLABEL=data \"1\"", "/srv/data", "ext4", "noatime")], None, 2),
        ("its PARTUUID", vec![entry("PARTUUID=P-3", "/srv/data", "ext4", "noatime")], None, 2),
        ("the master's UUID", vec![entry("UUID=d-1", "/srv/data", "ext4", "noatime")], line("UUID=d-1", ours), 2),
        ("another label", vec![entry("LABEL=x", "/srv/data", "auto", "noatime")], line("LABEL=x", ours), 2),
        ("a kernel's name", vec![entry("/dev/sda3", "/srv/data", "ext4", "noatime")], None, 2),
    ];
    for (name, entries, expected, count) in rows {
        let mut problems = Vec::new();
        let fstab: Vec<FstabEntry> = std::iter::once(root.clone()).chain(entries).collect();
        let (steps, after) = mounted_later(&wanted, &found, &fstab, &mut problems);
        assert!(problems.is_empty(), "{name}: {problems:?}");
        assert!(steps.iter().all(|step| step.by == "engine" && step.phase == Phase::Identity), "{name}");
        assert_eq!(steps[0].action, Action::MakeDirectory { path: "/srv/data".into(), mode: 0o755 }, "{name}");
        let said = steps.get(1).map(|step| match &step.action {
            Action::SetLine { prefix, line, .. } => (prefix.clone(), line.clone()),
            other => panic!("{name}: {other:?}"),
        });
        assert_eq!(said, expected, "{name}");
        assert_eq!(after.len(), count, "{name}");
        assert!(expected.is_none() || after[1].spec == "UUID=aa-1", "{name}: {after:?}");
    }
    // One line for two entries cannot be told which is meant.
    let twice = [entry("UUID=d-1", "/srv/data", "ext4", ""), entry("UUID=d-1", "/other", "ext4", "")];
    let mut problems = Vec::new();
    mounted_later(&wanted, &found, &twice, &mut problems);
    let says =
        "the image's /etc/fstab names UUID=d-1 more than once, and the preserved disk0p3 has the UUID aa-1; write";
    assert!(problems.len() == 1 && problems[0].starts_with(says), "{problems:?}");
}

#[test]
fn preserved_swap_is_named_in_fstab() {
    let mut wanted = layout();
    wanted.disks[0].partitions[1].preserve = true;
    let mut device = device();
    let swap = Signature { kind: "swap".into(), uuid: "bb-2".into(), ..Signature::default() };
    device.partitions[1].signatures = vec![swap];
    let found = resolved(wanted.clone(), device).unwrap();
    let entry =
        |spec: &str| FstabEntry { spec: spec.into(), file: "none".into(), fstype: "swap".into(), options: vec![] };
    let lines = |fstab: &[FstabEntry]| -> Vec<String> {
        let (steps, _) = mounted_later(&wanted, &found, fstab, &mut Vec::new());
        let line = |step: Step| match step.action {
            Action::SetLine { line, .. } if line.contains("swap") => Some(line),
            _ => None,
        };
        steps.into_iter().filter_map(line).collect()
    };
    assert_eq!(lines(&[entry("UUID=s-1")]), ["UUID=bb-2\tnone\tswap\tdefaults\t0\t0"]);
    assert!(lines(&[entry("UUID=other")]).is_empty(), "of another disk");
    assert!(lines(&[]).is_empty());
}
