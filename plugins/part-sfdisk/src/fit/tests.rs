//! Layouts fitted to disks of other sizes and sectors.

use super::*;
use crate::table::MIB;
use systemimager_core::{DiskRule, NodeName, PartitionLayout};

const LINUX: &str = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";

/// Number, start, size (bytes), type.
type Part = (u32, Option<u64>, Option<u64>, &'static str);

fn layout(label: &str, partitions: &[Part]) -> DiskLayout {
    DiskLayout {
        node: NodeName::try_from("disk0").unwrap(),
        label: label.into(),
        id: None,
        size: Size(100 * MIB),
        sector_size: 512,
        rule: DiskRule::default(),
        partitions: partitions
            .iter()
            .map(|(number, start, size, kind)| PartitionLayout {
                node: NodeName::try_from(format!("disk0p{number}")).unwrap(),
                number: *number,
                start: start.map(Size),
                size: size.map(Size),
                kind: if label == "gpt" { LINUX.into() } else { (*kind).into() },
                name: None,
                uuid: None,
                attributes: None,
                bootable: false,
                min_size: None,
                preserve: false,
                preserve_label: None,
            })
            .collect(),
    }
}

fn disk(size: u64, sector_size: u32) -> BlockDevice {
    BlockDevice { path: "/dev/vda".into(), size: Size(size), sector_size, ..BlockDevice::default() }
}

/// Number, start, end; in MiB, or in sectors where that is said.
fn seen(layout: &DiskLayout, unit: u64) -> Vec<(u32, u64, u64)> {
    layout
        .partitions
        .iter()
        .map(|part| {
            let (start, size) = (part.start.unwrap().0, part.size.unwrap().0);
            assert!(start % unit == 0 && size % unit == 0, "{part:?}");
            (part.number, start / unit, (start + size) / unit)
        })
        .collect()
}

fn mib(start: u64, size: u64) -> (Option<u64>, Option<u64>) {
    (Some(start * MIB), Some(size * MIB))
}

fn part(number: u32, (start, size): (Option<u64>, Option<u64>), kind: &'static str) -> Part {
    (number, start, size, kind)
}

#[test]
fn gpt() {
    let captured = [part(1, mib(1, 20), ""), part(2, mib(21, 40), "")];
    let open_last = [part(1, mib(1, 20), ""), part(2, (Some(21 * MIB), None), "")];
    let open_first = [part(1, (Some(MIB), None), ""), part(2, mib(41, 20), "")];
    let no_starts = [part(1, (None, Some(20 * MIB)), ""), part(2, (None, Some(10 * MIB + 1)), "")];
    // As Debian's cloud images have it: 1 lies after 14 and 15.
    let cloud = [part(1, mib(20, 40), ""), part(14, mib(1, 3), ""), part(15, mib(4, 16), "")];
    let placed = [part(1, (None, Some(20 * MIB)), ""), part(2, (None, None), "")];
    let spread = [part(1, mib(1, 10), ""), part(2, mib(80, 10), "")];
    type Row<'a> = (&'a str, &'a [Part], u64, Vec<(u32, u64, u64)>);
    let rows: Vec<Row> = vec![
        ("same size", &captured, 100, vec![(1, 1, 21), (2, 21, 61)]),
        ("larger", &captured, 5000, vec![(1, 1, 21), (2, 21, 61)]),
        ("smaller by the free tail", &captured, 62, vec![(1, 1, 21), (2, 21, 61)]),
        ("the open one grows", &open_last, 1000, vec![(1, 1, 21), (2, 21, 999)]),
        ("the open one shrinks", &open_last, 30, vec![(1, 1, 21), (2, 21, 29)]),
        ("what follows the open one moves", &open_first, 200, vec![(1, 1, 179), (2, 179, 199)]),
        ("and back", &open_first, 50, vec![(1, 1, 29), (2, 29, 49)]),
        ("placed", &placed, 100, vec![(1, 1, 21), (2, 21, 99)]),
        ("out of order stays", &cloud, 100, vec![(1, 20, 60), (14, 1, 4), (15, 4, 20)]),
        ("moved together where it must be", &spread, 50, vec![(1, 1, 11), (2, 11, 21)]),
        ("no partitions", &[], 1, vec![]),
    ];
    for (name, parts, size, expected) in rows {
        let fitted =
            fit(&layout("gpt", parts), &disk(size * MIB, 512)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(seen(&fitted, MIB), expected, "{name}");
        assert_eq!(fitted.size, Size(size * MIB), "{name}");
        crate::script::plan(&fitted).unwrap();
    }
    // A size that is no whole sector is rounded up.
    let fitted = fit(&layout("gpt", &no_starts), &disk(100 * MIB, 512)).unwrap();
    assert_eq!(fitted.partitions[1].size, Some(Size(10 * MIB + 512)));
}

#[test]
fn other_sectors() {
    // 34 × 512 is inside the table of a disk with sectors of 4096.
    let boot = [(1, Some(34 * 512), Some(2014 * 512), ""), part(2, mib(1, 20), "")];
    let fitted = fit(&layout("gpt", &boot), &disk(100 * MIB, 4096)).unwrap();
    assert_eq!(seen(&fitted, 4096), [(1, 256, 256 + 252), (2, 512, 512 + 20 * 256)]);
    // Starts that are whole on both are kept.
    let fitted = fit(&layout("gpt", &[part(1, mib(7, 20), "")]), &disk(100 * MIB, 4096)).unwrap();
    assert_eq!(seen(&fitted, MIB), [(1, 7, 27)]);
}

#[test]
fn dos_with_logical() {
    // As Debian's installer leaves it: extended and logical start two sectors apart.
    let sectors = |start: u64, size: u64| (Some(start * 512), Some(size * 512));
    let debian = [
        part(1, sectors(2048, 40960), "83"),
        part(2, sectors(45054, 81922), "5"),
        part(5, sectors(45056, 40960), "82"),
        part(6, sectors(90112, 36864), "83"),
    ];
    let fitted = fit(&layout("dos", &debian), &disk(100 * MIB, 512)).unwrap();
    assert_eq!(seen(&fitted, 512), [(1, 2048, 43008), (2, 45054, 126976), (5, 45056, 86016), (6, 90112, 126976)]);

    // The root is opened: the container moves to the end and its logical partitions with it.
    let mut open = debian;
    open[0].2 = None;
    let fitted = fit(&layout("dos", &open), &disk(200 * MIB, 512)).unwrap();
    // 1 + 20, 1 + 18 MiB of logical partitions; the container keeps its 40 MiB and a sector, from a whole MiB.
    let [(1, 2048, root), (2, container, end), (5, five, _), (6, six, _)] = seen(&fitted, 512)[..] else { panic!() };
    assert_eq!((root, end), (container, container + 81922));
    assert_eq!((five, six), (container + 2048, container + 2048 + 40960 + 2048));
    assert!(end <= 200 * 2048 && end > 199 * 2048 - 2048, "{end}");

    // A logical one is opened: the container grows with it.
    let mut open = debian;
    open[3].2 = None;
    let fitted = fit(&layout("dos", &open), &disk(200 * MIB, 512)).unwrap();
    assert_eq!(seen(&fitted, 512)[1..], [(2, 45054, 409600), (5, 45056, 86016), (6, 90112, 409600)]);
    let fitted = fit(&layout("dos", &open), &disk(50 * MIB, 512)).unwrap();
    assert_eq!(seen(&fitted, 512)[3], (6, 90112, 102400));

    // The container is open: the logical ones stay.
    let mut open = debian;
    open[1].2 = None;
    let fitted = fit(&layout("dos", &open), &disk(200 * MIB, 512)).unwrap();
    assert_eq!(seen(&fitted, 512)[1..], [(2, 45054, 409600), (5, 45056, 86016), (6, 90112, 126976)]);

    // A container that reaches to the end of a larger disk is cut to what it holds.
    let large = [part(1, mib(1, 20), "83"), part(2, mib(21, 900), "f"), part(5, mib(22, 8), "83")];
    let fitted = fit(&layout("dos", &large), &disk(40 * MIB, 512)).unwrap();
    assert_eq!(seen(&fitted, MIB), [(1, 1, 21), (2, 21, 30), (5, 22, 30)]);

    // Without starts: 1 MiB before each logical one.
    let none = |size: u64| (None, Some(size * MIB));
    let fresh = [part(1, none(20), "83"), part(3, none(1), "f"), part(5, none(8), "83"), part(6, none(8), "83")];
    let fitted = fit(&layout("dos", &fresh), &disk(100 * MIB, 512)).unwrap();
    assert_eq!(seen(&fitted, MIB), [(1, 1, 21), (3, 21, 39), (5, 22, 30), (6, 31, 39)]);
    crate::script::plan(&fitted).unwrap();
}

#[test]
fn what_does_not_fit_is_refused_with_figures() {
    let two = 2 << 20; // MiB in 2 TiB
    type Row<'a> = (&'a str, &'a str, Vec<Part>, BlockDevice, &'a str);
    let rows: Vec<Row> = vec![
        (
            "too small",
            "gpt",
            vec![part(1, mib(1, 20), ""), part(2, mib(21, 40), "")],
            disk(61 * MIB, 512),
            "disk0 does not fit /dev/vda: its partitions need 62 MiB (62 MiB), the disk has 61 MiB (61 MiB): disk0p1 \
             20 MiB + disk0p2 40 MiB + table and alignment 2 MiB; take a larger disk, make partitions smaller, or leave one's size out so that it takes what is left",
        ),
        (
            "nothing left for the open one",
            "gpt",
            vec![part(1, mib(1, 20), ""), part(2, (None, None), "")],
            disk(22 * MIB, 512),
            "disk0 does not fit /dev/vda: its partitions need 23 MiB (23 MiB), the disk has 22 MiB (22 MiB): disk0p1 \
             20 MiB + disk0p2 at least 1 MiB + table and alignment 2 MiB; take a larger disk, or make the other partitions smaller",
        ),
        ("disk of size 0", "gpt", vec![part(1, mib(1, 20), "")], disk(0, 512), "the disk has 0 B (0 B)"),
        ("sectors of 0", "gpt", vec![], disk(MIB, 0), "/dev/vda has sectors of 0 bytes"),
        (
            "logical",
            "dos",
            vec![part(2, mib(1, 9), "f"), part(5, mib(2, 8), "83"), part(6, (None, None), "83")],
            disk(11 * MIB, 512),
            "need 12 MiB",
        ),
        (
            "overlap",
            "gpt",
            vec![part(1, mib(1, 20), ""), part(2, mib(20, 20), "")],
            disk(100 * MIB, 512),
            "the partition disk0p2 starts at byte 20971520, but partition disk0p1, which lies before it, takes \
             everything up to byte 22020096; move it, or leave its start out to have it placed",
        ),
        (
            "in the table",
            "gpt",
            vec![(1, Some(512), Some(MIB), "")],
            disk(100 * MIB, 512),
            "the partition disk0p1 starts at byte 512, but the gpt table takes everything up to byte 17408",
        ),
        (
            "logical before its container",
            "dos",
            vec![part(1, mib(10, 20), "5"), part(5, mib(5, 2), "83")],
            disk(100 * MIB, 512),
            "the partition disk0p5 starts at byte 5242880, but the head of the extended partition takes",
        ),
        (
            "beyond 2 TiB",
            "dos",
            vec![part(1, (None, None), "83")],
            disk(3 * two * MIB / 2, 512),
            "the partition disk0p1 ends at 3 TiB, and a dos table reaches 2 TiB in sectors of 512 bytes; use gpt",
        ),
        (
            "odd start",
            "dos",
            vec![(1, Some(1000), Some(MIB), "83")],
            disk(100 * MIB, 512),
            "does not start at a whole sector",
        ),
        (
            "two open",
            "gpt",
            vec![part(1, (None, None), ""), part(2, (None, None), "")],
            disk(MIB, 512),
            "more than one",
        ),
        (
            "logical without container",
            "dos",
            vec![part(5, mib(5, 2), "83")],
            disk(100 * MIB, 512),
            "has logical partitions (5 and above) and no extended one",
        ),
        (
            "gap in the chain",
            "dos",
            vec![part(1, mib(1, 9), "5"), part(6, mib(5, 2), "83")],
            disk(100 * MIB, 512),
            "has the logical partition 6 and no 5",
        ),
        (
            "huge",
            "gpt",
            vec![(1, Some(u64::MAX), Some(u64::MAX), "")],
            disk(100 * MIB, 512),
            "beyond the end of any disk",
        ),
    ];
    for (name, label, parts, disk, says) in rows {
        let error = fit(&layout(label, &parts), &disk).expect_err(name);
        assert_eq!(error.kind, systemimager_core::ErrorKind::Invalid, "{name}");
        assert!(error.message.contains(says), "{name}: {error}");
    }
    // The same on a disk with larger sectors fits.
    fit(&layout("dos", &[part(1, (None, None), "83")]), &disk(3 << 40, 4096)).unwrap();
}

/// Whatever is asked, the answer is an error or a layout that can be written: never a panic, never an overlap.
#[test]
fn no_input_breaks_it() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut fits = 0;
    for round in 0..20_000 {
        let label = ["gpt", "dos"][random(2) as usize];
        let mut parts: Vec<Part> = Vec::new();
        for number in 1..=random(9) as u32 {
            let unit = [1, 512, MIB, MIB, MIB, 1 << 40, 1 << 57][random(7) as usize];
            let start = (random(3) > 0).then(|| u64::from(number) * 10 * MIB + random(4) * unit);
            let size = (random(8) > 0).then(|| (1 + random(9)) * MIB + random(2) * unit);
            parts.push((number, start, size, if number == 4 { "f" } else { "83" }));
        }
        let disk = disk(
            [0, 1 << 20, 60 << 20, 150 << 20, 1 << 42, u64::MAX][random(6) as usize],
            [512, 4096][random(2) as usize],
        );
        if let Ok(fitted) = fit(&layout(label, &parts), &disk) {
            fits += 1;
            crate::script::plan(&fitted).unwrap_or_else(|error| panic!("round {round}: {error}: {fitted:?}"));
            let again = fit(&fitted, &disk).unwrap_or_else(|error| panic!("round {round}: {error}: {fitted:?}"));
            assert_eq!(again, fitted, "round {round}");
        }
    }
    assert!(fits > 1000, "only {fits} fitted: the test tests nothing");
}

