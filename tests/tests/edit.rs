//! `image edit`: programs run in an image, with surroundings of which nothing stays, in it or on the server.
//!
//! The image is a small tree that holds busybox and what that needs.
#![allow(clippy::disallowed_methods, reason = "tests start the program that they test")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use systemimager_tests::compare::{Options, compare, report};
use systemimager_tests::need::{self, Need};
use systemimager_tests::{require, story};

/// How long anything may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(120);
const APPLETS: [&str; 14] =
    ["sh", "cat", "chmod", "cp", "echo", "false", "kill", "ln", "ls", "mkdir", "rm", "sleep", "test", "true"];

struct Server {
    dir: tempfile::TempDir,
    program: PathBuf,
}

impl Server {
    /// With the image `web`.
    fn new() -> Option<Self> {
        let stage = story::stage().inspect_err(|error| need::skipped(&need::test_name(), &error.to_string())).ok()?;
        let dir = tempfile::Builder::new().prefix("systemimager-edit-").tempdir_in("/var/tmp").expect("a directory");
        let server = Self { dir, program: stage.join("bin/systemimager") };
        let image = server.image();
        for name in ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/sbin"] {
            fs::create_dir_all(image.join(name)).expect("a directory");
        }
        let busybox = fs::canonicalize("/bin/busybox").expect("busybox");
        fs::copy(&busybox, image.join("bin/busybox")).expect("copied");
        let needed = Command::new("ldd").arg(&busybox).output().expect("ldd");
        for library in String::from_utf8_lossy(&needed.stdout).split_whitespace().filter(|word| word.starts_with('/')) {
            let place = image.join(&library[1..]);
            fs::create_dir_all(place.parent().expect("a directory")).expect("a directory");
            fs::copy(library, place).expect("copied");
        }
        for applet in APPLETS {
            symlink("busybox", image.join("bin").join(applet)).expect("a link");
        }
        fs::write(image.join("etc/motd"), "hello\n").expect("written");
        Some(server)
    }

    fn images(&self) -> PathBuf {
        self.dir.path().join("var/spool/systemimager/images")
    }

    fn image(&self) -> PathBuf {
        self.images().join("web")
    }

    /// A copy of the image, to compare with.
    fn before(&self) -> PathBuf {
        let copy = self.dir.path().join("before");
        let _ = fs::remove_dir_all(&copy);
        assert!(Command::new("cp").arg("-a").args([&self.image(), &copy]).status().expect("cp").success());
        copy
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.dir.path()).args(words).stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("it starts")
    }

    /// Runs a script in the image; with the exit code it says on standard output what it said.
    fn edit(&self, options: &[&str], script: &str) -> (Option<i32>, String) {
        let mut words = vec!["image", "edit", "web"];
        words.extend(options);
        words.extend(["--", "sh", "-c", script]);
        let output = self.run(&words);
        (output.status.code(), text(&output))
    }

    fn motd(&self) -> String {
        fs::read_to_string(self.image().join("etc/motd")).expect("it")
    }

    /// Nothing of an edit lies beside the images, and nobody sees a mount of it.
    fn assert_clean(&self) {
        for name in [".staging", ".replaced"] {
            let left: Vec<_> = fs::read_dir(self.images().join(name)).into_iter().flatten().flatten().collect();
            assert!(left.is_empty(), "{name} holds {left:?}");
        }
        assert_eq!(self.seen_by(), Vec::<String>::new());
    }

    /// Processes that are in a tree of this server, or see mounts in one.
    fn seen_by(&self) -> Vec<String> {
        let mut found = Vec::new();
        let images = fs::canonicalize(self.images()).expect("it");
        for process in fs::read_dir("/proc").expect("it").flatten() {
            let name = process.file_name().to_string_lossy().into_owned();
            if !name.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            let mounts = fs::read_to_string(process.path().join("mountinfo")).unwrap_or_default();
            let root = fs::read_link(process.path().join("root")).unwrap_or_default();
            if root.starts_with(&images) || mounts.contains(&images.display().to_string()) {
                found.push(name);
            }
        }
        found
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn same(what: &str, one: &Path, other: &Path) {
    let differences = compare(one, other, &Options::new()).expect("both trees can be read");
    assert!(differences.is_empty(), "{what}: {}", report(&differences, 40));
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).expect("it").ino()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "within {} seconds: {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A program that is talked with.
struct Talk {
    child: Child,
    to: Option<ChildStdin>,
    from: Receiver<Vec<u8>>,
    said: String,
    /// How much of it was expected so far.
    at: usize,
}

impl Talk {
    fn begin(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let (send, from) = channel();
        let mut output = child.stdout.take().expect("piped");
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                if send.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let to = child.stdin.take();
        Self { child, to, from, said: String::new(), at: 0 }
    }

    /// Waits until it has said this, after what was expected before.
    fn expect(&mut self, words: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = self.said[self.at..].find(words) {
                self.at += found + words.len();
                return;
            }
            match self.from.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.said.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout) => panic!("{words:?} was not said: {}", self.said),
                Err(RecvTimeoutError::Disconnected) => panic!("it ended without {words:?}: {}", self.said),
            }
        }
    }

    fn send(&mut self, words: &str) {
        self.to.as_mut().expect("open").write_all(words.as_bytes()).expect("it reads");
    }

    /// Closes its input; its exit code.
    fn ended(mut self) -> (Option<i32>, String) {
        self.to = None;
        let code = self.child.wait().expect("it ends").code();
        while let Ok(bytes) = self.from.recv_timeout(PATIENCE) {
            self.said.push_str(&String::from_utf8_lossy(&bytes));
        }
        (code, self.said.clone())
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In a shell that waits at `ready`, with a process in the background.
const WAITS: &str = "echo new > /etc/motd; sleep 1000 & echo ready; cat > /dev/null";

#[test]
fn what_is_done_inside_is_kept_and_nothing_else() {
    require!(Need::Root, Need::Program("busybox"), Need::Program("ldd"));
    let Some(server) = Server::new() else { return };
    let old = fs::metadata("/etc").expect("it").modified().expect("a time") - Duration::from_secs(1_000_000);
    for directory in ["", "etc", "usr/sbin"] {
        fs::File::open(server.image().join(directory)).and_then(|it| it.set_modified(old)).expect("an old directory");
    }
    let before = server.before();
    let (code, said) = server.edit(&[], "true");
    assert_eq!(code, Some(0), "{said}");
    same("an edit that does nothing", &before, &server.image());

    let resolv = "nameserver 192.0.2.1\n";
    fs::create_dir(server.dir.path().join("etc")).expect("made");
    fs::write(server.dir.path().join("etc/resolv.conf"), resolv).expect("written");
    let script = "cat /etc/resolv.conf; echo -; ls /dev; echo -; /usr/sbin/policy-rc.d; echo $?; cat /proc/1/comm; \
                  echo $debian_chroot; echo x > /proc/sys/kernel/domainname || echo unset; mkdir /sys/x || echo unmade; \
                  test -d /run/lock && echo run > /run/x && echo tmp > /tmp/x && echo x > /dev/null && echo all; \
                  echo mine > /etc/resolv.conf; echo ours > /etc/motd; chmod 600 /etc/motd; exit 0";
    let (code, said) = server.edit(&[], script);
    assert_eq!(code, Some(0), "{said}");
    let parts: Vec<&str> = said.split("-\n").collect();
    assert_eq!(parts[0], resolv, "{said}");
    let devices: Vec<&str> = parts[1].split_whitespace().collect();
    let expected =
        ["fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"];
    assert_eq!(devices, expected, "no disks: {said}");
    let rest: Vec<&str> = parts[2].lines().collect();
    assert_eq!((rest[0], rest[2]), ("101", "web"), "{said}");
    for words in ["unset", "unmade", "all", "web is changed"] {
        assert!(rest.contains(&words), "{words}: {said}");
    }
    let list = compare(&before, &server.image(), &Options::new().ignore_time("etc")).expect("both trees");
    let differences = report(&list, 40);
    assert!(list.iter().all(|one| one.to_string().contains("etc/motd")), "{differences}");
    assert_eq!(server.motd(), "ours\n");
    assert_eq!(fs::metadata(server.image().join("etc/motd")).expect("it").permissions().mode() & 0o777, 0o600);
    server.assert_clean();

    // Where the image has such files of its own, they stay.
    fs::write(server.image().join("usr/sbin/policy-rc.d"), "#!/bin/sh\nexit 7\n").expect("written");
    symlink("../run/systemd/resolve/stub-resolv.conf", server.image().join("etc/resolv.conf")).expect("a link");
    let before = server.before();
    let (code, said) = server.edit(&[], "cat /etc/resolv.conf; sh /usr/sbin/policy-rc.d; echo $?");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with(&format!("{resolv}101\n")), "{said}");
    same("an image with files of its own", &before, &server.image());
}

