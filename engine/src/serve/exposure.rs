//! What a server has open to whom, in words, and what about it wants care. Reads; changes nothing.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use systemimager_core::{Export, Host, Registry};

use super::admitted::{self, Admitted};
use super::exports::Services;
use crate::account;
use crate::config::{Config, DhcpMode, Unknown};
use crate::store::clients::Client;
use crate::store::master::{Master, encrypted};
use crate::store::orders::{self, Stage};

/// While they are there, nobody but root logs in (nologin(5)).
const NO_LOGIN: [&str; 2] = ["/etc/nologin", "/run/nologin"];
/// Names of machines that a line lists.
const LISTED: usize = 8;
/// Bits of a mode by which others than the owner may write.
const WRITABLE: u32 = 0o022;
/// In a directory with it, only the owner of a file replaces it.
const STICKY: u32 = 0o1000;
/// The same by which users that are neither owner nor of the group may read or enter.
const BY_ALL: u32 = 0o007;

/// One thing that somebody can have from this server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Opening {
    /// What: `image web`.
    pub what: String,
    /// By what: `ssh, TCP 8022`.
    pub by: String,
    /// To whom, in words.
    pub to: String,
    /// What protects it on the wire, in words.
    pub wire: String,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Exposure {
    /// What is open.
    pub openings: Vec<Opening>,
    /// What is as it may be, and wants a thought: each with what to do.
    pub care: Vec<String>,
    /// What lets others than root change or read what they must not: each with what to do.
    pub wrong: Vec<String>,
}

/// Looks, at a server by [settled](account::settle) settings.
///
/// # Errors
/// Orders, keys or masters cannot be read, or the settings name an account that is none.
pub fn look(
    config: &Config,
    registry: &Registry,
    host: &dyn Host,
    clients: &[Client],
    masters: &[Master],
    services: &Services,
) -> Result<Exposure> {
    let mut found = Exposure::default();
    network(config, &mut found);
    let admitted = admitted::now(config, clients)?;
    let is_encrypted = encrypted(registry, host);
    for (id, offered) in &services.offered {
        let closed = is_encrypted(id) == Some(true);
        let by = format!("{id}, TCP {}", offered.offer.port);
        let wire = if closed {
            "nobody on the wire reads or changes it; both sides are known by their keys"
        } else {
            "in the clear: whoever is on the wire reads it, and can change it"
        };
        for export in &offered.offer.exports {
            let what = match export.name.strip_suffix(".override") {
                Some(name) => format!("override {name}"),
                None => format!("image {}", export.name),
            };
            let to = whom(export, &admitted, clients, closed);
            if !closed && export.secrets.is_empty() && !export.allow.is_empty() {
                found.care.push(format!(
                    "{what} is for whoever has the address of a declared machine, which is easy to take: remove allow_keyless from \
                     the master file, unless machines without a key have to have it"
                ));
            }
            found.openings.push(Opening { what, by: by.clone(), to, wire: wire.to_owned() });
        }
        if closed {
            let runs = sessions(config, id, &mut found)?;
            found.openings.push(Opening {
                what: "one program, which reads what the key is for".to_owned(),
                by,
                to: format!("the keys above, and nobody else; {runs}"),
                wire: wire.to_owned(),
            });
        }
    }
    for master in masters {
        if master.allow_plain && !master.plain_beside_encrypted(&is_encrypted).is_empty() {
            found.care.push(format!(
                "a master file of the image {} says allow_plain = true: it falls back to a transport in the clear",
                master.image
            ));
        }
    }
    waiting(config, &mut found)?;
    files(config, &mut found);
    Ok(found)
}

