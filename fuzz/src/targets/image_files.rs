//! What the engine itself reads of an image: os-release, SELinux' settings, module tables, an initramfs. And what an initrd of
//! media is held against its kernel by.

use std::cmp::Ordering;

use systemimager_core::{BlockDevice, Kernel, NetworkInterface};
use systemimager_engine::facts::drivers::{fit, network_fit};
use systemimager_engine::fuzzing::{aliases, architecture, initramfs, labels, newer, os_release};
use systemimager_engine::sys::modules::Aliases;
use systemimager_initrd::fuzzing::initrd_releases;

use crate::support::parts;

pub fn target(data: &[u8]) {
    if let Some(header) = data.first_chunk() {
        architecture(header);
    }
    for release in initrd_releases(data).into_iter().flatten() {
        assert!(!release.contains('/'), "{release:?}");
    }
    if let Ok((names, packed)) = initramfs(data) {
        assert!(packed.is_none_or(|at| at < data.len() as u64));
        assert!(names.iter().all(|name| !name.contains(['/', '\0', '-'])), "{names:?}");
    }
    let texts: Vec<_> = parts(data).into_iter().map(String::from_utf8_lossy).collect();
    let text = |at: usize| texts.get(at).map(AsRef::as_ref).unwrap_or_default();
    labels(text(0));
    os_release(text(0));
    let (storage, network) = aliases(text(0), text(1), text(2), text(3));
    let kernel = Kernel {
        release: "6.1.0".into(),
        storage_aliases: storage,
        network_aliases: network,
        builtin: text(2).lines().map(str::to_owned).collect(),
        builtin_aliases: !text(3).is_empty(),
        has_modules: true,
        ..Kernel::default()
    };
    let asked: Vec<String> = text(4).lines().take(20).map(str::to_owned).collect();
    let disk = BlockDevice { modaliases: asked.clone(), ..BlockDevice::default() };
    let bare = fit(&kernel, &disk);
    assert!(bare.missing.iter().all(|module| !module.contains('-')), "{bare:?}");
    fit(&kernel, &BlockDevice { drivers: asked.clone(), ..disk });
    network_fit(&kernel, &NetworkInterface { modaliases: asked, ..NetworkInterface::default() });
    let table = Aliases::parse(data);
    for alias in text(0).lines().take(20) {
        let found = table.modules_for(alias);
        assert!(found.iter().enumerate().all(|(at, module)| !found[..at].contains(module)), "{found:?}");
    }
    let releases: Vec<&str> = text(0).lines().take(6).collect();
    for one in &releases {
        assert_eq!(newer(one, one), Ordering::Equal);
        for other in &releases {
            assert_eq!(newer(one, other), newer(other, one).reverse());
        }
    }
}
