//! Reads what a file says of itself without running it: an ELF shared object, the symbols that
//! `declare_plugin!` exports, the JSON text in one of them. Every length is bounded, and nothing in the
//! file is believed: it may be damaged, or made to harm. It must not ask who owns the file.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use object::elf::{self, FileHeader32, FileHeader64, Machine};
use object::read::elf::{FileHeader, ProgramHeader, Sym};
use object::read::{ReadCache, ReadRef};
use object::{Endianness, FileKind};
use semver::Version;

use super::error::LoadError;
use super::pages::Pages;
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
    let cache = ReadCache::new(Pages::new(file, metadata.len()));
    let (identification, is_older) = parse(&cache, crate::CONTRACT_VERSION).map_err(|fault| fault.of(path))?;
    let root_symbol = format!("{ROOT_PREFIX}{}", suffix(&identification));
    Ok(Found { identification, root_symbol, is_older, inode: Inode::from(&metadata) })
}

/// `<Kind>__<id>`: how both symbols of a plugin end.
fn suffix(identification: &Identification) -> String {
    format!("{:?}__{}", identification.kind, identification.id)
}

fn parse<'d, R: ReadRef<'d>>(data: R, contract: &str) -> Result<(Identification, bool), Fault> {
    let damaged = |error: object::read::Error| Fault::NotSharedObject(words(&error.to_string()));
    match FileKind::parse(data).map_err(damaged)? {
        FileKind::Elf64 => Library::read(FileHeader64::<Endianness>::parse(data).map_err(damaged)?, data)?,
        FileKind::Elf32 => Library::read(FileHeader32::<Endianness>::parse(data).map_err(damaged)?, data)?,
        _ => return Err(Fault::NotSharedObject("it is no ELF file".into())),
    }
    .identify(contract)
}

impl Library<'_> {
    fn identify(&self, contract: &str) -> Result<(Identification, bool), Fault> {
        let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(self.text)
            .map_err(|error| Fault::NotPlugin(format!("its identity is not understood: {error}")))?;

        if self.machine != our_machine() {
            return Err(Fault::WrongArchitecture(self.machine.clone()));
        }
        // The contract before the other fields: another major version may have others.
        let theirs = fields.get("contract").and_then(|value| value.as_str()).unwrap_or_default();
        let is_older = is_older(theirs, contract)?;

        let identification: Identification = serde_json::from_value(fields.into()).map_err(|error| {
            Fault::NotPlugin(format!("its identity is not understood: {}", words(&error.to_string())))
        })?;
        check_fields(&identification)?;
        let suffix = suffix(&identification);
        if self.suffix != suffix || !self.roots.contains(&suffix) {
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
}

/// What a shared object exports of a plugin.
struct Library<'d> {
    /// What it was built for.
    machine: String,
    /// Suffix of the identity's symbol.
    suffix: String,
    /// The identity.
    text: &'d [u8],
    /// Suffixes of roots.
    roots: Vec<String>,
}

impl<'d> Library<'d> {
    fn read<Elf, R>(header: &Elf, data: R) -> Result<Self, Fault>
    where
        Elf: FileHeader<Endian = Endianness>,
        R: ReadRef<'d>,
    {
        let damaged = |error: object::read::Error| Fault::NotSharedObject(words(&error.to_string()));
        let endian = header.endian().map_err(damaged)?;
        if header.e_type(endian) != elf::ET_DYN {
            return Err(Fault::NotSharedObject("it is an ELF file of another type".into()));
        }
        let sections = header.sections(endian, data).map_err(damaged)?;
        let symbols = sections.symbols(endian, data, elf::SHT_DYNSYM).map_err(damaged)?;
        if symbols.len() > MOST_SYMBOLS {
            return Err(Fault::NotPlugin(format!("it has more than {MOST_SYMBOLS} dynamic symbols")));
        }
        let mut identities = Vec::new();
        let mut roots = Vec::new();
        for symbol in symbols.iter().filter(|symbol| !symbol.is_undefined(endian)) {
            // A name that cannot be read is not one that we look for.
            let name = symbols.symbol_name(endian, symbol).ok().and_then(|name| std::str::from_utf8(name).ok());
            let Some(name) = name else { continue };
            if let Some(suffix) = name.strip_prefix(IDENTITY_PREFIX) {
                identities.push((suffix.to_owned(), symbol.st_value(endian).into(), symbol.st_size(endian).into()));
            } else if let Some(suffix) = name.strip_prefix(ROOT_PREFIX) {
                roots.push(suffix.to_owned());
            }
        }
        if identities.len() > 1 {
            return Err(Fault::NotPlugin(format!("it holds {} plugins; a library holds one", identities.len())));
        }
        let Some((suffix, address, size)) = identities.pop() else {
            return Err(Fault::NotPlugin(format!("it exports no symbol {IDENTITY_PREFIX}*")));
        };
        if size == 0 || size > LONGEST_TEXT {
            return Err(Fault::NotPlugin(format!("its identity has {size} bytes, not 1 to {LONGEST_TEXT}")));
        }
        let text = header
            .program_headers(endian, data)
            .map_err(damaged)?
            .iter()
            .find_map(|segment| in_segment(segment, endian, address, size))
            .and_then(|offset| data.read_bytes_at(offset, size).ok())
            .ok_or_else(|| Fault::NotPlugin("its identity lies outside the file".into()))?;
        let machine = machine_of(header.e_machine(endian), header.is_class_64(), header.is_little_endian());
        Ok(Self { machine, suffix, text, roots })
    }
}

