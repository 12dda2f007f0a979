//! What is planned for each name, and what is refused.

use systemimager_core::{Arg, ErrorKind, HostName, ImageFacts, NetworkSettings};

use super::find::KeyFile;
use super::*;

fn key(path: &str, kind: Option<&str>, bits: Option<u32>) -> KeyFile {
    KeyFile { path: path.into(), kind: kind.map(str::to_owned), bits }
}

fn texts(all: &[&str]) -> Vec<String> {
    all.iter().map(|text| (*text).to_owned()).collect()
}

fn full() -> Held {
    Held {
        systemd: true,
        machine_id: true,
        dbus_id: true,
        ssh_files: texts(&["/etc/ssh/ssh_host_rsa_key", "/etc/ssh/ssh_host_rsa_key.pub"]),
        ssh_keys: vec![
            key("/etc/ssh/ssh_host_dsa_key", Some("dsa"), None),
            key("/etc/ssh/ssh_host_key", Some("rsa1"), None),
            key("/etc/ssh/ssh_host_ed25519_key", Some("ed25519"), None),
            key("/etc/ssh/ssh_host_rsa_key", Some("rsa"), Some(4096)),
        ],
        dropbear_keys: vec![key("/etc/dropbear/dropbear_dss_host_key", Some("dsa"), None)],
        ssh_keygen: true,
        dropbearkey: true,
        random_seed: texts(&["/var/lib/systemd/random-seed"]),
        dhcp: texts(&["/var/lib/dhcp/dhclient.leases"]),
        interface_names: texts(&["/etc/udev/rules.d/70-persistent-net.rules"]),
        iscsi_name: Some("iqn.1993-08.org.debian:01:abc".into()),
        nvme_name: Some("nqn.2014-08.org.nvmexpress:uuid:1".into()),
        nvme_id: true,
    }
}

fn identity(name: &str, mac: &str) -> Identity {
    Identity {
        name: HostName::try_from(name).unwrap(),
        image: None,
        network: NetworkSettings { mac: mac.into(), ..NetworkSettings::default() },
        found_in: "test".into(),
    }
}

fn request(held: Held, what: &[&str]) -> IdentityScrub {
    let image = ImageFacts {
        name: "web".into(),
        identity: [(ID.to_owned(), held.into_facts())].into(),
        ..ImageFacts::default()
    };
    IdentityScrub { image, what: texts(what), identity: Some(identity("www3", "52:54:00:AA:00:03")) }
}

/// Each step, a line.
fn shown(steps: &[Step]) -> Vec<String> {
    let word = |arg: &Arg| match arg {
        Arg::Text(text) if text.as_bytes().is_empty() => "''".to_owned(),
        Arg::Text(text) => text.to_string(),
        other => format!("{other:?}"),
    };
    steps
        .iter()
        .map(|step| {
            assert_eq!(step.phase, Phase::Identity);
            match &step.action {
                Action::Remove { path } => format!("remove {path}"),
                Action::WriteFile { path, contents: Contents::Bytes(bytes), mode } => {
                    format!("write {path} {mode:o} {:?}", bytes.lossy())
                }
                Action::Symlink { path, to } => format!("link {path} {to}"),
                Action::SetLine { path, prefix, line } => format!("line {path} {prefix} {line}"),
                Action::InTarget { argv, stdin: None } => {
                    let written: Vec<String> = step.writes.iter().map(|it| it.path.to_string()).collect();
                    let argv: Vec<String> = argv.iter().map(word).collect();
                    format!("run {} -> {}", argv.join(" "), written.join(" "))
                }
                other => format!("{other:?}"),
            }
        })
        .collect()
}

#[test]
fn each_name_has_its_steps() {
    let rows: [(&str, &[&str]); 7] = [
        ("machine-id", &["write /etc/machine-id 444 \"\"", "link /var/lib/dbus/machine-id /etc/machine-id"]),
        (
            "ssh-host-keys",
            &[
                "remove /etc/ssh/ssh_host_rsa_key",
                "remove /etc/ssh/ssh_host_rsa_key.pub",
                "run ssh-keygen -q -t ed25519 -N '' -C root@www3 -f /etc/ssh/ssh_host_ed25519_key -> \
                 /etc/ssh/ssh_host_ed25519_key /etc/ssh/ssh_host_ed25519_key.pub",
                "run ssh-keygen -q -t rsa -b 4096 -N '' -C root@www3 -f /etc/ssh/ssh_host_rsa_key -> \
                 /etc/ssh/ssh_host_rsa_key /etc/ssh/ssh_host_rsa_key.pub",
                "run dropbearkey -t dss -f /etc/dropbear/dropbear_dss_host_key -> /etc/dropbear/dropbear_dss_host_key",
            ],
        ),
        ("random-seed", &["remove /var/lib/systemd/random-seed"]),
        ("dhcp-leases", &["remove /var/lib/dhcp/dhclient.leases"]),
        ("interface-names", &["remove /etc/udev/rules.d/70-persistent-net.rules"]),
        (
            "iscsi-name",
            &["line /etc/iscsi/initiatorname.iscsi InitiatorName= InitiatorName=iqn.1993-08.org.debian:01:ISCSI"],
        ),
        (
            "nvme-host",
            &[
                "write /etc/nvme/hostnqn 644 \"nqn.2014-08.org.nvmexpress:uuid:UUID\\n\"",
                "write /etc/nvme/hostid 644 \"UUID\\n\"",
            ],
        ),
    ];
    let who = identity("www3", "52:54:00:aa:00:03");
    let uuid = fresh::uuid("nvme host", &who);
    let initiator = fresh::initiator("iqn.x:y", &who).trim_start_matches("iqn.x:").to_owned();
    let filled = |lines: &[&str]| -> Vec<String> {
        lines.iter().map(|it| it.replace("UUID", &uuid).replace("ISCSI", &initiator)).collect()
    };
    let mut all = Vec::new();
    for (name, expected) in rows {
        let expected = filled(expected);
        assert_eq!(shown(&plan(&request(full(), &[name])).unwrap()), expected, "{name}");
        all.extend(expected);
    }
    assert_eq!(rows.map(|(name, _)| name), WHAT);
    assert_eq!(shown(&plan(&request(full(), &[])).unwrap()), all, "no list: all of it");
    let few = plan(&request(full(), &["nvme-host", "random-seed", "random-seed"])).unwrap();
    assert_eq!(few.len(), 3, "each once, in our order: {:?}", shown(&few));
    assert!(plan(&request(Held::default(), &[])).unwrap().is_empty(), "nothing there, nothing to do");
}

