//! Reads what a file says of itself without running it: an ELF shared object, the symbols that
//! `declare_plugin!` exports, the JSON text in one of them. Every length is bounded, and nothing in the
//! file is believed: it may be damaged, or made to harm. It must not ask who owns the file.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use object::read::{Object, ObjectSegment, ObjectSymbol, ReadCache, ReadRef};
use object::{Architecture, BinaryFormat, ObjectKind};
use semver::Version;

use super::error::LoadError;
use super::trust::Inode;
use crate::abi::{IDENTITY_PREFIX, Identification, ROOT_PREFIX};
use crate::data::BytePath;

/// Largest file that is looked into, in bytes: a plugin with all its debug sections is far smaller.
const LARGEST_FILE: u64 = 512 << 20;
/// Most dynamic symbols that are looked at. A plugin has some dozens.
const MOST_SYMBOLS: usize = 16_384;
/// Longest identity text, in bytes.
const LONGEST_TEXT: u64 = 4096;
/// Longest id, in bytes.
const LONGEST_ID: usize = 64;

/// A plugin that could be opened.
#[derive(Debug)]
pub(super) struct Found {
    /// What it says of itself.
    pub identification: Identification,
    /// The exported symbol of its root.
    pub root_symbol: String,
    /// Its contract is older than ours: then its layout is the interface that ours has to hold.
    pub is_older: bool,
    /// What was read.
    pub inode: Inode,
}

/// Why a file is none, without its name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    NotSharedObject(String),
    NotPlugin(String),
    WrongArchitecture(String),
    IncompatibleContract(String),
    PanicAborts(String),
}

impl Fault {
    fn of(self, file: &Path) -> LoadError {
        let file = BytePath::from(file);
        match self {
            Fault::NotSharedObject(why) => LoadError::NotSharedObject { file, why },
            Fault::NotPlugin(why) => LoadError::NotPlugin { file, why },
            Fault::WrongArchitecture(theirs) => LoadError::WrongArchitecture { file, theirs, ours: our_machine() },
            Fault::IncompatibleContract(theirs) => {
                LoadError::IncompatibleContract { file, theirs, ours: crate::CONTRACT_VERSION.into() }
            }
            Fault::PanicAborts(panic) => LoadError::PanicAborts { file, panic },
        }
    }
}

/// Reads a file.
///
/// # Errors
/// The first five refusals of [`load_file`](super::load_file), or `Unreadable`.
pub(super) fn read(path: &Path) -> Result<Found, LoadError> {
    let unreadable = |error: std::io::Error| LoadError::Unreadable { file: path.into(), why: error.to_string() };
    // Without blocking: opening a fifo would wait for its writer.
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Fault::NotSharedObject("it is no regular file".into()).of(path));
    }
    if metadata.len() > LARGEST_FILE {
        return Err(Fault::NotSharedObject(format!("it is larger than {} MiB", LARGEST_FILE >> 20)).of(path));
    }
    let cache: ReadCache<File> = ReadCache::new(file);
    let (identification, is_older) = parse(&cache, crate::CONTRACT_VERSION).map_err(|fault| fault.of(path))?;
    let root_symbol = format!("{ROOT_PREFIX}{}", suffix(&identification));
    Ok(Found { identification, root_symbol, is_older, inode: Inode::from(&metadata) })
}

/// `<Kind>__<id>`: how both symbols of a plugin end.
fn suffix(identification: &Identification) -> String {
    format!("{:?}__{}", identification.kind, identification.id)
}

