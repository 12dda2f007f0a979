//! The door: where somebody whom a transport's service let in gets what they ask for.
//!
//! A service such as sshd authenticates, and starts one program for whoever it let in: ours, which [knocks](knock). The process
//! that offers the trees hears it, has the transport plugin look at what was asked ([`Transport::answer`]), and runs the answer
//! [confined](crate::sys::confined) to one tree, with the streams of who knocked. So it is this process that says what there is
//! to be had and ends what runs; the session itself needs no right to the trees.
//!
//! It is a socket that root may use, and the account that sessions run as where that is another. One message goes each way, a line of JSON; the first carries the streams.
//!
//! [`Transport::answer`]: systemimager_core::Transport::answer

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{Mode, OFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};
use systemimager_core::{AdmittedKey, Answer, Asked, Bytes, ErrorKind, Offer, PluginError, Registry};

use crate::account::Account;
use crate::helper;
use crate::host::{EngineHost, Secrets, texts};
use crate::offer;
use crate::store::orders::now;
use crate::sys::Cmd;
use crate::sys::confined::{self, Confined};

/// The first word of the program that knocks.
pub const WORD: &str = "door";
/// What a service's session is asked to do (ssh(1), ENVIRONMENT).
const COMMAND: &str = "SSH_ORIGINAL_COMMAND";
/// From where it comes.
const CONNECTION: &str = "SSH_CONNECTION";
/// Longest message, bytes.
const LONGEST: usize = 64 * 1024;
/// How long one who knocks may take to say for what.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long those inside may take to leave when it is closed: a program that is stopped has five seconds of it.
const LEAVING: Duration = Duration::from_secs(10);
/// Answers at a time; more wait for their turn at the socket.
const MOST: usize = 1000;
/// The exit status of who was refused (`EX_NOPERM` of sysexits.h).
const REFUSED: u8 = 77;
/// The same of who may try again (`EX_TEMPFAIL`).
const LATER: u8 = 75;

/// What is said by one who knocks.
#[derive(Debug, Serialize, Deserialize)]
struct Knock {
    exports: Vec<String>,
    command: Bytes,
    /// For the log alone.
    #[serde(default)]
    from: String,
}

/// What they are told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Told {
    /// It ended with this status.
    Status(i32),
    /// It was not run, and never will be.
    Refused(String),
    /// It could not be run just now.
    Later(String),
}

/// What is to be had, and how it is asked for.
struct Had {
    registry: Registry,
    transport: String,
    trees: BTreeMap<String, PathBuf>,
    /// Until when each is to be had, where that ends for all who may have it; seconds since 1970.
    until: BTreeMap<String, u64>,
    /// The export whose use means the end, and the file that says so.
    finish: Option<(String, PathBuf)>,
}

/// What a door and its threads share.
struct Shared {
    /// Who may knock besides root.
    account: Option<u32>,
    had: Mutex<Had>,
    rooms: PathBuf,
    /// Set when the door is closed; ends what runs.
    closed: Arc<AtomicBool>,
    inside: Mutex<usize>,
    /// Somebody has left.
    left: Condvar,
}

