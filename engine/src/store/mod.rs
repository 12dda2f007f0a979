//! What lies on the image server's disk: images, masters, hosts, host links.

pub mod addresses;
pub mod clients;
pub mod host_links;
pub mod host_set;
pub mod hosts_file;
pub mod image_store;
pub mod macs;
pub mod master;
pub mod master_text;
mod proof;
pub mod staging;
