//! A bare machine is installed over the network with the image of another, and comes up from its own disk.
//!
//! It differs from the master client in disk bus, disk name, network card and PCI slot.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use systemimager_tests::compare::{Difference, Options, compare, report};
use systemimager_tests::lab::disk::Loop;
use systemimager_tests::lab::run;
use systemimager_tests::lab::wait::wait_until;
use systemimager_tests::need::Need;
use systemimager_tests::require;
use systemimager_tests::story::{Client, IMAGE, Story};

/// How long an emulated machine may take to install itself.
const INSTALL: Duration = Duration::from_secs(600);

/// What the plan says of a path: `times`, `path` or `below`.
type Changes = BTreeMap<String, String>;

fn changes(plan: &Value) -> Changes {
    let text = |value: &Value| value.as_str().expect("a path that is text").to_owned();
    let all = plan["changes"].as_array().expect("a plan lists its changes");
    all.iter().map(|it| (text(&it["path"]), text(&it["extent"]))).collect()
}

/// Whether the plan lists what differs.
fn listed(difference: &Difference, changes: &Changes) -> bool {
    let path = format!("/{}", String::from_utf8_lossy(&difference.path));
    let path = path.trim_end_matches('/');
    let path = if path.is_empty() { "/" } else { path };
    let times_only = format!("{:?}", difference.what).starts_with("Mtime");
    match changes.get(path).map(String::as_str) {
        Some("below" | "path") => return true,
        Some("times") if times_only => return true,
        _ => {}
    }
    Path::new(path)
        .ancestors()
        .skip(1)
        .any(|above| changes.get(&above.display().to_string()).is_some_and(|extent| extent == "below"))
}

/// The installed tree, from the powered-off disk, held against the image.
fn compare_with_image(story: &Story, client: &Client, changes: &Changes) {
    let disk = Loop::attach_read_only(&client.disk).expect("the disk is there");
    let root = disk.mount(2).expect("the root file system mounts");
    disk.mount_at(1, &root.path().join("boot")).expect("/boot mounts");
    let differences = compare(&story.image(), root.path(), &Options::new()).expect("both trees can be read");
    let (planned, others): (Vec<_>, Vec<_>) = differences.into_iter().partition(|it| listed(it, changes));
    println!("{} differs from the image in what the plan lists:", client.name);
    for (path, extent) in changes {
        let path = path.trim_start_matches('/').as_bytes();
        let at = |it: &&Difference| match extent.as_str() {
            "below" => it.path.starts_with(path),
            _ => it.path == path,
        };
        let here: Vec<&Difference> = planned.iter().filter(at).collect();
        println!("  /{} ({extent}): {} differences", String::from_utf8_lossy(path), here.len());
        here.iter().take(3).for_each(|it| println!("    {it}"));
    }
    assert!(others.is_empty(), "{} differs in what the plan does not list:\n{}", client.name, report(&others, 50));
    assert!(!planned.is_empty(), "a machine with a name of its own differs from the image");
    let fstab = std::fs::read_to_string(root.path().join("etc/fstab")).expect("fstab");
    assert!(!names_device(&fstab), "fstab names kernel devices:\n{fstab}");
    root.close().expect("unmounts");
}

/// Whether a text names a disk as the kernel does.
fn names_device(text: &str) -> bool {
    ["/dev/sd", "/dev/vd", "/dev/hd", "/dev/nvme"].iter().any(|name| text.contains(name))
}

