//! The beginning of an LVM physical volume that anybody may have written.

use systemimager_engine::sys::lvm;

use crate::support::with_file;

pub fn target(data: &[u8]) {
    with_file(data, |file| {
        if let Some(group) = lvm::group(file) {
            assert!(!group.name.is_empty() && !group.id.is_empty());
            crate::seen::one_line(&group.name);
            crate::seen::one_line(&group.id);
        }
    });
}
