//! A model's weights: tensors by name, over one or more mapped files.
//!
//! A name may be known before its bytes have arrived: see [`Weights::ready`]. Opening reads
//! headers only, so its cost follows the number of tensors and not their size. What the tensors
//! are for is the worker's business.

mod index;
mod layout;

use std::any::Any;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use wire::digest::Digest;
use wire::extent::EXTENT_BYTES;

use wire::proof::Proof;

use crate::header::Header;
use crate::identity::{self, FileDigests};
use crate::{LoadError, Region, Tensor, gguf, header};

pub(crate) use index::Index;
use layout::Layout;
pub(crate) use layout::{all_names, file_names, is_gguf};

/// One file of weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightFile {
    /// The file's path, or the name of the embedded bytes.
    pub name: String,
    /// Its size, header included.
    pub bytes: u64,
}

/// Tensors by name.
#[derive(Clone)]
pub struct Weights {
    tensors: BTreeMap<String, Tensor>,
    files: Vec<WeightFile>,
    proof: Proof,
    regions: Vec<Arc<Region>>,
    /// BLAKE3 of each tensor's bytes, as far as a manifest says.
    digests: Arc<BTreeMap<String, Digest>>,
    /// Empty until the digests of all files are known; clones share it.
    identity: Arc<OnceLock<Digest>>,
    /// Values that must live as long as the weights: the cache's lock on their files.
    alive: Vec<Arc<dyn Any + Send + Sync>>,
}

impl fmt::Debug for Weights {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} tensors of {:?}, {}", self.tensors.len(), self.files, self.proof)
    }
}

impl Weights {
    /// No tensors yet.
    pub(crate) fn new(proof: Proof) -> Self {
        let (tensors, files, regions, alive) = (BTreeMap::new(), Vec::new(), Vec::new(), Vec::new());
        Self { tensors, files, proof, regions, digests: Arc::default(), identity: Arc::default(), alive }
    }

    /// Opens a directory as Hugging Face publishes it: `model.safetensors`, or
    /// `model.safetensors.index.json` and the shard files it names, or all `*.safetensors`, in
    /// this order of preference (the order of transformers).
    ///
    /// The index's `metadata.total_size` is compared with the tensors' bytes and a difference is
    /// only logged: published indexes are known to be wrong there (tied tensors counted twice,
    /// sizes of another precision), and no byte is read by it.
    ///
    /// # Errors
    /// Whatever makes the files unreadable, malformed or at odds with each other, see
    /// [`LoadError`]. Nothing is half open after an error.
    pub fn open_dir(dir: &Path) -> Result<Self, LoadError> {
        let mut weights = Self::new(Proof::Trusted);
        match layout::find(dir)? {
            Layout::Files(paths) => weights.add_files(&paths)?,
            Layout::Index(path) => weights.add_indexed(dir, &Index::read(path)?)?,
            Layout::Ggufs(paths) => weights.add_ggufs(&paths)?,
        }
        tracing::debug!(
            dir = %dir.display(),
            files = weights.files.len(),
            tensors = weights.tensors.len(),
            bytes = weights.total_bytes(),
            "opened weights"
        );
        Ok(weights)
    }

    /// Opens one safetensors file that is part of the program.
    ///
    /// # Errors
    /// The header is malformed.
    pub fn embedded(name: &str, safetensors: &'static [u8]) -> Result<Self, LoadError> {
        let mut weights = Self::new(Proof::Trusted);
        weights.add_region(&Region::embedded(name, safetensors))?;
        Ok(weights)
    }

