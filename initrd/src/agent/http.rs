//! The image server, as the agent asks it: what goes wrong is said on the consoles.

pub use systemimager_engine::remote::{NotThere, PostError, Server};

use super::console;

/// The server at `host` (a name or an address) and `port`.
pub fn server(host: &str, port: u16) -> Server {
    Server::new(host, port).telling(
        |line| console::line(line),
        "si.server= and si.port= on the kernel command line, or IMAGESERVER in local.cfg,",
    )
}
