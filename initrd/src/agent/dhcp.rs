//! DHCP by busybox' udhcpc. It hands what a server said to a script; the script is this very program under
//! another name, which writes it down as JSON. No shell is involved, and nothing is evaluated.
//!
//! The client runs on while the machine is installed and renews its lease.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use systemimager_core::Lease;
use systemimager_engine::sys::{Child, ChildOutput, Cmd, Tool, atomic};

use crate::places;

/// The variable by which the script learns where to write.
const LEASE_FILE: &str = "SYSTEMIMAGER_LEASE_FILE";
/// Variables that udhcpc sets and that are kept.
const KEPT: [&str; 9] = ["interface", "ip", "mask", "subnet", "router", "dns", "hostname", "domain", "serverid"];
/// Longest value that is kept, bytes; an option has at most 255, a list of options a few times that.
const LONGEST: usize = 1024;

/// A client on one interface.
pub struct Client {
    interface: String,
    mac: String,
    file: PathBuf,
    child: Child,
}

impl Client {
    /// Starts asking.
    ///
    /// # Errors
    /// busybox cannot be started.
    pub fn start(interface: &str, mac: &str) -> Result<Self> {
        let file = Path::new(places::RUN_DIR).join(format!("lease-{interface}.json"));
        // One that an earlier client left would be taken for an answer.
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", file.display()));
            }
            _ => {}
        }
        let cmd = Cmd::tool(Tool::Busybox)
            .args(["udhcpc", "-f", "-i", interface, "-s", places::DHCP_HOOK])
            // Ask every 2 seconds without end: who waits for the answer has the deadline.
            .args(["-t", "100000", "-T", "2", "-A", "2", "-O", "hostname", "-O", "domain"])
            .env(LEASE_FILE, &file);
        let name = format!("dhcp on {interface}");
        let quiet = ChildOutput::Lines(Box::new(|_, line| tracing::debug!("{line}")));
        let child = Child::spawn(&name, cmd, quiet).context("starting the DHCP client")?;
        Ok(Self { interface: interface.to_owned(), mac: mac.to_owned(), file, child })
    }

    /// The lease, once there is one.
    ///
    /// # Errors
    /// The client has ended, or what it wrote cannot be used.
    pub fn lease(&self) -> Result<Option<Lease>> {
        let text = match std::fs::read_to_string(&self.file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if let Some(status) = self.child.try_wait()? {
                    anyhow::bail!("the DHCP client on {} ended ({status}): {}", self.interface, self.child.tail());
                }
                return Ok(None);
            }
            Err(error) => return Err(error).with_context(|| format!("reading {}", self.file.display())),
        };
        let values = serde_json::from_str(&text).with_context(|| format!("reading {}", self.file.display()))?;
        lease_of(&values, &self.mac).map(Some)
    }
}

/// The script: called by udhcpc with what happened as its argument and what the server said as variables.
///
/// # Errors
/// The file cannot be written.
pub fn hook(event: &str, variables: impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)>) -> Result<()> {
    // deconfig, leasefail and nak bring nothing; the address of a lost lease stays until the machine ends.
    if event != "bound" && event != "renew" {
        return Ok(());
    }
    let all: BTreeMap<String, String> =
        variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect();
    let file = all
        .get(LEASE_FILE)
        .with_context(|| format!("{LEASE_FILE} is not set; udhcpc is to be started by the agent"))?;
    let kept: BTreeMap<&str, &str> = KEPT
        .into_iter()
        .filter_map(|name| Some((name, all.get(name)?.as_str())))
        .filter(|(_, value)| value.len() <= LONGEST)
        .collect();
    atomic::write(Path::new(file), &serde_json::to_vec(&kept)?, 0o644)?;
    Ok(())
}

