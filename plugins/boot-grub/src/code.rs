//! Boot code: what firmware starts first, put there by the image's own grub-install. Pure.
//!
//! A BIOS starts the first sector of a disk. UEFI starts a file of an EFI system partition: one that an entry in its
//! memory names, and where there is none, the one of a fixed name (UEFI specification 2.10, section 3.5.1.1). Both are
//! made: entries are lost with a disk that moves, and some firmware looks for nothing but its entries.

use systemimager_core::{Action, Arg, Phase, Step, Written};

use crate::detect::{BIOS, Found, UEFI};

/// The step that puts boot code on a disk, for a BIOS.
pub fn bios(installer: &str, found: &Found, disk: Arg, shown: &str) -> Step {
    let mut argv = Arg::words([installer, &format!("--target={BIOS}"), "--recheck"]);
    argv.push(disk);
    Step::new(Phase::Boot, format!("put GRUB's boot code on {shown}"), Action::InTarget { argv, stdin: None })
        .writing([Written::below(found.directory.as_str())])
}

/// The steps that put GRUB onto the EFI system partition that is mounted at `esp`. `efivars`: the firmware's boot
/// entries can be written.
pub fn uefi(installer: &str, found: &Found, esp: &str, efivars: bool) -> Vec<Step> {
    let install = |what: String, more: &[&str]| {
        let (target, directory) = (format!("--target={UEFI}"), format!("--efi-directory={esp}"));
        let mut words = vec![installer, &target, &directory, "--recheck"];
        // The Red Hat family's refuses to be used for UEFI without: what it installs is not signed.
        words.extend((installer == "grub2-install").then_some("--force"));
        words.extend(more);
        Step::new(Phase::Boot, what, Action::InTarget { argv: Arg::words(words), stdin: None })
            .writing([Written::below(found.directory.as_str()), Written::below(format!("{esp}/EFI").as_str())])
    };
    let entry = if efivars && found.efibootmgr {
        install(format!("put GRUB on {esp}, with an entry in the firmware"), &[])
    } else {
        let why = if efivars { "the image has no efibootmgr" } else { "this system cannot write the firmware's" };
        install(format!("put GRUB on {esp}, without an entry in the firmware: {why}"), &["--no-nvram"])
    };
    let fallback = install(
        format!("put GRUB on {esp} as EFI/BOOT/BOOTX64.EFI, where firmware without an entry looks"),
        &["--removable", "--no-nvram"],
    );
    vec![entry, fallback]
}
