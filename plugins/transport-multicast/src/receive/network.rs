//! Getting the blocks: from the group as long as something comes from there, and over the channel what does not.

use std::collections::BTreeSet;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use systemimager_core::{ErrorKind, Level, PluginError, Progress};

use super::assemble::Assembler;
use super::talk::{self, Line};
use super::target::Target;
use crate::bits::Bits;
use crate::block::Whole;
use crate::pack::manifest::BLOCK_MAX;
use crate::wire::channel::{Reading, Writing};
use crate::wire::datagram::{Kind, OVERHEAD, Sealer};
use crate::wire::message::{Over, Said, Told, Welcome, as_runs};

/// Nothing from the group for so long: the network does not bring it here.
const SILENT: Duration = Duration::from_secs(3);
/// How often the other side hears something, whether there is news or not.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often progress is told.
const TOLD: Duration = Duration::from_millis(500);
/// Blocks that are asked for over the channel at a time.
const ASKED: usize = 8;
/// How often the network is told anew that this side is in the group: a switch that nobody asks for it forgets (RFC 4541, section
/// 2.1.1; after 260 seconds, as a rule).
const STILL_IN: Duration = Duration::from_secs(90);
/// The same, while nothing comes from it.
const STILL_OUT: Duration = Duration::from_secs(10);
/// Datagrams come, but for so long no block was whole with one of them: something is wrong with them.
const BARREN: Duration = Duration::from_secs(60);
/// How often, and how long each time, whoever waits for what is known of the blocks is let go first.
const POLITE: u32 = 50;
const TURN: Duration = Duration::from_micros(200);
/// Threads that verify and write.
const WORKERS: usize = 2;
/// Blocks that wait for them: what the assembler has room for is less, as a rule.
const WAITING: usize = 64;
/// Datagrams that are taken from the kernel at a time, and bytes that it may hold meanwhile.
const BATCH: usize = 64;
const KERNEL: usize = 8 << 20;
/// A last word that is not answered is followed by another one after so long.
const AGAIN: Duration = Duration::from_millis(20);
/// When all that the kernel held was taken, so long nothing is asked of it: to be woken for each datagram costs more than all that
/// is done with it. What comes meanwhile fits into what it holds, up to 10 Gbit/s.
const REST: Duration = Duration::from_millis(2);
/// A block that was wrong so often, though every datagram was sealed by the session's key, is asked for over the channel.
const WRONG: u32 = 3;

/// What the thread that leads hears.
enum Event {
    Told(Told),
    /// The channel has ended.
    Lost(io::Error),
    /// It was asked how this side stands.
    Polled,
    /// A block was wrong.
    Wrong(u32),
    /// A block could not be written.
    Failed(PluginError),
    /// A block was written.
    Written,
}

