//! The plugin against the real mke2fs(8) and dumpe2fs(8), on files: what is described is made again.
#![allow(clippy::disallowed_methods, reason = "a test runs the program that the plan names, as the engine would")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use fs_ext2::Ext2;
use systemimager_core::contract::{FileSystem, FileSystemDescribe, FileSystemFacts, FileSystemMake};
use systemimager_core::testing::RecordedHost;
use systemimager_core::{Action, Arg, FileSystemLayout, ImageFacts, NodeName};

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).env("LC_ALL", "C").output().unwrap()
}

fn must(program: &str, args: &[&str]) -> Output {
    let output = run(program, args);
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn there(test: &str) -> bool {
    for program in ["mke2fs", "dumpe2fs", "e2fsck"] {
        if Command::new(program).arg("-V").output().is_err() {
            eprintln!("SKIPPED: {test}: there is no {program}; install the package e2fsprogs");
            return false;
        }
    }
    true
}

fn file(path: &Path, mib: u64) {
    let _ = std::fs::remove_file(path);
    std::fs::File::create(path).unwrap().set_len(mib << 20).unwrap();
}

fn describe(path: &Path, fstype: &str) -> FileSystemFacts {
    let output = must("dumpe2fs", &["-h", &path.to_string_lossy()]);
    let host = RecordedHost::new().tool(&format!("dumpe2fs -h {}", path.display()), output.stdout);
    Ext2.describe(&host, FileSystemDescribe { device: path.into(), fstype: fstype.into() }).unwrap()
}

fn make(facts: &FileSystemFacts, fstype: &str, path: &Path) {
    make_with(&ImageFacts::default(), facts, fstype, path, None);
}

fn layout(facts: &FileSystemFacts, fstype: &str) -> FileSystemLayout {
    FileSystemLayout {
        node: NodeName::try_from("root").unwrap(),
        on: NodeName::try_from("disk0p1").unwrap(),
        kind: fstype.into(),
        uuid: facts.uuid.clone(),
        new_uuid: false,
        label: facts.label.clone(),
        options: facts.options.clone(),
    }
}

/// Makes it as planned for an image, with this mke2fs.conf(5) instead of the machine's.
fn make_with(image: &ImageFacts, facts: &FileSystemFacts, fstype: &str, path: &Path, conf: Option<&Path>) {
    let filesystem = layout(facts, fstype);
    let request = FileSystemMake { filesystem, image: image.clone(), boot_loader: None, size: None };
    for step in Ext2.plan_make(&RecordedHost::new(), request).unwrap() {
        let Action::Run { argv, stdin: None } = step.action else { panic!("{step:?}") };
        let words: Vec<String> = argv
            .iter()
            .map(|arg| match arg {
                Arg::Text(text) => text.to_string(),
                Arg::Device(node) if node.as_str() == "disk0p1" => path.to_string_lossy().into_owned(),
                other => panic!("{other:?}"),
            })
            .collect();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env("LC_ALL", "C");
        if let Some(conf) = conf {
            command.env("MKE2FS_CONFIG", conf);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn described_and_made_is_the_same_again() {
    if !there("described_and_made_is_the_same_again") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    let rows: [(&str, &[&str]); 13] = [
        ("ext2", &[]),
        ("ext3", &["-L", "sixteen bytes ok"]),
        ("ext4", &["-L", "-é \"x"]),
        ("ext4", &["-b", "4096", "-i", "16384", "-m", "0"]),
        ("ext4", &["-b", "4096", "-i", "8192", "-m", "1.5", "-e", "remount-ro", "-I", "512"]),
        ("ext4", &["-O", "^metadata_csum,uninit_bg,^64bit"]),
        ("ext4", &["-O", "^has_journal,^resize_inode,sparse_super2"]),
        ("ext4", &["-O", "metadata_csum_seed,orphan_file"]),
        ("ext4", &["-O", "bigalloc", "-C", "65536"]),
        ("ext4", &["-O", "encrypt,casefold,verity,quota,project,inline_data,mmp,large_dir,ea_inode,stable_inodes"]),
        ("ext4", &["-O", "meta_bg,^resize_inode,fast_commit", "-G", "32"]),
        ("ext2", &["-O", "none", "-I", "128", "-b", "2048"]),
        // As a Debian of 2009 made it, for a GRUB that reads no more.
        (
            "ext3",
            &["-O", "none,has_journal,ext_attr,resize_inode,dir_index,filetype,sparse_super,large_file", "-I", "128"],
        ),
    ];
    for (fstype, args) in rows {
        file(&first, 300);
        let image = first.to_string_lossy().into_owned();
        let mut words = vec!["-q", "-F", "-t", fstype];
        words.extend(args);
        words.push(&image);
        let output = run("mke2fs", &words);
        if !output.status.success() {
            // An older mke2fs knows fewer features.
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            eprintln!("SKIPPED: described_and_made_is_the_same_again, {fstype} {args:?}: {why}");
            continue;
        }
        let facts = describe(&first, fstype);
        assert!(facts.uuid.is_some(), "{fstype} {args:?}");
        let label = args.iter().position(|arg| *arg == "-L").map(|at| args[at + 1].to_owned());
        assert_eq!(facts.label, label, "{fstype} {args:?}");

        for mib in [300, 700] {
            file(&second, mib);
            make(&facts, fstype, &second);
            assert_eq!(describe(&second, fstype), facts, "{fstype} {args:?} on {mib} MiB");
            let check = run("e2fsck", &["-fn", &second.to_string_lossy()]);
            assert!(check.status.success(), "{fstype} {args:?}: {}", String::from_utf8_lossy(&check.stdout));
        }
    }
}

#[test]
fn what_stood_there_before_does_not_matter() {
    if !there("what_stood_there_before_does_not_matter") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    file(&path, 100);
    let image = path.to_string_lossy().into_owned();
    must("mke2fs", &["-q", "-F", "-t", "ext4", "-L", "old", &image]);
    let facts = FileSystemFacts { label: Some("new".into()), ..FileSystemFacts::default() };
    make(&facts, "ext2", &path);
    let described = describe(&path, "ext2");
    assert_eq!(described.label.as_deref(), Some("new"));
    assert!(!described.options["features"].contains("has_journal"), "{described:?}");
}

#[test]
fn what_the_installer_finds_good_is_not_made() {
    if !there("what_the_installer_finds_good_is_not_made") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    // As a newer installer has it: every default that an image may not read.
    let conf = dir.path().join("mke2fs.conf");
    let eager = "[defaults]\nbase_features = sparse_super,filetype\n[fs_types]\next4 = {\n\
                 features = has_journal,extent,metadata_csum,metadata_csum_seed,orphan_file,64bit\n}\n";
    std::fs::write(&conf, eager).unwrap();
    let made = |version: Option<&str>| {
        file(&path, 100);
        let facts = version.map(|version| BTreeMap::from([("e2fsprogs".to_owned(), version.to_owned())]));
        let image = ImageFacts {
            filesystems: facts.map(|facts| ("ext2".to_owned(), facts)).into_iter().collect(),
            ..ImageFacts::default()
        };
        make_with(&image, &FileSystemFacts::default(), "ext4", &path, Some(&conf));
        describe(&path, "ext4").options["features"].clone()
    };
    let usual = "64bit dir_index dir_nlink ext_attr extent extra_isize filetype flex_bg has_journal huge_file \
                 large_file metadata_csum resize_inode sparse_super";
    assert_eq!(made(None), usual);
    assert_eq!(made(Some("1.47.0")), usual);
    let old = usual.replace("metadata_csum resize_inode sparse_super", "resize_inode sparse_super uninit_bg");
    assert_eq!(made(Some("1.42.12")), old);
    let image = ImageFacts {
        filesystems: BTreeMap::from([("ext2".into(), BTreeMap::from([("e2fsprogs".into(), "1.46.2".into())]))]),
        ..ImageFacts::default()
    };
    let newer = BTreeMap::from([("features".to_owned(), "extent orphan_file".to_owned())]);
    let filesystem = layout(&FileSystemFacts { options: newer, ..FileSystemFacts::default() }, "ext4");
    let request = FileSystemMake { filesystem, image, boot_loader: None, size: None };
    let error = Ext2.plan_make(&RecordedHost::new(), request).unwrap_err().to_string();
    assert!(error.contains("the feature orphan_file needs e2fsprogs 1.47.0, and the image has 1.46.2"), "{error}");
}
