//! Bootloader: how a disk, a network root or a medium is made to boot.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::data::{
    BlockDevice, BootEntry, BootPlan, BootTarget, Booted, BytePath, ImageFacts, Layout, Needs, NodeName, Place, Role,
    Step,
};

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
    /// For a disk: the layout as it was fitted to this machine. Absent: nobody said.
    #[serde(default)]
    pub layout: Option<Layout>,
    /// For a disk: the machine's disk for each disk of the layout.
    #[serde(default)]
    pub devices: BTreeMap<NodeName, BlockDevice>,
    /// For a disk of an UEFI machine: the firmware's boot entries can be written from within the target.
    #[serde(default)]
    pub efivars: bool,
}

impl BootloaderPlan {
    /// To make this target boot, without entries of its own.
    pub fn new(target: BootTarget) -> Self {
        Self { target, entries: Vec::new(), default: None, layout: None, devices: BTreeMap::new(), efivars: false }
    }
}

/// An entry to boot once, at the next start, of a system that is installed. If that start fails, the one after it
/// is the old system's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootOnce {
    /// The entry; kernel and initrd are absolute paths in the system's tree, and lie there already.
    pub entry: BootEntry,
    /// Make it the default instead of booting it once.
    #[serde(default)]
    pub persistent: bool,
    /// The system. Absent: the running one, of which nothing else is known.
    #[serde(default)]
    pub booted: Option<Booted>,
}

/// An installed system whose kernel or boot configuration changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootloaderRefresh {
    /// What is known of the image it now holds.
    pub image: ImageFacts,
    /// Modules that the initramfs lacks: it is rebuilt with them.
    #[serde(default)]
    pub missing_modules: Vec<String>,
    /// The system. Absent: the running one, of which nothing else is known; its boot code stays as it is.
    #[serde(default)]
    pub booted: Option<Booted>,
    /// Paths, absolute in the system's tree, that changed, came or went; a directory stands for all below it. Absent:
    /// nobody knows, and all that the boot loader keeps is made anew. The plugin sees for itself what of it matters: it
    /// may answer no steps at all.
    #[serde(default)]
    pub changed: Option<Vec<BytePath>>,
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
        /// Steps on an installed system that boot an entry once at the next start, or from now on. They are of the phase
        /// `Boot`. It may look at the system itself.
        ///
        /// # Errors
        /// `Unsupported`: the loader could not forget an entry once it was booted, or the like, and why; `Invalid` for an
        /// entry that its configuration cannot hold; `Missing` (the system lacks its programs; named with their package).
        fn boot_once(BootOnce) -> Vec<Step>;
        /// Steps on an installed system whose kernel or boot configuration changed, or is going to: they are planned before
        /// anything is touched, from the facts of the image that it will hold. They are of the phase `Boot`.
        ///
        /// # Errors
        /// As `plan`.
        fn refresh(BootloaderRefresh) -> Vec<Step>;
    }
}
