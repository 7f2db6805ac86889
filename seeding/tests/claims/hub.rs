//! Claims about every request for a file: its path, and its range.

use seeding::hub::path::{Resource, parse};
use seeding::hub::range::{Wanted, holds, names, wanted};
use wire::manifest::check_name;

/// The first line is a path, the second a `Range`, the third a list of tags; the rest says how long the file is.
pub(crate) fn check(request: &[u8]) {
    let text = String::from_utf8_lossy(request);
    let mut lines = text.splitn(4, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (path, range, tags, rest) = (line(), line(), line(), line());
    check_path(path);
    for bytes in [0, 1, rest.len() as u64, u64::MAX] {
        check_range(range, bytes);
    }
    let _ = (names(tags, "\"e\""), holds(tags, "\"e\""));
}

/// Names stay inside their repository, which has one owner at most; revisions are names as well.
fn check_path(path: &str) {
    let check_repository = |repository: &str| {
        let parts: Vec<&str> = repository.split('/').collect();
        assert!(
            parts.len() <= 2 && parts.iter().all(|part| !part.is_empty() && !part.starts_with('.')),
            "{repository}"
        );
    };
    match parse(path) {
        Some(Resource::File { repository, revision, name }) => {
            check_repository(&repository);
            assert!(check_name(&name).is_ok() && check_name(&revision).is_ok(), "{name} at {revision}");
        }
        Some(Resource::Tree { repository, revision, folder }) => {
            check_repository(&repository);
            assert!(folder.is_empty() || check_name(&folder).is_ok(), "{folder}");
            assert!(check_name(&revision).is_ok(), "{revision}");
        }
        Some(Resource::Info { repository, revision }) => {
            check_repository(&repository);
            assert!(check_name(&revision).is_ok(), "{revision}");
        }
        Some(Resource::Plain { model, file }) => {
            assert!(model.iter().chain(&file).all(|name| check_name(name).is_ok()), "{model:?} {file:?}");
        }
        Some(Resource::Elsewhere(_)) | None => {}
    }
}

/// A part is within its file, and none of it is empty.
fn check_range(range: &str, bytes: u64) {
    if let Wanted::Part(part) = wanted(range, bytes) {
        assert!(part.start < part.end && part.end <= bytes, "{range:?} of {bytes}: {part:?}");
    }
}
