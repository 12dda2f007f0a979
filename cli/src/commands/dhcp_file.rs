//! What `makedhcpserver` and `makedhcpstatic` have in common: which program's file is written, where to, by whose check,
//! and that this server's own DHCP and the site's are not both on.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde::Serialize;
use systemimager_engine::config::{Config, DhcpMode, below};
use systemimager_engine::serve::interface::{self, Place};
use systemimager_engine::serve::site::difference::difference;
use systemimager_engine::serve::site::replace::{self, Old};
use systemimager_engine::serve::site::{Flavor, mode};
use systemimager_engine::store::addresses::Network;
use systemimager_engine::sys::atomic;
use systemimager_engine::sys::tool::{find, search_dirs};

use super::answer::yes;
use crate::context::{Context, note};
use crate::exit::Exit;

/// Which file is written, and how.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// The program that serves DHCP
    #[arg(long, value_enum, value_name = "PROGRAM")]
    pub flavor: Option<Program>,
    /// Its configuration [default: where Debian has it]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Write the result to this file, and leave the configuration as it is
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Show what would change, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not have the program itself check the result first
    #[arg(long)]
    no_check: bool,
    /// Turn this image server's own DHCP off in its settings (mode = "off" below [dhcp]), if it is on
    #[arg(long)]
    set_mode: bool,
}

/// The programs, as they are named on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Program {
    /// ISC dhcpd: dhcpd.conf
    Isc,
    /// dnsmasq: a file in /etc/dnsmasq.d
    Dnsmasq,
    /// Kea: kea-dhcp4.conf
    Kea,
}

impl From<Program> for Flavor {
    fn from(program: Program) -> Self {
        match program {
            Program::Isc => Flavor::Isc,
            Program::Dnsmasq => Flavor::Dnsmasq,
            Program::Kea => Flavor::Kea,
        }
    }
}

/// What was written, or would be.
#[derive(Debug, Serialize)]
pub struct Written {
    flavor: Flavor,
    /// The configuration that was read.
    pub file: PathBuf,
    /// What is written.
    output: PathBuf,
    /// It differs from what is there.
    changed: bool,
    /// It is written.
    written: bool,
    /// The program itself found it right.
    checked: bool,
    /// Where the old one is kept.
    backup: Option<PathBuf>,
    /// The settings were changed: DHCP is the site's.
    mode_set: bool,
    /// What changes, as a unified diff.
    diff: String,
}

/// A configuration that is going to be changed.
pub struct Opened {
    /// Whose it is.
    pub flavor: Flavor,
    /// It.
    pub file: PathBuf,
    old: Old,
}

impl Opened {
    /// Its text.
    pub fn text(&self) -> Result<&str> {
        self.old.text()
    }
}

impl Target {
    /// Decides on the program and reads its configuration.
    pub fn open(&self, context: &Context) -> Result<Opened> {
        let flavor = match self.flavor {
            Some(program) => program.into(),
            None => {
                let names: Vec<&str> = Flavor::ALL.iter().map(|flavor| flavor.name()).collect();
                let question = format!("Which program serves DHCP ({})", names.join(", "));
                let default = likely(context).map(Flavor::name);
                let answer = ask(context, &question, default, "--flavor")?;
                let known = Flavor::ALL.into_iter().find(|flavor| flavor.name() == answer);
                known.with_context(|| format!("{answer:?} is none of them: {}", names.join(", ")))?
            }
        };
        let file = self.file.clone().unwrap_or_else(|| place(&context.config, flavor));
        Ok(Opened { flavor, old: Old::read(&file)?, file })
    }

    /// That this image server does not serve DHCP as well; or that it is going to be told so: the settings' file, with
    /// the text that it will have. `allowed`: the modes that go with what is written.
    pub fn own_mode(&self, context: &Context, allowed: &[DhcpMode]) -> Result<Option<(PathBuf, String)>> {
        let config = &context.config;
        let now = config.settings.dhcp.mode;
        if allowed.contains(&now) {
            return Ok(None);
        }
        let file = config.settings_file();
        if self.dry_run || (self.output.is_some() && !self.set_mode) {
            note(format_args!(
                "dhcp.mode is \"{now}\" in {}: before this configuration is used, set it to \"off\" (or use --set-mode)",
                file.display()
            ));
            return Ok(None);
        }
        let question = format!(
            "This image server answers DHCP itself (dhcp.mode = \"{now}\"), and two servers must not; set the mode to \
             \"off\" in {} (yes/no)",
            file.display()
        );
        if !self.set_mode && !yes(&ask(context, &question, None, "--set-mode")?)? {
            bail!("nothing was written: two DHCP servers would answer the same machines");
        }
        let text = match replace::read(&file)? {
            Some((bytes, _)) => String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8", file.display()))?,
            None => String::new(),
        };
        let text = mode::with_mode(&file, &text, DhcpMode::Off)?;
        Ok(Some((file, text)))
    }

