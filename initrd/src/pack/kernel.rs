//! A kernel image: which release it is, read from the image itself, so that it cannot be paired with
//! the modules of another.

use std::path::Path;

use anyhow::{Context, Result, bail};

/// Where the header of a bzImage begins, and its magic (Documentation/arch/x86/boot.rst of the kernel).
const MAGIC_AT: usize = 0x202;
const MAGIC: &[u8] = b"HdrS";
/// Where the header holds the offset of the version text, counted from 0x200.
const VERSION_AT: usize = 0x20e;
const VERSION_BASE: usize = 0x200;
/// Longest release that the kernel itself allows (`__NEW_UTS_LEN`).
const LONGEST_RELEASE: usize = 64;

/// The release of the kernel in this file, `6.1.0-31-amd64`: the name of its modules directory.
///
/// # Errors
/// The file cannot be read, or is no kernel whose release can be told.
pub fn release_of(kernel: &Path) -> Result<String> {
    use std::io::Read;
    let reading = || format!("reading the kernel {}", kernel.display());
    let mut start = Vec::new();
    let file = std::fs::File::open(kernel).with_context(reading)?;
    // The offset has 16 bits: the text cannot lie further on.
    file.take(0x1_0400).read_to_end(&mut start).with_context(reading)?;
    if let Some(release) = from_header(&start) {
        return Ok(release);
    }
    // Kernels of other machines have no such header; distributions then say it in the file's name.
    let name = kernel.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let by_name = ["vmlinuz-", "vmlinux-", "Image-"].iter().find_map(|prefix| name.strip_prefix(prefix));
    match by_name.filter(|release| is_release(release)) {
        Some(release) if !start.is_empty() => Ok(release.to_owned()),
        _ => bail!(
            "{} is not a kernel whose release can be told; name a bzImage such as /boot/vmlinuz-RELEASE",
            kernel.display()
        ),
    }
}

/// The first word of the version text of a bzImage.
pub(crate) fn from_header(start: &[u8]) -> Option<String> {
    if start.get(MAGIC_AT..MAGIC_AT + MAGIC.len())? != MAGIC {
        return None;
    }
    let offset = u16::from_le_bytes([*start.get(VERSION_AT)?, *start.get(VERSION_AT + 1)?]);
    if offset == 0 {
        return None;
    }
    let text = start.get(VERSION_BASE + usize::from(offset)..)?;
    let end = text.iter().take(LONGEST_RELEASE + 1).position(|byte| *byte == b' ' || *byte == 0)?;
    let release = std::str::from_utf8(text.get(..end)?).ok()?;
    is_release(release).then(|| release.to_owned())
}

/// It is used as a directory's name, so it must be one.
fn is_release(text: &str) -> bool {
    let fine = |letter: char| letter.is_ascii_alphanumeric() || "._+~-".contains(letter);
    text.starts_with(|letter: char| letter.is_ascii_digit()) && text.len() <= LONGEST_RELEASE && text.chars().all(fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(offset: u16, text: &str) -> Vec<u8> {
        let mut bytes = vec![0; 0x1000];
        bytes[MAGIC_AT..MAGIC_AT + 4].copy_from_slice(MAGIC);
        bytes[VERSION_AT..VERSION_AT + 2].copy_from_slice(&offset.to_le_bytes());
        bytes[0x600..0x600 + text.len()].copy_from_slice(text.as_bytes());
        bytes
    }

    #[test]
    fn the_header_tells_the_release() {
        let debian = "6.1.0-31-amd64 (debian-kernel@lists.debian.org) #1 SMP";
        for (name, bytes, expected) in [
            ("Debian", image(0x400, debian), Some("6.1.0-31-amd64")),
            ("no text", image(0, debian), None),
            ("beyond the file", image(0xfff0, debian), None),
            ("a path", image(0x400, "../../etc x"), None),
            ("a path behind a digit", image(0x400, "6/../../etc x"), None),
            ("endless", image(0x400, &"6".repeat(200)), None),
            ("empty", Vec::new(), None),
            ("no magic", vec![0; 0x1000], None),
        ] {
            assert_eq!(from_header(&bytes).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = dir.path().join("kernel");
        std::fs::write(&file, "no kernel").expect("write");
        let error = release_of(&file).expect_err("refused").to_string();
        assert!(error.contains("is not a kernel whose release can be told"), "{error}");
        let file = dir.path().join("vmlinuz-6.6.1-arm64");
        std::fs::write(&file, "ARM").expect("write");
        assert_eq!(release_of(&file).expect("by name"), "6.6.1-arm64");
        assert!(release_of(&dir.path().join("absent")).is_err());
    }
}
