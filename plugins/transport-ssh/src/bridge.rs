//! What rsync starts where others start ssh(1): a connection to one machine, known by its key, with a key of one's own, and one
//! command there, whose streams become ours.
//!
//! It reads no files, asks nobody, has no shell and no terminal. Nothing is sent before the other side has shown its key.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use ssh2::{BlockDirections, Channel, ErrorCode, MethodType, Session};
use systemimager_core::{PluginError, Result};

use crate::KEY;
use crate::reason::Reason;

/// What may be under way to us, bytes: with a round trip of 20 ms, 400 MB a second. It is also what is kept in memory where our disk
/// is slower than the network.
const WINDOW: u32 = 8 << 20;
/// Longest packet that is sent to us: what every sshd can (RFC 4253, section 6.1).
const PACKET: u32 = 32 << 10;
/// Moved at a time, bytes: two packets of ssh's.
const CHUNK: usize = 64 * 1024;
/// The program on the other side ends so where it refuses what was asked (`EX_NOPERM` of sysexits.h).
pub const REFUSED: i32 = 77;
/// The same where it could not serve just now (`EX_TEMPFAIL`).
pub const LATER: i32 = 75;
/// libssh2's error codes of a key that the other side does not take (libssh2.h).
const NOT_LET_IN: [i32; 2] = [-18, -19];
/// How long the other side may take to end when ours has all it wants.
const GOODBYE: Duration = Duration::from_secs(10);
/// Most that is kept of what the other side says on standard error, bytes.
const SAID: usize = 4096;
/// The best first; the other side takes the first that it knows too. libssh2 deciphers AES sixteen bytes at a time, which costs twice
/// what ChaCha20 does, even where the processor has AES.
const CIPHERS: &str = "chacha20-poly1305@openssh.com,aes256-gcm@openssh.com,aes256-ctr";
/// The first twenty bytes of every key of this kind: two lengths, and the name between (RFC 8709).
const ED25519: &[u8] = b"\0\0\0\x0bssh-ed25519\0\0\0\x20";

/// The middle of `ssh-ed25519 AAAA…`, checked.
///
/// # Errors
/// `Invalid`: it is something else.
pub fn public_key(text: &str) -> Result<String> {
    let is_key = |middle: &&str| {
        STANDARD.decode(middle).is_ok_and(|bytes| bytes.len() == ED25519.len() + 32 && bytes.starts_with(ED25519))
    };
    let middle = text.strip_prefix("ssh-ed25519 ").filter(is_key);
    middle.map(str::to_owned).ok_or_else(|| {
        PluginError::invalid(format!("{text:?} is no ssh-ed25519 key in OpenSSH's form, without a comment"))
    })
}

/// The helper: `SERVER PORT ACCOUNT SECONDS HOST-KEY`, and what rsync adds: a host that counts for nothing, and the command. Returns the
/// exit status.
pub fn run(words: &[String]) -> i32 {
    match bridge(words) {
        Ok(status) => status,
        Err(reason) => {
            let _ = writeln!(std::io::stderr(), "{reason}");
            255
        }
    }
}

fn bridge(words: &[String]) -> std::result::Result<i32, Reason> {
    let [server, port, account, patience, host_key, _, command @ ..] = words else {
        return Err(Reason::failed("this program is started by rsync, for the ssh transport of systemimager"));
    };
    let number = |word: &String| word.parse::<u16>().map_err(|_| Reason::failed(format!("{word:?} is no number")));
    let (port, patience) = (number(port)?, Duration::from_secs(number(patience)?.into()));
    let expected = STANDARD.decode(host_key).map_err(|_| Reason::failed("the other side's key is none"))?;
    let key = std::env::var(KEY).map_err(|_| Reason::failed("no key was given to ask with"))?;

    let tcp = connect(server, port, patience)?;
    let session = greet(&tcp, server, port, patience, &expected)?;
    let broken = |error: ssh2::Error| Reason::unreachable(format!("{server} port {port}: {error}"));
    session.userauth_pubkey_memory(account, None, &key, None).map_err(|error| {
        let is_refusal = matches!(error.code(), ErrorCode::Session(code) if NOT_LET_IN.contains(&code));
        if matches!(error.code(), ErrorCode::Session(-16)) {
            return Reason::denied(format!("the key to ask with is none ({error})"));
        }
        if !is_refusal {
            return broken(error);
        }
        Reason::denied(format!(
            "{server} port {port} does not let this machine's key in ({error}); it is not admitted there, not from this address, \
             or not any more"
        ))
    })?;
    let mut channel = session.channel_open("session", WINDOW, PACKET, None).map_err(broken)?;
    channel.exec(&command.join(" ")).map_err(broken)?;
    session.set_blocking(false);
    let said = pump(&session, &mut channel, &tcp)
        .map_err(|error| Reason::unreachable(format!("{server} port {port} went away: {error}")))?;
    session.set_blocking(true);
    session.set_timeout(u32::try_from(GOODBYE.as_millis()).unwrap_or(u32::MAX));
    // The other side has ended; that it does not say goodbye changes nothing.
    let _ = channel.close();
    let _ = channel.wait_close();
    let status = channel.exit_status().unwrap_or(255);
    let said = || format!("{server} port {port}: {}", said.lines().last().unwrap_or("it does not say why"));
    match status {
        REFUSED => Err(Reason::denied(said())),
        LATER => Err(Reason::unreachable(said())),
        status => Ok(status),
    }
}

