//! The master client of the lab: a small Debian, or another distribution, that boots, answers ssh,
//! and has some of everything that a copy has to keep.
//!
//! It is built from `recipe/` with the computer's own package sources (another distribution from its
//! own), once: root file system
//! and disk are kept outside the checkout, under names that hold a hash of all that went into
//! them. A test gets a copy. Nothing here knows what will be done with the machine.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::disk::{self, Loop};
use super::machine::{Boot, Bus, Machine, Model, Running};
use super::netns::{Host, Network};
use super::run;
use super::ssh::Ssh;

/// The master client's own address; its gateway and name server is [`SERVER_ADDRESS`].
pub const ADDRESS: &str = "10.77.0.5";
/// The address that the image server has in the lab, with its prefix.
pub const SERVER_ADDRESS: &str = "10.77.0.1/24";
/// The IPv6 address of the image server; iPXE waits 16 s on a network without one.
pub const SERVER_ADDRESS_6: &str = "fd77::1/64";
/// The master client's network card.
pub const MAC: &str = "52:54:00:77:00:05";
/// The slot of that card: Debian calls it `ens3` then, and so does `/etc/network/interfaces`.
pub const NIC_SLOT: u8 = 3;
/// Size of the master client's disk.
pub const DISK_BYTES: u64 = 2 << 30;

const PACKAGES: &str = include_str!("recipe/packages");
const MODULES: &str = include_str!("recipe/modules");
const EXCLUDE: &str = include_str!("recipe/exclude");
const ESSENTIAL: &str = include_str!("recipe/essential.sh");
const CUSTOMIZE: &str = include_str!("recipe/customize.sh");
const FINISH: &str = include_str!("recipe/finish.sh");
const UBUNTU_PACKAGES: &str = include_str!("recipe/ubuntu-packages");
const UBUNTU: &str = include_str!("recipe/ubuntu.sh");

/// What a master client is an installation of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// Debian 12: ifupdown, plain kernel modules.
    Debian,
    /// Ubuntu 24.04: netplan and systemd-networkd, packed kernel modules, ssh started by its socket.
    Ubuntu,
}

/// What Ubuntu's packages are signed with; mmdebstrap looks for it there.
pub const UBUNTU_KEYS: &str = "/usr/share/keyrings/ubuntu-archive-keyring.gpg";

impl Distribution {
    /// What the names of its files in the cache begin with.
    fn prefix(self) -> &'static str {
        match self {
            Distribution::Debian => "",
            Distribution::Ubuntu => "ubuntu-",
        }
    }

    fn suite(self) -> &'static str {
        match self {
            Distribution::Debian => "bookworm",
            Distribution::Ubuntu => "noble",
        }
    }

    fn packages(self) -> &'static str {
        match self {
            Distribution::Debian => PACKAGES,
            Distribution::Ubuntu => UBUNTU_PACKAGES,
        }
    }

    /// What is run after all packages: what is common, and what a distribution has otherwise than Debian.
    fn customize(self) -> &'static [(&'static str, &'static str)] {
        const ALL: [(&str, &str); 2] = [("customize.sh", CUSTOMIZE), ("ubuntu.sh", UBUNTU)];
        match self {
            Distribution::Debian => &ALL[..1],
            Distribution::Ubuntu => &ALL,
        }
    }
}

/// The partition table of the master client's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// 1: `/boot` (ext2), 2: `/` (ext4), 3: swap.
    Mbr,
    /// 1: BIOS boot partition, 2: `/boot` (ext2), 3: `/` (ext4), 4: swap.
    Gpt,
}

