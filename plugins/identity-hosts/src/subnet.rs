//! Whether two addresses lie in one subnet. Pure.

use std::net::IpAddr;

/// `one` and `other` share their first `prefix` bits. Never true for addresses of different families, or
/// for a prefix longer than the address.
pub fn same(one: IpAddr, other: IpAddr, prefix: u8) -> bool {
    let (one, other, length) = match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (u128::from(one.to_bits()), u128::from(other.to_bits()), 32),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits(), other.to_bits(), 128),
        _ => return false,
    };
    let prefix = u32::from(prefix);
    // A prefix of 0 shifts everything out, which checked_shr answers with None.
    prefix <= length && (one ^ other).checked_shr(length - prefix).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets() {
        for (one, other, prefix, expected) in [
            ("10.0.0.1", "10.0.1.254", 23, true),
            ("10.0.0.1", "10.0.2.1", 23, false),
            ("10.0.0.1", "11.0.0.1", 0, true),
            ("10.0.0.1", "10.0.0.1", 32, true),
            ("10.0.0.1", "10.0.0.2", 32, false),
            ("10.0.0.1", "10.0.0.1", 33, false),
            ("fd77::1", "fd77::ffff", 64, true),
            ("fd77::1", "fd78::1", 64, false),
            ("fd77::1", "ffff::1", 0, true),
            ("10.0.0.1", "fd77::1", 0, false),
        ] {
            let is = same(one.parse().unwrap(), other.parse().unwrap(), prefix);
            assert_eq!(is, expected, "{one} {other}/{prefix}");
        }
    }
}
