//! Messages between a receiver and a sender, one at a time over a [`Channel`](super::channel::Channel). Pure: how they are
//! written and read.

use crate::codec::{Malformed, Reader, Writer};
use crate::pack::manifest::Hash;
use crate::wire::datagram::SessionKey;

/// Longest message, bytes; what is longer is refused before there is room for it.
pub const MESSAGE_MAX: usize = 1 << 20;
/// Most that is said of blocks in one message.
const SAID_MAX: usize = 1 << 16;
/// Longest text.
const TEXT_MAX: usize = 4096;
/// Longest name of an export.
const NAME_MAX: usize = 255;

/// Blocks that follow each other: the first, and how many.
pub type Run = (u32, u32);

/// What a receiver says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// The first, with the handshake: which export it wants, and which manifest of it, if any, it has already.
    Hello {
        /// Its name.
        export: String,
        /// The hash of a manifest that it has.
        has: Option<Hash>,
    },
    /// It has the manifest and looked at what it has: these blocks it needs. It may say so again, of all that it still needs.
    Needs(Vec<Run>),
    /// It is ready to receive from the group.
    Joined,
    /// How it stands; all of it since the last report but for `partial`, which is of now.
    Report(Report),
    /// It wants these over the channel.
    Ask(Vec<Run>),
    /// It has all, verified, of the manifest with this hash.
    Done(Hash),
    /// It will not have it: why.
    Failed(String),
}

/// How a receiver stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The largest number of a datagram that came.
    pub highest: u64,
    /// How many datagrams of the session came and were of use; not those for which there was no room.
    pub received: u64,
    /// How many others came to the group's port.
    pub foreign: u64,
    /// Blocks that it has now.
    pub done: Vec<Run>,
    /// Blocks of which something has come, and how many symbols they still lack; 0: it has enough, and is at work on it.
    pub partial: Vec<(u32, u16)>,
    /// Blocks of which something had come, and which it needs anew: there was no room for them, or they were wrong.
    pub dropped: Vec<Run>,
}

/// What a sender says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// It is let in, and this is the session.
    Welcome(Welcome),
    /// The next bytes of the manifest, compressed (zstd).
    Manifest(Vec<u8>),
    /// It is not ready yet; it still is there.
    Wait,
    /// It is slower than the others by so much that they are not made to wait for it: it leaves the group and asks for blocks.
    Alone,
    /// The next bytes of a block that was asked for.
    Block {
        /// Which.
        number: u32,
        /// Whether it is compressed.
        zstd: bool,
        /// How many bytes there are in all.
        length: u32,
        /// The next of them.
        bytes: Vec<u8>,
    },
    /// It was heard that the receiver is done.
    Heard,
    /// The session has ended: why. What the receiver has stays good.
    Over(Over, String),
}

/// Why a session ends for a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// It may not have it.
    Denied,
    /// There is no such export.
    NotFound,
    /// The image is another now; ask again.
    Changed,
    /// The sender ends or cannot go on; ask again.
    Ended,
}

/// A session, as a receiver has to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// Its number.
    pub session: u32,
    /// The key of its datagrams.
    pub key: SessionKey,
    /// The group's address (IPv4) and port; no address: there is no group, all goes over the channel.
    pub group: Option<([u8; 4], u16)>,
    /// Bytes of a symbol.
    pub symbol_size: u16,
    /// The manifest's hash.
    pub root: Hash,
    /// The manifest's bytes, and those that follow, compressed; 0: it has it already.
    pub manifest: (u64, u64),
    /// Milliseconds between reports.
    pub report_ms: u16,
}

fn runs(out: &mut Writer, runs: &[Run]) {
    out.number(runs.len() as u64);
    for (first, count) in runs {
        out.number((*first).into()).number((*count).into());
    }
}

fn read_runs(reader: &mut Reader<'_>) -> Result<Vec<Run>, Malformed> {
    let count = limited(reader.count(2)?)?;
    let mut end = 0;
    let one = |_| {
        let run: Run = (reader.small()?, reader.small()?);
        // So that nobody is kept busy by one block over and over.
        if run.0 < end {
            return Err(Malformed("blocks of which it says something come twice, or in no order"));
        }
        end = run.0.saturating_add(run.1);
        Ok(run)
    };
    (0..count).map(one).collect()
}

fn limited(count: usize) -> Result<usize, Malformed> {
    if count <= SAID_MAX { Ok(count) } else { Err(Malformed("it says too much of blocks at once")) }
}

