//! Master files that are right, and each way in which they can be wrong.

use std::path::Path;

use systemimager_core::{
    BytePath, DiskLayout, DiskRule, FileSystemLayout, ImageName, Layout, MountLayout, NetworkMode, NodeName,
    PartitionLayout, Registry, Size, VolumeLayout,
};

use super::*;
use crate::store::master::{FinalAction, Hook, HookTime, IdentitySettings, NetworkMaster, OnFailure};

fn node(name: &str) -> NodeName {
    NodeName::try_from(name).unwrap()
}

fn partition(number: u32, size: Option<u64>) -> PartitionLayout {
    PartitionLayout {
        node: node(&format!("disk0p{number}")),
        number,
        start: (number == 1).then_some(Size(1 << 20)),
        size: size.map(Size),
        kind: "0FC63DAF-8483-4772-8E79-3D69D8477DE4".into(),
        name: Some("a \"name\" with \\ and ü".into()),
        uuid: Some("11111111-2222-4333-8444-555555555555".into()),
        attributes: (number == 1).then(|| "LegacyBIOSBootable".into()),
        bootable: number == 2,
        min_size: size.is_none().then_some(Size(64 << 20)),
        preserve: number == 3,
        preserve_label: (number == 3).then(|| "data \"1\"".into()),
    }
}

fn filesystem(name: &str, on: &str, kind: &str) -> FileSystemLayout {
    FileSystemLayout {
        node: node(name),
        on: node(on),
        kind: kind.into(),
        uuid: Some("ae1a4b9c-0000-4000-8000-000000000001".into()),
        new_uuid: kind == "swap",
        label: Some("root\tdisk".into()),
        options: [("block_size".into(), "4096".into()), ("odd key = []".into(), "^has_journal,\n\"x\"".into())].into(),
    }
}

fn full() -> Master {
    Master {
        format: 1,
        image: ImageName::try_from("web-v1").unwrap(),
        transports: vec!["rsync".into(), "ssh".into()],
        allow_plain: false,
        allow_keyless: false,
        partitioner: "sfdisk".into(),
        bootloader: "grub".into(),
        final_action: FinalAction::Poweroff,
        identity: IdentitySettings {
            plugin: "hosts".into(),
            sources: vec!["lease".into(), "hosts-file".into()],
            scrub: Some(vec!["machine-id".into()]),
        },
        network: NetworkMaster { mode: NetworkMode::Dhcp },
        overrides: vec!["all".parse().unwrap(), "web.v1".parse().unwrap()],
        hooks: vec![
            Hook { at: HookTime::PreInstall, run: "raid".parse().unwrap(), on_failure: OnFailure::Stop },
            Hook { at: HookTime::PostInstall, run: "10-site.sh".parse().unwrap(), on_failure: OnFailure::Warn },
        ],
        layout: Layout {
            disks: vec![DiskLayout {
                node: node("disk0"),
                label: "gpt".into(),
                id: Some("0x1234".into()),
                size: Size((8 << 30) + 512),
                sector_size: 4096,
                rule: DiskRule {
                    order: Some(0),
                    serial: Some("S/N 1".into()),
                    model: Some("QEMU*".into()),
                    min_size: Some(Size(1 << 30)),
                    rotational: Some(false),
                    ..DiskRule::default()
                },
                partitions: vec![partition(1, Some(400 << 20)), partition(2, Some(1)), partition(3, None)],
            }],
            volumes: vec![VolumeLayout {
                node: node("md0"),
                kind: "md".into(),
                on: vec![node("disk0p3")],
                options: [("level".into(), "1".into())].into(),
            }],
            filesystems: vec![
                filesystem("root", "disk0p1", "ext4"),
                filesystem("swap", "disk0p2", "swap"),
                filesystem("data", "md0", "ext2"),
            ],
            mounts: vec![
                MountLayout { node: node("root"), at: "/".into(), options: "acl".into(), subvolume: Some("@".into()) },
                MountLayout {
                    node: node("data"),
                    at: BytePath::new(b"/srv/\xff 'x'".as_slice()),
                    options: String::new(),
                    subvolume: None,
                },
            ],
        },
    }
}

fn bare() -> Master {
    Master {
        transports: vec!["rsync".into()],
        allow_plain: false,
        allow_keyless: false,
        bootloader: "none".into(),
        final_action: FinalAction::Shell,
        identity: IdentitySettings { plugin: "hosts".into(), sources: vec![], scrub: Some(vec![]) },
        network: NetworkMaster { mode: NetworkMode::Keep },
        overrides: vec![],
        hooks: vec![],
        layout: Layout::default(),
        ..full()
    }
}

