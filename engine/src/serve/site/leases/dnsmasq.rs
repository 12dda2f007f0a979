//! dnsmasq's leases: lines `EXPIRY MAC ADDRESS NAME CLIENT-ID`, `*` for a name that is not known (dnsmasq(8),
//! `--dhcp-leasefile`); a line `duid …` begins those of IPv6.

use super::{Ends, Lease, Parsed, quoted};

pub(super) fn parse(text: &str) -> Parsed {
    let (mut leases, mut faults) = Parsed::default();
    for (number, line) in (1..).zip(text.lines()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.first() == Some(&"duid") {
            break;
        }
        match lease(number, &words) {
            _ if words.is_empty() => {}
            Some(lease) => leases.push(lease),
            None => faults.push((
                number,
                format!("{} is no lease of dnsmasq; it is: when it ends, MAC, address, name, client id", quoted(line)),
            )),
        }
    }
    (leases, faults)
}

fn lease(line: usize, words: &[&str]) -> Option<Lease> {
    let [ends, mac, address, name, _] = words else { return None };
    let ends = match ends.parse().ok()? {
        0 => Ends::Never,
        at => Ends::At(at),
    };
    // Other hardware than Ethernet has its type in front: `06-…`.
    let pairs = mac.split([':', '-']).all(|pair| pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if !pairs {
        return None;
    }
    Some(Lease {
        line,
        address: address.parse().ok()?,
        mac: mac.parse().ok(),
        name: (*name != "*").then(|| (*name).to_owned()),
        ends,
    })
}
