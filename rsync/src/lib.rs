//! How rsync is asked, understood and answered, for the transports that move trees by it.
//!
//! - [`request`] turns a pull into an argv, [`filter`] its exclusions into rsync's rules; how the other side is reached, its
//!   caller says.
//! - [`offer`] checks the names of trees and who may have them.
//! - [`client`] runs it, [`stream`] reads what it prints, [`verdict`] judges how it ended.
//! - [`server`] reads what the other side's rsync is told to do, and lets through what only reads.
//!
//! It must not start a shell, must not pass a secret in an argument, and must not decide whether a
//! file that could not be read matters: that is the caller's to judge from the report.

pub mod client;
pub mod filter;
pub mod offer;
pub mod request;
pub mod server;
pub mod stream;
pub mod verdict;
