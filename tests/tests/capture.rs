//! Captures for real: the built program on loopback, against trees on a real file system.
//!
//! Each test has roots of its own (`--root`) and a free port; nothing of this machine is changed.
#![allow(clippy::disallowed_methods, reason = "tests start the program that they test")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use systemimager_tests::awkward::{self, FIVE_GIB};
use systemimager_tests::compare::{self, compare};
use systemimager_tests::loopback::{Lab, program, text, wait_until};
use systemimager_tests::need::{self, Need};
use systemimager_tests::{change, require};

/// The program, or the test is skipped.
macro_rules! program {
    () => {
        match program() {
            Some(program) => program,
            None => {
                need::skipped(&need::test_name(), "no program is staged; run cargo xtask test");
                return;
            }
        }
    };
}

fn assert_same(what: &str, a: &Path, b: &Path) {
    let differences = compare(a, b, &compare::Options::new()).expect("both trees can be read");
    let list: Vec<String> = differences.iter().map(ToString::to_string).collect();
    assert!(list.is_empty(), "{what}: {} differences:\n{}", list.len(), list.join("\n"));
}

fn tree(lab: &Lab) -> PathBuf {
    let source = lab.path("source");
    fs::create_dir(&source).expect("made");
    fs::write(source.join("hello"), "hello\n").expect("written");
    source
}

#[test]
fn awkward_files_arrive_as_they_are_each_time() {
    require!(Need::Root, Need::Program("rsync"));
    awkward_files(&Lab::new(program!()), if need::is_quick() { 64 << 20 } else { FIVE_GIB });
}

#[test]
fn awkward_files_arrive_over_ssh_as_they_are_each_time() {
    require!(Need::Root, Need::Program("rsync"), Need::Program("sshd"));
    // Holes are sent as zeroes, each of which is encrypted.
    awkward_files(&Lab::new(program!()).by_transport("ssh"), 64 << 20);
}