fn text(reader: &mut Reader<'_>, most: usize) -> Result<String, Malformed> {
    String::from_utf8(reader.blob(most)?.to_vec()).map_err(|_| Malformed("a text in it is not UTF-8"))
}

/// A text that fits.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

impl Said {
    /// That this side is still there, and nothing more.
    pub fn still_here() -> Self {
        Self::Report(Report::default())
    }

    /// As bytes.
    pub fn write(&self) -> Vec<u8> {
        let mut out = Writer::default();
        match self {
            Said::Hello { export, has } => {
                out.bytes(&[0]).blob(export.as_bytes()).bytes(&[u8::from(has.is_some())]);
                out.bytes(has.as_ref().map_or(&[][..], |has| has));
            }
            Said::Needs(needed) => runs(out.bytes(&[1]), needed),
            Said::Joined => drop(out.bytes(&[2])),
            Said::Report(report) => {
                out.bytes(&[3]).number(report.highest).number(report.received).number(report.foreign);
                runs(&mut out, &report.done);
                out.number(report.partial.len() as u64);
                for (block, lacks) in &report.partial {
                    out.number((*block).into()).number((*lacks).into());
                }
                runs(&mut out, &report.dropped);
            }
            Said::Ask(asked) => runs(out.bytes(&[4]), asked),
            Said::Done(root) => drop(out.bytes(&[5]).bytes(root)),
            Said::Failed(why) => drop(out.bytes(&[6]).blob(cut(why).as_bytes())),
        }
        out.0
    }

    /// Of bytes.
    ///
    /// # Errors
    /// They are none.
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let said = match reader.byte()? {
            0 => Said::Hello {
                export: text(&mut reader, NAME_MAX)?,
                has: match reader.byte()? {
                    0 => None,
                    _ => Some(reader.array()?),
                },
            },
            1 => Said::Needs(read_runs(&mut reader)?),
            2 => Said::Joined,
            3 => Said::Report(Report {
                highest: reader.number()?,
                received: reader.number()?,
                foreign: reader.number()?,
                done: read_runs(&mut reader)?,
                partial: {
                    let count = limited(reader.count(2)?)?;
                    let one = |_| Ok((reader.small()?, reader.at_most(u16::MAX.into())? as u16));
                    (0..count).map(one).collect::<Result<_, Malformed>>()?
                },
                dropped: read_runs(&mut reader)?,
            }),
            4 => Said::Ask(read_runs(&mut reader)?),
            5 => Said::Done(reader.array()?),
            6 => Said::Failed(text(&mut reader, TEXT_MAX)?),
            _ => return Err(Malformed("it is a message of a kind that there is not")),
        };
        reader.end()?;
        Ok(said)
    }
}

impl Told {
    /// As bytes.
    pub fn write(&self) -> Vec<u8> {
        let mut out = Writer::default();
        match self {
            Told::Welcome(it) => {
                out.bytes(&[0]).bytes(&it.session.to_le_bytes()).bytes(&it.key);
                let (address, port) = it.group.unwrap_or_default();
                out.bytes(&address).number(port.into()).number(it.symbol_size.into()).bytes(&it.root);
                out.number(it.manifest.0).number(it.manifest.1).number(it.report_ms.into());
            }
            Told::Manifest(bytes) => drop(out.bytes(&[1]).blob(bytes)),
            Told::Wait => drop(out.bytes(&[2])),
            Told::Alone => drop(out.bytes(&[3])),
            Told::Block { number, zstd, length, bytes } => {
                out.bytes(&[4]).number((*number).into()).bytes(&[u8::from(*zstd)]).number((*length).into()).blob(bytes);
            }
            Told::Heard => drop(out.bytes(&[5])),
            Told::Over(over, why) => {
                let code = match over {
                    Over::Denied => 0,
                    Over::NotFound => 1,
                    Over::Changed => 2,
                    Over::Ended => 3,
                };
                out.bytes(&[6, code]).blob(cut(why).as_bytes());
            }
        }
        out.0
    }

