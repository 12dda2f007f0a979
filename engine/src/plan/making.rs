//! What the plugins of file systems are asked when a file system is to be made. Pure.

use systemimager_core::contract::FileSystemMake;
use systemimager_core::{FileSystemLayout, Host, ImageFacts, Layout, NodeName, Registry, Size};

use super::serving;
use crate::store::master::{Master, NO_BOOTLOADER};

/// The request for one file system of a layout that was fitted to a machine's disks.
pub(super) fn request(master: &Master, layout: &Layout, fs: &FileSystemLayout, facts: &ImageFacts) -> FileSystemMake {
    // The one that holds the kernel.
    let booted = layout.mounted_at("/boot").or_else(|| layout.mounted_at("/")).map(|fs| &fs.node);
    let read = booted == Some(&fs.node) && master.bootloader != NO_BOOTLOADER;
    FileSystemMake {
        filesystem: fs.clone(),
        image: facts.clone(),
        boot_loader: read.then(|| master.bootloader.clone()),
        size: size_of(layout, &fs.on),
    }
}

/// Bytes of a partition, or of a disk.
fn size_of(layout: &Layout, node: &NodeName) -> Option<Size> {
    let disk = layout.disks.iter().find(|disk| disk.node == *node).map(|disk| disk.size);
    let mut partitions = layout.disks.iter().flat_map(|disk| &disk.partitions);
    disk.or_else(|| partitions.find(|partition| partition.node == *node)?.size)
}

/// The file systems of a master that no machine could have with this image, each by its index and why: what
/// `plan` would refuse on every machine. Types that no plugin serves are left out.
pub fn unmakable(master: &Master, facts: &ImageFacts, registry: &Registry, host: &dyn Host) -> Vec<(usize, String)> {
    let layout = &master.layout;
    let refused = |fs: &FileSystemLayout| {
        let (_, plugin) = serving(registry, host, &fs.kind).ok()?;
        // Sizes are those of the master client's disks; another disk's may do.
        let request = FileSystemMake { size: None, ..request(master, layout, fs, facts) };
        plugin.plan_make(host, request).err().map(|error| format!("file system {}: {error}", fs.node))
    };
    layout.filesystems.iter().enumerate().filter_map(|(index, fs)| Some((index, refused(fs)?))).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use systemimager_core::abi::{Identification, private::Instance};
    use systemimager_core::contract::{FileSystemDescribe, FileSystemFacts, FileSystemMount, FileSystemType};
    use systemimager_core::registry::Origin;
    use systemimager_core::testing::RecordedHost;
    use systemimager_core::{CONTRACT_VERSION, FileSystem, Kind, Needs, PluginError, Result, Role, Step};

    use super::*;
    use crate::store::master_text::{check_file_systems, parse};

    /// Knows no options, and wants to be larger than a size that it is told.
    struct Fake;

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
            if let Some(size) = request.size {
                return Err(PluginError::invalid(format!("{size} are too few")));
            }
            match (request.filesystem.options.keys().next(), request.image.arch.as_str()) {
                (Some(option), _) => Err(PluginError::invalid(format!("there is no option {option:?}; take it out"))),
                (None, "old") => Err(PluginError::invalid("the image's tools are too old")),
                (None, _) => Ok(Vec::new()),
            }
        }
        fn plan_mount(&self, _: &dyn Host, _: FileSystemMount) -> Result<Vec<Step>> {
            Ok(Vec::new())
        }
    }

    fn registry() -> Registry {
        let identification = Identification {
            id: "fake".into(),
            kind: Kind::FileSystem,
            about: String::new(),
            version: "1.0.0".into(),
            contract: CONTRACT_VERSION.into(),
            panic: "unwind".into(),
            arch: std::env::consts::ARCH.into(),
        };
        let mut registry = Registry::default();
        registry.add(identification, Origin::Linked, Instance::FileSystem(Box::new(Fake))).unwrap();
        registry
    }

    const MASTER: &str = r#"format = 1
image = "web"
transports = ["fake"]
partitioner = "fake"
bootloader = "loader"
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
type = "linux"
[[layout.disk]]
node = "disk1"
label = "none"
size = "2 GiB"
[[layout.filesystem]]
node = "data"
on = "disk1"
type = "fakefs"
options = { su = "64k" }
[[layout.filesystem]]
node = "root"
on = "disk0p1"
type = "fakefs"
[[layout.filesystem]]
node = "other"
on = "disk0p2"
type = "unserved"
[[layout.mount]]
node = "root"
at = "/"
"#;

    #[test]
    fn a_request_says_how_large_the_node_is_and_who_reads_it() {
        let master = parse(Path::new("web.master"), MASTER).unwrap();
        let rows = [(Some(Size(2 << 30)), None), (Some(Size(1 << 30)), Some("loader")), (None, None)];
        for (fs, expected) in master.layout.filesystems.iter().zip(rows) {
            let request = request(&master, &master.layout, fs, &ImageFacts::default());
            assert_eq!((request.size, request.boot_loader.as_deref()), expected, "{}", fs.node);
        }
    }

    #[test]
    fn what_no_machine_could_have_is_found_in_the_master() {
        let master = parse(Path::new("web.master"), MASTER).unwrap();
        let option = "web.master:25:1: file system data: there is no option \"su\"; take it out".to_owned();
        let old = "web.master:30:1: file system root: the image's tools are too old".to_owned();
        for (arch, expected) in [("new", vec![option.clone()]), ("old", vec![option, old])] {
            let facts = ImageFacts { arch: arch.into(), ..ImageFacts::default() };
            let faults = check_file_systems(&master, &facts, &registry(), Path::new("web.master"), MASTER);
            assert_eq!(faults, expected, "{arch}");
        }
        let host = RecordedHost::new();
        assert_eq!(unmakable(&master, &ImageFacts::default(), &Registry::default(), &host), []);
    }
}
