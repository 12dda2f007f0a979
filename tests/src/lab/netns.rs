//! A network of the lab: namespaces on one bridge.
//!
//! The bridge has a namespace of its own, in which QEMU runs too; each [`Host`] is a namespace
//! with one `eth0`. Nothing is connected to the outside, and the host's own network stays as it
//! is, so that tests with the same addresses run beside each other.

use std::ffi::OsStr;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};

use super::{owner, run};

/// Namespaces of the lab begin so; then owner, number of the network, name.
const PREFIX: &str = "silab-";

/// One bridge with what is connected to it. Dropped, it kills what runs in its namespaces and
/// removes them.
#[derive(Debug)]
pub struct Network {
    number: usize,
    ports: AtomicUsize,
    namespaces: std::sync::Mutex<Vec<String>>,
}

/// A host on the network: a namespace of its own with an `eth0`.
#[derive(Clone, Debug)]
pub struct Host {
    namespace: String,
    /// The address that it was given, without the prefix length.
    pub address: String,
    /// The namespace of the switch, and its port there.
    port: (String, String),
}

/// A tap device on the bridge, for one network card of a virtual machine.
#[derive(Clone, Debug)]
pub struct Tap {
    pub(super) namespace: String,
    pub(super) device: String,
}

fn ip(namespace: &str, words: &[&str]) -> Result<()> {
    run::run(run::program("ip").args(["-n", namespace]).args(words)).map(drop)
}

fn add_bridge(namespace: &str, name: &str) -> Result<()> {
    // Snooping would hold multicast back until somebody asks for it; a plain switch does not.
    let options = ["type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0"];
    ip(namespace, &[["link", "add", name].as_slice(), &options].concat())?;
    ip(namespace, &["link", "set", name, "up"])
}

