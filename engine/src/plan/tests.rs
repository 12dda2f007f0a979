//! Plans of invented plugins: order, refusals, what differs afterwards.

use std::collections::BTreeMap;

use systemimager_core::abi::Identification;
use systemimager_core::abi::private::Instance;
use systemimager_core::contract::{
    BootloaderDetect, FileSystemDescribe, FileSystemFacts, FileSystemMake, FileSystemType, IdentityDetect,
    IdentityScrub, IdentityWho, PartitionerCapture,
};
use systemimager_core::registry::Origin;
use systemimager_core::testing::RecordedHost;
use systemimager_core::*;

use super::*;
use crate::store::master_text;

struct Fake;

fn run(phase: Phase, what: &str, argv: Vec<Arg>) -> Step {
    Step::new(phase, what, Action::Run { argv, stdin: None })
}

impl Transport for Fake {
    fn capabilities(&self, _: &dyn Host, (): ()) -> Result<Capabilities> {
        Ok(Capabilities { reconciles: true, ..Capabilities::default() })
    }
    fn needs(&self, _: &dyn Host, _: Role) -> Result<Needs> {
        Ok(Needs::default())
    }
    fn offer(&self, _: &dyn Host, _: Offer) -> Result<Service> {
        Err(PluginError::unsupported("no"))
    }
    fn pull(&self, _: &dyn Host, _: PullRequest) -> Result<PullReport> {
        Err(PluginError::unsupported("no"))
    }
}

impl FileSystem for Fake {
    fn types(&self, _: &dyn Host, (): ()) -> Result<Vec<FileSystemType>> {
        Ok(vec![FileSystemType { name: "fakefs".into(), mountable: true }])
    }
    fn needs(&self, _: &dyn Host, _: Role) -> Result<Needs> {
        Ok(Needs::default())
    }
    fn describe(&self, _: &dyn Host, _: FileSystemDescribe) -> Result<FileSystemFacts> {
        Ok(FileSystemFacts::default())
    }
    fn plan_make(&self, _: &dyn Host, request: FileSystemMake) -> Result<Vec<Step>> {
        let fs = request.filesystem;
        let mut argv = vec!["mkfs".into(), Arg::Device(fs.on.clone())];
        argv.extend(request.boot_loader.map(|id| Arg::from(format!("for-{id}").as_str())));
        Ok(vec![run(Phase::Format, "make", argv).destroying([fs.on]).providing([fs.node])])
    }
    fn plan_mount(&self, _: &dyn Host, request: FileSystemMount) -> Result<Vec<Step>> {
        let mount = request.mount;
        let action =
            Action::Mount { node: mount.node, at: mount.at, fstype: request.filesystem.kind, options: String::new() };
        Ok(vec![Step::new(Phase::Mount, "mount", action)])
    }
}

impl Partitioner for Fake {
    fn labels(&self, _: &dyn Host, (): ()) -> Result<Vec<String>> {
        Ok(vec!["gpt".into()])
    }
    fn needs(&self, _: &dyn Host, _: Role) -> Result<Needs> {
        Ok(Needs::default())
    }
    fn capture(&self, _: &dyn Host, _: PartitionerCapture) -> Result<DiskLayout> {
        Err(PluginError::unsupported("no"))
    }
    fn fit(&self, _: &dyn Host, request: PartitionerFit) -> Result<DiskLayout> {
        let needed: u64 = request.layout.partitions.iter().filter_map(|it| it.size).map(|it| it.0).sum();
        if needed > request.disk.size.0 {
            return Err(PluginError::invalid(format!("needs {}, has {}", Size(needed), request.disk.size)));
        }
        Ok(request.layout)
    }
    fn plan(&self, _: &dyn Host, request: PartitionerPlan) -> Result<Vec<Step>> {
        let disk = request.layout;
        let nodes: Vec<_> = disk.partitions.iter().map(|it| it.node.clone()).collect();
        let (kept, new): (Vec<_>, Vec<_>) = disk.partitions.iter().partition(|it| it.preserve);
        let new = new.into_iter().map(|it| it.node.clone()).collect();
        let destroyed: Vec<_> = if kept.is_empty() { vec![disk.node.clone()] } else { new };
        let step = run(Phase::Partition, "partition", vec!["part".into(), Arg::Device(disk.node)]);
        Ok(vec![step.destroying(destroyed).providing(nodes)])
    }
}