/// What a small ordinary machine gives; also the golden file.
fn ordinary() -> Master {
    let mut master = full();
    master.transports.truncate(1);
    master.final_action = FinalAction::Reboot;
    master.network.mode = NetworkMode::Static;
    master.identity.sources.clear();
    master.identity.scrub = None;
    (master.overrides, master.hooks) = (vec![], vec![]);
    let layout = &mut master.layout;
    layout.volumes.clear();
    layout.disks[0].label = "dos".into();
    layout.disks[0].size = Size(8 << 30);
    layout.disks[0].sector_size = 512;
    layout.disks[0].rule = DiskRule { order: Some(0), ..DiskRule::default() };
    layout.disks[0].partitions = [(1, Some(Size(256 << 20)), "82"), (2, None, "83")]
        .map(|(number, size, kind)| PartitionLayout {
            min_size: None,
            preserve: false,
            preserve_label: None,
            size,
            kind: kind.into(),
            name: None,
            uuid: None,
            attributes: None,
            ..partition(number, None)
        })
        .to_vec();
    layout.filesystems = vec![
        FileSystemLayout {
            label: None,
            options: [("inode_size".into(), "256".into())].into(),
            ..filesystem("root", "disk0p2", "ext4")
        },
        FileSystemLayout { label: None, new_uuid: false, options: [].into(), ..filesystem("swap", "disk0p1", "swap") },
    ];
    layout.mounts.truncate(1);
    layout.mounts[0].subvolume = None;
    layout.mounts[0].options.clear();
    master
}

#[test]
fn what_is_rendered_reads_the_same() {
    for (name, master) in [("full", full()), ("bare", bare()), ("ordinary", ordinary())] {
        let text = render(&master);
        match parse(Path::new("web-v1.master"), &text) {
            Ok(read) => assert_eq!(read, master, "{name}:\n{text}"),
            Err(error) => panic!("{name}: {error}\n{text}"),
        }
    }
}

#[test]
fn the_text_is_the_golden_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/master_text/golden.master");
    let text = render(&ordinary());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&path).unwrap(), "UPDATE_GOLDEN=1 rewrites {}", path.display());
}

#[test]
fn faults_have_a_place() {
    let good = render(&ordinary());
    let rows: [(&str, &str, &str, &[&str]); 19] = [
        ("not TOML", "image = \"web-v1\"", "image = web", &["m.master:10:9: "]),
        ("unknown key", "partitioner =", "partitoner =", &["m.master:15:1: unknown field `partitoner`"]),
        (
            "bad image name",
            "\"web-v1\"",
            "\"a/b\"",
            &["m.master:10:9: \"a/b\" is not an image name: '/' is not allowed"],
        ),
        (
            "later format",
            "format = 1",
            "format = 2",
            &["m.master:8:10: the format is 2, and this program reads format 1"],
        ),
        (
            "format of another type",
            "format = 1",
            "format = \"1\"",
            &["m.master:8:10: invalid type: string \"1\", expected u32"],
        ),
        ("no transport", "[\"rsync\"]", "[]", &["m.master:14:14: no transport is named"]),
        (
            "transport twice, another empty",
            "[\"rsync\"]",
            "[\"rsync\", \"\", \"rsync\"]",
            &["m.master:14:24: the transport is empty", "m.master:14:28: the transport \"rsync\" is named twice"],
        ),
        ("odd boot loader", "\"grub\"", "\"gr ub\"", &["m.master:17:14: \"gr ub\" is no boot loader"]),
        (
            "empty identity",
            "plugin = \"hosts\"",
            "plugin = \"\"",
            &["m.master:28:10: the host identity plugin is empty"],
        ),
        (
            "odd name to scrub",
            "plugin = \"hosts\"",
            "plugin = \"hosts\"\nscrub = [\"machine-id\", \"/etc\"]",
            &["m.master:29:24: \"/etc\" is nothing to scrub"],
        ),
        (
            "override twice",
            "overrides = []",
            "overrides = [\"a\", \"a\"]",
            &["m.master:24:19: the override a is named twice"],
        ),
        (
            "odd override",
            "overrides = []",
            "overrides = [\"../x\"]",
            &["m.master:24:", "\"../x\" is not the name of an override"],
        ),
        (
            "odd hook",
            "# [[hook]]",
            "[[hook]]\nat = \"post-install\"\nrun = \"/bin/sh\"",
            &["m.master:", "\"/bin/sh\" is not the name of a hook"],
        ),
        ("odd time", "# [[hook]]", "[[hook]]\nat = \"later\"\nrun = \"x\"", &["unknown variant `later`"]),
        ("bad size", "\"256 MiB\"", "\"256 MB\"", &["m.master:62:8: ", "\"256 MB\" is not a size"]),
        (
            "dangling on",
            "on = \"disk0p2\"",
            "on = \"x\"",
            &["m.master:76:6: there is no disk, partition or volume named x"],
        ),
        ("no root", "at = \"/\"", "at = \"/srv\"", &["m.master:89:1: no file system is mounted at /"]),
        ("twice a number", "number = 2", "number = 1", &["m.master:67:10: the number 1 is 0 or used twice on disk0"]),
        ("negative", "number = 2", "number = -1", &["m.master:67:10: "]),
    ];
    for (name, from, to, says) in rows {
        assert!(good.contains(from), "{name}: the text has no {from}");
        let text = good.replacen(from, to, 1);
        let error = parse(Path::new("m.master"), &text).map(|_| ()).expect_err(name).to_string();
        for says in says {
            assert!(error.contains(says), "{name}: {error:?} says not {says:?}\n{text}");
        }
    }
}

