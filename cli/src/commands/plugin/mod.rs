//! `plugin list`, `plugin check FILE` and `plugin new NAME`: what is there, whether a file keeps the contract,
//! and a crate to begin with.

mod check;
mod list;
mod new;

use anyhow::Result;

use crate::context::Context;

/// List, check and begin plugins
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  systemimager plugin list\n  systemimager plugin new my-fs --kind file-system\n  \
                  systemimager plugin check my-fs/target/release/libmy_fs.so")]
pub struct PluginCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List the plugins that are there, and the files that are refused, with why
    List,
    /// Load a plugin file and try whether it keeps the contract: one line a check, exit code 1 if one failed
    Check(check::Check),
    /// Write a crate for a plugin of your own: it builds, tests itself and loads as it stands
    New(new::New),
}

impl PluginCommand {
    /// Lists, checks or begins.
    pub fn run(self, context: &Context) -> Result<()> {
        match self.what {
            What::List => list::run(context),
            What::Check(check) => check.run(context),
            What::New(new) => new.run(context),
        }
    }
}