impl Network {
    /// A network with nothing on it yet.
    pub fn new() -> Result<Network> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        reclaim();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let network = Network { number, ports: AtomicUsize::new(0), namespaces: Default::default() };
        let bridge = network.add_namespace("bridge").context("making the lab's bridge")?;
        add_bridge(&bridge, "br0")?;
        Ok(network)
    }

    fn namespace(&self, name: &str) -> String {
        format!("{PREFIX}{}-{}-{name}", owner::me(), self.number)
    }

    fn add_namespace(&self, name: &str) -> Result<String> {
        let namespace = self.namespace(name);
        run::run(run::program("ip").args(["netns", "add", &namespace]))?;
        self.namespaces.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(namespace.clone());
        ip(&namespace, &["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Adds a host with one or more addresses, such as `10.77.0.1/24` and `fd77::1/64`,
    /// separated by blanks.
    pub fn host(&self, name: &str, addresses: &str) -> Result<Host> {
        self.host_on("br0", name, addresses)
    }

    fn host_on(&self, switch: &str, name: &str, addresses: &str) -> Result<Host> {
        let namespace = self.add_namespace(name).with_context(|| format!("making the lab's host {name}"))?;
        let (bridge, port) = (self.namespace("bridge"), self.port());
        ip(&bridge, &["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &namespace])?;
        ip(&bridge, &["link", "set", &port, "master", switch, "up"])?;
        for address in addresses.split_whitespace() {
            // An IPv6 address would be unusable for its first seconds, while others are asked for it.
            let more: &[&str] = if address.contains(':') { &["nodad"] } else { &["brd", "+"] };
            ip(&namespace, &[&["addr", "add", address], more, &["dev", "eth0"]].concat())?;
        }
        ip(&namespace, &["link", "set", "eth0", "up"])?;
        let first = addresses.split_whitespace().next().unwrap_or_default();
        let address = first.split('/').next().unwrap_or_default().to_owned();
        Ok(Host { namespace, address, port: (bridge, port) })
    }

    /// Adds a tap device.
    pub fn tap(&self) -> Result<Tap> {
        self.tap_on("br0")
    }

    fn tap_on(&self, switch: &str) -> Result<Tap> {
        let (bridge, device) = (self.namespace("bridge"), self.port());
        ip(&bridge, &["tuntap", "add", "dev", &device, "mode", "tap"])?;
        ip(&bridge, &["link", "set", &device, "master", switch, "up"])?;
        Ok(Tap { namespace: bridge, device })
    }

    /// Adds a network beside this one, for the further network cards of its machines: one host, and a tap device. Both
    /// are connected to each other and to nothing else.
    pub fn beside(&self, name: &str, addresses: &str) -> Result<(Host, Tap)> {
        let (bridge, switch) = (self.namespace("bridge"), self.port());
        add_bridge(&bridge, &switch)?;
        Ok((self.host_on(&switch, name, addresses)?, self.tap_on(&switch)?))
    }

    /// Pulls the cable of the device that was added last, or plugs it in again.
    pub fn plug_last(&self, plugged: bool) -> Result<()> {
        let last = self.ports.load(Ordering::Relaxed).checked_sub(1).context("nothing is on the network yet")?;
        let state = if plugged { "up" } else { "down" };
        ip(&self.namespace("bridge"), &["link", "set", &format!("port{last}"), state])
    }

    fn port(&self) -> String {
        format!("port{}", self.ports.fetch_add(1, Ordering::Relaxed))
    }
}

impl Host {
    /// A command that runs on this host.
    pub fn command<I: AsRef<OsStr>>(&self, argv: &[I]) -> Command {
        let mut command = run::program("ip");
        command.args(["netns", "exec", &self.namespace]).args(argv);
        command
    }

    /// Runs a command on this host and gives its output; any status but 0 is an error.
    pub fn run<I: AsRef<OsStr>>(&self, argv: &[I]) -> Result<String> {
        run::run(&mut self.command(argv))
    }

    /// Does something in this host's network, and waits for it.
    ///
    /// # Panics
    /// It panicked, or the namespace is gone.
    pub fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        use std::os::fd::AsFd as _;
        let namespace = std::fs::File::open(format!("/run/netns/{}", self.namespace())).expect("the namespace");
        // In a thread of its own, which alone changes its namespace; threads that it starts stay there.
        let thread = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
            work()
        });
        thread.join().expect("no panic")
    }

    /// Has this host send at most so much, in tc's words: `200mbit`.
    pub fn shape(&self, rate: &str) -> Result<()> {
        shape(&self.namespace, "eth0", rate)
    }

    /// Has it get at most so much.
    pub fn hold(&self, rate: &str) -> Result<()> {
        shape(&self.port.0, &self.port.1, rate)
    }

    /// Has it lose so many of a thousand IPv4 packets that are sent to it, TCP's too.
    pub fn lose(&self, per_mille: u32) -> Result<()> {
        let rule = format!("numgen random mod 1000 < {per_mille} drop");
        self.filter("lost", "prerouting", &rule)
    }

    /// Has it drop what arrives and a rule of nft's matches, such as `ip daddr 224.0.0.0/4`.
    pub fn drop_arriving(&self, matches: &str) -> Result<()> {
        self.filter("dropped", "prerouting", &format!("{matches} drop"))
    }

    fn filter(&self, table: &str, hook: &str, rule: &str) -> Result<()> {
        self.run(&["nft", &format!("add table ip {table}; flush table ip {table}")])?;
        let chain = format!("add chain ip {table} it {{ type filter hook {hook} priority -300; }}");
        self.run(&["nft", &format!("{chain}; add rule ip {table} it iifname \"eth0\" {rule}")]).map(drop)
    }

    /// Processes that run on this host.
    pub fn pids(&self) -> Result<Vec<u32>> {
        let running = run::run(run::program("ip").args(["netns", "pids", &self.namespace]))?;
        Ok(running.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
    }

    /// Sets something of its network card, in ip-link's words: `mtu 1280`.
    pub fn set(&self, words: &[&str]) -> Result<()> {
        ip(&self.namespace, &[&["link", "set", "eth0"], words].concat())
    }

    /// The name of the namespace, as `ip netns` knows it.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The host's `/etc/hosts` and `/etc/resolv.conf` are those of the computer unless a
    /// directory `/etc/netns/NAMESPACE` has its own: this puts a file there, which goes when
    /// the network goes.
    pub fn put_etc(&self, name: &str, content: &str) -> Result<()> {
        let directory = etc_of(&self.namespace);
        std::fs::create_dir_all(&directory).with_context(|| format!("making {directory}"))?;
        let path = format!("{directory}/{name}");
        std::fs::write(&path, content).with_context(|| format!("writing {path}"))
    }
}

impl Tap {
    /// Has the switch pass nothing from and to this port, or all again. The machine's card keeps its link.
    pub fn silence(&self, is_silent: bool) -> Result<()> {
        ip(&self.namespace, &["link", "set", &self.device, if is_silent { "down" } else { "up" }])
    }
}

/// A bucket of tokens, as a network card of that speed would be: what waits longer than 50 ms is dropped.
fn shape(namespace: &str, device: &str, rate: &str) -> Result<()> {
    let words = ["qdisc", "replace", "dev", device, "root", "tbf", "rate", rate, "burst", "64k", "latency", "50ms"];
    run::run(run::program("tc").args(["-n", namespace]).args(words)).map(drop)
}

fn etc_of(namespace: &str) -> String {
    format!("/etc/netns/{namespace}")
}

/// Kills what runs in a namespace and removes it.
fn remove(namespace: &str) -> Result<()> {
    let running = run::run(run::program("ip").args(["netns", "pids", namespace]))?;
    for pid in running.split_whitespace().filter_map(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?)) {
        // It may have ended by itself meanwhile.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    run::run(run::program("ip").args(["netns", "del", namespace]))?;
    match std::fs::remove_dir_all(etc_of(namespace)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", etc_of(namespace)))
        }
        _ => Ok(()),
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let namespaces = self.namespaces.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        for namespace in namespaces.iter().rev() {
            if let Err(error) = remove(namespace) {
                eprintln!("lab: {error:#}");
            }
        }
    }
}

/// Removes the namespaces of processes that are gone.
fn reclaim() {
    static ONCE: std::sync::OnceLock<()> = std::sync::OnceLock::new();
    ONCE.get_or_init(|| {
        for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            let owner = rest.splitn(3, '-').take(2).collect::<Vec<_>>().join("-");
            if owner::is_alive(&owner) {
                continue;
            }
            if let Err(error) = remove(&name) {
                eprintln!("lab: the remains of a killed test stay: {error:#}");
            }
        }
    });
}