impl Table {
    fn name(self) -> &'static str {
        match self {
            Table::Mbr => "mbr",
            Table::Gpt => "gpt",
        }
    }

    /// Number of the partition with `/boot`.
    pub fn boot(self) -> u32 {
        match self {
            Table::Mbr => 1,
            Table::Gpt => 2,
        }
    }

    /// Number of the partition with `/`.
    pub fn root(self) -> u32 {
        self.boot() + 1
    }

    /// Number of the swap partition.
    pub fn swap(self) -> u32 {
        self.boot() + 2
    }

    /// What sfdisk reads.
    fn script(self) -> &'static str {
        match self {
            Table::Mbr => "label: dos\nstart=2048, size=192M, type=83, bootable\nsize=1664M, type=83\ntype=82\n",
            Table::Gpt => {
                "label: gpt\n\
                 start=2048, size=1M, type=21686148-6449-6E6F-744E-656564454649, name=\"grub\"\n\
                 size=192M, type=L, name=\"boot\"\nsize=1664M, type=L, name=\"root\"\ntype=S, name=\"swap\"\n"
            }
        }
    }
}

/// Where the lab keeps what is expensive: `$SYSTEMIMAGER_CACHE`, or `/var/cache/systemimager-lab`.
pub fn cache_directory() -> Result<PathBuf> {
    let chosen = std::env::var_os("SYSTEMIMAGER_CACHE").filter(|value| !value.is_empty());
    let directory = chosen.map_or_else(|| PathBuf::from("/var/cache/systemimager-lab"), PathBuf::from);
    std::fs::create_dir_all(&directory).with_context(|| {
        format!("making the cache {}; name another directory with SYSTEMIMAGER_CACHE", directory.display())
    })?;
    Ok(directory)
}

/// Gives the file `name` of the cache; if it is not there, `build` makes it, and nobody sees it
/// before it is complete. Two tests at once build it once. It may be a directory.
pub fn cached(name: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let directory = cache_directory()?;
    let path = directory.join(name);
    if path.exists() {
        return Ok(path);
    }
    let lock_path = directory.join(format!(".{name}.lock"));
    let lock = File::create(&lock_path).with_context(|| format!("making {}", lock_path.display()))?;
    lock.lock().with_context(|| format!("locking {}", lock_path.display()))?;
    if path.exists() {
        return Ok(path);
    }
    let place = tempfile::Builder::new().prefix(".building-").tempdir_in(&directory);
    let place = place.with_context(|| format!("making a directory in {}", directory.display()))?;
    let new = place.path().join(name);
    build(&new).with_context(|| format!("building {} for the lab", path.display()))?;
    std::fs::rename(&new, &path).with_context(|| format!("moving the new {} into place", path.display()))?;
    Ok(path)
}

/// The private key that root of the lab's machines accepts; its public half lies beside it.
pub fn ssh_key() -> Result<PathBuf> {
    let public = cached("lab-key.pub", |new| {
        // The private half is put in place first: who sees the public one has both.
        let private = new.with_extension("");
        let words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "systemimager-lab", "-f"];
        run::run(run::command(&words)?.arg(&private))?;
        let place = cache_directory()?.join("lab-key");
        std::fs::rename(&private, &place).with_context(|| format!("moving the key to {}", place.display()))
    })?;
    Ok(public.with_extension(""))
}

/// The first twelve digits of a hash of all the parts.
fn hash(parts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&part.len().to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex()[..12].to_owned()
}

fn recipe_hash(distribution: Distribution) -> Result<String> {
    let key = ssh_key()?.with_extension("pub");
    let key = std::fs::read_to_string(&key).with_context(|| format!("reading {}", key.display()))?;
    let mut parts = vec![distribution.packages(), MODULES, EXCLUDE, ESSENTIAL];
    parts.extend(distribution.customize().iter().map(|(_, text)| *text));
    parts.extend([ROOTFS_VERSION, &key]);
    Ok(hash(&parts))
}

/// To be counted up when [`build_rootfs`] changes what it builds.
const ROOTFS_VERSION: &str = "1";
/// To be counted up when [`build_disk`] changes what it builds.
const DISK_VERSION: &str = "1";

