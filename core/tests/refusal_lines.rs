//! The exact line of every refusal, as an administrator reads it; and that nothing was touched: no code of the file
//! ran, nothing was registered, and the directory holds what it held.

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use common::{changed, copy, fixture, lacks_root, mode, replace, trusted_dir};
use object::read::{Object as _, ObjectSection as _, ObjectSymbol as _};
use systemimager_core::loader::load_file;
use systemimager_core::{CONTRACT_VERSION, Registry};

/// Spoils a file in a directory; returns the path that is loaded.
type Spoil = fn(&Path) -> PathBuf;

fn it(dir: &Path) -> PathBuf {
    dir.join("it.so")
}

fn with(dir: &Path, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    changed("marker", &it(dir), change)
}

fn in_text(dir: &Path, old: &str, new: &str) -> PathBuf {
    with(dir, |bytes| replace(bytes, old, new))
}

/// Overwrites the address (at 8) or the size (at 16) of the identity's symbol (elf(5), Elf64_Sym).
fn in_symbol(dir: &Path, field: usize, value: u64) -> PathBuf {
    with(dir, |bytes| {
        let elf = object::File::parse(bytes.as_slice()).unwrap();
        let symbol = elf.dynamic_symbols().find(|it| it.name().is_ok_and(|name| name.contains("_identity__"))).unwrap();
        let (start, _) = elf.section_by_name(".dynsym").unwrap().file_range().unwrap();
        let at = usize::try_from(start).unwrap() + symbol.index().0 * 24 + field;
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    })
}

/// Names, sizes and times of all that is there.
fn listing(dir: &Path) -> BTreeMap<PathBuf, (u64, u32, i64, i64)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let it = entry.path().symlink_metadata().unwrap();
        if it.is_dir() {
            found.extend(listing(&entry.path()));
        }
        found.insert(entry.path(), (it.len(), it.mode(), it.mtime(), it.mtime_nsec()));
    }
    found
}

const ROWS: &[(&str, Spoil, &str)] = &[
    (
        "absent",
        |dir| it(dir),
        "{file}: cannot be read (No such file or directory (os error 2)); check that it is there and readable",
    ),
    (
        "not a shared object: text",
        |dir| {
            std::fs::write(it(dir), "#!/bin/sh\n").unwrap();
            it(dir)
        },
        "{file}: not a shared object (Could not read file magic); build the plugin as a cdylib, or copy it anew if it is damaged",
    ),
    (
        "not a shared object: an executable",
        |dir| with(dir, |bytes| bytes[16] = 2),
        "{file}: not a shared object (it is an ELF file of another type); build the plugin as a cdylib, or copy it anew \
         if it is damaged",
    ),
    (
        "truncated",
        |dir| with(dir, |bytes| bytes.truncate(bytes.len() / 2)),
        "{file}: not a shared object (Invalid ELF section header offset/size/alignment); build the plugin as a cdylib, or copy it anew if it is damaged",
    ),
    (
        "not a plugin",
        |dir| in_text(dir, "systemimager_plugin_identity__", "systemimager_plugin_identitx__"),
        "{file}: not a plugin (it exports no symbol systemimager_plugin_identity__*); a plugin's crate calls \
         declare_plugin! once",
    ),
    (
        "identity malformed",
        |dir| in_text(dir, "{\"id\":\"marker\"", "{\"id\":marker"),
        "{file}: not a plugin (its identity is not understood: expected value at line 1 column 7); a plugin's crate calls \
         declare_plugin! once",
    ),
    (
        "identity too long",
        |dir| in_symbol(dir, 16, 5000),
        "{file}: not a plugin (its identity has 5000 bytes, not 1 to 4096); a plugin's crate calls declare_plugin! once",
    ),
    (
        "identity empty",
        |dir| in_symbol(dir, 16, 0),
        "{file}: not a plugin (its identity has 0 bytes, not 1 to 4096); a plugin's crate calls declare_plugin! once",
    ),
    (
        "identity elsewhere",
        |dir| in_symbol(dir, 8, u64::MAX - 3),
        "{file}: not a plugin (its identity lies outside the file); a plugin's crate calls declare_plugin! once",
    ),
    (
        "identity not UTF-8",
        |dir| {
            with(dir, |bytes| {
                let at = bytes.windows(15).position(|it| it == b"a plugin that l").unwrap();
                bytes[at] = 0xff;
            })
        },
        "{file}: not a plugin (its identity is not understood: invalid unicode code point at line 1 column 44); a \
         plugin's crate calls declare_plugin! once",
    ),
    (
        "wrong architecture",
        |dir| with(dir, |bytes| bytes[18] = if bytes[18] == 0xb7 { 0x3e } else { 0xb7 }),
        "{file}: wrong architecture: it is for {other} (64 bit, little-endian), this program for {ours} (64 bit, \
         little-endian); build it for {ours} (64 bit, little-endian)",
    ),
    (
        "incompatible major",
        |dir| {
            let ours = format!("\"contract\":\"{CONTRACT_VERSION}\"");
            let (_, rest) = CONTRACT_VERSION.split_once('.').unwrap();
            in_text(dir, &ours, &format!("\"contract\":\"9.{rest}\""))
        },
        "{file}: incompatible contract: it was built for 9.{rest}, this program has {contract}; build it anew against \
         systemimager-core {contract}",
    ),
    (
        "built with panic=abort",
        |dir| in_text(dir, "\"panic\":\"unwind\"", "\"panic\":\"abort\""),
        "{file}: built with panic=abort, which would let its panic end this program; build it with panic=unwind",
    ),
    (
        "group-writable file",
        |dir| {
            let file = copy("marker", &it(dir));
            mode(&file, 0o664);
            file
        },
        "{file}: {file} has mode 0664, so others than root may change what is loaded; run: chmod go-w {file}",
    ),
    (
        "world-writable file",
        |dir| {
            let file = copy("marker", &it(dir));
            mode(&file, 0o646);
            file
        },
        "{file}: {file} has mode 0646, so others than root may change what is loaded; run: chmod go-w {file}",
    ),
    (
        "world-writable directory",
        |dir| {
            let file = copy("marker", &it(dir));
            mode(dir, 0o777);
            file
        },
        "{file}: {dir} has mode 0777, so others than root may change what is loaded; run: chmod go-w {dir}",
    ),
    (
        "sticky directory of its own",
        |dir| {
            let file = copy("marker", &it(dir));
            mode(dir, 0o1777);
            file
        },
        "{file}: {dir} has mode 1777, so others than root may change what is loaded; keep plugins in a directory that \
         only root may write",
    ),
    (
        "writable ancestor",
        |dir| {
            std::fs::create_dir(dir.join("below")).unwrap();
            mode(&dir.join("below"), 0o755);
            let file = copy("marker", &dir.join("below/it.so"));
            mode(dir, 0o775);
            file
        },
        "{file}: {dir} has mode 0775, so others than root may change what is loaded; run: chmod go-w {dir}",
    ),
    (
        "file of another user",
        |dir| {
            let file = copy("marker", &it(dir));
            chown(&file, Some(65534), None).unwrap();
            file
        },
        "{file}: {file} belongs to user 65534, not to root, who could change what is loaded; run: chown root {file}",
    ),
    (
        "directory of another user",
        |dir| {
            let file = copy("marker", &it(dir));
            chown(dir, Some(65534), None).unwrap();
            file
        },
        "{file}: {dir} belongs to user 65534, not to root, who could change what is loaded; run: chown root {dir}",
    ),
    (
        "a symbolic link",
        |dir| {
            copy("marker", &it(dir));
            symlink("it.so", dir.join("link.so")).unwrap();
            dir.join("link.so")
        },
        "{file}: a symbolic link; put the plugin itself there",
    ),
];