impl Bootloader for Fake {
    fn needs(&self, _: &dyn Host, _: Role) -> Result<Needs> {
        Ok(Needs::default())
    }
    fn detect(&self, _: &dyn Host, _: BootloaderDetect) -> Result<Option<BTreeMap<String, String>>> {
        Ok(None)
    }
    fn plan(&self, _: &dyn Host, request: BootloaderPlan) -> Result<BootPlan> {
        let BootTarget::Disk { disks, missing_modules, .. } = request.target else {
            return Err(PluginError::unsupported("disks only"));
        };
        let mut argv: Vec<Arg> = missing_modules.iter().map(|it| Arg::from(it.as_str())).collect();
        argv.insert(0, "boot".into());
        argv.extend(disks.into_iter().map(Arg::Device));
        let step = Step::new(Phase::Boot, "boot", Action::InTarget { argv, stdin: None });
        Ok(BootPlan { steps: vec![step.writing([Written::below("/boot/loader")])], boot_files: vec![] })
    }
}

impl HostIdentity for Fake {
    fn needs(&self, _: &dyn Host, _: Role) -> Result<Needs> {
        Ok(Needs::default())
    }
    fn who(&self, _: &dyn Host, _: IdentityWho) -> Result<Option<Identity>> {
        Ok(None)
    }
    fn detect(&self, _: &dyn Host, _: IdentityDetect) -> Result<BTreeMap<String, String>> {
        Ok(BTreeMap::new())
    }
    fn plan_write(&self, _: &dyn Host, request: IdentityWrite) -> Result<Vec<Step>> {
        let contents = Contents::Bytes(format!("{}\n", request.identity.name).into());
        let action = Action::WriteFile { path: "/etc/hostname".into(), contents, mode: 0o644 };
        Ok(vec![Step::new(Phase::Identity, "name", action)])
    }
    /// Removes the file that is named by the fact `scrub`; `none`: it is a plugin that scrubs nothing.
    fn plan_scrub(&self, _: &dyn Host, request: IdentityScrub) -> Result<Vec<Step>> {
        let facts = request.image.identity.get("fake").cloned().unwrap_or_default();
        match facts.get("scrub").map(String::as_str) {
            None => Ok(Vec::new()),
            Some("none") => Err(PluginError::unsupported("it does not do that")),
            Some(path) => {
                let who = request.identity.map(|it| it.name.to_string()).unwrap_or_default();
                let what = format!("scrub [{}] for {who}", request.what.join(","));
                Ok(vec![Step::new(Phase::Identity, what, Action::Remove { path: path.into() })])
            }
        }
    }
}

fn registry(without: Option<Kind>) -> Registry {
    let mut registry = Registry::default();
    for kind in Kind::ALL {
        let instance = match kind {
            Kind::Transport => Instance::Transport(Box::new(Fake)),
            Kind::FileSystem => Instance::FileSystem(Box::new(Fake)),
            Kind::Partitioner => Instance::Partitioner(Box::new(Fake)),
            Kind::Bootloader => Instance::Bootloader(Box::new(Fake)),
            Kind::HostIdentity => Instance::HostIdentity(Box::new(Fake)),
        };
        let identification = Identification {
            id: "fake".into(),
            kind,
            about: String::new(),
            version: "1.0.0".into(),
            contract: CONTRACT_VERSION.into(),
            panic: "unwind".into(),
            arch: std::env::consts::ARCH.into(),
        };
        if without != Some(kind) {
            registry.add(identification, Origin::Linked, instance).unwrap();
        }
    }
    registry
}

const MASTER: &str = r#"
format = 1
image = "web"
transports = ["fake"]
partitioner = "fake"
bootloader = "fake"
[identity]
plugin = "fake"
[[layout.disk]]
node = "disk0"
label = "gpt"
size = "4 GiB"
[[layout.disk.partition]]
node = "disk0p1"
number = 1
size = "1 GiB"
type = "linux"
[[layout.disk.partition]]
node = "disk0p2"
number = 2
size = "2 GiB"
type = "linux"
name = "data"
uuid = "0F-aB"
[[layout.filesystem]]
node = "var"
on = "disk0p2"
type = "fakefs"
label = "var"
[[layout.filesystem]]
node = "root"
on = "disk0p1"
type = "fakefs"
uuid = "1-2"
[[layout.mount]]
node = "var"
at = "/var"
[[layout.mount]]
node = "root"
at = "/"
"#;

