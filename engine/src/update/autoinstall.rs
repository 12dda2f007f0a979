//! Having this machine install itself anew at its next start: kernel and initrd of the miniature system come onto its own
//! disk, and its own boot loader, or kexec, starts them once.
//!
//! Nothing of the disk is overwritten here; that is the miniature system's business, which asks the image server whether
//! it is to install. Without an order it restarts, and the machine's own system is back.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use systemimager_core::contract::{BootOnce, BootloaderDetect};
use systemimager_core::{BootEntry, Bytes, ErrorKind, Host as _, Place, Registry, Size, Step};

use super::boot;
use crate::boot::from_disk::FromDisk;
use crate::host::EngineHost;
use crate::serve::interface;
use crate::sys::{Cmd, Tool, power, statfs, tool};
use crate::tree::Inside;

/// Where kernel and initrd lie on the machine: on the file system that its boot loader reads.
pub const DIRECTORY: &str = "/boot/systemimager";
/// The same where the kernel starts them, and no boot loader reads them.
pub const FOR_KEXEC: &str = "/var/lib/systemimager/autoinstall";
/// Seconds within which something has to come of it, or the machine restarts into the system that it has.
const BACK: u32 = 600;
/// Room that is left free beside them, bytes.
const SPARE: u64 = 1 << 20;

/// The plugin of the boot loader that this machine has: the one that is named, else the only one that finds its
/// loader here.
///
/// # Errors
/// None does, or several do.
pub fn loader(registry: &Registry, host: &EngineHost, named: Option<&str>) -> Result<String> {
    if let Some(id) = named {
        registry.bootloader(id)?;
        return Ok(id.to_owned());
    }
    let mut found = Vec::new();
    for (id, plugin) in registry.bootloaders() {
        match plugin.detect(host, BootloaderDetect { place: Place::Running }) {
            Ok(Some(_)) => found.push(id),
            Ok(None) => {}
            Err(error) if error.kind == ErrorKind::Unsupported => {}
            Err(error) => return Err(error).with_context(|| format!("looking for the boot loader {id}")),
        }
    }
    match found.as_slice() {
        [id] => Ok((*id).to_owned()),
        [] => bail!("no boot loader that a plugin knows is on this machine; start the kernel directly with --kexec"),
        several => bail!("this machine has several boot loaders ({}); name one with --bootloader", several.join(", ")),
    }
}

/// Checks that there is an order: a machine that installs itself has been told to by its image server.
///
/// # Errors
/// There is none; says how one is made.
pub fn ordered(told: &FromDisk) -> Result<()> {
    match (&told.host, told.ordered) {
        (Some(_), true) => Ok(()),
        (Some(host), false) => bail!(
            "the image server has no order to install {host}, and without one nothing is installed; order it there first: \
             systemimager install {host}"
        ),
        (None, _) => bail!(
            "the image server does not know this machine by its address; declare it there first: systemimager addclients"
        ),
    }
}

/// Puts kernel and initrd into a directory of the machine, each as a whole, replacing older ones.
///
/// # Errors
/// There is no room, or they cannot be written.
pub fn lay(target: &Path, directory: &str, files: &[(String, Vec<u8>)]) -> Result<()> {
    let inside = Inside::open(target)?;
    inside.make_directory(&directory.into(), 0o700)?;
    let wanted: u64 = files.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>() + SPARE;
    let place = target.join(directory.trim_start_matches('/'));
    let free = statfs::space(&place)?.free_bytes;
    let there: u64 = files.iter().filter_map(|(name, _)| Some(std::fs::metadata(place.join(name)).ok()?.len())).sum();
    if wanted > free.saturating_add(there) {
        bail!(
            "{} has {} free, and kernel and initrd of the miniature system need {}; make room there{}",
            place.display(),
            Size(free),
            Size(wanted),
            if directory == DIRECTORY { ", or start them directly with --kexec" } else { "" }
        );
    }
    for (name, bytes) in files {
        inside.write(&format!("{directory}/{name}").into(), bytes, 0o600)?;
    }
    Ok(())
}

/// The entry as the machine itself is to start it, from files in this directory. `persistent`: its loader starts it each
/// time, so that a restart does not lead back.
pub fn entry(told: &FromDisk, directory: &str, mac: Option<&str>, persistent: bool) -> BootEntry {
    let at = |name: &Option<String>| name.as_ref().map(|name| format!("{directory}/{name}"));
    let mut entry = BootEntry { kernel: at(&told.entry.kernel), initrd: at(&told.entry.initrd), ..told.entry.clone() };
    // A start that fails restarts, and the old system is back.
    entry.command_line.push_str(" panic=30");
    // What a site's own words say counts.
    if persistent {
        entry.command_line.push_str(" si.back=never");
    } else if !entry.command_line.split_whitespace().any(|word| word.starts_with("si.back=")) {
        entry.command_line.push_str(&format!(" si.back={BACK}"));
    }
    if let Some(mac) = mac {
        // As network loaders say by which interface they came: that one is asked first.
        entry.command_line.push_str(&format!(" BOOTIF=01-{}", mac.to_ascii_lowercase().replace(':', "-")));
    }
    entry
}

