//! The rows of `status`: machines that were heard of, and orders that no machine has taken up yet.

use anyhow::Result;
use serde::Serialize;
use systemimager_engine::config::Config;
use systemimager_engine::report::State;
use systemimager_engine::serve::machine::Machine;
use systemimager_engine::serve::machines::read_all;
use systemimager_engine::store::host_set::HostSet;
use systemimager_engine::store::orders::{self, Order, Stage};

use crate::context::Context;

/// A row.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Its MAC address, or the host of an order that nobody took up.
    #[serde(skip)]
    pub key: String,
    /// Host name, or MAC address.
    #[serde(rename = "host")]
    pub name: String,
    /// Its image, or `-`.
    pub image: String,
    /// The state in a word: `installing`, `STALLED`, `ordered`.
    #[serde(rename = "state")]
    pub shown: String,
    /// How long ago it was heard, for people; `-`: never.
    pub heard: String,
    /// How far it is, or what it said.
    pub progress: String,
    /// The last lines of its log.
    #[serde(skip)]
    pub log: Vec<String>,
}

/// All rows; with `only`, those of these machines.
///
/// # Errors
/// State cannot be read.
pub fn all(config: &Config, only: &HostSet) -> Result<Vec<Row>> {
    let now = orders::now();
    let limit = config.settings.server.stalled_after;
    let wanted = |host: Option<&systemimager_core::HostName>| {
        only.is_empty()
            || host.is_some_and(|host| only.hosts().iter().any(|it| it == host || it.as_str() == host.short()))
    };
    let mut machines = read_all(config)?;
    machines.retain(|machine| wanted(machine.host.as_ref()));
    let mut orders = orders::list(config)?;
    orders.retain(|order| wanted(Some(&order.host)));
    let mut rows: Vec<Row> =
        machines.iter().map(|machine| row(machine, order_of(machine, &orders), now, limit)).collect();
    for order in &orders {
        if !machines.iter().any(|machine| is_of(machine, order)) {
            rows.push(Row {
                key: order.host.to_string(),
                name: order.host.to_string(),
                image: order.image.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
                shown: "ordered".into(),
                heard: "-".into(),
                progress: "begins when it next boots over the network".into(),
                log: Vec::new(),
            });
        }
    }
    rows.sort_by_key(|row| natural(&row.name));
    Ok(rows)
}

fn is_of(machine: &Machine, order: &Order) -> bool {
    match order.mac() {
        Some(mac) => machine.mac == mac,
        None => machine.host.as_ref().is_some_and(|host| *host == order.host || host.short() == order.host.as_str()),
    }
}

fn order_of<'a>(machine: &Machine, orders: &'a [Order]) -> Option<&'a Order> {
    orders.iter().find(|order| is_of(machine, order))
}

/// `www10` after `www9`.
fn natural(name: &str) -> (String, u64, String) {
    let digits = name.find(|letter: char| letter.is_ascii_digit()).unwrap_or(name.len());
    let (word, rest) = name.split_at(digits);
    let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
    let (number, rest) = rest.split_at(end);
    (word.to_owned(), number.parse().unwrap_or(0), rest.to_owned())
}

fn row(machine: &Machine, order: Option<&Order>, now: u64, limit: u64) -> Row {
    let stalled = machine.stalled(now, limit);
    let waits_for_boot = order.is_some_and(|order| order.stage == Stage::Ordered)
        && matches!(machine.state, State::Installed | State::LocalDisk | State::Failed);
    let goes_on = order.is_some_and(|order| matches!(order.stage, Stage::GoOn { .. }));
    let (shown, progress) = match machine.state {
        _ if waits_for_boot => ("ordered", format!("begins at its next boot; before: {}", machine.state.name())),
        _ if goes_on => ("goes on", machine.message.clone()),
        _ if stalled.is_some() => {
            let words = machine.progress_words();
            let at = if words.is_empty() { machine.message.clone() } else { words };
            let silent = ago(stalled.unwrap_or_default());
            ("STALLED", format!("silent for {silent} at: {at}; look at its console, or start it again: it begins anew"))
        }
        state @ State::Installing => (state.name(), machine.progress_words()),
        state => (state.name(), machine.message.clone()),
    };
    Row {
        key: machine.mac.clone(),
        name: machine.host.as_ref().map_or_else(|| machine.mac.clone(), ToString::to_string),
        image: machine.image.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
        shown: shown.to_owned(),
        heard: ago(now.saturating_sub(machine.heard)),
        progress,
        log: machine.log.iter().cloned().collect(),
    }
}

/// Prints the table.
pub fn print(context: &Context, rows: &[Row], log: bool) {
    if rows.is_empty() {
        context.say("no machine has reported yet, and none is ordered");
        return;
    }
    let cells = |row: &Row| [&row.name, &row.image, &row.shown, &row.heard].map(|cell| cell.chars().count());
    let mut widths = ["HOST", "IMAGE", "STATE", "HEARD"].map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(cells(row)) {
            *width = (*width).max(cell);
        }
    }
    let [a, b, c, d] = widths;
    let line = |name: &str, image: &str, state: &str, heard: &str, progress: &str| {
        context.say(format!("{name:a$}  {image:b$}  {state:c$}  {heard:>d$}  {progress}").trim_end());
    };
    line("HOST", "IMAGE", "STATE", "HEARD", "PROGRESS");
    for row in rows {
        line(&row.name, &row.image, &row.shown, &row.heard, row.progress.lines().next().unwrap_or_default());
        if log {
            row.log.iter().for_each(|it| context.say(format_args!("    {it}")));
        }
    }
}

fn ago(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_ago() {
        for (seconds, words) in [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172_800, "2 d")] {
            assert_eq!(ago(seconds), words);
        }
    }

    #[test]
    fn hosts_are_sorted_as_people_count() {
        let mut names = ["www10", "www9", "52:54", "www", "db1"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names, ["52:54", "db1", "www", "www9", "www10"]);
    }

    #[test]
    fn what_a_row_says() {
        let machine = |state: &str, heard: u64| -> Machine {
            serde_json::from_value(serde_json::json!({
                "mac": "52:54:00:00:00:01", "host": "www1", "state": state, "message": "words", "sequence": 1,
                "booted": 0, "heard": heard
            }))
            .unwrap()
        };
        let order = |stage: Stage| Order { stage, ..Order::new("www1".parse().unwrap(), None, vec![]) };
        let go_on = Stage::GoOn { mac: "52:54:00:00:00:01".into(), boot: "b".into() };
        for (name, machine, order, shown, progress) in [
            ("waits", machine("waiting", 0), None, "waiting", "words"),
            ("works", machine("preparing", 900), None, "preparing", "words"),
            ("stalls", machine("preparing", 100), None, "STALLED", "silent for 15 min at: words"),
            ("was installed", machine("installed", 0), None, "installed", "words"),
            (
                "again",
                machine("installed", 0),
                Some(order(Stage::Ordered)),
                "ordered",
                "begins at its next boot; before: inst",
            ),
            ("goes on", machine("failed", 0), Some(order(go_on)), "goes on", "words"),
        ] {
            let row = row(&machine, order.as_ref(), 1000, 180);
            assert_eq!(row.shown, shown, "{name}");
            assert!(row.progress.starts_with(progress), "{name}: {}", row.progress);
        }
    }
}