fn parse<'d, R: ReadRef<'d>>(data: R, contract: &str) -> Result<(Identification, bool), Fault> {
    let shared = |why: &str| Fault::NotSharedObject(why.into());
    let elf = object::File::parse(data).map_err(|error| Fault::NotSharedObject(words(&error.to_string())))?;
    if elf.format() != BinaryFormat::Elf {
        return Err(shared("it is no ELF file"));
    }
    if elf.kind() != ObjectKind::Dynamic {
        return Err(shared("it is an ELF file of another type"));
    }

    let symbols = Symbols::of(&elf)?;
    let text = symbols.text(&elf)?;
    let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(text)
        .map_err(|error| Fault::NotPlugin(format!("its identity is not understood: {error}")))?;

    let machine = machine_of(elf.architecture(), elf.is_64(), elf.is_little_endian());
    if machine != our_machine() {
        return Err(Fault::WrongArchitecture(machine));
    }
    // The contract before the other fields: another major version may have others.
    let theirs = fields.get("contract").and_then(|value| value.as_str()).unwrap_or_default();
    let is_older = is_older(theirs, contract)?;

    let identification: Identification = serde_json::from_value(fields.into())
        .map_err(|error| Fault::NotPlugin(format!("its identity is not understood: {}", words(&error.to_string()))))?;
    check_fields(&identification)?;
    let suffix = suffix(&identification);
    if symbols.identity != suffix || !symbols.roots.contains(&suffix) {
        return Err(Fault::NotPlugin(format!("it exports no root for {suffix}")));
    }
    if identification.arch != std::env::consts::ARCH {
        return Err(Fault::WrongArchitecture(identification.arch));
    }
    if identification.panic != "unwind" {
        return Err(Fault::PanicAborts(identification.panic));
    }
    Ok((identification, is_older))
}

/// The symbols of plugins that a library defines.
struct Symbols {
    /// Suffix of the identity's symbol.
    identity: String,
    /// Its address and size.
    place: (u64, u64),
    /// Suffixes of roots.
    roots: Vec<String>,
}

impl Symbols {
    fn of<'d, R: ReadRef<'d>>(elf: &object::File<'d, R>) -> Result<Self, Fault> {
        let mut identities = Vec::new();
        let mut roots = Vec::new();
        for (count, symbol) in elf.dynamic_symbols().enumerate() {
            if count == MOST_SYMBOLS {
                return Err(Fault::NotPlugin(format!("it has more than {MOST_SYMBOLS} dynamic symbols")));
            }
            // A name that cannot be read is not one that we look for.
            let Ok(name) = symbol.name() else { continue };
            if symbol.is_undefined() {
                continue;
            }
            if let Some(suffix) = name.strip_prefix(IDENTITY_PREFIX) {
                identities.push((suffix.to_owned(), (symbol.address(), symbol.size())));
            } else if let Some(suffix) = name.strip_prefix(ROOT_PREFIX) {
                roots.push(suffix.to_owned());
            }
        }
        if identities.len() > 1 {
            return Err(Fault::NotPlugin(format!("it holds {} plugins; a library holds one", identities.len())));
        }
        let Some((identity, place)) = identities.pop() else {
            return Err(Fault::NotPlugin(format!("it exports no symbol {IDENTITY_PREFIX}*")));
        };
        Ok(Self { identity, place, roots })
    }

