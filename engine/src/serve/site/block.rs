//! A block of lines between marks, in a text whose comments begin with `#`. Pure.

use std::ops::Range;

/// The marks of a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    /// What it is called in its marks.
    pub name: &'static str,
    /// The command that writes it.
    pub by: &'static str,
}

/// Our subnet.
pub(super) const SITE: Block = Block { name: "dhcp", by: "makedhcpserver" };
/// Our static entries.
pub(super) const HOSTS: Block = Block { name: "dhcp-hosts", by: "makedhcpstatic" };

/// Line and reason.
pub(super) type Fault = (usize, String);

/// Where the two blocks are.
///
/// # Errors
/// One of them is not whole, or one reaches into the other.
pub(super) fn both(text: &str) -> Result<[Option<Range<usize>>; 2], Fault> {
    let (site, hosts) = (SITE.lines(text)?, HOSTS.lines(text)?);
    if let (Some(site), Some(hosts)) = (&site, &hosts)
        && site.start < hosts.end
        && hosts.start < site.end
    {
        let why = "one of our blocks reaches into the other; take one out, and have it written anew";
        return Err((site.start.max(hosts.start), why.into()));
    }
    Ok([site, hosts])
}

/// Whether a line stands in a block.
pub(super) fn within(block: &Option<Range<usize>>, line: usize) -> bool {
    block.as_ref().is_some_and(|block| block.contains(&line))
}

impl Block {
    fn begin_mark(self) -> String {
        format!("# systemimager begin {}", self.name)
    }

    fn end_mark(self) -> String {
        format!("# systemimager end {}", self.name)
    }

    fn begins(self, line: &str) -> bool {
        line.trim().strip_prefix(&self.begin_mark()).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    }

    /// Numbers, from 1, of the lines of the two marks.
    ///
    /// # Errors
    /// Line and reason: a mark without the other, or twice.
    pub fn lines(self, text: &str) -> Result<Option<Range<usize>>, (usize, String)> {
        let (mut found, mut open): (Option<Range<usize>>, Option<usize>) = (None, None);
        for (number, line) in (1..).zip(text.lines()) {
            if self.begins(line) {
                if let Some(first) = open.or(found.as_ref().map(|it| it.start)) {
                    let mark = self.begin_mark();
                    return Err((number, format!("a second \"{mark}\" (the first is line {first}); remove one block")));
                }
                open = Some(number);
            } else if line.trim() == self.end_mark() {
                let Some(begin) = open.take() else {
                    let (end, begin) = (self.end_mark(), self.begin_mark());
                    return Err((number, format!("\"{end}\" without \"{begin}\" before it; remove the line")));
                };
                found = Some(begin..number);
            }
        }
        match open {
            Some(begin) => Err((
                begin,
                format!(
                    "\"{}\" without \"{}\" after it; add that line where the block ends",
                    self.begin_mark(),
                    self.end_mark()
                ),
            )),
            None => Ok(found),
        }
    }

    /// What stands between the marks.
    ///
    /// # Errors
    /// As [`Self::lines`].
    pub fn inner(self, text: &str) -> Result<Option<String>, (usize, String)> {
        Ok(self
            .lines(text)?
            .map(|range| text.split_inclusive('\n').skip(range.start).take(range.end - range.start - 1).collect()))
    }

    /// The text with these lines between the marks, in the place of those that are there, or else at the end. No lines
    /// at all: without the block.
    ///
    /// # Errors
    /// As [`Self::lines`].
    pub fn put(self, text: &str, inner: &str) -> Result<String, (usize, String)> {
        let range = self.lines(text)?;
        let block = match inner {
            "" => String::new(),
            inner => format!(
                "{}: written by `systemimager {}`; put your own lines outside\n{inner}{}\n",
                self.begin_mark(),
                self.by,
                self.end_mark()
            ),
        };
        let lines = || text.split_inclusive('\n');
        Ok(match range {
            Some(range) => {
                let head: String = lines().take(range.start - 1).collect();
                let tail: String = lines().skip(range.end).collect();
                head + &block + &tail
            }
            None if block.is_empty() => text.to_owned(),
            None => {
                let gap = match text {
                    "" => "",
                    text if text.ends_with("\n\n") => "",
                    text if text.ends_with('\n') => "\n",
                    _ => "\n\n",
                };
                format!("{text}{gap}{block}")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: Block = Block { name: "hosts", by: "x" };

    #[test]
    fn the_rest_stays() {
        let begin = "# systemimager begin hosts: written by `systemimager x`; put your own lines outside\n";
        let end = "# systemimager end hosts\n";
        for (name, text, inner, expected) in [
            ("none yet", "a\n", "b\n", format!("a\n\n{begin}b\n{end}")),
            ("no line break", "a", "b\n", format!("a\n\n{begin}b\n{end}")),
            ("empty", "", "b\n", format!("{begin}b\n{end}")),
            (
                "in the middle, its remark changed",
                "a\n # systemimager begin hosts\nold\n# systemimager end hosts\nz",
                "b\n",
                format!("a\n{begin}b\n{end}z"),
            ),
            ("taken out", "a\n# systemimager begin hosts\nold\n# systemimager end hosts\nz\n", "", "a\nz\n".into()),
            ("nothing to take out", "a", "", "a".into()),
            (
                "another's block",
                "# systemimager begin hosts2\n",
                "b\n",
                format!("# systemimager begin hosts2\n\n{begin}b\n{end}"),
            ),
        ] {
            let once = BLOCK.put(text, inner).expect(name);
            assert_eq!(once, expected, "{name}");
            assert_eq!(BLOCK.put(&once, inner).expect(name), once, "{name}: twice is the same as once");
            let there = (!inner.is_empty()).then(|| inner.to_owned());
            assert_eq!(BLOCK.inner(&once).expect(name), there, "{name}");
        }
    }

    #[test]
    fn half_a_block_is_refused() {
        for (name, text, line, says) in [
            ("no end", "a\n# systemimager begin hosts: x\nb\n", 2, "without \"# systemimager end hosts\" after it"),
            ("no begin", "# systemimager end hosts\n", 1, "without \"# systemimager begin hosts\" before it"),
            (
                "twice",
                "# systemimager begin hosts\n# systemimager end hosts\n# systemimager begin hosts\n",
                3,
                "(the first is line 1)",
            ),
            ("in itself", "# systemimager begin hosts\n# systemimager begin hosts\n", 2, "(the first is line 1)"),
        ] {
            let (at, why) = BLOCK.put(text, "x\n").expect_err(name);
            assert!(at == line && why.contains(says), "{name}: {at}: {why}");
        }
    }
}
