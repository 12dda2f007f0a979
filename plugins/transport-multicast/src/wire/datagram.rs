//! Datagrams: what one side sends to a group. Each is sealed (AES-256-GCM, NIST SP 800-38D) with the key of its session, so
//! whoever was not let in neither reads nor forges one; what the machines of a session could forge among themselves, the hashes
//! of blocks refuse.
//!
//! ```text
//! session 4 | number 6 | sealed: kind 1 | block 4 | length 3 | symbol 2 | bytes … | tag 16
//! ```
//! Numbers are little-endian. The first ten bytes are authenticated with the rest; the nonce is six zeroes and the number, which
//! never comes twice under one key.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::codec::{Malformed, Reader};
use crate::pack::manifest::BLOCK_MAX;

/// Bytes before what is sealed.
const CLEAR: usize = 4 + 6;
/// Sealed bytes before a symbol's.
const HEAD: usize = 1 + 4 + 3 + 2;
/// Bytes of the tag.
const TAG: usize = 16;
/// Bytes of a datagram besides those of a symbol.
pub const OVERHEAD: usize = CLEAR + HEAD + TAG;
/// Largest number of a datagram; a session ends before.
pub const NUMBER_MAX: u64 = (1 << 48) - 1;
/// Largest datagram (UDP over IPv4).
pub const DATAGRAM_MAX: usize = 65_507;

/// Key of a session.
pub type SessionKey = [u8; 32];

/// What a datagram is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A symbol of a block as it is.
    Plain,
    /// A symbol of a block that is compressed (zstd, RFC 8878).
    Zstd,
    /// No symbol: whoever gets it reports at once.
    Poll,
}

/// What a datagram says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// What for.
    pub kind: Kind,
    /// Which block.
    pub block: u32,
    /// How many bytes it has on the wire, compressed or not.
    pub length: u32,
    /// Which symbol of it: the first ones are its bytes in order, the others repair.
    pub symbol: u16,
    /// The symbol.
    pub bytes: &'a [u8],
}

/// Seals and opens the datagrams of one session.
pub struct Sealer {
    session: u32,
    key: LessSafeKey,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Sealer of session {:08x}", self.session)
    }
}

impl Sealer {
    /// For this session.
    pub fn new(session: u32, key: &SessionKey) -> Self {
        // The key has the length that this asks for.
        let key = UnboundKey::new(&AES_256_GCM, key).unwrap_or_else(|_| unreachable!("32 bytes are a key"));
        Self { session, key: LessSafeKey::new(key) }
    }

    /// Writes a datagram, sealed, in the place of what `out` holds. Each number is used once.
    pub fn seal(&self, number: u64, datagram: &Datagram<'_>, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.session.to_le_bytes());
        out.extend_from_slice(number.to_le_bytes().get(..6).unwrap_or_default());
        out.push(match datagram.kind {
            Kind::Plain => 0,
            Kind::Zstd => 1,
            Kind::Poll => 2,
        });
        out.extend_from_slice(&datagram.block.to_le_bytes());
        out.extend_from_slice(datagram.length.to_le_bytes().get(..3).unwrap_or_default());
        out.extend_from_slice(&datagram.symbol.to_le_bytes());
        out.extend_from_slice(datagram.bytes);
        let (clear, sealed) = out.split_at_mut(CLEAR);
        // It fails only for more bytes than there can be here.
        if let Ok(tag) = self.key.seal_in_place_separate_tag(nonce(number), Aad::from(clear), sealed) {
            out.extend_from_slice(tag.as_ref());
        }
    }

