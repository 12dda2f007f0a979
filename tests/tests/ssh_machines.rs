//! An image that goes over ssh: captured, installed on a bare machine, and brought to another revision, while somebody keeps all
//! that passes on the network; and a machine whose key was revoked.
#![allow(clippy::disallowed_methods, reason = "tests start the program that they test")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use systemimager_tests::lab::machine::{Boot, Rom};
use systemimager_tests::lab::wait::wait_until;
use systemimager_tests::need::Need;
use systemimager_tests::require;
use systemimager_tests::story::{IMAGE, Story};

const SERVER: &str = "10.77.0.1";
/// Stands in names and in contents, and nowhere else.
const MARKER: &str = "heron-quarry-7731";

/// Keeps all that passes at the image server's interface.
struct Wire {
    dump: Child,
    file: PathBuf,
}

impl Wire {
    fn tap(story: &Story, name: &str) -> Self {
        let file = story.directory.join(name);
        let words = ["tcpdump", "-i", "eth0", "-s", "0", "-U", "-Z", "root", "-w"];
        let argv = words.iter().map(ToString::to_string).chain([file.display().to_string()]).collect::<Vec<_>>();
        let dump = story.server.command(&argv).stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("tcpdump");
        let wire = Self { dump, file };
        // It writes the file's head when it listens.
        wait_until(Duration::from_secs(30), "tcpdump to listen", || {
            Ok(fs::metadata(&wire.file).ok().filter(|file| file.len() > 0))
        })
        .expect("it listens");
        wire
    }

    /// How many bytes passed, and whether the marker was among them.
    fn end(mut self) -> (usize, bool) {
        let pid = rustix::process::Pid::from_child(&self.dump);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
        self.dump.wait().expect("it ends");
        let bytes = fs::read(&self.file).expect("what passed");
        fs::remove_file(&self.file).expect("removed");
        let saw = bytes.windows(MARKER.len()).any(|window| window == MARKER.as_bytes());
        (bytes.len(), saw)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = self.dump.kill();
        let _ = self.dump.wait();
    }
}

/// A file of the image with the marker in its name and its contents, and another like it.
fn mark(image: &Path, count: usize) {
    let place = image.join("etc/marked");
    fs::create_dir_all(&place).expect("made");
    for number in 0..count {
        fs::write(place.join(format!("{MARKER}-{number}")), format!("{MARKER} {number}\n").repeat(50))
            .expect("written");
    }
}

#[test]
fn nobody_on_the_wire_reads_a_capture_an_install_or_an_update() {
    require!(Need::VirtualMachines, Need::Long, Need::Program("sshd"), Need::Program("tcpdump"));
    let directory = tempfile::Builder::new().prefix("systemimager-wire-").tempdir_in("/var/tmp").expect("a directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let mut story = Story::begin(directory.path()).expect("a server");
    let mut master = story.boot_master().expect("the master client boots");
    let script = format!(
        "mkdir /etc/marked; for i in 1 2 3 4 5 6 7 8 9; do yes {MARKER} | head -50 > /etc/marked/{MARKER}-$i; done"
    );
    master.ssh.run(&["sh", "-c", &script]).expect("marked");

    let wire = Wire::tap(&story, "capture.pcap");
    story.capture_by(&master, &["--transport", "ssh"]).expect("it is captured");
    let (bytes, saw) = wire.end();
    println!("capture: {} MB on the wire", bytes / 1_000_000);
    assert!(bytes > 100_000_000 && !saw, "the capture shows it: {bytes} bytes");
    assert!(story.image().join("etc/marked").join(format!("{MARKER}-9")).is_file());
    master.power_off().expect("off");
    let text = fs::read_to_string(story.root().join("tftpboot/systemimager/demo.master")).expect("a master file");
    assert!(text.contains("transports = [\"ssh\"]"), "{text}");

    let clients = story.clients(1).expect("a machine is declared");
    let client = &clients[0];
    story.serve().expect("the server serves");
    let wire = Wire::tap(&story, "install.pcap");
    let mut bare = story.boot_bare(client).expect("it starts");
    story.wait_installed(client, &mut bare).expect("it is installed");
    drop(bare);
    let (bytes, saw) = wire.end();
    println!("install: {} MB on the wire", bytes / 1_000_000);
    assert!(bytes > 100_000_000 && !saw, "the install shows it: {bytes} bytes");

    let machine = story.machine(client).expect("a machine").rom(Rom::None).boot(Boot::Disk);
    let mut machine = machine.spawn().expect("it starts");
    let marker = story.wait_up(client, &mut machine).expect("it comes up from its own disk");
    println!("installed: {marker:?}");
    let ssh = story.ssh(client).expect("ssh answers");
    assert!(ssh.run(&["ls", "/etc/marked"]).expect("listed").contains(MARKER));
    assert_eq!(ssh.run(&["stat", "-c", "%a %u", "/var/lib/systemimager/key"]).expect("its key"), "600 0\n");
    mark(&story.image(), 40);
    story.put_client(&ssh, "updateclient").expect("copied");
    // The image does not have it.
    let stays =
        "mkdir -p /etc/systemimager; echo /usr/local/sbin/updateclient > /etc/systemimager/update.local.exclude";
    ssh.run(&["sh", "-c", stays]).expect("it stays");
    let update = ["updateclient", "--server", SERVER, "--yes", "--image", IMAGE];
    let wire = Wire::tap(&story, "update.pcap");
    ssh.run(&update).expect("updated over ssh");
    let (bytes, saw) = wire.end();
    println!("update: {} kB on the wire", bytes / 1000);
    assert!(bytes > 10_000 && !saw, "the update shows it: {bytes} bytes");
    assert!(ssh.run(&["ls", "/etc/marked"]).expect("listed").contains(&format!("{MARKER}-39")));

    // Revoked, it gets nothing any more, and both sides say so.
    story.run(&["revoke", &client.name]).expect("revoked");
    mark(&story.image(), 41);
    let error = ssh.run(&update).expect_err("refused").to_string();
    assert!(error.contains("does not let this machine's key in"), "{error}");
    assert!(!ssh.run(&["ls", "/etc/marked"]).expect("listed").contains(&format!("{MARKER}-40")));

    // The same by rsync shows it: whoever looks can see.
    let path = story.root().join("tftpboot/systemimager/demo.master");
    let plain = "transports = [\"rsync\"]\nallow_keyless = true";
    fs::write(&path, text.replace("transports = [\"ssh\"]", plain)).expect("written");
    let wire = Wire::tap(&story, "rsync.pcap");
    wait_until(Duration::from_secs(60), "the update by rsync", || Ok(ssh.run(&update).ok())).expect("updated");
    let (bytes, saw) = wire.end();
    assert!(saw, "by rsync {bytes} bytes passed, and the marker was not seen");
    story.stop_serving().expect("the server ends in good order");
}