/// A door that is open. Dropping it closes it and ends what runs behind it.
pub struct Door {
    place: PathBuf,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

impl Door {
    /// Opens one for an offer by a transport, below the directory `place`, which is made, to root and `account`. The threads behind
    /// it see the mounts that the calling thread sees.
    ///
    /// # Errors
    /// The directory or the socket cannot be made.
    pub fn open(
        registry: &Registry,
        transport: &str,
        offer: &Offer,
        place: &Path,
        account: Option<&Account>,
    ) -> Result<Self> {
        let doing = || format!("opening the door of the transport {transport} in {}", place.display());
        let rooms = place.join("rooms");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&rooms).with_context(doing)?;
        let finish = match &offer.finish {
            None => None,
            Some(name) => {
                let tree = place.join("finish");
                fs::DirBuilder::new().recursive(true).mode(0o700).create(&tree).with_context(doing)?;
                Some((name.clone(), tree))
            }
        };
        let trees = trees(offer).chain(finish.clone()).collect();
        let finish = finish.map(|(name, _)| {
            let file = offer.work_dir.join(format!("{name}.finished"));
            (name, file.as_path().to_path_buf())
        });
        let had =
            Had { registry: registry.clone(), transport: transport.to_owned(), trees, until: until(offer), finish };
        let socket = socket(place);
        offer::remove(&socket).with_context(doing)?;
        let listener = UnixListener::bind(near(place)?.1).with_context(doing)?;
        if let Some(account) = account {
            offer::open_way(place).with_context(doing)?;
            let to = Some(rustix::fs::Gid::from_raw(account.gid));
            rustix::fs::chown(&socket, None, to).with_context(doing)?;
            fs::set_permissions(&socket, fs::Permissions::from_mode(0o660)).with_context(doing)?;
        }
        let shared = Arc::new(Shared {
            account: account.map(|account| account.uid),
            had: Mutex::new(had),
            rooms,
            closed: Arc::default(),
            inside: Mutex::default(),
            left: Condvar::new(),
        });
        let listening = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("door".into())
                .spawn(move || listen(&listener, &shared))
                .with_context(doing)?
        };
        Ok(Self { place: place.to_path_buf(), shared, listening: Some(listening) })
    }

    /// From now on this is on offer; who is inside stays.
    pub fn update(&self, offer: &Offer) {
        let mut had = self.shared.had.lock().unwrap_or_else(PoisonError::into_inner);
        let finish = had.finish.as_ref().and_then(|(name, _)| Some((name.clone(), had.trees.get(name)?.clone())));
        had.trees = trees(offer).chain(finish).collect();
        had.until = until(offer);
    }

    /// The words of the program that knocks here, for [`Offer::door`].
    ///
    /// # Errors
    /// This program's own file is not known, or one of them is not UTF-8.
    pub fn words(place: &Path) -> Result<Vec<String>> {
        let program = helper::program()?;
        let text = |path: &Path| {
            path.to_str()
                .map(str::to_owned)
                .with_context(|| format!("{} is not UTF-8; use another path", path.display()))
        };
        Ok(vec![text(&program)?, WORD.to_owned(), text(place)?])
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        // Wakes it.
        if let Ok((_here, near)) = near(&self.place) {
            drop(UnixStream::connect(near));
        }
        if let Some(thread) = self.listening.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread that answers at {} panicked", self.place.display());
        }
        // Whoever is inside is told to leave, and uses what our caller may be about to take away.
        let inside = self.shared.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = self.shared.left.wait_timeout_while(inside, LEAVING, |inside| *inside > 0);
        if gone.is_ok_and(|(inside, _)| *inside > 0) {
            tracing::warn!("somebody is still being answered at {}", self.place.display());
        }
        let _ = fs::remove_file(socket(&self.place));
    }
}

fn trees(offer: &Offer) -> impl Iterator<Item = (String, PathBuf)> {
    offer.exports.iter().map(|export| (export.name.clone(), export.tree.as_path().to_path_buf()))
}

fn until(offer: &Offer) -> BTreeMap<String, u64> {
    let last = |keys: &[AdmittedKey]| keys.iter().map(|key| key.until).max_by_key(|until| until.unwrap_or(u64::MAX))?;
    offer.exports.iter().filter_map(|export| Some((export.name.clone(), last(&export.keys)?))).collect()
}

fn socket(place: &Path) -> PathBuf {
    place.join("socket")
}

/// The socket by a short name, and what keeps that name valid: addresses of sockets have at most 108 bytes (unix(7)).
fn near(place: &Path) -> Result<(OwnedFd, PathBuf)> {
    // Who knocks may enter the directory, and not list it.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let here = rustix::fs::open(place, flags, Mode::empty()).with_context(|| format!("opening {}", place.display()))?;
    let near = PathBuf::from(format!("/proc/self/fd/{}/socket", here.as_raw_fd()));
    Ok((here, near))
}

fn listen(listener: &UnixListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.closed.load(Ordering::SeqCst) {
            return;
        }
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!("the door does not open: {error}");
                // It may be for want of descriptors, which will not come back at once.
                std::thread::park_timeout(Duration::from_millis(100));
                continue;
            }
        };
        let mut inside = shared.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if *inside >= MOST {
            tell(&stream, &Told::Later(format!("{MOST} are served just now; try again in a while")));
            continue;
        }
        *inside += 1;
        drop(inside);
        let visit = Visit(Arc::clone(shared));
        let started = std::thread::Builder::new().name("visit".into()).spawn(move || visit.receive(&stream));
        if let Err(error) = started {
            tracing::warn!("nobody answers at the door: {error}");
        }
    }
}

