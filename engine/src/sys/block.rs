//! Block devices as sysfs describes them: what they are, on which bus, which drivers they need, and
//! who uses them.
//!
//! Everything is read below a given directory, so that a machine's /sys can be a fixture in a test.
//! No device is opened. Source: Documentation/ABI/stable/sysfs-block of the kernel.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::above::{Above, Made, above};
use super::error::{Result, SysError};
use super::modules::read_modalias;
use super::mountinfo::{self, MountInfo};
use super::swaps;

/// sysfs counts in this unit whatever the device's own sectors are, bytes.
const SECTOR: u64 = 512;

/// How a disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// ATA, SATA.
    Ata,
    /// SCSI, SAS, Fibre Channel.
    Scsi,
    /// USB storage.
    Usb,
    /// virtio-blk and virtio-scsi.
    Virtio,
    /// NVMe.
    Nvme,
    /// SD cards and eMMC.
    Mmc,
    /// Xen's virtual disks.
    Xen,
    /// No hardware of its own: md, dm, loop.
    Virtual,
    /// Anything else.
    Other,
}

impl Bus {
    /// In lower case, as in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ata => "ata",
            Self::Scsi => "scsi",
            Self::Usb => "usb",
            Self::Virtio => "virtio",
            Self::Nvme => "nvme",
            Self::Mmc => "mmc",
            Self::Xen => "xen",
            Self::Virtual => "virtual",
            Self::Other => "other",
        }
    }
}

/// A driver bound somewhere between a disk and the processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// The driver's own name (`sd`, `ata_piix`).
    pub name: String,
    /// The module it came in; `None` where it is built into the kernel.
    pub module: Option<String>,
}

/// A disk, or what looks like one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockDevice {
    /// The kernel's name (`sda`, `nvme0n1`).
    pub name: String,
    /// `/dev/NAME`.
    pub path: PathBuf,
    /// Major and minor number.
    pub device: (u32, u32),
    /// 0 for a drive without medium.
    pub size_bytes: u64,
    /// What addresses count in: 512 or 4096 bytes.
    pub logical_sector_bytes: u32,
    /// The medium can be taken out.
    pub removable: bool,
    /// A spinning disk; virtual ones mostly claim to be.
    pub rotational: bool,
    /// Cannot be written.
    pub read_only: bool,
    /// As the maker calls it.
    pub model: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// World-wide name (`naa.5000…`, `eui.…`, `t10.…`).
    pub wwn: Option<String>,
    /// How it is attached.
    pub bus: Bus,
    /// What it and the devices it hangs on (controller, bridges) call themselves, nearest first:
    /// whoever serves these makes the disk appear.
    pub modaliases: Vec<String>,
    /// What serves them now, nearest first.
    pub drivers: Vec<Driver>,
    /// By number.
    pub partitions: Vec<Partition>,
    /// Devices made of the whole disk (md, dm).
    pub holders: Vec<String>,
    /// All that is made of it and its partitions, the uppermost first.
    pub above: Vec<Above>,
    /// Names that udev gives it below /dev/disk/by-path.
    pub by_path: Vec<String>,
}

/// A partition, as the kernel sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// The kernel's name (`sda1`).
    pub name: String,
    /// `/dev/NAME`.
    pub path: PathBuf,
    /// Major and minor number.
    pub device: (u32, u32),
    /// As in the table, from 1.
    pub number: u32,
    /// Where it begins on the disk.
    pub start_bytes: u64,
    /// Its length.
    pub size_bytes: u64,
    /// Devices made of it (md, dm).
    pub holders: Vec<String>,
}

/// Which devices a listing has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// What could be a disk to install on: no loop, RAM, optical and floppy drives, nor the boot and
    /// replay areas of eMMC.
    Disks,
    /// All that the kernel shows.
    All,
}

/// The block devices below `sysroot` (usually /sys), short names first, then by name.
///
/// # Errors
/// sysfs is not mounted there. A device that vanishes meanwhile is left out.
pub fn list(sysroot: &Path, which: Which) -> Result<Vec<BlockDevice>> {
    let dir = sysroot.join("block");
    let entries = fs::read_dir(&dir).map_err(|e| SysError::io("listing", &dir, e).advise("is sysfs mounted?"))?;
    let mut names: Vec<String> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    // `sdz` before `sdaa`, `nvme2n1` before `nvme10n1`.
    names.sort_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    let wanted = |name: &String| which == Which::All || !is_no_disk(name);
    let mut devices = Vec::new();
    for name in names.into_iter().filter(wanted) {
        match read_device(sysroot, &dir.join(&name), &name) {
            // Paths of a multipath NVMe are not for use.
            Ok(_) if flag(&dir.join(&name), "hidden") => {}
            Ok(device) => devices.push(device),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(SysError::io("reading", dir.join(&name), error)),
        }
    }
    Ok(devices)
}

