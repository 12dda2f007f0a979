//! What the image server answers over HTTP: kernel and initrd, hosts, masters, facts, bundles, reports.
//!
//! It only reads names that are checked types, and runs nothing that a request names. The network is
//! trusted as far as ARCHITECTURE.md says: everything here is open to who reaches the port.

mod bundles;
mod facts;
mod readings;
mod routes;
mod signing;

use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use systemimager_core::Registry;
use systemimager_engine::config::Config;
use systemimager_engine::host::EngineHost;
use systemimager_engine::serve::desk::Desk;
use systemimager_engine::serve::server::Happening;
use systemimager_engine::store::server_keys::ServerKeys;
use systemimager_engine::sys::dirwatch::DirWatch;
use systemimager_engine::sys::ports::{self, Protocol};
use tokio::sync::watch;

pub use bundles::Bundles;
pub use facts::Facts;
pub use readings::Readings;

/// How often trees are let go that were held too long.
const LET_GO_EVERY: Duration = Duration::from_secs(60);

/// What the handlers share.
pub struct Shared {
    /// The server's settings.
    pub config: Config,
    /// Its plugins.
    pub registry: Registry,
    /// What plugins see.
    pub host: EngineHost,
    /// Where machines ask what to do and report.
    pub desk: Desk,
    /// Wakes who waits for an answer of the desk.
    pub changed: watch::Sender<()>,
    /// Bundles that were made.
    pub bundles: Bundles,
    /// What is known of images.
    pub facts: Facts,
    /// Trees that machines install from.
    pub readings: Readings,
    /// Its keys.
    pub keys: ServerKeys,
    /// Where the server hears of what happens, once it runs.
    pub server: OnceLock<Sender<Happening>>,
}

impl Shared {
    /// Has the transports know who is admitted now; `whoever` hears when they do.
    fn admit(&self, whoever: Option<Sender<bool>>) {
        if let Some(server) = self.server.get() {
            // It may be at its end.
            let _ = server.send(Happening::Admit(whoever));
        }
    }
}

/// Takes the port, so that it is known to be free before anything else starts.
///
/// # Errors
/// It is taken, or the address is not this machine's.
pub fn bind(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).map_err(|error| {
        let taken = (error.kind() == std::io::ErrorKind::AddrInUse)
            .then(|| ports::taken(Protocol::Tcp, address.ip(), address.port()))
            .flatten();
        let advice = taken.map_or_else(String::new, |taken| {
            format!(": {taken}; stop it, or set http_port below [server] to another port")
        });
        anyhow::Error::new(error).context(format!("listening on {address}{advice}"))
    })?;
    listener.set_nonblocking(true).context("preparing the HTTP port")?;
    Ok(listener)
}

/// Serves on threads of its own until the runtime is shut down; a failure is told to `failed`.
///
/// # Errors
/// The threads cannot be started.
pub fn start(listener: TcpListener, shared: Arc<Shared>, failed: Sender<Happening>) -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("http")
        .enable_all()
        .build()
        .context("starting the HTTP server's threads")?;
    let listener = {
        let _inside = runtime.enter();
        tokio::net::TcpListener::from_std(listener).context("preparing the HTTP port")?
    };
    // The first that is told wins, and there is one server.
    let _ = shared.server.set(failed.clone());
    follow_orders(&shared).context("starting to watch orders")?;
    let held = Arc::clone(&shared);
    runtime.spawn(async move {
        loop {
            tokio::time::sleep(LET_GO_EVERY).await;
            held.readings.let_go_of_old(Instant::now());
        }
    });
    runtime.spawn(async move {
        let service = routes::all(shared).into_make_service_with_connect_info::<SocketAddr>();
        if let Err(error) = axum::serve(listener, service).await {
            // Whoever listened is at its end already.
            let _ = failed.send(Happening::Failed(format!("the HTTP server failed: {error}")));
        }
    });
    Ok(runtime)
}

/// Follows what commands change in orders, links and MAC addresses: boot entries are written, and machines that wait are
/// answered. The first time before this returns; after that on a thread of its own, which ends with the program.
fn follow_orders(shared: &Arc<Shared>) -> Result<()> {
    let dirs = shared.desk.watched();
    let watch = DirWatch::new(dirs.iter().map(std::path::PathBuf::as_path))?;
    shared.desk.arrange()?;
    let shared = Arc::clone(shared);
    std::thread::Builder::new().name("orders".into()).spawn(move || {
        loop {
            if let Err(error) = watch.wait(None) {
                tracing::error!("{error}; orders are followed no longer: restart the server");
                return;
            }
            if let Err(error) = shared.desk.arrange() {
                tracing::error!("{error:#}");
            }
            shared.admit(None);
            // Nobody may wait just now.
            let _ = shared.changed.send(());
        }
    })?;
    Ok(())
}