const BARE: &str = "format = 1\nimage = \"web\"\ntransports = [\"fake\"]\npartitioner = \"fake\"\nbootloader = \"fake\"\n\
                    [identity]\nplugin = \"fake\"\n";

fn try_plan(master: &str, registry: &Registry, disk: BlockDevice, facts: ImageFacts) -> Result<Plan, PlanError> {
    try_disks(master, registry, vec![disk], facts)
}

fn try_disks(master: &str, registry: &Registry, disks: Vec<BlockDevice>, facts: ImageFacts) -> Result<Plan, PlanError> {
    let master = master_text::parse(std::path::Path::new("/m/web.master"), master).unwrap();
    let identity = Identity {
        name: HostName::try_from("www1").unwrap(),
        image: None,
        network: NetworkSettings::default(),
        found_in: "test".into(),
    };
    let hardware = Hardware { disks, ..Hardware::default() };
    let host = RecordedHost::new();
    plan(&PlanInput {
        master: &master,
        facts: &facts,
        hardware: &hardware,
        identity: &identity,
        registry,
        host: &host,
        overrides: &[],
    })
}

fn disk(gib: u64) -> BlockDevice {
    BlockDevice {
        name: "sda".into(),
        path: "/dev/sda".into(),
        size: Size(gib << 30),
        drivers: vec!["ahci".into()],
        ..BlockDevice::default()
    }
}

fn facts() -> ImageFacts {
    let kernel = Kernel {
        release: "6.1".into(),
        initramfs: Some("/boot/initrd".into()),
        initramfs_modules: Some(vec!["virtio_blk".into()]),
        storage_aliases: vec![("pci:*".into(), "ahci".into())],
        ..Kernel::default()
    };
    ImageFacts {
        name: "web".into(),
        kernels: vec![kernel],
        has_init: true,
        has_fstab: true,
        fstab: vec![entry("UUID=1-2", "/", "fakefs", ""), entry("LABEL=var", "/var", "fakefs", "")],
        ..ImageFacts::default()
    }
}

fn entry(spec: &str, file: &str, fstype: &str, options: &str) -> FstabEntry {
    FstabEntry {
        spec: spec.into(),
        file: file.into(),
        fstype: fstype.into(),
        options: options.split(',').map(str::to_owned).collect(),
    }
}

#[test]
fn steps_come_in_order_and_say_who_they_are_from() {
    let plan = try_plan(MASTER, &registry(None), disk(8), facts()).unwrap();
    let steps: Vec<String> =
        plan.steps.iter().map(|step| format!("{} {} ({})", step.phase.name(), step.what, step.by)).collect();
    assert_eq!(
        steps,
        [
            "partition take apart what stands on disk0 and erase its signatures (engine)",
            "partition partition (partitioner fake)",
            "format make (file-system fake)",
            "format make (file-system fake)",
            "mount mount (file-system fake)",
            "mount mount (file-system fake)",
            "pull pull the image web by fake (engine)",
            "identity name (host-identity fake)",
            "identity write down which image it is, for updates (engine)",
            "boot boot (bootloader fake)",
            "finish check the target, write everything out, unmount (engine)",
        ]
    );
    let places = plan.steps.iter().filter_map(|it| match &it.action {
        Action::Mount { at, .. } => Some(at.to_string()),
        _ => None,
    });
    assert_eq!(places.collect::<Vec<_>>(), ["/", "/var"]);
    // The initramfs lacks this machine's driver, so the boot loader is told.
    assert!(matches!(&plan.steps[9].action, Action::InTarget { argv, .. } if argv[1] == Arg::from("ahci")));
    let changes: Vec<String> = plan.changes.iter().map(|it| format!("{} {:?}", it.path, it.extent)).collect();
    let own = ["/var/lib Times", "/var/lib/systemimager Below"];
    assert_eq!(
        changes,
        [&["/boot Times", "/boot/loader Below", "/etc Times", "/etc/hostname Path"][..], &own].concat()
    );
}