/// Where in the file a place in memory comes from. By segments: what the dynamic linker maps, whatever the
/// sections say.
fn in_segment<P: ProgramHeader<Endian = Endianness>>(
    segment: &P,
    endian: Endianness,
    address: u64,
    size: u64,
) -> Option<u64> {
    if segment.p_type(endian) != elf::PT_LOAD {
        return None;
    }
    let within = address.checked_sub(segment.p_vaddr(endian).into())?;
    if within.checked_add(size)? > segment.p_filesz(endian).into() {
        return None;
    }
    segment.p_offset(endian).into().checked_add(within)
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
    // All that is shown of it: also what it is refused for.
    let Identification { about, version, panic, arch, .. } = identification;
    for (name, text) in [("about", about), ("version", version), ("panic", panic), ("arch", arch)] {
        if text.chars().any(char::is_control) {
            return Err(Fault::NotPlugin(format!("its {name} holds control characters: {text:?}")));
        }
    }
    Ok(())
}

fn our_machine() -> String {
    // Where the architecture is none of these, no plugin fits, and the message says for what it was built.
    let machine = MACHINES.iter().find(|(_, name)| *name == std::env::consts::ARCH).map_or(Machine(0), |(it, _)| *it);
    machine_of(machine, cfg!(target_pointer_width = "64"), cfg!(target_endian = "little"))
}

/// Rust's names of ELF's machines.
const MACHINES: [(Machine, &str); 9] = [
    (elf::EM_X86_64, "x86_64"),
    (elf::EM_386, "x86"),
    (elf::EM_AARCH64, "aarch64"),
    (elf::EM_ARM, "arm"),
    (elf::EM_RISCV, "riscv64"),
    (elf::EM_PPC, "powerpc"),
    (elf::EM_PPC64, "powerpc64"),
    (elf::EM_S390, "s390x"),
    (elf::EM_LOONGARCH, "loongarch64"),
];

/// `aarch64 (64 bit, little-endian)`.
fn machine_of(machine: Machine, is_64: bool, is_little: bool) -> String {
    let name = MACHINES.iter().find(|(it, _)| *it == machine).map(|(_, name)| (*name).to_owned());
    let name = name.unwrap_or_else(|| format!("ELF machine {}", machine.0));
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
    use object::read::{Object, ObjectSection};

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
        assert!(check_fields(&Identification { version: "1\n2".into(), ..good.clone() }).is_err());
        assert!(check_fields(&Identification { panic: "un\u{7f}ind".into(), ..good.clone() }).is_err());
        assert!(check_fields(&Identification { arch: "x86\u{1b}[2J".into(), ..good }).is_err());
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
    fn two_in_one_are_refused() {
        let Some(mut bytes) = plugin() else { return };
        // The root's symbol is given the identity's name: offset of the name in the first four bytes of each
        // 24 of .dynsym (elf(5), Elf64_Sym).
        let elf = object::File::parse(bytes.as_slice()).unwrap();
        let (start, length) = elf.section_by_name(".dynsym").and_then(|section| section.file_range()).unwrap();
        let (names, _) = elf.section_by_name(".dynstr").and_then(|section| section.file_range()).unwrap();
        let name = |prefix: &str| (at(&bytes, prefix) - names as usize) as u32;
        let (identity, root) = (name(&format!("{IDENTITY_PREFIX}F")), name(&format!("{ROOT_PREFIX}F")));
        let symbol = (start..start + length)
            .step_by(24)
            .map(|symbol| symbol as usize..symbol as usize + 4)
            .find(|symbol| bytes[symbol.clone()] == root.to_le_bytes())
            .unwrap();
        bytes[symbol].copy_from_slice(&identity.to_le_bytes());
        let fault = parse(bytes.as_slice(), OURS).unwrap_err();
        assert_eq!(fault, Fault::NotPlugin("it holds 2 plugins; a library holds one".into()));
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
