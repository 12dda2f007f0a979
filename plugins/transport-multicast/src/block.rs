//! A block as it goes over the wire: compressed where that helps, cut into symbols, with symbols of repair (Reed-Solomon over
//! GF(2^16), as in reed-solomon-simd). Pure.

use std::io::Read as _;
use std::sync::OnceLock;

use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

use crate::codec::Malformed;
use crate::pack::manifest::Block;
use crate::wire::datagram::{Kind, repair_symbols, source_symbols};

/// How hard it is compressed: more takes longer than a network of 1 Gbit/s has time.
const LEVEL: i32 = 3;
/// It goes compressed only if so much of it is saved, of 100.
const WORTH: usize = 4;

/// A block ready to be sent.
pub struct Encoded {
    /// Plain or compressed.
    pub kind: Kind,
    /// Bytes on the wire, without what fills the last symbol.
    pub length: u32,
    symbol_size: u16,
    bytes: Vec<u8>,
    repair: OnceLock<Vec<u8>>,
}

impl Encoded {
    /// Of a block's bytes.
    pub fn new(plain: Vec<u8>, symbol_size: u16) -> Self {
        let worth = plain.len() - plain.len() * WORTH / 100;
        let (kind, mut bytes) = match zstd::bulk::compress(&plain, LEVEL) {
            Ok(compressed) if compressed.len() < worth => (Kind::Zstd, compressed),
            _ => (Kind::Plain, plain),
        };
        let length = bytes.len() as u32;
        bytes.resize(usize::from(source_symbols(length, symbol_size)) * usize::from(symbol_size), 0);
        Self { kind, length, symbol_size, bytes, repair: OnceLock::new() }
    }

    /// How many symbols its bytes make.
    pub fn source(&self) -> u16 {
        source_symbols(self.length, self.symbol_size)
    }

    /// The bytes as they go over a channel.
    pub fn wire(&self) -> &[u8] {
        self.bytes.get(..self.length as usize).unwrap_or_default()
    }

    /// What it holds at most, for those who count: symbols of repair are made when they are wanted.
    pub fn size(&self) -> usize {
        self.bytes.len() + usize::from(repair_symbols(self.source())) * usize::from(self.symbol_size)
    }

    /// Makes the symbols of repair, so that nobody waits for them later.
    pub fn prepare_repair(&self) {
        self.repair.get_or_init(|| self.make_repair());
    }

    /// A symbol: of its bytes, or behind them of repair; these come again from the first.
    pub fn symbol(&self, index: u16) -> &[u8] {
        let size = usize::from(self.symbol_size);
        let (bytes, at) = match index.checked_sub(self.source()) {
            None => (&self.bytes, usize::from(index)),
            Some(repair) => (self.repair.get_or_init(|| self.make_repair()), usize::from(repair)),
        };
        bytes.get(at * size..(at + 1) * size).unwrap_or_default()
    }

    fn make_repair(&self) -> Vec<u8> {
        let (source, size) = (self.source(), usize::from(self.symbol_size));
        let make = || {
            let mut encoder = ReedSolomonEncoder::new(source.into(), repair_symbols(source).into(), size)?;
            for symbol in self.bytes.chunks_exact(size) {
                encoder.add_original_shard(symbol)?;
            }
            let made = encoder.encode()?;
            Ok::<_, reed_solomon_simd::Error>(made.recovery_iter().flatten().copied().collect())
        };
        // Sizes that the code does not have do not come about: there are at most 65535 symbols of an even size.
        make().unwrap_or_default()
    }
}

/// Enough symbols of a block to have all of it.
#[derive(Debug)]
pub struct Whole {
    /// Which block.
    pub number: u32,
    /// Plain or compressed.
    pub kind: Kind,
    /// Its bytes on the wire.
    pub length: u32,
    /// Room for all its symbols of source.
    pub bytes: Vec<u8>,
    /// Which of them are there.
    pub have: Vec<bool>,
    /// Symbols of repair by their number.
    pub repair: Vec<(u16, Vec<u8>)>,
}

impl Whole {
    /// One that came whole over a channel.
    pub fn of_wire(number: u32, zstd: bool, bytes: Vec<u8>) -> Self {
        let kind = if zstd { Kind::Zstd } else { Kind::Plain };
        Self { number, kind, length: bytes.len() as u32, bytes, have: Vec::new(), repair: Vec::new() }
    }

    /// What it holds, for those who count.
    pub fn size(&self) -> usize {
        self.bytes.len() + self.repair.iter().map(|(_, bytes)| bytes.len()).sum::<usize>()
    }

