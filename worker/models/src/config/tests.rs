//! Published spellings, bad configs, and mutated ones.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn parse(value: &Value) -> Result<Config, ConfigError> {
    Config::parse(value.to_string().as_bytes())
}

fn llama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 160, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 256, "rope_theta": 10000.0,
    })
}

/// The base config with some fields replaced; null removes nothing, as in the files themselves.
fn with(changes: Value) -> Value {
    let mut config = llama();
    let (Value::Object(config_map), Value::Object(changes)) = (&mut config, changes) else { return config };
    config_map.extend(changes);
    config
}

fn refusal(changes: Value) -> String {
    parse(&with(changes.clone())).map_or_else(|error| error.to_string(), |_| panic!("accepted {changes}"))
}

/// The numbers of a rotation, as `spellings.json` writes them.
fn rope_as_json(rope: &Rope) -> Value {
    match &rope.scaling {
        RopeScaling::Default => json!({"rope_type": "default", "rope_theta": rope.theta}),
        RopeScaling::Linear { factor } => {
            json!({"rope_type": "linear", "rope_theta": rope.theta, "factor": factor})
        }
        RopeScaling::Dynamic { factor } => {
            json!({"rope_type": "dynamic", "rope_theta": rope.theta, "factor": factor})
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => json!({
            "rope_type": "llama3", "rope_theta": rope.theta, "factor": factor, "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": *original_max_position_embeddings as f64,
        }),
        RopeScaling::Yarn(yarn) => json!({
            "rope_type": "yarn", "rope_theta": rope.theta, "factor": yarn.factor,
            "original_max_position_embeddings": yarn.original_max_position_embeddings as f64,
        }),
        RopeScaling::Divided { divisors, attention_factor } => {
            json!({"rope_type": "longrope", "divisors": divisors, "attention_factor": attention_factor})
        }
    }
}

/// Numbers as f64, so that 4 and 4.0 compare equal.
fn as_floats(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Object(map) => map.iter().map(|(name, value)| (name.clone(), as_floats(value))).collect(),
        other => other.clone(),
    }
}

#[test]
fn todays_and_yesterdays_spellings_mean_the_same() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/spellings.json");
    let pairs: Vec<Value> = serde_json::from_slice(&fs::read(path).expect("spellings.json")).expect("JSON");
    assert!(pairs.len() >= 11);
    for pair in &pairs {
        let name = &pair["name"];
        let read = &pair["reads_as"];
        let today = parse(&pair["today"]).unwrap_or_else(|error| panic!("{name}: {error}"));
        let yesterday = parse(&pair["yesterday"]).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(today, yesterday, "{name}");
        assert_eq!(as_floats(&rope_as_json(&today.rope)), as_floats(&read["rope"]), "{name}");
        let sliding: Vec<usize> = (0..today.layers).filter(|&layer| today.windows[layer].is_some()).collect();
        assert_eq!(json!(sliding), read["sliding_layers"], "{name}");
        assert_eq!(json!(today.head_dim), read["head_dim"], "{name}");
        assert_eq!(json!(today.kv_heads), read["num_key_value_heads"], "{name}");
        assert_eq!(json!(today.tie_word_embeddings), read["tie_word_embeddings"], "{name}");
        let dtype = today.dtype.map(|dtype| match dtype {
            Format::F32 => "float32",
            Format::F16 => "float16",
            Format::Bf16 => "bfloat16",
            other => panic!("{name}: no config says {other}"),
        });
        assert_eq!(json!(dtype), read["dtype"], "{name}");
    }
}

