//! The kernel command line of the miniature system, and what is made of it.

use identity_hosts::Hosts;
use systemimager_core::contract::IdentityWho;
use systemimager_core::testing::RecordedHost;
use systemimager_core::{HostFacts, HostIdentity as _};
use systemimager_initrd::fuzzing::{boot_mac, refuse_stacked};
use systemimager_initrd::{command_line, places};

use crate::seen;

pub fn target(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    places::Final::parse(&text);
    let pairs = command_line::parse(&text);
    let plain = |text: &str| !text.contains('"') && !text.ends_with(char::is_whitespace);
    let written: Vec<String> = pairs.iter().map(|(name, value)| format!("\"{name}={value}\"")).collect();
    if pairs.iter().all(|(name, value)| plain(name) && plain(value)) {
        assert_eq!(command_line::parse(&written.join(" ")), pairs, "{written:?}");
    }
    if let Some(value) = pairs.get("BOOTIF")
        && let Ok(mac) = boot_mac(value)
    {
        assert!(mac.len() == 17 && mac.bytes().all(|byte| byte == b':' || byte.is_ascii_hexdigit()), "{mac:?}");
        assert_eq!(boot_mac(&mac).ok(), Some(mac));
    }
    let _ = refuse_stacked(&pairs);
    let facts = HostFacts { command_line: pairs, ..HostFacts::default() };
    match Hosts.who(&RecordedHost::new(), IdentityWho { facts, sources: Vec::new() }) {
        Ok(Some(identity)) => seen::one_line(&identity.found_in),
        Ok(None) => {}
        Err(error) => seen::lines(&error.message),
    }
}
