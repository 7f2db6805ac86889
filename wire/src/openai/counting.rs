//! Asking a worker to count the tokens of a stream, where its client did not.

use super::scan::lexer::{Fault, Lexer};
use super::scan::{Scan, Span, unescape};
use super::splice::Edit;
use bytes::Bytes;

/// The option, as a member.
const ASKED: &[u8] = br#""include_usage":true"#;
/// The deepest nesting of options; the scan has bounded them.
const DEPTH_MAX: u16 = 256;

/// The edit by which a streamed answer ends with a chunk of `usage`; `None` where it does anyway, or is not streamed.
#[must_use]
pub fn ask_for_usage(body: &[u8], scan: &Scan) -> Option<Edit> {
    if !scan.stream() {
        return None;
    }
    let Some(options) = scan.place("stream_options") else {
        let at = body.iter().position(|byte| *byte == b'{')? + 1;
        // It is streamed, so there is a member that follows.
        return Some(edit(at, at, [br#""stream_options":{"#, ASKED, b"},"].concat()));
    };
    let start = options.start as usize;
    if options.is_empty() {
        return Some(edit(start, start + b"null".len(), [b"{", ASKED, b"}"].concat()));
    }
    match option(options.of(body)) {
        Ok(Place::Value(value)) if value.of(options.of(body)) == b"true" => None,
        Ok(Place::Value(value)) => {
            Some(edit(start + value.start as usize, start + value.end as usize, b"true".to_vec()))
        }
        Ok(Place::Absent { is_empty }) => {
            let comma: &[u8] = if is_empty { b"" } else { b"," };
            Some(edit(start + 1, start + 1, [ASKED, comma].concat()))
        }
        // The scan has read the same bytes.
        Err(_) => None,
    }
}

fn edit(start: usize, end: usize, with: Vec<u8>) -> Edit {
    Edit { span: Span::new(start, end), with: Bytes::from(with) }
}

enum Place {
    Value(Span),
    Absent { is_empty: bool },
}

/// The place of `include_usage` in the options.
fn option(options: &[u8]) -> Result<Place, Fault> {
    let mut lexer = Lexer::lenient(options, DEPTH_MAX);
    lexer.open()?;
    let mut is_empty = true;
    while lexer.another(b'}', is_empty)? {
        is_empty = false;
        let name = lexer.name()?;
        lexer.peek();
        let start = lexer.at();
        lexer.walk(|_, _| Ok(()))?;
        if unescape(lexer.bytes(name)) == "include_usage" {
            return Ok(Place::Value(Span::new(start, lexer.at())));
        }
    }
    Ok(Place::Absent { is_empty })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::CHAT;
    use crate::openai::scan::{Limits, scan};
    use crate::openai::splice::splice;

    fn asked(body: &str) -> Option<String> {
        let read = scan(body.as_bytes(), &CHAT, &Limits::default()).expect(body);
        let edit = ask_for_usage(body.as_bytes(), &read)?;
        let whole = splice(&Bytes::copy_from_slice(body.as_bytes()), &[edit]).concat();
        Some(String::from_utf8(whole).expect("text"))
    }

    #[test]
    fn only_what_must_change_changes() {
        for (body, expected) in [
            (r#"{"stream":true,"x":[1.50]}"#, r#"{"stream_options":{"include_usage":true},"stream":true,"x":[1.50]}"#),
            (" { \"stream\":true}", " {\"stream_options\":{\"include_usage\":true}, \"stream\":true}"),
            (r#"{"stream":true,"stream_options":null}"#, r#"{"stream":true,"stream_options":{"include_usage":true}}"#),
            (r#"{"stream":true,"stream_options":{}}"#, r#"{"stream":true,"stream_options":{"include_usage":true}}"#),
            (
                r#"{"stream_options":{ "x":{"a":1e3}},"stream":true}"#,
                r#"{"stream_options":{"include_usage":true, "x":{"a":1e3}},"stream":true}"#,
            ),
            (
                r#"{"stream":true,"stream_options":{"x":1,"include\u005fusage": false }}"#,
                r#"{"stream":true,"stream_options":{"x":1,"include\u005fusage": true }}"#,
            ),
            (
                r#"{"stream":true,"stream_options":{"include_usage":null}}"#,
                r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
            ),
            ("\u{feff}{\"stream\":true}", "\u{feff}{\"stream_options\":{\"include_usage\":true},\"stream\":true}"),
        ] {
            let whole = asked(body).expect(body);
            assert_eq!(whole, expected);
            assert_eq!(asked(&whole), None, "{whole}");
        }
        for body in [r#"{"x":1}"#, r#"{"stream":false,"stream_options":{}}"#] {
            assert_eq!(asked(body), None, "{body}");
        }
    }
}
