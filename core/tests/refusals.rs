//! Every refusal of the loader, each before any code of the file runs. The fixture "marker" leaves a file
//! beside itself as soon as the dynamic linker runs its constructors.

mod common;

use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};

use common::{changed, copy, fixture, lacks_root, mode, replace, trusted_dir};
use systemimager_core::loader::{LoadError, examine, load_dir, load_file};
use systemimager_core::{CONTRACT_VERSION, Kind, Registry};

/// Code of this file ran.
fn ran(file: &Path) -> bool {
    let mut mark = file.as_os_str().to_owned();
    mark.push(".ran");
    Path::new(&mark).exists()
}

/// Loads a file that must be refused without running, with nothing added; returns the error.
fn refused(name: &str, file: &Path) -> LoadError {
    let mut registry = Registry::default();
    let error = load_file(&mut registry, file).expect_err(name);
    assert!(!ran(file), "{name}: its code ran");
    assert!(registry.all().is_empty(), "{name}: it is registered");
    let text = error.to_string();
    assert!(!text.contains('\n'), "{name}: more than one line: {text}");
    assert!(text.starts_with(&file.display().to_string()), "{name}: does not begin with the file: {text}");
    error
}

#[test]
fn a_good_one_runs_and_leaves_its_mark() {
    if lacks_root("a_good_one_runs_and_leaves_its_mark") {
        return;
    }
    let dir = trusted_dir();
    let file = copy("marker", &dir.path().join("good.so"));
    let told = examine(&file).unwrap();
    assert_eq!((told.kind, told.id.as_str(), told.contract.as_str()), (Kind::Transport, "marker", CONTRACT_VERSION));
    assert!(!ran(&file), "examining runs nothing");
    let mut registry = Registry::default();
    let plugin = load_file(&mut registry, &file).unwrap();
    assert_eq!(plugin.name(), "transport marker");
    // Without this the other tests here would prove nothing.
    assert!(ran(&file), "loading runs its constructors");
}

