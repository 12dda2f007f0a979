//! Each directory `golden/NN-name` holds a request (`request.json`) and the root that its plan makes (`root/`): of the
//! network with the boot files that DHCP names (`boot-files.json`), of a medium with the programs that are run then
//! (`programs`). `UPDATE_GOLDEN=1` writes them anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use boot_pxelinux::Pxelinux;
use systemimager_core::contract::{Bootloader, BootloaderDetect, BootloaderPlan};
use systemimager_core::testing::RecordedHost;
use systemimager_core::{Action, Arg, BootTarget, Contents, ErrorKind, ImageFacts, Phase, Place, Role};

const LOADERS: [&str; 3] =
    ["/usr/lib/PXELINUX/pxelinux.0", "/usr/lib/PXELINUX/lpxelinux.0", "/usr/lib/syslinux/modules/bios/ldlinux.c32"];

const OF_MEDIA: [&str; 6] = [
    "/usr/lib/syslinux/mbr/mbr.bin",
    "/usr/lib/ISOLINUX/isolinux.bin",
    "/usr/lib/ISOLINUX/isohdpfx.bin",
    "/usr/lib/SYSLINUX.EFI/efi64/syslinux.efi",
    "/usr/lib/syslinux/modules/efi64/ldlinux.e64",
    "/usr/lib/grub/x86_64-efi/monolithic/gcdx64.efi",
];

fn server() -> RecordedHost {
    LOADERS.into_iter().chain(OF_MEDIA).fold(RecordedHost::new(), |host, path| host.file(path, "program"))
}

/// The files that a plan makes, by path; a copied one holds where it is copied from.
fn carried_out(request: BootloaderPlan) -> BTreeMap<String, String> {
    let plan = Pxelinux.plan(&server(), request).unwrap();
    let mut files = BTreeMap::new();
    let mut programs = String::new();
    let mut directories = vec!["/".to_owned()];
    for step in plan.steps {
        assert_eq!(step.phase, Phase::Boot);
        match step.action {
            // Parents are made with it.
            Action::MakeDirectory { path, mode: 0o755 } => directories.push(format!("{path}/")),
            Action::Run { argv, stdin: None } => programs.push_str(&(shown(&argv) + "\n")),
            Action::WriteFile { path, contents, mode: 0o644 } => {
                assert!(programs.is_empty(), "{path}: programs run when all files are there");
                let path = path.to_string();
                let parent = &path[..=path.rfind('/').unwrap()];
                assert!(directories.iter().any(|directory| directory == parent), "{path}: its directory is not made");
                let text = match contents {
                    Contents::Bytes(bytes) => bytes.text().unwrap().to_owned(),
                    Contents::CopyOf(from) => format!("copy of {from}\n"),
                };
                assert_eq!(files.insert(format!("root{path}"), text), None);
            }
            other => panic!("{other:?}"),
        }
    }
    if programs.is_empty() {
        files.insert("boot-files.json".into(), serde_json::to_string_pretty(&plan.boot_files).unwrap() + "\n");
    } else {
        assert!(plan.boot_files.is_empty());
        files.insert("programs".into(), programs);
    }
    files
}

fn shown(argv: &[Arg]) -> String {
    let word = |arg: &Arg| match arg {
        Arg::Text(text) => text.to_string(),
        Arg::Device(node) => format!("<{node}>"),
        Arg::PrefixedDevice(prefix, node) => format!("{prefix}<{node}>"),
        Arg::Target(path) => format!("<target>{path}"),
    };
    argv.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn read_tree(root: &Path, below: &Path, into: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(below).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            read_tree(root, &path, into);
        } else {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            into.insert(name, std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn plans_make_these_files() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<PathBuf> = std::fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 6, "{cases:?}");
    for case in cases {
        let request = serde_json::from_slice(&std::fs::read(case.join("request.json")).unwrap()).unwrap();
        let files = carried_out(request);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let _ = std::fs::remove_dir_all(case.join("root"));
            for (name, text) in &files {
                let path = case.join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
        }
        let mut expected = BTreeMap::new();
        read_tree(&case, &case, &mut expected);
        expected.remove("request.json");
        assert_eq!(files, expected, "{}", case.display());
    }
}

fn request(target: BootTarget) -> BootloaderPlan {
    let entry = systemimager_core::BootEntry { name: "local".into(), ..Default::default() };
    BootloaderPlan { entries: vec![entry], ..BootloaderPlan::new(target) }
}

#[test]
fn other_targets_are_refused() {
    let disk = BootTarget::Disk {
        disks: vec![],
        firmware: "uefi".into(),
        image: Box::<ImageFacts>::default(),
        missing_modules: vec![],
    };
    let rows = [(disk, "not a disk (uefi)"), (BootTarget::Media { kind: "floppy".into() }, "not a medium \"floppy\"")];
    for (target, says) in rows {
        let error = Pxelinux.plan(&server(), request(target)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(error.message.contains(says), "{error}");
    }
}

#[test]
fn programs_are_found_or_named_with_their_package() {
    let network = || request(BootTarget::Network { server: "10.0.0.1".into(), http_port: 80, mac: None });
    for (without, package) in [(LOADERS[1], "the package pxelinux"), (LOADERS[2], "the package syslinux-common")] {
        let mut host = server();
        host.files.remove(&without.into());
        let error = Pxelinux.plan(&host, network()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Missing);
        assert!(error.message.ends_with(&format!("install {package}")), "{error}");
    }
    for (without, kind, package) in [
        (OF_MEDIA[0], "usb", "the package syslinux-common"),
        (OF_MEDIA[1], "cd", "the package isolinux"),
        (OF_MEDIA[3], "usb", "the package syslinux-efi"),
        (OF_MEDIA[4], "usb", "the package syslinux-common"),
        (OF_MEDIA[5], "cd", "the package grub-efi-amd64-bin"),
    ] {
        let mut host = server();
        host.files.remove(&without.into());
        let error = Pxelinux.plan(&host, request(BootTarget::Media { kind: kind.into() })).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Missing);
        assert!(error.message.ends_with(&format!("install {package}")), "{error}");
    }
    // Fedora's place.
    let host =
        RecordedHost::new().file("/usr/share/syslinux/lpxelinux.0", "").file("/usr/share/syslinux/ldlinux.c32", "");
    let plan = Pxelinux.plan(&host, network()).unwrap();
    let Action::WriteFile { contents, .. } = &plan.steps[0].action else { panic!("{plan:?}") };
    assert_eq!(*contents, Contents::CopyOf("/usr/share/syslinux/lpxelinux.0".into()));

    let needs = Pxelinux.needs(&server(), Role::Server).unwrap();
    assert_eq!(needs.files, LOADERS.map(Into::into));
    assert_eq!(Pxelinux.needs(&RecordedHost::new(), Role::Server).unwrap().files, LOADERS.map(Into::into));
    assert!(Pxelinux.needs(&server(), Role::Installer).unwrap().files.is_empty());
}

#[test]
fn it_is_in_no_image() {
    assert_eq!(Pxelinux.detect(&server(), BootloaderDetect { place: Place::Running }), Ok(None));
}
