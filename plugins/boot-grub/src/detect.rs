//! Which GRUB a tree holds: its programs, its modules for BIOS and UEFI, where its menu lies, what would go wrong.
//!
//! It reads names and settings; nothing of the image is run. The answer crosses the boundary as pairs
//! of strings ([`Found::into_facts`]) and comes back with the request for a plan ([`Found::from_facts`]).

use std::collections::BTreeMap;

use systemimager_core::host::read_if_there;
use systemimager_core::{BytePath, ErrorKind, Host, Place, Result};

use crate::{defaults, ext2};

/// Where distributions put programs; a merged /usr shows them in both.
const SBIN: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
/// Where they put GRUB's modules (Debian, Fedora and Arch; older openSUSE; openSUSE).
const MODULES: [&str; 3] = ["/usr/lib/grub", "/usr/lib/grub2", "/usr/share/grub2"];
/// GRUB's words for a PC's BIOS and its UEFI: directories of modules are called so.
pub const BIOS: &str = "i386-pc";
/// The same of UEFI.
pub const UEFI: &str = "x86_64-efi";
/// The programs' names: Debian's and upstream's, then those of the Red Hat and SUSE families.
const INSTALL: [&str; 2] = ["grub-install", "grub2-install"];
/// What writes the menu, the distribution's own wrapper first.
const CONFIG_TOOLS: [&str; 3] = ["update-grub", "grub-mkconfig", "grub2-mkconfig"];
/// What names the entry of the next start, and of all.
const REBOOT: [&str; 2] = ["grub-reboot", "grub2-reboot"];
const SET_DEFAULT: [&str; 2] = ["grub-set-default", "grub2-set-default"];
/// Directories of the vendors of an EFI system partition.
const VENDORS: [&str; 2] = ["/boot/efi/EFI", "/efi/EFI"];

/// What was found. Absent programs are `None`, so that a plan can say what to install.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// `grub-install` or `grub2-install`.
    pub install: Option<String>,
    /// Directory of the BIOS modules.
    pub modules: Option<String>,
    /// Directory of the UEFI modules.
    pub efi_modules: Option<String>,
    /// efibootmgr, which writes the firmware's boot entries.
    pub efibootmgr: bool,
    /// The menu that UEFI machines read, where it is another than the one in `directory` (Red Hat's before 9).
    pub efi_menu: Option<String>,
    /// `update-grub`, `grub-mkconfig` or `grub2-mkconfig`.
    pub config_tool: Option<String>,
    /// `grub-reboot` or `grub2-reboot`.
    pub reboot: Option<String>,
    /// `grub-set-default` or `grub2-set-default`.
    pub set_default: Option<String>,
    /// /etc/default/grub.d is read too.
    pub defaults_directory: bool,
    /// The directory that holds menu, modules and environment: `/boot/grub` or `/boot/grub2`.
    pub directory: String,
    /// A `device.map`, which holds the master's device names.
    pub device_map: bool,
    /// os-prober is in the image; writing the menu may then note labels of what it saw.
    pub os_prober: bool,
    /// Settings that would lead to kernel device names, a line each: `FILE:LINE: TEXT`.
    pub device_names: Vec<String>,
    /// `ID` of os-release.
    pub os: String,
    /// Which incompatible features of ext2, ext3 and ext4 it reads.
    pub ext2_incompat: Option<u32>,
}

