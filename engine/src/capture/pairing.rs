//! Keys of a capture, made of the secret that both sides know: so either knows the other's without having seen it, and the
//! administrator types nothing more.
//!
//! Whoever listens sees public keys. To try secrets against them is made slow (Argon2id, RFC 9106), which counts where somebody
//! chose a short one; one that prepareclient makes has 128 bits.

use anyhow::{Result, anyhow};
use argon2::{Algorithm, Argon2, Params, Version};
use systemimager_core::{AdmittedKey, Capabilities, Secret};

use super::facts::SECRET;
use crate::host::Secrets;
use crate::key::Key;

/// The name of the master client's private key among the secrets of a capture.
const HOST_KEY: &str = "capture-host-key";
/// The name of the image server's.
const IDENTITY: &str = "capture-identity";
/// Memory (KiB), passes and lanes: the second recommendation of OWASP for interactive use.
const COST: (u32, u32, u32) = (19 * 1024, 2, 1);
/// What these keys are for, and in which version: the same secret gives others elsewhere.
const SALT: &[u8] = b"systemimager: keys of a capture, 1";

/// The keys of both sides.
pub struct Pairing {
    host: Key,
    server: Key,
}

impl Pairing {
    /// The keys that belong to a secret.
    ///
    /// # Errors
    /// There is not memory enough.
    pub fn of(secret: &[u8]) -> Result<Self> {
        let (memory, passes, lanes) = COST;
        let mut seeds = [0; 64];
        Params::new(memory, passes, lanes, Some(seeds.len()))
            .and_then(|params| {
                Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(secret, SALT, &mut seeds)
            })
            .map_err(|error| anyhow!("making the keys of the capture of its secret: {error}"))?;
        let (host, server) = seeds.split_at(32);
        Ok(Self { host: key(host)?, server: key(server)? })
    }

    /// The secrets of the master client, with its private key.
    pub fn of_master_client(&self, secrets: Secrets) -> Secrets {
        secrets.with(HOST_KEY, self.host.private().as_bytes())
    }

    /// The secrets of the image server, with its private key.
    pub fn of_server(&self, secrets: Secrets) -> Secrets {
        secrets.with(IDENTITY, self.server.private().as_bytes())
    }

    /// The public key that the master client has.
    pub fn host_key(&self) -> &str {
        self.host.public()
    }

    /// The public key that the image server has.
    pub fn server_key(&self) -> &str {
        self.server.public()
    }
}

/// The secrets of who pulls what prepareclient offers, and the public key that it has, where the transport works by keys.
///
/// # Errors
/// As [`Pairing::of`].
pub fn for_pull(able: &Capabilities, secret: &[u8]) -> Result<(Secrets, Option<String>)> {
    let secrets = Secrets::default().with(SECRET, secret);
    if !able.encrypted {
        return Ok((secrets, None));
    }
    let pairing = Pairing::of(secret)?;
    Ok((pairing.of_server(secrets), Some(pairing.host_key().to_owned())))
}

/// What an offer to who knows this secret needs: the secrets of who offers, the key that it lets in, and the name of the one that it
/// shows, where the transport works by keys. The counterpart of [`for_pull`].
///
/// # Errors
/// As [`Pairing::of`].
pub fn for_offer(able: &Capabilities, secret: &[u8]) -> Result<(Secrets, Vec<AdmittedKey>, Option<Secret>)> {
    let secrets = Secrets::default().with(SECRET, secret);
    if !able.encrypted {
        return Ok((secrets, Vec::new(), None));
    }
    let pairing = Pairing::of(secret)?;
    let admitted = AdmittedKey { key: pairing.server_key().to_owned(), ..AdmittedKey::default() };
    Ok((pairing.of_master_client(secrets), vec![admitted], Some(host_key())))
}

/// By what name the master client's private key is asked for.
pub fn host_key() -> Secret {
    Secret(HOST_KEY.to_owned())
}

/// By what name the image server's is.
pub fn identity() -> Secret {
    Secret(IDENTITY.to_owned())
}

fn key(seed: &[u8]) -> Result<Key> {
    Key::of_seed(seed.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_come_to_the_same_keys() {
        let (one, other) = (Pairing::of(b"secret").unwrap(), Pairing::of(b"secret").unwrap());
        assert_eq!((one.host_key(), one.server_key()), (other.host_key(), other.server_key()));
        assert_ne!(one.host_key(), one.server_key());
        assert_ne!(one.host_key(), Pairing::of(b"Secret").unwrap().host_key());
        assert!(
            one.host_key().starts_with("ssh-ed25519 AAAA") && !one.host_key()["ssh-ed25519 ".len()..].contains(' ')
        );
        let secrets = one.of_master_client(Secrets::default());
        assert!(secrets.get(&host_key()).unwrap().starts_with(b"-----BEGIN OPENSSH PRIVATE KEY-----"));
    }

    #[test]
    fn versions_agree() {
        // What one version of this program prints for people, another has to know.
        assert_eq!(
            Pairing::of(b"secret-of-the-lab-0123456789").unwrap().host_key(),
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBBYEplnBVPO2N72sozNicfchdywl1Jzdl+1SCF0Qtay"
        );
    }
}
