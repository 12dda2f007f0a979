//! Leases of each form, as servers write them and garbled.

use super::*;

fn shown(flavor: Flavor, text: &str) -> (Vec<String>, Vec<String>) {
    let read = read(flavor, Path::new("l"), text.as_bytes());
    let leases = read.leases.iter().map(|it| {
        let mac = it.mac.map_or_else(|| "-".to_owned(), |mac| mac.to_string());
        let ends = match it.ends {
            Ends::Never => "never".to_owned(),
            Ends::At(at) => at.to_string(),
            Ends::Gone => "gone".to_owned(),
        };
        format!("{} {} {mac} {} {ends}", it.line, it.address, it.name.as_deref().unwrap_or("-"))
    });
    (leases.collect(), read.faults)
}

const ISC: &str = r#"# The format of this file is documented in the dhcpd.leases(5) manual page.
authoring-byte-order little-endian;
server-duid "\000\001\"{}";

lease 10.0.0.11 {
  starts 4 2026/01/01 00:00:00;
  ends 4 2026/01/01 01:00:00;
  binding state active;
  hardware ethernet 52:54:00:00:00:01;
  uid "\001RT\000\"}lease {";
  set vendor-class-identifier = "PXEClient:Arch:00000";
  on expiry { set x = "}"; }
  client-hostname "www1";
}
lease 10.0.0.12 {
  ends never;
  binding state active;
  hardware ethernet 52:54:00:00:00:02;
}
lease 10.0.0.13 {
  ends epoch 1000;
  binding state free;
  hardware ethernet 52:54:00:00:00:03;
}
lease 10.0.0.11 {
  ends 4 2026/01/01 02:00:00;
  binding state active;
  hardware ethernet 52:54:00:00:00:01;
}
failover peer "x" state { my state normal; }
"#;

#[test]
fn isc() {
    let (leases, faults) = shown(Flavor::Isc, ISC);
    assert_eq!(faults, Vec::<String>::new());
    assert_eq!(
        leases,
        [
            "25 10.0.0.11 52:54:00:00:00:01 - 1767232800",
            "15 10.0.0.12 52:54:00:00:00:02 - never",
            "20 10.0.0.13 52:54:00:00:00:03 - gone"
        ]
    );
    for (name, text, read, says) in [
        ("cut off", "lease 10.0.0.1 {\n ends never;\n", 0, "l:1: the lease of \"10.0.0.1\" has no end"),
        (
            "cut off, and another",
            "lease 10.0.0.1 {\n ends\nlease 10.0.0.2 { ends never; }",
            1,
            "l:1: the lease of \"10.0.0.1\" has no end",
        ),
        ("no address", "lease x\u{1b} { ends never; }", 0, ""),
        ("IPv6", "lease ::1 { ends never; }", 0, "l:1: \"::1\" is no address"),
        (
            "no end",
            "lease 10.0.0.1 { binding state active; }",
            0,
            "l:1: the lease of \"10.0.0.1\" does not say when it ends",
        ),
        ("no date", "lease 10.0.0.1 { ends 4 2026/13/01 00:00:00; }", 0, "does not say when it ends"),
        ("before time began", "lease 10.0.0.1 { ends 4 1960/01/01 00:00:00; }", 0, "does not say when it ends"),
        (
            "no MAC",
            "lease 10.0.0.1 { ends never; hardware ethernet zz; }",
            0,
            "l:1: \"zz\" of the lease of \"10.0.0.1\" is no MAC address",
        ),
        ("open string", "lease 10.0.0.1 { ends never; }\nuid \"x", 0, "l:2: a string begins here and never ends"),
        ("another thing", "lease is { nothing; }", 0, "l:1: \"is\" is no address"),
    ] {
        let (leases, faults) = shown(Flavor::Isc, text);
        assert_eq!(leases.len(), read, "{name}: {leases:?}");
        assert!(says.is_empty() || faults.iter().any(|it| it.contains(says)), "{name}: {faults:?}");
    }
}

