//! The five traits. Each method takes the [`Host`](crate::Host) and one request, and returns one answer;
//! both are data, so that the method can cross a shared-object boundary as JSON.
//!
//! Within a major version methods are only appended, each with a default body that answers
//! `Unsupported`: a plugin built for an older contract says so by name.

mod bootloader;
mod filesystem;
mod identity;
pub(crate) mod macros;
mod partitioner;
mod transport;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use bootloader::{
    BootOnce, Bootloader, BootloaderDetect, BootloaderPlan, BootloaderRefresh, RemoteBootloader, dispatch_bootloader,
};
pub use filesystem::{
    FileSystem, FileSystemDescribe, FileSystemDetect, FileSystemFacts, FileSystemMake, FileSystemMount, FileSystemType,
    RemoteFileSystem, dispatch_filesystem,
};
pub use identity::{
    HostIdentity, IdentityDetect, IdentityOwn, IdentityScrub, IdentityWho, IdentityWrite, RemoteHostIdentity,
    dispatch_identity,
};
pub use macros::Wire;
pub use partitioner::{
    Partitioner, PartitionerCapture, PartitionerFit, PartitionerPlan, RemotePartitioner, dispatch_partitioner,
};
pub use transport::{RemoteTransport, Transport, dispatch_transport};

/// Which of the five traits a plugin implements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Moves trees.
    Transport,
    /// Makes and mounts file systems.
    FileSystem,
    /// Reads and writes partition tables.
    Partitioner,
    /// Makes machines and media boot.
    Bootloader,
    /// Tells who a machine is.
    HostIdentity,
}

impl Kind {
    /// All five.
    pub const ALL: [Kind; 5] =
        [Kind::Transport, Kind::FileSystem, Kind::Partitioner, Kind::Bootloader, Kind::HostIdentity];

    /// `file-system`: as in JSON, masters and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Transport => "transport",
            Kind::FileSystem => "file-system",
            Kind::Partitioner => "partitioner",
            Kind::Bootloader => "bootloader",
            Kind::HostIdentity => "host-identity",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Kind::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            format!("{text:?} is no kind of plugin; the kinds are {}", Kind::ALL.map(Kind::name).join(", "))
        })
    }
}