struct Shared {
    assembler: Mutex<Assembler>,
    /// Threads that wait for it.
    waiting: AtomicUsize,
    target: Arc<Target>,
    symbol_size: u16,
    /// Milliseconds since the begin at which the group last brought something.
    heard: AtomicU64,
    /// The same, at which a block was last whole with what it brought; 0: it has not brought a symbol yet.
    fruitful: AtomicU64,
    begun: Instant,
    ended: AtomicBool,
    received: AtomicU64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Assembler> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let guard = self.assembler.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        guard
    }

    /// The same, for who takes it again and again: whoever waits for it goes first. Locks are not fair, and a report that comes late
    /// has blocks sent again.
    fn lock_last(&self) -> MutexGuard<'_, Assembler> {
        for _ in 0..POLITE {
            if self.waiting.load(Ordering::Relaxed) == 0 {
                break;
            }
            std::thread::sleep(TURN);
        }
        self.assembler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing comes from the group.
    fn is_silent(&self) -> bool {
        let heard = Duration::from_millis(self.heard.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(heard) > SILENT
    }

    /// What comes from it makes blocks whole.
    fn bears_fruit(&self) {
        self.fruitful.store(self.now().max(1), Ordering::Relaxed);
    }

    /// What comes from it makes no block whole.
    fn is_barren(&self) -> bool {
        let fruitful = Duration::from_millis(self.fruitful.load(Ordering::Relaxed));
        !fruitful.is_zero() && self.begun.elapsed().saturating_sub(fruitful) > BARREN
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The other side as it was before the blocks came.
pub struct Session {
    /// Hears it.
    pub reading: Reading,
    /// Speaks to it.
    pub writing: Writing,
    /// What it is.
    pub welcome: Welcome,
}

/// What came, and the half of the channel by which the end is told.
pub struct Had {
    /// Speaks to the sender.
    pub writing: Writing,
    /// What it says.
    events: Receiver<Event>,
    /// Bytes that came.
    pub received: u64,
}

/// The other side is gone.
pub fn lost(error: &io::Error) -> PluginError {
    PluginError::new(
        ErrorKind::Unreachable,
        format!("the sender is gone ({error}); what has come stays, and is not sent again"),
    )
}

/// The session is over before this side was done.
pub fn over(over: Over, why: &str) -> PluginError {
    let kind = match over {
        Over::Denied => ErrorKind::Denied,
        Over::NotFound => ErrorKind::NotFound,
        Over::Changed | Over::Ended => ErrorKind::Unreachable,
    };
    PluginError::new(kind, format!("the sender says: {why}"))
}

/// Gets these blocks and writes them.
///
/// # Errors
/// The sender is gone or will not go on; a block cannot be written.
pub fn get(session: Session, target: &Arc<Target>, needs: Bits) -> Result<Had, PluginError> {
    let Session { mut reading, mut writing, welcome } = session;
    let local = reading.stream().local_addr().map_err(|error| lost(&error))?.ip();
    let manifest = &target.plan.manifest;
    let shared = Arc::new(Shared {
        assembler: Mutex::new(Assembler::new(needs.clone(), welcome.symbol_size)),
        waiting: AtomicUsize::new(0),
        target: Arc::clone(target),
        symbol_size: welcome.symbol_size,
        heard: AtomicU64::new(0),
        fruitful: AtomicU64::new(0),
        begun: Instant::now(),
        ended: AtomicBool::new(false),
        received: AtomicU64::new(0),
    });
    let _ended = Ended(Arc::clone(&shared));
    let (events, hears) = channel();
    let (work, works) = sync_channel::<Whole>(WAITING);
    let works = Arc::new(Mutex::new(works));
    for _ in 0..WORKERS {
        let (shared, works, events) = (Arc::clone(&shared), Arc::clone(&works), events.clone());
        std::thread::spawn(move || write(&shared, &works, &events));
    }
    let telling = events.clone();
    std::thread::spawn(move || {
        loop {
            let told = reading.message().and_then(|message| {
                Told::read(&message).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why.to_string()))
            });
            let event = told.map_or_else(Event::Lost, Event::Told);
            let last = matches!(event, Event::Lost(_));
            if telling.send(event).is_err() || last {
                return;
            }
        }
    });
    writing.message(&Said::Needs(as_runs(needs.iter())).write()).map_err(|error| lost(&error))?;
    let mut leading = Leading {
        shared: Arc::clone(&shared),
        total: manifest.data_bytes(),
        alone: welcome.group.is_none(),
        deaf: false,
        asked: BTreeSet::new(),
        part: None,
        work: work.clone(),
        wrong: 0,
        told: Instant::now(),
        left: Arc::new(AtomicBool::new(false)),
        writing,
    };
    if !needs.is_empty() {
        match welcome.group {
            Some((group, port)) => {
                let group = SocketAddrV4::new(group.into(), port);
                match listen(group, local) {
                    Ok(listening) => leading.join(listening, &welcome, &work, &events)?,
                    Err(error) => {
                        talk::log(
                            Level::Warn,
                            format!("joining the group {group}: {error}; all comes over the channel"),
                        );
                        leading.alone = true;
                    }
                }
            }
            None => talk::log(Level::Info, "the sender has no group here; all comes over the channel"),
        }
        drop(work);
        leading.run(&hears, Duration::from_millis(u64::from(welcome.report_ms.max(10))))?;
    }
    leading.report()?;
    Ok(Had { received: shared.received.load(Ordering::Relaxed), writing: leading.writing, events: hears })
}

/// Ends the threads, however it ended.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