fn is_no_disk(name: &str) -> bool {
    let numbered = |prefix: &str| {
        name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    };
    let emmc_area = name.starts_with("mmcblk") && (name.contains("boot") || name.contains("rpmb"));
    emmc_area || ["loop", "ram", "zram", "sr", "fd", "nbd", "mtdblock"].iter().any(|prefix| numbered(prefix))
}

fn read_device(sysroot: &Path, link: &Path, name: &str) -> io::Result<BlockDevice> {
    let real = fs::canonicalize(link)?;
    let device = numbers(&real)?;
    let (modaliases, drivers) = chain(sysroot, &real);
    let mut partitions = Vec::new();
    for entry in fs::read_dir(&real)?.flatten() {
        let dir = entry.path();
        if let Some(number) = number::<u32>(&dir, "partition")
            && let Ok(name) = entry.file_name().into_string()
        {
            partitions.push(Partition {
                path: node(&name),
                device: numbers(&dir)?,
                number,
                start_bytes: number_or_zero(&dir, "start").saturating_mul(SECTOR),
                size_bytes: number_or_zero(&dir, "size").saturating_mul(SECTOR),
                holders: holders(&dir),
                name,
            });
        }
    }
    partitions.sort_by_key(|p| p.number);
    Ok(BlockDevice {
        name: name.to_owned(),
        path: node(name),
        device,
        size_bytes: number_or_zero(&real, "size").saturating_mul(SECTOR),
        logical_sector_bytes: number(&real, "queue/logical_block_size").unwrap_or(512),
        removable: flag(&real, "removable"),
        rotational: flag(&real, "queue/rotational"),
        read_only: flag(&real, "ro"),
        model: first(&real, &["device/model", "device/name"]),
        serial: first(&real, &["serial", "device/serial"])
            .or_else(|| vital_serial(&real))
            .or_else(|| usb_serial(&real)),
        wwn: first(&real, &["wwid", "device/wwid"]),
        bus: bus(sysroot, &real, name),
        modaliases,
        drivers,
        partitions,
        holders: holders(&real),
        above: above(&real),
        by_path: super::by_path::names(&real),
    })
}

/// sysfs writes `!` where a device's name has a `/`.
fn node(name: &str) -> PathBuf {
    Path::new("/dev").join(name.replace('!', "/"))
}

