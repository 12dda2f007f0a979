//! The plugin against the real sfdisk(8), on files that stand for disks: what it captures, fits and plans
//! is what sfdisk then writes and reads.
#![allow(clippy::disallowed_methods, reason = "a test runs the program that the plan names, as the engine would")]

use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use part_sfdisk::Sfdisk;
use systemimager_core::contract::{Partitioner, PartitionerCapture, PartitionerFit, PartitionerPlan};
use systemimager_core::testing::RecordedHost;
use systemimager_core::{Action, Arg, BlockDevice, DiskLayout, NodeName, Size, ToolOutput};

const MIB: u64 = 1 << 20;

fn there(test: &str) -> bool {
    let there = Command::new("sfdisk").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !there {
        eprintln!("SKIPPED: {test}: there is no sfdisk; install the package fdisk");
    }
    there
}

fn disk(path: &Path, size: u64, sector_size: u32) -> BlockDevice {
    BlockDevice { path: path.into(), size: Size(size), sector_size, ..BlockDevice::default() }
}

fn file(path: &Path, size: u64) {
    let _ = std::fs::remove_file(path);
    std::fs::File::create(path).unwrap().set_len(size).unwrap();
}

fn run(program: &str, args: &[&str], stdin: &str) -> std::process::Output {
    let mut child = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn capture(disk: &BlockDevice) -> DiskLayout {
    let output = run("sfdisk", &["--json", &disk.path.to_string()], "");
    let mut host = RecordedHost::new();
    host.tools.insert(
        format!("sfdisk --json {}", disk.path),
        ToolOutput {
            code: output.status.code().unwrap(),
            stdout: output.stdout.into(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        },
    );
    let node = NodeName::try_from("disk0").unwrap();
    Sfdisk.capture(&host, PartitionerCapture { disk: disk.clone(), node }).unwrap()
}

fn fit(layout: &DiskLayout, disk: &BlockDevice) -> DiskLayout {
    let request = PartitionerFit { layout: layout.clone(), disk: disk.clone() };
    Sfdisk.fit(&RecordedHost::new(), request).unwrap()
}

/// Runs the plan's programs, with the file in place of the disk's node.
fn apply(layout: &DiskLayout, disk: &BlockDevice) {
    for step in Sfdisk.plan(&RecordedHost::new(), PartitionerPlan { layout: layout.clone() }).unwrap() {
        let Action::Run { argv, stdin } = step.action else { continue };
        let words: Vec<String> = argv
            .iter()
            .map(|arg| match arg {
                Arg::Text(text) => text.to_string(),
                Arg::Device(node) if node.as_str() == "disk0" => disk.path.to_string(),
                other => panic!("{other:?}"),
            })
            .collect();
        let args: Vec<&str> = words[1..].iter().map(String::as_str).collect();
        let stdin = stdin.unwrap_or_default();
        let output = run(&words[0], &args, &stdin);
        assert!(output.status.success(), "{words:?}\n{stdin}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Fills every partition to its last byte: no part of the table lies in one.
fn fill(layout: &DiskLayout, path: &Path) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    for partition in layout.partitions.iter().filter(|part| !matches!(part.kind.as_str(), "5" | "f" | "85")) {
        let (start, size) = (partition.start.unwrap().0, partition.size.unwrap().0);
        let ends = [(start, size.min(2 * MIB)), (start + size - size.min(2 * MIB), size.min(2 * MIB))];
        for (at, length) in ends {
            file.write_all_at(&vec![0xff; length as usize], at).unwrap();
        }
    }
}

const TABLES: &[(&str, &str)] = &[
    (
        "gpt with names, attributes, gaps in the numbers, out of order, from the first sector on",
        "label: gpt\nlabel-id: 11111111-2222-3333-4444-555555555555\nunit: sectors\nfirst-lba: 34\n\n\
         14 : start=34, size=2014, type=21686148-6449-6E6F-744E-656564454649, name=\"a\\x22b\\x5cc\\x0ad \\xc3\\xa9, x=1\"\n\
         15 : start=2048, size=20480, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, attrs=\"LegacyBIOSBootable GUID:63\"\n\
         1 : start=22529, size=100001, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, \
         uuid=21686148-6449-6E6F-744E-656564454640\n",
    ),
    (
        "gpt to the last sector",
        "label: gpt\n\n1 : start=2048, size=407519, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4\n",
    ),
    ("gpt without partitions", "label: gpt\n"),
    (
        "dos",
        "label: dos\nlabel-id: 0x12345678\n\n1 : start=2048, size=20480, type=83, bootable\n3 : start=40960, size=20480, type=82\n",
    ),
    (
        "dos as Debian's installer makes it",
        "label: dos\n\n1 : start=2048, size=20480, type=83, bootable\n2 : start=24574, size=200706, type=5\n\
         5 : start=24576, size=20480, type=83\n6 : start=47104, size=178176, type=82\n",
    ),
    (
        "dos of old, by tracks",
        "label: dos\n\n1 : start=63, size=20417, type=83\n4 : start=20480, size=200706, type=f\n\
         5 : start=20543, size=20480, type=83\n6 : start=41086, size=20480, type=83\n7 : start=61629, size=20480, type=82\n",
    ),
    (
        "dos, the chain out of order",
        "label: dos\n\n4 : start=20480, size=200706, type=5\n5 : start=81920, size=20480, type=83\n\
         6 : start=22528, size=20480, type=82\n",
    ),
    (
        "dos, logical partitions a sector apart",
        "label: dos\n\n2 : start=20480, size=200706, type=85\n5 : start=20481, size=20479, type=83\n\
         6 : start=40961, size=20479, type=82\n7 : start=61441, size=20479, type=82\n",
    ),
    ("dos, an empty container", "label: dos\n\n1 : start=2048, size=200706, type=5\n"),
];

#[test]
fn captured_fitted_and_written_is_the_same_again() {
    if !there("captured_fitted_and_written_is_the_same_again") {
        return;
    }
    // sfdisk waits a quarter of a second before it writes: the tables go side by side.
    std::thread::scope(|scope| {
        for (name, script) in TABLES {
            scope.spawn(move || round_trip(name, script));
        }
    });
}

fn round_trip(name: &str, script: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (master, target) = (dir.path().join("master"), dir.path().join("target"));
    file(&master, 200 * MIB);
    let output = run("sfdisk", &["--quiet", &master.to_string_lossy()], script);
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let captured = capture(&disk(&master, 200 * MIB, 512));
    assert_eq!(captured.partitions.len(), script.matches("start=").count(), "{name}");

    for size in [200 * MIB, 333 * MIB] {
        file(&target, size);
        let there = disk(&target, size, 512);
        let fitted = fit(&captured, &there);
        assert_eq!(fitted.partitions, captured.partitions, "{name}");
        // Over another table, and over itself.
        run("sfdisk", &["--quiet", &target.to_string_lossy()], "label: gpt\n\n1 : start=2048, size=4096\n");
        for _ in 0..2 {
            apply(&fitted, &there);
            assert_eq!(capture(&there), fitted, "{name} on {size}");
            fill(&fitted, &target);
            assert_eq!(capture(&there), fitted, "{name} on {size}, partitions filled");
        }
    }

    // Each partition opened in turn, on a larger and on a slightly smaller disk.
    for (opened, size) in (0..captured.partitions.len()).flat_map(|index| [(index, 333), (index, 199)]) {
        let mut layout = captured.clone();
        layout.partitions[opened].size = None;
        file(&target, size * MIB);
        let there = disk(&target, size * MIB, 512);
        let fitted = fit(&layout, &there);
        apply(&fitted, &there);
        assert_eq!(capture(&there), fitted, "{name}, {opened} open, on {size} MiB");
        fill(&fitted, &target);
        assert_eq!(capture(&there), fitted, "{name}, {opened} open, on {size} MiB, partitions filled");
    }
}

/// A loop device that goes when it is dropped.
struct Loop(String);

impl Loop {
    /// None, having said why, where there can be none.
    fn new(test: &str, file: &Path, sector_size: &str) -> Option<Self> {
        let output = run("losetup", &["--find", "--show", "--sector-size", sector_size, &file.to_string_lossy()], "");
        if output.status.success() {
            return Some(Self(String::from_utf8(output.stdout).unwrap().trim().to_owned()));
        }
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        eprintln!("SKIPPED: {test}: no loop device with sectors of {sector_size} bytes ({why}); it needs root");
        None
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run("losetup", &["--detach", &self.0], "");
    }
}

#[test]
fn a_disk_without_a_table() {
    const TEST: &str = "a_disk_without_a_table";
    if !there(TEST) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    file(&path, 20 * MIB);
    // A device: from a plain file wipefs takes no partition table.
    let Some(device) = Loop::new(TEST, &path, "512") else { return };
    let there = disk(Path::new(&device.0), 20 * MIB, 512);
    let layout = capture(&there);
    assert_eq!((layout.label.as_str(), layout.partitions.len()), ("none", 0));
    run("sfdisk", &["--quiet", &path.to_string_lossy()], "label: gpt\n\n1 : start=2048, size=4096\n");
    assert_eq!(capture(&there).label, "gpt");
    apply(&fit(&layout, &there), &there);
    assert_eq!(capture(&there), layout);
}

#[test]
fn sectors_of_4096_bytes() {
    const TEST: &str = "sectors_of_4096_bytes";
    if !there(TEST) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (master, target) = (dir.path().join("master"), dir.path().join("target"));
    file(&target, 333 * MIB);
    let Some(device) = Loop::new(TEST, &target, "4096") else { return };
    let there = disk(Path::new(&device.0), 333 * MIB, 4096);
    for (name, script) in TABLES {
        file(&master, 200 * MIB);
        assert!(run("sfdisk", &["--quiet", &master.to_string_lossy()], script).status.success(), "{name}");
        let captured = capture(&disk(&master, 200 * MIB, 512));
        let fitted = fit(&captured, &there);
        apply(&fitted, &there);
        assert_eq!(capture(&there), fitted, "{name}");
        for (before, after) in captured.partitions.iter().zip(&fitted.partitions) {
            let container = ["5", "f", "85"].contains(&before.kind.as_str());
            assert!(container || after.size >= before.size, "{name}: {after:?}");
        }
    }
}
