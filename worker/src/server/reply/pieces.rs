//! Cuts what was added to a choice so that no event of a stream grows beyond what readers take: an echoed prompt and its
//! log probabilities come all at once.

use super::Piece;

/// The most tokens whose log probabilities one event holds: with 20 rivals each some 70 kB.
const REPORTS_MAX: usize = 32;
/// The most bytes of text in one event.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// The piece as pieces in order; the last holds its end.
pub(super) fn split(mut piece: Piece) -> Vec<Piece> {
    let mut pieces = Vec::new();
    while piece.reports.len() > REPORTS_MAX || piece.text.len() > TEXT_BYTES_MAX {
        let rest = piece.reports.split_off(piece.reports.len().min(REPORTS_MAX));
        let text = piece.text.split_off(piece.text.floor_char_boundary(TEXT_BYTES_MAX));
        pieces.push(Piece { text: piece.text, reports: piece.reports, finish: None });
        piece = Piece { text, reports: rest, finish: piece.finish };
    }
    pieces.push(piece);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_are_small_and_together_the_whole(text in "[aé€]{0,20000}", reports in 0_u32..100) {
            let report = |id| super::super::super::choice::TokenReport {
                id, bytes: vec![], logprob: None, top: vec![], offset: 0, start: 0, end: 0,
            };
            let reports: Vec<_> = (0..reports).map(report).collect();
            let whole = Piece { text: text.clone(), reports: reports.clone(), finish: Some("stop") };
            let pieces = split(whole);
            let small = |piece: &Piece| piece.text.len() <= TEXT_BYTES_MAX && piece.reports.len() <= REPORTS_MAX;
            prop_assert!(pieces.iter().all(small));
            prop_assert_eq!(pieces.iter().map(|piece| piece.text.as_str()).collect::<String>(), text);
            prop_assert_eq!(pieces.iter().flat_map(|piece| piece.reports.clone()).collect::<Vec<_>>(), reports);
            prop_assert_eq!(pieces.iter().filter(|piece| piece.finish.is_some()).count(), 1);
            prop_assert_eq!(pieces.last().and_then(|piece| piece.finish), Some("stop"));
        }
    }
}
