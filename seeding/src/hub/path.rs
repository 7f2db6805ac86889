//! The paths of the hub's read protocol, and of plain files. Pure.
//!
//! A revision may hold slashes (`refs/pr/1`), so it is one segment with `%2F`. A file's name may be percent-encoded in
//! any way that means the same. What leads out of a repository is no path.

use wire::manifest::check_name;

/// The longest name of an owner or a repository; the hub allows 96.
const PART_BYTES_MAX: usize = 96;
/// The longest revision; git refs are shorter.
const REVISION_BYTES_MAX: usize = 256;
/// The revision that is meant where none is named.
pub(super) const DEFAULT_REVISION: &str = "main";

/// The resource that a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// `/api/models/{repository}[/revision/{revision}]`: the description of a revision.
    Info {
        /// `ORG/NAME`, or `NAME` of the hub's oldest repositories.
        repository: String,
        /// A branch, tag or commit.
        revision: String,
    },
    /// `/api/models/{repository}/tree/{revision}[/{folder}]`: its files.
    Tree {
        /// As of a description.
        repository: String,
        /// As of a description.
        revision: String,
        /// The folder; empty for the whole repository.
        folder: String,
    },
    /// `/{repository}/resolve/{revision}/{name}`: a file.
    File {
        /// As of a description.
        repository: String,
        /// As of a description.
        revision: String,
        /// The file's name.
        name: String,
    },
    /// `/models[/{model}[/{file}]]`: models that the operator named.
    Plain {
        /// A model; none lists them.
        model: Option<String>,
        /// One of its files; none lists them.
        file: Option<String>,
    },
    /// A part of the hub that is not served here: its name, for people.
    Elsewhere(&'static str),
}

/// Reads a path, still percent-encoded, without its query. `None` for one that means nothing.
#[must_use]
pub fn parse(path: &str) -> Option<Resource> {
    let encoded: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    let segments: Vec<String> = encoded.into_iter().map(decoded).collect::<Option<_>>()?;
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["models", rest @ ..] => plain(rest),
        ["datasets", ..] | ["api", "datasets", ..] => Some(Resource::Elsewhere("datasets")),
        ["spaces", ..] | ["api", "spaces", ..] => Some(Resource::Elsewhere("spaces")),
        ["api", "models"] => Some(Resource::Elsewhere("search")),
        ["api", "models", rest @ ..] => api(rest),
        ["api", ..] => Some(Resource::Elsewhere("this part of the API")),
        [owner, name, "resolve", revision, file @ ..] if !file.is_empty() => file_of(&[owner, name], revision, file),
        [name, "resolve", revision, file @ ..] if !file.is_empty() => file_of(&[name], revision, file),
        _ => None,
    }
}

fn api(parts: &[&str]) -> Option<Resource> {
    let has_no_owner = parts.get(1).is_none_or(|second| is_verb(second));
    let (repository, rest) = parts.split_at_checked(if has_no_owner { 1 } else { 2 })?;
    let repository = repository_of(repository)?;
    match rest {
        [] => Some(Resource::Info { repository, revision: DEFAULT_REVISION.to_owned() }),
        ["revision", revision] => Some(Resource::Info { repository, revision: revision_of(revision)? }),
        ["tree", revision, folder @ ..] => {
            let folder = folder.join("/");
            let folder = folder.trim_end_matches('/').to_owned();
            (folder.is_empty() || check_name(&folder).is_ok()).then_some(())?;
            Some(Resource::Tree { repository, revision: revision_of(revision)?, folder })
        }
        _ => Some(Resource::Elsewhere("this part of the API")),
    }
}

/// Returns true for what may follow a repository's name in the API: such a repository has no owner.
fn is_verb(part: &str) -> bool {
    matches!(part, "revision" | "tree")
}

fn plain(parts: &[&str]) -> Option<Resource> {
    let (model, file) = match parts {
        [] | [""] => (None, None),
        [model] | [model, ""] => (Some((*model).to_owned()), None),
        [model, file @ ..] => (Some((*model).to_owned()), Some(file.join("/"))),
    };
    let is_name = |name: &Option<String>| name.as_ref().is_none_or(|name| check_name(name).is_ok());
    (is_name(&model) && is_name(&file)).then_some(Resource::Plain { model, file })
}

fn file_of(repository: &[&str], revision: &str, file: &[&str]) -> Option<Resource> {
    let name = file.join("/");
    check_name(&name).ok()?;
    Some(Resource::File { repository: repository_of(repository)?, revision: revision_of(revision)?, name })
}