    /// The identity's bytes, from the segments: what the dynamic linker would map, whatever the sections say.
    fn text<'d, R: ReadRef<'d>>(&self, elf: &object::File<'d, R>) -> Result<&'d [u8], Fault> {
        let (address, size) = self.place;
        if size == 0 || size > LONGEST_TEXT {
            return Err(Fault::NotPlugin(format!("its identity has {size} bytes, not 1 to {LONGEST_TEXT}")));
        }
        elf.segments()
            .find_map(|segment| segment.data_range(address, size).ok().flatten())
            .ok_or_else(|| Fault::NotPlugin("its identity lies outside the file".into()))
    }
}

/// Whether the plugin's contract is older than ours. A newer minor version is welcome: releases only append.
fn is_older(theirs: &str, ours: &str) -> Result<bool, Fault> {
    let version = Version::parse(theirs)
        .map_err(|_| Fault::NotPlugin(format!("its identity names no version of the contract: {}", words(theirs))))?;
    let ours = Version::parse(ours).map_err(|error| Fault::NotPlugin(format!("{ours} is no version: {error}")))?;
    if version.major != ours.major {
        return Err(Fault::IncompatibleContract(theirs.to_owned()));
    }
    if version.minor > ours.minor {
        tracing::info!("a plugin was built for contract {theirs}, newer than {ours}; what is new in it stays unused");
    }
    Ok(version < ours)
}

fn check_fields(identification: &Identification) -> Result<(), Fault> {
    let id = &identification.id;
    let good = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    if id.is_empty() || id.len() > LONGEST_ID || !id.chars().all(good) {
        return Err(Fault::NotPlugin(format!("{id:?} is no id; use at most {LONGEST_ID} letters, digits and '_'")));
    }
    for (name, text) in [("about", &identification.about), ("version", &identification.version)] {
        if text.chars().any(char::is_control) {
            return Err(Fault::NotPlugin(format!("its {name} holds control characters: {text:?}")));
        }
    }
    Ok(())
}

fn our_machine() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" if cfg!(target_pointer_width = "32") => Architecture::X86_64_X32,
        "x86_64" => Architecture::X86_64,
        "x86" => Architecture::I386,
        "aarch64" => Architecture::Aarch64,
        "arm" => Architecture::Arm,
        "riscv32" => Architecture::Riscv32,
        "riscv64" => Architecture::Riscv64,
        "powerpc" => Architecture::PowerPc,
        "powerpc64" => Architecture::PowerPc64,
        "s390x" => Architecture::S390x,
        "loongarch64" => Architecture::LoongArch64,
        // Then no plugin fits, and the message says for what.
        _ => Architecture::Unknown,
    };
    machine_of(architecture, cfg!(target_pointer_width = "64"), cfg!(target_endian = "little"))
}

/// `x86_64`; where it is not the usual form of the architecture, `aarch64 (64 bit, big-endian)`.
fn machine_of(architecture: Architecture, is_64: bool, is_little: bool) -> String {
    let name = match architecture {
        Architecture::I386 => "x86".to_owned(),
        other => format!("{other:?}").to_lowercase(),
    };
    let bits = if is_64 { 64 } else { 32 };
    let order = if is_little { "little" } else { "big" };
    format!("{name} ({bits} bit, {order}-endian)")
}

