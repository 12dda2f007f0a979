//! The subcommands, one a file.

pub mod addclients;
pub mod admit;
pub mod cancel;
pub mod check;
mod choose;
pub mod doctor;
pub mod getimage;
pub mod hardware;
pub mod install;
pub mod logs;
#[cfg(feature = "server")]
pub mod mkinitrd;
pub mod plan;
pub mod plugin;
pub mod prepareclient;
pub mod pull;
pub mod retry;
mod rows;
mod secret;
#[cfg(feature = "server")]
pub mod serve;
pub mod status;
mod watch;
