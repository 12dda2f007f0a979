//! A plugin's helper: this program again, as a child that has this one plugin and goes on in it.
//!
//! That is what `@self` begins in a service, and what a started program gets where it starts another by a command line of its
//! own (rsync does, by `RSYNC_RSH`). Nobody types it: it is no command, and has no options.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail};
use rustix::fs::MemfdFlags;
use systemimager_core::data::BytePath;
use systemimager_core::registry::{Origin, Plugin};
use systemimager_core::{HelperCall, HelperEnd, HelperFile, HelperRun, Kind, Registry};

use crate::host::{EngineHost, Secrets, texts};
use crate::sys::{Cmd, Input};

/// The first word.
pub const WORD: &str = "plugin-helper";
/// In place of a file: the plugin is linked in.
const LINKED: &str = "-";

/// This program's own file, as it was when it was first asked for: a program that is replaced while it runs has no name any more.
///
/// # Errors
/// It is not known.
pub fn program() -> Result<PathBuf> {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    if let Some(program) = PROGRAM.get() {
        return Ok(program.clone());
    }
    let program = std::env::current_exe().context("finding this program's own file")?;
    Ok(PROGRAM.get_or_init(|| program).clone())
}

/// The words that start a transport's helper: this program, and where the plugin is.
///
/// # Errors
/// There is no such plugin.
pub fn words(registry: &Registry, id: &str) -> Result<Vec<OsString>> {
    let plugin: &Plugin = registry.find(Kind::Transport, id)?;
    // By the running process, not by its name: an update may replace the very program that carries it out, or remove it.
    let program = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
    let file = match &plugin.origin {
        Origin::Linked => LINKED.into(),
        Origin::File(path) => path.clone().into_os_string(),
    };
    Ok(vec![program.into_os_string(), WORD.into(), id.into(), file])
}

/// Puts the words that start a helper in the place of `@self`, if that is the first.
pub fn stand_for_self(argv: &mut Vec<OsString>, helper: &[OsString]) {
    if argv.first().is_some_and(|first| first == "@self") {
        argv.splice(..1, helper.iter().cloned());
    }
}

/// The same as one line, with more words, for programs that split such lines at blanks.
///
/// # Errors
/// A word that such a program would read otherwise.
pub fn line(words: &[OsString], more: &[String]) -> Result<OsString> {
    let mut line = OsString::new();
    if words.is_empty() {
        bail!("no transport is known whose helper this could start");
    }
    for word in words.iter().map(OsString::as_os_str).chain(more.iter().map(OsStr::new)) {
        let fine = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=._:@%-".contains(byte);
        if word.is_empty() || !word.as_bytes().iter().all(fine) {
            bail!("{} cannot stand in a line that another program splits; use a path without blanks", word.display());
        }
        if !line.is_empty() {
            line.push(" ");
        }
        line.push(word);
    }
    Ok(line)
}

/// If these are the words of a helper (without the program), goes on as it, and returns its exit code at the end. `load` opens a
/// plugin file, `linked` gives those that are linked in.
pub fn run(
    words: &[OsString],
    load: fn(&mut Registry, &Path) -> Result<()>,
    linked: fn() -> Result<Registry>,
) -> Option<ExitCode> {
    let [word, id, file, words @ ..] = words else { return None };
    if word != WORD {
        return None;
    }
    Some(go_on(id, file, words, load, linked).unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "systemimager: {error:#}");
        ExitCode::FAILURE
    }))
}

fn go_on(
    id: &OsStr,
    file: &OsStr,
    words: &[OsString],
    load: fn(&mut Registry, &Path) -> Result<()>,
    linked: fn() -> Result<Registry>,
) -> Result<ExitCode> {
    let registry = if file == LINKED {
        linked()?
    } else {
        let mut registry = Registry::default();
        load(&mut registry, Path::new(file))?;
        registry
    };
    let transport = registry.transport(&id.to_string_lossy())?;
    let call = HelperCall { words: words.iter().map(|word| BytePath::from(word.as_os_str())).collect() };
    match transport.helper(&EngineHost::new(Secrets::default()), call)? {
        HelperEnd::Exit(status) => Ok(ExitCode::from(u8::try_from(status).unwrap_or(255))),
        HelperEnd::Becomes(argv) => {
            let words = texts(&argv).map_err(anyhow::Error::msg)?;
            Err(Cmd::argv(words)?.stdin(Input::Inherit).inherit_output().exec().into())
        }
        HelperEnd::Runs(run) => carry_out(run),
    }
}

/// A file without a name, for this user alone.
fn in_memory(contents: &[u8]) -> Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("systemimager", MemfdFlags::CLOEXEC)?);
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(contents)?;
    Ok(file)
}

fn carry_out(run: HelperRun) -> Result<ExitCode> {
    // In memory, and by this process: they are gone with it, however it ends.
    let mut files = Vec::new();
    for HelperFile { name, contents } in &run.files {
        files.push((
            format!("{}{name}", HelperRun::FILES),
            in_memory(contents).context("keeping a helper's file in memory")?,
        ));
    }
    // The longest first: no name may be taken for the beginning of another.
    files.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    let mut words = Vec::new();
    for word in texts(&run.argv).map_err(anyhow::Error::msg)? {
        words.push(match word.into_string() {
            Ok(text) => OsString::from(files.iter().fold(text, |text, (name, file)| {
                text.replace(name, &format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()))
            })),
            Err(word) => word,
        });
    }
    let cmd = Cmd::argv(words)?.stdin(Input::Inherit).inherit_output();
    let status = run.env.iter().fold(cmd, |cmd, (name, value)| cmd.env(name, value)).output()?.status;
    let status = status.code().unwrap_or(255);
    for (_, line) in run.told.iter().filter(|(of, _)| *of == status) {
        // Nobody may read it.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(255)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_again_as_they_were_joined() {
        let words = ["/usr/bin/x", "plugin-helper", "ssh"].map(OsString::from);
        assert_eq!(line(&words, &["fd77::1".into()]).unwrap(), "/usr/bin/x plugin-helper ssh fd77::1");
        for bad in ["a b", "", "a'b", "$(id)", "a\nb"] {
            assert!(line(&words, &[bad.into()]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn other_words_are_no_helpers() {
        let run = |words: &[&str]| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            super::run(&words, |_, _| Ok(()), || Ok(Registry::default()))
        };
        assert!(run(&["getimage", "--image", "x"]).is_none());
        assert!(run(&[]).is_none());
        assert!(run(&["plugin-helper", "x", "-", "y"]).is_some(), "there is no such plugin, and that is said");
    }
}
