//! One tree on its way to a group: a thread that does what [`carousel`](super::carousel) says, at the pace that
//! [`control`](super::control) says.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::cache::Cache;
use super::carousel::{Carousel, Id, Next, spare};
use super::config::Settings;
use super::control::Control;
use super::group::{self, Interface};
use super::outlet::Outlet;
use super::pace::Pace;
use super::state::Board;
use crate::bits::Bits;
use crate::pack::contents::Contents;
use crate::wire::datagram::{Datagram, Kind, NUMBER_MAX, Sealer, SessionKey, symbol_size};
use crate::wire::message::{Over, Report};

/// Blocks that are read ahead of the time at which they are sent.
const AHEAD: usize = 12;
/// A session without receivers goes on for so long: somebody may come again.
const LINGER: Duration = Duration::from_secs(5);
/// Events that wait for the session's thread, and how many it hears before it sends again.
const EVENTS: usize = 4096;
const AT_A_TIME: usize = 1024;
/// Longest wait for news.
const NEWS: Duration = Duration::from_millis(100);
/// Of the pace, what may go to single receivers while there is a group.
const ALONE: u64 = 10;
/// While others are waited for, so often those who are there hear that it will go on.
const GATHERING: Duration = Duration::from_millis(500);
/// How often it is told how fast it is.
const SHOWN: Duration = Duration::from_secs(1);
/// Milliseconds between the reports of one receiver where there are few.
pub const REPORT_MS: u16 = 50;
/// How hard zstd works on a manifest.
const LEVEL: i32 = 9;

/// What the thread of a session hears.
pub enum Event {
    /// Somebody joins the group, or says anew what it needs.
    Join(Id, Bits),
    /// How somebody stands.
    Report(Id, Report),
    /// Somebody has left the group.
    Leave(Id),
}

/// What a receiver's thread is told.
pub enum Order {
    /// It is too slow for the group.
    Alone,
    /// These were asked for.
    Blocks(Vec<u32>),
    /// It was heard that it is done.
    Heard,
    /// The session is over.
    Over(Over, String),
    /// Nothing more will come.
    End,
}

/// Where the orders of each receiver go, and how the session ended, if it did, for who comes just then.
#[derive(Default)]
struct Orders {
    to: BTreeMap<Id, Sender<Order>>,
    over: Option<(Over, String)>,
}

/// A session, as all its threads share it.
pub struct Session {
    /// Its number.
    pub number: u32,
    /// The key of its datagrams.
    pub key: SessionKey,
    /// Where the group is, if there is one.
    pub group: Option<SocketAddrV4>,
    /// Bytes of a symbol.
    pub symbol_size: u16,
    /// Its blocks.
    pub cache: Arc<Cache>,
    /// The manifest, compressed.
    pub manifest: Vec<u8>,
    /// By which number the board tells of it.
    pub told: u64,
    /// Receivers that are there; a session without any ends.
    pub receivers: AtomicUsize,
    /// It takes nobody in any more.
    pub closed: AtomicBool,
    events: Mutex<SyncSender<Event>>,
    orders: Mutex<Orders>,
    /// Milliseconds between reports, at most.
    pub report_ms: AtomicU16,
    pace: Arc<Pace>,
    /// The pace of all single receivers together, while there is a group.
    aside: Pace,
    has_group: AtomicBool,
}

impl Session {
    /// Begins one for this tree, at a pace within that of all on the same wire. Who has no group (`interface` says why) is sent to
    /// alone.
    ///
    /// # Errors
    /// The kernel has no chance to give, or no socket.
    pub fn begin(
        export: &str,
        contents: Contents,
        settings: &Settings,
        (interface, all): (Result<Interface, String>, &Arc<Pace>),
        board: &Board,
    ) -> io::Result<Arc<Self>> {
        let mut chance = [0; 36];
        getrandom::fill(&mut chance)
            .map_err(|error| io::Error::other(format!("asking the kernel for chance: {error}")))?;
        let (number, key) = chance.split_at(4);
        let number = u32::from_le_bytes(number.try_into().unwrap_or_default());
        let key: SessionKey = key.try_into().unwrap_or_default();
        let most = group::most(&interface, settings);
        let pace = Arc::new(Pace::within(most, all));
        let group =
            interface.as_ref().ok().map(|_| SocketAddrV4::new(group::address(settings.groups, number), settings.port));
        let datagram = interface.as_ref().map_or(1472, |interface| interface.datagram);
        let symbol_size = symbol_size(datagram);
        let place = match (&interface, group) {
            (Ok(interface), Some(group)) => format!("to {} port {} on {}", group.ip(), group.port(), interface.name),
            (Err(why), _) => format!("to each alone: {why}"),
            _ => String::new(),
        };
        let how = format!("{place}, at most {} Mbit/s", most.saturating_mul(8) / 1_000_000);
        let socket = match (&interface, group) {
            (Ok(interface), Some(group)) => Some(group::sending(interface, group, settings.ttl)?),
            _ => None,
        };
        let manifest = zstd::bulk::compress(contents.manifest().bytes(), LEVEL)?;
        let (events, heard) = sync_channel(EVENTS);
        let session = Arc::new(Self {
            number,
            key,
            group,
            symbol_size,
            cache: Cache::new(contents, symbol_size, settings.cache),
            manifest,
            told: board.session(export, &how),
            receivers: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            events: Mutex::new(events),
            orders: Mutex::default(),
            report_ms: AtomicU16::new(REPORT_MS),
            pace: Arc::clone(&pace),
            aside: Pace::new((most / ALONE).max(1)),
            has_group: AtomicBool::new(false),
        });
        eprintln!("session {number:08x} of {export:?}: {how}");
        let blocks = session.cache.contents().manifest().block_count();
        let sending = Sending {
            session: Arc::clone(&session),
            carousel: Carousel::new(blocks, Duration::from_millis(REPORT_MS.into())),
            control: Control::new(most, settings.rate.is_some(), Instant::now()),
            outlet: Outlet::new(Sealer::new(number, &key), socket, pace),
            datagram,
            gather: settings.gather,
            first: None,
            said: Instant::now(),
            begun: false,
            board: board.clone(),
            place,
            shown: (0, Instant::now()),
            counts: Counts::default(),
            sent: Bits::none(blocks),
        };
        std::thread::spawn(move || sending.run(&heard));
        Ok(session)
    }

