//! Renders chat templates: JSON objects in, one a line (`template`, `messages`, `variables`), JSON objects out
//! (`rendered` or `error`). For comparing with Jinja2, see `tests/fixtures/dialect.py`.

use std::io::{BufRead, Write};

use models::template::ChatTemplate;
use models::tokenizer::{TextFiles, Tokenizer};
use serde_json::{Map, Value, json};

/// 2026-03-05 07:08:09 UTC.
const NOW: u64 = 1_772_694_489;

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let case: Value = serde_json::from_str(&line?).map_err(std::io::Error::other)?;
        writeln!(out, "{}", rendered(&case))?;
    }
    Ok(())
}

fn rendered(case: &Value) -> Value {
    let source = case["template"].as_str().unwrap_or_default();
    let files = TextFiles { chat_template_jinja: Some(source), ..TextFiles::new(models::demo::TOKENIZER) };
    let empty = Map::new();
    let variables = case["variables"].as_object().unwrap_or(&empty);
    let template = Tokenizer::parse(&files).ok().and_then(|tokenizer| ChatTemplate::parse(&files, &tokenizer));
    match template.map(|template| template.render_json(&case["messages"], variables, true, NOW)) {
        Some(Ok(text)) => json!({"rendered": text}),
        Some(Err(error)) => json!({"error": error.to_string()}),
        None => json!({"error": "no tokenizer"}),
    }
}
