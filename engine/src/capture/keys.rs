//! Private keys in an image: every machine that gets it has them too. Found in the places where they usually are, by
//! name or by what stands in them; the tree is never walked, and what is read is bounded.
//!
//! Whether a key may be shared is the site's to judge; only the keys that are scrubbed are known not to be.

use serde::Serialize;
use systemimager_core::{BytePath, Host, Place};

/// Most names of a directory that are looked at.
const MOST_NAMES: usize = 500;
/// Most files that are read.
const MOST_READ: usize = 2000;
/// Most keys that are told.
const MOST_KEYS: usize = 500;

/// A private key in an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyFound {
    /// Absolute in the image.
    pub path: BytePath,
    /// `ssh host key`, `Kerberos keytab`.
    pub what: String,
    /// Each machine gets another one, or none.
    pub scrubbed: bool,
}

/// What makes a file a key.
#[derive(Clone, Copy)]
enum Sign {
    /// Its name ends so; it is not read.
    Ends(&'static [&'static str]),
    /// Its name ends so, and `PRIVATE KEY` stands in it (PEM, RFC 7468).
    Pem(&'static [&'static str]),
    /// `PRIVATE KEY` stands in it, whatever its name.
    AnyPem,
    /// A line `PrivateKey = …`: wg(8), systemd.netdev(5).
    WireGuard,
}

const PEM: Sign = Sign::Pem(&[".key", ".pem", ".priv", ".crt"]);

/// Directories; `*` stands for any one name.
const PLACES: [(&str, Sign, &str); 47] = [
    ("/etc/ssh", Sign::Pem(&["_key", "host_key"]), "ssh host key"),
    ("/etc/dropbear", Sign::Ends(&["_host_key"]), "ssh host key"),
    ("/etc/dropbear/initramfs", Sign::Ends(&["_host_key"]), "ssh host key (also in the initramfs)"),
    ("/etc/dropbear-initramfs", Sign::Ends(&["_host_key"]), "ssh host key (also in the initramfs)"),
    ("/root/.ssh", Sign::AnyPem, "ssh key of a user"),
    ("/home/*/.ssh", Sign::AnyPem, "ssh key of a user"),
    ("/etc/ssl/private", Sign::AnyPem, "TLS key"),
    ("/etc/ssl", PEM, "TLS key"),
    ("/etc/pki/tls/private", Sign::AnyPem, "TLS key"),
    ("/etc/pki/tls", PEM, "TLS key"),
    ("/etc/pki/nginx/private", Sign::AnyPem, "TLS key"),
    ("/etc/pki/consumer", PEM, "subscription key"),
    ("/etc/nginx", PEM, "TLS key"),
    ("/etc/nginx/ssl", PEM, "TLS key"),
    ("/etc/apache2", PEM, "TLS key"),
    ("/etc/apache2/ssl", PEM, "TLS key"),
    ("/etc/apache2/ssl.key", Sign::AnyPem, "TLS key"),
    ("/etc/httpd/conf", PEM, "TLS key"),
    ("/etc/haproxy", PEM, "TLS key"),
    ("/etc/haproxy/certs", PEM, "TLS key"),
    ("/etc/letsencrypt/live/*", PEM, "TLS key"),
    ("/etc/letsencrypt/accounts/*/directory/*", Sign::Ends(&["private_key.json"]), "ACME account key"),
    ("/etc/postfix", PEM, "TLS key"),
    ("/etc/dovecot/private", Sign::AnyPem, "TLS key"),
    ("/etc/exim4", PEM, "TLS key"),
    ("/etc/ldap", PEM, "TLS key"),
    ("/etc/openldap/certs", PEM, "TLS key"),
    ("/etc/mysql", PEM, "TLS key"),
    ("/etc/stunnel", PEM, "TLS key"),
    ("/etc/docker", PEM, "TLS key"),
    ("/etc/kubernetes/pki", PEM, "TLS key"),
    ("/var/lib/kubelet/pki", PEM, "TLS key"),
    ("/etc/cockpit/ws-certs.d", Sign::AnyPem, "TLS key"),
    ("/etc/puppetlabs/puppet/ssl/private_keys", Sign::AnyPem, "Puppet key"),
    ("/etc/puppet/ssl/private_keys", Sign::AnyPem, "Puppet key"),
    ("/var/lib/puppet/ssl/private_keys", Sign::AnyPem, "Puppet key"),
    ("/etc/salt/pki/minion", PEM, "Salt key"),
    ("/etc/openvpn", PEM, "VPN key"),
    ("/etc/openvpn/server", PEM, "VPN key"),
    ("/etc/openvpn/client", PEM, "VPN key"),
    ("/etc/ipsec.d/private", Sign::AnyPem, "VPN key"),
    ("/etc/swanctl/private", Sign::AnyPem, "VPN key"),
    ("/etc/tinc/*", PEM, "VPN key"),
    ("/etc/wireguard", Sign::WireGuard, "WireGuard key"),
    ("/etc/systemd/network", Sign::WireGuard, "WireGuard key"),
    ("/etc", Sign::Ends(&[".keytab"]), "Kerberos keytab"),
    ("/etc/krb5", Sign::Ends(&[".keytab"]), "Kerberos keytab"),
];

