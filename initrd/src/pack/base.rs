//! What every miniature system holds besides drivers: PID 1, the agent, a shell for people, `modprobe`,
//! and the few files without which a C library is lost.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use systemimager_core::{Needs, Program};
use systemimager_engine::pins::{self, Pins};
use systemimager_engine::sys::{Cmd, Tool};

use super::needs::Packer;
use super::tree::{Packed, Source};
use crate::places;

/// What is packed besides drivers.
#[derive(Debug, Clone)]
pub struct Contents {
    /// PID 1.
    pub init: PathBuf,
    /// The install agent.
    pub agent: PathBuf,
    /// Plugins that are needed before any can be fetched.
    pub plugins: Vec<PathBuf>,
    /// What these plugins, and whoever else, need.
    pub needs: Vec<Needs>,
    /// The keys by which machines know their image server.
    pub pins: Option<Pins>,
}

/// Programs that the agent and PID 1 themselves run.
pub fn own_needs() -> Needs {
    let busybox = |applet: &str| Program::new("busybox", "busybox-static").probed(&[applet, "--help"]);
    Needs {
        programs: vec![
            Program::new("modprobe", "kmod"),
            // The last word of each is an applet that must be built in: --help of an applet exits 0.
            busybox("sh"),
            busybox("ip"),
            busybox("setsid"),
        ],
        ..Needs::default()
    }
}

/// Directories that something is mounted on, or that programs expect.
const DIRECTORIES: [(&str, u32); 11] = [
    ("/dev", 0o755),
    ("/proc", 0o555),
    ("/sys", 0o555),
    ("/run", 0o755),
    ("/tmp", 0o1777),
    ("/root", 0o700),
    ("/mnt", 0o755),
    ("/var/log", 0o755),
    ("/var/lib", 0o755),
    ("/etc", 0o755),
    ("/usr/lib/systemimager/plugins", 0o755),
];

/// Libraries that are opened by name, where the packing machine's C library has them apart.
const OPTIONAL_LIBRARIES: [&str; 3] = ["libgcc_s.so.1", "libnss_files.so.2", "libnss_dns.so.2"];

const FILES: [(&str, &str); 5] = [
    ("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    ("/etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
    ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
    ("/etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost\n"),
    ("/etc/resolv.conf", ""),
];

/// All of it, as a set of files.
///
/// # Errors
/// What is missing on this machine, all at once.
pub fn pack_base(contents: &Contents) -> Result<Packed> {
    let mut packer = Packer::new()?;
    packer.place(&contents.init, Path::new("/init"), 0o755);
    packer.place(&contents.agent, Path::new(places::AGENT), 0o755);
    packer.needs(&own_needs());
    for needs in &contents.needs {
        packer.needs(needs);
    }
    for plugin in &contents.plugins {
        packer.plugin(plugin);
    }
    for library in OPTIONAL_LIBRARIES {
        packer.library(library, false);
    }
    if let Some(kmod) = packer.program("modprobe", "kmod") {
        // Where the kernel itself calls it (/proc/sys/kernel/modprobe).
        let calls_itself_modprobe = kmod.file_name().is_some_and(|name| name == "modprobe");
        if !calls_itself_modprobe {
            packer.put("/usr/sbin/modprobe", Source::Link(kmod), 0o777);
        }
    }
    if let Some(busybox) = packer.program("busybox", "busybox-static") {
        packer.put("/usr/bin/sh", Source::Link(busybox.clone()), 0o777);
        for applet in applets()? {
            // A directory of their own, last in the shell's PATH: an applet must never pass for the real program.
            let path = Path::new(places::RESCUE_DIR).join(applet);
            packer.put(&path.to_string_lossy(), Source::Link(busybox.clone()), 0o777);
        }
    }
    for (path, text) in FILES {
        packer.put(path, Source::Bytes(text.as_bytes().to_vec()), 0o644);
    }
    if let Some(pins) = &contents.pins {
        packer.put(pins::PLACE, Source::Bytes(pins.text()?.into_bytes()), 0o644);
    }
    for (path, mode) in DIRECTORIES {
        packer.put(path, Source::Directory, mode);
    }
    // The kernel opens it for PID 1 before anything is mounted.
    packer.put("/dev/console", Source::CharDevice(5, 1), 0o600);
    packer.put("/dev/null", Source::CharDevice(1, 3), 0o666);
    packer.finish()
}

fn applets() -> Result<Vec<String>> {
    let list = Cmd::tool(Tool::Busybox).arg("--list").read_string().context("asking busybox for its applets")?;
    let fine = |name: &&str| name.chars().all(|letter| letter.is_ascii_alphanumeric() || "_-[.".contains(letter));
    Ok(list.lines().filter(fine).map(str::to_owned).collect())
}