fn awkward_files(lab: &Lab, big: u64) {
    let source = lab.path("source");
    awkward::make(&source, &awkward::Options { big }).expect("the awkward tree");

    lab.capture(&source, &[]);
    assert_same("first capture", &source, &lab.image("web"));
    let first = fs::metadata(lab.image("web")).expect("there").ino();

    change::everything(&source).expect("changed");
    let said = lab.capture(&source, &["--yes"]);
    assert_same("capture after changes of every kind", &source, &lab.image("web"));
    assert_ne!(fs::metadata(lab.image("web")).expect("there").ino(), first, "a new tree, not the old one edited");
    assert!(said.contains(" deleted") && !said.contains(" 0 deleted"), "{said}");

    change::attributes(&source).expect("changed");
    change::split(&source).expect("changed");
    lab.capture(&source, &["--yes"]);
    assert_same("capture after changes of attributes and links", &source, &lab.image("web"));

    let quiet = change::quiet(&source).expect("changed");
    lab.capture(&source, &["--yes"]);
    let unseen = compare(&source, &lab.image("web"), &compare::Options::new()).expect("readable");
    assert_eq!(unseen.len(), quiet.len(), "only --checksum finds what keeps size and time: {unseen:?}");
    lab.capture(&source, &["--yes", "--checksum"]);
    assert_same("capture with --checksum", &source, &lab.image("web"));

    // The image, offered by the product's own means, into a directory.
    let mut offered = lab.offer(&lab.image("web"));
    let (port, secret, to) = (lab.port.to_string(), lab.path("secret"), lab.path("pulled"));
    let pull = |more: &[&str]| {
        let mut command = lab.command("server", &["pull", "--server", "127.0.0.1", "--image", "root", "--port", &port]);
        command
            .arg("--secret-file")
            .arg(&secret)
            .arg("--to")
            .arg(&to)
            .args(more)
            .args(lab.by())
            .output()
            .expect("starts")
    };
    let output = pull(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert_same("pulled into a directory", &lab.image("web"), &to);
    fs::write(to.join("surplus"), "").expect("written");
    let output = pull(&["--dry-run", "--json"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("/surplus"), "{}", text(&output));
    assert!(to.join("surplus").exists(), "a dry run changes nothing");
    let output = pull(&[]);
    assert!(!output.status.success() && text(&output).contains("is not empty"), "{}", text(&output));
    assert!(pull(&["--yes"]).status.success());
    assert_same("pulled again", &lab.image("web"), &to);
    offered.terminate();
    assert!(offered.ended().success(), "SIGTERM ends it in order");
    lab.assert_clean();
}

#[test]
fn a_capture_on_a_terminal_goes_on_to_addclients() {
    require!(Need::Root, Need::Program("rsync"), Need::Program("script"));
    let lab = Lab::new(program!());
    let source = tree(&lab);
    let output = lab.get(&["--addclients", "yes"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("run addclients --image web"), "{}", text(&output));
    let (program, root, port, secret) =
        (lab.program.display(), lab.path("server"), lab.port, lab.path("secret").display().to_string());
    let words = format!(
        "{program} --root {} getimage --master-client 127.0.0.1 --port {port} --image web --secret-file {secret}",
        root.display()
    );
    let capture = |more: &str, answers: &str| {
        let mut offered = lab.offer(&source);
        let file = lab.path("answers");
        fs::write(&file, answers).expect("written");
        let mut command = Command::new("script");
        command.args(["-qec", &format!("{words} {more}"), "/dev/null"]);
        let output = command.stdin(fs::File::open(&file).expect("it")).output().expect("script");
        assert!(offered.ended().success(), "{}", text(&output));
        output
    };
    let masters = root.join("tftpboot/systemimager");

    // Whether to go on, base, numbers, first address, domain, MAC addresses, whether to order installs.
    let output = capture("", "perhaps\nyes\nwww\n1-3\n10.77.0.11/24\nexample.org\n\nno\n");
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    for asked in [
        "Go on to addclients, which says which machines get web (yes/no) [no]: ",
        "What all host names begin with, or which machines, as www[1-300]: ",
        "The numbers that follow it, as 1-300, or none [none]: ",
        "Address of the first one, as 10.0.0.11/23, or none [none]: ",
        "Their domain, or none [none]: ",
        "File with their MAC addresses, lines host,mac, or none [none]: ",
        "OVERWRITES them, once (yes/no) [yes]: ",
        "3 machines get the image web: 3 links made",
    ] {
        assert!(said.contains(asked), "{asked}: {said}");
    }
    for host in ["www1", "www2", "www3"] {
        assert_eq!(fs::read_link(masters.join(format!("{host}.sh"))).expect("a link"), Path::new("web.master"));
    }
    let hosts = fs::read_to_string(masters.join("hosts")).expect("hosts");
    assert!(hosts.contains("10.77.0.13") && hosts.contains("www3.example.org"), "{hosts}");
    assert!(!root.join("var/lib/systemimager/orders/www1.json").exists(), "nothing was ordered");

    // Not asked whether; a set of machines, and all that has a default by an empty answer.
    let output = capture("--yes --update-master no --addclients yes", "db[1,7]\n\n\n\n\n");
    assert!(output.status.success(), "{}", text(&output));
    assert!(!text(&output).contains("Go on to addclients"), "{}", text(&output));
    assert!(masters.join("db7.sh").is_symlink() && root.join("var/lib/systemimager/orders/db7.json").exists());
    // Neither asked nor done; and an answer that cannot be understood leaves the image, and says where to go on.
    let output = capture("--yes --update-master no --addclients no", "");
    assert!(output.status.success() && !text(&output).contains("Go on"), "{}", text(&output));
    let output = capture("--yes --update-master no --addclients yes", "x y\n");
    let said = text(&output);
    assert!(
        !output.status.success() && said.contains("the image web is in place, and no machines were given it"),
        "{said}"
    );
    lab.assert_clean();
}

#[test]
fn the_master_file_is_written_once_and_replaced_on_demand() {
    require!(Need::Root, Need::Program("rsync"));
    let lab = Lab::new(program!());
    let source = tree(&lab);
    lab.capture(&source, &[]);
    let master = lab.path("server/tftpboot/systemimager/web.master");
    let first = fs::read_to_string(&master).expect("written");
    assert!(first.contains("image = \"web\"") && first.contains("can be pulled into a directory"), "{first}");
    fs::write(&master, format!("# mine\n{first}")).expect("written");

    let mut offered = lab.offer(&source);
    let output = lab.get(&[]);
    assert!(!output.status.success() && text(&output).contains("--yes"), "{}", text(&output));
    assert!(text(&output).contains("There is an image web already"), "{}", text(&output));
    let output = lab.get(&["--yes"]);
    assert!(output.status.success() && text(&output).contains("(kept as it was)"), "{}", text(&output));
    assert!(fs::read_to_string(&master).expect("there").starts_with("# mine"));
    assert!(offered.ended().success());

    let said = lab.capture(&source, &["--yes", "--update-master", "yes"]);
    assert!(said.contains("backup: "), "{said}");
    assert_eq!(fs::read_to_string(&master).expect("there"), first);
    assert!(fs::read_to_string(format!("{}.~1~", master.display())).expect("kept").starts_with("# mine"));
}

#[test]
fn exclusions_leave_out_and_take_away() {
    require!(Need::Root, Need::Program("rsync"));
    let lab = Lab::new(program!());
    let source = tree(&lab);
    for dir in ["var/tmp/deep", "proc", "a*b"] {
        fs::create_dir_all(source.join(dir)).expect("made");
        fs::write(source.join(dir).join("file"), dir).expect("written");
    }
    lab.capture(&source, &[]);
    assert_same("everything", &source, &lab.image("web"));
    fs::write(lab.path("excluded"), "# not these\n/var/tmp/*\n/a\\*b\n").expect("written");
    let file = lab.path("excluded").display().to_string();
    lab.capture(&source, &["--yes", "--exclude", "/proc", "--exclude-file", &file]);
    let image = lab.image("web");
    assert!(image.join("var/tmp").is_dir() && fs::read_dir(image.join("var/tmp")).expect("there").next().is_none());
    assert!(!image.join("proc").exists() && !image.join("a*b").exists());
    assert!(image.join("hello").exists());
}

#[test]
fn a_wrong_secret_is_refused() {
    require!(Need::Root, Need::Program("rsync"));
    let lab = Lab::new(program!());
    let source = tree(&lab);
    let mut offered = lab.offer(&source);
    assert_eq!(offered.ready["port"], lab.port);
    assert!(offered.ready.get("secret").is_none(), "a secret that was given is not shown");
    fs::write(lab.path("wrong"), "battery-staple\n").expect("written");
    let wrong = lab.path("wrong").display().to_string();
    let output = lab.get(&["--secret-file", &wrong]);
    assert!(!output.status.success());
    assert!(text(&output).contains("refused the secret"), "{}", text(&output));
    assert!(!text(&output).contains("battery-staple"), "a secret is never shown: {}", text(&output));
    let output = lab.get(&["--secret-file", "/dev/null"]);
    assert!(text(&output).contains("it is empty"), "{}", text(&output));
    assert!(!lab.image("web").exists());
    lab.assert_clean();
    // It still waits, and the right one is taken.
    assert!(lab.get(&[]).status.success());
    assert!(offered.ended().success());
}

#[test]
fn names_are_checked_before_anything() {
    require!(Need::Root, Need::Program("rsync"));
    let lab = Lab::new(program!());
    let output = |words: &[&str]| lab.command("server", words).output().expect("starts");
    for (name, words, says) in [
        ("image with a slash", &["getimage", "--master-client", "x", "--image", "a/b"][..], "'/' is not allowed"),
        ("hidden image", &["getimage", "--master-client", "x", "--image", ".a"], "it may not begin with '.' or '-'"),
        ("climbing image", &["pull", "--server", "x", "--to", "/tmp/x", "--image", ".."], "may not begin"),
        ("no secret", &["getimage", "--master-client", "x", "--image", "a"], "nobody can be asked here"),
        (
            "no directory",
            &["prepareclient", "--server", "127.0.0.1", "--source", "/no/such", "--foreground"],
            "--source /no/such",
        ),
        (
            "a file",
            &["prepareclient", "--server", "127.0.0.1", "--source", "/etc/passwd", "--foreground"],
            "is no directory",
        ),
        ("server", &["prepareclient", "--server", "no-such.invalid", "--foreground"], "has no address here"),
    ] {
        let output = output(words);
        assert!(!output.status.success(), "{name}");
        assert!(text(&output).contains(says), "{name}: {}", text(&output));
    }
    // A machine that offers nothing.
    let output = lab.get(&[]);
    assert!(text(&output).contains("does prepareclient run there?"), "{}", text(&output));
    assert!(!lab.image("web").exists());
}

#[test]
fn an_unknown_export_is_named() {
    require!(Need::Root, Need::Program("rsync"));
    let lab = Lab::new(program!());
    let _offered = lab.offer(&tree(&lab));
    let (port, to) = (lab.port.to_string(), lab.path("to").display().to_string());
    let words = ["pull", "--server", "127.0.0.1", "--port", &port, "--image", "nothing", "--to", &to];
    let output = lab.command("server", &words).output().expect("starts");
    assert!(!output.status.success());
    assert!(text(&output).contains("does not offer \"nothing\""), "{}", text(&output));
}

#[test]
fn a_taken_port_is_told() {
    require!(Need::Root, Need::Program("rsync"));
    let lab = Lab::new(program!());
    let source = tree(&lab);
    let _listener = TcpListener::bind(("0.0.0.0", lab.port)).expect("it was free just now");
    let output = lab.prepare_command(&source).output().expect("starts");
    assert!(!output.status.success());
    let said = text(&output);
    assert!(said.contains(&format!("on port {}", lab.port)) && said.contains("Address already in use"), "{said}");
}

/// One old revision, then a source that takes long to move: a file of nothing but holes.
fn with_an_old_revision(lab: &Lab) -> PathBuf {
    let source = tree(lab);
    lab.capture(&source, &[]);
    let huge = fs::File::create(source.join("huge")).expect("made");
    huge.set_len(20 << 30).expect("sparse");
    fs::write(source.join("hello"), "changed\n").expect("written");
    source
}

fn assert_old(lab: &Lab) {
    assert_eq!(fs::read_to_string(lab.image("web").join("hello")).expect("whole"), "hello\n");
    assert!(!lab.image("web").join("huge").exists());
    lab.assert_clean();
}

/// A capture over an old revision that is amidst the file `huge`.
fn amidst_huge(lab: &Lab) -> Child {
    let (port, secret) = (lab.port.to_string(), lab.path("secret").display().to_string());
    let mut words = vec!["getimage", "--master-client", "127.0.0.1", "--port", &port, "--image", "web"];
    words.extend(["--secret-file", &secret, "--yes"]);
    let getting = lab.command("server", &words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let staged = lab.image(".staging/web");
    wait_until("the transfer has begun", || {
        // rsync's temporary file is there.
        let mut entries = fs::read_dir(&staged).ok()?.flatten();
        entries.any(|entry| entry.file_name().as_encoded_bytes().starts_with(b".huge")).then_some(())
    });
    getting
}

fn interrupt(getting: Child) {
    let pid = rustix::process::Pid::from_child(&getting);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    let output = getting.wait_with_output().expect("ends");
    assert!(!output.status.success() && text(&output).contains("cancelled"), "{}", text(&output));
}

#[test]
fn a_master_client_that_dies_leaves_the_old_image() {
    require!(Need::Root, Need::Program("rsync"));
    let lab = Lab::new(program!());
    let source = with_an_old_revision(&lab);
    let mut offered = lab.offer(&source);
    let getting = amidst_huge(&lab);
    offered.terminate();
    let output = getting.wait_with_output().expect("ends");
    assert!(!output.status.success());
    assert!(text(&output).contains("went away during the transfer"), "{}", text(&output));
    assert_old(&lab);
    offered.ended();
}

#[test]
fn a_capture_that_is_interrupted_leaves_the_old_image() {
    require!(Need::Root, Need::Program("rsync"));
    let lab = Lab::new(program!());
    let source = with_an_old_revision(&lab);
    let _offered = lab.offer(&source);
    let getting = amidst_huge(&lab);
    // Meanwhile nobody else may capture the same image.
    let output = lab.get(&["--yes"]);
    assert!(text(&output).contains("is locked by capture of image web"), "{}", text(&output));
    interrupt(getting);
    assert_old(&lab);
}

/// A new revision shares what stays with the old one while it is made: whatever the source does meanwhile, the old one
/// does not change by it.
#[test]
fn what_two_revisions_share_is_not_written() {
    require!(Need::Root, Need::Program("rsync"));
    let lab = Lab::new(program!());
    let source = lab.path("source");
    awkward::make(&source, &awkward::Options { big: 64 << 20 }).expect("the awkward tree");
    let busy: Vec<PathBuf> = (0..200).map(|n| source.join(format!("busy-{n}"))).collect();
    for path in &busy {
        fs::write(path, "busy").expect("written");
    }
    lab.capture(&source, &[]);
    let before = lab.path("before");
    run(Command::new("cp").args(["--archive", "--no-target-directory"]).arg(lab.image("web")).arg(&before));
    assert_same("the copy", &lab.image("web"), &before);
    change::everything(&source).expect("changed");
    change::attributes(&source).expect("changed");
    fs::File::create(source.join("huge")).expect("made").set_len(20 << 30).expect("sparse");

    let _offered = lab.offer(&source);
    let (ends, ended) = std::sync::mpsc::channel::<()>();
    let busy = &busy;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for round in 0_u32.. {
                for path in busy {
                    if ended.try_recv() == Err(std::sync::mpsc::TryRecvError::Disconnected) {
                        return;
                    }
                    let mode = if round.is_multiple_of(2) { 0o600 } else { 0o640 };
                    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
                    std::os::unix::fs::chown(path, Some(round % 7), None).expect("chown");
                }
            }
        });
        // Dropped, also by a failure, it ends the changes.
        let _ends = ends;
        let getting = amidst_huge(&lab);
        let inode = |tree: &str| fs::metadata(lab.image(tree).join("content/kept")).expect("there").ino();
        let shared = inode("web") == inode(".staging/web");
        interrupt(getting);
        assert!(shared, "what stays is shared");
    });
    assert_same("the old revision afterwards", &before, &lab.image("web"));
    lab.assert_clean();
}

