//! What was measured of the boundary between a program and an opened plugin, each as a test: every library
//! is itself, a panic is an error, events and calls arrive on the other side.

mod common;

use common::{PanickingHost, copy, lacks_root, trusted_dir};
use systemimager_core::contract::{FileSystemDescribe, FileSystemMake, FileSystemMount};
use systemimager_core::loader::{LoadError, load_file};
use systemimager_core::testing::RecordedHost;
use systemimager_core::{
    BytePath, ErrorKind, FileSystemLayout, ImageFacts, Kind, Level, MountLayout, NodeName, Registry, Role,
};

/// A registry with copies of these fixtures, opened. The directory may go: a mapping outlives its file.
fn opened(names: &[&str]) -> Registry {
    let dir = trusted_dir();
    let mut registry = Registry::default();
    for name in names {
        let file = copy(name, &dir.path().join(format!("{name}.so")));
        load_file(&mut registry, &file).unwrap_or_else(|error| panic!("{error}"));
    }
    registry
}

fn describe(device: &str) -> FileSystemDescribe {
    FileSystemDescribe { device: device.into(), fstype: "plain".into() }
}

fn layout() -> FileSystemLayout {
    FileSystemLayout {
        node: NodeName::try_from("root").unwrap(),
        on: NodeName::try_from("disk0p1").unwrap(),
        kind: "plain".into(),
        uuid: None,
        new_uuid: false,
        label: None,
        options: Default::default(),
    }
}

#[test]
fn each_library_is_itself() {
    if lacks_root("each_library_is_itself") {
        return;
    }
    // The cache of abi_stable's own loader would make each of these the first.
    let registry = opened(&["plain", "marker", "panics"]);
    let host = RecordedHost::new();
    assert_eq!(registry.filesystem("plain").unwrap().types(&host, ()).unwrap()[0].name, "plain");
    assert!(registry.filesystem("panics").unwrap().types(&host, ()).unwrap()[0].name.starts_with("panics"));
    assert_eq!(registry.transport("marker").unwrap().capabilities(&host, ()).unwrap().default_port, 4242);
    let names: Vec<_> = registry.filesystems().into_iter().map(|(id, _)| id.to_owned()).collect();
    assert_eq!(names, ["panics", "plain"]);
    assert!(registry.get(Kind::Transport, "plain").is_none(), "an id is one within its kind");
}

#[test]
fn two_copies_have_state_of_their_own() {
    if lacks_root("two_copies_have_state_of_their_own") {
        return;
    }
    let (first, second) = (opened(&["panics"]), opened(&["panics"]));
    let host = RecordedHost::new();
    let next = |registry: &Registry| registry.filesystem("panics").unwrap().types(&host, ()).unwrap()[0].name.clone();
    assert_eq!([next(&first), next(&first), next(&second)], ["panics0", "panics1", "panics0"]);
}

#[test]
fn a_panic_in_a_method_is_an_error() {
    if lacks_root("a_panic_in_a_method_is_an_error") {
        return;
    }
    let registry = opened(&["panics"]);
    let plugin = registry.filesystem("panics").unwrap();
    let host = RecordedHost::new();
    let mount = MountLayout { node: layout().node, at: "/".into(), options: String::new(), subvolume: None };
    let rows = [
        ("text", plugin.needs(&host, Role::Server).unwrap_err(), "panicked in needs: on purpose, in needs"),
        (
            "a payload whose Drop panics too",
            plugin
                .plan_make(
                    &host,
                    FileSystemMake {
                        filesystem: layout(),
                        image: ImageFacts::default(),
                        boot_loader: None,
                        size: None,
                    },
                )
                .unwrap_err(),
            "panicked in plan_make: no message",
        ),
        (
            "out of bounds",
            plugin.plan_mount(&host, FileSystemMount { filesystem: layout(), mount }).unwrap_err(),
            "panicked in plan_mount: index out of bounds",
        ),
    ];
    for (name, error, says) in rows {
        assert_eq!(error.kind, ErrorKind::PluginBug, "{name}");
        assert!(error.message.contains(says), "{name}: {error}");
    }
    // It lives on, and so does its way to the host.
    plugin.describe(&host, describe("log")).unwrap();
    assert_eq!(*host.logged.lock().unwrap(), [(Level::Info, "still there".to_owned())]);
}