fn text(dir: &Path, file: &str) -> Option<String> {
    let text = String::from_utf8_lossy(&fs::read(dir.join(file)).ok()?).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

fn first(dir: &Path, files: &[&str]) -> Option<String> {
    files.iter().find_map(|file| text(dir, file))
}

/// The serial number that a SCSI or ATA disk tells on its page 80h of vital product data: after four bytes of which the
/// last two are the length (SPC-4, 7.8.18).
fn vital_serial(real: &Path) -> Option<String> {
    let page = fs::read(real.join("device/vpd_pg80")).ok()?;
    let (head, rest) = page.split_at_checked(4)?;
    let length = usize::from(u16::from_be_bytes([*head.get(2)?, *head.get(3)?]));
    let serial = String::from_utf8_lossy(rest.get(..length).unwrap_or(rest)).replace('\0', " ").trim().to_owned();
    (!serial.is_empty()).then_some(serial)
}

/// The serial number of the USB device that a disk is.
fn usb_serial(real: &Path) -> Option<String> {
    real.ancestors().find(|dir| dir.join("idVendor").is_file()).and_then(|dir| text(dir, "serial"))
}

fn number<T: std::str::FromStr>(dir: &Path, file: &str) -> Option<T> {
    text(dir, file)?.parse().ok()
}

fn number_or_zero(dir: &Path, file: &str) -> u64 {
    number(dir, file).unwrap_or(0)
}

fn flag(dir: &Path, file: &str) -> bool {
    text(dir, file).is_some_and(|value| value == "1")
}

fn numbers(dir: &Path) -> io::Result<(u32, u32)> {
    mountinfo::device(fs::read(dir.join("dev"))?.trim_ascii())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its dev file does not hold MAJOR:MINOR"))
}

fn holders(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("holders")).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The device itself and what it hangs on, nearest first. Not above the `devices` directory.
fn ancestors(sysroot: &Path, real: &Path) -> Vec<PathBuf> {
    let top = fs::canonicalize(sysroot.join("devices")).unwrap_or_else(|_| sysroot.join("devices"));
    let above = |path: &Path| -> Vec<PathBuf> {
        path.ancestors().take_while(|dir| dir.starts_with(&top) && *dir != top).map(Path::to_path_buf).collect()
    };
    let mut dirs = above(real);
    // A namespace of a multipath NVMe subsystem hangs on nothing; the subsystem links to its controllers.
    if let Some(subsystem) = dirs.iter().find(|d| d.parent().is_some_and(|p| p.ends_with("nvme-subsystem"))) {
        let entries = fs::read_dir(subsystem).into_iter().flatten().flatten();
        let mut controllers: Vec<PathBuf> = entries
            .filter(|e| e.file_type().is_ok_and(|t| t.is_symlink()))
            .filter(|e| e.file_name().to_str().is_some_and(|name| name.starts_with("nvme")))
            .filter_map(|e| fs::canonicalize(e.path()).ok())
            .collect();
        controllers.sort();
        for controller in controllers {
            dirs.extend(above(&controller));
        }
    }
    dirs
}

fn chain(sysroot: &Path, real: &Path) -> (Vec<String>, Vec<Driver>) {
    let (mut modaliases, mut drivers) = (Vec::new(), Vec::new());
    for dir in ancestors(sysroot, real) {
        if let Some(alias) = read_modalias(&dir.join("modalias"))
            && !modaliases.contains(&alias)
        {
            modaliases.push(alias);
        }
        let last = |link: PathBuf| Some(fs::read_link(link).ok()?.file_name()?.to_str()?.to_owned());
        if let Some(name) = last(dir.join("driver")) {
            let driver = Driver { name, module: last(dir.join("driver/module")) };
            if !drivers.contains(&driver) {
                drivers.push(driver);
            }
        }
    }
    (modaliases, drivers)
}

/// By the names of the directories above it: the kernel has no file that says it.
fn bus(sysroot: &Path, real: &Path, name: &str) -> Bus {
    let dirs = ancestors(sysroot, real);
    let numbered = |prefix: &str| {
        dirs.iter()
            .filter_map(|d| d.file_name()?.to_str()?.strip_prefix(prefix))
            .any(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    };
    // USB and virtio before SCSI: their disks may be SCSI devices too, and ATA ones always are.
    match () {
        () if numbered("usb") => Bus::Usb,
        () if name.starts_with("nvme") => Bus::Nvme,
        () if name.starts_with("mmcblk") => Bus::Mmc,
        () if numbered("virtio") => Bus::Virtio,
        () if name.starts_with("xvd") => Bus::Xen,
        () if numbered("ata") => Bus::Ata,
        () if numbered("host") => Bus::Scsi,
        () if real.components().any(|c| c.as_os_str() == "virtual") => Bus::Virtual,
        () => Bus::Other,
    }
}

/// The device of a partition: `sda` → `sda1`, `nvme0n1` → `nvme0n1p1`, `/dev/disk/by-…/x` → `x-part1`.
#[must_use]
pub fn partition_path(disk: &Path, number: u32) -> PathBuf {
    let mut path = disk.as_os_str().to_os_string();
    let by_link = disk.starts_with("/dev/disk");
    let ends_in_digit = disk.as_os_str().as_encoded_bytes().last().is_some_and(u8::is_ascii_digit);
    path.push(match (by_link, ends_in_digit) {
        (true, _) => "-part",
        (false, true) => "p",
        (false, false) => "",
    });
    path.push(number.to_string());
    path.into()
}

/// One reason why a disk must not be written now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// The disk or partition that is in use.
    pub device: PathBuf,
    /// What for.
    pub how: How,
}

/// How a device is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// A file system on it is mounted here.
    Mounted(PathBuf),
    /// It is swap.
    Swap,
    /// Another device is made of it (`md0`, `dm-1`).
    Held(String),
}

