//! A small model with a manifest, and the ways in which a process has it.

use loader::peers::Peers;
use loader::remote::Env;
use loader::{Content, Load, Loader, LoaderConfig, OpenOptions, Proof};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use telemetry::metrics::Registry;
use testkit::origin::{Faults, Generated, Origin};
use testkit::peer::{Fleet, fleet_of};
use wire::digest::Digest;
use wire::evidence::{Expected, Verdict};
use wire::extent::EXTENT_BYTES;
use wire::manifest::{Manifest, ManifestFile};

const CONFIG: &[u8] = br#"{"model_type":"test"}"#;
/// The places of the files in the manifest.
pub(crate) const SMALL: usize = 0;
pub(crate) const WEIGHTS: usize = 1;

/// The bytes of a model.
pub(crate) struct Model {
    pub(crate) weights: Vec<u8>,
    pub(crate) manifest: Manifest,
}

impl Model {
    /// A model with weights of `extents` extents, the last of them short.
    pub(crate) fn new(extents: u64) -> Self {
        let bytes = (extents - 1) * EXTENT_BYTES + 1_000;
        let header = format!("{{\"layers.0\":{{\"dtype\":\"U8\",\"shape\":[{bytes}],\"data_offsets\":[0,{bytes}]}}}}");
        let mut weights = (header.len() as u64).to_le_bytes().to_vec();
        weights.extend(header.as_bytes());
        weights.extend(Generated::new(bytes, 7).bytes(0..bytes));
        let digest = |bytes: &[u8]| Digest(*blake3::hash(bytes).as_bytes());
        let file = |name: &str, bytes: &[u8]| ManifestFile {
            name: name.into(),
            bytes: bytes.len() as u64,
            extents: bytes.chunks(4 << 20).map(digest).collect(),
            tensors: Vec::new(),
        };
        let files = vec![file("config.json", CONFIG), file("model.safetensors", &weights)];
        let manifest = Manifest::new(files).expect("a manifest");
        Self { weights, manifest }
    }

    /// The same with a file in the manifest that no load reads, after the others.
    pub(crate) fn with_unread_file(self) -> Self {
        let mut files = self.manifest.files().to_vec();
        let extents = vec![Digest(*blake3::hash(b"read me").as_bytes())];
        files.push(ManifestFile { name: "picture.png".into(), bytes: 7, extents, tensors: Vec::new() });
        Self { manifest: Manifest::new(files).expect("a manifest"), ..self }
    }

    pub(crate) fn root(&self) -> Digest {
        self.manifest.root()
    }

    /// The bytes of an extent of the weights.
    pub(crate) fn extent(&self, index: u64) -> &[u8] {
        let range = wire::extent::range(self.weights.len() as u64, index).expect("within the weights");
        &self.weights[usize::try_from(range.start).expect("small")..usize::try_from(range.end).expect("small")]
    }

    /// The path and range of extents of the weights.
    pub(crate) fn ask(&self, extents: std::ops::Range<u64>) -> (String, String) {
        let range = wire::peers::range_header(extents, self.weights.len() as u64).expect("within the weights");
        (format!("/weights/{}/files/{WEIGHTS}", self.root().to_hex()), range)
    }

    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/weights/{}/{rest}", self.root().to_hex())
    }

    fn verdict(&self) -> Verdict {
        let files = self.manifest.files().iter();
        let expected: BTreeMap<String, Expected> =
            files.map(|file| (file.name.clone(), Expected::Extents(file.extents.clone()))).collect();
        let root = Some(self.root());
        Verdict { proof: Proof::Proven, expected, is_exhaustive: true, root, reasons: Vec::new() }
    }

    /// A store that has it.
    pub(crate) fn origin(&self, faults: Faults) -> Origin {
        let builder = Origin::builder().seed(7).faults(faults);
        let builder = builder.object("m/config.json", CONFIG).object("m/model.safetensors", self.weights.clone());
        builder.object("m/forebay.manifest.json", self.manifest.to_json()).start().expect("an origin")
    }

    /// Begins to load it into memory, where nothing says what its bytes must be.
    pub(crate) async fn load_pinned(&self, origin: &Origin) -> Load {
        let verdict = Verdict { proof: Proof::Pinned, ..Verdict::trusted("a test") };
        self.load_as(origin, None, &verdict, None).await.1
    }

    /// Begins to load it from a store, into the cache there or into memory.
    pub(crate) async fn load(&self, origin: &Origin, cache: Option<&Path>) -> (Loader, Load) {
        self.load_as(origin, cache, &self.verdict(), None).await
    }

    /// Begins to load it into memory as a member of a fleet in which nobody else is.
    pub(crate) async fn load_in_fleet(&self, origin: &Origin) -> Load {
        let peers = fleet_of(&Fleet::new(), "new.test", Vec::new());
        self.load_as(origin, None, &self.verdict(), Some(peers)).await.1
    }

    async fn load_as(
        &self,
        origin: &Origin,
        cache: Option<&Path>,
        verdict: &Verdict,
        peers: Option<Peers>,
    ) -> (Loader, Load) {
        let mut config = LoaderConfig::default();
        config.cache.enabled = cache.is_some();
        config.cache.root = cache.map(Path::to_owned);
        config.cache.min_free_bytes = 0;
        // One extent after the other, so that some are there long before others.
        config.fetch.fetch_bytes = EXTENT_BYTES;
        let fetch = &mut config.fetch;
        (fetch.concurrency_start, fetch.concurrency_min, fetch.concurrency_max) = (1, 1, 1);
        let loader = Loader::beside(peers, &config, Env::default(), &Registry::new()).expect("a loader");
        let url = format!("{}/m/", origin.url()).parse().expect("a URL");
        let probe = loader.probe(&url).await.expect("a model");
        let load = loader.open(probe, verdict, OpenOptions::default()).await.expect("opens");
        (loader, load)
    }

    /// The whole model, in memory.
    pub(crate) async fn arrived(&self) -> Arc<Content> {
        let origin = self.origin(Faults::default());
        let (_, load) = self.load(&origin, None).await;
        load.arrived().await.expect("arrives");
        content(&load)
    }
}

/// The files of a load whose manifest is known.
pub(crate) fn content(load: &Load) -> Arc<Content> {
    load.content().borrow().clone().expect("the root is known")
}
