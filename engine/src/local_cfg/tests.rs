//! What a local.cfg may say, line by line, and the example that is shipped.

use super::*;

/// What a text says, in short; or its problems.
fn read(text: &str) -> Result<String, String> {
    let (cfg, warnings) = parse(text.as_bytes()).map_err(|problems| problems.to_string())?;
    let mut said = cfg.plain().trim_start_matches('\n').replace('\n', "; ");
    for warning in warnings {
        said.push_str(&format!("warning {warning}; "));
    }
    Ok(said.trim_end_matches("; ").to_owned())
}

#[test]
fn lines_are_assignments() {
    let rows: &[(&str, &str, Result<&str, &str>)] = &[
        ("nothing", "\n# a comment\n   \n", Ok("")),
        ("plain", "HOSTNAME=www1\n", Ok("HOSTNAME=www1")),
        ("no newline", "HOSTNAME=www1", Ok("HOSTNAME=www1")),
        ("an editor of DOS", "\u{feff}HOSTNAME=www1\r\nDEVICE=eth0\r\n", Ok("HOSTNAME=www1; DEVICE=eth0")),
        ("quotes", "HOSTNAME=\"www1\"\nDEVICE='eth0'\n", Ok("HOSTNAME=www1; DEVICE=eth0")),
        ("blanks around", "\t HOSTNAME=www1 \t\n", Ok("HOSTNAME=www1")),
        ("a comment behind", "HOSTNAME=www1 # the first\nDEVICE=\"eth0\" # $x\n", Ok("HOSTNAME=www1; DEVICE=eth0")),
        ("set to nothing", "HOSTNAME=\nDEVICE=\"\"\nGATEWAY= # none\n", Ok("")),
        ("no assignment", "www1\n", Err("line 1: \"www1\" is not VARIABLE=value")),
        ("blank before", "\nHOSTNAME = www1\n", Err("line 2: a blank before the =; write HOSTNAME=value")),
        ("blank behind", "HOSTNAME= www1\n", Err("line 1: a blank after the =; the value begins there")),
        ("export", "export HOSTNAME=www1", Err("line 1: \"export HOSTNAME\" is no variable's name")),
        ("a digit first", "1HOST=x", Err("line 1: \"1HOST\" is no variable's name")),
        ("no name", "=x", Err("line 1: \"\" is no variable's name")),
        ("not closed", "HOSTNAME=\"www1\n", Err("line 1: the quotation mark \" is not closed")),
        ("two words", "HOSTNAME=www 1\n", Err("line 1: \"1\" stands after the value; put a value with blanks")),
        ("behind a quote", "HOSTNAME='www'1\n", Err("line 1: \"1\" stands after the value")),
        ("a quote inside", "HOSTNAME=w'w'w\n", Err("line 1: '\\'' in the value: nothing here is a shell's")),
        ("variable", "HOSTNAME=$NAME\n", Err("line 1: '$' in the value: this file is read and never evaluated")),
        ("variable in quotes", "HOSTNAME=\"$NAME\"\n", Err("line 1: '$' in the value")),
        ("also in single ones", "HOSTNAME='$NAME'\n", Err("line 1: '$' in the value")),
        ("command", "HOSTNAME=`id`\n", Err("line 1: '`' in the value")),
        ("command in blanks", "HOSTNAME=$(rm -rf /)\n", Err("line 1: '$' in the value")),
        ("backslash", "HOSTNAME=\"a\\\"b\"\n", Err("line 1: '\\\\' in the value")),
        ("two commands", "HOSTNAME=a;reboot\n", Err("line 1: ';' in the value: nothing here is a shell's")),
        ("NUL", "HOSTNAME=www1\0\n", Err("line 1: '\\0' is no character of a text")),
        ("escape", "HOSTNAME=\"\u{1b}[2J\"\n", Err("line 1: '\\u{1b}' is no character of a text")),
        (
            "all of them",
            "HOSTNAME=a_b\nDEVICE=eth0\nx\nIPADDR=10.0.0.300/24\n",
            Err("line 1: HOSTNAME: \"a_b\" is not a host name: '_' is not allowed; use letters, digits and '.', '-'\n\
                 line 3: \"x\" is not VARIABLE=value\n\
                 line 4: IPADDR: \"10.0.0.300\" is not an IPv4 address"),
        ),
    ];
    for (name, text, expected) in rows {
        match (read(text), expected) {
            (Ok(said), Ok(expected)) => assert_eq!(said, *expected, "{name}"),
            (Err(error), Err(says)) => assert!(error.starts_with(says), "{name}: {error}"),
            (got, _) => panic!("{name}: {got:?}"),
        }
    }
}

