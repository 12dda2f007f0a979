//! The channel between a receiver and a sender: TCP, with the Noise protocol over it (`Noise_IK_25519_ChaChaPoly_BLAKE2s`, revision
//! 34). The receiver knows the sender's key before, the sender learns the receiver's in the first message and decides by it.
//!
//! ```text
//! receiver: "SIMC" version 1 | length 2 | handshake message 1, with Said::Hello
//! sender:                      length 2 | handshake message 2, empty
//! then both, as often as they like: length 2 | sealed bytes
//! ```
//! The bytes that are opened, one after another, are messages: length 4, then so many bytes. Numbers are little-endian.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use snow::{Builder, HandshakeState, StatelessTransportState};

use super::key::{Own, Public};
use super::message::MESSAGE_MAX;

/// First bytes of a receiver; the last is the version.
const MAGIC: &[u8; 5] = b"SIMC\x01";
const PATTERN: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";
/// Bound into the handshake, so that neither side's keys are good for anything else.
const PROLOGUE: &[u8] = b"systemimager multicast channel, 1";
/// Longest sealed frame (Noise, section 3), and most bytes in one.
const FRAME_MAX: usize = 65_535;
const BODY_MAX: usize = FRAME_MAX - 16;
/// Longest first message of a handshake.
const HELLO_MAX: usize = 1024;

fn noise(error: snow::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the other side's keys or bytes are wrong ({error})"))
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

fn builder(own: &Own) -> io::Result<Builder<'_>> {
    let pattern = PATTERN.parse().map_err(noise)?;
    Builder::new(pattern).local_private_key(&own.private).and_then(|it| it.prologue(PROLOGUE)).map_err(noise)
}

fn read_frame(stream: &mut impl Read, most: usize) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let length = usize::from(u16::from_le_bytes(length));
    if length > most {
        return Err(invalid("a frame is longer than it may be"));
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame)?;
    Ok(frame)
}

fn write_frame(stream: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    let length = u16::try_from(frame.len()).map_err(|_| invalid("a frame is too long"))?;
    // In one go: two small ones would wait for each other.
    stream.write_all(&[&length.to_le_bytes(), frame].concat())
}

/// Knocks at a sender whose key this is.
///
/// # Errors
/// It does not answer, or has another key. (Which of them is not to be told apart: one with another key cannot read the knock.)
pub fn knock(mut stream: TcpStream, own: &Own, sender: &Public, hello: &[u8]) -> io::Result<(Reading, Writing)> {
    let mut state = builder(own)?.remote_public_key(sender).map_err(noise)?.build_initiator().map_err(noise)?;
    let mut message = vec![0; FRAME_MAX];
    let length = state.write_message(hello, &mut message).map_err(noise)?;
    stream.write_all(MAGIC)?;
    write_frame(&mut stream, message.get(..length).unwrap_or_default())?;
    let answer = read_frame(&mut stream, HELLO_MAX)?;
    state.read_message(&answer, &mut message).map_err(noise)?;
    halves(stream, state)
}

/// Somebody who knocked, before it is decided whether they are let in.
pub struct Knock {
    stream: TcpStream,
    state: HandshakeState,
    /// Whose key they showed, and that they have it.
    pub who: Public,
    /// What they said.
    pub hello: Vec<u8>,
}

/// Reads from a stream until then, however few bytes come at a time.
struct Until<'a>(&'a TcpStream, Instant);

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.1.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.0.set_read_timeout(Some(left))?;
        self.0.read(buffer)
    }
}

/// Hears who knocks, in so much time.
///
/// # Errors
/// It is no receiver, does not know this side's key, or takes too long.
pub fn hear(stream: TcpStream, own: &Own, time: Duration) -> io::Result<Knock> {
    let mut until = Until(&stream, Instant::now() + time);
    let mut magic = [0; MAGIC.len()];
    until.read_exact(&mut magic)?;
    if &magic != MAGIC {
        return Err(invalid("it is no receiver, or one of another version"));
    }
    let mut state = builder(own)?.build_responder().map_err(noise)?;
    let message = read_frame(&mut until, HELLO_MAX)?;
    let mut hello = vec![0; HELLO_MAX];
    let length = state.read_message(&message, &mut hello).map_err(noise)?;
    hello.truncate(length);
    let who =
        state.get_remote_static().and_then(|key| key.try_into().ok()).ok_or_else(|| invalid("it shows no key"))?;
    Ok(Knock { stream, state, who, hello })
}

