//! The settings of an image server: `/etc/systemimager/systemimager.toml`, and where everything lies.
//!
//! `--root DIR` moves every path of the server below DIR; programs and plugins are found beside the
//! running executable instead, because they are the program, not the server's data.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// The file, all parts optional. Unknown keys are refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where things lie.
    pub paths: PathSettings,
    /// How machines reach the server.
    pub server: ServerSettings,
    /// What DHCP hands out.
    pub dhcp: DhcpSettings,
    /// What machines boot over the network.
    pub boot: BootSettings,
    /// `[transport.ID]`: what a transport plugin is told where this side offers or pulls; which words there are, the plugin says.
    pub transport: BTreeMap<String, BTreeMap<String, String>>,
}

impl Settings {
    /// Those of a transport plugin.
    pub fn of_transport(&self, id: &str) -> BTreeMap<String, String> {
        self.transport.get(id).cloned().unwrap_or_default()
    }
}

/// What a machine that the server does not know boots over the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unknown {
    /// The miniature system, where it waits to be admitted.
    #[default]
    Wait,
    /// Its own disk. Only machines whose MAC addresses were declared are installed then.
    Disk,
}

/// `[boot]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BootSettings {
    /// What machines boot whose MAC address the server does not know.
    pub unknown: Unknown,
    /// More words for the kernel of the miniature system (`nomodeset`, say). A `console=` among them takes the place of
    /// the consoles that it has otherwise.
    pub append: String,
}

/// `[paths]`: absolute; `--root` is put in front.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PathSettings {
    /// Images, each a directory of its name.
    pub images: PathBuf,
    /// The TFTP root; masters, host links and `hosts` are below it in `systemimager/`.
    pub tftp: PathBuf,
    /// What the server keeps: hardware of machines, reports, DHCP leases.
    pub state: PathBuf,
    /// What the server makes anew at each start: generated configuration, sockets.
    pub run: PathBuf,
    /// The hosts file that `addclients` writes.
    pub hosts: PathBuf,
    /// Overrides, each a directory of its name, laid over images.
    pub overrides: PathBuf,
    /// Hooks: the site's own programs that installs run.
    pub hooks: PathBuf,
}

impl Default for PathSettings {
    fn default() -> Self {
        Self {
            images: "/var/spool/systemimager/images".into(),
            tftp: "/tftpboot".into(),
            state: "/var/lib/systemimager".into(),
            run: "/run/systemimager".into(),
            hosts: "/etc/hosts".into(),
            overrides: "/var/spool/systemimager/overrides".into(),
            hooks: "/var/spool/systemimager/hooks".into(),
        }
    }
}

/// `[server]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerSettings {
    /// The server's address in the installation network; absent: the only address of `interface`.
    pub address: Option<IpAddr>,
    /// The interface of the installation network; absent: the one that has `address`.
    pub interface: Option<String>,
    /// Port of kernel, initrd, masters, bundles and reports.
    pub http_port: u16,
    /// Seconds after which a machine that should be at work and says nothing counts as stalled.
    pub stalled_after: u64,
    /// The account that sessions run as which let machines in by their keys; absent: `systemimager` where there is one, else root.
    pub account: Option<String>,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self { address: None, interface: None, http_port: 8069, stalled_after: 180, account: None }
    }
}

/// `[dhcp]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DhcpSettings {
    /// Who gives addresses, and who names the boot file.
    pub mode: DhcpMode,
    /// Router handed out.
    pub router: Option<IpAddr>,
    /// Name servers handed out.
    pub name_servers: Vec<IpAddr>,
    /// Domain handed out.
    pub domain: Option<String>,
    /// Seconds of a lease.
    pub lease_seconds: Option<u32>,
}

/// `[dhcp] mode`: how the server stands to DHCP in the installation network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DhcpMode {
    /// It is the network's DHCP server.
    #[default]
    Server,
    /// The site's own DHCP server gives addresses and host names; this one only tells PXE clients what to boot
    /// (proxy DHCP, PXE 2.1).
    Proxy,
    /// It leaves DHCP alone: the site's server names the boot file too. TFTP only.
    Off,
}

