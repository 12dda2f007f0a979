//! Which mounts of a machine belong to a capture, which are left out and why, and which forbid it.
//! Pure: the mount table comes in, a decision goes out.
//!
//! A file system on a disk is never left out in silence: no plugin for its type is an error.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::sys::mountinfo::MountInfo;

/// What a file system lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// A disk that stays.
    Disk,
    /// A disk that can be taken out.
    Removable,
    /// A file, through a loop device.
    Loop,
    /// Memory.
    Memory,
}

/// A mount that is captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The directory on the running machine whose file system is taken.
    pub at: PathBuf,
    /// The same, from the top of the capture (empty: the top).
    pub inside: PathBuf,
    /// The mount.
    pub mount: MountInfo,
}

/// A mount that is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Where.
    pub at: PathBuf,
    /// Type.
    pub fstype: String,
    /// Why.
    pub why: String,
}

/// The decision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// In the order in which they are to be bound: parents first.
    pub taken: Vec<Taken>,
    /// The rest, in the order of the table.
    pub left_out: Vec<LeftOut>,
}

/// What the decision is made from.
pub struct Question<'a> {
    /// The mount table.
    pub mounts: &'a [MountInfo],
    /// The directory to capture: absolute, without links.
    pub source: &'a Path,
    /// File system types that plugins serve.
    pub served: &'a BTreeSet<String>,
    /// What a mount lies on.
    pub backing: &'a dyn Fn(&MountInfo) -> Backing,
}

const PSEUDO: &[&str] = &[
    "autofs",
    "binder",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "cpuset",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "functionfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "pipefs",
    "proc",
    "pstore",
    "ramfs",
    "resctrl",
    "rootfs",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "sockfs",
    "spufs",
    "sysfs",
    "tmpfs",
    "tracefs",
    "xenfs",
];
const NETWORK: &[&str] = &[
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "davfs",
    "gfs",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "pvfs2",
    "smb3",
    "smbfs",
    "virtiofs",
];
const LAYERED: &[&str] = &["aufs", "cramfs", "erofs", "iso9660", "overlay", "overlayfs", "romfs", "squashfs", "udf"];

/// What sort of file system a type is; `None`: one that lies on a disk.
fn not_on_a_disk(fstype: &str) -> Option<&'static str> {
    if PSEUDO.contains(&fstype) {
        return Some("made by the kernel anew at each boot");
    }
    if NETWORK.contains(&fstype) {
        return Some("a network file system");
    }
    if LAYERED.contains(&fstype) {
        return Some("a read-only or layered file system");
    }
    if fstype == "fuse" || fstype.starts_with("fuse.") {
        return Some("made by a program (FUSE)");
    }
    None
}

/// Decides.
///
/// # Errors
/// All mounts that forbid the capture, each with what to do.
pub fn decide(question: &Question<'_>) -> Result<Table, Vec<String>> {
    let visible: Vec<&MountInfo> = question.mounts.iter().filter(|mount| is_visible(mount, question.mounts)).collect();
    let mut table = Table::default();
    let mut errors = Vec::new();
    let Some(base) = lookup(question.source, question.mounts) else {
        return Err(vec![format!("{} is on no mounted file system", question.source.display())]);
    };
    match admit_base(base, question) {
        Ok(()) => {
            table.taken.push(Taken { at: question.source.to_path_buf(), inside: PathBuf::new(), mount: base.clone() })
        }
        Err(why) => errors.push(why),
    }
    let mut below: Vec<&MountInfo> = visible
        .iter()
        .copied()
        .filter(|mount| mount.mount_point != question.source && mount.mount_point.starts_with(question.source))
        .collect();
    // Parents first; a stable sort keeps the table's order among equals.
    below.sort_by_key(|mount| mount.mount_point.components().count());
    for mount in below {
        match admit(mount, question, &table, &visible) {
            Ok(None) => table.taken.push(Taken {
                at: mount.mount_point.clone(),
                inside: mount.mount_point.strip_prefix(question.source).unwrap_or(&mount.mount_point).to_path_buf(),
                mount: mount.clone(),
            }),
            Ok(Some(why)) => {
                table.left_out.push(LeftOut { at: mount.mount_point.clone(), fstype: mount.fstype.clone(), why })
            }
            Err(why) => errors.push(why),
        }
    }
    if errors.is_empty() { Ok(table) } else { Err(errors) }
}

/// The file system that the source itself is on. A directory that was named may lie anywhere; a whole
/// machine must lie on a disk.
fn admit_base(base: &MountInfo, question: &Question<'_>) -> Result<(), String> {
    let whole = question.source == Path::new("/");
    match not_on_a_disk(&base.fstype) {
        Some(why) if whole => Err(format!(
            "/ is {}, {why}: this machine has no root file system of its own that could be installed elsewhere; \
             capture a tree with --source DIR instead",
            base.fstype
        )),
        Some(_) => Ok(()),
        None if whole && (question.backing)(base) == Backing::Loop => Err(format!(
            "/ is {} on a loop device; capture the machine that the file belongs to, or a tree with --source DIR",
            base.fstype
        )),
        None => served(base, question),
    }
}

