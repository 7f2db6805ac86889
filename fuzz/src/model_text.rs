//! Claims about any bytes that pose as the files for a model's text: tokenizer, settings, template.

use loader::gguf;
use models::Config;
use models::embedding::{Embedder, EmbeddingFiles};
use models::gguf::{config_json, text, tokenizer};
use models::template::ChatTemplate;
use models::tokenizer::{TextFiles, Tokenizer};
use models::tokenizer_json::{Forms, write};
use serde_json::{Map, json};

/// Divides the files of one input.
const BETWEEN: u8 = 0x1E;

/// A tokenizer that every template is compiled beside.
const TOKENIZER: &str = r#"{"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
    "post_processor": null, "decoder": null, "model": {"type": "BPE", "dropout": null, "unk_token": null,
    "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
    "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}}"#;

/// Settings and template beside a tokenizer: `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`,
/// `generation_config.json` and `chat_template.jinja`, or fewer.
pub(crate) fn check(bytes: &[u8]) {
    let mut files = bytes.split(|byte| *byte == BETWEEN).map(Some);
    let mut next = || files.next().flatten().filter(|file| !file.is_empty());
    let (config, map, added, generation) = (next(), next(), next(), next());
    let template = next().map(|template| String::from_utf8_lossy(template).into_owned());
    check_files(&TextFiles {
        tokenizer_config_json: config,
        special_tokens_map_json: map,
        added_tokens_json: added,
        generation_config_json: generation,
        chat_template_jinja: template.as_deref(),
        ..TextFiles::new(TOKENIZER.as_bytes())
    });
}

/// The files of `sentence-transformers`, and `config.json`: what is accepted makes finite numbers of finite ones.
pub(crate) fn check_embedding(bytes: &[u8]) {
    let mut files = bytes.split(|byte| *byte == BETWEEN).map(Some);
    let mut next = || files.next().flatten().filter(|file| !file.is_empty());
    let (modules_json, pooling_json, sentence_json, config_json) = (next(), next(), next(), next());
    let files = EmbeddingFiles { modules_json, pooling_json, sentence_json, config_json: config_json.unwrap_or(b"{}") };
    for is_encoder in [false, true] {
        let Ok(embedder) = Embedder::parse(&files, is_encoder) else { continue };
        assert!(embedder.max_tokens != Some(0) && embedder.allows(8, 8) && !embedder.allows(9, 8));
        for state in [[0.0_f32; 8], [1e-30; 8], [-3.0; 8]] {
            let mut state = state.to_vec();
            embedder.finish(&mut state, (1..8).find(|dimensions| embedder.allows(*dimensions, 8)));
            assert!(state.iter().all(|number| number.is_finite()), "{state:?}");
        }
    }
}

/// A whole GGUF file: what is accepted of it as a config is one, and its text is text.
pub(crate) fn check_gguf(bytes: &[u8]) {
    let Ok(gguf) = gguf::parse(bytes, bytes.len() as u64) else { return };
    if let Ok(config) = config_json(&gguf) {
        // Bounds are checked where every config's are; the bytes are JSON in any case.
        let _ = Config::parse(&config);
        assert!(serde_json::from_slice::<Map<String, serde_json::Value>>(&config).is_ok());
    }
    let (Ok(said), Ok(own)) = (text(&gguf), tokenizer(&gguf)) else { return };
    check_files(&TextFiles { gguf: Some(&said), ..TextFiles::new(&own) });
}

/// A vocabulary in another form, by the first byte, and its settings: what is read becomes a tokenizer's document.
pub(crate) fn check_forms(bytes: &[u8]) {
    let Some((form, rest)) = bytes.split_first() else { return };
    let mut files = rest.splitn(2, |byte| *byte == BETWEEN);
    let (one, other) = (files.next().unwrap_or_default(), files.next().unwrap_or_default());
    let settings = (!other.is_empty()).then_some(other);
    let forms = match form % 3 {
        0 => Forms { tekken_json: Some(one), ..Forms::default() },
        1 => Forms { tokenizer_model: Some(one), tokenizer_config_json: settings, ..Forms::default() },
        _ => Forms {
            vocab_json: Some(one),
            merges_txt: Some(other),
            tokenizer_config_json: Some(br#"{"tokenizer_class": "GPT2Tokenizer"}"#),
            ..Forms::default()
        },
    };
    let Ok(Some(written)) = write(&forms) else { return };
    assert!(serde_json::from_slice::<Map<String, serde_json::Value>>(&written.tokenizer_json).is_ok());
    check_files(&TextFiles { names: Some(&written.names), ..TextFiles::new(&written.tokenizer_json) });
}

/// An accepted model has defaults that a request could have, spells every token, and renders within its bounds.
fn check_files(files: &TextFiles<'_>) {
    let Ok(tokenizer) = Tokenizer::parse(files) else { return };
    let defaults = tokenizer.defaults();
    assert!(defaults.temperature.is_none_or(|it| (0.0..=2.0).contains(&it)));
    assert!(defaults.top_p.is_none_or(|it| it > 0.0 && it <= 1.0));
    assert!(defaults.top_k.is_none_or(|it| it >= 1));
    assert!(defaults.repetition_penalty.is_none_or(|it| it > 0.0));
    if let Ok(ids) = tokenizer.encode("ab a\u{301}<|x|>", true) {
        let _ = tokenizer.decode(&ids, false);
    }
    let Some(template) = ChatTemplate::parse(files, &tokenizer) else { return };
    let messages = json!([{"role": "user", "content": "ab"}, {"role": "assistant", "content": null}]);
    if let Ok(text) = template.render_json(&messages, &Map::new(), true, 0) {
        assert!(text.len() <= 8 << 20);
    }
}
