//! Telling a service manager how this process is: one datagram, as sd_notify(3) describes it, without its library.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where it listens.
const SOCKET: &str = "NOTIFY_SOCKET";

/// Tells the service manager, if one started this process and wants to know: `READY=1`, `STOPPING=1`, `STATUS=…`, several
/// with line breaks between them. False: nobody wants to know.
///
/// # Errors
/// The environment names a socket that is not there or is of another kind.
pub fn notify(state: &str) -> io::Result<bool> {
    match std::env::var_os(SOCKET) {
        Some(target) => tell(&target, state).map(|()| true),
        None => Ok(false),
    }
}

/// `@NAME` is in the abstract namespace, anything else a path (unix(7)).
fn tell(target: &OsStr, state: &str) -> io::Result<()> {
    let address = match target.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(target)?,
        _ => {
            let target = OsString::from(target);
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("{SOCKET}={target:?} is neither a path nor an abstract name"),
            ));
        }
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_is_told() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("notify");
        let by_path = UnixDatagram::bind(&path).expect("bound");
        let name = format!("systemimager-test-{}", std::process::id());
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).expect("a name")).expect("bound");
        for (socket, target) in [(by_path, path.clone().into_os_string()), (by_name, format!("@{name}").into())] {
            tell(&target, "READY=1\nSTATUS=x").expect("told");
            let mut buffer = [0; 64];
            let count = socket.recv(&mut buffer).expect("heard");
            assert_eq!(&buffer[..count], b"READY=1\nSTATUS=x");
        }
        for (target, kind) in [
            (dir.path().join("absent").into_os_string(), io::ErrorKind::NotFound),
            (OsString::from("vsock:2:1234"), io::ErrorKind::Unsupported),
            (OsString::new(), io::ErrorKind::Unsupported),
        ] {
            assert_eq!(tell(&target, "READY=1").expect_err("nobody listens").kind(), kind, "{target:?}");
        }
    }
}
