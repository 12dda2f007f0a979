//! The client against servers in a network of their own: a scripted pair, and the real dnsmasq(8).

use std::sync::mpsc::{Receiver, Sender, channel};

use systemimager_engine::sys::{Child, ChildOutput, Cmd, Tool, tool};

use super::message::tests::{answer, option};
use super::*;

const LONG: Duration = Duration::from_secs(40);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const ROGUE: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);

fn skipped(test: &str, why: &str) {
    // Tests capture what is printed by macros.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("SKIPPED: {test}: {why}\n").as_bytes());
}

fn ip(words: &[&str]) -> Option<()> {
    Cmd::tool(Tool::Ip).args(words).run().ok()
}

/// Moves this thread into a network of its own.
fn own_network() -> Option<()> {
    #[expect(deprecated, reason = "the danger is in sharing descriptors no longer (FILES), which is not asked")]
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).ok()
}

/// Runs `client` with an interface `client0` at one end of a wire and `server` with `server0` at the other, each in a
/// thread and a network of its own. `None`: this machine cannot.
fn on_a_wire<T: Send>(
    server: impl FnOnce(&Sender<()>, &Receiver<()>) + Send,
    client: impl FnOnce() -> T + Send,
) -> Option<T> {
    let (tell_tid, tid) = channel();
    let (tell_wire, wire) = channel();
    let (tell_ready, ready) = channel();
    let (tell_done, done) = channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let own = own_network().map(|()| rustix::thread::gettid().as_raw_nonzero().to_string());
            let _ = tell_tid.send(own.clone());
            if own.is_some() && wire.recv().is_ok() {
                let address = format!("{SERVER}/24");
                ip(&["addr", "add", &address, "dev", "server0"]).expect("an address");
                ip(&["link", "set", "server0", "up"]).expect("up");
                server(&tell_ready, &done);
            }
        });
        let client = scope.spawn(move || {
            let other = tid.recv().ok()??;
            own_network()?;
            let name = ["link", "add", "client0", "address", "52:54:00:00:00:01", "type", "veth"];
            ip(&[name.as_slice(), &["peer", "name", "server0", "netns", &other]].concat())?;
            ip(&["link", "set", "client0", "up"])?;
            tell_wire.send(()).ok()?;
            ready.recv().ok()?;
            let result = client();
            let _ = tell_done.send(());
            Some(result)
        });
        client.join().expect("no panic")
    })
}

fn lease_of(client: &Client, dir: &Path) -> Lease {
    let files = super::super::wait::Events::of_files_in(dir).expect("a watch");
    let tick = Duration::from_millis(200);
    super::super::wait::until(LONG, tick, &[&files], || client.lease().expect("it runs")).expect("a lease")
}

#[test]
fn a_refused_server_is_passed_over() {
    let dir = tempfile::tempdir().expect("temporary directory");
    // The rogue answers first, always.
    let server = |ready: &Sender<()>, done: &Receiver<()>| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).expect("a socket");
        socket.set_broadcast(true).expect("broadcast");
        socket.bind_device(Some(b"server0")).expect("bound");
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 67).into()).expect("bound");
        socket.set_read_timeout(Some(NOTICE)).expect("a timeout");
        let socket: UdpSocket = socket.into();
        ready.send(()).expect("waited for");
        let mut bytes = [0; 2048];
        while done.try_recv().is_err() {
            let Ok(length) = socket.recv(&mut bytes) else { continue };
            let message = &bytes[..length];
            let wanted = option(message, 54);
            for server in [ROGUE, SERVER] {
                let mine = wanted.as_deref().is_none_or(|wanted| wanted == server.octets());
                let kind = if option(message, 53) == Some(vec![1]) { 2 } else { 5 };
                if mine {
                    let mut address = server.octets();
                    address[3] = 50;
                    let options = [[54, 4].as_slice(), &server.octets(), &[51, 4, 0, 0, 0, 60]].concat();
                    let reply = answer(message, kind, address.into(), &options);
                    socket.send_to(&reply, (Ipv4Addr::BROADCAST, 68)).expect("sent");
                }
            }
        }
    };
    let leases = on_a_wire(server, || {
        let client = Client::start_in("client0", "52:54:00:00:00:01", dir.path()).expect("started");
        let mut servers = Vec::new();
        for _ in 0..3 {
            servers.push(lease_of(&client, dir.path()).server);
            client.refuse();
        }
        servers
    });
    match leases {
        // When all were refused, the first may be right by now: a server that was down, say.
        Some(servers) => assert_eq!(servers, [Some(ROGUE.into()), Some(SERVER.into()), Some(ROGUE.into())]),
        None => skipped("a_refused_server_is_passed_over", "it needs root, ip(8) and network namespaces"),
    }
}