#[test]
fn the_file_name_is_the_image_s() {
    let text = render(&ordinary());
    for (file, ok) in [("/t/web-v1.master", true), ("/t/www3.sh", true), ("/t/other.master", false)] {
        let result = parse(Path::new(file), &text);
        assert_eq!(result.is_ok(), ok, "{file}: {result:?}");
    }
    let error = parse(Path::new("other.master"), &text).unwrap_err().to_string();
    assert_eq!(error, "other.master:10:9: this is the master of other and says image = \"web-v1\"; make both the same");
}

#[test]
fn another_image_leaves_the_rest_as_it_was() {
    let to = ImageName::try_from("db-v2").unwrap();
    let text = "# ours\n\nformat = 1\nimage   =  'web'   # which\ntransports = [ \"rsync\" ]\npartitioner = \"sfdisk\"\n\
        bootloader = \"none\"\n\n[identity]\nplugin = \"hosts\"  # who\n# end\n";
    let changed = retitled(Path::new("web.master"), text, &to).unwrap();
    assert_eq!(changed, text.replace("'web'", "\"db-v2\""));
    assert_eq!(parse(Path::new("db-v2.master"), &changed).unwrap().image, to);
    let error = retitled(Path::new("web.master"), "format = 1\nimage = 3\n", &to).unwrap_err().to_string();
    assert!(error.starts_with("web.master:"), "{error}");
}

#[test]
fn absent_plugins_are_named_with_their_line() {
    let master = full();
    let text = render(&master);
    let faults = check_plugins(&master, &Registry::default(), Path::new("web-v1.master"), &text);
    assert_eq!(faults.len(), 9, "{faults:#?}");
    for says in [
        "web-v1.master:14:15: there is no transport plugin \"rsync\" (there: none)",
        "web-v1.master:14:24: there is no transport plugin \"ssh\"",
        "web-v1.master:15:15: there is no partitioner plugin \"sfdisk\"",
        "web-v1.master:17:14: there is no bootloader plugin \"grub\"",
        "web-v1.master:28:10: there is no host-identity plugin \"hosts\"",
        "no plugin serves file systems of type ext4 (served: none)",
        "md0 is a md volume",
    ] {
        assert!(faults.iter().any(|fault| fault.contains(says)), "{says}: {faults:#?}");
    }
    let none = check_plugins(&bare(), &Registry::default(), Path::new("m"), &text);
    assert!(!none.iter().any(|fault| fault.contains("bootloader")), "\"none\" needs no plugin: {none:?}");
}

#[test]
fn masters_are_kept_or_backed_up() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::load(Some(dir.path()), None).unwrap();
    let mut master = ordinary();
    assert_eq!(write_master(&config, &master, false).unwrap(), None);
    let path = master_path(&config, &master.image);
    let first = std::fs::read_to_string(&path).unwrap();
    master.final_action = FinalAction::Shell;
    assert_eq!(write_master(&config, &master, false).unwrap(), None);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), first, "kept");
    for number in [1, 2] {
        let backup = write_master(&config, &master, true).unwrap().expect("a backup");
        assert_eq!(backup, config.masters().join(format!("web-v1.master.~{number}~")));
    }
    assert_eq!(std::fs::read_to_string(config.masters().join("web-v1.master.~1~")).unwrap(), first);
    assert_eq!(read_master(&config, &master.image).unwrap(), master);
}
