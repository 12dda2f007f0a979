//! What was measured, as tables with the targets beside.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::plot;

/// All that was measured.
#[derive(Default)]
pub struct Found {
    pub loss: Option<Loss>,
    pub scale: Option<Scale>,
    pub awkward: Option<Awkward>,
    pub tree: Option<Tree>,
}

/// Eight receivers on a bad wire.
pub struct Loss {
    pub speed: u32,
    pub rows: Vec<Row>,
    /// How often all had all of it at 5 %.
    pub complete: usize,
    pub of: usize,
}

/// At one loss; seconds.
pub struct Row {
    /// Of a thousand.
    pub loss: u32,
    pub floor: f64,
    pub wire: f64,
    pub wall: f64,
    /// Bytes sent, of those that the bare wire takes.
    pub sent: f64,
    /// With how many receivers had it intact, at the worst.
    pub uftp: (f64, usize),
    /// uftp, told who comes.
    pub told: (f64, usize),
    pub udpcast: (f64, usize),
    pub rsync: f64,
}

/// By receivers.
pub struct Scale {
    pub speed: u32,
    pub walls: Vec<(usize, f64)>,
}

/// A slow one and a late one.
pub struct Awkward {
    pub speed: u32,
    pub clean: f64,
    pub beside: f64,
    /// Of the time alone.
    pub first: f64,
    pub late: f64,
}

/// A real tree; seconds.
pub struct Tree {
    pub speed: u32,
    pub one: f64,
    pub eight: f64,
    pub rsync: f64,
}

fn held(is: bool) -> &'static str {
    if is { "yes" } else { "**no**" }
}

/// The tables.
pub fn text(found: &Found) -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    if let Some(loss) = &found.loss {
        let _ = writeln!(out, "## Eight receivers, 128 MiB that nothing compresses, {} Mbit/s\n", loss.speed);
        let _ = writeln!(
            out,
            "| lost | bare wire | ours, on the wire | ours, with the start of 8 programs | uftp | uftp, told who comes | udpcast | rsync |"
        );
        let _ = writeln!(out, "|---|---|---|---|---|---|---|---|");
        for row in &loss.rows {
            let _ = writeln!(
                out,
                "| {} % | {:.2} s | {:.2} s | {:.2} s | {:.2} s ({} of 8 intact) | {:.2} s ({} of 8 intact) | {:.2} s ({} of 8 intact) | {:.1} s |",
                f64::from(row.loss) / 10.0,
                row.floor,
                row.wire,
                row.wall,
                row.uftp.0,
                row.uftp.1,
                row.told.0,
                row.told.1,
                row.udpcast.0,
                row.udpcast.1,
                row.rsync
            );
        }
        let _ = writeln!(
            out,
            "\n| lost | beside the bare wire | limit | beside uftp | limit | told who comes | rsync beside it | at least | sent, of what is \
             sent without loss | limit | of the bare wire's |"
        );
        let _ = writeln!(out, "|---|---|---|---|---|---|---|---|---|---|---|");
        let whole = loss.rows.iter().find(|row| row.loss == 0).map_or(f64::NAN, |row| row.sent);
        for row in &loss.rows {
            let more = row.sent / whole;
            let (floor, uftp, sent) = match row.loss {
                0 => (1.05, 0.75, f64::NAN),
                10 => (1.08, 0.75, 1.03),
                _ => (1.16, 0.70, 1.10),
            };
            let (is_floor, is_uftp, is_rsync) = (row.wire / row.floor, row.wire / row.uftp.0, row.rsync / row.wire);
            let limit = if sent.is_nan() { String::new() } else { format!("{sent} {}", held(more <= sent)) };
            let _ = writeln!(
                out,
                "| {} % | {is_floor:.3} | {floor} {} | {is_uftp:.2} | {uftp} {} | {:.2} | {is_rsync:.1} | 7 {} | {more:.3} | {limit} | {:.3} |",
                f64::from(row.loss) / 10.0,
                held(is_floor <= floor),
                held(is_uftp <= uftp),
                row.wire / row.told.0,
                held(is_rsync >= 7.0),
                row.sent
            );
        }
        let _ = writeln!(out, "\nAt 5 % all of eight had all of it in {} of {} runs.\n", loss.complete, loss.of);
    }
    if let Some(scale) = &found.scale {
        let _ = writeln!(out, "## By receivers, {} Mbit/s\n\n| receivers | ours |\n|---|---|", scale.speed);
        for (receivers, wall) in &scale.walls {
            let _ = writeln!(out, "| {receivers} | {wall:.2} s |");
        }
        if let (Some(first), Some(last)) = (scale.walls.first(), scale.walls.last()) {
            let ratio = last.1 / first.1;
            let _ = writeln!(out, "\nT({}) / T({}) = {ratio:.3}; limit 1.1: {}\n", last.0, first.0, held(ratio <= 1.1));
        }
    }
    if let Some(it) = &found.awkward {
        let ratio = it.beside / it.clean;
        let _ = writeln!(out, "## One that is slow, one that comes late, {} Mbit/s\n", it.speed);
        let _ = writeln!(
            out,
            "Seven beside one that gets a fifth of the speed: {:.2} s, {ratio:.2} of their time without it ({:.2} s); limit 1.2: {}\n",
            it.beside,
            it.clean,
            held(ratio <= 1.2)
        );
        let _ = writeln!(
            out,
            "One that comes when the first is half done has all of it {:.2} of the time alone after it came; limit 1.1: {}. The first \
             takes {:.3} of that time; limit 1.05: {}\n",
            it.late,
            held(it.late <= 1.1),
            it.first,
            held(it.first <= 1.05)
        );
    }
    if let Some(it) = &found.tree {
        let (eight, rsync) = (it.eight / it.one, it.one / it.rsync);
        let _ = writeln!(out, "## A Debian system, {} Mbit/s\n", it.speed);
        let _ = writeln!(
            out,
            "One receiver {:.1} s, eight {:.1} s ({eight:.2}; limit 1.2: {}), rsync to one {:.1} s ({rsync:.2}; limit 0.65: {})",
            it.one,
            it.eight,
            held(eight <= 1.2),
            it.rsync,
            held(rsync <= 0.65)
        );
    }
    out
}

/// Writes tables and plots.
pub fn write(dir: &Path, found: &Found, text: &str) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let put = |name: &str, text: &str| fs::write(dir.join(name), text).with_context(|| format!("writing {name}"));
    let mut page = format!(
        "# Multicast beside others\n\nWritten by `cargo xtask bench multicast --write`: namespaces on one computer, the sender's wire shaped by \
         tc, packets lost by nft; medians. What the others are is in xtask/src/bench/multicast. \"On the wire\" is from the first \
         datagram until the last receiver's program has ended. uftp as by default has an open group, as ours is: for a time it asks who is \
         there, and then begins; told the addresses of all who come, it begins as soon as they are there. The limits are to the former. \
         \"Sent\" counts all headers.\n\n{text}\n"
    );
    if let Some(loss) = &found.loss {
        put("multicast-loss.svg", &plot::bars(loss))?;
        page.push_str("![by loss](multicast-loss.svg)\n");
    }
    if let Some(scale) = &found.scale {
        put("multicast-scale.svg", &plot::line(scale))?;
        page.push_str("![by receivers](multicast-scale.svg)\n");
    }
    put("multicast.md", &page)
}