/// A small file system in a file, mounted; unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(lab: &Lab, mkfs: &[&str], size: u64, at: &Path) -> Self {
        let file = lab.path("disk");
        fs::File::create(&file).expect("made").set_len(size).expect("sparse");
        run(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&file));
        fs::create_dir_all(at).expect("made");
        run(Command::new("mount").args(["-o", "loop"]).arg(&file).arg(at));
        Self(at.to_path_buf())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run(Command::new("umount").arg(&self.0));
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program is there");
    assert!(output.status.success(), "{command:?}: {}", text(&output));
}

#[test]
fn a_full_store_leaves_the_old_image() {
    require!(Need::LoopDevices, Need::Program("rsync"), Need::Program("mkfs.ext4"));
    let lab = Lab::new(program!());
    let _store = Mounted::new(&lab, &["mkfs.ext4", "-q"], 96 << 20, &lab.image(""));
    let source = tree(&lab);
    lab.capture(&source, &[]);
    fs::write(source.join("hello"), "changed\n").expect("written");
    fs::write(source.join("huge"), vec![b'x'; 120 << 20]).expect("written");

    let _offered = lab.offer(&source);
    let output = lab.get(&["--yes"]);
    assert!(!output.status.success() && text(&output).contains("the capture needs"), "{}", text(&output));
    assert!(!text(&output).contains("capturing"), "noticed before anything moves: {}", text(&output));
    assert_old(&lab);
    // With an exclusion the count is no proof: then it is noticed when the disk is full.
    let output = lab.get(&["--yes", "--exclude", "/no-such"]);
    assert!(!output.status.success() && text(&output).contains("no space left"), "{}", text(&output));
    assert_old(&lab);
}

