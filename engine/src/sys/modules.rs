//! Kernel modules: which ones this machine's devices ask for, and loading them.
//!
//! Devices name themselves by "modalias"; `modules.alias` of a kernel says which module serves which.
//! The lookup is pure, so the same question can be asked of an image's kernel that does not run.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use walkdir::WalkDir;

use super::command_error::CommandError;
use super::error::{Result, SysError};
use super::matching::fits;
use super::run::Cmd;
use super::tool::Tool;

/// How many aliases one modprobe is given: far below the kernel's limit for arguments.
const BATCH: usize = 500;

/// A kernel's `modules.alias`, parsed once.
#[derive(Debug, Clone, Default)]
pub struct Aliases {
    /// Pattern, its beginning without wildcards, module. In the file's order.
    entries: Vec<(Vec<u8>, usize, String)>,
}

impl Aliases {
    /// Parses `modules.alias` (modules.alias(5)-like lines `alias PATTERN MODULE`); others are skipped.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let mut entries = Vec::new();
        for line in text.split(|b| *b == b'\n') {
            let mut words = line.split(u8::is_ascii_whitespace).filter(|w| !w.is_empty());
            if let (Some(b"alias"), Some(pattern), Some(module)) = (words.next(), words.next(), words.next()) {
                let pattern = normal(pattern);
                let plain = pattern.iter().position(|b| b"*?[\\".contains(b)).unwrap_or(pattern.len());
                entries.push((pattern, plain, String::from_utf8_lossy(&normal(module)).into_owned()));
            }
        }
        Self { entries }
    }

    /// The modules that serve a device, in the file's order, each once.
    #[must_use]
    pub fn modules_for(&self, modalias: &str) -> Vec<String> {
        let wanted = normal(modalias.as_bytes());
        let mut found: Vec<String> = Vec::new();
        for (pattern, plain, module) in &self.entries {
            // Most patterns differ in the first bytes: a comparison instead of a match.
            let may = wanted.starts_with(&pattern[..*plain]);
            if may && !found.contains(module) && fits(&pattern[*plain..], &wanted[*plain..]) {
                found.push(module.clone());
            }
        }
        found
    }
}

/// The modules that serve a device, by the text of a `modules.alias`. For several devices parse
/// once: [`Aliases`].
#[must_use]
pub fn modules_for(modalias: &str, aliases_text: &[u8]) -> Vec<String> {
    Aliases::parse(aliases_text).modules_for(modalias)
}

/// Dashes and underscores are the same to modprobe, except inside brackets, where a dash is a range.
fn normal(text: &[u8]) -> Vec<u8> {
    let mut bracket = false;
    let mut out = text.to_vec();
    for b in &mut out {
        match b {
            b'[' => bracket = true,
            b']' => bracket = false,
            b'-' if !bracket => *b = b'_',
            _ => {}
        }
    }
    out
}

/// The modaliases of all devices below `sysroot` (usually /sys), each once, sorted.
///
/// Devices come and go while this reads: what vanishes in between is left out.
///
/// # Errors
/// There is no `devices` directory: sysfs is not mounted there.
pub fn collect_modaliases(sysroot: &Path) -> Result<Vec<String>> {
    let devices = sysroot.join("devices");
    if !devices.is_dir() {
        let error = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(SysError::io("looking for devices in", devices, error).advise("is sysfs mounted?"));
    }
    let mut found = BTreeSet::new();
    for entry in WalkDir::new(&devices).follow_links(false).into_iter().flatten() {
        if entry.file_name() == "modalias"
            && let Some(alias) = read_modalias(entry.path())
        {
            found.insert(alias);
        }
    }
    Ok(found.into_iter().collect())
}

/// A `modalias` file's value; `None` where it is empty or gone.
pub(super) fn read_modalias(path: &Path) -> Option<String> {
    let text = String::from_utf8_lossy(&fs::read(path).ok()?).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// What a [`load_by_modalias`] or [`load`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Modules that were not there before, sorted; dependencies included.
    pub new: Vec<String>,
    /// What modprobe complained about. A device without a module is no complaint.
    pub complaints: Vec<String>,
}

/// Loads the modules for these devices, with one modprobe for (nearly) all of them. Blacklists hold.
///
/// # Errors
/// modprobe is missing or cannot be started. That some modules did not load is in the result: a
/// machine has devices that nobody needs.
pub fn load_by_modalias(modaliases: &[String]) -> std::result::Result<Loaded, CommandError> {
    modprobe(&["-a", "-b", "-q"], modaliases)
}

