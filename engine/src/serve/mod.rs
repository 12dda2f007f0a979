//! The image server's parts: DHCP and TFTP by dnsmasq, the transports' services, what machines report.
//!
//! Everything that runs is a supervised child with generated configuration. HTTP is the command's business
//! (it needs a runtime of its own); what it answers from is here.

pub mod admission;
mod admitted;
pub mod allowance;
pub mod by_hand;
pub mod desk;
pub mod dnsmasq;
pub mod dnsmasq_child;
pub mod exports;
pub mod exposure;
pub mod interface;
pub mod logs;
pub mod machine;
pub mod machines;
pub mod parts;
pub mod server;
pub mod sessions;
pub mod site;
pub mod watch;