/// One line without control characters, of bounded length.
fn words(text: &str) -> String {
    text.chars().take(200).map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = crate::CONTRACT_VERSION;

    /// A fixture plugin that cargo built beside this test.
    fn plugin() -> Option<Vec<u8>> {
        let mut path = std::env::current_exe().unwrap();
        path.set_file_name("libfixture_plain.so");
        match std::fs::read(&path) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                println!("SKIPPED: loader::identity: {}: {error}", path.display());
                None
            }
        }
    }

    fn at(bytes: &[u8], needle: &str) -> usize {
        bytes.windows(needle.len()).position(|window| window == needle.as_bytes()).unwrap()
    }

    #[test]
    fn which_contract_is_older() {
        let other = |version: &str| Err(Fault::IncompatibleContract(version.into()));
        for (theirs, ours, expected) in [
            ("1.0.0", "1.0.0", Ok(false)),
            ("1.0.0", "1.0.1", Ok(true)),
            ("1.0.0", "1.4.0", Ok(true)),
            ("1.5.0", "1.4.0", Ok(false)),
            ("1.10.0", "1.9.0", Ok(false)),
            ("0.9.0", "1.0.0", other("0.9.0")),
            ("2.0.0", "1.9.0", other("2.0.0")),
        ] {
            assert_eq!(is_older(theirs, ours), expected, "{theirs} beside {ours}");
        }
        for theirs in ["", "1", "one", "1.0.0\u{1b}[2J", &"9".repeat(5000)] {
            let Err(Fault::NotPlugin(why)) = is_older(theirs, "1.0.0") else { panic!("{theirs:?} is no version") };
            assert!(why.len() < 300 && !why.contains('\u{1b}'), "{why:?}");
        }
    }

    #[test]
    fn ids_and_texts_are_bounded() {
        let good = Identification {
            id: "ext2".into(),
            kind: crate::Kind::FileSystem,
            about: "ext2, ext3 and ext4".into(),
            version: "0.1.0".into(),
            contract: OURS.into(),
            panic: "unwind".into(),
            arch: "x86_64".into(),
        };
        assert_eq!(check_fields(&good), Ok(()));
        for id in ["", "a-b", "../x", "a b", "é", &"x".repeat(65)] {
            assert!(check_fields(&Identification { id: id.into(), ..good.clone() }).is_err(), "{id:?}");
        }
        assert!(check_fields(&Identification { about: "\u{1b}[2J".into(), ..good.clone() }).is_err());
        assert!(check_fields(&Identification { version: "1\n2".into(), ..good }).is_err());
    }

    #[test]
    fn a_plugin_is_read() {
        let Some(bytes) = plugin() else { return };
        let (identification, is_older) = parse(bytes.as_slice(), OURS).unwrap();
        assert_eq!((identification.id.as_str(), identification.kind), ("plain", crate::Kind::FileSystem));
        assert!(!is_older);
        assert!(parse(bytes.as_slice(), "1.999.0").unwrap().1, "beside a newer contract it is the older");
    }

    #[test]
    fn another_programs_file_is_none() {
        let rows: [(&str, Vec<u8>); 4] = [
            ("empty", vec![]),
            ("text", b"#!/bin/sh\n".to_vec()),
            ("ELF magic only", b"\x7fELF".to_vec()),
            ("archive", b"!<arch>\n".to_vec()),
        ];
        for (name, bytes) in rows {
            assert!(matches!(parse(bytes.as_slice(), OURS), Err(Fault::NotSharedObject(_))), "{name}");
        }
    }

    #[test]
    fn truncated_anywhere_it_is_refused() {
        let Some(bytes) = plugin() else { return };
        // The section headers come last, and without them there are no dynamic symbols: no prefix is a plugin.
        let lengths = (0..4096).chain((4096..bytes.len()).step_by(4093)).chain(bytes.len() - 2048..bytes.len());
        for length in lengths {
            assert!(parse(&bytes[..length], OURS).is_err(), "the first {length} bytes");
        }
    }

    #[test]
    fn damaged_anywhere_it_does_not_panic() {
        let Some(mut bytes) = plugin() else { return };
        let good = bytes.clone();
        let identity = at(&good, "{\"id\":\"plain\"");
        // Where damage meets code that looks: headers, dynamic symbols and strings, the identity, section headers.
        let areas = [(0, 0x2000), (identity, 256), (good.len() - 4096, 4096)];
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % below as u64) as usize
        };
        let (mut refused, mut accepted) = (0, 0);
        for _ in 0..20_000 {
            let mut touched = Vec::new();
            for _ in 0..1 + next(4) {
                let (start, length) = areas[next(areas.len())];
                let place = start + next(length);
                bytes[place] = [0, 0xff, 0x7f, 0x80, next(256) as u8][next(5)];
                touched.push(place);
            }
            match parse(bytes.as_slice(), OURS) {
                Ok((identification, _)) => {
                    accepted += 1;
                    assert!(check_fields(&identification).is_ok());
                }
                Err(_) => refused += 1,
            }
            for place in touched {
                bytes[place] = good[place];
            }
        }
        assert!(
            refused > 1000 && accepted > 0,
            "the damage meets what is looked at: {refused} refused, {accepted} not"
        );
    }

    #[test]
    fn a_cut_file_on_disk_is_refused() {
        let Some(bytes) = plugin() else { return };
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cut.so");
        for length in [0, 10, 64, 5000, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&file, &bytes[..length]).unwrap();
            assert!(
                matches!(read(&file), Err(LoadError::NotSharedObject { .. } | LoadError::NotPlugin { .. })),
                "{length}"
            );
        }
        assert!(matches!(read(dir.path()), Err(LoadError::NotSharedObject { .. })), "a directory");
        assert!(matches!(read(&dir.path().join("none")), Err(LoadError::Unreadable { .. })), "nothing");
    }
}
