//! Jinja2's tags in the dialect of the library, and bounds of what is in one.
//!
//! It looks at text, before there is a tree.

/// The most words and signs in one tag. Published templates have up to some 2,400 (a table of languages).
const TOKENS_MAX: usize = 4000;

/// A template in the library's dialect of tags.
///
/// `{% generation %}` and its end, with which transformers marks the assistant's words for training, become a scope of
/// their own: the same white space is trimmed and the same text comes out. The line feed behind `{% raw %}`, which the
/// library trims and Jinja2 does not, is doubled. `\U0001F642` in a tag becomes a pair of surrogates, which it reads.
pub(super) fn in_library_tags(source: &str) -> Result<String, String> {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find(['{']) {
        let (before, tag) = rest.split_at(start);
        text.push_str(before);
        let close = match tag.as_bytes().get(1) {
            Some(b'%') => "%}",
            Some(b'{') => "}}",
            Some(b'#') => "#}",
            _ => {
                text.push('{');
                rest = &tag[1..];
                continue;
            }
        };
        let Some(end) = tag[2..].find(close).map(|end| end + 2) else {
            rest = tag;
            break;
        };
        rest = &tag[end + 2..];
        if close != "#}" && tokens(&tag[2..end]) > TOKENS_MAX {
            return Err(format!("a tag has more than {TOKENS_MAX} words and signs"));
        }
        if close == "%}" {
            rest = block_tag(&mut text, &tag[2..end], rest);
        } else {
            push_with_surrogates(&mut text, &tag[..end + 2]);
        }
    }
    text.push_str(rest);
    Ok(text)
}

/// Words and signs outside of quotes, at least.
fn tokens(tag: &str) -> usize {
    let (mut count, mut quote, mut in_word, mut escaped) = (0, None, false, false);
    for character in tag.chars() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if character == '\\' => escaped = true,
            Some(open) if character == open => quote = None,
            Some(_) => {}
            None => {
                let is_word = character.is_alphanumeric() || character == '_';
                let goes_on = is_word && in_word;
                count += usize::from(!character.is_whitespace() && !goes_on);
                in_word = is_word;
                quote = (character == '\'' || character == '"').then_some(character);
            }
        }
    }
    count
}

/// Writes one `{% … %}`, and all of a raw block; returns what follows.
fn block_tag<'a>(text: &mut String, inner: &str, after: &'a str) -> &'a str {
    let word = inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
    text.push_str("{%");
    match word {
        "generation" => text.push_str(&inner.replacen(word, "with", 1)),
        "endgeneration" => text.push_str(&inner.replacen(word, "endwith", 1)),
        _ => push_with_surrogates(text, inner),
    }
    text.push_str("%}");
    if word != "raw" {
        return after;
    }
    text.push_str(if after.starts_with('\n') && !inner.ends_with('-') { "\n" } else { "" });
    let close = after.match_indices("{%").find(|(at, _)| is_end_of_raw(&after[at + 2..]));
    let (raw, behind) = after.split_at(close.map_or(after.len(), |(at, _)| at));
    text.push_str(raw);
    behind
}

fn push_with_surrogates(text: &mut String, tag: &str) {
    let mut parts = tag.split("\\U");
    text.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let code = part.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok()).and_then(char::from_u32);
        match code {
            Some(code) => {
                let mut units = [0; 2];
                code.encode_utf16(&mut units).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
                text.push_str(&part[8..]);
            }
            None => {
                text.push_str("\\U");
                text.push_str(part);
            }
        }
    }
}

fn is_end_of_raw(inner: &str) -> bool {
    inner.trim_start_matches(|c: char| c.is_whitespace() || c == '-' || c == '+').starts_with("endraw")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_marks_keep_their_white_space_marks() {
        assert_eq!(
            in_library_tags("a{%- generation -%} b {% endgeneration %}{% if generation %}{%").as_deref(),
            Ok("a{%- with -%} b {% endwith %}{% if generation %}{%")
        );
        assert_eq!(
            in_library_tags("{% raw %}\n{% generation %}{% endraw %}{% generation %}").as_deref(),
            Ok("{% raw %}\n\n{% generation %}{% endraw %}{% with %}")
        );
    }
}
