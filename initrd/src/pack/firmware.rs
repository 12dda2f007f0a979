//! Firmware that packed drivers ask for: what they name, where it is, and which of them lack it.
//!
//! Only drivers that are packed (or built in, where they would be packed) count: all firmware there is would be a
//! gigabyte. A driver names all that it may ever load, for every chip and in old versions too, so a file that is
//! absent is no error; a driver of whose files none is there is told of.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use systemimager_engine::sys::{Cmd, Program};

use super::tree::{Packed, Source};

/// The largest module that is looked into, unpacked, bytes.
const LARGEST: u64 = 256 << 20;
/// Below the firmware directories, in the order of the kernel (drivers/base/firmware_loader/main.c): `%` is its release.
const PLACES: [&str; 4] = ["updates/%", "updates", "%", ""];
/// Endings of compressed files, in the order in which the kernel tries them.
const ENDINGS: [&str; 3] = ["", ".zst", ".xz"];

/// A driver that names firmware of which nothing is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lacking {
    /// The driver.
    pub module: String,
    /// What it names.
    pub files: Vec<String>,
}

impl std::fmt::Display for Lacking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.module)?;
        match self.files.as_slice() {
            [] => Ok(()),
            [only] => write!(f, " ({only})"),
            [first, rest @ ..] => write!(f, " ({first} and {} more)", rest.len()),
        }
    }
}

/// All that lacks firmware, as one note; `None`: nothing does.
pub fn note(lacking: &[Lacking]) -> Option<String> {
    let names: Vec<String> = lacking.iter().map(Lacking::to_string).collect();
    (!names.is_empty()).then(|| {
        format!(
            "these drivers ask for firmware that is not there: {}. A machine that has such a device may not find its \
             disk or network; then install the firmware (package linux-firmware, in Debian one of firmware-*) where the \
             kernel is, and make the initrd anew",
            names.join(", ")
        )
    })
}

/// Packs what the drivers name, by module, from the firmware directories that belong to `modules`
/// (`…/lib/modules/RELEASE`). Returns the drivers that lack theirs.
pub fn pack(
    wanted: &BTreeMap<String, Vec<String>>,
    modules: &Path,
    release: &str,
    packed: &mut Packed,
) -> Vec<Lacking> {
    let stores = stores(modules);
    let mut lacking = Vec::new();
    for (module, files) in wanted {
        let mut any = files.is_empty();
        for name in files {
            for (file, path) in find(&stores, release, name) {
                any = true;
                packed.put(Path::new("/usr/lib/firmware").join(path), Source::File(file), 0o644);
            }
        }
        if !any {
            lacking.push(Lacking { module: module.clone(), files: files.clone() });
        }
    }
    lacking
}

/// A firmware directory, and the tree that its links may not leave.
struct Store {
    dir: PathBuf,
    tree: PathBuf,
}

/// `lib/firmware` beside the modules, and that of the other half where a distribution has `/lib` and `/usr/lib` apart.
fn stores(modules: &Path) -> Vec<Store> {
    // …/lib/modules/RELEASE → …/lib
    let Some(lib) = modules.ancestors().nth(2).and_then(|lib| lib.canonicalize().ok()) else { return Vec::new() };
    let Some(above) = lib.parent() else { return Vec::new() };
    let tree = if above.ends_with("usr") { above.parent().unwrap_or(above) } else { above };
    let mut stores: Vec<Store> = Vec::new();
    for place in [lib.as_path(), &tree.join("usr/lib"), &tree.join("lib")] {
        let Ok(dir) = place.join("firmware").canonicalize() else { continue };
        if dir.is_dir() && dir.starts_with(tree) && stores.iter().all(|store| store.dir != dir) {
            stores.push(Store { dir, tree: tree.to_path_buf() });
        }
    }
    stores
}

