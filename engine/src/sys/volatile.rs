//! Where lies what need not outlast a restart, and must change no tree that is compared or copied.

use std::path::{Path, PathBuf};

/// /run (file-hierarchy(7)), or the directory for temporary files on systems of before there was one.
#[must_use]
pub fn dir() -> PathBuf {
    let run = Path::new("/run");
    if run.is_dir() { run.to_path_buf() } else { std::env::temp_dir() }
}