#[test]
fn the_exit_code_decides_and_is_handed_on() {
    require!(Need::Root, Need::Program("busybox"), Need::Program("ldd"));
    let Some(server) = Server::new() else { return };
    let (before, tree) = (server.before(), inode(&server.image()));
    for (name, options, script, code, kept) in [
        ("failure", &[][..], "echo a > /a; exit 7", 7, false),
        ("a signal", &[], "echo a > /a; kill -TERM $$", 143, false),
        ("thrown away", &["--keep", "no"], "echo a > /a", 0, false),
        ("kept all the same", &["--keep", "yes"], "echo a > /a; exit 7", 7, true),
    ] {
        let (found, said) = server.edit(options, script);
        assert_eq!(found, Some(code), "{name}: {said}");
        if kept {
            assert_eq!(fs::read_to_string(server.image().join("a")).expect(name), "a\n");
            assert_ne!(
                inode(&server.image()),
                tree,
                "{name}: another tree, which whoever asks what the image is looks at"
            );
        } else {
            same(name, &before, &server.image());
            assert_eq!(inode(&server.image()), tree, "{name}");
            assert!(said.contains("web stays as it was"), "{name}: {said}");
        }
        server.assert_clean();
    }
    // For programs: what the command says is not part of the answer.
    let output = server.run(&["--json", "image", "edit", "web", "--", "echo", "words"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("JSON: {}", text(&output)));
    let expected = serde_json::json!({ "image": "web", "code": 0, "kept": { "still_read": [], "installing": [] } });
    assert_eq!(answer, expected);
    assert!(String::from_utf8_lossy(&output.stderr).contains("words"), "{}", text(&output));
    // A script on standard input.
    let mut talk = Talk::begin(&mut server.command(&["image", "edit", "web"]));
    talk.send("echo b > /b\nexit 0\n");
    assert_eq!(talk.ended().0, Some(0));
    assert!(server.image().join("b").exists());
}

#[test]
fn readers_see_one_tree_and_nobody_else_changes_it() {
    require!(Need::Root, Need::Program("busybox"), Need::Program("ldd"));
    let Some(server) = Server::new() else { return };
    // As a revision leaves it: a file that another tree has too.
    let other = server.dir.path().join("other");
    fs::hard_link(server.image().join("etc/motd"), &other).expect("a second name");
    let mounts = || {
        let (table, below) =
            (fs::read_to_string("/proc/self/mountinfo").expect("it"), server.dir.path().display().to_string());
        table.lines().filter(|line| line.contains(&below)).count()
    };
    let mut talk = Talk::begin(&mut server.command(&["image", "edit", "web", "--", "sh", "-c", WAITS]));
    talk.expect("ready");
    assert_eq!(mounts(), 0, "this machine's mounts are as they were");
    assert!(!server.seen_by().is_empty(), "and the test knows where to look for others");
    assert_eq!(server.motd(), "hello\n", "the image is as it was");
    let refused = |words: &[&str]| {
        let output = server.run(words);
        assert!(!output.status.success() && text(&output).contains("by edit of image web"), "{}", text(&output));
    };
    refused(&["image", "edit", "web", "--", "true"]);
    refused(&["rmimage", "web", "--yes", "--force"]);
    refused(&["mvimage", "web", "shop"]);
    // It can be read, also after the edit has taken its place.
    let mut open = fs::File::open(server.image().join("etc/motd")).expect("it");
    assert_eq!(talk.ended().0, Some(0));
    let mut words = String::new();
    open.read_to_string(&mut words).expect("it");
    assert_eq!((words.as_str(), server.motd().as_str()), ("hello\n", "new\n"));
    assert_eq!(fs::read_to_string(&other).expect("it"), "hello\n", "what another tree shares was not written");
    // What was left in the background has ended.
    server.assert_clean();
}

#[test]
fn who_is_killed_leaves_nothing_behind() {
    require!(Need::Root, Need::Program("busybox"), Need::Program("ldd"));
    let Some(server) = Server::new() else { return };
    for signal in [rustix::process::Signal::KILL, rustix::process::Signal::TERM] {
        let mut talk = Talk::begin(&mut server.command(&["image", "edit", "web", "--", "sh", "-c", WAITS]));
        talk.expect("ready");
        rustix::process::kill_process(rustix::process::Pid::from_child(&talk.child), signal).expect("it runs");
        let status = talk.child.wait().expect("it ends");
        assert!(!status.success(), "{status}");
        if signal == rustix::process::Signal::KILL {
            until("its processes and mounts are gone", || server.seen_by().is_empty());
        } else {
            server.assert_clean();
        }
        assert_eq!(server.motd(), "hello\n");
    }
    // The next one is not in the way of what is left of the copy.
    let (code, said) = server.edit(&[], "echo new > /etc/motd");
    assert_eq!((code, server.motd().as_str()), (Some(0), "new\n"), "{said}");
    server.assert_clean();
}

#[test]
fn what_cannot_be_edited_is_named() {
    require!(Need::Root, Need::Program("busybox"), Need::Program("ldd"));
    let Some(server) = Server::new() else { return };
    let refused = |words: &[&str], says: &str| {
        let output = server.run(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {}", text(&output));
        assert!(text(&output).contains(says), "{words:?}: {}", text(&output));
    };
    refused(&["image", "edit", "absent"], "there is no image absent");
    refused(&["image", "edit", "web", "--", "absent"], "absent is not in the tree");
    // `nobody` may reach the program, which lies below directories that all may enter.
    for directory in server.program.ancestors().skip(1).chain([server.dir.path()]) {
        if fs::metadata(directory).expect("it").permissions().mode() & 0o005 != 0o005 {
            fs::set_permissions(server.dir.path(), fs::Permissions::from_mode(0o755)).expect("opened");
        }
    }
    if let Ok(output) = server.command(&["image", "edit", "web", "--", "true"]).uid(65534).gid(65534).output() {
        assert!(text(&output).contains("an image is edited by root alone"), "{}", text(&output));
    }
    let bin = server.image().join("bin");
    fs::remove_file(bin.join("sh")).expect("removed");
    refused(&["image", "edit", "web"], "web has no shell");
    let output = server.run(&["image", "edit", "web", "--", "echo", "words"]);
    assert!(output.status.success() && text(&output).contains("words"), "{}", text(&output));
    // A program of an architecture that nobody has registered an interpreter for.
    let mut header = [0_u8; 64];
    header[..7].copy_from_slice(b"\x7fELF\x02\x02\x01");
    (header[17], header[19]) = (2, 0x16);
    fs::write(bin.join("sh"), header).expect("written");
    fs::set_permissions(bin.join("sh"), fs::Permissions::from_mode(0o755)).expect("it");
    if !Path::new("/proc/sys/fs/binfmt_misc/qemu-s390x").exists() {
        refused(&["image", "edit", "web"], "web is for s390x, whose programs this machine");
        refused(&["image", "edit", "web"], "qemu-user-static");
    }
    // A link where a mount belongs leads nowhere.
    fs::remove_file(bin.join("sh")).expect("removed");
    symlink("busybox", bin.join("sh")).expect("a link");
    fs::remove_dir(server.image().join("sys")).expect("removed");
    symlink("/etc", server.image().join("sys")).expect("a link");
    refused(&["image", "edit", "web", "--", "true"], "sys is not a directory");
    server.assert_clean();
}

#[test]
fn a_shell_on_a_terminal_asks_when_it_fails() {
    require!(Need::Root, Need::Program("busybox"), Need::Program("ldd"), Need::Program("script"));
    let Some(server) = Server::new() else { return };
    let words = format!("{} --root {} image edit web", server.program.display(), server.dir.path().display());
    // As from a script's background: its shell ignores these signals for what it starts.
    let ignoring = ["--ignore-signal=INT,QUIT", "script", "-qec", &words, "/dev/null"];
    let terminal = || Talk::begin(Command::new("env").args(ignoring));
    for (answers, kept) in [(&["no\n"][..], false), (&["perhaps\n", "yes\n"], true)] {
        let mut talk = terminal();
        talk.expect("a shell in a copy of web");
        talk.expect("# ");
        // A job is ended by Ctrl-C, and the shell is not, also where our own caller ignores it.
        talk.send("sh -c 'echo begin; exec sleep 1000'\n");
        talk.expect("begin\r\n");
        talk.send("\x03");
        talk.expect("# ");
        talk.send("echo asked > /etc/motd; echo do''ne\n");
        talk.expect("done");
        talk.send("exit 3\n");
        for answer in answers {
            talk.expect("The shell ended with exit code 3; keep what was changed in web (yes/no): ");
            talk.send(answer);
        }
        talk.expect(if kept { "web is changed" } else { "web stays as it was" });
        let (code, said) = talk.ended();
        assert_eq!(code, Some(0), "{said}");
        assert!(!said.contains("job control"), "{said}");
        assert_eq!(server.motd(), if kept { "asked\n" } else { "hello\n" }, "{said}");
        server.assert_clean();
    }
    let mut talk = terminal();
    talk.expect("# ");
    talk.send("echo end > /etc/motd; exit\n");
    talk.expect("web is changed");
    assert_eq!((talk.ended().0, server.motd().as_str()), (Some(0), "end\n"));
}
