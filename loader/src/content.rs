//! A model's files as others may have them: verified extents, in place.
//!
//! A content holds what its bytes lie in, the cache's lock on them included: while it lives, nobody evicts them. It
//! knows no peer, and not who may have what.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use wire::digest::Digest;
use wire::extent;
use wire::manifest::{Manifest, ManifestFile};
use wire::peers::{Bitmap, ExtentId, Layout};
use wire::proof::Proof;

use crate::attested::{self, Whole};
use crate::cache::Finished;
use crate::fetch::Claims;
use crate::probe::Probe;
use crate::verify::digests_of;
use crate::{LoadError, Region};

/// A value that must live as long as the bytes.
pub(crate) type Alive = Arc<dyn Any + Send + Sync>;

/// The files of one manifest, as far as they are here.
pub struct Content {
    manifest: Manifest,
    text: Bytes,
    proof: Proof,
    layout: Layout,
    /// In the manifest's order; none where a file is not here.
    files: Vec<Option<Part>>,
    /// The files that were proven as wholes, and what each of them met.
    wholes: BTreeMap<String, Digest>,
    claims: Arc<Claims>,
    alive: Alive,
}

/// The place of one file's bytes.
#[derive(Clone)]
enum Part {
    /// Of a file of weights, or of the cache.
    Region(Arc<Region>),
    /// Of a small file that was read whole, and that the manifest's digests were found to be of.
    Small(Bytes),
}

impl fmt::Debug for Content {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let here = self.files.iter().flatten().count();
        write!(formatter, "{} ({}, {here} of {} files)", self.root(), self.proof, self.files.len())
    }
}

impl Content {
    /// The files of a load: its regions, which may still be filled, and its small files. `wholes` are the files that
    /// were proven as wholes, and what each of them met.
    ///
    /// None where the manifest has more extents than can be numbered.
    pub(crate) fn of_load(
        probe: &Probe,
        manifest: &Manifest,
        (proof, wholes): (Proof, BTreeMap<String, Digest>),
        regions: &[Arc<Region>],
        alive: Alive,
    ) -> Option<Self> {
        let names = probe.shards.iter().map(|shard| shard.object.name.as_str());
        let regions: BTreeMap<&str, &Arc<Region>> = names.zip(regions).collect();
        let part = |file: &ManifestFile| match regions.get(file.name.as_str()) {
            Some(region) => (region.len() == file.bytes).then(|| Part::Region(Arc::clone(region))),
            None => small(probe, file),
        };
        let published = probe.file(crate::probe::MANIFEST).filter(|text| is_of(text, manifest.root()));
        let text = published.map_or_else(|| manifest.to_json().into(), Bytes::copy_from_slice);
        let files = manifest.files().iter().map(part).collect();
        Some(Self { wholes, ..Self::new(manifest.clone(), text, proof, files, alive)? })
    }

    /// The files of a finished model of the cache. Maps them and reads nothing.
    ///
    /// # Errors
    /// A file cannot be mapped, or the manifest cannot be read.
    pub fn of_finished(finished: Finished) -> Result<Self, LoadError> {
        let url = finished.directory.display().to_string();
        let manifest = Manifest::parse(&finished.manifest).map_err(|source| LoadError::Manifest { url, source })?;
        let part = |file: &ManifestFile| {
            let path = finished.directory.join(&file.name);
            if !path.exists() {
                return Ok(None);
            }
            let region = Region::map_file(&path)?;
            Ok((region.len() == file.bytes).then_some(Part::Region(region)))
        };
        let files = manifest.files().iter().map(part).collect::<Result<_, LoadError>>()?;
        let (text, proof) = (Bytes::from_owner(Arc::clone(&finished.manifest)), finished.proof);
        let (path, wholes) = (finished.directory.clone(), finished.wholes());
        let content = Self::new(manifest, text, proof, files, Arc::new(finished));
        content.map(|content| Self { wholes, ..content }).ok_or(LoadError::NotAFile { path })
    }

    fn new(manifest: Manifest, text: Bytes, proof: Proof, files: Vec<Option<Part>>, alive: Alive) -> Option<Self> {
        let layout = Layout::of(&manifest)?;
        Some(Self { manifest, text, proof, layout, files, wholes: BTreeMap::new(), claims: Arc::default(), alive })
    }

