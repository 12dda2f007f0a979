//! What of a machine's files is its own: the places where any of the tools that [`crate::write`] and [`crate::scrub`]
//! know keeps name, addresses and keys. An update leaves them alone, whichever tool the machine uses: it may be one that
//! was never installed from an image. Pure.

use systemimager_core::BytePath;

use crate::scrub::find;

/// Names, networks and keys, as patterns. Whole directories where each file in them may be an interface's:
/// /etc/sysconfig/network is a file on the Red Hat family, and such a directory on SUSE.
const PLACES: [&str; 23] = [
    "/etc/hostname",
    "/etc/HOSTNAME",
    "/etc/mailname",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/network/interfaces",
    "/etc/network/interfaces.d/*",
    "/etc/netplan/*",
    "/etc/NetworkManager/system-connections/*",
    "/etc/systemd/network/*",
    "/etc/sysconfig/network",
    "/etc/sysconfig/network-scripts/ifcfg-*",
    "/etc/sysconfig/network-scripts/route*-*",
    "/etc/conf.d/net",
    "/etc/conf.d/hostname",
    "/etc/ssh/ssh_host_*",
    "/etc/dropbear/dropbear_*_host_key",
    "/etc/udev/rules.d/70-systemimager-net.rules",
    "/etc/udev/rules.d/*persistent-net.rules",
    "/etc/udev/rules.d/*net_persistent_names.rules",
    "/etc/udev/rules.d/*persistent-cd.rules",
    "/etc/adjtime",
    "/etc/.updated",
];

/// All of them.
pub fn paths() -> Vec<BytePath> {
    let ids = [find::MACHINE_ID, find::DBUS_ID, find::ISCSI, find::NVME_NAME, find::NVME_ID];
    let mut all: Vec<BytePath> = PLACES.into_iter().chain(ids).chain(find::RANDOM).map(BytePath::from).collect();
    all.extend(find::lease_patterns().into_iter().map(BytePath::from));
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_anchored_and_say_what_they_mean() {
        let all = paths();
        assert!(all.iter().all(|path| path.as_bytes().starts_with(b"/")), "{all:?}");
        for (name, there) in [
            ("/etc/machine-id", true),
            ("/etc/ssh/ssh_host_*", true),
            ("/var/lib/systemd/random-seed", true),
            ("/var/lib/dhcp/*lease*", true),
            ("/var/lib/wicked/*", true),
            ("/var/lib/dhcpcd/duid", true),
            ("/etc/passwd", false),
            ("/etc/network", false),
        ] {
            assert_eq!(all.contains(&BytePath::from(name)), there, "{name}");
        }
    }
}
