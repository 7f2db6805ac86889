//! Taking memory at the start, so that none has to be found later: piece by piece, as long as the machine has what is
//! still to come. It is told how a piece is taken and how much memory there is; it maps nothing and reads no file.

use std::io;
use std::ops::Range;
use thiserror::Error;

/// Bytes taken at a time: large enough that asking for the free memory costs nothing beside it.
pub const PIECE_BYTES: usize = 64 << 20;

/// Outcome of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// It is ours.
    Taken,
    /// The system cannot take memory beforehand: it comes when it is touched.
    Unsupported,
    /// Nobody needs it any more.
    Unwanted,
}

/// Errors of taking memory.
#[derive(Debug, Error)]
pub enum TakeError {
    /// There is less than is still to come.
    #[error(
        "taking {bytes} bytes for the KV cache: {taken_bytes} were taken, and the machine, or the control group, has \
         {available_bytes} left; lower kv_cache_memory_bytes, memory_bytes or gpu_memory_utilization, or stop what else \
         takes memory (worker.kv_cache_populate = false takes it only when it is needed, and may fail then)"
    )]
    Short {
        /// All that was to be taken.
        bytes: u64,
        /// Bytes that were taken until then.
        taken_bytes: u64,
        /// Bytes that were left then.
        available_bytes: u64,
    },
    /// The system refused a piece.
    #[error(
        "taking {bytes} bytes for the KV cache: the system refused more than {taken_bytes}; lower \
         kv_cache_memory_bytes, memory_bytes or gpu_memory_utilization"
    )]
    System {
        /// All that was to be taken.
        bytes: u64,
        /// Bytes that were taken until then.
        taken_bytes: u64,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Takes `bytes`, piece by piece; before each piece what is left must be `available`, where anybody says. How many
/// bytes were taken: all, or fewer where the system cannot, or nobody needs them.
///
/// # Errors
/// See [`TakeError`]; what was taken stays so.
pub fn take(
    bytes: usize,
    mut piece: impl FnMut(Range<usize>) -> io::Result<Piece>,
    available: impl Fn() -> Option<u64>,
) -> Result<u64, TakeError> {
    let mut taken = 0;
    while taken < bytes {
        let (all, so_far) = (bytes as u64, taken as u64);
        if let Some(available_bytes) = available().filter(|&available| available < all - so_far) {
            return Err(TakeError::Short { bytes: all, taken_bytes: so_far, available_bytes });
        }
        let end = bytes.min(taken.saturating_add(PIECE_BYTES));
        match piece(taken..end) {
            Ok(Piece::Taken) => taken = end,
            Ok(Piece::Unsupported | Piece::Unwanted) => break,
            Err(source) => return Err(TakeError::System { bytes: all, taken_bytes: so_far, source }),
        }
    }
    Ok(taken as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;

    #[test]
    fn a_refusal_has_the_numbers() {
        let refused = |_| Err(io::Error::from(io::ErrorKind::OutOfMemory));
        let error = take(5, refused, || None).expect_err("refused");
        assert!(matches!(error, TakeError::System { bytes: 5, taken_bytes: 0, .. }), "{error}");
        let error = take(PIECE_BYTES, |_| Ok(Piece::Taken), || Some(9)).expect_err("too little");
        assert!(matches!(error, TakeError::Short { taken_bytes: 0, available_bytes: 9, .. }), "{error}");
        assert!(error.to_string().contains("67108864") && error.to_string().contains("kv_cache_memory_bytes"));
    }

    #[test]
    fn who_cannot_or_need_not_takes_no_more() {
        for end in [Piece::Unsupported, Piece::Unwanted] {
            let answer = |range: Range<usize>| Ok(if range.start == 0 { Piece::Taken } else { end });
            assert_eq!(take(3 * PIECE_BYTES, answer, || None).expect("no error"), PIECE_BYTES as u64);
        }
    }

    proptest! {
        #[test]
        fn all_is_taken_once_or_what_is_left_was_too_little(pieces in 0_usize..20, rest in 0_usize..999, free in 0_usize..20) {
            let bytes = pieces * PIECE_BYTES + rest;
            let (free, end) = (free * PIECE_BYTES + 500, Cell::new(0));
            let taken = take(bytes, |range| {
                assert_eq!(range.start, end.replace(range.end));
                assert!(range.end - range.start <= PIECE_BYTES);
                Ok(Piece::Taken)
            }, || Some(free.saturating_sub(end.get()) as u64));
            match taken {
                Ok(taken) => prop_assert!(taken == bytes as u64 && bytes <= free && end.get() == bytes),
                Err(TakeError::Short { taken_bytes, .. }) => prop_assert!(bytes > free && taken_bytes == 0),
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
    }
}
