//! What the two sides of the contract exchange: plain data, JSON on the wire. New fields are only
//! ever appended, with `#[serde(default)]`.

mod booted;
mod bytepath;
mod bytes;
mod hardware;
mod identity;
mod image;
mod layout;
mod make;
mod names;
mod needs;
mod place;
mod process;
mod service;
mod size;
mod step;
mod transfer;

pub use booted::{Booted, BootedMount};
pub use bytepath::BytePath;
pub use bytes::Bytes;
pub use hardware::{BlockDevice, Hardware, Holder, NetworkInterface, PartitionInfo, Signature};
pub use identity::{HostFacts, Identity, Lease, NetworkMode, NetworkSettings};
pub use image::{BootEntry, BootFile, BootPlan, BootTarget, FstabEntry, ImageFacts, Kernel};
pub use layout::{
    DiskLayout, DiskRule, FileSystemLayout, Layout, LayoutError, MountLayout, PartitionLayout, VolumeLayout,
};
pub use names::{HookName, HostName, ImageName, NameError, NodeName, OverrideName};
pub use needs::{Needs, Program, Role};
pub use place::Place;
pub use process::{
    Chunk, Exit, HelperCall, HelperEnd, HelperFile, HelperLine, HelperRun, Level, ProcessId, Progress, Spawn,
    ToolOutput,
};
pub use service::{
    AdmittedKey, Answer, Asked, Export, Finished, Offer, Piece, Probe, ReceiverEnd, ReceiverState, Secret, Service,
    ServiceFile, ServiceState, SessionState, UserSecret,
};
pub use size::Size;
pub use step::{Action, Arg, Contents, Phase, Step, Written};
pub use transfer::{Aspect, Capabilities, Change, ChangeKind, FailedPath, PullReport, PullRequest, Source};
