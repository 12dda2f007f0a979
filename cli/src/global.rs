//! The options that every command takes.

use std::path::PathBuf;

/// Options before or after the command's name.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Global {
    /// Put DIR in front of every path of the server (images, TFTP root, settings, state)
    #[arg(long, global = true, value_name = "DIR", help_heading = "Everywhere")]
    pub root: Option<PathBuf>,
    /// Load plugins from DIR instead of the installed ones
    #[arg(long, global = true, value_name = "DIR", help_heading = "Everywhere")]
    pub plugin_dir: Option<PathBuf>,
    /// Answer in JSON on standard output
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub json: bool,
    /// Say more; twice: everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Everywhere")]
    pub verbose: u8,
}
