//! The routes, one handler each. Answers that are refusals are one line of text for a person.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use systemimager_core::{HostName, ImageFacts, ImageName, OverrideName};
use systemimager_engine::account;
use systemimager_engine::boot::from_disk::FromDisk;
use systemimager_engine::report::{Event, Hello, Report, Sessions, State as Reached, Word};
use systemimager_engine::serve::desk::Refused;
use systemimager_engine::serve::exports;
use systemimager_engine::serve::machine::Machine;
use systemimager_engine::store::image_store::ImageStore;
use systemimager_engine::store::master::Master;
use systemimager_engine::store::{clients, host_links, macs, overrides};
use systemimager_initrd::bundle::BundleIndex;
use tower_http::services::ServeFile;

use super::Shared;

/// Most bytes of a report, and of a hello.
pub const REPORT_LIMIT: usize = 1 << 20;
/// How long an answer is kept back at most.
const LONGEST_PATIENCE: Duration = Duration::from_secs(30);

/// How long the transports may take to know of a machine's key.
const ADMITTED: Duration = Duration::from_secs(10);

/// A refusal: a status and one line.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, format!("{}\n", self.1)).into_response()
    }
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        tracing::warn!("HTTP: {error:#}");
        Refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}"))
    }
}

fn not_found(text: String) -> Refusal {
    Refusal(StatusCode::NOT_FOUND, text)
}

fn bad(error: impl std::fmt::Display) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, error.to_string())
}

type Answer<T> = Result<T, Refusal>;

/// All routes.
pub fn all(shared: Arc<Shared>) -> Router {
    Router::new()
        // The same by both: the paths of the TFTP root are what loaders know.
        .route("/{name}", get(boot_file))
        .route("/boot/{name}", get(boot_file))
        .route(Sessions::PATH, get(sessions))
        .route("/v1/hosts", get(hosts))
        .route("/v1/macs", get(macs))
        .route("/v1/hosts/{host}/master", get(host_master))
        .route("/v1/images/{image}/master", get(image_master))
        .route("/v1/images/{image}/facts", get(facts))
        .route("/v1/images/{image}/tree", get(tree))
        .route("/v1/images/{image}/bundle", get(bundle))
        .route("/v1/blobs/{hash}", get(blob))
        .route("/v1/overrides", get(own_overrides))
        .route("/v1/hosts/{host}/overrides", get(host_overrides))
        .route("/v1/from-disk", get(from_disk))
        .route("/v1/hello", post(hello).layer(DefaultBodyLimit::max(REPORT_LIMIT)))
        .route("/v1/reports", post(report).layer(DefaultBodyLimit::max(REPORT_LIMIT)))
        .route("/v1/status", get(status))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), super::signing::sign))
        .with_state(shared)
}

/// Work that reads disks or calls plugins, away from the threads that serve others.
async fn blocking<T: Send + 'static>(
    shared: Arc<Shared>,
    work: impl FnOnce(&Shared) -> Answer<T> + Send + 'static,
) -> Answer<T> {
    tokio::task::spawn_blocking(move || work(&shared))
        .await
        .map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("a bug in the server: {error}")))?
}

