//! Where distributions keep the programs of syslinux on the image server.

use systemimager_core::{BytePath, ErrorKind, Host, Place, PluginError, Result};

/// File, Debian package, and the places where it may be: Debian, Fedora, Arch.
const PROGRAMS: [(&str, &str, [&str; 3]); 3] = [
    ("pxelinux.0", "pxelinux", ["/usr/lib/PXELINUX", "/usr/share/syslinux", "/usr/lib/syslinux/bios"]),
    ("lpxelinux.0", "pxelinux", ["/usr/lib/PXELINUX", "/usr/share/syslinux", "/usr/lib/syslinux/bios"]),
    (
        "ldlinux.c32",
        "syslinux-common",
        ["/usr/lib/syslinux/modules/bios", "/usr/share/syslinux", "/usr/lib/syslinux/bios"],
    ),
];

/// All that may be wanted, where it is, or where Debian has it if it is nowhere.
pub fn needed(host: &dyn Host) -> Vec<BytePath> {
    let place = |(name, _, directories): &(&str, &str, [&str; 3])| {
        find(host, name).unwrap_or_else(|_| BytePath::from(directories[0]).join(name))
    };
    PROGRAMS.iter().map(place).collect()
}

/// Where a program is on this machine.
///
/// # Errors
/// `Missing`, naming the package; whatever else reading gives.
pub fn find(host: &dyn Host, name: &str) -> Result<BytePath> {
    let Some((_, package, directories)) = PROGRAMS.iter().find(|(program, ..)| *program == name) else {
        return Err(PluginError::bug(format!("{name} is no program of pxelinux")));
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
            "{name}, with which machines boot over the network, is in none of {}; install the package {package}",
            directories.join(", ")
        ),
    ))
}
