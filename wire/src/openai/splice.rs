//! Edits of a body that copy nothing: what stays leaves as slices of the original.

use super::scan::Span;
use bytes::Bytes;

/// A replacement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The bytes to replace; empty to insert.
    pub span: Span,
    /// The replacement, as it stands in the body, escapes and all.
    pub with: Bytes,
}

/// The body with its edits, as slices in order. An edit that lies outside the body, or begins before the one before
/// it ends, is left out: edits are sorted and disjoint.
#[must_use]
pub fn splice(body: &Bytes, edits: &[Edit]) -> Vec<Bytes> {
    let mut slices = Vec::with_capacity(2 * edits.len() + 1);
    let mut at = 0;
    for Edit { span, with } in edits {
        let (start, end) = (span.start as usize, span.end as usize);
        let is_in_order = at <= start && start <= end && end <= body.len();
        debug_assert!(is_in_order, "edits are sorted, disjoint and within the body");
        if is_in_order {
            slices.extend([body.slice(at..start), with.clone()]);
            at = end;
        }
    }
    slices.push(body.slice(at..));
    slices.retain(|slice| !slice.is_empty());
    slices
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn edit(start: usize, end: usize, with: &'static str) -> Edit {
        Edit { span: Span::new(start, end), with: Bytes::from_static(with.as_bytes()) }
    }

    #[test]
    fn what_stays_is_not_copied() {
        let body = Bytes::from_static(b"abcdef");
        let slices = splice(&body, &[edit(0, 0, "<"), edit(2, 4, "")]);
        assert_eq!(slices, ["<", "ab", "ef"]);
        assert_eq!(slices[1].as_ptr(), body.as_ptr());
        assert_eq!(splice(&body, &[]), [body]);
    }

    proptest! {
        #[test]
        fn edits_do_what_replacing_from_behind_does(
            body in "[a-z]{0,20}",
            cuts in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(vec!["", "X", "YZ"])), 0..6),
        ) {
            let mut places: Vec<usize> = cuts.iter().map(|(cut, _)| cut.index(body.len() + 1)).collect();
            places.sort_unstable();
            let edits: Vec<Edit> =
                places.chunks_exact(2).zip(&cuts).map(|(pair, (_, with))| edit(pair[0], pair[1], with)).collect();
            let mut expected = body.clone();
            for edit in edits.iter().rev() {
                let with = std::str::from_utf8(&edit.with).expect("text");
                expected.replace_range(edit.span.start as usize..edit.span.end as usize, with);
            }
            prop_assert_eq!(splice(&Bytes::from(body), &edits).concat(), expected.into_bytes());
        }
    }
}