/// The files with the computer's own sources of the suite; none if it has none of it, and then
/// mmdebstrap takes its default.
fn package_sources(suite: &str) -> Vec<PathBuf> {
    let directory = std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    let files = directory.map(|entry| entry.path()).chain([PathBuf::from("/etc/apt/sources.list")]);
    let mut sources: Vec<PathBuf> = files
        .filter(|path| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let lines = || text.lines().filter(|line| !line.trim_start().starts_with('#'));
            let named = lines().any(|line| line.split_whitespace().any(|word| word == suite));
            named
                && lines().any(|line| line.contains("/debian") || line.contains("/ubuntu"))
                && lines().any(|line| line.contains("main"))
        })
        .collect();
    sources.sort();
    sources
}

/// The root file system of the master client as a zstd tar, built if it is not in the cache.
pub fn rootfs_tar(distribution: Distribution) -> Result<PathBuf> {
    let name = format!("{}rootfs-{}.tar.zst", distribution.prefix(), recipe_hash(distribution)?);
    cached(&name, |new| build_rootfs(distribution, new))
}

fn build_rootfs(distribution: Distribution, new: &Path) -> Result<()> {
    let place = new.parent().context("the cache has no directory")?;
    let script = |name: &str, text: &str| -> Result<String> {
        let path = place.join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(format!("sh {} \"$1\"", run::quoted(&path.to_string_lossy())))
    };
    let key = ssh_key()?.with_extension("pub");
    let key = std::fs::read_to_string(&key).with_context(|| format!("reading {}", key.display()))?;
    let root = place.join("root");
    let mut command = run::program("mmdebstrap");
    command.env("LAB_MODULES", MODULES.trim()).env("LAB_KEY", key.trim());
    command.args(["--quiet", "--variant=minbase", "--mode=root", "--format=directory"]);
    command.arg(format!("--include={}", distribution.packages().split_whitespace().collect::<Vec<_>>().join(",")));
    command.args(EXCLUDE.lines().map(|path| format!("--dpkgopt=path-exclude={path}")));
    command.arg("--dpkgopt=force-unsafe-io");
    // mmdebstrap keeps the computer's apt configuration out, and so its proxy.
    let proxies = run::run_argv(&["apt-config", "dump", "Acquire::http::Proxy", "Acquire::https::Proxy"])?;
    command.args(proxies.lines().filter(|line| line.contains("://")).map(|line| format!("--aptopt={line}")));
    command.arg(format!("--essential-hook={}", script("essential.sh", ESSENTIAL)?));
    for (name, text) in distribution.customize() {
        command.arg(format!("--customize-hook={}", script(name, text)?));
    }
    command.arg(distribution.suite()).arg(&root).args(package_sources(distribution.suite()));
    run::run(&mut command)?;
    // mmdebstrap's own tar keeps neither ACLs nor attributes other than capabilities.
    let mut tar = run::program("tar");
    tar.args(["--create", "--format=posix", "--numeric-owner", "--sparse", "--acls", "--xattrs", "--xattrs-include=*"]);
    tar.args(["--use-compress-program=zstd -T0 -3", "--file"]).arg(new).arg("--directory").arg(&root).arg(".");
    run::run(&mut tar).map(drop)
}

/// The disk of the master client as a raw image, bootable by BIOS with GRUB, built if it is not
/// in the cache. Nobody may write to it: take a [copy](disk::copy_raw).
pub fn disk_image(distribution: Distribution, table: Table) -> Result<PathBuf> {
    let hash = hash(&[&recipe_hash(distribution)?, FINISH, DISK_VERSION, table.script()]);
    let name = format!("{}master-{}-{hash}.raw", distribution.prefix(), table.name());
    cached(&name, |new| build_disk(distribution, table, new))
}

/// A kernel and the initial root file system that boots the master client's disk.
fn kernel_of(root: &Path) -> Result<(PathBuf, PathBuf)> {
    let boot = root.join("boot");
    let first = |prefix: &str| {
        let entries = std::fs::read_dir(&boot).with_context(|| format!("reading {}", boot.display()))?;
        let mut found = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
        found.next().map(|entry| entry.path()).with_context(|| format!("no {prefix}* in {}", boot.display()))
    };
    Ok((first("vmlinuz-")?, first("initrd.img-")?))
}

