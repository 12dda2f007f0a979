//! What of it a tree holds. It reads names and a few small files; nothing of the image is run. The answer crosses the
//! boundary as pairs of strings, as that of [`crate::detect`].

use std::collections::BTreeMap;

use systemimager_core::Result;

use crate::tree::{Tree, is_path};

/// machine-id(5).
pub const MACHINE_ID: &str = "/etc/machine-id";
/// What D-Bus used before, and uses where there is no systemd.
pub const DBUS_ID: &str = "/var/lib/dbus/machine-id";
/// open-iscsi's.
pub const ISCSI: &str = "/etc/iscsi/initiatorname.iscsi";
/// What the line in it begins with.
pub const ISCSI_KEY: &str = "InitiatorName=";
/// nvme-cli's.
pub const NVME_NAME: &str = "/etc/nvme/hostnqn";
/// nvme-cli's.
pub const NVME_ID: &str = "/etc/nvme/hostid";

/// A rule of ours, which the identity that is written afterwards replaces.
const OWN_RULE: &str = "70-systemimager-net.rules";
/// Rules that udev's own generators wrote, and older distributions' names of them.
const GENERATED_RULES: [&str; 3] =
    ["70-persistent-net.rules", "z25_persistent-net.rules", "30-net_persistent_names.rules"];

/// Seeds of systemd, Debian's and Red Hat's older scripts, seedrng and boot loaders; and the secret that
/// systemd-creds(1) encrypts with.
pub const RANDOM: [&str; 10] = [
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/credential.secret",
    "/var/lib/urandom/random-seed",
    "/var/lib/random-seed",
    "/var/lib/misc/random-seed",
    "/var/lib/seedrng/seed.credit",
    "/var/lib/seedrng/seed.no-credit",
    "/boot/loader/random-seed",
    "/boot/efi/loader/random-seed",
    "/efi/loader/random-seed",
];

/// Which files of a directory hold leases and client ids.
#[derive(Clone, Copy)]
enum Files {
    /// Those whose names contain `.lease`, a DHCP server's apart.
    Leases,
    /// Leases, and these.
    LeasesAnd(&'static [&'static str]),
    /// Only these.
    Only(&'static [&'static str]),
    /// All.
    All,
}

/// Directories with leases and client ids: dhclient's (Debian, Red Hat, older), NetworkManager's, dhcpcd's, wicked's,
/// systemd-networkd's, wide-dhcpv6's.
const DHCP: [(&str, Files); 12] = [
    ("/var/lib/dhcp", Files::Leases),
    ("/var/lib/dhcp3", Files::Leases),
    ("/var/lib/dhclient", Files::Leases),
    ("/var/lib/NetworkManager", Files::LeasesAnd(&["secret_key", "timestamps"])),
    ("/var/lib/dhcpcd", Files::LeasesAnd(&["duid", "secret"])),
    ("/var/lib/dhcpcd5", Files::LeasesAnd(&["duid", "secret"])),
    ("/var/db/dhcpcd", Files::LeasesAnd(&["duid", "secret"])),
    ("/etc", Files::Only(&["dhcpcd.duid", "dhcpcd.secret"])),
    ("/var/lib/wicked", Files::All),
    ("/var/lib/systemd/network", Files::All),
    ("/var/lib/dhcpv6", Files::Only(&["dhcp6c_duid", "dhcp6s_duid"])),
    ("/var/lib/connman", Files::Only(&["dhcpv6-duid"])),
];

/// Where leases and client ids lie, as patterns.
pub fn lease_patterns() -> Vec<String> {
    let one = |(directory, files): (&str, Files)| -> Vec<String> {
        let (leases, names) = match files {
            Files::Leases => (true, &[][..]),
            Files::LeasesAnd(names) => (true, names),
            Files::Only(names) => (false, names),
            Files::All => return vec![format!("{directory}/*")],
        };
        let leases = leases.then(|| format!("{directory}/*lease*"));
        leases.into_iter().chain(names.iter().map(|name| format!("{directory}/{name}"))).collect()
    };
    DHCP.into_iter().flat_map(one).collect()
}

