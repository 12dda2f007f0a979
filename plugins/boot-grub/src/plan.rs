//! The steps that make a disk boot through the image's own GRUB. Pure.

use systemimager_core::contract::BootloaderPlan;
use systemimager_core::{Action, Arg, BootTarget, ErrorKind, ImageFacts, Phase, PluginError, Result, Step, Written};

use crate::detect::Found;
use crate::{ID, code, ground, initramfs};

/// Architectures of PCs.
const PC_ARCHES: [&str; 5] = ["x86_64", "x86", "i686", "i586", "i386"];

/// Steps for a disk that boots for the first time.
///
/// # Errors
/// `Unsupported`: not a disk, no firmware of a PC, entries to add. `Missing`: the image lacks GRUB or an initramfs
/// tool. `Invalid`: no disk, a layout that this firmware could not boot from, or settings in the image that name the
/// master's devices.
pub fn install(request: BootloaderPlan) -> Result<Vec<Step>> {
    let (layout, efivars) = (request.layout, request.efivars);
    let (disks, firmware, image, modules) = match request.target {
        BootTarget::Disk { disks, firmware, image, missing_modules } => (disks, firmware, image, missing_modules),
        BootTarget::Network { .. } | BootTarget::Media { .. } => {
            return Err(PluginError::unsupported(
                "the boot loader plugin grub makes disks boot; for the network or a medium use one that serves it",
            ));
        }
    };
    if !request.entries.is_empty() {
        return Err(PluginError::unsupported(
            "the boot loader plugin grub leaves the menu to the image's own configuration; it takes no entries",
        ));
    }
    if !image.arch.is_empty() && !PC_ARCHES.contains(&image.arch.as_str()) {
        return Err(PluginError::unsupported(format!(
            "the image {} is for {}, and the boot loader plugin grub serves PCs (x86_64 and x86)",
            image.name, image.arch
        )));
    }
    if disks.is_empty() {
        return Err(PluginError::invalid("no disk is named to put boot code on; the master file's layout needs one"));
    }
    let found = found(&image)?;
    let installer = installer(&image, &found, &firmware)?;
    let ground = layout.as_ref().map(|layout| ground::check(layout, &disks, &firmware)).transpose()?;
    let mut steps = initramfs::rebuild(&image, &modules)?;
    if found.device_map {
        steps.push(Step::new(
            Phase::Boot,
            "remove GRUB's map of the master's devices",
            Action::Remove { path: format!("{}/device.map", found.directory).into() },
        ));
    }
    if firmware == "uefi" {
        let esp = ground.flatten().unwrap_or_else(|| "/boot/efi".to_owned());
        steps.extend(code::uefi(&installer, &found, &esp, efivars));
    } else {
        steps.extend(disks.iter().map(|disk| code::bios(&installer, &found, Arg::Device(disk.clone()), disk.as_str())));
    }
    steps.extend(menus(&image, &found, &firmware)?);
    Ok(steps)
}

/// What was found of GRUB in an image.
///
/// # Errors
/// `Missing`: nothing. `Invalid`: settings that name the master's devices.
pub fn found(image: &ImageFacts) -> Result<Found> {
    let found = image.bootloaders.get(ID).map(Found::from_facts).ok_or_else(|| lacks(image, &Found::default(), ""))?;
    if found.device_names.is_empty() {
        return Ok(found);
    }
    Err(PluginError::invalid(format!(
        "the image {} would boot by a device name that only the master client had: {}; take that out of the image's \
         settings, or name the file system by UUID there (root=UUID=…), and try again",
        image.name,
        found.device_names.join("; ")
    )))
}

/// The program that installs boot code for this firmware, which has its modules in the image.
///
/// # Errors
/// `Unsupported`: another firmware. `Missing`: the image lacks program or modules.
pub fn installer(image: &ImageFacts, found: &Found, firmware: &str) -> Result<String> {
    let modules = match firmware {
        "bios" => &found.modules,
        "uefi" => &found.efi_modules,
        _ => {
            return Err(PluginError::unsupported(format!(
                "this machine's firmware is {firmware:?}, and the boot loader plugin grub makes disks boot from a BIOS or \
                 UEFI; name another boot loader in the master file"
            )));
        }
    };
    match (&found.install, modules) {
        (Some(installer), Some(_)) => Ok(installer.clone()),
        _ => Err(lacks(image, found, firmware)),
    }
}

