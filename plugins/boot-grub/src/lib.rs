//! GRUB 2 on a disk, through the image's own programs: its `grub-install` writes the boot code, its
//! `update-grub` or `grub-mkconfig` the menu, its initramfs tool adds the drivers that a machine needs.
//!
//! The image's own programs are used because boot code, modules and menu must be of one version, and
//! because later kernel upgrades on the machine run the very same programs. It must not write a menu of
//! its own, nor guess at devices: the engine resolves nodes.

mod code;
mod defaults;
mod detect;
mod ext2;
mod ground;
mod initramfs;
mod once;
mod plan;
mod refresh;

use std::collections::BTreeMap;

use systemimager_core::contract::{BootOnce, Bootloader, BootloaderDetect, BootloaderPlan, BootloaderRefresh};
use systemimager_core::{BootPlan, Host, Needs, Result, Role, Step, declare_plugin};

/// The plugin.
pub struct Grub;

/// The id under which the facts of [`Grub`] stand in [`systemimager_core::ImageFacts::bootloaders`].
const ID: &str = "grub";

declare_plugin! {
    kind: Bootloader,
    id: grub,
    about: "GRUB 2 on a disk, BIOS and UEFI, through the image's own grub-install",
    make: Grub,
}

impl Bootloader for Grub {
    /// Nothing in any role: the image brings all that is run.
    fn needs(&self, _: &dyn Host, _: Role) -> Result<Needs> {
        Ok(Needs::default())
    }

    fn detect(&self, host: &dyn Host, request: BootloaderDetect) -> Result<Option<BTreeMap<String, String>>> {
        Ok(detect::detect(host, &request.place)?.map(detect::Found::into_facts))
    }

    fn plan(&self, _: &dyn Host, request: BootloaderPlan) -> Result<BootPlan> {
        Ok(BootPlan { steps: plan::install(request)?, boot_files: Vec::new() })
    }

    fn refresh(&self, _: &dyn Host, request: BootloaderRefresh) -> Result<Vec<Step>> {
        refresh::refresh(&request)
    }

    fn boot_once(&self, host: &dyn Host, request: BootOnce) -> Result<Vec<Step>> {
        once::boot_once(host, &request)
    }
}
