//! By which keys a machine and its image server know each other, as transports are asked.

use anyhow::Result;
use systemimager_core::{Secret, Source};

use crate::host::Secrets;
use crate::key::Key;
use crate::machine_secret;
use crate::pins::Pins;
use crate::remote::{NotThere, Server};
use crate::report::Sessions;

/// The name of a machine's private key among the secrets of its host.
const MACHINE_KEY: &str = "machine-key";
/// The name of what it shares with its server.
const MACHINE_SECRET: &str = "machine-secret";

/// Keys of a machine and of its image server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteKeys {
    /// The machine's private key among the host's secrets.
    pub identity: Secret,
    /// The server's public ones.
    pub pins: Pins,
    /// Whose secret it is that the machine shares with the server.
    user: String,
    /// The account that the server lets into.
    account: Option<String>,
}

impl SiteKeys {
    /// Those of a machine with this key, and the secrets that its host needs for them.
    ///
    /// # Errors
    /// The server's key is none.
    pub fn new(key: &Key, pins: Pins) -> Result<(Self, Secrets)> {
        let secrets = Secrets::default()
            .with(MACHINE_KEY, key.private().as_bytes())
            .with(MACHINE_SECRET, machine_secret::of(key, &pins.host_key)?);
        let user = machine_secret::user(key.public());
        Ok((Self { identity: Secret(MACHINE_KEY.to_owned()), pins, user, account: None }, secrets))
    }

    /// The same, with what the server says of how it lets in.
    ///
    /// # Errors
    /// It does not answer. One of an older version has nothing to say.
    pub fn told_by(self, server: &Server) -> Result<Self> {
        let Sessions { account } = match server.json(Sessions::PATH) {
            Err(error) if error.is::<NotThere>() => Sessions::default(),
            told => told?,
        };
        Ok(Self { account, ..self })
    }

    /// A source that is asked by these keys, if there are any.
    pub fn of(keys: Option<&Self>, source: Source) -> Source {
        let Some(keys) = keys else { return source };
        Source {
            identity: Some(keys.identity.clone()),
            host_key: Some(keys.pins.host_key.clone()),
            account: keys.account.clone(),
            secret: Some(Secret(MACHINE_SECRET.to_owned())),
            user: Some(keys.user.clone()),
            ..source
        }
    }
}