fn connect(server: &str, port: u16, patience: Duration) -> std::result::Result<TcpStream, Reason> {
    let unreachable = |why: String| Reason::unreachable(format!("{server} port {port}: {why}"));
    let addresses = (server, port).to_socket_addrs().map_err(|error| unreachable(error.to_string()))?;
    let mut last = "it has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(tcp) => {
                tcp.set_nodelay(true).map_err(|error| unreachable(error.to_string()))?;
                return Ok(tcp);
            }
            Err(error) => last = error.to_string(),
        }
    }
    Err(unreachable(last))
}

/// A session with a machine that has shown its key.
fn greet(
    tcp: &TcpStream,
    server: &str,
    port: u16,
    patience: Duration,
    expected: &[u8],
) -> std::result::Result<Session, Reason> {
    let unreachable = |error: &dyn std::fmt::Display| Reason::unreachable(format!("{server} port {port}: {error}"));
    let mut session = Session::new().map_err(|error| Reason::failed(format!("libssh2 does not start: {error}")))?;
    let methods = [
        (MethodType::Kex, "curve25519-sha256,curve25519-sha256@libssh.org"),
        (MethodType::HostKey, "ssh-ed25519"),
        (MethodType::CryptCs, CIPHERS),
        (MethodType::CryptSc, CIPHERS),
    ];
    for (method, names) in methods {
        session
            .method_pref(method, names)
            .map_err(|error| Reason::failed(format!("libssh2 lacks {names}: {error}")))?;
    }
    session.set_timeout(u32::try_from(patience.as_millis()).unwrap_or(u32::MAX));
    session.set_tcp_stream(tcp.try_clone().map_err(|error| unreachable(&error))?);
    session.handshake().map_err(|error| {
        Reason::unreachable(format!(
            "{server} port {port} does not greet as sshd does ({error}); look whether the ssh transport is offered there"
        ))
    })?;
    match session.host_key() {
        Some((key, _)) if key == expected => Ok(session),
        _ => Err(Reason::denied(format!(
            "{server} port {port} has another key than the one that is expected; somebody may be in between, or it was made \
             anew: nothing was sent"
        ))),
    }
}

/// Bytes on their way in one direction.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    at: usize,
}

impl Buffer {
    fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Fills it where it is empty; `None`: nothing is there now.
    fn fill(&mut self, read: impl FnOnce(&mut [u8]) -> std::io::Result<usize>) -> std::io::Result<Option<usize>> {
        self.bytes.resize(CHUNK, 0);
        let count = match read(&mut self.bytes) {
            Ok(count) => Some(count),
            Err(error) if is_later(&error) => None,
            Err(error) => {
                self.bytes.clear();
                self.at = 0;
                return Err(error);
            }
        };
        self.bytes.truncate(count.unwrap_or_default());
        self.at = 0;
        Ok(count)
    }

