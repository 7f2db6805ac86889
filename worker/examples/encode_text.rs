//! Encodes and decodes with a model's own tokenizer: JSON objects in, one a line (`file`, `text` and `special`, or
//! `ids`), JSON objects out (`ids`, `decoded`, `skipped`, `streamed`). For comparing with the `tokenizers` library of
//! Python, see `tests/fixtures/tokens.py`.

use std::collections::HashMap;
use std::io::{BufRead, Error, Write};
use std::sync::Arc;

use models::gguf;
use models::tokenizer::{Detokenizer, TextFiles, Tokenizer};
use serde_json::{Value, json};

fn main() -> std::io::Result<()> {
    let mut tokenizers = HashMap::new();
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let case: Value = serde_json::from_str(&line?).map_err(Error::other)?;
        let file = case["file"].as_str().unwrap_or_default().to_owned();
        if !tokenizers.contains_key(&file) {
            tokenizers.insert(file.clone(), Arc::new(open(&file)?));
        }
        writeln!(out, "{}", answer(&tokenizers[&file], &case))?;
    }
    Ok(())
}

/// The tokenizer in a `tokenizer.json` or in a GGUF file.
fn open(file: &str) -> std::io::Result<Tokenizer> {
    let bytes = std::fs::read(file)?;
    if !file.ends_with(".gguf") {
        return Tokenizer::parse(&TextFiles::new(&bytes)).map_err(Error::other);
    }
    let header = loader::gguf::parse(&bytes, bytes.len() as u64).map_err(Error::other)?;
    let own = gguf::tokenizer(&header).map_err(Error::other)?;
    let said = gguf::text(&header).map_err(Error::other)?;
    Tokenizer::parse(&TextFiles { gguf: Some(&said), ..TextFiles::new(&own) }).map_err(Error::other)
}

fn answer(tokenizer: &Arc<Tokenizer>, case: &Value) -> Value {
    let ids: Vec<u32> = match case["text"].as_str() {
        Some(text) => match tokenizer.encode(text, case["special"] == true) {
            Ok(ids) => ids,
            Err(error) => return json!({"error": error.to_string()}),
        },
        None => case["ids"].as_array().into_iter().flatten().filter_map(Value::as_u64).map(|id| id as u32).collect(),
    };
    let mut detokenizer = Detokenizer::new(Arc::clone(tokenizer), &[], false);
    let mut streamed: String = ids.iter().map(|id| detokenizer.push(*id)).collect();
    streamed.push_str(&detokenizer.finish());
    let (decoded, skipped) = (tokenizer.decode(&ids, false), tokenizer.decode(&ids, true));
    json!({"ids": ids, "decoded": decoded, "skipped": skipped, "streamed": streamed})
}