#[test]
fn values_are_checked() {
    let rows: &[(&str, &str, Result<&str, &str>)] = &[
        ("prefix at the address", "IPADDR=10.0.0.11/24", Ok("IPADDR=10.0.0.11/24")),
        ("agreeing netmask", "IPADDR=10.0.0.11/24\nNETMASK=24", Ok("IPADDR=10.0.0.11/24; NETMASK=24")),
        (
            "another netmask",
            "IPADDR=10.0.0.11/24\nNETMASK=16",
            Err("line 1: IPADDR says /24, and NETMASK in line 2 is"),
        ),
        ("no netmask", "IPADDR=10.0.0.11", Err("line 1: IPADDR has no netmask; write IPADDR=10.0.0.11/24")),
        ("odd netmask", "IPADDR=10.0.0.11\nNETMASK=255.0.255.0", Err("line 1: IPADDR has no netmask")),
        ("no prefix length", "IPADDR=10.0.0.11/33", Err("line 1: IPADDR: \"33\" is not a prefix length")),
        ("signed prefix length", "IPADDR=10.0.0.11/+8", Err("line 1: IPADDR: \"+8\" is not a prefix length")),
        ("netmask alone", "NETMASK=255.255.255.0", Err("line 1: NETMASK says nothing without IPADDR")),
        ("the network itself", "IPADDR=10.0.0.0/24", Err("line 1: IPADDR=10.0.0.0 is the network 10.0.0.0/24 itself")),
        ("broadcast address", "IPADDR=10.0.0.255/24", Err("line 1: IPADDR=10.0.0.255 is the network")),
        ("a link of two", "IPADDR=10.0.0.0/31", Ok("IPADDR=10.0.0.0/31")),
        ("loopback", "IPADDR=127.0.0.1/8", Err("line 1: IPADDR: 127.0.0.1 is no address that a machine")),
        ("IPv6", "IPADDR=fd77::1/64", Err("line 1: IPADDR: \"fd77::1\" is not an IPv4 address")),
        ("wrong network", "IPADDR=10.0.0.11/24\nNETWORK=10.0.1.0", Err("line 2: NETWORK=10.0.1.0, but by IPADDR and")),
        (
            "wrong broadcast",
            "IPADDR=10.0.0.11/24\nBROADCAST=10.0.0.254",
            Err("line 2: BROADCAST=10.0.0.254, but by IPADDR and its netmask it is 10.0.0.255"),
        ),
        ("gateway elsewhere", "IPADDR=10.0.0.11/24\nGATEWAY=10.0.1.1", Err("line 2: GATEWAY=10.0.1.1 is not in the")),
        (
            "its own gateway",
            "IPADDR=10.0.0.11/24\nGATEWAY=10.0.0.11",
            Err("line 2: GATEWAY=10.0.0.11 is the machine's"),
        ),
        ("gateway by DHCP's network", "GATEWAY=10.0.1.1", Ok("GATEWAY=10.0.1.1")),
        ("two devices", "DEVICE=eth0\nGATEWAYDEV=eth1", Err("line 2: GATEWAYDEV=eth1, and DEVICE=eth0")),
        ("one device", "DEVICE=eth0\nGATEWAYDEV=eth0", Ok("DEVICE=eth0; GATEWAYDEV=eth0")),
        ("a path as device", "DEVICE=../eth0", Err("line 1: DEVICE: \"../eth0\" is neither an interface")),
        ("an option as device", "DEVICE=-4", Err("line 1: DEVICE: \"-4\" is neither an interface")),
        ("name servers", "NAMESERVERS=\"10.0.0.1, 10.0.0.2\"", Ok("NAMESERVERS=10.0.0.1, 10.0.0.2")),
        ("too many", "NAMESERVERS='10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4'", Err("line 1: NAMESERVERS: 4 name servers")),
        ("server by name", "IMAGESERVER=images.example.org", Ok("IMAGESERVER=images.example.org")),
        ("server with port", "IMAGESERVER=10.0.0.1:80", Err("line 1: IMAGESERVER: \"10.0.0.1:80\" is neither")),
        ("half an address", "IMAGESERVER=10.0.0", Err("line 1: IMAGESERVER: \"10.0.0\" is neither")),
        ("no port", "IMAGESERVER_PORT=0", Err("line 1: IMAGESERVER_PORT: \"0\" is not a port")),
        ("a path as image", "IMAGENAME=../../etc", Err("line 1: IMAGENAME: \"../../etc\" is not an image name")),
        ("twice", "HOSTNAME=a\n\nHOSTNAME=b", Err("line 3: HOSTNAME is given again, after line 1")),
        (
            "misspelt",
            "HOSTNMAE=a\nhostname=b\nHOSTNAME=c",
            Ok("HOSTNAME=c; \
                warning line 1: there is no variable HOSTNMAE; is HOSTNAME meant? The line is passed over; \
                warning line 2: there is no variable hostname; is HOSTNAME meant? The line is passed over"),
        ),
        ("classic", "SSH_USER=a", Ok("warning line 1: SSH_USER has no meaning here: the master file names the")),
        ("strange", "X=a", Ok("warning line 1: there is no variable X; the line is passed over (there is HOSTNAME, ")),
    ];
    for (name, text, expected) in rows {
        match (read(text), expected) {
            (Ok(said), Ok(expected)) => assert!(said.starts_with(expected), "{name}: {said}"),
            (Err(error), Err(says)) => assert!(error.starts_with(says), "{name}: {error}"),
            (got, _) => panic!("{name}: {got:?}"),
        }
    }
}