impl std::fmt::Display for DhcpMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Proxy => "proxy",
            Self::Off => "off",
        })
    }
}

/// Settings with every path resolved.
#[derive(Debug, Clone)]
pub struct Config {
    /// The settings as read.
    pub settings: Settings,
    /// `--root`, or `/`.
    pub root: PathBuf,
    /// Directories of plugin files, searched in order; the first that exists is used.
    pub plugin_dirs: Vec<PathBuf>,
    /// Directories of what goes into the miniature system (`init`, `agent`).
    pub boot_program_dirs: Vec<PathBuf>,
}

/// What this program keeps on a machine that it installed or updated.
pub const MACHINE_STATE: &str = "/var/lib/systemimager";

/// Where the settings are, before `--root`.
pub const SETTINGS_FILE: &str = "/etc/systemimager/systemimager.toml";

impl Config {
    /// Reads the settings; an absent file means all defaults.
    ///
    /// # Errors
    /// A file that cannot be read, or is wrong: with line and column.
    pub fn load(root: Option<&Path>, plugin_dir: Option<&Path>) -> Result<Self> {
        let mut config = Self::by_default(root, plugin_dir)?;
        let file = config.settings_file();
        config.settings = match std::fs::read_to_string(&file) {
            Ok(text) => parse_settings(&file, &text)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Settings::default(),
            Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
        };
        Ok(config)
    }

    /// The settings that hold without a file, whether there is one or not.
    ///
    /// # Errors
    /// `root` is relative, and the current directory cannot be found.
    pub fn by_default(root: Option<&Path>, plugin_dir: Option<&Path>) -> Result<Self> {
        let root = root.unwrap_or(Path::new("/"));
        let root = std::path::absolute(root).with_context(|| format!("resolving --root {}", root.display()))?;
        let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_path_buf()));
        let lib = |name: &str| -> Vec<PathBuf> {
            // Installed: PREFIX/bin/systemimager and PREFIX/lib/systemimager/NAME. Built: target/debug.
            beside
                .iter()
                .flat_map(|dir| [dir.join("../lib/systemimager").join(name), dir.clone()])
                .chain([Path::new("/usr/lib/systemimager").join(name)])
                .collect()
        };
        let plugin_dirs = match plugin_dir {
            Some(dir) => vec![dir.to_path_buf()],
            None => lib("plugins"),
        };
        Ok(Self { settings: Settings::default(), root, plugin_dirs, boot_program_dirs: lib("boot") })
    }

    fn path(&self, path: &Path) -> PathBuf {
        below(&self.root, path)
    }

    /// The images' directory.
    pub fn images(&self) -> PathBuf {
        self.path(&self.settings.paths.images)
    }
    /// The TFTP root.
    pub fn tftp(&self) -> PathBuf {
        self.path(&self.settings.paths.tftp)
    }
    /// Masters, host links and the hosts copy.
    pub fn masters(&self) -> PathBuf {
        self.tftp().join("systemimager")
    }
    /// What the server keeps.
    pub fn state(&self) -> PathBuf {
        self.path(&self.settings.paths.state)
    }
    /// What the server makes anew at each start.
    pub fn run(&self) -> PathBuf {
        self.path(&self.settings.paths.run)
    }
    /// The hosts file that `addclients` writes.
    pub fn hosts(&self) -> PathBuf {
        self.path(&self.settings.paths.hosts)
    }
    /// The overrides' directory.
    pub fn overrides(&self) -> PathBuf {
        self.path(&self.settings.paths.overrides)
    }
    /// The hooks' directory.
    pub fn hooks(&self) -> PathBuf {
        self.path(&self.settings.paths.hooks)
    }
    /// The settings file.
    pub fn settings_file(&self) -> PathBuf {
        self.path(Path::new(SETTINGS_FILE))
    }

    /// The directory that plugins are loaded from.
    ///
    /// # Errors
    /// None of the candidates holds a `.so`; names them.
    pub fn plugin_dir(&self) -> Result<PathBuf> {
        let holds = |dir: &&PathBuf| {
            std::fs::read_dir(dir).is_ok_and(|mut entries| {
                entries.any(|entry| entry.is_ok_and(|entry| entry.path().extension().is_some_and(|ext| ext == "so")))
            })
        };
        match self.plugin_dirs.iter().find(holds) {
            Some(dir) => Ok(dir.clone()),
            None => bail!(
                "no plugins found in {}; install them there, or name their directory with --plugin-dir",
                list(&self.plugin_dirs)
            ),
        }
    }

    /// A program of the miniature system.
    ///
    /// # Errors
    /// It is in none of the candidates; names them.
    pub fn boot_program(&self, name: &str) -> Result<PathBuf> {
        self.boot_program_dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file()).with_context(|| {
            format!("{name} is in none of {}; install systemimager whole", list(&self.boot_program_dirs))
        })
    }
}

