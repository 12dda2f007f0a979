//! Bytes as they stand in manifests and messages: numbers in LEB128 (as in DWARF 5, section 7.6), the rest with its length
//! before it. Pure; what is read is not trusted, and no length is believed before it was held against what is there.

/// What is wrong with bytes from outside, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl std::fmt::Display for Malformed {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.0)
    }
}

/// Reads from the front.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// From the first of these bytes on.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// These many bytes as they are.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(head)
    }

    /// These many bytes, of a fixed number.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.bytes(N)?.try_into().map_err(|_| Malformed("it ends too early"))
    }

    /// One byte.
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    /// A number.
    pub fn number(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                // One way to write each number, so that a manifest has one hash.
                return if byte == 0 && shift > 0 { Err(Malformed("a number is written too long")) } else { Ok(value) };
            }
        }
        Err(Malformed("a number is too large"))
    }

    /// A number of at most this.
    pub fn at_most(&mut self, most: u64) -> Result<u64, Malformed> {
        match self.number()? {
            value if value <= most => Ok(value),
            _ => Err(Malformed("a number is larger than it can be")),
        }
    }

    /// A number that fits into 32 bits.
    pub fn small(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.number()?).map_err(|_| Malformed("a number is larger than it can be"))
    }

    /// A number that may be below zero (zigzag).
    pub fn signed(&mut self) -> Result<i64, Malformed> {
        let value = self.number()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// Bytes with their number before them, at most so many.
    pub fn blob(&mut self, most: usize) -> Result<&'a [u8], Malformed> {
        let length = self.at_most(most as u64)?;
        self.bytes(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// How many things follow, each of which takes at least so many bytes.
    pub fn count(&mut self, each: usize) -> Result<usize, Malformed> {
        let count = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        if count > self.rest.len() / each.max(1) {
            return Err(Malformed("it holds fewer than it says"));
        }
        Ok(count)
    }

    /// That nothing is left.
    pub fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed("something follows its end")) }
    }
}

/// Appends what [`Reader`] reads.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// Bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A number.
    pub fn number(&mut self, mut value: u64) -> &mut Self {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    /// A number that may be below zero.
    pub fn signed(&mut self, value: i64) -> &mut Self {
        self.number(((value << 1) ^ (value >> 63)).cast_unsigned())
    }

    /// Bytes with their number before them.
    pub fn blob(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64).bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for value in [0, 1, 127, 128, 300, 1 << 35, u64::MAX] {
            let mut out = Writer::default();
            out.number(value);
            let mut reader = Reader::new(&out.0);
            assert_eq!(reader.number().unwrap(), value);
            reader.end().unwrap();
        }
        for value in [0, -1, 1, i64::MIN, i64::MAX, -1_700_000_000] {
            let mut out = Writer::default();
            out.signed(value);
            assert_eq!(Reader::new(&out.0).signed().unwrap(), value);
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (name, bytes, says) in [
            ("cut", vec![0x80], "ends too early"),
            ("longer than need be", vec![0x80, 0], "too long"),
            ("more than 64 bits", vec![0xff; 11], "too large"),
            ("65 bits", [vec![0xff; 9], vec![2]].concat(), "too large"),
        ] {
            let error = Reader::new(&bytes).number().unwrap_err();
            assert!(error.0.contains(says), "{name}: {error}");
        }
        assert_eq!(Reader::new(&[200, 1]).count(1).unwrap_err(), Malformed("it holds fewer than it says"));
        assert!(Reader::new(&[5, 1, 2]).blob(10).is_err());
        assert!(Reader::new(&[3, 1, 2, 3]).blob(2).is_err());
    }
}
