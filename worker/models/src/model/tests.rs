//! Binding: what is missing, extra, misshapen or of another dtype is named.

use std::collections::BTreeMap;
use std::path::Path;

use loader::{Dtype, Weights};
use safetensors::tensor::TensorView;
use serde_json::json;

use super::*;

fn config(tied: bool) -> Config {
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "vocab_size": 20, "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
        "tie_word_embeddings": tied,
    });
    Config::parse(config.to_string().as_bytes()).expect("a config")
}

/// What a checkpoint holds: names, dtypes, shapes.
type Listing = BTreeMap<String, (Dtype, Vec<usize>)>;

fn listing(config: &Config) -> Listing {
    let described = Decoder::<Slot>::describe(config);
    described.tensors().into_iter().map(|slot| (slot.name.clone(), (Dtype::BF16, slot.shape.clone()))).collect()
}

fn weights(listing: &Listing, folder: &Path) -> Weights {
    let zeros = vec![0u8; 8 * 4096];
    let views: Vec<(&String, TensorView<'_>)> = listing
        .iter()
        .map(|(name, (dtype, shape))| {
            let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            (name, TensorView::new(*dtype, shape.clone(), &zeros[..bytes]).expect("a view"))
        })
        .collect();
    let file = folder.join("model.safetensors");
    safetensors::serialize_to_file(views, None, &file).expect("written");
    Weights::open_dir(folder).expect("opened")
}

fn bind(config: &Config, listing: &Listing) -> Result<Decoder, BindError> {
    let folder = tempfile::tempdir().expect("a folder");
    Decoder::bind(config, &weights(listing, folder.path()))
}

fn refusal(config: &Config, listing: &Listing) -> String {
    bind(config, listing).map_or_else(|error| error.to_string(), |_| panic!("bound"))
}

#[test]
fn binds_what_the_config_describes() {
    for tied in [false, true] {
        let config = config(tied);
        let decoder = bind(&config, &listing(&config)).expect("a model");
        assert_eq!(decoder.tensors().len(), 2 + usize::from(!tied) + 2 * 11);
        assert_eq!(decoder.head().name(), if tied { "model.embed_tokens.weight" } else { "lm_head.weight" });
        assert_eq!(decoder.layers[1].query.weight.shape(), [16, 8]);
    }
}

#[test]
fn a_missing_tensor_is_named() {
    let config = config(false);
    for name in listing(&config).into_keys() {
        let mut listing = listing(&config);
        listing.remove(&name);
        let message = refusal(&config, &listing);
        assert!(message.contains(&format!("`{name}`")) && message.contains("missing"), "{message}");
    }
}

#[test]
fn an_extra_tensor_is_named() {
    let config = config(false);
    let mut listing = listing(&config);
    listing.insert("model.layers.2.mlp.up_proj.weight".into(), (Dtype::BF16, vec![12, 8]));
    let message = refusal(&config, &listing);
    assert!(message.contains("`model.layers.2.mlp.up_proj.weight`") && message.contains("Qwen3"), "{message}");
}

#[test]
fn leftovers_of_older_releases_are_ignored() {
    let config = config(true);
    let mut listing = listing(&config);
    listing.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), (Dtype::F32, vec![2]));
    listing.insert("lm_head.weight".into(), (Dtype::BF16, vec![20, 8]));
    assert!(bind(&config, &listing).is_ok());
}

#[test]
fn a_misshapen_tensor_is_named_with_both_shapes() {
    let config = config(false);
    let mut listing = listing(&config);
    listing.insert("model.layers.0.self_attn.k_proj.weight".into(), (Dtype::BF16, vec![8, 16]));
    let message = refusal(&config, &listing);
    for part in ["k_proj", "[8, 16]", "[8, 8]"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn an_unreadable_dtype_is_named() {
    let config = config(false);
    for dtype in [Dtype::F64, Dtype::I8, Dtype::U32, Dtype::F8_E4M3] {
        let mut listing = listing(&config);
        listing.insert("model.norm.weight".into(), (dtype, vec![8]));
        let message = refusal(&config, &listing);
        assert!(message.contains("`model.norm.weight`") && message.contains(&format!("{dtype:?}")), "{message}");
    }
}
