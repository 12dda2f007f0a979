//! Names that are a machine's own: made from its MAC address and host name, so that each plan for the same machine has
//! the same ones, and access lists on storage servers hold after it is installed again. None of them is a secret. Pure.

use systemimager_core::Identity;

/// 16 bytes that only this machine has, for one use.
fn bytes(what: &str, identity: &Identity) -> [u8; 16] {
    let mut hash = blake3::Hasher::new();
    for part in ["systemimager", what, &identity.network.mac.to_ascii_lowercase(), identity.name.as_str()] {
        hash.update(part.as_bytes());
        // Between the parts: no two sets of them run together into the same text.
        hash.update(b"\0");
    }
    let mut first = [0; 16];
    for (to, from) in first.iter_mut().zip(hash.finalize().as_bytes()) {
        *to = *from;
    }
    first
}

/// A UUID of version 8 (RFC 9562, 5.8: made in a way of our own).
pub fn uuid(what: &str, identity: &Identity) -> String {
    let mut bytes = bytes(what, identity);
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let text = hex(&bytes);
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}

/// A name for an iSCSI initiator like `old`: `iqn.…` keeps all up to its last colon, `eui.…` its company's three
/// bytes, `naa.…` becomes a locally assigned one (RFC 3720, 3.2.6.3; RFC 3980).
pub fn initiator(old: &str, identity: &Identity) -> String {
    let digits = hex(&bytes("iscsi initiator", identity));
    let first = |count: usize| digits.get(..count).unwrap_or_default().to_owned();
    if let Some(number) = old.strip_prefix("eui.") {
        let company: String = number.chars().take(6).collect();
        return format!("eui.{company}{}", first(10).to_ascii_uppercase());
    }
    if old.starts_with("naa.") {
        return format!("naa.3{}", first(15));
    }
    let authority = old.rsplit_once(':').map_or(old, |(authority, _)| authority);
    format!("{authority}:{}", first(12))
}

/// A name for an NVMe host like `old`: all up to its last colon is kept (`nqn.2014-08.org.nvmexpress:uuid:…`).
pub fn nvme_name(old: &str, uuid: &str) -> String {
    let authority = old.rsplit_once(':').map_or(old, |(authority, _)| authority);
    format!("{authority}:{uuid}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