/// A lease from udhcpc's variables.
fn lease_of(values: &BTreeMap<String, String>, mac: &str) -> Result<Lease> {
    let value = |name: &str| values.get(name).map(|text| text.trim()).filter(|text| !text.is_empty());
    let address = value("ip").context("the DHCP server's answer has no address")?;
    let address: IpAddr = address.parse().with_context(|| format!("the DHCP server gave {address:?} as an address"))?;
    Ok(Lease {
        interface: value("interface").unwrap_or_default().to_owned(),
        mac: mac.to_owned(),
        address: Some(address),
        prefix: value("mask").and_then(|mask| mask.parse().ok()).or_else(|| value("subnet").and_then(prefix_of)),
        routers: addresses(value("router")),
        name_servers: addresses(value("dns")),
        host_name: value("hostname").map(str::to_owned),
        domain: value("domain").map(str::to_owned),
        server: value("serverid").and_then(|server| server.parse().ok()),
    })
}

fn addresses(list: Option<&str>) -> Vec<IpAddr> {
    list.unwrap_or_default().split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// `255.255.254.0` is 23; `None` if its bits are not in one piece.
fn prefix_of(subnet: &str) -> Option<u8> {
    let bits = u32::from(subnet.parse::<std::net::Ipv4Addr>().ok()?);
    let ones = bits.leading_ones();
    (bits.count_ones() == ones).then(|| u8::try_from(ones).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_lease_from_what_udhcpc_says() {
        let lease = lease_of(
            &values(&[
                ("interface", "eth0"),
                ("ip", "10.0.0.11"),
                ("mask", "23"),
                ("subnet", "255.255.254.0"),
                ("router", "10.0.0.1 10.0.0.2"),
                ("dns", "10.0.0.1 nonsense"),
                ("hostname", "www3; reboot"),
                ("domain", "example.org"),
                ("serverid", "10.0.0.1"),
            ]),
            "52:54:00:00:00:01",
        )
        .expect("a lease");
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(lease.address, Some(address("10.0.0.11")));
        assert_eq!(lease.prefix, Some(23));
        assert_eq!(lease.routers, [address("10.0.0.1"), address("10.0.0.2")]);
        assert_eq!(lease.name_servers, [address("10.0.0.1")]);
        // Kept as sent; whoever makes a name of it refuses it.
        assert_eq!(lease.host_name.as_deref(), Some("www3; reboot"));
        assert_eq!(lease.server, Some(address("10.0.0.1")));

        let lease = lease_of(&values(&[("ip", "10.0.0.11"), ("subnet", "255.255.255.0")]), "").expect("a lease");
        assert_eq!(lease.prefix, Some(24));
        for (name, pairs, says) in [
            ("no address", vec![("mask", "24")], "has no address"),
            ("no address either", vec![("ip", "x$(reboot)")], "gave \"x$(reboot)\" as an address"),
        ] {
            let error = lease_of(&values(&pairs), "").expect_err(name).to_string();
            assert!(error.contains(says), "{name}: {error}");
        }
    }

    #[test]
    fn subnets_in_one_piece() {
        for (subnet, prefix) in [
            ("255.255.255.0", Some(24)),
            ("0.0.0.0", Some(0)),
            ("255.0.255.0", None),
            ("255.255.255.255", Some(32)),
            ("x", None),
        ] {
            assert_eq!(prefix_of(subnet), prefix, "{subnet}");
        }
    }

    #[test]
    fn the_script_writes_what_it_was_told_and_no_more() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = dir.path().join("lease.json");
        let variables = |extra: Vec<(&str, String)>| {
            extra.into_iter().map(|(name, value)| (name.into(), value.into())).collect::<Vec<_>>().into_iter()
        };
        let given = || {
            variables(vec![
                (LEASE_FILE, file.display().to_string()),
                ("ip", "10.0.0.11".into()),
                ("hostname", "a\"b\n$(x)".into()),
                ("dns", "1".repeat(LONGEST + 1)),
                ("PATH", "/bin".into()),
            ])
        };
        hook("deconfig", given()).expect("nothing to do");
        assert!(!file.exists());
        hook("bound", given()).expect("written");
        let read: BTreeMap<String, String> =
            serde_json::from_slice(&std::fs::read(&file).expect("read")).expect("JSON");
        assert_eq!(read, values(&[("ip", "10.0.0.11"), ("hostname", "a\"b\n$(x)")]));
        assert!(hook("bound", variables(vec![])).is_err());
    }
}