fn served(mount: &MountInfo, question: &Question<'_>) -> Result<(), String> {
    if question.served.contains(&mount.fstype) {
        return Ok(());
    }
    let have: Vec<&str> = question.served.iter().map(String::as_str).collect();
    Err(format!(
        "{} is {} on {}, and no file system plugin serves {} (served: {}); install a plugin that does, or unmount it \
         if it is not to be captured",
        mount.mount_point.display(),
        mount.fstype,
        mount.source.display(),
        mount.fstype,
        if have.is_empty() { "none".to_owned() } else { have.join(", ") }
    ))
}

/// `Ok(Some(why))`: left out.
fn admit(
    mount: &MountInfo,
    question: &Question<'_>,
    table: &Table,
    visible: &[&MountInfo],
) -> Result<Option<String>, String> {
    if let Some(above) = table.left_out.iter().find(|above| mount.mount_point.starts_with(&above.at)) {
        return Ok(Some(format!("below {}, which is left out", above.at.display())));
    }
    if let Some(why) = not_on_a_disk(&mount.fstype) {
        return Ok(Some(why.to_owned()));
    }
    match (question.backing)(mount) {
        Backing::Removable => return Ok(Some("on a removable disk".to_owned())),
        Backing::Loop => return Ok(Some("on a loop device".to_owned())),
        Backing::Memory => return Ok(Some("in memory".to_owned())),
        Backing::Disk => {}
    }
    // The same files a second time.
    let same = |other: &MountInfo| other.device == mount.device && other.fstype == mount.fstype;
    let again = |taken: &&Taken| same(&taken.mount) && mount.root.starts_with(root_of(taken));
    if let Some(first) = table.taken.iter().find(again) {
        return Ok(Some(format!("a part of the file system at {}, which is captured there", first.at.display())));
    }
    // A tree has no layout to be wrong: files that are bound into it are part of it.
    let whole_machine = question.source == Path::new("/");
    if whole_machine && mount.root != Path::new("/") && mount.fstype != "btrfs" {
        let whole = visible.iter().find(|other| same(other) && other.root == Path::new("/"));
        return Err(match whole {
            Some(whole) => format!(
                "{} is the directory {} of the file system at {}, which is not part of the capture; capture from there, \
                 or unmount it",
                mount.mount_point.display(),
                mount.root.display(),
                whole.mount_point.display()
            ),
            None => format!(
                "{} is only the directory {} of the file system on {}; mount that file system as a whole too, or \
                 unmount this",
                mount.mount_point.display(),
                mount.root.display(),
                mount.source.display()
            ),
        });
    }
    served(mount, question).map(|()| None)
}

/// Which directory of its file system is taken: the mount's, or what of it lies below the source.
fn root_of(taken: &Taken) -> PathBuf {
    match taken.at.strip_prefix(&taken.mount.mount_point) {
        Ok(below) if !below.as_os_str().is_empty() => taken.mount.root.join(below),
        _ => taken.mount.root.clone(),
    }
}

/// A path can lead to it: nothing is mounted over it, or over a directory on the way.
fn is_visible(mount: &MountInfo, mounts: &[MountInfo]) -> bool {
    lookup(&mount.mount_point, mounts).is_some_and(|found| found.id == mount.id)
}

/// The mount that a path leads to, found as the kernel does: from the root, a component at a time,
/// onto whatever is mounted there.
fn lookup<'a>(path: &Path, mounts: &'a [MountInfo]) -> Option<&'a MountInfo> {
    let is_top = |mount: &&MountInfo| {
        mount.mount_point == Path::new("/")
            && !mounts.iter().any(|other| other.id == mount.parent && other.id != mount.id)
    };
    let mut current = mounts.iter().find(is_top)?;
    let mut ancestors: Vec<&Path> = path.ancestors().collect();
    ancestors.reverse();
    for point in ancestors {
        // Several may be stacked on one directory; no more than there are in all.
        for _ in 0..mounts.len() {
            let on =
                |other: &&MountInfo| other.parent == current.id && other.id != current.id && other.mount_point == point;
            match mounts.iter().find(on) {
                Some(next) => current = next,
                None => break,
            }
        }
    }
    Some(current)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mountinfo;

    /// A machine as proc(5) shows it: root, home, boot on one disk; a USB stick; network; a bind.
    const MACHINE: &str = "\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:20 / /proc rw - proc proc rw