fn build_disk(distribution: Distribution, table: Table, new: &Path) -> Result<()> {
    let place = new.parent().context("the cache has no directory")?;
    disk::make_raw(new, DISK_BYTES)?;
    let script = place.join("table");
    std::fs::write(&script, table.script()).with_context(|| format!("writing {}", script.display()))?;
    run::run(run::program("sfdisk").arg("--quiet").arg(new).stdin(File::open(&script)?))?;

    let attached = Loop::attach(new)?;
    let [boot, root, swap] = [table.boot(), table.root(), table.swap()].map(|number| attached.partition(number));
    run::run_argv(&["mkfs.ext2", "-q", "-L", "boot", &boot])?;
    run::run_argv(&["mkfs.ext4", "-q", "-L", "root", &root])?;
    run::run_argv(&["mkswap", "-q", &swap])?;
    let uuid = |device: &str| -> Result<String> {
        let text = run::run_argv(&["blkid", "-p", "-o", "value", "-s", "UUID", device])?;
        Ok(text.trim().to_owned())
    };
    let (boot, root, swap) = (uuid(&boot)?, uuid(&root)?, uuid(&swap)?);

    let mount = attached.mount(table.root())?;
    let boot_directory = mount.path().join("boot");
    std::fs::create_dir_all(&boot_directory).with_context(|| format!("making {}", boot_directory.display()))?;
    attached.mount_at(table.boot(), &boot_directory)?;
    let mut tar = run::program("tar");
    tar.args(["--extract", "--preserve-permissions", "--numeric-owner", "--acls", "--xattrs", "--xattrs-include=*"]);
    tar.args(["--use-compress-program=zstd", "--file"]).arg(rootfs_tar(distribution)?);
    tar.arg("--directory").arg(mount.path());
    run::run(&mut tar)?;
    let write = |path: &str, text: &str| {
        let path = mount.path().join(path);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    };
    write(
        "etc/fstab",
        &format!(
            "# /etc/fstab: static file system information.\n\
             #\n\
             # <file system> <mount point> <type> <options> <dump> <pass>\n\
             UUID={root} /     ext4 errors=remount-ro 0 1\n\
             UUID={boot} /boot ext2 defaults          0 2\n\
             UUID={swap} none  swap sw                0 0\n"
        ),
    )?;
    write("etc/initramfs-tools/conf.d/resume", &format!("RESUME=UUID={swap}\n"))?;
    write("lab-finish", FINISH)?;
    run::run(run::program("chmod").arg("755").arg(mount.path().join("lab-finish")))?;
    let (kernel, initrd) = kernel_of(mount.path())?;
    for (from, to) in [(&kernel, "kernel"), (&initrd, "initrd")] {
        std::fs::copy(from, place.join(to)).with_context(|| format!("copying {}", from.display()))?;
    }
    mount.close()?;
    drop(attached);

    // grub-install does not work on a loop device; on the machine itself it does what it does anywhere.
    let boot = Boot::Kernel {
        kernel: place.join("kernel"),
        initrd: Some(place.join("initrd")),
        append: format!("root=UUID={root} rw init=/lab-finish console=ttyS0,115200 no_timer_check panic=-1"),
    };
    let mut machine = Machine::new("finish", place).disk(new, Bus::VirtioBlk).boot(boot).exit_on_restart().spawn()?;
    let line = machine.wait_serial("LAB-FINISH", Duration::from_secs(180))?;
    machine.wait_exit(Duration::from_secs(60))?;
    ensure!(line.contains("LAB-FINISHED"), "installing GRUB failed:\n{}", run::tail(&machine.serial(), 40));
    Ok(())
}

/// The running master client.
#[derive(Debug)]
pub struct Master {
    /// The machine.
    pub machine: Running,
    /// A way in, as root, from the host that was named.
    pub ssh: Ssh,
    /// What it said when it was up.
    pub marker: Marker,
    /// Its disk, a raw image.
    pub disk: PathBuf,
}

