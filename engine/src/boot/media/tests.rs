//! Media are made whole or not at all, by the real programs where they are there.

use systemimager_core::{Action, Contents, Phase};

use super::*;

fn medium(dir: &Path, kind: Kind) -> Medium {
    for (name, bytes) in [("kernel", vec![1; 1 << 20]), ("initrd", vec![2; 3 << 20])] {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
    Medium {
        kind,
        id: "0123456789abcdef".into(),
        server: None,
        http_port: 8069,
        append: String::new(),
        kernel: dir.join("kernel"),
        initrd: dir.join("initrd"),
        local_cfg: Some(b"HOSTNAME=www1\n".to_vec()),
    }
}

#[test]
fn the_entry_names_the_medium() {
    let dir = tempfile::tempdir().unwrap();
    let medium = medium(dir.path(), Kind::Usb);
    let line = |medium: &Medium| medium.entries()[0].command_line.clone();
    assert_eq!(line(&medium), "si.medium=0123456789abcdef si.port=8069 console=tty0 console=ttyS0,115200");
    let medium = Medium { server: Some("10.0.0.1".into()), append: "console=ttyS1 nomodeset".into(), ..medium };
    assert_eq!(line(&medium), "si.medium=0123456789abcdef si.server=10.0.0.1 si.port=8069 console=ttyS1 nomodeset");
}

fn needs(tools: &[Tool]) -> bool {
    let dirs = crate::sys::tool::search_dirs();
    let missing = tools.iter().find_map(|tool| crate::sys::tool::find(*tool, &dirs).err());
    if let Some(error) = &missing {
        eprintln!("SKIPPED: {}: {error}", std::thread::current().name().unwrap_or("a test"));
    }
    missing.is_none()
}

#[test]
fn a_stick_holds_the_files() {
    if !needs(&[Tool::Sfdisk, Tool::MkfsVfat, Tool::Mcopy]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let medium = medium(dir.path(), Kind::Usb);
    let path = "/a/b.cfg".into();
    let write = Action::WriteFile { path, contents: Contents::Bytes("x".into()), mode: 0o644 };
    let make = Action::MakeDirectory { path: "/a".into(), mode: 0o755 };
    let code = Action::Run {
        argv: vec![
            "dd".into(),
            "if=/dev/zero".into(),
            Arg::PrefixedDevice("of=".into(), "medium".try_into().unwrap()),
            "bs=440".into(),
            "count=1".into(),
            "conv=notrunc".into(),
        ],
        stdin: None,
    };
    let steps = [make, write, code].map(|action| Step::new(Phase::Boot, "do", action)).to_vec();
    let plan = BootPlan { steps, boot_files: vec![] };
    let output = dir.path().join("stick.img");
    let error = medium.make(&plan, &output, Some(10 << 20)).unwrap_err().to_string();
    assert!(error.starts_with("10 MiB are too small: the medium must have at least 49 MiB"), "{error}");
    assert!(!output.exists());
    let length = medium.make(&plan, &output, Some(70 << 20)).unwrap();
    assert_eq!(length, 70 << 20);
    let out = |words: &[&str]| {
        let image = format!("{}@@{}", output.display(), fat::AT);
        let words = words.iter().map(|word| if *word == "IMAGE" { image.as_str() } else { word });
        Cmd::argv(words).unwrap().env("MTOOLS_SKIP_CHECK", "1").read_string().unwrap()
    };
    for (file, text) in [("local.cfg", "HOSTNAME=www1\n"), ("medium.id", "0123456789abcdef\n"), ("a/b.cfg", "x")] {
        // Read without the newline at its end.
        assert_eq!(out(&["mtype", "-i", "IMAGE", &format!("::/{file}")]), text.trim_end(), "{file}");
    }
    let table: serde_json::Value = Cmd::tool(Tool::Sfdisk).arg("--json").arg(&output).read_json().unwrap();
    let partition = &table["partitiontable"]["partitions"][0];
    assert_eq!((&partition["start"], &partition["type"]), (&2048.into(), &"c".into()), "{table}");
    assert_eq!(partition["bootable"], true);
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn what_fails_leaves_what_was_there() {
    if !needs(&[Tool::Sfdisk, Tool::MkfsVfat, Tool::Mcopy]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("stick.img");
    std::fs::write(&output, "before").unwrap();
    let run = |argv: Vec<Arg>| Action::Run { argv, stdin: None };
    let other = Arg::Device("disk0".try_into().unwrap());
    let rows = [
        ("a program that fails", run(vec!["false".into()]), "false"),
        ("another node", run(vec!["true".into(), other]), "a medium has no node disk0"),
        ("in the target", Action::InTarget { argv: vec!["true".into()], stdin: None }, "may only write files and run"),
    ];
    for (name, action, says) in rows {
        let plan = BootPlan { steps: vec![Step::new(Phase::Boot, "do", action)], boot_files: vec![] };
        let error = format!("{:#}", medium(dir.path(), Kind::Usb).make(&plan, &output, None).unwrap_err());
        assert!(error.contains(says), "{name}: {error}");
        assert_eq!(std::fs::read(&output).unwrap(), b"before", "{name}");
    }
    let without = Medium { kernel: dir.path().join("absent"), ..medium(dir.path(), Kind::Usb) };
    let error = format!("{:#}", without.make(&BootPlan::default(), &output, None).unwrap_err());
    assert!(error.contains("copying ") && error.contains("absent"), "{error}");
    let none = format!("{:#}", medium(dir.path(), Kind::Cd).make(&BootPlan::default(), &output, None).unwrap_err());
    assert!(none.contains("the plan for cd media made no image"), "{none}");
}

#[test]
fn without_a_plugin_it_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let host = systemimager_core::testing::RecordedHost::new();
    let error = medium(dir.path(), Kind::Cd).plan(&Registry::default(), &host).unwrap_err().to_string();
    assert!(error.contains("no boot loader plugin serves cd media"), "{error}");
}
