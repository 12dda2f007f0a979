//! The names that udev gives a disk below /dev/disk/by-path, told from sysfs alone: the miniature system has no
//! udev.
//!
//! Known are disks on PCI controllers: virtio, NVMe, ATA, USB, and SCSI without a transport class of its own. For
//! others (SAS, Fibre Channel, iSCSI) there is no name here. Source: systemd, src/udev/udev-builtin-path_id.c.

use std::fs;
use std::path::{Path, PathBuf};

/// The names, the newest form first. `real` is the disk's directory in sysfs.
#[must_use]
pub fn names(real: &Path) -> Vec<String> {
    let dirs: Vec<PathBuf> = real.ancestors().map(Path::to_path_buf).collect();
    let at = |dir: &Path| dir.file_name().and_then(|name| name.to_str()).map(str::to_owned).unwrap_or_default();
    // SAS, Fibre Channel and iSCSI name disks by what is not here.
    let foreign = ["rport-", "end_device-", "session"];
    if dirs.iter().any(|dir| foreign.iter().any(|prefix| at(dir).starts_with(prefix))) {
        return Vec::new();
    }
    // The nearest PCI function is what udev names; bridges above it add nothing.
    let Some((above, controller)) = dirs
        .iter()
        .enumerate()
        .find(|(_, dir)| is_pci(&at(dir)))
        .map(|(index, dir)| (index, format!("pci-{}", at(dir))))
    else {
        return Vec::new();
    };
    let below = dirs.get(..above).unwrap_or_default();
    let port = usb_port(below.iter().map(|dir| at(dir)));
    let address = below.iter().find_map(|dir| scsi_address(&at(dir)));
    let tails: Vec<String> = match (address, port) {
        (Some((_, bus, target, _)), None) if below.iter().any(|dir| ata(&at(dir))) => {
            let Some(number) = below.iter().find(|dir| ata(&at(dir))).and_then(|dir| ata_port(dir)) else {
                return Vec::new();
            };
            let newest = if bus != 0 { format!("-ata-{number}.{bus}.0") } else { format!("-ata-{number}.{target}") };
            vec![newest, format!("-ata-{number}")]
        }
        (Some((host, bus, target, lun)), port) => {
            let first = below.iter().find(|dir| at(dir).starts_with("host")).and_then(|dir| first_host(dir));
            let host = host.saturating_sub(first.unwrap_or(host));
            let port = port.map(|port| format!("-usb-0:{port}")).unwrap_or_default();
            vec![format!("{port}-scsi-{host}:{bus}:{target}:{lun}")]
        }
        (None, None) if at(real).starts_with("nvme") => match fs::read_to_string(real.join("nsid")) {
            Ok(number) => vec![format!("-nvme-{}", number.trim())],
            Err(_) => return Vec::new(),
        },
        (None, None) if below.iter().any(|dir| at(dir).starts_with("virtio")) => vec![String::new()],
        _ => return Vec::new(),
    };
    let mut names: Vec<String> = tails.iter().map(|tail| format!("{controller}{tail}")).collect();
    // udev's rules add this one for virtio-blk only.
    if at(real).starts_with("vd") {
        let old: Vec<String> = names.iter().map(|name| format!("virtio-{name}")).collect();
        names.extend(old);
    }
    names
}

/// `0000:00:1f.2`.
fn is_pci(name: &str) -> bool {
    let parts: Vec<&str> = name.split([':', '.']).collect();
    name.matches(':').count() == 2
        && name.matches('.').count() == 1
        && parts.iter().map(|part| part.len()).eq([4, 2, 2, 1])
        && parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// `1.2:1.0` of `3-1.2:1.0`, the nearest interface.
fn usb_port(mut names: impl Iterator<Item = String>) -> Option<String> {
    names.find_map(|name| {
        let (bus, port) = name.split_once('-')?;
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (device, interface) = port.split_once(':')?;
        let plain = device.split('.').all(digits) && interface.split('.').all(digits);
        (digits(bus) && plain).then(|| port.to_owned())
    })
}

/// `2:0:0:0`.
fn scsi_address(name: &str) -> Option<(u32, u32, u32, u32)> {
    let numbers: Option<Vec<u32>> = name.split(':').map(|part| part.parse().ok()).collect();
    match numbers?.as_slice() {
        [host, bus, target, lun] => Some((*host, *bus, *target, *lun)),
        _ => None,
    }
}

fn ata(name: &str) -> bool {
    name.strip_prefix("ata").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The number of a port on its controller, which `ata7` does not tell.
fn ata_port(dir: &Path) -> Option<u32> {
    let file = dir.join("ata_port").join(dir.file_name()?).join("port_no");
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The lowest number of a host on the same controller: they count from the machine's start.
fn first_host(host: &Path) -> Option<u32> {
    let beside = fs::read_dir(host.parent()?).ok()?.flatten();
    beside.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("host")?.parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_udev_names_them() {
        let sys = tempfile::tempdir().expect("temporary directory");
        // Path below /sys/devices, files relative to it, names. From real machines.
        type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);
        let rows: [Row<'_>; 9] = [
            (
                "pci0000:00/0000:00:1f.2/ata7/host6/target6:0:0/6:0:0:0/block/sda",
                &[("../../../../../ata_port/ata7/port_no", "3")],
                &["pci-0000:00:1f.2-ata-3.0", "pci-0000:00:1f.2-ata-3"],
            ),
            ("pci0000:00/0000:00:05.0/virtio1/block/vda", &[], &["pci-0000:00:05.0", "virtio-pci-0000:00:05.0"]),
            (
                "pci0000:00/0000:00:06.0/virtio2/host2/target2:0:1/2:0:1:4/block/sdb",
                &[],
                &["pci-0000:00:06.0-scsi-0:0:1:4"],
            ),
            ("pci0000:00/0000:00:01.0/0000:01:00.0/nvme/nvme0/nvme0n1", &[("nsid", "1")], &["pci-0000:01:00.0-nvme-1"]),
            (
                "pci0000:00/0000:00:14.0/usb3/3-1/3-1.2/3-1.2:1.0/host8/target8:0:0/8:0:0:0/block/sdc",
                &[],
                &["pci-0000:00:14.0-usb-0:1.2:1.0-scsi-0:0:0:0"],
            ),
            ("pci0000:00/0000:00:07.0/host5/port-5:0/end_device-5:0/target5:0:0/5:0:0:0/block/sdd", &[], &[]),
            ("virtual/block/md0", &[], &[]),
            ("pci0000:00/0000:00:08.0/host3/target3:0:0/3:0:0:1/block/sde", &[], &["pci-0000:00:08.0-scsi-1:0:0:1"]),
            // Beside it, so that the row before counts from it.
            ("pci0000:00/0000:00:08.0/host2/target2:0:0/2:0:0:0/block/sdf", &[], &["pci-0000:00:08.0-scsi-0:0:0:0"]),
        ];
        for (path, files, _) in &rows {
            let dir = sys.path().join(path);
            fs::create_dir_all(&dir).expect("mkdir");
            for (file, text) in *files {
                let mut place = dir.clone();
                for part in Path::new(file).components() {
                    match part {
                        std::path::Component::ParentDir => assert!(place.pop()),
                        part => place.push(part),
                    }
                }
                fs::create_dir_all(place.parent().expect("a parent")).expect("mkdir");
                fs::write(place, format!("{text}\n")).expect("written");
            }
        }
        for (path, _, expected) in rows {
            assert_eq!(names(&sys.path().join(path)), expected, "{path}");
        }
    }
}
