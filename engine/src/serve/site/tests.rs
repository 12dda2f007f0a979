//! Configurations of each flavour: golden files that the servers themselves judge, and what is refused.

use super::*;
use std::path::PathBuf;

fn reservation(host: &str, mac: &str, address: &str) -> Reservation {
    Reservation { address: address.parse().unwrap(), host: host.try_into().unwrap(), mac: mac.parse().unwrap() }
}

fn whole() -> Site {
    let file = |client_arch, name: &str| BootFile { client_arch, name: name.to_owned() };
    Site {
        network: "10.77.0.1/23".parse().unwrap(),
        server: "10.77.0.1".parse().unwrap(),
        // Kea looks for it when it checks.
        interface: "lo".into(),
        ranges: vec!["10.77.0.10-10.77.0.20".parse().unwrap(), "10.77.1.1-10.77.1.1".parse().unwrap()],
        router: Some("10.77.0.254".parse().unwrap()),
        name_servers: vec!["10.77.0.2".parse().unwrap(), "10.77.0.3".parse().unwrap()],
        domain: Some("example.org".try_into().unwrap()),
        lease_seconds: 600,
        boot_files: vec![file(0, "lpxelinux.0"), file(7, "boot/x.efi"), file(16, "http://10.77.0.1:8069/x.efi")],
    }
}

fn bare() -> Site {
    Site {
        ranges: Vec::new(),
        router: None,
        name_servers: Vec::new(),
        domain: None,
        boot_files: vec![BootFile { client_arch: 0, name: "lpxelinux.0".into() }],
        ..whole()
    }
}

fn golden(flavor: Flavor, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/serve/site/golden").join(flavor.name()).join(name)
}

fn compare(path: &Path, text: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, text).unwrap();
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(text, expected, "{}: UPDATE_GOLDEN=1 rewrites it", path.display());
}

/// Has the server's own program judge a configuration.
fn judged(flavor: Flavor, text: &str) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let old = replace::Old::read(&dir.path().join("conf")).unwrap();
    match replace::prepare(flavor, old, text, true) {
        Ok(_) => Ok(()),
        Err(error) if error.to_string().contains("was not found") => {
            println!("SKIPPED: serve::site::tests: {} is not installed", flavor.tool().name());
            Ok(())
        }
        Err(error) => Err(format!("{error:#}\n{text}")),
    }
}

#[test]
fn what_is_written_is_what_the_servers_take() {
    let file = Path::new("conf");
    for flavor in Flavor::ALL {
        for (name, site) in [("fresh", whole()), ("existing", whole()), ("bare", bare())] {
            let before = std::fs::read_to_string(golden(flavor, &format!("{name}.before"))).unwrap_or_default();
            let served = with_site(flavor, file, &before, &site).unwrap();
            compare(&golden(flavor, &format!("{name}.server")), &served);
            judged(flavor, &served).unwrap();
            assert_eq!(with_site(flavor, file, &served, &site).unwrap(), served, "{flavor} {name}: twice");
            let found = read(flavor, file, &served).unwrap();
            assert!(found.served.is_some() && found.entries.iter().all(|entry| !entry.ours), "{flavor} {name}");

            let entries = [
                reservation("www1", "52:54:00:00:00:01", "10.77.0.12"),
                reservation("www2.example.org", "52:54:00:00:00:02", "10.77.0.20"),
            ];
            let reserve =
                |text: &str, entries: &[Reservation]| with_entries(flavor, file, text, site.network, entries).unwrap();
            let fixed = reserve(&served, &entries);
            compare(&golden(flavor, &format!("{name}.static")), &fixed);
            judged(flavor, &fixed).unwrap();
            assert_eq!(reserve(&fixed, &entries), fixed, "{flavor} {name}: twice");
            assert_eq!(with_site(flavor, file, &fixed, &site).unwrap(), fixed, "{flavor} {name}: entries stay");
            let found = read(flavor, file, &fixed).unwrap();
            let ours: Vec<_> = found.entries.iter().filter(|entry| entry.ours).map(|it| (it.mac, it.address)).collect();
            assert_eq!(ours, entries.each_ref().map(|it| (Some(it.mac), Some(it.address))), "{flavor} {name}");
            let none = read(flavor, file, &reserve(&fixed, &[])).unwrap();
            assert!(none.entries.iter().all(|entry| !entry.ours), "{flavor} {name}");
            if flavor != Flavor::Kea {
                assert_eq!(reserve(&fixed, &[]).trim_end(), served.trim_end(), "{flavor} {name}: and out again");
            }
            // A line of theirs may get a comma, or an interface.
            for line in before.lines().filter(|line| !line.contains("[ ]")) {
                let bare = |line: &str| line.replace(',', "");
                assert!(fixed.lines().any(|it| bare(it) == bare(line)), "{flavor}: {line}");
            }
        }
    }
}