    /// What a datagram says, and its number; opened in place.
    ///
    /// # Errors
    /// It is none of this session: another's, damaged, or forged.
    pub fn open<'a>(&self, bytes: &'a mut [u8]) -> Result<(u64, Datagram<'a>), Malformed> {
        let foreign = Malformed("it is no datagram of this session");
        let (clear, sealed) = bytes.split_at_mut_checked(CLEAR).ok_or(foreign)?;
        let mut reader = Reader::new(clear);
        if u32::from_le_bytes(reader.array()?) != self.session {
            return Err(foreign);
        }
        let mut number = [0; 8];
        number.get_mut(..6).unwrap_or_default().copy_from_slice(reader.bytes(6)?);
        let number = u64::from_le_bytes(number);
        let opened = self.key.open_in_place(nonce(number), Aad::from(clear), sealed).map_err(|_| foreign)?;
        Ok((number, parse(opened)?))
    }
}

/// What is sealed in a datagram.
///
/// # Errors
/// It says what cannot be.
pub fn parse(opened: &[u8]) -> Result<Datagram<'_>, Malformed> {
    let mut reader = Reader::new(opened);
    let kind = match reader.byte()? {
        0 => Kind::Plain,
        1 => Kind::Zstd,
        2 => Kind::Poll,
        _ => return Err(Malformed("it is of a kind that there is not")),
    };
    let block = u32::from_le_bytes(reader.array()?);
    let [a, b, c] = reader.array()?;
    let length = u32::from_le_bytes([a, b, c, 0]);
    let symbol = u16::from_le_bytes(reader.array()?);
    let bytes = reader.bytes(reader.left())?;
    if kind != Kind::Poll && (length == 0 || length > BLOCK_MAX || bytes.is_empty()) {
        return Err(Malformed("a block has a length that none may have"));
    }
    Ok(Datagram { kind, block, length, symbol, bytes })
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes.get_mut(4..).unwrap_or_default().copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Bytes of a symbol, for datagrams of at most so many; even, as the code wants them (reed-solomon-simd).
pub fn symbol_size(datagram: usize) -> u16 {
    let size = datagram.clamp(OVERHEAD + 2, DATAGRAM_MAX) - OVERHEAD;
    (size & !1) as u16
}

/// How many symbols the bytes of a block make.
pub fn source_symbols(length: u32, symbol_size: u16) -> u16 {
    length.div_ceil(u32::from(symbol_size.max(1))).min(u32::from(u16::MAX)) as u16
}

/// How many symbols of repair there are for a block of so many symbols: both sides have to say the same, for the code depends on
/// it.
pub fn repair_symbols(source: u16) -> u16 {
    u32::from(source).div_ceil(4).next_power_of_two().clamp(8, 8192) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYMBOL: Datagram<'static> =
        Datagram { kind: Kind::Zstd, block: 70_000, length: 1 << 20, symbol: 300, bytes: b"symbol" };

    #[test]
    fn it_comes_back_and_nothing_else_does() {
        let sealer = Sealer::new(5, &[1; 32]);
        let mut sealed = Vec::new();
        sealer.seal(9, &SYMBOL, &mut sealed);
        assert_eq!(sealed.len(), OVERHEAD + SYMBOL.bytes.len());
        assert_eq!(sealer.open(&mut sealed.clone()).unwrap(), (9, SYMBOL));
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert!(sealer.open(&mut damaged).is_err(), "byte {at}");
            assert!(sealer.open(&mut sealed[..at].to_vec()).is_err(), "cut at {at}");
        }
        for other in [Sealer::new(6, &[1; 32]), Sealer::new(5, &[2; 32])] {
            assert!(other.open(&mut sealed.clone()).is_err());
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(symbol_size(1472), 1436);
        assert_eq!((symbol_size(0), symbol_size(1 << 20)), (2, 65_470));
        assert_eq!((source_symbols(1, 1436), source_symbols(1 << 20, 1436)), (1, 731));
        for (source, repair) in [(1, 8), (32, 8), (33, 16), (731, 256), (u16::MAX, 8192)] {
            assert_eq!(repair_symbols(source), repair, "{source}");
            if source < u16::MAX {
                assert!(reed_solomon_simd::ReedSolomonEncoder::supports(source.into(), repair.into()), "{source}");
            }
        }
    }
}
