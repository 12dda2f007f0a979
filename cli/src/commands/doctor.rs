//! `doctor`: what is missing on this machine for its part, and the package that brings it.
//!
//! `check` judges what the administrator wrote; this judges the machine. What is needed is what plugins say of
//! themselves, and what the parts of the program that run programs say. Nothing is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde::Serialize;
use systemimager_core::{Needs, Registry, Role};
use systemimager_engine::host::{EngineHost, Secrets};
use systemimager_engine::sys::tool::{Program, search_dirs};

use crate::context::Context;

#[cfg(feature = "server")]
mod server;

/// Say what is missing on this machine, and which package brings it
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  systemimager doctor\n  systemimager doctor --role master-client --json\n\n\
    One line each: ok, or NO with what is wrong and what to do; then one line that installs all packages that are \
    missing, by their names in Debian. Exit code 1 if something is missing. Changes nothing.")]
pub struct Doctor {
    /// What this machine is to be
    #[arg(long, value_enum, value_name = "ROLE", default_value_t = Part::default())]
    role: Part,
}

/// The parts of a machine that one may ask about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Part {
    /// The image server; it also packs what bare machines need while they are installed
    #[cfg(feature = "server")]
    #[default]
    Server,
    /// A machine that an image is captured from
    #[cfg_attr(not(feature = "server"), default)]
    MasterClient,
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Findings {
    /// What is there, for people.
    good: Vec<String>,
    /// What is missing or in the way.
    missing: Vec<Missing>,
    /// The packages that bring what is missing.
    packages: BTreeSet<String>,
    /// What is missing for something that not every server does; nothing is wrong because of it.
    optional: Vec<String>,
}

/// Something that is missing or in the way.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Missing {
    /// What.
    what: String,
    /// Why it counts as missing, and what to do.
    why: String,
    /// The Debian package that brings it, where it is known.
    package: Option<String>,
}

impl Doctor {
    /// Looks at all of it, and tells.
    ///
    /// # Errors
    /// Something is missing.
    pub fn run(self, context: &Context) -> Result<()> {
        let mut found = Findings::default();
        if rustix::process::geteuid().is_root() {
            found.good("root");
        } else {
            found.no("root", "this is another user, who sees less and can neither capture nor serve; run it as root");
        }
        match &context.settings_fault {
            Some(error) => found.no("settings", format!("{error:#}")),
            None if context.config.settings_file().is_file() => {
                found.good(format!("settings ({})", context.config.settings_file().display()));
            }
            None => found.good("settings (no file, all as by default)"),
        }
        let host = context.host(Secrets::default());
        let mut needs = Vec::new();
        match context.registry() {
            Ok(registry) => {
                found.good(format!("{} plugins", registry.all().len()));
                for role in self.role.roles() {
                    needs.extend(plugins_need(registry, &host, *role, &mut found));
                }
            }
            Err(error) => found.no("plugins", format!("{error:#}")),
        }
        #[cfg(feature = "server")]
        if self.role == Part::Server {
            needs.extend(server::own_needs());
        }
        judge(&needs, &search_dirs(), &mut found);
        #[cfg(feature = "server")]
        if self.role == Part::Server {
            server::look(context, &host, &needs, &mut found);
        }
        context.answer(&found)?;
        found.lines().iter().for_each(|line| context.say(line));
        match found.missing.len() {
            0 => Ok(()),
            1 => bail!("one thing is missing or in the way"),
            several => bail!("{several} things are missing or in the way"),
        }
    }
}

impl Part {
    /// The roles whose needs this machine has to have.
    fn roles(self) -> &'static [Role] {
        match self {
            // What a machine needs while it is installed is packed from the server's own programs.
            #[cfg(feature = "server")]
            Part::Server => &[Role::Server, Role::Installer],
            Part::MasterClient => &[Role::MasterClient],
        }
    }
}

impl Findings {
    fn good(&mut self, what: impl Into<String>) {
        self.good.push(what.into());
    }

    fn no(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.missing.push(Missing { what: what.into(), why: why.into(), package: None });
    }

    fn package(&mut self, what: &str, package: &str) {
        self.packages.insert(package.to_owned());
        self.missing.push(Missing {
            what: what.to_owned(),
            why: format!("not found; apt-get install {package}"),
            package: Some(package.to_owned()),
        });
    }

    /// For people: what is there, what is not, and how to get all of that at once.
    fn lines(&self) -> Vec<String> {
        let good = self.good.iter().map(|what| format!("ok   {what}"));
        let missing = self.missing.iter().map(|it| format!("NO   {}: {}", it.what, it.why));
        let packages: Vec<&str> = self.packages.iter().map(String::as_str).collect();
        let install = (!packages.is_empty()).then(|| format!("apt-get install {}", packages.join(" ")));
        let optional = self.optional.iter().map(|what| format!("-    {what}"));
        good.chain(missing).chain(optional).chain(install).collect()
    }
}

