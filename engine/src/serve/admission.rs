//! Whether a machine that asks is installed, waits, or starts from its own disk. Pure: the desk carries it out.
//!
//! In doubt a machine waits, visibly: that costs minutes, and the wrong disk overwritten costs data.

use systemimager_core::HostName;

use crate::report::{Asks, Hello};
use crate::store::orders::{Order, Stage};

/// How long a machine that was silent keeps its order from another with the same name, seconds.
const SILENT: u64 = 600;

/// What is known of the machine that asks, beside what it says.
#[derive(Debug, Default)]
pub struct Known<'a> {
    /// The host that its MACs were declared for, or its serial number.
    pub by_mac: Option<&'a HostName>,
    /// The MAC that was declared for the name it says.
    pub mac_of_name: Option<String>,
    /// The name of its host link, which may be without its domain; `None`: it has no image.
    pub client: Option<&'a HostName>,
    /// Its order.
    pub order: Option<&'a Order>,
    /// When the machine that took the order was heard last, seconds since 1970.
    pub taker_heard: Option<u64>,
}

/// What it is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Carry out its order.
    Install,
    /// Wait, and why.
    Wait(String),
    /// Start from its own disk, and why.
    Disk(String),
}

/// The name to look for: what the MAC table says, else what the machine says.
pub fn name<'a>(hello: &'a Hello, by_mac: Option<&'a HostName>) -> Option<&'a HostName> {
    by_mac.or(hello.host.as_ref())
}

