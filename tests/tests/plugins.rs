//! Plugins by strangers: what `plugin new` writes builds, tests itself, keeps the contract and loads, against the
//! sources that are installed; docs/plugins.md shows the very same code; our own plugins keep the contract too.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use systemimager_tests::lab::run;
use systemimager_tests::need::Need;
use systemimager_tests::require;
use systemimager_tests::story::stage;
use tempfile::TempDir;

const KINDS: [&str; 5] = ["transport", "file-system", "partitioner", "bootloader", "host-identity"];

/// A directory that the loader trusts, whatever the umask.
fn trusted() -> TempDir {
    let dir = tempfile::Builder::new().prefix("systemimager-plugins-").tempdir_in("/var/tmp").expect("a directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("permissions");
    dir
}

fn systemimager(words: &[&str]) -> Output {
    let mut command: Command = run::program(stage().expect("a stage").join("bin/systemimager"));
    command.args(words).output().expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The checkout, and the folder that cargo builds into.
fn places() -> (PathBuf, PathBuf) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the checkout").to_path_buf();
    let exe = std::env::current_exe().expect("our own path");
    let target = exe.ancestors().nth(3).expect("target/debug/deps").to_path_buf();
    (root, target)
}

/// cargo in a stranger's crate. One folder for all of them, kept between runs, so that core is built once; no network.
fn cargo(directory: &Path, word: &str) -> Output {
    let mut command = run::program(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args([word, "--offline"]).current_dir(directory).env("CARGO_TARGET_DIR", strangers_target());
    command.output().expect("cargo runs")
}

fn strangers_target() -> PathBuf {
    places().1.join("strangers")
}

/// Copies a shared object to where the loader takes it.
fn put(file: &Path, directory: &Path) -> PathBuf {
    let to = directory.join(file.file_name().expect("a name"));
    std::fs::copy(file, &to).expect("copied");
    std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o644)).expect("permissions");
    to
}

/// `plugin check`: its exit code, its answer, and what it said.
fn check(file: &Path) -> (Option<i32>, Value, String) {
    let output = systemimager(&["--json", "plugin", "check", &file.to_string_lossy()]);
    let first = text(&output.stdout).lines().next().unwrap_or_default().to_owned();
    (output.status.code(), serde_json::from_str(&first).unwrap_or_default(), text(&output.stderr))
}

#[test]
fn each_kind_is_written_built_tested_checked_and_loaded() {
    require!(Need::Root);
    let dir = trusted();
    let plugins = dir.path().join("plugins");
    std::fs::create_dir(&plugins).expect("a directory");
    std::fs::set_permissions(&plugins, std::fs::Permissions::from_mode(0o755)).expect("permissions");
    for kind in KINDS {
        let name = format!("stranger-{kind}");
        let at = dir.path().to_string_lossy().into_owned();
        let output = systemimager(&["plugin", "new", &name, "--kind", kind, "--dir", &at]);
        assert!(output.status.success(), "{kind}: {}", text(&output.stderr));
        let said = text(&output.stdout);
        let crate_dir = dir.path().join(&name);
        assert!(said.contains(&format!("cd {} && cargo test", crate_dir.display())), "{kind}: {said}");

        let output = cargo(&crate_dir, "test");
        assert!(output.status.success(), "{kind}: {}{}", text(&output.stdout), text(&output.stderr));
        assert!(text(&output.stdout).contains("test tests::keeps_the_contract ... ok"), "{kind}");
        assert!(!text(&output.stderr).contains("warning"), "{kind}: {}", text(&output.stderr));
        let output = cargo(&crate_dir, "build");
        assert!(output.status.success(), "{kind}: {}", text(&output.stderr));

        let file = put(&strangers_target().join(format!("debug/lib{}.so", name.replace('-', "_"))), &plugins);
        let (code, answer, stderr) = check(&file);
        assert_eq!(code, Some(0), "{kind}: {answer} {stderr}");
        assert_eq!(answer["identification"]["kind"], kind);
        assert_eq!((&answer["failed"], answer["checks"].as_array().map(|it| it.len() > 20)), (&0.into(), Some(true)));
    }
    let output = systemimager(&["--json", "--plugin-dir", &plugins.to_string_lossy(), "plugin", "list"]);
    let list: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let ids: Vec<_> = list.as_array().expect("a list").iter().filter_map(|it| it["id"].as_str()).collect();
    assert_eq!(ids.len(), KINDS.len(), "{list}");
    assert!(ids.contains(&"stranger_file_system"), "{list}");
}

