//! ssh on loopback: what nobody on the wire can read or forge, and what either side refuses.
#![allow(clippy::disallowed_methods, reason = "tests start the program that they test")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use systemimager_core::{HostName, ImageName};
use systemimager_engine::capture::pairing::{self, Pairing};
use systemimager_engine::config::Config;
use systemimager_engine::host::Secrets;
use systemimager_engine::install::record;
use systemimager_engine::key::Key;
use systemimager_engine::pins::Pins;
use systemimager_engine::remote::Server;
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
fn a_connection_that_is_cut_leaves_nothing_half() {
    let lab = lab!("ssh");
    let source = marked(&lab);
    fs::write(source.join("large"), vec![b'x'; 1 << 20]).expect("written");
    let mut offered = lab.offer(&source);
    // Before a greeting, in it, when keys are agreed on, when one is let in, in the list, in a file.
    for after in [0, 20, 900, 2_000, 6_000, 700_000] {
        let relay = Relay::cutting(lab.port, after).expect("somebody on the wire");
        let output = get_through(&lab, &relay);
        let said = text(&output);
        assert!(!output.status.success(), "cut after {after} bytes: {said}");
        let at = format!("127.0.0.1 port {}", relay.port);
        assert!(
            said.contains(&format!("{at} went away"))
                || said.contains(&format!("{at} does not greet"))
                || said.contains(&format!("{at}: [Session(")),
            "{after}: {said}"
        );
        assert!(!lab.image("web").exists(), "{after}");
        lab.assert_clean();
    }
    let output = lab.get(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(fs::read(lab.image("web").join("large")).expect("captured").len(), 1 << 20);
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
    helper.args(["plugin-helper", "ssh"]).arg(plugin).args([
        "bridge",
        "127.0.0.1",
        &lab.port.to_string(),
        "root",
        "10",
    ]);
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
fn openssh_gets_through_by_the_same_keys_where_the_settings_say_so() {
    require!(Need::Program("ssh"));
    let lab = lab!("ssh");
    let source = marked(&lab);
    let settings = lab.path("server/etc/systemimager/systemimager.toml");
    fs::create_dir_all(settings.parent().expect("a directory")).expect("made");
    fs::write(&settings, "[transport.ssh]\nengine = \"openssh\"\n").expect("written");
    let log = lab.path("log");
    let mut offered = lab.start(lab.prepare_command(&source).stderr(fs::File::create(&log).expect("a log")));
    fs::write(lab.path("other"), "another-secret\n").expect("written");
    let output = lab.get(&["--secret-file", &lab.path("other").display().to_string()]);
    let said = text(&output);
    assert!(!output.status.success() && said.contains("Host key verification failed"), "{said}");
    let output = lab.get(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(fs::read_to_string(lab.image("web").join("etc/shadow")).expect("there").contains(MARKER));
    assert!(offered.ended().success());
    fs::write(&settings, "[transport.ssh]\nengine = \"putty\"\n").expect("written");
    let said = text(&lab.get(&["--yes"]));
    assert!(said.contains("it is \"libssh2\""), "{said}");
}

#[test]
fn without_sshd_it_is_said_before_anything_starts() {
    let lab = lab!("ssh");
    let source = marked(&lab);
    let prepare = lab.prepare_command(&source);
    // Where it is, there is no program, for this process and its children.
    let mut command = Command::new("unshare");
    let script = "for at in /usr/sbin/sshd /usr/local/sbin/sshd; do [ ! -e $at ] || mount --bind /dev/null $at || exit 99; done; exec \"$@\"";
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    let output =
        command.arg(prepare.get_program()).args(prepare.get_args()).stdin(Stdio::null()).output().expect("it starts");
    let said = text(&output);
    assert!(!output.status.success() && said.contains("sshd") && said.contains("openssh-server"), "{said}");
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

const MASTER: &str = "format = 1\nimage = \"IMAGE\"\ntransports = [\"BY\"]\npartitioner = \"sfdisk\"\nbootloader = \"none\"\n\
                      [identity]\nplugin = \"hosts\"\n";

fn master_of(image: &str, transport: &str) -> String {
    MASTER.replace("IMAGE", image).replace("BY", transport)
}

/// An image server with the images `web` and `db`, by one transport, and a machine, `node1`, that has `web`: a tree that it would be
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
    () => {
        site!("ssh")
    };
    ($transport:literal) => {{
        require!(Need::NetworkNamespaces, Need::Program("rsync"), Need::Program("sshd"), Need::Program("dnsmasq"));
        if program().is_none() {
            return need::skipped(&need::test_name(), "no program is staged; run cargo xtask test");
        }
        let mut site = Site::new($transport);
        site.story.serve_again().expect("it serves");
        site
    }};
}

impl Site {
    fn new(transport: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let story = Story::begin(directory.path()).expect("a server");
        let root = story.root();
        for made in ["tftpboot/systemimager", "etc", "var/lib/systemimager"] {
            fs::create_dir_all(root.join(made)).expect("made");
        }
        fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n10.77.0.1 server\n").expect("written");
        // Whatever accounts this computer has.
        fs::create_dir_all(root.join("etc/systemimager")).expect("made");
        fs::write(root.join("etc/systemimager/systemimager.toml"), "[server]\naccount = \"root\"\n").expect("written");
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
            fs::write(master, master_of(image, transport)).expect("written");
        }
        story
            .run(&["addclients", "node1", "--image", "web", "--ip", "10.77.0.11/24", "--no-install"])
            .expect("declared");
        let client = story.network.host("client", "10.77.0.11/24 fd77::11/64").expect("a machine");
        let config = Config::load(Some(&root), None).expect("settings");
        let key = Key::make().expect("a key");
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
fn multicast_brings_the_bulk_of_an_update_and_ssh_goes_over_it_and_both_know_who_is_revoked() {
    let site = site!("multicast\", \"ssh");
    machine_keys::put(&site.config, &Site::host(), site.key.public()).expect("as after an install");
    let tree = site.story.image_of("web");
    let change = |bytes: u8| fs::write(tree.join("etc/large"), vec![bytes; 8 << 20]).expect("written");
    let sessions = || {
        let told = site.story.run(&["status", "--json"]).expect("status");
        let told: serde_json::Value = serde_json::from_str(told.trim()).expect("JSON");
        told["sessions"].as_array().cloned().unwrap_or_default()
    };
    for (round, bytes) in [b'a', b'b'].into_iter().enumerate() {
        change(bytes);
        assert_eq!(site.becomes("it is updated", Result::is_ok), Ok("web\n".to_owned()));
        assert!(fs::read(site.tree().join("etc/large")).expect("there").iter().all(|it| *it == bytes));
        let told = wait_until(Duration::from_secs(20), "it is told", || {
            let all = sessions();
            Ok((all.len() > round).then_some(all))
        });
        let told = told.unwrap_or_else(|_| panic!("{:?} {}", sessions(), site.story.serve_log()));
        let receiver = &told[round]["receivers"][0];
        assert_eq!(receiver["address"], "10.77.0.11", "{told:?}");
        assert_eq!(receiver["bytes"], receiver["total"], "{told:?}");
    }
    let pull = || {
        let to = site.story.directory.join("copy").display().to_string();
        let (program, tree) = (program().expect("staged").display().to_string(), site.tree().display().to_string());
        let words = ["--root", &tree, "pull", "--server", "10.77.0.1", "--image", "web", "--transport", "multicast"];
        let argv = [&[&*program], &words[..], &["--yes", "--to", &to]].concat();
        text(&site.client.command(&argv).stdin(Stdio::null()).output().expect("pull"))
    };
    let said = pull();
    assert!(said.contains("MiB received"), "{said}");
    site.story.run(&["revoke", "node1"]).expect("revoked");
    let said = site.becomes("nothing for a revoked key", Result::is_err).unwrap_err();
    assert!(said.contains("does not let this machine's key in"), "{said}");
    let said = pull();
    assert!(said.contains("is not admitted to \"web\""), "{said}");
    assert!(site.story.serve_log().contains("10.77.0.11: refused"), "{}", site.story.serve_log());
}

#[test]
fn a_pull_shows_the_key_of_the_machine() {
    let site = site!();
    machine_keys::put(&site.config, &Site::host(), site.key.public()).expect("as after an install");
    assert_eq!(site.becomes("it was installed", Result::is_ok), Ok("web\n".to_owned()));
    let program = program().expect("staged").display().to_string();
    let (tree, to) = (site.tree().display().to_string(), site.story.directory.join("copy"));
    let pull = |more: &[&str]| {
        let words = [
            &program,
            "--root",
            &tree,
            "pull",
            "--server",
            "10.77.0.1",
            "--image",
            "web",
            "--transport",
            "ssh",
            "--to",
        ];
        let argv: Vec<String> = words.iter().map(ToString::to_string).chain([to.display().to_string()]).collect();
        let argv: Vec<String> = argv.into_iter().chain(more.iter().map(ToString::to_string)).collect();
        site.client.command(&argv).stdin(Stdio::null()).output().expect("pull")
    };
    let output = pull(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(fs::read_to_string(to.join("etc/shadow")).expect("pulled").contains(MARKER));
    fs::remove_file(site.tree().join("var/lib/systemimager/key")).expect("removed");
    let said = text(&pull(&["--yes"]));
    assert!(said.contains("no key of the other side is known"), "{said}");
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
fn what_is_swapped_on_the_way_is_refused() {
    let site = site!();
    let pins = site.pins();
    let results = site.story.server.inside(move || {
        let swap = Arc::new(AtomicBool::new(false));
        let swaps = Arc::clone(&swap);
        // One letter in the middle of a body, which stays as long as it was.
        let change = move |_, bytes: &mut [u8]| {
            let body = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
            let middle = body + (bytes.len() - body) / 2;
            if swaps.load(Ordering::SeqCst)
                && let Some(byte) = bytes.iter_mut().skip(middle).find(|byte| byte.is_ascii_alphanumeric())
            {
                *byte ^= 1;
            }
        };
        let relay = Relay::changing_at(([10, 77, 0, 1], 8069).into(), change).expect("somebody on the wire");
        let server = Server::new("127.0.0.1", relay.port).signed_by(Some(&pins)).patient_for(Duration::from_secs(5));
        let get = |path: &str| server.get(path, 1 << 20).map_err(|error| format!("{error:#}"));
        let asked =
            ["/v1/hosts/node1/master", "/v1/images/web/master", "/v1/images/web/facts", "/v1/hosts", "/v1/account"];
        asked.map(|path| {
            swap.store(false, Ordering::SeqCst);
            let whole = get(path);
            swap.store(true, Ordering::SeqCst);
            (path, whole, get(path))
        })
    });
    for (path, whole, swapped) in results {
        assert!(whole.is_ok(), "{path}: {whole:?}");
        let said = swapped.expect_err(path);
        assert!(said.contains("is not signed by the image server that this machine knows"), "{path}: {said}");
    }
}

#[test]
fn an_image_that_goes_over_ssh_is_not_offered_otherwise() {
    let site = site!();
    let root = site.story.root();
    let chain = master_of("web", "ssh").replace("[\"ssh\"]", "[\"ssh\", \"rsync\"]");
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
    let open = "allow_plain = true\nallow_keyless = true\npartitioner";
    fs::write(&path, chain.replace("partitioner", open)).expect("written");
    wait_until(Duration::from_secs(60), "it may", || Ok(by_rsync().then_some(()))).expect("offered");
}

#[test]
fn what_goes_by_rsync_is_for_admitted_machines_too() {
    let site = site!("rsync");
    let by_address = || {
        let words = ["rsync", "--timeout=5", "rsync://10.77.0.1/web/etc/motd"];
        let output = site.client.command(&words).env("RSYNC_PASSWORD", "guessed").output().expect("rsync");
        if output.status.success() { Ok(()) } else { Err(text(&output)) }
    };
    // Nobody is admitted: it is not even said that there is such an image.
    let said = site.update("web").expect_err("a machine without an order");
    assert!(said.contains("does not offer \"web\", or not to this machine"), "{said}");
    site.carries_out_an_order(None);
    assert_eq!(site.becomes("it is admitted", Result::is_ok), Ok("web\n".to_owned()));
    let said = by_address().expect_err("with its address alone");
    assert!(said.contains("auth failed on module web"), "{said}");
    assert_eq!(site.update("db"), Ok("db\n".to_owned()), "another revision");
    Orders::hold(&site.config).expect("orders").remove(&Site::host()).expect("removed");
    machine_keys::put(&site.config, &Site::host(), Key::make().expect("a key").public()).expect("another's key");
    let said = site.becomes("its key is not admitted any more", Result::is_err).unwrap_err();
    assert!(said.contains("refused the secret for \"web\"") || said.contains("does not offer"), "{said}");
    machine_keys::put(&site.config, &Site::host(), site.key.public()).expect("as after an install");
    assert_eq!(site.becomes("it was installed", Result::is_ok), Ok("web\n".to_owned()));
    site.story.run(&["revoke", "node1"]).expect("revoked");
    let said = site.becomes("its key is revoked", Result::is_err).unwrap_err();
    assert!(said.contains("does not offer \"web\", or not to this machine"), "{said}");
    // Where the master says so, the address is enough.
    fs::remove_file(site.tree().join("var/lib/systemimager/key")).expect("removed");
    let open = master_of("web", "rsync").replace("partitioner", "allow_keyless = true\npartitioner");
    fs::write(site.story.root().join("tftpboot/systemimager/web.master"), open).expect("written");
    assert_eq!(site.becomes("nobody needs a key", Result::is_ok), Ok("web\n".to_owned()));
    by_address().expect("with its address alone");
}

#[test]
fn what_is_open_to_whom_is_said_in_words() {
    let site = site!();
    let check = || {
        let output = site.story.command(&["check", "--security"]).output().expect("check");
        (output.status.code(), text(&output))
    };
    machine_keys::put(&site.config, &Site::host(), site.key.public()).expect("as after an install");
    let (code, said) = check();
    assert_eq!(code, Some(0), "{said}");
    for line in [
        "image web\n    by    ssh, TCP 8022\n    to    the keys of node1 (from 10.77.0.11, until it is revoked, or its order is done)",
        "image db\n    by    ssh, TCP 8022\n    to    nobody: none of 1 declared machines is admitted by a key",
        "CARE  sessions by ssh run as root until they are answered",
        "master files, facts of images, drivers and tools\n    by    HTTP, TCP 8069",
    ] {
        assert!(said.contains(line), "{line} in {said}");
    }
    let master = site.story.root().join("tftpboot/systemimager/web.master");
    fs::write(&master, master_of("web", "rsync").replace("partitioner", "allow_keyless = true\npartitioner"))
        .expect("written");
    fs::set_permissions(&master, fs::Permissions::from_mode(0o666)).expect("chmod");
    let (code, said) = check();
    assert_eq!(code, Some(1), "{said}");
    for line in [
        "to    whoever has the address of one of 1 declared machines",
        "CARE  image web is for whoever has the address",
        "web.master (master files, and who is declared) can be changed by others than root: chmod go-w",
    ] {
        assert!(said.contains(line), "{line} in {said}");
    }
}

/// With what the unit takes away, and an account of its own that only its processes see.
#[test]
fn a_hardened_unit_serves_by_ssh_as_an_account_of_its_own() {
    require!(Need::Program("setpriv"), Need::Program("unshare"));
    require!(Need::NetworkNamespaces, Need::Program("rsync"), Need::Program("sshd"), Need::Program("dnsmasq"));
    if program().is_none() {
        return need::skipped(&need::test_name(), "no program is staged; run cargo xtask test");
    }
    let mut site = Site::new("ssh");
    let directory = site.story.directory.clone();
    fs::remove_file(site.story.root().join("etc/systemimager/systemimager.toml")).expect("removed");
    for (file, more) in [
        ("passwd", "systemimager:x:64999:64999::/:/bin/sh\n"),
        ("shadow", "systemimager:!:19000::::::\n"),
        ("group", "systemimager:x:64999:\n"),
    ] {
        let text = fs::read_to_string(format!("/etc/{file}")).expect("read");
        fs::write(directory.join(file), text + more).expect("written");
    }
    let unit = include_str!("../../dist/systemimager.service");
    let kept: Vec<String> = unit
        .lines()
        .filter_map(|line| line.strip_prefix("CapabilityBoundingSet="))
        .flat_map(str::split_whitespace)
        .map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    let script = format!(
        "for file in passwd shadow group; do mount --bind {}/$file /etc/$file || exit; done
         exec setpriv --bounding-set -all{} --no-new-privs \"$@\"",
        directory.display(),
        kept.concat()
    );
    let by = ["unshare", "--mount", "--propagation", "private", "sh", "-c", &script, "sh"].map(str::to_owned);
    site.story.serve_by(&by).expect("it serves");
    machine_keys::put(&site.config, &Site::host(), site.key.public()).expect("as after an install");
    assert_eq!(site.becomes("it was installed", Result::is_ok), Ok("web\n".to_owned()));
    assert_eq!(fs::read_to_string(site.tree().join("etc/shadow")).expect("there"), format!("root:{MARKER}:1\n"));
    let log = site.story.serve_log();
    assert!(log.contains("Accepted publickey for systemimager from 10.77.0.11"), "{log}");
    assert!(!log.contains("for root"), "{log}");
    let said = site.update("db").expect_err("another's");
    assert!(said.contains("this key is for /web/"), "{said}");
    site.story.stop_serving().expect("it ends in good order");
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
