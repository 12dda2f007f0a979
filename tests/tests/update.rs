//! `updateclient` on trees: from one revision to another and back, with everything that a file can be; interrupted,
//! without room, refused. The built programs, with a real server, in network namespaces. Machines are updated in
//! tests/update_machines.rs.
#![allow(clippy::disallowed_methods, reason = "tests start the program that they test")]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use serde_json::Value;
use systemimager_tests::at::Dir;
use systemimager_tests::compare::{Options, compare, report};
use systemimager_tests::lab::disk::{Loop, make_raw};
use systemimager_tests::lab::netns::Host;
use systemimager_tests::lab::run;
use systemimager_tests::need::{self, Need};
use systemimager_tests::story::{self, Story};
use systemimager_tests::{awkward, change, require};

const SERVER: &str = "10.77.0.1";
const MASTER: &str = "format = 1\nimage = \"IMAGE\"\ntransports = [\"rsync\"]\npartitioner = \"sfdisk\"\n\
    bootloader = \"none\"\nallow_keyless = true\n[identity]\nplugin = \"hosts\"\n";
/// What on the machine is its own: path, contents.
const OWN: [(&str, &str); 7] = [
    ("etc/hostname", "node1\n"),
    ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
    ("etc/fstab", "/dev/sda1 / ext4 defaults 0 1\n"),
    ("etc/ssh/ssh_host_ed25519_key", "a key of its own\n"),
    ("home/user/letter", "dear\n"),
    ("var/log/messages", "it booted\n"),
    ("srv/site/data", "kept by the machine's list\n"),
];
/// Directories of them, and what else is the machine's own.
const OWN_TOPS: [&str; 8] = [
    "etc/hostname",
    "etc/machine-id",
    "etc/fstab",
    "etc/ssh/ssh_host_ed25519_key",
    "home/user",
    "var/log/messages",
    "srv/site",
    "var/lib/systemimager",
];

/// A server with images, and a machine's tree.
struct Site {
    story: Story,
    client: Host,
    program: PathBuf,
    _dir: tempfile::TempDir,
}

impl Site {
    /// With the images `names`, each made by `make` in its directory.
    fn new(names: &[&str], make: impl Fn(&str, &Path)) -> Option<Self> {
        Self::with(names, make, |_| {})
    }

    /// The same, with more on the server before it serves.
    fn with(names: &[&str], make: impl Fn(&str, &Path), more: impl FnOnce(&Story)) -> Option<Self> {
        let stage = story::stage().inspect_err(|error| need::skipped(&need::test_name(), &error.to_string())).ok()?;
        let dir = tempfile::Builder::new().prefix("systemimager-update-").tempdir_in("/var/tmp").expect("a directory");
        // dnsmasq is not root when it serves.
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        let mut story = Story::begin(dir.path()).expect("a network");
        for made in ["tftpboot/systemimager", "var/spool/systemimager/images", "etc"] {
            fs::create_dir_all(story.root().join(made)).expect("mkdir");
        }
        fs::write(story.root().join("etc/hosts"), "127.0.0.1 localhost\n10.77.0.1 server\n").expect("hosts");
        for (file, text) in [("kernel", "a kernel"), ("initrd.img", "an initrd")] {
            fs::write(story.root().join("tftpboot").join(file), text).expect("boot files");
        }
        let masters = story.root().join("tftpboot/systemimager");
        for name in names {
            let image = story.image_of(name);
            make(name, &image);
            fs::write(masters.join(format!("{name}.master")), MASTER.replace("IMAGE", name)).expect("a master");
        }
        story
            .run(&["addclients", "node1", "--image", names[0], "--ip", "10.77.0.11/24", "--no-install"])
            .expect("a host");
        let client = story.network.host("client", "10.77.0.11/24 fd77::11/64").expect("a host");
        more(&story);
        story.serve_again().expect("serving");
        let program = stage.join("lib/systemimager/client/systemimager-client");
        Some(Self { story, client, program, _dir: dir })
    }

    fn image(&self, name: &str) -> PathBuf {
        self.story.image_of(name)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.story.directory.join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let program = self.program.display().to_string();
        self.client.command(&[&[program.as_str()], words].concat())
    }

