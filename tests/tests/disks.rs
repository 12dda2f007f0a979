//! The right disk of several, whatever the order in which they are attached; and what is preserved on it.
//!
//! A machine with four disks of different kinds and a USB stick is told to install itself, with a rule of another
//! kind each time. Up to the break point after the file systems are made only the chosen disk may have changed; the
//! last time the machine is installed wholly, on a disk that carries an old md array, an old volume group, and a
//! partition that has to stay as it is. What cannot be carried out leaves every disk as it was.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use systemimager_tests::lab::disk::{Loop, copy_raw, make_raw};
use systemimager_tests::lab::machine::{Boot, Bus, Machine, Running};
use systemimager_tests::lab::master::{Distribution, Table, disk_image};
use systemimager_tests::lab::run;
use systemimager_tests::lab::wait::wait_until;
use systemimager_tests::need::Need;
use systemimager_tests::require;
use systemimager_tests::story::{Client, IMAGE, Story};

const MIB: u64 = 1 << 20;
/// How long an emulated machine may take from power-on to a break point, or to be installed.
const INSTALL: Duration = Duration::from_secs(900);

/// A disk of the machine: its name in this test and serial number, how it is attached, MiB, and QEMU's properties.
struct Kind {
    name: &'static str,
    bus: Bus,
    mebibytes: u64,
    property: Option<&'static str>,
}

const KINDS: [Kind; 5] = [
    Kind { name: "VIRTIO", bus: Bus::VirtioBlk, mebibytes: 3072, property: None },
    Kind { name: "SATA", bus: Bus::Ahci, mebibytes: 5120, property: None },
    Kind { name: "NVME", bus: Bus::Nvme, mebibytes: 6144, property: None },
    // One that says it does not rotate.
    Kind { name: "SCSI", bus: Bus::VirtioScsi, mebibytes: 4300, property: Some("rotation_rate=1") },
    Kind { name: "STICK", bus: Bus::Usb, mebibytes: 3300, property: None },
];

/// Where the preserved partition lies on the disk SCSI, MiB: where the layout has the root file system.
const KEPT: std::ops::Range<u64> = 1400..1700;
/// A file in it.
const DIARY: &str = "written long before this machine was installed\n";

/// What an order of attachment is told, and which disk that means. The first of the PCI slots is 4.
const ROUNDS: [(&str, [usize; 5], &str, &str); 5] = [
    ("serial", [0, 1, 2, 3, 4], "serial = \"NVME\"", "NVME"),
    ("size range", [4, 3, 2, 1, 0], "min_size = \"5000 MiB\", max_size = \"5200 MiB\"", "SATA"),
    ("path", [2, 4, 0, 3, 1], "path = \"pci-0000:00:06.0\"", "VIRTIO"),
    ("model", [3, 0, 4, 1, 2], "model = \"QEMU NVMe*\"", "NVME"),
    ("rotational", [1, 4, 3, 2, 0], "rotational = false, max_size = \"5 GiB\"", "SCSI"),
];

fn image_of(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.raw"))
}

/// A hash of what a raw image holds, whatever of it are holes.
fn hash_of(path: &Path, range: std::ops::Range<u64>) -> blake3::Hash {
    use rustix::fs::{SeekFrom, seek};
    let file = File::open(path).expect("the image is there");
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; MIB as usize];
    let mut at = range.start;
    // Nothing follows the last data.
    while let Ok(data) = seek(&file, SeekFrom::Data(at)) {
        at = data / 4096 * 4096;
        if at >= range.end {
            break;
        }
        let length = buffer.len().min((range.end - at) as usize);
        let read = file.read_at(&mut buffer[..length], at).expect("it can be read");
        for (index, block) in buffer[..read].chunks(4096).enumerate() {
            if block.iter().any(|byte| *byte != 0) {
                hasher.update(&(at + index as u64 * 4096).to_le_bytes());
                hasher.update(block);
            }
        }
        at += read.max(1) as u64;
    }
    hasher.finalize()
}

