//! What an ELF file says it needs before it can run: loader, libraries, versions of the C library.
//!
//! Reads bytes only; where the libraries lie is [`super::libraries`]' business.
//! Source: the System V gABI (dynamic section) and the symbol versioning chapter of the LSB.

use anyhow::{Context, Result, bail};
use object::Endianness;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};

/// A version of glibc, `2.34` as `[2, 34]`: compares as numbers, not as text.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GlibcVersion(Vec<u32>);

impl GlibcVersion {
    /// From a symbol version's name, `GLIBC_2.34`; `None` for what is none (`GLIBC_PRIVATE`, `GCC_3.0`).
    pub fn parse(name: &str) -> Option<Self> {
        name.strip_prefix("GLIBC_")?.split('.').map(|part| part.parse().ok()).collect::<Option<Vec<u32>>>().map(Self)
    }
}

impl std::fmt::Display for GlibcVersion {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<String> = self.0.iter().map(u32::to_string).collect();
        out.write_str(&parts.join("."))
    }
}

/// For which machine an ELF file is: a library serves a program only if these agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// 64 bits.
    pub is_64: bool,
    /// `e_machine`.
    pub number: u16,
}

/// What an ELF file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elf {
    /// For which machine.
    pub machine: Machine,
    /// The dynamic loader (`PT_INTERP`); absent in libraries and static programs.
    pub interpreter: Option<String>,
    /// `DT_NEEDED`, in order.
    pub needed: Vec<String>,
    /// Directories of `DT_RUNPATH` (or `DT_RPATH`), `$ORIGIN` not yet put in.
    pub search: Vec<String>,
    /// The newest version of glibc that its symbols ask for.
    pub needs_glibc: Option<GlibcVersion>,
    /// The newest version of glibc that it defines: set in libc.so.6 alone, in practice.
    pub defines_glibc: Option<GlibcVersion>,
}

/// Reads an ELF file; `None` for a file that is none.
///
/// # Errors
/// An ELF file that is broken or cut off.
pub fn parse(bytes: &[u8]) -> Result<Option<Elf>> {
    if !bytes.starts_with(b"\x7fELF") {
        return Ok(None);
    }
    match bytes.get(4) {
        Some(2) => read::<elf::FileHeader64<Endianness>>(bytes, true).map(Some),
        Some(1) => read::<elf::FileHeader32<Endianness>>(bytes, false).map(Some),
        _ => bail!("an ELF file of neither 32 nor 64 bits"),
    }
}

fn read<H: FileHeader<Endian = Endianness>>(bytes: &[u8], is_64: bool) -> Result<Elf> {
    let header = H::parse(bytes).context("reading the ELF header")?;
    let endian = header.endian().context("reading the ELF header")?;
    let mut found = Elf {
        machine: Machine { is_64, number: header.e_machine(endian).0 },
        interpreter: None,
        needed: Vec::new(),
        search: Vec::new(),
        needs_glibc: None,
        defines_glibc: None,
    };
    for segment in header.program_headers(endian, bytes).context("reading the ELF program headers")? {
        if let Some(interpreter) = segment.interpreter(endian, bytes).context("reading the ELF interpreter")? {
            found.interpreter = Some(text(interpreter)?);
        }
    }
    let sections = header.sections(endian, bytes).context("reading the ELF sections")?;
    let dynamic = sections.dynamic_table(endian, bytes).context("reading the ELF dynamic section")?;
    for entry in &dynamic {
        let list = match entry.tag {
            elf::DT_NEEDED => &mut found.needed,
            elf::DT_RUNPATH | elf::DT_RPATH => &mut found.search,
            _ => continue,
        };
        list.push(text(dynamic.string(entry).context("reading the ELF dynamic section")?)?);
    }
    found.search = found.search.iter().flat_map(|list| list.split(':')).map(str::to_owned).collect();
    for section in sections.iter() {
        versions(section, &sections, endian, bytes, &mut found).context("reading the ELF symbol versions")?;
    }
    Ok(found)
}

fn versions<'data, H: FileHeader<Endian = Endianness>>(
    section: &H::SectionHeader,
    sections: &object::read::elf::SectionTable<'data, H>,
    endian: Endianness,
    bytes: &'data [u8],
    found: &mut Elf,
) -> Result<()> {
    if let Some((mut needs, link)) = section.gnu_verneed(endian, bytes)? {
        let strings = sections.strings(endian, bytes, link)?;
        while let Some((_, mut names)) = needs.next()? {
            while let Some(name) = names.next()? {
                let version = GlibcVersion::parse(&text(name.name(endian, strings)?)?);
                found.needs_glibc = found.needs_glibc.take().max(version);
            }
        }
    }
    if let Some((mut definitions, link)) = section.gnu_verdef(endian, bytes)? {
        let strings = sections.strings(endian, bytes, link)?;
        while let Some((_, mut names)) = definitions.next()? {
            // The first name is the version itself; the others are those it follows.
            if let Some(name) = names.next()? {
                let version = GlibcVersion::parse(&text(name.name(endian, strings)?)?);
                found.defines_glibc = found.defines_glibc.take().max(version);
            }
        }
    }
    Ok(())
}

fn text(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).context("a name in the ELF file is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        let version = |name| GlibcVersion::parse(name);
        assert!(version("GLIBC_2.34") > version("GLIBC_2.4"));
        assert!(version("GLIBC_2.2.5") < version("GLIBC_2.3"));
        assert!(version("GLIBC_2.36") > None);
        for none in ["GLIBC_PRIVATE", "GCC_3.0", "GLIBC_ABI_DT_RELR", "GLIBC_"] {
            assert_eq!(version(none), None, "{none}");
        }
        assert_eq!(version("GLIBC_2.2.5").map(|v| v.to_string()).as_deref(), Some("2.2.5"));
    }

    #[test]
    fn this_test_program_needs_a_loader_and_libc() {
        let bytes = std::fs::read(std::env::current_exe().expect("our own path")).expect("our own file");
        let elf = parse(&bytes).expect("well-formed").expect("an ELF file");
        assert!(elf.interpreter.as_deref().is_some_and(|path| path.contains("ld-linux")), "{elf:?}");
        assert!(elf.needed.iter().any(|name| name == "libc.so.6"), "{elf:?}");
        assert!(elf.needs_glibc > GlibcVersion::parse("GLIBC_2.2.5"), "{elf:?}");
        assert_eq!(elf.defines_glibc, None);
    }

    #[test]
    fn what_is_no_elf_file_and_what_is_broken() {
        assert_eq!(parse(b"#!/bin/sh\n").expect("no ELF"), None);
        assert_eq!(parse(b"").expect("no ELF"), None);
        let bytes = std::fs::read(std::env::current_exe().expect("our own path")).expect("our own file");
        for length in [4, 5, 40, 64, 200, bytes.len() / 2] {
            assert!(parse(&bytes[..length]).is_err(), "cut to {length}");
        }
    }
}
