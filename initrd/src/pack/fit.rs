//! Whether an initrd has the drivers of a kernel, told by the initrd itself: which releases' modules lie in it.
//!
//! The archives are read, nothing is unpacked to disk. Source: Documentation/driver-api/early-userspace/buffer-format.rst
//! of the kernel.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Where modules lie, in an initrd of ours and in those of distributions.
const PLACES: [&str; 2] = ["usr/lib/modules/", "lib/modules/"];
/// Longest name in an archive, bytes (PATH_MAX), and largest archive that is read on for, bytes.
const LONGEST_NAME: u64 = 4096;
const LARGEST: u64 = 4 << 30;

/// Releases of the kernels whose modules this initrd has. `None`: it is compressed in a way that is not read here.
///
/// # Errors
/// It cannot be read, or is no initrd.
pub fn releases(initrd: &Path) -> Result<Option<BTreeSet<String>>> {
    let bytes = std::fs::read(initrd).with_context(|| format!("reading {}", initrd.display()))?;
    in_bytes(&bytes).with_context(|| format!("{} is no initrd that can be read", initrd.display()))
}

/// The same, of its bytes.
pub(crate) fn in_bytes(bytes: &[u8]) -> Result<Option<BTreeSet<String>>> {
    let mut found = BTreeSet::new();
    let mut rest = bytes;
    let mut archives = 0;
    loop {
        // Zeros stand between archives.
        let zeros = rest.iter().take_while(|byte| **byte == 0).count();
        rest = rest.get(zeros..).unwrap_or_default();
        match rest {
            [] if archives == 0 => bail!("it is empty"),
            [] => return Ok(Some(found)),
            [b'0', b'7', b'0', b'7', b'0', ..] => one(&mut rest, &mut found)?,
            [0x1f, 0x8b, ..] => {
                let mut decoder = flate2::bufread::GzDecoder::new(rest);
                all(&mut decoder, &mut found)?;
                rest = decoder.into_inner();
            }
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                let mut decoder = zstd::Decoder::with_buffer(rest)?.single_frame();
                all(&mut decoder, &mut found)?;
                rest = decoder.finish();
            }
            _ if archives == 0 && !rest.starts_with(b"BZh") && !rest.starts_with(&[0xfd, b'7']) => {
                bail!("it begins with neither an archive nor compressed data")
            }
            _ => return Ok(None),
        }
        archives += 1;
    }
}

/// All archives of an uncompressed stream.
fn all(input: &mut impl Read, found: &mut BTreeSet<String>) -> Result<()> {
    let mut input = input.take(LARGEST);
    loop {
        let mut first = [0; 1];
        // Zeros stand between archives, and at the end.
        while first == [0] {
            if input.read(&mut first)? == 0 {
                return Ok(());
            }
        }
        one(&mut first.as_slice().chain(&mut input), found)?;
    }
}

/// One archive of the kind newc, to its trailer.
fn one(input: &mut impl Read, found: &mut BTreeSet<String>) -> Result<()> {
    loop {
        let mut header = [0; 110];
        input.read_exact(&mut header).context("it is cut off in a header")?;
        let field = |index: usize| -> Option<u64> {
            let text = std::str::from_utf8(header.get(6 + index * 8..14 + index * 8)?).ok()?;
            u64::from_str_radix(text, 16).ok()
        };
        let is_header = header.starts_with(b"070701") || header.starts_with(b"070702");
        // The seventh field is the size, the twelfth the length of the name with its NUL.
        let (Some(size), Some(length), true) = (field(6), field(11), is_header) else {
            bail!("a header of an archive is damaged");
        };
        if length == 0 || length > LONGEST_NAME {
            bail!("a name in it has {length} bytes");
        }
        let mut name = Vec::new();
        input.by_ref().take(length).read_to_end(&mut name)?;
        skip(input, padding(110 + length))?;
        skip(input, size + padding(size))?;
        let name = String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(&name)).into_owned();
        if name == "TRAILER!!!" {
            return Ok(());
        }
        let name = name.trim_start_matches("./").trim_start_matches('/');
        if let Some(inside) = PLACES.iter().find_map(|place| name.strip_prefix(place))
            && let Some((release, file)) = inside.split_once('/')
            && file.contains(".ko")
        {
            found.insert(release.to_owned());
        }
    }
}

fn padding(length: u64) -> u64 {
    length.next_multiple_of(4) - length
}

fn skip(input: &mut impl Read, count: u64) -> Result<()> {
    if io::copy(&mut input.by_ref().take(count), &mut io::sink())? < count {
        bail!("it is cut off");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::compress::Compression;
    use crate::pack::{Packed, Source, cpio};

    fn archive(paths: &[&str], compression: Option<Compression>) -> Vec<u8> {
        let mut packed = Packed::default();
        for path in paths {
            packed.put(*path, Source::Bytes(b"contents".to_vec()), 0o644);
        }
        match compression {
            Some(compression) => compression.write(Vec::new(), |out| cpio::write(&packed, out)).expect("written"),
            None => {
                let mut bytes = Vec::new();
                cpio::write(&packed, &mut bytes).expect("written");
                bytes
            }
        }
    }

    #[test]
    fn releases_by_their_modules() {
        let ours = |release: &str| format!("/usr/lib/modules/{release}/kernel/fs/ext4.ko");
        let (one, two) = (ours("6.1.0-1"), "/lib/modules/5.10.0/a.ko.xz".to_owned());
        let padded = |parts: &[Vec<u8>]| {
            let mut all = Vec::new();
            for part in parts {
                all.extend(part);
                all.resize(all.len().next_multiple_of(4) + 8, 0);
            }
            all
        };
        let rows: Vec<(&str, Vec<u8>, &[&str])> = vec![
            ("plain", archive(&[&one, "/init"], None), &["6.1.0-1"]),
            ("no modules", archive(&["/init", "/usr/lib/modules/6.1.0-1/modules.dep.bin"], None), &[]),
            (
                "zstd, two after each other",
                padded(&[archive(&["/init"], Some(Compression::Zstd)), archive(&[&one], Some(Compression::Zstd))]),
                &["6.1.0-1"],
            ),
            (
                "microcode, then gzip",
                padded(&[archive(&["/kernel/x86"], None), archive(&[&one, &two], Some(Compression::Gzip))]),
                &["5.10.0", "6.1.0-1"],
            ),
        ];
        for (name, bytes, expected) in rows {
            let found = in_bytes(&bytes).expect(name).expect(name);
            assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{name}");
        }
        assert_eq!(in_bytes(&[0xfd, b'7', b'z', b'X', b'Z', 0]).expect("xz"), None);
        let whole = archive(&[&one], None);
        for (name, bytes) in [
            ("empty", &b""[..]),
            ("zeros", &[0; 8]),
            ("something else", b"MZ and so on"),
            ("cut off", &whole[..whole.len() - 100]),
            ("damaged", b"070701ZZ"),
        ] {
            assert!(in_bytes(bytes).is_err(), "{name}");
        }
    }
}