fn repository_of(repository: &[&str]) -> Option<String> {
    let is_part = |part: &str| {
        (1..=PART_BYTES_MAX).contains(&part.len())
            && !part.starts_with('.')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    repository.iter().all(|part| is_part(part)).then(|| repository.join("/"))
}

fn revision_of(revision: &str) -> Option<String> {
    (revision.len() <= REVISION_BYTES_MAX && check_name(revision).is_ok()).then(|| revision.to_owned())
}

/// Percent-decoding; none where it is malformed or not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'%' {
            out.push(bytes[at]);
            at += 1;
            continue;
        }
        let digit = |place: usize| char::from(*bytes.get(place)?).to_digit(16);
        out.push(u8::try_from(digit(at + 1)? * 16 + digit(at + 2)?).ok()?);
        at += 3;
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(repository: &str, revision: &str, name: &str) -> Option<Resource> {
        let [repository, revision, name] = [repository, revision, name].map(str::to_owned);
        Some(Resource::File { repository, revision, name })
    }

    #[test]
    fn the_calls_of_the_hubs_clients_are_read() {
        let info = |repository: &str, revision: &str| {
            let [repository, revision] = [repository, revision].map(str::to_owned);
            Some(Resource::Info { repository, revision })
        };
        assert_eq!(parse("/api/models/org/name/revision/main"), info("org/name", "main"));
        assert_eq!(parse("/api/models/org/name/revision/refs%2Fpr%2F1"), info("org/name", "refs/pr/1"));
        assert_eq!(parse("/api/models/org/name"), info("org/name", "main"));
        assert_eq!(parse("/api/models/gpt2/revision/main"), info("gpt2", "main"));
        assert_eq!(parse("/org/name/resolve/main/config.json"), file("org/name", "main", "config.json"));
        assert_eq!(parse("/gpt2/resolve/main/a/b%20c.txt"), file("gpt2", "main", "a/b c.txt"));
        assert_eq!(parse("/org/name/resolve/v1.0%2Bcu/a%2Fb"), file("org/name", "v1.0+cu", "a/b"));
        let tree = |folder: &str| {
            let [repository, revision, folder] = ["org/name", "main", folder].map(str::to_owned);
            Some(Resource::Tree { repository, revision, folder })
        };
        assert_eq!(parse("/api/models/org/name/tree/main"), tree(""));
        assert_eq!(parse("/api/models/org/name/tree/main/"), tree(""));
        assert_eq!(parse("/api/models/org/name/tree/main/onnx/x"), tree("onnx/x"));
    }

    #[test]
    fn plain_files_are_read() {
        let plain = |model: Option<&str>, file: Option<&str>| {
            Some(Resource::Plain { model: model.map(str::to_owned), file: file.map(str::to_owned) })
        };
        assert_eq!(parse("/models"), plain(None, None));
        assert_eq!(parse("/models/"), plain(None, None));
        assert_eq!(parse("/models/tiny"), plain(Some("tiny"), None));
        assert_eq!(parse("/models/tiny/a/b.json"), plain(Some("tiny"), Some("a/b.json")));
    }

    #[test]
    fn what_is_not_served_is_named() {
        for (path, what) in [
            ("/datasets/org/name/resolve/main/x.parquet", "datasets"),
            ("/api/datasets/org/name/revision/main", "datasets"),
            ("/spaces/org/name/resolve/main/app.py", "spaces"),
            ("/api/models", "search"),
            ("/api/models/org/name/commits/main", "this part of the API"),
            ("/api/whoami-v2", "this part of the API"),
        ] {
            assert_eq!(parse(path), Some(Resource::Elsewhere(what)), "{path}");
        }
    }

    #[test]
    fn what_leads_out_of_a_repository_is_no_path() {
        for path in [
            "",
            "/",
            "/org/name",
            "/org/name/resolve/main",
            "/org/name/resolve/main/",
            "/org/name/resolve/main/../x",
            "/org/name/resolve/main/%2e%2e/x",
            "/org/name/resolve/main/a%2F..%2Fb",
            "/org/name/resolve/main/a%00b",
            "/org/name/resolve/main/a%5Cb",
            "/org/name/resolve/%2e%2e/x",
            "/org/name/resolve/main/a%zz",
            "/org/name/resolve/main/a%2",
            "/org/name/resolve/main/%ff",
            "/../name/resolve/main/x",
            "/org/na%20me/resolve/main/x",
            "/org%2Fname/x/resolve/main/y",
            "/models/../x",
            "/models/tiny/../x",
            "org/name/resolve/main/x",
        ] {
            assert_eq!(parse(path), None, "{path}");
        }
    }
}
