//! `mkinitrd`: kernel and initrd of the miniature system, one pair for all machines, below the TFTP root.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use systemimager_core::registry::Origin;
use systemimager_core::{Host, ImageName, Kind, Needs, Registry, Role};
use systemimager_engine::facts::image_facts;
use systemimager_engine::host::Secrets;
use systemimager_engine::install;
use systemimager_engine::store::image_store::{ImageStore, Reading};
use systemimager_engine::store::server_keys::ServerKeys;
use systemimager_initrd::pack::{self, Asked, BuildReport, BuildRequest, Contents};

use crate::context::Context;

/// Names below the TFTP root, as boot entries have them.
const KERNEL: &str = "kernel";
const INITRD: &str = "initrd.img";

/// Make the kernel and initrd that bare machines boot
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  systemimager mkinitrd\n  systemimager mkinitrd --image web-v1 --kernel 6.1.0-31-amd64\n  \
                        systemimager mkinitrd --kernel /boot/vmlinuz-6.12.9 --modules /lib/modules/6.12.9"
)]
pub struct MkInitrd {
    /// Take the kernel of this image (the only image there is, unless named)
    #[arg(long, value_name = "NAME")]
    image: Option<ImageName>,
    /// Take this kernel: a release of the image's, or a file of this machine (the image's newest, unless named)
    #[arg(long, value_name = "K")]
    kernel: Option<PathBuf>,
    /// Take the drivers from this directory (…/lib/modules/RELEASE; beside the kernel, unless named)
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
}

impl MkInitrd {
    /// Builds both files and puts them in place.
    pub fn run(self, context: &Context) -> Result<()> {
        let Chosen { kernel, modules, reading } = self.choose(context)?;
        let release = pack::kernel::release_of(&kernel)?;
        let config = kernel.with_file_name(format!("config-{release}"));
        let registry = context.registry()?;
        let host = context.host(Secrets::default());
        let request = BuildRequest {
            config: config.is_file().then_some(config),
            contents: contents(context, registry, &host)?,
            asked_modules: asked_modules(registry, &host)?,
            kernel,
            modules,
        };
        let tftp = context.config.tftp();
        std::fs::create_dir_all(&tftp).with_context(|| format!("making {}", tftp.display()))?;
        let report = pack::build(&request, &tftp.join(KERNEL), &tftp.join(INITRD))?;
        if let Some((image, reading)) = reading
            && ImageStore::new(&context.config).identity(&image)?.as_deref() != Some(reading.identity())
        {
            bail!("the image {image} was replaced while its kernel was packed; run mkinitrd again");
        }
        context.answer(&report)?;
        for line in lines(&report, &tftp) {
            context.say(line);
        }
        Ok(())
    }

    /// The kernel and its modules directory.
    fn choose(&self, context: &Context) -> Result<Chosen> {
        match &self.kernel {
            Some(file) if file.as_os_str().to_string_lossy().contains('/') => {
                let release = pack::kernel::release_of(file)?;
                let modules = self.modules.clone().unwrap_or_else(|| modules_of_file(file, &release));
                Ok(Chosen { kernel: file.clone(), modules, reading: None })
            }
            release => {
                let wanted = release.as_ref().map(|release| release.to_string_lossy().into_owned());
                let mut chosen = kernel_of_image(context, self.image.as_ref(), wanted.as_deref())?;
                chosen.modules = self.modules.clone().unwrap_or(chosen.modules);
                Ok(chosen)
            }
        }
    }
}

/// What is packed, and the tree it is in, which stays until it is.
struct Chosen {
    kernel: PathBuf,
    modules: PathBuf,
    reading: Option<(ImageName, Reading)>,
}

/// Of the places where the modules of a kernel file may be, the first that is there; else the likeliest.
fn modules_of_file(kernel: &Path, release: &str) -> PathBuf {
    let tree = kernel.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    let places = [tree.join("lib/modules"), tree.join("usr/lib/modules"), "/lib/modules".into()];
    let candidates: Vec<PathBuf> = places.iter().map(|place| place.join(release)).collect();
    let [first, ..] = candidates.as_slice() else { return Path::new("/lib/modules").join(release) };
    candidates.iter().find(|dir| dir.is_dir()).unwrap_or(first).clone()
}