/// The steps that write the menu. It names the root file system by UUID where /dev/disk/by-uuid is there.
///
/// # Errors
/// `Missing`: the image has no program for it.
pub fn menus(image: &ImageFacts, found: &Found, firmware: &str) -> Result<Vec<Step>> {
    let tool = found.config_tool.as_deref().ok_or_else(|| lacks(image, found, ""))?;
    let mut written = vec![Written::below(found.directory.as_str())];
    if found.os_prober {
        written.push(Written::below("/var/lib/os-prober"));
    }
    let own = format!("{}/grub.cfg", found.directory);
    let argv = match tool {
        "update-grub" => Arg::words([tool]),
        _ => Arg::words([tool, "-o", &own]),
    };
    let mut steps = vec![
        Step::new(Phase::Boot, "write GRUB's menu", Action::InTarget { argv, stdin: None }).writing(written.clone()),
    ];
    if let Some(menu) = found.efi_menu.as_deref().filter(|_| firmware == "uefi") {
        let mkconfig = if tool == "update-grub" { "grub-mkconfig" } else { tool };
        written.push(Written::path(menu));
        let argv = Arg::words([mkconfig, "-o", menu]);
        let what = "write GRUB's menu on the EFI system partition";
        steps.push(Step::new(Phase::Boot, what, Action::InTarget { argv, stdin: None }).writing(written));
    }
    Ok(steps)
}

