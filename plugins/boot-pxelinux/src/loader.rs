//! Where distributions keep the programs of syslinux on the image server.

use systemimager_core::{BytePath, ErrorKind, Host, Place, PluginError, Result};

/// File, Debian package, and the places where it may be: Debian, Fedora, Arch.
type Program = (&'static str, &'static str, [&'static str; 3]);

/// Those of network boot, which every image server wants.
const NETWORK: [Program; 3] = [
    ("pxelinux.0", "pxelinux", ["/usr/lib/PXELINUX", "/usr/share/syslinux", "/usr/lib/syslinux/bios"]),
    ("lpxelinux.0", "pxelinux", ["/usr/lib/PXELINUX", "/usr/share/syslinux", "/usr/lib/syslinux/bios"]),
    (
        "ldlinux.c32",
        "syslinux-common",
        ["/usr/lib/syslinux/modules/bios", "/usr/share/syslinux", "/usr/lib/syslinux/bios"],
    ),
];

/// Those of media besides.
const MEDIA: [Program; 6] = [
    ("mbr.bin", "syslinux-common", ["/usr/lib/syslinux/mbr", "/usr/share/syslinux", "/usr/lib/syslinux/bios"]),
    ("isolinux.bin", "isolinux", ["/usr/lib/ISOLINUX", "/usr/share/syslinux", "/usr/lib/syslinux/bios"]),
    ("isohdpfx.bin", "isolinux", ["/usr/lib/ISOLINUX", "/usr/share/syslinux", "/usr/lib/syslinux/bios"]),
    (
        "syslinux.efi",
        "syslinux-efi",
        ["/usr/lib/SYSLINUX.EFI/efi64", "/usr/share/syslinux/efi64", "/usr/lib/syslinux/efi64"],
    ),
    (
        "gcdx64.efi",
        "grub-efi-amd64-bin",
        ["/usr/lib/grub/x86_64-efi/monolithic", "/boot/efi/EFI/fedora", "/usr/lib/grub/x86_64-efi"],
    ),
    (
        "ldlinux.e64",
        "syslinux-common",
        ["/usr/lib/syslinux/modules/efi64", "/usr/share/syslinux/efi64", "/usr/lib/syslinux/efi64"],
    ),
];

/// All that the network may want, where it is, or where Debian has it if it is nowhere.
pub fn needed(host: &dyn Host) -> Vec<BytePath> {
    let place = |(name, _, directories): &Program| {
        find(host, name).unwrap_or_else(|_| BytePath::from(directories[0]).join(name))
    };
    NETWORK.iter().map(place).collect()
}

/// Where a program is on this machine.
///
/// # Errors
/// `Missing`, naming the package; whatever else reading gives.
pub fn find(host: &dyn Host, name: &str) -> Result<BytePath> {
    let Some((_, package, directories)) = NETWORK.iter().chain(&MEDIA).find(|(program, ..)| *program == name) else {
        return Err(PluginError::bug(format!("{name} is no program of syslinux")));
    };
    for directory in directories {
        let path = BytePath::from(*directory).join(name);
        match host.read(&Place::Running, &path) {
            Ok(_) => return Ok(path),
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(PluginError::new(
        ErrorKind::Missing,
        format!(
            "{name}, with which machines boot, is in none of {}; install the package {package}",
            directories.join(", ")
        ),
    ))
}
