//! Both sides in one process, over loopback.

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use systemimager_core::{AdmittedKey, ErrorKind, Offer, PullRequest, ReceiverEnd, ServiceState, Source};

use crate::receive::pull::pull;
use crate::receive::target::part_name;
use crate::send::config::{Config, Export};
use crate::send::server;
use crate::wire::channel::{self, Reading, Writing};
use crate::wire::key;
use crate::wire::message::{Over, Said, Told, Welcome};

/// Seeds of keys: the server's, one that is admitted, and one that is not.
const SERVER: u8 = 1;
const ADMITTED: u8 = 2;
const STRANGER: u8 = 3;

struct Lab {
    dir: tempfile::TempDir,
    port: u16,
}

impl Lab {
    /// A sender that goes on until the process ends, with an image of so many bytes.
    fn new(bytes: usize, settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let tree = dir.path().join("images/web");
        fs::create_dir_all(&tree).unwrap();
        let mut contents = vec![0; bytes];
        getrandom::fill(&mut contents).unwrap();
        fs::write(tree.join("file"), &contents).unwrap();
        let mut words: BTreeMap<String, String> = BTreeMap::from([("port".to_owned(), port.to_string())]);
        words.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let export = Export {
            name: "web".into(),
            tree: tree.into(),
            allow: vec!["127.0.0.0/8".into()],
            keys: vec![AdmittedKey { key: key::of_seed(ADMITTED).1, ..AdmittedKey::default() }],
        };
        let config = Config { bind: Some([127, 0, 0, 1].into()), port, settings: words, exports: vec![export] };
        fs::write(dir.path().join(server::CONFIG), serde_json::to_vec(&config).unwrap()).unwrap();
        fs::write(dir.path().join(server::HOST_KEY), key::of_seed(SERVER).0).unwrap();
        let at = dir.path().to_path_buf();
        std::thread::spawn(move || server::run(&at));
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "the sender listens");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { dir, port }
    }

    fn request(&self, into: &Path, server: u8) -> PullRequest {
        fs::create_dir_all(into).unwrap();
        let from = Source {
            server: "127.0.0.1".into(),
            port: Some(self.port),
            export: "web".into(),
            host_key: Some(key::of_seed(server).1),
            ..Source::default()
        };
        PullRequest { from, into: into.into(), delete: true, ..PullRequest::default() }
    }

    fn pull(&self, into: &str) -> PathBuf {
        let into = self.dir.path().join(into);
        let report = pull(self.request(&into, SERVER), &key::of_seed(ADMITTED).0).unwrap();
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        let same = fs::read(into.join("file")).unwrap() == fs::read(self.dir.path().join("images/web/file")).unwrap();
        assert!(same, "the file is as it was");
        into
    }

    /// Somebody with a key that is admitted, who then says what they like.
    fn knock(&self) -> (Reading, Writing, Welcome) {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let own = key::own(&key::of_seed(ADMITTED).0).unwrap();
        let hello = Said::Hello { export: "web".into(), has: None }.write();
        let sender = key::public(&key::of_seed(SERVER).1).unwrap();
        let (mut reading, writing) = channel::knock(stream, &own, &sender, &hello).unwrap();
        loop {
            if let Told::Welcome(welcome) = Told::read(&reading.message().unwrap()).unwrap() {
                return (reading, writing, welcome);
            }
        }
    }

    fn state(&self) -> ServiceState {
        fs::read(self.dir.path().join(Offer::STATE_FILE))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default()
    }
}

