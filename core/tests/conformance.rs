//! The conformance suite can fail: each breach of the contract, made on purpose, is found by its own line, and the
//! plugin without one passes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use systemimager_core::abi::{Identification, private::Instance};
use systemimager_core::conformance::{Line, conformance};
use systemimager_core::contract::{
    FileSystem, FileSystemDescribe, FileSystemDetect, FileSystemFacts, FileSystemMake, FileSystemMount, FileSystemType,
};
use systemimager_core::registry::Origin;
use systemimager_core::testing::RecordedHost;
use systemimager_core::{
    Action, Arg, BytePath, CONTRACT_VERSION, Capabilities, Contents, Host, Kind, Needs, Offer, Phase, Piece, Place,
    PluginError, Probe, Program, PullReport, PullRequest, Registry, Result, Role, Service, ServiceFile, Spawn, Step,
    Transport, Written,
};

type Spoil = fn(&dyn Host, &FileSystemMake, &mut Vec<Step>) -> Result<()>;

/// A file system plugin that keeps the contract, but for what is done to its steps and needs.
struct Fs {
    steps: Spoil,
    needs: fn(&mut Needs),
    detect: Detect,
}

type Detect = fn(&dyn Host, &Place) -> Result<BTreeMap<String, String>>;

fn finds_nothing(_: &dyn Host, _: &Place) -> Result<BTreeMap<String, String>> {
    Ok(BTreeMap::new())
}

impl FileSystem for Fs {
    fn types(&self, _: &dyn Host, (): ()) -> Result<Vec<FileSystemType>> {
        Ok(vec![FileSystemType { name: "x".into(), mountable: true }])
    }
    fn needs(&self, _: &dyn Host, _: Role) -> Result<Needs> {
        let mut needs = Needs { programs: vec![Program::new("mkfs.x", "x-utils")], ..Needs::default() };
        (self.needs)(&mut needs);
        Ok(needs)
    }
    fn describe(&self, _: &dyn Host, _: FileSystemDescribe) -> Result<FileSystemFacts> {
        Err(PluginError::unsupported("this type is not served here"))
    }
    fn plan_make(&self, host: &dyn Host, request: FileSystemMake) -> Result<Vec<Step>> {
        let fs = &request.filesystem;
        let odd = |word: &String| word.chars().any(char::is_control);
        if fs.kind != "x" || !fs.options.is_empty() || fs.uuid.iter().chain(&fs.label).any(odd) {
            return Err(PluginError::invalid("the type, an option, the uuid or the label is none that x has"));
        }
        let mut argv = Arg::words(["mkfs.x"]);
        argv.extend(fs.uuid.iter().filter(|_| !fs.new_uuid).chain(&fs.label).map(|word| Arg::from(word.as_str())));
        argv.push(Arg::Device(fs.on.clone()));
        let step = Step::new(Phase::Format, "make it", Action::Run { argv, stdin: None });
        let mut steps = vec![step.destroying([fs.on.clone()]).providing([fs.node.clone()])];
        (self.steps)(host, &request, &mut steps)?;
        Ok(steps)
    }
    fn plan_mount(&self, _: &dyn Host, request: FileSystemMount) -> Result<Vec<Step>> {
        let (fs, mount) = (request.filesystem, request.mount);
        let action = Action::Mount { node: fs.node, at: mount.at, fstype: fs.kind, options: mount.options };
        Ok(vec![Step::new(Phase::Mount, "mount it", action)])
    }
    fn detect(&self, host: &dyn Host, request: FileSystemDetect) -> Result<BTreeMap<String, String>> {
        (self.detect)(host, &request.place)
    }
}

fn check(kind: Kind, instance: Instance) -> Vec<Line> {
    let identification = Identification {
        id: "x".into(),
        kind,
        about: "made for this test".into(),
        version: "0.1.0".into(),
        contract: CONTRACT_VERSION.into(),
        panic: "unwind".into(),
        arch: std::env::consts::ARCH.into(),
    };
    let mut registry = Registry::default();
    registry.add(identification, Origin::Linked, instance).unwrap();
    conformance(registry.get(kind, "x").unwrap(), &RecordedHost::new())
}

fn failed(lines: &[Line]) -> Vec<String> {
    lines.iter().filter(|line| !line.ok).map(ToString::to_string).collect()
}

