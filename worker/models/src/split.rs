//! Facts of a model for a planner of fetches: the order in which a step reads its tensors, and
//! which slices of them one of several ranks needs.
//!
//! Pure functions of a config and, for slices, of the headers that say how tensors are stored; they know no file and
//! no byte.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use loader::TensorInfo;
use loader::plan::{Slice, Slices};
use thiserror::Error;

use crate::config::Config;
use crate::describe::describe;
use tensor::{
    Added, Attention, Body, Branch, Decoder, Dense, Distances, Experts, Format, Head, Layer, Linear, Norm, Rows, Slot,
};

/// The names of a model's tensors in the order in which a step first reads them: embeddings,
/// layers by number, final norm, head. A tied head is the embeddings, so it comes first.
#[must_use]
pub fn order(config: &Config) -> Vec<String> {
    let described = describe(config);
    // A file has one spelling of each.
    let mut names: Vec<String> = described.tensors().iter().flat_map(|slot| spellings(config, &slot.name)).collect();
    // Several slots may be rows of one tensor.
    let mut seen = HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// The names that a tensor of a config has in published files: its own; that in a file of the model without its head;
/// that of norms in the first releases.
pub(crate) fn spellings(config: &Config, name: &str) -> Vec<String> {
    let level = config.family.encoder.map_or("model.", |rule| rule.level);
    let bare = if config.prefix.is_empty() { name.strip_prefix(level) } else { None };
    let names = [Some(name), bare].into_iter().flatten();
    let spelled = names.flat_map(|name| {
        let older = [("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")];
        let older = older.iter().find_map(|(now, before)| Some(format!("{}{before}", name.strip_suffix(now)?)));
        [Some(name.to_owned()), older].into_iter().flatten()
    });
    spelled.collect()
}

/// Errors of splitting a model.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum SplitError {
    /// There is no such rank.
    #[error("splitting a model: there is no rank {rank} of {of}; ranks count from 0")]
    NoSuchRank {
        /// The rank.
        rank: usize,
        /// Number of ranks.
        of: usize,
    },
    /// A size is no multiple of the number of ranks.
    #[error("splitting a model over {of} ranks: {field} is {size}, which {of} does not divide")]
    Indivisible {
        /// The field of `config.json`.
        field: &'static str,
        /// Its value.
        size: usize,
        /// Number of ranks.
        of: usize,
    },
    /// Several matrices are rows of one tensor, and a rank needs some rows of each.
    #[error("splitting a model over {of} ranks: `{tensor}` has several matrices in one, of which a rank needs parts")]
    Fused {
        /// The tensor.
        tensor: String,
        /// Number of ranks.
        of: usize,
    },
    /// A rank's share of a matrix begins or ends within a block.
    #[error(
        "splitting a model over {of} ranks: inputs {} to {} of `{tensor}` cut a block of {} numbers ({format}); \
         split over fewer ranks, or serve it as bf16",
        .columns.start, .columns.end, .format.block().numbers
    )]
    CutBlock {
        /// The tensor.
        tensor: String,
        /// Its format.
        format: Format,
        /// The inputs that the rank needs.
        columns: Range<usize>,
        /// Number of ranks.
        of: usize,
    },
}

