//! What on a machine is its own, and stays in an update: what identity and boot loader made there, what is mounted that
//! the image does not hold, and what the lists of image, machine and command line say. Pure.
//!
//! In doubt something stays: what is left alone can be updated later, what was removed is gone.

use std::path::{Path, PathBuf};

use systemimager_core::{BytePath, Layout};

use super::list;
use crate::config::MACHINE_STATE as STATE;
use crate::sys::mountinfo::MountInfo;
use crate::tree::pattern::{contents, is_below, literal};

/// Where an update lays what it is going to move into place, in the root of each file system.
pub const AREA: &str = ".systemimager-update";
/// The machine's list, in its own tree.
pub const MACHINE_LIST: &str = "/etc/systemimager/update.local.exclude";

/// What depends on a machine's disks, and what this program keeps there.
const OF_THE_MACHINE: [&str; 12] = [
    "/etc/fstab",
    "/etc/crypttab",
    "/etc/mtab",
    "/etc/mdadm.conf",
    "/etc/mdadm/mdadm.conf",
    "/etc/multipath/bindings",
    "/etc/multipath/wwids",
    "/etc/lvm/archive/*",
    "/etc/lvm/backup/*",
    "/etc/lvm/devices/*",
    STATE,
    MACHINE_LIST,
];

/// What people and programs keep on a machine, where the image has no list of its own.
pub const BY_DEFAULT: [&str; 9] =
    ["/home/*", "/srv/*", "/mnt/*", "/media/*", "/tmp/*", "/var/tmp/*", "/var/log/*", "/var/mail/*", "/var/spool/*"];

/// File systems of these mount points are part of the system whatever the image's layout says: there the image's
/// files of that name belong.
const OF_THE_SYSTEM: [&str; 4] = ["/boot", "/boot/efi", "/efi", "/usr"];

/// What is decided from.
pub struct Question<'a> {
    /// The tree that is updated: absolute, without links.
    pub target: &'a Path,
    /// The mount table.
    pub mounts: &'a [MountInfo],
    /// What is swapped on, as /proc/swaps lists it; also what is no file.
    pub swaps: &'a [PathBuf],
    /// The image's layout.
    pub layout: &'a Layout,
    /// File system types that plugins serve.
    pub served: &'a [String],
    /// The image's list, and its text.
    pub image_list: Option<(&'a str, &'a [u8])>,
    /// The machine's list, and its text.
    pub machine_list: Option<(&'a str, &'a [u8])>,
    /// Patterns of identity and boot loader plugins.
    pub own: Vec<BytePath>,
    /// Patterns of the command line.
    pub asked: &'a [BytePath],
}

/// The decision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Local {
    /// What stays, as patterns for a pull.
    pub patterns: Vec<BytePath>,
    /// Those of them that hold for overrides too: what the machine's administrator names, what is mounted there, and what this
    /// program keeps. Where an image or its plugins say that something is a machine's own, an override means it all the same.
    pub firm: Vec<BytePath>,
    /// Mount points of the file systems that are updated, from the target's top; `/` first.
    pub areas: Vec<BytePath>,
    /// What an administrator should know.
    pub notes: Vec<String>,
}

