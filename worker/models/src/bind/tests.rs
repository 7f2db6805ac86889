//! Binding: what is missing, extra, misshapen or stored in another format is named.

use std::collections::BTreeMap;
use std::path::Path;

use loader::Weights;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

use super::*;
use tensor::Rows;

fn config(tied: bool) -> Config {
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "vocab_size": 20, "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
        "tie_word_embeddings": tied,
    });
    Config::parse(config.to_string().as_bytes()).expect("a config")
}

/// A checkpoint's names, dtypes and shapes.
type Listing = BTreeMap<String, (Dtype, Vec<usize>)>;

fn listing(config: &Config) -> Listing {
    let described = describe(config);
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

fn bound(config: &Config, listing: &Listing) -> Result<Decoder, BindError> {
    let folder = tempfile::tempdir().expect("a folder");
    bind(config, &weights(listing, folder.path()))
}

fn refusal(config: &Config, listing: &Listing) -> String {
    bound(config, listing).map_or_else(|error| error.to_string(), |_| panic!("bound"))
}

#[test]
fn binds_what_the_config_describes() {
    for tied in [false, true] {
        let config = config(tied);
        let decoder = bound(&config, &listing(&config)).expect("a model");
        assert_eq!(decoder.tensors().len(), 2 + usize::from(!tied) + 2 * 11);
        assert_eq!(
            decoder.logits().expect("a head").name(),
            if tied { "model.embed_tokens.weight" } else { "lm_head.weight" }
        );
        assert_eq!(decoder.attentions().nth(1).expect("two layers").query.weight.shape(), [16, 8]);
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
    assert!(bound(&config, &listing).is_ok());
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
fn a_format_that_nothing_computes_with_is_named() {
    let config = config(false);
    let refused = |name: &str, dtype: Dtype, shape: Vec<usize>| {
        let mut listing = listing(&config);
        listing.insert(name.into(), (dtype, shape));
        let message = refusal(&config, &listing);
        let parts = [format!("`{name}`"), format!("stored as {dtype};"), "F32, F16, BF16".to_owned()];
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    let others = [
        Dtype::BOOL,
        Dtype::F4,
        Dtype::F6_E2M3,
        Dtype::F6_E3M2,
        Dtype::U8,
        Dtype::I8,
        Dtype::F8_E5M2,
        Dtype::F8_E4M3,
        Dtype::F8_E8M0,
        Dtype::F8_E4M3FNUZ,
        Dtype::F8_E5M2FNUZ,
        Dtype::I16,
        Dtype::U16,
        Dtype::I32,
        Dtype::U32,
        Dtype::C64,
        Dtype::F64,
        Dtype::I64,
        Dtype::U64,
    ];
    for dtype in others {
        refused("model.norm.weight", dtype, vec![8]);
        refused("model.layers.0.mlp.down_proj.weight", dtype, vec![8, 12]);
    }
}

/// Rows of bytes may have the size of rows of Q8_0, and are none: nothing is taken for what it does not say it is.
#[test]
fn bytes_of_the_size_of_blocks_are_no_blocks() {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
    });
    let config = Config::parse(config.to_string().as_bytes()).expect("a config");
    for (dtype, shape) in [
        (Dtype::U8, vec![64, 96 / 32 * 34]),
        (Dtype::I8, vec![64, 96 / 32 * 34]),
        (Dtype::U8, vec![64, 96]),
        (Dtype::F8_E4M3, vec![64, 96 / 32 * 34]),
    ] {
        let mut listing = listing(&config);
        listing.insert("model.layers.0.mlp.down_proj.weight".into(), (dtype, shape));
        let error = bound(&config, &listing).expect_err("no matrix");
        let BindError::Format { tensor, found, wanted } = &error else { panic!("{error}") };
        assert_eq!(
            (tensor.as_str(), found.name()),
            ("model.layers.0.mlp.down_proj.weight", dtype.to_string().as_str())
        );
        assert!(wanted.starts_with("F32, F16, BF16, Q8_0, "), "{wanted}");
    }
}

/// A family may store its projections as one matrix: each is rows of it.
#[test]
fn slots_may_be_rows_of_one_stored_tensor() {
    let listing: Listing = [("qkv_proj".to_owned(), (Dtype::BF16, vec![32, 8]))].into();
    let folder = tempfile::tempdir().expect("a folder");
    let weights = weights(&listing, folder.path());
    let rows = |first, of| Slot::rows("qkv_proj", &[8, 8], Rows { first, of });
    let fill = |slot: &Slot, weights: &Weights| fill(slot, weights.get(&slot.name).map(Tensor::view));
    let bound = fill(&rows(16, 32), &weights).expect("rows 16 to 24");
    assert_eq!((bound.shape(), bound.bytes().len()), (&[8, 8][..], 8 * 8 * 2));
    let error = fill(&rows(16, 40), &weights).expect_err("of another size");
    assert!(error.to_string().contains("[32, 8]") && error.to_string().contains("[40, 8]"), "{error}");
}