/// All that is found; what cannot be read is passed over. `scrubbed` tells of a path that no machine gets.
pub fn find(host: &dyn Host, place: &Place, scrubbed: &dyn Fn(&BytePath) -> bool) -> Vec<KeyFound> {
    let mut found: Vec<KeyFound> = Vec::new();
    let mut read = 0;
    for (pattern, sign, what) in PLACES {
        for directory in directories(host, place, pattern) {
            for name in names(host, place, &directory) {
                let path = directory.join(name.as_bytes());
                if found.len() >= MOST_KEYS || found.iter().any(|key| key.path == path) {
                    continue;
                }
                let ends = |ends: &[&str]| ends.iter().any(|end| name.as_bytes().ends_with(end.as_bytes()));
                let wanted = match sign {
                    Sign::Ends(names) | Sign::Pem(names) => ends(names),
                    Sign::AnyPem => !ends(&[".pub"]),
                    Sign::WireGuard => ends(&[".conf", ".netdev", ".key"]),
                };
                if !wanted || (read >= MOST_READ && !matches!(sign, Sign::Ends(_))) {
                    continue;
                }
                let is_key = match sign {
                    Sign::Ends(_) => true,
                    _ => {
                        read += 1;
                        host.read(place, &path).is_ok_and(|text| holds_key(sign, &name, &text))
                    }
                };
                if is_key {
                    let scrubbed = scrubbed(&path);
                    found.push(KeyFound { path, what: what.to_owned(), scrubbed });
                }
            }
        }
    }
    found
}

fn holds_key(sign: Sign, name: &BytePath, text: &[u8]) -> bool {
    match sign {
        // A file `x.key` of wg(8) holds the key alone: 32 bytes in base64.
        Sign::WireGuard if name.as_bytes().ends_with(b".key") => text.trim_ascii().len() == 44,
        Sign::WireGuard => text.split(|byte| *byte == b'\n').any(|line| {
            let line = line.trim_ascii_start();
            let rest = line.get(..10).filter(|key| key.eq_ignore_ascii_case(b"PrivateKey")).and(line.get(10..));
            rest.is_some_and(|rest| rest.trim_ascii_start().starts_with(b"="))
        }),
        _ => text.windows(11).any(|window| window == b"PRIVATE KEY"),
    }
}

/// The directories that a pattern means.
fn directories(host: &dyn Host, place: &Place, pattern: &str) -> Vec<BytePath> {
    let mut found = vec![BytePath::from("/")];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        found = match part {
            "*" => {
                let below = |directory: &BytePath| {
                    let names = names(host, place, directory);
                    names.iter().map(|name| directory.join(name.as_bytes())).collect::<Vec<_>>()
                };
                found.iter().flat_map(below).take(MOST_NAMES).collect()
            }
            part => found.iter().map(|directory| directory.join(part.as_bytes())).collect(),
        };
    }
    found
}

fn names(host: &dyn Host, place: &Place, directory: &BytePath) -> Vec<BytePath> {
    let mut names = host.list(place, directory).unwrap_or_default();
    names.truncate(MOST_NAMES);
    names
}

