//! Private parsers, for the fuzz targets of `fuzz/` alone: each of them reads what comes from outside, and is reached
//! in the product only through files, programs or sockets. No part of the library; nothing else may use it.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Result;
use systemimager_core::ImageName;

use crate::report::Report;
use crate::serve::machine::{self, Machine};
use crate::store::macs::Mac;
use crate::sys::signatures::Mark;

pub use crate::facts::fuzzing::*;

/// What wipefs(8) prints with `--json`.
///
/// # Errors
/// It is no list of signatures.
pub fn signatures(json: &str) -> Result<Vec<Mark>, String> {
    crate::sys::signatures::parse_marks(json)
}

/// The peers of established connections to a port of ours, in a table of proc_net(5).
pub fn peers(table: &str, port: u16) -> Vec<IpAddr> {
    crate::capture::connections::peers(table, port).collect()
}

/// A machine as it is known after its reports, and the lines that were logged of them.
pub fn told(mac: Mac, reports: &[Report]) -> (Machine, Vec<String>) {
    let mut known = Machine::new(mac, 0);
    let mut lines = Vec::new();
    for report in reports {
        let image = report.image.as_deref().and_then(|name| ImageName::try_from(name).ok());
        known.take(report, image, 1);
        lines.extend(machine::logged(report).map(|line| machine::shortened(&line)));
    }
    (known, lines)
}

/// The identification of an operating system, by os-release(5).
pub fn os_release(text: &str) -> BTreeMap<String, String> {
    crate::facts::parse_os_release(text)
}

/// How two releases of a kernel are ordered.
pub fn newer(one: &str, other: &str) -> Ordering {
    releases(one, other)
}