23 21 0:21 / /sys rw - sysfs sysfs rw
24 23 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
25 21 0:5 / /dev rw - devtmpfs udev rw
26 21 0:23 / /run rw - tmpfs tmpfs rw
27 21 8:2 / /boot rw - ext2 /dev/sda2 rw
28 21 8:3 / /home rw - ext4 /dev/sda3 rw
29 28 8:1 /srv/x /home/x rw - ext4 /dev/sda1 rw
30 21 0:40 / /net rw - nfs4 server:/e rw
31 26 8:17 / /run/media/stick rw - ext4 /dev/sdb1 rw
32 21 8:33 / /mnt rw - ext4 /dev/sdc1 rw
33 21 7:0 / /snap rw - squashfs /dev/loop0 ro
34 21 7:1 / /loop rw - ext4 /dev/loop1 rw
";

    fn ask(table: &str, source: &str, served: &[&str]) -> Result<Table, Vec<String>> {
        let mounts = mountinfo::parse(table.as_bytes()).unwrap();
        let served = served.iter().map(|name| (*name).to_owned()).collect();
        let backing = |mount: &MountInfo| match mount.device {
            (7, _) => Backing::Loop,
            (8, 17 | 33) => Backing::Removable,
            _ => Backing::Disk,
        };
        decide(&Question { mounts: &mounts, source: Path::new(source), served: &served, backing: &backing })
    }

    #[test]
    fn a_whole_machine() {
        let table = ask(MACHINE, "/", &["ext2", "ext4"]).unwrap();
        let taken: Vec<_> = table.taken.iter().map(|it| it.at.to_str().unwrap()).collect();
        assert_eq!(taken, ["/", "/boot", "/home"]);
        let why = |at: &str| table.left_out.iter().find(|it| it.at == Path::new(at)).unwrap().why.as_str();
        for (at, says) in [
            ("/proc", "made by the kernel anew at each boot"),
            ("/sys/fs/cgroup", "below /sys, which is left out"),
            ("/run/media/stick", "below /run, which is left out"),
            ("/net", "a network file system"),
            ("/mnt", "on a removable disk"),
            ("/snap", "a read-only or layered file system"),
            ("/loop", "on a loop device"),
            ("/home/x", "a part of the file system at /, which is captured there"),
        ] {
            assert_eq!(why(at), says, "{at}");
        }
        assert_eq!(table.taken.len() + table.left_out.len(), 14);
    }

    #[test]
    fn a_directory() {
        let table = ask(MACHINE, "/home", &["ext4"]).unwrap();
        let taken: Vec<_> = table.taken.iter().map(|it| it.inside.to_str().unwrap()).collect();
        assert_eq!(taken, ["", "x"], "what is bound into a tree is part of it");
        let table = ask(MACHINE, "/var/lib/tree", &["ext4"]).unwrap();
        assert_eq!((table.taken[0].at.to_str(), table.taken[0].mount.id), (Some("/var/lib/tree"), 21));
        assert_eq!(table.left_out, vec![]);
        assert!(ask(MACHINE, "/run/tree", &[]).is_ok(), "a tree in memory may be named");
        // Bound into the tree from elsewhere on the same file system; and from the tree itself.
        for (root, left_out) in [("/elsewhere", 0), ("/srv/tree/a", 1)] {
            let table = format!("{MACHINE}50 21 8:1 {root} /srv/tree/bound rw - ext4 /dev/sda1 rw\n");
            let table = ask(&table, "/srv/tree", &["ext4"]).unwrap();
            assert_eq!((table.taken.len(), table.left_out.len()), (2 - left_out, left_out), "{root}");
        }
    }

    #[test]
    fn what_forbids_a_capture() {
        let rows: &[(&str, String, &str, &[&str], &str)] = &[
            (
                "no plugin",
                MACHINE.replace("/home rw - ext4", "/home rw - xfs"),
                "/",
                &["ext2", "ext4"],
                "/home is xfs on /dev/sda3, and no file system plugin serves xfs (served: ext2, ext4); install",
            ),
            ("no plugin at all", MACHINE.into(), "/home", &[], "no file system plugin serves ext4 (served: none)"),
            (
                "root in memory",
                MACHINE.replace("/ / rw,relatime shared:1 - ext4", "/ / rw - overlay"),
                "/",
                &["ext2", "ext4"],
                "/ is overlay, a read-only or layered file system: this machine has no root",
            ),
            (
                "a part of a file system that is nowhere whole",
                MACHINE.replace("28 21 8:3 / /home", "28 21 8:3 /users /home"),
                "/",
                &["ext2", "ext4"],
                "/home is only the directory /users of the file system on /dev/sda3; mount that",
            ),
        ];
        for (name, table, source, served, says) in rows {
            let errors = ask(table, source, served).unwrap_err().join("\n");
            assert!(errors.contains(says), "{name}: {errors}");
        }
    }

    #[test]
    fn hidden_mounts_do_not_count() {
        // xfs at /home is hidden by what is mounted over it; so is one below a hidden one.
        let table = format!(
            "{}{}",
            MACHINE.replace("/home rw - ext4", "/home rw - xfs"),
            "40 28 8:4 / /home/deep rw - xfs /dev/sda4 rw\n41 28 8:5 / /home rw - ext4 /dev/sda5 rw\n"
        );
        let table = ask(&table, "/", &["ext2", "ext4"]).unwrap();
        let taken: Vec<_> = table.taken.iter().map(|it| (it.at.to_str().unwrap(), it.mount.id)).collect();
        assert_eq!(taken, [("/", 21), ("/boot", 27), ("/home", 41)]);
    }
}