    /// An update of this tree; standard output.
    fn update(&self, tree: &Path, image: &str, more: &[&str]) -> Result<String, String> {
        let tree = tree.display().to_string();
        let words = ["updateclient", "--server", SERVER, "--image", image, "--target", tree.as_str(), "--yes"];
        let Output { status, stdout, stderr } =
            run::output(&mut self.command(&[&words, more].concat())).expect("started");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if status.success() { Ok(text(&stdout)) } else { Err(text(&stderr)) }
    }

    fn updated(&self, tree: &Path, image: &str, more: &[&str]) -> String {
        self.update(tree, image, more).unwrap_or_else(|error| panic!("{image} {more:?}: {error}"))
    }

    fn refused(&self, tree: &Path, image: &str, more: &[&str], says: &str) {
        let error = self.update(tree, image, more).expect_err("refused");
        assert!(error.contains(says), "{image} {more:?}: {error}");
    }

    /// A machine's tree: as the image, with what is its own.
    fn machine(&self, name: &str, image: &str) -> PathBuf {
        let tree = self.at(name);
        copy(&self.image(image), &tree);
        for (path, text) in OWN {
            put(&tree, path, text);
        }
        put(&tree, "etc/systemimager/update.local.exclude", "# ours\n/srv/site\n");
        tree
    }

    /// The tree is the image, but for what is its own.
    fn assert_is(&self, tree: &Path, image: &str) {
        let mut options = Options::new().ignore("etc/systemimager/update.local.exclude").may_be_sparser();
        for top in OWN_TOPS {
            options = options.ignore(top);
            let mut above = Path::new(top).parent();
            while let Some(dir) = above {
                options = options.ignore_time(dir.as_os_str().as_encoded_bytes());
                above = dir.parent();
            }
        }
        let found = compare(&self.image(image), tree, &options.ignore_time("etc/systemimager")).expect("comparable");
        assert!(found.is_empty(), "{image}: {} differences:\n{}", found.len(), report(&found, 40));
        for (path, text) in OWN {
            assert_eq!(fs::read_to_string(tree.join(path)).ok().as_deref(), Some(text), "{path}");
        }
        assert!(!tree.join(".systemimager-update").exists(), "what was laid ready is gone");
        assert!(!tree.join("var/lib/systemimager/update.json").exists(), "and its journal");
    }
}

fn put(tree: &Path, path: &str, text: &str) {
    let file = tree.join(path);
    fs::create_dir_all(file.parent().expect("a directory")).expect("mkdir");
    fs::write(file, text).expect("written");
}

fn copy(from: &Path, to: &Path) {
    run::run(run::program("cp").args(["--archive", "--no-target-directory"]).arg(from).arg(to)).expect("copied");
}

/// Directories in which a machine keeps its own are there in every image.
fn skeleton(image: &Path) {
    put(image, "sbin/init", "an init\n");
    for (path, _) in OWN {
        put(image, path, "of the master client\n");
    }
    for gone in ["home/user", "srv/site"] {
        fs::remove_dir_all(image.join(gone)).expect("removed");
    }
    fs::create_dir_all(image.join("etc/systemimager")).expect("mkdir");
    fs::create_dir_all(image.join("var/lib/systemimager")).expect("mkdir");
}

/// `v1`: the awkward tree. `v2`: the same, changed in every way. `v3`: as `v2`, and contents changed that neither size
/// nor time tells.
fn awkward_images(name: &str, image: &Path) {
    awkward::make(image, &awkward::Options { big: 64 << 20 }).expect("awkward files");
    skeleton(image);
    if name != "v1" {
        change::everything(image).expect("changed");
        change::attributes(image).expect("changed");
        change::split(image).expect("changed");
        put(image, "etc/new-in-v2", "new\n");
    }
    if name == "v3" {
        change::quiet(image).expect("changed");
    }
    // Made at different moments: not what is to be compared.
    for dir in ["", "etc", "sbin", "home", "srv", "var", "var/lib", "var/log", "etc/ssh", "etc/systemimager"] {
        run::run(run::program("touch").args(["-d", "@1600000000"]).arg(image.join(dir))).expect("a time");
    }
    for file in ["sbin/init", "var/lib/systemimager", "var/log/messages"] {
        run::run(run::program("touch").args(["-d", "@1600000000"]).arg(image.join(file))).expect("a time");
    }
}

