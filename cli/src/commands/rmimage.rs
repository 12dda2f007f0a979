//! `rmimage`: remove images.

use anyhow::{Result, bail};
use systemimager_core::ImageName;
use systemimager_engine::store::remove;

use super::answer::yes;
use crate::context::{Context, note};

/// Remove images with their master files
///
/// Refused while hosts are linked to an image, have it in masters of their own, or are ordered to be installed with it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  systemimager rmimage web-v1\n  systemimager rmimage web-v1 --force --yes")]
pub struct RmImage {
    /// The images
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<ImageName>,
    /// Also an image that hosts use: their links and orders go too
    #[arg(long)]
    force: bool,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
}

impl RmImage {
    /// Asks, then removes one after the other; the first that cannot be removed ends it.
    pub fn run(self, context: &Context) -> Result<()> {
        let names: Vec<&str> = self.images.iter().map(ImageName::as_str).collect();
        let question = format!("Remove {} and all files in it (yes/no)", names.join(", "));
        if !self.yes && !yes(&context.ask(&question, None, "--yes")?)? {
            bail!("nothing was removed");
        }
        let mut all = Vec::new();
        for image in &self.images {
            let removed = remove::remove(&context.config, image, self.force)?;
            context.say(format_args!("{image}: removed"));
            for host in &removed.users.own_master {
                note(format_args!(
                    "{host} has a master of its own for {image}, which is no more; give it another image"
                ));
            }
            for tree in &removed.still_read {
                note(format_args!("still read, and removed when that ends: {tree}"));
            }
            all.push(removed);
        }
        context.answer(&serde_json::json!({ "removed": all }))
    }
}
