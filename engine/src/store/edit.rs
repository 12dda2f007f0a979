//! Changing an image from inside, as if it were a running machine: what `image edit` does.
//!
//! What is changed is a copy, with reflinks where the file system has them, which takes the image's place when all went
//! well. So a machine that reads the image reads one tree from beginning to end; what went wrong, or was killed, has
//! changed nothing; files that another tree shares ([`revision`]) are never written; and whoever asks what the image is
//! sees another tree and looks again.
//!
//! [`revision`]: super::revision

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use systemimager_core::{BytePath, HostName, ImageName};

use super::image_store::ImageStore;
use super::staging::Staging;
use super::users::AllUsers;
use crate::config::{Config, below};
use crate::facts;
use crate::host::{EngineHost, Secrets};
use crate::sys::apart::{self, Apart};
use crate::sys::mount_points::MountPoints;
use crate::sys::namespace::{in_following_mounts, in_private_mounts};
use crate::sys::{CommandError, SysError};
use crate::tree::Inside;

/// The shells that are looked for, the first that is there is used.
const SHELLS: [&str; 3] = ["/bin/bash", "/usr/bin/bash", "/bin/sh"];
/// How name servers are found (resolv.conf(5)): this server's, as it shares its network.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Asked by Debian's packages whether they may start their services (invoke-rc.d(8)): 101 is no.
const POLICY: (&str, &[u8]) = ("/usr/sbin/policy-rc.d", b"#!/bin/sh\nexit 101\n");
/// The prompt of Debian's bash begins with it.
const CHROOT_NAME: &str = "debian_chroot";

/// What runs in an image.
#[derive(Debug)]
pub struct Work {
    /// The program and its arguments; none: a shell, which reads standard input.
    pub command: Vec<OsString>,
    /// What it says goes to standard error, because standard output is for programs.
    pub to_stderr: bool,
    /// Ends it.
    pub cancel: Arc<AtomicBool>,
}

/// An edit that took the image's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Trees that are still read, with who reads them: they go later.
    pub still_read: Vec<String>,
    /// Hosts whose install with the image has begun: with what it was before.
    pub installing: Vec<HostName>,
}

/// An image that is being edited. Dropping it throws the edit away; the image is as it was.
#[derive(Debug)]
pub struct Edit<'a> {
    config: &'a Config,
    store: ImageStore,
    image: ImageName,
    staging: Staging,
    /// The tree that was copied.
    identity: String,
    shell: Option<&'static str>,
}

impl<'a> Edit<'a> {
    /// Copies the image. `files` is told now and then how many have been copied.
    ///
    /// # Errors
    /// There is no such image; it is captured or edited just now; this machine cannot run its programs; without a
    /// `command` also if it has no shell; the disk is full.
    pub fn begin(
        config: &'a Config,
        image: &ImageName,
        command: &[OsString],
        files: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("an image is edited by root alone; run this as root");
        }
        let store = ImageStore::new(config);
        store.tree(image)?;
        let staging = Staging::begin_to(&store, image, "edit")?;
        let reading = store.read(image, &format!("copying image {image}"))?;
        let inside = Inside::open(reading.path())?;
        let shell = SHELLS.into_iter().find(|shell| inside.exists(&(*shell).into()));
        match shell {
            Some(shell) => in_private_mounts(|| apart::try_in(reading.path(), [shell, "-c", ":"]))?
                .map_err(|error| cannot_run(image, reading.path(), error))?,
            None if command.is_empty() => bail!(
                "{image} has no shell ({}); name a program of it: systemimager image edit {image} -- COMMAND",
                SHELLS.join(", ")
            ),
            None => {}
        }
        staging.copy(&reading, files)?;
        if store.identity(image)?.as_deref() != Some(reading.identity()) {
            bail!("{image} was replaced while it was copied; begin anew");
        }
        let identity = reading.identity().to_owned();
        Ok(Self { config, store, image: image.clone(), staging, identity, shell })
    }

    /// Runs a program, or a shell. When this returns all of its processes have ended, and nothing is mounted any more.
    /// A program that was killed shows as exit status 128 and the signal's number.
    ///
    /// # Errors
    /// It cannot be started, or was ended by [`Work::cancel`].
    pub fn run(&self, work: &Work) -> Result<ExitStatus> {
        if work.cancel.load(Ordering::SeqCst) {
            bail!("ended before anything was done");
        }
        let mut points = MountPoints::default();
        let ended = in_following_mounts(|| self.run_inside(work, &mut points));
        points.remove();
        ended?
    }

    fn run_inside(&self, work: &Work, points: &mut MountPoints) -> Result<ExitStatus> {
        let mut apart = Apart::enter(self.staging.path(), points)?;
        let inside = Inside::open(apart.root())?;
        // Below --root, or this machine's own.
        let servers = [below(&self.config.root, Path::new(RESOLV_CONF)), RESOLV_CONF.into()];
        let servers = servers.iter().find_map(|file| std::fs::read(file).ok());
        let shown = [(RESOLV_CONF, servers, 0o644), (POLICY.0, Some(POLICY.1.to_vec()), 0o755)];
        for (path, contents, mode) in shown {
            let Some(contents) = contents else { continue };
            if let Err(error) = show(&inside, &mut apart, path, &contents, mode, points) {
                // An image without such a directory has no use for the file.
                tracing::debug!("{path} is not shown in {}: {error:#}", self.image);
            }
        }
        let is_shell = work.command.is_empty();
        let shell = self.shell.map(OsString::from);
        let argv: Vec<&OsStr> = if is_shell {
            shell.iter().map(OsString::as_os_str).collect()
        } else {
            work.command.iter().map(OsString::as_os_str).collect()
        };
        let cmd = |terminal| -> Result<_, CommandError> {
            let cmd = apart.command(&argv, terminal)?.cancel_when(Arc::clone(&work.cancel));
            let cmd = cmd.env(CHROOT_NAME, self.image.as_str());
            Ok(if work.to_stderr { cmd.output_to_stderr() } else { cmd.inherit_output() })
        };
        apart::run(cmd, is_shell).map_err(|error| match error {
            CommandError::Cancelled { .. } => anyhow::anyhow!("it was ended on request"),
            error => cannot_run(&self.image, self.staging.path(), error.into()),
        })
    }

    /// Gives the edited tree the image's name.
    ///
    /// # Errors
    /// The image was replaced meanwhile, by hand; the disk fails. The image is as it was then.
    pub fn keep(self) -> Result<Kept> {
        let Self { config, store, image, staging, identity, .. } = self;
        if store.identity(&image)?.as_ref() != Some(&identity) {
            bail!("{image} was replaced while a copy of it was edited; the edit was thrown away");
        }
        let installing = AllUsers::find(config)?.of(&image).begun;
        let still_read = staging.swap_in().context("putting the edited image in its place")?;
        Ok(Kept { still_read, installing })
    }
}