#[test]
fn what_clones_must_not_share_is_scrubbed_first() {
    let with = |fact: &str| ImageFacts {
        identity: [("fake".to_owned(), [("scrub".to_owned(), fact.to_owned())].into())].into(),
        ..facts()
    };
    let master = |scrub: &str| MASTER.replace("plugin = \"fake\"\n", &format!("plugin = \"fake\"\n{scrub}\n"));
    type Row<'a> = (&'a str, &'a str, &'a str, Result<(&'a [&'a str], Option<&'a str>), &'a str>);
    let rows: [Row<'_>; 6] = [
        ("all of it", "", "/etc/key", Ok((&["scrub [] for www1", "name"], None))),
        ("a list", "scrub = [\"a\", \"b\"]", "/etc/key", Ok((&["scrub [a,b] for www1", "name"], None))),
        ("nothing", "scrub = []", "/etc/key", Ok((&["name"], Some("web.master says scrub = []: machines with this")))),
        (
            "a plugin that does not",
            "",
            "none",
            Ok((&["name"], Some("the identity plugin fake scrubs nothing (it does not do that): machines"))),
        ),
        ("and is asked to", "scrub = [\"a\"]", "none", Err("scrubbing what www1 must not share: it does not do that")),
        ("nothing, by one that does not", "scrub = []", "none", Ok((&["name"], Some("web.master says scrub = []")))),
    ];
    for (name, scrub, fact, expected) in rows {
        match (try_plan(&master(scrub), &registry(None), disk(8), with(fact)), expected) {
            (Ok(plan), Ok((steps, warning))) => {
                let identity = plan.steps.iter().filter(|it| it.phase == Phase::Identity && it.by != "engine");
                assert_eq!(identity.map(|step| step.what.as_str()).collect::<Vec<_>>(), steps, "{name}");
                let warned = plan.warnings.iter().filter(|it| warning.is_some_and(|says| it.starts_with(says))).count();
                assert_eq!((warned, plan.warnings.len()), (usize::from(warning.is_some()), warned), "{name}");
                let removed = Changed { path: "/etc/key".into(), extent: Extent::Path };
                assert_eq!(plan.changes.contains(&removed), steps.len() == 2, "{name}");
            }
            (Err(error), Err(says)) => assert_eq!(error.problems, [says], "{name}"),
            (got, _) => panic!("{name}: {got:?}"),
        }
    }
}

#[test]
fn selinux_has_the_files_labelled_again() {
    let plan = try_plan(MASTER, &registry(None), disk(8), ImageFacts { selinux: true, ..facts() }).unwrap();
    assert!(plan.changes.contains(&Changed { path: "/.autorelabel".into(), extent: Extent::Path }));
}

#[test]
fn every_problem_is_named_before_anything_is_touched() {
    let no_kernel = ImageFacts { kernels: vec![], ..facts() };
    let undriven = BlockDevice { drivers: vec!["hpsa".into()], ..disk(8) };
    type Row<'a> = (&'a str, &'a str, Option<Kind>, BlockDevice, ImageFacts, &'a str);
    let rows: [Row<'_>; 9] = [
        (
            "disk too small",
            MASTER,
            None,
            disk(2),
            facts(),
            "disk0 on /dev/sda (unnamed, 2 GiB, unknown bus): needs 3 GiB, has 2 GiB",
        ),
        ("no transport", MASTER, Some(Kind::Transport), disk(8), facts(), "no transport plugin \"fake\""),
        (
            "no file system",
            MASTER,
            Some(Kind::FileSystem),
            disk(8),
            facts(),
            "no plugin serves the file system type fakefs",
        ),
        ("no partitioner", MASTER, Some(Kind::Partitioner), disk(8), facts(), "no partitioner plugin \"fake\""),
        ("no boot loader", MASTER, Some(Kind::Bootloader), disk(8), facts(), "no bootloader plugin \"fake\""),
        ("no identity", MASTER, Some(Kind::HostIdentity), disk(8), facts(), "no host-identity plugin \"fake\""),
        ("no kernel", MASTER, None, disk(8), no_kernel, "the image web has no kernel"),
        (
            "no driver",
            MASTER,
            None,
            undriven,
            facts(),
            "has no driver for /dev/sda (unnamed, 8 GiB, unknown bus): it needs hpsa",
        ),
        ("too full", MASTER, None, disk(8), ImageFacts { bytes: Size(4 << 30), ..facts() }, "take 4096 MiB"),
    ];
    for (name, master, without, disk, facts, says) in rows {
        let error = try_plan(master, &registry(without), disk, facts).unwrap_err();
        assert!(error.problems.iter().any(|it| it.contains(says)), "{name}: {error}");
    }
}