/// Decides.
///
/// # Errors
/// All problems at once: lists that are wrong, file systems that cannot be written.
pub fn decide(question: &Question<'_>) -> Result<Local, Vec<String>> {
    let mut problems = Vec::new();
    let mut local = Local { areas: vec!["/".into()], ..Local::default() };
    local.patterns.extend(OF_THE_MACHINE.map(BytePath::from));
    local.firm.extend([STATE, MACHINE_LIST].map(BytePath::from));
    local.patterns.extend(question.own.iter().cloned());
    match question.image_list {
        None => local.patterns.extend(BY_DEFAULT.map(BytePath::from)),
        Some((name, text)) => take(list::parse(name, text), &mut local.patterns, &mut problems),
    }
    if let Some((name, text)) = question.machine_list {
        take(list::parse(name, text), &mut local.firm, &mut problems);
    }
    for pattern in question.asked {
        match list::pattern(pattern.as_bytes()) {
            Ok(pattern) => local.firm.push(pattern),
            Err(why) => problems.push(format!("--exclude {pattern}: {why}")),
        }
    }
    let inside = |path: &Path| -> Option<BytePath> {
        let rest = path.strip_prefix(question.target).ok()?;
        (!rest.as_os_str().is_empty()).then(|| BytePath::from(Path::new("/").join(rest)))
    };
    local.firm.extend(question.swaps.iter().filter_map(|path| inside(path)).map(|path| literal(&path)));
    mounted(question, &inside, &mut local, &mut problems);
    for area in &local.areas {
        for name in ["lost+found", AREA] {
            local.firm.push(literal(&area.join(name)));
        }
    }
    local.patterns.extend(local.firm.iter().cloned());
    local.patterns.sort();
    local.patterns.dedup();
    if problems.is_empty() { Ok(local) } else { Err(problems) }
}

fn take(read: Result<Vec<BytePath>, Vec<String>>, into: &mut Vec<BytePath>, problems: &mut Vec<String>) {
    match read {
        Ok(patterns) => into.extend(patterns),
        Err(wrong) => problems.extend(wrong),
    }
}