/// A private key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyFile {
    /// Absolute in the image.
    pub path: String,
    /// `rsa`, `ecdsa`, `ed25519`, `dsa`, `rsa1`; `None`: nothing tells.
    pub kind: Option<String>,
    /// Its length where that is to be kept.
    pub bits: Option<u32>,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// systemd is the first process.
    pub systemd: bool,
    /// [`MACHINE_ID`] is there.
    pub machine_id: bool,
    /// [`DBUS_ID`] is there.
    pub dbus_id: bool,
    /// All files of ssh host keys: private, public, certificates, copies; dropbear's too.
    pub ssh_files: Vec<String>,
    /// OpenSSH's private ones.
    pub ssh_keys: Vec<KeyFile>,
    /// dropbear's.
    pub dropbear_keys: Vec<KeyFile>,
    /// The program is there.
    pub ssh_keygen: bool,
    /// The program is there.
    pub dropbearkey: bool,
    /// Random seeds.
    pub random_seed: Vec<String>,
    /// DHCP leases and client ids.
    pub dhcp: Vec<String>,
    /// Files that give interfaces names by their MAC addresses.
    pub interface_names: Vec<String>,
    /// The iSCSI initiator's name.
    pub iscsi_name: Option<String>,
    /// The NVMe host's name.
    pub nvme_name: Option<String>,
    /// [`NVME_ID`] is there.
    pub nvme_id: bool,
}

impl Held {
    /// As pairs; what is absent has none.
    pub fn into_facts(self) -> BTreeMap<String, String> {
        let yes = |is: bool| is.then(|| "yes".to_owned());
        let lines = |lines: Vec<String>| (!lines.is_empty()).then(|| lines.join("\n"));
        let keys = |keys: Vec<KeyFile>| {
            let line = |key: KeyFile| {
                let bits = key.bits.map(|bits| bits.to_string());
                format!("{}\t{}\t{}", key.kind.unwrap_or_default(), bits.unwrap_or_default(), key.path)
            };
            lines(keys.into_iter().map(line).collect())
        };
        [
            ("systemd", yes(self.systemd)),
            ("machine-id", yes(self.machine_id)),
            ("dbus-id", yes(self.dbus_id)),
            ("ssh-keys", keys(self.ssh_keys)),
            ("dropbear-keys", keys(self.dropbear_keys)),
            ("ssh-files", lines(self.ssh_files)),
            ("ssh-keygen", yes(self.ssh_keygen)),
            ("dropbearkey", yes(self.dropbearkey)),
            ("random-seed", lines(self.random_seed)),
            ("dhcp", lines(self.dhcp)),
            ("interface-names", lines(self.interface_names)),
            ("iscsi-name", self.iscsi_name),
            ("nvme-name", self.nvme_name),
            ("nvme-id", yes(self.nvme_id)),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((format!("scrub-{key}"), value?)))
        .collect()
    }

    /// Back from pairs.
    pub fn from_facts(facts: &BTreeMap<String, String>) -> Self {
        let text = |key: &str| facts.get(&format!("scrub-{key}")).cloned();
        let name = |key: &str| text(key).filter(|name| !name.contains(char::is_control));
        let yes = |key: &str| text(key).is_some();
        let lines = |key: &str| -> Vec<String> { text(key).unwrap_or_default().lines().map(str::to_owned).collect() };
        let paths = |key: &str| -> Vec<String> { lines(key).into_iter().filter(|path| is_path(path)).collect() };
        let keys = |key: &str| -> Vec<KeyFile> {
            let key_of = |line: &String| {
                let mut fields = line.splitn(3, '\t');
                let kind = fields.next().filter(|kind| !kind.is_empty()).map(str::to_owned);
                let bits = fields.next().and_then(|bits| bits.parse().ok());
                Some(KeyFile { kind, bits, path: fields.next().filter(|path| is_path(path))?.to_owned() })
            };
            lines(key).iter().filter_map(key_of).collect()
        };
        Self {
            systemd: yes("systemd"),
            machine_id: yes("machine-id"),
            dbus_id: yes("dbus-id"),
            ssh_files: paths("ssh-files"),
            ssh_keys: keys("ssh-keys"),
            dropbear_keys: keys("dropbear-keys"),
            ssh_keygen: yes("ssh-keygen"),
            dropbearkey: yes("dropbearkey"),
            random_seed: paths("random-seed"),
            dhcp: paths("dhcp"),
            interface_names: paths("interface-names"),
            iscsi_name: name("iscsi-name"),
            nvme_name: name("nvme-name"),
            nvme_id: yes("nvme-id"),
        }
    }
}