fn json(text: &str) -> Value {
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_tree_becomes_the_other_revision_and_goes_back() {
    require!(Need::Root, Need::NetworkNamespaces);
    let Some(site) = Site::new(&["v1", "v2", "v3"], awkward_images) else { return };
    let tree = site.machine("machine", "v1");
    put(&tree, "etc/left-over", "by nobody\n");
    let before = site.at("before");
    copy(&tree, &before);

    // A dry run tells all of it, typed, and changes nothing.
    let answer = json(&site.updated(&tree, "v2", &["--dry-run", "--json"]));
    let differences = answer["differences"].as_array().expect("a list");
    let of = |path: &str| differences.iter().find(|it| it["path"] == path).cloned().unwrap_or_default();
    assert_eq!(of("/etc/left-over")["kind"], "deleted");
    assert_eq!(of("/etc/new-in-v2")["kind"], "created");
    assert!(of("/xattrs/acl")["aspects"].to_string().contains("acl"), "{}", of("/xattrs/acl"));
    assert_eq!(of("/etc/hostname"), Value::Null);
    let found = compare(&before, &tree, &Options::new()).expect("comparable");
    assert!(found.is_empty(), "the dry run changed:\n{}", report(&found, 20));

    site.updated(&tree, "v2", &[]);
    site.assert_is(&tree, "v2");
    // Now there is nothing to do, and a machine that was updated knows its image and server.
    let known = tree.display().to_string();
    let again = run::run(&mut site.command(&["--json", "updateclient", "--target", &known])).expect("known");
    assert_eq!(json(&again)["differences"], serde_json::json!([]), "{again}");
    site.updated(&tree, "v1", &[]);
    site.assert_is(&tree, "v1");
    // Contents that neither size nor time tells.
    site.updated(&tree, "v3", &["--checksum"]);
    site.assert_is(&tree, "v3");
    site.updated(&tree, "v1", &["--in-place", "--checksum"]);
    site.assert_is(&tree, "v1");
}

/// Where no file is large, holes are made after all has come: in no file that has other names, that runs, or that would
/// lose what it may do.
#[test]
fn holes_cost_a_file_nothing_else() {
    require!(Need::Root, Need::NetworkNamespaces);
    let make = |name: &str, image: &Path| {
        awkward_images(name, image);
        for large in ["big", "one-hole", "longer-hole", "added"] {
            let _ = fs::remove_file(image.join("sparse").join(large)); // not each is in each image
        }
        let mut program = name.as_bytes().repeat(4096);
        program.resize(64 << 10, 0);
        program.extend_from_slice(name.as_bytes());
        fs::create_dir_all(image.join("usr/bin")).expect("mkdir");
        fs::write(image.join("usr/bin/ping"), program).expect("written");
        let bin = Dir::open(&image.join("usr/bin")).expect("opened");
        bin.set_xattr(b"ping", b"security.capability", &awkward::capability(awkward::CAP_NET_RAW)).expect("set");
        fs::copy("/bin/sleep", image.join("usr/bin/python3")).expect("copied");
        if name == "v2" {
            fs::hard_link(image.join("usr/bin/python3"), image.join("usr/bin/python3.11")).expect("linked");
        }
        for dir in ["sparse", "usr", "usr/bin", "usr/bin/python3"] {
            run::run(run::program("touch").args(["-d", "@1600000000"]).arg(image.join(dir))).expect("a time");
        }
    };
    let Some(site) = Site::new(&["v1", "v2"], make) else { return };
    let tree = site.machine("machine", "v1");
    let mut running = run::program(tree.join("usr/bin/python3")).arg("600").spawn().expect("started");
    let both = ["v2", "v1"].map(|image| site.update(&tree, image, &[]).map(|_| site.assert_is(&tree, image)));
    running.kill().expect("ended");
    running.wait().expect("gone");
    assert_eq!(both, [Ok(()), Ok(())]);
}

/// Names that are hard to ask an rsync daemon for, new directories of which a part is an override's, and what lay ready
/// when the power went before it was written out.
#[test]
fn what_is_awkward_to_ask_for_comes_too() {
    require!(Need::Root, Need::NetworkNamespaces);
    let make = |name: &str, image: &Path| {
        skeleton(image);
        for dir in ["opt", "etc"] {
            put(image, &format!("{dir}/a\\*b"), "of one file");
            fs::hard_link(image.join(dir).join("a\\*b"), image.join(dir).join("a\\*c")).expect("linked");
        }
        put(image, "usr/share/page", if name == "v1" { "v1" } else { "v2, longer" });
        put(image, "usr/share/kept", "the same");
        let page = if name == "v1" { "opt/tool/a" } else { "opt/new.d/of-the-image" };
        put(image, page, name);
        match name {
            "v1" => fs::hard_link(image.join("opt/tool/a"), image.join("opt/tool/b")).expect("linked"),
            _ => put(image, "opt/tool", "a file where a directory is"),
        }
        let find = ["find", ".", "-exec", "touch", "-h", "-d", "@1600000000", "{}", "+"];
        run::run(run::command(&find).expect("a program").current_dir(image)).expect("times");
    };
    let site = Site::with(&["v1", "v2"], make, |story| {
        put(&story.root().join("var/spool/systemimager/overrides/all"), "opt/new.d/more", "of all");
        let file = story.root().join("tftpboot/systemimager/v2.master");
        let text = fs::read_to_string(&file).expect("a master");
        fs::write(&file, text.replace("[identity]", "overrides = [\"all\"]\n[identity]")).expect("written");
    });
    let Some(site) = site else { return };
    let tree = site.machine("machine", "v1");
    // As a file system without a journal may have it: size and time are there, contents are not.
    let laid = tree.join(".systemimager-update/tree/usr/share/page");
    put(&tree, ".systemimager-update/tree/usr/share/page", "??????????");
    fs::hard_link(tree.join("usr/share/kept"), tree.join(".systemimager-update/tree/usr/share/kept")).expect("linked");
    run::run(run::program("touch").args(["-d", "@1600000000"]).arg(&laid)).expect("a time");
    for made in ["", "/tree"] {
        let dir = format!("{}/.systemimager-update{made}", tree.display());
        run::run(run::program("chmod").args(["0700", &dir])).expect("chmod");
    }
    site.updated(&tree, "v2", &[]);
    assert_eq!(fs::read_to_string(tree.join("usr/share/page")).expect("there"), "v2, longer");
    assert_eq!(fs::read_to_string(tree.join("usr/share/kept")).expect("there"), "the same");
    assert_eq!(fs::read_to_string(tree.join("opt/new.d/more")).expect("there"), "of all");
    assert!(tree.join("opt/tool").is_file());
    let again = json(&site.updated(&tree, "v2", &["--dry-run", "--json"]));
    assert_eq!(again["differences"], serde_json::json!([]), "the time of the new directory is the image's");
    // Of contents that neither size nor time tells, no report names the file's other names.
    let file = site.image("v2").join("etc/a\\*c");
    fs::write(&file, "OF ONE FILE").expect("written");
    run::run(run::program("touch").args(["-d", "@1600000000"]).arg(&file)).expect("a time");
    site.updated(&tree, "v2", &["--checksum"]);
    let [one, other] = ["etc/a\\*b", "etc/a\\*c"].map(|name| fs::metadata(tree.join(name)).expect("there").ino());
    assert_eq!(one, other, "still names of one file");
    assert_eq!(fs::read_to_string(tree.join("etc/a\\*b")).expect("there"), "OF ONE FILE");
    site.updated(&tree, "v1", &["--checksum"]);
    site.assert_is(&tree, "v1");
}

#[test]
fn what_is_named_stays() {
    require!(Need::Root, Need::NetworkNamespaces);
    let make = |name: &str, image: &Path| {
        skeleton(image);
        put(image, "etc/of-the-image", name);
        put(image, "opt/tool/version", name);
        put(image, "var/db/rows", "of the master client\n");
        if name == "with-list" {
            put(image, "etc/systemimager/update.exclude", "# a database\n/var/db/*\n");
        }
    };
    let Some(site) = Site::new(&["plain", "with-list"], make) else { return };
    let tree = site.machine("machine", "plain");
    for file in ["var/db/rows", "opt/tool/version", "var/spool/queue/1"] {
        put(&tree, file, "of this machine\n");
    }
    let read = |path: &str| fs::read_to_string(tree.join(path)).unwrap_or_default();
    // Without a list of the image's, what people and programs keep in the usual places stays.
    site.updated(&tree, "plain", &["--exclude", "/opt/tool"]);
    assert_eq!(read("var/db/rows"), "of the master client\n");
    assert_eq!(read("opt/tool/version"), "of this machine\n");
    assert_eq!(read("var/spool/queue/1"), "of this machine\n");
    // With one, the list says it.
    put(&tree, "var/db/rows", "of this machine\n");
    site.updated(&tree, "with-list", &[]);
    assert_eq!(read("var/db/rows"), "of this machine\n");
    assert_eq!(read("opt/tool/version"), "with-list");
    assert_eq!(read("var/spool/queue/1"), "", "the image's list does not name it");
    assert_eq!(read("srv/site/data"), "kept by the machine's list\n");
}

#[test]
fn a_wrong_update_is_refused_with_nothing_changed() {
    require!(Need::Root, Need::NetworkNamespaces);
    let make = |name: &str, image: &Path| {
        skeleton(image);
        put(image, "etc/of-the-image", name);
        if name == "no-system" {
            fs::remove_file(image.join("sbin/init")).expect("removed");
        }
        if name == "bad-list" {
            put(image, "etc/systemimager/update.exclude", "/fine\n/*\n");
        }
    };
    let Some(site) = Site::new(&["web", "no-system", "bad-list"], make) else { return };
    let tree = site.machine("machine", "web");
    put(&tree, "etc/of-the-image", "as it was");
    let before = site.at("before");
    copy(&tree, &before);
    let nowhere = site.at("nowhere");
    let empty = site.at("empty");
    fs::create_dir(&empty).expect("mkdir");
    put(&site.at("blocked"), "etc/a-dir/kept", "excluded, in the way");
    for (tree, image, more, says) in [
        (&tree, "web-v9", &[][..], "there is no image web-v9"),
        (&tree, "no-system", &[], "has nothing that could be started as the first process"),
        (&tree, "bad-list", &[], "bad-list:/etc/systemimager/update.exclude, line 2: \"/*\" would leave everything"),
        (&tree, "web", &["--exclude", "/../x"], "--exclude /../x: /../x leads out of the tree"),
        (&tree, "web", &["--transport", "pigeon"], "pigeon"),
        (&tree, "web", &["--http-port", "1"], "no image server answers at http://10.77.0.1:1/"),
        (&tree, "web", &["--port", "1"], "nothing was changed"),
        (&nowhere, "web", &[], "looking at --target"),
        (&empty, "web", &[], "is empty; to copy an image into an empty directory use"),
    ] {
        site.refused(tree, image, more, says);
    }
    let found = compare(&before, &tree, &Options::new().ignore("var/lib/systemimager")).expect("comparable");
    assert!(found.is_empty(), "changed:\n{}", report(&found, 20));
    put(&tree, "etc/systemimager/update.local.exclude", "a\0b\n");
    site.refused(&tree, "web", &[], "/etc/systemimager/update.local.exclude, line 1: control characters");
    // A machine that never was ours is not made another one by a slip.
    let words = ["updateclient", "--server", SERVER, "--image", "web", "--target"];
    let asked = site.machine("asked", "web");
    put(&asked, "etc/of-the-image", "as it was");
    let asked_tree = asked.display().to_string();
    let asked_words = [&words[..], &[asked_tree.as_str()]].concat();
    let error = run::run(&mut site.command(&asked_words)).expect_err("nobody can be asked").to_string();
    assert!(error.contains("was never installed or updated from an image") && error.contains("--yes"), "{error}");
    assert_eq!(fs::read_to_string(asked.join("etc/of-the-image")).expect("there"), "as it was");
}

#[test]
fn overrides_are_laid_over_and_stay_so() {
    require!(Need::Root, Need::NetworkNamespaces);
    let make = |name: &str, image: &Path| {
        skeleton(image);
        for file in ["etc/motd", "etc/issue", "usr/lib/tool", "etc/conf.d/of-the-image"] {
            put(image, file, name);
        }
        std::os::unix::fs::symlink("usr/lib", image.join("lib")).expect("a link");
    };
    let over = |story: &Story, name: &str| story.root().join("var/spool/systemimager/overrides").join(name);
    let name = |image: &str, names: &str, story: &Story| {
        let file = story.root().join("tftpboot/systemimager").join(format!("{image}.master"));
        let text = fs::read_to_string(&file).expect("a master");
        fs::write(&file, text.replace("[identity]", &format!("overrides = [{names}]\n[identity]"))).expect("written");
    };
    let images = ["v1", "v2", "bad", "absent"];
    let site = Site::with(&images, make, |story| {
        put(&over(story, "all"), "etc/motd", "of all");
        put(&over(story, "all"), "etc/issue", "of all");
        put(&over(story, "web"), "etc/motd", "of web");
        put(&over(story, "web"), "opt/site/deep/file", "of web");
        put(&over(story, "web"), "etc/conf.d/more", "of web");
        put(&over(story, "web"), "srv/site/data", "the machine's list names this");
        put(&over(story, "web"), "etc/hostname", "of web");
        fs::create_dir_all(over(story, "web").join("data")).expect("mkdir");
        // Made in a hurry: it must close nothing on the machine.
        for (dir, mode) in [("", 0o700), ("etc", 0o700), ("opt/site", 0o750)] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(over(story, "web").join(dir), mode).expect("chmod");
        }
        put(&over(story, "lib"), "lib/tool", "x");
        name("v1", "\"all\", \"web\"", story);
        name("v2", "\"all\", \"web\"", story);
        name("bad", "\"lib\"", story);
        name("absent", "\"nobody\"", story);
    });
    let Some(site) = site else { return };
    let tree = site.machine("machine", "v1");
    let read = |path: &str| fs::read_to_string(tree.join(path)).unwrap_or_default();
    let mode = |path: &str| fs::metadata(tree.join(path)).expect("there").mode() & 0o7777;
    let (top, etc) = (mode(""), mode("etc"));
    for (image, more) in [("v1", &[][..]), ("v2", &[]), ("v1", &["--in-place"]), ("v2", &["--checksum"])] {
        site.updated(&tree, image, more);
        assert_eq!(read("etc/motd"), "of web", "the last one counts");
        assert_eq!(read("etc/issue"), "of all");
        assert_eq!(read("usr/lib/tool"), image);
        assert_eq!(read("opt/site/deep/file"), "of web");
        assert_eq!((read("etc/conf.d/more").as_str(), read("etc/conf.d/of-the-image").as_str()), ("of web", image));
        assert_eq!(read("srv/site/data"), "kept by the machine's list\n");
        assert_eq!(read("etc/hostname"), "of web", "what a site lays over is meant, also where it is a name");
        assert_eq!(
            (mode(""), mode("etc"), mode("opt/site")),
            (top, etc, 0o750),
            "directories of the image keep theirs"
        );
        assert!(tree.join("data").is_dir());
        let again = json(&site.updated(&tree, image, &[&["--dry-run", "--json"], more].concat()));
        assert_eq!(again["differences"], serde_json::json!([]), "{image}: nothing is to be done");
    }
    // What an override has no more comes from the image again, or goes.
    let web = over(&site.story, "web");
    put(&web, "etc/motd", "of web, again");
    fs::remove_dir_all(web.join("opt")).expect("removed");
    fs::remove_file(web.join("etc/conf.d/more")).expect("removed");
    fs::remove_file(over(&site.story, "all").join("etc/issue")).expect("removed");
    let told = json(&site.updated(&tree, "v2", &["--json"]));
    let paths: Vec<&str> =
        told["differences"].as_array().expect("a list").iter().filter_map(|it| it["path"].as_str()).collect();
    for path in ["/etc/motd", "/etc/issue", "/opt/site/deep/file", "/etc/conf.d/more"] {
        assert!(paths.contains(&path), "{path}: {paths:?}");
    }
    assert_eq!((read("etc/motd").as_str(), read("etc/issue").as_str()), ("of web, again", "v2"));
    assert!(!tree.join("opt/site").exists() && !tree.join("etc/conf.d/more").exists());

    site.refused(
        &tree,
        "bad",
        &[],
        "the override lib has a directory /lib, where the image has a file or a symbolic link",
    );
    site.refused(&tree, "absent", &[], "the override nobody cannot be had");
    assert!(tree.join("lib").is_symlink());
    let check = run::output(&mut site.story.command(&["check"])).expect("started");
    let check = String::from_utf8_lossy(&check.stdout).into_owned();
    for says in ["the override lib has a directory /lib", "names the override nobody, which is not there"] {
        assert!(check.contains(says), "{says}: {check}");
    }
}