/// Loads modules by name. Unlike [`load_by_modalias`] a module that does not exist is a complaint.
///
/// # Errors
/// modprobe is missing or cannot be started.
pub fn load(names: &[String]) -> std::result::Result<Loaded, CommandError> {
    modprobe(&["-a"], names)
}

fn modprobe(options: &[&str], names: &[String]) -> std::result::Result<Loaded, CommandError> {
    let before = loaded();
    let mut complaints = Vec::new();
    for batch in names.chunks(BATCH) {
        // Its status is 1 as soon as one alias has no module, which is the usual case: the text counts.
        let output = Cmd::tool(Tool::Modprobe).args(options).arg("--").args(batch).output()?;
        complaints.extend(output.stderr.lines().map(str::to_owned));
    }
    Ok(Loaded { new: loaded().difference(&before).cloned().collect(), complaints })
}

/// Names of the modules in the running kernel; empty where it has none or /proc is not mounted.
fn loaded() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/modules").unwrap_or_default();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALIASES: &[u8] = b"# Aliases extracted from modules themselves.
alias pci:v00008086d0000100Esv*sd*bc*sc*i* e1000
alias pci:v*d*sv*sd*bc01sc06i01* ahci
alias virtio:d00000002v* virtio_blk
alias virtio:d00000002v* virtio-blk-other
alias usb:v*p*d*dc*dsc*dp*ic08isc0[2-6]ip50in* usb-storage
alias platform:reg-dummy reg_dummy
alias dmi*:bvn[A-F]*:foo-bar* odd
broken line
alias half
";

    #[test]
    fn devices_find_their_modules() {
        let rows: &[(&str, &str, &[&str])] = &[
            ("network", "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00", &["e1000"]),
            ("by class", "pci:v00001234d00005678sv0sd0bc01sc06i01", &["ahci"]),
            ("two modules", "virtio:d00000002v00001AF4", &["virtio_blk", "virtio_blk_other"]),
            ("a range in brackets", "usb:v46F4p0001d0dc00dsc00dp00ic08isc06ip50in00", &["usb_storage"]),
            ("a dash in the name", "platform:reg-dummy", &["reg_dummy"]),
            ("an underscore instead", "platform:reg_dummy", &["reg_dummy"]),
            ("a range and a dash", "dmi_x:bvnDell:foo_bar1", &["odd"]),
            ("nobody", "acpi:PNP0A03:", &[]),
            ("shorter than a pattern", "p", &[]),
            ("empty", "", &[]),
        ];
        for (name, alias, expected) in rows {
            assert_eq!(modules_for(alias, ALIASES), *expected, "{name}");
        }
    }

    #[test]
    fn devices_are_collected_once() {
        let sys = tempfile::tempdir().expect("temporary directory");
        for (dir, alias) in
            [("pci0/a", "pci:v1\n"), ("pci0/b", "pci:v1\n"), ("pci0/b/virtio0", "virtio:d2\n"), ("x", "\n")]
        {
            let dir = sys.path().join("devices").join(dir);
            fs::create_dir_all(&dir).expect("mkdir");
            fs::write(dir.join("modalias"), alias).expect("written");
        }
        std::os::unix::fs::symlink("..", sys.path().join("devices/pci0/loop")).expect("symlink");
        assert_eq!(collect_modaliases(sys.path()).expect("collected"), ["pci:v1", "virtio:d2"]);
        let error = collect_modaliases(Path::new("/no/such")).expect_err("absent").to_string();
        assert!(error.ends_with("is sysfs mounted?"), "{error}");
    }

    #[test]
    fn loading_what_does_not_exist_is_said_or_not() {
        if super::super::tool::find(Tool::Modprobe, &super::super::tool::search_dirs()).is_err() {
            eprintln!("SKIPPED: modprobe is not installed (package kmod)");
            return;
        }
        let names = ["acpi:NOSUCH99:".to_owned()];
        let quiet = load_by_modalias(&names).expect("ran");
        assert_eq!(quiet.new, Vec::<String>::new());
        assert_eq!(load(&["no_such_module_99".to_owned()]).expect("ran").complaints.len(), 1);
    }
}
