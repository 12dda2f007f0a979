//! What several targets need: inputs of several parts, the plugins, a host that answers everything alike.

use std::cell::RefCell;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;

use systemimager_core::abi::Identification;
use systemimager_core::abi::private::Instance;
use systemimager_core::registry::Origin;
use systemimager_core::{
    BlockDevice, BytePath, Bytes, CONTRACT_VERSION, Chunk, ErrorKind, Exit, Host, HostName, Identity, Kind, Level,
    NetworkSettings, NodeName, Place, PluginError, ProcessId, Progress, Registry, Result, Spawn, ToolOutput,
};

/// The line between the parts of an input.
const BETWEEN: &[u8] = b"\n%%\n";

/// The parts of an input; at least one.
pub fn parts(data: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = data;
    while let Some(at) = rest.windows(BETWEEN.len()).position(|window| window == BETWEEN) {
        let (part, after) = rest.split_at(at);
        parts.push(part);
        rest = &after[BETWEEN.len()..];
    }
    parts.push(rest);
    parts
}

/// The parts of an input that is text.
pub fn texts(data: &[u8]) -> Option<Vec<&str>> {
    parts(data).into_iter().map(|part| std::str::from_utf8(part).ok()).collect()
}

/// A host where each file and each program's output is the same bytes.
#[derive(Default)]
pub struct Same {
    /// The bytes.
    pub bytes: Vec<u8>,
}

fn no<T>() -> Result<T> {
    Err(PluginError::new(ErrorKind::Denied, "not while fuzzing"))
}

impl Host for Same {
    fn read(&self, _: &Place, _: &BytePath) -> Result<Bytes> {
        Ok(Bytes(self.bytes.clone()))
    }
    fn list(&self, _: &Place, _: &BytePath) -> Result<Vec<BytePath>> {
        no()
    }
    fn run(&self, _: &str, _: &[BytePath]) -> Result<ToolOutput> {
        Ok(ToolOutput { stdout: Bytes(self.bytes.clone()), ..ToolOutput::default() })
    }
    fn block_devices(&self) -> Result<Vec<BlockDevice>> {
        no()
    }
    fn log(&self, _: Level, _: &str) {}
    fn progress(&self, _: &Progress) {}
    fn cancelled(&self) -> bool {
        false
    }
    fn spawn(&self, _: &Spawn) -> Result<ProcessId> {
        no()
    }
    fn read_output(&self, _: ProcessId, _: u32) -> Result<Chunk> {
        no()
    }
    fn wait(&self, _: ProcessId) -> Result<Exit> {
        no()
    }
    fn stop(&self, _: ProcessId) -> Result<()> {
        no()
    }
}

/// All plugins that come with the system.
///
/// # Panics
/// Two of them have one name.
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    let all: [(&str, Kind, Instance); 10] = [
        ("rsync", Kind::Transport, Instance::Transport(Box::new(transport_rsync::Rsync))),
        ("ext2", Kind::FileSystem, Instance::FileSystem(Box::new(fs_ext2::Ext2))),
        ("reiserfs", Kind::FileSystem, Instance::FileSystem(Box::new(fs_reiserfs::Reiserfs))),
        ("vfat", Kind::FileSystem, Instance::FileSystem(Box::new(fs_vfat::Vfat))),
        ("swap", Kind::FileSystem, Instance::FileSystem(Box::new(fs_swap::Swap))),
        ("sfdisk", Kind::Partitioner, Instance::Partitioner(Box::new(part_sfdisk::Sfdisk))),
        ("grub", Kind::Bootloader, Instance::Bootloader(Box::new(boot_grub::Grub))),
        ("lilo", Kind::Bootloader, Instance::Bootloader(Box::new(boot_lilo::Lilo))),
        ("pxelinux", Kind::Bootloader, Instance::Bootloader(Box::new(boot_pxelinux::Pxelinux))),
        ("hosts", Kind::HostIdentity, Instance::HostIdentity(Box::new(identity_hosts::Hosts))),
    ];
    for (id, kind, instance) in all {
        let identification = Identification {
            id: id.into(),
            kind,
            about: String::new(),
            version: "1.0.0".into(),
            contract: CONTRACT_VERSION.into(),
            panic: "unwind".into(),
            arch: std::env::consts::ARCH.into(),
        };
        registry.add(identification, Origin::Linked, instance).expect("each has a name of its own");
    }
    registry
}

/// The same plugins each time: making them is most of the time of a short run.
pub fn with_registry<T>(work: impl FnOnce(&Registry) -> T) -> T {
    thread_local! {
        static REGISTRY: Registry = registry();
    }
    REGISTRY.with(work)
}

/// A node's name that is valid.
///
/// # Panics
/// It is none.
pub fn node(name: &str) -> NodeName {
    NodeName::try_from(name).expect("a name of a node")
}

/// Somebody, with an address.
///
/// # Panics
/// Never.
pub fn somebody() -> Identity {
    let network = NetworkSettings {
        mac: "52:54:00:00:00:01".into(),
        interface: "eth0".into(),
        address: "10.0.0.11".parse().ok(),
        prefix: Some(24),
        router: "10.0.0.1".parse().ok(),
        name_servers: vec!["10.0.0.1".parse().expect("an address")],
        domain: Some("example.org".into()),
    };
    let name = HostName::try_from("www1").expect("a name of a host");
    Identity { name, image: None, network, found_in: "fuzzing".into() }
}

/// Gives a file with these bytes to what reads files only.
///
/// # Panics
/// No temporary file can be written.
pub fn with_file(bytes: &[u8], work: impl FnOnce(&Path)) {
    thread_local! {
        static FILE: RefCell<Option<tempfile::NamedTempFile>> = const { RefCell::new(None) };
    }
    FILE.with_borrow_mut(|kept| {
        let file = kept.get_or_insert_with(|| {
            let memory = Path::new("/dev/shm");
            let made = tempfile::NamedTempFile::new_in(memory).or_else(|_| tempfile::NamedTempFile::new());
            made.expect("a temporary file")
        });
        file.as_file().set_len(0).expect("emptied");
        file.seek(SeekFrom::Start(0)).expect("at its beginning");
        file.write_all(bytes).expect("written");
        work(file.path());
    });
}
