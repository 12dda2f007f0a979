//! Proves that the comparer finds each kind of difference and invents none, and that the awkward
//! tree is what a good copier can copy: a comparer that cannot fail would prove nothing.
#![allow(clippy::disallowed_methods, reason = "the lab starts real programs")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::fs::{FileType, OFlags};
use systemimager_tests::at::{Dir, Time};
use systemimager_tests::compare::{Difference, Options, What, compare, report};
use systemimager_tests::need::{Need, quick};
use systemimager_tests::{awkward, change, require};

/// The small tree: everything but the size of the one large file.
const SMALL: awkward::Options = awkward::Options { big: 64 << 20 };

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("the program starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {}: {errors}", output.status);
}

/// `rsync` with all that it can keep, from one directory into another. Without
/// `--modify-window=-1` it takes times that differ by less than a second for the same.
fn rsync(more: &[&str], from: &Path, to: &Path) {
    let (from, to) = (format!("{}/", from.display()), format!("{}/", to.display()));
    let common = ["-aHAXS", "--numeric-ids", "--delete", "--modify-window=-1"];
    run("rsync", &[&common[..], more, &[from.as_str(), to.as_str()]].concat());
}

fn assert_same(a: &Path, b: &Path) {
    let differences = compare(a, b, &Options::new()).expect("both trees can be read");
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), report(&differences, 40));
}

fn xattr(name: &str) -> What {
    What::Xattrs { name: name.to_owned() }
}

/// A name, what is done, and the paths and respects in which the trees differ then.
type Row = (&'static str, fn(&Dir) -> Result<()>, Vec<(&'static [u8], What)>);

