//! `mvimage`: another name for an image.

use anyhow::Result;
use systemimager_core::ImageName;
use systemimager_engine::store::rename;

use crate::context::Context;

/// Rename an image; its master file, host links and orders follow
///
/// An interrupted run can be started again, and ends right.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  systemimager mvimage web web-2026-11")]
pub struct MvImage {
    /// The image
    from: ImageName,
    /// Its new name
    to: ImageName,
}

impl MvImage {
    /// Renames.
    pub fn run(self, context: &Context) -> Result<()> {
        let renamed = rename::rename(&context.config, &self.from, &self.to)?;
        let users = &renamed.users;
        context.say(format_args!(
            "{} is called {} now; followed: {} host links, {} masters of hosts' own, {} orders",
            self.from,
            self.to,
            users.linked.len(),
            users.own_master.len(),
            users.ordered.len()
        ));
        context.answer(&renamed)
    }
}
