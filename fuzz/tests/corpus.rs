//! Every target over its corpus (real inputs, hostile ones, and what was once found), and over what is made of it by
//! chance that is the same each time.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use systemimager_fuzz::TARGETS;

/// How many inputs are made of a target's corpus.
const MADE: usize = 2000;
/// Longest input that is made; the bigger ones are libFuzzer's.
const LONGEST: usize = 8 << 10;
/// Longest file of a corpus.
const LARGEST: u64 = 8 << 10;
/// A plugin has to be a whole shared object.
const LARGEST_PLUGIN: u64 = 64 << 10;

thread_local! {
    /// What the last panic of this thread said. Plugins are guarded: their panics come back as errors.
    static PANICKED: RefCell<Option<String>> = const { RefCell::new(None) };
}

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files.into_iter().map(|file| (file.clone(), std::fs::read(&file).expect("a file"))).collect()
}

/// What went wrong, if anything did.
fn run(target: systemimager_fuzz::Target, data: &[u8]) -> Option<String> {
    PANICKED.set(None);
    let caught = catch_unwind(AssertUnwindSafe(|| target(data)));
    PANICKED.take().or_else(|| caught.is_err().then(|| "it panicked".to_owned()))
}

fn listen() {
    std::panic::set_hook(Box::new(|panic| PANICKED.set(Some(panic.to_string()))));
}

#[test]
fn each_target_has_a_corpus_and_holds_on_it() {
    listen();
    let mut faults = Vec::new();
    for (name, target) in TARGETS {
        let files = corpus(name);
        assert!(files.len() >= 2, "corpus/{name}: only {} files", files.len());
        for (file, data) in files {
            let most = if *name == "plugin_identity" { LARGEST_PLUGIN } else { LARGEST };
            assert!(data.len() as u64 <= most, "{}: more than {most} bytes", file.display());
            faults.extend(run(*target, &data).map(|why| format!("{}: {why}", file.display())));
        }
    }
    let _ = std::panic::take_hook();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_corpus_has_no_other_directories() {
    let named: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let there = std::fs::read_dir(dir).expect("the corpus").map(|entry| entry.expect("an entry").file_name());
    let there: BTreeSet<String> = there.map(|name| name.to_string_lossy().into_owned()).collect();
    assert_eq!(there, named);
}

#[test]
fn each_target_holds_on_what_is_made_of_it() {
    listen();
    let mut faults = Vec::new();
    for (name, target) in TARGETS {
        let files: Vec<Vec<u8>> = corpus(name).into_iter().map(|(_, data)| data).collect();
        let mut chance = Chance(0x5173_1a6e);
        for _ in 0..MADE {
            let made = chance.made_of(&files);
            if let Some(why) = run(*target, &made) {
                let file = std::env::temp_dir().join(format!("systemimager-fuzz-{name}"));
                let kept = std::fs::write(&file, &made)
                    .map_or_else(|error| error.to_string(), |()| file.display().to_string());
                faults.push(format!("{name}, {kept}: {why}"));
                break;
            }
        }
    }
    let _ = std::panic::take_hook();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The same numbers each time (xorshift64*).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// From 0 to below `most`, 0 if that is 0.
    fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.next()).unwrap_or(0).checked_rem(most).unwrap_or(0)
    }

    fn piece<'a>(&mut self, of: &'a [u8]) -> &'a [u8] {
        let from = self.below(of.len() + 1);
        let length = self.below(64).min(of.len() - from);
        &of[from..from + length]
    }

    fn made_of(&mut self, files: &[Vec<u8>]) -> Vec<u8> {
        const WORDS: [&[u8]; 12] = [
            b"\n",
            b"\0",
            b"/../",
            b"\"",
            b"\xff\xfe",
            b"18446744073709551615",
            b"-1",
            b"\x1b[2J",
            b" ",
            b"#",
            b"\\040",
            b"\n%%\n",
        ];
        let mut made = files[self.below(files.len())].clone();
        made.truncate(LONGEST);
        for _ in 0..=self.below(4) {
            let at = self.below(made.len() + 1);
            match self.below(7) {
                0 => made.truncate(at),
                1 if at < made.len() => made[at] ^= 1 << self.below(8),
                2 if at < made.len() => made[at] = u8::try_from(self.below(256)).unwrap_or_default(),
                3 => {
                    let end = (at + self.below(32)).min(made.len());
                    made.drain(at..end);
                }
                4 => {
                    let other = &files[self.below(files.len())];
                    let piece = self.piece(other).to_vec();
                    made.splice(at..at, piece);
                }
                5 => {
                    let piece = self.piece(&made.clone()).to_vec();
                    made.splice(at..at, piece);
                }
                _ => {
                    made.splice(at..at, WORDS[self.below(WORDS.len())].iter().copied());
                }
            }
        }
        made
    }
}
