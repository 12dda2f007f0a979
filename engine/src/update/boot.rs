//! The boot loader of a machine that is updated: its steps are planned before anything changes, and carried out in the
//! running system itself, or inside a tree.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use systemimager_core::contract::BootloaderRefresh;
use systemimager_core::{Action, Arg, BytePath, ErrorKind, ImageFacts, Step, Written};

use super::Machine;
use crate::install::{run, with_input};
use crate::store::master::NO_BOOTLOADER;
use crate::sys::mount::{MountGuard, Mounts};
use crate::sys::target_env::InTarget;
use crate::sys::{Cmd, namespace};
use crate::tree::{self, Inside, pattern};

/// How long one program may take: an initramfs is made anew for each kernel.
const LIMIT: Duration = Duration::from_secs(1800);

/// What a machine boots by, whatever its loader: changes below these are for the loader to hear of.
const BOOTS: [&str; 3] = ["/boot", "/lib/modules", "/usr/lib/modules"];

/// Files of an installed machine that its boot loader makes or reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootPaths {
    /// What it made on this machine, as patterns.
    pub own: Vec<BytePath>,
    /// What it reads, and all else that a machine boots by.
    pub reads: Vec<Written>,
}

/// What is the boot loader's on this machine, as its plugin found in the image. Pure.
pub fn paths(facts: &ImageFacts, bootloader: &str) -> BootPaths {
    let told = |key: &str| {
        let lines = facts.bootloaders.get(bootloader).and_then(|found| found.get(key)).map(String::as_str);
        // What names no path of its own would leave everything as it is.
        let fine = |line: &&str| line.starts_with('/') && super::list::pattern(line.as_bytes()).is_ok();
        lines.unwrap_or_default().lines().filter(fine).map(BytePath::from).collect::<Vec<_>>()
    };
    let reads = told("reads").into_iter().map(Written::below);
    BootPaths {
        own: told("writes").iter().map(pattern::literal).collect(),
        reads: reads.chain(BOOTS.map(Written::below)).collect(),
    }
}

/// The steps that tell the boot loader of a change; none where nothing it knows changes.
///
/// # Errors
/// The plugin refuses, and why.
pub fn plan(machine: &Machine<'_>, missing_modules: &[String], changed: Vec<BytePath>) -> Result<Vec<Step>> {
    if machine.master.bootloader == NO_BOOTLOADER || changed.is_empty() {
        return Ok(Vec::new());
    }
    let booted = crate::booted::look(&machine.target).context("looking at what this machine boots by")?;
    let plugin = machine.registry.bootloader(&machine.master.bootloader)?;
    let request = BootloaderRefresh {
        image: machine.facts.clone(),
        missing_modules: missing_modules.to_vec(),
        booted: Some(booted),
        changed: Some(changed),
    };
    match plugin.refresh(machine.host, request) {
        Ok(steps) => Ok(steps),
        Err(error) if error.kind == ErrorKind::Unsupported => bail!(
            "the boot loader plugin {} cannot tell an installed machine's boot loader of a new kernel ({error}); update \
             with --no-bootloader, and see to it by hand",
            machine.master.bootloader
        ),
        Err(error) => Err(error).context("the boot loader could not be told of what changes; nothing was changed"),
    }
}

/// Carries out steps in the machine's tree as if these `files` (absolute in it) were gone, saying what runs and what it
/// prints. A loader that looks for kernels makes its menu without them, while they are still there for the menu before it:
/// whenever the power goes, the menu on the disk names what is there.
///
/// # Errors
/// The step that failed, and why; or the files cannot be hidden.
pub fn carry_out_without(target: &Path, steps: &[Step], files: &[BytePath], say: &mut dyn FnMut(String)) -> Result<()> {
    if files.is_empty() {
        return carry_out(target, steps, say);
    }
    // Of a thread of its own, whose mounts nobody else sees; what it says comes to this one.
    let (told, tell) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let work = scope.spawn(move || {
            namespace::in_private_mounts(|| -> Result<()> {
                let mut hidden = Mounts::new();
                for file in files {
                    // A device is no kernel to any loader.
                    hidden.push(MountGuard::bind(Path::new("/dev/null"), &super::stage::below(target, file))?);
                }
                let done = carry_out(target, steps, &mut |line| drop(told.send(line)));
                // They go with the thread, too.
                hidden.close().map_err(anyhow::Error::from).and(done)
            })
        });
        tell.iter().for_each(&mut *say);
        work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map_err(anyhow::Error::from)?
    })
}

/// Carries out steps in the machine's tree, saying what runs and what it prints.
///
/// # Errors
/// The step that failed, and why.
pub fn carry_out(target: &Path, steps: &[Step], say: &mut dyn FnMut(String)) -> Result<()> {
    let mut entered = None;
    let result = steps.iter().try_for_each(|step| {
        say(step.what.clone());
        one(target, step, &mut entered, say).with_context(|| step.what.clone())
    });
    match (result, entered) {
        (Ok(()), Some(inside)) => Ok(InTarget::close(inside)?),
        (result, _) => result,
    }
}