/// The files for a name, each with its path below `/lib/firmware`: the first that the kernel would find. A `*` in the last
/// part stands for anything (the kernel's modules name some so), and then there may be several.
fn find(stores: &[Store], release: &str, name: &str) -> Vec<(PathBuf, PathBuf)> {
    for place in PLACES.map(|place| place.replace('%', release)) {
        for store in stores {
            let dir = store.dir.join(&place);
            let inside = |relative: PathBuf| {
                // A link that leads out of the tree leads to a file of this machine, not of the image.
                let real = dir.join(&relative).canonicalize().ok()?;
                let fits = real.is_file() && real.starts_with(&store.tree);
                fits.then(|| (real, Path::new(&place).join(relative)))
            };
            let found: Vec<_> = match name.rsplit_once('/').unwrap_or(("", name)) {
                (parent, pattern) if pattern.contains('*') => matching(&dir.join(parent), pattern)
                    .into_iter()
                    .filter_map(|it| inside(Path::new(parent).join(it)))
                    .collect(),
                _ => ENDINGS.iter().find_map(|ending| inside(format!("{name}{ending}").into())).into_iter().collect(),
            };
            if !found.is_empty() {
                return found;
            }
        }
    }
    Vec::new()
}

fn matching(dir: &Path, pattern: &str) -> Vec<String> {
    let Some((before, after)) = pattern.split_once('*') else { return Vec::new() };
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names
        .filter(|name| {
            let plain = ENDINGS.iter().rev().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
            plain.len() >= before.len() + after.len() && plain.starts_with(before) && plain.ends_with(after)
        })
        .collect();
    names.sort();
    names
}

/// What a module's file names, compressed or not; nothing where it is no module.
///
/// # Errors
/// It cannot be read or unpacked.
pub fn named_by(file: &Path) -> Result<Vec<String>> {
    Ok(in_module(&read(file).with_context(|| format!("reading the module {}", file.display()))?))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let open = std::fs::File::open(file)?;
    let mut bytes = Vec::new();
    let read = match file.extension().and_then(|ending| ending.to_str()) {
        Some("gz") => flate2::read::GzDecoder::new(open).take(LARGEST).read_to_end(&mut bytes)?,
        Some("zst") => zstd::Decoder::new(open)?.take(LARGEST).read_to_end(&mut bytes)?,
        Some("xz") => {
            let cmd = Cmd::new(Program::named("xz")?).args(["-dc", "--"]).arg(file);
            bytes = cmd.stdout_limit(usize::try_from(LARGEST)?).read()?;
            bytes.len()
        }
        _ => open.take(LARGEST).read_to_end(&mut bytes)?,
    };
    tracing::trace!("{}: {read} bytes", file.display());
    Ok(bytes)
}

/// The `firmware=` fields of a module's .modinfo section (include/linux/moduleparam.h of the kernel).
pub(crate) fn in_module(module: &[u8]) -> Vec<String> {
    use object::{Object, ObjectSection};
    let Ok(file) = object::File::parse(module) else { return Vec::new() };
    let Some(Ok(info)) = file.section_by_name(".modinfo").map(|section| section.data()) else { return Vec::new() };
    let fields = info.split(|byte| *byte == 0).filter_map(|field| field.strip_prefix(b"firmware="));
    fields.filter_map(safe).collect()
}

/// What built-in drivers name, by the text of `modules.builtin.modinfo`: `MODULE.firmware=NAME`, each ended by a NUL.
pub fn named_by_builtin(info: &[u8], is_wanted: impl Fn(&str) -> bool) -> BTreeMap<String, Vec<String>> {
    let mut named: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for field in info.split(|byte| *byte == 0) {
        let Some(at) = field.windows(10).position(|part| part == b".firmware=") else { continue };
        let (module, name) = (String::from_utf8_lossy(&field[..at]).replace('-', "_"), &field[at + 10..]);
        if let Some(name) = safe(name).filter(|_| is_wanted(&module)) {
            named.entry(module).or_default().push(name);
        }
    }
    named
}

