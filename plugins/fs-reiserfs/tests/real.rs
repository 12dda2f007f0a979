//! With the mkreiserfs and blkid of this machine, on files: what is described is made the same again.
#![allow(clippy::disallowed_methods, reason = "runs the programs of the plan, as the engine would")]

use std::path::Path;
use std::process::{Command, Output};

use fs_reiserfs::Reiserfs;
use systemimager_core::contract::{FileSystemDescribe, FileSystemFacts, FileSystemMake};
use systemimager_core::testing::RecordedHost;
use systemimager_core::{Action, Arg, FileSystem as _, FileSystemLayout, ImageFacts, NodeName};

fn run(program: &str, args: &[&str]) -> Option<Output> {
    Command::new(program).args(args).env("LC_ALL", "C").output().ok()
}

fn describe(path: &Path) -> FileSystemFacts {
    let device = path.to_string_lossy();
    let host = ["VERSION", "LABEL", "UUID"].iter().fold(RecordedHost::new(), |host, tag| {
        let words = ["-p", "-d", "-o", "value", "-s", tag, &device];
        host.tool(&format!("blkid {}", words.join(" ")), run("blkid", &words).expect("blkid runs").stdout)
    });
    Reiserfs.describe(&host, FileSystemDescribe { device: path.into(), fstype: "reiserfs".into() }).expect("described")
}

#[test]
fn described_and_made_is_the_same_again() {
    if run("mkreiserfs", &["-V"]).is_none() || run("blkid", &["--version"]).is_none() {
        println!(
            "SKIPPED: described_and_made_is_the_same_again: mkreiserfs (reiserfsprogs) and blkid are not both here"
        );
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    for (mebibytes, args, label) in [
        (300, vec!["-q", "-ff", "--label", "my root"], Some("my root")),
        (100, vec!["-q", "-ff", "--uuid", "b8f08195-d958-4ccd-bfed-b00eee31ffd5"], None),
        (33, vec!["-q", "-ff"], None),
    ] {
        for path in [&first, &second] {
            std::fs::File::create(path).unwrap().set_len(mebibytes << 20).unwrap();
        }
        let mut words = args.clone();
        let path = first.to_string_lossy().into_owned();
        words.push(&path);
        let made = run("mkreiserfs", &words).unwrap();
        assert!(made.status.success(), "{made:?}");
        let facts = describe(&first);
        assert_eq!(facts.label.as_deref(), label, "{args:?}");
        let node = |name: &str| NodeName::try_from(name).unwrap();
        let filesystem = FileSystemLayout {
            uuid: facts.uuid.clone(),
            label: facts.label.clone(),
            options: facts.options.clone(),
            ..FileSystemLayout::new(node("root"), node("disk0p1"), "reiserfs")
        };
        let size = Some(systemimager_core::Size(mebibytes << 20));
        let request = FileSystemMake { filesystem, image: ImageFacts::default(), boot_loader: None, size };
        for step in Reiserfs.plan_make(&RecordedHost::new(), request).unwrap() {
            let Action::Run { argv, .. } = step.action else { panic!("{step:?}") };
            let words: Vec<String> = argv
                .into_iter()
                .map(|arg| match arg {
                    Arg::Text(text) => text.to_string(),
                    _ => second.to_string_lossy().into_owned(),
                })
                .collect();
            let made = Command::new(&words[0]).args(&words[1..]).env("LC_ALL", "C").output().unwrap();
            assert!(made.status.success(), "{words:?}: {made:?}");
        }
        assert_eq!(describe(&second), facts, "{args:?}");
    }
}
