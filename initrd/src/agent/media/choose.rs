//! Which of several `local.cfg` counts. Pure.

use std::fmt::Write as _;

/// What a file lies on, the strongest first: who puts a second stick into a machine means this machine, and the
/// medium that it boots from is often the same for many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// A medium that can be taken out, and that the machine did not boot from.
    Second,
    /// The medium that the machine booted from, or its initrd.
    Boot,
    /// A disk that stays in the machine.
    Fixed,
}

/// A `local.cfg` that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// How strong it is.
    pub rank: Rank,
    /// Where: `/dev/sdb1 (vfat)`.
    pub place: String,
    /// Its bytes, or why they cannot be had.
    pub bytes: Result<Vec<u8>, String>,
}

/// Which counts, and what is to be told of the others.
#[derive(Debug, PartialEq, Eq)]
pub struct Choice {
    /// The one that counts.
    pub place: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Where the others are that say something else.
    pub ignored: Vec<String>,
}

/// Chooses.
///
/// # Errors
/// Two of the same rank say different things; the one that would count cannot be read.
pub fn choose(mut all: Vec<Candidate>) -> Result<Option<Choice>, String> {
    all.sort_by_key(|candidate| candidate.rank);
    let Some(first) = all.first() else { return Ok(None) };
    let (rank, place) = (first.rank, first.place.clone());
    let bytes = first.bytes.clone().map_err(|why| format!("local.cfg on {place}: {why}"))?;
    let mut ignored = Vec::new();
    for other in all.iter().skip(1).filter(|other| other.bytes.as_ref() != Ok(&bytes)) {
        if other.rank == rank {
            let mut says = String::new();
            let _ = write!(
                says,
                "two files local.cfg say different things, on {place} and on {}, and nothing tells which is meant; take one \
                 of these media out, and start this machine again",
                other.place
            );
            return Err(says);
        }
        ignored.push(other.place.clone());
    }
    Ok(Some(Choice { place, bytes, ignored }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(rank: Rank, place: &str, text: &str) -> Candidate {
        let bytes = if text == "?" { Err("it is a link".to_owned()) } else { Ok(text.as_bytes().to_vec()) };
        Candidate { rank, place: place.into(), bytes }
    }

    #[test]
    fn the_second_medium_counts() {
        use Rank::{Boot, Fixed, Second};
        let of = |all: &[(Rank, &str, &str)]| {
            choose(all.iter().map(|(rank, place, text)| candidate(*rank, place, text)).collect()).map(|choice| {
                choice.map(|it| format!("{} {} {:?}", it.place, String::from_utf8_lossy(&it.bytes), it.ignored))
            })
        };
        type Given<'a> = &'a [(Rank, &'a str, &'a str)];
        type Row<'a> = (&'a str, Given<'a>, Result<Option<&'a str>, &'a str>);
        let rows: &[Row<'_>] = &[
            ("none", &[], Ok(None)),
            ("one", &[(Fixed, "sda1", "a")], Ok(Some("sda1 a []"))),
            ("the same twice", &[(Second, "sda1", "a"), (Second, "sdb1", "a")], Ok(Some("sda1 a []"))),
            (
                "all kinds",
                &[(Fixed, "sda1", "a"), (Boot, "sdb1", "b"), (Second, "sdc", "c")],
                Ok(Some("sdc c [\"sdb1\", \"sda1\"]")),
            ),
            ("the same elsewhere", &[(Boot, "sdb1", "b"), (Second, "sdc", "b")], Ok(Some("sdc b []"))),
            (
                "a bad one that does not count",
                &[(Boot, "sdb1", "?"), (Second, "sdc", "c")],
                Ok(Some("sdc c [\"sdb1\"]")),
            ),
            ("a bad one", &[(Second, "sdc", "?"), (Boot, "sdb1", "b")], Err("local.cfg on sdc: it is a link")),
            ("two of a kind", &[(Second, "sdb", "a"), (Second, "sdc", "b")], Err("two files local.cfg say different")),
            (
                "one of them bad",
                &[(Second, "sdb", "a"), (Second, "sdc", "?")],
                Err("two files local.cfg say different"),
            ),
        ];
        for (name, all, expected) in rows {
            match (of(all), expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got.as_deref(), *expected, "{name}"),
                (Err(error), Err(says)) => assert!(error.starts_with(says), "{name}: {error}"),
                (got, _) => panic!("{name}: {got:?}"),
            }
        }
    }
}
