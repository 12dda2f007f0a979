//! What bare machines boot: entries, made into files below the TFTP root by a boot loader plugin.

pub mod from_disk;
pub mod media;

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use systemimager_core::contract::BootloaderPlan;
use systemimager_core::{BootEntry, BootPlan, BootTarget, ErrorKind, Host, Registry};

use crate::config::Config;
use crate::tree::{self, Inside};

/// File name of the kernel below the TFTP root (section "unattended install" of the paper).
pub const KERNEL: &str = "kernel";
/// File name of the initrd below the TFTP root.
pub const INITRD: &str = "initrd.img";
/// Name of the entry that installs.
pub const AUTOINSTALL: &str = "autoinstall";
/// Name of the entry that starts what is on the machine's own disk.
pub const LOCAL_DISK: &str = "local";

/// What a machine that asks the network boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boots {
    /// The miniature system.
    Autoinstall,
    /// Its own disk.
    LocalDisk,
}

/// Consoles of the miniature system, unless the settings name others. The serial one comes last: it is the one that a
/// lab or a farm without screens reads.
const CONSOLES: &str = "console=tty0 console=ttyS0,115200";

/// The entry that starts the miniature system, told where its server is, and what else the site wants its kernel told.
pub fn autoinstall(server: &str, http_port: u16, append: &str) -> BootEntry {
    entry(vec![format!("si.server={server}"), format!("si.port={http_port}")], append)
}

/// The same with other words of our own.
fn entry(mut words: Vec<String>, append: &str) -> BootEntry {
    if !append.split_whitespace().any(|word| word.starts_with("console=")) {
        words.push(CONSOLES.to_owned());
    }
    words.extend(append.split_whitespace().map(str::to_owned));
    BootEntry {
        name: AUTOINSTALL.into(),
        title: "Install this machine".into(),
        kernel: Some(KERNEL.into()),
        initrd: Some(INITRD.into()),
        command_line: words.join(" "),
    }
}

/// The entry that leads to the machine's own disk.
pub fn local_disk() -> BootEntry {
    BootEntry { name: LOCAL_DISK.into(), title: "Start from this machine's own disk".into(), ..BootEntry::default() }
}

/// What is to be said to machines that boot over the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Address of the image server.
    pub server: String,
    /// Its HTTP port.
    pub http_port: u16,
    /// More words for the miniature system's kernel.
    pub append: String,
}

impl Network {
    /// By the server's settings, at the address that it serves at.
    pub fn new(config: &Config, address: IpAddr) -> Self {
        let settings = &config.settings;
        Self { server: address.to_string(), http_port: settings.server.http_port, append: settings.boot.append.clone() }
    }

    /// The plan to make a machine (its MAC; absent: all that have nothing of their own) boot this: by the first
    /// boot loader plugin that serves networks.
    ///
    /// # Errors
    /// None does, or the one that does fails.
    pub fn plan(&self, registry: &Registry, host: &dyn Host, mac: Option<String>, boots: Boots) -> Result<BootPlan> {
        let default = match boots {
            Boots::Autoinstall => AUTOINSTALL,
            Boots::LocalDisk => LOCAL_DISK,
        };
        let server = self.server.clone();
        let request = BootloaderPlan {
            entries: vec![autoinstall(&self.server, self.http_port, &self.append), local_disk()],
            default: Some(default.into()),
            ..BootloaderPlan::new(BootTarget::Network { server, http_port: self.http_port, mac })
        };
        plan_by_first(registry, host, &request, "network boot")
    }
}

/// The plan of the first boot loader plugin that serves this target; `what` names it for people.
fn plan_by_first(registry: &Registry, host: &dyn Host, request: &BootloaderPlan, what: &str) -> Result<BootPlan> {
    for (id, plugin) in registry.bootloaders() {
        match plugin.plan(host, request.clone()) {
            Ok(plan) => return Ok(plan),
            Err(error) if error.kind == ErrorKind::Unsupported => {}
            Err(error) => return Err(error).with_context(|| format!("boot loader {id}")),
        }
    }
    bail!(
        "no boot loader plugin serves {what}; put one into the plugin directory (`systemimager plugin list` shows those \
         that are there)"
    )
}

/// Carries out a network boot plan below the TFTP root.
///
/// # Errors
/// A file cannot be written, or the plan wants more than files.
pub fn lay_out(plan: &BootPlan, tftp: &Path) -> Result<()> {
    std::fs::create_dir_all(tftp).with_context(|| format!("making {}", tftp.display()))?;
    let inside = Inside::open(tftp)?;
    for step in &plan.steps {
        if !tree::apply(&inside, &step.action).with_context(|| step.what.clone())? {
            bail!("{}: a network boot plan may only write files; report it to the plugin's author", step.what);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::{Action, Contents, Phase, Step};

    #[test]
    fn only_files_below_the_root_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let write = Action::WriteFile {
            path: "/pxelinux.cfg/default".into(),
            contents: Contents::Bytes("x".into()),
            mode: 0o644,
        };
        let make = Action::MakeDirectory { path: "/pxelinux.cfg".into(), mode: 0o755 };
        let steps = vec![Step::new(Phase::Boot, "make", make), Step::new(Phase::Boot, "write", write)];
        lay_out(&BootPlan { steps, boot_files: vec![] }, dir.path()).unwrap();
        assert_eq!(std::fs::read(dir.path().join("pxelinux.cfg/default")).unwrap(), b"x");
        let run = Action::Run { argv: vec!["true".into()], stdin: None };
        let plan = BootPlan { steps: vec![Step::new(Phase::Boot, "run", run)], boot_files: vec![] };
        assert!(lay_out(&plan, dir.path()).unwrap_err().to_string().contains("may only write files"));
    }

    #[test]
    fn a_site_adds_words_and_may_name_other_consoles() {
        for (append, expected) in [
            ("", "si.server=10.0.0.1 si.port=80 console=tty0 console=ttyS0,115200"),
            (" nomodeset  x=1", "si.server=10.0.0.1 si.port=80 console=tty0 console=ttyS0,115200 nomodeset x=1"),
            ("console=ttyS1", "si.server=10.0.0.1 si.port=80 console=ttyS1"),
        ] {
            assert_eq!(autoinstall("10.0.0.1", 80, append).command_line, expected);
        }
    }

    #[test]
    fn without_a_plugin_it_says_what_is_missing() {
        let host = systemimager_core::testing::RecordedHost::new();
        let network = Network { server: "10.0.0.1".into(), http_port: 80, append: String::new() };
        let error = network.plan(&Registry::default(), &host, None, Boots::LocalDisk).unwrap_err().to_string();
        assert!(error.contains("no boot loader plugin serves network boot"), "{error}");
    }
}
