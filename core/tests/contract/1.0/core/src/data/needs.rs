//! What a plugin needs on a machine, so that it can be packed, and named when it is missing.

use serde::{Deserialize, Serialize};

use super::BytePath;

/// The part a machine plays; needs differ by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The machine an image is captured from.
    MasterClient,
    /// The image server.
    Server,
    /// A bare machine being installed.
    Installer,
    /// An installed machine that updates itself.
    InstalledClient,
}

/// A program, and how to see that it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The name that is looked up in PATH and the sbin directories.
    pub name: String,
    /// The Debian package that brings it.
    pub package: String,
    /// Arguments with which it exits 0 and changes nothing (`["--version"]`): the initrd builder runs
    /// each packed program once this way inside the packed root.
    #[serde(default)]
    pub probe: Vec<String>,
}

impl Program {
    /// `name` from `package`, probed with `--version`.
    pub fn new(name: &str, package: &str) -> Self {
        Self { name: name.into(), package: package.into(), probe: vec!["--version".into()] }
    }

    /// The same, probed with these arguments.
    #[must_use]
    pub fn probed(mut self, probe: &[&str]) -> Self {
        self.probe = probe.iter().map(|arg| (*arg).to_owned()).collect();
        self
    }
}

/// What a plugin needs in one role.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// Programs.
    #[serde(default)]
    pub programs: Vec<Program>,
    /// Kernel modules, by name; those built into the kernel count as present.
    #[serde(default)]
    pub modules: Vec<String>,
    /// Files that are packed as they are (absolute paths on the packing machine).
    #[serde(default)]
    pub files: Vec<BytePath>,
    /// Libraries that are opened by name at run time, such as `libnss_files.so.2`.
    #[serde(default)]
    pub libraries: Vec<String>,
}
