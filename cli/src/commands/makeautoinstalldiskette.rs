//! `makeautoinstalldiskette`: a USB stick, or the image of one, that installs the machine it is put into.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use systemimager_core::Size;
use systemimager_engine::boot::media::Kind;
use systemimager_engine::boot::media::device::{self, Target};
use systemimager_engine::host::Secrets;

use super::answer::yes;
use super::medium::{Made, MediumArgs};
use crate::context::{Context, note};

/// Make a USB stick that installs the machine it is put into
///
/// The stick boots by BIOS and by UEFI. Kernel and initrd are those that machines boot over the network (mkinitrd). All
/// that is on a device is lost; what was written is read back and compared.
#[derive(Debug, clap::Args)]
#[command(
    group(clap::ArgGroup::new("where").args(["device", "output"])),
    after_help = "Examples:\n  makeautoinstalldiskette --device /dev/sdX\n  makeautoinstalldiskette --output stick.img --server \
                  192.168.1.1\n  makeautoinstalldiskette --device /dev/sdX --local-cfg www1.cfg --yes"
)]
pub struct MakeAutoinstallDiskette {
    /// The stick: a whole disk, nothing of which is in use
    #[arg(long, value_name = "DEVICE")]
    device: Option<PathBuf>,
    /// Make an image of a stick in this file; one that is there is replaced when the new one is whole
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Size of the image, such as 256MiB (as large as it must be)
    #[arg(long, value_name = "SIZE", requires = "output")]
    size: Option<Size>,
    /// Also a disk that cannot be taken out of this machine
    #[arg(long, requires = "device")]
    fixed_disk: bool,
    /// Do not ask before the device is overwritten
    #[arg(long, short = 'y')]
    yes: bool,
    #[command(flatten)]
    medium: MediumArgs,
}

impl MakeAutoinstallDiskette {
    /// Judges, asks, makes it.
    pub fn run(self, context: &Context) -> Result<()> {
        let device = match (&self.device, &self.output) {
            (_, Some(output)) => return self.make_file(context, output),
            (Some(device), None) => device.clone(),
            (None, None) => context.ask("The stick's device, such as /dev/sdX", None, "--device or --output")?.into(),
        };
        let target = device::judge(&device, self.fixed_disk)?;
        let (medium, kernel) = self.medium.medium(context, Kind::Usb)?;
        let host = context.host(Secrets::default());
        let plan = medium.plan(context.registry()?, &host)?;
        let state = context.config.state();
        std::fs::create_dir_all(&state).with_context(|| format!("making {}", state.display()))?;
        let work = tempfile::Builder::new()
            .prefix("medium-")
            .tempdir_in(&state)
            .with_context(|| format!("making a directory in {}", state.display()))?;
        let image = work.path().join("stick.img");
        let bytes = medium.make(&plan, &image, None)?;
        device::fits(bytes, &target)?;
        if !self.yes && !yes(&context.ask(&question(&target), None, "--yes")?)? {
            bail!("nothing was written");
        }
        device::write(&image, &target)?;
        context.say(format_args!(
            "{}: {} MiB written and read back, kernel {kernel}",
            target.path.display(),
            bytes.div_ceil(1 << 20)
        ));
        context.answer(&Made { medium: target.path, bytes, kernel, id: medium.id })
    }

    fn make_file(&self, context: &Context, output: &Path) -> Result<()> {
        if output.exists() && !output.is_file() {
            bail!("{} is no file; a disk is named with --device", output.display());
        }
        let (medium, kernel) = self.medium.medium(context, Kind::Usb)?;
        let host = context.host(Secrets::default());
        let plan = medium.plan(context.registry()?, &host)?;
        let bytes = medium.make(&plan, output, self.size.map(|size| size.0))?;
        context.say(format_args!("{}: {} MiB, kernel {kernel}", output.display(), bytes.div_ceil(1 << 20)));
        context.answer(&Made { medium: output.to_path_buf(), bytes, kernel, id: medium.id })
    }
}

/// Shows what is lost, and asks.
fn question(target: &Target) -> String {
    note(format_args!("{}, {}, is overwritten. On it is now:", target.path.display(), target.title));
    match target.holds.as_slice() {
        [] => note("  nothing known"),
        lines => lines.iter().for_each(|line| note(format_args!("  {line}"))),
    }
    format!("Overwrite {} (yes/no)", target.path.display())
}
