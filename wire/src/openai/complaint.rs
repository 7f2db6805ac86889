//! A parser's complaint of a value, in the words of the API: clients know lists and objects, and no type of ours.

/// The message for the value at `path`.
pub(super) fn complaint(path: &str, cause: &str) -> String {
    // The place is one in the field's own text, which nobody sees; the path says it.
    let said = cause.rsplit_once(" at line ").map_or(cause, |(said, _)| said);
    let mismatch =
        ["invalid type: ", "invalid value: ", "invalid length "].iter().find_map(|kind| said.strip_prefix(kind));
    if let Some((found, wanted)) = mismatch.and_then(|rest| rest.rsplit_once(", expected ")) {
        return format!("`{path}` must be {}, not {}", wanted_in_words(wanted), found_in_words(found));
    }
    if let Some(name) = said.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        return format!("`{path}.{name}` is required");
    }
    if let Some(rest) = said.strip_prefix("unknown variant ") {
        return format!("`{path}` has an unknown type, {}", rest.replace(", expected ", "; known is "));
    }
    if said.starts_with("data did not match any variant") {
        return format!("`{path}` has a form that is not known");
    }
    format!("`{path}`: {said}")
}

fn wanted_in_words(wanted: &str) -> &str {
    match wanted {
        "a sequence" => "a list",
        "a map" => "an object",
        "a boolean" => "`true` or `false`",
        "f32" | "f64" => "a number",
        "u8" | "u16" | "u32" | "u64" | "usize" => "an integer of at least 0",
        "i8" | "i16" | "i32" | "i64" | "isize" => "an integer",
        // The name of one of our types.
        other if other.starts_with("struct ") || other.starts_with("internally tagged enum ") => "an object",
        other if other.starts_with("enum ") => "one of the values that are known",
        other => other,
    }
}

fn found_in_words(found: &str) -> &str {
    match found {
        "sequence" => "a list",
        "map" => "an object",
        "null" | "unit value" => "null",
        other => {
            let value = ["integer `", "floating point `", "boolean `"].iter().find_map(|kind| other.strip_prefix(kind));
            value.and_then(|value| value.strip_suffix('`')).or_else(|| other.strip_prefix("string ")).unwrap_or(other)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde::de::DeserializeOwned;
    use std::collections::BTreeMap;

    #[derive(Debug, Deserialize)]
    struct Thing {
        #[serde(rename = "name")]
        _name: String,
    }

    fn of<T: DeserializeOwned>(json: &str) -> String {
        let cause = serde_json::from_str::<T>(json).err().expect(json);
        complaint("x", &cause.to_string())
    }

    #[test]
    fn no_word_of_the_parsers_language_is_left() {
        for (said, expected) in [
            (of::<Vec<String>>(r#""a, expected b""#), r#"`x` must be a list, not "a"#),
            (of::<Vec<String>>("[5]"), "`x` must be a string, not 5"),
            (of::<BTreeMap<String, f64>>(r#"{"1": "y"}"#), r#"`x` must be a number, not "y""#),
            (of::<BTreeMap<String, f64>>("[]"), "`x` must be an object, not a list"),
            (of::<Vec<u32>>("[-1]"), "`x` must be an integer of at least 0, not -1"),
            (of::<Vec<u32>>("[1.5]"), "`x` must be an integer of at least 0, not 1.5"),
            (of::<bool>("null"), "`x` must be `true` or `false`, not null"),
            (of::<String>("true"), "`x` must be a string, not true"),
            (of::<Thing>("5"), "`x` must be an object, not 5"),
            (of::<Thing>("{}"), "`x.name` is required"),
        ] {
            assert!(said.starts_with(expected), "{said}");
            assert!(!said.contains(" at line "), "{said}");
        }
    }
}
