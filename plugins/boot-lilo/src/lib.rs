//! LILO on a disk, through the image's own program: an image's lilo.conf is made one for the machine's disk, and `lilo` is
//! run inside the target (as `lilo -r` does).
//!
//! LILO's map says in which blocks of the disk a kernel lies, so that it is run again whenever a kernel or an initramfs
//! changed. The map and the boot sector that were there are kept beside them first. BIOS only.
//! Sources: lilo(8), lilo.conf(5) of LILO 24.2.

mod conf;
mod detect;
// The same for every boot loader; this file is the other plugin's, and knows nothing of it.
#[path = "../../boot-grub/src/initramfs.rs"]
mod initramfs;
mod machine;
mod once;
mod plan;

use std::collections::BTreeMap;

use systemimager_core::contract::{BootOnce, Bootloader, BootloaderDetect, BootloaderPlan, BootloaderRefresh};
use systemimager_core::{BootPlan, Host, Needs, Result, Role, Step, declare_plugin};

/// The plugin.
pub struct Lilo;

/// The id under which the facts of [`Lilo`] stand in [`systemimager_core::ImageFacts::bootloaders`].
const ID: &str = "lilo";

declare_plugin! {
    kind: Bootloader,
    id: lilo,
    about: "LILO on a disk of a BIOS machine, through the image's own lilo",
    make: Lilo,
}

impl Bootloader for Lilo {
    /// Nothing in any role: the image brings all that is run.
    fn needs(&self, _: &dyn Host, _: Role) -> Result<Needs> {
        Ok(Needs::default())
    }

    fn detect(&self, host: &dyn Host, request: BootloaderDetect) -> Result<Option<BTreeMap<String, String>>> {
        Ok(detect::detect(host, &request.place)?.map(detect::Found::into_facts))
    }

    fn plan(&self, host: &dyn Host, request: BootloaderPlan) -> Result<BootPlan> {
        Ok(BootPlan { steps: plan::install(host, request)?, boot_files: Vec::new() })
    }

    fn boot_once(&self, host: &dyn Host, request: BootOnce) -> Result<Vec<Step>> {
        once::boot_once(host, &request)
    }

    fn refresh(&self, host: &dyn Host, request: BootloaderRefresh) -> Result<Vec<Step>> {
        plan::refresh(host, &request)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn keeps_the_contract() {
        systemimager_core::testing::assert_conforms();
    }
}