#[test]
fn a_machine_of_somebody_elses_is_known() {
    for flavor in Flavor::ALL {
        let text = std::fs::read_to_string(golden(flavor, "existing.before")).unwrap();
        let found = read(flavor, Path::new("conf"), &text).unwrap();
        let address = if flavor == Flavor::Kea { "192.0.2.15" } else { "10.77.0.15" };
        let [entry] = found.entries.as_slice() else { panic!("{flavor}: {found:?}") };
        assert_eq!(entry.mac, "00:00:5e:00:53:01".parse().ok(), "{flavor}");
        assert_eq!(entry.address, address.parse().ok(), "{flavor}");
        assert!(!entry.ours && found.served.is_none(), "{flavor}");
        let [(_, range)] = found.ranges.as_slice() else { panic!("{flavor}: {found:?}") };
        assert_eq!(range.to_string(), "192.0.2.10-192.0.2.20", "{flavor}");
    }
}

#[test]
fn what_cannot_be_changed_has_a_place() {
    use Flavor::{Dnsmasq, Isc, Kea};
    let subnet = "a b;\nsubnet 10.77.0.0 netmask 255.255.255.0 {\n}\n";
    for (name, flavor, text, says) in [
        (
            "its subnet is another's",
            Isc,
            subnet,
            "conf:2: this declares 10.77.0.0/24, and a subnet can be declared once only",
        ),
        ("a brace", Isc, "a {\n", "conf:1: '{' without '}' after it"),
        ("half a block", Isc, "\n# systemimager begin dhcp: x\n", "conf:2: \"# systemimager begin dhcp\" without"),
        (
            "half a block of hosts",
            Isc,
            "# systemimager end dhcp-hosts\n",
            "conf:1: \"# systemimager end dhcp-hosts\" without",
        ),
        (
            "a block in a body",
            Isc,
            "group {\n# systemimager begin dhcp\na b;\n# systemimager end dhcp\n}\n",
            "conf:3: our block stands inside",
        ),
        ("half a block", Dnsmasq, "# systemimager begin dhcp\n", "conf:1: \"# systemimager begin dhcp\" without"),
        (
            "a range",
            Dnsmasq,
            "dhcp-range=10.77.0.15,10.77.0.30,1h\n",
            "conf:1: the range 10.77.0.15-10.77.0.30 overlaps",
        ),
        ("no JSON", Kea, "{\n  \"Dhcp4\": {,\n", "conf:2: a name in quotes"),
        ("another's file", Kea, "{ \"Dhcp6\": {} }", "conf:1: there is no \"Dhcp4\" in it"),
        ("a list", Kea, "{ \"Dhcp4\": [] }", "conf:1: Dhcp4 is no object"),
        ("no list", Kea, "{ \"Dhcp4\": {\n\"subnet4\": {} } }", "conf:2: \"subnet4\" is no list"),
        ("twice", Kea, "{ \"Dhcp4\": {\"subnet4\": [],\n\"subnet4\": [] } }", "conf:2: \"subnet4\" is there twice"),
        (
            "its subnet is another's",
            Kea,
            "{ \"Dhcp4\": {\"subnet4\": [\n{ \"subnet\": \"10.77.1.9/23\" }] } }",
            "conf:2: this declares 10.77.0.0/23",
        ),
        ("files within", Kea, "{ \"Dhcp4\": {\n<?include \"x\"?> } }", "conf:2: this includes another file"),
    ] {
        let error = with_site(flavor, Path::new("conf"), text, &whole()).expect_err(name);
        assert!(error.starts_with(says), "{flavor} {name}: {error}");
    }
    let error = with_entries(Kea, Path::new("conf"), "", whole().network, &[]).unwrap_err();
    assert!(error.starts_with("conf: the subnet 10.77.0.0/23 is not there; write it with makedhcpserver"), "{error}");
}