/// What sessions run as.
fn sessions(config: &Config, id: &str, found: &mut Exposure) -> Result<String> {
    let Some(account) = account::of(config)? else {
        found.care.push(format!(
            "sessions by {id} run as root until they are answered; make the account {} (systemd-sysusers, or {})",
            account::NAME,
            account::made_by(account::NAME)
        ));
        return Ok(format!("sessions by {id} run as root"));
    };
    if account.name != account::NAME {
        found.care.push(format!(
            "sessions by {id} run as the account {}: whatever else runs as it can ask for every image that is offered by {id}; use \
             one for this alone",
            account.name
        ));
    }
    if let Some(file) = NO_LOGIN.iter().find(|file| Path::new(file).exists()) {
        found
            .care
            .push(format!("{file} is there: while it is, sshd lets in root alone, and machines get nothing by {id}"));
    }
    Ok(format!("sessions by {id} run as the account {}", account.name))
}

/// What is there before any image.
fn network(config: &Config, found: &mut Exposure) {
    let settings = &config.settings;
    let clear = "in the clear, and nothing shows who answers";
    let mut open = |what: &str, by: String, to: &str, wire: &str| {
        let (what, to, wire) = (what.to_owned(), to.to_owned(), wire.to_owned());
        found.openings.push(Opening { what, by, to, wire });
    };
    match settings.dhcp.mode {
        DhcpMode::Server => {
            open("addresses, names and the boot file", "DHCP, UDP 67".into(), "whoever asks in the network", clear)
        }
        DhcpMode::Proxy => open("the boot file", "DHCP, UDP 67 and 4011".into(), "whoever asks in the network", clear),
        DhcpMode::Off => {}
    }
    let to = match settings.boot.unknown {
        Unknown::Wait => "whoever asks; a machine that nobody knows waits until it is admitted",
        Unknown::Disk => "whoever asks; a machine that nobody knows boots its own disk",
    };
    let http = format!("HTTP, TCP {}", settings.server.http_port);
    open(
        "boot loaders, kernel and initrd, with the server's public keys",
        format!("TFTP, UDP 69, and {http}"),
        to,
        "in the clear, and a machine that boots by the network believes them; sticks, CDs and local disks bring their own",
    );
    open(
        "which machines are declared and how they stand, master files, facts of images, drivers and tools",
        http,
        "whoever asks",
        "can be read on the wire; machines take no answer that is not signed",
    );
}

fn whom(export: &Export, admitted: &[Admitted], clients: &[Client], closed: bool) -> String {
    if !closed && export.secrets.is_empty() {
        return match export.allow.len() {
            0 => "nobody: no machine is admitted by a key".to_owned(),
            count => format!("whoever has the address of one of {count} declared machines"),
        };
    }
    let holders = admitted.iter().filter(|it| match closed {
        true => export.keys.contains(&it.key()),
        false => export.secrets.iter().any(|own| *own == it.secret()),
    });
    let mut names: Vec<String> = holders
        .map(|it| {
            let from = match it.from() {
                [] => "from any declared address".to_owned(),
                from => format!("from {}", from.join(", ")),
            };
            let since = match it.until() {
                Some(until) => format!("for {} min", until.saturating_sub(orders::now()).div_ceil(60)),
                None => "until it is revoked, or its order is done".to_owned(),
            };
            format!("{} ({from}, {since})", it.host)
        })
        .collect();
    names.sort();
    names.dedup();
    match names.len() {
        0 => format!("nobody: none of {} declared machines is admitted by a key", clients.len()),
        count if count > LISTED => {
            names.truncate(LISTED);
            format!("the keys of {count} machines: {}, …", names.join("; "))
        }
        _ => format!("the keys of {}", names.join("; ")),
    }
}

/// Orders that nobody has taken up: whoever comes first with a machine's MAC and address does.
fn waiting(config: &Config, found: &mut Exposure) -> Result<()> {
    for order in orders::list(config)? {
        if order.stage == Stage::Ordered && order.until.is_none() {
            found.care.push(format!(
                "the order for {} waits without end: whoever asks first with its MAC, from its address, is installed and gets its \
                 image; order for a time (install {} --for 2h), or take it back (cancel {})",
                order.host, order.host, order.host
            ));
        }
    }
    Ok(())
}