    /// Weights over regions that may still be filled, each with its file's checked header.
    ///
    /// # Errors
    /// A tensor is in two regions.
    pub fn over<'a>(
        regions: impl IntoIterator<Item = (&'a Arc<Region>, &'a Header)>,
        proof: Proof,
    ) -> Result<Self, LoadError> {
        let mut weights = Self::new(proof);
        for (region, header) in regions {
            weights.add(region, header)?;
        }
        Ok(weights)
    }

    /// The tensor of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The size of all files together, headers included: what the weights take of memory once
    /// every page has been read.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The files, in the order of opening.
    #[must_use]
    pub fn files(&self) -> &[WeightFile] {
        &self.files
    }

    /// The proof of these weights.
    #[must_use]
    pub fn proof(&self) -> Proof {
        self.proof
    }

    /// A digest that other weights share exactly if their files hold the same bytes, whatever the
    /// files are called and wherever they come from.
    ///
    /// A manifest, an earlier load's digests or the cache give it at once; a first load without
    /// them gives it when [`Load::arrived`](crate::Load::arrived) resolves. `None` before that, and
    /// for good where nothing was hashed: a trusted directory, embedded bytes. Clones see the same.
    #[must_use]
    pub fn identity(&self) -> Option<Digest> {
        self.identity.get().copied()
    }

    /// Hashes the bytes of all files, extent by extent: the identity of weights that nobody hashed while they came.
    /// `go_on` is told the size of each extent that is done, and may end the work. Blocks.
    ///
    /// None where it was ended, or a file has not arrived.
    #[must_use]
    pub fn hash(&self, go_on: &mut dyn FnMut(u64) -> bool) -> Option<Digest> {
        let mut digests: Vec<Vec<Digest>> = Vec::with_capacity(self.regions.len());
        for region in &self.regions {
            let mut extents = Vec::new();
            for bytes in region.bytes()?.chunks(EXTENT_BYTES as usize) {
                extents.push(Digest(blake3::hash(bytes).into()));
                if !go_on(bytes.len() as u64) {
                    return None;
                }
            }
            digests.push(extents);
        }
        let files = self.regions.iter().zip(&digests).map(|(region, extents)| FileDigests {
            name: region.name(),
            bytes: region.len(),
            extents,
        });
        Some(identity::of(files.collect()))
    }

    /// The tensor of this name, once its bytes have arrived and are verified.
    ///
    /// # Errors
    /// There is no such tensor, or why the load failed.
    pub async fn ready(&self, name: &str) -> Result<&Tensor, Arc<LoadError>> {
        let tensor = self.get(name).ok_or_else(|| Arc::new(LoadError::NoTensor { name: name.to_owned() }))?;
        tensor.ready().await.map(|()| tensor)
    }

    /// Returns true if every byte of every tensor has arrived.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.tensors.values().all(Tensor::is_ready)
    }

    /// The regions of the files, in the order of opening.
    pub(crate) fn regions(&self) -> Vec<Arc<Region>> {
        self.regions.clone()
    }

    pub(crate) fn set_proof(&mut self, proof: Proof) {
        self.proof = proof;
    }

    /// Sets the identity, once for all clones.
    pub(crate) fn set_identity(&self, identity: Option<Digest>) {
        if let Some(identity) = identity {
            // The digests that give it at once are those that the bytes are checked against later.
            let _ = self.identity.set(identity);
        }
    }

    /// Says what each tensor's bytes hash to, for a later revision to compare with.
    pub(crate) fn set_tensor_digests(&mut self, digests: BTreeMap<String, Digest>) {
        self.digests = Arc::new(digests);
    }

    /// Holds on to something for as long as any clone of the weights lives.
    pub(crate) fn keep_alive(&mut self, thing: Arc<dyn Any + Send + Sync>) {
        self.alive.push(thing);
    }

    /// The tensors that a revision with these digests has in common with this one.
    pub(crate) fn unchanged(&self, digests: &BTreeMap<String, Digest>) -> BTreeMap<String, Tensor> {
        let same = |(name, tensor): (&String, &Tensor)| {
            let digest = self.digests.get(name)?;
            (digests.get(name) == Some(digest) && tensor.is_ready()).then(|| (name.clone(), tensor.clone()))
        };
        self.tensors.iter().filter_map(same).collect()
    }

    /// Uses another revision's tensors where they are the same in type and shape too; leaves only
    /// those in `unchanged`. How many bytes are shared.
    pub(crate) fn share(&mut self, unchanged: &mut BTreeMap<String, Tensor>) -> u64 {
        unchanged.retain(|name, old| {
            self.tensors.get(name).is_some_and(|new| new.format() == old.format() && new.shape() == old.shape())
        });
        for (name, tensor) in &*unchanged {
            self.tensors.insert(name.clone(), tensor.clone());
        }
        unchanged.values().map(Tensor::byte_count).sum()
    }

    fn add_files(&mut self, paths: &[PathBuf]) -> Result<(), LoadError> {
        paths.iter().try_for_each(|path| self.add_region(&Region::map_file(path)?).map(drop))
    }

    /// Opens the GGUF files of one model; tensors keep the names they have there.
    fn add_ggufs(&mut self, paths: &[PathBuf]) -> Result<(), LoadError> {
        let mut parts = Vec::with_capacity(paths.len());
        for path in paths {
            let region = Region::map_file(path)?;
            let gguf_error = |source| LoadError::Gguf { file: region.name().to_owned(), source };
            let gguf = gguf::parse(region.bytes().unwrap_or_default(), region.len()).map_err(gguf_error)?;
            self.add(&region, &gguf.header())?;
            parts.push(gguf);
        }
        let wrong = |(at, source): (usize, _)| LoadError::Gguf {
            file: paths.get(at).map_or_else(String::new, |path| path.display().to_string()),
            source,
        };
        gguf::split::join(parts).map(drop).map_err(wrong)
    }

    /// Opens the shard files that the index names and holds each against the index.
    fn add_indexed(&mut self, dir: &Path, index: &Index) -> Result<(), LoadError> {
        let shards = index.shards();
        // All are looked for before any is opened: after an interrupted download the missing file
        // is the news, not what is wrong with the half of another.
        if let Some(missing) = shards.keys().find(|shard| !dir.join(shard).exists()) {
            return Err(LoadError::IndexMissingShard { index: index.path.clone(), file: (*missing).to_owned() });
        }
        for (shard, listed) in &shards {
            let region = Region::map_file(&dir.join(shard))?;
            for name in self.add_region(&region)? {
                index.check_listed(&name, shard)?;
            }
            if let Some(absent) = listed.iter().find(|name| !self.tensors.contains_key(**name)) {
                let (index, tensor) = (index.path.clone(), (*absent).to_owned());
                return Err(LoadError::IndexMissingTensor { index, tensor, file: (*shard).to_owned() });
            }
        }
        let tensor_bytes = self.tensors.values().map(|tensor| tensor.byte_count()).sum::<u64>();
        if let Some(total_bytes) = index.total_bytes.filter(|total| *total != tensor_bytes) {
            tracing::warn!(index = %index.path.display(), total_bytes, tensor_bytes, "the index states another size than its tensors have");
        }
        Ok(())
    }

    /// Adds all tensors of one finished region and returns their names.
    fn add_region(&mut self, region: &Arc<Region>) -> Result<Vec<String>, LoadError> {
        let header = header::parse(region.bytes().unwrap_or_default(), region.len());
        let header = header.map_err(|source| LoadError::Header { file: region.name().to_owned(), source })?;
        self.add(region, &header)
    }

    /// Adds all tensors that a checked header finds in a region, arrived or not, and returns their
    /// names.
    pub(crate) fn add(&mut self, region: &Arc<Region>, header: &Header) -> Result<Vec<String>, LoadError> {
        let mut names = Vec::with_capacity(header.tensors.len());
        for info in &header.tensors {
            let tensor = Tensor::new(Arc::clone(region), info, header.data_start);
            names.push(info.name.clone());
            match self.tensors.entry(info.name.clone()) {
                Entry::Vacant(place) => place.insert(tensor),
                Entry::Occupied(place) => {
                    let first = place.get().region().name().to_owned();
                    let second = region.name().to_owned();
                    return Err(LoadError::TensorInTwoFiles { tensor: place.key().clone(), first, second });
                }
            };
        }
        self.regions.push(Arc::clone(region));
        self.files.push(WeightFile { name: region.name().to_owned(), bytes: region.len() });
        Ok(names)
    }
}

#[cfg(test)]
mod tests;