#[test]
fn what_makes_no_sense_is_told_at_once() {
    let change = |change: &dyn Fn(&mut Site)| {
        let mut site = whole();
        change(&mut site);
        site.check().unwrap_err()
    };
    for (name, error, says) in [
        ("IPv6", change(&|it| it.network = "fd77::1/64".parse().unwrap()), "fd77::/64 is no network for DHCP"),
        (
            "too small",
            change(&|it| it.network = "10.77.0.1/31".parse().unwrap()),
            "10.77.0.0/31 is no network for DHCP",
        ),
        ("outside", change(&|it| it.ranges = vec!["10.77.0.9-10.77.2.1".parse().unwrap()]), "10.77.2.1 of the range"),
        (
            "the server",
            change(&|it| it.ranges = vec!["10.77.0.1-10.77.0.2".parse().unwrap()]),
            "holds 10.77.0.1, which is this image server's",
        ),
        (
            "the router",
            change(&|it| it.ranges = vec!["10.77.0.250-10.77.0.255".parse().unwrap()]),
            "holds 10.77.0.254, which is the router's",
        ),
        ("twice", change(&|it| it.ranges.push("10.77.0.20-10.77.0.30".parse().unwrap())), "overlap"),
        (
            "far router",
            change(&|it| it.router = Some([10, 9, 9, 9].into())),
            "the router 10.9.9.9 is no host's address",
        ),
        ("no time", change(&|it| it.lease_seconds = 0), "a lease of 0 seconds"),
        ("interface", change(&|it| it.interface = "a\nb".into()), "the interface is \"a\\nb\""),
        ("boot file", change(&|it| it.boot_files[0].name = "a\"; x".into()), "the boot file's name is \"a\\\"; x\""),
    ] {
        assert!(error.contains(says), "{name}: {error}");
    }
    whole().check().unwrap();
}

#[test]
fn spans() {
    for (text, taken, left) in [
        ("10.0.0.1-10.0.0.5", vec!["10.0.0.1", "10.0.0.3", "10.0.0.4"], "10.0.0.2-10.0.0.2 10.0.0.5-10.0.0.5"),
        ("10.0.0.1-10.0.0.5", vec!["10.0.0.5", "10.9.0.0"], "10.0.0.1-10.0.0.4"),
        ("10.0.0.1-10.0.0.5", vec![], "10.0.0.1-10.0.0.5"),
        ("10.0.0.1", vec!["10.0.0.1"], ""),
        ("255.255.255.254-255.255.255.255", vec!["255.255.255.255"], "255.255.255.254-255.255.255.254"),
        ("0.0.0.0-0.0.0.1", vec!["0.0.0.0"], "0.0.0.1-0.0.0.1"),
    ] {
        let taken = taken.into_iter().map(|it| it.parse().unwrap()).collect();
        let shown: Vec<String> =
            text.parse::<Span>().unwrap().without(&taken).iter().map(ToString::to_string).collect();
        assert_eq!(shown.join(" "), left, "{text}");
    }
    for bad in ["", "10.0.0.1-", "10.0.0.2-10.0.0.1", "a-b", "10.0.0.1-10.0.0.2-10.0.0.3", "::1-::2"] {
        assert!(bad.parse::<Span>().is_err(), "{bad}");
    }
}

#[test]
fn dnsmasq_entries_of_all_shapes() {
    for (text, name, mac, address) in [
        ("dhcp-host=52:54:00:00:00:01,10.0.0.1,www1,600", Some("www1"), true, true),
        ("  dhcp-host = www1, 10.0.0.1 # a remark", Some("www1"), false, true),
        ("dhcp-host=id:x,set:red,52:54:00:00:00:01,ignore", None, true, false),
        ("dhcp-host=52:54:00:00:00:01,12h", None, true, false),
    ] {
        let found = read(Flavor::Dnsmasq, Path::new("conf"), text).unwrap();
        let [entry] = found.entries.as_slice() else { panic!("{text}: {found:?}") };
        assert_eq!(
            (entry.name.as_deref(), entry.mac.is_some(), entry.address.is_some()),
            (name, mac, address),
            "{text}"
        );
    }
    let none = read(Flavor::Dnsmasq, Path::new("conf"), "#dhcp-host=52:54:00:00:00:01,10.0.0.1\ndhcp-host=\n").unwrap();
    assert_eq!(none, Found::default());
}

#[test]
fn our_ranges_grow_again() {
    let file = Path::new("conf");
    let served = with_site(Flavor::Isc, file, "", &whole()).unwrap();
    assert!(served.contains("\n  range 10.77.0.10 10.77.0.20;\n"), "{served}");
    let all: Vec<Reservation> = (10..=20)
        .map(|last| reservation(&format!("n{last}"), &format!("52:54:00:00:00:{last}"), &format!("10.77.0.{last}")))
        .collect();
    let fixed = with_entries(Flavor::Isc, file, &served, whole().network, &all).unwrap();
    assert!(!fixed.contains("  range 10.77.0."), "{fixed}");
    let fewer = with_entries(Flavor::Isc, file, &fixed, whole().network, &all[..2]).unwrap();
    assert!(fewer.contains("\n  range 10.77.0.12 10.77.0.20;\n"), "{fewer}");
}
