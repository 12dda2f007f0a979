//! Kea's memfile (Administrator Reference Manual, "Memfile"): CSV with a line of column names. A comma in a value is
//! written `&#x2c`. A later line replaces an earlier one of the same address; one with a lifetime of 0 removes it.

use std::collections::BTreeMap;

use super::{Ends, Lease, Parsed, quoted};

/// A lifetime without end.
const FOREVER: u64 = u32::MAX as u64;

pub(super) fn parse(text: &str) -> Parsed {
    let (mut leases, mut faults) = Parsed::default();
    let mut columns: BTreeMap<&str, usize> = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let cells: Vec<&str> = line.split(',').map(str::trim).collect();
        if line.trim().is_empty() {
            continue;
        }
        // Files that were put together have it again in their middle.
        if cells.first() == Some(&"address") {
            columns = cells.iter().enumerate().map(|(index, name)| (*name, index)).collect();
            continue;
        }
        if columns.is_empty() {
            faults.push((number, "the columns are not named; Kea begins its file with address,hwaddr,…".into()));
            return (leases, faults);
        }
        if cells.len() < columns.len() {
            let says = format!("{} has {} columns and not {}", quoted(line), cells.len(), columns.len());
            faults.push((number, says));
            continue;
        }
        match lease(number, &|name| columns.get(name).and_then(|index| cells.get(*index)).copied()) {
            Ok(lease) => leases.push(lease),
            Err(column) => faults.push((number, format!("{} has no right {column}", quoted(line)))),
        }
    }
    (leases, faults)
}

fn lease<'a>(line: usize, cell: &dyn Fn(&str) -> Option<&'a str>) -> Result<Lease, &'static str> {
    let address = cell("address").and_then(|it| it.parse().ok()).ok_or("address")?;
    let lifetime: u64 = cell("valid_lifetime").and_then(|it| it.parse().ok()).ok_or("valid_lifetime")?;
    let expire: u64 = cell("expire").and_then(|it| it.parse().ok()).ok_or("expire")?;
    let state = cell("state").map_or(Ok(0_u32), str::parse).map_err(|_| "state")?;
    let mac = cell("hwaddr").filter(|it| !it.is_empty());
    let pairs = |mac: &str| mac.split(':').all(|pair| pair.len() == 2 && pair.bytes().all(|it| it.is_ascii_hexdigit()));
    if mac.is_some_and(|mac| !pairs(mac)) {
        return Err("hwaddr");
    }
    let ends = match (state, lifetime) {
        (0, 0) => Ends::Gone,
        (0, FOREVER) => Ends::Never,
        (0, _) => Ends::At(expire),
        // Declined, or expired and taken back.
        _ => Ends::Gone,
    };
    let name = cell("hostname").map(|it| it.replace("&#x2c", ",")).filter(|it| !it.is_empty());
    Ok(Lease {
        line,
        address,
        mac: mac.and_then(|it| it.parse().ok()),
        name: name.map(|it| it.trim_end_matches('.').to_owned()),
        ends,
    })
}
