//! The pack: an image as a manifest and a data space of blocks, without a copy of the image.
//!
//! [`manifest`] is its form, [`make`] makes it of a tree, [`kept`] keeps it beside the images, [`contents`] reads blocks out of
//! the image's own files. Nothing here knows of a network.

pub mod contents;
pub mod kept;
pub mod make;
pub mod manifest;
