//! Names of objects as parts of a path. Pure.

/// A name as the path of a URL: every byte that could mean something else is percent-encoded, `+`
/// too, which some servers take for a space. None if the name leads out of its directory.
pub(super) fn encoded(name: &str) -> Option<String> {
    if !is_inside(name) {
        return None;
    }
    let mut path = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => path.push(byte.into()),
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    Some(path)
}

/// [`encoded`], slashes too: a revision as one part of a path.
pub(super) fn encoded_whole(text: &str) -> Option<String> {
    encoded(text).map(|path| path.replace('/', "%2F"))
}

/// Returns true if a name stays in its directory: relative, and no part of it empty, `.` or `..`.
pub(super) fn is_inside(name: &str) -> bool {
    name.split('/').all(|part| !matches!(part, "" | "." | "..")) && !name.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_slashes_and_nothing_else_of_meaning() {
        assert_eq!(encoded("a b/ü+%?#.bin").as_deref(), Some("a%20b/%C3%BC%2B%25%3F%23.bin"));
        assert_eq!(encoded_whole("refs/pr/1").as_deref(), Some("refs%2Fpr%2F1"));
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_none() {
        for name in ["", "/a", "a/", "a//b", "../a", "a/./b", "a/..", "a\0"] {
            assert_eq!(encoded(name), None, "{name:?}");
        }
        assert!(is_inside("..a/b..c"));
    }
}
