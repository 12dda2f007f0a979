//! The plugin's words in [`FileSystemLayout::options`](systemimager_core::FileSystemLayout::options):
//! typed, written by `describe`, read by `plan_make`. All are optional; what is absent is left to mke2fs.

use std::collections::BTreeMap;

use crate::features::{Feature, sort};

/// What `-e` of mke2fs takes.
pub const ERRORS: [&str; 3] = ["continue", "remount-ro", "panic"];

/// The options of one file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `features`: all of them, sorted; nothing beside them is made.
    pub features: Option<Vec<String>>,
    /// `block_size`: bytes.
    pub block_size: Option<u64>,
    /// `cluster_size`: bytes, with `bigalloc`.
    pub cluster_size: Option<u64>,
    /// `inode_size`: bytes.
    pub inode_size: Option<u64>,
    /// `inode_ratio`: bytes of the file system for each inode.
    pub inode_ratio: Option<u64>,
    /// `flex_bg_size`: block groups.
    pub flex_bg_size: Option<u64>,
    /// `reserved_percent`: of the blocks, for root, in thousandths.
    pub reserved: Option<u64>,
    /// `errors`: what the kernel does on errors.
    pub errors: Option<String>,
}

impl Options {
    /// As they stand in a master file.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        let number = |value: Option<u64>| value.map(|value| value.to_string());
        let words = |value: &Option<Vec<String>>| value.as_ref().map(|words| words.join(" "));
        [
            ("features", words(&self.features)),
            ("block_size", number(self.block_size)),
            ("cluster_size", number(self.cluster_size)),
            ("inode_size", number(self.inode_size)),
            ("inode_ratio", number(self.inode_ratio)),
            ("flex_bg_size", number(self.flex_bg_size)),
            ("reserved_percent", self.reserved.map(percent)),
            ("errors", self.errors.clone()),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect()
    }

    /// From a master file, which a person may have edited; the message names key and value.
    pub fn from_map(map: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut options = Options::default();
        for (key, value) in map {
            let bad = |why: &str| format!("the option {} = {value:?} {why}", key.escape_debug());
            let power = |least: u64, most: u64| match value.parse::<u64>() {
                Ok(number) if number.is_power_of_two() && (least..=most).contains(&number) => Ok(Some(number)),
                _ => Err(bad(&format!("must be a power of two from {least} to {most}"))),
            };
            let words = || {
                let mut words: Vec<String> =
                    value.split([' ', ',']).filter(|word| !word.is_empty()).map(str::to_owned).collect();
                words.sort();
                words.dedup();
                words
            };
            match key.as_str() {
                "features" => {
                    let mut features = words();
                    features.retain(|name| sort(name) != Feature::State);
                    if let Some(name) = features.iter().find(|name| sort(name) == Feature::Unknown) {
                        return Err(bad(&format!("names {name:?}, which mke2fs cannot make; take it out")));
                    }
                    options.features = Some(features);
                }
                "block_size" => options.block_size = power(1024, 65536)?,
                "cluster_size" => options.cluster_size = power(2048, 256 << 20)?,
                "inode_size" => options.inode_size = power(128, 65536)?,
                "flex_bg_size" => options.flex_bg_size = power(1, 1 << 31)?,
                "inode_ratio" => match value.parse() {
                    Ok(ratio) if (1024..=1 << 26).contains(&ratio) => options.inode_ratio = Some(ratio),
                    _ => return Err(bad("must be a number of bytes from 1024 to 67108864")),
                },
                "reserved_percent" => match thousandths(value) {
                    Some(reserved) if reserved <= 50_000 => options.reserved = Some(reserved),
                    _ => return Err(bad("must be from 0 to 50, with at most 3 decimals")),
                },
                "errors" if ERRORS.contains(&value.as_str()) => options.errors = Some(value.clone()),
                "errors" => return Err(bad(&format!("must be one of {}", ERRORS.join(", ")))),
                _ => {
                    return Err(bad(
                        "is unknown; there are features, block_size, cluster_size, inode_size, inode_ratio, \
                         flex_bg_size, reserved_percent and errors",
                    ));
                }
            }
        }
        if options.inode_size > Some(options.block_size.unwrap_or(65536)) {
            return Err("the option inode_size must not be larger than block_size".into());
        }
        Ok(options)
    }
}

/// `5`, `1.25` of thousandths.
pub fn percent(thousandths: u64) -> String {
    let text = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn thousandths(text: &str) -> Option<u64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > 3 || decimals.len() > 3 || !digits(whole) || !digits(decimals) {
        return None;
    }
    format!("{whole}{decimals:0<3}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let options = Options {
            features: Some(vec!["64bit".into(), "extent".into()]),
            block_size: Some(4096),
            cluster_size: Some(65536),
            inode_size: Some(256),
            inode_ratio: Some(16384),
            flex_bg_size: Some(16),
            reserved: Some(1250),
            errors: Some("remount-ro".into()),
        };
        let map = options.to_map();
        assert_eq!(map.len(), 8);
        assert_eq!(map.get("reserved_percent").map(String::as_str), Some("1.25"));
        assert_eq!(Options::from_map(&map), Ok(options));
        assert_eq!(Options::from_map(&BTreeMap::new()), Ok(Options::default()));
    }

    #[test]
    fn faults_are_named() {
        let rows = [
            (
                "features",
                "extent x",
                "the option features = \"extent x\" names \"x\", which mke2fs cannot make; take it out",
            ),
            ("features", "^extent", "names \"^extent\""),
            ("features", "extent,-E", "names \"-E\""),
            ("block_size", "4000", "the option block_size = \"4000\" must be a power of two from 1024 to 65536"),
            ("block_size", "512", "power of two"),
            ("inode_size", "-1", "power of two"),
            ("inode_size", "131072", "power of two"),
            ("inode_ratio", "99999999999999999999", "must be a number of bytes"),
            ("reserved_percent", "51", "must be from 0 to 50"),
            ("reserved_percent", "1.2345", "must be from 0 to 50"),
            ("reserved_percent", "", "must be from 0 to 50"),
            ("reserved_percent", ".5", "must be from 0 to 50"),
            ("errors", "ignore", "must be one of continue, remount-ro, panic"),
            ("blocksize", "1", "the option blocksize = \"1\" is unknown; there are features"),
        ];
        for (key, value, says) in rows {
            let error = Options::from_map(&BTreeMap::from([(key.to_owned(), value.to_owned())])).unwrap_err();
            assert!(error.contains(says), "{key} = {value}: {error}");
        }
        let both = [("block_size", "1024"), ("inode_size", "2048")].map(|(key, value)| (key.into(), value.into()));
        assert!(Options::from_map(&BTreeMap::from(both)).unwrap_err().contains("must not be larger than block_size"));
    }

    #[test]
    fn percents() {
        for (number, text) in [(0, "0"), (5000, "5"), (1250, "1.25"), (10_001, "10.001"), (50_000, "50")] {
            assert_eq!(percent(number), text);
            assert_eq!(thousandths(text), Some(number));
        }
    }
}
