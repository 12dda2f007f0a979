//! `image edit NAME`: change an image from inside. (What is done with images as a whole has names of its own: `lsimage`, …)

mod edit;

use anyhow::Result;

use crate::context::Context;

/// Work in images
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  systemimager image edit web-v2\n  systemimager image edit web-v2 -- apt-get -y install nginx"
)]
pub struct ImageCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Edit(edit::Edit),
}

impl ImageCommand {
    /// Edits.
    pub fn run(self, context: &Context) -> Result<()> {
        match self.what {
            What::Edit(edit) => edit.run(context),
        }
    }
}
