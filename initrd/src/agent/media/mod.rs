//! Media: the one that this machine was booted from, and a `local.cfg` on it, on another one or on a disk.
//!
//! Every disk and partition with a file system that a medium may have is mounted read-only for a moment, the removable
//! ones first. What a USB stick is seen by comes late: the ones that the kernel knows to be coming are waited for, with a
//! limit. Nothing is changed on any of them, and nothing stays mounted.

mod choose;
pub(crate) mod volume;

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::OFlags;
use systemimager_engine::boot::media::MEDIUM_ID;
use systemimager_engine::local_cfg::{self, LocalCfg};
use systemimager_engine::sys::block::{self, Bus, Which};
use systemimager_engine::sys::modules;
use systemimager_engine::sys::mount::MountGuard;

use super::console;
use super::drivers::Drivers;
use crate::places;
use choose::{Candidate, Rank};
use volume::Volume;

/// The file's name, on the root of a medium.
const LOCAL_CFG: &str = "local.cfg";
/// How long no device may have appeared before one looks, where there is USB: a hub waits before it tells of a stick.
const QUIET_USB: Duration = Duration::from_secs(1);
/// How long a stick may take from its plug to a disk.
const STICKS: Duration = Duration::from_secs(15);
/// How long the medium that the machine was booted from may take to appear.
const MEDIUM: Duration = Duration::from_secs(20);
/// How long looking at one device may take; a broken one is retried by the kernel for long.
const LOOK: Duration = Duration::from_secs(40);
/// How often is looked whether the medium was taken out: a CD drive tells nobody.
const GONE_EVERY: Duration = Duration::from_secs(2);
/// Most devices that are looked at.
const MOST: usize = 128;

/// What media say.
#[derive(Debug, Default)]
pub struct Media {
    /// The `local.cfg` that counts.
    pub local: Option<Local>,
    /// The device that the machine was booted from, if that is known and it is still there.
    pub booted_from: Option<PathBuf>,
}

/// A `local.cfg`.
#[derive(Debug)]
pub struct Local {
    /// What it says.
    pub cfg: LocalCfg,
    /// Where it is, for people.
    pub place: String,
}

/// Looks at all media. `medium`: the mark of the medium that the machine was booted from (`si.medium`). `reads`: whether a
/// `local.cfg` is wanted.
///
/// # Errors
/// A `local.cfg` that counts cannot be read or is wrong, each problem with its line; or two contradict each other.
pub fn look(drivers: &Drivers, medium: Option<&str>, reads: bool) -> Result<Media> {
    let sys = Path::new("/sys");
    // No device names them.
    let wanted = ["vfat", "isofs", "ext4", "nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8"];
    if let Err(error) = modules::load(&wanted.map(str::to_owned)) {
        tracing::debug!("file systems of media: {error}");
    }
    let begun = Instant::now();
    if sys.join("bus/usb/devices").read_dir().is_ok_and(|mut all| all.next().is_some()) {
        drivers.settle(QUIET_USB, STICKS);
    }
    let mut said = false;
    let seen = loop {
        let events = drivers.seen();
        let coming = usb_disks_to_come(&sys.join("bus/usb/devices"));
        let seen = look_at_all(sys, medium);
        let lacks = medium.is_some() && !seen.iter().any(|it| it.is_boot);
        let limit = match (coming, lacks) {
            (false, false) => break seen,
            (_, true) => MEDIUM,
            (true, false) => STICKS,
        };
        let left = limit.saturating_sub(begun.elapsed());
        if left.is_zero() {
            if lacks {
                console::line(
                    "the medium that this machine was booted from is not to be seen; a local.cfg on it is not read",
                );
            }
            break seen;
        }
        if !said {
            said = true;
            let what = if lacks { "the medium that this machine was booted from" } else { "a USB disk that is coming" };
            console::line(format_args!("waiting up to {} s for {what}", left.as_secs()));
        }
        drivers.wait_for_more(events, left);
        drivers.settle(QUIET_USB, left);
    };
    let booted_from = seen.iter().find(|it| it.is_boot).map(|it| it.device.clone());
    let candidates: Vec<Candidate> = seen.into_iter().filter_map(Seen::candidate).chain(of_initrd()).collect();
    if !reads {
        for candidate in &candidates {
            console::line(format_args!("local.cfg on {} is ignored: the kernel command line says so", candidate.place));
        }
        return Ok(Media { local: None, booted_from });
    }
    Ok(Media { local: counts(candidates)?, booted_from })
}

/// Waits until a device is taken out of the machine.
pub fn wait_until_gone(drivers: &Drivers, device: &Path) {
    loop {
        let events = drivers.seen();
        // Opening asks a drive whether its medium is still there.
        let there = fs::File::open(device).and_then(|mut file| file.read_exact(&mut [0; 512]));
        if there.is_err() {
            return;
        }
        drivers.wait_for_more(events, GONE_EVERY);
    }
}

