//! What lies on the image server's disk: images, masters, hosts, host links.

pub mod master;
pub mod master_text;
