//! Every external program this project runs, named once: what it is for and where it comes from.
//!
//! A missing program is then one instructive message everywhere, and the initrd builder, `check`
//! and the documentation can list them. Plan steps may run any other program by name through
//! [`Program::named`]; such a program has no package to name.
//!
//! Nothing is run here.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::command_error::CommandError;

/// Whether a program of that name is there, where [`Program::find_in`] looks.
#[must_use]
pub fn is_there(name: &str) -> bool {
    Program::named(name).and_then(|program| program.find_in(&search_dirs())).is_ok()
}

/// Where programs are looked for besides `PATH`: root's directories are not on everyone's path.
/// In an installed tree (chroot) this list alone holds.
pub const STANDARD_DIRS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

macro_rules! tools {
    ($($variant:ident $name:literal $package:literal $purpose:literal,)*) => {
        /// A registered external program.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Tool {
            $(#[doc = concat!("`", $name, "`: ", $purpose, " (package ", $package, ").")] $variant,)*
        }

        impl Tool {
            /// All of them.
            pub const ALL: &'static [Tool] = &[$(Tool::$variant,)*];

            /// The program's file name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The Debian package that brings it.
            #[must_use]
            pub fn package(self) -> &'static str {
                match self { $(Self::$variant => $package,)* }
            }

            /// What it is for here, as the rest of "needed to …".
            #[must_use]
            pub fn purpose(self) -> &'static str {
                match self { $(Self::$variant => $purpose,)* }
            }
        }
    };
}

tools! {
    Blkid "blkid" "util-linux" "read the identity of file systems",
    Blockdev "blockdev" "util-linux" "read sizes of block devices",
    Btrfs "btrfs" "btrfs-progs" "read btrfs file systems",
    Busybox "busybox" "busybox-static" "give the initrd a shell",
    Chroot "chroot" "coreutils" "let an administrator enter a target",
    Cp "cp" "coreutils" "copy trees with reflinks",
    Dd "dd" "coreutils" "write boot code",
    Depmod "depmod" "kmod" "index kernel modules",
    Dhcpd "dhcpd" "isc-dhcp-server" "check a configuration of ISC dhcpd",
    Dmsetup "dmsetup" "dmsetup" "take LVM volumes and other mapped devices apart",
    Dnsmasq "dnsmasq" "dnsmasq-base" "serve DHCP and TFTP",
    Dracut "dracut" "dracut-core" "rebuild an initramfs",
    Dumpe2fs "dumpe2fs" "e2fsprogs" "read ext2, ext3 and ext4 file systems",
    E2label "e2label" "e2fsprogs" "label ext2, ext3 and ext4 file systems",
    Findmnt "findmnt" "util-linux" "list mounts",
    Getent "getent" "libc-bin" "look up hosts and users",
    GrubInstall "grub-install" "grub2-common" "write the boot loader",
    GrubMkconfig "grub-mkconfig" "grub2-common" "write the boot menu",
    GrubProbe "grub-probe" "grub-common" "read what GRUB sees of a file system",
    Gzip "gzip" "gzip" "compress",
    Ip "ip" "iproute2" "read and set network interfaces",
    KeaDhcp4 "kea-dhcp4" "kea-dhcp4-server" "check a configuration of Kea",
    Kexec "kexec" "kexec-tools" "start a kernel without the firmware",
    Ldconfig "ldconfig" "libc-bin" "index shared libraries",
    Losetup "losetup" "mount" "make loop devices",
    Lsblk "lsblk" "util-linux" "list block devices",
    Lsinitramfs "lsinitramfs" "initramfs-tools-core" "list an initramfs",
    Mkfs2 "mkfs.ext2" "e2fsprogs" "make ext2 file systems",
    Mkfs3 "mkfs.ext3" "e2fsprogs" "make ext3 file systems",
    Mkfs4 "mkfs.ext4" "e2fsprogs" "make ext4 file systems",
    Mcopy "mcopy" "mtools" "fill FAT file systems of media",
    Mke2fs "mke2fs" "e2fsprogs" "make ext2, ext3 and ext4 file systems",
    MkfsVfat "mkfs.vfat" "dosfstools" "make FAT file systems",
    Mkinitcpio "mkinitcpio" "mkinitcpio" "rebuild an initramfs",
    Mkreiserfs "mkreiserfs" "reiserfsprogs" "make reiserfs file systems",
    Mkswap "mkswap" "util-linux" "make swap areas",
    Modinfo "modinfo" "kmod" "read what a kernel module needs",
    Modprobe "modprobe" "kmod" "load kernel modules",
    Mount "mount" "mount" "let an administrator mount",
    Partprobe "partprobe" "parted" "tell the kernel of new partitions",
    Partx "partx" "util-linux" "tell the kernel of new partitions",
    Rsync "rsync" "rsync" "pull trees",
    Sfdisk "sfdisk" "fdisk" "read and write partition tables",
    Shutdown "shutdown" "systemd-sysv" "restart a machine in order",
    Swaplabel "swaplabel" "util-linux" "read the identity of swap areas",
    Swapoff "swapoff" "mount" "stop using swap areas",
    Syslinux "syslinux" "syslinux" "make sticks boot",
    Sysctl "sysctl" "procps" "set kernel parameters",
    Systemctl "systemctl" "systemd" "enable services",
    Tune2fs "tune2fs" "e2fsprogs" "read ext2, ext3 and ext4 file systems",
    Udevadm "udevadm" "udev" "read device properties",
    Umount "umount" "mount" "let an administrator unmount",
    UpdateGrub "update-grub" "grub2-common" "write the boot menu",
    UpdateInitramfs "update-initramfs" "initramfs-tools" "rebuild an initramfs",
    Wipefs "wipefs" "util-linux" "read and erase signatures",
    XfsDb "xfs_db" "xfsprogs" "read xfs file systems",
    XfsInfo "xfs_info" "xfsprogs" "read xfs file systems",
    Xorriso "xorriso" "xorriso" "make CDs",
    Xz "xz" "xz-utils" "compress",
    Zstd "zstd" "zstd" "compress",
}

