//! One file a target, and the table of them.

mod bundle;
mod command_line;
mod dhcp;
mod dhcp_conf;
mod dhcp_leases;
mod disks;
mod fstab;
mod host_set;
mod hosts;
mod identity;
mod image_files;
mod image_tree;
mod local_cfg;
mod lvm;
mod macs;
mod master;
mod mount_table;
mod multicast;
mod plan;
mod plugin_identity;
mod programs;
mod report;
mod rsync;
mod rsync_server;
mod services;
mod settings;
mod sfdisk_json;
mod state_files;
mod tool_output;
mod update_list;

use crate::Target;

/// All targets, by the names of their directories in `corpus/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("bundle", bundle::target),
    ("command_line", command_line::target),
    ("dhcp", dhcp::target),
    ("dhcp_conf", dhcp_conf::target),
    ("dhcp_leases", dhcp_leases::target),
    ("disks", disks::target),
    ("fstab", fstab::target),
    ("host_set", host_set::target),
    ("hosts", hosts::target),
    ("identity", identity::target),
    ("image_files", image_files::target),
    ("image_tree", image_tree::target),
    ("local_cfg", local_cfg::target),
    ("lvm", lvm::target),
    ("macs", macs::target),
    ("master", master::target),
    ("mount_table", mount_table::target),
    ("multicast_datagrams", multicast::datagrams),
    ("multicast_manifest", multicast::manifest),
    ("multicast_messages", multicast::messages),
    ("multicast_reports", multicast::reports),
    ("plan", plan::target),
    ("plugin_identity", plugin_identity::target),
    ("programs", programs::target),
    ("report", report::target),
    ("rsync", rsync::target),
    ("rsync_server", rsync_server::target),
    ("services", services::target),
    ("settings", settings::target),
    ("sfdisk_json", sfdisk_json::target),
    ("state_files", state_files::target),
    ("tool_output", tool_output::target),
    ("update_list", update_list::target),
];