/// Looks at a tree.
///
/// # Errors
/// A file or directory that is there cannot be read.
pub fn find(tree: &Tree<'_>) -> Result<Held> {
    let mut held = Held {
        systemd: tree.stands("/usr/lib/systemd/systemd")? || tree.stands("/lib/systemd/systemd")?,
        machine_id: tree.stands(MACHINE_ID)?,
        dbus_id: tree.stands(DBUS_ID)?,
        ssh_keygen: tree.program("ssh-keygen")?,
        dropbearkey: tree.program("dropbearkey")?,
        dhcp: dhcp(tree)?,
        interface_names: interface_names(tree)?,
        nvme_id: tree.stands(NVME_ID)?,
        ..Held::default()
    };
    for path in RANDOM {
        if tree.stands(path)? {
            held.random_seed.push(path.to_owned());
        }
    }
    openssh(tree, &mut held)?;
    for path in tree.paths("/etc/dropbear", |name| name.starts_with("dropbear_") && name.ends_with("_host_key"))? {
        let kind = ["rsa", "dss", "ecdsa", "ed25519"].into_iter().find(|kind| path.contains(kind));
        let kind = kind.map(|kind| if kind == "dss" { "dsa" } else { kind }.to_owned());
        held.ssh_files.push(path.clone());
        held.dropbear_keys.push(KeyFile { path, kind, bits: None });
    }
    let text = tree.text(ISCSI)?.unwrap_or_default();
    // Several: the last is the one in force. `GenerateName=yes` has none, and is made anew at the first boot.
    let name = text.lines().filter_map(|line| line.strip_prefix(ISCSI_KEY)).next_back();
    held.iscsi_name = name.map(plain).filter(|name| !name.is_empty());
    held.nvme_name = tree.text(NVME_NAME)?.map(|text| plain(&text)).filter(|name| !name.is_empty());
    Ok(held)
}

/// The first word, and in it only what such names are made of.
fn plain(text: &str) -> String {
    let word = text.split_whitespace().next().unwrap_or_default();
    word.chars().filter(|letter| letter.is_ascii_alphanumeric() || ".:-_".contains(*letter)).collect()
}