/// Says which file counts, and reads it.
fn counts(candidates: Vec<Candidate>) -> Result<Option<Local>> {
    let Some(choice) = choose::choose(candidates).map_err(anyhow::Error::msg)? else { return Ok(None) };
    for place in &choice.ignored {
        console::line(format_args!("local.cfg on {place} is ignored: the one on {} counts", choice.place));
    }
    let place = choice.place;
    let (cfg, warnings) = match local_cfg::parse(&choice.bytes) {
        Ok(read) => read,
        Err(problems) => {
            let lines: Vec<String> = problems.to_string().lines().map(|line| format!("  {line}")).collect();
            bail!(
                "local.cfg on {place} is wrong:\n{}\ncorrect it, and start this machine again; nothing was changed, and the \
                 network was not used",
                lines.join("\n")
            )
        }
    };
    for warning in warnings {
        console::line(format_args!("warning: local.cfg on {place}, {warning}"));
    }
    let names = cfg.names();
    let says = if names.is_empty() { "says nothing".to_owned() } else { format!("gives {}", names.join(", ")) };
    console::line(format_args!("local.cfg on {place} {says}"));
    Ok(Some(Local { cfg, place }))
}

/// One that somebody packed into the initrd.
fn of_initrd() -> Option<Candidate> {
    let bytes = read_file(Path::new("/local.cfg")).transpose()?;
    Some(Candidate { rank: Rank::Boot, place: "the initrd".into(), bytes })
}

/// A device with a file system that could be mounted.
struct Seen {
    device: PathBuf,
    volume: Volume,
    is_removable: bool,
    is_boot: bool,
    local_cfg: Option<Result<Vec<u8>, String>>,
}

impl Seen {
    fn candidate(self) -> Option<Candidate> {
        let rank = match (self.is_boot, self.is_removable) {
            (true, _) => Rank::Boot,
            (false, true) => Rank::Second,
            (false, false) => Rank::Fixed,
        };
        let place = format!("{} ({})", self.device.display(), self.volume.fstype());
        Some(Candidate { rank, place, bytes: self.local_cfg? })
    }
}

/// Looks at each, on a thread of its own: a broken disk must not keep the machine.
fn look_at_all(sys: &Path, medium: Option<&str>) -> Vec<Seen> {
    let mut devices = match devices(sys) {
        Ok(devices) => devices,
        Err(error) => {
            console::line(format_args!("media cannot be looked at: {error:#}"));
            return Vec::new();
        }
    };
    devices.truncate(MOST);
    let (sender, answers) = channel();
    let medium = medium.map(str::to_owned);
    let started = std::thread::Builder::new().name("media".into()).spawn(move || {
        for (device, is_removable) in devices {
            let seen = look_at(&device, is_removable, medium.as_deref());
            if sender.send((device, seen)).is_err() {
                return;
            }
        }
    });
    if let Err(error) = started {
        console::line(format_args!("media cannot be looked at: {error}"));
    }
    gather(&answers)
}

fn gather(answers: &Receiver<(PathBuf, Result<Option<Seen>>)>) -> Vec<Seen> {
    let mut all = Vec::new();
    loop {
        match answers.recv_timeout(LOOK) {
            Ok((_, Ok(seen))) => all.extend(seen),
            Ok((device, Err(error))) => {
                console::line(format_args!("{} is not looked at for a local.cfg: {error:#}", device.display()));
            }
            Err(RecvTimeoutError::Timeout) => {
                console::line("a disk does not answer; it and those after it are not looked at for a local.cfg");
                return all;
            }
            Err(RecvTimeoutError::Disconnected) => return all,
        }
    }
}

/// Disks with their partitions that something can be on, each with whether it can be taken out; those first.
fn devices(sys: &Path) -> Result<Vec<(PathBuf, bool)>> {
    let mut all = Vec::new();
    for disk in block::list(sys, Which::All).context("listing disks")? {
        // Floppy drives without a floppy take seconds to say so; they are no media of today.
        let is_floppy = disk.name.strip_prefix("fd").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
        if disk.size_bytes == 0 || disk.bus == Bus::Virtual || is_floppy {
            continue;
        }
        let is_removable = disk.removable || disk.bus == Bus::Usb || disk.name.starts_with("sr");
        all.push((disk.path, is_removable));
        all.extend(disk.partitions.into_iter().map(|partition| (partition.path, is_removable)));
    }
    all.sort_by_key(|(_, is_removable)| !is_removable);
    Ok(all)
}

/// Whether the kernel knows of a USB disk that is not there yet: an interface of the class mass storage (08) below which
/// there is no block device.
fn usb_disks_to_come(devices: &Path) -> bool {
    let Ok(entries) = fs::read_dir(devices) else { return false };
    entries.flatten().any(|entry| {
        let class = fs::read_to_string(entry.path().join("bInterfaceClass")).unwrap_or_default();
        class.trim() == "08" && !has_block(&entry.path(), 6)
    })
}

