//! The API server's JSON: pages of EndpointSlices, and the lines of a watch. No clock, no I/O.

#![warn(clippy::disallowed_methods)]

use crate::kubernetes::reflector::{Heard, Page};
use crate::kubernetes::slices::{EndpointSlice, Named, Slice, read};
use crate::member::Member;
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

/// Errors of the API server's JSON.
#[derive(Debug, Error)]
pub enum JsonError {
    /// It is another JSON, or none.
    #[error("the answer is no JSON of EndpointSlices")]
    Json(#[source] serde_json::Error),
    /// The watch brought an error.
    #[error("the API server ended the watch: {code} {reason}")]
    Status {
        /// The status, as HTTP has them; 410 for a version that was forgotten.
        code: i32,
        /// Its word for it.
        reason: String,
    },
}

#[derive(Deserialize)]
struct SliceList<'a> {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    resource_version: String,
    r#continue: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    code: i32,
    reason: String,
}

#[derive(Deserialize)]
struct Event<'a> {
    r#type: Kind,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Kind {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
    #[serde(other)]
    Unknown,
}

/// Reads a page. A slice that cannot be read is counted and left out.
///
/// # Errors
/// Another JSON than a list.
pub(crate) fn page(bytes: &[u8], named: &Named) -> Result<Page, JsonError> {
    let list: SliceList<'_> = serde_json::from_slice(bytes).map_err(JsonError::Json)?;
    let items = list.items.len();
    let slices = list.items.into_iter().filter_map(|item| {
        let slice: EndpointSlice = serde_json::from_str(item.get()).ok()?;
        let name = Some(slice.metadata.name.clone()).filter(|name| !name.is_empty())?;
        Some((name, read(slice, named)))
    });
    let slices: Vec<_> = slices.collect();
    let ListMeta { resource_version: version, r#continue: token } = list.metadata;
    let token = Some(token).filter(|token| !token.is_empty());
    Ok(Page { refused: items - slices.len(), slices, version, token })
}

/// Reads a line of a watch; none for a kind of event that does not matter here.
///
/// # Errors
/// Another JSON than an event; an event that is an error.
pub(crate) fn event(line: &[u8], named: &Named) -> Result<Option<Heard>, JsonError> {
    let Event { r#type: kind, object } = serde_json::from_slice(line).map_err(JsonError::Json)?;
    match kind {
        Kind::Unknown => return Ok(None),
        Kind::Error => {
            let status: Status = serde_json::from_str(object.get()).map_err(JsonError::Json)?;
            // A word of theirs goes into our log.
            let reason = status.reason.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
            return Err(JsonError::Status { code: status.code, reason });
        }
        Kind::Added | Kind::Modified | Kind::Deleted | Kind::Bookmark => {}
    }
    let slice: EndpointSlice = serde_json::from_str(object.get()).map_err(JsonError::Json)?;
    let (version, name) = (slice.metadata.resource_version.clone(), slice.metadata.name.clone());
    Ok(Some(match kind {
        Kind::Bookmark => Heard::Bookmark { version },
        Kind::Deleted => Heard::Remove { name, version },
        _ => Heard::Put { name, slice: read(slice, named), version },
    }))
}

/// Reads a page, or a line of a watch, for its members: what a fuzzer can call.
///
/// # Errors
/// Another JSON than either.
pub fn read_slices(bytes: &[u8]) -> Result<Vec<Member>, JsonError> {
    let slices: Vec<Slice> = match (page(bytes, &anything()), event(bytes, &anything())) {
        (Ok(page), _) => page.slices.into_iter().map(|(_, slice)| slice).collect(),
        (Err(_), Ok(Some(Heard::Put { slice, .. }))) => vec![slice],
        (Err(_), Ok(_)) => Vec::new(),
        (Err(error), Err(_)) => return Err(error),
    };
    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    Ok(endpoints.map(|endpoint| endpoint.found.member.clone()).collect())
}

fn anything() -> Named {
    use crate::config::Port;
    Named { namespace: "n".into(), service: "s".into(), port: Port::Name("peers".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_that_cannot_be_read_does_not_hide_the_others() {
        let text = r#"{"metadata": {"resourceVersion": "7", "continue": ""}, "items": [
            {"metadata": {"name": "a"}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}],
             "ports": [{"name": "peers", "port": 1}]},
            {"metadata": {"name": "b"}, "endpoints": "many"}, 7, {"metadata": {}}]}"#;
        let page = page(text.as_bytes(), &anything()).expect("a page");
        assert_eq!((page.slices.len(), page.refused, page.version.as_str(), page.token), (1, 3, "7", None));
        for text in ["", "[]", "{}", "<html>", "{\"items\": {}}"] {
            assert!(matches!(read_slices(text.as_bytes()), Err(JsonError::Json(_))), "{text}");
        }
    }

    #[test]
    fn the_lines_of_a_watch_are_told_apart() {
        let line = |kind: &str, object: &str| format!(r#"{{"type": "{kind}", "object": {object}}}"#);
        let slice = r#"{"metadata": {"name": "a", "resourceVersion": "9"}, "addressType": "IPv4", "endpoints": []}"#;
        let read = |text: &str| event(text.as_bytes(), &anything());
        assert!(matches!(read(&line("ADDED", slice)), Ok(Some(Heard::Put { .. }))));
        assert!(matches!(read(&line("MODIFIED", slice)), Ok(Some(Heard::Put { .. }))));
        assert!(matches!(read(&line("DELETED", slice)), Ok(Some(Heard::Remove { .. }))));
        let mark =
            r#"{"kind": "EndpointSlice", "metadata": {"resourceVersion": "10"}, "addressType": "", "endpoints": null}"#;
        assert_eq!(read(&line("BOOKMARK", mark)).expect("a mark"), Some(Heard::Bookmark { version: "10".into() }));
        assert_eq!(read(&line("RENAMED", "{}")).expect("a kind of a later release"), None);
        let gone = r#"{"kind": "Status", "code": 410, "reason": "Expired\n<b>"}"#;
        let error = read(&line("ERROR", gone)).expect_err("an error");
        assert!(matches!(&error, JsonError::Status { code: 410, reason } if reason == "Expiredb"), "{error}");
        assert!(matches!(read("{}"), Err(JsonError::Json(_))));
    }
}