type Hashes = BTreeMap<&'static str, blake3::Hash>;

fn hashes(directory: &Path) -> Hashes {
    KINDS.iter().map(|kind| (kind.name, hash_of(&image_of(directory, kind.name), 0..u64::MAX))).collect()
}

fn kept(directory: &Path) -> blake3::Hash {
    hash_of(&image_of(directory, "SCSI"), KEPT.start * MIB..KEPT.end * MIB)
}

/// The machine with its disks attached in this order; `first` is the one that firmware starts from.
fn machine(story: &Story, client: &Client, order: &[usize; 5], first: Option<&str>) -> Machine {
    let mut machine = story.diskless(client).expect("a machine");
    for (slot, index) in (4..).zip(order) {
        let kind = &KINDS[*index];
        machine = machine.disk(&image_of(&story.directory, kind.name), kind.bus).slot(slot).serial(kind.name);
        for property in kind.property.into_iter().chain((first == Some(kind.name)).then_some("bootindex=0")) {
            machine = machine.property(property);
        }
    }
    machine
}

/// A disk with a file system of its own.
fn fresh(directory: &Path, kind: &Kind) {
    let path = image_of(directory, kind.name);
    if path.exists() {
        std::fs::remove_file(&path).expect("removed");
    }
    make_raw(&path, kind.mebibytes * MIB).expect("a disk");
    if kind.name != "SCSI" {
        let words = ["mkfs.ext4", "-q", "-F", "-L", kind.name, &path.to_string_lossy()];
        run::run_argv(&words).expect("something stands on it");
    }
}

/// Disks that have something on them that must not get lost.
fn fill(story: &Story) {
    for kind in &KINDS {
        fresh(&story.directory, kind);
    }
    let path = image_of(&story.directory, "SCSI");
    // Number 3 only so that partx sees the one after it.
    let parts = [(1, 1..601, "fd"), (2, 700..1300, "8e"), (3, 1310..1320, "83"), (4, KEPT, "83")];
    let line = |(number, place, kind): &(u32, std::ops::Range<u64>, &str)| {
        format!("{number} : start={}, size={}, type={kind}\n", place.start * 2048, (place.end - place.start) * 2048)
    };
    let table =
        format!("label: dos\nlabel-id: 0x5ca1ab1e\nunit: sectors\n\n{}", parts.iter().map(line).collect::<String>());
    let script = story.directory.join("table");
    std::fs::write(&script, table).expect("written");
    let mut sfdisk = run::program("sfdisk");
    sfdisk.arg("--quiet").arg(&path).stdin(File::open(&script).expect("the script"));
    run::run(&mut sfdisk).expect("a table");
    let attached = Loop::attach(&path).expect("a loop device");
    run::run_argv(&["mkfs.ext4", "-q", "-L", "keepme", &attached.partition(4)]).expect("a file system");
    let mount = attached.mount(4).expect("it mounts");
    std::fs::write(mount.path().join("diary"), DIARY).expect("written");
    std::fs::create_dir(mount.path().join("many")).expect("made");
    for number in 0_u32..200 {
        let text = number.to_string().repeat(1000 + number as usize * 50);
        std::fs::write(mount.path().join(format!("many/{number}")), text).expect("written");
    }
    mount.close().expect("unmounts");
    drop(attached);
    old_storage(story, &path);
}

