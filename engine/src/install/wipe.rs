//! Taking apart what stands on disks, and erasing its signatures: an array that the kernel put together again, or a
//! volume group that is found later, would take the new partitions for its own.
//!
//! From what lies uppermost down to the disk: swap, device-mapper devices and arrays, the partitions' signatures, the
//! disk's. [`begin`] sees everything that can be refused, and writes nothing. Sources: Documentation/admin-guide/md.rst
//! of the kernel (`array_state`), dmsetup(8), wipefs(8).

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::steps::run;
use crate::sys::above::{Above, Made};
use crate::sys::block::{self, BlockDevice, How, Which};
use crate::sys::mountinfo::MountInfo;
use crate::sys::signatures::Mark;
use crate::sys::{Cmd, Tool, mount, signatures, swaps, tool};

/// A disk to be wiped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `/dev/sda`
    pub path: PathBuf,
    /// Its partitions that stay as they are, and so does its table.
    pub keep: Vec<Kept>,
}

/// A partition that stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Number.
    pub number: u32,
    /// Where it starts, bytes.
    pub start: u64,
    /// How long it is, bytes.
    pub size: u64,
}

/// Sees whether these disks can be wiped now, and stops swapping on them. Nothing is written to them.
///
/// # Errors
/// Each reason why not: something of them is mounted, reaches onto other disks, or needs a program that is not there;
/// something that stays is not where the plan has it.
pub fn begin(disks: &[Target], limit: Duration, say: &mut dyn FnMut(String)) -> Result<()> {
    let found = look(disks)?;
    let mounts = mount::table().context("reading the mount table")?;
    let mut reasons = refusals(&found, &mounts, &swaps::table(), &tool::search_dirs());
    reasons.extend(disks.iter().zip(&found).flat_map(|(target, disk)| astray(target, disk)));
    if !reasons.is_empty() {
        bail!("nothing was written: {}", reasons.join("; "));
    }
    for disk in found {
        for used in block::uses(&disk, &[], &swaps::table()).iter().filter(|it| it.how == How::Swap) {
            run(&Cmd::tool(Tool::Swapoff).arg(&used.device).timeout(limit), say)?;
        }
    }
    Ok(())
}

/// Wipes them, after [`begin`].
///
/// # Errors
/// Something is still used, or a disk cannot be written.
pub fn wipe(disks: &[Target], limit: Duration, say: &mut dyn FnMut(String)) -> Result<()> {
    // Each anew: what stood on two disks is gone with the first.
    for target in disks {
        for disk in look(std::slice::from_ref(target))? {
            for upper in &disk.above {
                take_apart(upper, limit, say)?;
            }
        }
    }
    for (target, disk) in disks.iter().zip(look(disks)?) {
        if let Some(upper) = disk.above.first() {
            bail!(
                "/dev/{} still stands on {}, though it was taken apart; did something put it together again?",
                upper.name,
                disk.path.display()
            );
        }
        // Marks of the disk as a whole go one by one where its table has to stay.
        let marks = if target.keep.is_empty() { Vec::new() } else { signatures::marks(&disk.path)? };
        for erasing in erasures(target, &disk, &marks) {
            run(&erasing.timeout(limit), say)?;
        }
    }
    Ok(())
}

/// Sees that what stays is where the plan has it.
///
/// # Errors
/// The kernel does not see it there.
pub fn see_kept(disks: &[Target]) -> Result<()> {
    let with: Vec<Target> = disks.iter().filter(|target| !target.keep.is_empty()).cloned().collect();
    let reasons: Vec<String> = with.iter().zip(look(&with)?).flat_map(|(target, disk)| astray(target, &disk)).collect();
    if reasons.is_empty() { Ok(()) } else { bail!("{}", reasons.join("; ")) }
}

fn is_kept(target: &Target, number: u32) -> bool {
    target.keep.iter().any(|kept| kept.number == number)
}

