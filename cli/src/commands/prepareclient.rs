//! `prepareclient`: on the master client, offer this machine to the image server for one capture.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use systemimager_core::{ImageName, Layout};
use systemimager_engine::capture::prepare::{self, Ended, Prepare, Ready};
use systemimager_engine::host::Secrets;
use systemimager_engine::sys::signals::cancel_on_signals;
use systemimager_engine::sys::{Child, ChildOutput, Cmd, Program, Tool};

use super::secret::{self, Given};
use crate::context::{Context, note};

/// The longest time limit, minutes: a year.
const LONGEST_LIMIT: u64 = 365 * 24 * 60;
/// How often the background process is looked at while it gets ready.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// On the master client: offer this machine for capture
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  systemimager prepareclient --server 10.0.0.1\n\n\
    It looks at disks, file systems and boot loader, shows all of it read-only to the image server alone, and prints \
    the command to run there. It ends when the image is captured, and does not come back after a reboot.")]
pub struct PrepareClient {
    /// The image server: an address, or a name that has one
    #[arg(long, value_name = "ADDR")]
    server: String,
    /// Capture only this directory; the image then has no layout unless --layout gives one
    #[arg(long, value_name = "DIR", default_value = "/")]
    source: PathBuf,
    /// A layout for --source (TOML as in a master file's [layout], or JSON)
    #[arg(long, value_name = "FILE")]
    layout: Option<PathBuf>,
    /// Listen on this port instead of the transport's
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// The secret that the image server must know; without it one is made and printed
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// The transport plugin
    #[arg(long, value_name = "ID")]
    transport: Option<String>,
    /// End after this many minutes without a capture; one that goes on then is waited for
    #[arg(long, value_name = "MINUTES", default_value_t = 240, value_parser = clap::value_parser!(u64).range(..=LONGEST_LIMIT))]
    time_limit: u64,
    /// Stay in the foreground
    #[arg(long)]
    foreground: bool,
    /// The background process itself
    #[arg(long, hide = true)]
    detached: bool,
}

/// The answer, once it can be captured.
#[derive(Serialize)]
struct Answer<'a> {
    getimage: &'a str,
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
    bytes: u64,
    inodes: u64,
}

impl PrepareClient {
    /// Offers until captured; without `--foreground` in the background.
    pub fn run(self, context: &Context) -> Result<()> {
        let run = context.config.run();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&run)
            .with_context(|| format!("making {}; are you root?", run.display()))?;
        if !self.foreground && !self.detached {
            return self.detach(context, &run);
        }
        if self.detached {
            let log = fs::File::create(run.join("prepareclient.log")).context("making the log")?;
            rustix::stdio::dup2_stdout(&log)?;
            rustix::stdio::dup2_stderr(&log)?;
        }
        self.offer(context, &run)
    }

    fn offer(&self, context: &Context, run: &Path) -> Result<()> {
        let host = context.host(Secrets::default());
        cancel_on_signals(host.cancel_flag()).context("preparing for signals")?;
        let registry = context.registry()?;
        let server = address(&self.server)?;
        let given = match &self.secret_file {
            Some(file) => Given { secret: secret::read(file)?, made: false },
            None => Given { secret: secret::make()?, made: true },
        };
        let layout = self.layout.as_deref().map(read_layout).transpose()?;
        let request = Prepare {
            server,
            source: self.source.clone(),
            layout,
            transport: super::choose::transport(context, self.transport.as_deref())?,
            port: self.port,
            secret: given.secret.clone().into_bytes(),
            limit: Duration::from_secs(self.time_limit.saturating_mul(60)),
            run_dir: run.join("capture"),
            registry,
            host: &host,
        };
        let ready_file = self.detached.then(|| ready_file(run));
        let json = context.json;
        let mut say = |line: &str| note(line);
        let mut ready = |ready: &Ready<'_>| -> Result<()> {
            let text = self.answer(server, &given, ready, json)?;
            match &ready_file {
                Some(path) => write_ready(path, &text),
                None => {
                    std::io::stdout().write_all(text.as_bytes())?;
                    Ok(std::io::stdout().flush()?)
                }
            }
        };
        match prepare::prepare(&request, &mut say, &mut ready)? {
            Ended::Captured => note("captured; this machine is no longer offered"),
            Ended::Cancelled => note("ended; this machine is no longer offered"),
            Ended::TimeLimit => bail!(
                "nobody captured this machine within {} minutes; start prepareclient again, with a longer --time-limit",
                self.time_limit
            ),
        }
        Ok(())
    }

    /// What is printed when the machine can be captured.
    fn answer(&self, server: IpAddr, given: &Given, ready: &Ready<'_>, json: bool) -> Result<String> {
        let mut line =
            format!("systemimager getimage --master-client {} --image {}", own_address(server), image_name());
        write!(line, " --port {}", ready.port)?;
        if let Some(id) = &self.transport {
            write!(line, " --transport {id}")?;
        }
        // The file is here, and what it is called there is not known here.
        if self.secret_file.is_some() {
            line.push_str(" --secret-file FILE");
        }
        let facts = ready.facts;
        if json {
            let answer = Answer {
                getimage: &line,
                port: ready.port,
                secret: given.made.then_some(given.secret.as_str()),
                bytes: facts.bytes.0,
                inodes: facts.inodes,
            };
            return Ok(format!("{}\n", serde_json::to_string(&answer)?));
        }
        let mut text = String::new();
        for out in &facts.left_out {
            writeln!(text, "left out: {} ({}): {}", out.at, out.fstype, out.why)?;
        }
        for advice in &facts.advice {
            writeln!(text, "note: {advice}")?;
        }
        writeln!(text, "ready: {} files, {} MiB. Run on the image server:", facts.inodes, facts.bytes.0 >> 20)?;
        writeln!(text, "  {line}")?;
        if given.made {
            writeln!(text, "secret, which it asks for: {}", given.secret)?;
        }
        if let Some(file) = &self.secret_file {
            writeln!(
                text,
                "FILE is to be a file on the image server with the same secret as {} here: copy it there, readable by \
                 root alone",
                file.display()
            )?;
        }
        Ok(text)
    }

    /// Starts this very command in the background and waits until that is ready.
    fn detach(&self, context: &Context, run: &Path) -> Result<()> {
        let ready = ready_file(run);
        remove(&ready)?;
        let exe = std::env::current_exe().context("finding this program's own file")?;
        // The same words, so that nothing of them is lost; the paper's spelling included.
        let mut cmd = Cmd::new(Program::File(exe));
        let mut words = std::env::args_os();
        let name = words.next().unwrap_or_default();
        if Path::new(&name).file_name().is_some_and(|name| name == "prepareclient") {
            cmd = cmd.arg("prepareclient");
        }
        let cmd = cmd.args(words).arg("--detached").outlive_us();
        let child = Child::spawn("prepareclient", cmd, ChildOutput::Lines(Box::new(|_, line| note(line))))?;
        let log = run.join("prepareclient.log");
        loop {
            if ready.exists() {
                let text = fs::read_to_string(&ready).with_context(|| format!("reading {}", ready.display()))?;
                // It may hold the secret.
                remove(&ready)?;
                std::io::stdout().write_all(text.as_bytes())?;
                context.say(format_args!(
                    "waiting in the background (process {}, log {}); end it with: kill {}",
                    child.pid(),
                    log.display(),
                    child.pid()
                ));
                // Dropping it would end the process.
                std::mem::forget(child);
                return Ok(());
            }
            if let Some(status) = child.wait_timeout(LOOK_EVERY)? {
                let said = fs::read_to_string(&log).unwrap_or_default();
                let said = said.trim().trim_start_matches("systemimager: ");
                bail!("the background process ended ({status}) before it was ready:\n{said}");
            }
        }
    }
}

