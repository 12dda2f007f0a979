//! What is made anew on an installed system when its kernel or GRUB's configuration changed. Pure.
//!
//! Modules and boot code have to be of one version, so that whatever changes GRUB's modules has the boot code installed
//! again where it was. What does not concern GRUB gives no steps.

use systemimager_core::contract::BootloaderRefresh;
use systemimager_core::{Arg, Booted, BytePath, PluginError, Result, Step};

use crate::detect::Found;
use crate::{code, initramfs, plan};

/// Where an EFI system partition is mounted.
const ESPS: [&str; 3] = ["/boot/efi", "/efi", "/boot"];

/// The steps; none if nothing that changed matters.
///
/// # Errors
/// `Missing`: the image lacks GRUB or an initramfs tool. `Invalid`: settings in the image that name the master's devices,
/// or nobody said where the boot code is.
pub fn refresh(request: &BootloaderRefresh) -> Result<Vec<Step>> {
    let image = &request.image;
    let found = plan::found(image)?;
    let mut steps = initramfs::rebuild(image, &request.missing_modules)?;
    let firmware = request.booted.as_ref().map(|booted| booted.firmware.as_str()).unwrap_or_default();
    let touched = |paths: &[String]| request.changed.as_ref().is_none_or(|changed| touch(changed, paths));
    let mut code_changed = false;
    if let Some(booted) = &request.booted
        && touched(&found.code_from(firmware))
    {
        steps.extend(boot_code(request, booted, &found)?);
        code_changed = true;
    }
    // What GRUB keeps for itself, its environment say, is below /boot too.
    let own = |path: &BytePath| {
        covers(found.directory.as_bytes(), path.as_bytes())
            && path.to_string() != format!("{}/grub.cfg", found.directory)
    };
    let others: Option<Vec<BytePath>> =
        request.changed.as_ref().map(|changed| changed.iter().filter(|path| !own(path)).cloned().collect());
    if code_changed || !steps.is_empty() || others.is_none_or(|changed| touch(&changed, &found.menu_from())) {
        steps.extend(plan::menus(image, &found, firmware)?);
    }
    Ok(steps)
}

fn boot_code(request: &BootloaderRefresh, booted: &Booted, found: &Found) -> Result<Vec<Step>> {
    let image = &request.image;
    let installer = plan::installer(image, found, &booted.firmware)?;
    let invalid =
        |why: &str| Err(PluginError::invalid(format!("GRUB's boot code has to be installed anew, and {why}")));
    match booted.firmware.as_str() {
        "uefi" => {
            let is_esp = |at: &&&str| booted.mounts.iter().any(|it| it.at == (**at).into() && it.fstype == "vfat");
            match ESPS.iter().find(is_esp) {
                Some(esp) => Ok(code::uefi(&installer, found, esp, booted.efivars)),
                None => invalid("no EFI system partition is mounted; mount it at /boot/efi"),
            }
        }
        _ if booted.disks.is_empty() => {
            invalid("nobody knows on which disk; see that /boot lies on a disk of this machine, and is mounted")
        }
        _ => {
            let one = |disk: &systemimager_core::BlockDevice| {
                code::bios(&installer, found, Arg::Text(disk.path.clone()), &plan::shown(&disk.path.to_string()))
            };
            Ok(booted.disks.iter().map(one).collect())
        }
    }
}

/// Whether one of the changed paths lies at, below or above one of these.
fn touch(changed: &[BytePath], paths: &[String]) -> bool {
    let mut pairs =
        changed.iter().flat_map(|change| paths.iter().map(move |path| (change.as_bytes(), path.as_bytes())));
    pairs.any(|(change, path)| covers(path, change) || covers(change, path))
}

