//! Claims about the scan of any bytes, by comparison with `serde_json`. Searched by proptest and by a fuzz
//! target.

use serde_json::Value;
use std::collections::HashSet;
use wire::openai::endpoint::{ENDPOINTS, Endpoint, Field, Kind, TextRole};
use wire::openai::scan::{Limits, Scan, scan};

/// Whatever the bytes are, they are scanned or refused, and what is scanned is what `serde_json` reads.
pub(crate) fn scanned(body: &[u8]) {
    for endpoint in ENDPOINTS {
        match scan(body, endpoint, &Limits::default()) {
            Ok(found) => agrees(body, endpoint, &found),
            Err(error) => {
                super::refusal(&error);
                let is_right = ["must be", "twice", "more than"].iter().any(|word| error.message.contains(word));
                let reads = serde_json::from_slice::<Value>(body).is_ok_and(|value| value.is_object());
                assert!(is_right || !reads, "serde_json reads what was refused: {}", error.message);
            }
        }
    }
}

fn agrees(body: &[u8], endpoint: &Endpoint, found: &Scan) {
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let value = match serde_json::from_slice::<Value>(text) {
        Ok(value) => value,
        Err(error) => {
            // Numbers beyond a double and nesting beyond 128 levels are JSON all the same.
            let words = error.to_string();
            assert!(words.contains("out of range") || words.contains("recursion limit"), "{words}");
            return;
        }
    };
    for (field, span) in found.fields() {
        let read: Value = serde_json::from_slice(span.of(body)).expect("a field's value is JSON");
        assert_eq!(read, value[field.name], "{}", field.name);
    }
    assert!(found.unknown().len() <= 32);
    let fits = |name: &String| name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
    assert!(found.unknown().iter().all(fits), "{:?}", found.unknown());
    assert_eq!(found.model(body).as_deref(), value["model"].as_str());
    assert_eq!(found.stream(), value["stream"] == Value::Bool(true));
    texts(body, endpoint, found, &value);
}

/// Every string is found, save those of fields that reach no prompt, and words of the APIs.
fn texts(body: &[u8], endpoint: &Endpoint, found: &Scan, value: &Value) {
    let seen: HashSet<String> = found.texts().iter().map(|text| text.read(body).into_owned()).collect();
    for (name, member) in value.as_object().into_iter().flatten() {
        let mut strings = Vec::new();
        match endpoint.field(name.as_bytes()) {
            Some(field) if field.reaches.is_none() => continue,
            Some(_) => {}
            None => strings.push((name.as_str(), Place::Unknown)),
        }
        let place = match endpoint.field(name.as_bytes()) {
            Some(Field { reaches: Some(TextRole::Variable), .. }) => Place::Variable,
            Some(Field { kind: Kind::Messages, .. }) => Place::Messages,
            _ => Place::Unknown,
        };
        collect(member, place, &mut strings);
        for (string, _) in strings.iter().filter(|(string, place)| !is_structure(string, *place)) {
            assert!(seen.contains(*string), "{string:?} of {name:?} is not among {seen:?}");
        }
    }
    for text in found.texts() {
        assert!(text.raw.start >= 1 && text.raw.end as usize <= body.len());
    }
}

/// The place of a string.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    Messages,
    /// A variable of the template, which may print all of it.
    Variable,
    Unknown,
    /// The name of a member, or a value of `type`.
    Named,
}

fn collect<'v>(value: &'v Value, place: Place, out: &mut Vec<(&'v str, Place)>) {
    match value {
        Value::String(text) => out.push((text, place)),
        Value::Array(items) => items.iter().for_each(|item| collect(item, place, out)),
        Value::Object(members) => members.iter().for_each(|(name, member)| {
            let named = if place == Place::Unknown { Place::Named } else { place };
            out.push((name, named));
            collect(member, if name == "type" && !member.is_object() { named } else { place }, out);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Words that stand in requests without being anybody's.
fn is_structure(text: &str, place: Place) -> bool {
    const WORDS: &str = "type function name description parameters properties required id arguments text title \
                         json_schema schema object string number integer boolean array null role content system \
                         developer user assistant tool refusal audio tool_calls function_call tool_call_id prefix \
                         partial cache_control annotations include_usage include_obfuscation continuous_usage_stats";
    matches!(place, Place::Messages | Place::Named) && WORDS.split_whitespace().any(|word| word == text)
}
