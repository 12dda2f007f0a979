//! The steps that make a disk boot through the image's own LILO, and that make it so again after an update.

use systemimager_core::contract::{BootloaderPlan, BootloaderRefresh};
use systemimager_core::{
    Action, Arg, BlockDevice, BootTarget, Booted, Bytes, Contents, ErrorKind, Host, ImageFacts, Layout, Level,
    NodeName, Phase, PluginError, Result, Step, Written,
};

use crate::conf::{self, Conf};
use crate::detect::{self, CONF, Found, SECTOR};
use crate::machine::{self, Machine};
use crate::{ID, initramfs};

/// First line of what is written.
const HEAD: &str = "# Written by SystemImager for this machine, from the image's lilo.conf. Run lilo after a change.\n";

/// Steps for a disk that boots for the first time.
///
/// # Errors
/// `Unsupported`: not a disk, not a BIOS, entries to add. `Missing`: the image lacks LILO, a file that its lilo.conf
/// names, or an initramfs tool. `Invalid`: nobody said which disk it is, or a configuration that LILO could not read.
pub fn install(host: &dyn Host, request: BootloaderPlan) -> Result<Vec<Step>> {
    let (disks, firmware, image, modules) = match &request.target {
        BootTarget::Disk { disks, firmware, image, missing_modules } => (disks, firmware, image, missing_modules),
        BootTarget::Network { .. } | BootTarget::Media { .. } => {
            return Err(PluginError::unsupported(
                "the boot loader plugin lilo makes disks boot; for the network or a medium use one that serves it",
            ));
        }
    };
    if !request.entries.is_empty() {
        return Err(PluginError::unsupported(
            "the boot loader plugin lilo takes its entries from the image's lilo.conf, and no others",
        ));
    }
    bios(firmware)?;
    let found = found(image)?;
    let [disk] = disks.as_slice() else {
        return Err(PluginError::invalid(format!(
            "LILO's boot code goes onto one disk, and {} are named; see that the layout has /boot or / on one disk",
            disks.len()
        )));
    };
    let (Some(layout), Some(device)) = (&request.layout, request.devices.get(disk)) else {
        return Err(PluginError::invalid(format!(
            "nobody said which disk of this machine {disk} is, and LILO has to be told; use a newer systemimager"
        )));
    };
    let machine = of_layout(layout, disk, device, &request)?;
    let mut steps = initramfs::rebuild(image, modules)?;
    steps.extend(configured(host, image, &found, &machine)?);
    steps.extend(run(&found, &format!("put LILO's boot code on {disk}"), &[]));
    Ok(steps)
}

/// Steps for an installed system whose kernel or configuration changed, or is going to; none if neither matters.
///
/// # Errors
/// As [`install`].
pub fn refresh(host: &dyn Host, request: &BootloaderRefresh) -> Result<Vec<Step>> {
    let image = &request.image;
    let found = found(image)?;
    let mut steps = initramfs::rebuild(image, &request.missing_modules)?;
    let reads = found.clone().into_facts().remove("reads").unwrap_or_default();
    let touched = request.changed.as_ref().is_none_or(|changed| {
        changed.iter().any(|change| {
            let change = change.as_bytes();
            reads.lines().any(|path| covers(path.as_bytes(), change) || covers(change, path.as_bytes()))
        })
    });
    if !touched && steps.is_empty() {
        return Ok(steps);
    }
    let Some(booted) = &request.booted else {
        return Err(PluginError::invalid(
            "LILO has to be run again, and nobody said from which disk this system boots; use a newer systemimager",
        ));
    };
    bios(&booted.firmware)?;
    let machine = of_booted(booted)?;
    steps.extend(configured(host, image, &found, &machine)?);
    steps.extend(run(&found, "have LILO note anew where kernels lie", &[]));
    Ok(steps)
}

/// The steps that keep the map, where there is one, and run LILO, which keeps the boot sector itself.
pub fn run(found: &Found, what: &str, more: &[&str]) -> Vec<Step> {
    let map = found.map();
    let mut steps = Vec::new();
    if found.has_map {
        let kept = detect::backup(&map);
        steps.push(
            Step::new(
                Phase::Boot,
                format!("keep LILO's map as {}", shown(&kept)),
                Action::InTarget { argv: Arg::words(["cp", "-p", "--", &map, &kept]), stdin: None },
            )
            .writing([Written::path(kept.as_str())]),
        );
    }
    let argv = [["lilo", "-S", SECTOR].as_slice(), more].concat();
    let written = [map.as_str(), SECTOR].map(Written::path);
    steps.push(Step::new(Phase::Boot, what, Action::InTarget { argv: Arg::words(argv), stdin: None }).writing(written));
    steps
}