/// What is told of them, a line each.
pub fn told(keys: &[KeyFound]) -> Vec<String> {
    let line = |key: &KeyFound| {
        let fate = if key.scrubbed {
            "each machine gets its own"
        } else {
            "every machine gets this one; take it out of the image if they are not to share it"
        };
        format!("private key in the image: {} ({}): {fate}", key.path, key.what)
    };
    let mut lines: Vec<String> = keys.iter().map(line).collect();
    if keys.len() >= MOST_KEYS {
        lines.push(format!("… only the first {MOST_KEYS} private keys are told"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::testing::RecordedHost;

    #[test]
    fn keys_in_their_places() {
        const KEY: &str = "-----BEGIN RSA PRIVATE KEY-----\nx\n";
        // Path, contents, what is told of it.
        let rows: [(&str, &str, Option<&str>); 21] = [
            ("/etc/ssh/ssh_host_rsa_key", "-----BEGIN OPENSSH PRIVATE KEY-----\n", Some("ssh host key")),
            ("/etc/ssh/ssh_host_rsa_key.pub", "ssh-rsa AAAA", None),
            ("/etc/dropbear/dropbear_rsa_host_key", "\0", Some("ssh host key")),
            ("/root/.ssh/id_rsa", KEY, Some("ssh key of a user")),
            ("/root/.ssh/authorized_keys", "ssh-rsa AAAA", None),
            ("/home/ann/.ssh/work", KEY, Some("ssh key of a user")),
            ("/home/ann/notes.key", KEY, None),
            ("/etc/ssl/private/ssl-cert-snakeoil.key", KEY, Some("TLS key")),
            ("/etc/ssl/cert.pem", "-----BEGIN CERTIFICATE-----\n", None),
            ("/etc/nginx/site.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\n", Some("TLS key")),
            ("/etc/nginx/nginx.conf", "# PRIVATE KEY", None),
            ("/etc/letsencrypt/live/a.example/privkey.pem", KEY, Some("TLS key")),
            ("/etc/krb5.keytab", "\x05\x02", Some("Kerberos keytab")),
            ("/etc/wireguard/wg0.conf", "[Interface]\n privatekey = abc=\n", Some("WireGuard key")),
            ("/etc/wireguard/peer.conf", "[Peer]\nPublicKey = abc=\n", None),
            ("/etc/wireguard/wg0.key", "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n", Some("WireGuard key")),
            ("/etc/systemd/network/wg.netdev", "[WireGuard]\nPrivateKey=abc=\n", Some("WireGuard key")),
            ("/etc/systemd/network/wg2.netdev", "[WireGuard]\nPrivateKeyFile=/etc/x\n", None),
            ("/etc/tinc/net/rsa_key.priv", KEY, Some("VPN key")),
            ("/srv/elsewhere.key", KEY, None),
            ("/etc/hostname", "x", None),
        ];
        let host = rows.iter().fold(RecordedHost::new(), |host, (path, text, _)| host.file(path, *text));
        let place = Place::Tree { root: "/i".into() };
        let found = find(&host, &place, &|path| path.as_bytes().starts_with(b"/etc/ssh/"));
        for (path, _, expected) in rows {
            let key = found.iter().find(|key| key.path == path.into());
            assert_eq!(key.map(|key| key.what.as_str()), expected, "{path}");
            assert!(key.is_none_or(|key| key.scrubbed == path.starts_with("/etc/ssh/")), "{path}");
        }
        assert_eq!(found.len(), rows.iter().filter(|(.., expected)| expected.is_some()).count());
        let lines = told(&found);
        assert_eq!(
            lines[0],
            "private key in the image: /etc/ssh/ssh_host_rsa_key (ssh host key): each machine gets its own"
        );
        assert!(lines[1].contains("dropbear_rsa_host_key (ssh host key): every machine gets this one;"), "{lines:?}");
    }

    #[test]
    fn what_is_looked_at_is_bounded() {
        let mut host = RecordedHost::new();
        for number in 0..2 * MOST_NAMES {
            host = host.file(&format!("/etc/ssl/private/{number}.key"), "PRIVATE KEY");
        }
        let found = find(&host, &Place::Tree { root: "/i".into() }, &|_| false);
        assert_eq!(found.len(), MOST_KEYS);
        assert_eq!(told(&found).len(), MOST_KEYS + 1);
    }
}