/// Every kind of quantization that is published, wherever a config says so, and one that nobody has named yet.
#[test]
fn quantized_weights_are_refused_by_the_name_of_their_method() {
    let methods = [
        "aqlm",
        "auto-round",
        "awq",
        "bitnet",
        "bitsandbytes",
        "compressed-tensors",
        "eetq",
        "fbgemm_fp8",
        "fp8",
        "gptq",
        "higgs",
        "hqq",
        "modelopt",
        "mxfp4",
        "quanto",
        "spqr",
        "torchao",
        "vptq",
        "of-tomorrow",
    ];
    for method in methods {
        let quantized = json!({"quant_method": method, "bits": 4});
        let seeing = |inside: Value, beside: Value| {
            let text = json!({"model_type": "mistral", "quantization_config": inside});
            json!({
                "architectures": ["Mistral3ForConditionalGeneration"], "text_config": text, "quantization_config": beside,
            })
        };
        for config in [
            json!({"architectures": ["LlamaForCausalLM"], "quantization_config": quantized}),
            seeing(quantized.clone(), Value::Null),
            seeing(Value::Null, quantized.clone()),
        ] {
            let message = Config::parse(config.to_string().as_bytes()).expect_err(method).to_string();
            assert!(message.contains(&format!("`{method}`")), "{message}");
        }
    }
    let older = json!({"architectures": ["LlamaForCausalLM"], "compression_config": {"format": "pack-quantized"}});
    let message = Config::parse(older.to_string().as_bytes()).expect_err("an older spelling").to_string();
    assert!(message.contains("`compression_config`"), "{message}");
}

#[test]
fn queries_that_grow_are_of_one_family_and_say_how() {
    let rotation = json!({
        "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16_384,
        "max_position_embeddings": 262_144, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    });
    let of = |architecture: &str, text: Option<&str>, rotation: &Value| {
        let part = json!({"architectures": [architecture], "rope_parameters": rotation});
        let config = match text {
            None => part,
            Some(kind) => json!({
                "architectures": [architecture], "text_config": {"model_type": kind, "rope_parameters": rotation},
            }),
        };
        Config::parse(config.to_string().as_bytes())
    };
    for (architecture, text) in
        [("Ministral3ForCausalLM", None), ("Mistral3ForConditionalGeneration", Some("ministral3"))]
    {
        let growth = of(architecture, text, &rotation).expect("a config").query_growth.expect("queries grow");
        assert_eq!([growth.at(0), growth.at(16_383)], [1.0, 1.0]);
        assert_eq!(growth.at(3 * 16_384), 1.0 + 0.1 * 4.0_f32.ln());
    }
    let message = of("MistralForCausalLM", None, &rotation).expect_err("another family").to_string();
    assert!(message.contains("llama_4_scaling_beta") || message.contains("max_position_embeddings"), "{message}");
    let mut silent = rotation.clone();
    silent.as_object_mut().expect("an object").remove("llama_4_scaling_beta");
    let message = of("Ministral3ForCausalLM", None, &silent).expect_err("nothing said").to_string();
    assert!(message.contains("llama_4_scaling_beta"), "{message}");
}

#[test]
fn what_is_not_supported_is_named_with_what_is() {
    for (changes, named) in [
        (json!({"architectures": ["GPT2LMHeadModel"]}), ["`GPT2LMHeadModel`", "Qwen3ForCausalLM"]),
        (json!({"architectures": [], "model_type": "mamba"}), ["`mamba`", "LlamaForCausalLM"]),
        (json!({"rope_scaling": {"rope_type": "fourier", "factor": 2.0}}), ["`fourier`", "llama3"]),
        (json!({"hidden_act": "gelu"}), ["`gelu`", "silu"]),
        (json!({"quantization_config": {"quant_method": "gptq"}}), ["`gptq`", "bfloat16"]),
        (json!({"quantization_config": {}}), ["`quantization_config`", "bfloat16"]),
    ] {
        let message = refusal(changes);
        assert!(named.iter().all(|named| message.contains(named)), "{message}");
    }
    let qwen = json!({
        "architectures": ["Qwen3ForCausalLM"], "use_sliding_window": true, "num_hidden_layers": 1,
        "layer_types": ["linear_attention"]
    });
    assert!(refusal(qwen).contains("`linear_attention`"));
}

