//! Which files of an installed machine are GRUB's: what it made there, and what it reads besides all below /boot. Pure.

use systemimager_core::contract::BootPaths;
use systemimager_core::{ImageFacts, Written};

use crate::ID;
use crate::detect::Found;

/// What the menu is made from, on Debian, the Red Hat family and SUSE.
const READ: [&str; 4] = ["/etc/default/grub", "/etc/default/grub.d", "/etc/grub.d", "/etc/kernel"];
/// Where the programs' modules lie.
const MODULES: [&str; 4] = ["/usr/lib/grub", "/usr/lib/grub2", "/usr/share/grub2", "/usr/lib/grub-legacy"];

/// Menu, environment and modules are those of this machine: `grub-install` and the menu's writer made them here, and
/// the environment holds what boots next.
pub fn paths(image: &ImageFacts) -> BootPaths {
    let directory = image.bootloaders.get(ID).map(|facts| Found::from_facts(facts).directory);
    let both = || vec!["/boot/grub".to_owned(), "/boot/grub2".to_owned()];
    let own = directory.map_or_else(both, |directory| vec![directory]);
    BootPaths {
        own: own.into_iter().map(|directory| format!("{directory}/*").into()).collect(),
        reads: READ.into_iter().chain(MODULES).map(Written::below).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_menu_is_the_machines() {
        let found = |directory: &str| {
            let found = Found { directory: directory.into(), ..Found::default() };
            [(ID.to_owned(), found.into_facts())].into()
        };
        for (name, bootloaders, own) in [
            ("Debian", found("/boot/grub"), &["/boot/grub/*"][..]),
            ("Red Hat", found("/boot/grub2"), &["/boot/grub2/*"]),
            ("an image without it", [].into(), &["/boot/grub/*", "/boot/grub2/*"]),
        ] {
            let paths = paths(&ImageFacts { bootloaders, ..ImageFacts::default() });
            assert_eq!(paths.own.iter().map(ToString::to_string).collect::<Vec<_>>(), own, "{name}");
            assert!(paths.reads.contains(&Written::below("/etc/default/grub")), "{name}");
        }
    }
}