impl std::fmt::Display for Use {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let device = super::quote::quote(&self.device);
        match &self.how {
            How::Mounted(place) => write!(f, "{device} is mounted on {}", super::quote::quote(place)),
            How::Swap => write!(f, "{device} is used as swap"),
            How::Held(by) => write!(f, "{device} is part of /dev/{by}"),
        }
    }
}

/// Everything that uses a disk, its partitions, or what is made of them, by a mount table and the text of
/// /proc/swaps.
#[must_use]
pub fn uses(disk: &BlockDevice, mounts: &[MountInfo], swaps: &[u8]) -> Vec<Use> {
    let swaps = swaps::parse(swaps);
    let mut found = Vec::new();
    for (path, device, holders) in devices(disk) {
        let mut add = |how| found.push(Use { device: path.clone(), how });
        // btrfs gives its mounts a number of their own; then the source tells.
        let here = |m: &&MountInfo| m.device == device || (m.device.0 == 0 && m.source == path.as_os_str());
        for mount in mounts.iter().filter(here) {
            add(How::Mounted(mount.mount_point.clone()));
        }
        if swaps.iter().any(|area| area.path == path) {
            add(How::Swap);
        }
        for holder in holders {
            add(How::Held(holder.clone()));
        }
    }
    found
}

/// The disk, its partitions, and what is made of them, each with its number and its direct holders. A mapped
/// device is there under both its names.
fn devices(disk: &BlockDevice) -> Vec<(PathBuf, (u32, u32), &[String])> {
    let mut all = vec![(disk.path.clone(), disk.device, disk.holders.as_slice())];
    all.extend(disk.partitions.iter().map(|p| (p.path.clone(), p.device, p.holders.as_slice())));
    for upper in &disk.above {
        all.extend(upper.devices.iter().map(|(device, name)| (node(name), *device, [].as_slice())));
        if upper.made == Made::Dm {
            // Only for what is known by its path: its number was looked for just now.
            all.push((Path::new("/dev/mapper").join(&upper.title), (u32::MAX, u32::MAX), [].as_slice()));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A /sys with one device: its directory below `devices`, and files relative to it.
    struct Sys(tempfile::TempDir);

    impl Sys {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("temporary directory");
            fs::create_dir_all(dir.path().join("block")).expect("mkdir");
            Self(dir)
        }

        fn file(&self, path: &str, text: &str) -> &Self {
            let path = self.0.path().join("devices").join(path);
            fs::create_dir_all(path.parent().expect("has a parent")).expect("mkdir");
            fs::write(path, format!("{text}\n")).expect("written");
            self
        }

        fn driver(&self, dir: &str, name: &str, module: Option<&str>) -> &Self {
            let home = self.0.path().join("bus/x/drivers").join(name);
            fs::create_dir_all(&home).expect("mkdir");
            if let Some(module) = module {
                let _ = symlink(Path::new("../../../../module").join(module), home.join("module"));
            }
            symlink(home, self.0.path().join("devices").join(dir).join("driver")).expect("symlink");
            self
        }

        fn disk(&self, dir: &str, numbers: &str, sectors: u64) -> &Self {
            let name = dir.rsplit('/').next().expect("name");
            self.file(&format!("{dir}/dev"), numbers).file(&format!("{dir}/size"), &sectors.to_string());
            let up = Path::new("../devices").join(dir);
            symlink(up, self.0.path().join("block").join(name)).expect("symlink");
            self
        }

        fn list(&self) -> Vec<BlockDevice> {
            list(self.0.path(), Which::Disks).expect("listed")
        }
    }

    #[test]
    fn a_virtio_disk() {
        let sys = Sys::new();
        let pci = "pci0000:00/0000:00:04.0";
        let disk = "pci0000:00/0000:00:04.0/virtio1/block/vda";
        sys.disk(disk, "254:0", 4_194_304)
            .file(&format!("{pci}/modalias"), "pci:v00001AF4d00001001sv0")
            .file(&format!("{pci}/virtio1/modalias"), "virtio:d00000002v00001AF4")
            .driver(pci, "virtio-pci", Some("virtio_pci"))
            .driver(&format!("{pci}/virtio1"), "virtio_blk", None)
            .file(&format!("{disk}/queue/logical_block_size"), "4096")
            .file(&format!("{disk}/queue/rotational"), "1")
            .file(&format!("{disk}/removable"), "0")
            .file(&format!("{disk}/ro"), "0")
            .file(&format!("{disk}/serial"), "S 1")
            .file(&format!("{disk}/holders/md0/x"), "")
            .file(&format!("{disk}/vda2/partition"), "2")
            .file(&format!("{disk}/vda2/dev"), "254:2")
            .file(&format!("{disk}/vda2/start"), "4096")
            .file(&format!("{disk}/vda2/size"), "1000")
            .file(&format!("{disk}/vda2/holders/dm-0/x"), "");
        let module = |name: &str, module: Option<&str>| Driver { name: name.into(), module: module.map(Into::into) };
        let mut listed = sys.list();
        let above: Vec<String> = std::mem::take(&mut listed[0].above).into_iter().map(|it| it.name).collect();
        assert_eq!(above, ["md0", "dm-0"]);
        assert_eq!(
            listed,
            [BlockDevice {
                name: "vda".into(),
                path: "/dev/vda".into(),
                device: (254, 0),
                size_bytes: 2 << 30,
                logical_sector_bytes: 4096,
                removable: false,
                rotational: true,
                read_only: false,
                model: None,
                serial: Some("S 1".into()),
                wwn: None,
                bus: Bus::Virtio,
                modaliases: vec!["virtio:d00000002v00001AF4".into(), "pci:v00001AF4d00001001sv0".into()],
                drivers: vec![module("virtio_blk", None), module("virtio-pci", Some("virtio_pci"))],
                partitions: vec![Partition {
                    name: "vda2".into(),
                    path: "/dev/vda2".into(),
                    device: (254, 2),
                    number: 2,
                    start_bytes: 2 << 20,
                    size_bytes: 512_000,
                    holders: vec!["dm-0".into()],
                }],
                holders: vec!["md0".into()],
                above: vec![],
                by_path: vec!["pci-0000:00:04.0".into(), "virtio-pci-0000:00:04.0".into()],
            }]
        );
    }

    #[test]
    fn buses() {
        let pci = "pci0000:00/0000:00:1f.2";
        let rows: &[(&str, Bus)] = &[
            ("ata1/host0/target0:0:0/0:0:0:0/block/sda", Bus::Ata),
            ("host2/target2:0:0/2:0:0:0/block/sdb", Bus::Scsi),
            ("usb1/1-1/1-1:1.0/host3/target3:0:0/3:0:0:0/block/sdc", Bus::Usb),
            ("virtio3/host4/target4:0:0/4:0:0:0/block/sdd", Bus::Virtio),
            ("nvme/nvme0/nvme0n1", Bus::Nvme),
            ("mmc_host/mmc0/mmc0:0001/block/mmcblk0", Bus::Mmc),
            ("odd/block/xda", Bus::Other),
        ];
        for (path, expected) in rows {
            let sys = Sys::new();
            sys.disk(&format!("{pci}/{path}"), "8:0", 1);
            assert_eq!(sys.list()[0].bus, *expected, "{path}");
        }
        let sys = Sys::new();
        sys.disk("virtual/block/md0", "9:0", 1);
        assert_eq!(sys.list()[0].bus, Bus::Virtual);
    }

    #[test]
    fn serial_numbers() {
        let sys = Sys::new();
        let rows = [
            ("sda", "pci0/ata1/block/sda", "device/vpd_pg80", "\0\u{0}\0\u{8}  WD-123", Some("WD-123")),
            ("sdb", "pci0/host1/block/sdb", "device/vpd_pg80", "\0\u{0}\0\u{3}ABCDEF", Some("ABC")),
            ("sdc", "pci0/host1/block/sdc", "device/vpd_pg80", "\0\u{0}", None),
            ("sdd", "pci0/host1/block/sdd", "device/vpd_pg80", "\0\u{0}\0\u{2}  ", None),
            ("sde", "pci0/host1/block/sde", "device/serial", "S 2", Some("S 2")),
            ("sdf", "pci0/usb1/1-2/1-2:1.0/host2/block/sdf", "../../../../serial", "USB-9", Some("USB-9")),
        ];
        sys.file("pci0/usb1/1-2/idVendor", "46f4").file("pci0/usb1/serial", "of the controller");
        for (_, dir, file, text, _) in rows {
            sys.disk(dir, "8:0", 1).file(&format!("{dir}/device/model"), "x").file(&format!("{dir}/{file}"), text);
        }
        let found: Vec<(String, Option<String>)> = sys.list().into_iter().map(|it| (it.name, it.serial)).collect();
        let expected = rows.map(|(name, .., serial)| (name.to_owned(), serial.map(str::to_owned)));
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_no_disk_is_left_out() {
        let sys = Sys::new();
        for name in [
            "loop0",
            "ram1",
            "zram0",
            "sr0",
            "fd0",
            "mmcblk0boot0",
            "nbd3",
            "sdaa",
            "sdb",
            "ramdisk",
            "nvme10n1",
            "nvme2n1",
        ] {
            sys.disk(&format!("virtual/block/{name}"), "8:0", 1);
        }
        sys.file("virtual/block/nvme2n1/hidden", "1");
        let names: Vec<String> = sys.list().into_iter().map(|d| d.name).collect();
        assert_eq!(names, ["sdb", "sdaa", "ramdisk", "nvme10n1"]);
        assert_eq!(list(sys.0.path(), Which::All).expect("listed").len(), 11);
        let error = list(Path::new("/no/such"), Which::All).expect_err("absent").to_string();
        assert!(error.ends_with("is sysfs mounted?"), "{error}");
    }

    #[test]
    fn a_multipath_nvme_names_its_controllers() {
        let sys = Sys::new();
        let subsystem = "virtual/nvme-subsystem/nvme-subsys0";
        sys.disk(&format!("{subsystem}/nvme0n1"), "259:0", 1);
        sys.file("pci0000:00/0000:00:05.0/modalias", "pci:nvme").file("pci0000:00/0000:00:05.0/nvme/nvme0/x", "");
        symlink(
            sys.0.path().join("devices/pci0000:00/0000:00:05.0/nvme/nvme0"),
            sys.0.path().join("devices").join(subsystem).join("nvme0"),
        )
        .expect("symlink");
        let disk = &sys.list()[0];
        assert_eq!((disk.bus, disk.modaliases.as_slice()), (Bus::Nvme, &["pci:nvme".to_owned()][..]));
    }

    #[test]
    fn partition_names() {
        for (disk, number, expected) in [
            ("/dev/sda", 1, "/dev/sda1"),
            ("/dev/vdb", 12, "/dev/vdb12"),
            ("/dev/nvme0n1", 2, "/dev/nvme0n1p2"),
            ("/dev/mmcblk0", 1, "/dev/mmcblk0p1"),
            ("/dev/loop0", 1, "/dev/loop0p1"),
            ("/dev/md127", 1, "/dev/md127p1"),
            ("/dev/disk/by-id/ata-X-1", 3, "/dev/disk/by-id/ata-X-1-part3"),
        ] {
            assert_eq!(partition_path(Path::new(disk), number), Path::new(expected), "{disk}");
        }
    }

    #[test]
    fn who_uses_a_disk() {
        let sys = Sys::new();
        let dir = "pci0/ata1/block/sda";
        sys.disk(dir, "8:0", 1);
        for (number, minor) in [(1, 1), (2, 2), (3, 3), (4, 4)] {
            sys.file(&format!("{dir}/sda{number}/partition"), &number.to_string())
                .file(&format!("{dir}/sda{number}/dev"), &format!("8:{minor}"));
        }
        sys.file(&format!("{dir}/sda4/holders/md0/x"), "");
        let mounts = mountinfo::parse(
            b"1 0 8:1 / /data\\040x rw - ext4 /dev/sda1 rw\n2 0 0:40 / /b rw - btrfs /dev/sda3 rw\n3 0 8:17 / /other rw - ext4 /dev/sdb1 rw\n",
        )
        .expect("table");
        let swaps = b"Filename\tType\tSize\tUsed\tPriority\n/dev/sda2   partition\t1\t0\t-2\n";
        let said: Vec<String> = uses(&sys.list()[0], &mounts, swaps).iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "/dev/sda1 is mounted on '/data x'",
                "/dev/sda2 is used as swap",
                "/dev/sda3 is mounted on /b",
                "/dev/sda4 is part of /dev/md0",
            ]
        );
        assert_eq!(uses(&sys.list()[0], &[], b""), [Use { device: "/dev/sda4".into(), how: How::Held("md0".into()) }]);
    }

    #[test]
    fn this_machine() {
        match list(Path::new("/sys"), Which::All) {
            Ok(devices) => assert!(devices.iter().all(|d| d.device != (0, 0)), "{devices:?}"),
            Err(error) => eprintln!("SKIPPED: {error}"),
        }
    }
}