/// For people, on one line: facts and paths have been in files.
pub fn shown(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

/// What the image lacks for this firmware (empty: for any), by the package that brings it.
pub fn lacks(image: &ImageFacts, found: &Found, firmware: &str) -> PluginError {
    let os = image.os.get("ID").unwrap_or(&found.os).as_str();
    let like = image.os.get("ID_LIKE").map(String::as_str).unwrap_or_default();
    let is = |names: &[&str]| names.iter().any(|name| os == *name || like.split_whitespace().any(|word| word == *name));
    // For a BIOS, and for UEFI.
    let packages = if is(&["debian", "ubuntu"]) {
        ["grub-pc (or grub-pc-bin and grub2-common)", "grub-efi-amd64 (or grub-efi-amd64-bin and grub2-common)"]
    } else if is(&["rhel", "fedora", "centos"]) {
        ["grub2-pc", "grub2-efi-x64-modules"]
    } else if is(&["suse", "opensuse"]) {
        ["grub2-i386-pc", "grub2-x86_64-efi"]
    } else if is(&["arch"]) {
        ["grub"; 2]
    } else {
        [
            "that brings it (grub-pc on Debian and Ubuntu, grub2-pc on the Red Hat family, grub2-i386-pc on SUSE)",
            "that brings it (grub-efi-amd64 on Debian and Ubuntu, grub2-efi-x64-modules on the Red Hat family, \
             grub2-x86_64-efi on SUSE)",
        ]
    };
    let package = packages[usize::from(firmware == "uefi")];
    let (what, other) = match found {
        Found { install: None, config_tool: None, .. } => ("GRUB 2", ""),
        Found { install: None, .. } => ("grub-install", ""),
        Found { efi_modules: None, modules, .. } if firmware == "uefi" => (
            "GRUB's modules for UEFI machines (x86_64-efi)",
            if modules.is_some() { ", or switch this machine's firmware to legacy (CSM) boot" } else { "" },
        ),
        Found { modules: None, efi_modules, .. } if firmware == "bios" => (
            "GRUB's modules for BIOS machines (i386-pc)",
            if efi_modules.is_some() { ", or switch this machine's firmware to UEFI boot" } else { "" },
        ),
        _ => ("grub-mkconfig", ""),
    };
    PluginError::new(
        ErrorKind::Missing,
        format!(
            "the image {} lacks {what}; install the package {package} in the image{other}, or name another boot loader in \
             its master file",
            image.name
        ),
    )
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use systemimager_core::{BootEntry, Kernel, NodeName};

    pub fn debian() -> Found {
        Found {
            install: Some("grub-install".into()),
            modules: Some("/usr/lib/grub/i386-pc".into()),
            config_tool: Some("update-grub".into()),
            directory: "/boot/grub".into(),
            os: "debian".into(),
            ..Found::default()
        }
    }

    pub fn image(found: Option<Found>) -> ImageFacts {
        ImageFacts {
            name: "web".into(),
            arch: "x86_64".into(),
            os: [("ID".to_owned(), "debian".to_owned())].into(),
            initramfs_tool: Some("update-initramfs".into()),
            kernels: vec![Kernel {
                release: "6.1".into(),
                initramfs: Some("/boot/initrd.img-6.1".into()),
                ..Kernel::default()
            }],
            bootloaders: found.into_iter().map(|found| (ID.to_owned(), found.into_facts())).collect(),
            ..ImageFacts::default()
        }
    }

    fn node(name: &str) -> NodeName {
        NodeName::try_from(name).unwrap()
    }

    fn request(image: ImageFacts, firmware: &str, disks: &[&str], modules: &[&str]) -> BootloaderPlan {
        BootloaderPlan::new(BootTarget::Disk {
            disks: disks.iter().map(|name| node(name)).collect(),
            firmware: firmware.into(),
            image: Box::new(image),
            missing_modules: modules.iter().map(|name| (*name).to_owned()).collect(),
        })
    }

    /// Action and declared paths of each step, a line each.
    pub fn shown(steps: &[Step]) -> Vec<String> {
        steps
            .iter()
            .map(|step| {
                let action = match &step.action {
                    Action::InTarget { argv, .. } => argv
                        .iter()
                        .map(|arg| match arg {
                            Arg::Text(text) => text.to_string(),
                            Arg::Device(node) => format!("<{node}>"),
                            other => format!("{other:?}"),
                        })
                        .collect::<Vec<_>>()
                        .join(" "),
                    Action::Remove { path } => format!("remove {path}"),
                    Action::SetBlock { path, block, .. } => format!("block {path} {block:?}"),
                    other => format!("{other:?}"),
                };
                let paths: Vec<String> = step
                    .written()
                    .iter()
                    .map(|written| format!("{}{}", written.path, if written.below { "/**" } else { "" }))
                    .collect();
                assert_eq!(step.phase, Phase::Boot);
                format!("{action} -> {}", paths.join(" "))
            })
            .collect()
    }

    #[test]
    fn plans() {
        let red_hat = Found {
            install: Some("grub2-install".into()),
            config_tool: Some("grub2-mkconfig".into()),
            directory: "/boot/grub2".into(),
            os: "rhel".into(),
            ..debian()
        };
        let old = Found { device_map: true, os_prober: true, ..debian() };
        let rows: Vec<(&str, BootloaderPlan, Vec<&str>)> = vec![
            (
                "debian",
                request(image(Some(debian())), "bios", &["disk0"], &[]),
                vec![
                    "grub-install --target=i386-pc --recheck <disk0> -> /boot/grub/**",
                    "update-grub -> /boot/grub/**",
                ],
            ),
            (
                "two disks, an old map, other disks' driver",
                request(image(Some(old)), "bios", &["disk0", "disk1"], &["virtio_blk"]),
                vec![
                    "block /etc/initramfs-tools/modules \"virtio_blk\\n\" -> /etc/initramfs-tools/modules",
                    "update-initramfs -u -k 6.1 -> /boot/initrd.img-6.1 /var/tmp /tmp /var/lib/initramfs-tools/**",
                    "remove /boot/grub/device.map -> /boot/grub/device.map",
                    "grub-install --target=i386-pc --recheck <disk0> -> /boot/grub/**",
                    "grub-install --target=i386-pc --recheck <disk1> -> /boot/grub/**",
                    "update-grub -> /boot/grub/** /var/lib/os-prober/**",
                ],
            ),
            (
                "a Red Hat",
                request(image(Some(red_hat)), "bios", &["disk0"], &[]),
                vec![
                    "grub2-install --target=i386-pc --recheck <disk0> -> /boot/grub2/**",
                    "grub2-mkconfig -o /boot/grub2/grub.cfg -> /boot/grub2/**",
                ],
            ),
        ];
        for (name, request, expected) in rows {
            assert_eq!(shown(&install(request).unwrap()), expected, "{name}");
        }
    }

    #[test]
    fn uefi() {
        let both = |efibootmgr| Found { efi_modules: Some("/usr/lib/grub/x86_64-efi".into()), efibootmgr, ..debian() };
        let esp = "/boot/grub/** /boot/efi/EFI/**";
        let words = "grub-install --target=x86_64-efi --efi-directory=/boot/efi --recheck";
        for (name, efibootmgr, efivars, entry, says) in [
            ("an entry", true, true, "", "with an entry in the firmware"),
            ("no tool", false, true, " --no-nvram", "the image has no efibootmgr"),
            ("no variables", true, false, " --no-nvram", "this system cannot write the firmware's"),
        ] {
            let mut request = request(image(Some(both(efibootmgr))), "uefi", &["disk0"], &[]);
            request.efivars = efivars;
            let steps = install(request).unwrap();
            assert_eq!(
                shown(&steps),
                [
                    format!("{words}{entry} -> {esp}"),
                    format!("{words} --removable --no-nvram -> {esp}"),
                    "update-grub -> /boot/grub/**".to_owned(),
                ],
                "{name}"
            );
            assert!(steps[0].what.ends_with(says), "{name}: {}", steps[0].what);
        }
    }

    #[test]
    fn refusals() {
        let arm = ImageFacts { arch: "aarch64".into(), ..image(Some(debian())) };
        let rhel = ImageFacts { os: [("ID".to_owned(), "rhel".to_owned())].into(), ..image(None) };
        let unknown = ImageFacts { os: [].into(), ..image(None) };
        let named = Found { device_names: vec!["/etc/default/grub:9: GRUB_DEVICE=/dev/sda1".into()], ..debian() };
        let mut entries = request(image(Some(debian())), "bios", &["disk0"], &[]);
        entries.entries.push(BootEntry::default());
        let network = BootTarget::Network { server: "10.0.0.1".into(), http_port: 80, mac: None };
        let rows: Vec<(&str, BootloaderPlan, ErrorKind, &str)> = vec![
            (
                "firmware",
                request(image(Some(debian())), "u-boot", &["d"], &[]),
                ErrorKind::Unsupported,
                "is \"u-boot\"",
            ),
            (
                "for BIOS only",
                request(image(Some(debian())), "uefi", &["d"], &[]),
                ErrorKind::Missing,
                "lacks GRUB's modules for UEFI machines (x86_64-efi); install the package grub-efi-amd64 (or \
                 grub-efi-amd64-bin and grub2-common) in the image, or switch this machine's firmware to legacy (CSM) boot",
            ),
            ("no disk", request(image(Some(debian())), "bios", &[], &[]), ErrorKind::Invalid, "no disk is named"),
            ("arm", request(arm, "bios", &["d"], &[]), ErrorKind::Unsupported, "is for aarch64"),
            ("entries", entries, ErrorKind::Unsupported, "takes no entries"),
            ("network", BootloaderPlan::new(network), ErrorKind::Unsupported, "makes disks boot"),
            (
                "no GRUB",
                request(image(None), "bios", &["d"], &[]),
                ErrorKind::Missing,
                "the image web lacks GRUB 2; install the package grub-pc (or",
            ),
            (
                "no GRUB, rhel",
                request(rhel, "bios", &["d"], &[]),
                ErrorKind::Missing,
                "the package grub2-pc in the image",
            ),
            (
                "no GRUB, who knows",
                request(unknown, "bios", &["d"], &[]),
                ErrorKind::Missing,
                "grub2-pc on the Red Hat",
            ),
            (
                "for UEFI only",
                request(image(Some(Found { modules: None, ..debian() })), "bios", &["d"], &[]),
                ErrorKind::Missing,
                "lacks GRUB's modules for BIOS machines",
            ),
            (
                "no menu",
                request(image(Some(Found { config_tool: None, ..debian() })), "bios", &["d"], &[]),
                ErrorKind::Missing,
                "lacks grub-mkconfig",
            ),
            (
                "device names",
                request(image(Some(named)), "bios", &["d"], &[]),
                ErrorKind::Invalid,
                "/etc/default/grub:9: GRUB_DEVICE=/dev/sda1; take that out",
            ),
        ];
        for (name, request, kind, says) in rows {
            let error = install(request).unwrap_err();
            assert_eq!(error.kind, kind, "{name}: {error}");
            assert!(error.message.contains(says), "{name}: {error}");
        }
    }
}
