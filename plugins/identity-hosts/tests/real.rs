//! What is scrubbed, with the real ssh-keygen(1) in a small tree: new keys of the same types, machine-ids that are made
//! anew, and nothing changed that the steps do not name.
#![allow(clippy::disallowed_methods, reason = "the test makes the keys that an image would have, and reads new ones")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use identity_hosts::Hosts;
use systemimager_core::contract::{HostIdentity as _, IdentityDetect, IdentityScrub};
use systemimager_core::{Action, Arg, HostName, Identity, ImageFacts, NetworkSettings, Place, Step};
use systemimager_engine::host::{EngineHost, Secrets};
use systemimager_engine::sys::mount::MountGuard;
use systemimager_engine::sys::namespace::in_private_mounts;
use systemimager_engine::sys::target_env::InTarget;
use systemimager_engine::tree::{Inside, apply};

const TYPES: [(&str, &str); 3] = [("rsa", "2048"), ("ecdsa", "384"), ("ed25519", "256")];
const TREE: [(&str, &str); 8] = [
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
    ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
    ("var/lib/dbus/machine-id", "0123456789abcdef0123456789abcdef\n"),
    ("var/lib/systemd/random-seed", "not random"),
    ("var/lib/dhcp/dhclient.leases", "lease {}\n"),
    ("etc/iscsi/initiatorname.iscsi", "## keep\nInitiatorName=iqn.1993-08.org.debian:01:abc\n"),
    ("etc/nvme/hostid", "1\n"),
    ("etc/hostname", "master\n"),
];

/// Files and links below a directory, with what they hold.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    walkdir::WalkDir::new(dir)
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| !entry.file_type().is_dir())
        .map(|entry| {
            let path = entry.path();
            let held = match std::fs::read_link(path) {
                Ok(to) => to.as_os_str().as_encoded_bytes().to_vec(),
                Err(_) => std::fs::read(path).unwrap(),
            };
            (format!("/{}", path.strip_prefix(dir).unwrap().display()), held)
        })
        .collect()
}

/// A tree without /usr, which is this machine's while programs run in it.
fn make(tree: &Path) {
    for (path, text) in TREE {
        let file = tree.join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    std::fs::create_dir_all(tree.join("etc/ssh")).unwrap();
    for (kind, bits) in TYPES {
        let key = tree.join(format!("etc/ssh/ssh_host_{kind}_key"));
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", kind, "-b", bits, "-N", "", "-C", "root@master", "-f"])
            .arg(key)
            .status()
            .unwrap();
        assert!(made.success(), "{kind}");
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), tree.join(name)).unwrap();
    }
}

fn plan(tree: &Path, name: &str, mac: &str) -> Vec<Step> {
    let host = EngineHost::new(Secrets::default());
    let found = Hosts.detect(&host, IdentityDetect { place: Place::Tree { root: tree.into() } }).unwrap();
    let image =
        ImageFacts { name: "web".into(), identity: [("hosts".to_owned(), found)].into(), ..ImageFacts::default() };
    let identity = Identity {
        name: HostName::try_from(name).unwrap(),
        image: None,
        network: NetworkSettings { mac: mac.into(), ..NetworkSettings::default() },
        found_in: "test".into(),
    };
    Hosts.plan_scrub(&host, IdentityScrub { image, what: Vec::new(), identity: Some(identity) }).unwrap()
}

/// As the engine's executor does.
fn carry_out(tree: &Path, steps: &[Step]) {
    let target = InTarget::enter(tree).unwrap();
    let inside = Inside::open(tree).unwrap();
    for step in steps {
        if let Action::InTarget { argv, .. } = &step.action {
            let words = argv.iter().map(|arg| match arg {
                Arg::Text(text) => text.as_os_str().to_owned(),
                other => panic!("{other:?}"),
            });
            target.command(words).unwrap().run().unwrap_or_else(|error| panic!("{}: {error}", step.what));
        } else {
            assert!(apply(&inside, &step.action).unwrap(), "{}", step.what);
        }
    }
    target.close().unwrap();
}

#[test]
fn clones_are_no_twins() {
    const TEST: &str = "clones_are_no_twins";
    if Command::new("ssh-keygen").arg("-?").output().is_err() {
        eprintln!("SKIPPED: {TEST}: there is no ssh-keygen; install the package openssh-client");
        return;
    }
    if in_private_mounts(|| ()).is_err() {
        eprintln!("SKIPPED: {TEST}: it mounts, and needs root");
        return;
    }
    let clones = [("www1", "52:54:00:00:00:01"), ("www2", "52:54:00:00:00:02")];
    let mut seen: BTreeMap<String, BTreeSet<Vec<u8>>> = BTreeMap::new();
    // One image, twice installed: the same files to begin with.
    let image = tempfile::tempdir().unwrap();
    make(image.path());
    for (name, mac) in clones {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        let copied = Command::new("cp").arg("-a").arg(image.path()).arg(&tree).status().unwrap();
        assert!(copied.success());
        let before = contents(&tree);
        let steps = in_private_mounts(|| {
            std::fs::create_dir(tree.join("usr")).unwrap();
            let usr = MountGuard::bind_read_only(Path::new("/usr"), &tree.join("usr")).unwrap();
            let steps = plan(&tree, name, mac);
            carry_out(&tree, &steps);
            drop(usr);
            std::fs::remove_dir(tree.join("usr")).unwrap();
            steps
        })
        .unwrap();
        let after = contents(&tree);
        let written: BTreeSet<String> =
            steps.iter().flat_map(Step::written).map(|written| written.path.to_string()).collect();
        let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for path in paths {
            let changed = before.get(path) != after.get(path);
            assert_eq!(changed, written.contains(path), "{path}: the steps say what they change");
        }
        for (kind, bits) in TYPES {
            let key = tree.join(format!("etc/ssh/ssh_host_{kind}_key"));
            assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600, "{kind}");
            let told = Command::new("ssh-keygen").arg("-lf").arg(&key).output().unwrap();
            let told = String::from_utf8_lossy(&told.stdout).into_owned();
            assert!(told.starts_with(&format!("{bits} ")) && told.contains(&format!("root@{name} (")), "{told}");
        }
        if Path::new("/usr/lib/systemd/systemd").exists() {
            assert_eq!(after["/etc/machine-id"], b"", "systemd fills it");
            assert_eq!(after["/var/lib/dbus/machine-id"], b"/etc/machine-id");
        } else {
            assert!(!after.contains_key("/etc/machine-id"), "dbus-uuidgen makes it");
        }
        assert!(
            after["/etc/iscsi/initiatorname.iscsi"].starts_with(b"## keep\nInitiatorName=iqn.1993-08.org.debian:01:")
        );
        assert!(!after.contains_key("/var/lib/systemd/random-seed"));
        for (path, held) in after {
            seen.entry(path).or_default().insert(held);
        }
    }
    for path in ["/etc/ssh/ssh_host_rsa_key", "/etc/iscsi/initiatorname.iscsi", "/etc/nvme/hostid"] {
        assert_eq!(seen[path].len(), 2, "{path} is each one's own");
    }
    assert_eq!(seen["/etc/passwd"].len(), 1);
}
