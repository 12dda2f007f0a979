//! A program that somebody else chose the words for: it sees one tree, read-only, and this system's programs; nothing else.
//!
//! The root that it gets is a tmpfs with the tree and the directories of programs and libraries, all read-only, in a mount table
//! of its own from which everything else is gone (pivot_root(2)); it has no network, cannot gain rights by what it executes, and
//! of root's rights it keeps those for reading what anybody owns. What it is given as standard streams it may use.
//!
//! Nothing made here outlives the program.

use std::fs;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount_bind_recursive, mount_change, mount_remount, unmount,
};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set, set_no_new_privs};

use super::calls::unshare_network;
use super::command_error::CommandError;
use super::error::{Result, SysError};
use super::mount::MountGuard;
use super::namespace;
use super::run::{Cmd, Input, Stream};

/// Where programs and libraries lie. Links among them are made again as links.
const SYSTEM: [&str; 6] = ["usr", "bin", "sbin", "lib", "lib32", "lib64"];
/// How the loader finds libraries.
const LOADER_CACHE: &str = "etc/ld.so.cache";
/// What reading every file takes: whoever owns it, its `trusted.` attributes, and not to leave a trace of having read it.
const KEPT: [CapabilitySet; 3] = [CapabilitySet::DAC_READ_SEARCH, CapabilitySet::SYS_ADMIN, CapabilitySet::FOWNER];

/// What to run, and what it sees.
#[derive(Debug)]
pub struct Confined<'a> {
    /// The tree, with what is mounted below it.
    pub tree: &'a Path,
    /// Where the program sees it: a name in the root.
    pub at: &'a str,
    /// An empty directory of ours, for the moment in which the root is made.
    pub room: &'a Path,
    /// Standard input and output.
    pub streams: (OwnedFd, OwnedFd),
    /// Ends the program when it is set.
    pub cancel: Arc<AtomicBool>,
}

/// Runs a program confined, to its end. `on_error` gets the lines of its standard error.
///
/// # Errors
/// The surroundings cannot be made, the program is not in them, or it was cancelled. An exit status is none.
pub fn run(what: Confined<'_>, cmd: Cmd, on_error: &mut (dyn FnMut(&str) + Send)) -> Result<ExitStatus> {
    let Confined { tree, at, room, streams, cancel } = what;
    let (input, output) = (File::from(streams.0), File::from(streams.1));
    let cmd = cmd.stdin(Input::File(input)).stdout_file(output).cancel_when(cancel).own_group();
    namespace::in_private_mounts(move || {
        enter(tree, at, room)?;
        let mut lines = |stream: Stream, line: &str| {
            if stream == Stream::Stderr {
                on_error(line);
            }
        };
        match cmd.run_lines(&mut lines) {
            Ok(()) => Ok(ExitStatus::default()),
            Err(CommandError::Failed { status, .. }) => Ok(status),
            Err(error) => Err(error.into()),
        }
    })?
}