    /// The files that were proven as wholes, as a content of their own, with the key under which others ask for the
    /// digests of their extents: whoever proved the same files has the same manifest of them. None where there are none.
    #[must_use]
    pub fn attested(&self) -> Option<(Digest, Self)> {
        let is_whole = |file: &&ManifestFile| self.wholes.contains_key(&file.name);
        let files = self.manifest.files().iter().filter(is_whole);
        let files: Vec<ManifestFile> = files.map(|file| ManifestFile { tensors: Vec::new(), ..file.clone() }).collect();
        let whole = |file: &'_ ManifestFile| Whole::new(&file.name, file.bytes, self.wholes[&file.name]);
        let key = attested::key(files.iter().map(whole).collect())?;
        let manifest = Manifest::new(files).ok()?;
        let part = |(file, part): (&ManifestFile, &Option<Part>)| is_whole(&file).then(|| part.clone());
        let parts = self.manifest.files().iter().zip(&self.files).filter_map(part).collect();
        let text = manifest.to_json().into();
        Some((key, Self::new(manifest, text, self.proof, parts, Arc::clone(&self.alive))?))
    }

    /// The same files, of a load that claims extents.
    pub(crate) fn with_claims(self, claims: Arc<Claims>) -> Self {
        Self { claims, ..self }
    }

    /// The numbers of extents that will soon be here: the load has asked for them, and others need not.
    #[must_use]
    pub fn claimed(&self) -> BTreeSet<u32> {
        self.claims.current()
    }

    /// The root of the manifest.
    #[must_use]
    pub fn root(&self) -> Digest {
        self.manifest.root()
    }

    /// The manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The manifest's text, as it was published where it was.
    #[must_use]
    pub fn text(&self) -> Bytes {
        self.text.clone()
    }

    /// The proof of the bytes.
    #[must_use]
    pub fn proof(&self) -> Proof {
        self.proof
    }

    /// The numbers of the extents.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The number of extents that are here.
    #[must_use]
    pub fn extents_here(&self) -> u64 {
        let count = |part: &Part| match part {
            Part::Region(region) => region.shown_extents(),
            Part::Small(bytes) => extent::count(bytes.len() as u64),
        };
        self.files.iter().flatten().map(count).sum()
    }

    /// Puts the extents that are here into `known` and gives those that were not in it.
    pub fn note_new(&self, known: &mut Bitmap) -> Vec<u32> {
        let mut new = Vec::new();
        for (file, part) in self.files.iter().enumerate() {
            let Some(part) = part else { continue };
            for index in 0..extent::count(part.len()) {
                let Some(number) = self.layout.number(ExtentId { file, index }) else { continue };
                let range = extent::range(part.len(), index).unwrap_or_default();
                if !known.contains(number) && part.is_here(range) && known.insert(number) {
                    new.push(number);
                }
            }
        }
        new
    }

    /// The bytes of a range of a file, without a copy; none unless every extent that it touches is verified.
    #[must_use]
    pub fn bytes(self: &Arc<Self>, file: usize, range: Range<u64>) -> Option<Bytes> {
        let range = usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?;
        match self.files.get(file)?.as_ref()? {
            Part::Small(bytes) => (range.start <= range.end && range.end <= bytes.len()).then(|| bytes.slice(range)),
            Part::Region(region) => {
                region.view(range.clone())?;
                Some(Bytes::from_owner(View { content: Arc::clone(self), file, range }))
            }
        }
    }

    /// Returns true if sending this range waits for no disk.
    #[must_use]
    pub fn is_resident(&self, file: usize, range: Range<u64>) -> bool {
        match self.files.get(file) {
            Some(Some(Part::Region(region))) => region.is_resident(range),
            _ => true,
        }
    }

    /// Brings a range into the page cache. Blocks.
    ///
    /// # Errors
    /// The system's error.
    pub fn bring(&self, file: usize, range: Range<u64>) -> io::Result<()> {
        match self.files.get(file) {
            Some(Some(Part::Region(region))) => region.bring(range),
            _ => Ok(()),
        }
    }
}

impl Part {
    fn len(&self) -> u64 {
        match self {
            Self::Region(region) => region.len(),
            Self::Small(bytes) => bytes.len() as u64,
        }
    }

    fn is_here(&self, range: Range<u64>) -> bool {
        match self {
            Self::Region(region) => region.is_verified(range),
            Self::Small(_) => true,
        }
    }
}

/// A range that stays readable while it lives.
struct View {
    content: Arc<Content>,
    file: usize,
    range: Range<usize>,
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        let Some(Some(Part::Region(region))) = self.content.files.get(self.file) else { return &[] };
        // What was shown once is never taken back.
        region.view(self.range.clone()).unwrap_or_default()
    }
}

/// A small file, if it is what the manifest says.
fn small(probe: &Probe, file: &ManifestFile) -> Option<Part> {
    let bytes = &probe.files.get(&file.name)?.bytes;
    let is_it = bytes.len() as u64 == file.bytes && digests_of(bytes) == file.extents;
    is_it.then(|| Part::Small(Bytes::from_owner(Arc::clone(bytes))))
}

fn is_of(text: &[u8], root: Digest) -> bool {
    Manifest::parse(text).is_ok_and(|manifest| manifest.root() == root)
}