#[test]
fn what_cannot_be_begun_is_refused_and_leaves_nothing() {
    if stage().is_err() {
        return systemimager_tests::need::skipped("what_cannot_be_begun", "nothing is staged");
    }
    let dir = trusted();
    let at = dir.path().to_string_lossy().into_owned();
    std::fs::create_dir(dir.path().join("there")).expect("a directory");
    let rows: [(&[&str], i32, &str); 5] = [
        (&["there", "--kind", "transport"], 1, "there is there already; name another, or remove it"),
        (
            &["Upper", "--kind", "transport"],
            1,
            "\"Upper\" cannot be the name of a plugin's crate; begin with a lower case",
        ),
        (&["match", "--kind", "transport"], 1, "\"match\" means something to Rust"),
        (
            &["fine", "--kind", "volume"],
            2,
            "the kinds are transport, file-system, partitioner, bootloader, host-identity",
        ),
        (
            &["fine", "--kind", "transport", "--core", "/nonexistent"],
            1,
            "/nonexistent does not hold the sources of systemimager-core; install them with this program",
        ),
    ];
    for (words, code, says) in rows {
        let output = systemimager(&[&["plugin", "new", "--dir", &at], words].concat());
        assert_eq!(output.status.code(), Some(code), "{words:?}");
        assert!(text(&output.stderr).contains(says), "{words:?}: {}", text(&output.stderr));
    }
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("listed").flatten().map(|it| it.file_name()).collect();
    assert_eq!(left, ["there"]);
}

#[test]
fn our_own_plugins_keep_the_contract() {
    require!(Need::Root);
    let dir = trusted();
    let files = stage().expect("a stage").join("lib/systemimager/plugins");
    let mut tried = 0;
    for entry in std::fs::read_dir(files).expect("plugins").flatten() {
        let (code, answer, stderr) = check(&put(&entry.path(), dir.path()));
        let failed: Vec<String> = answer["checks"]
            .as_array()
            .map(|lines| lines.iter().filter(|line| line["ok"] == false).map(Value::to_string).collect())
            .unwrap_or_default();
        assert_eq!(code, Some(0), "{}: {stderr}\n{}", entry.path().display(), failed.join("\n"));
        tried += 1;
    }
    assert!(tried > 0, "no plugin is staged");
}

#[test]
fn a_plugin_that_breaks_the_contract_is_told_line_by_line() {
    require!(Need::Root);
    let file = places().1.join("debug/libfixture_panics.so");
    if !file.is_file() {
        let why = format!("{} is absent; run cargo build --workspace", file.display());
        return systemimager_tests::need::skipped("a_plugin_that_breaks_the_contract_is_told_line_by_line", &why);
    }
    let dir = trusted();
    let file = put(&file, dir.path());
    let output = systemimager(&["plugin", "check", &file.to_string_lossy()]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stdout);
    for line in [
        "ok      an unknown method: ",
        "FAILED  needs of the installer: the plugin panicked in needs: on purpose, in needs; return an error that says \
         what is wrong with the request instead (no unwrap, expect or index)",
        "FAILED  types: asked again, or a fresh plugin in another thread, answers otherwise; the answer must depend on \
         the request alone (no time, no random numbers, no HashMap order, no counters)",
        "FAILED  describe of an unknown type: answers as if it could; say Unsupported or Invalid for what is not served, \
         or the wrong thing is done",
    ] {
        assert!(said.lines().any(|it| it.starts_with(line)), "{line}\n{said}");
    }
    assert!(text(&output.stderr).contains("does not keep the contract in "), "{}", text(&output.stderr));
}

#[test]
fn the_book_shows_the_code_that_is_built() {
    let (root, _) = places();
    let path = root.join("docs/plugins.md");
    let book = std::fs::read_to_string(&path).expect("docs/plugins.md");
    let mut made = book.clone();
    for kind in KINDS {
        let code = std::fs::read_to_string(root.join(format!("docs/plugins/{kind}.rs"))).expect("an example");
        let (begin, end) = (format!("<!-- {kind}.rs -->\n```rust\n"), "```\n<!-- end -->\n");
        let start = made.find(&begin).unwrap_or_else(|| panic!("{}: no {begin:?}", path.display())) + begin.len();
        let stop = start + made[start..].find(end).unwrap_or_else(|| panic!("{}: {kind} has no end", path.display()));
        made.replace_range(start..stop, &code);
    }
    if made == book {
        return;
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, made).expect("written");
        return;
    }
    panic!("docs/plugins.md shows other code than docs/plugins/*.rs; run this test with UPDATE_GOLDEN=1");
}
