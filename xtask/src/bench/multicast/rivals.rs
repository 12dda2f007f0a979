//! What else brings one tree to many: uftp and udpcast, which send a file (the tree goes as a tar), and rsync, which knows nothing of
//! many. Each is started so that its receivers wait before its sender begins; a file is unpacked, or compared, when all have it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use systemimager_tests::many::{Many, Running};

/// What one run of another program brought.
pub struct Run {
    /// Until the last receiver that ended had ended.
    pub wall: Duration,
    /// How many receivers have all of it, intact.
    pub intact: usize,
}

/// A receiver that goes on for so long after its sender has ended gets nothing any more.
const FORGOTTEN: Duration = Duration::from_secs(5);
/// A sender that has not ended by then is given up.
const GIVEN_UP: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(900);

fn start(many: &Many, host: usize, name: &str, words: &[&str]) -> Result<Running> {
    let host = if host == usize::MAX { &many.server } else { &many.receivers[host] };
    many.start(name, &mut host.command(words))
}

const SERVER: usize = usize::MAX;

/// How many copies have these bytes.
fn intact(copies: impl Iterator<Item = std::path::PathBuf>, file: &Path) -> Result<usize> {
    let wanted = fs::read(file)?;
    Ok(copies.filter(|copy| fs::read(copy).is_ok_and(|is| is == wanted)).count())
}

fn fresh(many: &Many, receivers: usize) -> Result<()> {
    for receiver in 0..receivers {
        let into = many.copy(receiver);
        if into.exists() {
            fs::remove_dir_all(&into)?;
        }
        fs::create_dir(&into)?;
    }
    Ok(())
}

/// Waits for a sender. It may well fail, or wait for ever for receivers that it has not heard: what arrived is looked at.
fn wait(mut running: Running) -> Result<()> {
    let begun = Instant::now();
    while running.runs()? && begun.elapsed() < GIVEN_UP {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// How long it took until the last had ended that does not go on for ever. One that missed the beginning does: it has nothing, and
/// is counted so.
fn until_ended(mut waiting: Vec<Running>, begun: Instant) -> Result<Duration> {
    let (sent, mut last) = (Instant::now(), begun.elapsed());
    while !waiting.is_empty() && sent.elapsed() < FORGOTTEN {
        let mut still = Vec::new();
        for mut one in waiting {
            if one.runs()? {
                still.push(one);
            } else {
                last = begun.elapsed();
            }
        }
        waiting = still;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(last)
}

/// uftp: a file. It is told who comes, and begins when all of them are there; or, as by default, it begins when its time for
/// newcomers is over.
pub fn uftp(many: &Many, receivers: usize, file: &Path, (rate, is_told): (u32, bool)) -> Result<Run> {
    fresh(many, receivers)?;
    let mut waiting = Vec::new();
    for receiver in 0..receivers {
        let (into, begun) = (many.copy(receiver).display().to_string(), many.path(&format!("uftp{receiver}")));
        fs::create_dir_all(&begun)?;
        let begun = begun.display().to_string();
        let words = ["uftpd", "-d", "-D", &into, "-T", &begun, "-I", "eth0", "-B", "8388608"];
        waiting.push(start(many, receiver, &format!("uftpd{receiver}"), &words)?);
    }
    std::thread::sleep(Duration::from_millis(500));
    let rate = (rate * 1000).to_string();
    let hosts = many.path("uftp-hosts");
    let list: Vec<String> = many.receivers.iter().take(receivers).map(|host| host.address.clone()).collect();
    fs::write(&hosts, list.join("\n") + "\n")?;
    let hosts = format!("@{}", hosts.display());
    let file_name = file.display().to_string();
    let begun = Instant::now();
    let mut words = vec!["uftp", "-I", "eth0", "-R", &rate, "-B", "8388608"];
    if is_told {
        words.extend(["-H", &hosts]);
    }
    words.push(&file_name);
    wait(start(many, SERVER, "uftp", &words)?)?;
    let wall = begun.elapsed();
    drop(waiting);
    let name = file.file_name().context("a file")?;
    Ok(Run { wall, intact: intact((0..receivers).map(|it| many.copy(it).join(name)), file)? })
}

/// udpcast: a file.
pub fn udpcast(many: &Many, receivers: usize, file: &Path, rate: u32) -> Result<Run> {
    fresh(many, receivers)?;
    let mut waiting = Vec::new();
    for receiver in 0..receivers {
        let into = many.copy(receiver).join("file").display().to_string();
        let words = ["udp-receiver", "--nokbd", "--interface", "eth0", "--file", &into, "--rcvbuf", "4m", "--nosync"];
        waiting.push(start(many, receiver, &format!("udp-receiver{receiver}"), &words)?);
    }
    std::thread::sleep(Duration::from_millis(500));
    let (rate, count) = (format!("{rate}m"), receivers.to_string());
    let file_name = file.display().to_string();
    let begun = Instant::now();
    let words = [
        "udp-sender",
        "--nokbd",
        "--interface",
        "eth0",
        "--min-receivers",
        &count,
        // Who was not heard by then is left behind, rather than all wait for ever.
        "--max-wait",
        "10",
        "--max-bitrate",
        &rate,
        "--file",
        &file_name,
    ];
    wait(start(many, SERVER, "udp-sender", &words)?)?;
    let wall = until_ended(waiting, begun)?;
    Ok(Run { wall, intact: intact((0..receivers).map(|it| many.copy(it).join("file")), file)? })
}

/// rsync: the tree itself, to each.
pub fn rsync(many: &Many, receivers: usize, tree: &Path) -> Result<Duration> {
    fresh(many, receivers)?;
    let config = many.path("rsyncd.conf");
    fs::write(
        &config,
        format!("uid = 0\ngid = 0\nuse chroot = no\n[tree]\npath = {}\nread only = yes\n", tree.display()),
    )?;
    let config = format!("--config={}", config.display());
    let daemon = start(many, SERVER, "rsyncd", &["rsync", "--daemon", "--no-detach", &config])?;
    std::thread::sleep(Duration::from_millis(500));
    let from = format!("rsync://{}/tree/", many.server.address);
    let begun = Instant::now();
    let mut pulls = Vec::new();
    for receiver in 0..receivers {
        let into = format!("{}/", many.copy(receiver).display());
        pulls.push(start(
            many,
            receiver,
            &format!("rsync{receiver}"),
            &["rsync", "-aHAXS", "--numeric-ids", &from, &into],
        )?);
    }
    for mut pull in pulls {
        ensure!(pull.ended_within(PATIENCE)?.success(), "rsync: {}", pull.said());
    }
    let wall = begun.elapsed();
    daemon.kill()?;
    Ok(wall)
}