/// Each row: what is done to the second of two equal trees, and the differences that must be
/// found, no more and no fewer.
#[test]
fn each_kind_of_difference_is_found() {
    require!(Need::Root);
    const T: Time = Time::new(1_000_000_000, 1);
    let rows: Vec<Row> = vec![
        ("nothing", |_| Ok(()), vec![]),
        ("a file goes", |d| d.remove(b"sub/file"), vec![(b"sub/file", What::Missing)]),
        ("a directory goes", |d| d.remove(b"sub/dir"), vec![(b"sub/dir", What::Missing)]),
        ("a file comes", |d| d.make_file(b"sub/n\n\xff", b""), vec![(b"sub/n\n\xff", What::Extra)]),
        (
            "a type changes",
            |d| {
                d.remove(b"sub/file")?;
                d.make_dir(b"sub/file").map(drop)
            },
            vec![(b"sub/file", What::Type)],
        ),
        (
            "a fifo turns socket",
            |d| {
                d.remove(b"sub/fifo")?;
                d.make_node(b"sub/fifo", FileType::Socket, (0, 0))
            },
            vec![(b"sub/fifo", What::Type)],
        ),
        ("a mode", |d| d.chmod(b"sub/file", 0o645), vec![(b"sub/file", What::Mode)]),
        ("the suid bit", |d| d.chmod(b"sub/file", 0o4644), vec![(b"sub/file", What::Mode)]),
        ("the mode of a directory", |d| d.chmod(b"sub/dir", 0o1755), vec![(b"sub/dir", What::Mode)]),
        ("the mode of a fifo", |d| d.chmod(b"sub/fifo", 0o600), vec![(b"sub/fifo", What::Mode)]),
        ("a user", |d| d.chown(b"sub/file", 3_000_000_000, 0), vec![(b"sub/file", What::Owner)]),
        ("a group", |d| d.chown(b"sub/dir", 0, 1), vec![(b"sub/dir", What::Owner)]),
        ("the owner of a link", |d| d.chown(b"sub/link", 1, 1), vec![(b"sub/link", What::Owner)]),
        ("a nanosecond", |d| d.set_mtime(b"sub/file", Time::new(T.seconds, 2)), vec![(b"sub/file", What::Mtime)]),
        ("the time of a directory", |d| d.set_mtime(b"sub/dir", Time::new(5, 5)), vec![(b"sub/dir", What::Mtime)]),
        ("the time of a link", |d| d.set_mtime(b"sub/link", Time::new(-5, 5)), vec![(b"sub/link", What::Mtime)]),
        ("the time of the root", |d| d.set_mtime(b".", Time::new(5, 5)), vec![(b"", What::Mtime)]),
        ("a size", |d| d.open_file(b"sub/file", OFlags::RDWR)?.set_size(3), vec![(b"sub/file", What::Size)]),
        (
            "the last byte",
            |d| d.open_file(b"sub/file", OFlags::RDWR)?.write_at(6, b"X"),
            vec![(b"sub/file", What::Content)],
        ),
        (
            "a byte in a hole",
            |d| d.open_file(b"sub/hole", OFlags::RDWR)?.write_at(3 << 20, b"X"),
            vec![(b"sub/hole", What::Content)],
        ),
        (
            "a hole is filled",
            |d| d.open_file(b"sub/hole", OFlags::RDWR)?.write_at(0, &vec![0; 4 << 20]),
            vec![(b"sub/hole", What::Sparse)],
        ),
        (
            "data turns hole",
            |d| d.open_file(b"sub/full", OFlags::RDWR)?.punch_hole(0, 4 << 20),
            vec![(b"sub/full", What::Content), (b"sub/full", What::Sparse)],
        ),
        (
            "a link's target",
            |d| {
                d.remove(b"sub/link")?;
                d.make_symlink(b"sub/link", b"gile")
            },
            vec![(b"sub/link", What::LinkTarget)],
        ),
        (
            "a hard link breaks",
            |d| {
                d.remove(b"sub/dir/two")?;
                d.make_file(b"sub/dir/two", b"linked")
            },
            vec![(b"sub/dir/two", What::HardLinks), (b"sub/two", What::HardLinks)],
        ),
        (
            "two files are joined",
            |d| {
                d.remove(b"sub/dir/lone")?;
                d.make_hard_link(b"sub/lone", b"sub/dir/lone")
            },
            vec![(b"sub/dir/lone", What::HardLinks), (b"sub/lone", What::HardLinks)],
        ),
        ("one of two names goes", |d| d.remove(b"sub/dir/two"), vec![(b"sub/dir/two", What::Missing)]),
        ("an attribute comes", |d| d.set_xattr(b"sub/dir", b"user.new", b""), vec![(b"sub/dir", xattr("user.new"))]),
        (
            "an attribute changes",
            |d| d.set_xattr(b"sub/file", b"user.have", b"w"),
            vec![(b"sub/file", xattr("user.have"))],
        ),
        ("an attribute goes", |d| d.remove_xattr(b"sub/file", b"user.have"), vec![(b"sub/file", xattr("user.have"))]),
        (
            "a trusted attribute",
            |d| d.set_xattr(b"sub/link", b"trusted.t", b"1"),
            vec![(b"sub/link", xattr("trusted.t"))],
        ),
        (
            "a capability",
            |d| d.set_xattr(b"sub/file", b"security.capability", &awkward::capability(1)),
            vec![(b"sub/file", xattr("security.capability"))],
        ),
        (
            "an ACL for nobody new",
            |d| d.set_xattr(b"sub/acl", b"system.posix_acl_access", &awkward::acl(2, 1, 6)),
            vec![(b"sub/acl", xattr("system.posix_acl_access"))],
        ),
        (
            "a default ACL",
            |d| d.set_xattr(b"sub/dir", b"system.posix_acl_default", &awkward::acl(1, 1, 6)),
            vec![(b"sub/dir", xattr("system.posix_acl_default"))],
        ),
        (
            "a device number",
            |d| {
                d.remove(b"sub/null")?;
                d.make_node(b"sub/null", FileType::CharacterDevice, (1, 4))
            },
            vec![(b"sub/null", What::Device)],
        ),
    ];
    let make = |root: &Path| -> Result<Dir> {
        std::fs::create_dir(root)?;
        let top = Dir::open(root)?;
        let sub = top.make_dir(b"sub")?;
        for dir in ["dir", "dir/below"] {
            sub.make_dir(dir.as_bytes())?;
        }
        for (name, content) in
            [("file", "content"), ("two", "linked"), ("lone", "lone"), ("dir/lone", "lone"), ("hole", ""), ("acl", "")]
        {
            sub.make_file(name.as_bytes(), content.as_bytes())?;
        }
        sub.make_hard_link(b"two", b"dir/two")?;
        sub.make_symlink(b"link", b"file")?;
        sub.make_node(b"fifo", FileType::Fifo, (0, 0))?;
        sub.make_node(b"null", FileType::CharacterDevice, (1, 3))?;
        sub.make_file(b"full", &vec![1; 4 << 20])?;
        sub.open_file(b"hole", OFlags::RDWR)?.set_size(4 << 20)?;
        sub.set_xattr(b"file", b"user.have", b"v")?;
        sub.set_xattr(b"acl", b"system.posix_acl_access", &awkward::acl(1, 1, 6))?;
        Ok(top)
    };
    let settle = |top: &Dir| -> Result<()> {
        for path in [
            "two",
            "lone",
            "dir/lone",
            "dir/two",
            "hole",
            "full",
            "fifo",
            "link",
            "null",
            "acl",
            "file",
            "dir/below",
            "dir",
            ".",
        ] {
            let path = format!("sub/{path}");
            if top.has(path.as_bytes())? {
                top.set_mtime(path.as_bytes(), T)?;
            }
        }
        top.set_mtime(b".", T)
    };
    let place = tempfile::tempdir().unwrap();
    for (index, (name, act, expected)) in rows.into_iter().enumerate() {
        let (a, b) = (place.path().join(format!("a{index}")), place.path().join(format!("b{index}")));
        settle(&make(&a).unwrap()).unwrap();
        let top = make(&b).unwrap();
        // Rows about times come after the settling; all others before it, or each would differ in time too.
        let about_time = expected.iter().any(|(_, what)| *what == What::Mtime);
        if about_time {
            settle(&top).unwrap();
            act(&top).unwrap();
        } else {
            act(&top).unwrap();
            settle(&top).unwrap();
        }
        let found = compare(&a, &b, &Options::new()).unwrap();
        let found: Vec<(&[u8], What)> = found.iter().map(|d| (d.path.as_slice(), d.what.clone())).collect();
        assert_eq!(found, expected, "row: {name}");
    }
}

