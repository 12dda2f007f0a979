//! The miniature system that a bare machine boots: PID 1 ([`init`]), the install agent ([`agent`]),
//! and the builder that packs both, and what plugins need, for it ([`pack`]).
//!
//! [`bundle`] is what the agent and the image server both read: the index of tools and plugins.

pub mod agent;
pub mod bundle;
pub mod command_line;
#[doc(hidden)]
pub mod fuzzing;
pub mod init;
pub mod pack;
pub mod places;