/// The problems; those of a plan that is made are none.
fn problems(master: &str, disks: Vec<BlockDevice>, facts: ImageFacts) -> Vec<String> {
    try_disks(master, &registry(None), disks, facts).map_or_else(|error| error.problems, |_| Vec::new())
}

#[test]
fn one_problem_does_not_hide_the_others() {
    // The disk is too small, its driver is nowhere, plugins are absent, nothing would start.
    let undriven = BlockDevice { drivers: vec!["hpsa".into()], ..disk(2) };
    let master =
        MASTER.replacen("type = \"fakefs\"", "type = \"zfs\"", 1).replace("plugin = \"fake\"", "plugin = \"x\"");
    let master = master.replace("bootloader = \"fake\"", "bootloader = \"lilo\"");
    let found = problems(&master, vec![undriven], ImageFacts { has_init: false, ..facts() });
    let says = [
        "disk0 on /dev/sda (unnamed, 2 GiB, unknown bus): needs 3 GiB",
        "no plugin serves the file system type zfs",
        "identity of www1: ",
        "has none of /sbin/init, ",
        "as fakefs, and the layout makes it zfs: ",
        "it needs hpsa",
        "boot loader: ",
    ];
    assert_eq!(found.len(), says.len(), "{found:#?}");
    for (problem, says) in found.iter().zip(says) {
        assert!(problem.contains(says), "{problem:?}, expected {says:?}");
    }
    // Nothing but the problem itself where others would only follow from it.
    for (name, found, says) in [
        ("no disk", problems(MASTER, vec![], facts()), "no disk was found at all"),
        ("too small", problems(MASTER, vec![disk(2)], ImageFacts { bytes: Size(4 << 30), ..facts() }), "needs 3 GiB"),
        (
            "no layout",
            problems(BARE, vec![disk(8)], facts()),
            "has no disks: the image can be pulled but not installed",
        ),
    ] {
        assert!(found.len() == 1 && found[0].contains(says), "{name}: {found:#?}");
    }
}

