//! Keys: the Ed25519 keys that both sides have, as they are used here (X25519, RFC 7748; the two curves are one in two forms).

use ed25519_dalek::{SigningKey, VerifyingKey};
use ssh_key::{PrivateKey, PublicKey};
use systemimager_core::PluginError;

/// A public key on the curve that keys are agreed on.
pub type Public = [u8; 32];

/// A private key.
pub struct Own {
    /// The scalar. Not to be shown.
    pub private: [u8; 32],
}

/// A private key in OpenSSH's form.
///
/// # Errors
/// `Invalid`: it is no Ed25519 key. Nothing of it is told.
pub fn own(text: &str) -> Result<Own, PluginError> {
    let odd = || PluginError::invalid("a private key that was given is no ssh-ed25519 key in OpenSSH's form");
    let key = PrivateKey::from_openssh(text).map_err(|_| odd())?;
    let pair = key.key_data().ed25519().ok_or_else(odd)?;
    let signing = SigningKey::from_bytes(&pair.private.to_bytes());
    Ok(Own { private: signing.to_scalar_bytes() })
}

/// A public key in OpenSSH's form.
///
/// # Errors
/// `Invalid`: it is no Ed25519 key, or one by which nothing is secret.
pub fn public(text: &str) -> Result<Public, PluginError> {
    let odd = |why: &str| PluginError::invalid(format!("the public key {text:?} {why}"));
    let key = PublicKey::from_openssh(text).map_err(|_| odd("is none in OpenSSH's form"))?;
    let bytes = key.key_data().ed25519().ok_or_else(|| odd("is no ssh-ed25519 key"))?;
    let point = VerifyingKey::from_bytes(&bytes.0).map_err(|_| odd("is none"))?;
    if point.is_weak() {
        return Err(odd("is one by which nothing is secret"));
    }
    Ok(point.to_montgomery().to_bytes())
}

/// A key of somebody for tests.
#[cfg(test)]
pub fn of_seed(seed: u8) -> (String, String) {
    let pair = ssh_key::private::Ed25519Keypair::from_seed(&[seed; 32]);
    let key = PrivateKey::new(ssh_key::private::KeypairData::Ed25519(pair), "").unwrap();
    let public = PublicKey::new(key.public_key().key_data().clone(), "").to_openssh().unwrap();
    (key.to_openssh(ssh_key::LineEnding::LF).unwrap().to_string(), public.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What snow makes of a private key.
    fn curve25519(private: &[u8; 32]) -> Public {
        use snow::resolvers::CryptoResolver as _;
        let mut dh = snow::resolvers::DefaultResolver.resolve_dh(&snow::params::DHChoice::Curve25519).unwrap();
        dh.set(private);
        dh.pubkey().try_into().unwrap()
    }

    #[test]
    fn both_halves_belong_together() {
        let (private_text, public_text) = of_seed(7);
        let of_private = curve25519(&own(&private_text).unwrap().private);
        assert_eq!(of_private, public(&public_text).unwrap());
        assert!(own("x").is_err() && own(&public_text).is_err());
        for (name, text, says) in [
            ("nothing", "", "is none in OpenSSH's form"),
            (
                "of order 1",
                "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
                "nothing is secret",
            ),
        ] {
            let error = public(text).unwrap_err().to_string();
            assert!(error.contains(says), "{name}: {error}");
        }
    }
}
