//! The static client tool: the commands of master and installed clients, with their plugins linked in.
//!
//! It is what runs on machines whose C library may be old: linked fully static (`+crt-static`), it opens
//! no plugin files. This is the one crate that names concrete plugins.

use std::process::ExitCode;

// Linking a crate is what registers its plugin; nothing else of it is used here.
use boot_grub as _;
use boot_lilo as _;
use fs_ext2 as _;
use fs_reiserfs as _;
use fs_swap as _;
use fs_vfat as _;
use identity_hosts as _;
use part_sfdisk as _;
use transport_multicast as _;
use transport_rsync as _;
use transport_ssh as _;

fn main() -> ExitCode {
    systemimager_cli::main(systemimager_cli::Plugins::Linked)
}
