//! Steps: a plan as data. The engine's executor is the only code that acts on them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{BytePath, Bytes, HookName, NodeName, OverrideName};

/// The phase of an install a step belongs to, in the order they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Partition tables.
    Partition,
    /// Volumes and file systems.
    Format,
    /// Mounting the target.
    Mount,
    /// Pulling the image.
    Pull,
    /// Name, addresses, what clones must not share.
    Identity,
    /// Boot loader and initramfs.
    Boot,
    /// Sync, checks, unmounting.
    Finish,
}

impl Phase {
    /// All, in order.
    pub const ALL: [Phase; 7] =
        [Phase::Partition, Phase::Format, Phase::Mount, Phase::Pull, Phase::Identity, Phase::Boot, Phase::Finish];

    /// For people: `partition`.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Partition => "partition",
            Phase::Format => "format",
            Phase::Mount => "mount",
            Phase::Pull => "pull",
            Phase::Identity => "identity",
            Phase::Boot => "boot",
            Phase::Finish => "finish",
        }
    }
}

/// An argument of a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arg {
    /// Bytes as they are.
    Text(BytePath),
    /// The device of a node (`/dev/nvme0n1p2`), known only when partitioning is done.
    Device(NodeName),
    /// `prefix` directly followed by the device of a node (`--device=/dev/sda`).
    PrefixedDevice(String, NodeName),
    /// A path in the target, as seen from outside it.
    Target(BytePath),
}

impl Arg {
    /// Text arguments from words.
    pub fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<Arg> {
        words.into_iter().map(Arg::from).collect()
    }
}

impl From<&str> for Arg {
    fn from(text: &str) -> Self {
        Arg::Text(text.into())
    }
}

impl From<String> for Arg {
    fn from(text: String) -> Self {
        Arg::Text(text.into())
    }
}

impl From<BytePath> for Arg {
    fn from(path: BytePath) -> Self {
        Arg::Text(path)
    }
}

/// What a file is to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contents {
    /// Text or bytes.
    Bytes(Bytes),
    /// A copy of a file on the machine that carries out the step (absolute path there).
    CopyOf(BytePath),
}

/// What a step does. Paths are absolute *in the target* unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
#[non_exhaustive]
pub enum Action {
    /// Run a program of the installer's.
    Run {
        /// argv, no shell.
        argv: Vec<Arg>,
        /// Standard input.
        #[serde(default)]
        stdin: Option<String>,
    },
    /// Run a program of the target's inside the target, with /dev, /proc, /sys, /run, efivars and
    /// /dev/disk/by-* there.
    InTarget {
        /// argv, no shell.
        argv: Vec<Arg>,
        /// Standard input.
        #[serde(default)]
        stdin: Option<String>,
    },
    /// Wait until these nodes have devices, within the executor's deadline.
    Settle {
        /// The nodes.
        nodes: Vec<NodeName>,
    },
    /// Mount a node below the target (`at` = `/` is the target itself).
    Mount {
        /// The node that holds the file system.
        node: NodeName,
        /// Where, in the target.
        at: BytePath,
        /// Type for mount(2).
        fstype: String,
        /// Options for mount(8), comma-separated.
        #[serde(default)]
        options: String,
    },
    /// Make a directory (and its parents) if absent.
    MakeDirectory {
        /// Path.
        path: BytePath,
        /// Permission bits.
        mode: u32,
    },
    /// Write a file as a whole, replacing what is there (mode and owner of an existing file stay).
    WriteFile {
        /// Path.
        path: BytePath,
        /// Contents.
        contents: Contents,
        /// Permission bits of a new file.
        mode: u32,
    },
    /// Put `line` in place of each line that begins with `prefix`, or at the end if there is none.
    SetLine {
        /// Path; made with mode 0644 if absent.
        path: BytePath,
        /// What the line begins with.
        prefix: String,
        /// The whole new line, without newline.
        line: String,
    },
    /// Put `block` between the lines `begin` and `end`, replacing what stands there, or at the end.
    SetBlock {
        /// Path; made with mode 0644 if absent.
        path: BytePath,
        /// The line before the block.
        begin: String,
        /// The line after the block.
        end: String,
        /// The lines, each with its newline.
        block: String,
    },
    /// Remove a file, a link or an empty directory, if present.
    Remove {
        /// Path.
        path: BytePath,
    },
    /// Make a symbolic link, replacing a file or link.
    Symlink {
        /// Path of the link.
        path: BytePath,
        /// What it points to.
        to: BytePath,
    },
    /// Pull the image into the target (the engine's own; plugins do not return it).
    Pull {
        /// The image.
        image: String,
        /// The transports of the chain, in order.
        transports: Vec<String>,
    },
    /// Write down in the target which image it was installed with, and from where (the engine's own).
    Record {
        /// The image.
        image: String,
    },
    /// Lay overrides over what was pulled, in this order: their files take the places of the image's, and directories that
    /// are there keep their attributes (the engine's own).
    LayOver {
        /// The overrides.
        overrides: Vec<OverrideName>,
        /// The image that they were found to fit.
        image: String,
        /// The transport that brings them.
        transport: String,
    },
    /// Run a program of the site's inside the target (the engine's own).
    Hook {
        /// Its name.
        hook: HookName,
        /// Where it lies on the machine that carries out the step (absolute there).
        program: BytePath,
        /// What it is told besides, as variables of its environment.
        environment: BTreeMap<String, String>,
        /// The install ends where it fails; else that is said, and it goes on.
        required: bool,
    },
    /// Check that the target holds what the plan says, write everything out, unmount (the engine's own).
    Seal,
    /// Take apart what stands on these disks and erase its signatures, from what lies uppermost down to the disks,
    /// having seen first that nothing of it is mounted or reaches onto other disks (the engine's own).
    Wipe {
        /// The disks.
        disks: Vec<NodeName>,
    },
}