fn step(steps: &mut Vec<Step>, action: Action) {
    steps.push(Step::new(Phase::Format, "something more", action));
}

fn run(words: &[&str]) -> Action {
    Action::Run { argv: Arg::words(words.iter().copied()), stdin: None }
}

static COUNT: AtomicU32 = AtomicU32::new(0);

#[test]
fn each_breach_of_a_plan_is_found() {
    let fine = check(
        Kind::FileSystem,
        Instance::FileSystem(Box::new(Fs { steps: |_, _, _| Ok(()), needs: |_| {}, detect: finds_nothing })),
    );
    assert_eq!(failed(&fine), Vec::<String>::new());

    let rows: &[(&str, Spoil, &str)] = &[
        (
            "panics",
            |_, make, _| Err(PluginError::failed(make.filesystem.uuid.clone().unwrap())),
            "panicked in plan_make: ",
        ),
        (
            "counts",
            |_, _, steps| {
                steps[0].what = format!("the {}", COUNT.fetch_add(1, Ordering::Relaxed));
                Ok(())
            },
            "answers otherwise; the answer must depend on the request alone",
        ),
        (
            "reads",
            |host, _, _| {
                let _ = host.read(&Place::Running, &"/etc/x".into());
                Ok(())
            },
            "it asks the host for the file /etc/x; this method must depend on its request alone",
        ),
        (
            "starts a program",
            |host, _, _| {
                let _ = host.spawn(&Spawn { argv: Arg::words(["mkfs.x"]), ..Spawn::default() });
                Ok(())
            },
            "it starts the program Text(\"mkfs.x\"); only a transport may",
        ),
        ("another kind of error", |_, _, _| Err(PluginError::failed("it failed somehow")), "an answer was wanted"),
        (
            "another phase",
            |_, _, steps| {
                steps[0].phase = Phase::Boot;
                Ok(())
            },
            "it is of the phase boot; this method plans format only",
        ),
        (
            "a device",
            |_, _, steps| {
                step(steps, run(&["mkfs.x", "--on=/dev/sda1"]));
                Ok(())
            },
            "its argument --on=/dev/sda1 names the device /dev/sda1",
        ),
        (
            "a program that is not there",
            |_, _, steps| {
                step(steps, run(&["tune.x", "-U"]));
                Ok(())
            },
            "it runs tune.x, which needs() does not name for the installer",
        ),
        (
            "no program",
            |_, _, steps| {
                step(steps, run(&[]));
                Ok(())
            },
            "its argv has no program",
        ),
        (
            "a node that is not there",
            |_, _, steps| {
                step(steps, Action::Settle { nodes: vec!["other".parse().unwrap()] });
                Ok(())
            },
            "it uses the node other, which neither the request nor a step before it has",
        ),
        (
            "a node from nowhere",
            |_, _, steps| {
                steps[0].provides.push("other".parse().unwrap());
                Ok(())
            },
            "it provides the node other, which is not of the request",
        ),
        (
            "nothing destroyed",
            |_, _, steps| {
                steps[0].destroys.clear();
                Ok(())
            },
            "no step says that it destroys disk0p1",
        ),
        (
            "nothing provided",
            |_, _, steps| {
                steps[0].provides.clear();
                Ok(())
            },
            "no step says that it provides check",
        ),
        (
            "a path that climbs",
            |_, _, steps| {
                let contents = Contents::Bytes("".into());
                step(steps, Action::WriteFile { path: "/etc/../x".into(), contents, mode: 0o644 });
                Ok(())
            },
            "it writes /etc/../x, which is not an absolute path",
        ),
        (
            "a declared path that is relative",
            |_, _, steps| {
                steps[0].writes.push(Written::path("x"));
                Ok(())
            },
            "it writes x, which is not an absolute path",
        ),
        (
            "a program in the target that says nothing",
            |_, _, steps| {
                step(steps, Action::InTarget { argv: Arg::words(["x"]), stdin: None });
                Ok(())
            },
            "it runs a program in the target and does not say what that changes",
        ),
        (
            "the engine's own",
            |_, _, steps| {
                step(steps, Action::Seal);
                Ok(())
            },
            "it is an action of the engine's own",
        ),
        (
            "a step without words",
            |_, _, steps| {
                steps[0].what.clear();
                Ok(())
            },
            "what it is for has to be said",
        ),
        (
            "no UUID",
            |_, _, steps| {
                if let Action::Run { argv, .. } = &mut steps[0].action {
                    argv.retain(|word| !matches!(word, Arg::Text(text) if text.as_bytes().len() == 36));
                }
                Ok(())
            },
            "is in no step: the image's fstab would name one that nothing has",
        ),
    ];
    for (name, steps, says) in rows {
        let lines = check(
            Kind::FileSystem,
            Instance::FileSystem(Box::new(Fs { steps: *steps, needs: |_| {}, detect: finds_nothing })),
        );
        let failed = failed(&lines);
        assert!(
            failed.iter().any(|line| line.starts_with("FAILED  plan_make of x") && line.contains(says)),
            "{name}: {failed:#?}"
        );
    }
}