fn configured(host: &dyn Host, image: &ImageFacts, found: &Found, machine: &Machine) -> Result<Vec<Step>> {
    if !found.absent.is_empty() {
        return Err(PluginError::new(
            ErrorKind::Missing,
            format!(
                "{CONF} of the image {} names {}, which the image lacks: LILO would refuse it; take the entry out, or say \
                 optional there",
                image.name,
                found.absent.join(" and ")
            ),
        ));
    }
    let original = found.conf().unwrap_or_else(|| machine::of_kernels(image));
    let (adapted, warnings) = machine::adapt(&original, machine);
    for warning in warnings {
        host.log(Level::Warn, &format!("{CONF} of the image {}: {}", image.name, shown(&warning)));
    }
    if adapted.sections.is_empty() {
        return Err(PluginError::invalid(format!(
            "{CONF} of the image {} has no image= to boot, and LILO needs one; add one, or remove the file, so that the \
             image's kernels are taken",
            image.name
        )));
    }
    named_devices(image, &adapted)?;
    let text = conf::render(&adapted).map_err(|word| {
        PluginError::invalid(format!(
            "{CONF} of the image {} holds {word:?}, which LILO cannot read again; correct it",
            image.name
        ))
    })?;
    let contents = Contents::Bytes(Bytes::from(format!("{HEAD}{text}")));
    let action = Action::WriteFile { path: CONF.into(), contents, mode: 0o600 };
    Ok(vec![Step::new(Phase::Boot, format!("write {CONF} for this machine's disk"), action)])
}

/// Words for the kernel that name a disk as the master's kernel did.
fn named_devices(image: &ImageFacts, conf: &Conf) -> Result<()> {
    let items = conf.global.iter().chain(conf.sections.iter().flat_map(|section| &section.items));
    let lines = items.filter(|item| ["append", "addappend", "literal"].contains(&item.key.as_str()));
    let names = |word: &&str| {
        ["=/dev/sd", "=/dev/hd", "=/dev/vd", "=/dev/xvd", "=/dev/nvme", "=/dev/mmcblk"]
            .iter()
            .any(|it| word.contains(it))
    };
    let found: Vec<String> = lines
        .filter_map(|item| item.value.as_deref())
        .flat_map(|value| value.split_whitespace().filter(names))
        .map(shown)
        .collect();
    if found.is_empty() {
        return Ok(());
    }
    Err(PluginError::invalid(format!(
        "{CONF} of the image {} would have the kernel use a device name that only the master client had: {}; take that out, \
         or name the file system by UUID there",
        image.name,
        found.join(", ")
    )))
}

fn of_layout(layout: &Layout, disk: &NodeName, device: &BlockDevice, request: &BootloaderPlan) -> Result<Machine> {
    let partitions =
        layout.disks.iter().find(|it| it.node == *disk).map(|it| it.partitions.as_slice()).unwrap_or_default();
    let Some(root) = layout.mounted_at("/") else {
        return Err(PluginError::invalid("the layout mounts nothing at /; add the root file system to it"));
    };
    let on = layout.disks.iter().find_map(|disk| {
        let path = request.devices.get(&disk.node)?.path.to_string();
        let partition = disk.partitions.iter().find(|it| it.node == root.on);
        match partition {
            Some(partition) => Some(machine::partition(&path, partition.number)),
            None => (disk.node == root.on).then_some(path),
        }
    });
    let Some(root_device) = on else {
        return Err(PluginError::invalid(format!("{} is on {}, which is no partition of a disk", root.node, root.on)));
    };
    let root_uuid = root.uuid.clone().filter(|_| !root.new_uuid).unwrap_or_default();
    let highest = partitions.iter().map(|it| it.number).max().unwrap_or(0);
    Ok(Machine { disk: device.clone(), partitions: highest, root_uuid, root_device })
}

fn of_booted(booted: &Booted) -> Result<Machine> {
    let [disk] = booted.disks.as_slice() else {
        return Err(PluginError::invalid(format!(
            "LILO's boot code is on one disk, and /boot lies on {}; this plugin does not serve that",
            booted.disks.len()
        )));
    };
    let Some(root) = booted.mount_of("/").filter(|root| !root.device.as_bytes().is_empty()) else {
        return Err(PluginError::invalid("nobody knows on which device / lies; see that /proc is mounted"));
    };
    let highest = disk.partitions.iter().map(|it| it.number).max().unwrap_or(0);
    Ok(Machine {
        disk: disk.clone(),
        partitions: highest,
        root_uuid: root.uuid.clone(),
        root_device: root.device.to_string(),
    })
}

/// What was found of LILO in an image.
fn found(image: &ImageFacts) -> Result<Found> {
    image.bootloaders.get(ID).map(Found::from_facts).ok_or_else(|| {
        PluginError::new(
            ErrorKind::Missing,
            format!(
                "the image {} lacks LILO (/sbin/lilo); install the package lilo in the image, or name another boot loader in \
                 its master file",
                image.name
            ),
        )
    })
}

fn bios(firmware: &str) -> Result<()> {
    if firmware == "bios" {
        return Ok(());
    }
    Err(PluginError::unsupported(format!(
        "this machine's firmware is {firmware:?}, and LILO starts from a BIOS only; switch the firmware to legacy (CSM) boot, \
         or name another boot loader in the master file"
    )))
}

/// For people, on one line.
pub fn shown(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

/// Whether a path is `above`, or below it.
fn covers(above: &[u8], path: &[u8]) -> bool {
    let above = above.strip_suffix(b"/").unwrap_or(above);
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}
