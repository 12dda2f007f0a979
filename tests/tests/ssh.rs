//! ssh on loopback: what nobody on the wire can read or forge, and what either side refuses.
#![allow(clippy::disallowed_methods, reason = "tests start the program that they test")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use systemimager_core::{HostName, ImageName};
use systemimager_engine::capture::pairing::{self, Pairing};
use systemimager_engine::config::Config;
use systemimager_engine::host::Secrets;
use systemimager_engine::install::record;
use systemimager_engine::key::Key;
use systemimager_engine::pins::Pins;
use systemimager_engine::store::machine_keys;
use systemimager_engine::store::orders::{Order, Orders, Stage, now};
use systemimager_engine::store::server_keys::ServerKeys;
use systemimager_engine::tree::Inside;
use systemimager_tests::lab::netns;
use systemimager_tests::lab::wait::wait_until;
use systemimager_tests::loopback::{Lab, program, text};
use systemimager_tests::need::{self, Need};
use systemimager_tests::relay::Relay;
use systemimager_tests::require;
use systemimager_tests::story::Story;

/// Stands in a name and in contents, and nowhere else.
const MARKER: &str = "heron-quarry-7731";

/// A master client and an image server, by this transport; or the test is skipped.
macro_rules! lab {
    ($transport:literal) => {{
        require!(Need::Root, Need::Program("rsync"), Need::Program("sshd"));
        match program() {
            Some(program) => Lab::new(program).by_transport($transport),
            None => {
                return need::skipped(&need::test_name(), "no program is staged; run cargo xtask test");
            }
        }
    }};
}

/// A tree with the marker in it.
fn marked(lab: &Lab) -> PathBuf {
    let source = lab.path("source");
    fs::create_dir_all(source.join("etc")).expect("made");
    fs::write(source.join(format!("etc/{MARKER}")), "by name\n").expect("written");
    fs::write(source.join("etc/shadow"), format!("root:{MARKER}:1:0:::::\n")).expect("written");
    source
}

/// `getimage` through a relay.
fn get_through(lab: &Lab, relay: &Relay) -> Output {
    let secret = lab.path("secret").display().to_string();
    let port = relay.port.to_string();
    let words =
        ["getimage", "--master-client", "127.0.0.1", "--port", &port, "--image", "web", "--secret-file", &secret];
    lab.command("server", &[&words[..], &lab.by()].concat()).output().expect("the program starts")
}

#[test]
fn a_capture_shows_nobody_on_the_wire_a_name_or_contents() {
    for (lab, readable) in [(lab!("ssh"), false), (lab!("rsync"), true)] {
        let source = marked(&lab);
        let mut offered = lab.offer(&source);
        let relay = Relay::to(lab.port).expect("somebody on the wire");
        let output = get_through(&lab, &relay);
        // prepareclient serves the address of the image server; the relay has the same.
        assert!(output.status.success(), "{}", text(&output));
        assert!(offered.ended().success());
        let shadow = fs::read_to_string(lab.image("web").join("etc/shadow")).expect("captured");
        assert!(shadow.contains(MARKER));
        assert!(relay.seen().len() > 500, "all of it passed there");
        assert_eq!(relay.saw(MARKER), readable, "{:?}", lab.transport);
        assert!(!relay.saw("correct-horse"), "{:?}", lab.transport);
    }
}

#[test]
fn a_byte_that_is_forged_ends_the_capture() {
    let lab = lab!("ssh");
    let source = marked(&lab);
    fs::write(source.join("large"), vec![b'x'; 1 << 20]).expect("written");
    let mut offered = lab.offer(&source);
    // In the middle of the large file.
    let relay = Relay::changing(lab.port, |before, bytes| {
        if let Some(byte) = usize::try_from(300_000_u64.wrapping_sub(before)).ok().and_then(|at| bytes.get_mut(at)) {
            *byte ^= 1;
        }
    });
    let output = get_through(&lab, &relay.expect("somebody on the wire"));
    assert!(!output.status.success() && text(&output).contains("went away"), "{}", text(&output));
    assert!(!lab.image("web").exists());
    lab.assert_clean();
    offered.terminate();
    assert!(offered.ended().success());
}

