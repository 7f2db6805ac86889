//! A set of extents, one bit each.

/// Extents of a model, bit `i` for extent `i` in the manifest's order, the lowest bit of a byte first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    bytes: Vec<u8>,
    extents: u32,
}

impl Bitmap {
    /// An empty set of `extents` possible ones.
    #[must_use]
    pub fn new(extents: u32) -> Self {
        Self { bytes: vec![0; bytes_of(extents)], extents }
    }

    /// Takes the bits as they are sent; none where they are not exactly those of `extents`.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>, extents: u32) -> Option<Self> {
        if bytes.len() != bytes_of(extents) {
            return None;
        }
        let unused = match (extents % 8, bytes.last()) {
            (0, _) | (_, None) => 0,
            (used, Some(last)) => last >> used,
        };
        (unused == 0).then_some(Self { bytes, extents })
    }

    /// The bits as they are sent.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The number of extents that could be in it.
    #[must_use]
    pub const fn extents(&self) -> u32 {
        self.extents
    }

    /// Returns true if the extent is in it.
    #[must_use]
    #[inline]
    pub fn contains(&self, extent: u32) -> bool {
        extent < self.extents && self.bytes[extent as usize / 8] >> (extent % 8) & 1 == 1
    }

    /// Puts an extent in. Returns true if it is a possible one that was not there.
    #[inline]
    pub fn insert(&mut self, extent: u32) -> bool {
        let is_new = extent < self.extents && !self.contains(extent);
        if is_new {
            self.bytes[extent as usize / 8] |= 1 << (extent % 8);
        }
        is_new
    }

    /// Takes an extent out. Returns true if it was there.
    pub fn remove(&mut self, extent: u32) -> bool {
        let was_there = self.contains(extent);
        if was_there {
            self.bytes[extent as usize / 8] &= !(1 << (extent % 8));
        }
        was_there
    }

    /// The number of extents in it.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.bytes.iter().map(|byte| byte.count_ones()).sum()
    }

    /// The extents in it, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.extents).filter(|&extent| self.contains(extent))
    }
}

/// The bytes that so many bits take.
pub(super) const fn bytes_of(extents: u32) -> usize {
    extents.div_ceil(8) as usize
}
