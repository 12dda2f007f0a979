//! One suite against both forms of a plugin: opened from a file, and linked into this program through
//! `inventory`. Whoever holds a registry must not see which it is.

mod common;

use common::{PanickingHost, copy, lacks_root, trusted_dir};
// Linked: their `static` feature submits them.
use fixture_panics as _;
use fixture_plain as _;
use systemimager_core::conformance::conformance;
use systemimager_core::contract::{FileSystemDescribe, FileSystemMake};
use systemimager_core::loader::{LoadError, load_file};
use systemimager_core::registry::Origin;
use systemimager_core::testing::RecordedHost;
use systemimager_core::{ErrorKind, FileSystemLayout, ImageFacts, Kind, Level, NodeName, Registry, Role};

fn linked() -> Registry {
    Registry::linked().unwrap()
}

fn opened() -> Registry {
    let dir = trusted_dir();
    let mut registry = Registry::default();
    for name in ["plain", "panics"] {
        let file = copy(name, &dir.path().join(format!("{name}.so")));
        load_file(&mut registry, &file).unwrap_or_else(|error| panic!("{error}"));
    }
    registry
}

fn suite(form: &str, registry: &Registry) {
    let names: Vec<_> = registry.all().into_iter().map(|plugin| plugin.name()).collect();
    assert_eq!(names, ["file-system panics", "file-system plain"], "{form}");
    the_plain_one_works(form, registry);
    the_panicking_one_gives_errors(form, registry);
    what_is_absent_is_named(form, registry);
}

fn describe(device: &str, fstype: &str) -> FileSystemDescribe {
    FileSystemDescribe { device: device.into(), fstype: fstype.into() }
}

fn make(kind: &str) -> FileSystemMake {
    let filesystem = FileSystemLayout {
        node: NodeName::try_from("root").unwrap(),
        on: NodeName::try_from("disk0p1").unwrap(),
        kind: kind.into(),
        uuid: None,
        new_uuid: false,
        label: None,
        options: Default::default(),
    };
    FileSystemMake { filesystem, image: ImageFacts::default(), boot_loader: None, size: None }
}

fn the_plain_one_works(form: &str, registry: &Registry) {
    let host = RecordedHost::new().file("/etc/label", "x");
    let plugin = registry.filesystem("plain").unwrap();
    assert_eq!(plugin.types(&host, ()).unwrap()[0].name, "plain", "{form}");
    assert_eq!(plugin.needs(&host, Role::Installer).unwrap().programs[0].package, "plain-utils", "{form}");
    let steps = plugin.plan_make(&host, make("plain")).unwrap();
    assert_eq!((steps.len(), steps[0].destroys[0].as_str()), (1, "disk0p1"), "{form}");

    plugin.describe(&host, describe("log", "plain")).unwrap();
    assert_eq!(*host.logged.lock().unwrap(), [(Level::Warn, "said to the host".to_owned())], "{form}");
    let facts = plugin.describe(&host, describe("threads", "plain")).unwrap();
    assert_eq!(facts.label.as_deref(), Some("xxxx"), "{form}");

    let error = plugin.describe(&host, describe("error", "plain")).unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::NoSpace, "it is full"), "{form}");
    assert_eq!(error.context, [("where".to_owned(), "/dev/plain".to_owned())], "{form}");
    assert_eq!(plugin.describe(&host, describe("x", "odd")).unwrap_err().kind, ErrorKind::Unsupported, "{form}");
    assert!(plugin.describe(&PanickingHost, describe("read", "plain")).is_err(), "{form}");

    let plugin = registry.get(Kind::FileSystem, "plain").unwrap();
    let bad: Vec<_> = conformance(plugin, &host).into_iter().filter(|line| !line.ok).collect();
    assert!(bad.is_empty(), "{form}: {bad:#?}");
}

fn the_panicking_one_gives_errors(form: &str, registry: &Registry) {
    let host = RecordedHost::new();
    let plugin = registry.filesystem("panics").unwrap();
    let error = plugin.needs(&host, Role::Server).unwrap_err();
    assert_eq!(error.kind, ErrorKind::PluginBug, "{form}");
    assert!(error.message.contains("panicked in needs: on purpose"), "{form}: {error}");
    assert_eq!(plugin.plan_make(&host, make("x")).unwrap_err().kind, ErrorKind::PluginBug, "{form}");
    plugin.describe(&host, describe("x", "x")).unwrap();

    let plugin = registry.get(Kind::FileSystem, "panics").unwrap();
    let lines = conformance(plugin, &host);
    let judged = |what: &str| {
        let line = lines.iter().find(|line| line.check == what).unwrap_or_else(|| panic!("{form}: no line {what}"));
        (line.ok, line.detail.clone())
    };
    for (what, ok, says) in [
        ("an unknown method", true, "has no method no_such_method"),
        ("a request that is no JSON", true, "does not understand the request"),
        ("a request of another shape", true, "does not understand the request"),
        ("a request that is no text", true, "does not understand the request"),
        ("needs of the image server", false, "panicked in needs: on purpose, in needs; return an error"),
        ("types", false, "in another thread, answers otherwise"),
        ("describe of an unknown type", false, "answers as if it could"),
        ("plan_make of an unknown type", false, "panicked in plan_make"),
    ] {
        let (found, detail) = judged(what);
        assert!(found == ok && detail.contains(says), "{form}: {what}: {found} {detail}");
    }
}

fn what_is_absent_is_named(form: &str, registry: &Registry) {
    let Err(error) = registry.filesystem("xfs") else { panic!("{form}: there is an xfs") };
    assert_eq!(error.kind, ErrorKind::Missing, "{form}");
    assert!(error.message.contains("\"xfs\" (there: panics, plain)"), "{form}: {error}");
}

#[test]
fn linked_into_the_program() {
    let registry = linked();
    assert!(registry.all().iter().all(|plugin| plugin.origin == Origin::Linked));
    suite("linked", &registry);
    // Its Drop panics, in this form too.
    drop(registry);
}

#[test]
fn opened_from_files() {
    if lacks_root("opened_from_files") {
        return;
    }
    let registry = opened();
    assert!(registry.all().iter().all(|plugin| matches!(plugin.origin, Origin::File(_))));
    suite("opened", &registry);
    drop(registry);
}

#[test]
fn one_id_in_both_forms_is_refused() {
    let mut registry = linked();
    let dir = trusted_dir();
    let file = copy("plain", &dir.path().join("plain.so"));
    let error = load_file(&mut registry, &file).unwrap_err();
    assert!(matches!(error, LoadError::IdTaken { .. }), "{error}");
    assert!(error.to_string().contains("already taken by a plugin linked into this program"), "{error}");
}