    /// Tells the session's thread.
    pub fn tell(&self, event: Event) {
        // A thread that has ended wants to hear nothing.
        let _ = self.events.lock().unwrap_or_else(PoisonError::into_inner).send(event);
    }

    /// A receiver's thread wants its orders.
    pub fn enlist(&self, id: Id) -> (Sender<Order>, Receiver<Order>) {
        let (sender, receiver) = channel();
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((over, why)) = &orders.over {
            // Its other end is in this very function.
            let _ = sender.send(Order::Over(*over, why.clone()));
        }
        orders.to.insert(id, sender.clone());
        (sender, receiver)
    }

    /// A receiver's thread has ended.
    pub fn retire(&self, id: Id) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).to.remove(&id);
        self.tell(Event::Leave(id));
    }

    /// So many bytes go to somebody who comes; how long they have to wait.
    pub fn claim(&self, bytes: usize) -> Duration {
        self.pace.claim(bytes, Instant::now())
    }

    /// So many bytes go to a single receiver; how long they have to wait.
    pub fn claim_aside(&self, bytes: usize) -> Duration {
        let wait = self.claim(bytes);
        match self.has_group.load(Ordering::Relaxed) {
            true => self.aside.claim(bytes, Instant::now()),
            false => wait,
        }
    }

    /// Ends it for all who are there.
    pub fn end(&self, over: Over, why: &str) {
        self.closed.store(true, Ordering::SeqCst);
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        for to in orders.to.values() {
            // A receiver's thread that has ended wants to hear nothing.
            let _ = to.send(Order::Over(over, why.to_owned()));
        }
        orders.over = Some((over, why.to_owned()));
    }

    fn order(&self, id: Id, order: Order) {
        if let Some(orders) = self.orders.lock().unwrap_or_else(PoisonError::into_inner).to.get(&id) {
            let _ = orders.send(order);
        }
    }
}

/// The thread.
struct Sending {
    session: Arc<Session>,
    carousel: Carousel,
    control: Control,
    outlet: Outlet,
    /// Bytes of one.
    datagram: usize,
    gather: Duration,
    /// When the first member came.
    first: Option<Instant>,
    /// When it last said that it will go on.
    said: Instant,
    begun: bool,
    board: Board,
    /// Where it is sent to, for people.
    place: String,
    /// The rate that was told last, Mbit/s, and when.
    shown: (u64, Instant),
    counts: Counts,
    sent: Bits,
}

/// What was sent, for who wonders where the time went.
#[derive(Default)]
struct Counts {
    blocks: u64,
    again: u64,
    repair: u64,
}

