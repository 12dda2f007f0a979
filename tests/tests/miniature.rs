//! The miniature system, built from a real kernel and booted: it finds its drivers, gets an address, asks
//! the image server, and, when it cannot go on, says why and waits with a shell.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use systemimager_engine::config::Config;
use systemimager_engine::key::Key;
use systemimager_engine::signed::{self, Answer};
use systemimager_engine::store::server_keys::ServerKeys;
use systemimager_tests::lab::machine::{Boot, Machine};
use systemimager_tests::lab::master::{Distribution, rootfs_tar};
use systemimager_tests::lab::run;
use systemimager_tests::need::Need;
use systemimager_tests::require;
use systemimager_tests::story::stage;

/// What all but the kernel's modules may take, bytes.
const MOST_USERLAND: u64 = 8 << 20;
const IMAGE: &str = "mini";

/// A server's root with one image that holds a kernel and its modules, and nothing else.
fn server_with_kernel(directory: &Path) -> PathBuf {
    let root = directory.join("server");
    let image = root.join("var/spool/systemimager/images").join(IMAGE);
    std::fs::create_dir_all(&image).expect("a directory");
    let tar = rootfs_tar(Distribution::Debian).expect("the lab's root file system");
    let (tar, image) = (tar.to_string_lossy().into_owned(), image.to_string_lossy().into_owned());
    let parts = ["./boot", "./lib", "./usr/lib/modules", "./etc/os-release", "./usr/lib/os-release"];
    let unpack = ["tar", "--extract", "--zstd", "--file", &tar, "--directory", &image];
    run::run_argv(&[unpack.as_slice(), parts.as_slice()].concat()).expect("it unpacks");
    root
}

fn systemimager(root: &Path, words: &[&str]) -> Command {
    let mut command = run::program(stage().expect("a stage").join("bin/systemimager"));
    command.arg("--root").arg(root).args(words);
    command
}

fn refusal(root: &Path, words: &[&str]) -> String {
    let output = run::output(&mut systemimager(root, words)).expect("it runs");
    assert!(!output.status.success(), "{words:?} was not refused");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An image server that gives one answer to everything, signed. It answers until the test ends.
struct Canned {
    port: u16,
    /// Signs instead of the server that the initrd was made for.
    impostor: Arc<Mutex<Option<Key>>>,
}

impl Canned {
    fn new(root: &Path, status: u16, body: &'static str) -> Self {
        let config = Config::load(Some(root), None).expect("settings");
        let keys = ServerKeys::open(&config).expect("the server's keys");
        let impostor = Arc::new(Mutex::new(None));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let other = Arc::clone(&impostor);
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let impostor = other.lock().expect("whole");
                // A machine whose power goes may ask half a question.
                let _ = answer(connection, status, body, impostor.as_ref().unwrap_or_else(|| keys.signing()));
            }
        });
        Self { port, impostor }
    }

    /// The guest's network: nothing is reached but this, at 10.0.2.100:8069. QEMU starts the program for each connection.
    fn network(&self) -> String {
        format!("user,id=net,restrict=on,guestfwd=tcp:10.0.2.100:8069-cmd:busybox nc 127.0.0.1 {}", self.port)
    }
}

/// Reads a question and answers it.
fn answer(connection: TcpStream, status: u16, body: &str, key: &Key) -> std::io::Result<()> {
    let mut reader = BufReader::new(connection);
    let (mut first, mut nonce, mut length) = (String::new(), String::new(), 0);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            signed::NONCE => nonce = value.to_owned(),
            "content-length" => length = value.parse().expect("a number"),
            _ => {}
        }
    }
    let mut question = vec![0; length];
    reader.read_exact(&mut question)?;
    let Some(target) = first.split(' ').nth(1) else { return Ok(()) };
    let words = Answer { target, nonce: &nonce, question: &question, status, body: body.as_bytes() };
    let signature = words.sign(key).expect("a signature");
    write!(
        reader.into_inner(),
        "HTTP/1.1 {status} So\r\nContent-Length: {}\r\n{}: {signature}\r\nConnection: close\r\n\r\n{body}",
        body.len(),
        signed::SIGNATURE
    )
}

#[test]
fn a_kernel_is_paired_with_its_own_modules_only() {
    require!(Need::VirtualMachines);
    let directory = tempfile::Builder::new().prefix("systemimager-mini-").tempdir_in("/var/tmp").expect("a directory");
    let empty = directory.path().join("empty");
    let says = refusal(&empty, &["mkinitrd"]);
    assert!(says.contains("there is no image in") && says.contains("systemimager getimage"), "{says}");
    assert!(!empty.join("tftpboot/kernel").exists());

    let root = server_with_kernel(directory.path());
    let image = root.join("var/spool/systemimager/images").join(IMAGE);
    let says = refusal(&root, &["mkinitrd", "--image", IMAGE, "--kernel", "1.2.3"]);
    assert!(says.contains("has no kernel 1.2.3 (there: 6."), "{says}");
    let says = refusal(&root, &["mkinitrd", "--image", "absent"]);
    assert!(says.contains("absent"), "{says}");

    let modules = image.join("usr/lib/modules");
    let release = std::fs::read_dir(&modules).expect("modules").flatten().next().expect("a release").file_name();
    let release = release.to_string_lossy().into_owned();
    let hidden = modules.join("1.2.3");
    std::fs::rename(modules.join(&release), &hidden).expect("renamed");
    let says = refusal(&root, &["mkinitrd"]);
    assert!(says.contains(&format!("kernel {release}")) && says.contains("has no modules directory"), "{says}");
    let kernel = image.join(format!("boot/vmlinuz-{release}"));
    let (kernel, hidden) = (kernel.to_string_lossy(), hidden.to_string_lossy());
    let says = refusal(&root, &["mkinitrd", "--kernel", &kernel, "--modules", &hidden]);
    assert!(says.contains(&format!("is release {release}, whose modules directory")), "{says}");
    assert!(!root.join("tftpboot/kernel").exists(), "nothing is written");
}