#[test]
fn hostile_files_end() {
    let long = parse(format!("HOSTNAME={}\n", "a".repeat(60_000)).as_bytes()).unwrap_err().to_string();
    assert_eq!(long, "line 1: 60009 bytes; a line has at most 1024");
    let huge = parse(&vec![b'a'; 1 << 20]).unwrap_err().to_string();
    assert!(huge.starts_with("line 1: the file has more than 65536 bytes"), "{huge}");
    let many = parse("x\n".repeat(1000).as_bytes()).unwrap_err().to_string();
    assert_eq!(many.lines().count(), 21);
    assert!(many.ends_with("\nand 980 more"), "{many}");
    let binary = parse(b"HOSTNAME=\xff\n").unwrap_err().to_string();
    assert_eq!(binary, "line 1: byte 10 is no UTF-8 text; write it anew with an editor");
}

#[test]
fn plugins_get_each_line_where_it_is() {
    let text = "# who\n\nHOSTNAME=\"www1\"  # the first\nNONSENSE=1\nIMAGENAME='web'\n";
    let (cfg, warnings) = parse(text.as_bytes()).unwrap();
    assert_eq!(cfg.plain(), "\n\nHOSTNAME=www1\n\nIMAGENAME=web\n");
    assert_eq!(warnings.len(), 1);
    assert_eq!(cfg.names(), ["HOSTNAME", "IMAGENAME"]);
    let (again, _) = parse(cfg.plain().as_bytes()).unwrap();
    assert_eq!(again, cfg);
}

#[test]
fn a_lease_without_a_server() {
    let text =
        "IPADDR=10.0.0.11\nNETMASK=255.255.255.0\nGATEWAY=10.0.0.1\nNAMESERVERS=10.0.0.2\nDOMAINNAME=example.org\n";
    let (cfg, _) = parse(text.as_bytes()).unwrap();
    let lease = cfg.lease("eth0", "52:54:00:00:00:01").unwrap();
    assert_eq!(lease.address, Some(Ipv4Addr::new(10, 0, 0, 11).into()));
    assert_eq!((lease.prefix, lease.server), (Some(24), None));
    assert_eq!(lease.routers, [Ipv4Addr::new(10, 0, 0, 1)]);
    assert_eq!(lease.name_servers, [Ipv4Addr::new(10, 0, 0, 2)]);
    assert_eq!(lease.domain.as_deref(), Some("example.org"));
    let (part, _) = parse(b"NAMESERVERS=10.0.0.2\n").unwrap();
    assert_eq!(part.lease("eth0", ""), None);
    let given = Lease { domain: Some("a".into()), routers: lease.routers.clone(), ..Lease::default() };
    let over = part.over(given);
    assert_eq!((over.domain.as_deref(), over.routers.len(), over.name_servers.len()), (Some("a"), 1, 1));
}

#[test]
fn the_example_that_is_shipped() {
    let text = include_str!("../../../dist/local.cfg");
    let (cfg, warnings) = parse(text.as_bytes()).unwrap();
    assert_eq!((cfg.host.as_ref().map(HostName::as_str), warnings), (Some("www1"), vec![]));
    // Each line that is there to be uncommented says something, and together they are one configuration.
    let said = |line: &&str| line.starts_with(|letter: char| letter.is_ascii_uppercase());
    let lines: Vec<&str> = text.lines().map(|line| line.strip_prefix('#').filter(said).unwrap_or(line)).collect();
    let all = lines.join("\n");
    let (cfg, warnings) = parse(all.as_bytes()).unwrap();
    assert_eq!(warnings, []);
    for variable in names::Variable::ALL {
        assert!(cfg.names().contains(&variable.name()), "{} is not in the example", variable.name());
    }
}
