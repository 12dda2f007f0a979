//! The subcommands, one a file.

pub mod addclients;
pub mod admit;
mod answer;
pub mod cancel;
pub mod check;
mod choose;
pub mod cpimage;
#[cfg(feature = "server")]
mod dhcp_file;
pub mod doctor;
pub mod getimage;
pub mod hardware;
pub mod image;
pub mod install;
pub mod logs;
pub mod lsimage;
#[cfg(feature = "server")]
pub mod makeautoinstallcd;
#[cfg(feature = "server")]
pub mod makeautoinstalldiskette;
#[cfg(feature = "server")]
pub mod makedhcpserver;
#[cfg(feature = "server")]
pub mod makedhcpstatic;
#[cfg(feature = "server")]
mod medium;
#[cfg(feature = "server")]
pub mod mkinitrd;
pub mod mvimage;
pub mod offer;
pub mod plan;
pub mod plugin;
pub mod prepareclient;
pub mod pull;
mod receivers;
pub mod retry;
pub mod revoke;
pub mod rmimage;
mod rows;
mod secret;
#[cfg(feature = "server")]
pub mod serve;
pub mod status;
pub mod updateclient;
mod watch;