#[test]
fn firmware_of_packed_drivers_comes_along() {
    require!(Need::Root, Need::Program("zstd"));
    let directory = tempfile::Builder::new().prefix("systemimager-mini-").tempdir_in("/var/tmp").expect("a directory");
    let root = server_with_kernel(directory.path());
    let image = root.join("var/spool/systemimager/images").join(IMAGE);
    // What tg3 names, as a package brings it; what a driver that is not packed names; and what nobody does.
    for path in ["tigon/tg3.bin", "updates/rtl_nic/rtl8168g-2.fw", "i915/kbl_dmc_ver1_04.bin", "nobody.bin"] {
        let file = image.join("usr/lib/firmware").join(path);
        std::fs::create_dir_all(file.parent().expect("a directory")).expect("mkdir");
        std::fs::write(file, path).expect("written");
    }
    let report = run::run(&mut systemimager(&root, &["--json", "mkinitrd", "--image", IMAGE])).expect("it is made");
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let packed: Vec<&str> = report["firmware"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert_eq!(packed, ["/usr/lib/firmware/tigon/tg3.bin", "/usr/lib/firmware/updates/rtl_nic/rtl8168g-2.fw"]);
    let lacking = report["lacking_firmware"].as_array().expect("a list");
    let lacks = |module: &str| lacking.iter().any(|it| it["module"] == module);
    assert!(lacks("bnx2") && !lacks("tg3") && !lacks("r8169"), "{lacking:?}");
    let said = run::run(&mut systemimager(&root, &["mkinitrd", "--image", IMAGE])).expect("it is made");
    let note = said.lines().filter(|line| line.contains("these drivers ask for firmware that is not there: ")).count();
    assert!(note == 1 && said.contains("bnx2 (bnx2/"), "{said}");
}

#[test]
fn it_boots_and_waits_with_a_shell_when_it_cannot_go_on() {
    require!(Need::VirtualMachines);
    let directory = tempfile::Builder::new().prefix("systemimager-mini-").tempdir_in("/var/tmp").expect("a directory");
    let root = server_with_kernel(directory.path());
    let report = run::run(&mut systemimager(&root, &["--json", "mkinitrd", "--image", IMAGE])).expect("it is made");
    let report: Value = serde_json::from_str(&report).expect("JSON");
    println!("mkinitrd: {report}");
    assert!(report["userland_bytes"].as_u64().expect("a size") <= MOST_USERLAND, "{report}");
    assert!(report["probed"].as_u64().expect("root tries the programs") > 0, "{report}");

    let boot = |append: &str| Boot::Kernel {
        kernel: root.join("tftpboot/kernel"),
        initrd: Some(root.join("tftpboot/initrd.img")),
        append: format!("panic=1 no_timer_check quiet console=tty0 console=ttyS0,115200 {append}"),
    };
    let machine = |name: &str, append: &str, more: &[&str]| {
        Machine::new(name, directory.path()).exit_on_restart().boot(boot(append)).more(more)
    };
    let limit = Duration::from_secs(90);
    let waits = "this machine now waits for a person";

    let mut running = machine("lonely", "", &[]).spawn().expect("it starts");
    running.wait_serial("[1/9] drivers", limit).expect("the agent runs");
    running.wait_serial("has no wired network interface", limit).expect("it says what is missing");
    running.wait_serial("a shell is on every console", limit).expect("a person can look into it while it tries again");
    drop(running);

    // The server knows no machine: the identity plugin in the initrd is loaded and asked.
    let server = Canned::new(&root, 200, "# Nobody is declared.\n");
    let network = server.network();
    let more = ["-netdev", &network, "-device", "e1000,netdev=net,mac=52:54:00:77:02:01,romfile="];
    let append = "si.server=10.0.2.100 BOOTIF=01-52-54-00-77-02-01";
    let mut running = machine("stranger", append, &more).spawn().expect("it starts");
    running.wait_serial("booted from eth0 (52:54:00:77:02:01)", limit).expect("BOOTIF decides");
    running.wait_serial("eth0 has 10.0.2.15/24", limit).expect("it gets an address");
    running.wait_serial("[3/9] image server: http://10.0.2.100:8069", limit).expect("it finds the server");
    running.wait_serial("nothing tells who this machine is (MACs 52:54:00:77:02:01", limit).expect("nobody knows it");
    // What answers here knows no orders: it is asked again, and meanwhile a person can look.
    running.wait_serial("asking again until it answers", limit).expect("it says what it waits for");
    // Somebody with another key takes the server's place.
    *server.impostor.lock().expect("whole") = Some(Key::make().expect("a key"));
    running.wait_serial("not signed by the image server that this machine knows", limit).expect("it is refused");
    running.wait_serial("a shell is on every console", limit).expect("it waits with a shell");
    drop(running);

    // The server's own words reach the console.
    let network = Canned::new(&root, 404, "no hosts yet; run addclients\n").network();
    let more = ["-netdev", &network, "-device", "virtio-net-pci,netdev=net,romfile="];
    let mut running = machine("refused", "si.server=10.0.2.100", &more).spawn().expect("it starts");
    running.wait_serial("the image server says: no hosts yet; run addclients", limit).expect("it is quoted");
    running.wait_serial(waits, limit).expect("it does not restart");
    assert!(!running.has_ended().expect("its status"));
}