    /// Writes the configuration: checked beside the old one, then in its place; before that the settings, so that at no
    /// time two servers are meant to answer.
    pub fn write(&self, opened: Opened, text: &str, settings: Option<(PathBuf, String)>) -> Result<Written> {
        let Opened { flavor, file, old } = opened;
        let output = self.output.clone().unwrap_or_else(|| file.clone());
        let diff = difference(&file.display().to_string(), old.text()?, text);
        let mut written = Written {
            flavor,
            file,
            changed: !diff.is_empty(),
            written: false,
            checked: false,
            backup: None,
            mode_set: false,
            diff,
            output: output.clone(),
        };
        if self.dry_run {
            return Ok(written);
        }
        let old = if self.output.is_some() { Old::read(&output)? } else { old };
        if old.exists() && old.text().is_ok_and(|old| old == text) {
            written.mode_set = set(settings)?;
            return Ok(written);
        }
        let dir = output.parent().filter(|dir| !dir.as_os_str().is_empty());
        if let Some(dir) = dir.filter(|dir| !dir.is_dir()) {
            bail!(
                "{} is not there; install {} (apt-get install {}), or name another file with --file or --output",
                dir.display(),
                flavor.tool().name(),
                flavor.tool().package()
            );
        }
        let candidate = replace::prepare(flavor, old, text, !self.no_check)?;
        written.mode_set = set(settings)?;
        written.backup = candidate.commit()?;
        written.written = true;
        written.checked = !self.no_check;
        Ok(written)
    }

    /// Says what was done.
    pub fn tell(&self, context: &Context, written: &Written) {
        let program = written.flavor.tool().name();
        if self.dry_run {
            context.say(if written.changed { written.diff.trim_end() } else { "nothing would change" });
            return;
        }
        if !written.written {
            context.say(format_args!("{}: all of it was so already", written.output.display()));
        } else {
            let how = if written.checked { format!("found right by {program}") } else { "not checked".to_owned() };
            context.say(format_args!("{} written, {how}", written.output.display()));
        }
        if let Some(backup) = &written.backup {
            context.say(format_args!("the old one is {}", backup.display()));
        }
        if written.mode_set {
            context.say(format_args!(
                "dhcp.mode is \"off\" now in {}; restart `systemimager serve` if it runs",
                context.config.settings_file().display()
            ));
        }
        if written.written && self.output.is_none() {
            context.say(format_args!("to have it used: systemctl restart {}", written.flavor.unit()));
        }
    }
}

fn set(settings: Option<(PathBuf, String)>) -> Result<bool> {
    let Some((file, text)) = settings else { return Ok(false) };
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    let mode = std::fs::metadata(&file).map_or(0o644, |metadata| {
        use std::os::unix::fs::PermissionsExt as _;
        metadata.permissions().mode() & 0o777
    });
    let file = std::fs::canonicalize(&file).unwrap_or(file);
    atomic::write(&file, text.as_bytes(), mode)?;
    Ok(true)
}

/// The program that somebody most likely means: whose configuration we wrote before; on a terminal, where a guess can be
/// corrected, also the only one that is installed. dnsmasq is no sign: the image server itself needs it.
fn likely(context: &Context) -> Option<Flavor> {
    let written: Vec<Flavor> = mode::sites(&context.config).into_iter().map(|(flavor, ..)| flavor).collect();
    if let [only] = written.as_slice() {
        return Some(*only);
    }
    let installed = |flavor: &Flavor| find(flavor.tool(), &search_dirs()).is_ok();
    match [Flavor::Isc, Flavor::Kea].into_iter().filter(installed).collect::<Vec<_>>().as_slice() {
        [only] if context.interactive() => Some(*only),
        _ => None,
    }
}

/// Where a program's configuration lies here.
fn place(config: &Config, flavor: Flavor) -> PathBuf {
    let all = || flavor.files().iter().map(|file| below(&config.root, Path::new(file)));
    all().find(|file| file.exists()).or_else(|| all().next()).unwrap_or_default()
}

/// Where this server is, by its settings and this machine's interfaces; unknown where they do not say.
pub fn here(context: &Context) -> Option<Place> {
    interface::choose(&interface::addresses().ok()?, &context.config.settings.server).ok()
}

/// The machines' network: named, or asked for with this server's as default.
pub fn network(context: &Context, named: Option<Network>, place: Option<&Place>) -> Result<Network> {
    let network = match named {
        Some(network) => network,
        None => {
            let default = place.map(|place| format!("{}/{}", place.network.base(), place.network.prefix));
            let question = "Network of the machines, as 10.0.0.0/23";
            parsed(&ask(context, question, default.as_deref(), "--network")?, "--network")?
        }
    };
    if !network.address.is_ipv4() {
        bail!("{network}: bare machines are installed over IPv4; name an IPv4 network with --network");
    }
    Ok(network)
}

/// Asks, or takes the default where nobody can be asked.
///
/// # Errors
/// Nobody can be asked, and there is no default: the command line lacks an option.
pub fn ask(context: &Context, question: &str, default: Option<&str>, option: &str) -> Result<String> {
    if default.is_none() && !context.interactive() {
        return Err(Exit::Usage(format!("{question}: nobody can be asked here; answer with {option}")).into());
    }
    context.ask(question, default, option)
}

/// An answer as what it means.
pub fn parsed<T: FromStr>(answer: &str, option: &str) -> Result<T>
where
    T::Err: std::fmt::Display,
{
    answer.parse().map_err(|error| anyhow::anyhow!("{answer:?}: {error}; answer with {option}"))
}

/// An IPv4 address of the settings; others cannot be handed out by DHCP.
pub fn v4(address: std::net::IpAddr) -> Option<Ipv4Addr> {
    match address {
        std::net::IpAddr::V4(address) => Some(address),
        std::net::IpAddr::V6(_) => None,
    }
}
