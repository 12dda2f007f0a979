//! The sending side: a program of its own that the image server keeps running. It lets in whose keys it was given, tells them
//! the manifest, and sends each block that somebody still needs to all at once.
//!
//! [`carousel`] decides what is sent next and [`control`] how fast, both without doing anything; [`session`] does it, [`client`]
//! talks to one receiver.

pub mod cache;
pub mod carousel;
pub mod client;
pub mod config;
pub mod control;
pub mod group;
pub mod outlet;
pub mod pace;
pub mod packs;
pub mod server;
pub mod session;
pub mod state;