/// Shows a file over the one that the image has, or would have, at `path`.
fn show(
    inside: &Inside,
    apart: &mut Apart,
    path: &str,
    contents: &[u8],
    mode: u32,
    points: &mut MountPoints,
) -> Result<()> {
    let place = inside.resolve(&path.into())?;
    // What a running system makes in /run is not there.
    let in_run = names(&place);
    if let Some((_, dirs)) = in_run.split_last()
        && dirs.first().is_some_and(|first| *first == b"run")
        && apart.has_run()
    {
        inside.make_directory(&BytePath::new([b"/".as_slice(), &dirs.join(&b'/')].concat()), 0o755)?;
    }
    Ok(apart.show(&inside.seen_from_outside(&place)?, contents, mode, points)?)
}

/// What a machine is to be told that cannot run an image's programs.
fn cannot_run(image: &ImageName, tree: &Path, error: SysError) -> anyhow::Error {
    let SysError::Command(CommandError::Spawn { error: why, .. }) = &error else { return error.into() };
    match why.raw_os_error() {
        Some(libc::ENOEXEC) => {
            let arch = facts::architecture(tree, &EngineHost::new(Secrets::default()));
            let arch = if arch.is_empty() { "another architecture".to_owned() } else { arch };
            anyhow::anyhow!(
                "{image} is for {arch}, whose programs this machine ({}) does not run; edit it on such a machine, or \
                 install the packages qemu-user-static and binfmt-support here",
                std::env::consts::ARCH
            )
        }
        Some(libc::EACCES) => anyhow::Error::from(error).context(format!(
            "is {} on a file system that is mounted noexec, or the program not executable?",
            tree.display()
        )),
        _ => error.into(),
    }
}

/// The names that a path leads through, without detours by `..`.
fn names(path: &BytePath) -> Vec<&[u8]> {
    let mut names = Vec::new();
    for name in path.as_bytes().split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_the_way() {
        let rows: [(&str, &[&str]); 5] = [
            ("/etc/resolv.conf", &["etc", "resolv.conf"]),
            ("/etc/../run/systemd/resolve/stub-resolv.conf", &["run", "systemd", "resolve", "stub-resolv.conf"]),
            ("/run//x/./y", &["run", "x", "y"]),
            ("/../../run", &["run"]),
            ("/", &[]),
        ];
        for (path, expected) in rows {
            let expected: Vec<&[u8]> = expected.iter().map(|name| name.as_bytes()).collect();
            assert_eq!(names(&path.into()), expected, "{path}");
        }
    }
}
