//! What machines post to the image server: reports, each a part, or a hello.

use systemimager_core::{HostName, ImageName};
use systemimager_engine::fuzzing::told;
use systemimager_engine::report::{Hello, Report, Word};
use systemimager_engine::serve::admission::{Decision, Known, decide, name};
use systemimager_engine::store::macs::Mac;
use systemimager_engine::store::orders::{Order, Stage};

use crate::seen;
use crate::support::parts;

pub fn target(data: &[u8]) {
    let all = parts(data);
    if let Ok(hello) = serde_json::from_slice::<Hello>(all[0])
        && let Ok(mac) = hello.mac.parse()
    {
        asked(&hello, mac);
    }
    if let Ok(word) = serde_json::from_slice::<Word>(all[0]) {
        let json = serde_json::to_vec(&word).expect("JSON");
        assert_eq!(serde_json::from_slice::<Word>(&json).expect("read again"), word);
    }
    let reports: Vec<Report> = all.iter().filter_map(|part| serde_json::from_slice(part).ok()).collect();
    for report in &reports {
        let json = serde_json::to_vec(report).expect("JSON");
        assert_eq!(&serde_json::from_slice::<Report>(&json).expect("read again"), report);
    }
    let mac: Mac = "52:54:00:00:00:01".parse().expect("a MAC");
    let (machine, lines) = told(mac, &reports);
    for text in [&machine.message, &machine.progress_words()].into_iter().chain(&machine.log).chain(&lines) {
        seen::one_line(text);
        assert!(text.len() <= 3 * 4096, "{} bytes", text.len());
    }
    // Its steps are printed too.
    machine.stalled(u64::MAX, 180);
    assert!(machine.log.len() <= 200 && machine.plan.len() <= 10_000 && machine.done.len() <= 10_000);
    let json = serde_json::to_vec(&machine).expect("JSON");
    assert_eq!(serde_json::from_slice::<systemimager_engine::serve::machine::Machine>(&json).expect("read"), machine);
}

/// Whoever asks is told something that a console can show, and installed only by an order.
fn asked(hello: &Hello, mac: Mac) {
    let host = HostName::try_from("www1").expect("a name");
    let image = ImageName::try_from("web").ok();
    let other = "52:54:00:00:00:99".to_owned();
    let boot = "b1".to_owned();
    let stages = [
        Stage::Ordered,
        Stage::Begun { mac: mac.to_string(), boot: boot.clone() },
        Stage::Begun { mac: other.clone(), boot: boot.clone() },
        Stage::Stopped { mac: other.clone(), boot: boot.clone() },
        Stage::GoOn { mac: other.clone(), boot },
    ];
    for by_mac in [None, Some(&host)] {
        for client in [None, Some(&host)] {
            for mac_of_name in [None, Some(other.clone())] {
                let known = || Known { by_mac, mac_of_name: mac_of_name.clone(), client, ..Known::default() };
                let decision = decide(hello, &known(), 1000);
                assert_ne!(decision, Decision::Install, "installed without an order");
                said(&decision);
                for stage in &stages {
                    let order = Order { stage: stage.clone(), ..Order::new(host.clone(), image.clone(), Vec::new()) };
                    for taker_heard in [None, Some(999)] {
                        let known = Known { order: Some(&order), taker_heard, ..known() };
                        let decision = decide(hello, &known, 1000);
                        said(&decision);
                        if decision == Decision::Install {
                            assert!(client.is_some() && name(hello, by_mac).is_some());
                            let taken = order.mac().is_some_and(|by| by != mac.to_string());
                            assert!(!taken || taker_heard.is_none(), "taken from a machine that is at it");
                        }
                    }
                }
            }
        }
    }
}

fn said(decision: &Decision) {
    if let Decision::Wait(why) | Decision::Disk(why) = decision {
        seen::one_line(why);
    }
}
