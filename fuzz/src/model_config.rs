//! Claims about any bytes that pose as a `config.json`.

use models::Config;

/// A config that is accepted has sizes that fit together and that no product of them overflows,
/// and reading it again gives the same.
pub(crate) fn check(bytes: &[u8]) {
    let Ok(config) = Config::parse(bytes) else { return };
    let sizes = [
        config.vocab_size,
        config.hidden_size,
        config.intermediate_size,
        config.layers,
        config.heads,
        config.kv_heads,
        config.head_dim,
        config.max_position_embeddings,
        config.max_position(),
    ];
    assert!(sizes.iter().all(|size| *size >= 1), "{sizes:?}");
    assert_eq!(config.heads % config.kv_heads, 0);
    assert_eq!(config.head_dim % 2, 0);
    assert_eq!(config.windows.len(), config.layers);
    assert!(config.windows.iter().all(|window| *window != Some(0)));
    assert!(config.rms_norm_eps.is_finite() && config.rms_norm_eps >= 0.0);
    assert!(config.query_width() >= config.kv_width());
    let widest = config.hidden_size.max(config.intermediate_size).max(config.query_width());
    let matrix_bytes = widest.checked_mul(config.vocab_size.max(widest)).and_then(|size| size.checked_mul(4));
    assert!(matrix_bytes.is_some_and(|bytes| bytes.checked_mul(config.layers * 16).is_some()));
    assert_eq!(Config::parse(bytes).expect("parsed before"), config);
}
