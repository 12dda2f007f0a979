//! Capture: a running machine becomes an image.
//!
//! On the master client [`prepare`] finds out what is there ([`mount_table`], [`stack`], [`describe`],
//! [`survey`], [`advice`]), shows it read-only in one place, and offers it. On the image server
//! [`getimage`] pulls it into the store and writes the master file. What they tell each other is
//! [`facts`]; by which keys they know each other, [`pairing`]; which private keys the image holds, [`keys`].

pub mod advice;
pub(crate) mod connections;
pub mod describe;
pub mod facts;
#[cfg(test)]
mod fakes;
pub mod getimage;
pub mod keys;
pub mod mount_table;
pub mod pairing;
pub mod prepare;
pub mod stack;
pub mod survey;
