//! What the machine must have: installed with apt-get on Debian 12 when root asks for it, listed elsewhere.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::run;

/// A file that shows that a package is there, and the package.
pub type Needed = (&'static str, &'static str);

/// To build, and to be an image server.
pub const BUILD: &[Needed] = &[
    ("/usr/bin/cc", "gcc"),
    ("/usr/lib/x86_64-linux-gnu/libc.a", "libc6-dev"),
    // For libssh2, which comes as source.
    ("/usr/bin/pkg-config", "pkg-config"),
    ("/usr/lib/x86_64-linux-gnu/libssl.a", "libssl-dev"),
    ("/usr/lib/x86_64-linux-gnu/libz.a", "zlib1g-dev"),
];

/// To run an image server here and to test it without virtual machines.
pub const SERVE: &[Needed] = &[
    ("/usr/bin/rsync", "rsync"),
    // For the transport ssh. Where systemd runs, its package starts the system's own sshd too.
    ("/usr/sbin/sshd", "openssh-server"),
    ("/usr/sbin/dnsmasq", "dnsmasq-base"),
    ("/usr/lib/PXELINUX/lpxelinux.0", "pxelinux"),
    ("/usr/lib/syslinux/modules/bios/ldlinux.c32", "syslinux-common"),
    ("/usr/sbin/mke2fs", "e2fsprogs"),
    ("/usr/sbin/mkfs.vfat", "dosfstools"),
    ("/usr/sbin/mkreiserfs", "reiserfsprogs"),
    ("/usr/sbin/sfdisk", "fdisk"),
    ("/usr/bin/busybox", "busybox"),
    ("/usr/sbin/modprobe", "kmod"),
    ("/usr/sbin/ip", "iproute2"),
    ("/usr/bin/zstd", "zstd"),
    ("/usr/bin/xz", "xz-utils"),
    ("/usr/bin/syslinux", "syslinux"),
    ("/usr/lib/SYSLINUX.EFI/efi64/syslinux.efi", "syslinux-efi"),
    ("/usr/lib/ISOLINUX/isolinux.bin", "isolinux"),
    ("/usr/lib/grub/x86_64-efi/monolithic/gcdx64.efi", "grub-efi-amd64-bin"),
    ("/usr/bin/xorriso", "xorriso"),
    ("/usr/bin/mcopy", "mtools"),
];

/// A site's own DHCP servers, for the tests that start them. Their packages start nothing that serves: neither has a
/// subnet as it is installed.
pub const SITE: &[Needed] = &[("/usr/sbin/dhcpd", "isc-dhcp-server"), ("/usr/sbin/kea-dhcp4", "kea-dhcp4-server")];

/// For the virtual lab.
pub const LAB: &[Needed] = &[
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/lib/ipxe/qemu/pxe-e1000.rom", "ipxe-qemu"),
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf"),
    ("/usr/bin/mmdebstrap", "mmdebstrap"),
    ("/usr/bin/grub-mkimage", "grub-common"),
    ("/usr/lib/grub/i386-pc/boot.img", "grub-pc-bin"),
    ("/usr/bin/ssh", "openssh-client"),
    ("/usr/bin/setfacl", "acl"),
    ("/usr/bin/setfattr", "attr"),
    ("/usr/sbin/setcap", "libcap2-bin"),
    ("/usr/sbin/nft", "nftables"),
    ("/usr/bin/ping", "iputils-ping"),
    ("/usr/bin/tcpdump", "tcpdump"),
];

/// Sees that all of these are there.
///
/// # Errors
/// Something is missing and cannot be installed here; lists the packages.
pub fn all(needed: &[Needed]) -> Result<()> {
    let missing: Vec<&str> =
        needed.iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let debian12 = release.lines().any(|line| line == "ID=debian")
        && release.lines().any(|line| line.trim_matches('"').starts_with("VERSION_ID=\"12"));
    let root = std::fs::metadata("/proc/self").is_ok_and(|it| std::os::unix::fs::MetadataExt::uid(&it) == 0);
    if !debian12 || !root {
        bail!(
            "missing on this machine: {list} (names of Debian packages); install them, or run this as root on Debian 12"
        );
    }
    println!("installing what is missing: {list}");
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq");
        command
    };
    run(apt().arg("update"))?;
    run(apt().args(["install", "-y", "--no-install-recommends"]).args(&missing))
        .with_context(|| format!("installing {list}"))
}