#[test]
fn a_server_with_another_key_is_refused_before_anything_is_sent() {
    let lab = lab!("ssh");
    let source = marked(&lab);
    let mut offered = lab.offer(&source);
    fs::write(lab.path("other"), "another-secret\n").expect("written");
    let output = lab.get(&["--secret-file", &lab.path("other").display().to_string()]);
    let said = text(&output);
    assert!(!output.status.success() && said.contains("has another key than the one that is expected"), "{said}");
    assert!(!lab.image("web").exists());
    // Who has the right one is served all the same.
    let output = lab.get(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(offered.ended().success());
}

/// The bridge, as rsync would start it, with this command for the other side.
fn bridge(lab: &Lab, pairing: &Pairing, key: Option<&str>, command: &[&str]) -> Output {
    let plugin = lab.program.ancestors().nth(2).expect("a prefix").join("lib/systemimager/plugins/libtransport_ssh.so");
    let secrets = pairing.of_server(Secrets::default());
    let own = String::from_utf8(secrets.get(&pairing::identity()).expect("a key").to_vec()).expect("text");
    let mut helper = Command::new(&lab.program);
    helper.args(["plugin-helper", "ssh"]).arg(plugin).args(["bridge", "127.0.0.1", &lab.port.to_string(), "10"]);
    helper.arg(pairing.host_key().trim_start_matches("ssh-ed25519 ")).arg("host").args(command);
    helper.env_clear().env("SYSTEMIMAGER_SSH_KEY", key.unwrap_or(&own)).stdin(Stdio::null());
    helper.output().expect("the bridge starts")
}

#[test]
fn whoever_is_let_in_reads_one_tree_and_runs_nothing_else() {
    let lab = lab!("ssh");
    let source = marked(&lab);
    let mut offered = lab.start(lab.prepare_command(&source).stderr(fs::File::create(lab.path("log")).expect("a log")));
    let pairing = Pairing::of(b"correct-horse").expect("keys");
    let canary = lab.path("canary");
    let touch = format!("touch {}", canary.display());
    let write = format!("--log-file={}", canary.display());
    let read = ["rsync", "--server", "--sender", "-lre.iLsfxCIvu", ".", "/root/"];
    for (name, command) in [
        ("a shell", vec!["sh", "-c", touch.as_str()]),
        ("a shell's words behind", [&read[..], &[";", "touch", "canary"]].concat()),
        ("a shell's words within", vec!["rsync", "--server", "--sender", "-r", ".", "$(touch canary)"]),
        ("to be written to", vec!["rsync", "--server", "-lre.iLsfxCIvu", ".", "/root/"]),
        ("a log", vec!["rsync", "--server", "--sender", write.as_str(), "-re.L", ".", "/root/"]),
        ("a program for rsync", vec!["rsync", "--server", "--sender", "--rsync-path=sh", "-re.L", ".", "/root/"]),
        ("another tree", vec!["rsync", "--server", "--sender", "-re.L", ".", "/etc/"]),
        ("out of the tree", vec!["rsync", "--server", "--sender", "-re.L", ".", "/root/../../etc/"]),
        ("a daemon", vec!["rsync", "--server", "--daemon", "."]),
        ("files by another way", vec!["scp", "-f", "/etc/shadow"]),
        ("sftp", vec!["/usr/lib/openssh/sftp-server"]),
        ("nothing", vec![]),
    ] {
        let output = bridge(&lab, &pairing, None, &command);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(255), "{name}: {said}");
        assert!(output.stdout.is_empty() && said.contains("systemimager-ssh: denied: "), "{name}: {said}");
        assert!(said.contains("this key is for reading whole trees by rsync, and for nothing else"), "{name}: {said}");
        assert!(!canary.exists() && !Path::new("canary").exists(), "{name}");
    }
    // What is right is begun: rsync greets with its version.
    let output = bridge(&lab, &pairing, None, &read);
    assert!(!output.stdout.is_empty() && !text(&output).contains("denied"), "{}", text(&output));
    let log = fs::read_to_string(lab.path("log")).expect("the other side's words");
    assert!(log.matches("127.0.0.1 was refused").count() >= 12, "{log}");
    assert!(log.contains("\"sh\", where \"rsync\" belongs"), "{log}");
    offered.terminate();
    assert!(offered.ended().success());
}