/// Moves the calling thread there, for good.
fn enter(tree: &Path, at: &str, room: &Path) -> Result<()> {
    // As the mount table shows it.
    let room = &fs::canonicalize(room).map_err(|e| SysError::io("looking for", room, e))?;
    // The mounts go with the thread and its program: nothing is to be unmounted in order.
    MountGuard::pseudo("tmpfs", room, &["nosuid,nodev,mode=755,size=1m"])?.keep();
    for name in SYSTEM {
        show(Path::new("/").join(name), &room.join(name))?;
    }
    let cache = Path::new("/").join(LOADER_CACHE);
    if cache.is_file() {
        directory(&room.join("etc"))?;
        let place = room.join(LOADER_CACHE);
        File::create(&place).map_err(|e| SysError::io("making", &place, e))?;
        MountGuard::bind_read_only(&cache, &place)?.keep();
    }
    let place = room.join(at);
    directory(&place)?;
    mount_bind_recursive(tree, &place).map_err(|e| SysError::io("binding the tree to", &place, e))?;
    read_only(&place)?;
    mount_remount(room, MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV, c"")
        .map_err(|e| SysError::io("making read-only", room, e))?;

    let failed = |doing: &str, error: rustix::io::Errno| SysError::io(doing.to_owned(), room, error);
    rustix::process::chdir(room).map_err(|e| failed("entering", e))?;
    // The old root ends up on top of the new one, and goes (pivot_root(2), "pivot_root(".", ".")").
    rustix::process::pivot_root(".", ".").map_err(|e| failed("changing the root to", e))?;
    unmount(".", UnmountFlags::DETACH).map_err(|e| failed("leaving the old root for", e))?;
    rustix::process::chdir("/").map_err(|e| failed("entering", e))?;
    unshare_network().map_err(|e| SysError::io("leaving the network for", room, e))?;
    for number in 0..CapabilitySet::all().bits().trailing_ones() {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if !KEPT.contains(&capability) {
            match remove_capability_from_bounding_set(capability) {
                // A newer one than the kernel knows.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(failed("giving up rights in", error)),
            }
        }
    }
    // What is inheritable survives an execution whatever is given up above (capabilities(7)).
    let sets = rustix::thread::capabilities(None).map_err(|e| failed("giving up rights in", e))?;
    let sets = rustix::thread::CapabilitySets { inheritable: CapabilitySet::empty(), ..sets };
    rustix::thread::set_capabilities(None, sets).map_err(|e| failed("giving up rights in", e))?;
    set_no_new_privs(true).map_err(|e| failed("giving up rights in", e))
}

