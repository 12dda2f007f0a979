//! The keys by which machines know this image server: made once, kept where root alone reads them.
//!
//! Machines have the public halves in what they boot. A key that is removed is made anew, and what was made with the old one
//! takes this server for another.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use systemimager_core::{Offer, Secret};

use crate::config::Config;
use crate::host::Secrets;
use crate::key::Key;
use crate::machine_secret;
use crate::pins::Pins;

/// By what name the key of the transports is among a server's secrets.
const HOST_KEY: &str = "server-host-key";

/// The keys.
#[derive(Debug, Clone)]
pub struct ServerKeys {
    host: Key,
    signing: Key,
    /// Secrets that were worked out before: there may be thousands, and each takes a while.
    known: Arc<Mutex<Secrets>>,
}

impl ServerKeys {
    /// Those that are there, or new ones.
    ///
    /// # Errors
    /// The directory or a key cannot be made; a key is none, or others may read it.
    pub fn open(config: &Config) -> Result<Self> {
        let dir = config.state().join("keys");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("making {}", dir.display()))?;
        // Two programs at once would each make one.
        let _lock = crate::sys::lock::Lock::wait(
            &dir.join("lock"),
            crate::sys::lock::Mode::Exclusive,
            "looking for this server's keys",
        )?;
        Ok(Self {
            host: Key::kept(&dir.join("ssh_host_ed25519_key"))?,
            signing: Key::kept(&dir.join("signing_ed25519_key"))?,
            known: Arc::default(),
        })
    }

    /// The secrets that an offer of this server's names.
    ///
    /// # Errors
    /// The key of a machine is none.
    pub fn secrets(&self, offer: &Offer) -> Result<Secrets> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let secrets = std::mem::take(&mut *known).with(HOST_KEY, self.host.private().as_bytes());
        let secrets = machine_secret::with(secrets, &offer.exports, &self.host)?;
        known.clone_from(&secrets);
        Ok(secrets)
    }

    /// By what name the key of the transports is asked for.
    pub fn host_key() -> Secret {
        Secret(HOST_KEY.to_owned())
    }

    /// The key that answers are signed with.
    pub fn signing(&self) -> &Key {
        &self.signing
    }

    /// What machines have to know.
    pub fn pins(&self) -> Pins {
        Pins { host_key: self.host.public().to_owned(), signing_key: self.signing.public().to_owned() }
    }
}