/// Decides.
pub fn decide(hello: &Hello, known: &Known<'_>, now: u64) -> Decision {
    use Decision::{Disk, Install, Wait};
    let Some(name) = name(hello, known.by_mac) else {
        return Wait(format!(
            "nothing tells who this machine is; on the image server: systemimager admit {} --as HOST --image NAME",
            hello.mac
        ));
    };
    if let (Some(says), Some(declared)) = (&hello.host, known.by_mac)
        && says.short() != declared.short()
    {
        return Wait(format!(
            "it says that it is {says}, and its MAC address {} was declared for {declared}; \
             correct the hosts file or macs.csv on the image server",
            hello.mac
        ));
    }
    if let (None, Some(mac)) = (known.by_mac, &known.mac_of_name) {
        return Wait(format!(
            "it says that it is {name}, but {name} was declared with the MAC address {mac} and this machine has {}; if \
             it was replaced: systemimager admit {} --as {name}",
            hello.mac, hello.mac
        ));
    }
    let Some(client) = known.client else {
        return Wait(format!("{name} has no image; on the image server: systemimager addclients {name} --image NAME"));
    };
    let Some(order) = known.order else {
        return match hello.asks {
            Asks::Order => Disk(format!("{client} has no order; order one with: systemimager install {client}")),
            Asks::GoOn => Wait(format!(
                "the order of {client} was cancelled; restart this machine, or: systemimager install {client}"
            )),
        };
    };
    if order.is_over(now) {
        let again =
            format!("the time of the order of {client} is over; order another with: systemimager install {client}");
        return if hello.asks == Asks::Order { Disk(again) } else { Wait(again) };
    }
    let mine = |mac: &str| mac == hello.mac;
    match (&order.stage, hello.asks) {
        // A new order while it stands there after a failure: it may begin anew.
        (Stage::Ordered, _) => Install,
        (Stage::GoOn { mac, .. }, _) if mine(mac) => Install,
        (Stage::Begun { mac, .. } | Stage::Stopped { mac, .. }, Asks::Order) if mine(mac) => Install,
        (Stage::Begun { mac, .. } | Stage::Stopped { mac, .. }, Asks::GoOn) if mine(mac) => {
            Wait(format!("it goes on with: systemimager retry {client}"))
        }
        (Stage::Begun { mac, .. } | Stage::Stopped { mac, .. } | Stage::GoOn { mac, .. }, _) => {
            let silent = now.saturating_sub(known.taker_heard.unwrap_or(0));
            if silent >= SILENT {
                return Install;
            }
            Wait(format!(
                "the machine {mac} carries out the order of {client} and was heard {silent} s ago: two machines say that \
                 they are {client}; correct macs.csv, or wait until the other has been silent for {} minutes",
                SILENT / 60
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINE: &str = "52:54:00:00:00:01";
    const OTHER: &str = "52:54:00:00:00:02";

    fn host(name: &str) -> HostName {
        HostName::try_from(name).unwrap()
    }

    fn hello(name: Option<&str>, asks: Asks) -> Hello {
        Hello { mac: MINE.into(), host: name.map(host), boot: "b".into(), asks, ..Hello::default() }
    }

    fn order(stage: Stage) -> Order {
        Order { stage, ..Order::new(host("www1"), None, vec![]) }
    }

    #[test]
    fn in_doubt_a_machine_waits() {
        let (www1, www2) = (host("www1"), host("www2"));
        let ordered = order(Stage::Ordered);
        let over = Order { until: Some(1000), ..order(Stage::Ordered) };
        let by = |mac: &str| (mac.to_owned(), "b".to_owned());
        let stage = |kind: fn((String, String)) -> Stage, mac: &str| order(kind(by(mac)));
        let begun = |(mac, boot)| Stage::Begun { mac, boot };
        let failed = |(mac, boot)| Stage::Stopped { mac, boot };
        let go_on = |(mac, boot)| Stage::GoOn { mac, boot };
        let client = || Known { client: Some(&www1), ..Known::default() };
        let (begun_mine, begun_other) = (stage(begun, MINE), stage(begun, OTHER));
        let (failed_mine, failed_other, go_on_mine) = (stage(failed, MINE), stage(failed, OTHER), stage(go_on, MINE));
        let rows: Vec<(&str, Hello, Known<'_>, &str)> = vec![
            (
                "a stranger",
                hello(None, Asks::Order),
                Known::default(),
                "wait: nothing tells who this machine is; on the",
            ),
            ("no image", hello(Some("www1"), Asks::Order), Known::default(), "wait: www1 has no image; on the"),
            (
                "two names",
                hello(Some("www2"), Asks::Order),
                Known { by_mac: Some(&www1), order: Some(&ordered), ..client() },
                "wait: it says that it is www2, and its MAC address",
            ),
            (
                "a name with domain",
                hello(Some("www1.example.org"), Asks::Order),
                Known { by_mac: Some(&www1), order: Some(&ordered), ..client() },
                "install",
            ),
            (
                "another's name",
                hello(Some("www1"), Asks::Order),
                Known { mac_of_name: Some(OTHER.into()), order: Some(&ordered), ..client() },
                "wait: it says that it is www1, but www1 was declared with",
            ),
            (
                "known by MAC alone",
                hello(None, Asks::Order),
                Known { by_mac: Some(&www1), order: Some(&ordered), ..client() },
                "install",
            ),
            ("no order", hello(Some("www1"), Asks::Order), client(), "disk: www1 has no order"),
            (
                "cancelled while it waits",
                hello(Some("www1"), Asks::GoOn),
                client(),
                "wait: the order of www1 was cancel",
            ),
            ("ordered", hello(Some("www1"), Asks::Order), Known { order: Some(&ordered), ..client() }, "install"),
            (
                "ordered for a time that is over",
                hello(Some("www1"), Asks::Order),
                Known { order: Some(&over), ..client() },
                "disk: the time of the order of www1 is over",
            ),
            (
                "its time went by while it waits",
                hello(Some("www1"), Asks::GoOn),
                Known { order: Some(&over), ..client() },
                "wait: the time of the order",
            ),
            (
                "ordered anew while it waits",
                hello(Some("www1"), Asks::GoOn),
                Known { order: Some(&ordered), ..client() },
                "install",
            ),
            (
                "restarted in the middle",
                hello(Some("www1"), Asks::Order),
                Known { order: Some(&begun_mine), ..client() },
                "install",
            ),
            (
                "failed, restarted by hand",
                hello(Some("www1"), Asks::Order),
                Known { order: Some(&failed_mine), ..client() },
                "install",
            ),
            (
                "failed, waits",
                hello(Some("www1"), Asks::GoOn),
                Known { order: Some(&failed_mine), ..client() },
                "wait: it goes on with: systemimager retry www1",
            ),
            ("may go on", hello(Some("www1"), Asks::GoOn), Known { order: Some(&go_on_mine), ..client() }, "install"),
            (
                "a second machine of that name",
                hello(Some("www1"), Asks::Order),
                Known { order: Some(&begun_other), taker_heard: Some(990), ..client() },
                "wait: the machine 52:54:00:00:00:02 carries out the order of www1 and was heard 10 s ago",
            ),
            (
                "the first one has been silent",
                hello(Some("www1"), Asks::Order),
                Known { order: Some(&failed_other), taker_heard: Some(1000 - SILENT), ..client() },
                "install",
            ),
            (
                "by MAC, no image",
                hello(None, Asks::Order),
                Known { by_mac: Some(&www2), ..Known::default() },
                "wait: www2 has",
            ),
        ];
        for (name, hello, known, expected) in rows {
            let says = match decide(&hello, &known, 1000) {
                Decision::Install => "install".to_owned(),
                Decision::Wait(why) => format!("wait: {why}"),
                Decision::Disk(why) => format!("disk: {why}"),
            };
            assert!(says.starts_with(expected), "{name}: {says}");
        }
    }
}
