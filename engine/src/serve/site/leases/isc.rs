//! ISC dhcpd's leases (dhcpd.leases(5)): `lease ADDRESS { … }`, appended at each change; times in UTC.

use std::time::UNIX_EPOCH;

use super::{Ends, Lease, Parsed, quoted};
use crate::serve::site::isc_words::{Statement, What, Word, words};

pub(super) fn parse(text: &str) -> Parsed {
    let (mut leases, mut faults) = Parsed::default();
    let all = match words(text) {
        Ok(all) => all,
        Err((line, why)) => {
            faults.push((line, why));
            return (leases, faults);
        }
    };
    // Not by whole statements: an entry that was cut off must not take the next ones with it.
    let mut rest = all.as_slice();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if first.text() != Some("lease") || !after.get(1).is_some_and(|word| word.is('{')) {
            continue;
        }
        let address = after.first().and_then(Word::text).unwrap_or_default();
        let Some(body) = body(&after[2..]) else {
            faults.push((first.line, format!("the lease of {} has no end", quoted(address))));
            continue;
        };
        rest = &after[2 + body.len()..];
        match lease(first.line, address, body) {
            Ok(lease) => leases.push(lease),
            Err(why) => faults.push((first.line, why)),
        }
    }
    (leases, faults)
}

/// The words up to the `}` that ends what is open; `None` if another lease begins before it.
fn body(words: &[Word]) -> Option<&[Word]> {
    let mut depth = 1_u32;
    for (index, word) in words.iter().enumerate() {
        match &word.what {
            What::Sign('{') => depth += 1,
            What::Sign('}') => depth -= 1,
            What::Bare(text) if text == "lease" && words.get(index + 2).is_some_and(|it| it.is('{')) => return None,
            _ => {}
        }
        if depth == 0 {
            return words.get(..index);
        }
    }
    None
}

fn lease(line: usize, address: &str, body: &[Word]) -> Result<Lease, String> {
    let shown = quoted(address);
    let address = address.parse().map_err(|_| format!("{shown} is no address"))?;
    let mut lease = Lease { line, address, mac: None, name: None, ends: Ends::Gone };
    let (mut ends, mut active) = (None, true);
    for words in body.split(|word| word.is(';')) {
        let statement = Statement { line, words: words.to_vec(), depth: 0, opens: false };
        if statement.begins(&["ends"]) {
            ends = Some(end(&statement).ok_or_else(|| format!("the lease of {shown} does not say when it ends"))?);
        } else if statement.begins(&["binding", "state"]) {
            active = statement.word(2) == Some("active");
        } else if statement.begins(&["abandoned"]) {
            active = false;
        } else if statement.begins(&["hardware", "ethernet"]) {
            let mac = statement.word(2).unwrap_or_default();
            lease.mac =
                Some(mac.parse().map_err(|_| format!("{} of the lease of {shown} is no MAC address", quoted(mac)))?);
        } else if statement.begins(&["client-hostname"]) {
            lease.name = statement.word(1).map(str::to_owned);
        }
    }
    if active {
        lease.ends = ends.ok_or_else(|| format!("the lease of {shown} does not say when it ends"))?;
    }
    Ok(lease)
}

/// `ends never`, `ends WEEKDAY YYYY/MM/DD HH:MM:SS` in UTC, or `ends epoch SECONDS`.
fn end(statement: &Statement) -> Option<Ends> {
    match statement.word(1)? {
        "never" => Some(Ends::Never),
        "epoch" => statement.word(2)?.parse().ok().map(Ends::At),
        _ => {
            let date = statement.word(2)?.replace('/', "-");
            let time = humantime::parse_rfc3339(&format!("{date}T{}Z", statement.word(3)?)).ok()?;
            Some(Ends::At(time.duration_since(UNIX_EPOCH).ok()?.as_secs()))
        }
    }
}
