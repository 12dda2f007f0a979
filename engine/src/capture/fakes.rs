//! Plugins for tests of captures: what they answer is laid down beforehand.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use systemimager_core::abi::Identification;
use systemimager_core::abi::private::Instance;
use systemimager_core::contract::{
    FileSystem, FileSystemDescribe, FileSystemFacts, FileSystemMake, FileSystemMount, FileSystemType, HostIdentity,
    IdentityDetect, IdentityWho, IdentityWrite, Partitioner, PartitionerCapture, PartitionerFit, PartitionerPlan,
    Transport,
};
use systemimager_core::registry::Origin;
use systemimager_core::{
    Capabilities, DiskLayout, DiskRule, Host, Identity, Needs, Offer, PartitionLayout, PluginError, PullReport,
    PullRequest, Registry, Result, Role, Service, Source, Step,
};

use super::facts::{CaptureFacts, FACTS_EXPORT, FACTS_FILE};

/// Adds a plugin under an id.
pub fn add(registry: &mut Registry, id: &str, instance: Instance) {
    let identification: Identification = serde_json::from_value(serde_json::json!({
        "id": id, "kind": instance.kind(), "about": "", "version": "1.0.0", "contract": "1.0.0", "panic": "unwind",
        "arch": std::env::consts::ARCH,
    }))
    .unwrap();
    registry.add(identification, Origin::Linked, instance).unwrap();
}

/// What a fake transport was asked, and what it is going to answer.
#[derive(Default)]
pub struct Script {
    /// Answers to pulls of files, in order; a plain report when there are none left.
    pub pulls: VecDeque<Result<PullReport>>,
    /// Pulls of files that were asked.
    pub asked: Vec<PullRequest>,
    /// `finish` was called.
    pub finished: bool,
    /// It can pull flat.
    pub flat: bool,
}

/// A transport that puts the facts, and a file `file` that holds `new`, where they are pulled to.
pub struct FakeTransport {
    /// The facts.
    pub facts: CaptureFacts,
    /// The script.
    pub script: Arc<Mutex<Script>>,
}

impl Transport for FakeTransport {
    fn capabilities(&self, _: &dyn Host, (): ()) -> Result<Capabilities> {
        Ok(Capabilities { flat: self.script.lock().unwrap().flat, ..Capabilities::default() })
    }
    fn needs(&self, _: &dyn Host, _: Role) -> Result<Needs> {
        Ok(Needs::default())
    }
    fn offer(&self, _: &dyn Host, _: Offer) -> Result<Service> {
        Err(PluginError::unsupported("a fake offers nothing"))
    }
    fn pull(&self, _: &dyn Host, request: PullRequest) -> Result<PullReport> {
        if request.from.export == FACTS_EXPORT {
            std::fs::write(request.into.as_path().join(FACTS_FILE), serde_json::to_vec(&self.facts).unwrap()).unwrap();
            return Ok(PullReport::default());
        }
        if !request.dry_run {
            std::fs::write(request.into.as_path().join("file"), "new").unwrap();
        }
        let mut script = self.script.lock().unwrap();
        script.asked.push(request);
        script.pulls.pop_front().unwrap_or_else(|| Ok(PullReport::default()))
    }
    fn finish(&self, _: &dyn Host, _: Source) -> Result<()> {
        self.script.lock().unwrap().finished = true;
        Ok(())
    }
}

/// A file system plugin that serves these types, mountable but for `swap`.
pub struct FakeFileSystem(pub &'static [&'static str]);

impl FileSystem for FakeFileSystem {
    fn types(&self, _: &dyn Host, (): ()) -> Result<Vec<FileSystemType>> {
        Ok(self.0.iter().map(|name| FileSystemType { name: (*name).into(), mountable: *name != "swap" }).collect())
    }
    fn needs(&self, _: &dyn Host, _: Role) -> Result<Needs> {
        Ok(Needs::default())
    }
    fn describe(&self, _: &dyn Host, request: FileSystemDescribe) -> Result<FileSystemFacts> {
        Ok(FileSystemFacts { uuid: Some(format!("uuid-of-{}", request.device)), ..FileSystemFacts::default() })
    }
    fn plan_make(&self, _: &dyn Host, _: FileSystemMake) -> Result<Vec<Step>> {
        Ok(Vec::new())
    }
    fn plan_mount(&self, _: &dyn Host, _: FileSystemMount) -> Result<Vec<Step>> {
        Ok(Vec::new())
    }
}

/// A partitioner that serves disks of this bus, and finds the partitions that the kernel sees.
pub struct FakePartitioner(pub &'static str);

impl Partitioner for FakePartitioner {
    fn labels(&self, _: &dyn Host, (): ()) -> Result<Vec<String>> {
        Ok(vec!["gpt".into()])
    }
    fn needs(&self, _: &dyn Host, _: Role) -> Result<Needs> {
        Ok(Needs::default())
    }
    fn capture(&self, _: &dyn Host, request: PartitionerCapture) -> Result<DiskLayout> {
        if request.disk.bus != self.0 {
            return Err(PluginError::unsupported(format!("{} is not {}", request.disk.path, self.0)));
        }
        let partitions = request.disk.partitions.iter().map(|info| PartitionLayout {
            node: format!("{}p{}", request.node, info.number).try_into().unwrap(),
            number: info.number,
            start: Some(info.start),
            size: Some(info.size),
            kind: "linux".into(),
            name: None,
            uuid: None,
            attributes: None,
            bootable: false,
            min_size: None,
            preserve: false,
            preserve_label: None,
        });
        Ok(DiskLayout {
            partitions: partitions.collect(),
            node: request.node,
            label: "gpt".into(),
            id: None,
            size: request.disk.size,
            sector_size: 512,
            rule: DiskRule::default(),
        })
    }
    fn fit(&self, _: &dyn Host, request: PartitionerFit) -> Result<DiskLayout> {
        Ok(request.layout)
    }
    fn plan(&self, _: &dyn Host, _: PartitionerPlan) -> Result<Vec<Step>> {
        Ok(Vec::new())
    }
}

/// An identity plugin that knows nobody.
pub struct FakeIdentity;

impl HostIdentity for FakeIdentity {
    fn needs(&self, _: &dyn Host, _: Role) -> Result<Needs> {
        Ok(Needs::default())
    }
    fn who(&self, _: &dyn Host, _: IdentityWho) -> Result<Option<Identity>> {
        Ok(None)
    }
    fn detect(&self, _: &dyn Host, _: IdentityDetect) -> Result<std::collections::BTreeMap<String, String>> {
        Ok(std::collections::BTreeMap::new())
    }
    fn plan_write(&self, _: &dyn Host, _: IdentityWrite) -> Result<Vec<Step>> {
        Ok(Vec::new())
    }
}