fn ready_file(run: &Path) -> PathBuf {
    run.join("prepareclient.ready")
}

/// Appears whole or not at all.
fn write_ready(path: &Path, text: &str) -> Result<()> {
    let part = path.with_extension("part");
    remove(&part)?;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    file.write_all(text.as_bytes())?;
    Ok(fs::rename(&part, path)?)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// An address, or the first one of a name. Names are asked of getent(1): a static program cannot use
/// the machine's own resolver.
fn address(text: &str) -> Result<IpAddr> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if text.is_empty() || text.starts_with('-') {
        bail!("--server {text:?} is neither an address nor a name");
    }
    let found = Cmd::tool(Tool::Getent).args(["ahosts", text]).read_string();
    let found = found.with_context(|| format!("--server {text} has no address here; give its address instead"))?;
    let first = found.split_whitespace().next().unwrap_or_default();
    first.parse().with_context(|| format!("--server {text}: {first:?} is no address; give its address instead"))
}

/// The address by which the server reaches this machine. A connected UDP socket sends nothing.
fn own_address(server: IpAddr) -> String {
    let any: &str = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let local = UdpSocket::bind(any).and_then(|socket| {
        socket.connect((server, 9))?;
        socket.local_addr()
    });
    local.map_or_else(|_| host_name(), |address| address.ip().to_string())
}

fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// A name to propose: the host's.
fn image_name() -> String {
    let name = host_name();
    let short = name.split('.').next().unwrap_or_default();
    ImageName::try_from(short).map_or_else(|_| "image1".to_owned(), String::from)
}

fn read_layout(file: &Path) -> Result<Layout> {
    let text = fs::read_to_string(file).with_context(|| format!("reading --layout {}", file.display()))?;
    let layout: Layout = if text.trim_start().starts_with('{') {
        serde_json::from_str(&text).with_context(|| format!("reading {}", file.display()))?
    } else {
        toml::from_str(&text).map_err(|error| systemimager_engine::config::toml_error(file, &text, &error))?
    };
    layout.check().map_err(|errors| {
        let list: Vec<String> = errors.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{}: {}", file.display(), list.join("; "))
    })?;
    Ok(layout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_places() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("layout");
        for (name, text, says) in [
            ("TOML", "[[mount]]\nnode = \"x\"\nat = \"/\"\n", "mount.0.node: there is no file system named x"),
            ("not TOML", "[[mount\n", "layout:1:8"),
            ("JSON", "{\"mount\": 1}", "invalid type"),
        ] {
            fs::write(&file, text).unwrap();
            let error = format!("{:#}", read_layout(&file).unwrap_err());
            assert!(error.contains(says), "{name}: {error}");
        }
        fs::write(&file, "").unwrap();
        assert_eq!(read_layout(&file).unwrap(), Layout::default());
    }

    #[test]
    fn servers_are_addresses_or_names() {
        assert_eq!(address("10.0.0.1").unwrap().to_string(), "10.0.0.1");
        assert_eq!(address("::1").unwrap().to_string(), "::1");
        for bad in ["", "-x", "no-such-host.invalid"] {
            assert!(format!("{:#}", address(bad).unwrap_err()).starts_with("--server"), "{bad}");
        }
    }
}
