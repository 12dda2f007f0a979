//! Bootloader: how a disk, a network root or a medium is made to boot.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::data::{BootEntry, BootPlan, BootTarget, BytePath, ImageFacts, Needs, Place, Role, Step, Written};

/// A tree in which the boot loader is looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootloaderDetect {
    /// Where.
    pub place: Place,
}

/// What is to boot, and what with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootloaderPlan {
    /// What is made bootable.
    pub target: BootTarget,
    /// Entries to offer; empty for an installed disk, whose own configuration lists its kernels.
    pub entries: Vec<BootEntry>,
    /// Name of the entry that boots by itself.
    #[serde(default)]
    pub default: Option<String>,
}

/// An entry to boot once, at the next start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootOnce {
    /// The entry.
    pub entry: BootEntry,
    /// Make it the default instead of booting it once.
    #[serde(default)]
    pub persistent: bool,
}

/// An installed system whose kernel or boot configuration changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootloaderRefresh {
    /// What is known of the image it now holds.
    pub image: ImageFacts,
    /// Modules that the initramfs lacks: it is rebuilt with them.
    #[serde(default)]
    pub missing_modules: Vec<String>,
}

/// A machine that is brought to an image, or another revision of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootloaderPaths {
    /// The image that it is brought to, with what `detect` found.
    pub image: ImageFacts,
}

/// Files of an installed machine that a boot loader makes or reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootPaths {
    /// What it made on this machine: an update neither takes it from the image nor removes it. Patterns as in
    /// [`PullRequest::exclude`](crate::PullRequest::exclude), each anchored at the root.
    #[serde(default)]
    pub own: Vec<BytePath>,
    /// What it reads, besides kernels, initramfs and all else below /boot: where one of these changes,
    /// [`Bootloader::refresh`] is asked.
    #[serde(default)]
    pub reads: Vec<Written>,
}

crate::contract::macros::contract! {
    /// Makes a boot target boot a list of entries with a default.
    pub trait Bootloader, remote RemoteBootloader, dispatch dispatch_bootloader;
    required {
        /// What it needs on a machine in this role.
        fn needs(Role) -> Needs;
        /// Looks for this boot loader in a tree; `None` if it is not there. The facts go into
        /// [`ImageFacts::bootloaders`] and come back with the plan's request.
        fn detect(BootloaderDetect) -> Option<BTreeMap<String, String>>;
        /// Steps that make the target boot. Pure. In an installed disk's target, rebuilding the
        /// initramfs for `missing_modules` belongs to them.
        ///
        /// # Errors
        /// `Unsupported` for a kind of target or firmware that it does not serve, `Invalid`, `Missing`
        /// (the image lacks its programs; named with their package).
        fn plan(BootloaderPlan) -> BootPlan;
    }
    optional {
        /// Steps on a running system that boot an entry once at the next start.
        fn boot_once(BootOnce) -> Vec<Step>;
        /// Steps on a running system whose kernel or boot configuration changed.
        fn refresh(BootloaderRefresh) -> Vec<Step>;
        /// Which files on an installed machine are the boot loader's business. Pure.
        fn paths(BootloaderPaths) -> BootPaths;
    }
}
