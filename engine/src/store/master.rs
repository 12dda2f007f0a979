//! The master file: how an image is installed, as data. TOML, meant to be read and edited by people.
//!
//! This file holds its types; `master_text` reads and writes it.

use serde::{Deserialize, Serialize};
use systemimager_core::{ImageName, Layout, NetworkMode};

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
    /// Disks, partitions, file systems, mounts. Without disks the image can be pulled but not installed.
    #[serde(default)]
    pub layout: Layout,
}

/// The format that this program reads and writes.
pub const MASTER_FORMAT: u32 = 1;

/// The word that says: no boot loader.
pub const NO_BOOTLOADER: &str = "none";
