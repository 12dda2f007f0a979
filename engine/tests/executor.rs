//! The executor against a real disk (a loop device, without a partition table: not every kernel has a parser
//! for one), real mkfs and mounts, and a transport that plays the image server.
//!
//! What counts here is the way of failure: nothing stays mounted, and a half-written disk does not boot.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use systemimager_core::abi::private::Instance;
use systemimager_core::registry::Origin;
use systemimager_core::{
    Action, Arg, BlockDevice, BytePath, Capabilities, Change, ChangeKind, DiskLayout, DiskRule, ErrorKind,
    FileSystemLayout, Host, Layout, MountLayout, Needs, NodeName, Offer, Phase, PluginError, PullReport, PullRequest,
    Registry, Role, Service, Size, Step, Transport,
};
use systemimager_engine::host::{EngineHost, Secrets};
use systemimager_engine::install::{Site, execute};
use systemimager_engine::plan::Plan;
use systemimager_engine::report::Event;
use systemimager_engine::sys::Cmd;
use systemimager_engine::sys::loopdev::LoopDevice;
use systemimager_engine::sys::mount::{MountGuard, table};
use systemimager_engine::sys::namespace::in_private_mounts;

const DISK_SIZE: u64 = 24 << 20;
const BOOT_CODE: usize = 440;
/// Bytes of boot code that is there, and of what was erased.
const BOOTS: [u8; 1] = *b"Z";
const ERASED: [u8; 5] = [0, 0x18, 0xcd, 0xeb, 0xfe];

/// Plays the server: an image of two files, with directories as named.
#[derive(Clone, Default)]
struct Server {
    denies: bool,
    /// How many of the next pulls say that a file vanished.
    vanishing: Arc<Mutex<u32>>,
    pulls: Arc<Mutex<Vec<PullRequest>>>,
}

impl Transport for Server {
    fn capabilities(&self, _: &dyn Host, (): ()) -> systemimager_core::Result<Capabilities> {
        Ok(Capabilities { delete: true, dry_run: true, reconciles: true, ..Capabilities::default() })
    }

    fn needs(&self, _: &dyn Host, _: Role) -> systemimager_core::Result<Needs> {
        Ok(Needs::default())
    }

    fn offer(&self, _: &dyn Host, _: Offer) -> systemimager_core::Result<Service> {
        Err(PluginError::unsupported("it offers nothing"))
    }

    fn pull(&self, _: &dyn Host, request: PullRequest) -> systemimager_core::Result<PullReport> {
        if self.denies {
            return Err(PluginError::new(ErrorKind::Denied, "not for this machine"));
        }
        if request.dry_run {
            let has = [BytePath::from("/etc"), BytePath::from("/home")];
            let asked = request.only.unwrap_or_default();
            let changes = has
                .into_iter()
                .filter(|path| asked.contains(path))
                .map(|path| Change { path, kind: ChangeKind::Created, ..Change::default() })
                .collect();
            return Ok(PullReport { changes, ..PullReport::default() });
        }
        let into = PathBuf::from(request.into.clone());
        for (name, contents) in [("sbin/init", "#!"), ("etc/fstab", "LABEL=root / ext4 defaults 0 1\n")] {
            std::fs::create_dir_all(into.join(name).parent().unwrap()).unwrap();
            std::fs::write(into.join(name), contents).unwrap();
        }
        self.pulls.lock().unwrap().push(request);
        let mut left = self.vanishing.lock().unwrap();
        let vanished = if *left > 0 { vec!["/var/log/x".into()] } else { Vec::new() };
        *left = left.saturating_sub(1);
        Ok(PullReport { vanished, ..PullReport::default() })
    }
}

/// Disks with a pattern where boot code goes, and the place for a target.
struct Bench {
    dir: tempfile::TempDir,
    disks: Vec<LoopDevice>,
}