fn dhcp(tree: &Tree<'_>) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (directory, files) in DHCP {
        // dhcpd's leases are what it promised to others, and it does not start without the file.
        let is_lease = |name: &str| name.contains(".lease") && !name.starts_with("dhcpd");
        let wanted = |name: &str| match files {
            Files::Leases => is_lease(name),
            Files::LeasesAnd(others) => is_lease(name) || others.contains(&name),
            Files::Only(names) => names.contains(&name),
            Files::All => true,
        };
        for path in tree.paths(directory, wanted)? {
            // Directories have no text, and stay.
            if tree.text(&path)?.is_some() {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// udev's rules and systemd.link(5) files that are about nothing but names of interfaces with certain MAC addresses.
fn interface_names(tree: &Tree<'_>) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for path in tree.paths("/etc/udev/rules.d", |name| name.ends_with(".rules") && name != OWN_RULE)? {
        let generated = GENERATED_RULES.iter().any(|name| path.ends_with(&format!("/{name}")));
        if generated || tree.text(&path)?.is_some_and(|text| only_names(&text)) {
            found.push(path);
        }
    }
    let is_link = |name: &str| name.ends_with(".link");
    found.extend(tree.files_with("/etc/systemd/network", is_link, link_names_by_mac)?);
    if tree.stands("/etc/iftab")? {
        found.push("/etc/iftab".into());
    }
    Ok(found)
}

/// Every rule names an interface by its MAC address, and there is one.
fn only_names(text: &str) -> bool {
    let rules: Vec<String> = text
        .replace("\\\n", " ")
        .lines()
        .map(|line| line.replace(' ', ""))
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let names = |rule: &String| {
        (rule.contains("ATTR{address}==") || rule.contains("SYSFS{address}==")) && rule.contains("NAME=\"")
    };
    !rules.is_empty() && rules.iter().all(names)
}

fn link_names_by_mac(text: &str) -> bool {
    let has = |wanted: &[&str]| {
        text.lines()
            .filter_map(|line| line.trim().split_once('='))
            .any(|(key, value)| wanted.contains(&key.trim()) && !value.trim().is_empty())
    };
    has(&["MACAddress", "PermanentMACAddress"]) && has(&["Name"])
}

fn openssh(tree: &Tree<'_>, held: &mut Held) -> Result<()> {
    // Copies beside them (`ssh_host_rsa_key.old`) are the master client's as well.
    let files = tree.paths("/etc/ssh", |name| name.starts_with("ssh_host_") && name.contains("key"))?;
    let mut keys: Vec<String> = files.iter().filter(|path| path.ends_with("key")).cloned().collect();
    held.ssh_files = files;
    let mut configs = vec!["/etc/ssh/sshd_config".to_owned()];
    configs.extend(tree.paths("/etc/ssh/sshd_config.d", |name| name.ends_with(".conf"))?);
    for config in configs {
        let text = tree.text(&config)?.unwrap_or_default();
        for key in text.lines().filter_map(host_key) {
            let (key, public) = (key.to_owned(), format!("{key}.pub"));
            if !keys.contains(&key) && tree.stands(&key)? {
                held.ssh_files.push(key.clone());
                if tree.stands(&public)? {
                    held.ssh_files.push(public);
                }
                keys.push(key);
            }
        }
    }
    for path in keys {
        let (kind, bits) = match tree.text(&format!("{path}.pub"))?.as_deref().and_then(of_public) {
            Some(found) => found,
            None => (of_name(&path).map(str::to_owned), None),
        };
        held.ssh_keys.push(KeyFile { path, kind, bits });
    }
    Ok(())
}

/// The path in a `HostKey` line of sshd_config(5).
fn host_key(line: &str) -> Option<&str> {
    let (key, value) = line.trim().split_once(|letter: char| letter.is_whitespace() || letter == '=')?;
    let value = value.trim().trim_start_matches('=').trim().trim_matches('"');
    let fits = value.starts_with('/') && !value.ends_with('/') && !value.contains(char::is_control);
    (key.eq_ignore_ascii_case("HostKey") && fits).then_some(value)
}

/// Type and length by a public key's line (`ssh-rsa AAAA… comment`, sshd(8)). `None`: it is no such line.
fn of_public(text: &str) -> Option<(Option<String>, Option<u32>)> {
    let mut words = text.split_whitespace();
    let found = |kind: &str, bits: Option<u32>| Some((Some(kind.to_owned()), bits));
    match words.next()? {
        "ssh-ed25519" => found("ed25519", None),
        "ssh-dss" => found("dsa", None),
        "ssh-rsa" => found("rsa", words.next().and_then(rsa_bits)),
        kind => found("ecdsa", Some(kind.strip_prefix("ecdsa-sha2-nistp")?.parse().ok()?)),
    }
}

/// The length of a modulus by that of the key that holds it: 11 bytes of type, 7 of the usual exponent, 5 before the
/// modulus. Short and odd ones are left to the program's own choice.
fn rsa_bits(base64: &str) -> Option<u32> {
    let bytes = base64.trim_end_matches('=').len() * 3 / 4;
    let bits = u32::try_from(bytes.checked_sub(23)?.checked_mul(8)?).ok()?;
    (2048..=16384).contains(&bits).then_some(bits)
}

fn of_name(path: &str) -> Option<&'static str> {
    let name = path.rsplit('/').next().unwrap_or_default();
    if name == "ssh_host_key" {
        return Some("rsa1");
    }
    ["ecdsa", "ed25519", "rsa", "dsa"].into_iter().find(|kind| name == format!("ssh_host_{kind}_key"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::Place;
    use systemimager_core::testing::RecordedHost;

    fn found(files: &[(&str, &str)]) -> Held {
        let host = files.iter().fold(RecordedHost::new(), |host, (path, contents)| host.file(path, *contents));
        let place = Place::Tree { root: "/i".into() };
        let held = find(&Tree { host: &host, place: &place }).unwrap();
        assert_eq!(Held::from_facts(&held.clone().into_facts()), held, "there and back");
        held
    }

    fn key(path: &str, kind: &str, bits: Option<u32>) -> KeyFile {
        KeyFile { path: path.into(), kind: Some(kind.into()).filter(|kind: &String| !kind.is_empty()), bits }
    }

    fn texts(all: &[&str]) -> Vec<String> {
        all.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_debian() {
        let held = found(&[
            ("/usr/lib/systemd/systemd", ""),
            ("/usr/bin/ssh-keygen", ""),
            ("/etc/machine-id", "x\n"),
            ("/var/lib/dbus/machine-id", "x\n"),
            ("/etc/ssh/ssh_config", ""),
            ("/etc/ssh/ssh_host_ed25519_key", "PRIVATE"),
            ("/etc/ssh/ssh_host_ed25519_key.pub", "ssh-ed25519 AAAA root@master\n"),
            ("/etc/ssh/ssh_host_rsa_key", "PRIVATE"),
            ("/etc/ssh/ssh_host_rsa_key-cert.pub", ""),
            ("/etc/ssh/ssh_host_rsa_key.old", ""),
            ("/var/lib/systemd/random-seed", "r"),
            ("/var/lib/systemd/credential.secret", "r"),
            ("/var/lib/dhcp/dhclient.ens3.leases", ""),
            ("/var/lib/dhcp/dhclient.leases~", ""),
            ("/var/lib/dhcp/dhcpd.leases", ""),
            ("/var/lib/dhcp/notes", ""),
            ("/etc/dhcp/dhclient.conf", ""),
            ("/etc/udev/rules.d/70-persistent-net.rules", "# empty\n"),
            (
                "/etc/udev/rules.d/70-systemimager-net.rules",
                "SUBSYSTEM==\"net\", ATTR{address}==\"52:54:00:00:00:01\", NAME=\"lan0\"\n",
            ),
        ]);
        let expected = Held {
            systemd: true,
            machine_id: true,
            dbus_id: true,
            ssh_keygen: true,
            ssh_files: texts(&[
                "/etc/ssh/ssh_host_ed25519_key",
                "/etc/ssh/ssh_host_ed25519_key.pub",
                "/etc/ssh/ssh_host_rsa_key",
                "/etc/ssh/ssh_host_rsa_key-cert.pub",
                "/etc/ssh/ssh_host_rsa_key.old",
            ]),
            ssh_keys: vec![
                key("/etc/ssh/ssh_host_ed25519_key", "ed25519", None),
                key("/etc/ssh/ssh_host_rsa_key", "rsa", None),
            ],
            random_seed: texts(&["/var/lib/systemd/random-seed", "/var/lib/systemd/credential.secret"]),
            dhcp: texts(&["/var/lib/dhcp/dhclient.ens3.leases", "/var/lib/dhcp/dhclient.leases~"]),
            interface_names: texts(&["/etc/udev/rules.d/70-persistent-net.rules"]),
            ..Held::default()
        };
        assert_eq!(held, expected);
        assert_eq!(found(&[]), Held::default());
    }

    #[test]
    fn others() {
        let held = found(&[
            (
                "/etc/ssh/sshd_config",
                "# HostKey /etc/no\nhostkey \"/srv/keys/a\"\nHostKey=/srv/keys/b\nHostKey /absent\n",
            ),
            ("/etc/ssh/sshd_config.d/x.conf", "\tHostKey\t/srv/keys/c\n"),
            ("/srv/keys/a", ""),
            ("/srv/keys/a.pub", "ecdsa-sha2-nistp384 AAAA\n"),
            ("/srv/keys/b", ""),
            ("/srv/keys/c", ""),
            ("/srv/keys/c.pub", "sk-ssh-ed25519@openssh.com AAAA\n"),
            ("/etc/ssh/ssh_host_key", ""),
            ("/etc/ssh/ssh_host_dsa_key", ""),
            ("/etc/dropbear/dropbear_dss_host_key", ""),
            ("/etc/dropbear/dropbear_ed25519_host_key", ""),
            ("/usr/bin/dropbearkey", ""),
            ("/var/lib/NetworkManager/internal-1-ens3.lease", ""),
            ("/var/lib/NetworkManager/secret_key", ""),
            ("/var/lib/NetworkManager/NetworkManager.state", ""),
            ("/var/lib/dhcpcd/duid", ""),
            ("/var/lib/wicked/duid.xml", ""),
            ("/var/lib/systemd/network/dir/file", ""),
            ("/etc/dhcpcd.duid", ""),
            (
                "/etc/udev/rules.d/10-mine.rules",
                "SUBSYSTEM==\"net\", ACTION==\"add\", \\\n ATTR{address}==\"52:54:00:00:00:01\", NAME=\"dmz\"\n",
            ),
            (
                "/etc/udev/rules.d/20-mixed.rules",
                "ATTR{address}==\"52:54:00:00:00:01\", NAME=\"dmz\"\nKERNEL==\"sda\", MODE=\"0600\"\n",
            ),
            ("/etc/systemd/network/10-lan.link", "[Match]\nMACAddress=52:54:00:00:00:01\n[Link]\nName=lan\n"),
            ("/etc/systemd/network/20-wol.link", "[Match]\nMACAddress=52:54:00:00:00:01\n[Link]\nWakeOnLan=magic\n"),
            ("/etc/iscsi/initiatorname.iscsi", "## x\nInitiatorName=iqn.1993-08.org.debian:01:abc # mine\n"),
            ("/etc/nvme/hostnqn", "nqn.2014-08.org.nvmexpress:uuid:1\n"),
            ("/etc/nvme/hostid", "1\n"),
        ]);
        let expected = Held {
            ssh_files: texts(&[
                "/etc/ssh/ssh_host_dsa_key",
                "/etc/ssh/ssh_host_key",
                "/srv/keys/a",
                "/srv/keys/a.pub",
                "/srv/keys/b",
                "/srv/keys/c",
                "/srv/keys/c.pub",
                "/etc/dropbear/dropbear_dss_host_key",
                "/etc/dropbear/dropbear_ed25519_host_key",
            ]),
            ssh_keys: vec![
                key("/etc/ssh/ssh_host_dsa_key", "dsa", None),
                key("/etc/ssh/ssh_host_key", "rsa1", None),
                key("/srv/keys/a", "ecdsa", Some(384)),
                key("/srv/keys/b", "", None),
                key("/srv/keys/c", "", None),
            ],
            dropbear_keys: vec![
                key("/etc/dropbear/dropbear_dss_host_key", "dsa", None),
                key("/etc/dropbear/dropbear_ed25519_host_key", "ed25519", None),
            ],
            dropbearkey: true,
            dhcp: texts(&[
                "/var/lib/NetworkManager/internal-1-ens3.lease",
                "/var/lib/NetworkManager/secret_key",
                "/var/lib/dhcpcd/duid",
                "/etc/dhcpcd.duid",
                "/var/lib/wicked/duid.xml",
            ]),
            interface_names: texts(&["/etc/udev/rules.d/10-mine.rules", "/etc/systemd/network/10-lan.link"]),
            iscsi_name: Some("iqn.1993-08.org.debian:01:abc".into()),
            nvme_name: Some("nqn.2014-08.org.nvmexpress:uuid:1".into()),
            nvme_id: true,
            ..Held::default()
        };
        assert_eq!(held, expected);
        let generated = found(&[("/etc/iscsi/initiatorname.iscsi", "GenerateName=yes\n")]);
        assert_eq!(generated, Held::default(), "it is made anew at the first boot");
    }

    #[test]
    fn lengths_of_rsa_keys() {
        for (bits, expected) in [(1024, None), (2048, Some(2048)), (3072, Some(3072)), (4096, Some(4096))] {
            let bytes: usize = 23 + bits / 8;
            let text = format!("ssh-rsa {} root@x", "A".repeat(bytes.div_ceil(3) * 4 - (3 - bytes % 3) % 3));
            assert_eq!(of_public(&text), Some((Some("rsa".into()), expected)), "{bits}");
        }
    }
}