#[test]
fn a_key_that_is_not_admitted_opens_nothing() {
    let lab = lab!("ssh");
    let mut offered = lab.offer(&marked(&lab));
    let (pairing, other) = (Pairing::of(b"correct-horse").expect("keys"), Pairing::of(b"other").expect("keys"));
    let secrets = other.of_server(Secrets::default());
    let key = String::from_utf8(secrets.get(&pairing::identity()).expect("a key").to_vec()).expect("text");
    let refused = "does not let this machine's key in";
    let none = "the key to ask with is none";
    for (key, says) in [(key.as_str(), refused), ("no key at all", none), ("", none)] {
        let output = bridge(&lab, &pairing, Some(key), &["rsync", "--server", "--sender", "-re.L", ".", "/root/"]);
        let said = text(&output);
        assert!(said.contains("systemimager-ssh: denied: ") && said.contains(says), "{said}");
        assert!(output.stdout.is_empty());
    }
    offered.terminate();
    assert!(offered.ended().success());
}

#[test]
fn a_link_out_of_the_tree_leads_nowhere() {
    let lab = lab!("ssh");
    let source = marked(&lab);
    std::os::unix::fs::symlink("/etc", source.join("out")).expect("linked");
    lab.capture(&source, &[]);
    assert_eq!(fs::read_link(lab.image("web").join("out")).expect("a link"), Path::new("/etc"));
    // A second time, so that what is there is asked for by name.
    fs::write(source.join("etc/shadow"), "changed\n").expect("written");
    lab.capture(&source, &["--yes"]);
    assert_eq!(fs::read_to_string(lab.image("web").join("etc/shadow")).expect("there"), "changed\n");
}

const MASTER: &str = "format = 1\nimage = \"IMAGE\"\ntransports = [\"ssh\"]\npartitioner = \"sfdisk\"\nbootloader = \"none\"\n\
                      [identity]\nplugin = \"hosts\"\n";

/// An image server with the images `web` and `db`, by ssh alone, and a machine, `node1`, that has `web`: a tree that it would be
/// updated in, and a place on the network.
struct Site {
    story: Story,
    config: Config,
    client: netns::Host,
    key: Key,
    _directory: tempfile::TempDir,
}

/// One, or the test is skipped.
macro_rules! site {
    () => {{
        require!(Need::NetworkNamespaces, Need::Program("rsync"), Need::Program("sshd"), Need::Program("dnsmasq"));
        if program().is_none() {
            return need::skipped(&need::test_name(), "no program is staged; run cargo xtask test");
        }
        Site::new()
    }};
}

