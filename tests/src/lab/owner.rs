//! Whose a namespace, mount or loop device is, so that what a killed test left can be removed.
//!
//! The name of the owner is its process id and the time at which that process started, which
//! together are never used twice. Nothing that belongs to a living process may be touched.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result};

use super::run;

/// Where the lab keeps account of what it has mounted and attached.
const ACCOUNT: &str = "/run/systemimager-lab";

/// When a process started, in clock ticks since boot; nothing if there is no such process.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name, which may hold blanks and brackets.
    let after_name = &stat[stat.rfind(')')? + 1..];
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?;
    (state != "Z").then(|| fields.nth(18)?.parse().ok()).flatten()
}

/// This process as an owner: `PID-START`.
pub fn me() -> &'static str {
    static ME: OnceLock<String> = OnceLock::new();
    ME.get_or_init(|| {
        let pid = std::process::id();
        format!("{pid}-{}", start_time(pid).unwrap_or(0))
    })
}

/// Whether the owner of that name still lives. What is no owner's name counts as alive.
pub fn is_alive(owner: &str) -> bool {
    let Some((pid, start)) = owner.split_once('-') else { return true };
    let (Ok(pid), Ok(start)) = (pid.parse::<u32>(), start.parse::<u64>()) else { return true };
    start_time(pid) == Some(start)
}

/// The directory of this process's account; made if need be.
pub fn account() -> Result<PathBuf> {
    let directory = Path::new(ACCOUNT).join(me());
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("making {}; the lab needs root", directory.display()))?;
    Ok(directory)
}

/// Removes the mounts and loop devices of processes that are gone. Called once per process by
/// whatever makes new ones.
pub fn reclaim_disks() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        for directory in std::fs::read_dir(ACCOUNT).into_iter().flatten().flatten() {
            if is_alive(&directory.file_name().to_string_lossy()) {
                continue;
            }
            if let Err(error) = reclaim_account(&directory.path()) {
                eprintln!("lab: the remains of a killed test stay: {error:#}");
            }
        }
    });
}

/// The mounts below `directory`, innermost first.
pub fn mounts_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    // The lab chooses the names of its mount points, so that none of them needs unescaping.
    let targets = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut below: Vec<PathBuf> = targets.filter(|target| target.starts_with(directory)).collect();
    below.reverse();
    Ok(below)
}

fn reclaim_account(directory: &Path) -> Result<()> {
    for target in mounts_below(directory)? {
        run::run(run::program("umount").arg(&target))?;
    }
    for entry in std::fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(number) = name.strip_prefix("loop-") else { continue };
        // The device may have found another use since: then its file is another one.
        let image = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let backing = std::fs::read_to_string(format!("/sys/block/loop{number}/loop/backing_file")).unwrap_or_default();
        if backing.trim_end().trim_end_matches(" (deleted)") == image {
            detach(&format!("/dev/loop{number}"))?;
        }
    }
    std::fs::remove_dir_all(directory).with_context(|| format!("removing {}", directory.display()))
}

/// Takes away a loop device and its partitions.
pub fn detach(device: &str) -> Result<()> {
    // Without partitions, partx has nothing to take away, and says so.
    let _ = run::output(run::program("partx").args(["-d", device]))?;
    run::run(run::program("losetup").args(["-d", device])).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_living_and_the_dead_are_told_apart() {
        assert!(is_alive(me()));
        let (pid, start) = me().split_once('-').unwrap();
        let another: u64 = start.parse::<u64>().unwrap() + 1;
        assert!(!is_alive(&format!("{pid}-{another}")), "the process id was used again");
        assert!(is_alive("not-an-owner"));
        let mut child = run::program("true").spawn().unwrap();
        let owner = format!("{}-{}", child.id(), start_time(child.id()).unwrap_or(1));
        child.wait().unwrap();
        assert!(!is_alive(&owner));
    }
}