    /// The block's own bytes, verified.
    ///
    /// # Errors
    /// They are not what the manifest says: some symbol was wrong.
    pub fn plain(mut self, wanted: &Block, symbol_size: u16) -> Result<Vec<u8>, Malformed> {
        let wrong = Malformed("a block is not what the manifest says");
        if self.have.iter().any(|have| !have) {
            self.restore(symbol_size).map_err(|_| wrong)?;
        }
        self.bytes.truncate(self.length as usize);
        let plain = match self.kind {
            Kind::Plain | Kind::Poll => self.bytes,
            Kind::Zstd => {
                let mut plain = Vec::with_capacity(wanted.length as usize);
                let decoder = zstd::stream::read::Decoder::with_buffer(&self.bytes[..]).map_err(|_| wrong)?;
                // Whatever it says of its size: no more than there is to be.
                decoder.take(u64::from(wanted.length) + 1).read_to_end(&mut plain).map_err(|_| wrong)?;
                plain
            }
        };
        match plain.len() == wanted.length as usize && blake3::hash(&plain).as_bytes() == &wanted.hash {
            true => Ok(plain),
            false => Err(wrong),
        }
    }

    fn restore(&mut self, symbol_size: u16) -> Result<(), reed_solomon_simd::Error> {
        let (source, size) = (source_symbols(self.length, symbol_size), usize::from(symbol_size));
        let mut decoder = ReedSolomonDecoder::new(source.into(), repair_symbols(source).into(), size)?;
        for ((index, have), symbol) in self.have.iter().enumerate().zip(self.bytes.chunks_exact(size)) {
            if *have {
                decoder.add_original_shard(index, symbol)?;
            }
        }
        for (index, symbol) in &self.repair {
            decoder.add_recovery_shard(usize::from(*index), symbol)?;
        }
        let restored = decoder.decode()?;
        for (index, symbol) in restored.restored_original_iter() {
            if let Some(room) = self.bytes.get_mut(index * size..(index + 1) * size) {
                room.copy_from_slice(symbol);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(plain: &[u8]) -> Block {
        Block { length: plain.len() as u32, hash: *blake3::hash(plain).as_bytes() }
    }

    fn noise(count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        getrandom::fill(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn any_symbols_make_it_whole() {
        for (name, plain) in [
            ("a byte", vec![7]),
            ("text", b"the same again ".repeat(9000)),
            ("noise", noise(100_001)),
            ("a block", noise(1 << 20)),
        ] {
            let size = 1436;
            let encoded = Encoded::new(plain.clone(), size);
            let source = encoded.source();
            let lost: Vec<u16> =
                (0..source).filter(|index| index % 7 == 0).take(repair_symbols(source).into()).collect();
            let mut whole = Whole {
                number: 3,
                kind: encoded.kind,
                length: encoded.length,
                bytes: vec![0; usize::from(source) * usize::from(size)],
                have: vec![false; source.into()],
                repair: Vec::new(),
            };
            for index in (0..source).filter(|index| !lost.contains(index)) {
                let at = usize::from(index) * usize::from(size);
                whole.bytes[at..at + usize::from(size)].copy_from_slice(encoded.symbol(index));
                whole.have[usize::from(index)] = true;
            }
            for repair in 0..lost.len() as u16 {
                // The last ones: any will do.
                let repair = repair_symbols(source) - 1 - repair;
                whole.repair.push((repair, encoded.symbol(source + repair).to_vec()));
            }
            assert_eq!(whole.plain(&block(&plain), size).unwrap(), plain, "{name}");
            let direct = Whole::of_wire(3, encoded.kind == Kind::Zstd, encoded.wire().to_vec());
            assert_eq!(direct.plain(&block(&plain), size).unwrap(), plain, "{name}");
        }
    }

    #[test]
    fn what_is_wrong_is_not_taken() {
        let plain = b"some text ".repeat(500);
        let encoded = Encoded::new(plain.clone(), 100);
        assert_eq!(encoded.kind, Kind::Zstd);
        let wanted = block(&plain);
        let of = |bytes: &[u8]| Whole::of_wire(0, true, bytes.to_vec());
        let mut damaged = encoded.wire().to_vec();
        damaged[9] ^= 1;
        assert!(of(&damaged).plain(&wanted, 100).is_err());
        assert!(of(&encoded.wire()[1..]).plain(&wanted, 100).is_err());
        // A small file that says it is a large one.
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
        assert!(of(&bomb).plain(&wanted, 100).is_err());
    }
}