/// Shows a directory of the system read-only, or makes its link again.
fn show(from: PathBuf, to: &Path) -> Result<()> {
    match fs::symlink_metadata(&from) {
        Ok(found) if found.is_symlink() => {
            let target = fs::read_link(&from).map_err(|e| SysError::io("reading the link", &from, e))?;
            symlink(target, to).map_err(|e| SysError::io("making the link", to, e))
        }
        Ok(found) if found.is_dir() => {
            directory(to)?;
            MountGuard::bind_read_only(&from, to)?.keep();
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Nothing below can be written, not even where something is mounted; nothing there is a device or gives rights.
fn read_only(place: &Path) -> Result<()> {
    // So that nothing mounted elsewhere later appears here.
    mount_change(place, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|e| SysError::io("making private", place, e))?;
    let mut seen = false;
    for point in
        super::mount::table()?.into_iter().map(|mount| mount.mount_point).filter(|point| point.starts_with(place))
    {
        let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount_remount(&point, flags, c"").map_err(|e| SysError::io("making read-only", &point, e))?;
        seen |= point == place;
    }
    if !seen {
        return Err(SysError::Refused(format!(
            "{} is not in the mount table, and would stay writable",
            place.display()
        )));
    }
    Ok(())
}

fn directory(place: &Path) -> Result<()> {
    fs::create_dir(place).map_err(|e| SysError::io("making", place, e))
}

#[cfg(test)]
mod tests {
    use super::super::mount::can_mount;
    use super::*;
    use std::io::Read as _;

    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

    /// What a shell prints there.
    fn said(tree: &Path, script: &str) -> (String, String, ExitStatus) {
        let room = tempfile::tempdir().expect("a room");
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
        let null = File::open("/dev/null").expect("opened");
        let what =
            Confined { tree, at: "tree", room: room.path(), streams: (null.into(), write), cancel: Arc::default() };
        let mut errors = String::new();
        let cmd = Cmd::argv(["sh", "-c", script]).expect("argv");
        let status = run(what, cmd, &mut |line| errors.push_str(line)).expect("it runs");
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).expect("text");
        assert!(fs::read_dir(room.path()).expect("listed").next().is_none(), "nothing is left in the room");
        (text, errors, status)
    }

    #[test]
    fn one_tree_and_nothing_else() {
        if !can_mount() {
            return;
        }
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::write(dir.path().join("file"), "there\n").expect("written");
        symlink("/etc/shadow", dir.path().join("shadow")).expect("linked");
        let rows = [
            ("the tree", "cat /tree/file", "there\n", ""),
            ("no writing", "echo x > /tree/new", "", "Read-only file system"),
            ("no writing beside it", "echo x > /new", "", "Read-only file system"),
            ("no writing to programs", "echo x > /usr/bin/new", "", "Read-only file system"),
            ("links lead nowhere", "cat /tree/shadow", "", "No such file"),
            ("no secrets", "cat /etc/passwd", "", "No such file"),
            ("no devices", "ls /dev", "", "No such file"),
            ("no network", "cat /proc/net/dev", "", "No such file"),
        ];
        for (name, script, out, err) in rows {
            let (text, errors, _) = said(dir.path(), script);
            assert!(text.starts_with(out) && (!out.is_empty() || text.is_empty()), "{name}: {text}");
            assert!(errors.contains(err), "{name}: {errors}");
        }
        let (text, ..) = said(dir.path(), "ls -d /*; ls /etc");
        let names: Vec<&str> = text.lines().collect();
        assert!(
            names.iter().all(|it| ["/tree", "/etc", "ld.so.cache"].contains(it) || SYSTEM.contains(&&it[1..])),
            "{text}"
        );
        assert_eq!(said(dir.path(), "exit 7").2.code(), Some(7));
        // A device and a program with another's rights, as an image may hold them.
        mknodat(CWD, dir.path().join("null"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 3))
            .expect("a device");
        fs::copy("/bin/sh", dir.path().join("shell")).expect("copied");
        fs::set_permissions(dir.path().join("shell"), std::os::unix::fs::PermissionsExt::from_mode(0o4755))
            .expect("chmod");
        let mine = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let connect = format!("bash -c 'exec 3<>/dev/tcp/127.0.0.1/{}'", mine.local_addr().expect("bound").port());
        for (name, script) in [
            ("a device", "cat /tree/null"),
            ("a program of the tree", "/tree/shell -c true"),
            ("to own", "chown 1 /tree/file"),
            ("to make a device", "mknod /tree/zero c 1 5"),
            ("to leave the root", "chroot /tree"),
            ("a network", &connect),
        ] {
            assert!(!said(dir.path(), script).2.success(), "{name}");
        }
        let (rights, ..) = said(dir.path(), "mount -t proc proc /tree && grep -E 'CapEff|CapBnd' /tree/self/status");
        let kept: u64 = KEPT.iter().map(|it| it.bits()).sum();
        for line in rights.lines() {
            let held =
                u64::from_str_radix(line.split_whitespace().last().unwrap_or_default(), 16).expect("hexadecimal");
            assert_eq!(held, kept, "{line}");
        }
        assert_eq!(rights.lines().count(), 2, "{rights}");
    }

    #[test]
    fn what_is_mounted_in_the_tree_is_shown_and_not_written() {
        if !can_mount() {
            return;
        }
        let dir = tempfile::tempdir().expect("temporary directory");
        namespace::in_private_mounts(|| {
            let below = dir.path().join("below");
            fs::create_dir(&below).expect("mkdir");
            MountGuard::pseudo("tmpfs", &below, &["mode=755"]).expect("mounted").keep();
            fs::write(below.join("file"), "there\n").expect("written");
            let (text, errors, _) = said(dir.path(), "cat /tree/below/file; echo x > /tree/below/new");
            assert_eq!(text, "there\n");
            assert!(errors.contains("Read-only file system"), "{errors}");
            fs::write(below.join("other"), "still writable here").expect("written");
        })
        .expect("namespace");
    }

    #[test]
    fn it_ends_when_it_is_cancelled() {
        if !can_mount() {
            return;
        }
        let (dir, room) = (tempfile::tempdir().expect("a tree"), tempfile::tempdir().expect("a room"));
        let null = || OwnedFd::from(File::options().read(true).write(true).open("/dev/null").expect("opened"));
        let cancel = Arc::new(AtomicBool::new(true));
        let what = Confined { tree: dir.path(), at: "tree", room: room.path(), streams: (null(), null()), cancel };
        let begun = std::time::Instant::now();
        let error = run(what, Cmd::argv(["sleep", "60"]).expect("argv"), &mut |_| {}).expect_err("cancelled");
        assert!(matches!(error, SysError::Command(CommandError::Cancelled { .. })), "{error}");
        assert!(begun.elapsed().as_secs() < 30);
    }
}
