//! The account that sessions of transports run as which let machines in by their keys: one of its own, so that what such a session
//! is, before it is answered at the [door](crate::door), may nothing.
//!
//! It is not made here: a package makes it, or an administrator.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use crate::config::Config;

/// What it is called unless the settings name another.
pub const NAME: &str = "systemimager";
const ROOT: &str = "root";
/// The accounts of this machine (passwd(5)).
const FILE: &str = "/etc/passwd";
/// Shells that run nothing.
const SHUT: [&str; 2] = ["nologin", "false"];

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its group's number.
    pub gid: u32,
}

/// The account; `None`: root, because the settings say so, or because they name none and there is none of [that name](NAME).
///
/// # Errors
/// The one that the settings name is not there, is root by another name, or has a shell that runs nothing.
pub fn of(config: &Config) -> Result<Option<Account>> {
    let named = config.settings.server.account.as_deref();
    if named == Some(ROOT) {
        return Ok(None);
    }
    let text = fs::read_to_string(FILE).with_context(|| format!("reading {FILE}"))?;
    match (find(&text, named.unwrap_or(NAME))?, named) {
        (Some(account), _) => Ok(Some(account)),
        (None, None) => Ok(None),
        (None, Some(name)) => bail!(
            "server.account = \"{name}\" in {}: {FILE} has no such account; make it ({}), or name another",
            config.settings_file().display(),
            made_by(name)
        ),
    }
}

/// The command that makes one.
pub fn made_by(name: &str) -> String {
    format!("useradd --system --password '*' --shell /bin/sh --home-dir / --no-create-home {name}")
}

/// The settings with the account that there is now, for as long as a server runs by them: one that is made meanwhile is for the next.
///
/// # Errors
/// As [`of`], where the settings name one.
pub fn settle(config: &Config) -> Result<Config> {
    let mut settled = config.clone();
    let account = match of(config) {
        Err(error) if config.settings.server.account.is_none() => {
            tracing::warn!("sessions run as root: {error:#}");
            None
        }
        found => found?,
    };
    settled.settings.server.account = Some(account.map_or(ROOT.to_owned(), |account| account.name));
    Ok(settled)
}

fn find(passwd: &str, name: &str) -> Result<Option<Account>> {
    for line in passwd.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [found, _, uid, gid, _, _, shell] = fields[..] else { continue };
        if found != name {
            continue;
        }
        let number = |text: &str| text.parse().with_context(|| format!("{FILE}: {name} has the number {text:?}"));
        let account = Account { name: name.to_owned(), uid: number(uid)?, gid: number(gid)? };
        ensure!(account.uid != 0, "the account {name} is root by another name; name one of its own, or root itself");
        let program = Path::new(shell).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        ensure!(
            !SHUT.contains(&program),
            "the account {name} has the shell {shell}, by which sshd can start nothing for it: usermod --shell /bin/sh {name} (it has \
             no password, and its keys are those of systemimager alone)"
        );
        return Ok(Some(account));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_of_a_machine() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nbroken\n\
                      systemimager:x:997:996::/nonexistent:/bin/sh\nshut:x:1:1::/:/usr/sbin/nologin\n\
                      toor:x:0:0::/root:/bin/sh\nodd:x:many:1::/:/bin/sh\nlate:x:5:5::/:\n";
        let account = |name: &str, uid, gid| Some(Account { name: name.into(), uid, gid });
        assert_eq!(find(passwd, NAME).unwrap(), account(NAME, 997, 996));
        assert_eq!(find(passwd, "late").unwrap(), account("late", 5, 5), "an empty shell is /bin/sh");
        assert_eq!(find(passwd, "nobody").unwrap(), None);
        for (name, says) in
            [("shut", "usermod --shell"), ("toor", "root by another name"), ("odd", "the number \"many\"")]
        {
            let error = find(passwd, name).unwrap_err().to_string();
            assert!(error.contains(says), "{name}: {error}");
        }
    }

    #[test]
    fn what_the_settings_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::load(Some(dir.path()), None).unwrap();
        config.settings.server.account = Some("root".into());
        assert_eq!(of(&config).unwrap(), None);
        config.settings.server.account = Some("no-such-account".into());
        assert!(of(&config).unwrap_err().to_string().contains("useradd --system"));
    }
}
