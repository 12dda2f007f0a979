//! One image to many receivers by multicast, over wires that are bad in every way: each a namespace, none a virtual machine.
#![allow(clippy::disallowed_methods, reason = "a test mounts what it needs, and ends it")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use systemimager_core::Capabilities;
use systemimager_engine::capture::pairing;
use systemimager_tests::lab::netns::Host;
use systemimager_tests::many::{Many, Running, SECRET, noise, write_noise};
use systemimager_tests::need::{self, Need};
use systemimager_tests::{awkward, compare, loopback, require};
use transport_multicast::fuzzing;

const BY: &str = "multicast";
/// A group of its own for a test that has to know which.
const GROUP: (&str, Ipv4Addr) = ("239.192.7.7/32", Ipv4Addr::new(239, 192, 7, 7));
const PORT: u16 = 8067;

macro_rules! many {
    ($count:expr) => {{
        require!(Need::NetworkNamespaces, Need::Program("nft"), Need::Program("tc"));
        let Some(program) = loopback::program() else {
            return need::skipped(&need::test_name(), "no program is staged; run cargo xtask test");
        };
        let many = Many::new(program, $count).expect("namespaces");
        many.server.shape("200mbit").expect("tc");
        many.settings(BY, &[("rate", "160mbit")]).expect("written");
        many
    }};
}

/// An image with files of noise: so many MB, in large and small ones.
fn image(many: &Many, name: &str, megabytes: usize) {
    let tree = many.image(name);
    fs::create_dir_all(tree.join("small")).unwrap();
    write_noise(&tree.join("large"), 1, (megabytes - 1) * 1_000_000).unwrap();
    for number in 0..20 {
        write_noise(&tree.join(format!("small/{number}")), number, 50_000).unwrap();
    }
}

fn pulls(many: &Many, which: impl IntoIterator<Item = usize>, image: &str) -> Vec<Running> {
    which.into_iter().map(|it| many.pull(it, image, BY).expect("started")).collect()
}

fn same(image: &Path, into: &Path) {
    let differences = compare::compare(image, into, &compare::Options::new()).expect("both readable");
    assert!(differences.is_empty(), "{}:\n{}", into.display(), compare::report(&differences, 20));
}

/// MiB that came, as pull says at its end.
fn received(pull: &Running) -> u64 {
    let said = pull.said();
    let words: Vec<&str> = said.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "received").unwrap_or_else(|| panic!("nothing received: {said}"));
    words[at - 2].parse().expect("a number")
}

fn exit(running: &mut Running) -> Option<i32> {
    running.ended().expect("it ends").code()
}

