//! fstab(5): what is not understood stays, what is written is read as it was meant.

use systemimager_engine::sys::fstab::{Entry, Fstab, Spec};

pub fn target(data: &[u8]) {
    let table = Fstab::parse(data);
    // A last line without its end gets one; of several empty lines at the end none is lost.
    let ended = if data.is_empty() || data.ends_with(b"\n") { data.to_vec() } else { [data, b"\n"].concat() };
    assert_eq!(table.to_bytes(), if ended == b"\n" { Vec::new() } else { ended }, "unchanged it stays as it is");
    let unknown = table.unknown().count();
    assert!(table.entries().count() + unknown <= data.split(|byte| *byte == b'\n').count());

    for entry in table.entries() {
        let _ = (entry.has("noauto"), entry.spec.is_kernel_name());
        // Quotes are taken off once each time.
        if !quoted(&entry.spec) {
            let line = entry.to_line();
            let again = Fstab::parse(&line);
            let mut wanted = entry.clone();
            if wanted.options.is_empty() {
                wanted.options.push("defaults".into());
            }
            assert_eq!(again.entries().collect::<Vec<_>>(), [&wanted], "{:?}", String::from_utf8_lossy(&line));
        }
    }
    let (mut changed, passes) = (table.clone(), table.entries().count());
    changed.change(|entry| entry.pass = entry.pass.wrapping_add(1));
    let again = Fstab::parse(&changed.to_bytes());
    assert_eq!(again.entries().count(), passes, "a change neither adds nor loses entries");
    assert_eq!(again.unknown().count(), unknown);
    let mut longer = table;
    longer.push(Entry {
        spec: Spec::Label("a b".into()),
        file: "/srv".into(),
        fstype: "ext4".into(),
        options: Vec::new(),
        freq: 0,
        pass: 2,
    });
    assert_eq!(Fstab::parse(&longer.to_bytes()).entries().count(), passes + 1);
}

fn quoted(spec: &Spec) -> bool {
    match spec {
        Spec::Uuid(value) | Spec::PartUuid(value) | Spec::Label(value) | Spec::PartLabel(value) => {
            value.starts_with('"') && value.ends_with('"')
        }
        Spec::Path(_) | Spec::Other(_) => false,
    }
}
