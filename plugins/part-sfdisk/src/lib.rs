//! MBR and GPT partition tables, read with `sfdisk --json` and written by giving sfdisk(8) a script.
//!
//! Served labels: `gpt`, `dos`, and `none`, a disk without a table (a file system right on it). Tables
//! of other makes are refused by name. It must not look into partitions: what stands on them is the
//! business of file system plugins, and old md or LVM signatures are nobody's yet.

mod around;
mod capture;
mod check;
mod fit;
mod place;
mod script;
mod table;

use systemimager_core::contract::{Partitioner, PartitionerCapture, PartitionerFit, PartitionerPlan};
use systemimager_core::{DiskLayout, Host, Needs, Program, Result, Role, Step, declare_plugin};

/// The plugin.
pub struct Sfdisk;

declare_plugin! {
    kind: Partitioner,
    id: sfdisk,
    about: "MBR and GPT partition tables",
    make: Sfdisk,
}

impl Partitioner for Sfdisk {
    fn labels(&self, _: &dyn Host, (): ()) -> Result<Vec<String>> {
        Ok(["gpt", "dos", "none"].map(String::from).to_vec())
    }

    fn needs(&self, _: &dyn Host, role: Role) -> Result<Needs> {
        let sfdisk = Program::new("sfdisk", "fdisk");
        Ok(match role {
            Role::MasterClient => Needs { programs: vec![sfdisk], ..Needs::default() },
            // wipefs takes the old table away where there is to be none, and old signatures beside what is preserved.
            Role::Installer => {
                Needs { programs: vec![sfdisk, Program::new("wipefs", "util-linux")], ..Needs::default() }
            }
            Role::Server | Role::InstalledClient => Needs::default(),
        })
    }

    fn capture(&self, host: &dyn Host, request: PartitionerCapture) -> Result<DiskLayout> {
        capture::capture(host, &request)
    }

    fn fit(&self, _: &dyn Host, request: PartitionerFit) -> Result<DiskLayout> {
        fit::fit(&request.layout, &request.disk)
    }

    fn plan(&self, _: &dyn Host, request: PartitionerPlan) -> Result<Vec<Step>> {
        script::plan(&request.layout)
    }
}