impl Knock {
    /// Answers, so that messages can go both ways.
    ///
    /// # Errors
    /// They are gone.
    pub fn answer(mut self) -> io::Result<(Reading, Writing)> {
        let mut message = [0; HELLO_MAX];
        let length = self.state.write_message(&[], &mut message).map_err(noise)?;
        write_frame(&mut self.stream, message.get(..length).unwrap_or_default())?;
        halves(self.stream, self.state)
    }
}

fn halves(stream: TcpStream, state: HandshakeState) -> io::Result<(Reading, Writing)> {
    let state = Arc::new(state.into_stateless_transport_mode().map_err(noise)?);
    let other = stream.try_clone()?;
    let reading = Reading { stream, state: Arc::clone(&state), nonce: 0, opened: Vec::new(), at: 0 };
    Ok((reading, Writing { stream: other, state, nonce: 0 }))
}

/// The half that messages come by.
pub struct Reading {
    stream: TcpStream,
    state: Arc<StatelessTransportState>,
    nonce: u64,
    opened: Vec<u8>,
    at: usize,
}

impl Reading {
    /// The next message.
    ///
    /// # Errors
    /// The other side is gone (`UnexpectedEof`), silent for longer than the stream's time (`WouldBlock`), or says what it cannot.
    pub fn message(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.exactly(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MESSAGE_MAX {
            return Err(invalid("a message is longer than it may be"));
        }
        let mut message = vec![0; length];
        self.exactly(&mut message)?;
        Ok(message)
    }

    fn exactly(&mut self, mut room: &mut [u8]) -> io::Result<()> {
        while !room.is_empty() {
            let there = self.opened.get(self.at..).unwrap_or_default();
            if there.is_empty() {
                let frame = read_frame(&mut self.stream, FRAME_MAX)?;
                self.opened.resize(FRAME_MAX, 0);
                let length = self.state.read_message(self.nonce, &frame, &mut self.opened).map_err(noise)?;
                self.nonce += 1;
                self.opened.truncate(length);
                self.at = 0;
                continue;
            }
            let count = there.len().min(room.len());
            let (head, rest) = room.split_at_mut(count);
            head.copy_from_slice(there.get(..count).unwrap_or_default());
            room = rest;
            self.at += count;
        }
        Ok(())
    }

    /// The stream below.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

/// The half that messages go by.
pub struct Writing {
    stream: TcpStream,
    state: Arc<StatelessTransportState>,
    nonce: u64,
}

impl Writing {
    /// Sends a message.
    ///
    /// # Errors
    /// The other side is gone, or does not take it in time.
    pub fn message(&mut self, message: &[u8]) -> io::Result<()> {
        let mut bytes = (message.len() as u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(message);
        let mut frame = vec![0; FRAME_MAX];
        for body in bytes.chunks(BODY_MAX) {
            let length = self.state.write_message(self.nonce, body, &mut frame).map_err(noise)?;
            self.nonce += 1;
            write_frame(&mut self.stream, frame.get(..length).unwrap_or_default())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::key;
    use super::*;
    use std::net::TcpListener;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    #[test]
    fn messages_go_both_ways() {
        let (server, machine) = (key::own(&key::of_seed(1).0).unwrap(), key::own(&key::of_seed(2).0).unwrap());
        let (near, far) = pair();
        let (known, shown) = (key::public(&key::of_seed(1).1).unwrap(), key::public(&key::of_seed(2).1).unwrap());
        let there = std::thread::spawn(move || {
            let knock = hear(far, &server, Duration::from_secs(10)).unwrap();
            assert_eq!((knock.who, &knock.hello[..]), (shown, &b"hello"[..]));
            let (mut reading, mut writing) = knock.answer().unwrap();
            let message = reading.message().unwrap();
            writing.message(&message).unwrap();
            writing.message(b"").unwrap();
        });
        let (mut reading, mut writing) = knock(near, &machine, &known, b"hello").unwrap();
        let long: Vec<u8> = (0..300_000_u32).map(|at| at as u8).collect();
        writing.message(&long).unwrap();
        assert_eq!(reading.message().unwrap(), long);
        assert_eq!(reading.message().unwrap(), b"");
        assert_eq!(reading.message().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        there.join().unwrap();
    }

    #[test]
    fn who_has_another_key_hears_nothing() {
        let own = |seed| key::own(&key::of_seed(seed).0).unwrap();
        let (near, far) = pair();
        let there =
            std::thread::spawn(move || hear(far, &own(3), Duration::from_secs(10)).map(|_| ()).unwrap_err().kind());
        assert!(knock(near, &own(2), &key::public(&key::of_seed(1).1).unwrap(), b"hello").is_err());
        assert_eq!(there.join().unwrap(), io::ErrorKind::InvalidData);
    }
}
