//! Files and messages of our own, as JSON, that somebody may have damaged: orders, machines, parts of the server, what a
//! master client tells of itself.

use serde_json::from_slice;
use systemimager_core::{Identity, ImageFacts};
use systemimager_engine::boot::from_disk::FromDisk;
use systemimager_engine::capture::facts::CaptureFacts;
use systemimager_engine::install::record::Record;
use systemimager_engine::plan::Plan;
use systemimager_engine::serve::machine::Machine;
use systemimager_engine::serve::parts::PartState;
use systemimager_engine::store::orders::Order;

use crate::seen;

pub fn target(data: &[u8]) {
    macro_rules! read {
        ($($kind:ty),*) => {$(
            if let Ok(value) = from_slice::<$kind>(data) {
                let json = serde_json::to_vec(&value).expect("JSON");
                assert_eq!(from_slice::<$kind>(&json).expect("read again"), value);
            }
        )*};
    }
    read!(Order, Machine, Vec<PartState>, Plan, ImageFacts, Identity, Record, FromDisk);
    if let Ok(machine) = from_slice::<Machine>(data) {
        machine.progress_words();
        machine.stalled(0, u64::MAX);
    }
    match CaptureFacts::parse(data) {
        Ok(facts) => {
            assert!(facts.layout.is_none_or(|layout| layout.check().is_ok()));
        }
        Err(error) => seen::lines(&format!("{error:#}")),
    }
}