#[test]
fn a_panic_in_drop_ends_nothing() {
    if lacks_root("a_panic_in_drop_ends_nothing") {
        return;
    }
    drop(opened(&["panics"]));
}

#[test]
fn a_panic_in_a_constructor_is_an_error() {
    if lacks_root("a_panic_in_a_constructor_is_an_error") {
        return;
    }
    let dir = trusted_dir();
    let file = copy("unmakable", &dir.path().join("unmakable.so"));
    let mut registry = Registry::default();
    let error = load_file(&mut registry, &file).unwrap_err();
    assert!(matches!(error, LoadError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("panicked in its constructor: on purpose, in the constructor"), "{error}");
    assert!(registry.all().is_empty());
}

#[test]
fn what_tracing_says_reaches_the_host() {
    if lacks_root("what_tracing_says_reaches_the_host") {
        return;
    }
    let registry = opened(&["plain"]);
    let host = RecordedHost::new();
    registry.filesystem("plain").unwrap().describe(&host, describe("tracing")).unwrap();
    assert_eq!(*host.logged.lock().unwrap(), [(Level::Warn, "said by tracing device=7".to_owned())]);
}

#[test]
fn threads_of_the_plugin_reach_the_host() {
    if lacks_root("threads_of_the_plugin_reach_the_host") {
        return;
    }
    let registry = opened(&["plain"]);
    let host = RecordedHost::new().file("/etc/label", "ab");
    let facts = registry.filesystem("plain").unwrap().describe(&host, describe("threads")).unwrap();
    assert_eq!(facts.label.as_deref(), Some("abababab"));
    let mut said: Vec<_> = host.logged.lock().unwrap().iter().map(|(_, text)| text.clone()).collect();
    said.sort();
    assert_eq!(said, ["thread 0", "thread 1", "thread 2", "thread 3"]);
}

#[test]
fn many_threads_of_the_program_call_one_plugin() {
    if lacks_root("many_threads_of_the_program_call_one_plugin") {
        return;
    }
    let registry = opened(&["plain"]);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let registry = &registry;
            scope.spawn(move || {
                // Each call's events and answers belong to the host of that call.
                let host = RecordedHost::new().file("/etc/label", format!("{number}"));
                let plugin = registry.filesystem("plain").unwrap();
                for _ in 0..200 {
                    let facts = plugin.describe(&host, describe("read")).unwrap();
                    assert_eq!(facts.label, Some(number.to_string()));
                    plugin.describe(&host, describe("tracing")).unwrap();
                }
                assert_eq!(host.logged.lock().unwrap().len(), 200);
            });
        }
    });
}

#[test]
fn a_host_that_panics_gives_the_plugin_an_error() {
    if lacks_root("a_host_that_panics_gives_the_plugin_an_error") {
        return;
    }
    let registry = opened(&["plain"]);
    let plugin = registry.filesystem("plain").unwrap();
    for device in ["read", "threads"] {
        let error = plugin.describe(&PanickingHost, describe(device)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Failed, "{device}: {error}");
        let says = "a bug in systemimager itself, in read: on purpose, in the host";
        assert!(error.message.contains(says), "{device}: {error}");
    }
    // A log line that cannot be delivered is no reason to fail.
    plugin.describe(&PanickingHost, describe("log")).unwrap();
}

#[test]
fn errors_of_the_host_arrive_whole() {
    if lacks_root("errors_of_the_host_arrive_whole") {
        return;
    }
    let registry = opened(&["plain"]);
    let error = registry.filesystem("plain").unwrap().describe(&RecordedHost::new(), describe("read")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(error.message.contains(&BytePath::from("/etc/label").to_string()), "{error}");
}
