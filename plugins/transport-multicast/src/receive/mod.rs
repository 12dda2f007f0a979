//! The receiving side: a helper that pulls one tree, and tells the plugin that started it how it goes.
//!
//! [`plan`] says what of the manifest is taken, [`scan`] what of it is there already, [`target`] writes, [`verify`] compares;
//! [`assemble`] makes blocks of datagrams, [`network`] gets them. [`talk`] is how the helper and the plugin speak.

pub mod assemble;
pub mod compare;
pub mod network;
pub mod plan;
pub mod pull;
pub mod scan;
pub mod talk;
pub mod target;
pub mod verify;