/// The program's plugins but those whose file names hold one of these words.
fn plugins_without(lab: &Lab, words: &[&str]) -> PathBuf {
    let installed = lab.program.parent().and_then(Path::parent).expect("PREFIX/bin").join("lib/systemimager/plugins");
    let dir = lab.path("plugins");
    fs::create_dir_all(&dir).expect("made");
    for entry in fs::read_dir(installed).expect("plugins are staged").flatten() {
        if !words.iter().any(|word| entry.file_name().to_string_lossy().contains(word)) {
            fs::copy(entry.path(), dir.join(entry.file_name())).expect("copied");
        }
    }
    dir
}

const LAYOUT: &str = r#"
[[disk]]
node = "disk0"
label = "gpt"
size = "8 GiB"
[[disk.partition]]
node = "disk0p1"
number = 1
type = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
[[filesystem]]
node = "root"
on = "disk0p1"
type = "ext4"
[[mount]]
node = "root"
at = "/"
"#;

#[test]
fn missing_plugins_are_named() {
    require!(Need::LoopDevices, Need::Program("rsync"), Need::Program("mkfs.ext4"));
    let lab = Lab::new(program!());
    let source = lab.path("source");
    let _mounted = Mounted::new(&lab, &["mkfs.ext4", "-q"], 32 << 20, &source);
    let layout = lab.path("layout.toml");
    fs::write(&layout, LAYOUT).expect("written");

    // On the master client: a file system that nobody serves is no silent hole.
    let without_fs = plugins_without(&lab, &["ext2"]);
    let output = lab.prepare_command(&source).arg("--plugin-dir").arg(&without_fs).output().expect("starts");
    assert!(!output.status.success());
    assert!(text(&output).contains("no file system plugin serves ext4 (served: reiserfs, vfat)"), "{}", text(&output));

    // On the image server: before anything is pulled.
    let mut command = lab.prepare_command(&source);
    let mut offered = lab.start(command.arg("--layout").arg(&layout));
    let directory = without_fs.display().to_string();
    let output = lab.get(&["--plugin-dir", &directory]);
    assert!(!output.status.success());
    assert!(text(&output).contains("no file system plugin serves ext4"), "{}", text(&output));
    assert!(!text(&output).contains("capturing") && !lab.image("web").exists(), "{}", text(&output));
    lab.assert_clean();

    fs::remove_dir_all(&without_fs).expect("removed");
    let without_transport = plugins_without(&lab, &["transport"]).display().to_string();
    let output = lab.get(&["--plugin-dir", &without_transport]);
    assert!(text(&output).contains("there is no transport plugin"), "{}", text(&output));

    // With all of them the layout gets into the master file.
    let output = lab.get(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(offered.ended().success());
    let master = fs::read_to_string(lab.path("server/tftpboot/systemimager/web.master")).expect("written");
    assert!(master.contains("0FC63DAF-8483-4772-8E79-3D69D8477DE4"), "{master}");
}

#[test]
fn mounts_below_the_source_are_left_out_and_said() {
    require!(Need::LoopDevices, Need::Program("rsync"), Need::Program("mkfs.ext4"));
    let lab = Lab::new(program!());
    let source = tree(&lab);
    fs::create_dir(source.join("other")).expect("made");
    fs::set_permissions(source.join("other"), fs::Permissions::from_mode(0o750)).expect("set");
    let _mounted = Mounted::new(&lab, &["mkfs.ext4", "-q"], 32 << 20, &source.join("other"));
    fs::write(source.join("other/file"), "on another file system").expect("written");
    let said = lab.capture(&source, &[]);
    assert!(said.contains("/other (ext4): on a loop device"), "{said}");
    let point = lab.image("web").join("other");
    assert!(fs::read_dir(&point).expect("the mount point is there").next().is_none(), "and empty");
    assert_eq!(fs::metadata(&point).expect("there").mode() & 0o7777, 0o750, "as it is below the mount");
}

#[test]
fn each_file_system_is_bound_once() {
    require!(Need::Root, Need::Program("rsync"));
    let lab = Lab::new(program!());
    let source = tree(&lab);
    let other = lab.path("other");
    fs::create_dir_all(other.join("deep/memory")).expect("made");
    fs::write(other.join("deep/file"), "from elsewhere").expect("written");
    fs::create_dir_all(source.join("a/point")).expect("made");
    fs::write(source.join("a/point/hidden"), "below the mount").expect("written");
    let mut mounts = Undone(Vec::new());
    mounts.mount(&["--bind", &other.display().to_string()], &source.join("a/point"));
    mounts.mount(&["-t", "tmpfs", "tmpfs"], &source.join("a/point/deep/memory"));
    fs::write(source.join("a/point/deep/memory/file"), "in memory").expect("written");
    let said = lab.capture(&source, &[]);
    assert!(said.contains("/a/point/deep/memory (tmpfs): made by the kernel anew"), "{said}");
    let image = lab.image("web");
    assert_eq!(fs::read_to_string(image.join("a/point/deep/file")).expect("there"), "from elsewhere");
    assert!(!image.join("a/point/hidden").exists());
    assert!(fs::read_dir(image.join("a/point/deep/memory")).expect("the mount point").next().is_none(), "is empty");
}

#[test]
fn it_goes_on_in_the_background() {
    require!(Need::Root, Need::Program("rsync"));
    let lab = Lab::new(program!());
    let source = tree(&lab);
    let port = lab.port.to_string();
    let mut command = lab.command("client", &["prepareclient", "--server", "127.0.0.1", "--port", &port]);
    let output = command.arg("--source").arg(&source).output().expect("starts");
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    let after =
        |marker: &str| said.split_once(marker).map(|(_, rest)| rest.split_whitespace().next().unwrap_or("").to_owned());
    let secret = after("which it asks for: ").expect("the secret is printed");
    let pid = after("(process ").expect("the process is printed");
    assert!(!lab.path("client/run/systemimager/prepareclient.ready").exists(), "the secret stays in no file");
    fs::write(lab.path("secret"), secret).expect("written");
    let output = lab.get(&[]);
    assert!(output.status.success(), "{}", text(&output));
    let pid = pid.trim_end_matches(',');
    wait_until("the background process has ended", || {
        // A zombie that nobody reaps here has ended as well.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    });
    assert_same("captured from the background", &source, &lab.image("web"));
    // Its mounts and secrets went with it.
    assert_eq!(fs::read_dir(lab.path("client/run/systemimager/capture")).expect("there").count(), 0);
}

#[test]
fn a_time_limit_ends_it() {
    require!(Need::Root, Need::Program("rsync"));
    let lab = Lab::new(program!());
    let source = tree(&lab);
    let output = lab.prepare_command(&source).args(["--time-limit", "0"]).output().expect("starts");
    assert!(!output.status.success());
    assert!(text(&output).contains("nobody captured this machine within 0 minutes"), "{}", text(&output));
    // One that no clock has is a matter of usage.
    let output = lab.prepare_command(&source).args(["--time-limit", "999999999999999999"]).output().expect("starts");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}

#[test]
fn a_time_limit_waits_for_who_is_connected() {
    require!(Need::Root, Need::Program("rsync"));
    let lab = Lab::new(program!());
    if need::is_quick() {
        need::skipped(&need::test_name(), "SYSTEMIMAGER_QUICK is set; it takes a minute");
        return;
    }
    let source = tree(&lab);
    let mut offered = lab.start(lab.prepare_command(&source).args(["--time-limit", "1"]));
    let getimage = offered.ready["getimage"].as_str().expect("the command to run").to_owned();
    assert!(getimage.ends_with(" --secret-file FILE"), "no path of this machine: {getimage}");
    let connected = std::net::TcpStream::connect(("127.0.0.1", lab.port)).expect("connected");
    std::thread::sleep(std::time::Duration::from_secs(70));
    assert!(offered.child.try_wait().expect("looked at").is_none(), "it waits for who is connected");
    drop(connected);
    let output = lab.get(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(offered.ended().success());
}

/// The file system of a Debian whose C library is older than the one this was built with, as a tar.
fn older_debian() -> anyhow::Result<PathBuf> {
    systemimager_tests::lab::master::cached("debian-11.tar", |to| {
        let output = Command::new("mmdebstrap")
            .args(["--quiet", "--variant=extract", "--format=tar", "--include=libc6,bash,coreutils,rsync", "bullseye"])
            .arg(to)
            .arg("http://deb.debian.org/debian")
            .output()?;
        anyhow::ensure!(output.status.success(), "mmdebstrap: {}", text(&output));
        Ok(())
    })
}

/// Mounts that are undone last first.
struct Undone(Vec<PathBuf>);

impl Undone {
    fn mount(&mut self, words: &[&str], at: &Path) {
        fs::create_dir_all(at).expect("made");
        run(Command::new("mount").args(words).arg(at));
        self.0.push(at.to_path_buf());
    }
}

impl Drop for Undone {
    fn drop(&mut self) {
        while let Some(at) = self.0.pop() {
            run(Command::new("umount").arg(at));
        }
    }
}

#[test]
fn the_static_client_runs_on_an_older_system() {
    require!(Need::Root, Need::Program("rsync"), Need::Program("mmdebstrap"), Need::Program("tar"));
    let program = program!();
    let client = program.with_file_name("../lib/systemimager/client/systemimager-client");
    if !client.is_file() {
        need::skipped(&need::test_name(), &format!("{} is not staged; run cargo xtask test", client.display()));
        return;
    }
    let tar = match older_debian() {
        Ok(tar) => tar,
        Err(why) => {
            need::skipped(&need::test_name(), &format!("no tree with an older C library could be made: {why:#}"));
            return;
        }
    };
    let lab = Lab::new(program);
    let tree = lab.path("tree");
    fs::create_dir(&tree).expect("made");
    run(Command::new("tar").arg("--numeric-owner").arg("-xf").arg(tar).arg("-C").arg(&tree));
    let mut mounts = Undone(Vec::new());
    // The root of a system is a mount.
    let itself = tree.display().to_string();
    mounts.mount(&["--bind", &itself], &tree);
    mounts.mount(&["-t", "proc", "proc"], &tree.join("proc"));
    mounts.mount(&["-t", "sysfs", "sysfs"], &tree.join("sys"));
    mounts.mount(&["--bind", "/dev"], &tree.join("dev"));
    fs::copy(&client, tree.join("client")).expect("copied");
    let inside = |words: &[&str]| {
        let mut command = Command::new("chroot");
        command.arg(&tree).arg("/client").args(words).stdin(Stdio::null());
        command
    };

    // The dynamic form would not even start there: that is why there is a static one.
    fs::copy(&lab.program, tree.join("dynamic")).expect("copied");
    let output = Command::new("chroot").arg(&tree).arg("/dynamic").arg("--version").output().expect("chroot");
    assert!(text(&output).contains("GLIBC_"), "the tree is not older: {}", text(&output));

    let output = inside(&["plugin", "list"]).output().expect("chroot");
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("linked in"), "{}", text(&output));

    fs::copy(lab.path("secret"), tree.join("secret")).expect("copied");
    let port = lab.port.to_string();
    let words =
        ["prepareclient", "--server", "127.0.0.1", "--foreground", "--json", "--source", "/etc", "--port", &port];
    let mut offered = lab.start(inside(&words).args(["--secret-file", "/secret"]));
    let output = lab.get(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(offered.ended().success());
    assert_same("captured from an older system", &tree.join("etc"), &lab.image("web"));
}
