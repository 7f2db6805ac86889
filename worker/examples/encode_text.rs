//! Encodes and decodes with a model's own tokenizer: JSON objects in, one a line (`file`, `text` and `special`, or
//! `ids`), JSON objects out (`ids`, `decoded`, `skipped`, `streamed`). A file is a model directory, a `tokenizer.json` or a
//! GGUF file. For comparing with Python, see `tests/fixtures/tokens.py` and `evals/models/tokens`.

use std::collections::HashMap;
use std::io::{BufRead, Error, Write};
use std::path::Path;
use std::sync::Arc;

use models::gguf;
use models::tokenizer::{Detokenizer, TextFiles, Tokenizer};
use models::tokenizer_json::{self, Forms, MERGES_TXT, TEKKEN_JSON, TOKENIZER_MODEL, VOCAB_JSON};
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

/// The tokenizer in a directory, in a `tokenizer.json` or in a GGUF file.
fn open(file: &str) -> std::io::Result<Tokenizer> {
    if Path::new(file).is_dir() {
        return open_directory(Path::new(file));
    }
    let bytes = std::fs::read(file)?;
    if !file.ends_with(".gguf") {
        return Tokenizer::parse(&TextFiles::new(&bytes)).map_err(Error::other);
    }
    let header = loader::gguf::parse(&bytes, bytes.len() as u64).map_err(Error::other)?;
    let own = gguf::tokenizer(&header).map_err(Error::other)?;
    let said = gguf::text(&header).map_err(Error::other)?;
    Tokenizer::parse(&TextFiles { gguf: Some(&said), ..TextFiles::new(&own) }).map_err(Error::other)
}

fn open_directory(directory: &Path) -> std::io::Result<Tokenizer> {
    let read = |name: &str| std::fs::read(directory.join(name)).ok();
    let (config, special, added) =
        (read("tokenizer_config.json"), read("special_tokens_map.json"), read("added_tokens.json"));
    let [tekken, model, vocab, merges] = [TEKKEN_JSON, TOKENIZER_MODEL, VOCAB_JSON, MERGES_TXT].map(read);
    let forms = Forms {
        tekken_json: tekken.as_deref(),
        tokenizer_model: model.as_deref(),
        vocab_json: vocab.as_deref(),
        merges_txt: merges.as_deref(),
        tokenizer_config_json: config.as_deref(),
    };
    let (own, names) = match read("tokenizer.json") {
        Some(own) => (own, None),
        None => {
            let written = tokenizer_json::write(&forms).map_err(Error::other)?;
            let written = written.ok_or_else(|| Error::other("no tokenizer"))?;
            (written.tokenizer_json, Some(written.names))
        }
    };
    let files = TextFiles {
        tokenizer_config_json: config.as_deref(),
        special_tokens_map_json: special.as_deref(),
        added_tokens_json: added.as_deref(),
        names: names.as_ref(),
        ..TextFiles::new(&own)
    };
    Tokenizer::parse(&files).map_err(Error::other)
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