fn list(dirs: &[PathBuf]) -> String {
    dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// `path` below `root`, whether it is absolute or not.
pub fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Parses the settings.
///
/// # Errors
/// `FILE:LINE:COLUMN: what is wrong`.
pub fn parse_settings(file: &Path, text: &str) -> Result<Settings> {
    let settings: Settings = toml::from_str(text).map_err(|error| toml_error(file, text, &error))?;
    let paths = &settings.paths;
    for (key, path) in [
        ("images", &paths.images),
        ("tftp", &paths.tftp),
        ("state", &paths.state),
        ("run", &paths.run),
        ("hosts", &paths.hosts),
        ("overrides", &paths.overrides),
        ("hooks", &paths.hooks),
    ] {
        if !path.is_absolute() {
            bail!("{}: paths.{key} = {path:?} is not absolute; begin it with /", file.display());
        }
    }
    let append = &settings.boot.append;
    if let Some(odd) = append.chars().find(|it| it.is_control() || !it.is_ascii()) {
        bail!("{}: boot.append = {append:?} has {odd:?}; a kernel command line is one line of ASCII", file.display());
    }
    if let Some(word) = append.split_whitespace().find(|it| it.starts_with("si.server=") || it.starts_with("si.port="))
    {
        bail!("{}: boot.append has {word}, which the server itself says; set it in [server]", file.display());
    }
    Ok(settings)
}

/// A TOML error as `FILE:LINE:COLUMN: message`.
pub fn toml_error(file: &Path, text: &str, error: &toml::de::Error) -> anyhow::Error {
    let (line, column) = error.span().map_or((1, 1), |span| line_column(text, span.start));
    anyhow::anyhow!("{}:{line}:{column}: {}", file.display(), error.message().trim().replace('\n', "; "))
}

/// Line and column, both from 1, of a byte offset.
pub fn line_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_errors_have_a_place() {
        let file = Path::new("/etc/s.toml");
        for (name, text, says) in [
            ("unknown key", "[server]\nhtp_port = 1\n", "/etc/s.toml:2:1: unknown field `htp_port`"),
            ("not TOML", "[server\n", "/etc/s.toml:1:8"),
            ("bad port", "[server]\nhttp_port = 70000\n", "/etc/s.toml:2:13"),
            (
                "no mode",
                "[dhcp]\nmode = \"on\"\n",
                "/etc/s.toml:2:8: unknown variant `on`, expected one of `server`, `proxy`, `off`",
            ),
            (
                "two lines",
                "[boot]\nappend = \"a\\nb\"\n",
                "boot.append = \"a\\nb\" has '\\n'; a kernel command line is",
            ),
            (
                "said twice",
                "[boot]\nappend = \"si.port=1\"\n",
                "boot.append has si.port=1, which the server itself says",
            ),
            ("relative", "[paths]\nimages = \"x\"\n", "paths.images = \"x\" is not absolute"),
        ] {
            let error = parse_settings(file, text).unwrap_err().to_string();
            assert!(error.contains(says), "{name}: {error}");
        }
    }

    #[test]
    fn root_moves_every_path() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(Some(dir.path()), None).unwrap();
        for path in [config.images(), config.tftp(), config.state(), config.run(), config.hosts()] {
            assert!(path.starts_with(dir.path()), "{}", path.display());
        }
    }
}
