//! The sender's program: it listens, and has a session for each tree that somebody wants.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::Stat;
use rustix::process::{Resource, Rlimit};
use systemimager_core::{Offer, PluginError};

use super::client;
use super::config::{Config, Export, Settings};
use super::group::{self, Interface};
use super::pace::Pace;
use super::packs::Packs;
use super::session::Session;
use super::state::Board;
use crate::pack::kept;
use crate::wire::key::{self, Own};

/// The file with the trees, in the service's directory.
pub const CONFIG: &str = "sender.json";
/// The one with the key by which receivers know it.
pub const HOST_KEY: &str = "host_key";
/// Its nice value.
const NICE: i32 = -10;
/// Receivers at a time; more wait for their turn at the socket.
const MOST: usize = 4000;
/// Bytes of stack of a thread for one receiver.
pub const STACK: usize = 256 << 10;

/// A session, and the tree that it is of: its device and inode.
type Going = (Arc<Session>, (u64, u64));
/// Sessions by the names of their exports and of the interfaces that they are on (empty: on none).
type Sessions = HashMap<(String, String), Going>;

/// A receiver's place in a session, which does not end while there is one.
pub struct Seat(Arc<Session>);

impl Seat {
    /// In this session, if it still takes somebody in.
    fn take(session: &Arc<Session>) -> Option<Self> {
        // Whoever closes it looks at the receivers after that.
        session.receivers.fetch_add(1, Ordering::SeqCst);
        let seat = Self(Arc::clone(session));
        (!session.closed.load(Ordering::SeqCst)).then_some(seat)
    }

    /// The session.
    pub fn session(&self) -> &Arc<Session> {
        &self.0
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.receivers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One more that is connected, until it is dropped.
struct Connected(Arc<Server>);

impl Connected {
    fn one(server: &Arc<Server>) -> Self {
        server.connected.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(server))
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connected.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The program.
pub struct Server {
    own: Own,
    file: PathBuf,
    read: Mutex<(Option<SystemTime>, Arc<Config>)>,
    packs: Packs,
    sessions: Mutex<Sessions>,
    /// What is sent at most by each interface, by all sessions there together.
    paces: Mutex<HashMap<String, Arc<Pace>>>,
    board: Board,
    connected: AtomicUsize,
}

/// Offers what the files in a directory say, until the process is ended.
///
/// # Errors
/// The files are not there or wrong; the port is taken.
pub fn run(directory: &Path) -> Result<(), PluginError> {
    let failed = |doing: &str, error: io::Error| PluginError::failed(format!("{doing}: {error}"));
    let file = directory.join(CONFIG);
    let text = fs::read_to_string(directory.join(HOST_KEY)).map_err(|error| failed("reading the host key", error))?;
    let config = read(&file).map_err(|error| failed(&format!("reading {}", file.display()), error))?;
    Settings::of(&config.settings)?;
    let address = SocketAddr::new(config.bind.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), config.port);
    let listener = TcpListener::bind(address).map_err(|error| failed(&format!("listening at {address}"), error))?;
    let server = Arc::new(Server {
        own: key::own(text.trim())?,
        file,
        read: Mutex::new((None, Arc::new(config))),
        packs: Packs::default(),
        sessions: Mutex::default(),
        paces: Mutex::default(),
        board: Board::default(),
        connected: AtomicUsize::new(0),
    });
    // Each receiver takes three. Where this is not allowed there are as many as there were.
    let most = rustix::process::getrlimit(Resource::Nofile).maximum;
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
    // All machines wait for this one: it goes before what else there is to do here. Without the right to it, it does not.
    let _ = rustix::process::setpriority_process(None, NICE);
    server.board.keep(directory.join(Offer::STATE_FILE));
    let preparing = Arc::clone(&server);
    std::thread::spawn(move || preparing.prepare());
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // No descriptors left, say: some will be free again.
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        while server.connected.load(Ordering::Relaxed) >= MOST {
            std::thread::sleep(Duration::from_millis(50));
        }
        let connected = Connected::one(&server);
        // Without room for one more thread it is hung up on, and comes again.
        let _ = std::thread::Builder::new().stack_size(STACK).spawn(move || client::serve(stream, &connected.0));
    }
    Ok(())
}

fn read(file: &Path) -> io::Result<Config> {
    serde_json::from_slice(&fs::read(file)?).map_err(io::Error::other)
}

fn state_of(tree: &Path) -> Option<(u64, u64)> {
    let stat: Stat = rustix::fs::stat(tree).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

impl Server {
    /// The key by which receivers know it.
    pub fn own(&self) -> &Own {
        &self.own
    }

    /// What is to be told of what it does.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// What is offered to whom now.
    pub fn config(&self) -> Arc<Config> {
        let mut last = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = fs::metadata(&self.file).and_then(|file| file.modified()).ok();
        if changed.is_none() || last.0 != changed {
            match read(&self.file) {
                Ok(config) => *last = (changed, Arc::new(config)),
                // Who was admitted may not be any more: then nobody is.
                Err(error) => {
                    eprintln!("reading {}: {error}; nobody is let in until it can be read", self.file.display());
                    let nobody = Config { exports: Vec::new(), ..(*last.1).clone() };
                    *last = (None, Arc::new(nobody));
                }
            }
        }
        Arc::clone(&last.1)
    }

    /// That of all sessions of an interface.
    fn pace(&self, interface: &Result<Interface, String>, settings: &Settings) -> Arc<Pace> {
        let name = interface.as_ref().map_or("", |interface| &interface.name);
        let most = group::most(interface, settings);
        let mut paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
        let pace = paces.entry(name.to_owned()).or_insert_with(|| Arc::new(Pace::new(most)));
        pace.set(most);
        Arc::clone(pace)
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes what will be wanted before somebody waits for it.
    fn prepare(&self) {
        for export in &self.config().exports {
            if let Err(why) = self.packs.of(export.tree.as_path()) {
                eprintln!("{why}");
            }
            if let Some(trees) = export.tree.as_path().parent() {
                kept::sweep(trees);
            }
        }
    }

    /// A seat in the session of a tree on the interface by which somebody came to this address: the one that goes on, if it is of the
    /// tree as it is now, or a new one.
    ///
    /// # Errors
    /// The tree cannot be read, in words.
    pub fn enter(&self, export: &Export, local: IpAddr) -> Result<Seat, String> {
        let settings = Settings::of(&self.config().settings).map_err(|error| error.to_string())?;
        let interface = group::interface(&settings, local);
        let on = interface.as_ref().map_or("", |interface| &interface.name).to_owned();
        let key = (export.name.clone(), on);
        // While this takes, others of the same tree wait at the packs; who comes second takes the first one's session.
        let contents = self.packs.of(export.tree.as_path())?;
        let mut sessions = self.sessions();
        if let Some((session, _)) =
            sessions.get(&key).filter(|(_, tree)| state_of(export.tree.as_path()) == Some(*tree))
        {
            if session.cache.contents().manifest().root() != contents.manifest().root() {
                // The image was changed. It goes on for those who are in it, as far as what they need is still there.
                session.closed.store(true, Ordering::SeqCst);
            } else if let Some(seat) = Seat::take(session) {
                return Ok(seat);
            }
        }
        let all = self.pace(&interface, &settings);
        let session = Session::begin(&export.name, contents, &settings, (interface, &all), &self.board)
            .map_err(|error| format!("beginning a session: {error}"))?;
        let seat = Seat::take(&session).ok_or("the session that was begun has ended already; come again")?;
        let state = state_of(export.tree.as_path()).unwrap_or_default();
        sessions.insert(key, (session, state));
        Ok(seat)
    }
}
