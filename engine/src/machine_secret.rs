//! The secret by which a machine asks a transport that knows who asks by secrets: the image server and the machine work it out
//! from the keys that they have of each other ([`crate::key::Key::agree`]), so it is never sent and nowhere kept.
//!
//! It opens what the machine's key opens, for as long.

use anyhow::{Context as _, Result};
use systemimager_core::{Export, Secret, UserSecret};

use crate::host::Secrets;
use crate::key::Key;

/// What it is for, and in which version (BLAKE3, key derivation mode).
const CONTEXT: &str = "systemimager 2026-11-30 secret of a machine at its image server, 1";
/// What its name among a server's secrets begins with; the machine's public key follows.
const NAME: &str = "machine-secret ";

/// Whose it is: a name that goes over the wire in the clear, of the machine's public key.
pub fn user(public: &str) -> String {
    let hash = blake3::hash(public.as_bytes()).to_hex();
    format!("k{}", hash.get(..16).unwrap_or(&hash))
}

/// The secret: text of 64 letters and digits.
///
/// # Errors
/// The other side's key is none.
pub fn of(own: &Key, other: &str) -> Result<String> {
    let mut keys = [own.public(), other];
    keys.sort_unstable();
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(&own.agree(other)?);
    for key in keys {
        hasher.update(key.as_bytes()).update(b"\n");
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// How an offer names it, for the machine with this key.
pub fn named(public: &str) -> UserSecret {
    UserSecret { user: user(public), secret: Secret(format!("{NAME}{public}")) }
}

/// The secrets with those that these exports name, as far as they are not there yet.
///
/// # Errors
/// A key is none.
pub fn with<'a>(mut secrets: Secrets, exports: impl IntoIterator<Item = &'a Export>, server: &Key) -> Result<Secrets> {
    for Secret(name) in exports.into_iter().flat_map(|export| &export.secrets).map(|it| &it.secret) {
        if secrets.has(name) {
            continue;
        }
        if let Some(public) = name.strip_prefix(NAME) {
            let secret = of(server, public)
                .with_context(|| format!("making the secret of the machine with the key {public}"))?;
            secrets = secrets.with(name.clone(), secret);
        }
    }
    Ok(secrets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_have_the_same_and_nobody_else() {
        let key = |seed| Key::of_seed(&[seed; 32]).unwrap();
        let (server, machine, other) = (key(1), key(2), key(3));
        let secret = of(&server, machine.public()).unwrap();
        assert_eq!(secret, of(&machine, server.public()).unwrap());
        assert_eq!(secret.len(), 64);
        assert_ne!(secret, of(&server, other.public()).unwrap());
        assert_ne!(secret, of(&other, server.public()).unwrap());
        assert!(of(&server, "ssh-ed25519 AAAA").is_err());
        assert_ne!(user(machine.public()), user(other.public()));
        let export = Export { secrets: vec![named(machine.public())], ..Export::default() };
        let secrets = with(Secrets::default(), [&export], &server).unwrap();
        assert_eq!(secrets.get(&export.secrets[0].secret).unwrap(), secret.as_bytes());
    }
}
