//! Autoinstall media from the one kernel and initrd that the network boots too: USB sticks and CDs.
//!
//! What boots them is a boot loader plugin's business, by the same boot entries as for the network; here is what holds
//! the files: a partition table with a FAT file system, or a directory that becomes a CD. An image is made beside its
//! place and moved there when it is whole; a device gets such an image, see [`device`].

pub mod device;
mod fat;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use systemimager_core::contract::BootloaderPlan;
use systemimager_core::{Action, Arg, BootEntry, BootPlan, BootTarget, BytePath, Host, NodeName, Registry, Step};

use super::{AUTOINSTALL, INITRD, KERNEL, entry, local_disk, plan_by_first};
use crate::sys::{Cmd, Tool};
use crate::tree::{self, Inside};

/// A file on the root of each medium: its mark, which its boot entries name too (`si.medium`).
pub const MEDIUM_ID: &str = "medium.id";
/// What a medium says of the machine that it is put into.
pub const LOCAL_CFG: &str = "local.cfg";
/// The node that is all of a medium.
const NODE: &str = "medium";
/// The FAT image in a CD.
const EFI_IMAGE: &str = "efi.img";

/// Which kind of medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A USB stick.
    Usb,
    /// A CD, which is a stick too.
    Cd,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Usb => "usb",
            Kind::Cd => "cd",
        }
    }
}

/// What a medium is to hold.
#[derive(Debug, Clone)]
pub struct Medium {
    /// Its kind.
    pub kind: Kind,
    /// Its mark, letters and digits.
    pub id: String,
    /// Where the image server is; without it a machine asks its local.cfg, else the DHCP server.
    pub server: Option<String>,
    /// The image server's HTTP port.
    pub http_port: u16,
    /// More words for the miniature system's kernel.
    pub append: String,
    /// The kernel.
    pub kernel: PathBuf,
    /// The initrd.
    pub initrd: PathBuf,
    /// The local.cfg on its root, if it is to have one.
    pub local_cfg: Option<Vec<u8>>,
}

impl Medium {
    /// A mark that no other medium has.
    pub fn new_id() -> String {
        uuid::Uuid::new_v4().simple().to_string()
    }

    /// What its menu has.
    pub fn entries(&self) -> Vec<BootEntry> {
        let mut words = vec![format!("si.medium={}", self.id)];
        words.extend(self.server.as_ref().map(|server| format!("si.server={server}")));
        words.push(format!("si.port={}", self.http_port));
        vec![entry(words, &self.append), local_disk()]
    }

    /// How it is made to boot: by the first boot loader plugin that serves media of this kind.
    ///
    /// # Errors
    /// None does, or the one that does fails.
    pub fn plan(&self, registry: &Registry, host: &dyn Host) -> Result<BootPlan> {
        let request = BootloaderPlan {
            entries: self.entries(),
            default: Some(AUTOINSTALL.into()),
            ..BootloaderPlan::new(BootTarget::Media { kind: self.kind.as_str().into() })
        };
        plan_by_first(registry, host, &request, &format!("{} media", self.kind.as_str()))
    }

    /// Makes the image of it at `output`, which appears there when it is whole: at least `size` bytes, more if it must be.
    /// Its length, bytes.
    ///
    /// # Errors
    /// `size` is too small (says how large it must be); a file cannot be read or written; a program fails. What was at
    /// `output` stays then.
    pub fn make(&self, plan: &BootPlan, output: &Path, size: Option<u64>) -> Result<u64> {
        let place = output.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let work = tempfile::Builder::new()
            .prefix(".systemimager-medium-")
            .tempdir_in(place)
            .with_context(|| format!("making a directory in {}", place.display()))?;
        let image = work.path().join("image");
        let root = work.path().join("root");
        let bytes = self.lay_out(plan, &root)?;
        match self.kind {
            Kind::Usb => fat::stick(&root, bytes, size, &image)?,
            Kind::Cd => fat::image(&root, bytes, &root.join(EFI_IMAGE))?,
        }
        for step in &plan.steps {
            if let Action::Run { argv, stdin } = &step.action {
                run(argv, stdin.as_deref(), &root, &image).with_context(|| step.what.clone())?;
            }
        }
        let kind = self.kind.as_str();
        let file = std::fs::File::open(&image)
            .with_context(|| format!("the plan for {kind} media made no image; report it to the plugin's author"))?;
        let length = file.metadata().context("the size of the image")?.len();
        file.sync_all().with_context(|| format!("writing {}", output.display()))?;
        std::fs::rename(&image, output).with_context(|| format!("putting {}", output.display()))?;
        Ok(length)
    }

    /// The files of the medium below `root`; their bytes.
    fn lay_out(&self, plan: &BootPlan, root: &Path) -> Result<u64> {
        std::fs::create_dir(root).with_context(|| format!("making {}", root.display()))?;
        for (from, name) in [(&self.kernel, KERNEL), (&self.initrd, INITRD)] {
            std::fs::copy(from, root.join(name)).with_context(|| format!("copying {}", from.display()))?;
        }
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(root.join(name), bytes).with_context(|| format!("writing {name} for the medium"))
        };
        write(MEDIUM_ID, format!("{}\n", self.id).as_bytes())?;
        if let Some(bytes) = &self.local_cfg {
            write(LOCAL_CFG, bytes)?;
        }
        let inside = Inside::open(root)?;
        for Step { action, what, .. } in &plan.steps {
            if !tree::apply(&inside, action).with_context(|| what.clone())? && !matches!(action, Action::Run { .. }) {
                bail!(
                    "{what}: the plan of a medium may only write files and run programs; report it to the plugin's author"
                );
            }
        }
        let mut bytes = 0;
        for entry in walkdir::WalkDir::new(root) {
            bytes += entry.context("measuring the medium's files")?.metadata().map_or(0, |it| it.len());
        }
        Ok(bytes)
    }
}

/// Runs a step's program: the node is the image, the target is the directory with the files.
fn run(argv: &[Arg], stdin: Option<&str>, root: &Path, image: &Path) -> Result<()> {
    let node = |node: &NodeName| match node.as_str() {
        NODE => Ok(image),
        other => bail!("a medium has no node {other}; report it to the plugin's author"),
    };
    let words = argv.iter().map(|arg| {
        Ok(match arg {
            Arg::Text(text) => text.as_os_str().to_owned(),
            Arg::Device(name) => node(name)?.into(),
            Arg::PrefixedDevice(prefix, name) => {
                let mut word = OsString::from(prefix);
                word.push(node(name)?);
                word
            }
            Arg::Target(path) => PathBuf::from(BytePath::from(root).join(path.as_bytes())).into(),
        })
    });
    let words = words.collect::<Result<Vec<OsString>>>()?;
    let mut command = Cmd::argv(words)?;
    if let Some(text) = stdin {
        command = command.stdin_bytes(text);
    }
    Ok(command.run()?)
}

/// Programs that media are made with, besides those that a boot loader plugin runs.
pub const TOOLS: [Tool; 6] = [Tool::Sfdisk, Tool::MkfsVfat, Tool::Mcopy, Tool::Syslinux, Tool::Xorriso, Tool::Dd];

#[cfg(test)]
mod tests;