/// What the plugins need in a role, each with the plugin's name.
fn plugins_need(registry: &Registry, host: &EngineHost, role: Role, found: &mut Findings) -> Vec<(String, Needs)> {
    let mut all = Vec::new();
    let mut note = |kind: &str, id: &str, needs: systemimager_core::Result<Needs>| match needs {
        Ok(needs) => all.push((format!("{kind} {id}"), needs)),
        Err(error) => found.no(format!("{kind} {id}"), format!("it does not say what it needs: {error}")),
    };
    registry.transports().iter().for_each(|(id, it)| note("transport", id, it.needs(host, role)));
    registry.filesystems().iter().for_each(|(id, it)| note("file-system", id, it.needs(host, role)));
    registry.partitioners().iter().for_each(|(id, it)| note("partitioner", id, it.needs(host, role)));
    registry.bootloaders().iter().for_each(|(id, it)| note("boot-loader", id, it.needs(host, role)));
    registry.identities().iter().for_each(|(id, it)| note("host-identity", id, it.needs(host, role)));
    all
}

/// Looks for the programs, in these directories, and for the files; each is told once.
fn judge(needs: &[(String, Needs)], dirs: &[PathBuf], found: &mut Findings) {
    let mut programs = BTreeMap::new();
    let mut files: BTreeMap<&Path, &str> = BTreeMap::new();
    for (by, needs) in needs {
        for program in &needs.programs {
            programs.entry(program.name.as_str()).or_insert(program.package.as_str());
        }
        for file in &needs.files {
            files.entry(file.as_path()).or_insert(by);
        }
    }
    for (name, package) in programs {
        let place = Program::named(name)
            .with_context(|| format!("{name:?} is no program"))
            .map(|program| program.find_in(dirs));
        match place {
            Ok(Ok(path)) => found.good(format!("{name} ({})", path.display())),
            Ok(Err(_)) if !package.is_empty() => found.package(name, package),
            Ok(Err(error)) => found.no(name, error.to_string()),
            Err(error) => found.no(name, format!("{error:#}; a plugin asks for it")),
        }
    }
    for (file, by) in files {
        if file.exists() {
            found.good(file.display().to_string());
        } else {
            found.no(
                file.display().to_string(),
                format!("not found; {by} needs it, install the package that brings it"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn programs_and_files_are_looked_for_once_each() {
        let dir = tempfile::tempdir().expect("a directory");
        let there = dir.path().join("mkfs.made-up");
        std::fs::write(&there, "").expect("written");
        let mode = |mode| std::fs::set_permissions(&there, std::fs::Permissions::from_mode(mode)).expect("mode");
        let program = |name, package| systemimager_core::Program::new(name, package);
        let absent = dir.path().join("loader.0");
        let needs = [
            (
                "file-system made-up".to_owned(),
                Needs { programs: vec![program("mkfs.made-up", "made-up-progs")], ..Needs::default() },
            ),
            (
                "boot-loader made-up".to_owned(),
                Needs {
                    programs: vec![program("no-such-program", "no-such"), program("mkfs.made-up", "made-up-progs")],
                    files: vec![dir.path().into(), absent.as_path().into()],
                    ..Needs::default()
                },
            ),
        ];
        let look = || {
            let mut found = Findings::default();
            judge(&needs, &[dir.path().to_path_buf()], &mut found);
            found.lines()
        };
        let missing_file = format!(
            "NO   {}: not found; boot-loader made-up needs it, install the package that brings it",
            absent.display()
        );
        mode(0o755);
        assert_eq!(
            look(),
            [
                format!("ok   mkfs.made-up ({})", there.display()),
                format!("ok   {}", dir.path().display()),
                "NO   no-such-program: not found; apt-get install no-such".into(),
                missing_file.clone(),
                "apt-get install no-such".into(),
            ]
        );
        mode(0o644);
        assert_eq!(
            look(),
            [
                format!("ok   {}", dir.path().display()),
                "NO   mkfs.made-up: not found; apt-get install made-up-progs".into(),
                "NO   no-such-program: not found; apt-get install no-such".into(),
                missing_file,
                "apt-get install made-up-progs no-such".into(),
            ],
            "a file that cannot be executed is no program"
        );
    }

    #[test]
    fn nothing_missing_installs_nothing() {
        let mut found = Findings::default();
        found.good("root");
        assert_eq!(found.lines(), ["ok   root"]);
    }
}