#[test]
fn a_field_that_may_change_the_arithmetic_is_known_or_refused() {
    for (changes, field) in [
        (json!({"attention_multiplier": 0.0078125}), "attention_multiplier"),
        (json!({"embedding_multiplier": 12.0}), "embedding_multiplier"),
        (json!({"logits_scaling": 8.0}), "logits_scaling"),
        (json!({"residual_multiplier": 0.22}), "residual_multiplier"),
        (json!({"attn_logit_softcapping": 50.0}), "attn_logit_softcapping"),
        (json!({"final_logit_softcapping": 30.0}), "final_logit_softcapping"),
        (json!({"query_pre_attn_scalar": 224}), "query_pre_attn_scalar"),
        (json!({"use_qk_norm": true}), "use_qk_norm"),
        (json!({"num_experts": 64}), "num_experts"),
        (json!({"qk_layernorm": true}), "qk_layernorm"),
        (json!({"sliding_window_pattern": 6}), "sliding_window_pattern"),
        (json!({"quantization": {"bits": 4}}), "quantization"),
        (json!({"hidden_activation": "gelu"}), "hidden_activation"),
        (json!({"layer_norm_eps": 1e-5}), "layer_norm_eps"),
        (json!({"no_rope_layers": [1, 1]}), "no_rope_layers"),
        (
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "extrapolation_factor": 2.0}}),
            "extrapolation_factor",
        ),
        (json!({"rope_scaling": {"type": "linear", "factor": 4.0, "beta_fast": 16}}), "beta_fast"),
        (json!({"rope_scaling": {"type": "dynamic", "factor": 4.0, "alpha": 1000}}), "alpha"),
        (json!({"rope_scaling": {"factor": 4.0}}), "rope_scaling.factor"),
        (json!({"rope_parameters": {"rope_theta": 1e4, "mrope_section": [8, 4, 4]}}), "mrope_section"),
        (json!({"layer_types": ["sliding_attention", "full_attention"]}), "layer_types"),
        (json!({"layer_types": ["full_attention", "chunked_attention"]}), "chunked_attention"),
        (json!({"layer_types": ["full_attention"]}), "layer_types"),
    ] {
        let message = refusal(changes);
        assert!(message.contains(field), "{field}: {message}");
    }
    for changes in [
        json!({"attention_multiplier": null, "use_qk_norm": false}),
        json!({"initializer_range": 0.02, "pretraining_tp": 1, "unsloth_version": "2026.1", "auto_map": {}}),
        json!({"layer_types": ["full_attention", "full_attention"], "sliding_window": 4096}),
        json!({"rope_scaling": {"type": "linear", "factor": 4.0, "original_max_position_embeddings": 64}}),
    ] {
        assert!(parse(&with(changes.clone())).is_ok(), "{changes}");
    }
}

#[test]
fn every_layer_type_may_have_a_rotation_of_its_own() {
    let qwen = |full: Value, sliding: Value, types: [&str; 2]| {
        with(json!({
            "architectures": ["Qwen3ForCausalLM"], "use_sliding_window": true, "sliding_window": 16, "head_dim": 16,
            "layer_types": types, "rope_theta": null,
            "rope_parameters": {"full_attention": full, "sliding_attention": sliding},
        }))
    };
    let (near, far) =
        (json!({"rope_type": "default", "rope_theta": 1e4}), json!({"rope_type": "default", "rope_theta": 1e6}));
    let both = ["full_attention", "sliding_attention"];
    let theta = |config: &Value| parse(config).map(|config| config.rope.theta);
    assert_eq!(theta(&qwen(far.clone(), far.clone(), both)).expect("they agree"), 1e6);
    assert_eq!(theta(&qwen(far.clone(), near.clone(), ["full_attention"; 2])).expect("one is used"), 1e6);
    let two = parse(&qwen(far.clone(), near, both)).expect("one each");
    assert_eq!((two.rope.theta, two.sliding_rope.map(|rope| rope.theta)), (1e6, Some(1e4)));
    let message = theta(&qwen(far, Value::Null, both)).expect_err("one is missing").to_string();
    assert!(message.contains("rope_parameters.sliding_attention"), "{message}");
}

