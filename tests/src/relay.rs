//! Somebody on the wire: a relay of TCP connections that keeps all that passes, and can change or delay it.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// What becomes of bytes on their way to the client, given how many went before: how many of them pass. Where some do not, the
/// connection ends.
type Change = Arc<dyn Fn(u64, &mut [u8]) -> usize + Send + Sync>;

/// The relay; ends with its connections when dropped.
pub struct Relay {
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    seen: Arc<Mutex<Vec<u8>>>,
    ended: Arc<AtomicBool>,
    listening: Option<JoinHandle<()>>,
}

impl Relay {
    /// One to this port of 127.0.0.1.
    ///
    /// # Errors
    /// There is no free port.
    pub fn to(port: u16) -> Result<Self> {
        Self::new(port, Duration::ZERO, Arc::new(all))
    }

    /// One that changes what goes to the client: `change` gets each piece, and how many bytes went before it.
    ///
    /// # Errors
    /// There is no free port.
    pub fn changing(port: u16, change: impl Fn(u64, &mut [u8]) + Send + Sync + 'static) -> Result<Self> {
        Self::changing_at(local(port), change)
    }

    /// The same to another address.
    ///
    /// # Errors
    /// There is no free port.
    pub fn changing_at(to: SocketAddr, change: impl Fn(u64, &mut [u8]) + Send + Sync + 'static) -> Result<Self> {
        let change = move |before, bytes: &mut [u8]| {
            change(before, bytes);
            bytes.len()
        };
        Self::between(to, Duration::ZERO, Arc::new(change))
    }

    /// One that cuts each connection when so many bytes went to the client.
    ///
    /// # Errors
    /// There is no free port.
    pub fn cutting(port: u16, after: u64) -> Result<Self> {
        let left = move |before: u64, bytes: &mut [u8]| {
            usize::try_from(after.saturating_sub(before)).map_or(bytes.len(), |left| left.min(bytes.len()))
        };
        Self::new(port, Duration::ZERO, Arc::new(left))
    }

    /// One that keeps what passes back for a while, in either direction.
    ///
    /// # Errors
    /// There is no free port.
    pub fn delaying(port: u16, delay: Duration) -> Result<Self> {
        Self::new(port, delay, Arc::new(all))
    }

    fn new(port: u16, delay: Duration, change: Change) -> Result<Self> {
        Self::between(local(port), delay, change)
    }

    fn between(at: SocketAddr, delay: Duration, change: Change) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("a port for the relay")?;
        let own = listener.local_addr().context("the relay's port")?.port();
        let (seen, ended): (Arc<Mutex<Vec<u8>>>, Arc<AtomicBool>) = Default::default();
        let listening = {
            let (seen, ended) = (Arc::clone(&seen), Arc::clone(&ended));
            std::thread::spawn(move || {
                for client in listener.incoming().flatten() {
                    if ended.load(Ordering::SeqCst) {
                        return;
                    }
                    // Who is refused by the other side is refused here.
                    let Ok(server) = TcpStream::connect(at) else { continue };
                    let nothing: Change = Arc::new(all);
                    for (from, to, change) in [(&client, &server, &nothing), (&server, &client, &change)] {
                        let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
                        let (seen, change) = (Arc::clone(&seen), Arc::clone(change));
                        std::thread::spawn(move || pass(from, to, delay, &seen, &change));
                    }
                }
            })
        };
        Ok(Self { port: own, seen, ended, listening: Some(listening) })
    }

    /// All that passed, in both directions.
    pub fn seen(&self) -> Vec<u8> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether these bytes passed.
    pub fn saw(&self, marker: &str) -> bool {
        self.seen().windows(marker.len()).any(|window| window == marker.as_bytes())
    }
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn all(_: u64, bytes: &mut [u8]) -> usize {
    bytes.len()
}

fn pass(mut from: TcpStream, mut to: TcpStream, delay: Duration, seen: &Mutex<Vec<u8>>, change: &Change) {
    // What is kept back waits here, with the time at which it is to go on; nothing is kept of what is only delayed.
    let (later, due) = std::sync::mpsc::channel::<(Instant, Vec<u8>)>();
    let writer = std::thread::spawn(move || {
        for (at, bytes) in due {
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut buffer, mut before, mut cut) = (vec![0; 64 * 1024], 0, false);
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let Some(bytes) = buffer.get_mut(..count) else { break };
        let passes = change(before, bytes);
        let Some(bytes) = bytes.get(..passes) else { break };
        before += count as u64;
        if delay.is_zero() {
            seen.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        }
        if later.send((Instant::now() + delay, bytes.to_vec())).is_err() {
            break;
        }
        if passes < count {
            cut = true;
            break;
        }
    }
    drop(later);
    let _ = writer.join();
    let _ = from.shutdown(if cut { Shutdown::Both } else { Shutdown::Read });
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(thread) = self.listening.take() {
            let _ = thread.join();
        }
    }
}