/// Whether a path is `above`, or below it.
fn covers(above: &[u8], path: &[u8]) -> bool {
    let above = above.strip_suffix(b"/").unwrap_or(above);
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ID;
    use crate::plan::tests::{debian, image, shown};
    use systemimager_core::{BlockDevice, BootedMount, Place};

    fn booted(firmware: &str, esp: bool) -> Booted {
        let mount =
            |at: &str, fstype: &str| BootedMount { at: at.into(), fstype: fstype.into(), ..BootedMount::default() };
        let mut mounts = vec![mount("/", "ext4")];
        mounts.extend(esp.then(|| mount("/boot/efi", "vfat")));
        let disk = |path: &str| BlockDevice { path: path.into(), ..BlockDevice::default() };
        let disks = vec![disk("/dev/sda"), disk("/dev/sdb")];
        Booted { firmware: firmware.into(), efivars: true, disks, mounts, ..Booted::new(Place::Running) }
    }

    fn both() -> Found {
        Found { efi_modules: Some("/usr/lib/grub/x86_64-efi".into()), efibootmgr: true, ..debian() }
    }

    fn request(booted: Option<Booted>, changed: Option<&[&str]>, modules: &[&str]) -> BootloaderRefresh {
        BootloaderRefresh {
            image: image(Some(both())),
            missing_modules: modules.iter().map(|name| (*name).to_owned()).collect(),
            booted,
            changed: changed.map(|paths| paths.iter().map(|path| BytePath::from(*path)).collect()),
        }
    }

    #[test]
    fn what_changed_decides() {
        const CODE: [&str; 2] = [
            "grub-install --target=i386-pc --recheck /dev/sda -> /boot/grub/**",
            "grub-install --target=i386-pc --recheck /dev/sdb -> /boot/grub/**",
        ];
        const EFI: &str = "grub-install --target=x86_64-efi --efi-directory=/boot/efi --recheck";
        const MENU: &str = "update-grub -> /boot/grub/**";
        let initramfs = [
            "block /etc/initramfs-tools/modules \"ahci\\n\" -> /etc/initramfs-tools/modules",
            "update-initramfs -u -k 6.1 -> /boot/initrd.img-6.1 /var/tmp /tmp /var/lib/initramfs-tools/**",
            MENU,
        ];
        let efi = [
            format!("{EFI} -> /boot/grub/** /boot/efi/EFI/**"),
            format!("{EFI} --removable --no-nvram -> /boot/grub/** /boot/efi/EFI/**"),
            MENU.to_owned(),
        ];
        let efi: Vec<&str> = efi.iter().map(String::as_str).collect();
        let all = [CODE[0], CODE[1], MENU];
        let bios = || Some(booted("bios", false));
        let uefi = || Some(booted("uefi", true));
        type Row<'a> = (&'a str, Option<Booted>, Option<&'a [&'a str]>, &'a [&'a str], &'a [&'a str]);
        let rows: [Row<'_>; 13] = [
            ("nothing", bios(), Some(&[]), &[], &[]),
            ("nothing that matters", bios(), Some(&["/etc/motd", "/usr/lib/grubby", "/bootstrap"]), &[], &[]),
            ("all that GRUB has in /boot", bios(), Some(&["/boot/grub"]), &[], &all),
            ("its environment", bios(), Some(&["/boot/grub/grubenv"]), &[], &[]),
            ("its menu", bios(), Some(&["/boot/grub/grub.cfg"]), &[], &[MENU]),
            ("a kernel", bios(), Some(&["/boot/vmlinuz-6.2"]), &[], &[MENU]),
            ("settings", bios(), Some(&["/etc/default/grub"]), &[], &[MENU]),
            ("modules", bios(), Some(&["/usr/lib/grub/i386-pc/normal.mod"]), &[], &all),
            ("modules of the other firmware", uefi(), Some(&["/usr/lib/grub/i386-pc/normal.mod"]), &[], &[]),
            ("UEFI", uefi(), Some(&["/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"]), &[], &efi),
            ("who knows", bios(), None, &[], &all),
            ("a system of which nothing is known", None, None, &[], &[MENU]),
            ("a driver", bios(), Some(&[]), &["ahci"], &initramfs),
        ];
        for (name, booted, changed, modules, expected) in rows {
            let steps = refresh(&request(booted, changed, modules)).unwrap();
            assert_eq!(shown(&steps), expected, "{name}");
        }
    }

    #[test]
    fn refusals() {
        let mut lost = booted("bios", false);
        lost.disks.clear();
        for (name, booted, says) in [
            ("no disk", lost, "nobody knows on which disk"),
            ("no partition", booted("uefi", false), "no EFI system partition is mounted; mount it at /boot/efi"),
            ("no firmware", booted("", false), "this machine's firmware is \"\""),
        ] {
            let error = refresh(&request(Some(booted), None, &[])).unwrap_err();
            assert!(error.message.contains(says), "{name}: {error}");
        }
        let mut old = request(Some(booted("uefi", true)), None, &[]);
        old.image.bootloaders.insert(ID.into(), debian().into_facts());
        let error = refresh(&old).unwrap_err();
        assert!(error.message.contains("install the package grub-efi-amd64"), "{error}");
    }
}
