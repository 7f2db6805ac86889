//! Arguments of the kernels, field for field as their sources declare them.

/// A kernel's argument: numbers side by side, without a gap.
pub(crate) trait Argument: Copy {
    /// It as it lies in memory.
    fn bytes(&self) -> &[u8];
}

/// Declares arguments whose bytes are all theirs.
macro_rules! arguments {
    ($($(#[$doc:meta])* struct $name:ident { $($field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq)]
        #[repr(C)]
        pub(crate) struct $name { $(pub(crate) $field: $type,)* }

        impl Argument for $name {
            fn bytes(&self) -> &[u8] {
                // A gap would be memory that nobody has written.
                const { assert!(size_of::<$name>() == 0 $(+ size_of::<$type>())*) };
                // SAFETY: it is plain numbers without gaps, as just asserted.
                unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<$name>()) }
            }
        }
    )*};
}

/// A pointer of the device as it is passed on.
pub(crate) type At = u64;

arguments! {
    /// Of `embed`.
    struct Embed {
        tokens: At, chosen: At, table: At, scales: At, stream: At,
        width: u32, stride: u32,
    }
    /// Of `normalize`.
    struct Normalize {
        stream: At, picked: At, weight: At, out: At, wide: At,
        width: u32, stride: u32, eps: f32, unused: u32,
    }
    /// Of `turn`.
    struct Turn {
        positions: At, frequencies: At, angles: At,
        pairs: u32, factor: f32,
    }
    /// Of `rotate`.
    struct Rotate {
        projected: At, angles: At, slots: At, query_norm: At, key_norm: At, queries: At, keys: At, values: At,
        heads: u32, kv_heads: u32, dim: u32, room: u32, query_eps: f32, key_eps: f32, are_neighbours: u32, unused: u32,
    }
    /// Of `narrow_*` and `tiled_*`.
    struct Product {
        weights: At, scales: At, x: At, bias: At, out: At,
        rows: u32, outputs: u32, inputs: u32, out_stride: u32, then: u32, unused: u32,
    }
    /// Of `attend_*`, `attend_one_*` and `join_*`.
    struct Attend {
        queries: At, keys: At, values: At, tiles: At, blocks: At, mixed: At, partial: At,
        heads: u32, kv_heads: u32, dim: u32, stride: u32, window: u32, scale: f32,
    }
    /// Of `choose`.
    struct Choose {
        logits: At, choices: At, tokens: At, found: At,
        vocabulary: u32, are_scored: u32,
    }
    /// Of `score`.
    struct Score {
        logits: At, asked: At, chosen: At, tops: At, own: At, top_ids: At, top_logits: At,
        vocabulary: u32, room: u32,
    }
    /// One row's choice, in a list of `choose`.
    struct RowChoice {
        uniform: f64, inverse: f64,
        temperature: f32, top_p: f32, min_p: f32, top_k: u32, is_wanted: u32, unused: u32,
    }
}

/// The use of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Then {
    Set = 0,
    Add = 1,
    Gated = 2,
}

/// From here on a row's token is the place of one that the step before has chosen.
pub(crate) const CHOSEN: u32 = 1 << 31;
/// A token nobody asked about: the chosen one is meant.
pub(crate) const NOBODY: u32 = u32::MAX;