#[test]
fn a_bare_machine_becomes_one_of_its_own() {
    require!(Need::VirtualMachines);
    let directory =
        tempfile::Builder::new().prefix("systemimager-install-").tempdir_in("/var/tmp").expect("a directory");
    let mut story = Story::begin(directory.path()).expect("a network and a server");
    let mut master = story.boot_master().expect("the master client boots");
    story.capture(&master).expect("it is captured");
    master.power_off().expect("the master client goes down");
    let clients = story.clients(2).expect("machines are declared");
    let key = of_the_site(&story);
    story.serve().expect("the server serves");
    let mut machines: Vec<_> = clients.iter().map(|it| story.boot_bare(it).expect("it starts")).collect();
    for (client, machine) in clients.iter().zip(&mut machines) {
        story.wait_installed(client, machine).expect("it is installed");
    }
    drop(machines);
    let status: Value = serde_json::from_str(&story.run(&["--json", "status"]).expect("status")).expect("JSON");
    for client in &clients {
        let plan = story.run(&["--json", "plan", IMAGE, "--host", &client.name]).expect("a plan");
        let plan: Value = serde_json::from_str(&plan).expect("JSON");
        let machines = status["machines"].as_array().expect("a list of machines");
        let machine = machines.iter().find(|it| it["host"] == client.name.as_str()).expect("the machine reported");
        assert_eq!(machine["state"], "installed", "{machine}");
        // The steps that `plan` prints are the steps that the install reports as done.
        let done: Vec<&Value> = machine["done"].as_array().expect("steps").iter().map(|it| &it["step"]).collect();
        let planned: Vec<&Value> = plan["steps"].as_array().expect("steps").iter().collect();
        assert_eq!(planned, done, "{}", client.name);
        let mut changes = changes(&plan);
        let log = story.run(&["logs", &client.name]).expect("a log");
        let says = format!("before {} gets {IMAGE} from 10.77.0.1 by pre-install", client.name);
        assert!(log.contains(&says), "{says}: {log}");
        if client.name == "node2" {
            // A hook in the target may change anything; this one makes a file.
            assert_eq!(changes.remove("/").as_deref(), Some("below"));
            changes.extend([("/root", "times"), ("/root/by-hook", "path")].map(|(a, b)| (a.to_owned(), b.to_owned())));
            assert!(log.contains("after in / for node2") && log.contains("status 3"), "{log}");
        }
        compare_with_image(&story, client, &changes);
    }
    // From here on both ask the network first at every start, as firmware often does.
    let mut own = Vec::new();
    let mut machines: Vec<_> = clients.iter().map(|it| story.boot_by_network(it).expect("it starts")).collect();
    for (client, machine) in clients.iter().zip(&mut machines) {
        let marker = story.wait_up(client, machine).expect("it comes up from its disk");
        assert!(marker.addresses.contains(&client.address), "{marker:?}");
        assert!(marker.root_device.contains(client.kernel_name()), "{marker:?}");
        assert_ne!(marker.root_device, master.marker.root_device);
        assert_eq!(marker.root_uuid, master.marker.root_uuid);
        assert!(marker.command_line.contains("root=UUID="), "{}", marker.command_line);
        assert!(!names_device(&marker.command_line), "{}", marker.command_line);
        let ssh = story.ssh(client).expect("ssh answers");
        own.push(["/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub"].map(|it| ssh.run(&["cat", it]).expect(it)));
        ssh.run(&["touch", "/root/marker"]).expect("a marker");
        assert_eq!(ssh.run(&["cat", "/etc/motd"]).expect("a motd"), "of the override\n");
        let by_hook = ssh.run(&["cat", "/root/by-hook"]).ok();
        assert_eq!(by_hook.as_deref(), (client.name == "node2").then_some("node2\n"));
    }
    assert_eq!(own[0][1], key, "an override is laid over what an install makes anew");
    assert_ne!(own[0][0], own[1][0], "machine-ids differ");
    assert_eq!(own[0][0].trim().len(), 32, "{:?}", own[0][0]);
    assert_ne!(own[0][1], own[1][1], "host keys differ");
    machines.truncate(1);
    let (client, machine) = (&clients[0], &mut machines[0]);
    story.stop_serving().expect("the server ends in good order");
    restart(&story, client);
    story.wait_up(client, machine).expect("it starts from its disk also without a server");
    assert!(marked(&story, client), "a restart is no reinstall");
}