fn tell(mut stream: &UnixStream, told: &Told) {
    let Ok(mut line) = serde_json::to_vec(told) else { return };
    line.push(b'\n');
    // Who went away is told nothing.
    let _ = stream.write_all(&line);
}

/// One who is inside; leaves when this goes.
struct Visit(Arc<Shared>);

impl Drop for Visit {
    fn drop(&mut self) {
        *self.0.inside.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.left.notify_all();
    }
}

impl Visit {
    fn receive(&self, stream: &UnixStream) {
        let told = self.answer(stream).unwrap_or_else(|error| {
            tracing::warn!("{error:#}");
            let kind = error.downcast_ref::<PluginError>().map(|error| error.kind);
            match kind {
                Some(ErrorKind::Denied | ErrorKind::NotFound | ErrorKind::Invalid) => {
                    Told::Refused(format!("{error:#}"))
                }
                _ => Told::Later(format!("{error:#}")),
            }
        });
        tell(stream, &told);
    }

    fn answer(&self, stream: &UnixStream) -> Result<Told> {
        let credentials = rustix::net::sockopt::socket_peercred(stream).context("looking who knocks")?;
        let known = credentials.uid.is_root() || Some(credentials.uid.as_raw()) == self.0.account;
        ensure!(known, "the user {} knocked at the door; it is not opened to them", credentials.uid.as_raw());
        stream.set_read_timeout(Some(PATIENCE)).context("waiting for what is asked")?;
        let (knock, [input, output, error]) = heard(stream).context("hearing what is asked at the door")?;
        let asked = Asked { exports: knock.exports, command: knock.command };
        let (answer, tree, finish) = self.look(&asked).with_context(|| format!("{} was refused", from(&knock.from)))?;
        tracing::info!("{} reads {}", from(&knock.from), answer.export);
        let cancel = Cancel::when_gone(stream, Arc::clone(&self.0.closed))?;
        let room = tempfile::Builder::new().prefix("room-").tempdir_in(&self.0.rooms).context("making a room")?;
        let words = texts(&answer.argv).map_err(anyhow::Error::msg)?;
        let mut error = File::from(error);
        let mut on_error = |line: &str| {
            // They may not read it.
            let _ = writeln!(error, "{line}");
        };
        let what = Confined {
            tree: &tree,
            at: Answer::TREE.trim_start_matches('/'),
            room: room.path(),
            streams: (input, output),
            cancel: cancel.flag(),
        };
        let status = confined::run(what, Cmd::argv(words)?, &mut on_error)
            .with_context(|| format!("answering {}, who asked for {}", from(&knock.from), answer.export))?;
        if status.success()
            && let Some(file) = finish
        {
            fs::write(&file, "finished\n").with_context(|| format!("writing {}", file.display()))?;
        }
        // As a shell says it.
        let signal = std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal);
        Ok(Told::Status(status.code().or(signal).unwrap_or(255)))
    }

    /// What is run for it, for which tree, and which file says that it was the end.
    fn look(&self, asked: &Asked) -> Result<(Answer, PathBuf, Option<PathBuf>)> {
        let had = self.0.had.lock().unwrap_or_else(PoisonError::into_inner);
        let transport = had.registry.transport(&had.transport)?;
        let answer = transport.answer(&EngineHost::new(Secrets::default()), asked.clone())?;
        // A plugin that errs lets nobody into another's tree.
        let tree =
            had.trees.get(&answer.export).filter(|_| asked.exports.contains(&answer.export)).ok_or_else(|| {
                PluginError::new(
                    ErrorKind::NotFound,
                    format!("{} is not on offer here, or not any more", answer.export),
                )
            })?;
        if had.until.get(&answer.export).is_some_and(|until| *until <= now()) {
            let why = format!("the time in which {} could be had is over", answer.export);
            return Err(PluginError::new(ErrorKind::Denied, why).into());
        }
        let finish = had.finish.as_ref().filter(|(name, _)| *name == answer.export).map(|(_, file)| file.clone());
        Ok((answer, tree.clone(), finish))
    }
}

fn from(who: &str) -> String {
    let who: String = who.chars().filter(|letter| letter.is_ascii_graphic()).take(64).collect();
    if who.is_empty() { "somebody".to_owned() } else { who }
}

