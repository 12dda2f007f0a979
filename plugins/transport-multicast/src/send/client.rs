//! One receiver: a thread that hears it, and one that answers.

use std::io;
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use systemimager_core::ReceiverEnd;

use super::server::{STACK, Seat, Server};
use super::session::{Event, Order, REPORT_MS, Session};
use super::state::{Board, Line};
use crate::bits::Bits;
use crate::pack::manifest::Manifest;
use crate::wire::channel::{self, Reading, Writing};
use crate::wire::message::{Over, Report, Said, Told, Welcome, numbers};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A receiver that says nothing for so long is gone.
const SILENT: Duration = Duration::from_secs(60);
/// How long it may take to take something.
const TAKES: Duration = Duration::from_secs(60);
/// How often one who waits hears that it is not forgotten.
const STILL_HERE: Duration = Duration::from_secs(1);
/// How often a receiver hears something while there is nothing to say.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A last word is followed by so many others, each after so long.
const AGAIN: (u32, Duration) = (5, Duration::from_millis(20));
/// Bytes of a block or of the manifest in one message.
const PART: usize = 128 << 10;
/// Blocks that one may have asked for at a time; the others it asks for again.
const ASKED: usize = 64;
/// Of how many receivers each reports every [`REPORT_MS`]; of more, more seldom.
const FEW: usize = 50;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// Serves somebody who has connected, until the end.
pub fn serve(stream: TcpStream, server: &Arc<Server>) {
    let Ok(peer) = stream.peer_addr() else { return };
    let peer = peer.ip().to_canonical();
    match talk(stream, peer, server) {
        Ok(()) => {}
        // A port that is scanned is no news.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        Err(error) => eprintln!("{peer}: {error}"),
    }
}

fn talk(stream: TcpStream, peer: IpAddr, server: &Arc<Server>) -> io::Result<()> {
    let local = stream.local_addr()?.ip();
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(TAKES))?;
    let knock = channel::hear(stream, server.own(), HANDSHAKE)?;
    let Ok(Said::Hello { export, has }) = Said::read(&knock.hello) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not say what it wants"));
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let admitted = server.config().admits(&export, &knock.who, peer, now).cloned();
    let (mut reading, mut writing) = knock.answer()?;
    let entered = match admitted {
        Ok(admitted) => enter(server, admitted, local, &mut writing)?,
        Err((over, why)) => Err((over, why)),
    };
    let seat = match entered {
        Ok(seat) => seat,
        Err((over, why)) => {
            eprintln!("{peer}: refused: {why}");
            return writing.message(&Told::Over(over, why).write());
        }
    };
    reading.stream().set_read_timeout(Some(SILENT))?;
    welcome(seat.session(), has, &mut writing)?;
    let inside = Inside::new(seat, peer, server);
    inside.serve(&mut reading, writing)
}

/// Finds or begins the session, with a word now and then while that takes.
fn enter(
    server: &Arc<Server>,
    export: super::config::Export,
    local: IpAddr,
    writing: &mut Writing,
) -> io::Result<Result<Seat, (Over, String)>> {
    let (sender, receiver) = channel();
    let entering = Arc::clone(server);
    std::thread::Builder::new().spawn(move || {
        // If nobody is there any more, the seat is free again.
        let _ = sender.send(entering.enter(&export, local));
    })?;
    loop {
        match receiver.recv_timeout(STILL_HERE) {
            Ok(entered) => return Ok(entered.map_err(|why| (Over::Ended, why))),
            Err(RecvTimeoutError::Timeout) => writing.message(&Told::Wait.write())?,
            Err(RecvTimeoutError::Disconnected) => return Ok(Err((Over::Ended, "the session did not begin".into()))),
        }
    }
}

fn welcome(session: &Session, has: Option<[u8; 32]>, writing: &mut Writing) -> io::Result<()> {
    let manifest = session.cache.contents().manifest();
    let sends = has != Some(manifest.root());
    let compressed = if sends { &session.manifest[..] } else { &[] };
    let many = session.receivers.load(Ordering::Relaxed).div_ceil(FEW).max(1);
    let report_ms = u16::try_from(many).unwrap_or(u16::MAX).saturating_mul(REPORT_MS);
    session.report_ms.fetch_max(report_ms, Ordering::Relaxed);
    writing.message(
        &Told::Welcome(Welcome {
            session: session.number,
            key: session.key,
            group: session.group.map(|group| (group.ip().octets(), group.port())),
            symbol_size: session.symbol_size,
            root: manifest.root(),
            manifest: (manifest.bytes().len() as u64, compressed.len() as u64),
            report_ms,
        })
        .write(),
    )?;
    for part in compressed.chunks(PART) {
        patiently(session.claim(part.len()), writing)?;
        writing.message(&Told::Manifest(part.to_vec()).write())?;
    }
    Ok(())
}

/// Waits so long, with a word now and then.
fn patiently(mut wait: Duration, writing: &mut Writing) -> io::Result<()> {
    while wait > STILL_HERE {
        std::thread::sleep(STILL_HERE);
        writing.message(&Told::Wait.write())?;
        wait -= STILL_HERE;
    }
    // A pace, not a wait for something to happen.
    std::thread::sleep(wait);
    Ok(())
}

/// A receiver that was let in. Dropped, it is out again.
struct Inside {
    id: u64,
    seat: Seat,
    /// It is in the group.
    joined: bool,
    board: Board,
    peer: IpAddr,
    /// Once it wants blocks: who only looks at the manifest is no receiver.
    line: Option<Line>,
    orders: (Sender<Order>, Option<Receiver<Order>>),
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Some(line) = &self.line {
            line.ended(ReceiverEnd::Failed("its connection was lost".into()));
        }
        let _ = self.orders.0.send(Order::End);
        self.seat.session().retire(self.id);
    }
}

