//! Words that people give on the command line and in files: sets of hosts, networks, sizes, names, MAC addresses, break
//! points.

use std::collections::BTreeSet;

use systemimager_core::{HostName, ImageName, NodeName, Size};
use systemimager_engine::report::BreakPoint;
use systemimager_engine::store::addresses::Network;
use systemimager_engine::store::host_set::{HostSet, MOST_HOSTS};
use systemimager_engine::store::macs::Mac;

use crate::seen;
use crate::support::texts;

pub fn target(data: &[u8]) {
    let Some(all) = texts(data) else { return };
    match all[0].parse::<HostSet>() {
        Ok(set) => {
            assert!(!set.is_empty() && set.len() <= MOST_HOSTS);
            assert_eq!(set.hosts().iter().collect::<BTreeSet<_>>().len(), set.len(), "each once");
            let words: Vec<&str> = set.hosts().iter().take(100).map(HostName::as_str).collect();
            let again = HostSet::from_words(words.iter().copied()).expect("names are sets of one");
            assert_eq!(again.hosts(), &set.hosts()[..words.len()]);
            seen::one_line(&set.to_string());
        }
        Err(error) => seen::one_line(&error.to_string()),
    }
    if let Some(range) = all.get(1)
        && let Err(error) = HostSet::from_base(all[0], range)
    {
        seen::one_line(&error.to_string());
    }
    for word in all {
        one(word);
    }
}

fn one(word: &str) {
    if let Ok(network) = word.parse::<Network>() {
        assert_eq!(network.to_string().parse(), Ok(network));
        let (base, _) = (network.base(), network.mask());
        assert_eq!(Network::new(base, network.prefix).expect("the same prefix").base(), base);
        network.holds_host(network.address);
    }
    if let Ok(size) = word.parse::<Size>() {
        assert_eq!(size.to_string().parse(), Ok(size));
    }
    if let Ok(mac) = word.parse::<Mac>() {
        assert_eq!(mac.to_string().parse(), Ok(mac));
    }
    match word.parse::<BreakPoint>() {
        Ok(point) => assert_eq!(point.to_string(), word),
        Err(why) => seen::one_line(&why),
    }
    if let Ok(name) = HostName::try_from(word) {
        plain(name.as_str());
        assert!(HostName::try_from(name.short()).is_ok());
    }
    ImageName::try_from(word).map_or_else(|error| seen::one_line(&error.to_string()), |name| plain(name.as_str()));
    NodeName::try_from(word).map_or_else(|error| seen::one_line(&error.to_string()), |name| plain(name.as_str()));
}

/// It can be a file's name, an argument, a word of a configuration.
fn plain(name: &str) {
    seen::one_line(name);
    assert!(!name.is_empty() && !name.contains(['/', ' ', ',', '=', '"', '\'', '\\']) && !name.starts_with(['.', '-']));
}
