//! This machine's disk controllers held against the image's kernel and initramfs, before anything is
//! partitioned: what the initramfs lacks is rebuilt into it, what the kernel lacks is refused by name.
//! An initramfs that cannot be read counts as one that holds no driver at all. Network interfaces likewise,
//! but their drivers need not be in the initramfs, and only the one the machine is reached by is needed.
//!
//! Pure.

use std::collections::BTreeSet;

use systemimager_core::{BlockDevice, Hardware, Identity, ImageFacts, Layout, NetworkInterface};

use super::disks::describe;
use crate::facts::drivers::{FileSystemFit, NetworkFit, file_system_fit, fit, network_fit};

/// What was found.
#[derive(Debug, Default)]
pub struct Drivers {
    /// Modules that the initramfs has to get.
    pub missing: Vec<String>,
    /// Devices that nothing in the image drives, and the like.
    pub problems: Vec<String>,
    /// What could not be checked.
    pub warnings: Vec<String>,
}

/// Checks the newest kernel of the image, which its boot loader starts by default: whether it finds its disks, and can
/// mount what the first process lies on.
pub fn check<'a>(facts: &ImageFacts, layout: &Layout, disks: impl IntoIterator<Item = &'a BlockDevice>) -> Drivers {
    let mut found = Drivers::default();
    let Some(kernel) = facts.kernels.first() else {
        found.problems.push(format!(
            "the image {} has no kernel in /boot: a machine installed with it could not boot; install one on the \
             master client and capture it again",
            facts.name
        ));
        return found;
    };
    let mut missing = BTreeSet::new();
    let mut devices = Vec::new();
    for disk in disks {
        let fit = fit(kernel, disk);
        for driver in fit.absent {
            found.problems.push(format!(
                "the image's kernel {} has no driver for {}: it needs {driver}; \
                 install a kernel that has it on the master client, and capture it again",
                kernel.release,
                describe(disk)
            ));
        }
        for what in fit.unknown {
            found.warnings.push(format!(
                "whether the image's kernel {} drives {} is not known: nothing in the image names {what}; \
                 see that it is built into that kernel",
                kernel.release,
                describe(disk)
            ));
        }
        if !fit.missing.is_empty() {
            devices.push(describe(disk));
        }
        missing.extend(fit.missing);
    }
    for mount in &layout.mounts {
        let Some(fs) = layout.filesystems.iter().find(|fs| fs.node == mount.node) else { continue };
        let (release, kind, at) = (&kernel.release, &fs.kind, &mount.at);
        // What is mounted later may be loaded from the root file system.
        let early = ["/", "/usr"].map(Into::into).contains(at);
        match file_system_fit(kernel, kind) {
            FileSystemFit::Mounts => {}
            FileSystemFit::Missing(_) if !early => {}
            // Of an initramfs that cannot be read nothing is known; that is said below.
            FileSystemFit::Missing(_) if kernel.initramfs.is_some() && kernel.initramfs_modules.is_none() => {}
            FileSystemFit::Missing(module) => {
                devices.push(format!("the file system {kind} of {at}"));
                missing.insert(module);
            }
            FileSystemFit::Absent => found.problems.push(format!(
                "the image's kernel {release} cannot mount {at}: it has no driver for the file system {kind}; install \
                 a kernel that has one on the master client and capture it again, or give {at} another type in the \
                 master file"
            )),
            FileSystemFit::Unknown => found.warnings.push(format!(
                "whether the image's kernel {release} can mount {at} is not known: nothing in the image names the file \
                 system {kind}; see that it is built into that kernel"
            )),
        }
    }
    let names = missing.iter().cloned().collect::<Vec<_>>().join(", ");
    match (&kernel.initramfs, &kernel.initramfs_modules) {
        // The boot loader's plugin says it where there is no tool to put them in.
        (Some(_), Some(_)) => found.missing = missing.into_iter().collect(),
        (Some(path), None) if missing.is_empty() => found.warnings.push(format!(
            "the initramfs {path} could not be read; no driver of this machine's disks is known to have to be in it"
        )),
        (Some(path), None) if facts.initramfs_tool.is_none() => found.problems.push(format!(
            "the initramfs {path} could not be read, and the image has no tool to make it anew with {names} for {}; \
             install initramfs-tools, dracut or mkinitcpio on the master client, and capture it again",
            devices.join(" and ")
        )),
        (Some(path), None) => {
            found.warnings.push(format!(
                "the initramfs {path} could not be read: it is made anew with all that this machine's disks need \
                 ({names})"
            ));
            found.missing = missing.into_iter().collect();
        }
        (None, _) if missing.is_empty() => {}
        (None, _) => found.problems.push(format!(
            "the image's kernel {} has no initramfs, and {} need {names}, which it has as modules; \
             make an initramfs on the master client and capture it again",
            kernel.release,
            devices.join(" and ")
        )),
    }
    found
}