async fn file(path: PathBuf, request: Request) -> Response {
    match ServeFile::new(path).try_call(request).await {
        Ok(response) => response.map(Body::new),
        Err(error) => Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Kernel and initrd, and what else lies right below the TFTP root: the same paths as by TFTP.
async fn boot_file(State(shared): State<Arc<Shared>>, Path(name): Path<String>, request: Request) -> Response {
    // A plain name: nothing that leads elsewhere, nothing hidden.
    if name.starts_with('.') || name.contains(['/', '\\', '\0']) {
        return bad(format!("{name:?} is no name of a boot file")).into_response();
    }
    let path = shared.config.tftp().join(&name);
    if !path.is_file() {
        return not_found(format!("there is no boot file {name}; make it with systemimager mkinitrd")).into_response();
    }
    file(path, request).await
}

/// Which account transports let machines into that come with a key.
async fn sessions(State(shared): State<Arc<Shared>>) -> Answer<Json<Sessions>> {
    blocking(shared, |shared| {
        // One that went away meanwhile lets nobody in; what needs none is not to fail for it.
        let account = account::of(&shared.config).inspect_err(|error| tracing::warn!("{error:#}"));
        Ok(Json(Sessions { account: account.ok().flatten().map(|account| account.name) }))
    })
    .await
}

async fn hosts(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let path = shared.config.masters().join("hosts");
    if !path.is_file() {
        return not_found("no machines are declared; declare them with systemimager addclients".into()).into_response();
    }
    file(path, request).await
}

/// The overrides that a host has of its own, besides those of its master: one or none.
async fn host_overrides(
    State(shared): State<Arc<Shared>>,
    Path(host): Path<String>,
) -> Answer<Json<Vec<OverrideName>>> {
    let host: HostName = host.parse().map_err(bad)?;
    blocking(shared, move |shared| Ok(Json(overrides::of_host(&shared.config, &host).into_iter().collect()))).await
}

/// The same of the machine that asks, by its address.
async fn own_overrides(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
) -> Answer<Json<Vec<OverrideName>>> {
    blocking(shared, move |shared| {
        let client = clients::at(&shared.config, peer.ip().to_canonical())?;
        let own = client.and_then(|client| overrides::of_host(&shared.config, &client.host));
        Ok(Json(own.into_iter().collect()))
    })
    .await
}

/// What the machine that asks puts onto its own disk to be installed anew.
async fn from_disk(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
) -> Answer<Json<FromDisk>> {
    blocking(shared, move |shared| Ok(Json(shared.desk.from_disk(peer.ip().to_canonical())?))).await
}

/// Which MAC address each host has, as the server keeps it: by it a machine knows who it is.
async fn macs(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let path = macs::file(&shared.config);
    if !path.is_file() {
        return not_found("no MACs are declared; declare them with systemimager addclients --macs".into())
            .into_response();
    }
    file(path, request).await
}

async fn host_master(State(shared): State<Arc<Shared>>, Path(host): Path<String>) -> Answer<String> {
    let host: HostName = host.parse().map_err(bad)?;
    blocking(shared, move |shared| match host_links::master_of(&shared.config, &host)? {
        Some(found) => Ok(found.text),
        None => Err(not_found(format!(
            "{host} has no image; give it one with: systemimager addclients {host} --image NAME"
        ))),
    })
    .await
}

async fn image_master(State(shared): State<Arc<Shared>>, Path(image): Path<String>) -> Answer<String> {
    let image: ImageName = image.parse().map_err(bad)?;
    blocking(shared, move |shared| Ok(master_of(shared, &image)?.1)).await
}

fn master_of(shared: &Shared, image: &ImageName) -> Answer<(Master, String)> {
    match host_links::master_of_image(&shared.config, image)? {
        Some(found) => Ok((found.master()?, found.text)),
        None => Err(not_found(format!("there is no master file of the image {image}; capture it with getimage"))),
    }
}

fn no_image(image: &ImageName) -> Refusal {
    not_found(format!("there is no image {image}; capture it with getimage"))
}

/// From now on the tree is held for the machine that asks.
async fn facts(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(image): Path<String>,
) -> Answer<Json<ImageFacts>> {
    let image: ImageName = image.parse().map_err(bad)?;
    blocking(shared, move |shared| {
        let store = ImageStore::new(&shared.config);
        if store.identity(&image)?.is_none() {
            return Err(no_image(&image));
        }
        let reading = shared.readings.hold(peer.ip(), &image, &store, Instant::now())?;
        Ok(Json(shared.facts.of(&image, &reading, &store, &shared.registry, &shared.host)?))
    })
    .await
}

/// Which tree the image is now, one line: `tree` of its facts until it is captured anew.
async fn tree(State(shared): State<Arc<Shared>>, Path(image): Path<String>) -> Answer<String> {
    let image: ImageName = image.parse().map_err(bad)?;
    blocking(shared, move |shared| match ImageStore::new(&shared.config).identity(&image)? {
        Some(identity) => Ok(format!("{identity}\n")),
        None => Err(no_image(&image)),
    })
    .await
}

async fn bundle(State(shared): State<Arc<Shared>>, Path(image): Path<String>) -> Answer<Json<BundleIndex>> {
    let image: ImageName = image.parse().map_err(bad)?;
    blocking(shared, move |shared| {
        let (master, _) = master_of(shared, &image)?;
        // A host's own master may name other plugins, and its host asks for the same bundle.
        let others = exports::masters(&shared.config)?.good.into_iter().map(|(_, other)| other);
        let others = others.filter(|other| other.image == image && *other != master);
        let masters: Vec<Master> = std::iter::once(master.clone()).chain(others).collect();
        Ok(Json(shared.bundles.index(&masters, &shared.config, &shared.registry, &shared.host)?))
    })
    .await
}

async fn blob(State(shared): State<Arc<Shared>>, Path(hash): Path<String>, request: Request) -> Response {
    match shared.bundles.blob(&hash) {
        Some(path) => file(path, request).await,
        None => not_found("no bundle holds a file of that hash; ask for the bundle first".into()).into_response(),
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let status = match &refused {
            Refused::Stranger => StatusCode::FORBIDDEN,
            Refused::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Refused::Invalid(_) => StatusCode::BAD_REQUEST,
            Refused::Trouble(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        tracing::warn!("HTTP: {refused}");
        Refusal(status, refused.to_string())
    }
}

/// What the machine is to do. "Wait" is kept back until it may have changed, as long as the machine has patience.
async fn hello(State(shared): State<Arc<Shared>>, Json(hello): Json<Hello>) -> Answer<Json<Word>> {
    let patience = Duration::from_secs(hello.patience.into()).min(LONGEST_PATIENCE);
    let deadline = tokio::time::Instant::now() + patience;
    let mut changed = shared.changed.subscribe();
    let first = Arc::new(hello);
    let asked = Arc::clone(&first);
    let mut word = blocking(Arc::clone(&shared), move |shared| Ok(shared.desk.hello(&asked)?)).await?;
    let again = Arc::new(Hello { hardware: None, ..(*first).clone() });
    while let Word::Wait { .. } = word {
        match tokio::time::timeout_at(deadline, changed.changed()).await {
            Ok(Ok(())) => {}
            // The time is over, or the server ends.
            _ => break,
        }
        let asked = Arc::clone(&again);
        word = blocking(Arc::clone(&shared), move |shared| Ok(shared.desk.asks_again(&asked)?)).await?;
    }
    if matches!(word, Word::Install { .. }) && first.key.is_some() {
        // Before it asks a transport for anything.
        let (told, hear) = std::sync::mpsc::channel();
        shared.admit(Some(told));
        blocking(shared, move |_| match hear.recv_timeout(ADMITTED) {
            Ok(true) => Ok(()),
            // It asks again.
            _ => Err(Refusal(
                StatusCode::SERVICE_UNAVAILABLE,
                "the transports do not know this machine's key yet; ask again".into(),
            )),
        })
        .await?;
    }
    Ok(Json(word))
}

async fn report(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Json(report): Json<Report>,
) -> Answer<StatusCode> {
    let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = token.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
    blocking(shared, move |shared| {
        let ends = matches!(&report.event, Event::State { state: Reached::Installed | Reached::Failed, .. });
        shared.desk.report(token.as_deref(), report)?;
        if ends {
            shared.readings.let_go(peer.ip());
        }
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

async fn status(State(shared): State<Arc<Shared>>) -> Json<Vec<Machine>> {
    Json(shared.desk.machines.list())
}
