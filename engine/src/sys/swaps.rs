//! What this machine swaps on: /proc/swaps (proc(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use super::mountinfo::unescape;

/// A line of /proc/swaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwapArea {
    /// Device or file.
    pub path: PathBuf,
    /// It is a file.
    pub is_file: bool,
}

/// The text of the table. A kernel without swap has no such file.
#[must_use]
pub fn table() -> Vec<u8> {
    std::fs::read("/proc/swaps").unwrap_or_default()
}

/// Parses it: a heading, then a line each. Pure.
#[must_use]
pub fn parse(text: &[u8]) -> Vec<SwapArea> {
    text.split(|byte| *byte == b'\n')
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
            let path = OsString::from_vec(unescape(fields.next()?)).into();
            Some(SwapArea { path, is_file: fields.next() == Some(b"file".as_slice()) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_swapped_on() {
        let text = b"Filename\t\t\t\tType\t\tSize\tUsed\tPriority\n/dev/sda2                               partition\t1\t0\t-2\n\
                     /swap\\040file                              file\t1\t0\t-3\n/dev/sda3\n";
        let area = |path: &str, is_file| SwapArea { path: path.into(), is_file };
        assert_eq!(parse(text), [area("/dev/sda2", false), area("/swap file", true), area("/dev/sda3", false)]);
        assert!(parse(b"").is_empty());
    }
}
