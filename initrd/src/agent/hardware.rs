//! What this machine is made of, read from /sys and /proc.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use systemimager_core::{Hardware, Lease, NetworkInterface, Size};
use systemimager_engine::sys::modules;

/// Longest DMI text that is taken, characters.
const LONGEST_DMI: usize = 256;

/// The machine's hardware as it is now, with the lease it was given.
///
/// # Errors
/// /sys or /proc is not mounted.
pub fn collect(lease: &Lease) -> Result<Hardware> {
    let sys = Path::new("/sys");
    let meminfo = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    Ok(Hardware {
        arch: std::env::consts::ARCH.into(),
        firmware: systemimager_engine::hardware::firmware(sys).to_owned(),
        efivars: systemimager_engine::hardware::efivars(sys)?,
        memory: memory(&meminfo),
        disks: systemimager_engine::hardware::block_devices()?,
        interfaces: interfaces(sys),
        dmi: dmi(&sys.join("class/dmi/id")),
        modaliases: modules::collect_modaliases(sys)?,
        lease: Some(lease.clone()),
    })
}

pub(super) fn memory(meminfo: &str) -> Size {
    let kib = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().strip_suffix("kB").and_then(|number| number.trim().parse::<u64>().ok()));
    Size(kib.unwrap_or(0).saturating_mul(1024))
}

/// Wired interfaces that hang on a device, by name. Loopback, bridges and the like hang on none.
pub fn interfaces(sys: &Path) -> Vec<NetworkInterface> {
    let Ok(entries) = fs::read_dir(sys.join("class/net")) else { return Vec::new() };
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names.iter().filter_map(|name| interface(sys, name)).collect()
}

fn interface(sys: &Path, name: &str) -> Option<NetworkInterface> {
    let dir = sys.join("class/net").join(name);
    let read = |file: &str| fs::read_to_string(dir.join(file)).map(|text| text.trim().to_owned()).unwrap_or_default();
    // ARPHRD_ETHER; wireless interfaces say so too, but have a directory of their own.
    if read("type") != "1" || dir.join("wireless").exists() || !dir.join("device").exists() {
        return None;
    }
    Some(NetworkInterface {
        name: name.to_owned(),
        mac: read("address").to_lowercase(),
        // Reading it fails while the interface is down.
        link: read("carrier") == "1",
        modaliases: chain_of_modaliases(&dir.join("device")),
    })
}

/// modaliases of a device and of all it hangs on, nearest first.
fn chain_of_modaliases(device: &Path) -> Vec<String> {
    let Ok(real) = fs::canonicalize(device) else { return Vec::new() };
    let mut found = Vec::new();
    for dir in real.ancestors().take_while(|dir| !dir.ends_with("devices")) {
        if let Ok(text) = fs::read_to_string(dir.join("modalias"))
            && !text.trim().is_empty()
        {
            found.push(text.trim().to_owned());
        }
    }
    found
}

fn dmi(dir: &Path) -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir(dir) else { return BTreeMap::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| {
            ["bios_", "board_", "chassis_", "product_", "sys_"].iter().any(|prefix| name.starts_with(prefix))
        })
        .filter_map(|name| {
            let text = fs::read(dir.join(&name)).ok()?;
            let text: String = String::from_utf8_lossy(&text).trim().chars().take(LONGEST_DMI).collect();
            (!text.is_empty()).then_some((name, text))
        })
        .collect()
}

/// A machine in a line, for people.
pub fn show(machine: &Hardware) -> String {
    let fact = |name: &str| machine.dmi.get(name).map(String::as_str).unwrap_or_default();
    let model = format!("{} {}", fact("sys_vendor"), fact("product_name"));
    format!(
        "{} ({}, {} MiB, {} disks, {} network interfaces)",
        if model.trim().is_empty() { "an unnamed machine" } else { model.trim() },
        machine.firmware,
        machine.memory.0 >> 20,
        machine.disks.len(),
        machine.interfaces.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn memory_is_in_bytes() {
        for (text, bytes) in [("MemTotal:  2048 kB\nMemFree: 1 kB\n", 2048 * 1024), ("", 0), ("MemTotal: x kB", 0)] {
            assert_eq!(memory(text), Size(bytes), "{text:?}");
        }
    }

    #[test]
    fn only_wired_devices_are_interfaces() {
        let sys = tempfile::tempdir().expect("temporary directory");
        let make = |name: &str, files: &[(&str, &str)], device: bool| {
            let dir = sys.path().join("class/net").join(name);
            fs::create_dir_all(&dir).expect("mkdir");
            for (file, text) in files {
                fs::write(dir.join(file), text).expect("write");
            }
            if device {
                let real = sys.path().join("devices/pci0").join(name);
                fs::create_dir_all(&real).expect("mkdir");
                fs::write(real.join("modalias"), format!("pci:{name}\n")).expect("write");
                symlink(&real, dir.join("device")).expect("link");
            }
        };
        make("lo", &[("type", "772\n"), ("address", "00:00:00:00:00:00\n")], false);
        make("br0", &[("type", "1\n"), ("address", "52:54:00:00:00:09\n")], false);
        make("eth0", &[("type", "1\n"), ("address", "52:54:00:00:00:0A\n"), ("carrier", "1\n")], true);
        make("eth1", &[("type", "1\n"), ("address", "52:54:00:00:00:0b\n")], true);
        make("wlan0", &[("type", "1\n"), ("address", "52:54:00:00:00:0c\n")], true);
        fs::create_dir(sys.path().join("class/net/wlan0/wireless")).expect("mkdir");
        let found = interfaces(sys.path());
        let seen: Vec<_> = found.iter().map(|it| (it.name.as_str(), it.mac.as_str(), it.link)).collect();
        assert_eq!(seen, [("eth0", "52:54:00:00:00:0a", true), ("eth1", "52:54:00:00:00:0b", false)]);
        assert_eq!(found[0].modaliases, ["pci:eth0"]);
    }

    #[test]
    fn dmi_facts_are_trimmed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        for (name, text) in
            [("product_name", "Standard PC \n"), ("product_uuid", "\n"), ("modalias", "dmi:x"), ("sys_vendor", "QEMU")]
        {
            fs::write(dir.path().join(name), text).expect("write");
        }
        let expected = [("product_name", "Standard PC"), ("sys_vendor", "QEMU")];
        let expected = expected.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        assert_eq!(dmi(dir.path()), expected);
    }
}