impl Tool {
    /// The registered tool of this file name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|tool| tool.name() == name)
    }
}

/// What a command runs: a registered tool, any other name on the search path, or one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// From the registry.
    Tool(Tool),
    /// Any other program, found on the search path.
    Name(String),
    /// This very file, absolute.
    File(PathBuf),
}

impl Program {
    /// From `argv[0]` of a plan step: a bare name or an absolute path.
    ///
    /// # Errors
    /// A name that is empty, begins with `-`, holds NUL, or is a relative path: which program ran
    /// must not hang on the current directory.
    pub fn named(name: impl AsRef<OsStr>) -> Result<Self, CommandError> {
        let name = name.as_ref();
        let bad = |why| CommandError::BadProgram { name: name.to_os_string(), why };
        match name.as_bytes() {
            [] => Err(bad("it is empty")),
            bytes if bytes.contains(&0) => Err(bad("it holds a NUL byte")),
            [b'-', ..] => Err(bad("it begins with a dash")),
            [b'/', ..] => Ok(Self::File(name.into())),
            bytes if bytes.contains(&b'/') => Err(bad("it is a relative path; give a bare name or an absolute path")),
            _ => match name.to_str() {
                Some(text) => Ok(Tool::by_name(text).map_or_else(|| Self::Name(text.into()), Self::Tool)),
                None => Err(bad("it is not UTF-8; give its absolute path")),
            },
        }
    }

    /// How it is called.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        match self {
            Self::Tool(tool) => OsStr::new(tool.name()),
            Self::Name(name) => OsStr::new(name),
            Self::File(path) => path.as_os_str(),
        }
    }

    /// The file to execute, searched in these directories.
    ///
    /// # Errors
    /// [`CommandError::NotFound`], naming the package where it is known.
    pub fn find_in(&self, dirs: &[PathBuf]) -> Result<PathBuf, CommandError> {
        let found = match self {
            Self::File(path) => executable(path).then(|| path.clone()),
            _ => dirs.iter().map(|dir| dir.join(self.name())).find(|path| executable(path)),
        };
        found.ok_or_else(|| CommandError::NotFound { program: self.clone(), dirs: dirs.to_vec() })
    }
}

impl From<Tool> for Program {
    fn from(tool: Tool) -> Self {
        Self::Tool(tool)
    }
}