/// Waits until the sender has told of a receiver what these words say.
fn wait_told(offer: &mut Running, host: &Host, words: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let told =
        |said: &str| said.lines().any(|line| line.starts_with(&format!("{}: ", host.address)) && line.contains(words));
    while !told(&offer.said()) {
        assert!(Instant::now() < deadline, "{} {words}: {}", host.address, offer.said());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_tree_that_is_hard_to_copy_arrives_identical_at_eight_over_a_bad_wire() {
    let many = many!(8);
    awkward::make(&many.image("hard"), &awkward::Options::default()).expect("the awkward tree");
    write_noise(&many.image("hard").join("noise"), 5, 10_000_000).unwrap();
    for host in &many.receivers {
        host.lose(50).unwrap();
    }
    let mut offer = many.offer("hard", BY, &["--clients", "8"]).unwrap();
    for pull in &mut pulls(&many, 0..8, "hard") {
        pull.succeeds().unwrap();
    }
    offer.succeeds().unwrap();
    for receiver in 0..8 {
        same(&many.image("hard"), &many.copy(receiver));
    }
    // Again: all is there.
    let mut offer = many.offer("hard", BY, &["--clients", "1"]).unwrap();
    let mut pull = many.pull(3, "hard", BY).unwrap();
    pull.succeeds().unwrap();
    offer.succeeds().unwrap();
    assert_eq!(received(&pull), 0, "{}", pull.said());
    same(&many.image("hard"), &many.copy(3));
}

#[test]
fn a_fifth_is_lost_and_nobody_lacks_anything() {
    let many = many!(3);
    image(&many, "web", 20);
    for host in &many.receivers {
        host.lose(200).unwrap();
    }
    let mut offer = many.offer("web", BY, &["--clients", "3"]).unwrap();
    for pull in &mut pulls(&many, 0..3, "web") {
        pull.succeeds().unwrap();
    }
    offer.succeeds().unwrap();
    (0..3).for_each(|receiver| same(&many.image("web"), &many.copy(receiver)));
}

#[test]
fn a_receiver_that_was_killed_goes_on_where_it_was() {
    let many = many!(2);
    image(&many, "web", 60);
    many.settings(BY, &[("rate", "80mbit")]).unwrap();
    let mut offer = many.offer("web", BY, &["--clients", "2"]).unwrap();
    let mut other = many.pull(1, "web", BY).unwrap();
    let victim = many.pull(0, "web", BY).unwrap();
    many.wait_has(0, 20_000_000).unwrap();
    victim.kill().unwrap();
    wait_told(&mut offer, &many.receivers[0], "FAILED");
    let mut again = many.pull(0, "web", BY).unwrap();
    again.succeeds().unwrap();
    other.succeeds().unwrap();
    offer.succeeds().unwrap();
    assert!(received(&again) < 50, "it did not begin anew: {}", again.said());
    (0..2).for_each(|receiver| same(&many.image("web"), &many.copy(receiver)));
}

#[test]
fn a_sender_that_was_killed_is_started_again_and_nothing_comes_twice() {
    let many = many!(2);
    image(&many, "web", 60);
    many.settings(BY, &[("rate", "80mbit")]).unwrap();
    let offer = many.offer("web", BY, &[]).unwrap();
    let mut both = pulls(&many, 0..2, "web");
    (0..2).for_each(|receiver| many.wait_has(receiver, 20_000_000).unwrap());
    offer.kill().unwrap();
    for pull in &mut both {
        assert_eq!(exit(pull), Some(1), "{}", pull.said());
        assert!(pull.said().contains("the sender is gone"), "{}", pull.said());
    }
    let mut offer = many.offer("web", BY, &["--clients", "2"]).unwrap();
    for pull in &mut pulls(&many, 0..2, "web") {
        pull.succeeds().unwrap();
        assert!(received(pull) < 50, "it did not begin anew: {}", pull.said());
    }
    offer.succeeds().unwrap();
    (0..2).for_each(|receiver| same(&many.image("web"), &many.copy(receiver)));
}

#[test]
fn an_image_that_is_edited_meanwhile_is_not_sent_as_if_it_were_not() {
    let many = many!(2);
    image(&many, "web", 60);
    many.settings(BY, &[("rate", "40mbit"), ("cache", "16")]).unwrap();
    let mut offer = many.offer("web", BY, &[]).unwrap();
    let mut both = pulls(&many, 0..2, "web");
    wait_told(&mut offer, &many.receivers[1], "group");
    let large = fs::File::options().write(true).open(many.image("web").join("large")).unwrap();
    large.write_all_at(b"edited", 55_000_000).unwrap();
    for pull in &mut both {
        assert_eq!(exit(pull), Some(1), "{}", pull.said());
        assert!(pull.said().contains("/large of the image was changed while"), "{}", pull.said());
    }
    many.settings(BY, &[("rate", "160mbit")]).unwrap();
    assert_eq!(offer.terminate().unwrap().code(), Some(3), "{}", offer.said());
    let mut offer = many.offer("web", BY, &["--clients", "2"]).unwrap();
    for pull in &mut pulls(&many, 0..2, "web") {
        pull.succeeds().unwrap();
    }
    offer.succeeds().unwrap();
    (0..2).for_each(|receiver| same(&many.image("web"), &many.copy(receiver)));
}

#[test]
fn two_senders_on_one_group_do_not_mix() {
    let many = many!(2);
    many.settings(BY, &[("rate", "80mbit"), ("groups", GROUP.0)]).unwrap();
    image(&many, "web", 20);
    fs::create_dir(many.image("db")).unwrap();
    write_noise(&many.image("db").join("file"), 9, 20_000_000).unwrap();
    let mut web = many.offer("web", BY, &["--clients", "1"]).unwrap();
    let mut command =
        many.command(&many.server, "server", &["offer", "--image", "db", "--transport", BY, "--port", "9000"]);
    command.args(["--clients", "1", "--address", &many.server.address, "--secret-file"]).arg(many.path("secret"));
    let mut db = many.start("offer-db", &mut command).unwrap();
    db.wait_said("ready. Run").unwrap();
    let mut first = many.pull(0, "web", BY).unwrap();
    let mut command =
        many.command(&many.receivers[1], "receiver1", &["pull", "--image", "db", "--transport", BY, "--port", "9000"]);
    command.args(["--yes", "--server", &many.server.address, "--secret-file"]).arg(many.path("secret"));
    command.arg("--to").arg(many.copy(1));
    let mut second = many.start("pull-db", &mut command).unwrap();
    for running in [&mut first, &mut second, &mut web, &mut db] {
        running.succeeds().unwrap();
    }
    same(&many.image("web"), &many.copy(0));
    same(&many.image("db"), &many.copy(1));
}

#[test]
fn a_hundred_thousand_forged_datagrams_change_nothing() {
    let many = many!(2);
    many.settings(BY, &[("rate", "40mbit"), ("groups", GROUP.0)]).unwrap();
    image(&many, "web", 30);
    let mut offer = many.offer("web", BY, &["--clients", "2"]).unwrap();
    let mut both = pulls(&many, 0..2, "web");
    wait_told(&mut offer, &many.receivers[1], "group");
    let stranger = many.network.host("stranger", "10.67.9.9/16").unwrap();
    let address: Ipv4Addr = stranger.address.parse().unwrap();
    let sent = stranger.inside(move || forge(address));
    assert!(sent >= 100_000, "{sent}");
    for pull in &mut both {
        pull.succeeds().unwrap();
    }
    offer.succeeds().unwrap();
    (0..2).for_each(|receiver| same(&many.image("web"), &many.copy(receiver)));
}

/// Sends the group what it did not ask for: noise, real datagrams with bits changed, and real ones again.
fn forge(address: Ipv4Addr) -> usize {
    let hears = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    hears.set_reuse_address(true).unwrap();
    hears.bind(&SocketAddrV4::new(GROUP.1, PORT).into()).unwrap();
    hears.join_multicast_v4(&GROUP.1, &address).unwrap();
    hears.set_nonblocking(true).unwrap();
    let hears: UdpSocket = hears.into();
    let sends = UdpSocket::bind((address, 0)).unwrap();
    socket2::SockRef::from(&sends).set_multicast_if_v4(&address).unwrap();
    let to = SocketAddrV4::new(GROUP.1, PORT);
    let chance = noise(3, 2_000_000);
    let (mut sent, mut real) = (0, Vec::new());
    while sent < 100_000 {
        let mut heard = [0; 2048];
        if let Ok(length) = hears.recv(&mut heard) {
            real = heard[..length].to_vec();
        }
        let at = sent * 7919 % (chance.len() - 1600);
        let forged = match sent % 4 {
            0 => chance[at..at + usize::from(chance[at]) * 5].to_vec(),
            1 => real.clone(),
            _ => {
                let mut changed = real.clone();
                let length = changed.len().max(1);
                if let Some(byte) = changed.get_mut((at * 31) % length) {
                    *byte ^= 1 << (sent % 8);
                }
                changed
            }
        };
        // The kernel may have no room for one of them.
        sent += usize::from(sends.send_to(&forged, to).is_ok());
    }
    sent
}

#[test]
fn one_that_says_absurd_things_keeps_nobody_from_anything() {
    let many = many!(3);
    image(&many, "web", 20);
    let offer = many.offer("web", BY, &[]).unwrap();
    let able = Capabilities { encrypted: true, ..Capabilities::default() };
    let (secrets, key) = pairing::for_pull(&able, SECRET.trim_end().as_bytes()).unwrap();
    let own = String::from_utf8(secrets.get(&pairing::identity()).unwrap().to_vec()).unwrap();
    let sender: SocketAddr = format!("{}:{PORT}", many.server.address).parse().unwrap();
    std::thread::scope(|scope| {
        let absurd = scope.spawn(|| {
            many.receivers[2]
                .inside(move || fuzzing::absurd_receiver(sender, &own, &key.unwrap(), "web", Duration::from_secs(10)))
        });
        for pull in &mut pulls(&many, 0..2, "web") {
            pull.succeeds().unwrap();
        }
        assert!(!absurd.is_finished(), "they had it meanwhile, and 20 MB take one second");
        absurd.join().unwrap().expect("it is let be: what it says harms nobody");
    });
    (0..2).for_each(|receiver| same(&many.image("web"), &many.copy(receiver)));
    assert!(offer.said().contains(&format!("{}:", many.receivers[2].address)), "{}", offer.said());
}

#[test]
fn one_whose_disk_is_full_fails_alone() {
    let many = many!(2);
    image(&many, "web", 30);
    let full = many.copy(0);
    fs::create_dir(&full).unwrap();
    let _mount = Mounted::tmpfs(&full, "10m");
    let mut offer = many.offer("web", BY, &["--clients", "1"]).unwrap();
    let mut both = pulls(&many, 0..2, "web");
    both[1].succeeds().unwrap();
    assert_eq!(exit(&mut both[0]), Some(1), "{}", both[0].said());
    assert!(both[0].said().contains("No space left on device"), "{}", both[0].said());
    assert_eq!(exit(&mut offer), Some(3), "{}", offer.said());
    assert!(offer.said().contains("10.67.1.1: FAILED: writing /large: No space"), "{}", offer.said());
    same(&many.image("web"), &many.copy(1));
}

struct Mounted(std::path::PathBuf);

impl Mounted {
    fn tmpfs(at: &Path, size: &str) -> Self {
        let size = format!("size={size}");
        let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).status();
        assert!(mounted.expect("mount").success());
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn small_packets() {
    let many = many!(2);
    image(&many, "web", 20);
    for host in many.receivers.iter().chain([&many.server]) {
        host.set(&["mtu", "1280"]).unwrap();
    }
    let mut offer = many.offer("web", BY, &["--clients", "2"]).unwrap();
    for pull in &mut pulls(&many, 0..2, "web") {
        pull.succeeds().unwrap();
        assert!(!pull.said().contains("comes over the channel"), "{}", pull.said());
    }
    offer.succeeds().unwrap();
    (0..2).for_each(|receiver| same(&many.image("web"), &many.copy(receiver)));
}

#[test]
fn where_no_group_reaches_all_goes_to_each_alone() {
    for (name, silence) in [
        ("an interface without multicast", (|many: &Many| many.server.set(&["multicast", "off"])) as fn(&Many) -> _),
        ("a switch that brings nothing", |many| {
            many.receivers.iter().try_for_each(|host| host.drop_arriving("ip daddr 224.0.0.0/4"))
        }),
    ] {
        let many = many!(2);
        image(&many, "web", 20);
        silence(&many).unwrap();
        let mut offer = many.offer("web", BY, &["--clients", "2"]).unwrap();
        for pull in &mut pulls(&many, 0..2, "web") {
            pull.succeeds().unwrap();
        }
        offer.succeeds().unwrap();
        assert!(offer.said().contains("alone"), "{name}: {}", offer.said());
        (0..2).for_each(|receiver| same(&many.image("web"), &many.copy(receiver)));
    }
}

#[test]
fn one_that_is_slow_is_sent_to_alone_and_one_that_comes_late_gets_all() {
    let many = many!(4);
    image(&many, "web", 60);
    many.settings(BY, &[("rate", "100mbit")]).unwrap();
    many.receivers[3].hold("20mbit").unwrap();
    let mut offer = many.offer("web", BY, &["--clients", "4"]).unwrap();
    let mut early = pulls(&many, [0, 1, 3], "web");
    std::thread::sleep(Duration::from_secs(2));
    let mut late = many.pull(2, "web", BY).unwrap();
    for pull in early[..2].iter_mut().chain([&mut late]) {
        pull.succeeds().unwrap();
    }
    assert!(early[2].runs().unwrap(), "it gets 20 Mbit/s: {}", early[2].said());
    assert!(
        offer.said().lines().any(|line| line.starts_with("10.67.1.4: ") && line.contains("alone")),
        "{}",
        offer.said()
    );
    early[2].succeeds().unwrap();
    offer.succeeds().unwrap();
    (0..4).for_each(|receiver| same(&many.image("web"), &many.copy(receiver)));
}

#[test]
fn a_receiver_needs_little_memory() {
    let many = many!(2);
    many.settings(BY, &[("rate", "190mbit")]).unwrap();
    image(&many, "web", 150);
    // One is to hold what it cannot mend yet.
    many.receivers[1].lose(100).unwrap();
    let mut offer = many.offer("web", BY, &["--clients", "2"]).unwrap();
    let mut both = pulls(&many, 0..2, "web");
    let mut most = [0; 2];
    while both.iter_mut().any(|pull| pull.runs().unwrap()) {
        for (host, most) in many.receivers.iter().zip(&mut most) {
            let pids = host.pids().unwrap_or_default();
            *most = pids.into_iter().filter_map(peak).fold(*most, u64::max);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    both.iter_mut().chain([&mut offer]).for_each(|running| running.succeeds().unwrap());
    println!("most memory of a receiver: {most:?} KiB");
    assert!(most.iter().all(|most| (1_000..96 << 10).contains(most)), "{most:?} KiB");
}

/// The most memory that a process had, KiB.
fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}

#[test]
fn datagrams_that_come_in_disorder_and_twice() {
    let many = many!(1);
    many.settings(BY, &[("rate", "80mbit"), ("groups", GROUP.0)]).unwrap();
    image(&many, "web", 20);
    // What the switch brings is dropped; somebody who hears it sends it on, in disorder.
    let receiver = &many.receivers[0];
    receiver.drop_arriving(&format!("ip saddr {} ip daddr {}", many.server.address, GROUP.1)).unwrap();
    let relay = many.network.host("relay", "10.67.9.9/16").unwrap();
    let address: Ipv4Addr = relay.address.parse().unwrap();
    let ended = Arc::new(AtomicBool::new(false));
    let (relaying, hosts) = (Arc::clone(&ended), relay.clone());
    let thread = std::thread::spawn(move || hosts.inside(move || disorder(address, &relaying)));
    let mut offer = many.offer("web", BY, &["--clients", "1"]).unwrap();
    let mut pull = many.pull(0, "web", BY).unwrap();
    let pulled = pull.succeeds();
    ended.store(true, Ordering::Relaxed);
    let relayed = thread.join().unwrap();
    pulled.unwrap();
    offer.succeeds().unwrap();
    assert!(relayed > 10_000, "{relayed}");
    assert!(!offer.said().contains("alone"), "{}", offer.said());
    same(&many.image("web"), &many.copy(0));
}

/// Sends on what a group is sent, by chance a little later than what came after it, and now and then twice.
fn disorder(address: Ipv4Addr, ended: &AtomicBool) -> usize {
    let hears = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    hears.set_reuse_address(true).unwrap();
    hears.bind(&SocketAddrV4::new(GROUP.1, PORT).into()).unwrap();
    hears.join_multicast_v4(&GROUP.1, &address).unwrap();
    hears.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    hears.set_recv_buffer_size(4 << 20).unwrap();
    let hears: UdpSocket = hears.into();
    let sends = UdpSocket::bind((address, 0)).unwrap();
    socket2::SockRef::from(&sends).set_multicast_if_v4(&address).unwrap();
    // Its own would come back to it.
    sends.set_multicast_loop_v4(false).unwrap();
    let to = SocketAddrV4::new(GROUP.1, PORT);
    let chance = noise(5, 1 << 16);
    let (mut held, mut sent) = (Vec::new(), 0);
    let mut buffer = [0; 2048];
    while !ended.load(Ordering::Relaxed) {
        let heard = hears.recv(&mut buffer);
        if let Ok(length) = heard {
            held.push(buffer[..length].to_vec());
        }
        while held.len() > if heard.is_ok() { 30 } else { 0 } {
            let by = chance[sent % chance.len()];
            let datagram = held.swap_remove(usize::from(by) % held.len());
            for _ in 0..=usize::from(by.is_multiple_of(16)) {
                let _ = sends.send_to(&datagram, to);
            }
            sent += 1;
        }
    }
    sent
}