/// Ends an answer when who asked has gone, or the door is closed.
struct Cancel {
    flag: Arc<AtomicBool>,
    done: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Cancel {
    fn when_gone(stream: &UnixStream, closed: Arc<AtomicBool>) -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        let watched = stream.try_clone().context("watching who asked")?;
        let done = stream.try_clone().context("watching who asked")?;
        watched.set_read_timeout(Some(Duration::from_millis(500))).context("watching who asked")?;
        let set = Arc::clone(&flag);
        let thread = std::thread::Builder::new().name("watch a visit".into()).spawn(move || {
            let mut byte = [0; 1];
            loop {
                match std::io::Read::read(&mut &watched, &mut byte) {
                    Err(error) if is_quiet(&error) && !closed.load(Ordering::SeqCst) => {}
                    // Gone, or too much said.
                    _ => return set.store(true, Ordering::SeqCst),
                }
            }
        });
        Ok(Self { flag, done: Some(done), thread: Some(thread.context("watching who asked")?) })
    }

    fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }
}

fn is_quiet(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut | std::io::ErrorKind::Interrupted
    )
}

impl Drop for Cancel {
    fn drop(&mut self) {
        if let Some(stream) = self.done.take() {
            // The answer is still to be written; nothing more is read.
            let _ = stream.shutdown(std::net::Shutdown::Read);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The message and the three streams that come with it.
fn heard(stream: &UnixStream) -> Result<(Knock, [OwnedFd; 3])> {
    let mut text = Vec::new();
    let mut descriptors = Vec::new();
    while !text.ends_with(b"\n") {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received =
            rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                descriptors.extend(passed);
            }
        }
        ensure!(received.bytes > 0, "nothing was said");
        text.extend_from_slice(bytes.get(..received.bytes).unwrap_or_default());
        ensure!(text.len() <= LONGEST, "more than {LONGEST} bytes were said");
    }
    let knock: Knock = serde_json::from_slice(&text).context("it is of another version of this program")?;
    let count = descriptors.len();
    let streams =
        descriptors.try_into().map_err(|_| anyhow::anyhow!("{count} streams came with it instead of three"))?;
    Ok((knock, streams))
}

/// If these are the words of one who knocks (without the program), does so, and returns the exit code at the end.
pub fn run(words: &[OsString]) -> Option<ExitCode> {
    let [word, place, exports @ ..] = words else { return None };
    if word != WORD {
        return None;
    }
    Some(knock(Path::new(place), exports).unwrap_or_else(|error| said(&format!("{error:#}"), LATER)))
}

fn said(why: &str, status: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{why}");
    ExitCode::from(status)
}

fn knock(place: &Path, exports: &[OsString]) -> Result<ExitCode> {
    let knock = Knock {
        exports: exports.iter().map(|name| name.to_string_lossy().into_owned()).collect(),
        command: std::env::var_os(COMMAND).unwrap_or_default().into_vec().into(),
        from: std::env::var_os(CONNECTION)
            .as_deref()
            .map(OsStr::to_string_lossy)
            .unwrap_or_default()
            .split(' ')
            .next()
            .unwrap_or_default()
            .to_owned(),
    };
    let (here, near) = near(place)?;
    let stream = UnixStream::connect(&near).context("nothing is offered here any more")?;
    // What holds the place open keeps it from being taken away.
    drop(here);
    let mut line = serde_json::to_vec(&knock)?;
    line.push(b'\n');
    ensure!(line.len() <= LONGEST, "a command of {} bytes is not taken here", knock.command.len());
    let descriptors = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ensure!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)), "the streams cannot be passed on");
    let sent = rustix::net::sendmsg(stream.as_fd(), &[IoSlice::new(&line)], &mut ancillary, SendFlags::empty())?;
    (&stream).write_all(line.get(sent..).unwrap_or_default())?;
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer).context("waiting for the answer")?;
    ensure!(!answer.is_empty(), "what was offered here has ended");
    Ok(match serde_json::from_str(&answer).context("the answer is of another version of this program")? {
        Told::Status(status) => ExitCode::from(u8::try_from(status).unwrap_or(255)),
        Told::Refused(why) => said(&why, REFUSED),
        Told::Later(why) => said(&why, LATER),
    })
}
