//! What a test needs of the machine it runs on, and how it says that it was skipped.
//!
//! A test that cannot run prints one line, `SKIPPED: <test>: <why>`, and returns: a runner counts
//! these lines, so that a skipped test never passes for a passed one. It must not guess: a need
//! that cannot be judged counts as lacking, with the reason.

use std::path::Path;

/// One thing that a test needs.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// A program on the path.
    Program(&'static str),
    /// A file, such as a boot loader's image; with the package that brings it.
    File(&'static str, &'static str),
    /// Effective user 0 (the tests make devices, mounts and namespaces).
    Root,
    /// Loop devices.
    LoopDevices,
    /// Network namespaces, and tap devices in them.
    NetworkNamespaces,
    /// Virtual machines: QEMU, namespaces, loop devices, and leave to be slow.
    VirtualMachines,
    /// Leave to take many minutes: `cargo xtask test --full`.
    Long,
}

/// The directories that hold programs, also where `PATH` leaves out the `sbin`s.
fn program(name: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
    path.split(':').chain(more).any(|directory| Path::new(directory).join(name).is_file())
}

impl Need {
    /// Why this is lacking here, with what to do about it; nothing if it is there.
    pub fn lacking(self) -> Option<String> {
        let missing = |absent: bool, why: String| absent.then_some(why);
        match self {
            Need::Program(name) => missing(!program(name), format!("the program {name} is not installed")),
            Need::File(path, package) => {
                missing(!Path::new(path).exists(), format!("{path} is absent; install the package {package}"))
            }
            Need::Root => missing(!rustix::process::geteuid().is_root(), "it needs root; run it with sudo".to_owned()),
            Need::LoopDevices => Need::Root.lacking().or_else(|| {
                missing(
                    !Path::new("/dev/loop-control").exists(),
                    "/dev/loop-control is absent: no loop devices".to_owned(),
                )
            }),
            Need::NetworkNamespaces => Need::Root
                .lacking()
                .or_else(|| Need::Program("ip").lacking())
                .or_else(|| {
                    missing(!Path::new("/proc/self/ns/net").exists(), "the kernel has no network namespaces".to_owned())
                })
                .or_else(|| {
                    missing(!Path::new("/dev/net/tun").exists(), "/dev/net/tun is absent: no tap devices".to_owned())
                }),
            Need::Long => missing(
                !is_set("SYSTEMIMAGER_FULL"),
                "it takes long; `cargo xtask test --full` runs it (or SYSTEMIMAGER_FULL=1)".to_owned(),
            ),
            Need::VirtualMachines => {
                if is_quick() {
                    return Some("SYSTEMIMAGER_QUICK is set; virtual machines are slow".to_owned());
                }
                let programs =
                    ["qemu-system-x86_64", "mmdebstrap", "zstd", "sfdisk", "partx", "losetup", "ssh", "setpriv"];
                let first = programs.iter().find_map(|name| Need::Program(name).lacking());
                first.or_else(|| Need::LoopDevices.lacking()).or_else(|| Need::NetworkNamespaces.lacking())
            }
        }
    }
}

/// Whether `SYSTEMIMAGER_QUICK` asks to leave out what is slow (unset, empty and `0` do not).
pub fn is_quick() -> bool {
    is_set("SYSTEMIMAGER_QUICK")
}

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty() && value != "0")
}

/// Says that `test` was skipped, on the real standard error, which no test harness captures.
pub fn skipped(test: &str, why: &str) {
    use std::io::Write;
    // A closed standard error leaves nobody to tell.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
}

/// For a slow test: says that it is skipped and returns true where [`is_quick`].
pub fn quick(test: &str) -> bool {
    if is_quick() {
        skipped(test, "SYSTEMIMAGER_QUICK is set");
    }
    is_quick()
}

/// The name of the running test: the harness names its thread so.
pub fn test_name() -> String {
    std::thread::current().name().unwrap_or("a test").to_owned()
}

/// Returns from the test, with a `SKIPPED:` line, if one of the [`Need`]s is lacking.
///
/// ```ignore
/// require!(Need::Root, Need::Program("rsync"));
/// ```
#[macro_export]
macro_rules! require {
    ($($need:expr),+ $(,)?) => {
        $(
            if let Some(why) = $crate::need::Need::lacking($need) {
                $crate::need::skipped(&$crate::need::test_name(), &why);
                return;
            }
        )+
    };
}
