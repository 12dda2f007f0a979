//! What transports tell of trees on their way: which receivers there are, how far each is, and how it ended.

use std::path::Path;

use serde::Serialize;
use systemimager_core::{Offer, ServiceState, SessionState};

use super::exports::work_dir;
use crate::config::Config;

/// A tree on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Session {
    /// By which transport.
    pub transport: String,
    /// What it tells.
    #[serde(flatten)]
    pub state: SessionState,
}

/// What a service tells whose own directory this is; one that does not tell anything, nothing.
pub fn told_in(work_dir: &Path) -> ServiceState {
    let told = std::fs::read(work_dir.join(Offer::STATE_FILE)).ok();
    told.and_then(|told| serde_json::from_slice(&told).ok()).unwrap_or_default()
}

/// What all transports of a running server tell, by their ids; the latest session last.
pub fn all(config: &Config) -> Vec<Session> {
    let dir = config.run().join("transports");
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut ids: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    ids.sort();
    let of = |id: &String| {
        let transport = id.clone();
        let sessions = told_in(&work_dir(config, id)).sessions;
        sessions.into_iter().map(move |state| Session { transport: transport.clone(), state })
    };
    ids.iter().flat_map(of).collect()
}