fn has_block(dir: &Path, depth: usize) -> bool {
    let Some(deeper) = depth.checked_sub(1) else { return false };
    let Ok(entries) = fs::read_dir(dir) else { return false };
    // Links lead to drivers, buses and up again.
    let inside = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    inside.into_iter().any(|entry| entry.file_name() == "block" || has_block(&entry.path(), deeper))
}

fn look_at(device: &Path, is_removable: bool, medium: Option<&str>) -> Result<Option<Seen>> {
    let mut head = Vec::new();
    match fs::File::open(device).and_then(|file| file.take(volume::HEAD as u64).read_to_end(&mut head)) {
        Ok(_) => {}
        // Nothing in the drive, or it was just taken out.
        Err(_) if is_removable => return Ok(None),
        Err(error) => return Err(error).context("it cannot be read"),
    }
    let target = Path::new(places::RUN_DIR).join("medium");
    let mut trouble = None;
    for volume in volume::of(&head) {
        fs::create_dir_all(&target).with_context(|| format!("making {}", target.display()))?;
        match MountGuard::mount(device, &target, volume.fstype(), volume.options()) {
            Ok(mount) => {
                let local_cfg = read_file(&target.join(LOCAL_CFG)).transpose();
                let id = read_file(&target.join(MEDIUM_ID)).ok().flatten();
                mount.close()?;
                let is_boot =
                    medium.is_some_and(|medium| id.is_some_and(|id| String::from_utf8_lossy(&id).trim() == medium));
                return Ok(Some(Seen { device: device.to_path_buf(), volume, is_removable, is_boot, local_cfg }));
            }
            Err(error) => trouble = trouble.or(Some(error)),
        }
    }
    trouble.map_or(Ok(None), |error| Err(error.into()))
}

/// A file's bytes, one more than the largest that is taken; `None`: it is not there.
fn read_file(path: &Path) -> Result<Option<Vec<u8>>, String> {
    // Neither a link, which could lead anywhere, nor a fifo, which would be waited for.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits().cast_signed();
    let file = match fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err("it is a symbolic link; put the file itself there".into());
        }
        Err(error) => return Err(error.to_string()),
    };
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err("it is no file".into());
    }
    let mut bytes = Vec::new();
    let limit = local_cfg::LARGEST as u64 + 1;
    file.take(limit).read_to_end(&mut bytes).map_err(|error| format!("reading it: {error}"))?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_read() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = |name: &str| dir.path().join(name);
        fs::write(path("file"), "HOSTNAME=a\n").expect("written");
        fs::write(path("large"), vec![b'x'; 1 << 20]).expect("written");
        fs::create_dir(path("directory")).expect("made");
        std::os::unix::fs::symlink("file", path("link")).expect("linked");
        let fifo = rustix::fs::mknodat(
            rustix::fs::CWD,
            path("fifo"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        );
        fifo.expect("made");
        for (name, expected) in [
            ("file", Ok(Some(11))),
            ("absent", Ok(None)),
            ("large", Ok(Some(local_cfg::LARGEST + 1))),
            ("directory", Err("it is no file")),
            ("link", Err("it is a symbolic link; put the file itself there")),
            ("fifo", Err("it is no file")),
        ] {
            let got = read_file(&path(name)).map(|bytes| bytes.map(|it| it.len()));
            assert_eq!(got, expected.map_err(str::to_owned), "{name}");
        }
    }

    #[test]
    fn a_stick_that_is_coming() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let interface = |name: &str, class: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(&path).expect("made");
            fs::write(path.join("bInterfaceClass"), format!("{class}\n")).expect("written");
            path
        };
        assert!(!usb_disks_to_come(&dir.path().join("absent")));
        interface("1-1:1.0", "03");
        assert!(!usb_disks_to_come(dir.path()), "a keyboard");
        let stick = interface("1-2:1.0", "08");
        assert!(usb_disks_to_come(dir.path()));
        fs::create_dir_all(stick.join("host2/target2:0:0/2:0:0:0/block/sda")).expect("made");
        assert!(!usb_disks_to_come(dir.path()));
    }

    #[test]
    fn a_wrong_file_stops_with_its_lines() {
        let candidate = |text: &str| Candidate {
            rank: Rank::Second,
            place: "/dev/sdb1 (vfat)".into(),
            bytes: Ok(text.as_bytes().to_vec()),
        };
        let error =
            counts(vec![candidate("HOSTNAME=a_b\nDEVICE=eth0\nIPADDR=10.0.0.1\n")]).expect_err("wrong").to_string();
        assert!(
            error.starts_with("local.cfg on /dev/sdb1 (vfat) is wrong:\n  line 1: HOSTNAME: \"a_b\" is not"),
            "{error}"
        );
        assert!(error.contains("\n  line 3: IPADDR has no netmask"), "{error}");
        let local = counts(vec![candidate("HOSTNAME=a\nNONSENSE=1\n")]).expect("right").expect("one");
        assert_eq!(local.cfg.names(), ["HOSTNAME"]);
        assert!(counts(vec![]).expect("none").is_none());
    }
}
