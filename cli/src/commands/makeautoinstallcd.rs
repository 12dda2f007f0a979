//! `makeautoinstallcd`: the image of a CD that installs the machine it is put into, by BIOS and UEFI, also as a stick.

use std::path::PathBuf;

use anyhow::{Result, bail};
use systemimager_engine::boot::media::Kind;
use systemimager_engine::host::Secrets;

use super::medium::{Made, MediumArgs};
use crate::context::Context;

/// Make a CD that installs the machine it is put into
///
/// The image boots by BIOS and by UEFI, from a CD and from a stick that it is copied to. Kernel and initrd are those that
/// machines boot over the network (mkinitrd).
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  makeautoinstallcd --output autoinstall.iso\n  makeautoinstallcd --output www1.iso --server \
                        192.168.1.1 --local-cfg www1.cfg"
)]
pub struct MakeAutoinstallCd {
    /// The file to make; one that is there is replaced when the new one is whole
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    medium: MediumArgs,
}

impl MakeAutoinstallCd {
    /// Makes it.
    pub fn run(self, context: &Context) -> Result<()> {
        let output = self.output;
        if output.exists() && !output.is_file() {
            bail!("{} is no file; name a file for the image", output.display());
        }
        let (medium, kernel) = self.medium.medium(context, Kind::Cd)?;
        let host = context.host(Secrets::default());
        let plan = medium.plan(context.registry()?, &host)?;
        let bytes = medium.make(&plan, &output, None)?;
        context.say(format_args!(
            "{}: {} MiB, kernel {kernel}; for a CD, or to be copied to a stick as it is",
            output.display(),
            bytes.div_ceil(1 << 20)
        ));
        context.answer(&Made { medium: output, bytes, kernel, id: medium.id })
    }
}
