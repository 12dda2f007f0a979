//! What reads bytes from outside, for the fuzz targets, and a receiver that says what it likes, for tests; nothing else calls it.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use systemimager_core::PluginError;

use crate::bits::Bits;
use crate::block::Encoded;
use crate::pack::kept;
use crate::pack::manifest::{Attributes, Block, Entry, Kind, Manifest, Piece, write};
use crate::receive::assemble::Assembler;
use crate::send::carousel::{Carousel, Next, spare};
use crate::send::control::Control;
use crate::wire::channel;
use crate::wire::datagram::{self, Sealer};
use crate::wire::key;
use crate::wire::message::{Report, Said, Told};

/// A manifest: one that is taken is as it was written, and leads nowhere but into its tree.
pub fn manifest(data: &[u8]) {
    let _ = kept::read(data);
    let Ok(manifest) = Manifest::parse(data.to_vec()) else { return };
    let blocks: Vec<Block> = (0..manifest.block_count()).map(|number| manifest.block(number)).collect();
    let entries: Vec<Entry<'_>> = manifest.entries().map(|(_, entry)| entry).collect();
    for entry in &entries {
        let path = manifest.path(entry);
        assert!(!path.starts_with(b"/") && path.split(|byte| *byte == b'/').all(|name| name != b".." && name != b"."));
    }
    for number in 0..=manifest.block_count() {
        let length: usize = manifest.in_block(number).iter().map(|(_, _, part)| part.length).sum();
        assert_eq!(length, manifest.block(number).length as usize);
    }
    assert_eq!(write(manifest.block_size(), &blocks, entries.into_iter()), data);
}

/// A message of either side: one that is read reads the same when it is written.
pub fn message(data: &[u8]) {
    if let Ok(said) = Said::read(data) {
        assert_eq!(Said::read(&said.write()), Ok(said));
    }
    if let Ok(told) = Told::read(data) {
        assert_eq!(Told::read(&told.write()), Ok(told));
    }
}

/// Datagrams one after another, each with its length before it: as they come, and as if they had been opened. No block comes of
/// them that is not the one of the manifest.
pub fn datagrams(data: &[u8]) {
    const SIZE: u16 = 10;
    let plain = b"the contents of a small file".to_vec();
    let block = Block { length: plain.len() as u32, hash: *blake3::hash(&plain).as_bytes() };
    let piece = Piece { at: 0, length: plain.len() as u64, place: 0 };
    let entries = [
        Entry { parent: 0, name: b"", attributes: Attributes::default(), kind: Kind::Directory },
        Entry {
            parent: 0,
            name: b"f",
            attributes: Attributes::default(),
            kind: Kind::File { size: plain.len() as u64, pieces: vec![piece] },
        },
    ];
    let Ok(manifest) = Manifest::parse(write(1 << 20, &[block], entries.into_iter())) else { return };
    let sealer = Sealer::new(7, &[7; 32]);
    let mut assembler = Assembler::new(Bits::of_runs(&[(0, 1)], 1), SIZE);
    let mut rest = data;
    for number in 0.. {
        let Some((length, more)) = rest.split_first() else { break };
        let (one, more) = more.split_at(usize::from(*length).min(more.len()));
        rest = more;
        assert!(sealer.open(&mut one.to_vec()).is_err(), "forged");
        let Ok(said) = datagram::parse(one) else { continue };
        if let Some(whole) = assembler.take(number, &said, &manifest) {
            let held = whole.size();
            let right = whole.plain(&block, SIZE).inspect(|bytes| assert_eq!(*bytes, plain)).is_ok();
            assembler.worked(0, held, right);
        }
        let _ = assembler.report();
    }
}

/// Reports of a receiver, each with its length (two bytes) before it, between what is sent: it ends, and sends nothing absurd.
pub fn reports(data: &[u8]) {
    let encoded = Encoded::new(vec![1; 1000], 10);
    let mut now = Instant::now();
    let (mut carousel, mut control) = (Carousel::new(4, Duration::from_millis(50)), Control::new(1_000_000, true, now));
    carousel.join(1, Bits::of_runs(&[(0, 4)], 4), 1, now);
    let (mut number, mut rest) = (1, data);
    while let Some(([a, b], more)) = rest.split_first_chunk::<2>() {
        let (one, more) = more.split_at(usize::from(u16::from_le_bytes([*a, *b])).min(more.len()));
        rest = more;
        now += Duration::from_millis(100);
        match Said::read(one) {
            Ok(Said::Report(report)) => {
                control.report(1, report.highest, report.received, now);
                carousel.report(1, &report, now);
            }
            Ok(Said::Needs(runs)) => carousel.join(1, Bits::of_runs(&runs, 4), number, now),
            _ => {}
        }
        let next = carousel.next(now);
        let count = match next {
            Next::Source(block, per_mille) => {
                assert!(block < 4);
                u64::from(encoded.source() + spare(encoded.source(), per_mille))
            }
            Next::Repair(_, first, count) => {
                assert!(first + count <= datagram::repair_symbols(encoded.source()) && count > 0);
                count.into()
            }
            _ => 1,
        };
        carousel.sent(next, (encoded.source(), encoded.size()), (number, number + count - 1), now);
        number += count;
        let _ = control.look(number, now);
        assert!((1..=1_000_000).contains(&control.rate()), "{}", control.rate());
    }
}

/// A receiver that is let in, by its private key, joins the group, and then says for so long that it has seen everything, lacks all
/// of every block, and needs again what it has, and asks for blocks that there are not.
///
/// # Errors
/// It is not let in, or the sender hangs up on it.
pub fn absurd_receiver(sender: SocketAddr, key: &str, of_sender: &str, export: &str, time: Duration) -> io::Result<()> {
    let odd = |error: PluginError| io::Error::other(error.to_string());
    let (own, of_sender) = (key::own(key).map_err(odd)?, key::public(of_sender).map_err(odd)?);
    let hello = Said::Hello { export: export.into(), has: None }.write();
    let (mut reading, mut writing) = channel::knock(TcpStream::connect(sender)?, &own, &of_sender, &hello)?;
    // It takes what it is sent, so that it is not its slowness that ends it.
    std::thread::spawn(move || while reading.message().is_ok() {});
    writing.message(&Said::Needs(vec![(0, 5), (7, 0), (7, u32::MAX)]).write())?;
    writing.message(&Said::Joined.write())?;
    let begun = Instant::now();
    while begun.elapsed() < time {
        let report = Report {
            highest: u64::MAX,
            received: u64::MAX,
            foreign: u64::MAX,
            done: vec![(u32::MAX, u32::MAX)],
            partial: (0..2000).map(|block| (block, u16::MAX)).collect(),
            dropped: vec![(0, u32::MAX)],
        };
        writing.message(&Said::Report(report).write())?;
        writing.message(&Said::Ask(vec![(0, 0), (u32::MAX - 1, u32::MAX)]).write())?;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