impl Bench {
    /// `None`, with the reason printed: this machine cannot.
    fn new(test: &str, disks: usize) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: {test}: it mounts, and needs root");
            return None;
        }
        if !["/sbin/mkfs.ext4", "/usr/sbin/mkfs.ext4"].iter().any(|path| Path::new(path).exists()) {
            eprintln!("SKIPPED: {test}: mkfs.ext4 is missing (package e2fsprogs)");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut attached = Vec::new();
        for number in 0..disks {
            let image = dir.path().join(format!("disk{number}"));
            let mut file = std::fs::File::create(&image).unwrap();
            file.write_all(&[BOOTS[0]; 1024]).unwrap();
            file.set_len(DISK_SIZE).unwrap();
            file.sync_all().unwrap();
            match LoopDevice::attach(&image, false) {
                Ok(device) => attached.push(device),
                Err(error) => {
                    eprintln!("SKIPPED: {test}: no loop device can be had: {error}");
                    return None;
                }
            }
        }
        Some(Self { dir, disks: attached })
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("target")
    }

    fn journal(&self) -> PathBuf {
        self.dir.path().join("run/destroyed")
    }

    fn contents(&self, disk: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        std::fs::File::open(self.disks[disk].path()).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// The bytes that its boot code is made of.
    fn boot_code(&self, disk: usize) -> BTreeSet<u8> {
        self.contents(disk)[..BOOT_CODE].iter().copied().collect()
    }

    fn mounted(&self) -> usize {
        table().unwrap().iter().filter(|mount| mount.mount_point.starts_with(self.target())).count()
    }

    fn journaled(&self) -> Option<String> {
        std::fs::read_to_string(self.journal()).ok()
    }

    fn disk_lines(&self) -> String {
        self.disks.iter().map(|disk| format!("{}\n", disk.path().display())).collect()
    }

    /// Root on the first disk, further file systems as (node, mount point) on the next ones.
    fn plan(&self, others: &[(&str, &str)], steps: Vec<Step>) -> Plan {
        let on: Vec<(&str, &str)> = [("root", "/")].into_iter().chain(others.iter().copied()).collect();
        let disk = |index: usize| node(&format!("disk{index}"));
        Plan {
            host: "www1".into(),
            image: "web".into(),
            steps,
            disks: self
                .disks
                .iter()
                .enumerate()
                .map(|(index, device)| {
                    (disk(index), BlockDevice { path: device.path().into(), ..BlockDevice::default() })
                })
                .collect(),
            layout: Layout {
                disks: (0..on.len())
                    .map(|index| DiskLayout {
                        node: disk(index),
                        label: "none".into(),
                        id: None,
                        size: Size(DISK_SIZE),
                        sector_size: 512,
                        rule: DiskRule::default(),
                        partitions: Vec::new(),
                    })
                    .collect(),
                volumes: Vec::new(),
                filesystems: on
                    .iter()
                    .enumerate()
                    .map(|(index, (name, _))| FileSystemLayout {
                        node: node(name),
                        on: disk(index),
                        kind: "ext4".into(),
                        uuid: None,
                        new_uuid: false,
                        label: Some((*name).to_owned()),
                        options: BTreeMap::new(),
                    })
                    .collect(),
                mounts: on
                    .iter()
                    .map(|(name, at)| MountLayout {
                        node: node(name),
                        at: (*at).into(),
                        options: String::new(),
                        subvolume: None,
                    })
                    .collect(),
            },
            changes: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn run(&self, plan: &Plan, server: &Server, events: &mut dyn FnMut(Event)) -> anyhow::Result<()> {
        let mut registry = Registry::default();
        let identification = serde_json::from_value(serde_json::json!({
            "id": "fake", "kind": "transport", "about": "", "version": "1.0.0", "panic": "unwind",
            "contract": systemimager_core::CONTRACT_VERSION, "arch": std::env::consts::ARCH,
        }))
        .unwrap();
        registry.add(identification, Origin::Linked, Instance::Transport(Box::new(server.clone()))).unwrap();
        let host = EngineHost::new(Secrets::default());
        let site = Site {
            registry: &registry,
            host: &host,
            server: "10.0.0.1".into(),
            keys: None,
            target: self.target(),
            journal: Some(self.journal()),
            same_image: None,
            begin_at: None,
            pause: None,
        };
        execute(plan, &site, events)
    }
}

fn node(name: &str) -> NodeName {
    NodeName::try_from(name).unwrap()
}

fn format(disk: &str, fs: &str) -> Step {
    let mut argv = Arg::words(["mkfs.ext4", "-q", "-F", "-L", fs]);
    argv.push(Arg::Device(node(disk)));
    Step::new(Phase::Format, format!("make the ext4 file system {fs}"), Action::Run { argv, stdin: None })
        .destroying([node(disk)])
        .providing([node(fs)])
}

/// Puts boot code on the first disk: mkfs has wiped what was there.
fn boot_code() -> Step {
    let mut argv = Arg::words(["dd", "bs=440", "count=1", "iflag=fullblock", "conv=notrunc,fsync"]);
    argv.push(Arg::PrefixedDevice("of=".into(), node("disk0")));
    let stdin = Some("Z".repeat(BOOT_CODE));
    Step::new(Phase::Format, "put boot code on disk0", Action::Run { argv, stdin }).destroying([node("disk0")])
}

fn mount(fs: &str, at: &str) -> Step {
    let action = Action::Mount { node: node(fs), at: at.into(), fstype: "ext4".into(), options: String::new() };
    Step::new(Phase::Mount, format!("mount {fs}"), action)
}

fn pull() -> Step {
    let action = Action::Pull { image: "web".into(), transports: vec!["fake".into()] };
    Step::new(Phase::Pull, "pull the image web", action)
}

fn seal() -> Step {
    Step::new(Phase::Finish, "check and unmount", Action::Seal)
}

fn breaks(phase: Phase) -> Step {
    let argv = Arg::words(["sh", "-c", "echo broken pipe organ >&2; exit 3"]);
    Step::new(phase, "do what does not work", Action::Run { argv, stdin: None })
}

fn ignore(_: Event) {}

/// All in a mount table of its own; the bench's loop devices go before it does. One test at a time: between fork and exec
/// a child of another holds the directories that an install has open, and its file systems cannot be unmounted then.
fn on_bench(test: &str, disks: usize, work: impl FnOnce(&Bench) + Send) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(bench) = Bench::new(test, disks) else { return };
    in_private_mounts(|| work(&bench)).unwrap();
}

#[test]
fn a_failed_step_is_named_and_its_disk_does_not_boot() {
    let rows: Vec<(&str, Vec<Step>, &str)> = vec![
        (
            "the very first",
            vec![breaks(Phase::Format).destroying([node("disk0")]), mount("root", "/"), pull(), seal()],
            "step 1 of 4 (format: do what does not work)",
        ),
        (
            "named by its file system",
            vec![breaks(Phase::Format).destroying([node("root")]), mount("root", "/"), pull(), seal()],
            "step 1 of 4 (format: do what does not work)",
        ),
        (
            "with everything mounted",
            vec![format("disk0", "root"), boot_code(), mount("root", "/"), pull(), breaks(Phase::Boot), seal()],
            "step 5 of 6 (boot: do what does not work)",
        ),
    ];
    for (name, steps, place) in rows {
        on_bench("a_failed_step_is_named_and_its_disk_does_not_boot", 1, |bench| {
            let plan = bench.plan(&[], steps);
            let error = format!("{:#}", bench.run(&plan, &Server::default(), &mut ignore).unwrap_err());
            for part in [place, "sh -c 'echo broken pipe organ >&2; exit 3'", "status 3", ": broken pipe organ"] {
                assert!(error.contains(part), "{name}: {part}: {error}");
            }
            assert_eq!(bench.boot_code(0), ERASED.into(), "{name}");
            assert_eq!(bench.mounted(), 0, "{name}");
            assert_eq!(bench.journaled().as_deref(), Some(bench.disk_lines().as_str()), "{name}");
        });
    }
}

#[test]
fn what_fails_before_the_first_destructive_step_changes_no_disk() {
    let denied = Server { denies: true, ..Server::default() };
    let rows: Vec<(&str, Server, Vec<Step>, &str)> = vec![
        (
            "the server refuses",
            denied,
            vec![format("disk0", "root"), boot_code(), mount("root", "/"), pull(), seal()],
            "the image web cannot be had from 10.0.0.1 by fake; no disk was touched: not for this machine",
        ),
        (
            "a harmless step fails",
            Server::default(),
            vec![breaks(Phase::Partition), format("disk0", "root"), boot_code(), mount("root", "/"), pull(), seal()],
            "step 1 of 6",
        ),
    ];
    for (name, server, steps, says) in rows {
        on_bench("what_fails_before_the_first_destructive_step_changes_no_disk", 1, |bench| {
            let before = bench.contents(0);
            let plan = bench.plan(&[], steps);
            let error = format!("{:#}", bench.run(&plan, &server, &mut ignore).unwrap_err());
            assert!(error.contains(says), "{name}: {error}");
            assert!(before == bench.contents(0), "{name}: the disk differs");
            assert_eq!(bench.journaled(), None, "{name}");
        });
    }
}

#[test]
fn a_disk_that_cannot_be_journaled_is_not_touched() {
    on_bench("a_disk_that_cannot_be_journaled_is_not_touched", 1, |bench| {
        std::fs::write(bench.dir.path().join("run"), "a file in the way").unwrap();
        let before = bench.contents(0);
        let plan = bench.plan(&[], vec![format("disk0", "root"), boot_code(), mount("root", "/"), pull(), seal()]);
        bench.run(&plan, &Server::default(), &mut ignore).unwrap_err();
        assert!(before == bench.contents(0));
    });
}

#[test]
fn a_panic_unboots_too() {
    on_bench("a_panic_unboots_too", 1, |bench| {
        let plan = bench.plan(&[], vec![format("disk0", "root"), boot_code(), mount("root", "/"), pull(), seal()]);
        let mut journaled = None;
        let mut mounted = 0;
        let mut code = BTreeSet::new();
        let mut events = |event: Event| {
            if matches!(event, Event::StepBegins { index: 3 }) {
                journaled = bench.journaled();
                mounted = bench.mounted();
                code = bench.boot_code(0);
                std::panic::resume_unwind(Box::new("the console is gone"));
            }
        };
        let run = || bench.run(&plan, &Server::default(), &mut events);
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
        assert_eq!((mounted, code, journaled), (1, BOOTS.into(), Some(bench.disk_lines())), "when it panicked");
        assert_eq!(bench.boot_code(0), ERASED.into());
        assert_eq!(bench.mounted(), 0);
    });
}

#[test]
fn a_good_install_is_sealed_and_boots() {
    on_bench("a_good_install_is_sealed_and_boots", 1, |bench| {
        let write = |path: &str| Action::WriteFile {
            path: path.into(),
            contents: systemimager_core::Contents::Bytes("www1\n".into()),
            mode: 0o644,
        };
        let steps = vec![
            format("disk0", "root"),
            boot_code(),
            mount("root", "/"),
            pull(),
            Step::new(Phase::Identity, "write the name", write("/etc/hostname")),
            Step::new(Phase::Identity, "make /srv", Action::MakeDirectory { path: "/srv".into(), mode: 0o755 }),
            Step::new(Phase::Identity, "link", Action::Symlink { path: "/etc/name".into(), to: "hostname".into() }),
            Step::new(Phase::Identity, "remove", Action::Remove { path: "/etc/machine-id".into() }),
            seal(),
        ];
        let plan = bench.plan(&[], steps);
        let mut done = 0;
        let mut events = |event: Event| done += usize::from(matches!(event, Event::StepDone { .. }));
        bench.run(&plan, &Server::default(), &mut events).unwrap();
        assert_eq!(done, plan.steps.len());
        assert_eq!(bench.boot_code(0), BOOTS.into());
        assert_eq!(bench.mounted(), 0);
        assert_eq!(bench.journaled(), None, "gone when sealed");
    });
}

#[test]
fn a_plan_without_an_end_is_no_install() {
    on_bench("a_plan_without_an_end_is_no_install", 1, |bench| {
        let plan = bench.plan(&[], vec![format("disk0", "root"), boot_code(), mount("root", "/"), pull()]);
        let error = bench.run(&plan, &Server::default(), &mut ignore).unwrap_err().to_string();
        assert!(error.contains("without sealing"), "{error}");
        assert_eq!(bench.mounted(), 0);
        assert_eq!(bench.boot_code(0), ERASED.into());
    });
}

#[test]
fn mount_points_that_the_image_lacks_are_left_alone() {
    on_bench("mount_points_that_the_image_lacks_are_left_alone", 3, |bench| {
        let steps = vec![
            format("disk0", "root"),
            format("disk1", "data"),
            format("disk2", "home"),
            mount("root", "/"),
            mount("data", "/da[t]a"),
            mount("home", "/home"),
            pull(),
            seal(),
        ];
        let plan = bench.plan(&[("data", "/da[t]a"), ("home", "/home")], steps);
        let server = Server::default();
        bench.run(&plan, &server, &mut ignore).unwrap();
        let pulls = server.pulls.lock().unwrap();
        assert_eq!(pulls.len(), 1);
        assert_eq!((pulls[0].delete, pulls[0].exclude.clone()), (true, vec![BytePath::from("/da\\[t]a")]));
    });
}

#[test]
fn vanished_files_are_pulled_once_more_and_then_named() {
    for (name, vanishing, pulls, says) in [
        ("came back", 1, 2, None),
        ("vanish again", 2, 2, Some("1 files vanished on 10.0.0.1 while they were pulled by fake, twice: /var/log/x")),
    ] {
        on_bench("vanished_files_are_pulled_once_more_and_then_named", 1, |bench| {
            let server = Server { vanishing: Arc::new(Mutex::new(vanishing)), ..Server::default() };
            let plan = bench.plan(&[], vec![format("disk0", "root"), boot_code(), mount("root", "/"), pull(), seal()]);
            let result = bench.run(&plan, &server, &mut ignore);
            assert_eq!(server.pulls.lock().unwrap().len(), pulls, "{name}");
            match (says, result) {
                (None, result) => result.unwrap(),
                (Some(says), result) => {
                    let error = format!("{:#}", result.unwrap_err());
                    assert!(error.contains(says), "{name}: {error}");
                    assert_eq!(bench.boot_code(0), ERASED.into(), "{name}");
                }
            }
        });
    }
}

fn wipe(disks: &[&str]) -> Step {
    let disks: Vec<NodeName> = disks.iter().map(|it| node(it)).collect();
    Step::new(Phase::Partition, "wipe", Action::Wipe { disks: disks.clone() }).destroying(disks)
}

/// Runs a program of the machine on a disk; its output, or nothing if it failed or is not there.
fn on_disk(argv: &[&str], disk: &Path, input: &str) -> Option<String> {
    let cmd = Cmd::argv(argv.iter().map(std::ffi::OsStr::new).chain([disk.as_os_str()])).unwrap();
    cmd.stdin_bytes(input).read_string().ok()
}

/// What the low-level probe finds.
fn probed(disk: &Path) -> String {
    on_disk(&["blkid", "-p", "-o", "export"], disk, "").unwrap_or_default()
}

/// The superblock of an md array, version 1.2: 4 KiB into the device (Documentation/admin-guide/md.rst).
fn md_superblock(disk: &Path) {
    let mut block = [0; 4096];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &0xa92b_4efc_u32.to_le_bytes());
    put(4, &1_u32.to_le_bytes());
    put(16, b"0123456789abcdef");
    put(32, b"host:0");
    put(144, &8_u64.to_le_bytes());
    let file = std::fs::File::options().write(true).open(disk).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &block, 4096).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn what_stood_on_a_disk_is_gone() {
    let luks =
        ["cryptsetup", "luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    let rows: [(&str, &[&str], &str, &str); 5] = [
        ("an LVM label", &["pvcreate", "-y", "-q"], "", "TYPE=LVM2_member"),
        ("a LUKS header", &luks, "secret", "TYPE=crypto_LUKS"),
        ("a file system", &["mkfs.ext4", "-q", "-F"], "", "TYPE=ext4"),
        ("a table", &["sfdisk", "-q", "--no-reread", "--no-tell-kernel"], "label: gpt\nsize=4MiB\n", "PTTYPE=gpt"),
        ("an md superblock", &[], "", "TYPE=linux_raid_member"),
    ];
    for (name, argv, input, shows) in rows {
        on_bench("what_stood_on_a_disk_is_gone", 1, |bench| {
            let disk = bench.disks[0].path();
            if argv.is_empty() {
                md_superblock(disk);
            } else if on_disk(argv, disk, input).is_none() {
                eprintln!("SKIPPED: what_stood_on_a_disk_is_gone: {name}: {} is missing or fails here", argv[0]);
                return;
            }
            assert!(probed(disk).contains(shows), "{name}: {}", probed(disk));
            let mut ended = Vec::new();
            let plan =
                bench.plan(&[], vec![wipe(&["disk0"]), breaks(Phase::Format), mount("root", "/"), pull(), seal()]);
            let error = format!("{:#}", bench.run(&plan, &Server::default(), &mut |it| ended.push(it)).unwrap_err());
            assert!(error.contains("step 2 of 5"), "{name}: {error}");
            assert_eq!(probed(disk), "", "{name}");
            assert_eq!(bench.boot_code(0), ERASED.into(), "{name}");
            let said = format!("{ended:?}");
            assert!(said.contains("wipefs --all --quiet"), "{name}: {said}");
        });
    }
}