/// The file of a registered tool, searched in these directories (usually [`search_dirs`]).
///
/// # Errors
/// [`CommandError::NotFound`], naming the package.
pub fn find(tool: Tool, dirs: &[PathBuf]) -> Result<PathBuf, CommandError> {
    Program::Tool(tool).find_in(dirs)
}

/// The directories programs are looked for in: `PATH`, then [`STANDARD_DIRS`].
///
/// Relative and empty entries of `PATH` are dropped: they would mean the current directory.
#[must_use]
pub fn search_dirs() -> Vec<PathBuf> {
    dirs_of(env::var_os("PATH").as_deref())
}

fn dirs_of(path: Option<&OsStr>) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = Vec::new();
    let given = path.map(|p| env::split_paths(p).collect::<Vec<_>>()).unwrap_or_default();
    for dir in given.into_iter().chain(STANDARD_DIRS.map(PathBuf::from)) {
        if dir.is_absolute() && !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    dirs
}

/// The same list as a `PATH` value.
pub(super) fn path_value(dirs: &[PathBuf]) -> OsString {
    let parts: Vec<&[u8]> = dirs.iter().map(|d| d.as_os_str().as_bytes()).collect();
    OsStr::from_bytes(&parts.join(&b':')).to_os_string()
}

fn executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn every_tool_is_found_by_its_own_name_only() {
        for tool in Tool::ALL {
            assert_eq!(Tool::by_name(tool.name()), Some(*tool), "{}", tool.name());
            assert!(!tool.package().is_empty() && !tool.purpose().is_empty(), "{}", tool.name());
        }
        assert_eq!(Tool::by_name("sh"), None);
    }

    #[test]
    fn argv0_is_a_name_or_an_absolute_path() {
        let rows: &[(&str, &str, Result<Program, &str>)] = &[
            ("tool", "rsync", Ok(Program::Tool(Tool::Rsync))),
            ("other", "update-something", Ok(Program::Name("update-something".into()))),
            ("file", "/usr/bin/env", Ok(Program::File("/usr/bin/env".into()))),
            ("empty", "", Err("'' cannot be a program: it is empty")),
            ("dash", "-rf", Err("-rf cannot be a program: it begins with a dash")),
            (
                "relative",
                "bin/sh",
                Err("bin/sh cannot be a program: it is a relative path; give a bare name or an absolute path"),
            ),
            ("dot", "./x", Err("./x cannot be a program: it is a relative path; give a bare name or an absolute path")),
            ("nul", "a\0b", Err("$'a\\u0000b' cannot be a program: it holds a NUL byte")),
        ];
        for (name, input, expected) in rows {
            let got = Program::named(input).map_err(|e| e.to_string());
            assert_eq!(got, expected.clone().map_err(str::to_owned), "{name}");
        }
    }

    #[test]
    fn search_path_keeps_order_and_drops_relative_entries() {
        let dirs = dirs_of(Some(OsStr::new("/opt/x:.::bin:/usr/bin:/opt/x")));
        let shown: Vec<_> = dirs.iter().map(|d| d.display().to_string()).collect();
        assert_eq!(shown, ["/opt/x", "/usr/bin", "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/sbin", "/bin"]);
        assert_eq!(dirs_of(None).len(), STANDARD_DIRS.len());
        assert_eq!(path_value(&dirs[..2]), "/opt/x:/usr/bin");
    }

    #[test]
    fn finding_needs_an_executable_file() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let dirs = [dir.path().to_path_buf()];
        let error = find(Tool::Sfdisk, &dirs).expect_err("absent").to_string();
        assert_eq!(
            error,
            format!(
                "sfdisk, needed to read and write partition tables, was not found in {}; install the package fdisk",
                dir.path().display()
            )
        );
        let file = dir.path().join("sfdisk");
        std::fs::write(&file, "#!/bin/sh\n").expect("write");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("chmod");
        assert!(find(Tool::Sfdisk, &dirs).is_err(), "not executable");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).expect("chmod");
        assert_eq!(find(Tool::Sfdisk, &dirs).expect("found"), file);
        std::fs::create_dir(dir.path().join("rsync")).expect("mkdir");
        assert!(find(Tool::Rsync, &dirs).is_err(), "a directory");
        let error = Program::Name("frob".into()).find_in(&dirs).expect_err("absent").to_string();
        assert!(error.starts_with("frob was not found in ") && error.contains("install it"), "{error}");
    }
}