#[test]
fn gemma_has_the_facts_that_its_config_leaves_out() {
    let text = json!({"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 12, "sliding_window": 16,
        "model_type": "gemma3_text", "rope_scaling": {"factor": 8.0, "rope_type": "linear"}});
    let seeing = json!({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text,
        "vision_config": {"hidden_size": 7}, "mm_tokens_per_image": 256, "eos_token_id": [1, 106]});
    let config = parse(&seeing).expect("a config");
    assert_eq!((config.heads, config.kv_heads, config.head_dim, config.vocab_size), (8, 4, 256, 262_208));
    let slides: Vec<usize> = (0..12).filter(|&layer| config.windows[layer] == Some(16)).collect();
    assert_eq!(slides, [0, 1, 2, 3, 4, 6, 7, 8, 9, 10], "all but every sixth");
    assert_eq!((config.rope.theta, config.rope.scaling.clone()), (1e6, RopeScaling::Linear { factor: 8.0 }));
    assert_eq!(config.sliding_rope, Some(Rope { theta: 1e4, scaling: RopeScaling::Default }));
    assert_eq!((config.prefix, config.embedding_scale, config.attention_scale), ("language_model.", 8.0, 1.0 / 16.0));
    assert!(config.tie_word_embeddings && config.norms_less_one && config.attention_cap.is_none());
    let second =
        json!({"architectures": ["Gemma2ForCausalLM"], "num_hidden_layers": 4, "attn_logit_softcapping": null});
    let second = parse(&second).expect("a config");
    assert_eq!(second.windows, [Some(4096), None, Some(4096), None]);
    assert_eq!(
        (second.attention_cap, second.logit_cap),
        (None, Some(30.0)),
        "null is no cap, and nothing is the default"
    );
    let mut unknown = seeing.clone();
    unknown["residual_multiplier"] = json!(0.5);
    assert!(parse(&unknown).expect_err("unknown").to_string().contains("residual_multiplier"));
    let mut none = seeing;
    none["text_config"] = Value::Null;
    assert!(parse(&none).expect_err("no text").to_string().contains("text_config"));
}

#[test]
fn experts_are_counted_and_bounded() {
    let with = |changes: Value| {
        let mut config = json!({"architectures": ["Qwen3MoeForCausalLM"], "num_hidden_layers": 4, "num_experts": 8,
            "num_experts_per_tok": 2, "decoder_sparse_step": 2, "mlp_only_layers": [3], "norm_topk_prob": true});
        let (Value::Object(map), Value::Object(changes)) = (&mut config, changes) else { panic!("objects") };
        map.extend(changes);
        parse(&config)
    };
    let experts = with(json!({})).expect("a config").experts.expect("experts");
    assert_eq!((experts.count, experts.chosen, experts.width, experts.normalized), (8, 2, 768, true));
    assert_eq!(experts.layers, [false, true, false, false]);
    // As today's transformers writes the number.
    assert_eq!(with(json!({"num_local_experts": 4})).expect("a config").experts.expect("experts").count, 4);
    for (changes, field) in [
        (json!({"num_experts": u64::MAX}), "num_experts"),
        (json!({"num_experts": 0}), "num_experts"),
        (json!({"num_experts": 4096, "num_hidden_layers": 1000}), "num_experts"),
        (json!({"num_experts_per_tok": 9}), "num_experts_per_tok"),
        (json!({"mlp_only_layers": [-1]}), "mlp_only_layers"),
        (json!({"mlp_only_layers": 3}), "mlp_only_layers"),
        (json!({"moe_intermediate_size": 1e18}), "moe_intermediate_size"),
        (json!({"shared_expert_intermediate_size": 64}), "shared_expert_intermediate_size"),
    ] {
        let message = with(changes).expect_err("refused").to_string();
        assert!(message.contains(field), "{field}: {message}");
    }
}