/// Number, start, size (MiB) and whether it is preserved.
type Kept = (u32, Option<u64>, Option<u64>, bool);

#[test]
fn the_others_are_laid_around_what_is_preserved() {
    // Name, label, partitions, type of the second one, MiB of the disk, where they lie or what is said.
    type Row<'a> = (&'a str, &'a str, &'a [Kept], &'a str, u64, Result<Vec<(u32, u64, u64)>, &'a str>);
    let gpt_and_dos = |rows: Vec<Row<'static>>| {
        for (name, label, partitions, kind, size, expected) in rows {
            let parts: Vec<Part> = partitions
                .iter()
                .map(|(number, start, size, _)| {
                    let kind = if *number == 2 { kind } else { "83" };
                    part(*number, (start.map(|it| it * MIB), size.map(|it| it * MIB)), kind)
                })
                .collect();
            let mut wanted = layout(label, &parts);
            for (partition, (.., preserve)) in wanted.partitions.iter_mut().zip(partitions) {
                partition.preserve = *preserve;
            }
            match (fit(&wanted, &disk(size * MIB, 512)), expected) {
                (Ok(fitted), Ok(expected)) => {
                    assert_eq!(seen(&fitted, MIB), expected, "{name}");
                    for partition in wanted.partitions.iter().filter(|it| it.preserve) {
                        assert!(fitted.partitions.contains(partition), "{name}: {partition:?} is not the same");
                    }
                    crate::script::plan(&fitted).unwrap();
                    assert_eq!(fit(&fitted, &disk(size * MIB, 512)).unwrap(), fitted, "{name}, again");
                }
                (Err(error), Err(says)) => assert!(error.message.contains(says), "{name}: {error}"),
                (fitted, expected) => panic!("{name}: {fitted:?}, not {expected:?}"),
            }
        }
    };
    gpt_and_dos(vec![
        (
            "as captured",
            "gpt",
            &[(1, Some(1), Some(9), false), (2, Some(10), Some(20), true), (3, Some(30), Some(5), false)],
            "83",
            100,
            Ok(vec![(1, 1, 10), (2, 10, 30), (3, 30, 35)]),
        ),
        (
            "it lies elsewhere",
            "gpt",
            &[(1, Some(1), Some(9), false), (2, Some(5), Some(20), true), (3, Some(30), None, false)],
            "83",
            100,
            Ok(vec![(1, 25, 34), (2, 5, 25), (3, 34, 99)]),
        ),
        (
            "the last on the disk is the first in the table",
            "dos",
            &[(1, Some(60), Some(20), true), (2, None, Some(30), false), (3, None, None, false)],
            "83",
            100,
            Ok(vec![(1, 60, 80), (2, 1, 31), (3, 31, 60)]),
        ),
        (
            "logical ones beside it",
            "dos",
            &[
                (1, Some(60), Some(20), true),
                (2, None, Some(30), false),
                (3, None, Some(5), false),
                (5, None, Some(10), false),
                (6, None, Some(7), false),
            ],
            "f",
            100,
            Ok(vec![(1, 60, 80), (2, 1, 20), (3, 20, 25), (5, 2, 12), (6, 13, 20)]),
        ),
        (
            "no room",
            "gpt",
            &[(1, Some(20), Some(60), true), (2, None, Some(25), false)],
            "83",
            100,
            Err("disk0 does not fit /dev/vda around disk0p1, which stays as it is: disk0p2 needs 25 MiB, and no free \
                 stretch that is left has more than 19.9 MiB; make partitions smaller, give one a min_size, or take"),
        ),
        (
            "beyond the disk",
            "gpt",
            &[(1, Some(20), Some(80), true), (2, None, Some(5), false)],
            "83",
            100,
            Err("the partition disk0p1 ends at 100 MiB, and disk0 has room up to 99.9 MiB"),
        ),
        (
            "no place said",
            "gpt",
            &[(1, None, Some(80), true)],
            "83",
            100,
            Err("the partition disk0p1 is preserved, and it is not said where it lies"),
        ),
        (
            "a logical one",
            "dos",
            &[(2, Some(1), Some(30), false), (5, Some(2), Some(20), true)],
            "5",
            100,
            Err("the partition disk0p5 hangs on the extended one of disk0; only primary partitions can be preserved"),
        ),
    ]);
}

