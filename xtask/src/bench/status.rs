//! `bench status`: what serve takes while many machines install and report, and somebody looks on.
//!
//! The machines are connections: each asks for its order as the miniature system does, and then reports
//! steps, lines of programs and progress as often as it does. Nothing is booted.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use systemimager_tests::lab::netns::{Host, Network};
use systemimager_tests::lab::run::run as run_quietly;
use systemimager_tests::lab::wait::wait_until;

use super::median;
use crate::{build, require};

const ADDRESS: &str = "10.77.0.1/22";
const SERVER: (&str, u16) = ("10.77.0.1", 8069);
const MASTER: &str = "format = 1\nimage = \"web\"\ntransports = [\"rsync\"]\npartitioner = \"sfdisk\"\n\
                      bootloader = \"none\"\n[identity]\nplugin = \"hosts\"\n";
/// How often a machine that pulls says how far it is.
const PROGRESS: Duration = Duration::from_secs(2);
/// How often somebody asks for the status.
const LOOK: Duration = Duration::from_secs(2);

/// What serve takes
#[derive(Debug, clap::Args)]
pub struct Status {
    /// How many machines install at once
    #[arg(long, default_value_t = 300)]
    machines: u16,
    /// For how long, seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The part that plays the machines, inside the network
    #[arg(long, hide = true)]
    play: bool,
}

impl Status {
    /// Measures and prints.
    pub fn run(self) -> Result<()> {
        if self.play {
            return play(self.machines, Duration::from_secs(self.seconds));
        }
        require::all(require::BUILD)?;
        require::all(require::SERVE)?;
        require::all(require::LAB)?;
        build::install(&build::stage())?;
        let directory = tempfile::Builder::new().prefix("systemimager-bench-").tempdir_in("/var/tmp")?;
        let network = Network::new()?;
        let server = network.host("server", ADDRESS)?;
        let root = directory.path().join("server");
        let asked = |words: &[&str]| command(&server, &root, words);
        files(&root)?;
        let last = self.machines.to_string();
        let macs = directory.path().join("macs.csv");
        fs::write(&macs, (1..=self.machines).map(|it| format!("node{it},{}\n", mac(it))).collect::<String>())?;
        let macs = macs.display().to_string();
        let range = format!("1-{last}");
        let declare = ["addclients", "--base", "node", "--range", &range, "--image", "web", "--macs", &macs];
        run_quietly(&mut asked(&[declare.as_slice(), &["--ip", "10.77.1.1/22"]].concat()))?;

        let log = File::create(directory.path().join("serve.log"))?;
        let mut serve = asked(&["-v", "serve"]);
        let mut serve = Serve(serve.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?);
        let said = || fs::read_to_string(directory.path().join("serve.log")).unwrap_or_default();
        wait_until(Duration::from_secs(60), "serve to be ready", || {
            ensure!(serve.0.try_wait()?.is_none(), "serve ended: {}", said());
            Ok(said().contains("ready: ").then_some(()))
        })?;
        let pid = program_below(serve.0.id())?;

        // The build may have replaced the file that this process was started from.
        let me = build::target().join("debug/xtask").display().to_string();
        let seconds = self.seconds.to_string();
        let play = [&me, "bench", "status", "--play", "--machines", &last, "--seconds", &seconds];
        let mut players = server.command(&play).stdout(Stdio::piped()).spawn().context("the machines")?;
        let mut lines = BufReader::new(players.stdout.take().context("no output")?).lines();
        let ready = lines.next().context("the machines said nothing")??;
        ensure!(ready == "installing", "the machines: {ready}; serve: {}", said());
        let (begun, before) = (Instant::now(), used(pid)?);
        let mut looks = Vec::new();
        while begun.elapsed() < Duration::from_secs(self.seconds) {
            let asking = Instant::now();
            let shown = run_quietly(&mut asked(&["--json", "status"]))?;
            looks.push(asking.elapsed());
            ensure!(shown.contains(&format!("node{last}")), "a machine is missing in status");
            std::thread::sleep(LOOK.saturating_sub(asking.elapsed()));
        }
        let (elapsed, after) = (begun.elapsed(), used(pid)?);
        let reports = lines.next().context("the machines did not end")??;
        ensure!(players.wait()?.success(), "the machines failed");
        let core = (after.processor - before.processor).as_secs_f64() / elapsed.as_secs_f64();
        println!("{last} machines for {:.0} s: {reports}", elapsed.as_secs_f64());
        println!("  serve, processor     {:>6.1} % of a core", core * 100.0);
        println!("  serve, memory        {:>6.1} MB at most", after.memory as f64 / 1e6);
        println!(
            "  systemimager status  {:>6.0} ms (median of {})",
            median(looks.clone()).as_secs_f64() * 1e3,
            looks.len()
        );
        Ok(())
    }
}

/// serve; it ends with the measurement, and its network's end takes its children.
struct Serve(Child);