#[test]
fn longrope_has_a_divisor_for_each_pair_of_the_part_that_turns() {
    let with = |changes: Value| {
        let mut config = json!({"architectures": ["Phi3ForCausalLM"], "hidden_size": 64, "num_attention_heads": 4,
            "num_key_value_heads": 4, "max_position_embeddings": 128, "original_max_position_embeddings": 32,
            "partial_rotary_factor": 0.5, "rope_scaling": {"type": "su", "short_factor": [1.0, 1.0, 1.0, 1.0],
            "long_factor": [1.0, 2.0, 3.0, 4.0]}});
        let (Value::Object(map), Value::Object(changes)) = (&mut config, changes) else { panic!("objects") };
        map.extend(changes);
        parse(&config)
    };
    let config = with(json!({})).expect("a config");
    let attention_factor = (1.0 + 4f64.ln() / 32f64.ln()).sqrt();
    let divisors = vec![1.0, 2.0, 3.0, 4.0];
    assert_eq!((config.rotary_width, config.rope.scaling), (8, RopeScaling::Divided { divisors, attention_factor }));
    let short = with(json!({"max_position_embeddings": 32})).expect("a config").rope.scaling;
    assert_eq!(short, RopeScaling::Divided { divisors: vec![1.0; 4], attention_factor: 1.0 });
    for (changes, field) in [
        (json!({"partial_rotary_factor": 0.25}), "long_factor"),
        (json!({"partial_rotary_factor": 0.1}), "partial_rotary_factor"),
        (json!({"rope_scaling": {"type": "longrope", "long_factor": [1.0, 0.0, 1.0, 1.0]}}), "long_factor"),
        (json!({"rope_scaling": {"type": "longrope", "long_factor": "x"}}), "long_factor"),
    ] {
        let message = with(changes).expect_err("refused").to_string();
        assert!(message.contains(field), "{field}: {message}");
    }
}

#[test]
fn fields_out_of_bounds_are_named() {
    for (changes, field) in [
        (json!({"hidden_size": 0}), "hidden_size"),
        (json!({"hidden_size": "64"}), "hidden_size"),
        (json!({"hidden_size": 64.5}), "hidden_size"),
        (json!({"hidden_size": -1}), "hidden_size"),
        (json!({"hidden_size": 1e300}), "hidden_size"),
        (json!({"vocab_size": u64::MAX}), "vocab_size"),
        (json!({"num_hidden_layers": 1_000_000}), "num_hidden_layers"),
        (json!({"num_attention_heads": 0}), "num_attention_heads"),
        (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
        (json!({"num_key_value_heads": 8}), "num_key_value_heads"),
        (json!({"head_dim": 15}), "head_dim"),
        (json!({"hidden_size": 62}), "head_dim"),
        (json!({"rms_norm_eps": -1e-5}), "rms_norm_eps"),
        (json!({"rope_theta": 0}), "rope_theta"),
        (json!({"rope_scaling": {"type": "linear"}}), "rope_scaling.factor"),
        (json!({"rope_scaling": {"type": "linear", "factor": 0}}), "rope_scaling.factor"),
        (json!({"rope_parameters": {"rope_type": "yarn", "factor": null, "beta_fast": -1}}), "beta_fast"),
        (json!({"rope_scaling": 3}), "rope_scaling"),
        (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        (json!({"tie_word_embeddings": 1}), "tie_word_embeddings"),
        (json!({"architectures": 7}), "architectures"),
    ] {
        let message = refusal(changes);
        assert!(message.contains(&format!("`{field}")) || message.contains(field), "{field}: {message}");
    }
    assert!(matches!(Config::parse(b"[]"), Err(ConfigError::NotAnObject)));
    assert!(matches!(Config::parse(b"{"), Err(ConfigError::Json(_))));
    assert!(matches!(Config::parse(b"{}"), Err(ConfigError::Field { .. })));
    assert!(matches!(Config::parse(&vec![b' '; CONFIG_BYTES_MAX + 1]), Err(ConfigError::TooLarge { .. })));
}

#[test]
fn an_error_repeats_little_of_a_long_value() {
    let message = refusal(json!({"hidden_size": "x".repeat(100_000)}));
    assert!(message.len() < 300, "{} characters", message.len());
}

#[test]
fn families_differ_in_biases_and_norms() {
    let of = |architecture: &str| parse(&with(json!({"architectures": [architecture], "attention_bias": true})));
    let llama = of("LlamaForCausalLM").expect("a config");
    assert!(llama.query_key_value_bias && llama.output_bias && !llama.family.query_key_norm);
    let mistral = of("MistralForCausalLM").expect("a config");
    assert!(!mistral.query_key_value_bias && !mistral.output_bias);
    assert_eq!(mistral.windows, [Some(4096); 2], "a missing sliding_window is 4096 for Mistral");
    let qwen2 = of("Qwen2ForCausalLM").expect("a config");
    assert!(qwen2.query_key_value_bias && !qwen2.output_bias);
    let qwen3 = of("Qwen3ForCausalLM").expect("a config");
    assert!(qwen3.family.query_key_norm && qwen3.head_dim == 128);
}

#[test]
fn max_position_counts_what_scaling_adds() {
    let position = |changes| parse(&with(changes)).expect("a config").max_position();
    assert_eq!(position(json!({})), 256);
    assert_eq!(position(json!({"rope_scaling": {"type": "linear", "factor": 4.0}})), 1024);
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128});
    assert_eq!(position(json!({"rope_scaling": yarn})), 512);
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    });
    assert_eq!(position(json!({"rope_parameters": llama3})), 256);
}