/// Ends the update of a tree with SIGKILL at moments that are spread over its whole length.
#[test]
fn killed_at_any_moment_the_same_command_ends_it() {
    const MOMENTS: u32 = 12;
    require!(Need::Root, Need::NetworkNamespaces);
    let Some(site) = Site::new(&["v1", "v2"], awkward_images) else { return };
    let tree = site.machine("machine", "v1");
    let begun = Instant::now();
    site.updated(&tree, "v2", &[]);
    let whole = begun.elapsed();
    let words = |image: &str| {
        let tree = tree.display().to_string();
        ["updateclient", "--server", SERVER, "--image", image, "--yes", "--target", &tree].map(str::to_owned)
    };
    let (mut from, mut to) = ("v2", "v1");
    let mut unmoved = 0;
    for moment in 1..=MOMENTS {
        let words = words(to);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut child = site.command(&words).spawn().expect("started");
        // Not for synchronisation: the moment is arbitrary, and each of them must be survived.
        std::thread::sleep(whole * moment / (MOMENTS + 1));
        child.kill().expect("killed");
        child.wait().expect("gone");
        // What it had started ends by itself, since nobody listens any more; until then it may still write into the
        // directory that is laid ready.
        let journal = tree.join("var/lib/systemimager/update.json").exists();
        unmoved += u32::from(!journal);
        site.updated(&tree, to, &[]);
        site.assert_is(&tree, to);
        (from, to) = (to, from);
    }
    assert!(unmoved > 0, "no moment was before the first change");
}