/// The part of each tensor that rank `rank` of `of` needs (Shoeybi et al. 2019, Megatron-LM): outputs
/// of queries, keys, values, gate and up, whole heads each; inputs of the attention's output and of
/// down; rows of embeddings and head by vocabulary; norms and the biases of sums whole. Tensors
/// that no computation reads are skipped. `tensors` are those of the headers: columns of one stored in
/// blocks are whole blocks.
///
/// # Errors
/// There is no such rank; heads, key heads, the inner width or the vocabulary do not divide; or a
/// rank's columns cut a block.
pub fn slices<'a>(
    config: &Config,
    tensors: impl IntoIterator<Item = &'a TensorInfo>,
    rank: usize,
    of: usize,
) -> Result<Slices, SplitError> {
    if rank >= of {
        return Err(SplitError::NoSuchRank { rank, of });
    }
    let part = |field, size: usize| share(field, size, rank, of);
    let scaled = |range: Range<usize>| range.start * config.head_dim..range.end * config.head_dim;
    let query = scaled(part("num_attention_heads", config.heads)?);
    let kv = scaled(part("num_key_value_heads", config.kv_heads)?);
    let vocab = part("vocab_size", config.vocab_size)?;
    let described = describe(config);
    let formats = tensors.into_iter().map(|info| (info.name.as_str(), info.format)).collect();
    let parts = Parts { formats, rank, of };
    let mut slices = Slices { otherwise: Slice::Skip, ..Slices::default() };
    let mut put = |slot: &Slot, slice: Slice| {
        slices.by_name.insert(slot.name.clone(), slice);
    };
    let Decoder {
        vocab_size: _,
        hidden_size: _,
        max_position: _,
        embeddings,
        embedding_scale: _,
        added,
        rotations,
        distances,
        layers,
        norm,
        head,
        logit_cap: _,
    } = &described;
    rotations.iter().filter_map(|rotation| rotation.divisors.as_ref()).for_each(|slot| put(slot, Slice::Whole));
    if let Some(Distances { table, norm, span: _, farthest: _ }) = distances {
        let mut tensors = vec![table];
        norm.iter().for_each(|norm| norm.add_tensors(&mut tensors));
        tensors.into_iter().for_each(|slot| put(slot, Slice::Whole));
    }
    let Added { positions, types, norm: embedding_norm } = added;
    let tables = positions.iter().map(|positions| &positions.table).chain(types);
    tables.for_each(|table| put(table, Slice::Whole));
    put(embeddings, Slice::Rows(vocab.clone()));
    let mut whole = Vec::new();
    [embedding_norm, norm].into_iter().flatten().for_each(|norm| norm.add_tensors(&mut whole));
    match head {
        Head::Tied | Head::Nothing => {}
        Head::Own(head) => put(head, Slice::Rows(vocab.clone())),
        Head::Classes(classes) => classes.add_tensors(&mut whole),
    }
    whole.into_iter().for_each(|slot| put(slot, Slice::Whole));
    let whole_norm = |norm: &Norm<Slot>, put: &mut dyn FnMut(&Slot, Slice)| {
        let mut tensors = Vec::new();
        norm.add_tensors(&mut tensors);
        tensors.into_iter().for_each(|slot| put(slot, Slice::Whole));
    };
    for Branch { before, body, after, joined } in layers.iter().flat_map(|Layer { branches }| branches) {
        [before, after, joined].into_iter().flatten().for_each(|norm| whole_norm(norm, &mut put));
        match body {
            Body::Attention(attention) => {
                let Attention {
                    heads: _,
                    kv_heads: _,
                    head_dim: _,
                    query: q,
                    key: k,
                    value: v,
                    query_norm,
                    key_norm,
                    output,
                    rotation: _,
                    pairs: _,
                    scale: _,
                    growth: _,
                    soft_cap: _,
                    sees: _,
                } = attention;
                [query_norm, key_norm].into_iter().flatten().for_each(|norm| whole_norm(norm, &mut put));
                parts.put([(q, &query), (k, &kv), (v, &kv)], (output, &query), &mut put)?;
            }
            Body::Dense(dense) => parts.dense(dense, &mut put)?,
            Body::Experts(Experts { chosen: _, normalized: _, router, each }) => {
                put(router, Slice::Whole);
                each.iter().try_for_each(|dense| parts.dense(dense, &mut put))?;
            }
        }
    }
    Ok(slices)
}

/// The parts of matrices that a rank needs.
struct Parts<'a> {
    formats: HashMap<&'a str, Format>,
    rank: usize,
    of: usize,
}