impl Action {
    /// The path in the target that the action itself is about; none for those about programs and nodes.
    pub fn path(&self) -> Option<&BytePath> {
        match self {
            Action::MakeDirectory { path, .. }
            | Action::WriteFile { path, .. }
            | Action::SetLine { path, .. }
            | Action::SetBlock { path, .. }
            | Action::Remove { path }
            | Action::Symlink { path, .. } => Some(path),
            _ => None,
        }
    }
}

/// A path in the target that a step changes, so that one can say afterwards what should differ from the image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Written {
    /// Absolute in the target. Its parent directory's times may change with it.
    pub path: BytePath,
    /// Everything below it too.
    #[serde(default)]
    pub below: bool,
}

impl Written {
    /// Just this path.
    pub fn path(path: impl Into<BytePath>) -> Self {
        Self { path: path.into(), below: false }
    }

    /// This path and everything below it.
    pub fn below(path: impl Into<BytePath>) -> Self {
        Self { path: path.into(), below: true }
    }
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What it is for, in words: `make the ext4 file system "root"`.
    pub what: String,
    /// When it runs.
    pub phase: Phase,
    /// What it does.
    pub action: Action,
    /// Nodes whose contents it destroys.
    #[serde(default)]
    pub destroys: Vec<NodeName>,
    /// Nodes that exist or are usable afterwards.
    #[serde(default)]
    pub provides: Vec<NodeName>,
    /// What it changes in the target besides its action's own `path`.
    #[serde(default)]
    pub writes: Vec<Written>,
    /// The plugin it came from (`file-system ext2`); the engine fills it in.
    #[serde(default)]
    pub by: String,
}

impl Step {
    /// A step without declared effects.
    pub fn new(phase: Phase, what: impl Into<String>, action: Action) -> Self {
        Self {
            what: what.into(),
            phase,
            action,
            destroys: Vec::new(),
            provides: Vec::new(),
            writes: Vec::new(),
            by: String::new(),
        }
    }

    /// The same, destroying these nodes' contents.
    #[must_use]
    pub fn destroying(mut self, nodes: impl IntoIterator<Item = NodeName>) -> Self {
        self.destroys.extend(nodes);
        self
    }

    /// The same, providing these nodes.
    #[must_use]
    pub fn providing(mut self, nodes: impl IntoIterator<Item = NodeName>) -> Self {
        self.provides.extend(nodes);
        self
    }

    /// The same, changing these paths in the target.
    #[must_use]
    pub fn writing(mut self, written: impl IntoIterator<Item = Written>) -> Self {
        self.writes.extend(written);
        self
    }

    /// All that it changes in the target: its action's own path and what it declares.
    pub fn written(&self) -> Vec<Written> {
        let own = self.action.path().map(|path| Written::path(path.clone()));
        own.into_iter().chain(self.writes.iter().cloned()).collect()
    }
}