#[test]
fn without_room_nothing_begins_and_in_place_goes_on() {
    require!(Need::Root, Need::NetworkNamespaces);
    const MIB: usize = 1 << 20;
    let make = |name: &str, image: &Path| {
        skeleton(image);
        // Nothing that could be taken for a hole.
        let byte = if name == "v1" { b'1' } else { b'2' };
        for file in 0..6 {
            fs::write(image.join(format!("sbin/data-{file}")), vec![byte + file; 8 * MIB]).expect("written");
        }
        if name == "too-large" {
            fs::write(image.join("sbin/more"), vec![byte; 60 * MIB]).expect("written");
        }
    };
    let Some(site) = Site::new(&["v1", "v2", "too-large"], make) else { return };
    let file = site.at("disk.raw");
    make_raw(&file, 100 << 20).expect("a disk");
    run::run_argv(&["mkfs.ext4", "-q", "-F", &file.display().to_string()]).expect("a file system");
    let disk = Loop::attach(&file).expect("attached");
    let mount = disk.mount_whole().expect("mounted");
    let tree = mount.path().to_path_buf();
    let source = site.machine("machine", "v1");
    run::run(run::program("cp").args(["--archive", "-T"]).arg(&source).arg(&tree)).expect("copied");
    let inode = fs::metadata(tree.join("sbin/data-0")).expect("there").ino();
    site.refused(&tree, "v2", &[], "/ has ");
    site.refused(&tree, "v2", &[], "Nothing was changed");
    assert_eq!(fs::metadata(tree.join("sbin/data-0")).expect("there").ino(), inode);
    site.updated(&tree, "v2", &["--in-place"]);
    let options = || Options::new().ignore("lost+found").ignore_time("");
    let same = |image: &str| {
        let mut options = options().ignore("etc").ignore("home").ignore("srv").ignore("var");
        options = options.may_be_sparser();
        compare(&site.image(image), &tree, &options).expect("comparable")
    };
    assert!(same("v2").is_empty(), "{}", report(&same("v2"), 20));
    // Full in the middle: said, and the machine can be brought back.
    let error = site.update(&tree, "too-large", &["--in-place"]).expect_err("no room");
    assert!(error.contains("no space left"), "{error}");
    assert!(error.contains("start the same command again"), "{error}");
    site.updated(&tree, "v1", &["--in-place"]);
    assert!(same("v1").is_empty(), "{}", report(&same("v1"), 20));
    mount.close().expect("unmounted");
}
