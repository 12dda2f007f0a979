//! The subcommands, one a file.

pub mod addclients;
pub mod check;
mod choose;
pub mod getimage;
pub mod hardware;
#[cfg(feature = "server")]
pub mod mkinitrd;
pub mod plan;
pub mod plugin;
pub mod prepareclient;
pub mod pull;
mod secret;
#[cfg(feature = "server")]
pub mod serve;
pub mod status;
