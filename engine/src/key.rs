//! A key of this program's own making: Ed25519 (RFC 8032), in OpenSSH's form.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use ed25519_dalek::{SigningKey, VerifyingKey};
use signature::{Signer as _, Verifier as _};
use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{Algorithm, LineEnding, PrivateKey, PublicKey, Signature};

use crate::sys::atomic;

/// Both halves. `Debug` shows the public one.
#[derive(Clone)]
pub struct Key {
    key: PrivateKey,
    private: String,
    public: String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.public)
    }
}

impl Key {
    /// The key that belongs to 32 bytes.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn of_seed(seed: &[u8; 32]) -> Result<Self> {
        Self::new(PrivateKey::new(KeypairData::Ed25519(Ed25519Keypair::from_seed(seed)), "")?)
    }

    fn new(key: PrivateKey) -> Result<Self> {
        let public = key.public_key().key_data().clone();
        let public = PublicKey::new(public, "").to_openssh()?.trim().to_owned();
        Ok(Self { private: key.to_openssh(LineEnding::LF)?.to_string(), public, key })
    }

    /// A new one, from the kernel's generator.
    ///
    /// # Errors
    /// The kernel has none.
    pub fn make() -> Result<Self> {
        let mut seed = [0; 32];
        // Waits for a kernel that has just booted to have gathered enough (getrandom(2)).
        getrandom::fill(&mut seed)
            .map_err(|error| anyhow::anyhow!("asking the kernel for chance, to make a key: {error}"))?;
        Self::of_seed(&seed)
    }

    /// The one in a file; if there is none, a new one is made and kept there, for root alone.
    ///
    /// # Errors
    /// The file holds something else, or others may read it; it or its directory cannot be made.
    pub fn kept(file: &Path) -> Result<Self> {
        match fs::metadata(file) {
            Ok(found) => {
                let mode = std::os::unix::fs::PermissionsExt::mode(&found.permissions());
                if mode & 0o077 != 0 {
                    bail!(
                        "the private key {} can be read by others than its owner (mode {:o}): it may be known already; remove \
                         it, and a new one is made",
                        file.display(),
                        mode & 0o7777
                    );
                }
                let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
                Self::parse(&text)
                    .with_context(|| format!("reading {}; remove it, and a new one is made", file.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let key = Self::make()?;
                atomic::write(file, key.private.as_bytes(), 0o600)?;
                Ok(key)
            }
            Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
        }
    }

    /// A private key, in OpenSSH's form.
    ///
    /// # Errors
    /// It is something else.
    pub fn parse(text: &str) -> Result<Self> {
        let key = PrivateKey::from_openssh(text).context("this is no key in OpenSSH's form")?;
        if key.algorithm() != Algorithm::Ed25519 {
            bail!("this is no ssh-ed25519 key");
        }
        Self::new(key)
    }

    /// What only the holders of both keys know: X25519 (RFC 7748) between what these Ed25519 keys are on that curve. The same from
    /// either side; to be hashed with what it is for.
    ///
    /// # Errors
    /// The other key is none, or one that everybody shares the same with.
    pub fn agree(&self, public: &str) -> Result<[u8; 32]> {
        let own = self.key.key_data().ed25519().context("this key is of another kind")?;
        let other = PublicKey::from_openssh(public).context("the other side's key is none")?;
        let other = other.key_data().ed25519().context("the other side's key is of another kind")?;
        let other = VerifyingKey::from_bytes(&other.0).context("the other side's key is none")?;
        if other.is_weak() {
            bail!("the other side's key is one by which nothing is secret");
        }
        let scalar = SigningKey::from_bytes(&own.private.to_bytes()).to_scalar_bytes();
        Ok(other.to_montgomery().mul_clamped(scalar).to_bytes())
    }

    /// A signature of these bytes (RFC 8032).
    ///
    /// # Errors
    /// The key cannot sign.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let signature: Signature = self.key.try_sign(message)?;
        Ok(signature.as_bytes().to_vec())
    }

    /// The private half, a file's contents.
    pub fn private(&self) -> &str {
        &self.private
    }

    /// The public half: `ssh-ed25519 AAAA…`, without a comment.
    pub fn public(&self) -> &str {
        &self.public
    }
}

/// Whether `signature` is of these bytes by that key.
///
/// # Errors
/// It is not, or the key is none.
pub fn verify(public: &str, message: &[u8], signature: &[u8]) -> Result<()> {
    let signature = Signature::new(Algorithm::Ed25519, signature).context("the signature is none")?;
    PublicKey::from_openssh(public)?.key_data().verify(message, &signature).context("the signature is of another key")
}

/// Whether this is a public key as [`Key::public`] gives it: one line, nothing before and nothing behind; and one by which something
/// can be secret.
pub fn is_public(text: &str) -> bool {
    text.len() <= 100
        && PublicKey::from_openssh(text).is_ok_and(|key| {
            let point = key.key_data().ed25519().map(|key| VerifyingKey::from_bytes(&key.0));
            let sound = point.is_some_and(|point| point.is_ok_and(|point| !point.is_weak()));
            sound && key.comment().is_empty() && key.to_openssh().is_ok_and(|whole| whole == text)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_kept_key_stays_the_same_and_is_roots_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        let made = Key::kept(&file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(Key::kept(&file).unwrap().public(), made.public());
        assert_ne!(Key::make().unwrap().public(), made.public());
        assert!(is_public(made.public()));
        assert!(!format!("{made:?}").contains("PRIVATE"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Key::kept(&file).unwrap_err().to_string().contains("can be read by others"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&file, "else").unwrap();
        assert!(
            format!("{:#}", Key::kept(&file).unwrap_err())
                .contains("a new one is made: this is no key in OpenSSH's form")
        );
    }

    fn of_bytes(bytes: [u8; 32]) -> String {
        PublicKey::new(ssh_key::public::KeyData::Ed25519(ssh_key::public::Ed25519PublicKey(bytes)), "")
            .to_openssh()
            .unwrap()
    }

    #[test]
    fn public_keys_are_one_line_and_nothing_else() {
        let key = Key::of_seed(&[7; 32]).unwrap();
        for bad in [
            String::new(),
            format!("{} comment", key.public()),
            format!("{}\n", key.public()),
            format!("command=\"id\" {}", key.public()),
            key.public().replace("ssh-ed25519", "ssh-rsa"),
            key.private().to_owned(),
            of_bytes([0; 32]),
            of_bytes([2; 32]),
        ] {
            assert!(!is_public(&bad), "{bad}");
        }
    }
}