#[test]
fn an_image_that_would_not_come_up_is_refused() {
    let rows: [(&str, ImageFacts, &str); 2] = [
        ("no init", ImageFacts { has_init: false, ..facts() }, "the image web has none of /sbin/init, /usr/sbin/init"),
        (
            "no fstab",
            ImageFacts { has_fstab: false, fstab: vec![], ..facts() },
            "the image web has no /etc/fstab: a machine would not mount its file systems",
        ),
    ];
    let mut cannot = facts();
    cannot.kernels[0].filesystem_aliases = vec![("fs-ext4".into(), "ext4".into())];
    (cannot.kernels[0].has_modules, cannot.kernels[0].builtin_aliases) = (true, true);
    for (name, facts, says) in rows {
        let found = problems(MASTER, vec![disk(8)], facts);
        assert!(found.len() == 1 && found[0].starts_with(says), "{name}: {found:?}");
    }
    // Of each file system that is mounted, in the order of the master.
    let found = problems(MASTER, vec![disk(8)], cannot);
    for (found, at) in found.iter().zip(["/var", "/"]) {
        let says = format!("the image's kernel 6.1 cannot mount {at}: it has no driver for the file system fakefs");
        assert!(found.starts_with(&says), "{at}: {found}");
    }
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn each_entry_of_fstab_is_judged() {
    let dos = MASTER.replace("label = \"gpt\"", "label = \"dos\"\nid = \"0xAB12CD\"");
    let swap = "[[layout.disk.partition]]\nnode = \"disk0p3\"\nnumber = 3\nsize = \"1 GiB\"\ntype = \"swap\"\n\
                [[layout.filesystem]]\nnode = \"swap\"\non = \"disk0p3\"\ntype = \"swap\"\nuuid = \"5-6\"\n\
                [[layout.filesystem]]\nnode = \"var\"";
    let swap =
        MASTER.replace("[[layout.filesystem]]\nnode = \"var\"", swap).replace("type = \"swap\"", "type = \"fakefs\"");
    let vfat = MASTER.replace("\"1-2\"", "\"ab-cd\"");
    let fresh = MASTER.replace("uuid = \"1-2\"", "uuid = \"1-2\"\nnew_uuid = true");
    let not_made = "which the layout does not make; add it to the layout in the master file";
    let kernel_name = "a kernel's name, which is another disk's on another machine; write";
    let rows: [(&str, &str, FstabEntry, Option<&str>); 34] = [
        ("UUID", MASTER, entry("UUID=1-2", "/", "fakefs", "defaults"), None),
        ("UUID in capitals", &vfat, entry("UUID=AB-CD", "/", "fakefs", "defaults"), None),
        ("by udev's link", MASTER, entry("/dev/disk/by-uuid/1-2", "/", "fakefs", "defaults"), None),
        ("LABEL", MASTER, entry("LABEL=var", "/var", "fakefs", "defaults"), None),
        ("PARTUUID", MASTER, entry("PARTUUID=0f-Ab", "/var", "fakefs", "defaults"), None),
        ("PARTUUID of dos", &dos, entry("PARTUUID=00ab12cd-02", "/var", "fakefs", "defaults"), None),
        ("PARTLABEL", MASTER, entry("PARTLABEL=data", "/var", "fakefs", "defaults"), None),
        ("tmpfs", MASTER, entry("tmpfs", "/tmp", "tmpfs", "nosuid"), None),
        ("proc", MASTER, entry("proc", "/proc", "proc", ""), None),
        ("nfs", MASTER, entry("srv:/home", "/home", "nfs", ""), None),
        ("cifs", MASTER, entry("//dev/share", "/share", "cifs", ""), None),
        ("swap file", MASTER, entry("/swapfile", "none", "swap", "sw"), None),
        ("bind mount", MASTER, entry("/srv/x", "/x", "none", "bind"), None),
        ("compressed memory", MASTER, entry("/dev/zram0", "none", "swap", ""), None),
        ("mapper", MASTER, entry("/dev/mapper/vg-x", "/x", "fakefs", ""), None),
        ("unknown, noauto", MASTER, entry("UUID=9", "/x", "fakefs", "rw,noauto"), None),
        ("unknown, nofail", MASTER, entry("PARTUUID=9", "/x", "fakefs", "nofail"), None),
        ("device, noauto", MASTER, entry("/dev/sr0", "/media", "udf,iso9660", "user,noauto"), None),
        ("unknown UUID", MASTER, entry("UUID=9", "/x", "fakefs", ""), Some(not_made)),
        ("its link", MASTER, entry("/dev/disk/by-uuid/9", "/x", "fakefs", ""), Some(not_made)),
        ("unknown swap", MASTER, entry("UUID=9", "none", "swap", "sw"), Some(not_made)),
        ("unknown LABEL", MASTER, entry("LABEL=Var", "/x", "fakefs", ""), Some(not_made)),
        ("unknown PARTUUID", MASTER, entry("PARTUUID=00ab12cd-02", "/x", "fakefs", ""), Some(not_made)),
        ("unknown number of dos", &dos, entry("PARTUUID=00ab12cd-03", "/x", "fakefs", ""), Some(not_made)),
        ("unknown PARTLABEL", MASTER, entry("PARTLABEL=x", "/x", "fakefs", ""), Some(not_made)),
        ("device", MASTER, entry("/dev/sda2", "/x", "fakefs", "defaults"), Some(kernel_name)),
        ("device of the root", MASTER, entry("/dev/sda1", "/", "fakefs", ""), Some("write UUID=1-2 in its place")),
        ("device of swap", &swap, entry("/dev/sda3", "none", "swap", "sw"), Some("write UUID= in its place")),
        (
            "new_uuid",
            &fresh,
            entry("UUID=1-2", "/", "fakefs", ""),
            Some("and the layout has new_uuid = true for root: "),
        ),
        (
            "new_uuid, nofail",
            &fresh,
            entry("UUID=1-2", "/", "fakefs", "nofail"),
            Some("remove new_uuid from the master"),
        ),
        ("another type", MASTER, entry("UUID=1-2", "/", "ext4", ""), Some("as ext4, and the layout makes it fakefs: ")),
        ("another type, by label", MASTER, entry("LABEL=var", "/var", "xfs,jfs", ""), Some("(for /var), as xfs,jfs")),
        ("any type", MASTER, entry("UUID=1-2", "/", "auto", ""), None),
        ("new_uuid, not named", &fresh, entry("LABEL=var", "/var", "fakefs", ""), None),
    ];
    for (name, master, entry, expected) in rows {
        let spec = entry.spec.clone();
        let found = problems(master, vec![disk(8)], ImageFacts { fstab: vec![entry], ..facts() });
        match expected {
            None => assert!(found.is_empty(), "{name}: {found:?}"),
            Some(says) => {
                assert!(found.len() == 1 && found[0].contains(says), "{name}: {found:?}");
                assert!(
                    found[0].starts_with(&format!("the image's /etc/fstab names {spec} (for ")),
                    "{name}: {found:?}"
                );
            }
        }
    }
}

#[test]
fn what_may_be_wrong_is_a_warning() {
    let warnings = |master: &str, disks: Vec<BlockDevice>, facts| {
        let plan = try_disks(master, &registry(None), disks, facts);
        plan.unwrap_or_else(|error| panic!("{error}")).warnings
    };
    assert_eq!(warnings(MASTER, vec![disk(8)], facts()), Vec::<String>::new());
    let other = BlockDevice { name: "sdb".into(), path: "/dev/sdb".into(), ..disk(16) };
    let ordered = MASTER.replacen("[[layout.disk.partition]]", "match = { order = 0 }\n[[layout.disk.partition]]", 1);
    assert_ne!(ordered, MASTER);
    let no_loader = MASTER.replace("bootloader = \"fake\"", "bootloader = \"none\"");
    let mapper = vec![
        entry("UUID=1-2", "/", "fakefs", ""),
        entry("LABEL=var", "/var/", "auto", ""),
        entry("/dev/vg/x", "/x", "x", ""),
    ];
    for (name, found, says) in [
        (
            "two disks",
            warnings(&ordered, vec![disk(8), other], facts()),
            "disk0 is /dev/sda (unnamed, 8 GiB, unknown bus), chosen by order; /dev/sdb (unnamed, 16 GiB, unknown bus) \
             would fit too: name it by serial, wwn or path in the master file",
        ),
        (
            "not in fstab",
            warnings(
                MASTER,
                vec![disk(8)],
                ImageFacts { fstab: vec![entry("UUID=1-2", "/", "fakefs", "")], ..facts() },
            ),
            "web.master mounts var at /var, and the image's /etc/fstab has no entry for it",
        ),
        (
            "a device of no layout",
            warnings(MASTER, vec![disk(8)], ImageFacts { fstab: mapper, ..facts() }),
            "the image's /etc/fstab names /dev/vg/x (for /x), a device that the layout does not make",
        ),
        (
            "drivers not known",
            warnings(MASTER, vec![BlockDevice { drivers: vec![], ..disk(8) }], facts()),
            "whether the image's kernel 6.1 drives /dev/sda (unnamed, 8 GiB, unknown bus) is not known",
        ),
    ] {
        assert!(found.len() == 1 && found[0].starts_with(says), "{name}: {found:?}");
    }
    let found = warnings(&no_loader, vec![disk(8)], facts());
    assert!(found.iter().any(|it| it.contains("lacks ahci, which this machine needs")), "{found:?}");
}

#[test]
fn an_initramfs_that_cannot_be_read_counts_as_empty() {
    let facts = |tool: Option<&str>, builtin: &[&str]| {
        let mut facts = ImageFacts { initramfs_tool: tool.map(str::to_owned), ..facts() };
        facts.kernels[0].initramfs_modules = None;
        facts.kernels[0].builtin = builtin.iter().map(|it| (*it).to_owned()).collect();
        facts
    };
    let plan = try_plan(MASTER, &registry(None), disk(8), facts(Some("dracut"), &[])).unwrap();
    assert!(matches!(&plan.steps[9].action, Action::InTarget { argv, .. } if argv[1] == Arg::from("ahci")));
    assert!(
        plan.warnings[0].contains("made anew with all that this machine's disks need (ahci)"),
        "{:?}",
        plan.warnings
    );
    assert_eq!(
        problems(MASTER, vec![disk(8)], facts(None, &[])),
        ["the initramfs /boot/initrd could not be read, and the image has no tool to make it anew with ahci for \
          /dev/sda (unnamed, 8 GiB, unknown bus); install initramfs-tools, dracut or mkinitcpio on the master client, \
          and capture it again"]
    );
    // All that the disk needs is built in.
    let plan = try_plan(MASTER, &registry(None), disk(8), facts(None, &["ahci"])).unwrap();
    assert!(plan.warnings[0].contains("no driver of this machine's disks is known to have to be in it"));
}

#[test]
fn what_is_enough_is_what_can_be_chosen() {
    let layout = master_text::parse(std::path::Path::new("/m/web.master"), MASTER).unwrap().layout;
    assert!(!enough(&layout, &[]));
    assert!(enough(&layout, &[disk(8)]));
    assert!(!enough(&layout, &[BlockDevice { read_only: true, ..disk(8) }]));
    let second = layout.disks[0].clone();
    let two = Layout {
        disks: vec![second.clone(), DiskLayout { node: NodeName::try_from("d1").unwrap(), ..second }],
        ..layout
    };
    assert!(!enough(&two, &[disk(8)]));
    assert!(enough(&two, &[disk(8), BlockDevice { name: "sdb".into(), ..disk(8) }]));
}

#[test]
fn the_file_system_of_the_kernel_is_made_for_the_boot_loader() {
    let with_boot = MASTER.replace("at = \"/var\"", "at = \"/boot\"");
    let without = MASTER.replace("bootloader = \"fake\"", "bootloader = \"none\"");
    for (name, master, expected) in [
        ("the root", MASTER, [None, Some("root")]),
        ("a /boot of its own", with_boot.as_str(), [Some("var"), None]),
        ("no boot loader", without.as_str(), [None, None]),
    ] {
        let mut facts = facts();
        if name == "a /boot of its own" {
            facts.fstab[1].file = "/boot".into();
        }
        let plan = try_plan(master, &registry(None), disk(8), facts).unwrap();
        for (fs, on, expected) in [("var", "disk0p2", expected[0]), ("root", "disk0p1", expected[1])] {
            let device = Arg::Device(NodeName::try_from(on).unwrap());
            let made = plan.steps.iter().find_map(|step| match &step.action {
                Action::Run { argv, .. } if step.phase == Phase::Format && argv.contains(&device) => Some(argv),
                _ => None,
            });
            let made = made.unwrap_or_else(|| panic!("{name}: {fs} is made"));
            assert_eq!(made.contains(&Arg::from("for-fake")), expected.is_some(), "{name}: {fs}");
        }
    }
}

#[test]
fn what_is_preserved_is_neither_made_nor_mounted() {
    let master = MASTER.replace("name = \"data\"", "preserve = true").replace("at = \"/var\"", "at = \"/srv\"");
    let data = PartitionInfo {
        name: "sda2".into(),
        number: 2,
        start: Size(3 << 30),
        size: Size(2 << 30),
        kind: "linux".into(),
        signatures: vec![Signature { kind: "fakefs".into(), uuid: "v-9".into(), ..Signature::default() }],
        ..PartitionInfo::default()
    };
    let there = || BlockDevice { looked_at: true, table: "gpt".into(), partitions: vec![data.clone()], ..disk(8) };
    let facts = ImageFacts { fstab: vec![entry("UUID=1-2", "/", "fakefs", "")], bytes: Size(1 << 30), ..facts() };
    let plan = try_plan(&master, &registry(None), there(), facts.clone()).unwrap();
    let steps: Vec<&str> = plan.steps.iter().map(|step| step.what.as_str()).collect();
    let expected = [
        "take apart what stands on disk0 and erase its signatures, all but disk0p2",
        "partition",
        "make",
        "mount",
        "pull the image web by fake",
        "name",
        "write down which image it is, for updates",
        "have the mount point /srv of the preserved disk0p2",
        "have /etc/fstab name the preserved disk0p2",
        "boot",
        "check the target, write everything out, unmount",
    ];
    assert_eq!(steps, expected);
    assert!(plan.changes.iter().any(|it| it.path == "/etc/fstab".into() && it.extent == Extent::Path));
    let disk = "disk0 = /dev/sda (unnamed, 8 GiB, unknown bus); partition 2 (disk0p2) stays as it is";
    assert_eq!(plan.destroyed(), [disk]);
    assert!(plan.warnings.iter().all(|it| !it.contains("/srv")), "{:?}", plan.warnings);
    // It holds nothing of the image.
    let large = ImageFacts { bytes: Size((1 << 30) + 1), ..facts.clone() };
    let error = try_plan(&master, &registry(None), there(), large).unwrap_err();
    assert!(error.problems.len() == 1 && error.problems[0].contains("hold 1024 MiB together"), "{error}");
    // A misfit is told without what would only follow from it.
    let gone = BlockDevice { partitions: vec![], ..there() };
    let error = try_plan(&master, &registry(None), gone, facts).unwrap_err();
    assert!(
        error.problems.len() == 1 && error.problems[0].contains("there is no partition with the number 2"),
        "{error}"
    );
}