/// The programs that erase a disk's marks, and none of what stays.
fn erasures(target: &Target, disk: &BlockDevice, marks: &[Mark]) -> Vec<Cmd> {
    let partitions = disk.partitions.iter().filter(|it| !is_kept(target, it.number));
    let mut all: Vec<Cmd> = partitions.map(|it| signatures::erasing(&it.path)).collect();
    if target.keep.is_empty() {
        all.push(signatures::erasing(&disk.path));
        return all;
    }
    let inside =
        |offset: u64| target.keep.iter().any(|it| (it.start..it.start.saturating_add(it.size)).contains(&offset));
    let offsets: Vec<u64> =
        marks.iter().filter(|mark| !mark.is_table() && !inside(mark.offset)).map(|mark| mark.offset).collect();
    if !offsets.is_empty() {
        all.push(signatures::erasing_at(&disk.path, &offsets));
    }
    all
}

/// What is to stay and is not where the plan has it, or has something standing on it.
fn astray(target: &Target, disk: &BlockDevice) -> Vec<String> {
    let mut reasons = Vec::new();
    for kept in &target.keep {
        let there = disk.partitions.iter().find(|it| it.number == kept.number);
        let Some(there) = there.filter(|it| (it.start_bytes, it.size_bytes) == (kept.start, kept.size)) else {
            reasons.push(format!(
                "the partition {} of {}, which is preserved, is not at byte {} with {} bytes; was the disk partitioned \
                 meanwhile?",
                kept.number,
                disk.path.display(),
                kept.start,
                kept.size
            ));
            continue;
        };
        if let Some(upper) = disk.above.iter().find(|upper| upper.on.contains(&there.name)) {
            reasons.push(format!(
                "{} stands on {}, which is preserved; stop it first",
                upper.title,
                there.path.display()
            ));
        }
    }
    reasons
}

/// The disks as they are now, in the same order.
fn look(disks: &[Target]) -> Result<Vec<BlockDevice>> {
    let all = block::list(Path::new("/sys"), Which::All).context("listing disks")?;
    disks
        .iter()
        .map(|target| {
            let disk = all.iter().find(|disk| disk.path == target.path);
            disk.cloned().with_context(|| format!("{} is not there any more", target.path.display()))
        })
        .collect()
}

/// Why disks must not be wiped, or cannot be. `dirs` is where programs are looked for.
fn refusals(disks: &[BlockDevice], mounts: &[MountInfo], swaps: &[u8], dirs: &[PathBuf]) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut lacks = |tool: Tool, what: String| {
        if let Err(error) = tool::find(tool, dirs) {
            reasons.push(format!("{what}, and it cannot be taken off: {error}"));
        }
    };
    for disk in disks {
        for used in block::uses(disk, &[], swaps).iter().filter(|it| it.how == How::Swap) {
            lacks(Tool::Swapoff, used.to_string());
        }
        for upper in disk.above.iter().filter(|it| it.made == Made::Dm) {
            lacks(Tool::Dmsetup, format!("{} stands on {}", upper.title, disk.path.display()));
        }
    }
    let own = |name: &String| {
        disks.iter().any(|disk| disk.name == *name || disk.partitions.iter().any(|part| part.name == *name))
    };
    for disk in disks {
        for used in block::uses(disk, mounts, &[]).iter().filter(|it| matches!(it.how, How::Mounted(_))) {
            reasons.push(format!("{used}; unmount it first"));
        }
        for upper in &disk.above {
            let foreign: Vec<&str> = upper.on.iter().filter(|name| !own(name)).map(String::as_str).collect();
            if !foreign.is_empty() {
                let foreign = foreign.join(" and ");
                reasons.push(format!("{} stands on {} and also on {foreign}", upper.title, disk.path.display()));
            }
            if upper.made == Made::Other {
                reasons.push(format!(
                    "{} stands on {}, and it is nothing that this program can take apart; stop it first",
                    upper.title,
                    disk.path.display()
                ));
            }
        }
    }
    reasons
}