impl Drop for Serve {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(server: &Host, root: &Path, words: &[&str]) -> Command {
    let program = build::stage().join("bin/systemimager").display().to_string();
    let root = root.display().to_string();
    let mut argv = vec![program, "--root".to_owned(), root];
    argv.extend(words.iter().map(|word| (*word).to_owned()));
    server.command(&argv)
}

/// An image server with one small image.
fn files(root: &Path) -> Result<()> {
    for directory in ["etc", "tftpboot/systemimager", "var/spool/systemimager/images/web/etc", "var/lib/systemimager"] {
        fs::create_dir_all(root.join(directory))?;
    }
    // dnsmasq is not root when it serves.
    run_quietly(Command::new("chmod").arg("755").arg(root.parent().unwrap_or(root)))?;
    for (path, text) in [
        ("etc/hosts", "127.0.0.1 localhost\n"),
        ("tftpboot/systemimager/web.master", MASTER),
        ("tftpboot/kernel", "the kernel"),
        ("tftpboot/initrd.img", "the initrd"),
        ("var/spool/systemimager/images/web/etc/hostname", "golden\n"),
    ] {
        fs::write(root.join(path), text)?;
    }
    Ok(())
}

fn mac(number: u16) -> String {
    format!("52:54:00:77:{:02x}:{:02x}", number >> 8, number & 0xff)
}

/// `ip netns exec` becomes the program that it starts; where it does not, the program is its child.
fn program_below(pid: u32) -> Result<u32> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm"))?;
    ensure!(name.trim() == "systemimager", "process {pid} is {name}, not serve");
    Ok(pid)
}

struct Used {
    processor: Duration,
    /// Highest so far, bytes.
    memory: u64,
}

/// proc_pid_stat(5), fields 14 and 15; proc_pid_status(5), VmHWM.
fn used(pid: u32) -> Result<Used> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("stat has no name")?.1.split_whitespace().collect();
    let ticks = |at: usize| -> Result<u64> { Ok(fields.get(at).context("stat is short")?.parse()?) };
    // 100 a second on every Linux (USER_HZ).
    let processor = Duration::from_millis((ticks(11)? + ticks(12)?) * 10);
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let high = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("status has no VmHWM")?;
    let kibibytes: u64 = high.trim().trim_end_matches(" kB").parse()?;
    Ok(Used { processor, memory: kibibytes * 1024 })
}

/// Plays the machines; says when all have their orders, and at the end what they said.
fn play(machines: u16, time: Duration) -> Result<()> {
    let ready = Arc::new(Barrier::new(usize::from(machines) + 1));
    let said = Arc::new(AtomicU64::new(0));
    let played: Vec<_> = (1..=machines)
        .map(|number| {
            let (ready, said) = (Arc::clone(&ready), Arc::clone(&said));
            std::thread::Builder::new().stack_size(256 << 10).spawn(move || machine(number, time, &ready, &said))
        })
        .collect::<std::io::Result<_>>()?;
    ready.wait();
    println!("installing");
    for machine in played {
        match machine.join() {
            Ok(result) => result?,
            Err(_) => bail!("a machine panicked"),
        }
    }
    println!("{} reports", said.load(Ordering::Relaxed));
    Ok(())
}

fn machine(number: u16, time: Duration, ready: &Barrier, said: &AtomicU64) -> Result<()> {
    let mac = mac(number);
    let ordered = order(number, &mac);
    ready.wait();
    let (mut line, token) = ordered?;
    let begun = Instant::now();
    let mut report = |sequence: u64, event: &str| -> Result<()> {
        let body = format!(r#"{{"mac":"{mac}","host":"node{number}","image":"web","sequence":{sequence},{event}}}"#);
        let (status, answer) = line.post("/v1/reports", &token, &body)?;
        ensure!(status < 300, "node{number}: {status}: {answer}");
        said.fetch_add(1, Ordering::Relaxed);
        Ok(())
    };
    report(1, r#""event":"state","state":"installing","message":"""#)?;
    // Not all at the same moment, as machines are not.
    std::thread::sleep(PROGRESS * u32::from(number % 100) / 100);
    let mut sequence = 2;
    while begun.elapsed() < time {
        let bytes = sequence * 10_000_000;
        let progress =
            format!(r#""event":"progress","phase":"pull","progress":{{"bytes":{bytes},"files":{sequence}}}"#);
        report(sequence, &progress)?;
        if sequence.is_multiple_of(5) {
            sequence += 1;
            report(sequence, r#""event":"log","level":"info","line":"+ mke2fs -t ext4 -q /dev/sda2""#)?;
        }
        sequence += 1;
        std::thread::sleep(PROGRESS);
    }
    report(sequence, r#""event":"state","state":"installed","message":"""#)
}

/// Asks for the order until it comes; the connection, and the order's token.
fn order(number: u16, mac: &str) -> Result<(Line, String)> {
    let mut line = Line::connect()?;
    let hello = format!(r#"{{"mac":"{mac}","host":"node{number}","boot":"b{number}"}}"#);
    let (status, answer) = line.post("/v1/hello", "", &hello)?;
    ensure!(status == 200, "node{number}: {status}: {answer}");
    let token = answer.split_once(r#""token":""#).and_then(|(_, rest)| rest.split_once('"'));
    Ok((line, token.with_context(|| format!("node{number} has no order: {answer}"))?.0.to_owned()))
}

/// A connection that stays open.
struct Line {
    stream: BufReader<TcpStream>,
}

impl Line {
    fn connect() -> Result<Self> {
        let stream = TcpStream::connect(SERVER).context("connecting to the image server")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    fn post(&mut self, path: &str, token: &str, body: &str) -> Result<(u16, String)> {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: server\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let at = head.len();
            ensure!(self.stream.read_line(&mut head)? > 0, "the server closed the connection");
            let line = head[at..].trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if line.is_empty() {
                break;
            }
        }
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status")?;
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        Ok((status, String::from_utf8_lossy(&answer).into_owned()))
    }
}