impl Found {
    /// As pairs; what is absent has none.
    pub fn into_facts(self) -> BTreeMap<String, String> {
        let yes = |is: bool| is.then(|| "yes".to_owned());
        [
            ("reads", Some(self.reads().join("\n"))),
            ("writes", Some(self.writes().join("\n"))),
            ("install", self.install),
            ("modules", self.modules),
            ("efi-modules", self.efi_modules),
            ("efibootmgr", yes(self.efibootmgr)),
            ("efi-menu", self.efi_menu),
            ("reboot", self.reboot),
            ("set-default", self.set_default),
            ("defaults-directory", yes(self.defaults_directory)),
            ("config-tool", self.config_tool),
            ("directory", Some(self.directory)),
            ("device-map", yes(self.device_map)),
            ("os-prober", yes(self.os_prober)),
            ("device-names", (!self.device_names.is_empty()).then(|| self.device_names.join("\n"))),
            ("os", Some(self.os)),
            // For plugins of file systems ([`systemimager_core::ImageFacts::bootloaders`]).
            ("ext2-incompat", self.ext2_incompat.map(|mask| format!("{mask:#x}"))),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect()
    }

    /// Back from pairs.
    pub fn from_facts(facts: &BTreeMap<String, String>) -> Self {
        let text = |key: &str| facts.get(key).cloned();
        Self {
            install: text("install"),
            modules: text("modules"),
            efi_modules: text("efi-modules"),
            efibootmgr: facts.contains_key("efibootmgr"),
            // Facts have been in a file: it becomes an argument.
            efi_menu: text("efi-menu").filter(|path| is_efi_menu(path)),
            reboot: text("reboot"),
            set_default: text("set-default"),
            defaults_directory: facts.contains_key("defaults-directory"),
            config_tool: text("config-tool"),
            directory: text("directory").unwrap_or_else(|| "/boot/grub".into()),
            device_map: facts.contains_key("device-map"),
            os_prober: facts.contains_key("os-prober"),
            device_names: facts
                .get("device-names")
                .map(|lines| lines.lines().map(str::to_owned).collect())
                .unwrap_or_default(),
            os: text("os").unwrap_or_default(),
            ext2_incompat: text("ext2-incompat")
                .and_then(|mask| u32::from_str_radix(mask.strip_prefix("0x")?, 16).ok()),
        }
    }
}

impl Found {
    /// Paths from which the boot code of a machine with this firmware is made.
    pub fn code_from(&self, firmware: &str) -> Vec<String> {
        let (modules, word) = match firmware {
            "uefi" => (&self.efi_modules, UEFI),
            _ => (&self.modules, BIOS),
        };
        let mut paths = vec![format!("{}/{word}", self.directory)];
        paths.extend(modules.clone());
        paths.extend(program_paths(self.install.as_deref()));
        if firmware == "uefi" {
            // Debian's boot code for Secure Boot is copied, not made.
            paths.extend(modules.as_ref().map(|directory| format!("{directory}-signed")));
            paths.extend(["/usr/lib/shim", "/usr/share/shim"].map(String::from));
            paths.extend(VENDORS.map(String::from));
        }
        paths
    }

    /// Paths from which the menu is made, kernels among them.
    pub fn menu_from(&self) -> Vec<String> {
        let mut paths = ["/boot", "/etc/default/grub", "/etc/default/grub.d", "/etc/grub.d"].map(String::from).to_vec();
        paths.extend(program_paths(self.config_tool.as_deref()));
        paths
    }

    fn reads(&self) -> Vec<String> {
        let mut paths = self.menu_from();
        paths.extend(self.code_from("bios"));
        paths.extend(self.code_from("uefi"));
        paths.sort();
        paths.dedup();
        paths
    }