impl Site {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let mut story = Story::begin(directory.path()).expect("a server");
        let root = story.root();
        for made in ["tftpboot/systemimager", "etc", "var/lib/systemimager"] {
            fs::create_dir_all(root.join(made)).expect("made");
        }
        fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n10.77.0.1 server\n").expect("written");
        for file in ["kernel", "initrd.img"] {
            fs::write(root.join("tftpboot").join(file), "of the test").expect("written");
        }
        for image in ["web", "db"] {
            let tree = story.image_of(image);
            for made in ["etc", "usr/bin", "sbin"] {
                fs::create_dir_all(tree.join(made)).expect("made");
            }
            fs::copy("/bin/true", tree.join("sbin/init")).expect("copied");
            fs::copy("/bin/true", tree.join("usr/bin/env")).expect("copied");
            fs::write(tree.join("etc/motd"), format!("{image}\n")).expect("written");
            fs::write(tree.join("etc/shadow"), format!("root:{MARKER}:1\n")).expect("written");
            let master = root.join(format!("tftpboot/systemimager/{image}.master"));
            fs::write(master, MASTER.replace("IMAGE", image)).expect("written");
        }
        story
            .run(&["addclients", "node1", "--image", "web", "--ip", "10.77.0.11/24", "--no-install"])
            .expect("declared");
        let client = story.network.host("client", "10.77.0.11/24 fd77::11/64").expect("a machine");
        let config = Config::load(Some(&root), None).expect("settings");
        let key = Key::make().expect("a key");
        story.serve_again().expect("it serves");
        let site = Self { story, config, client, key, _directory: directory };
        site.give(&site.key, &site.pins());
        site
    }

    fn pins(&self) -> Pins {
        ServerKeys::open(&self.config).expect("the server's keys").pins()
    }

    fn tree(&self) -> PathBuf {
        self.story.directory.join("machine")
    }

    /// The machine has this key, and knows its server by these.
    fn give(&self, key: &Key, pins: &Pins) {
        fs::create_dir_all(self.tree()).expect("made");
        let inside = Inside::open(&self.tree()).expect("a tree");
        record::write_keys(&inside, key.private().as_bytes(), pins).expect("written");
    }

    /// Brings the machine to an image: what it has of it then, or why not.
    fn update(&self, image: &str) -> Result<String, String> {
        let program = program().expect("staged").with_file_name("systemimager").display().to_string();
        let tree = self.tree().display().to_string();
        let words = [&program, "updateclient", "--server", "10.77.0.1", "--image", image, "--target", &tree, "--yes"];
        let output = self.client.command(&words).stdin(Stdio::null()).output().expect("updateclient");
        if !output.status.success() {
            return Err(text(&output));
        }
        Ok(fs::read_to_string(self.tree().join("etc/motd")).expect("of the image"))
    }

    fn host() -> HostName {
        HostName::try_from("node1").expect("a name")
    }

    /// The machine carries out an order, until a time.
    fn carries_out_an_order(&self, until: Option<u64>) {
        let stage = Stage::Begun { mac: "52:54:00:77:01:01".into(), boot: "b".into() };
        let order = Order::new(Self::host(), Some(ImageName::try_from("web").expect("a name")), Vec::new());
        let order = Order { stage, until, key: Some(self.key.public().to_owned()), ..order };
        Orders::hold(&self.config).expect("orders").put(&order).expect("written");
    }

    fn becomes(&self, what: &str, is: impl Fn(&Result<String, String>) -> bool) -> Result<String, String> {
        wait_until(Duration::from_secs(60), what, || {
            let result = self.update("web");
            Ok(is(&result).then_some(result))
        })
        .expect(what)
    }

    /// It is refused, and the server tells of it too.
    fn is_refused(&self, what: &str) {
        let said = self.becomes(what, Result::is_err).unwrap_err();
        assert!(said.contains("does not let this machine's key in"), "{what}: {said}");
        let log = self.story.serve_log();
        assert!(log.contains("Failed publickey for root from 10.77.0.11"), "{what}: {log}");
    }
}

#[test]
fn an_unordered_machine_gets_nothing() {
    let site = site!();
    site.is_refused("a machine without an order");
    assert!(!site.tree().join("etc/motd").exists() && !site.tree().join("etc/shadow").exists());
}

#[test]
fn an_order_opens_its_image_and_a_replay_of_its_key_nothing() {
    let mut site = site!();
    site.carries_out_an_order(None);
    assert_eq!(site.becomes("it is admitted", Result::is_ok), Ok("web\n".to_owned()));
    Orders::hold(&site.config).expect("orders").remove(&Site::host()).expect("removed");
    site.is_refused("the key of an order that is over");
    site.story.stop_serving().expect("it ends in good order");
}

#[test]
fn an_expired_order_opens_nothing() {
    let site = site!();
    site.carries_out_an_order(Some(now() - 1));
    site.is_refused("an order whose time is over");
    // While it is admitted its time runs out, and nothing else happens.
    site.carries_out_an_order(Some(now() + 15));
    assert_eq!(site.becomes("it has a while", Result::is_ok), Ok("web\n".to_owned()));
    let said = site.becomes("its time went by", Result::is_err).unwrap_err();
    assert!(
        said.contains("the time in which web could be had is over") || said.contains("does not let this"),
        "{said}"
    );
}

#[test]
fn a_revoked_machine_gets_nothing_any_more() {
    let site = site!();
    machine_keys::put(&site.config, &Site::host(), site.key.public()).expect("as after an install");
    assert_eq!(site.becomes("it was installed", Result::is_ok), Ok("web\n".to_owned()));
    site.story.run(&["revoke", "node1"]).expect("revoked");
    site.is_refused("a revoked key");
    assert!(site.story.run(&["revoke", "node1"]).expect("again").contains("had no key"));
}