/// Checks the newest kernel against the machine's network interfaces. What the image does not drive is a problem
/// where the machine is reached by it (the interface it booted from, and the one that is configured), else a warning.
/// Only `problems` and `warnings` are filled.
pub fn check_network(facts: &ImageFacts, hardware: &Hardware, identity: &Identity) -> Drivers {
    let mut found = Drivers::default();
    // An image without a kernel is told by `check`.
    let Some(kernel) = facts.kernels.first() else { return found };
    let booted = hardware.lease.as_ref().map(|lease| lease.mac.as_str());
    for interface in &hardware.interfaces {
        let reached = [booted, Some(&identity.network.mac)]
            .into_iter()
            .flatten()
            .any(|mac| !mac.is_empty() && mac.eq_ignore_ascii_case(&interface.mac));
        let (release, which) = (&kernel.release, describe_interface(interface));
        match network_fit(kernel, interface) {
            NetworkFit::Driven => {}
            NetworkFit::Absent(device) if reached => found.problems.push(format!(
                "the image's kernel {release} has no driver for {which}, by which this machine is reached: none fits \
                 {device}; install a kernel that has it on the master client, and capture it again"
            )),
            NetworkFit::Absent(device) => found.warnings.push(format!(
                "the image's kernel {release} has no driver for {which}: none fits {device}; \
                 the installed machine will not have that interface"
            )),
            NetworkFit::Unknown(what) => found.warnings.push(format!(
                "whether the image's kernel {release} drives {which} is not known: nothing in the image names {what}; \
                 see that it is built into that kernel"
            )),
        }
    }
    found
}

fn describe_interface(interface: &NetworkInterface) -> String {
    format!("the network interface {} ({})", interface.name, interface.mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::{HostName, Kernel, Lease, NetworkSettings};

    const KNOWN: &str = "pci:v00008086d0000100Esv0sd0bc02sc00i00";
    const OTHER: &str = "pci:v000014E4d00001657sv0sd0bc02sc00i00";
    const USB: &str = "usb:v0B95p1790d0100dc00dsc00dp00icFFiscFFip00in00";

    #[test]
    fn only_the_interface_that_is_needed_is_a_problem() {
        let kernel = Kernel {
            release: "6.1".into(),
            network_aliases: vec![("pci:v00008086d*".into(), "e1000".into())],
            has_modules: true,
            builtin_aliases: true,
            ..Kernel::default()
        };
        let facts = ImageFacts { kernels: vec![kernel], ..ImageFacts::default() };
        let problem = |name: &str| {
            format!(
                "the image's kernel 6.1 has no driver for the network interface {name}, by which this machine is reached"
            )
        };
        let warning =
            |name: &str| format!("the image's kernel 6.1 has no driver for the network interface {name}: none");
        let unknown =
            |name: &str| format!("whether the image's kernel 6.1 drives the network interface {name} is not known");
        let (first, second) = ("eth0 (52:54:00:00:00:0a)", "eth1 (52:54:00:00:00:0b)");
        type Row<'a> = (&'a str, [&'a str; 2], Option<&'a str>, &'a str, Vec<String>, Vec<String>);
        let rows: [Row<'_>; 6] = [
            ("all driven", [KNOWN, KNOWN], Some("52:54:00:00:00:0a"), "", vec![], vec![]),
            ("booted from it", [OTHER, KNOWN], Some("52:54:00:00:00:0A"), "", vec![problem(first)], vec![]),
            (
                "configured by it",
                [KNOWN, OTHER],
                Some("52:54:00:00:00:0a"),
                "52:54:00:00:00:0b",
                vec![problem(second)],
                vec![],
            ),
            (
                "another one",
                [KNOWN, OTHER],
                Some("52:54:00:00:00:0a"),
                "52:54:00:00:00:0a",
                vec![],
                vec![warning(second)],
            ),
            ("not certain", [USB, KNOWN], Some("52:54:00:00:00:0a"), "", vec![], vec![unknown(first)]),
            ("nobody knows what it booted from", [OTHER, KNOWN], None, "", vec![], vec![warning(first)]),
        ];
        for (name, aliases, booted, configured, problems, warnings) in rows {
            let interface = |at: usize, mac: &str| NetworkInterface {
                name: format!("eth{at}"),
                mac: mac.into(),
                link: true,
                modaliases: vec![aliases[at].to_owned()],
            };
            let hardware = Hardware {
                interfaces: vec![interface(0, "52:54:00:00:00:0a"), interface(1, "52:54:00:00:00:0b")],
                lease: booted.map(|mac| Lease { mac: mac.into(), ..Lease::default() }),
                ..Hardware::default()
            };
            let identity = Identity {
                name: HostName::try_from("www1").unwrap(),
                image: None,
                network: NetworkSettings { mac: configured.into(), ..NetworkSettings::default() },
                found_in: String::new(),
            };
            let found = check_network(&facts, &hardware, &identity);
            let begins = |texts: &[String], beginnings: &[String]| {
                texts.len() == beginnings.len() && texts.iter().zip(beginnings).all(|(text, it)| text.starts_with(it))
            };
            assert!(begins(&found.problems, &problems), "{name}: {:?}", found.problems);
            assert!(begins(&found.warnings, &warnings), "{name}: {:?}", found.warnings);
        }
        let bare = check_network(
            &ImageFacts::default(),
            &Hardware::default(),
            &Identity {
                name: HostName::try_from("www1").unwrap(),
                image: None,
                network: NetworkSettings::default(),
                found_in: String::new(),
            },
        );
        assert!(bare.problems.is_empty(), "the absent kernel is told once, elsewhere");
    }
}