#[test]
fn what_is_wrong_with_the_file_itself() {
    let dir = trusted_dir();
    let file = |name: &str| dir.path().join(name);
    let contract = format!("\"contract\":\"{CONTRACT_VERSION}\"");
    let is_not_shared = |error: &LoadError| matches!(error, LoadError::NotSharedObject { .. });
    let is_not_plugin = |error: &LoadError| matches!(error, LoadError::NotPlugin { .. });

    std::fs::write(file("text.so"), "#!/bin/sh\n").unwrap();
    std::fs::create_dir(file("directory.so")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, file("fifo.so"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    changed("marker", &file("executable.so"), |bytes| bytes[16] = 2);
    changed("marker", &file("cut.so"), |bytes| bytes.truncate(bytes.len() / 2));
    for name in ["text.so", "directory.so", "fifo.so", "executable.so", "cut.so"] {
        let error = refused(name, &file(name));
        assert!(is_not_shared(&error), "{name}: {error}");
    }

    type Change<'a> = (&'a str, &'a str, &'a str, &'a str);
    let not_plugins: [Change; 7] = [
        ("no identity", "systemimager_plugin_identity__", "systemimager_plugin_identitx__", "exports no symbol"),
        ("no root", "systemimager_plugin_root__", "systemimager_plugin_rooy__", "exports no root"),
        ("another id", "{\"id\":\"marker\"", "{\"id\":\"narker\"", "exports no root for Transport__narker"),
        ("odd id", "{\"id\":\"marker\"", "{\"id\":\"../../\"", "is no id"),
        ("unknown kind", "\"kind\":\"transport\"", "\"kind\":\"transmute\"", "unknown variant"),
        ("no JSON", "{\"id\":\"marker\"", "{\"id\":marker", "is not understood"),
        ("no version", &contract, "\"contract\":\"?\"", "names no version"),
    ];
    for (name, old, new, says) in not_plugins {
        let path = changed("marker", &file("it.so"), |bytes| replace(bytes, old, new));
        let error = refused(name, &path);
        assert!(is_not_plugin(&error) && error.to_string().contains(says), "{name}: {error}");
    }
    // This test program's own libc: a shared object, and no plugin.
    if let Some(libc) = libc_path() {
        let error = refused("libc", &libc);
        assert!(is_not_plugin(&error), "{error}");
    }

    let path = changed("marker", &file("arch.so"), |bytes| bytes[18] = if bytes[18] == 0xb7 { 0x3e } else { 0xb7 });
    let error = refused("machine", &path);
    assert!(matches!(error, LoadError::WrongArchitecture { .. }), "{error}");
    let path = changed("marker", &file("arch.so"), |bytes| {
        replace(bytes, &format!("\"arch\":\"{}\"", std::env::consts::ARCH), "\"arch\":\"vax\"");
    });
    let error = refused("identity's architecture", &path);
    assert!(matches!(error, LoadError::WrongArchitecture { .. }), "{error}");

    for major in ["0", "2", "9"] {
        let path = changed("marker", &file("major.so"), |bytes| replace(bytes, &contract, &version(major, '0')));
        let error = refused("major", &path);
        assert!(matches!(error, LoadError::IncompatibleContract { .. }), "{error}");
        assert!(error.to_string().contains("build it anew against systemimager-core"), "{error}");
    }

    let path = changed("marker", &file("abort.so"), |b| replace(b, "\"panic\":\"unwind\"", "\"panic\":\"abort\""));
    let error = refused("panic=abort", &path);
    assert!(matches!(error, LoadError::PanicAborts { .. }), "{error}");
    assert!(error.to_string().ends_with("build it with panic=unwind"), "{error}");
}

/// The contract's field with another major version, and each digit after it replaced.
fn version(major: &str, digit: char) -> String {
    let (_, rest) = CONTRACT_VERSION.split_once('.').unwrap();
    let rest: String = rest.chars().map(|letter| if letter == '.' { '.' } else { digit }).collect();
    format!("\"contract\":\"{major}.{rest}\"")
}

fn libc_path() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .find(|path| path.contains("/libc.so"))
        .map(PathBuf::from)
}

#[test]
fn a_newer_and_an_older_minor_version_are_welcome() {
    if lacks_root("a_newer_and_an_older_minor_version_are_welcome") {
        return;
    }
    let dir = trusted_dir();
    let (major, _) = CONTRACT_VERSION.split_once('.').unwrap();
    let ours = format!("\"contract\":\"{CONTRACT_VERSION}\"");
    // The first release of a major version has no older one; a pre-release of it is older all the same.
    let older = format!("\"contract\":\"{major}.0.0\"");
    for (name, contract) in [("newer", version(major, '9')), ("older", older)] {
        let path = changed("marker", &dir.path().join(format!("{name}.so")), |b| replace(b, &ours, &contract));
        let mut registry = Registry::default();
        let plugin = load_file(&mut registry, &path).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_ne!(name == "newer", plugin.identification.contract == CONTRACT_VERSION, "{name}");
    }
}

#[test]
fn an_id_that_is_taken() {
    if lacks_root("an_id_that_is_taken") {
        return;
    }
    let dir = trusted_dir();
    let first = copy("marker", &dir.path().join("a.so"));
    let second = copy("marker", &dir.path().join("b.so"));
    let mut registry = Registry::default();
    load_file(&mut registry, &first).unwrap();
    let error = load_file(&mut registry, &second).expect_err("the same id");
    assert!(matches!(error, LoadError::IdTaken { .. }), "{error}");
    assert!(error.to_string().contains(&first.display().to_string()), "names the other one: {error}");
    assert!(!ran(&second), "its code ran");
    assert_eq!(registry.all().len(), 1);
}

type Spoil = fn(&Path, &Path) -> PathBuf;

#[test]
fn others_than_root_could_have_written_it() {
    if lacks_root("others_than_root_could_have_written_it") {
        return;
    }
    // Each row spoils one thing of <dir>/plugins/it.so and says what the error names.
    let permissions: [(&str, Spoil, &str); 5] = [
        ("group-writable file", |_, file| set(file, 0o775, file), "it.so has mode 0775"),
        ("world-writable file", |_, file| set(file, 0o757, file), "it.so has mode 0757"),
        ("group-writable directory", |dir, file| set(&dir.join("plugins"), 0o775, file), "plugins has mode 0775"),
        ("sticky directory of its own", |dir, file| set(&dir.join("plugins"), 0o1777, file), "plugins has mode 1777"),
        ("world-writable ancestor", |dir, file| set(dir, 0o777, file), "has mode 0777"),
    ];
    for (name, spoil, says) in permissions {
        let error = spoiled(name, spoil);
        assert!(matches!(error, LoadError::Permissions { .. }), "{name}: {error}");
        assert!(error.to_string().contains(says), "{name}: {error}");
    }
    let owners: [(&str, Spoil); 3] = [
        ("file of another user", |_, file| give(file, file)),
        ("directory of another user", |dir, file| give(&dir.join("plugins"), file)),
        ("ancestor of another user", |dir, file| give(dir, file)),
    ];
    for (name, spoil) in owners {
        let error = spoiled(name, spoil);
        assert!(matches!(error, LoadError::NotRootOwned { uid: 65534, .. }), "{name}: {error}");
    }
    let error = spoiled("symbolic link", |dir, file| {
        let link = dir.join("plugins/link.so");
        symlink(file, &link).unwrap();
        link
    });
    assert!(matches!(error, LoadError::SymbolicLink { .. }), "{error}");
    // The way is followed to its end first: a link in a good place does not make a bad place good.
    let error = spoiled("directory behind a link", |dir, file| {
        mode(&dir.join("plugins"), 0o777);
        let link = dir.join("good");
        symlink(dir.join("plugins"), &link).unwrap();
        link.join(file.file_name().unwrap())
    });
    assert!(matches!(error, LoadError::Permissions { .. }), "{error}");
}

fn spoiled(name: &str, spoil: Spoil) -> LoadError {
    let dir = trusted_dir();
    let plugins = dir.path().join("plugins");
    std::fs::create_dir(&plugins).unwrap();
    mode(&plugins, 0o755);
    let file = copy("marker", &plugins.join("it.so"));
    let path = spoil(dir.path(), &file);
    let error = refused(name, &path);
    assert!(!ran(&file), "{name}: its code ran");
    error
}

fn set(path: &Path, bits: u32, file: &Path) -> PathBuf {
    mode(path, bits);
    file.to_owned()
}

fn give(path: &Path, file: &Path) -> PathBuf {
    chown(path, Some(65534), None).unwrap();
    file.to_owned()
}

#[test]
fn the_first_reason_is_told_first() {
    if lacks_root("the_first_reason_is_told_first") {
        return;
    }
    let dir = trusted_dir();
    let file = changed("marker", &dir.path().join("it.so"), |b| {
        replace(b, "\"panic\":\"unwind\"", "\"panic\":\"abort\"");
    });
    mode(&file, 0o777);
    chown(&file, Some(65534), None).unwrap();
    assert!(matches!(refused("all at once", &file), LoadError::PanicAborts { .. }));
    let file = copy("marker", &file);
    mode(&file, 0o777);
    assert!(matches!(refused("mode and owner", &file), LoadError::Permissions { .. }));
    mode(&file, 0o755);
    assert!(matches!(refused("owner", &file), LoadError::NotRootOwned { .. }));
}

#[test]
fn a_refused_one_does_not_stop_the_others() {
    if lacks_root("a_refused_one_does_not_stop_the_others") {
        return;
    }
    let dir = trusted_dir();
    copy("plain", &dir.path().join("c-plain.so"));
    copy("marker", &dir.path().join("a-marker.so"));
    std::fs::write(dir.path().join("b-text.so"), "no").unwrap();
    std::fs::write(dir.path().join("README"), "not looked at").unwrap();
    let mut registry = Registry::default();
    let rows: Vec<_> = load_dir(&mut registry, dir.path())
        .into_iter()
        .map(|(path, result)| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, result.map(|identification| identification.id).map_err(|error| error.to_string()))
        })
        .collect();
    assert_eq!(rows[0], ("a-marker.so".into(), Ok("marker".into())));
    assert!(rows[1].0 == "b-text.so" && rows[1].1.is_err(), "{rows:?}");
    assert_eq!(rows[2], ("c-plain.so".into(), Ok("plain".into())));
    assert_eq!(rows.len(), 3);
    assert_eq!(registry.all().len(), 2);

    let none = load_dir(&mut registry, &dir.path().join("none"));
    assert!(matches!(none.as_slice(), [(_, Err(LoadError::Unreadable { .. }))]), "{none:?}");
}

#[test]
fn names_with_control_characters_stay_on_one_line() {
    let dir = trusted_dir();
    let file = dir.path().join("a\n\u{1b}[2J.so");
    std::fs::write(&file, "no").unwrap();
    let text = load_file(&mut Registry::default(), &file).unwrap_err().to_string();
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

#[test]
fn the_fixtures_are_what_they_say() {
    for (name, kind) in [("plain", Kind::FileSystem), ("panics", Kind::FileSystem), ("marker", Kind::Transport)] {
        let told = examine(&fixture(name)).unwrap();
        assert_eq!((told.id.as_str(), told.kind), (name, kind));
        assert_eq!((told.panic.as_str(), told.arch.as_str()), ("unwind", std::env::consts::ARCH));
    }
}
