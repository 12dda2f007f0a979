//! The master file: how an image is installed, as data. TOML, meant to be read and edited by people.
//!
//! This file holds its types; `master_text` reads and writes it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use systemimager_core::{HookName, Host, ImageName, Layout, NetworkMode, OverrideName, Registry};

/// What a machine does when it is installed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FinalAction {
    /// Start anew (from its own disk, if its firmware is set so).
    #[default]
    Reboot,
    /// Switch off.
    Poweroff,
    /// Wait for a person, with a shell.
    Shell,
}

/// `[identity]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentitySettings {
    /// The host identity plugin.
    pub plugin: String,
    /// Its sources, in order; empty: its own order.
    #[serde(default)]
    pub sources: Vec<String>,
    /// What clones must not share, by names of the plugin's; absent: all that it knows; empty: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrub: Option<Vec<String>>,
}

/// `[network]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkMaster {
    /// How the installed machine gets its addresses.
    #[serde(default)]
    pub mode: NetworkMode,
}

/// When a hook runs, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookTime {
    /// In the miniature system, when all is fetched, before its disks are looked at.
    PreInstall,
    /// In the installed system, when it is complete.
    PostInstall,
}

impl HookTime {
    /// As in a master file.
    pub fn name(self) -> &'static str {
        match self {
            Self::PreInstall => "pre-install",
            Self::PostInstall => "post-install",
        }
    }
}

/// What becomes of an install when a hook fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// It ends.
    #[default]
    Stop,
    /// It says so and goes on.
    Warn,
}

/// `[[hook]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// When.
    pub at: HookTime,
    /// The program: a file of that name in the hooks' directory.
    pub run: HookName,
    /// What becomes of the install when it fails.
    #[serde(default)]
    pub on_failure: OnFailure,
}

impl Hook {
    /// Whether the install ends where it fails.
    pub fn is_required(&self) -> bool {
        self.on_failure == OnFailure::Stop
    }
}

/// A master file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Master {
    /// Version of this format: 1.
    pub format: u32,
    /// The image it installs.
    pub image: ImageName,
    /// Transports in order: the first that works moves the bulk, the last reconciles.
    pub transports: Vec<String>,
    /// A transport that moves the image in the clear may stand beside one that does not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_plain: bool,
    /// Declared machines may have the image by their address alone, without a key that is admitted, from a transport that does not
    /// need one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_keyless: bool,
    /// The partitioner plugin.
    pub partitioner: String,
    /// The boot loader plugin, or `none`.
    pub bootloader: String,
    /// What the machine does when it is installed.
    #[serde(default)]
    pub final_action: FinalAction,
    /// Who the machine is.
    pub identity: IdentitySettings,
    /// Its network.
    #[serde(default)]
    pub network: NetworkMaster,
    /// What is laid over the image, in this order; after them a host's own, where there is one of its name.
    #[serde(default)]
    pub overrides: Vec<OverrideName>,
    /// The site's own programs, in this order.
    #[serde(default, rename = "hook")]
    pub hooks: Vec<Hook>,
    /// Disks, partitions, file systems, mounts. Without disks the image can be pulled but not installed.
    #[serde(default)]
    pub layout: Layout,
}

/// Whether a transport is encrypted, of those that are there; for [`Master::plain_beside_encrypted`]. Each is asked once.
pub fn encrypted(registry: &Registry, host: &dyn Host) -> impl Fn(&str) -> Option<bool> {
    let transports = registry.transports().into_iter();
    let able: BTreeMap<String, bool> = transports
        .filter_map(|(id, transport)| Some((id.to_owned(), transport.capabilities(host, ()).ok()?.encrypted)))
        .collect();
    move |id| able.get(id).copied()
}

/// The format that this program reads and writes.
pub const MASTER_FORMAT: u32 = 1;

impl Master {
    /// Transports of the chain by which the image would go in the clear, although another of them is encrypted and nothing says
    /// that it may. `encrypted` tells of each; what is not known is left to who misses it.
    pub fn plain_beside_encrypted(&self, encrypted: &dyn Fn(&str) -> Option<bool>) -> Vec<&str> {
        let is = |id: &String, wanted: bool| encrypted(id) == Some(wanted);
        if self.allow_plain || !self.transports.iter().any(|id| is(id, true)) {
            return Vec::new();
        }
        self.transports.iter().filter(|id| is(id, false)).map(String::as_str).collect()
    }

    /// Transports of the chain by which the image is offered: all but [those](Self::plain_beside_encrypted).
    pub fn offered_by(&self, encrypted: &dyn Fn(&str) -> Option<bool>) -> Vec<&str> {
        let refused = self.plain_beside_encrypted(encrypted);
        self.transports.iter().map(String::as_str).filter(|id| !refused.contains(id)).collect()
    }

    /// The hooks of that time, in order.
    pub fn hooks_at(&self, time: HookTime) -> impl Iterator<Item = &Hook> {
        self.hooks.iter().filter(move |hook| hook.at == time)
    }
}

/// The word that says: no boot loader.
pub const NO_BOOTLOADER: &str = "none";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_falls_back_to_the_clear_unless_it_may() {
        let encrypted = |id: &str| match id {
            "sealed" => Some(true),
            "plain" | "other" => Some(false),
            _ => None,
        };
        for (chain, allowed, expected) in [
            (&["sealed"][..], false, &[][..]),
            (&["plain"], false, &[]),
            (&["plain", "other"], false, &[]),
            (&["sealed", "plain"], false, &["plain"]),
            (&["plain", "sealed", "other", "absent"], false, &["plain", "other"]),
            (&["sealed", "plain"], true, &[]),
        ] {
            let text = format!(
                "format = 1\nimage = \"web\"\ntransports = {chain:?}\nallow_plain = {allowed}\npartitioner = \"p\"\n\
                 bootloader = \"none\"\n[identity]\nplugin = \"i\"\n"
            );
            let master: Master = toml::from_str(&text).unwrap();
            assert_eq!(master.plain_beside_encrypted(&encrypted), expected, "{chain:?}");
        }
    }
}
