//! Reads a fleet view: the answer of a router, or a file.

#![warn(clippy::disallowed_methods)]

use crate::member::{Member, is_host_name};
use crate::roster::Found;
use crate::source::Answer;
use wire::fleet::{FLEET_VERSION, FleetMember, FleetView};
use wire::peers::is_name;

/// Errors of a fleet view.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// It is no JSON, or has other fields.
    #[error("it is no fleet view; the form is {{\"members\": [{{\"address\": \"HOST:PORT\"}}]}}")]
    Json(#[source] serde_json::Error),
    /// It is newer than this release.
    #[error("it has version {version}, and this release reads {FLEET_VERSION} and older; use a newer release")]
    Version {
        /// Its version.
        version: u32,
    },
}

/// Reads the JSON of a view. Members that cannot be are counted and left out.
///
/// # Errors
/// Another text than a view, or one of a newer version.
pub(crate) fn answer(bytes: &[u8]) -> Result<Answer, ViewError> {
    let view: FleetView = serde_json::from_slice(bytes).map_err(ViewError::Json)?;
    if view.fleet_version > FLEET_VERSION {
        return Err(ViewError::Version { version: view.fleet_version });
    }
    let named = view.members.len();
    let found: Vec<Found> = view.members.into_iter().filter_map(found).collect();
    Ok(Answer { refused: named - found.len(), found })
}

/// Reads a view for its members: what a fuzzer can call.
///
/// # Errors
/// Another text than a view, or one of a newer version.
pub fn read_view(bytes: &[u8]) -> Result<Vec<Member>, ViewError> {
    Ok(answer(bytes)?.found.into_iter().map(|found| found.member).collect())
}

fn found(named: FleetMember) -> Option<Found> {
    let mut member = Member::at(&named.address).ok()?;
    if named.zone.as_deref().is_some_and(|zone| !is_name(zone)) {
        return None;
    }
    if let Some(id) = named.id {
        member.id = Some(id).filter(|id| is_name(id))?;
    }
    if let Some(name) = named.name {
        member.name = Some(name).filter(|name| is_host_name(name))?;
    }
    member.zone = named.zone;
    Some(Found { member, for_zones: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_cannot_be_are_left_out_and_the_others_stay() {
        let json = r#"{"members": [
            {"address": "10.0.0.1:1", "id": "a", "zone": "z", "name": "a.example"}, {"address": "10.0.0.2:2"},
            {"address": "x"}, {"address": "a:1", "id": "a,b"}, {"address": "a:1", "id": ""},
            {"address": "a:1", "name": "a b"}, {"address": "a:1", "zone": "\u0000"}, {"address": "a:1", "id": "é"}]}"#;
        let answer = answer(json.as_bytes()).expect("a view");
        assert_eq!(answer.refused, 6);
        let named = Member {
            id: "a".into(),
            zone: Some("z".into()),
            name: "a.example".into(),
            ..answer.found[1].member.clone()
        };
        let named = Member { address: "10.0.0.1:1".into(), ..named };
        assert_eq!(answer.found[0].member, named);
        assert_eq!(
            (answer.found[1].member.id.as_str(), answer.found[1].member.name.as_str()),
            ("10.0.0.2:2", "10.0.0.2")
        );
    }

    #[test]
    fn another_text_is_an_error() {
        for text in ["", "[]", "{}", "{\"members\": 7}", "{\"members\": [{}]}", "<html>"] {
            assert!(matches!(read_view(text.as_bytes()), Err(ViewError::Json(_))), "{text}");
        }
        let newer = r#"{"fleet_version": 2, "members": []}"#;
        assert!(matches!(read_view(newer.as_bytes()), Err(ViewError::Version { version: 2 })));
    }
}