#[test]
fn a_wrong_image_is_refused() {
    let site = site!();
    machine_keys::put(&site.config, &Site::host(), site.key.public()).expect("as after an install");
    assert_eq!(site.becomes("its own", Result::is_ok), Ok("web\n".to_owned()));
    let said = site.update("db").expect_err("another's");
    assert!(said.contains("this key is for /web/"), "{said}");
    assert!(site.story.serve_log().contains("10.77.0.11 was refused"), "{}", site.story.serve_log());
    assert_eq!(fs::read_to_string(site.tree().join("etc/motd")).expect("still"), "web\n");
}

#[test]
fn a_machine_takes_no_other_server_for_its_own() {
    let site = site!();
    machine_keys::put(&site.config, &Site::host(), site.key.public()).expect("as after an install");
    let (pins, other) = (site.pins(), Key::make().expect("a key").public().to_owned());
    for (name, pins, says) in [
        (
            "signs with another key",
            Pins { signing_key: other.clone(), ..pins.clone() },
            "is not signed by the image server",
        ),
        (
            "is another by ssh",
            Pins { host_key: other, ..pins.clone() },
            "has another key than the one that is expected",
        ),
    ] {
        site.give(&site.key, &pins);
        let said = site.update("web").expect_err(name);
        assert!(said.contains(says), "{name}: {said}");
        assert!(!site.tree().join("etc").exists(), "{name}: nothing is written");
    }
    fs::remove_file(site.tree().join("var/lib/systemimager/key")).expect("removed");
    let said = site.update("web").expect_err("without keys");
    assert!(said.contains("no key of the other side is known"), "{said}");
    site.give(&site.key, &pins);
    assert_eq!(site.becomes("its own server", Result::is_ok), Ok("web\n".to_owned()));
}

#[test]
fn an_image_that_goes_over_ssh_is_not_offered_otherwise() {
    let site = site!();
    let root = site.story.root();
    let chain = MASTER.replace("IMAGE", "web").replace("[\"ssh\"]", "[\"ssh\", \"rsync\"]");
    let path = root.join("tftpboot/systemimager/web.master");
    let by_rsync = || {
        let words = ["rsync", "--timeout=5", "rsync://systemimager@10.77.0.1/web/etc/motd"];
        site.client.command(&words).output().is_ok_and(|output| output.status.success())
    };
    fs::write(&path, &chain).expect("written");
    let said = text(&site.story.command(&["check"]).output().expect("check"));
    assert!(said.contains("allow_plain = true"), "{said}");
    wait_until(Duration::from_secs(60), "the server to tell", || {
        Ok(site.story.serve_log().contains("it is not offered by rsync").then_some(()))
    })
    .expect("told");
    assert!(!by_rsync(), "nobody gets it in the clear");
    fs::write(&path, chain.replace("partitioner", "allow_plain = true\npartitioner")).expect("written");
    wait_until(Duration::from_secs(60), "it may", || Ok(by_rsync().then_some(()))).expect("offered");
}

/// A small file system; goes when dropped.
struct Small(PathBuf);

impl Small {
    fn mounted(at: PathBuf) -> Self {
        fs::create_dir(&at).expect("made");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&at).status();
        assert!(mounted.expect("mount").success());
        Self(at)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_disk_that_is_full_is_told_as_such() {
    let lab = lab!("ssh");
    let source = marked(&lab);
    fs::write(source.join("large"), vec![b'x'; 8 << 20]).expect("written");
    let mut offered = lab.offer(&source);
    let small = Small::mounted(lab.path("small"));
    let (port, secret) = (lab.port.to_string(), lab.path("secret").display().to_string());
    let to = small.0.display().to_string();
    let words =
        ["pull", "--server", "127.0.0.1", "--image", "root", "--port", &port, "--secret-file", &secret, "--to", &to];
    let output = lab.command("server", &[&words[..], &lab.by()].concat()).output().expect("it starts");
    let said = text(&output);
    assert!(!output.status.success() && said.contains("the target has no space left"), "{said}");
    offered.terminate();
    assert!(offered.ended().success());
}