impl Parts<'_> {
    /// Rows of the first matrices, columns of the one that sums.
    fn put<'s>(
        &self,
        outputs: impl IntoIterator<Item = (&'s Linear<Slot>, &'s Range<usize>)>,
        (sum, inputs): (&Linear<Slot>, &Range<usize>),
        put: &mut impl FnMut(&Slot, Slice),
    ) -> Result<(), SplitError> {
        for (Linear { weight, bias }, rows) in outputs {
            if weight.rows.is_some() && self.of > 1 {
                return Err(SplitError::Fused { tensor: weight.name.clone(), of: self.of });
            }
            let rows = weight.rows.map_or(rows.clone(), |Rows { of, .. }| 0..of);
            [weight].into_iter().chain(bias).for_each(|slot| put(slot, Slice::Rows(rows.clone())));
        }
        let columns = whole_blocks(&sum.weight, &self.formats, inputs, self.of)?;
        put(&sum.weight, Slice::Columns(columns));
        // Added once, to the sum over all ranks.
        sum.bias.iter().for_each(|bias| put(bias, Slice::Whole));
        Ok(())
    }

    fn dense(&self, dense: &Dense<Slot>, put: &mut impl FnMut(&Slot, Slice)) -> Result<(), SplitError> {
        let Dense { width, activation: _, gate, up, down } = dense;
        let inner = share("intermediate_size", *width, self.rank, self.of)?;
        let outputs = gate.iter().chain([up]).map(|linear| (linear, &inner));
        self.put(outputs, (down, &inner), put)
    }
}

/// A matrix's columns, if they cut no block of its format.
fn whole_blocks(
    slot: &Slot,
    formats: &HashMap<&str, Format>,
    columns: &Range<usize>,
    of: usize,
) -> Result<Range<usize>, SplitError> {
    let Some(&format) = formats.get(slot.name.as_str()) else { return Ok(columns.clone()) };
    if [columns.start, columns.end].into_iter().all(|column| format.row_bytes(column).is_some()) {
        return Ok(columns.clone());
    }
    Err(SplitError::CutBlock { tensor: slot.name.clone(), format, columns: columns.clone(), of })
}