#[test]
fn options_forgive_what_they_name_and_no_more() {
    let place = tempfile::tempdir().unwrap();
    let (a, b) = (place.path().join("a"), place.path().join("b"));
    for (root, content) in [(&a, "one"), (&b, "two")] {
        std::fs::create_dir_all(root.join("etc/sub")).unwrap();
        std::fs::write(root.join("etc/hostname"), content).unwrap();
        std::fs::write(root.join("etc/hostname2"), content).unwrap();
        let top = Dir::open(root).unwrap();
        let nanoseconds = i64::from(content == "two");
        for path in ["etc/hostname", "etc/hostname2", "etc/sub", "etc", "."] {
            top.set_mtime(path.as_bytes(), Time::new(9, nanoseconds)).unwrap();
        }
    }
    let found = |options: Options| -> Vec<(String, What)> {
        let found = compare(&a, &b, &options).unwrap();
        found.into_iter().map(|d| (String::from_utf8(d.path).unwrap(), d.what)).collect()
    };
    let row = |path: &str, what: What| (path.to_owned(), what);
    assert_eq!(
        found(Options::new().ignore("/etc/hostname").ignore_time("etc").ignore_time("").ignore_time("etc/hostname2")),
        [row("etc/hostname2", What::Content), row("etc/sub", What::Mtime)]
    );
    assert_eq!(
        found(Options::new().whole_seconds("etc/")),
        [row("", What::Mtime), row("etc/hostname", What::Content), row("etc/hostname2", What::Content)]
    );
    assert_eq!(found(Options::new().ignore("etc").ignore_time("/")), []);
}

/// Made twice, the tree is the same; and so is a copy by each of two good copiers.
#[test]
fn equal_trees_and_good_copies_show_no_difference() {
    require!(Need::Root, Need::Program("rsync"));
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    awkward::make(&at("one"), &SMALL).unwrap();
    awkward::make(&at("two"), &SMALL).unwrap();
    assert_same(&at("one"), &at("two"));
    run("cp", &["-a", "--sparse=always", at("one").to_str().unwrap(), at("cp").to_str().unwrap()]);
    assert_same(&at("one"), &at("cp"));
    rsync(&[], &at("one"), &at("rsync"));
    assert_same(&at("one"), &at("rsync"));
}

