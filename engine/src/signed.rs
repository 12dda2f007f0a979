//! Answers of the image server that a machine can tell from anybody else's: signed with a key that the machine knows before it
//! asks ([`crate::pins`]).
//!
//! The machine sends a number drawn by chance with its question; the signature is over that, the question, the status and the
//! body: an answer to another question, or from another day, is none. What is asked for by its own hash needs no signature.

use anyhow::{Context as _, Result, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::key::{self, Key};

/// The header with the number.
pub const NONCE: &str = "systemimager-nonce";
/// The header with the signature.
pub const SIGNATURE: &str = "systemimager-signature";
/// Longest number that is taken, bytes.
pub const LONGEST_NONCE: usize = 64;
/// What is signed here and nowhere else.
const CONTEXT: &[u8] = b"systemimager: answer of an image server, 1\0";

/// An answer, and to what.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// Path and query, as they were asked for.
    pub target: &'a str,
    /// The number that came with the question.
    pub nonce: &'a str,
    /// The body of the question, empty where it had none: one that was changed on its way gets another signature.
    pub question: &'a [u8],
    /// The HTTP status.
    pub status: u16,
    /// All of the body.
    pub body: &'a [u8],
}

/// Whether an answer to this is signed where it is asked for.
pub fn is_signed(target: &str) -> bool {
    // Blobs are asked for by the hash of what they are, which a signed answer names; kernel and initrd are checked against one.
    target.starts_with("/v1/") && !target.starts_with("/v1/blobs/")
}

impl Answer<'_> {
    fn message(&self) -> Vec<u8> {
        let mut message = CONTEXT.to_vec();
        for part in [self.target, self.nonce] {
            message.extend((part.len() as u64).to_le_bytes());
            message.extend(part.as_bytes());
        }
        message.extend(self.status.to_le_bytes());
        message.extend(blake3::hash(self.question).as_bytes());
        message.extend(blake3::hash(self.body).as_bytes());
        message
    }

    /// The header's value.
    ///
    /// # Errors
    /// The key cannot sign.
    pub fn sign(&self, key: &Key) -> Result<String> {
        Ok(STANDARD.encode(key.sign(&self.message())?))
    }

    /// Whether `signature` is by that public key.
    ///
    /// # Errors
    /// It is not.
    pub fn check(&self, public: &str, signature: Option<&str>) -> Result<()> {
        let signature = signature.with_context(|| {
            "the answer is not signed, and this machine knows its image server by a key: somebody else answers, or a server of an \
             older version"
        })?;
        let bytes = STANDARD.decode(signature).map_err(|error| anyhow!("its signature is none: {error}"))?;
        key::verify(public, &self.message(), &bytes).context(
            "the answer is not signed by the image server that this machine knows: somebody may be in between; if it is another \
             server, or its keys were made anew: a bare machine wants an initrd of its own (systemimager mkinitrd), an installed one \
             forgets the old server without /var/lib/systemimager/key and pins.json",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_answer_to_this_question_by_this_key() {
        let (key, other) = (Key::of_seed(&[1; 32]).unwrap(), Key::of_seed(&[2; 32]).unwrap());
        let answer =
            Answer { target: "/v1/hosts/www1/master", nonce: "n1", question: b"{}", status: 200, body: b"format = 1" };
        let signature = answer.sign(&key).unwrap();
        answer.check(key.public(), Some(&signature)).unwrap();
        let rows: [(&str, Answer<'_>, &str, Option<&str>); 9] = [
            ("another key", answer, other.public(), Some(&signature)),
            ("no signature", answer, key.public(), None),
            ("not base64", answer, key.public(), Some("?")),
            ("too short", answer, key.public(), Some("AAAA")),
            ("another body", Answer { body: b"format = 2", ..answer }, key.public(), Some(&signature)),
            ("another question", Answer { target: "/v1/hosts/www2/master", ..answer }, key.public(), Some(&signature)),
            ("of another day", Answer { nonce: "n2", ..answer }, key.public(), Some(&signature)),
            ("a question that was changed", Answer { question: b"{x}", ..answer }, key.public(), Some(&signature)),
            ("another status", Answer { status: 404, ..answer }, key.public(), Some(&signature)),
        ];
        for (name, answer, public, signature) in rows {
            assert!(answer.check(public, signature).is_err(), "{name}");
        }
        // Parts cannot flow into each other.
        let moved = Answer { target: "/v1/hosts/www1/maste", nonce: "rn1", ..answer };
        assert_ne!(moved.message(), answer.message());
    }
}