fn take_apart(upper: &Above, limit: Duration, say: &mut dyn FnMut(String)) -> Result<()> {
    match upper.made {
        // With patience: what watches devices may have it open for a moment.
        Made::Dm => run(&Cmd::tool(Tool::Dmsetup).args(["remove", "--retry", &upper.title]).timeout(limit), say),
        Made::Md => {
            say(format!("+ stop the array {}", upper.name));
            let state = upper.dir.join("md/array_state");
            std::fs::write(&state, "clear").with_context(|| format!("stopping the array {}", upper.name))
        }
        Made::Other => bail!("{} cannot be taken apart", upper.title),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::block::Partition;
    use crate::sys::mountinfo;

    fn upper(name: &str, made: Made, on: &[&str]) -> Above {
        Above {
            name: name.into(),
            title: format!("vg-{name}"),
            made,
            dir: PathBuf::from("/absent"),
            size_bytes: 0,
            devices: vec![((253, 0), name.into())],
            on: on.iter().map(|it| (*it).to_owned()).collect(),
        }
    }

    fn disk(name: &str, above: Vec<Above>) -> BlockDevice {
        BlockDevice {
            name: name.into(),
            path: format!("/dev/{name}").into(),
            device: (8, 0),
            partitions: vec![Partition {
                name: format!("{name}1"),
                path: format!("/dev/{name}1").into(),
                device: (8, 1),
                number: 1,
                start_bytes: 0,
                size_bytes: 0,
                holders: vec![],
            }],
            above,
            size_bytes: 0,
            logical_sector_bytes: 512,
            removable: false,
            rotational: false,
            read_only: false,
            model: None,
            serial: None,
            wwn: None,
            bus: block::Bus::Virtual,
            modaliases: vec![],
            drivers: vec![],
            holders: vec![],
            by_path: vec![],
        }
    }

    #[test]
    fn what_cannot_be_wiped_is_refused() {
        let programs = tempfile::tempdir().expect("temporary directory");
        for name in ["dmsetup", "swapoff"] {
            let path = programs.path().join(name);
            std::fs::write(&path, "").expect("written");
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        }
        let (all, none) = ([programs.path().to_path_buf()], []);
        let mounted = |numbers: &str| {
            let line = format!("36 35 {numbers} / /data rw - ext4 /dev/x rw\n");
            mountinfo::parse(line.as_bytes()).expect("parsed")
        };
        let swap = b"Filename\tType\tSize\tUsed\tPriority\n/dev/sda1 partition 1 0 -2\n".as_slice();
        let dm = || upper("dm-0", Made::Dm, &["sda1"]);
        type Row<'a> = (&'a str, Vec<BlockDevice>, Vec<MountInfo>, &'a [u8], &'a [PathBuf], &'a [&'a str]);
        let rows: Vec<Row> = vec![
            ("empty", vec![disk("sda", vec![])], vec![], b"", &none, &[]),
            (
                "an array needs no program",
                vec![disk("sda", vec![upper("md0", Made::Md, &["sda1"])])],
                vec![],
                b"",
                &none,
                &[],
            ),
            ("a volume", vec![disk("sda", vec![dm()])], vec![], b"", &all, &[]),
            ("a volume, no dmsetup", vec![disk("sda", vec![dm()])], vec![], b"", &none, &["package dmsetup"]),
            ("swap", vec![disk("sda", vec![])], vec![], swap, &all, &[]),
            (
                "swap, no swapoff",
                vec![disk("sda", vec![])],
                vec![],
                swap,
                &none,
                &["/dev/sda1 is used as swap, and it"],
            ),
            (
                "mounted",
                vec![disk("sda", vec![])],
                mounted("8:1"),
                b"",
                &all,
                &["/dev/sda1 is mounted on /data; unmount"],
            ),
            ("another is mounted", vec![disk("sda", vec![])], mounted("9:1"), b"", &all, &[]),
            (
                "a volume is mounted",
                vec![disk("sda", vec![dm()])],
                mounted("253:0"),
                b"",
                &all,
                &["/dev/dm-0 is mounted on"],
            ),
            (
                "on another disk too",
                vec![disk("sda", vec![upper("md0", Made::Md, &["sda1", "sdb"])])],
                vec![],
                b"",
                &all,
                &["vg-md0 stands on /dev/sda and also on sdb"],
            ),
            (
                "on both",
                vec![disk("sda", vec![upper("md0", Made::Md, &["sda1", "sdb"])]), disk("sdb", vec![])],
                vec![],
                b"",
                &all,
                &[],
            ),
            (
                "unknown",
                vec![disk("sda", vec![upper("bcache0", Made::Other, &["sda"])])],
                vec![],
                b"",
                &all,
                &["nothing that this program can take apart"],
            ),
        ];
        for (name, disks, mounts, swaps, dirs, expected) in rows {
            let reasons = refusals(&disks, &mounts, swaps, dirs);
            assert_eq!(reasons.len(), expected.len(), "{name}: {reasons:?}");
            for (reason, expected) in reasons.iter().zip(expected) {
                assert!(reason.contains(expected), "{name}: {reason}");
            }
        }
    }

    fn mark(kind: &str, offset: u64) -> Mark {
        Mark { kind: kind.into(), uuid: String::new(), label: String::new(), offset }
    }

    #[test]
    fn what_stays_is_not_erased() {
        let mut sda = disk("sda", vec![]);
        let first = sda.partitions[0].clone();
        sda.partitions = [(1, 1 << 20), (2, 3 << 20), (3, 9 << 20)]
            .map(|(number, start_bytes)| Partition {
                name: format!("sda{number}"),
                path: format!("/dev/sda{number}").into(),
                number,
                start_bytes,
                size_bytes: 2 << 20,
                ..first.clone()
            })
            .to_vec();
        let target = |numbers: &[u32]| Target {
            path: "/dev/sda".into(),
            keep: sda
                .partitions
                .iter()
                .filter(|it| numbers.contains(&it.number))
                .map(|it| Kept { number: it.number, start: it.start_bytes, size: it.size_bytes })
                .collect(),
        };
        let marks = [mark("gpt", 0x200), mark("PMBR", 0x1fe), mark("iso9660", 0x8001), mark("ext4", (3 << 20) + 0x438)];
        let rows: [(&str, &[u32], &[&str]); 3] = [
            (
                "nothing stays",
                &[],
                &[
                    "--all --quiet /dev/sda1",
                    "--all --quiet /dev/sda2",
                    "--all --quiet /dev/sda3",
                    "--all --quiet /dev/sda",
                ],
            ),
            (
                "one stays",
                &[2],
                &["--all --quiet /dev/sda1", "--all --quiet /dev/sda3", "--quiet --offset 32769 /dev/sda"],
            ),
            ("all stay", &[1, 2, 3], &["--quiet --offset 32769 /dev/sda"]),
        ];
        for (name, numbers, expected) in rows {
            let all: Vec<String> = erasures(&target(numbers), &sda, &marks).iter().map(Cmd::describe).collect();
            let words: Vec<&str> = all.iter().map(|it| it.split_once(' ').map_or("", |(_, words)| words)).collect();
            assert_eq!(words, expected, "{name}: {all:?}");
        }
        assert!(erasures(&target(&[1, 2, 3]), &sda, &marks[..2]).is_empty(), "a table stays");

        assert!(astray(&target(&[1, 2]), &sda).is_empty());
        let mut moved = sda.clone();
        moved.partitions[1].start_bytes += 512;
        assert!(astray(&target(&[1]), &moved).is_empty());
        let says = "the partition 2 of /dev/sda, which is preserved, is not at byte 3145728 with 2097152 bytes; was the \
                    disk partitioned meanwhile?";
        assert_eq!(astray(&target(&[1, 2]), &moved), [says]);
        moved.partitions.remove(1);
        assert_eq!(astray(&target(&[2]), &moved), [says]);
        sda.above = vec![upper("dm-0", Made::Dm, &["sda3"])];
        assert!(astray(&target(&[2]), &sda).is_empty());
        assert_eq!(astray(&target(&[3]), &sda), ["vg-dm-0 stands on /dev/sda3, which is preserved; stop it first"]);
    }

    #[test]
    fn an_array_is_stopped_by_its_state() {
        let sys = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir(sys.path().join("md")).expect("mkdir");
        let state = sys.path().join("md/array_state");
        std::fs::write(&state, "clean\n").expect("written");
        let array = Above { dir: sys.path().into(), ..upper("md0", Made::Md, &[]) };
        let mut said = Vec::new();
        take_apart(&array, Duration::from_secs(1), &mut |line| said.push(line)).expect("stopped");
        assert_eq!(std::fs::read_to_string(state).expect("read"), "clear");
        assert_eq!(said, ["+ stop the array md0"]);
        let other = upper("bcache0", Made::Other, &[]);
        assert!(take_apart(&other, Duration::from_secs(1), &mut |_| {}).is_err());
    }
}