fn one(target: &Path, step: &Step, entered: &mut Option<InTarget>, say: &mut dyn FnMut(String)) -> Result<()> {
    let (argv, stdin) = match &step.action {
        Action::InTarget { argv, stdin } | Action::Run { argv, stdin } => (argv, stdin),
        other => {
            if !tree::apply(&Inside::open(target)?, other)? {
                bail!("a step of that kind cannot be carried out on an installed machine; report it to its author");
            }
            return Ok(());
        }
    };
    let within = matches!(step.action, Action::InTarget { .. });
    let words = words(target, argv)?;
    let cmd = if within && target != Path::new("/") {
        if entered.is_none() {
            *entered = Some(InTarget::enter(target)?);
        }
        entered.as_ref().context("the tree was just entered")?.command(words)?
    } else {
        Cmd::argv(words)?.own_group()
    };
    run(&with_input(cmd, stdin).timeout(LIMIT), say)
}

fn words(target: &Path, argv: &[Arg]) -> Result<Vec<OsString>> {
    argv.iter()
        .map(|arg| match arg {
            Arg::Text(text) => Ok(text.as_os_str().to_owned()),
            Arg::Target(path) => Ok(PathBuf::from(BytePath::from(target).join(path.as_bytes())).into()),
            Arg::Device(node) | Arg::PrefixedDevice(_, node) => bail!(
                "the boot loader plugin names the node {node}, and an installed machine has devices only; report it to \
                 the plugin's author"
            ),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::{Contents, Phase};

    #[test]
    fn what_a_loader_calls_its_own() {
        let found = [("writes", "/boot/grub\n/x*\n/\nrelative\n/a/../b"), ("reads", "/etc/default/grub")];
        let found = found.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let facts = ImageFacts { bootloaders: [("l".to_owned(), found.into())].into(), ..ImageFacts::default() };
        let paths = paths(&facts, "l");
        assert_eq!(paths.own, ["/boot/grub", "/x\\*"].map(BytePath::from));
        assert!(paths.reads.contains(&Written::below("/etc/default/grub")));
        let other = super::paths(&facts, "other");
        assert!(other.own.is_empty() && other.reads.contains(&Written::below("/boot")));
    }

    #[test]
    fn steps_stay_in_the_tree() {
        let dir = tempfile::tempdir().unwrap();
        let step = |action| Step::new(Phase::Boot, "a step", action);
        let file = Action::WriteFile { path: "/x".into(), contents: Contents::Bytes("y".into()), mode: 0o644 };
        let run = |argv: Vec<Arg>| step(Action::Run { argv, stdin: Some("text".into()) });
        let mut said = Vec::new();
        let steps = [step(file), run(vec!["cp".into(), "/dev/stdin".into(), Arg::Target("/copy".into())])];
        carry_out(dir.path(), &steps, &mut |line| said.push(line)).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("x")).unwrap(), "y");
        assert_eq!(std::fs::read_to_string(dir.path().join("copy")).unwrap(), "text");
        assert_eq!(said.iter().filter(|line| *line == "a step").count(), 2, "{said:?}");
        for (name, step, says) in [
            ("a node", run(vec!["true".into(), Arg::Device("disk0".try_into().unwrap())]), "names the node disk0"),
            ("a disk", step(Action::Wipe { disks: vec![] }), "cannot be carried out on an installed machine"),
            ("a failure", run(vec!["false".into()]), "a step: "),
        ] {
            let error = format!("{:#}", carry_out(dir.path(), &[step], &mut |_| {}).unwrap_err());
            assert!(error.contains(says), "{name}: {error}");
        }
    }

    #[test]
    fn what_is_to_go_is_hidden_and_there() {
        if let Err(error) = namespace::in_private_mounts(|| ()) {
            eprintln!("SKIPPED: what_is_to_go_is_hidden_and_there: {error}");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("boot")).unwrap();
        for name in ["boot/old", "boot/new"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        // As a loader's program looks for kernels.
        let look = "for file in \"$0\"/*; do test ! -f \"$file\" || echo \"found ${file##*/}\"; done";
        let argv = vec!["sh".into(), "-c".into(), look.into(), Arg::Target("/boot".into())];
        let steps = [Step::new(Phase::Boot, "the menu", Action::Run { argv, stdin: None })];
        let mut said = Vec::new();
        carry_out_without(dir.path(), &steps, &["/boot/old".into()], &mut |line| said.push(line)).unwrap();
        let found: Vec<&str> = said.iter().map(|line| line.trim()).filter(|line| line.starts_with("found")).collect();
        assert_eq!(found, ["found new"], "{said:?}");
        assert_eq!(std::fs::read_to_string(dir.path().join("boot/old")).unwrap(), "boot/old");
        let error = carry_out_without(dir.path(), &steps, &["/boot/none".into()], &mut |_| {}).unwrap_err();
        assert!(format!("{error:#}").contains("/boot/none"), "{error:#}");
        let fails = [Step::new(Phase::Boot, "it fails", Action::Run { argv: vec!["false".into()], stdin: None })];
        let error = carry_out_without(dir.path(), &fails, &["/boot/old".into()], &mut |_| {}).unwrap_err();
        assert!(format!("{error:#}").contains("it fails"), "{error:#}");
    }
}