/// A name that stays below the firmware directory.
fn safe(name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    let fine = !name.starts_with('/') && name.split('/').all(|part| !part.is_empty() && part != ".." && part != ".");
    fine.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    /// An ELF file with a .modinfo section that holds this, and nothing else.
    fn module(info: &[u8]) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let (info_at, names_at) = (64, 64 + info.len());
        let table_at = (names_at + names.len()).next_multiple_of(8);
        let mut out = b"\x7fELF\x02\x01\x01".to_vec();
        out.resize(16, 0);
        for half in [1u16, 0x3e] {
            out.extend(half.to_le_bytes()); // relocatable, x86-64
        }
        out.extend(1u32.to_le_bytes());
        for long in [0u64, 0, table_at as u64] {
            out.extend(long.to_le_bytes());
        }
        out.extend(0u32.to_le_bytes());
        for half in [64u16, 0, 0, 64, 3, 2] {
            out.extend(half.to_le_bytes());
        }
        out.extend(info);
        out.extend(names);
        out.resize(table_at + 64, 0);
        for (name, kind, at, size) in [(1u32, 1u32, info_at, info.len()), (10, 3, names_at, names.len())] {
            out.extend(name.to_le_bytes());
            out.extend(kind.to_le_bytes());
            for long in [0u64, 0, at as u64, size as u64] {
                out.extend(long.to_le_bytes());
            }
            out.extend([0; 8]);
            out.extend(1u64.to_le_bytes());
            out.extend(0u64.to_le_bytes());
        }
        out
    }

    #[test]
    fn names_are_read_from_every_kind_of_module() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let plain =
            module(b"license=GPL\0firmware=a/b.bin\0firmware=../../etc/shadow\0firmware=/etc/passwd\0firmware=c\0");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).expect("compressed");
        let files = [
            ("x.ko", plain.clone()),
            ("x.ko.gz", gzip.finish().expect("compressed")),
            ("x.ko.zst", zstd::encode_all(plain.as_slice(), 1).expect("compressed")),
        ];
        for (name, bytes) in files {
            let file = dir.path().join(name);
            std::fs::write(&file, bytes).expect("written");
            assert_eq!(named_by(&file).expect("read"), ["a/b.bin", "c"], "{name}");
        }
        match Program::named("xz").map(|xz| Cmd::new(xz).arg("-k").arg(dir.path().join("x.ko")).run()) {
            Ok(Ok(_)) => assert_eq!(named_by(&dir.path().join("x.ko.xz")).expect("read"), ["a/b.bin", "c"]),
            _ => eprintln!("SKIPPED: names_are_read_from_every_kind_of_module, xz: there is no xz; install xz-utils"),
        }
        for (name, bytes) in [("none.ko", module(b"license=GPL\0")), ("bad.ko", b"no object".to_vec())] {
            std::fs::write(dir.path().join(name), bytes).expect("written");
            assert!(named_by(&dir.path().join(name)).expect("read").is_empty(), "{name}");
        }
        std::fs::write(dir.path().join("cut.ko.zst"), b"\x28\xb5\x2f\xfd").expect("written");
        assert!(named_by(&dir.path().join("cut.ko.zst")).is_err());
        assert!(named_by(&dir.path().join("absent.ko")).is_err());
    }

    #[test]
    fn built_in_drivers_name_theirs_elsewhere() {
        let info =
            b"tg-3.firmware=tigon/tg3.bin\0tg-3.license=GPL\0i915.firmware=i915/x.bin\0tg-3.firmware=../x\0odd\0";
        let named = named_by_builtin(info, |module| module == "tg_3");
        assert_eq!(named, BTreeMap::from([("tg_3".to_owned(), vec!["tigon/tg3.bin".to_owned()])]));
    }

    #[test]
    fn the_first_that_the_kernel_would_find() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let tree = dir.path().join("tree");
        let put = |path: &str| {
            let file = tree.join(path);
            std::fs::create_dir_all(file.parent().expect("a directory")).expect("mkdir");
            std::fs::write(file, path).expect("written");
        };
        for path in [
            "usr/lib/modules/6.1/modules.dep",
            "usr/lib/firmware/plain.bin",
            "usr/lib/firmware/plain.bin.xz",
            "usr/lib/firmware/packed.bin.xz",
            "usr/lib/firmware/both.bin.xz",
            "usr/lib/firmware/both.bin.zst",
            "usr/lib/firmware/newer.bin",
            "usr/lib/firmware/updates/newer.bin",
            "usr/lib/firmware/updates/6.1/newest.bin",
            "usr/lib/firmware/updates/newest.bin",
            "usr/lib/firmware/q/init-1.bin",
            "usr/lib/firmware/q/init-2.bin.xz",
            "usr/lib/firmware/q/other-1.bin",
            "lib/firmware/apart.bin",
        ] {
            put(path);
        }
        std::fs::write(dir.path().join("secret"), "x").expect("written");
        let link = |to: &str, at: &str| {
            std::os::unix::fs::symlink(to, tree.join("usr/lib/firmware").join(at)).expect("symlink");
        };
        link("q/init-1.bin", "inside.bin");
        link("../../../../secret", "outside.bin");
        let modules = tree.join("usr/lib/modules/6.1");
        let rows: [(&str, &str, &[&str]); 11] = [
            ("plain before packed", "plain.bin", &["plain.bin"]),
            ("packed", "packed.bin", &["packed.bin.xz"]),
            ("zst before xz", "both.bin", &["both.bin.zst"]),
            ("updates first", "newer.bin", &["updates/newer.bin"]),
            ("this release's before", "newest.bin", &["updates/6.1/newest.bin"]),
            ("the other half", "apart.bin", &["apart.bin"]),
            ("any", "q/init-*.bin", &["q/init-1.bin", "q/init-2.bin.xz"]),
            ("a link inside", "inside.bin", &["inside.bin"]),
            ("a link that leads out", "outside.bin", &[]),
            ("absent", "absent.bin", &[]),
            ("a directory", "q", &[]),
        ];
        for (name, wanted, expected) in rows {
            let mut packed = Packed::default();
            let asked = BTreeMap::from([("driver".to_owned(), vec![wanted.to_owned()])]);
            let lacking = pack(&asked, &modules, "6.1", &mut packed);
            let got: Vec<String> =
                packed.entries().map(|entry| entry.path.to_string_lossy().replace("/usr/lib/firmware/", "")).collect();
            assert_eq!(got, expected, "{name}");
            assert_eq!(lacking.is_empty(), !expected.is_empty(), "{name}");
        }
    }

    #[test]
    fn one_note_for_all_that_lack_theirs() {
        assert_eq!(note(&[]), None);
        let dir = tempfile::tempdir().expect("temporary directory");
        let modules = dir.path().join("lib/modules/6.1");
        std::fs::create_dir_all(&modules).expect("mkdir");
        std::fs::create_dir(dir.path().join("lib/firmware")).expect("mkdir");
        std::fs::write(dir.path().join("lib/firmware/old.fw"), "").expect("written");
        let names = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        let wanted = BTreeMap::from([
            ("needs_none".to_owned(), names(&[])),
            ("has_one_of_two".to_owned(), names(&["old.fw", "new.fw"])),
            ("lacks_one".to_owned(), names(&["a.fw"])),
            ("lacks_three".to_owned(), names(&["b.fw", "c.fw", "d.fw"])),
        ]);
        let lacking = pack(&wanted, &modules, "6.1", &mut Packed::default());
        let note = note(&lacking).expect("two lack theirs");
        assert!(note.contains("that is not there: lacks_one (a.fw), lacks_three (b.fw and 2 more). "), "{note}");
        assert!(!note.contains("has_one") && !note.contains("needs_none"), "{note}");
    }
}