#[test]
fn a_disk_with_something_mounted_is_left_as_it_is() {
    on_bench("a_disk_with_something_mounted_is_left_as_it_is", 2, |bench| {
        let disk = bench.disks[1].path();
        on_disk(&["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0"], disk, "").unwrap();
        let place = bench.dir.path().join("data");
        std::fs::create_dir(&place).unwrap();
        let mounted = MountGuard::mount(disk, &place, "ext4", &["ro"]).unwrap();
        let before = (bench.contents(0), bench.contents(1));
        let steps = vec![wipe(&["disk0", "disk1"]), format("disk0", "root"), mount("root", "/"), pull(), seal()];
        let plan = bench.plan(&[("data", "/data")], steps);
        let error = format!("{:#}", bench.run(&plan, &Server::default(), &mut ignore).unwrap_err());
        let says =
            format!("nothing was written: {} is mounted on {}; unmount it first", disk.display(), place.display());
        assert!(error.contains(&says), "{error}");
        assert!(before == (bench.contents(0), bench.contents(1)), "the disks are as they were");
        assert_eq!(bench.journaled(), None);
        drop(mounted);
    });
}

#[test]
fn swap_on_a_disk_is_taken_off_first() {
    on_bench("swap_on_a_disk_is_taken_off_first", 1, |bench| {
        let disk = bench.disks[0].path();
        if on_disk(&["mkswap"], disk, "").is_none() || on_disk(&["swapon"], disk, "").is_none() {
            eprintln!("SKIPPED: swap_on_a_disk_is_taken_off_first: no swap can be had here");
            return;
        }
        let in_use = || std::fs::read_to_string("/proc/swaps").unwrap().contains(disk.to_str().unwrap());
        assert!(in_use());
        let plan = bench.plan(&[], vec![wipe(&["disk0"]), breaks(Phase::Format), mount("root", "/"), pull(), seal()]);
        let error = format!("{:#}", bench.run(&plan, &Server::default(), &mut ignore).unwrap_err());
        let still = in_use();
        if still {
            on_disk(&["swapoff"], disk, "");
        }
        assert!(!still && error.contains("step 2 of 5"), "{error}");
        assert_eq!(probed(disk), "");
    });
}
