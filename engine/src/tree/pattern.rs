//! How paths of a tree lie to each other, and the patterns that a transport leaves out, made of paths: their meaning is
//! that of [`PullRequest::exclude`](systemimager_core::PullRequest::exclude). Pure.

use systemimager_core::BytePath;

/// A path as a pattern that matches only itself, and all below it.
pub fn literal(path: &BytePath) -> BytePath {
    let bytes = trimmed(path);
    let mut pattern = Vec::with_capacity(bytes.len());
    for byte in bytes {
        if matches!(byte, b'*' | b'?' | b'[' | b'\\') {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    BytePath::new(pattern)
}

/// A pattern of all that lies below a directory.
pub fn contents(path: &BytePath) -> BytePath {
    literal(path).join("*")
}

/// Patterns that paths are held against here, where no transport does it.
pub struct LeftOut(Vec<glob::Pattern>);

impl LeftOut {
    /// As [`PullRequest::exclude`](systemimager_core::PullRequest::exclude) means them.
    pub fn new(patterns: &[BytePath]) -> Self {
        let one = |pattern: &BytePath| {
            let text = String::from_utf8_lossy(trimmed(pattern)).into_owned();
            let (above, text) = match text.strip_prefix('/') {
                Some(anchored) => ("", anchored.to_owned()),
                None => ("**/", text),
            };
            let mut translated = String::from(above);
            let mut letters = text.chars();
            while let Some(letter) = letters.next() {
                match letter {
                    // The library quotes by brackets alone.
                    '\\' => {
                        let quoted = letters.next().unwrap_or('\\').to_string();
                        translated.push_str(&glob::Pattern::escape(&quoted));
                    }
                    other => translated.push(other),
                }
            }
            // An unclosed bracket matches nothing.
            glob::Pattern::new(&translated).ok()
        };
        Self(patterns.iter().filter_map(one).collect())
    }

    /// Whether a path is left out, or lies below one that is.
    pub fn has(&self, path: &BytePath) -> bool {
        let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::default() };
        let text = String::from_utf8_lossy(trimmed(path)).into_owned();
        let mut rest = text.trim_start_matches('/');
        while !rest.is_empty() {
            if self.0.iter().any(|pattern| pattern.matches_with(rest, options)) {
                return true;
            }
            rest = rest.rsplit_once('/').map_or("", |(above, _)| above);
        }
        false
    }
}

/// A path without slashes at its end.
pub fn trimmed(path: &BytePath) -> &[u8] {
    let mut bytes = path.as_bytes();
    while let [head @ .., b'/'] = bytes {
        bytes = head;
    }
    bytes
}

/// The directory that a path lies in; of the root, the root.
pub fn parent(path: &BytePath) -> BytePath {
    let bytes = path.as_bytes();
    match bytes.iter().rposition(|byte| *byte == b'/') {
        None | Some(0) => "/".into(),
        Some(at) => BytePath::new(&bytes[..at]),
    }
}

/// Whether one of these sorted paths lies below a directory.
pub fn any_below(sorted: &[BytePath], dir: &BytePath) -> bool {
    let begin = BytePath::new([trimmed(dir), b"/"].concat());
    // The root is begin and directory at once.
    let at = sorted.partition_point(|path| *path <= begin);
    sorted.get(at).is_some_and(|first| first != dir && is_below(first, dir))
}

/// Whether a path is another or lies below it, by its parts.
pub fn is_below(path: &BytePath, above: &BytePath) -> bool {
    let (path, above) = (trimmed(path), trimmed(above));
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_patterns_of_themselves() {
        for (path, expected) in [("/data", "/data"), ("/a*b", "/a\\*b"), ("/a[1]?\\", "/a\\[1]\\?\\\\"), ("/x/", "/x")]
        {
            assert_eq!(literal(&path.into()), BytePath::from(expected), "{path}");
        }
        assert_eq!(contents(&"/da*ta/".into()), BytePath::from("/da\\*ta/*"));
        assert_eq!(contents(&"/".into()), BytePath::from("/*"));
    }

    #[test]
    fn what_is_left_out() {
        for (pattern, path, expected) in [
            ("/srv/site", "/srv/site", true),
            ("/srv/site", "/srv/site/a/b", true),
            ("/srv/site/", "/srv/site", true),
            ("/srv/site", "/srv/site2", false),
            ("/srv/*", "/srv", false),
            ("/srv/*", "/srv/a/b", true),
            ("/s*v", "/s/v", false),
            ("*.bak", "/etc/x.bak", true),
            ("*.bak", "/etc/x.bak/y", true),
            ("conf/x", "/etc/conf/x", true),
            ("conf/x", "/etc/conf/y", false),
            ("/a\\*b", "/a*b", true),
            ("/a\\*b", "/axb", false),
            ("/a\\[1]\\\\", "/a[1]\\", true),
            ("/a[12]", "/a2", true),
            ("/a[", "/a[", false),
        ] {
            assert_eq!(LeftOut::new(&[pattern.into()]).has(&path.into()), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn one_of_them_lies_below() {
        let sorted = ["/", "/a", "/a-b/c", "/a/b", "/b", "/c/d/e"].map(BytePath::from);
        assert!(sorted.is_sorted());
        for (dir, expected) in [
            ("/", true),
            ("/a", true),
            ("/a-b", true),
            ("/a/b", false),
            ("/b", false),
            ("/c", true),
            ("/c/d", true),
            ("/c/d/e", false),
            ("/d", false),
        ] {
            assert_eq!(any_below(&sorted, &dir.into()), expected, "{dir}");
        }
    }

    #[test]
    fn what_lies_below() {
        for (path, above, expected) in [
            ("/a/b", "/a", true),
            ("/a", "/a", true),
            ("/a", "/a/", true),
            ("/ab", "/a", false),
            ("/a", "/a/b", false),
            ("/a", "/", true),
            ("/", "/", true),
        ] {
            assert_eq!(is_below(&path.into(), &above.into()), expected, "{path} {above}");
        }
    }
}
