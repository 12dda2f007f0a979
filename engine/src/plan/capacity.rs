//! Whether the image goes into the file systems at all. Pure.

use systemimager_core::{ImageFacts, Layout, Size};

/// Adds a problem where the mounted file systems together are smaller than the image's files.
///
/// Only a bound that is certain: how the files spread over file systems is not known here.
pub fn check(layout: &Layout, facts: &ImageFacts, problems: &mut Vec<String>) {
    // What is preserved gets nothing of the image.
    let made = layout.mounts.iter().filter(|mount| layout.preserved_under(&mount.node).is_none());
    let sizes = made.filter_map(|mount| {
        let fs = layout.filesystems.iter().find(|fs| fs.node == mount.node)?;
        Some(layout.disks.iter().flat_map(|disk| &disk.partitions).find(|partition| partition.node == fs.on)?.size)
    });
    // One whose size is open may be large enough.
    let Some(mounted) = sizes.map(|size| size.map(|size| size.0)).sum::<Option<u64>>() else { return };
    if mounted > 0 && mounted < facts.bytes.0 {
        problems.push(format!(
            "the image's files take {} and the file systems of the layout hold {} together; \
             give the partitions in the master file more room, or use a larger disk",
            mib(facts.bytes),
            mib(Size(mounted))
        ));
    }
}

fn mib(size: Size) -> String {
    format!("{} MiB", size.0.div_ceil(1 << 20))
}