fn share(field: &'static str, size: usize, rank: usize, of: usize) -> Result<Range<usize>, SplitError> {
    if !size.is_multiple_of(of) {
        return Err(SplitError::Indivisible { field, size, of });
    }
    let width = size / of;
    Ok(rank * width..(rank + 1) * width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeSet;

    fn config(architecture: &str, tied: bool) -> Config {
        let config = json!({
            "architectures": [architecture], "vocab_size": 24, "hidden_size": 16, "intermediate_size": 12,
            "num_hidden_layers": 11, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
            "tie_word_embeddings": tied,
        });
        Config::parse(config.to_string().as_bytes()).expect("a config")
    }

    #[test]
    fn the_order_is_that_of_a_step() {
        for tied in [false, true] {
            let order = order(&config("LlamaForCausalLM", tied));
            assert_eq!(order[0], "model.embed_tokens.weight");
            let layer = |name: &String| name.split('.').nth(2).and_then(|number| number.parse::<usize>().ok());
            let layers: Vec<usize> = order.iter().filter_map(layer).collect();
            assert!(layers.is_sorted() && layers.last() == Some(&10), "by number, not by name: {layers:?}");
            // In the second of its spellings.
            let last = if tied { "norm.weight" } else { "lm_head.weight" };
            assert_eq!(order.last().expect("names"), last);
            assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), order.len(), "each once");
        }
    }

    #[test]
    fn ranks_cover_every_tensor_exactly() {
        for architecture in ["LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"] {
            let config = config(architecture, false);
            let ranks: Vec<Slices> = (0..2).map(|rank| slices(&config, [], rank, 2).expect("slices")).collect();
            for slot in describe(&config).tensors() {
                let of = |rank: usize| ranks[rank].by_name.get(&slot.name).expect("a slice");
                match (of(0), of(1)) {
                    (Slice::Whole, Slice::Whole) => assert_eq!(slot.shape.len(), 1, "{}", slot.name),
                    (Slice::Rows(first), Slice::Rows(second)) => {
                        assert_eq!(
                            (first.start, first.end, second.end),
                            (0, second.start, slot.shape[0]),
                            "{}",
                            slot.name
                        );
                    }
                    (Slice::Columns(first), Slice::Columns(second)) => {
                        assert_eq!(
                            (first.start, first.end, second.end),
                            (0, second.start, slot.shape[1]),
                            "{}",
                            slot.name
                        );
                    }
                    other => panic!("{}: {other:?}", slot.name),
                }
            }
        }
    }

    #[test]
    fn heads_are_never_cut() {
        let slices = slices(&config("Qwen2ForCausalLM", false), [], 1, 2).expect("slices");
        let slice = |name: &str| slices.by_name.get(&format!("model.layers.3.{name}")).cloned().expect("a slice");
        assert_eq!(slice("self_attn.q_proj.weight"), Slice::Rows(8..16));
        assert_eq!(slice("self_attn.q_proj.bias"), Slice::Rows(8..16));
        assert_eq!(slice("self_attn.k_proj.weight"), Slice::Rows(4..8));
        assert_eq!(slice("self_attn.o_proj.weight"), Slice::Columns(8..16));
        assert_eq!(slice("mlp.down_proj.weight"), Slice::Columns(6..12));
        assert_eq!(slice("mlp.gate_proj.weight"), Slice::Rows(6..12));
    }

    #[test]
    fn what_does_not_divide_is_named() {
        let config = config("LlamaForCausalLM", false);
        let error = slices(&config, [], 0, 4).expect_err("two key heads over four ranks");
        assert_eq!(error, SplitError::Indivisible { field: "num_key_value_heads", size: 2, of: 4 });
        assert_eq!(
            slices(&config, [], 2, 2).expect_err("ranks count from 0"),
            SplitError::NoSuchRank { rank: 2, of: 2 }
        );
        assert!(slices(&config, [], 0, 0).is_err());
        assert!(slices(&config, [], 0, 1).is_ok());
    }

    /// A model whose heads together and inner width are so wide, and the headers of its matrices in Q8_0.
    fn in_q8_0(width: usize) -> (Config, Vec<TensorInfo>) {
        let config = json!({
            "architectures": ["Qwen3ForCausalLM"], "vocab_size": 64, "hidden_size": 64, "intermediate_size": width,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": width / 4,
        });
        let config = Config::parse(config.to_string().as_bytes()).expect("a config");
        let described = describe(&config);
        let info = |slot: &&Slot| {
            let shape = slot.shape.clone();
            let format = Format::Q8_0;
            (shape.len() == 2).then(|| TensorInfo { name: slot.name.clone(), format, shape, range: 0..0 })
        };
        let infos = described.tensors().iter().filter_map(info).collect();
        (config, infos)
    }

    #[test]
    fn columns_of_blocks_are_whole_blocks() {
        let (config, infos) = in_q8_0(128);
        let slices = slices(&config, &infos, 1, 2).expect("64 inputs each: two blocks");
        let slice = |name: &str| slices.by_name.get(&format!("model.layers.1.{name}")).cloned().expect("a slice");
        assert_eq!(slice("mlp.down_proj.weight"), Slice::Columns(64..128));
        assert_eq!(slice("self_attn.o_proj.weight"), Slice::Columns(64..128));
        assert_eq!(slice("mlp.up_proj.weight"), Slice::Rows(64..128), "rows are whole whatever lies in them");
    }

    #[test]
    fn a_share_that_cuts_a_block_is_refused_by_name() {
        let (config, infos) = in_q8_0(64);
        assert!(slices(&config, &infos, 0, 2).is_ok(), "a block each");
        let error = slices(&config, &infos, 1, 4).expect_err("half a block each");
        let tensor = "model.layers.0.self_attn.o_proj.weight".to_owned();
        assert_eq!(error, SplitError::CutBlock { tensor, format: Format::Q8_0, columns: 16..32, of: 4 });
        assert!(error.to_string().contains("inputs 16 to 32 of `model.layers.0.self_attn.o_proj.weight` cut a block"));
        assert!(slices(&config, [], 1, 4).is_ok(), "plain numbers can be cut anywhere");
        let plain: Vec<TensorInfo> = infos.into_iter().filter(|info| !info.name.ends_with("o_proj.weight")).collect();
        let error = slices(&config, &plain, 0, 4).expect_err("the other matrix");
        assert!(error.to_string().contains("mlp.down_proj"), "{error}");
    }
}