fn kernel_of_image(context: &Context, image: Option<&ImageName>, wanted: Option<&str>) -> Result<Chosen> {
    let store = ImageStore::new(&context.config);
    let names = store.names()?;
    let image = match (image, names.as_slice()) {
        (Some(image), _) => image,
        (None, [only]) => only,
        (None, []) => bail!(
            "there is no image in {} whose kernel could be taken; capture one (systemimager getimage), or name a \
             kernel with --kernel FILE and its drivers with --modules DIR",
            store.root().display()
        ),
        (None, several) => {
            let list: Vec<&str> = several.iter().map(ImageName::as_str).collect();
            bail!("there are several images ({}); say with --image whose kernel is to be taken", list.join(", "))
        }
    };
    let reading = store.read(image, "mkinitrd")?;
    let tree = reading.path().to_path_buf();
    let host = context.host(Secrets::default());
    let facts = image_facts(image, &tree, context.registry()?, &host)?;
    let releases: Vec<&str> = facts.kernels.iter().map(|kernel| kernel.release.as_str()).collect();
    let kernel = match wanted {
        None => facts.kernels.first().with_context(|| {
            format!("the image {image} has no kernel in /boot (vmlinuz-RELEASE); name one with --kernel FILE and --modules DIR")
        })?,
        Some(wanted) => facts.kernels.iter().find(|kernel| kernel.release == wanted).with_context(|| {
            format!("the image {image} has no kernel {wanted} (there: {}); name one of those, or a file", releases.join(", "))
        })?,
    };
    let file = inside(&tree, &kernel.path.as_path().to_string_lossy())
        .with_context(|| format!("the kernel {} of the image {image} is a link that leads nowhere", kernel.path))?;
    let modules = ["/lib/modules", "/usr/lib/modules"]
        .iter()
        .find_map(|place| inside(&tree, &format!("{place}/{}", kernel.release)))
        .with_context(|| {
            format!(
                "the kernel {} of the image {image} has no modules directory /lib/modules/{}; capture the image with it, \
                 or name another kernel with --kernel ({})",
                kernel.release,
                kernel.release,
                releases.join(", ")
            )
        })?;
    Ok(Chosen { kernel: file, modules, reading: Some((image.clone(), reading)) })
}

/// A path of an image, if it is there and no link leads it out of the image.
fn inside(tree: &Path, path: &str) -> Option<PathBuf> {
    let tree = tree.canonicalize().ok()?;
    let real = tree.join(path.trim_start_matches('/')).canonicalize().ok()?;
    real.starts_with(&tree).then_some(real)
}

/// What is packed besides drivers: the agent, and the plugins by which a machine finds out who it is. All
/// others are fetched when it is known which image it gets.
fn contents(context: &Context, registry: &Registry, host: &dyn Host) -> Result<Contents> {
    let mut needs = vec![install::needs()];
    for (id, plugin) in registry.identities() {
        needs.push(plugin.needs(host, Role::Installer).with_context(|| format!("what host-identity {id} needs"))?);
    }
    let mut plugins = Vec::new();
    for plugin in registry.all().into_iter().filter(|plugin| plugin.identification.kind == Kind::HostIdentity) {
        match &plugin.origin {
            Origin::File(path) => plugins.push(path.clone()),
            Origin::Linked => bail!(
                "{} is linked into this program and cannot be packed; name the directory of the plugin files with --plugin-dir",
                plugin.name()
            ),
        }
    }
    if plugins.is_empty() {
        bail!(
            "there is no host-identity plugin, without which a machine cannot find out who it is; install one into {}",
            context.config.plugin_dir()?.display()
        );
    }
    Ok(Contents {
        init: context.config.boot_program("systemimager-init")?,
        agent: context.config.boot_program("systemimager-agent")?,
        plugins,
        needs,
        pins: Some(ServerKeys::open(&context.config)?.pins()),
    })
}

/// Kernel modules that plugins of any kind need while installing: the kernel is the same for all images.
fn asked_modules(registry: &Registry, host: &dyn Host) -> Result<Vec<Asked>> {
    let role = Role::Installer;
    let mut all: Vec<(String, systemimager_core::Result<Needs>)> = Vec::new();
    let name = |kind: Kind, id: &str| format!("{kind} {id}");
    all.extend(registry.transports().iter().map(|(id, it)| (name(Kind::Transport, id), it.needs(host, role))));
    all.extend(registry.filesystems().iter().map(|(id, it)| (name(Kind::FileSystem, id), it.needs(host, role))));
    all.extend(registry.partitioners().iter().map(|(id, it)| (name(Kind::Partitioner, id), it.needs(host, role))));
    all.extend(registry.bootloaders().iter().map(|(id, it)| (name(Kind::Bootloader, id), it.needs(host, role))));
    all.extend(registry.identities().iter().map(|(id, it)| (name(Kind::HostIdentity, id), it.needs(host, role))));
    // A machine whose image has such a file system is refused by name, before anything is touched.
    let spared: Vec<String> = registry.filesystems().iter().map(|(id, _)| name(Kind::FileSystem, id)).collect();
    let mut asked = Vec::new();
    for (by, needs) in all {
        let needs = needs.with_context(|| format!("what {by} needs"))?;
        asked.extend(needs.modules.into_iter().map(|module| Asked {
            module,
            by: by.clone(),
            spared: spared.contains(&by),
        }));
    }
    Ok(asked)
}

fn lines(report: &BuildReport, tftp: &Path) -> Vec<String> {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let mut lines = vec![
        format!("{}: kernel {} ({:.1} MiB)", tftp.join(KERNEL).display(), report.release, mib(report.kernel_bytes)),
        format!(
            "{}: {:.1} MiB ({}), of which {} drivers with {} files of firmware take {:.1} and all else {:.1}",
            tftp.join(INITRD).display(),
            mib(report.initrd_bytes),
            report.compression,
            report.modules,
            report.firmware.len(),
            mib(report.initrd_bytes.saturating_sub(report.userland_bytes)),
            mib(report.userland_bytes)
        ),
        match report.probed {
            Some(count) => format!("{count} packed programs were tried; made in {:.1} s", report.took.as_secs_f64()),
            None => {
                format!("packed programs were not tried (that needs root); made in {:.1} s", report.took.as_secs_f64())
            }
        },
    ];
    lines.extend(pack::firmware::note(&report.lacking_firmware));
    lines
}
