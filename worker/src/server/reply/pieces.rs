//! Cuts what was added to a choice so that no event of a stream grows beyond what readers take: an echoed prompt and its
//! log probabilities come all at once.

use super::{Part, Piece};

/// The most tokens whose log probabilities one event holds: with 20 rivals each some 70 kB.
const REPORTS_MAX: usize = 32;
/// The most bytes of text in one event.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// The piece as pieces in order; the last holds its end. A piece of several has one part at most.
pub(super) fn split(piece: Piece) -> Vec<Piece> {
    let Piece { parts, tokens, mut reports, prompt, finish } = piece;
    let mut pieces: Vec<Piece> = Vec::new();
    for mut part in parts {
        while part.text().is_some_and(|text| text.len() > TEXT_BYTES_MAX) {
            let at = part.text().map_or(0, |text| text.floor_char_boundary(TEXT_BYTES_MAX));
            let Some(rest) = part.split_off(at) else { break };
            pieces.push(of(std::mem::replace(&mut part, rest)));
        }
        pieces.push(of(part));
    }
    let mut at = 0;
    while !reports.is_empty() {
        let rest = reports.split_off(reports.len().min(REPORTS_MAX));
        if at == pieces.len() {
            pieces.push(Piece::default());
        }
        pieces[at].reports = std::mem::replace(&mut reports, rest);
        at += 1;
    }
    if pieces.is_empty() {
        pieces.push(Piece::default());
    }
    pieces[0].tokens = tokens;
    pieces[0].prompt = prompt;
    pieces.last_mut().into_iter().for_each(|last| last.finish = finish);
    pieces
}

fn of(part: Part) -> Piece {
    Piece { parts: vec![part], ..Piece::default() }
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
            let call = Part::Call { index: 0, id: "i".into(), name: "n".into() };
            let parts = vec![Part::Text(text.clone()), call.clone(), Part::Arguments { index: 0, text: text.clone() }];
            let pieces = split(Piece {
                parts, tokens: vec![1], reports: reports.clone(), prompt: None, finish: Some("stop"),
            });
            let texts = || pieces.iter().flat_map(|piece| &piece.parts).filter_map(Part::text);
            prop_assert!(texts().all(|text| text.len() <= TEXT_BYTES_MAX));
            prop_assert!(pieces.iter().all(|piece| piece.reports.len() <= REPORTS_MAX && piece.parts.len() <= 1));
            prop_assert_eq!(pieces.iter().flat_map(|piece| &piece.tokens).count(), 1);
            prop_assert_eq!(texts().collect::<String>(), text.repeat(2));
            prop_assert_eq!(pieces.iter().flat_map(|piece| &piece.parts).filter(|part| **part == call).count(), 1);
            prop_assert_eq!(pieces.iter().flat_map(|piece| piece.reports.clone()).collect::<Vec<_>>(), reports);
            prop_assert_eq!(pieces.iter().filter(|piece| piece.finish.is_some()).count(), 1);
            prop_assert_eq!(pieces.last().and_then(|piece| piece.finish), Some("stop"));
        }
    }
}
