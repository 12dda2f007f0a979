//! Plans of invented plugins: order, refusals, what differs afterwards.

use std::collections::BTreeMap;

use systemimager_core::abi::Identification;
use systemimager_core::abi::private::Instance;
use systemimager_core::contract::{
    BootloaderDetect, FileSystemDescribe, FileSystemFacts, FileSystemType, IdentityDetect, IdentityWho,
    PartitionerCapture,
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
        Ok(vec![
            run(Phase::Format, "make", vec!["mkfs".into(), Arg::Device(fs.on.clone())])
                .destroying([fs.on])
                .providing([fs.node]),
        ])
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
        Ok(vec![
            run(Phase::Partition, "partition", vec!["part".into(), Arg::Device(disk.node.clone())])
                .destroying([disk.node])
                .providing(nodes),
        ])
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
[[layout.filesystem]]
node = "var"
on = "disk0p2"
type = "fakefs"
[[layout.filesystem]]
node = "root"
on = "disk0p1"
type = "fakefs"
[[layout.mount]]
node = "var"
at = "/var"
[[layout.mount]]
node = "root"
at = "/"
"#;

fn try_plan(master: &str, registry: &Registry, disk: BlockDevice, facts: ImageFacts) -> Result<Plan, PlanError> {
    let master = master_text::parse(std::path::Path::new("/m/web.master"), master).unwrap();
    let identity = Identity {
        name: HostName::try_from("www1").unwrap(),
        image: None,
        network: NetworkSettings::default(),
        found_in: "test".into(),
    };
    let hardware = Hardware { disks: vec![disk], ..Hardware::default() };
    let host = RecordedHost::new();
    plan(&PlanInput { master: &master, facts: &facts, hardware: &hardware, identity: &identity, registry, host: &host })
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
    ImageFacts { name: "web".into(), kernels: vec![kernel], ..ImageFacts::default() }
}

#[test]
fn steps_come_in_order_and_say_who_they_are_from() {
    let plan = try_plan(MASTER, &registry(None), disk(8), facts()).unwrap();
    let steps: Vec<String> =
        plan.steps.iter().map(|step| format!("{} {} ({})", step.phase.name(), step.what, step.by)).collect();
    assert_eq!(
        steps,
        [
            "partition partition (partitioner fake)",
            "format make (file-system fake)",
            "format make (file-system fake)",
            "mount mount (file-system fake)",
            "mount mount (file-system fake)",
            "pull pull the image web by fake (engine)",
            "identity name (host-identity fake)",
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
    assert!(matches!(&plan.steps[7].action, Action::InTarget { argv, .. } if argv[1] == Arg::from("ahci")));
    let changes: Vec<String> = plan.changes.iter().map(|it| format!("{} {:?}", it.path, it.extent)).collect();
    assert_eq!(changes, ["/boot Times", "/boot/loader Below", "/etc Times", "/etc/hostname Path"]);
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
    let bare = "format = 1\nimage = \"web\"\ntransports = [\"fake\"]\npartitioner = \"fake\"\nbootloader = \"fake\"\n\
                [identity]\nplugin = \"fake\"\n";
    let error = try_plan(bare, &registry(None), disk(8), facts()).unwrap_err();
    assert!(error.to_string().contains("has no disks: the image can be pulled but not installed"), "{error}");
}
