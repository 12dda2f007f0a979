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
    "autofs", "binder", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "cpuset", "debugfs", "devpts",
    "devtmpfs", "efivarfs", "functionfs", "fusectl", "hugetlbfs", "mqueue", "nsfs", "pipefs", "proc", "pstore",
    "ramfs", "resctrl", "rootfs", "rpc_pipefs", "securityfs", "selinuxfs", "smackfs", "sockfs", "spufs", "sysfs",
    "tmpfs", "tracefs", "xenfs",
];
const NETWORK: &[&str] = &[
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs",
    "nfs", "nfs4", "ocfs2", "orangefs", "pvfs2", "smb3", "smbfs", "virtiofs",
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
    let visible: Vec<&MountInfo> =
        question.mounts.iter().filter(|mount| is_visible(mount, question.mounts)).collect();
    let mut table = Table::default();
    let mut errors = Vec::new();
    let Some(base) = visible
        .iter()
        .filter(|mount| question.source.starts_with(&mount.mount_point))
        .max_by_key(|mount| mount.mount_point.as_os_str().len())
    else {
        return Err(vec![format!("{} is on no mounted file system", question.source.display())]);
    };
    match admit_base(base, question) {
        Ok(()) => table.taken.push(Taken {
            at: question.source.to_path_buf(),
            inside: PathBuf::new(),
            mount: (*base).clone(),
        }),
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
            Ok(Some(why)) => table.left_out.push(LeftOut {
                at: mount.mount_point.clone(),
                fstype: mount.fstype.clone(),
                why,
            }),
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
    // The same files a second time. What the source is on counts as a whole, even where the source is
    // only a part of it: its other parts are not below the source, or are the same directories again.
    let same = |other: &MountInfo| other.device == mount.device && other.fstype == mount.fstype;
    if let Some(first) = table.taken.iter().find(|taken| same(&taken.mount) && mount.root.starts_with(&taken.mount.root))
    {
        return Ok(Some(format!("a part of the file system at {}, which is captured there", first.at.display())));
    }
    if mount.root != Path::new("/") && mount.fstype != "btrfs" {
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

/// A path can lead to it: nothing is mounted over it, or over a directory on the way.
fn is_visible(mount: &MountInfo, mounts: &[MountInfo]) -> bool {
    let covered = |below: &MountInfo| {
        mounts.iter().any(|other| {
            // Mounted on the same file system later, at or above the place where `below` hangs.
            other.id != below.id
                && (other.parent == below.id && other.mount_point == below.mount_point
                    || other.parent == below.parent
                        && other.parent != other.id
                        && other.mount_point != below.mount_point
                        && below.mount_point.starts_with(&other.mount_point)
                        && hangs_on(below, mounts))
        })
    };
    let mut current = mount;
    // Each step goes to a parent: no more steps than mounts, also in a table that is a circle.
    for _ in 0..=mounts.len() {
        let stacked_under_start = |below: &MountInfo| below.id != mount.id && below.mount_point == mount.mount_point;
        if !stacked_under_start(current) && covered_except(current, mount, mounts, &covered) {
            return false;
        }
        match mounts.iter().find(|other| other.id == current.parent && other.id != current.id) {
            Some(parent) => current = parent,
            None => return true,
        }
    }
    false
}

/// `current` is covered by something that is not on the way down to `start`.
fn covered_except(
    current: &MountInfo,
    start: &MountInfo,
    mounts: &[MountInfo],
    covered: &dyn Fn(&MountInfo) -> bool,
) -> bool {
    if current.id == start.id {
        return covered(current);
    }
    // An ancestor may have the next one on the way mounted right on top of it.
    let on_the_way = |other: &MountInfo| {
        let mut step = start;
        for _ in 0..=mounts.len() {
            if step.id == other.id {
                return true;
            }
            match mounts.iter().find(|parent| parent.id == step.parent && parent.id != step.id) {
                Some(parent) => step = parent,
                None => return false,
            }
        }
        false
    };
    mounts.iter().any(|other| {
        other.parent == current.id && other.mount_point == current.mount_point && !on_the_way(other)
    }) || covered(current) && {
        mounts.iter().any(|other| {
            other.parent == current.parent
                && other.id != current.id
                && other.mount_point != current.mount_point
                && current.mount_point.starts_with(&other.mount_point)
                && !on_the_way(other)
        })
    }
}

fn hangs_on(mount: &MountInfo, mounts: &[MountInfo]) -> bool {
    mounts.iter().any(|other| other.id == mount.parent)
}
