//! How much room a file system has left.

use std::path::Path;

use super::error::{Result, SysError};

/// Room on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that a user without privileges may still write.
    pub free_bytes: u64,
    /// All bytes.
    pub total_bytes: u64,
    /// Files that may still be made; `None` where the file system has no such limit (btrfs).
    pub free_inodes: Option<u64>,
}

/// Room on the file system that holds `path`.
///
/// # Errors
/// The path is not there or cannot be reached.
pub fn space(path: &Path) -> Result<Space> {
    let stat = rustix::fs::statvfs(path).map_err(|e| SysError::io("asking for the free space of", path, e))?;
    Ok(Space {
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        free_inodes: (stat.f_files > 0).then_some(stat.f_favail),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room() {
        let here = space(Path::new("/")).expect("root is there");
        assert!(here.free_bytes <= here.total_bytes && here.total_bytes > 0);
        let error = space(Path::new("/no/such")).expect_err("absent").to_string();
        assert_eq!(error, "asking for the free space of /no/such: No such file or directory (os error 2)");
    }
}