#[test]
fn dnsmasq_gives_a_lease() {
    let dir = tempfile::tempdir().expect("temporary directory");
    if tool::find(Tool::Dnsmasq, &tool::search_dirs()).is_err() {
        skipped("dnsmasq_gives_a_lease", "there is no dnsmasq; install the package dnsmasq-base");
        return;
    }
    let server = |ready: &Sender<()>, done: &Receiver<()>| {
        let leases = format!("--dhcp-leasefile={}", dir.path().join("leases").display());
        let cmd = Cmd::tool(Tool::Dnsmasq)
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--port=0",
                "--interface=server0",
                "--bind-interfaces",
            ])
            .args([
                "--dhcp-range=10.9.0.50,10.9.0.60,255.255.255.0,2m",
                "--no-ping",
                "--dhcp-authoritative",
                "--user=root",
            ])
            .args(["--dhcp-host=52:54:00:00:00:01,10.9.0.77,www3", "--domain=example.org", "--dhcp-option=6,10.9.0.2"])
            .args([leases.as_str(), "--pid-file="]);
        let quiet = ChildOutput::Lines(Box::new(|_, _| {}));
        let _child = Child::spawn("dnsmasq", cmd, quiet).expect("dnsmasq starts");
        ready.send(()).expect("waited for");
        let _ = done.recv();
    };
    let lease = on_a_wire(server, || {
        let client = Client::start_in("client0", "52:54:00:00:00:01", dir.path()).expect("started");
        lease_of(&client, dir.path())
    });
    let Some(lease) = lease else {
        skipped("dnsmasq_gives_a_lease", "it needs root, ip(8) and network namespaces");
        return;
    };
    let address = |text: &str| text.parse().expect("an address");
    let expected = Lease {
        interface: "client0".into(),
        mac: "52:54:00:00:00:01".into(),
        address: Some(address("10.9.0.77")),
        prefix: Some(24),
        routers: vec![address("10.9.0.1")],
        name_servers: vec![address("10.9.0.2")],
        host_name: Some("www3".into()),
        domain: Some("example.org".into()),
        server: Some(address("10.9.0.1")),
    };
    assert_eq!(lease, expected);
}

#[test]
fn another_servers_no_decides_nothing() {
    let asker = Asker { mac: [0x52, 0x54, 0, 0, 0, 1], xid: 7, secs: 0 };
    let address = Ipv4Addr::new(10, 9, 0, 50);
    let request = message::write(&asker, Kind::Request, None, Some(address));
    let of = |server: Ipv4Addr| [[54, 4].as_slice(), &server.octets()].concat();
    for (name, kind, options, expected) in [
        ("its yes", 5, of(SERVER), true),
        ("its no", 6, of(SERVER), true),
        ("another's no", 6, of(ROGUE), false),
        ("another's yes", 5, of(ROGUE), false),
        ("an offer", 2, of(SERVER), false),
        // Old ones do not say who they are.
        ("nobody's yes", 5, Vec::new(), true),
    ] {
        let reply = message::read(&answer(&request, kind, address, &options), &asker).expect(name);
        assert_eq!(decides(&reply, SERVER), expected, "{name}");
    }
}

#[test]
fn macs() {
    for (text, expected) in [
        ("52:54:00:00:00:0a", Some([0x52, 0x54, 0, 0, 0, 10])),
        ("52:54:00:00:00", None),
        ("x", None),
        ("", None),
        ("52:54:00:00:00:100", None),
    ] {
        assert_eq!(mac_bytes(text), expected, "{text:?}");
    }
}
