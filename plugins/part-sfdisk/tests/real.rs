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
use systemimager_core::{Action, Arg, BlockDevice, DiskLayout, NodeName, PartitionLayout, Size, ToolOutput};

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

/// Tables with a partition of 40 MiB at 100 MiB that stays, its number, and the layout that is wanted beside it: number,
/// MiB (none: what is left), type.
type Around = (&'static str, &'static str, u32, &'static [(u32, Option<u64>, &'static str)]);

const AROUND: [Around; 2] = [
    (
        "gpt",
        "label: gpt\nlabel-id: 11111111-2222-3333-4444-555555555555\n\n1 : start=2048, size=102400, type=L\n\
         2 : start=104448, size=100352, type=S\n\
         3 : start=204800, size=81920, type=L, name=\"d\\x22a\\x5c \\xc3\\xa9\", attrs=\"LegacyBIOSBootable GUID:48,63\", \
         uuid=AAAAAAAA-BBBB-CCCC-DDDD-EEEEEEEEEEEE\n7 : start=286720, size=2048, type=L\n",
        3,
        &[
            (1, Some(60), "0FC63DAF-8483-4772-8E79-3D69D8477DE4"),
            (2, None, "0FC63DAF-8483-4772-8E79-3D69D8477DE4"),
            (4, Some(90), "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"),
        ],
    ),
    (
        "dos",
        "label: dos\nlabel-id: 0x12345678\n\n1 : start=2048, size=202752, type=83\n\
         2 : start=204800, size=81920, type=83, bootable\n3 : start=286720, size=122880, type=5\n\
         5 : start=288768, size=20480, type=83\n6 : start=311296, size=20480, type=83\n",
        2,
        &[(1, Some(30), "83"), (3, Some(60), "5"), (5, Some(20), "83"), (6, None, "82")],
    ),
];

#[test]
fn what_is_preserved_stays_to_the_byte() {
    const TEST: &str = "what_is_preserved_stays_to_the_byte";
    if !there(TEST) {
        return;
    }
    for (name, script, number, wanted) in AROUND {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        file(&path, 300 * MIB);
        assert!(run("sfdisk", &["--quiet", &path.to_string_lossy()], script).status.success(), "{name}");
        let Some(device) = Loop::new(TEST, &path, "512") else { return };
        let there = disk(Path::new(&device.0), 300 * MIB, 512);
        let partitions = |hows: &[&str]| hows.iter().for_each(|how| drop(run("partx", &[how, &device.0], "")));
        partitions(&["-a"]);
        let kept_device = format!("{}p{number}", device.0);
        for (device, label) in [(kept_device.clone(), "keep"), (format!("{}p1", device.0), "old")] {
            let made = run("mkfs.ext4", &["-q", "-F", "-L", label, &device], "");
            assert!(made.status.success(), "{name}: {}", String::from_utf8_lossy(&made.stderr));
        }
        // Every byte counts, the last ones too; and something that looks like a table within.
        let raw = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        raw.write_all_at(&[0x5a; 4096], 140 * MIB - 4096).unwrap();
        let before = capture(&there);
        let kept = before.partitions.iter().find(|it| it.number == number).unwrap().clone();
        assert_eq!((kept.start, kept.size), (Some(Size(100 * MIB)), Some(Size(40 * MIB))), "{name}");
        let bytes = || {
            assert!(run("blockdev", &["--flushbufs", &device.0], "").status.success());
            let mut bytes = vec![0; 40 * MIB as usize];
            raw.read_exact_at(&mut bytes, 100 * MIB).unwrap();
            bytes
        };
        let old = bytes();
        assert!(old.iter().any(|byte| *byte != 0), "{name}");

        let mut layout = DiskLayout { partitions: Vec::new(), ..before.clone() };
        layout.partitions.push(PartitionLayout { preserve: true, ..kept.clone() });
        for (number, size, kind) in wanted {
            let node = NodeName::try_from(format!("disk0p{number}").as_str()).unwrap();
            let size = size.map(|it| Size(it * MIB));
            layout.partitions.push(PartitionLayout { size, ..PartitionLayout::new(node, *number, *kind) });
        }
        let fitted = fit(&layout, &there);
        // A second time over itself: what a retry does.
        for round in 1..=2 {
            for step in Sfdisk.plan(&RecordedHost::new(), PartitionerPlan { layout: fitted.clone() }).unwrap() {
                // The kernel here may know no tables.
                partitions(&["-d", "-a"]);
                let Action::Run { argv, stdin } = step.action else { continue };
                let word = |arg: &Arg| match arg {
                    Arg::Text(text) => text.to_string(),
                    Arg::Device(node) if node.as_str() == "disk0" => device.0.clone(),
                    Arg::Device(node) => node.as_str().replace("disk0", &device.0),
                    other => panic!("{other:?}"),
                };
                let mut words: Vec<String> = argv.iter().map(word).collect();
                assert!(!words.contains(&kept_device), "{name}: {words:?}");
                if words[0] == "sfdisk" {
                    // Its partitions were added by hand, and so it takes the disk for used.
                    words.insert(1, "--no-reread".into());
                }
                let args: Vec<&str> = words[1..].iter().map(String::as_str).collect();
                let output = run(&words[0], &args, &stdin.unwrap_or_default());
                assert!(output.status.success(), "{name}: {words:?}\n{}", String::from_utf8_lossy(&output.stderr));
            }
            assert!(bytes() == old, "{name}: a byte of what is preserved is another, round {round}");
            let after = capture(&there);
            assert_eq!(after.id, before.id, "{name}");
            assert_eq!(after.partitions.iter().find(|it| it.number == number), Some(&kept), "{name}");
            let places = |layout: &DiskLayout| -> Vec<_> {
                layout.partitions.iter().map(|it| (it.number, it.start, it.size)).collect()
            };
            assert_eq!(places(&after), places(&fitted), "{name}");
            println!(
                "{name}, round {round}: {}",
                String::from_utf8_lossy(&run("sfdisk", &["--dump", &device.0], "").stdout)
            );
        }
        partitions(&["-d", "-a"]);
        let label = |number: u32| {
            let device = format!("{}p{number}", device.0);
            String::from_utf8(run("blkid", &["-p", "-o", "value", "-s", "LABEL", &device], "").stdout).unwrap()
        };
        assert_eq!((label(number).trim(), label(1).trim()), ("keep", ""), "{name}: old signatures beside it are gone");
        partitions(&["-d"]);
    }
}