/// The changes really change, in every respect that the comparer knows, and a copier that
/// brings over differences keeps up with them.
#[test]
fn changes_are_of_every_kind_and_can_be_followed() {
    require!(Need::Root, Need::Program("rsync"));
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    awkward::make(&at("tree"), &SMALL).unwrap();
    rsync(&[], &at("tree"), &at("copy"));

    change::everything(&at("tree")).unwrap();
    let differences = compare(&at("copy"), &at("tree"), &Options::new()).unwrap();
    let kinds: BTreeSet<&str> = differences.iter().map(|difference| kind(&difference.what)).collect();
    let all = [
        "content",
        "device",
        "extra",
        "hard links",
        "link target",
        "missing",
        "mode",
        "mtime",
        "owner",
        "size",
        "sparse",
        "type",
        "xattrs",
    ];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), all);
    let types = differences.iter().filter(|difference| difference.what == What::Type).count();
    assert_eq!(types, awkward::KINDS.len() * (awkward::KINDS.len() - 1), "each kind turned into each other");
    rsync(&[], &at("tree"), &at("copy"));
    assert_same(&at("tree"), &at("copy"));

    let changed = change::attributes(&at("tree")).unwrap();
    assert_eq!(paths(&compare(&at("copy"), &at("tree"), &Options::new()).unwrap()), changed);
    rsync(&[], &at("tree"), &at("copy"));
    assert_same(&at("tree"), &at("copy"));

    let changed = change::quiet(&at("tree")).unwrap();
    rsync(&[], &at("tree"), &at("copy"));
    let missed = compare(&at("copy"), &at("tree"), &Options::new()).unwrap();
    assert_eq!(paths(&missed), changed, "size and time did not move, so plain rsync misses exactly these");
    assert!(missed.iter().all(|difference| difference.what == What::Content), "{}", report(&missed, 10));
    rsync(&["--checksum"], &at("tree"), &at("copy"));
    assert_same(&at("tree"), &at("copy"));

    let split = change::split(&at("tree")).unwrap();
    rsync(&[], &at("tree"), &at("copy"));
    let missed = compare(&at("copy"), &at("tree"), &Options::new()).unwrap();
    let linked: BTreeSet<_> = missed.iter().filter(|d| d.what == What::HardLinks).map(|d| d.path.clone()).collect();
    assert!(split.iter().all(|path| linked.contains(path)), "rsync splits nodes now? then say so in `change`");
    rsync(&[], &at("tree"), &at("new"));
    assert_same(&at("tree"), &at("new"));
}

/// The comparer reads no holes: 5 GiB with three bits of data take no time.
#[test]
fn five_gib_of_hole_are_compared_at_once() {
    require!(Need::Root);
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    awkward::make(&at("one"), &awkward::Options::default()).unwrap();
    awkward::make(&at("two"), &awkward::Options::default()).unwrap();
    let begin = Instant::now();
    assert_same(&at("one"), &at("two"));
    assert!(begin.elapsed() < Duration::from_secs(5), "it took {:?}: holes were read", begin.elapsed());
    println!("comparing two trees with 5 GiB sparse files took {:?}", begin.elapsed());
    for (offset, data) in awkward::big_data(awkward::FIVE_GIB) {
        let big = Dir::open(&at("two/sparse")).unwrap().open_file(b"big", OFlags::RDWR).unwrap();
        big.write_at(offset, b"X").unwrap();
        let differences = compare(&at("one"), &at("two"), &Options::new().ignore_time("sparse/big")).unwrap();
        let details: Vec<_> = differences.iter().map(|d| (d.path.as_slice(), &d.what, d.detail.as_str())).collect();
        let detail = format!("they differ at byte {offset} of {}", awkward::FIVE_GIB);
        assert_eq!(details, [(b"sparse/big".as_slice(), &What::Content, detail.as_str())]);
        big.write_at(offset, data).unwrap();
    }
}

/// What the acceptance test does with the product, done with plain rsync: the tree is possible.
#[test]
fn the_full_tree_survives_rsync() {
    require!(Need::Root, Need::Program("rsync"));
    if quick("the_full_tree_survives_rsync") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    awkward::make(&at("tree"), &awkward::Options::default()).unwrap();
    let begin = Instant::now();
    rsync(&[], &at("tree"), &at("copy"));
    println!("first copy: {:?}", begin.elapsed());
    assert_same(&at("tree"), &at("copy"));
    change::everything(&at("tree")).unwrap();
    let begin = Instant::now();
    rsync(&[], &at("tree"), &at("copy"));
    println!("copy of the changes: {:?}", begin.elapsed());
    assert_same(&at("tree"), &at("copy"));
}

fn paths(differences: &[Difference]) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = differences.iter().map(|difference| difference.path.clone()).collect();
    paths.dedup();
    paths
}

fn kind(what: &What) -> &'static str {
    match what {
        What::Missing => "missing",
        What::Extra => "extra",
        What::Type => "type",
        What::Mode => "mode",
        What::Owner => "owner",
        What::Mtime => "mtime",
        What::Size => "size",
        What::Content => "content",
        What::LinkTarget => "link target",
        What::HardLinks => "hard links",
        What::Xattrs { .. } => "xattrs",
        What::Device => "device",
        What::Sparse => "sparse",
    }
}
