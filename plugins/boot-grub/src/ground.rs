//! Whether a layout has what GRUB stands on: for UEFI an EFI system partition that is mounted, for a BIOS the place where its
//! boot code goes. Pure.

use systemimager_core::{Layout, NodeName, PluginError, Result};

/// Types of partitions: EFI's system partition in gpt and dos tables, and GRUB's own in gpt.
const ESP: [&str; 2] = ["c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "ef"];
const BIOS_BOOT: &str = "21686148-6449-6e6f-744e-656564454649";

/// Where the EFI system partition is mounted, of an UEFI machine.
///
/// # Errors
/// `Invalid`: the layout lacks what this firmware needs; what is missing, and how it is written.
pub fn check(layout: &Layout, disks: &[NodeName], firmware: &str) -> Result<Option<String>> {
    if firmware == "uefi" {
        return esp(layout).map(Some);
    }
    for disk in layout.disks.iter().filter(|disk| disks.contains(&disk.node) && disk.label == "gpt") {
        if !disk.partitions.iter().any(|it| it.kind.eq_ignore_ascii_case(BIOS_BOOT)) {
            return Err(PluginError::invalid(format!(
                "this machine started from a BIOS, and {} has a gpt table without the partition in which GRUB's boot code lies \
                 then; add one of 1 MiB to the layout (type = {BIOS_BOOT:?}), make its label dos, or switch this machine's \
                 firmware to UEFI boot",
                disk.node
            )));
        }
    }
    Ok(None)
}

fn esp(layout: &Layout) -> Result<String> {
    let fats = layout.mounts.iter().filter_map(|mount| {
        let fs = layout.filesystems.iter().find(|fs| fs.node == mount.node && fs.kind == "vfat")?;
        let partition = layout.disks.iter().flat_map(|disk| &disk.partitions).find(|it| it.node == fs.on)?;
        Some((mount, partition))
    });
    let mut wrong = None;
    for (mount, partition) in fats {
        if !ESP.iter().any(|kind| kind.eq_ignore_ascii_case(&partition.kind)) {
            wrong = Some(partition);
            continue;
        }
        let at = mount.at.to_string();
        // It becomes part of an argument.
        let fine = at.chars().all(|letter| letter.is_ascii_alphanumeric() || "/._-".contains(letter));
        if fine {
            return Ok(at.trim_end_matches('/').to_owned());
        }
    }
    let found = wrong.map_or(String::new(), |it| format!(" ({} is mounted, and its type is {})", it.node, it.kind));
    Err(PluginError::invalid(format!(
        "this machine started by UEFI, and the layout has no EFI system partition that is mounted{found}; add one (type = {:?}, \
         a file system vfat, mounted at /boot/efi), or switch this machine's firmware to legacy (CSM) boot",
        ESP[0].to_uppercase()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with this label, and partition 1 of this type; a file system on it that is mounted there.
    fn layout(label: &str, kind: &str, fstype: &str, at: &str) -> Layout {
        serde_json::from_value(serde_json::json!({
            "disk": [{ "node": "disk0", "label": label, "size": "1 GiB", "partition": [
                { "node": "disk0p1", "number": 1, "type": kind },
            ] }],
            "filesystem": [{ "node": "first", "on": "disk0p1", "type": fstype }],
            "mount": [{ "node": "first", "at": at }],
        }))
        .unwrap()
    }

    #[test]
    fn what_each_firmware_needs() {
        let esp = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
        let linux = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";
        let disks = [NodeName::try_from("disk0").unwrap()];
        let rows = [
            ("esp", layout("gpt", esp, "vfat", "/boot/efi/"), "uefi", Ok(Some("/boot/efi"))),
            ("esp in dos", layout("dos", "ef", "vfat", "/efi"), "uefi", Ok(Some("/efi"))),
            (
                "another type",
                layout("gpt", linux, "vfat", "/boot/efi"),
                "uefi",
                Err("(disk0p1 is mounted, and its type is"),
            ),
            (
                "not mounted",
                layout("gpt", esp, "ext4", "/"),
                "uefi",
                Err("has no EFI system partition that is mounted; add"),
            ),
            ("odd place", layout("gpt", esp, "vfat", "/a b"), "uefi", Err("has no EFI system partition")),
            ("dos", layout("dos", "83", "ext4", "/"), "bios", Ok(None)),
            ("gpt", layout("gpt", linux, "ext4", "/"), "bios", Err("disk0 has a gpt table without the partition")),
            ("gpt with its partition", layout("gpt", BIOS_BOOT, "ext4", "/"), "bios", Ok(None)),
        ];
        for (name, layout, firmware, expected) in rows {
            match (check(&layout, &disks, firmware), expected) {
                (Ok(at), Ok(expected)) => assert_eq!(at.as_deref(), expected, "{name}"),
                (Err(error), Err(says)) => assert!(error.message.contains(says), "{name}: {error}"),
                (got, _) => panic!("{name}: {got:?}"),
            }
        }
    }
}
