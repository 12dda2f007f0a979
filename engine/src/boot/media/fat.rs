//! FAT file systems in files, filled without mounting: a kernel need not know FAT to make a stick.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::sys::{Cmd, Tool};

/// Where the file system of a stick begins, bytes: partitions begin at whole MiB.
pub const AT: u64 = MIB;
const MIB: u64 = 1 << 20;
/// Smallest file system: FAT32 has at least 65525 clusters (Microsoft's FAT specification, 3.5).
const SMALLEST: u64 = 48 * MIB;
/// What the file system itself takes, and room for a local.cfg and what one changes in it.
const ROOM: u64 = 8 * MIB;
/// Volume label, at most 11 capitals.
const LABEL: &str = "SYSIMAGER";

/// How large a stick with files of so many bytes must be, bytes.
pub fn needed(bytes: u64) -> u64 {
    // Tables take 1/128 with the smallest clusters, twice; a file wastes half a cluster.
    let inside = (bytes + bytes / 50 + ROOM).max(SMALLEST);
    AT + inside.next_multiple_of(MIB)
}

/// The image of a stick: a partition table with an active FAT partition that holds all that lies in `root`.
///
/// # Errors
/// `size` is too small; a program fails.
pub fn stick(root: &Path, bytes: u64, size: Option<u64>, image: &Path) -> Result<()> {
    let least = needed(bytes);
    let size = match size {
        Some(size) if size < least => bail!(
            "{} MiB are too small: the medium must have at least {} MiB ({least} bytes)",
            size / MIB,
            least.div_ceil(MIB)
        ),
        Some(size) => size - size % MIB,
        None => least,
    };
    empty(image, size)?;
    let script = format!("label: dos\nunit: sectors\nstart={}, type=c, bootable\n", AT / 512);
    Cmd::tool(Tool::Sfdisk)
        .args(["--quiet", "--no-reread", "--no-tell-kernel", "--wipe", "never"])
        .arg(image)
        .stdin_bytes(script)
        .run()
        .context("writing the partition table of the stick")?;
    let blocks = ((size - AT) / 1024).to_string();
    make(image, &["-F", "32", "--offset", &(AT / 512).to_string()], &blocks)?;
    fill(root, &format!("{}@@{AT}", image.to_str().context("the path of the image is not UTF-8")?))
}

/// A FAT image without a partition table.
///
/// # Errors
/// A program fails.
pub fn image(root: &Path, bytes: u64, image: &Path) -> Result<()> {
    let size = needed(bytes) - AT;
    // Made elsewhere: it must not become a part of itself.
    let beside = image.with_extension("part");
    let beside = root.parent().context("the root has no parent")?.join(beside.file_name().context("no file name")?);
    empty(&beside, size)?;
    make(&beside, &["-F", "32"], &(size / 1024).to_string())?;
    fill(root, beside.to_str().context("the path of the image is not UTF-8")?)?;
    std::fs::rename(&beside, image).context("putting the FAT image into the CD")
}

fn empty(path: &Path, size: u64) -> Result<()> {
    let file = std::fs::File::create_new(path).with_context(|| format!("making {}", path.display()))?;
    file.set_len(size).with_context(|| format!("giving {} {size} bytes", path.display()))
}

fn make(image: &Path, options: &[&str], blocks: &str) -> Result<()> {
    Cmd::tool(Tool::MkfsVfat)
        .args(options)
        .args(["-n", LABEL])
        .arg(image)
        .arg(blocks)
        .run()
        .context("making the FAT file system")
}

fn fill(root: &Path, image: &str) -> Result<()> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root).with_context(|| format!("listing {}", root.display()))? {
        names.push(entry.context("listing the medium's files")?.path());
    }
    names.sort();
    // MTOOLS_SKIP_CHECK: a partition's geometry need not be that of a floppy.
    Cmd::tool(Tool::Mcopy)
        .env("MTOOLS_SKIP_CHECK", "1")
        .env("MTOOLSRC", "/dev/null")
        .args(["-i", image, "-s", "-Q", "-o"])
        .args(&names)
        .arg("::/")
        .run()
        .context("copying the files into the FAT file system")
}