impl Inside {
    fn new(seat: Seat, peer: IpAddr, server: &Server) -> Self {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = seat.session().enlist(id);
        let board = server.board().clone();
        Self { id, seat, joined: false, board, peer, line: None, orders: (sender, Some(receiver)) }
    }

    fn serve(mut self, reading: &mut Reading, writing: Writing) -> io::Result<()> {
        let orders = self.orders.1.take();
        let session = Arc::clone(self.seat.session());
        let stream = reading.stream().try_clone()?;
        if let Some(orders) = orders {
            std::thread::Builder::new().stack_size(STACK).spawn(move || {
                if let Err(error) = answer(&session, &orders, writing) {
                    eprintln!("session {:08x}: answering: {error}", session.number);
                }
                // Whoever reads from it hears that, too.
                let _ = stream.shutdown(std::net::Shutdown::Read);
            })?;
        }
        self.listen(reading)
    }

    /// What is told of it.
    fn line(&mut self) -> &Line {
        self.line.get_or_insert_with(|| self.board.receiver(self.seat.session().told, &self.peer.to_string()))
    }

    fn listen(&mut self, reading: &mut Reading) -> io::Result<()> {
        let session = Arc::clone(self.seat.session());
        let manifest = session.cache.contents().manifest();
        let mut needs = Bits::none(manifest.block_count());
        let mut has = manifest.data_bytes();
        loop {
            let said = match Said::read(&reading.message()?) {
                Ok(said) => said,
                Err(why) => return Err(io::Error::new(io::ErrorKind::InvalidData, why.to_string())),
            };
            match said {
                Said::Hello { .. } => {}
                Said::Needs(runs) => {
                    needs = Bits::of_runs(&runs, manifest.block_count());
                    has = manifest.data_bytes()
                        - needs.iter().map(|it| u64::from(manifest.block(it).length)).sum::<u64>();
                    self.line().has(has, manifest.data_bytes());
                }
                Said::Joined => {
                    self.joined = true;
                    self.line().how("group");
                    session.tell(Event::Join(self.id, needs.clone()));
                }
                Said::Report(report) => {
                    has += received(manifest, &report, &mut needs);
                    self.line().has(has, manifest.data_bytes());
                    session.tell(Event::Report(self.id, report));
                }
                Said::Ask(runs) => {
                    self.line().how("alone");
                    // The group does not reach it. If it does again, it says so.
                    if std::mem::take(&mut self.joined) {
                        session.tell(Event::Leave(self.id));
                    }
                    let asked = numbers(&runs, manifest.block_count()).take(ASKED).collect();
                    let _ = self.orders.0.send(Order::Blocks(asked));
                }
                Said::Done(root) if root == manifest.root() => {
                    self.line().has(manifest.data_bytes(), manifest.data_bytes());
                    self.line().ended(ReceiverEnd::Done(blake3::Hash::from(root).to_hex().to_string()));
                    let _ = self.orders.0.send(Order::Heard);
                }
                Said::Done(_) => self.line().ended(ReceiverEnd::Failed("it says that it has another tree".into())),
                Said::Failed(why) => self.line().ended(ReceiverEnd::Failed(why)),
            }
        }
    }
}

/// Bytes of the blocks that came with a report.
fn received(manifest: &Manifest, report: &Report, needs: &mut Bits) -> u64 {
    let done = numbers(&report.done, manifest.block_count()).filter(|block| needs.remove(*block));
    done.map(|block| u64::from(manifest.block(block).length)).sum()
}

/// Carries out the orders of one receiver.
fn answer(session: &Session, orders: &Receiver<Order>, mut writing: Writing) -> io::Result<()> {
    let mut asked: std::collections::VecDeque<u32> = std::collections::VecDeque::new();
    loop {
        let order = match asked.is_empty() {
            true => match orders.recv_timeout(HEARTBEAT) {
                Ok(order) => order,
                Err(RecvTimeoutError::Timeout) => {
                    writing.message(&Told::Wait.write())?;
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => Order::End,
            },
            false => match orders.try_recv() {
                Ok(order) => order,
                Err(_) => {
                    if let Some(number) = asked.pop_front() {
                        block(session, number, &mut writing)?;
                    }
                    continue;
                }
            },
        };
        match order {
            Order::Alone => writing.message(&Told::Alone.write())?,
            Order::Blocks(numbers) => {
                asked.extend(numbers);
                asked.truncate(ASKED);
            }
            Order::Heard => {
                writing.message(&Told::Heard.write())?;
                for _ in 0..AGAIN.0 {
                    std::thread::sleep(AGAIN.1);
                    // What comes after it lets TCP see that it was lost (RFC 8985). Who has heard it is gone.
                    if writing.message(&Told::Wait.write()).is_err() {
                        return Ok(());
                    }
                }
            }
            Order::Over(over, why) => {
                writing.message(&Told::Over(over, why).write())?;
                return Ok(());
            }
            Order::End => return Ok(()),
        }
    }
}

fn block(session: &Session, number: u32, writing: &mut Writing) -> io::Result<()> {
    let encoded = match session.cache.get(number) {
        Ok(encoded) => encoded,
        Err(error) => {
            let why = error.to_string();
            session.end(Over::Changed, &why);
            return Err(io::Error::other(why));
        }
    };
    let zstd = encoded.kind == crate::wire::datagram::Kind::Zstd;
    for part in encoded.wire().chunks(PART) {
        patiently(session.claim_aside(part.len()), writing)?;
        let message = Told::Block { number, zstd, length: encoded.length, bytes: part.to_vec() };
        writing.message(&message.write())?;
    }
    Ok(())
}
