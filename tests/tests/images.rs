//! Images as a whole on the image server: `lsimage`, `cpimage`, `mvimage`, `rmimage`, with hosts that use them.
#![allow(clippy::disallowed_methods, reason = "tests start the program that they test")]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use systemimager_tests::compare::{Options, compare, report};
use systemimager_tests::need::{self, Need};
use systemimager_tests::{awkward, require, story};

/// As an administrator has edited it: the comments are to survive.
const MASTER: &str = "# ours\nformat = 1\nimage = \"web\" # which\ntransports = [\"rsync\"]\npartitioner = \"sfdisk\"\n\
    bootloader = \"none\"\n[identity]\nplugin = \"hosts\"\n";

struct Server {
    dir: tempfile::TempDir,
    stage: PathBuf,
}

impl Server {
    /// With the image `web` of awkward files, its master, a host `www1` that is linked to it and ordered, and a host
    /// `www2` with a master of its own.
    fn new() -> Option<Self> {
        let stage = story::stage().inspect_err(|error| need::skipped(&need::test_name(), &error.to_string())).ok()?;
        let dir = tempfile::Builder::new().prefix("systemimager-images-").tempdir_in("/var/tmp").expect("a directory");
        let server = Self { dir, stage };
        let image = server.images().join("web");
        fs::create_dir_all(server.images()).expect("images");
        awkward::make(&image, &awkward::Options { big: 16 << 20 }).expect("awkward files");
        fs::create_dir_all(server.masters()).expect("masters");
        fs::write(server.masters().join("web.master"), MASTER).expect("a master");
        Some(server)
    }

    fn with_hosts() -> Option<Self> {
        let server = Self::new()?;
        for host in ["www1", "www2"] {
            server.run(&["addclients", host, "--image", "web", "--no-install"]).expect("a host");
        }
        fs::remove_file(server.masters().join("www2.sh")).expect("a link");
        fs::write(server.masters().join("www2.sh"), MASTER).expect("a master of its own");
        server.run(&["install", "www1"]).expect("ordered");
        Some(server)
    }

    fn images(&self) -> PathBuf {
        self.dir.path().join("var/spool/systemimager/images")
    }

    fn masters(&self) -> PathBuf {
        self.dir.path().join("tftpboot/systemimager")
    }