/// Shared objects that a program of this computer asks for.
fn libraries(program: &str) -> Vec<PathBuf> {
    let told = run::run_argv(&["ldd", program]).expect("ldd");
    told.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

/// Makes an array on the first partition and a volume group on the second, in a machine that can: the kernel here may
/// have neither.
fn old_storage(story: &Story, disk: &Path) {
    const SCRIPT: &str = r#"#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
old() { LD_LIBRARY_PATH=/old /old/ld.so "/old/$@"; }
if [ $$ != 1 ]; then
	set -ex
	modprobe raid1
	modprobe dm-mod
	old mdadm --create /dev/md0 --run --level=1 --raid-devices=2 --metadata=1.2 --name=oldarray /dev/vdb1 missing
	mkfs.ext4 -q -F -L onmd /dev/md0
	settings="devices { obtain_device_list_from_udev=0 scan=[ \"/dev\" ] } activation { udev_sync=0 udev_rules=0 }"
	old lvm pvcreate --config "$settings" -y /dev/vdb2
	old lvm vgcreate --config "$settings" oldgroup /dev/vdb2
	old lvm lvcreate --config "$settings" -y -Wn -Zn -L 100M -n oldvolume oldgroup
	mkfs.ext4 -q -F -L onlvm /dev/mapper/oldgroup-oldvolume
	grep -q '^md0 : active raid1' /proc/mdstat
	sync
	old lvm vgchange --config "$settings" -an oldgroup
	old mdadm --stop /dev/md0
	echo OLD-STORAGE-MADE
	exit
fi
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
exec < /dev/null > /dev/console 2>&1
sh "$0" || echo OLD-STORAGE-FAILED
sync
mount -o remount,ro /
echo s > /proc/sysrq-trigger
echo o > /proc/sysrq-trigger
exec sleep 1000
"#;
    let root = story.directory.join("tools.raw");
    copy_raw(&disk_image(Distribution::Debian, Table::Mbr).expect("the lab's disk"), &root).expect("a copy");
    let attached = Loop::attach(&root).expect("a loop device");
    let uuid = run::run_argv(&["blkid", "-p", "-o", "value", "-s", "UUID", &attached.partition(2)]).expect("blkid");
    let mount = attached.mount(2).expect("it mounts");
    let old = mount.path().join("old");
    std::fs::create_dir(&old).expect("made");
    for program in ["/usr/sbin/mdadm", "/usr/sbin/lvm"] {
        let files = libraries(program).into_iter().chain([PathBuf::from(program)]);
        for file in files {
            let name = file.file_name().expect("a name").to_string_lossy().into_owned();
            let name = if name.starts_with("ld-linux") { "ld.so".to_owned() } else { name };
            std::fs::copy(&file, old.join(name)).expect("copied");
        }
    }
    let script = mount.path().join("old-storage");
    std::fs::write(&script, SCRIPT).expect("written");
    run::run(run::program("chmod").arg("755").arg(&script)).expect("chmod");
    mount.close().expect("unmounts");
    drop(attached);

    let boot = story.image().join("boot");
    let named = |prefix: &str| -> PathBuf {
        let mut found: Vec<PathBuf> = std::fs::read_dir(&boot)
            .expect("the image has /boot")
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
            .collect();
        found.sort();
        found.pop().expect(prefix)
    };
    let boot = Boot::Kernel {
        kernel: named("vmlinuz-"),
        initrd: Some(named("initrd.img-")),
        append: format!("root=UUID={} rw init=/old-storage console=ttyS0,115200 panic=-1", uuid.trim()),
    };
    let machine =
        Machine::new("old", &story.directory).disk(&root, Bus::VirtioBlk).disk(disk, Bus::VirtioBlk).boot(boot);
    let mut machine = machine.exit_on_restart().spawn().expect("it starts");
    let line = machine.wait_serial("OLD-STORAGE-", INSTALL).expect("it says how it went");
    machine.wait_exit(Duration::from_secs(120)).expect("it goes down");
    assert!(line.contains("MADE"), "{}", run::tail(&machine.serial(), 60));
    std::fs::remove_file(root).expect("removed");
    let kinds = |number: u32| kind_on(disk, number);
    assert_eq!((kinds(1).as_str(), kinds(2).as_str()), ("linux_raid_member", "LVM2_member"));
}

/// What libblkid sees on a partition of a disk's image.
fn kind_on(disk: &Path, number: u32) -> String {
    let attached = Loop::attach_read_only(disk).expect("a loop device");
    let words = ["blkid", "-p", "-o", "value", "-s", "TYPE", &attached.partition(number)];
    run::run_argv(&words).unwrap_or_default().trim().to_owned()
}

/// The master file, changed as an administrator would.
struct MasterFile {
    path: PathBuf,
    text: String,
}

/// The preserved partition, in the words of a master file.
const PRESERVED: &str = r#"
[[layout.disk.partition]]
node = "disk0p4"
number = 4
type = "83"
preserve = true
preserve_label = "keepme"
"#;
const ITS_FILE_SYSTEM: &str = r#"
[[layout.filesystem]]
node = "kept"
on = "disk0p4"
type = "ext4"

[[layout.mount]]
node = "kept"
at = "/data"
"#;

impl MasterFile {
    fn of(story: &Story) -> Self {
        let path = story.root().join("tftpboot/systemimager").join(format!("{IMAGE}.master"));
        let text = std::fs::read_to_string(&path).expect("getimage wrote it");
        Self { path, text }
    }

    fn with(&self, rule: &str, change: impl FnOnce(String) -> String) {
        let old = "match = { order = 0 }";
        assert!(self.text.contains(old), "{}", self.text);
        let text = change(self.text.replace(old, &format!("match = {{ {rule} }}")));
        std::fs::write(&self.path, text).expect("written");
    }

    /// With the preserved partition beside the captured ones.
    fn preserving(&self, rule: &str, label: &str) {
        self.with(rule, |text| {
            let at = text.find("[[layout.filesystem]]").expect("file systems come after the partitions");
            // What stands before belongs to the file systems: comments.
            let at = text[..at].rfind("\n\n").expect("a gap");
            let partition = PRESERVED.replace("keepme", label);
            format!("{}\n{partition}{}\n{ITS_FILE_SYSTEM}", &text[..at], &text[at..])
        });
    }
}

/// What `status` says of the machine.
fn status(story: &Story) -> Value {
    let status: Value = serde_json::from_str(&story.run(&["--json", "status"]).expect("status")).expect("JSON");
    let machines = status["machines"].as_array().expect("machines");
    machines.iter().find(|it| it["host"] == "node1").cloned().unwrap_or_default()
}

fn wait_state(story: &Story, state: &str) -> Value {
    wait_until(Duration::from_secs(120), state, || Ok(Some(status(story)).filter(|it| it["state"] == state)))
        .expect("a state")
}

/// Waits for a refusal; it names each of `says`, on the serial port and in `status`.
fn refused(story: &Story, machine: &mut Running, name: &str, says: &[&str]) {
    machine.wait_serial("install failed at", INSTALL).expect("it fails");
    let mut text = String::new();
    let told = wait_until(Duration::from_secs(120), "the refusal in status", || {
        let told = status(story);
        text = told["message"].as_str().unwrap_or_default().to_owned();
        Ok((told["state"] == "failed" && says.iter().all(|line| text.contains(line))).then_some(()))
    });
    println!("refused, {name}:\n{text}\n");
    assert!(told.is_ok(), "{name}: not all of {says:?} are in the status: {text}");
    let serial = machine.serial();
    for line in says {
        assert!(serial.contains(line), "{name}: {line:?} is not on the serial port:\n{}", run::tail(&serial, 30));
    }
}

#[test]
fn the_right_disk_whatever_the_order_and_what_is_preserved_stays() {
    require!(Need::VirtualMachines, Need::Long, Need::Program("mdadm"), Need::Program("lvm"), Need::Program("ldd"),);
    let begun = Instant::now();
    let passed = |what: &str| println!("{:6.1} s: {what}", begun.elapsed().as_secs_f32());
    let directory = tempfile::Builder::new().prefix("systemimager-disks-").tempdir_in("/var/tmp").expect("a directory");
    let mut story = Story::with_image(directory.path()).expect("a server with an image");
    passed("the image is there");
    fill(&story);
    passed("disks made, with an array and a volume group");
    let clients = story.clients(1).expect("a machine is declared");
    let client = &clients[0];
    let master = MasterFile::of(&story);
    story.run(&["cancel", "node1"]).expect("its first order is taken back");
    story.run(&["install", "node1", "--break", "before-mount"]).expect("ordered");
    master.with("rotational = true", |text| text);
    story.serve().expect("the server serves");
    passed("serving");

    let mut known = hashes(directory.path());
    let diary = kept(directory.path());
    for (round, (what, order, rule, expected)) in ROUNDS.iter().enumerate() {
        let last = round + 1 == ROUNDS.len();
        if round > 0 {
            if last { master.preserving(rule, "keepme") } else { master.with(rule, |text| text) }
        }
        let mut bare =
            machine(&story, client, order, None).boot(Boot::Network).exit_on_restart().spawn().expect("it starts");
        if round == 0 {
            refusals(&story, &master, &mut bare);
            passed("refusals");
            assert_eq!(hashes(directory.path()), known, "what is refused changes no disk");
            println!("after {} refusals all 5 disks hash as before", REFUSALS);
            master.with(rule, |text| text);
            story.run(&["retry", "node1"]).expect("it goes on");
        }
        bare.wait_serial("stopped at the break point before-mount", INSTALL).expect("file systems are made");
        wait_state(&story, "paused");
        let now = hashes(directory.path());
        let changed: Vec<&str> =
            now.iter().filter(|(name, hash)| known[*name] != **hash).map(|(name, _)| *name).collect();
        let attached: Vec<&str> = order.iter().map(|index| KINDS[*index].name).collect();
        passed(&format!(
            "round {}, {what}: {{ {rule} }}; attached {}: {changed:?} was written",
            round + 1,
            attached.join(", ")
        ));
        assert_eq!(changed, [*expected], "{what}: the right disk and no other");
        if last {
            assert_eq!(kept(directory.path()), diary, "what is preserved is not written to");
            story.run(&["retry", "node1"]).expect("it goes on");
            story.wait_installed(client, &mut bare).expect("it is installed");
            passed("installed");
        } else {
            bare.kill().expect("switched off");
            assert_eq!(kind_on(&image_of(directory.path(), expected), 2), "ext4", "{what}");
        }
        drop(bare);
        let after = hashes(directory.path());
        for (name, hash) in &after {
            assert!(name == expected || known[name] == *hash, "{what}: {name} was written in the end");
        }
        known = after;
        if !last {
            // Another one in its place: GRUB and root=UUID= would find the file systems of either.
            let kind = KINDS.iter().find(|kind| kind.name == *expected).expect("it is one of them");
            fresh(directory.path(), kind);
            known.insert(kind.name, hash_of(&image_of(directory.path(), kind.name), 0..u64::MAX));
        }
    }

    let scsi = image_of(directory.path(), "SCSI");
    assert_eq!(kept(directory.path()), diary, "what is preserved hashes as before");
    println!("preserved partition: {diary} before and after the install");
    let table = run::run_argv(&["sfdisk", "--json", &scsi.to_string_lossy()]).expect("a table");
    let table: Value = serde_json::from_str(&table).expect("JSON");
    println!("{}", run::run_argv(&["sfdisk", "--dump", &scsi.to_string_lossy()]).expect("a table"));
    assert_eq!(table["partitiontable"]["id"], "0x5ca1ab1e");
    let fourth = table["partitiontable"]["partitions"].as_array().expect("partitions").last().cloned().expect("4");
    assert_eq!((fourth["start"].as_u64(), fourth["size"].as_u64()), (Some(KEPT.start * 2048), Some(300 * 2048)));
    assert_eq!([1, 2, 3, 4].map(|number| kind_on(&scsi, number)), ["ext2", "ext4", "swap", "ext4"]);

    let (_, order, ..) = &ROUNDS[4];
    let mut installed = machine(&story, client, order, Some("SCSI")).boot(Boot::Disk).spawn().expect("it starts");
    let marker = story.wait_up(client, &mut installed).expect("it comes up from its disk");
    passed(&format!("up from {}", marker.root_device));
    let ssh = story.ssh(client).expect("ssh answers");
    assert_eq!(ssh.run(&["cat", "/data/diary"]).expect("the file is there"), DIARY);
    assert_eq!(ssh.run(&["sh", "-c", "ls /data/many | wc -l"]).expect("files").trim(), "200");
    println!("{}", ssh.run(&["findmnt", "/data"]).expect("it is mounted"));
    println!("{}", ssh.run(&["cat", "/etc/fstab"]).expect("fstab"));
    let old = ssh.run(&["sh", "-c", "cat /proc/mdstat 2>/dev/null; blkid; true"]).expect("what the machine sees");
    for gone in ["oldarray", "linux_raid_member", "LVM2_member", "oldgroup"] {
        assert!(!old.contains(gone), "{gone}: {old}");
    }
    story.stop_serving().expect("the server ends in good order");
}

/// How many there are in [`refusals`].
const REFUSALS: usize = 6;

/// What cannot be carried out, one after the other on a machine that is on.
fn refusals(story: &Story, master: &MasterFile, machine: &mut Running) {
    let retry = || drop(story.run(&["retry", "node1"]).expect("it tries again"));
    refused(
        story,
        machine,
        "two fit",
        &[
            "disk0: 2 disks of this machine fit, and its rule does not say which; write one of these lines into its \
             [[layout.disk]] in the master file",
            "(unnamed, 3 GiB, virtio) fits; to take it: match = { serial = \"VIRTIO\" }",
            "(QEMU HARDDISK, 5 GiB, ata) fits; to take it: match = { ",
            "(QEMU NVMe Ctrl, 6 GiB, nvme) does not rotate",
            "is removable or on USB; name it by serial, wwn or path to use it",
        ],
    );
    master.with("serial = \"none of these\"", |text| text);
    retry();
    refused(
        story,
        machine,
        "none fits",
        &[
            "disk0: no disk of this machine fits",
            "has the serial number \"VIRTIO\", not \"none of these\"",
            "has the serial number \"NVME\", not \"none of these\"",
        ],
    );
    master.preserving("wwn = \"*SATA\"", "keepme");
    retry();
    refused(
        story,
        machine,
        "preserved on a disk without a table",
        &[
            "the disk has no partition table (gpt or dos), so there is nothing to preserve; on a new disk take the line \
           preserve = true of the partition disk0p4 in the master file away",
        ],
    );
    master.preserving(ROUNDS[4].2, "absent");
    retry();
    refused(
        story,
        machine,
        "what is to be preserved is absent",
        &[
            "there is no partition with the name or label \"absent\" (there: 1 (600 MiB, linux_raid_member \"",
            "take the line preserve = true of the partition disk0p4 in the master file away to have it made",
        ],
    );
    master.with("serial = \"NVME\"", |text| {
        let size = text.rfind("\nsize = ").expect("a partition has a size");
        let end = size + 1 + text[size + 1..].find('\n').expect("a line");
        format!("{}\nsize = \"30 GiB\"{}", &text[..size], &text[end..])
    });
    retry();
    refused(story, machine, "too small", &["does not fit /dev/nvme0n1: its partitions need 3", "the disk has 6 GiB"]);
    // The image has files where something is preserved.
    let place = story.image().join("data");
    std::fs::create_dir(&place).expect("made");
    std::fs::write(place.join("other"), "of the image").expect("written");
    master.preserving(ROUNDS[4].2, "keepme");
    retry();
    refused(
        story,
        machine,
        "files of the image there",
        &[
            "the image demo has files at /data (/data/other), where a preserved file system is mounted, into which nothing is \
           pulled: remove them from the image, or mount it elsewhere in the master file; no disk was touched",
        ],
    );
    std::fs::remove_dir_all(&place).expect("removed");
}