impl Sending {
    fn run(mut self, events: &Receiver<Event>) {
        let mut deserted = Instant::now();
        loop {
            for event in events.try_iter().take(AT_A_TIME) {
                self.hear(event);
            }
            self.look();
            let now = Instant::now();
            let there = self.session.receivers.load(Ordering::SeqCst) > 0;
            if there {
                deserted = now;
            } else if now.saturating_duration_since(deserted) > LINGER {
                // Who comes in this very moment still counts: it is looked at once more.
                self.session.closed.store(true, Ordering::SeqCst);
            }
            if self.session.closed.load(Ordering::SeqCst) && self.session.receivers.load(Ordering::SeqCst) == 0 {
                break;
            }
            // It moves on with each answer: one is asked for only to be carried out.
            let next = self.next(now);
            let wait = match next {
                Next::Wait(wait) => wait.min(NEWS),
                Next::Idle => NEWS,
                _ => Duration::ZERO,
            };
            if !wait.is_zero() {
                match events.recv_timeout(wait) {
                    Ok(event) => self.hear(event),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                continue;
            }
            if let Err((over, why)) = self.send(next) {
                eprintln!("session {:08x}: {why}", self.session.number);
                self.session.end(over, &why);
                break;
            }
        }
        self.session.closed.store(true, Ordering::SeqCst);
        self.session.cache.close();
        eprintln!("session {:08x} has ended", self.session.number);
    }

    fn next(&mut self, now: Instant) -> Next {
        let Some(first) = self.first.filter(|_| self.outlet.is_open()) else { return Next::Idle };
        if now.saturating_duration_since(first) >= self.gather {
            if !self.begun {
                self.begun = true;
                eprintln!("session {:08x} begins with {} receivers", self.session.number, self.carousel.members());
            }
            let next = self.carousel.next(now);
            // Whoever the group does not reach, or who is not in it yet, hears by this that it does.
            if next != Next::Idle || self.session.receivers.load(Ordering::Relaxed) == 0 {
                return next;
            }
        }
        match GATHERING.saturating_sub(now.saturating_duration_since(self.said)) {
            Duration::ZERO => {
                self.said = now;
                self.read_ahead();
                Next::Poll
            }
            left => Next::Wait(left),
        }
    }

    fn hear(&mut self, event: Event) {
        let now = Instant::now();
        let is_report = matches!(event, Event::Report(..));
        match event {
            Event::Join(id, needs) => {
                self.first.get_or_insert(now);
                self.carousel.join(id, needs, self.outlet.number(), now);
            }
            Event::Report(id, mut report) => {
                // Nobody has what was not sent yet.
                report.highest = report.highest.min(self.outlet.number().saturating_sub(1));
                if self.carousel.needs(id).is_some() {
                    self.control.report(id, report.highest, report.received, now);
                }
                self.carousel.report(id, &report, now);
            }
            Event::Leave(id) => {
                self.carousel.leave(id);
                self.control.leave(id);
            }
        }
        let has_group = self.carousel.members() > 0;
        if self.session.has_group.swap(has_group, Ordering::Relaxed) && !has_group && is_report {
            eprintln!(
                "session {:08x}: the group has all: {} datagrams, {} bytes with all headers; {} blocks, {} again, {} symbols of repair",
                self.session.number,
                self.outlet.number() - 1,
                self.outlet.bytes(),
                self.counts.blocks,
                self.counts.again,
                self.counts.repair
            );
        }
    }

    fn look(&mut self) {
        let mut slow = self.control.look(self.outlet.number().saturating_sub(1), Instant::now());
        slow.extend(self.carousel.hopeless());
        for id in slow {
            self.session.order(id, Order::Alone);
            self.hear(Event::Leave(id));
        }
        self.outlet.set_rate(self.control.rate(), self.datagram);
        self.control.set_interval(Duration::from_millis(self.session.report_ms.load(Ordering::Relaxed).into()));
        self.show();
    }

    /// Has it told how fast it is.
    fn show(&mut self) {
        let rate = self.control.rate().saturating_mul(8) / 1_000_000;
        if rate != self.shown.0 && self.shown.1.elapsed() > SHOWN {
            self.shown = (rate, Instant::now());
            self.board.how(self.session.told, &format!("{}, {rate} Mbit/s", self.place));
        }
    }

    fn send(&mut self, next: Next) -> Result<(), (Over, String)> {
        if self.outlet.number() > NUMBER_MAX / 2 {
            return Err((Over::Ended, "its datagrams have no more numbers; it begins anew".into()));
        }
        let first = self.outlet.number();
        let block = match next {
            Next::Source(block, _) => {
                self.read_ahead();
                block
            }
            Next::Repair(block, ..) => block,
            Next::Poll => {
                self.poll();
                return Ok(());
            }
            Next::Wait(_) | Next::Idle => return Ok(()),
        };
        let encoded = self.session.cache.get(block).map_err(|error| (Over::Changed, error.to_string()))?;
        let source = encoded.source();
        let (own, repair, count) = match next {
            Next::Repair(_, first, count) => (0, first, count),
            Next::Source(_, per_mille) => (source, 0, spare(source, per_mille)),
            _ => (0, 0, 0),
        };
        match own > 0 {
            true if self.sent.insert(block) => self.counts.blocks += 1,
            true => self.counts.again += 1,
            false => self.session.cache.expect_repair(),
        }
        self.counts.repair += u64::from(count);
        let repair = source.saturating_add(repair);
        for symbol in (0..own).chain(repair..repair.saturating_add(count)) {
            let bytes = encoded.symbol(symbol);
            self.outlet.put(&Datagram { kind: encoded.kind, block, length: encoded.length, symbol, bytes });
        }
        self.outlet.flush();
        let size = (source, encoded.wire().len());
        self.carousel.sent(next, size, (first, self.outlet.number() - 1), Instant::now());
        Ok(())
    }

    fn read_ahead(&self) {
        self.session.cache.ahead(&self.carousel.ahead(AHEAD));
    }

    fn poll(&mut self) {
        self.outlet.put(&Datagram { kind: Kind::Poll, block: 0, length: 0, symbol: 0, bytes: &[] });
        self.outlet.flush();
    }
}