/// Boots a copy of the master client's disk, on virtio, and waits until it is up and lets `from`
/// in by ssh. Its files go to `directory`.
pub fn boot_master(
    network: &Network,
    from: &Host,
    directory: &Path,
    distribution: Distribution,
    table: Table,
) -> Result<Master> {
    let disk = directory.join("master.raw");
    disk::copy_raw(&disk_image(distribution, table)?, &disk)?;
    let mut machine = Machine::new("master", directory)
        .disk(&disk, Bus::VirtioBlk)
        .nic(&network.tap()?, MAC, Model::VirtioNet)
        .slot(NIC_SLOT)
        .rom(super::machine::Rom::None)
        .spawn()?;
    let marker = Marker::wait(&mut machine, "master", Duration::from_secs(180))?;
    let ssh = Ssh::new(from, ADDRESS, &ssh_key()?);
    ssh.wait(Duration::from_secs(60))?;
    Ok(Master { machine, ssh, marker, disk })
}

impl Master {
    /// Shuts it down in good order and waits until it is off.
    pub fn power_off(&mut self) -> Result<()> {
        self.ssh.power_off()?;
        self.machine.wait_exit(Duration::from_secs(90))
    }
}

/// What the unit `lab-marker` of a machine prints on the serial port when the machine is up:
/// the master client's does, and so does every copy of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The name that the machine has taken.
    pub host: String,
    /// Its IPv4 addresses with their prefixes.
    pub addresses: Vec<String>,
    /// The device that `/` is mounted from.
    pub root_device: String,
    /// The UUID of the file system on it.
    pub root_uuid: String,
    /// The kernel's command line.
    pub command_line: String,
}

impl Marker {
    /// Waits for the marker of the host of that name; one of another host is an error.
    pub fn wait(machine: &mut Running, host: &str, limit: Duration) -> Result<Marker> {
        let marker = Marker::parse(&machine.wait_serial("LAB-MARKER host=", limit)?)?;
        if marker.host != host {
            bail!("the machine came up as {}, not as {host}: {marker:?}", marker.host);
        }
        Ok(marker)
    }

    /// Reads the line.
    pub fn parse(line: &str) -> Result<Marker> {
        let wrong = || format!("{line:?} is no marker of a machine of the lab");
        let text = line.split_once("LAB-MARKER host=").with_context(wrong)?.1;
        let (host, text) = text.split_once(" addr=").with_context(wrong)?;
        let (addresses, text) = text.split_once(" root=").with_context(wrong)?;
        let (root, command_line) = text.split_once(" cmdline=").with_context(wrong)?;
        let (device, uuid) = root.split_once(',').with_context(wrong)?;
        Ok(Marker {
            host: host.to_owned(),
            addresses: addresses.split(',').filter(|address| !address.is_empty()).map(str::to_owned).collect(),
            root_device: device.to_owned(),
            root_uuid: uuid.to_owned(),
            command_line: command_line.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_read_or_refused() {
        let line = "[ 9.0] LAB-MARKER host=www1 addr=10.77.0.11/24,10.0.0.1/8 root=/dev/sda2,1b-2c cmdline=BOOT_IMAGE=/v root=UUID=1b-2c ro";
        let marker = Marker::parse(line).unwrap();
        assert_eq!((marker.host.as_str(), marker.root_device.as_str()), ("www1", "/dev/sda2"));
        assert_eq!(marker.addresses, ["10.77.0.11/24", "10.0.0.1/8"]);
        assert_eq!(
            (marker.root_uuid.as_str(), marker.command_line.as_str()),
            ("1b-2c", "BOOT_IMAGE=/v root=UUID=1b-2c ro")
        );
        let error = Marker::parse("LAB-MARKER host=x").unwrap_err().to_string();
        assert_eq!(error, "\"LAB-MARKER host=x\" is no marker of a machine of the lab");
    }
}
