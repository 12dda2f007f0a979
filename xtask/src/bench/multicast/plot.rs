//! Plots of what was measured, as SVG. Pure.

use std::fmt::Write as _;

use super::report::{Loss, Scale};

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 50.0;
const BOTTOM: f64 = 40.0;
const COLOURS: [(&str, &str); 5] = [
    ("bare wire", "#999999"),
    ("ours", "#1b6ca8"),
    ("uftp", "#d98c1f"),
    ("udpcast", "#a83232"),
    ("uftp, told who comes", "#e8c27a"),
];

fn frame(title: &str, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"18\" font-size=\"14\">{title}</text>\n{body}</svg>\n"
    )
}

/// Lines across, and what they stand for.
fn scale(most: f64) -> String {
    let mut out = String::new();
    for part in 0..=4 {
        let value = most * f64::from(part) / 4.0;
        let y = at(value, most);
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/><text x=\"{}\" y=\"{:.1}\" \
             text-anchor=\"end\">{value:.0} s</text>",
            WIDTH - 10.0,
            LEFT - 6.0,
            y + 4.0
        );
    }
    out
}

fn at(value: f64, most: f64) -> f64 {
    HEIGHT - BOTTOM - (HEIGHT - BOTTOM - 40.0) * (value / most).min(1.0)
}

/// Bars by loss.
pub fn bars(loss: &Loss) -> String {
    let of = |row: &super::report::Row| [row.floor, row.wire, row.uftp.0, row.udpcast.0, row.told.0];
    // What gives up takes for ever; it is cut off.
    let most = loss.rows.iter().flat_map(|row| [row.floor, row.wire, row.uftp.0]).fold(1.0, f64::max) * 1.5;
    let mut body = scale(most);
    let group = (WIDTH - LEFT - 20.0) / loss.rows.len().max(1) as f64;
    let bar = group / 6.0;
    for (index, row) in loss.rows.iter().enumerate() {
        let left = LEFT + 10.0 + group * index as f64;
        for (number, (value, (name, colour))) in of(row).into_iter().zip(COLOURS).enumerate() {
            let (x, y) = (left + bar * number as f64, at(value, most));
            let _ = writeln!(
                body,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"><title>{name} {value:.2} s</title></rect>",
                bar - 3.0,
                HEIGHT - BOTTOM - y
            );
        }
        let _ = writeln!(
            body,
            "<text x=\"{:.1}\" y=\"{:.1}\">{} % lost</text>",
            left + bar,
            HEIGHT - 22.0,
            f64::from(row.loss) / 10.0
        );
    }
    for (index, (name, colour)) in COLOURS.into_iter().enumerate() {
        let x = LEFT + 105.0 * index as f64;
        let _ = writeln!(
            body,
            "<rect x=\"{x}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"{colour}\"/><text x=\"{}\" y=\"{}\">{name}</text>",
            HEIGHT - 14.0,
            x + 14.0,
            HEIGHT - 5.0
        );
    }
    frame(&format!("128 MiB to eight receivers at {} Mbit/s", loss.speed), &body)
}

/// The time by receivers.
pub fn line(measured: &Scale) -> String {
    let most = measured.walls.iter().map(|it| it.1).fold(1.0, f64::max) * 1.25;
    let mut body = scale(most);
    let step = (WIDTH - LEFT - 60.0) / (measured.walls.len().max(2) - 1) as f64;
    let points: Vec<(f64, f64)> = measured
        .walls
        .iter()
        .enumerate()
        .map(|(index, it)| (LEFT + 20.0 + step * index as f64, at(it.1, most)))
        .collect();
    let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        body,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
        path.join(" "),
        COLOURS[1].1
    );
    for ((x, y), (receivers, wall)) in points.iter().zip(&measured.walls) {
        let _ = writeln!(
            body,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{}\"><title>{wall:.2} s</title></circle><text x=\"{x:.1}\" y=\"{:.1}\" \
             text-anchor=\"middle\">{receivers}</text>",
            COLOURS[1].1,
            HEIGHT - 22.0
        );
    }
    frame(&format!("128 MiB by receivers at {} Mbit/s", measured.speed), &body)
}
