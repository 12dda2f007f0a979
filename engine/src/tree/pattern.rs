//! How paths of a tree lie to each other, and the patterns that a transport leaves out, made of paths: their meaning is
//! that of [`PullRequest::exclude`](systemimager_core::PullRequest::exclude). Pure.

use systemimager_core::BytePath;
pub use systemimager_core::left_out::LeftOut;

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
