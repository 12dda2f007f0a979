//! Builds kernel and initrd of the miniature system: packed, tried, then put in place in one move each.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use systemimager_engine::sys::atomic;

use super::base::{Contents, own_needs, pack_base};
use super::compress::Compression;
use super::firmware::Lacking;
use super::modules::{Asked, Drivers, pack_modules};
use super::tree::Packed;
use super::{cpio, kernel, probe};

/// What to build from.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// The kernel.
    pub kernel: PathBuf,
    /// Its modules directory, `…/lib/modules/RELEASE`.
    pub modules: PathBuf,
    /// Its configuration; without it the initrd is compressed so that every kernel reads it.
    pub config: Option<PathBuf>,
    /// What is packed besides drivers.
    pub contents: Contents,
    /// Kernel modules that are asked for by name.
    pub asked_modules: Vec<Asked>,
}

/// What was built.
#[derive(Debug, Clone, serde::Serialize)]
pub struct BuildReport {
    /// Release of the kernel.
    pub release: String,
    /// How the initrd is compressed.
    pub compression: &'static str,
    /// Bytes of the kernel.
    pub kernel_bytes: u64,
    /// Bytes of the initrd as it is fetched.
    pub initrd_bytes: u64,
    /// Bytes that agent, C library, tools and boot plugins take of it: without the kernel's modules.
    pub userland_bytes: u64,
    /// Kernel modules.
    pub modules: usize,
    /// Firmware that they name, as packed: absolute paths.
    pub firmware: Vec<PathBuf>,
    /// Modules whose firmware is not there.
    pub lacking_firmware: Vec<Lacking>,
    /// Programs that were tried in the packed root; absent: that needs root.
    pub probed: Option<usize>,
    /// Wall time.
    #[serde(serialize_with = "seconds")]
    pub took: Duration,
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

/// Builds and writes `out_kernel` and `out_initrd`, each in one move: who fetches meanwhile gets the old
/// or the new file whole.
///
/// # Errors
/// The modules are another kernel's or not there; something to pack is missing; a packed program does not
/// run. Nothing is written then.
pub fn build(request: &BuildRequest, out_kernel: &Path, out_initrd: &Path) -> Result<BuildReport> {
    let begun = Instant::now();
    let release = kernel::release_of(&request.kernel)?;
    check_modules(&request.kernel, &release, &request.modules)?;
    let config = match &request.config {
        Some(path) => Some(std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?),
        None => None,
    };
    let compression = Compression::for_kernel(config.as_deref());

    let base = pack_base(&request.contents)?;
    let probed = if rustix::process::geteuid().is_root() {
        let mut needs = request.contents.needs.clone();
        needs.push(own_needs());
        Some(probe::probe(&base, &needs)?)
    } else {
        tracing::warn!("the packed programs are not tried: chroot(2) needs root");
        None
    };

    let scratch = tempfile::Builder::new().prefix("systemimager-modules-").tempdir().context("making a directory")?;
    let Drivers { packed: modules, lacking } =
        pack_modules(&request.modules, &release, &request.asked_modules, scratch.path())?;
    let is_firmware = |path: &Path| path.starts_with("/usr/lib/firmware");
    let is_module =
        |path: &Path| !is_firmware(path) && path.file_name().is_some_and(|name| name.to_string_lossy().contains(".ko"));
    let count = modules.entries().filter(|entry| is_module(&entry.path)).count();
    let firmware = modules.entries().map(|entry| entry.path.clone()).filter(|path| is_firmware(path)).collect();
    // Two archives one after the other: the kernel unpacks any number of them (buffer-format.rst), each is
    // compressed by a thread of its own, and the size of the first is known.
    let (base, modules) = std::thread::scope(|scope| {
        let other = scope.spawn(|| archive(&modules, compression));
        let base = archive(&base, compression);
        (base, other.join().unwrap_or_else(|_| Err(anyhow::anyhow!("packing the drivers failed (a bug)"))))
    });
    let mut initrd = base?;
    let userland_bytes = initrd.len() as u64;
    // Each begins at a multiple of 4 bytes; zeros in between are passed over.
    initrd.resize(initrd.len().next_multiple_of(4), 0);
    initrd.extend(modules?);

    let kernel = std::fs::read(&request.kernel).with_context(|| format!("reading {}", request.kernel.display()))?;
    atomic::write(out_initrd, &initrd, 0o644)?;
    atomic::write(out_kernel, &kernel, 0o644)?;
    Ok(BuildReport {
        release,
        compression: compression.name(),
        kernel_bytes: kernel.len() as u64,
        initrd_bytes: initrd.len() as u64,
        userland_bytes,
        modules: count,
        firmware,
        lacking_firmware: lacking,
        probed,
        took: begun.elapsed(),
    })
}

fn archive(tree: &Packed, compression: Compression) -> Result<Vec<u8>> {
    compression.write(Vec::new(), |out: &mut dyn Write| cpio::write(tree, out)).context("packing the initrd")
}

fn check_modules(kernel: &Path, release: &str, modules: &Path) -> Result<()> {
    let named = modules.file_name().is_some_and(|name| name == release);
    if named && modules.is_dir() {
        return Ok(());
    }
    let expected = modules.parent().unwrap_or(modules).join(release);
    bail!(
        "the kernel {} is release {release}, whose modules directory {} {}; install that kernel's modules, \
         or name another kernel with --kernel or another directory with --modules",
        kernel.display(),
        if named { modules.display() } else { expected.display() },
        if named { "is not there".to_owned() } else { format!("is not {}", modules.display()) },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_its_modules_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let lib = dir.path().join("lib/modules");
        std::fs::create_dir_all(lib.join("6.1.0-1-amd64")).expect("mkdir");
        let kernel = Path::new("/boot/vmlinuz");
        assert!(check_modules(kernel, "6.1.0-1-amd64", &lib.join("6.1.0-1-amd64")).is_ok());
        let lib_shown = lib.display();
        for (name, modules, says) in [
            ("absent", "6.1.0-2-amd64", format!("whose modules directory {lib_shown}/6.1.0-2-amd64 is not there;")),
            (
                "another's",
                "6.1.0-1-amd64",
                format!("whose modules directory {lib_shown}/6.1.0-2-amd64 is not {lib_shown}/6.1.0-1-amd64;"),
            ),
        ] {
            let error = check_modules(kernel, "6.1.0-2-amd64", &lib.join(modules)).expect_err(name).to_string();
            assert!(error.starts_with("the kernel /boot/vmlinuz is release 6.1.0-2-amd64, "), "{name}: {error}");
            assert!(error.contains(&says), "{name}: {error}");
        }
    }
}
