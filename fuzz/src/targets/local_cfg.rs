//! A medium: the `local.cfg` on it, what is made of that, and which file system its first bytes may be.

use identity_hosts::Hosts;
use systemimager_core::contract::IdentityWho;
use systemimager_core::testing::RecordedHost;
use systemimager_core::{HostFacts, HostIdentity as _};
use systemimager_engine::local_cfg::parse;
use systemimager_initrd::fuzzing::volumes;

use crate::seen;

pub fn target(data: &[u8]) {
    assert!(volumes(data).len() <= 3);
    let (cfg, warnings) = match parse(data) {
        Ok(read) => read,
        Err(problems) => {
            assert!(!problems.0.is_empty());
            assert!(problems.0.windows(2).all(|pair| pair[0].line <= pair[1].line), "{problems}");
            problems.0.iter().for_each(|problem| seen::one_line(&problem.what));
            return seen::lines(&problems.to_string());
        }
    };
    warnings.iter().for_each(|warning| seen::one_line(&warning.what));
    let plain = cfg.plain();
    seen::lines(&plain);
    assert!(!plain.contains(['$', '`', '\\']), "{plain:?}");
    // Values with blanks have no quotation marks there, so only what is made of it may be the same.
    if !plain.contains([' ', '\t', '#', '"', '\'']) {
        let (again, _) = parse(plain.as_bytes()).expect("what we wrote we read");
        assert_eq!(again, cfg);
    }
    if let Some(lease) = cfg.lease("eth0", "52:54:00:00:00:01") {
        assert!(lease.address.is_some() && lease.prefix.is_some_and(|prefix| prefix <= 32), "{lease:?}");
        assert_eq!(lease.server, None);
    }
    let facts = HostFacts { local_cfg: Some(plain), ..HostFacts::default() };
    let identity = Hosts.who(&RecordedHost::new(), IdentityWho { facts, sources: Vec::new() }).expect("it was checked");
    assert_eq!(identity.as_ref().map(|it| &it.name), cfg.host.as_ref());
    if let Some(identity) = identity {
        seen::one_line(&identity.found_in);
        assert_eq!(identity.image, cfg.image);
    }
}