    /// Standard output, or the error.
    fn run(&self, words: &[&str]) -> Result<String, String> {
        let program = self.stage.join("bin/systemimager");
        let output = Command::new(program).arg("--root").arg(self.dir.path()).args(words).output().expect("it starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn refused(&self, words: &[&str], says: &str) {
        let error = self.run(words).expect_err("refused");
        assert!(error.contains(says), "{words:?}: {error}");
    }

    /// The row of an image.
    fn row(&self, image: &str) -> Value {
        let list: Value = serde_json::from_str(&self.run(&["--json", "lsimage"]).expect("a list")).expect("JSON");
        let rows = list["images"].as_array().expect("rows");
        rows.iter().find(|row| row["image"] == image).unwrap_or_else(|| panic!("{image} in {list}")).clone()
    }

    fn image_of_order(&self, host: &str) -> Option<String> {
        let file = self.dir.path().join(format!("var/lib/systemimager/orders/{host}.json"));
        let order: Value = serde_json::from_slice(&fs::read(file).ok()?).expect("JSON");
        Some(order["image"].as_str().expect("an image").to_owned())
    }
}

fn assert_same(one: &Path, other: &Path) {
    let differences = compare(one, other, &Options::new()).expect("both trees can be read");
    assert!(differences.is_empty(), "{}", report(&differences, 40));
}

#[test]
fn a_copy_is_the_same_and_shares_no_file() {
    require!(Need::Root);
    let Some(server) = Server::new() else { return };
    server.refused(&["cpimage", "web", "web"], "onto itself");
    server.refused(&["cpimage", "absent", "new"], "there is no image absent");
    let said = server.run(&["cpimage", "web", "web-v2"]).expect("copied");
    assert!(said.contains("web-v2 is a copy of web: ") && said.contains("its master file too"), "{said}");
    let (old, new) = (server.images().join("web"), server.images().join("web-v2"));
    assert_same(&old, &new);
    let inodes = |tree: &Path| -> std::collections::BTreeSet<u64> {
        walkdir::WalkDir::new(tree).into_iter().map(|entry| entry.expect("it").metadata().expect("it").ino()).collect()
    };
    assert!(inodes(&old).is_disjoint(&inodes(&new)), "images share no inodes");
    let master = fs::read_to_string(server.masters().join("web-v2.master")).expect("its master");
    assert_eq!(master, MASTER.replace("\"web\"", "\"web-v2\""));
    server.refused(&["cpimage", "web", "web-v2"], "there is an image web-v2 already");
    fs::write(new.join("more"), "more").expect("an edit");
    let said = server.run(&["cpimage", "web", "web-v2", "--replace"]).expect("copied again");
    assert!(said.contains("was kept"), "{said}");
    assert_same(&old, &new);
    // A master that is wrong is found before anything is copied.
    fs::write(server.masters().join("web.master"), MASTER.replace("format = 1", "format = 7")).expect("a master");
    server.refused(&["cpimage", "web", "web-v3"], "web.master:2:");
    assert!(!server.images().join("web-v3").exists());
    assert!(server.run(&["lsimage"]).expect("a list").contains("WRONG"));
}

#[test]
fn a_new_name_is_followed_by_all_that_use_it() {
    require!(Need::Root);
    let Some(server) = Server::with_hosts() else { return };
    server.run(&["cpimage", "web", "other"]).expect("copied");
    server.refused(&["mvimage", "web", "other"], "there is an image other already");
    server.refused(&["mvimage", "absent", "new"], "there is no image absent");
    let inode = fs::metadata(server.images().join("web")).expect("it").ino();
    let said = server.run(&["mvimage", "web", "shop"]).expect("renamed");
    assert!(said.contains("1 host links, 1 masters of hosts' own, 1 orders"), "{said}");
    let renamed = |server: &Server| {
        assert_eq!(fs::metadata(server.images().join("shop")).expect("it").ino(), inode);
        assert_eq!(fs::read_link(server.masters().join("www1.sh")).expect("a link"), Path::new("shop.master"));
        let own = fs::read_to_string(server.masters().join("www2.sh")).expect("a master of its own");
        assert_eq!(own, MASTER.replace("\"web\"", "\"shop\""));
        assert_eq!(server.image_of_order("www1").as_deref(), Some("shop"));
        assert!(!server.masters().join("web.master").exists() && !server.images().join("web").exists());
        let row = server.row("shop");
        assert_eq!(
            (&row["linked"][0], &row["own_master"][0], &row["ordered"][0]),
            (&Value::from("www1"), &Value::from("www2"), &Value::from("www1"))
        );
        assert_eq!(row["master"], "yes");
    };
    renamed(&server);
    // As an interrupted run leaves it: the tree has its new name, and links and the old master are still there.
    fs::copy(server.masters().join("shop.master"), server.masters().join("kept")).expect("a copy");
    fs::write(server.masters().join("web.master"), MASTER).expect("the old master");
    fs::remove_file(server.masters().join("www1.sh")).expect("a link");
    std::os::unix::fs::symlink("web.master", server.masters().join("www1.sh")).expect("the old link");
    server.run(&["mvimage", "web", "shop"]).expect("it goes on");
    renamed(&server);
    server.refused(&["mvimage", "web", "shop"], "there is no image web");
}

#[test]
fn an_image_that_is_used_stays() {
    require!(Need::Root);
    let Some(server) = Server::with_hosts() else { return };
    server.refused(&["rmimage", "web"], "nobody can be asked here; answer with --yes");
    server.refused(
        &["rmimage", "web", "--yes"],
        "web is used by links of www1; own masters of www2; orders of www1; give those hosts another image",
    );
    assert_eq!(server.image_of_order("www1").as_deref(), Some("web"));
    // Somebody is installed just now: not even by force.
    let order = server.dir.path().join("var/lib/systemimager/orders/www1.json");
    let text = fs::read_to_string(&order).expect("an order");
    let mut begun: Value = serde_json::from_str(&text).expect("JSON");
    begun["stage"] = serde_json::json!({ "is": "begun", "mac": "52:54:00:00:00:01", "boot": "b" });
    fs::write(&order, begun.to_string()).expect("an order");
    server.refused(&["rmimage", "web", "--yes", "--force"], "is being installed on www1");
    server.refused(&["mvimage", "web", "shop"], "is being installed on www1");
    fs::write(&order, text).expect("an order");
    let before = server.images().join("web");
    assert!(before.exists());
    server.run(&["rmimage", "web", "--yes", "--force"]).expect("removed");
    assert!(!before.exists() && !server.masters().join("web.master").exists());
    assert!(fs::symlink_metadata(server.masters().join("www1.sh")).is_err(), "its link went");
    assert!(server.masters().join("www2.sh").exists(), "a master of a host's own stays");
    assert_eq!(server.image_of_order("www1"), None);
    assert_eq!(fs::read_dir(server.images().join(".replaced")).expect("it").count(), 0, "the files went");
    // www2 still names it; without that host, nothing is left of it.
    fs::remove_file(server.masters().join("www2.sh")).expect("removed");
    server.refused(&["rmimage", "web", "--yes"], "there is no image web");
    assert!(server.run(&["lsimage"]).expect("a list").contains("no images in "));
}