    /// Gives away what it can; whether anything went.
    fn drain(&mut self, write: impl FnOnce(&[u8]) -> std::io::Result<usize>) -> std::io::Result<bool> {
        match write(self.bytes.get(self.at..).unwrap_or_default()) {
            Ok(count) => {
                self.at = self.bytes.len().min(self.at + count);
                Ok(count > 0)
            }
            Err(error) if is_later(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn is_later(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn errno(error: Errno) -> std::io::Error {
    error.into()
}

/// Moves bytes both ways until the other side has ended, and returns the end of what it said on standard error.
fn pump(session: &Session, channel: &mut Channel, tcp: &TcpStream) -> std::io::Result<String> {
    let (stdin, stdout) = (rustix::stdio::stdin(), rustix::stdio::stdout());
    rustix::io::ioctl_fionbio(stdin, true)?;
    rustix::io::ioctl_fionbio(stdout, true)?;
    let (mut there, mut here, mut said) = (Buffer::default(), Buffer::default(), Vec::new());
    let (mut ours_ended, mut told_end) = (false, false);
    // Set when our rsync has gone: when it has all it wants, it does not wait for the other side's end.
    let mut until: Option<Instant> = None;
    loop {
        let mut moved = false;
        if there.is_empty() && !ours_ended {
            match there.fill(|bytes| rustix::io::read(stdin, bytes).map_err(errno))? {
                Some(0) => ours_ended = true,
                Some(_) => moved = true,
                None => {}
            }
        }
        if !there.is_empty() {
            moved |= there.drain(|bytes| channel.write(bytes))?;
        }
        if ours_ended && there.is_empty() && !told_end {
            match channel.send_eof().map_err(std::io::Error::from) {
                Ok(()) => told_end = true,
                Err(error) if is_later(&error) => {}
                Err(error) => return Err(error),
            }
        }
        if here.is_empty() {
            moved |= here.fill(|bytes| channel.read(bytes))?.is_some_and(|count| count > 0);
        }
        if !here.is_empty() && until.is_some() {
            here = Buffer::default();
        } else if !here.is_empty() {
            match here.drain(|bytes| rustix::io::write(stdout, bytes).map_err(errno)) {
                Ok(any) => moved |= any,
                // It has ended before it had all: it says itself why.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => until = Some(Instant::now() + GOODBYE),
                Err(error) => return Err(error),
            }
        }
        moved |= hear(channel, &mut said)?;
        let late = until.is_some_and(|until| Instant::now() >= until);
        if here.is_empty() && (channel.eof() || late) {
            return Ok(String::from_utf8_lossy(&said).trim().to_owned());
        }
        if !moved {
            let out = match until {
                Some(_) => None,
                None => Some((stdout, !here.is_empty())),
            };
            let reads = !ours_ended && there.is_empty();
            if !wait(session, tcp.as_fd(), reads.then_some(stdin), out)? {
                // What it said last may still be on its way to us.
                until = Some(Instant::now() + GOODBYE);
            }
        }
    }
}

/// What the other side says on standard error goes to ours.
fn hear(channel: &mut Channel, said: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut bytes = [0; 1024];
    match channel.stderr().read(&mut bytes) {
        Ok(0) => Ok(false),
        Ok(count) => {
            let heard = bytes.get(..count).unwrap_or_default();
            // Nobody may read it; that is no reason to stop.
            let _ = std::io::stderr().write_all(heard);
            said.extend_from_slice(heard);
            let more = said.len().saturating_sub(SAID);
            said.drain(..more);
            Ok(true)
        }
        Err(error) if is_later(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Until something can move. False: nobody reads our output any more.
fn wait(
    session: &Session,
    tcp: BorrowedFd<'_>,
    stdin: Option<BorrowedFd<'_>>,
    stdout: Option<(BorrowedFd<'_>, bool)>,
) -> std::io::Result<bool> {
    let mut net = PollFlags::IN;
    if matches!(session.block_directions(), BlockDirections::Outbound | BlockDirections::Both) {
        net |= PollFlags::OUT;
    }
    let mut fds = vec![PollFd::from_borrowed_fd(tcp, net)];
    if let Some((stdout, wanted)) = stdout {
        fds.push(PollFd::from_borrowed_fd(stdout, if wanted { PollFlags::OUT } else { PollFlags::empty() }));
    }
    if let Some(stdin) = stdin {
        fds.push(PollFd::from_borrowed_fd(stdin, PollFlags::IN));
    }
    match poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 })) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let gone = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
    let gone = stdout.is_some() && fds.get(1).is_some_and(|fd| fd.revents().intersects(gone));
    Ok(!gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_one_kind() {
        let middle = "AAAAC3NzaC1lZDI1NTE5AAAAIGmaSFjmDSJyJ2Uuo7X5zFVRIYk2HUHLGyKTFpB9rZbN";
        assert_eq!(public_key(&format!("ssh-ed25519 {middle}")).unwrap(), middle);
        for bad in [
            "".to_owned(),
            middle.to_owned(),
            format!("ssh-ed25519 {middle} comment"),
            format!("ssh-ed25519 {}", &middle[..40]),
            format!("ssh-ed25519 {middle}\ncommand=\"id\" {middle}"),
            format!("ssh-rsa {middle}"),
        ] {
            assert!(public_key(&bad).unwrap_err().message.contains("is no ssh-ed25519 key"), "{bad:?}");
        }
    }

    #[test]
    fn a_buffer_gives_away_in_pieces() {
        let mut buffer = Buffer::default();
        assert!(buffer.is_empty());
        let filled = buffer.fill(|bytes| {
            bytes[..3].copy_from_slice(b"abc");
            Ok(3)
        });
        assert_eq!(filled.unwrap(), Some(3));
        assert!(buffer.drain(|bytes| Ok(bytes.len().min(2))).unwrap() && !buffer.is_empty());
        assert!(!buffer.drain(|_| Err(ErrorKind::WouldBlock.into())).unwrap());
        assert!(buffer.drain(|bytes| Ok(bytes.len())).unwrap() && buffer.is_empty());
        assert_eq!(buffer.fill(|_| Err(ErrorKind::WouldBlock.into())).unwrap(), None);
        assert!(buffer.is_empty());
        assert!(buffer.fill(|_| Err(ErrorKind::ConnectionReset.into())).is_err() && buffer.is_empty());
    }
}
