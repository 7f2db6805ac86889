//! A fixture's weights, one region for each part of the model, filled when a test says so.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use compute::backend::Part;
use loader::{Header, LoadError, Proof, Region, Weights, header};
use models::Config;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tensor::{Decoder, Format};

/// One part's region, and the bytes it is to have.
pub(crate) struct Piece {
    pub(crate) region: Arc<Region>,
    bytes: Vec<u8>,
}

/// Weights on their way.
pub(crate) struct Slow {
    pub(crate) decoder: Arc<Decoder>,
    /// The same model, all there.
    pub(crate) whole: Arc<Decoder>,
    pub(crate) pieces: BTreeMap<Part, Piece>,
}

impl Slow {
    /// A fixture of which nothing has arrived.
    pub(crate) fn new(fixture: &str) -> Self {
        Self::of(fixture, |_, _| {})
    }

    /// Another revision of a fixture: the rows of one matrix moved. `whole` is the fixture itself.
    pub(crate) fn changed(fixture: &str) -> Self {
        Self::of(fixture, |name, bytes| {
            if name == "model.layers.1.mlp.down_proj.weight" {
                let half = bytes.len() / 2;
                bytes.rotate_left(half);
            }
        })
    }

    fn of(fixture: &str, change: impl Fn(&str, &mut Vec<u8>)) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(fixture);
        let config = Config::parse(&fs::read(folder.join("config.json")).expect("config.json")).expect("a config");
        let weights = Weights::open_dir(&folder).expect("weights");
        let whole = Arc::new(models::bind(&config, &weights).expect("a model"));
        let mut names: BTreeMap<Part, Vec<&str>> = BTreeMap::new();
        weights.names().for_each(|name| names.entry(part_of(name)).or_default().push(name));
        let mut pieces = BTreeMap::new();
        let mut headers: Vec<(Arc<Region>, Header)> = Vec::new();
        for (part, names) in names {
            let tensors: Vec<Vec<u8>> = names
                .iter()
                .map(|name| {
                    let mut bytes = weights.get(name).expect("a tensor").bytes().to_vec();
                    change(name, &mut bytes);
                    bytes
                })
                .collect();
            let views = names.iter().zip(&tensors).map(|(name, bytes)| {
                let tensor = weights.get(name).expect("a tensor");
                (name, TensorView::new(dtype(tensor.format()), tensor.shape().to_vec(), bytes).expect("a view"))
            });
            let bytes = safetensors::serialize(views, None).expect("serialised");
            let region = Region::anonymous(&format!("{part} of {fixture}"), bytes.len() as u64).expect("memory");
            headers.push((Arc::clone(&region), header::parse(&bytes, bytes.len() as u64).expect("a header")));
            pieces.insert(part, Piece { region, bytes });
        }
        let over = Weights::over(headers.iter().map(|(region, header)| (region, header)), Proof::Trusted);
        let decoder = Arc::new(models::bind(&config, &over.expect("weights")).expect("a model"));
        Self { decoder, whole, pieces }
    }

    /// The parts in the order in which a step needs them.
    pub(crate) fn parts(&self) -> Vec<Part> {
        self.pieces.keys().copied().collect()
    }

    /// One part arrives.
    pub(crate) fn fill(&self, part: Part) {
        let piece = &self.pieces[&part];
        assert!(piece.region.fill_extent(0, &piece.bytes), "{part} arrives once");
    }

    /// Nothing more will arrive.
    pub(crate) fn fail(&self, error: LoadError) {
        let error = Arc::new(error);
        self.pieces.values().for_each(|piece| piece.region.fail(Arc::clone(&error)));
    }
}

fn part_of(name: &str) -> Part {
    match name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()) {
        Some(number) => Part::Layer(number.parse().expect("a number")),
        None if name.starts_with("model.embed_tokens") => Part::Embeddings,
        None => Part::Head,
    }
}

/// The fixtures' formats as the reference library has them.
fn dtype(format: Format) -> Dtype {
    match format {
        Format::F32 => Dtype::F32,
        Format::Bf16 => Dtype::BF16,
        Format::F16 => Dtype::F16,
        other => panic!("no fixture is stored as {other}"),
    }
}