#[test]
fn each_breach_of_needs_is_found() {
    type Rows<'a> = &'a [(fn(&mut Needs), &'a str)];
    let rows: Rows = &[
        (|needs| needs.programs[0].name = "/sbin/mkfs.x".into(), "the program /sbin/mkfs.x is a path"),
        (|needs| needs.programs[0].name = "mkfs x".into(), "\"mkfs x\" is not the name of a program"),
        (|needs| needs.programs[0].package.clear(), "names the package \"\"; name the Debian package"),
        (|needs| needs.programs.push(Program::new("mkfs.x", "x-utils")), "the program mkfs.x is named twice"),
        (|needs| needs.files.push("etc/x".into()), "the file etc/x is not an absolute path"),
        (|needs| needs.modules.push("fs/x.ko/..".into()), "\"fs/x.ko/..\" is not the plain name of a kernel module"),
    ];
    for (needs, says) in rows {
        let lines = check(
            Kind::FileSystem,
            Instance::FileSystem(Box::new(Fs { steps: |_, _, _| Ok(()), needs: *needs, detect: finds_nothing })),
        );
        let failed = failed(&lines);
        assert!(
            failed.iter().any(|line| line.starts_with("FAILED  needs of") && line.contains(says)),
            "{says}: {failed:#?}"
        );
    }
}

#[test]
fn each_breach_of_detect_is_found() {
    // What it reads in a tree: the versions of a package, say.
    fn text(host: &dyn Host, place: &Place) -> Option<String> {
        host.read(place, &"/etc/x".into()).ok().map(|text| text.lossy().into_owned())
    }
    let rows: &[(&str, Detect, &str)] = &[
        (
            "an empty tree",
            |host, place| host.read(place, &"/etc/x".into()).map(|_| BTreeMap::new()),
            "of kind NotFound",
        ),
        (
            "an empty tree",
            |host, place| host.list(place, &"/".into()).map(|names| names[0].clone()).map(|_| BTreeMap::new()),
            "panicked in detect",
        ),
        (
            "a tree of empty files",
            |host, place| {
                let _ = text(host, place).map(|text| text.lines().next().unwrap().to_owned());
                Ok(BTreeMap::new())
            },
            "panicked in detect: ",
        ),
        (
            "a tree of hostile words",
            |host, place| {
                let _ = text(host, place)
                    .filter(|text| text.contains('\u{0}'))
                    .map(|text| text.find("no such word").unwrap());
                Ok(BTreeMap::new())
            },
            "panicked in detect: ",
        ),
        (
            "a tree of bytes that are no text",
            |host, place| {
                let bytes = host.read(place, &"/etc/x".into());
                let _ = bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
                Ok(BTreeMap::new())
            },
            "panicked in detect: ",
        ),
        (
            "a tree of huge numbers",
            |host, place| {
                let _ = text(host, place)
                    .filter(|text| text.starts_with('9'))
                    .map(|text| text.lines().next().unwrap().parse::<u64>().unwrap());
                Ok(BTreeMap::new())
            },
            "panicked in detect: ",
        ),
        (
            "an empty tree",
            |host, place| {
                let _ = host.spawn(&Spawn { argv: Arg::words(["rpm"]), ..Spawn::default() });
                finds_nothing(host, place)
            },
            "it starts the program",
        ),
    ];
    for (tree, detect, says) in rows {
        let lines = check(
            Kind::FileSystem,
            Instance::FileSystem(Box::new(Fs { steps: |_, _, _| Ok(()), needs: |_| {}, detect: *detect })),
        );
        let failed = failed(&lines);
        let begins = format!("FAILED  detect in {tree}: ");
        assert!(failed.iter().any(|line| line.starts_with(&begins) && line.contains(says)), "{tree}: {failed:#?}");
    }
    // A tree can be walked: it has an end.
    fn walk(host: &dyn Host, place: &Place, at: &BytePath) -> usize {
        let names = host.list(place, at).unwrap_or_default();
        names.iter().map(|name| 1 + walk(host, place, &at.join(name.clone()))).sum()
    }
    let walks: Detect = |host, place| Ok([("files".to_owned(), walk(host, place, &"/".into()).to_string())].into());
    let lines = check(
        Kind::FileSystem,
        Instance::FileSystem(Box::new(Fs { steps: |_, _, _| Ok(()), needs: |_| {}, detect: walks })),
    );
    assert_eq!(failed(&lines), Vec::<String>::new());
}

#[test]
fn facts_of_the_image_are_not_trusted() {
    let trusts: Spoil = |_, make, _| {
        make.image
            .filesystems
            .get("x")
            .and_then(|facts| facts.values().next())
            .map(|version| version.parse::<u32>().unwrap());
        Ok(())
    };
    let lines = check(
        Kind::FileSystem,
        Instance::FileSystem(Box::new(Fs { steps: trusts, needs: |_| {}, detect: finds_nothing })),
    );
    let failed = failed(&lines);
    assert!(
        failed
            .iter()
            .any(|line| line.contains("as every fact of the image: ") && line.contains("panicked in plan_make")),
        "{failed:#?}"
    );
}

#[test]
fn lines_are_not_as_long_as_what_a_plugin_repeats() {
    let repeats: Spoil = |_, make, _| match &make.filesystem.label {
        Some(label) if label.len() > 16 => {
            Err(PluginError::invalid(format!("the label {label:?} is too long; shorten it")))
        }
        Some(label) => Err(PluginError::failed(format!("{label:?} {}", "y".repeat(5000)))),
        None => Ok(()),
    };
    let lines = check(
        Kind::FileSystem,
        Instance::FileSystem(Box::new(Fs { steps: repeats, needs: |_| {}, detect: finds_nothing })),
    );
    let (mut good, mut bad) = (0, 0);
    for line in &lines {
        let length = line.detail.chars().count();
        assert!(length <= if line.ok { 201 } else { 601 }, "{length}: {line}");
        good += u32::from(line.ok && line.detail.ends_with("xxx…"));
        bad += u32::from(line.detail.contains("yyy…") && line.detail.contains("the contract names"));
    }
    assert!(good > 0 && bad > 0, "{lines:#?}");
}

/// A transport that keeps the contract, but for what is done to its service and what it starts.
struct Mover {
    service: fn(&mut Service),
    spawn: fn(&mut Spawn),
}

impl Transport for Mover {
    fn capabilities(&self, _: &dyn Host, (): ()) -> Result<Capabilities> {
        Ok(Capabilities { default_port: 1, ..Capabilities::default() })
    }
    fn needs(&self, _: &dyn Host, _: Role) -> Result<Needs> {
        Ok(Needs { programs: vec![Program::new("mover", "mover")], ..Needs::default() })
    }
    fn offer(&self, _: &dyn Host, request: Offer) -> Result<Service> {
        let mut contents: Vec<Piece> =
            request.exports.iter().flat_map(|export| &export.allow).map(|word| Piece::Text(word.clone())).collect();
        contents.extend(request.exports.iter().filter_map(|export| export.secret.clone().map(Piece::Secret)));
        let own = request.exports.iter().flat_map(|export| &export.secrets);
        contents.extend(own.map(|own| Piece::Secret(own.secret.clone())));
        let mut service = Service {
            files: vec![ServiceFile { path: request.work_dir.join("mover.conf"), mode: 0o600, contents }],
            argv: Arg::words(["mover", "--serve"]),
            ready: Probe::Tcp(request.port),
            stop_signal: 15,
            finished: None,
            rereads: false,
        };
        if request.finish.is_some() {
            return Err(PluginError::unsupported("it cannot be told to finish"));
        }
        (self.service)(&mut service);
        Ok(service)
    }
    fn pull(&self, host: &dyn Host, request: PullRequest) -> Result<PullReport> {
        let secret_env = request.from.secret.map(|secret| ("SECRET".to_owned(), secret)).into_iter().collect();
        let mut spawn = Spawn { argv: Arg::words(["mover", "--pull"]), secret_env, ..Spawn::default() };
        (self.spawn)(&mut spawn);
        host.spawn(&spawn).map(|_| PullReport::default())
    }
}

#[test]
fn each_breach_of_a_transport_is_found() {
    let fine = check(Kind::Transport, Instance::Transport(Box::new(Mover { service: |_| {}, spawn: |_| {} })));
    assert_eq!(failed(&fine), Vec::<String>::new());
    type Row<'a, T> = (fn(&mut T), &'a str);
    let services: &[Row<Service>] = &[
        (|it| it.argv.push("--secret=check-secret".into()), "holds a secret's name"),
        (|it| it.files[0].path = "/etc/mover.conf".into(), "the file /etc/mover.conf lies outside"),
        (|it| it.files[0].mode = 0o644, "holds a secret and has mode 644"),
        (
            |it| it.files[0].contents.retain(|piece| matches!(piece, Piece::Secret(_))),
            "is named nowhere: the tree would be open",
        ),
        (|it| it.files[0].contents.retain(|piece| matches!(piece, Piece::Text(_))), "the secret is in no file"),
        (
            |it| it.files[0].contents.retain(|piece| matches!(piece, Piece::Text(_))),
            "neither the secrets nor the keys of who may have it",
        ),
        (|it| it.argv = Arg::words(["another"]), "it runs another, which needs() does not name for the image server"),
        (|it| it.argv.clear(), "the service has no program"),
        (|it| it.stop_signal = 0, "is stopped by no signal"),
    ];
    for (service, says) in services {
        let failed =
            failed(&check(Kind::Transport, Instance::Transport(Box::new(Mover { service: *service, spawn: |_| {} }))));
        assert!(
            failed.iter().any(|line| line.starts_with("FAILED  offer") && line.contains(says)),
            "{says}: {failed:#?}"
        );
    }
    let spawns: &[Row<Spawn>] = &[
        (|it| it.argv.push("check-secret".into()), "a secret's name is in its arguments"),
        (
            |it| it.env.push(("PASSWORD".into(), "check-secret".into())),
            "a secret's name is in its arguments or environment",
        ),
        (|it| it.argv[0] = "another".into(), "it starts another, which needs() names neither"),
        (|it| it.argv.push(Arg::Device("disk0".parse().unwrap())), "a started program gets text only"),
    ];
    for (spawn, says) in spawns {
        let failed =
            failed(&check(Kind::Transport, Instance::Transport(Box::new(Mover { service: |_| {}, spawn: *spawn }))));
        assert!(
            failed.iter().any(|line| line.starts_with("FAILED  what pull starts") && line.contains(says)),
            "{says}: {failed:#?}"
        );
    }
}

#[test]
fn names_are_made_of_facts() {
    struct Guesser;
    impl systemimager_core::HostIdentity for Guesser {
        fn needs(&self, _: &dyn Host, _: Role) -> Result<Needs> {
            Ok(Needs::default())
        }
        fn who(
            &self,
            _: &dyn Host,
            _: systemimager_core::contract::IdentityWho,
        ) -> Result<Option<systemimager_core::Identity>> {
            let name = "localhost".parse().map_err(|_| PluginError::invalid("localhost is no name"))?;
            Ok(Some(systemimager_core::Identity::new(name, Default::default(), "a guess")))
        }
        fn detect(
            &self,
            _: &dyn Host,
            _: systemimager_core::contract::IdentityDetect,
        ) -> Result<BTreeMap<String, String>> {
            Ok(BTreeMap::new())
        }
        fn plan_write(&self, _: &dyn Host, _: systemimager_core::contract::IdentityWrite) -> Result<Vec<Step>> {
            Ok(Vec::new())
        }
    }
    let failed = failed(&check(Kind::HostIdentity, Instance::HostIdentity(Box::new(Guesser))));
    assert!(failed.iter().any(|line| line.contains("claims to be localhost without any fact")), "{failed:#?}");
}