/// The steps by which the machine's boot loader starts the entry once, or always.
///
/// # Errors
/// The plugin refuses, and why.
pub fn plan(registry: &Registry, host: &EngineHost, id: &str, entry: BootEntry, persistent: bool) -> Result<Vec<Step>> {
    let booted = crate::booted::look(Path::new("/")).context("looking at what this machine boots by")?;
    let request = BootOnce { entry, persistent, booted: Some(booted) };
    match registry.bootloader(id)?.boot_once(host, request) {
        Ok(steps) => Ok(steps),
        Err(error) if matches!(error.kind, ErrorKind::Unsupported | ErrorKind::Missing) => {
            Err(error).with_context(|| format!("the boot loader {id} cannot start it; start it directly with --kexec"))
        }
        Err(error) => Err(error).with_context(|| format!("the boot loader {id}")),
    }
}

/// Carries the steps out.
///
/// # Errors
/// The step that failed.
pub fn carry_out(steps: &[Step], say: &mut dyn FnMut(String)) -> Result<()> {
    let result = boot::carry_out(Path::new("/"), steps, say);
    // grub-mkconfig writes the menu in place: a power cut a moment later would leave half of it.
    power::sync();
    result
}

/// Sees that kexec(8) is there.
///
/// # Errors
/// It is not; says which package brings it.
pub fn can_load() -> Result<()> {
    tool::find(Tool::Kexec, &tool::search_dirs()).map(drop).context("--kexec")
}

/// Loads kernel and initrd for the next restart, with kexec(8).
///
/// # Errors
/// It fails: the kernel forbids it (Secure Boot, lockdown), say.
pub fn load(target: &Path, entry: &BootEntry) -> Result<()> {
    let file = |name: &Option<String>| -> Result<PathBuf> {
        let name = name.as_ref().context("the image server names no kernel or no initrd")?;
        Ok(target.join(name.trim_start_matches('/')))
    };
    let (kernel, initrd) = (file(&entry.kernel)?, file(&entry.initrd)?);
    let mut cmd = Cmd::tool(Tool::Kexec).args(["--load"]).arg(&kernel);
    let mut option = std::ffi::OsString::from("--initrd=");
    option.push(&initrd);
    cmd = cmd.arg(option).arg(format!("--command-line={}", entry.command_line));
    cmd.run().context(
        "loading the miniature system for the next restart; where the kernel forbids it (Secure Boot), leave --kexec out",
    )?;
    // The kernel has its copy. What is left over is no harm: it is replaced the next time.
    for path in [kernel, initrd] {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// The MAC address of the interface by which this machine reaches another; `None` where nothing tells.
pub fn mac_towards(host: &EngineHost, server: &str, port: u16) -> Option<String> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").or_else(|_| std::net::UdpSocket::bind("[::]:0")).ok()?;
    // Sends nothing: the kernel only chooses a way.
    socket.connect((server, port)).ok()?;
    let own = socket.local_addr().ok()?.ip();
    let interface = interface::addresses().ok()?.into_iter().find(|it| it.network.address == own)?;
    let file = format!("/sys/class/net/{}/address", interface.interface);
    let Bytes(text) = host.read(&Place::Running, &file.as_str().into()).ok()?;
    Some(String::from_utf8(text).ok()?.trim().to_owned()).filter(|mac| mac.len() == 17)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(host: Option<&str>, ordered: bool) -> FromDisk {
        FromDisk {
            entry: crate::boot::autoinstall("10.0.0.1", 8069, ""),
            files: vec![],
            host: host.map(|host| host.parse().unwrap()),
            ordered,
            image: None,
        }
    }

    #[test]
    fn without_an_order_nothing_begins() {
        for (name, told, says) in [
            ("ordered", told(Some("www1"), true), ""),
            ("not ordered", told(Some("www1"), false), "systemimager install www1"),
            ("unknown", told(None, false), "systemimager addclients"),
        ] {
            match ordered(&told) {
                Ok(()) => assert_eq!(says, "", "{name}"),
                Err(error) => assert!(!says.is_empty() && error.to_string().ends_with(says), "{name}: {error}"),
            }
        }
    }

    #[test]
    fn the_entry_lies_on_the_machine() {
        let entry = super::entry(&told(None, true), DIRECTORY, Some("52:54:00:AB:CD:EF"), false);
        assert_eq!(entry.kernel.as_deref(), Some("/boot/systemimager/kernel"));
        assert_eq!(entry.initrd.as_deref(), Some("/boot/systemimager/initrd.img"));
        assert!(entry.command_line.starts_with("si.server=10.0.0.1 si.port=8069 "), "{}", entry.command_line);
        assert!(
            entry.command_line.ends_with(" panic=30 si.back=600 BOOTIF=01-52-54-00-ab-cd-ef"),
            "{}",
            entry.command_line
        );
        let mut told = told(None, true);
        told.entry.command_line.push_str(" si.back=60");
        for (persistent, says) in [(false, " si.back=60 panic=30"), (true, " panic=30 si.back=never")] {
            let line = super::entry(&told, FOR_KEXEC, None, persistent).command_line;
            assert!(line.ends_with(says), "{line}");
        }
    }

    #[test]
    fn files_come_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("boot")).unwrap();
        let files = [("kernel".to_owned(), b"k".to_vec()), ("initrd.img".to_owned(), b"i".to_vec())];
        for _ in 0..2 {
            lay(dir.path(), DIRECTORY, &files).unwrap();
        }
        assert_eq!(std::fs::read(dir.path().join("boot/systemimager/initrd.img")).unwrap(), b"i");
        lay(dir.path(), FOR_KEXEC, &files).unwrap();
        assert_eq!(std::fs::read(dir.path().join("var/lib/systemimager/autoinstall/kernel")).unwrap(), b"k");
    }
}
