//! What goes over the network: [`datagram`]s from one to all, and [`message`]s both ways over a [`channel`] between two. What
//! comes in is not trusted: each reader holds lengths against what is there before it believes them. docs/multicast.md has all
//! of it field by field.

pub mod channel;
pub mod datagram;
pub mod key;
pub mod message;