#[test]
fn machine_ids() {
    let rows: [(&str, Held, &[&str]); 4] = [
        (
            "systemd, and the image has none",
            Held { systemd: true, ..Held::default() },
            &["write /etc/machine-id 444 \"\""],
        ),
        (
            "without systemd",
            Held { machine_id: true, dbus_id: true, ..Held::default() },
            &["remove /etc/machine-id", "remove /var/lib/dbus/machine-id"],
        ),
        ("D-Bus alone", Held { dbus_id: true, ..Held::default() }, &["remove /var/lib/dbus/machine-id"]),
        ("neither", Held::default(), &[]),
    ];
    for (name, held, expected) in rows {
        assert_eq!(shown(&plan(&request(held, &["machine-id"])).unwrap()), expected, "{name}");
    }
}

#[test]
fn names_are_a_machine_s_own_and_stay_so() {
    let (a, b) = (identity("www3", "52:54:00:AA:00:03"), identity("www4", "52:54:00:aa:00:04"));
    let same = identity("www3", "52:54:00:aa:00:03");
    for (name, make) in [
        ("uuid", (|who| fresh::uuid("x", who)) as fn(&Identity) -> String),
        ("iqn", |who| fresh::initiator("iqn.2005-03.org.open-iscsi:1", who)),
        ("iqn without an end", |who| fresh::initiator("iqn.2005-03.org.example", who)),
        ("eui", |who| fresh::initiator("eui.02004567A425678D", who)),
        ("naa", |who| fresh::initiator("naa.52004567BA64678D", who)),
    ] {
        assert_eq!(make(&a), make(&same), "{name}");
        assert_ne!(make(&a), make(&b), "{name}");
        assert_ne!(make(&a), make(&identity("www3", "")), "{name}");
    }
    let uuid = fresh::uuid("x", &a);
    let parts: Vec<usize> = uuid.split('-').map(str::len).collect();
    assert_eq!((parts.as_slice(), uuid.get(14..15)), ([8, 4, 4, 4, 12].as_slice(), Some("8")), "{uuid}");
    let shapes = [
        ("iqn.2005-03.org.open-iscsi:1", "iqn.2005-03.org.open-iscsi:", 12),
        ("iqn.2005-03.org.example", "iqn.2005-03.org.example:", 12),
        ("eui.02004567A425678D", "eui.020045", 10),
        ("naa.52004567BA64678D", "naa.3", 15),
    ];
    for (old, begins, digits) in shapes {
        let new = fresh::initiator(old, &a);
        let rest = new.strip_prefix(begins).unwrap_or_default();
        assert!(rest.len() == digits && rest.chars().all(|it| it.is_ascii_hexdigit()), "{old}: {new}");
    }
}

#[test]
fn refusals() {
    type Spoil = fn(&mut IdentityScrub);
    let rows: &[(&str, Spoil, ErrorKind, &str)] = &[
        (
            "unknown name",
            |r| r.what = texts(&["machine-id", "hostid"]),
            ErrorKind::Invalid,
            "the identity plugin hosts scrubs no \"hostid\"; it scrubs machine-id, ssh-host-keys, random-seed",
        ),
        ("not looked at", |r| r.image.identity.clear(), ErrorKind::Invalid, "was not looked at"),
        ("for nobody", |r| r.identity = None, ErrorKind::Invalid, "who the machine is was not said"),
        (
            "no ssh-keygen",
            |r| *r = request(Held { ssh_keygen: false, ..full() }, &[]),
            ErrorKind::Missing,
            "the image web has ssh host keys (/etc/ssh/ssh_host_ed25519_key) and no ssh-keygen to make new ones; install it \
             there (openssh-client on Debian",
        ),
        (
            "no dropbearkey",
            |r| *r = request(Held { dropbearkey: false, ..full() }, &[]),
            ErrorKind::Missing,
            "no dropbearkey to make new ones",
        ),
        (
            "a key of no known type",
            |r| *r = request(Held { ssh_keys: vec![key("/srv/key", None, None)], ..full() }, &[]),
            ErrorKind::Invalid,
            "the type of the ssh host key /srv/key in the image web is not known",
        ),
    ];
    for (name, spoil, kind, says) in rows {
        let mut request = request(full(), &[]);
        spoil(&mut request);
        let error = plan(&request).unwrap_err();
        assert_eq!(error.kind, *kind, "{name}: {error}");
        assert!(error.message.contains(says), "{name}: {error}");
    }
    let unwanted = request(Held { ssh_keygen: false, ..full() }, &["machine-id"]);
    assert!(plan(&unwanted).is_ok(), "what is not to be scrubbed is not refused");
}