#[test]
fn each_refusal_says_exactly_this_and_touches_nothing() {
    if lacks_root("each_refusal_says_exactly_this_and_touches_nothing") {
        return;
    }
    let (other, ours) = if cfg!(target_arch = "aarch64") { ("x86_64", "aarch64") } else { ("aarch64", "x86_64") };
    let (_, rest) = CONTRACT_VERSION.split_once('.').unwrap();
    let mut wrong = Vec::new();
    for (name, spoil, line) in ROWS {
        let above = trusted_dir();
        let dir = above.path().join("plugins");
        std::fs::create_dir(&dir).unwrap();
        mode(&dir, 0o755);
        let file = spoil(&dir);
        let before = listing(&dir);
        let mut registry = Registry::default();
        let error = load_file(&mut registry, &file).expect_err(name);
        let expected = [
            ("{file}", file.display().to_string()),
            ("{dir}", dir.display().to_string()),
            ("{other}", other.to_owned()),
            ("{ours}", ours.to_owned()),
            ("{contract}", CONTRACT_VERSION.to_owned()),
            ("{rest}", rest.to_owned()),
        ]
        .iter()
        .fold((*line).to_owned(), |line, (key, value)| line.replace(key, value));
        if error.to_string() != expected {
            wrong.push(format!("{name}:\n  {error}\n  {expected}"));
        }
        // The fixture's constructor would have left a file beside it.
        assert_eq!(listing(&dir), before, "{name}: something was touched");
        assert!(registry.all().is_empty(), "{name}: it is registered");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_id_that_is_taken_says_exactly_this() {
    if lacks_root("an_id_that_is_taken_says_exactly_this") {
        return;
    }
    let dir = trusted_dir();
    let (first, second) = (copy("plain", &dir.path().join("a.so")), dir.path().join("b.so"));
    std::fs::copy(fixture("plain"), &second).unwrap();
    mode(&second, 0o644);
    let mut registry = Registry::default();
    load_file(&mut registry, &first).unwrap();
    let error = load_file(&mut registry, &second).unwrap_err();
    let expected = format!(
        "{}: the id of file-system plain is already taken by {}; remove one of the two",
        second.display(),
        first.display()
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!(registry.all().len(), 1);
}
