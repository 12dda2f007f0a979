//! `cpimage`: a copy of an image under another name.

use anyhow::Result;
use systemimager_core::{ImageName, Progress};
use systemimager_engine::store::copy::{self, CopiedMaster};

use crate::context::Context;

/// Copy an image, to work on a revision while hosts keep the other
///
/// Where the file system shares extents (XFS, btrfs) a copy costs what is changed in it later. The master file is copied
/// too, with the new name in it; host links stay as they are.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  systemimager cpimage web-v1 web-v2")]
pub struct CpImage {
    /// The image
    from: ImageName,
    /// The name of the copy
    to: ImageName,
    /// Replace an image of that name
    #[arg(long)]
    replace: bool,
}

/// How many files are copied between two words of progress.
const STEP: u64 = 100;

impl CpImage {
    /// Copies.
    pub fn run(self, context: &Context) -> Result<()> {
        let sink = context.progress_sink();
        let mut files = |files: u64| {
            if files.is_multiple_of(STEP) {
                sink(&Progress { files, ..Progress::default() });
            }
        };
        let copied = copy::copy(&context.config, &self.from, &self.to, self.replace, &mut files)?;
        let master = match copied.master {
            CopiedMaster::Made => "its master file too",
            CopiedMaster::Kept => "the master file of that name was kept",
            CopiedMaster::None => "there is no master file to copy",
        };
        context.say(format_args!("{} is a copy of {}: {} files; {master}", self.to, self.from, copied.files));
        context.answer(&copied)
    }
}