#[test]
fn those_with_a_least_size_shrink() {
    let mut captured = layout("gpt", &[part(1, mib(1, 10), ""), part(2, mib(11, 30), ""), part(3, mib(41, 20), "")]);
    captured.partitions[1].min_size = Some(Size(5 * MIB));
    captured.partitions[2].min_size = Some(Size(10 * MIB));
    let mut open = captured.clone();
    open.partitions[1].size = None;
    type Row<'a> = (&'a str, &'a DiskLayout, u64, Result<Vec<(u32, u64, u64)>, &'a str>);
    let rows: Vec<Row> = vec![
        ("as captured", &captured, 100, Ok(vec![(1, 1, 11), (2, 11, 41), (3, 41, 61)])),
        ("just", &captured, 62, Ok(vec![(1, 1, 11), (2, 11, 41), (3, 41, 61)])),
        ("the last shrinks first", &captured, 55, Ok(vec![(1, 1, 11), (2, 11, 41), (3, 41, 54)])),
        ("then the one before", &captured, 40, Ok(vec![(1, 1, 11), (2, 11, 29), (3, 29, 39)])),
        ("all at their least", &captured, 27, Ok(vec![(1, 1, 11), (2, 11, 16), (3, 16, 26)])),
        (
            "no further",
            &captured,
            26,
            Err(
                "need 27 MiB (27 MiB), the disk has 26 MiB (26 MiB): disk0p1 10 MiB + disk0p2 at least 5 MiB + disk0p3 \
                 at least 10 MiB + table and alignment 2 MiB; ",
            ),
        ),
        ("the open one grows", &open, 100, Ok(vec![(1, 1, 11), (2, 11, 79), (3, 79, 99)])),
        ("and shrinks", &open, 40, Ok(vec![(1, 1, 11), (2, 11, 19), (3, 19, 39)])),
        ("before others do", &open, 37, Ok(vec![(1, 1, 11), (2, 11, 16), (3, 16, 36)])),
        ("then they do", &open, 30, Ok(vec![(1, 1, 11), (2, 11, 16), (3, 16, 29)])),
        ("the open one no further", &open, 26, Err("need 27 MiB")),
    ];
    for (name, layout, size, expected) in rows {
        let fitted = fit(layout, &disk(size * MIB, 512));
        match (fitted, expected) {
            (Ok(fitted), Ok(expected)) => {
                assert_eq!(seen(&fitted, MIB), expected, "{name}");
                crate::script::plan(&fitted).unwrap();
            }
            (Err(error), Err(says)) => assert!(error.message.contains(says), "{name}: {error}"),
            (fitted, expected) => panic!("{name}: {fitted:?}, not {expected:?}"),
        }
    }
}
