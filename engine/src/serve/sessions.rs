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

/// What a service tells whose own directory this is; nothing, if it does not tell.
pub fn told_in(work_dir: &Path) -> Option<ServiceState> {
    serde_json::from_slice(&std::fs::read(work_dir.join(Offer::STATE_FILE)).ok()?).ok()
}

/// What all transports of a running server tell, by their ids; the latest session last.
pub fn all(config: &Config) -> Vec<Session> {
    let dir = config.run().join("transports");
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut ids: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    ids.sort();
    let of = |id: &String| {
        let transport = id.clone();
        let sessions = told_in(&work_dir(config, id)).unwrap_or_default().sessions;
        sessions.into_iter().map(move |state| Session { transport: transport.clone(), state })
    };
    ids.iter().flat_map(of).collect()
}
