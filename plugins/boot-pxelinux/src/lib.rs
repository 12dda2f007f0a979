//! pxelinux and its sisters: BIOS machines booted over the network from a TFTP root, kernel and initrd by HTTP where the
//! image server has it; and media for BIOS and UEFI, by syslinux (USB sticks) and isolinux (CDs). One configuration serves
//! them all, except that CDs need GRUB for UEFI.
//!
//! UEFI firmware that asks the network is offered no boot file here. It is never part of an image: `detect` finds
//! nothing anywhere.

mod config;
mod grub;
mod loader;
mod media;

use std::collections::BTreeMap;

use systemimager_core::contract::{Bootloader, BootloaderDetect, BootloaderPlan};
use systemimager_core::{
    Action, BootFile, BootPlan, BootTarget, BytePath, Contents, Host, Needs, Phase, PluginError, Result, Role, Step,
    declare_plugin,
};

/// The plugin.
pub struct Pxelinux;

declare_plugin! {
    kind: Bootloader,
    id: pxelinux,
    about: "network boot of BIOS machines, media for BIOS and UEFI",
    make: Pxelinux,
}

/// Client architecture of a PC with BIOS (RFC 4578).
const BIOS: u16 = 0;

impl Bootloader for Pxelinux {
    fn needs(&self, host: &dyn Host, role: Role) -> Result<Needs> {
        Ok(match role {
            Role::Server => Needs { files: loader::needed(host), ..Needs::default() },
            Role::MasterClient | Role::Installer | Role::InstalledClient => Needs::default(),
        })
    }

    fn detect(&self, _: &dyn Host, _: BootloaderDetect) -> Result<Option<BTreeMap<String, String>>> {
        Ok(None)
    }

    fn plan(&self, host: &dyn Host, request: BootloaderPlan) -> Result<BootPlan> {
        let (server, http_port, mac) = match &request.target {
            BootTarget::Network { server, http_port, mac } => (server, *http_port, mac.as_deref()),
            BootTarget::Disk { firmware, .. } => return Err(not_served(&format!("a disk ({firmware})"))),
            BootTarget::Media { kind } => {
                let text = config::text(&request.entries, request.default.as_deref(), &config::Fetch::Medium)?;
                let steps = match kind.as_str() {
                    "usb" => media::usb(host, &text)?,
                    "cd" => media::cd(host, &text, &grub::text(&request.entries, request.default.as_deref())?)?,
                    other => return Err(not_served(&format!("a medium {other:?}"))),
                };
                return Ok(BootPlan { steps, boot_files: Vec::new() });
            }
        };
        // pxelinux.0 speaks TFTP through the firmware; lpxelinux.0 has a network stack of its own, for HTTP.
        let (program, fetch) = if http_port == 0 {
            ("pxelinux.0", config::Fetch::Tftp)
        } else {
            ("lpxelinux.0", config::Fetch::http(server, http_port)?)
        };
        let path = config::path(mac)?;
        let text = config::text(&request.entries, request.default.as_deref(), &fetch)?;

        let mut steps = Vec::new();
        for name in [program, "ldlinux.c32"] {
            let contents = Contents::CopyOf(loader::find(host, name)?);
            let action = Action::WriteFile { path: BytePath::from("/").join(name), contents, mode: 0o644 };
            steps.push(Step::new(Phase::Boot, format!("put {name} into the network root"), action));
        }
        let directory = Action::MakeDirectory { path: "/pxelinux.cfg".into(), mode: 0o755 };
        steps.push(Step::new(Phase::Boot, "make the directory of pxelinux's configurations", directory));
        let what = match mac {
            Some(mac) => format!("say what the machine {mac} boots"),
            None => "say what machines without a configuration of their own boot".to_owned(),
        };
        let write = Action::WriteFile { path: path.into(), contents: Contents::Bytes(text.into()), mode: 0o644 };
        steps.push(Step::new(Phase::Boot, what, write));
        Ok(BootPlan { steps, boot_files: vec![BootFile { client_arch: BIOS, name: program.to_owned() }] })
    }
}

fn not_served(what: &str) -> PluginError {
    PluginError::unsupported(format!(
        "pxelinux makes network roots, usb and cd media bootable, not {what}; choose a boot loader plugin that serves it"
    ))
}
