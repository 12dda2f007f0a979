//! What the tests of SystemImager stand on, as a library, so that tests of every crate can use it.
//!
//! - [`awkward`] makes a tree of files that are hard to copy; [`change`] changes it in every way.
//! - [`compare`] tells in what two trees differ.
//! - [`lab`] is a network of namespaces and virtual machines on one computer.
//! - [`loopback`] has both sides of a capture on this computer.
//! - [`many`] has an image server and several receivers of one image, each in a namespace.
//! - [`relay`] is somebody on the wire.
//! - [`story`] drives the product's programs through the whole way once.
//!
//! Nothing here is part of the product, and only [`story`], [`loopback`] and [`many`] know it: the same comparer must be able
//! to judge plain `cp` and `rsync` too.
#![allow(
    clippy::disallowed_methods,
    reason = "the lab starts real programs, and is not bound to the product's registry of them"
)]

pub mod at;
pub mod awkward;
pub mod change;
pub mod compare;
pub mod lab;
pub mod loopback;
pub mod many;
pub mod need;
pub mod relay;
pub mod story;