fn files(config: &Config, found: &mut Exposure) {
    let state = config.state();
    let places = [
        ("the settings", config.settings_file()),
        ("master files, and who is declared", config.masters()),
        ("what machines boot", config.tftp()),
        ("what is known of machines", state.clone()),
        ("keys of machines", state.join("machine-keys")),
        ("orders", state.join("orders")),
        ("images", config.images()),
        ("overrides", config.overrides()),
        ("hooks, which run as root on machines", config.hooks()),
    ];
    for (what, place) in places {
        root_alone_changes(what, &place, found);
        let Ok(entries) = fs::read_dir(&place) else { continue };
        for entry in entries.flatten() {
            root_alone_changes(what, &entry.path(), found);
        }
    }
    if let Ok(there) = fs::metadata(config.images())
        && there.mode() & BY_ALL != 0
    {
        let shown = config.images().display().to_string();
        found.care.push(format!(
            "every user of this server can enter {shown}, where images have setuid programs and files of users who have other names \
             here: chmod 700 {shown}"
        ));
    }
    let keys = state.join("keys");
    let entries = fs::read_dir(&keys).into_iter().flatten().flatten().map(|entry| entry.path());
    // A lock lies beside them.
    let entries = entries.filter(|place| place.to_string_lossy().ends_with("_key"));
    for place in std::iter::once(keys.clone()).chain(entries) {
        root_alone_changes("the private keys of this server", &place, found);
        if fs::metadata(&place).is_ok_and(|there| there.mode() & (0o070 | BY_ALL) != 0) {
            let shown = place.display();
            found.wrong.push(format!(
                "{shown} (the private keys of this server) can be read by others: chmod go= {shown}, and make new ones if anybody may \
                 have read it"
            ));
        }
    }
}

/// What others than root can change. A link is judged by what it leads to.
fn root_alone_changes(what: &str, place: &Path, found: &mut Exposure) {
    let shown = place.display();
    let there = match fs::metadata(place) {
        Ok(there) => there,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => return found.wrong.push(format!("{shown} ({what}) cannot be looked at: {error}")),
    };
    if there.uid() != 0 {
        found.wrong.push(format!("{shown} ({what}) belongs to the user {}: chown root {shown}", there.uid()));
    }
    if there.mode() & WRITABLE != 0 && there.mode() & STICKY == 0 {
        found.wrong.push(format!("{shown} ({what}) can be changed by others than root: chmod go-w {shown}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn files_that_others_change_or_read() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(Some(dir.path()), None).unwrap();
        let keys = config.state().join("keys");
        for made in [config.masters(), config.images(), keys.clone(), config.state().join("machine-keys")] {
            fs::create_dir_all(made).unwrap();
        }
        let root = rustix::process::geteuid().is_root();
        let look = || {
            let mut found = Exposure::default();
            files(&config, &mut found);
            // Who runs the tests may be somebody else.
            found.wrong.retain(|line| root || !line.contains("belongs to the user"));
            found
        };
        let set = |place: &Path, mode| fs::set_permissions(place, fs::Permissions::from_mode(mode)).unwrap();
        set(&keys, 0o700);
        set(&config.images(), 0o700);
        assert_eq!(look(), Exposure::default());
        let rows = [
            (
                config.masters().join("web.master"),
                0o664,
                "web.master (master files, and who is declared) can be changed",
            ),
            (config.state().join("machine-keys/www1.pub"), 0o646, "www1.pub (keys of machines) can be changed"),
            (
                keys.join("signing_ed25519_key"),
                0o640,
                "signing_ed25519_key (the private keys of this server) can be read",
            ),
        ];
        for (file, mode, says) in rows {
            fs::write(&file, "x").unwrap();
            set(&file, mode);
            let found = look();
            assert!(found.wrong.len() == 1 && found.wrong[0].contains(says), "{found:?}");
            set(&file, 0o600);
            assert!(look().wrong.is_empty());
        }
        set(&config.images(), 0o755);
        assert!(look().care[0].contains("every user of this server can enter"), "{:?}", look());
    }
}
