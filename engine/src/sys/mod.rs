//! The one module that spawns programs, mounts, and asks the kernel for things.
//!
//! Everything outside `sys` describes *what* should happen; here is the only code that makes the
//! kernel do it. That keeps effects in one place to review, and lets everything else be tested
//! without root. An adapter elsewhere offers a guarded part of this to plugins as their `Host`.
//!
//! It must not know what an image, a master file or a plugin is: nothing here depends on
//! `systemimager-core`.
//!
//! Map:
//! - programs: [`tool`] (names and packages), [`read_only`] (what a plugin's probe may run),
//!   [`run`] (run to the end), [`child`] (long-running), [`supervisor`] (many of them),
//!   [`running`] (one whose output is read as it comes), [`leftover`] (of an earlier run)
//! - mounts: [`mount`], [`namespace`], [`mount_points`], [`mountinfo`], [`fstab`]
//! - other trees: [`target_env`] (installed ones), [`apart`] (images that are worked in), [`by_links`]
//! - devices: [`block`], [`above`], [`by_path`], [`signatures`], [`lvm`], [`modules`], [`loopdev`],
//!   [`swaps`]
//! - files: [`atomic`], [`attributes`], [`dirwatch`], [`holes`], [`lock`], [`remove`], [`statfs`], [`volatile`]
//! - the machine: [`power`], [`ports`] (who holds one), [`kernel_log`] (disks that fail);
//!   being asked to end: [`signals`];
//!   telling a service manager: [`notify`]

pub mod above;
pub mod apart;
pub mod atomic;
pub mod attributes;
pub mod block;
pub mod boot_code;
pub mod by_links;
pub mod by_path;
mod calls;
pub mod child;
pub mod command_error;
pub mod confined;
pub mod dirwatch;
pub mod error;
pub mod fstab;
pub mod holes;
pub mod kernel_log;
pub mod leftover;
pub mod lock;
pub mod loopdev;
pub mod lvm;
mod matching;
pub mod modules;
pub mod mount;
pub mod mount_points;
pub mod mountinfo;
pub mod namespace;
pub mod notify;
pub mod ports;
pub mod power;
mod process;
pub mod quote;
pub mod read_only;
pub mod remove;
pub mod run;
pub mod running;
pub mod signals;
pub mod signatures;
pub mod statfs;
pub mod supervisor;
pub mod swaps;
mod tail;
pub mod target_env;
pub mod tool;
pub mod volatile;

pub use child::{Child, Output as ChildOutput};
pub use command_error::CommandError;
pub use error::SysError;
pub use run::{Cmd, Input, Output, Stream};
pub use running::{Chunk, Running};
pub use rustix::process::Signal;
pub use supervisor::{ChildHandle, Exit, Supervisor};
pub use tool::{Program, Tool};
