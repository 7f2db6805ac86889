//! The order of a model's extents: those of its first file, then those of its second, and so on.

use crate::extent;
use crate::manifest::Manifest;

/// One extent, by its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExtentId {
    /// The file's place in the manifest.
    pub file: usize,
    /// The extent's place in the file.
    pub index: u64,
}

/// The places of a model's files in the order of its extents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The first extent of each file, and the number of all.
    firsts: Vec<u32>,
}

impl Layout {
    /// The layout of this manifest; none where it has more extents than can be numbered.
    #[must_use]
    pub fn of(manifest: &Manifest) -> Option<Self> {
        Self::new(manifest.files().iter().map(|file| file.bytes))
    }

    /// The layout of files of these sizes.
    #[must_use]
    pub fn new(sizes: impl IntoIterator<Item = u64>) -> Option<Self> {
        let mut firsts = vec![0_u32];
        let mut end = 0_u32;
        for bytes in sizes {
            end = end.checked_add(u32::try_from(extent::count(bytes)).ok()?)?;
            firsts.push(end);
        }
        Some(Self { firsts })
    }

    /// The number of all extents.
    #[must_use]
    pub fn extents(&self) -> u32 {
        self.firsts.last().copied().unwrap_or(0)
    }

    /// The number of this extent; none beyond the end of its file.
    #[must_use]
    pub fn number(&self, id: ExtentId) -> Option<u32> {
        let (first, end) = (*self.firsts.get(id.file)?, *self.firsts.get(id.file.checked_add(1)?)?);
        let number = first.checked_add(u32::try_from(id.index).ok()?)?;
        (number < end).then_some(number)
    }

    /// The extent of this number.
    #[must_use]
    pub fn id(&self, number: u32) -> Option<ExtentId> {
        if number >= self.extents() {
            return None;
        }
        // Empty files begin where their next begins: the last of them is the one that has the extent.
        let file = self.firsts.partition_point(|&first| first <= number).checked_sub(1)?;
        Some(ExtentId { file, index: u64::from(number - self.firsts[file]) })
    }
}
