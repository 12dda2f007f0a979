//! What is packed into the miniature system: ELF files, kernels, modules and their tables, the loader's cache.

use systemimager_initrd::fuzzing::{firmware_of, kernel_release, library_cache, module_files};
use systemimager_initrd::pack::elf;
use systemimager_initrd::pack::firmware::named_by_builtin;

use crate::seen;
use crate::support::parts;

pub fn target(data: &[u8]) {
    match elf::parse(data) {
        Ok(Some(elf)) => {
            assert!(data.starts_with(b"\x7fELF"));
            elf.needs_glibc.iter().for_each(|version| seen::one_line(&version.to_string()));
        }
        Ok(None) => assert!(!data.starts_with(b"\x7fELF")),
        Err(error) => seen::one_line(&format!("{error:#}")),
    }
    if let Some(release) = kernel_release(data) {
        seen::one_line(&release);
        assert!(!release.is_empty() && !release.contains('/'), "{release:?}");
    }
    let named = named_by_builtin(data, |_| true);
    for name in firmware_of(data).iter().chain(named.values().flatten()) {
        below(name);
    }
    let texts: Vec<_> = parts(data).into_iter().map(String::from_utf8_lossy).collect();
    let text = |at: usize| texts.get(at).map(AsRef::as_ref).unwrap_or_default();
    library_cache(text(0));
    let (files, _) = module_files(text(0), text(1));
    files.values().for_each(|file| below(file));
}

/// It stays below the directory that it is joined to.
fn below(name: &str) {
    assert!(!name.is_empty() && !name.starts_with('/') && name.split('/').all(|part| part != ".."), "{name:?}");
}