#[test]
fn who_is_not_admitted_gets_nothing_and_who_is_no_sender_neither() {
    let lab = Lab::new(1000, &[]);
    let into = lab.dir.path().join("into");
    let error = pull(lab.request(&into, SERVER), &key::of_seed(STRANGER).0).unwrap_err();
    assert_eq!(
        (error.kind, error.message.contains("is not admitted to \"web\"")),
        (ErrorKind::Denied, true),
        "{error}"
    );
    let error = pull(lab.request(&into, STRANGER), &key::of_seed(ADMITTED).0).unwrap_err();
    assert_eq!(
        (error.kind, error.message.contains("does not answer as the server")),
        (ErrorKind::Denied, true),
        "{error}"
    );
    assert!(fs::read_dir(&into).unwrap().next().is_none());
    // Said once more, without ours in between.
    let (mut reading, mut writing, _) = lab.knock();
    writing.message(&[99, 1, 2]).unwrap();
    let ended = std::iter::from_fn(|| reading.message().ok()).map(|it| Told::read(&it)).last();
    assert!(!matches!(ended, Some(Ok(Told::Over(Over::Denied, _)))), "{ended:?}");
    lab.pull("still");
}

#[test]
fn each_ends_for_itself_and_nobody_is_done_who_is_not() {
    let lab = Lab::new(3_000_000, &[("rate", "200mbit")]);
    let (_reading, mut writing, _) = lab.knock();
    writing.message(&Said::Needs(vec![(0, 3)]).write()).unwrap();
    writing.message(&Said::Done([7; 32]).write()).unwrap();
    lab.pull("one");
    let deadline = Instant::now() + Duration::from_secs(10);
    let ends = || -> Vec<ReceiverEnd> {
        lab.state().sessions.into_iter().flat_map(|it| it.receivers).filter_map(|it| it.ended).collect()
    };
    while ends().len() < 2 {
        assert!(Instant::now() < deadline, "{:?}", lab.state());
        std::thread::sleep(Duration::from_millis(20));
    }
    let (done, failed): (Vec<_>, Vec<_>) = ends().into_iter().partition(|it| matches!(it, ReceiverEnd::Done(_)));
    assert_eq!((done.len(), failed), (1, vec![ReceiverEnd::Failed("it says that it has another tree".into())]));
}

#[test]
fn what_was_begun_for_another_image_is_nothing_of_this_one() {
    let lab = Lab::new(10, &[("rate", "200mbit")]);
    let image = fs::File::create(lab.dir.path().join("images/web/file")).unwrap();
    for at in [0, 2_000_001, 2_900_000] {
        image.write_all_at(&[1; 9999], at).unwrap();
    }
    image.set_len(3_000_000).unwrap();
    let into = lab.dir.path().join("into");
    fs::create_dir(&into).unwrap();
    let begun = String::from_utf8(part_name(b"file")).unwrap();
    fs::write(into.join(begun), vec![7; 4_000_000]).unwrap();
    lab.pull("into");
}

#[test]
fn a_further_name_of_what_is_left_out_comes_for_itself() {
    let lab = Lab::new(100_000, &[("rate", "200mbit")]);
    let image = lab.dir.path().join("images/web");
    let into = lab.dir.path().join("into");
    for further in ["g", "h"] {
        fs::hard_link(image.join("file"), image.join(further)).unwrap();
    }
    let request = PullRequest { exclude: vec!["/file".into()], ..lab.request(&into, SERVER) };
    for before in [None, Some("the machine's own")] {
        if let Some(own) = before {
            fs::write(into.join("file"), own).unwrap();
            fs::remove_file(into.join("g")).unwrap();
        }
        let report = pull(request.clone(), &key::of_seed(ADMITTED).0).unwrap();
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        assert_eq!(fs::read(into.join("g")).unwrap(), fs::read(image.join("file")).unwrap());
        let inode = |name: &str| fs::metadata(into.join(name)).unwrap().ino();
        assert_eq!(inode("g"), inode("h"));
        assert_eq!(fs::read_to_string(into.join("file")).ok().as_deref(), before);
    }
}

#[test]
fn who_comes_after_an_edit_gets_the_image_as_it_is_by_then() {
    let lab = Lab::new(3_000_000, &[("rate", "200mbit")]);
    lab.pull("one");
    // The session of the first lingers, with its blocks in memory.
    fs::write(lab.dir.path().join("images/web/file"), vec![7; 2_000_000]).unwrap();
    lab.pull("two");
}