/// A socket that hears a group, by which address of this side.
struct Listening {
    socket: Socket,
    group: SocketAddrV4,
    local: Ipv4Addr,
    /// After all that there is was taken.
    rest: Duration,
}

/// A socket that hears a group, on the interface by which the sender is reached.
fn listen(group: SocketAddrV4, local: IpAddr) -> io::Result<Listening> {
    let IpAddr::V4(local) = local.to_canonical() else {
        return Err(io::Error::other("the sender is reached by IPv6, and groups have IPv4 addresses"));
    };
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    // Several on one machine may hear it.
    socket.set_reuse_address(true)?;
    socket.bind(&group.into())?;
    socket.join_multicast_v4(group.ip(), &local)?;
    // As root more than the system's limit; otherwise as much as it gives.
    let mut rest = REST;
    if setsockopt(&socket, sockopt::RcvBufForce, &KERNEL).is_err() {
        let _ = socket.set_recv_buffer_size(KERNEL);
        if socket.recv_buffer_size()? < KERNEL {
            rest = Duration::ZERO;
        }
    }
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    Ok(Listening { socket, group, local, rest })
}

/// Takes datagrams from the group until it is told to stop.
fn hear(
    shared: &Shared,
    listening: &Listening,
    sealer: &Sealer,
    work: &SyncSender<Whole>,
    events: &Sender<Event>,
    left: &AtomicBool,
) -> io::Result<()> {
    let size = OVERHEAD + usize::from(shared.symbol_size) + 1;
    let mut buffers = vec![vec![0_u8; size]; BATCH];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let manifest = &shared.target.plan.manifest;
    let mut wholes = Vec::new();
    let mut told = Instant::now();
    // When a symbol last came of a block that lacks.
    let mut useful = Instant::now();
    while !left.load(Ordering::Relaxed) && !shared.ended.load(Ordering::Relaxed) {
        let still = if shared.is_silent() { STILL_OUT } else { STILL_IN };
        if told.elapsed() > still {
            told = Instant::now();
            // What is missed in between is mended.
            let (group, local) = (listening.group.ip(), &listening.local);
            let socket = &listening.socket;
            socket.leave_multicast_v4(group, local).and_then(|()| socket.join_multicast_v4(group, local))?;
        }
        let lengths: Vec<usize> = {
            let mut slices: Vec<[IoSliceMut<'_>; 1]> =
                buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
            match recvmmsg(
                listening.socket.as_raw_fd(),
                &mut headers,
                slices.iter_mut(),
                MsgFlags::MSG_WAITFORONE,
                None,
            ) {
                Ok(messages) => messages.map(|message| message.bytes).collect(),
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
        };
        let mut polled = false;
        {
            let mut assembler = shared.lock_last();
            for (buffer, length) in buffers.iter_mut().zip(&lengths) {
                let Some(bytes) = buffer.get_mut(..*length) else { continue };
                match sealer.open(bytes) {
                    Ok((number, datagram)) => {
                        if datagram.kind != Kind::Poll && assembler.needs().has(datagram.block) {
                            if shared.fruitful.load(Ordering::Relaxed) == 0 || useful.elapsed() > SILENT {
                                shared.bears_fruit();
                            }
                            useful = Instant::now();
                        }
                        wholes.extend(assembler.take(number, &datagram, manifest));
                        shared.received.fetch_add(*length as u64, Ordering::Relaxed);
                        shared.heard.store(shared.now(), Ordering::Relaxed);
                    }
                    Err(_) => assembler.foreign(),
                }
            }
            polled |= assembler.polled;
        }
        if !wholes.is_empty() {
            shared.bears_fruit();
        }
        for whole in wholes.drain(..) {
            // Waits where so many small ones wait already: the kernel holds what comes meanwhile.
            if work.send(whole).is_err() {
                return Ok(());
            }
        }
        if polled {
            let _ = events.send(Event::Polled);
        }
        if lengths.len() < BATCH && !listening.rest.is_zero() {
            // Not a wait for something to happen: it happens meanwhile, in the kernel.
            std::thread::sleep(listening.rest);
        }
    }
    Ok(())
}

/// Verifies and writes blocks.
fn write(shared: &Shared, works: &Mutex<Receiver<Whole>>, events: &Sender<Event>) {
    loop {
        let whole = works.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(whole) = whole else { return };
        let (number, held) = (whole.number, whole.size());
        let wanted = shared.target.plan.manifest.block(number);
        let event = match whole.plain(&wanted, shared.symbol_size) {
            Ok(plain) => match shared.target.put(number, &plain) {
                Ok(()) => {
                    shared.lock().worked(number, held, true);
                    Event::Written
                }
                Err(error) => Event::Failed(error),
            },
            Err(_) => {
                shared.lock().worked(number, held, false);
                Event::Wrong(number)
            }
        };
        if events.send(event).is_err() {
            return;
        }
    }
}

/// The thread that leads.
struct Leading {
    shared: Arc<Shared>,
    total: u64,
    /// Not in the group, or not any more.
    alone: bool,
    /// The group does not reach this side just now, and the sender knows.
    deaf: bool,
    /// What was asked for over the channel.
    asked: BTreeSet<u32>,
    /// The block that is coming over the channel.
    part: Option<(u32, bool, u32, Vec<u8>)>,
    work: SyncSender<Whole>,
    wrong: u32,
    told: Instant,
    left: Arc<AtomicBool>,
    writing: Writing,
}

impl Leading {
    fn join(
        &mut self,
        listening: Listening,
        welcome: &Welcome,
        work: &SyncSender<Whole>,
        events: &Sender<Event>,
    ) -> Result<(), PluginError> {
        let sealer = Sealer::new(welcome.session, &welcome.key);
        let (shared, left) = (Arc::clone(&self.shared), Arc::clone(&self.left));
        let (work, events) = (work.clone(), events.clone());
        std::thread::spawn(move || {
            if let Err(error) = hear(&shared, &listening, &sealer, &work, &events, &left) {
                talk::log(Level::Warn, format!("hearing the group: {error}"));
            }
        });
        self.shared.heard.store(self.shared.now(), Ordering::Relaxed);
        self.say(&Said::Joined)
    }

    fn say(&mut self, said: &Said) -> Result<(), PluginError> {
        self.writing.message(&said.write()).map_err(|error| lost(&error))
    }

    fn report(&mut self) -> Result<(), PluginError> {
        let report = self.shared.lock().report();
        self.say(&Said::Report(report))
    }

    fn run(&mut self, events: &Receiver<Event>, interval: Duration) -> Result<(), PluginError> {
        let mut reported = Instant::now();
        // Not all at once: each a little more or less often than the others.
        let jitter = f64::from(std::process::id() % 64) / 128.0 + 0.75;
        let interval = interval.mul_f64(jitter);
        let mut news = false;
        loop {
            if self.shared.lock().needs().is_empty() {
                self.left.store(true, Ordering::Relaxed);
                return Ok(());
            }
            let due = if news { interval / 10 } else { interval };
            let wait = due.saturating_sub(reported.elapsed());
            match events.recv_timeout(wait) {
                Ok(Event::Polled) => news = true,
                Ok(Event::Written) => self.ask()?,
                Ok(Event::Told(told)) => self.hear(told)?,
                Ok(Event::Lost(error)) => return Err(lost(&error)),
                Ok(Event::Failed(error)) => {
                    self.say(&Said::Failed(error.to_string()))?;
                    return Err(error);
                }
                Ok(Event::Wrong(block)) => self.was_wrong(block),
                Err(RecvTimeoutError::Timeout) => {
                    self.report()?;
                    (reported, news) = (Instant::now(), false);
                    self.ask()?;
                    self.progress();
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(PluginError::failed("the threads that receive have ended"));
                }
            }
        }
    }

    fn was_wrong(&mut self, block: u32) {
        self.asked.remove(&block);
        self.wrong += 1;
        if self.wrong == WRONG {
            talk::log(Level::Warn, "blocks that came were wrong: some machine of the session sends what it should not");
            self.alone = true;
        }
    }

    /// Asks for some of what lacks, if the group does not bring it.
    fn ask(&mut self) -> Result<(), PluginError> {
        if !self.alone && self.shared.is_barren() {
            talk::log(Level::Warn, "what the group brings makes no block whole");
            self.alone = true;
        }
        if !self.alone && !self.shared.is_silent() {
            if std::mem::take(&mut self.deaf) {
                // It brings something again.
                let needs = as_runs(self.shared.lock().needs().iter());
                self.say(&Said::Needs(needs))?;
                self.say(&Said::Joined)?;
            }
            return Ok(());
        }
        self.deaf = !self.alone;
        if self.alone && !self.left.swap(true, Ordering::Relaxed) {
            talk::log(Level::Info, "what lacks comes over the channel from now on");
        }
        let more: Vec<u32> = {
            let assembler = self.shared.lock();
            // No more than can be written.
            let under_way = self.asked.len() + assembler.at_work();
            if under_way > ASKED / 2 {
                return Ok(());
            }
            assembler.lacking().filter(|block| !self.asked.contains(block)).take(ASKED - under_way).collect()
        };
        if more.is_empty() {
            return Ok(());
        }
        self.asked.extend(&more);
        self.say(&Said::Ask(as_runs(more)))
    }

    fn progress(&mut self) {
        if self.told.elapsed() < TOLD {
            return;
        }
        self.told = Instant::now();
        let manifest = &self.shared.target.plan.manifest;
        let lacks: u64 = self.shared.lock().needs().iter().map(|block| u64::from(manifest.block(block).length)).sum();
        let (files, _) = self.shared.target.counts();
        talk::say(&Line::Progress(Progress {
            bytes: self.total.saturating_sub(lacks),
            total_bytes: Some(self.total),
            files,
            total_files: Some(manifest.files().0),
            path: None,
        }));
    }

    fn hear(&mut self, told: Told) -> Result<(), PluginError> {
        match told {
            Told::Alone => {
                talk::log(
                    Level::Warn,
                    "this machine gets too little of what the group is sent; it is sent to alone from now on",
                );
                self.alone = true;
                self.ask()
            }
            Told::Block { number, zstd, length, bytes } => self.take(number, zstd, length, &bytes),
            Told::Over(why, words) => Err(over(why, &words)),
            Told::Welcome(_) | Told::Manifest(_) | Told::Wait | Told::Heard => Ok(()),
        }
    }

    fn take(&mut self, number: u32, zstd: bool, length: u32, bytes: &[u8]) -> Result<(), PluginError> {
        self.shared.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let odd = || PluginError::failed("the sender says what it cannot say of a block");
        let (of, _, all, filled) = self.part.get_or_insert_with(|| (number, zstd, length, Vec::new()));
        if (*of, *all) != (number, length) || length > BLOCK_MAX || filled.len() + bytes.len() > length as usize {
            return Err(odd());
        }
        filled.extend_from_slice(bytes);
        if filled.len() < length as usize {
            return Ok(());
        }
        let Some((number, zstd, _, filled)) = self.part.take() else { return Ok(()) };
        self.asked.remove(&number);
        let whole = Whole::of_wire(number, zstd, filled);
        if self.shared.lock().takes_whole(number, whole.size()) {
            let _ = self.work.send(whole);
        }
        self.ask()
    }
}

impl Had {
    /// Says something while there is other work, so that the sender does not take this side for gone.
    pub fn heartbeat(&mut self, last: &mut Instant) {
        if last.elapsed() >= HEARTBEAT {
            *last = Instant::now();
            // It is not needed any more.
            let _ = self.writing.message(&Said::still_here().write());
        }
    }

    /// Says how it ended, and waits a moment until that was heard.
    pub fn end(mut self, said: &Said) {
        if self.writing.message(&said.write()).is_err() {
            return;
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(said, Said::Done(_)) && Instant::now() < deadline {
            match self.events.recv_timeout(AGAIN) {
                Ok(Event::Told(Told::Heard) | Event::Lost(_)) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(_) => {}
                // What comes after it lets TCP see that it was lost, long before its own time is over (RFC 8985).
                Err(RecvTimeoutError::Timeout) => {
                    // Whoever has gone meanwhile is told of by the channel's end.
                    let _ = self.writing.message(&Said::still_here().write());
                }
            }
        }
    }
}