#[test]
fn dnsmasq() {
    let text = "1767232800 52:54:00:00:00:01 10.0.0.11 www1 01:52:54:00:00:00:01\n0 52:54:00:00:00:02 10.0.0.12 * *\n\
                5 20-00:11:22 10.0.0.13 ib *\nduid 00:01\n1 2 ::1 x y\n";
    let (leases, faults) = shown(Flavor::Dnsmasq, text);
    assert_eq!(faults, Vec::<String>::new());
    assert_eq!(
        leases,
        [
            "1 10.0.0.11 52:54:00:00:00:01 www1 1767232800",
            "2 10.0.0.12 52:54:00:00:00:02 - never",
            "3 10.0.0.13 - ib 5"
        ]
    );
    for (name, line) in [
        ("words", "no lease at all"),
        ("cut off", "1767232800 52:54:00:00:00:01 10.0.0.1"),
        ("time", "-1 52:54:00:00:00:01 10.0.0.1 * *"),
        ("MAC", "1 52:54:00:00:00:0g 10.0.0.1 * *"),
        ("address", "1 52:54:00:00:00:01 10.0.0.256 * *"),
        ("escape", "1 52:54:00:00:00:01 10.0.0.1 * * \u{1b}[2J"),
    ] {
        let (leases, faults) = shown(Flavor::Dnsmasq, &format!("\n{line}\n0 52:54:00:00:00:02 10.0.0.12 * *\n"));
        assert_eq!(leases.len(), 1, "{name}: the rest is read");
        assert!(
            faults.len() == 1 && faults[0].starts_with("l:2: \"") && !faults[0].contains('\u{1b}'),
            "{name}: {faults:?}"
        );
    }
}

#[test]
fn kea() {
    let head =
        "address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname,state,user_context\n";
    let text = format!(
        "{head}10.0.0.11,52:54:00:00:00:01,,600,100,1,0,0,www1.,0,\n10.0.0.12,52:54:00:00:00:02,,4294967295,5,1,0,0,,0,\n\
         10.0.0.13,52:54:00:00:00:03,,600,100,1,0,0,,1,\n{head}10.0.0.11,52:54:00:00:00:01,,600,200,1,0,0,a&#x2cb,0,\n\
         10.0.0.12,52:54:00:00:00:02,,0,5,1,0,0,,0,\n"
    );
    let (leases, faults) = shown(Flavor::Kea, &text);
    assert_eq!(faults, Vec::<String>::new());
    assert_eq!(
        leases,
        [
            "6 10.0.0.11 52:54:00:00:00:01 a,b 200",
            "7 10.0.0.12 52:54:00:00:00:02 - gone",
            "4 10.0.0.13 52:54:00:00:00:03 - gone"
        ]
    );
    for (name, text, says) in [
        ("no names", "10.0.0.11,52:54:00:00:00:01\n".to_owned(), "l:1: the columns are not named"),
        ("cut off", format!("{head}10.0.0.11,52:54:00\n"), "has 2 columns and not 11"),
        ("address", format!("{head}x,,,600,1,1,0,0,,0,\n"), "has no right address"),
        ("MAC", format!("{head}10.0.0.1,zz,,600,1,1,0,0,,0,\n"), "has no right hwaddr"),
        ("time", format!("{head}10.0.0.1,,,600,x,1,0,0,,0,\n"), "has no right expire"),
        ("state", format!("{head}10.0.0.1,,,600,1,1,0,0,,-,\n"), "has no right state"),
        ("columns", "address\n10.0.0.1\n".to_owned(), "has no right valid_lifetime"),
    ] {
        let (leases, faults) = shown(Flavor::Kea, &text);
        assert!(leases.is_empty() && faults.len() == 1 && faults[0].contains(says), "{name}: {leases:?} {faults:?}");
    }
}

#[test]
fn what_is_no_text_is_told() {
    for flavor in Flavor::ALL {
        let read = read(flavor, Path::new("l"), b"a\n\xff\xfe");
        assert!(
            read.leases.is_empty() && read.faults[0].starts_with("l:2: this is no text"),
            "{flavor}: {:?}",
            read.faults
        );
    }
}