/// What a site adds: an override for all and one for node1, in which its key is; a hook that comes before; and for node2 a
/// master of its own in place of its link, with a hook that comes after, and fails. node1's public key.
fn of_the_site(story: &Story) -> String {
    let spool = story.root().join("var/spool/systemimager");
    let (all, own) = (spool.join("overrides/all/etc"), spool.join("overrides/node1/etc/ssh"));
    for dir in [&all, &own, &spool.join("hooks")] {
        std::fs::create_dir_all(dir).expect("mkdir");
    }
    std::fs::write(all.join("motd"), "of the override\n").expect("written");
    let key = own.join("ssh_host_ed25519_key");
    run::run(run::program("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "kept", "-f"]).arg(&key))
        .expect("a key");
    let before = "#!/bin/sh\necho before $SI_HOST gets $SI_IMAGE from $SI_SERVER by $SI_HOOK\n";
    let after = "#!/bin/sh\necho $SI_HOST > /root/by-hook\necho after in $(pwd) for $SI_HOST\nexit 3\n";
    for (name, text) in [("before", before), ("after.sh", after)] {
        let file = spool.join("hooks").join(name);
        std::fs::write(&file, text).expect("written");
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    }
    let masters = story.root().join("tftpboot/systemimager");
    let text = std::fs::read_to_string(masters.join(format!("{IMAGE}.master"))).expect("a master");
    let text = text.replace("overrides = []", "overrides = [\"all\"]");
    let text = format!("{text}\n[[hook]]\nat = \"pre-install\"\nrun = \"before\"\n");
    std::fs::write(masters.join(format!("{IMAGE}.master")), &text).expect("written");
    let link = masters.join("node2.sh");
    std::fs::remove_file(&link).expect("a link");
    let after = "\n[[hook]]\nat = \"post-install\"\nrun = \"after.sh\"\non_failure = \"warn\"\n";
    std::fs::write(&link, format!("{text}{after}")).expect("a copy");
    std::fs::read_to_string(key.with_extension("pub")).expect("a public key")
}

/// Restarts an installed machine as its administrator would.
fn restart(story: &Story, client: &Client) {
    // The connection may end before the answer comes.
    let _ = story.ssh(client).expect("ssh answers").run(&["systemctl", "reboot"]);
}

/// Whether the file is there that was put onto the machine after its install.
fn marked(story: &Story, client: &Client) -> bool {
    story.ssh(client).expect("ssh answers").run(&["ls", "/root"]).expect("a list").contains("marker")
}

#[test]
fn an_order_is_one_install_and_goes_on_where_it_failed() {
    require!(Need::VirtualMachines, Need::Long);
    let directory =
        tempfile::Builder::new().prefix("systemimager-orders-").tempdir_in("/var/tmp").expect("a directory");
    let mut story = Story::with_image(directory.path()).expect("a server with an image");
    let clients = story.clients(1).expect("a machine is declared");
    story.serve().expect("the server serves");
    // It asks the network first at every start.
    let (client, machine) = (&clients[0], &mut story.boot_by_network(&clients[0]).expect("it starts"));
    machine.wait_serial("systemimager: installed", INSTALL).expect("installed");
    story.wait_up(client, machine).expect("up from its disk");
    story.ssh(client).expect("ssh").run(&["touch", "/root/marker"]).expect("a marker");
    for _ in 0..3 {
        restart(&story, client);
        story.wait_up(client, machine).expect("up again");
        assert!(marked(&story, client), "a restart is no reinstall");
    }
    story.stop_serving().expect("the server ends in good order");
    restart(&story, client);
    story.wait_up(client, machine).expect("it starts from its disk also without a server");
    assert!(marked(&story, client));

    story.serve_again().expect("the server serves");
    story.run(&["install", &client.name, "--break", "before-pull"]).expect("ordered");
    restart(&story, client);
    machine.wait_serial("stopped at the break point before-pull", INSTALL).expect("stopped");
    // Something is wrong with the image, and is found when the boot loader is installed.
    let (tool, hidden) = (story.image().join("usr/lib/grub/i386-pc/boot.img"), story.directory.join("boot.img"));
    std::fs::rename(&tool, &hidden).expect("hidden");
    let state = |word: &str| {
        wait_until(Duration::from_secs(60), word, || {
            Ok(Some(story.run(&["status", &client.name])?).filter(|shown| shown.contains(word)))
        })
        .expect("a state")
    };
    state("paused");
    let retry = || story.run(&["retry", &client.name]).expect("it goes on");
    retry();
    machine.wait_serial("install failed at", INSTALL).expect("it fails");
    let shown = state("FAILED");
    assert!(shown.contains("(boot: ") && shown.contains("grub-install"), "{shown}");
    retry();
    machine.wait_serial("going on at the phase boot", INSTALL).expect("only what failed is done again");
    machine.wait_serial("install failed at", INSTALL).expect("it fails again");
    std::fs::rename(&hidden, &tool).expect("put back");
    state("FAILED");
    retry();
    machine.wait_serial("going on at the phase pull", INSTALL).expect("it goes further back");
    machine.wait_serial("systemimager: installed", INSTALL).expect("installed again");
    story.wait_up(client, machine).expect("up from its disk");
    assert!(!marked(&story, client), "an order is an install");
    story.ssh(client).expect("ssh").run(&["touch", "/root/marker"]).expect("a marker");
    restart(&story, client);
    story.wait_up(client, machine).expect("up again");
    assert!(marked(&story, client), "and one order is one install");
    let log = story.run(&["logs", &client.name]).expect("a log");
    for says in
        ["Z + mke2fs ", "paused: at the break point before-pull", "was done by an earlier attempt", "installed: "]
    {
        assert!(log.contains(says), "{says}: {log}");
    }
    story.stop_serving().expect("the server ends in good order");
}
