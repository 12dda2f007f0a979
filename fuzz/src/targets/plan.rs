//! A plan of hostile facts: a master, and then, as JSON, a machine's hardware, an image's facts, an identity. Whatever
//! they say, no step is on a disk that the plan does not name, and none leaves the target.

use std::collections::BTreeSet;
use std::path::Path;

use systemimager_core::testing::RecordedHost;
use systemimager_core::{Hardware, Identity, ImageFacts, NodeName};
use systemimager_engine::plan::{self, Plan, PlanInput};
use systemimager_engine::store::master_text;

use crate::seen;
use crate::support::{somebody, texts, with_registry};

const FACTS: &str = include_str!("../usual/facts.json");
const HARDWARE: &str = include_str!("../usual/hardware.json");

pub fn target(data: &[u8]) {
    let Some(all) = texts(data) else { return };
    let part = |at: usize, usual| match all.get(at).copied().unwrap_or_default() {
        "" => usual,
        text => text,
    };
    let Ok(master) = master_text::parse(Path::new("/tftpboot/systemimager/host.sh"), all[0]) else { return };
    let (Ok(hardware), Ok(facts)) =
        (serde_json::from_str::<Hardware>(part(1, HARDWARE)), serde_json::from_str::<ImageFacts>(part(2, FACTS)))
    else {
        return;
    };
    let Ok(identity) = (match part(3, "") {
        "" => Ok(somebody()),
        text => serde_json::from_str::<Identity>(text),
    }) else {
        return;
    };
    plan::enough(&master.layout, &hardware.disks);
    let host = RecordedHost::new();
    let planned = with_registry(|registry| {
        let input = PlanInput {
            master: &master,
            facts: &facts,
            hardware: &hardware,
            identity: &identity,
            registry,
            host: &host,
            overrides: &[],
        };
        plan::plan(&input)
    });
    match planned {
        Ok(plan) => holds(&plan, &hardware),
        Err(error) => error.problems.iter().for_each(|problem| seen::lines(problem)),
    }
}

fn holds(plan: &Plan, hardware: &Hardware) {
    plan.warnings.iter().for_each(|warning| seen::lines(warning));
    plan.destroyed().iter().for_each(|line| seen::one_line(line));
    let json = serde_json::to_vec(plan).expect("JSON");
    assert_eq!(&serde_json::from_slice::<Plan>(&json).expect("read again"), plan);

    let nodes: BTreeSet<&NodeName> = plan.layout.disks.iter().map(|disk| &disk.node).collect();
    assert_eq!(plan.disks.keys().collect::<BTreeSet<_>>(), nodes, "each disk of the layout is one of the machine's");
    for (node, disk) in &plan.disks {
        assert!(hardware.disks.contains(disk), "{node} is none of the machine's disks");
        assert!(!disk.read_only && disk.in_use.is_empty(), "{node} = {disk:?}");
        let twins = plan.disks.values().filter(|other| other.path == disk.path).count();
        assert_eq!(twins, 1, "{node} is two disks of the layout");
    }
    let disks: BTreeSet<NodeName> = nodes.into_iter().cloned().collect();
    seen::steps(&plan.steps, &disks);
}