    fn writes(&self) -> Vec<String> {
        let mut paths = vec![self.directory.clone()];
        if self.efi_modules.is_some() {
            paths.extend(VENDORS.map(String::from));
        }
        paths
    }
}

fn program_paths(name: Option<&str>) -> Vec<String> {
    name.map(|name| SBIN.iter().map(|directory| format!("{directory}/{name}")).collect()).unwrap_or_default()
}

/// Looks for GRUB 2 in a tree; `None` if neither its installer nor its menu writer is there.
///
/// # Errors
/// A file or directory that is there cannot be read.
pub fn detect(host: &dyn Host, place: &Place) -> Result<Option<Found>> {
    let mut programs: Vec<BytePath> = Vec::new();
    for directory in SBIN {
        programs.extend(names(host, place, directory)?);
    }
    let first = |wanted: &[&str]| {
        wanted.iter().find(|name| programs.contains(&BytePath::from(**name))).map(|name| (*name).to_owned())
    };
    let install = first(&INSTALL);
    let config_tool = first(&CONFIG_TOOLS);
    if install.is_none() && config_tool.is_none() {
        return Ok(None);
    }
    let modules = modules(host, place, BIOS)?;
    let efi_modules = self::modules(host, place, UEFI)?;
    let ext2_incompat = match modules.as_ref().or(efi_modules.as_ref()) {
        Some(directory) => {
            read_if_there(host, place, &format!("{directory}/ext2.mod"))?.and_then(|module| ext2::incompat(&module.0))
        }
        None => None,
    };
    let grub2 = [&install, &config_tool].into_iter().flatten().any(|name| name.starts_with("grub2-"));
    let directory = if grub2 { "/boot/grub2" } else { "/boot/grub" };
    Ok(Some(Found {
        reboot: first(&REBOOT),
        set_default: first(&SET_DEFAULT),
        efibootmgr: first(&["efibootmgr"]).is_some(),
        install,
        modules,
        efi_modules,
        efi_menu: efi_menu(host, place)?,
        config_tool,
        defaults_directory: names(host, place, "/etc/default")?.contains(&"grub.d".into()),
        directory: directory.into(),
        device_map: names(host, place, directory)?.contains(&"device.map".into()),
        os_prober: programs.contains(&"os-prober".into()),
        device_names: device_names(host, place)?,
        os: os(host, place)?,
        ext2_incompat,
    }))
}

/// The directory of modules for one kind of firmware.
fn modules(host: &dyn Host, place: &Place, word: &str) -> Result<Option<String>> {
    for directory in MODULES {
        let directory = format!("{directory}/{word}");
        // GRUB 0.97 had a directory of that name too; a normal.mod is in GRUB 2 only.
        if names(host, place, &directory)?.contains(&"normal.mod".into()) {
            return Ok(Some(directory));
        }
    }
    Ok(None)
}

fn is_efi_menu(path: &str) -> bool {
    let below = VENDORS.iter().find_map(|above| path.strip_prefix(above)?.strip_prefix('/'));
    let vendor = below.and_then(|below| below.strip_suffix("/grub.cfg"));
    vendor.is_some_and(|vendor| {
        !vendor.is_empty() && vendor.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_ ".contains(letter))
    })
}

/// A whole menu on the EFI system partition: what is there now is mostly a few lines that lead to the one in /boot.
fn efi_menu(host: &dyn Host, place: &Place) -> Result<Option<String>> {
    for above in VENDORS {
        for vendor in names(host, place, above)? {
            let Ok(vendor) = std::str::from_utf8(vendor.as_bytes()) else { continue };
            let file = format!("{above}/{vendor}/grub.cfg");
            if !is_efi_menu(&file) {
                continue;
            }
            let text = read_if_there(host, place, &file)?.map(|text| text.lossy().into_owned()).unwrap_or_default();
            if text.lines().any(|line| line.contains("menuentry ") || line.trim() == "blscfg") {
                return Ok(Some(file));
            }
        }
    }
    Ok(None)
}

fn device_names(host: &dyn Host, place: &Place) -> Result<Vec<String>> {
    let mut files = vec!["/etc/default/grub".to_owned()];
    files.extend(below(host, place, "/etc/default/grub.d", ".cfg")?);
    let mut found = Vec::new();
    for file in files {
        if let Some(text) = read_if_there(host, place, &file)? {
            found.extend(defaults::in_defaults(&file, &text.lossy()));
        }
    }
    for file in below(host, place, "/boot/loader/entries", ".conf")? {
        if let Some(text) = read_if_there(host, place, &file)? {
            found.extend(defaults::in_entry(&file, &text.lossy()));
        }
    }
    Ok(found)
}

fn os(host: &dyn Host, place: &Place) -> Result<String> {
    for file in ["/etc/os-release", "/usr/lib/os-release"] {
        if let Some(text) = read_if_there(host, place, file)? {
            let text = text.lossy();
            let id = text.lines().find_map(|line| line.strip_prefix("ID=")).unwrap_or_default();
            return Ok(id.trim_matches(['"', '\'']).to_owned());
        }
    }
    Ok(String::new())
}

/// Files of a directory that end so, as absolute paths; those whose names are no text are left out.
fn below(host: &dyn Host, place: &Place, directory: &str, ending: &str) -> Result<Vec<String>> {
    let names = names(host, place, directory)?;
    let texts = names.iter().filter_map(|name| std::str::from_utf8(name.as_bytes()).ok());
    Ok(texts.filter(|name| name.ends_with(ending)).map(|name| format!("{directory}/{name}")).collect())
}

/// Names in a directory; none if there is no such directory.
fn names(host: &dyn Host, place: &Place, directory: &str) -> Result<Vec<BytePath>> {
    match host.list(place, &directory.into()) {
        Ok(names) => Ok(names),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::testing::RecordedHost;

    fn tree(files: &[(&str, &str)]) -> RecordedHost {
        files.iter().fold(RecordedHost::new(), |host, (path, contents)| host.file(path, *contents))
    }

    fn found(files: &[(&str, &str)]) -> Option<Found> {
        detect(&tree(files), &Place::Tree { root: "/i".into() }).unwrap()
    }

    /// Name, files with contents, what is found.
    type Row<'a> = (&'a str, Vec<(&'a str, &'a str)>, Option<Found>);

    #[test]
    fn what_trees_hold() {
        let some = |text: &str| Some(text.to_owned());
        let debian = Found {
            install: some("grub-install"),
            modules: some("/usr/lib/grub/i386-pc"),
            config_tool: some("update-grub"),
            directory: "/boot/grub".into(),
            os: "debian".into(),
            ..Found::default()
        };
        let rows: Vec<Row<'_>> = vec![
            ("nothing", vec![("/usr/sbin/lilo", "")], None),
            (
                "debian",
                vec![
                    ("/usr/sbin/grub-install", ""),
                    ("/usr/sbin/update-grub", ""),
                    ("/usr/sbin/grub-mkconfig", ""),
                    ("/usr/lib/grub/i386-pc/normal.mod", ""),
                    ("/etc/os-release", "NAME=\"Debian\"\nID=debian\n"),
                    ("/etc/default/grub", "GRUB_CMDLINE_LINUX=\"\"\n"),
                ],
                Some(debian.clone()),
            ),
            (
                "debian with an old device.map, os-prober and device names",
                vec![
                    ("/usr/sbin/grub-install", ""),
                    ("/usr/sbin/update-grub", ""),
                    ("/usr/bin/os-prober", ""),
                    ("/usr/lib/grub/i386-pc/normal.mod", ""),
                    ("/boot/grub/device.map", "(hd0) /dev/sda\n"),
                    ("/etc/os-release", "ID=debian\n"),
                    ("/etc/default/grub", "GRUB_DISABLE_LINUX_UUID=true\n"),
                    ("/etc/default/grub.d/x.cfg", "GRUB_DEVICE=/dev/sda1\n"),
                    ("/etc/default/grub.d/x.bak", "GRUB_DEVICE=/dev/sda1\n"),
                ],
                Some(Found {
                    device_map: true,
                    os_prober: true,
                    defaults_directory: true,
                    device_names: vec![
                        "/etc/default/grub:1: GRUB_DISABLE_LINUX_UUID=true".into(),
                        "/etc/default/grub.d/x.cfg:1: GRUB_DEVICE=/dev/sda1".into(),
                    ],
                    ..debian.clone()
                }),
            ),
            (
                "debian with GRUB for UEFI only",
                vec![
                    ("/usr/sbin/grub-install", ""),
                    ("/usr/sbin/update-grub", ""),
                    ("/usr/lib/grub/x86_64-efi/normal.mod", ""),
                    ("/usr/lib/os-release", "ID=debian\n"),
                ],
                Some(Found { modules: None, efi_modules: some("/usr/lib/grub/x86_64-efi"), ..debian.clone() }),
            ),
            (
                "debian that boots both ways, and tools for the next start",
                vec![
                    ("/usr/sbin/grub-install", ""),
                    ("/usr/sbin/update-grub", ""),
                    ("/usr/sbin/grub-reboot", ""),
                    ("/usr/sbin/grub-set-default", ""),
                    ("/usr/bin/efibootmgr", ""),
                    ("/usr/lib/grub/i386-pc/normal.mod", ""),
                    ("/usr/lib/grub/x86_64-efi/normal.mod", ""),
                    ("/etc/default/grub.d/x.cfg", ""),
                    ("/etc/os-release", "ID=debian\n"),
                    ("/boot/efi/EFI/debian/grub.cfg", "configfile $prefix/grub.cfg\n"),
                ],
                Some(Found {
                    efi_modules: some("/usr/lib/grub/x86_64-efi"),
                    efibootmgr: true,
                    reboot: some("grub-reboot"),
                    set_default: some("grub-set-default"),
                    defaults_directory: true,
                    ..debian
                }),
            ),
            (
                "a Red Hat",
                vec![
                    ("/usr/sbin/grub2-install", ""),
                    ("/usr/sbin/grub2-mkconfig", ""),
                    ("/usr/lib/grub/i386-pc/normal.mod", ""),
                    ("/etc/os-release", "ID=\"rhel\"\n"),
                    ("/boot/loader/entries/a.conf", "options root=/dev/vda2\n"),
                    ("/boot/efi/EFI/BOOT/BOOTX64.EFI", ""),
                    ("/boot/efi/EFI/redhat/grub.cfg", "insmod blscfg\nblscfg\n"),
                ],
                Some(Found {
                    install: some("grub2-install"),
                    modules: some("/usr/lib/grub/i386-pc"),
                    config_tool: some("grub2-mkconfig"),
                    directory: "/boot/grub2".into(),
                    efi_menu: some("/boot/efi/EFI/redhat/grub.cfg"),
                    device_names: vec!["/boot/loader/entries/a.conf:1: options root=/dev/vda2".into()],
                    os: "rhel".into(),
                    ..Found::default()
                }),
            ),
            (
                "GRUB 0.97",
                vec![("/sbin/grub-install", ""), ("/usr/lib/grub/i386-pc/stage1", "")],
                Some(Found { install: some("grub-install"), directory: "/boot/grub".into(), ..Found::default() }),
            ),
        ];
        for (name, files, expected) in rows {
            let found = found(&files);
            assert_eq!(found, expected, "{name}");
            if let Some(found) = found {
                assert_eq!(Found::from_facts(&found.clone().into_facts()), found, "{name}: there and back");
            }
        }
    }
}