    /// Of bytes.
    ///
    /// # Errors
    /// They are none.
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let told = match reader.byte()? {
            0 => {
                let (session, key) = (u32::from_le_bytes(reader.array()?), reader.array()?);
                let group: ([u8; 4], u16) = (reader.array()?, reader.at_most(u16::MAX.into())? as u16);
                let symbol_size = reader.at_most(u16::MAX.into())? as u16;
                if symbol_size == 0 || !symbol_size.is_multiple_of(2) {
                    return Err(Malformed("symbols have a size that none may have"));
                }
                Told::Welcome(Welcome {
                    session,
                    key,
                    group: (group.0 != [0; 4]).then_some(group),
                    symbol_size,
                    root: reader.array()?,
                    manifest: (reader.number()?, reader.number()?),
                    report_ms: reader.at_most(u16::MAX.into())? as u16,
                })
            }
            1 => Told::Manifest(reader.blob(MESSAGE_MAX)?.to_vec()),
            2 => Told::Wait,
            3 => Told::Alone,
            4 => Told::Block {
                number: reader.small()?,
                zstd: reader.byte()? != 0,
                length: reader.at_most(crate::pack::manifest::BLOCK_MAX.into())? as u32,
                bytes: reader.blob(MESSAGE_MAX)?.to_vec(),
            },
            5 => Told::Heard,
            6 => {
                let over = match reader.byte()? {
                    0 => Over::Denied,
                    1 => Over::NotFound,
                    2 => Over::Changed,
                    _ => Over::Ended,
                };
                Told::Over(over, text(&mut reader, TEXT_MAX)?)
            }
            _ => return Err(Malformed("it is a message of a kind that there is not")),
        };
        reader.end()?;
        Ok(told)
    }
}

/// Sorted numbers as runs, as many as fit into a message; and how many numbers that are.
pub fn as_runs(numbers: impl IntoIterator<Item = u32>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for number in numbers {
        let full = runs.len() == SAID_MAX;
        match runs.last_mut() {
            Some((first, count)) if first.checked_add(*count) == Some(number) => *count += 1,
            _ if full => break,
            _ => runs.push((number, 1)),
        }
    }
    runs
}

/// The numbers of runs, of which there are so many in all; what is outside is left out.
pub fn numbers(runs: &[Run], all: u32) -> impl Iterator<Item = u32> + '_ {
    runs.iter().flat_map(move |(first, count)| *first..first.saturating_add(*count).min(all).max(*first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_read_as_they_were_written() {
        let report = Report {
            highest: 1 << 40,
            received: 3,
            foreign: 1,
            done: vec![(0, 7), (9, 1)],
            partial: vec![(8, 300), (u32::MAX, u16::MAX)],
            dropped: vec![(10, 2)],
        };
        for said in [
            Said::Hello { export: "web".into(), has: None },
            Said::Hello { export: String::new(), has: Some([3; 32]) },
            Said::Needs(vec![(0, 100), (200, 1)]),
            Said::Joined,
            Said::Report(report),
            Said::Report(Report::default()),
            Said::Ask(vec![]),
            Said::Done([9; 32]),
            Said::Failed("no room".into()),
        ] {
            assert_eq!(Said::read(&said.write()).unwrap(), said);
        }
        let welcome = Welcome {
            session: 7,
            key: [4; 32],
            group: Some(([239, 192, 1, 2], 8067)),
            symbol_size: 1436,
            root: [5; 32],
            manifest: (1 << 20, 70_000),
            report_ms: 50,
        };
        for told in [
            Told::Welcome(welcome.clone()),
            Told::Welcome(Welcome { group: None, ..welcome }),
            Told::Manifest(vec![1, 2, 3]),
            Told::Wait,
            Told::Alone,
            Told::Block { number: 4, zstd: true, length: 9, bytes: vec![7; 9] },
            Told::Heard,
            Told::Over(Over::Changed, "edited".into()),
        ] {
            assert_eq!(Told::read(&told.write()).unwrap(), told);
        }
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for (name, bytes) in [
            ("nothing", &[][..]),
            ("no such kind", &[99]),
            ("more than it says", &[2, 0]),
            ("fewer than it says", &[1, 200, 1, 0, 0]),
            ("cut", &[5, 1, 2]),
            ("a block twice", &[4, 2, 0, 5, 4, 1]),
            ("no text", &[6, 2, 0xc3, 0x28]),
        ] {
            assert!(Said::read(bytes).is_err(), "{name}");
        }
        let long = Said::Failed("ä".repeat(5000)).write();
        assert!(matches!(Said::read(&long), Ok(Said::Failed(text)) if text.len() == TEXT_MAX));
    }

    #[test]
    fn runs_and_numbers() {
        assert_eq!(as_runs([1, 2, 3, 7, 9, 10]), [(1, 3), (7, 1), (9, 2)]);
        assert_eq!(numbers(&[(1, 3), (7, 1)], 100).collect::<Vec<_>>(), [1, 2, 3, 7]);
        assert_eq!(numbers(&[(u32::MAX, u32::MAX), (3, u32::MAX)], 5).collect::<Vec<_>>(), [3, 4]);
    }
}