/// Which of the mounts in the tree are updated.
fn mounted(
    question: &Question<'_>,
    inside: &dyn Fn(&Path) -> Option<BytePath>,
    local: &mut Local,
    problems: &mut Vec<String>,
) {
    // Of several on one directory the last is seen.
    let mut points: Vec<(BytePath, &MountInfo)> = Vec::new();
    for mount in question.mounts {
        if let Some(at) = inside(&mount.mount_point) {
            points.retain(|(other, _)| *other != at);
            points.push((at, mount));
        }
    }
    points.sort_by(|a, b| a.0.cmp(&b.0));
    let mut left: Vec<BytePath> = Vec::new();
    for (at, mount) in points {
        if left.iter().any(|above| is_below(&at, above)) {
            continue;
        }
        let served = question.served.contains(&mount.fstype);
        let preserved = question.layout.preserved_mounts().iter().any(|it| it.at == at);
        let of_image = question.layout.mounted_at(&at.to_string()).is_some() && !preserved;
        let of_system = OF_THE_SYSTEM.iter().any(|point| at == BytePath::from(*point));
        let whole = mount.root == Path::new("/");
        if served && whole && (of_image || of_system) {
            if [&mount.options, &mount.super_options].iter().any(|options| options.iter().any(|it| it == "ro")) {
                problems.push(format!(
                    "{at} ({}) is mounted read-only; mount it writable (mount -o remount,rw {at}), or leave it out with \
                     --exclude '{}'",
                    mount.fstype,
                    contents(&at)
                ));
            }
            local.areas.push(at);
            continue;
        }
        if served && whole {
            let why = if preserved { "it is preserved" } else { "the image's layout has no file system there" };
            local.notes.push(format!("{at} ({}) is left alone: {why}", mount.fstype));
        }
        local.firm.push(literal(&at));
        left.push(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(at: &str, fstype: &str, options: &str) -> MountInfo {
        let text = format!("36 35 98:0 / {at} {options} - {fstype} /dev/x {options}");
        crate::sys::mountinfo::parse(text.as_bytes()).unwrap().remove(0)
    }

    fn layout(points: &[&str]) -> Layout {
        let node = |index: usize| format!("fs{index}");
        let made = (0..points.len()).map(|it| serde_json::json!({"node": node(it), "on": "disk0", "type": "ext4"}));
        let at = points.iter().enumerate().map(|(it, at)| serde_json::json!({"node": node(it), "at": at}));
        let (made, at): (Vec<_>, Vec<_>) = (made.collect(), at.collect());
        serde_json::from_value(serde_json::json!({ "filesystem": made, "mount": at })).unwrap()
    }

    fn question<'a>(mounts: &'a [MountInfo], layout: &'a Layout, served: &'a [String]) -> Question<'a> {
        Question {
            target: Path::new("/"),
            mounts,
            swaps: &[],
            layout,
            served,
            image_list: None,
            machine_list: None,
            own: Vec::new(),
            asked: &[],
        }
    }

    fn has(local: &Local, pattern: &str) -> bool {
        local.patterns.contains(&BytePath::from(pattern))
    }

    #[test]
    fn mounts_that_the_image_does_not_hold_stay() {
        let served = vec!["ext4".to_owned(), "vfat".to_owned()];
        let mounts = [
            mount("/", "ext4", "rw"),
            mount("/proc", "proc", "rw"),
            mount("/proc/sys/fs/binfmt_misc", "binfmt_misc", "rw"),
            mount("/boot", "ext4", "rw"),
            mount("/boot/efi", "vfat", "rw"),
            mount("/data", "ext4", "rw"),
            mount("/data/deep", "ext4", "rw"),
            mount("/home", "ext4", "rw"),
            mount("/net\\040x", "nfs4", "rw"),
        ];
        let layout = layout(&["/", "/home"]);
        let local = decide(&question(&mounts, &layout, &served)).unwrap();
        let areas: Vec<String> = local.areas.iter().map(ToString::to_string).collect();
        assert_eq!(areas, ["/", "/boot", "/boot/efi", "/home"]);
        for (pattern, there) in [
            ("/proc", true),
            ("/proc/sys/fs/binfmt_misc", false),
            ("/data", true),
            ("/data/deep", false),
            ("/net x", true),
            ("/boot", false),
            ("/boot/lost+found", true),
            ("/boot/.systemimager-update", true),
            ("/home/lost+found", true),
            ("/etc/fstab", true),
            ("/var/log/*", true),
        ] {
            assert_eq!(has(&local, pattern), there, "{pattern}");
        }
        assert_eq!(local.notes, ["/data (ext4) is left alone: the image's layout has no file system there"]);
    }

    #[test]
    fn what_cannot_be_written_is_refused() {
        let served = vec!["ext4".to_owned()];
        let mounts = [mount("/", "ext4", "rw"), mount("/usr", "ext4", "ro")];
        let layout = layout(&["/"]);
        let problems = decide(&question(&mounts, &layout, &served)).unwrap_err();
        assert!(problems[0].starts_with("/usr (ext4) is mounted read-only; mount it writable"), "{problems:?}");
    }

    #[test]
    fn lists() {
        let layout = layout(&["/"]);
        let mut asked = question(&[], &layout, &[]);
        asked.image_list = Some(("the image's list", b"/opt/*\n"));
        asked.machine_list = Some(("update.local.exclude", b"# ours\n/srv/ours\n"));
        asked.own = vec!["/etc/hostname".into()];
        let excluded = ["/x".into()];
        asked.asked = &excluded;
        let swaps = ["/swapfile".into(), "/dev/sda2".into()];
        asked.swaps = &swaps;
        let local = decide(&asked).unwrap();
        for (pattern, there) in [
            ("/opt/*", true),
            ("/srv/ours", true),
            ("/etc/hostname", true),
            ("/x", true),
            ("/swapfile", true),
            ("/home/*", false),
        ] {
            assert_eq!(has(&local, pattern), there, "{pattern}");
        }
        asked.image_list = Some(("the image's list", b"ok\n\n/a/../b\n"));
        let excluded = ["".into()];
        asked.asked = &excluded;
        let problems = decide(&asked).unwrap_err();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("the image's list, line 3: "), "{problems:?}");
    }

    #[test]
    fn another_tree_has_its_own_mounts() {
        let served = vec!["ext4".to_owned()];
        let mounts = [mount("/", "ext4", "rw"), mount("/mnt/new/boot", "ext4", "rw"), mount("/proc", "proc", "rw")];
        let layout = layout(&["/"]);
        let mut asked = question(&mounts, &layout, &served);
        asked.target = Path::new("/mnt/new");
        let local = decide(&asked).unwrap();
        assert_eq!(local.areas, ["/", "/boot"].map(BytePath::from));
        assert!(!has(&local, "/proc"));
    }
}