/// Anything JSON can say, mostly small.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0..300u64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec!["yarn", "dynamic", "llama3", "linear", "default", "silu", "Qwen3ForCausalLM", ""])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let names = prop::sample::select(vec!["rope_type", "type", "factor", "beta_fast", "rope_theta", "truncate"]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((names, inner), 0..6).prop_map(|fields| fields.into_iter().collect::<Value>()),
        ]
    })
}

const FIELDS: [&str; 24] = [
    "architectures",
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "hidden_act",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "sliding_window",
    "use_sliding_window",
    "max_window_layers",
    "layer_types",
    "dtype",
    "original_max_position_embeddings",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_parses_is_bounded_and_consistent(
        changes in prop::collection::vec((prop::sample::select(&FIELDS[..]), anything()), 1..4),
        architecture in prop::sample::select(&["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM",
            "Qwen3ForCausalLM"][..]),
    ) {
        let mut config = with(json!({"architectures": [architecture]}));
        for (field, value) in changes {
            config[field] = value;
        }
        let Ok(config) = parse(&config) else { return Ok(()) };
        let sizes = [config.vocab_size, config.hidden_size, config.intermediate_size, config.layers, config.heads,
            config.kv_heads, config.head_dim, config.max_position_embeddings];
        prop_assert!(sizes.iter().all(|&size| size > 0));
        prop_assert_eq!(config.heads % config.kv_heads, 0);
        prop_assert_eq!(config.head_dim % 2, 0);
        prop_assert_eq!(config.windows.len(), config.layers);
        prop_assert!(config.windows.iter().flatten().all(|&window| window > 0));
        prop_assert!(config.rms_norm_eps.is_finite() && config.max_position() <= POSITIONS_MAX);
        let weights = config.vocab_size.checked_mul(config.hidden_size).and_then(|it| it.checked_mul(4));
        prop_assert!(weights.is_some() && config.query_width().checked_mul(config.hidden_size * 4).is_some());
        let mut frequencies = vec![0.0; config.head_dim / 2];
        config.rope.frequencies(&mut frequencies);
        prop_assert!(frequencies.iter().all(|it| it.is_finite()), "{:?}: {:?}", config.rope, frequencies);
        prop_assert!(config.rope.attention_factor().is_finite());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Config::parse(&bytes);
    }
}

#[test]
fn what_a_revision_changes_is_named() {
    let config = |field: &str, value: Value| {
        let mut json = json!({
            "architectures": ["Qwen3ForCausalLM"], "vocab_size": 20, "hidden_size": 8, "intermediate_size": 12,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 64, "tie_word_embeddings": false,
        });
        json[field] = value;
        Config::parse(json.to_string().as_bytes()).expect("a config")
    };
    let base = config("vocab_size", json!(20));
    assert_eq!(base.difference(&config("torch_dtype", json!("float32"))), None, "tensors decide on types");
    let changes = [
        ("architectures", json!(["LlamaForCausalLM"])),
        ("vocab_size", json!(21)),
        ("hidden_size", json!(16)),
        ("intermediate_size", json!(16)),
        ("num_hidden_layers", json!(3)),
        ("num_attention_heads", json!(2)),
        ("num_key_value_heads", json!(4)),
        ("head_dim", json!(8)),
        ("rms_norm_eps", json!(1e-5)),
        ("max_position_embeddings", json!(128)),
        ("tie_word_embeddings", json!(true)),
    ];
    for (field, value) in changes {
        assert_eq!(base.difference(&config(field, value)), Some(field));
    }
    assert_eq!(base.difference(&config("rope_theta", json!(500.0))), Some("rope_parameters"));
}
