//! Partitioner: how a disk's partition table is read, fitted to another disk, and written.

use serde::{Deserialize, Serialize};

use crate::data::{BlockDevice, DiskLayout, Needs, NodeName, Role, Step};

/// A disk whose table is to be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionerCapture {
    /// The disk.
    pub disk: BlockDevice,
    /// The node it gets in the layout; its partitions get `<node>p<number>`.
    pub node: NodeName,
}

/// A layout to be fitted to a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionerFit {
    /// What is wanted.
    pub layout: DiskLayout,
    /// The disk that is there.
    pub disk: BlockDevice,
}

/// A fitted layout to be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionerPlan {
    /// As `fit` returned it: every partition has a start and a size.
    pub layout: DiskLayout,
}

crate::contract::macros::contract! {
    /// Reads, fits and writes partition tables.
    pub trait Partitioner, remote RemotePartitioner, dispatch dispatch_partitioner;
    required {
        /// The labels it serves: `gpt`, `dos`, `none`.
        fn labels(()) -> Vec<String>;
        /// What it needs on a machine in this role.
        fn needs(Role) -> Needs;
        /// Reads the table of a disk; `label` is `none` where there is no table.
        ///
        /// # Errors
        /// `Unsupported` for a label it does not serve, `Failed`.
        fn capture(PartitionerCapture) -> DiskLayout;
        /// The same layout with starts and sizes that suit this disk. Pure. A partition without size takes what
        /// is left, and not less than its `min_size`; one with both may shrink so far where the disk is too small.
        /// A `preserve`d one has its start and size already and keeps all that is said of it, as the table keeps its
        /// `id`; the others are laid around it.
        ///
        /// # Errors
        /// `Invalid`: it does not fit; says what is needed and what is there.
        fn fit(PartitionerFit) -> DiskLayout;
        /// Steps that write the table. They destroy the disk's node and provide the partitions' nodes. Of a
        /// `preserve`d partition nothing is written, signatures within it included, and its entry stays as it was. Where
        /// there is one, the steps destroy the nodes of the others in place of the disk's: steps that destroy the disk's
        /// are refused then. Pure.
        fn plan(PartitionerPlan) -> Vec<Step>;
    }
    optional {
    }
}
