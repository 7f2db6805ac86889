//! The experts that a row goes to, and their shares.
//!
//! A row's experts depend on its own scores alone. It knows no matrix.

#![warn(clippy::disallowed_methods)]

/// Scratch memory, reused between rows.
#[derive(Debug, Default)]
pub(crate) struct Routing {
    powers: Vec<f32>,
    order: Vec<usize>,
}

impl Routing {
    /// Tells `each` the `chosen` experts of the largest shares, by number, the first of equals before the others. Shares are
    /// a softmax over all scores; `normalized` scales those of the chosen to a sum of one. A score that is no number makes
    /// every share none.
    pub(crate) fn shares(&mut self, scores: &[f32], chosen: usize, normalized: bool, mut each: impl FnMut(usize, f32)) {
        let Self { powers, order } = self;
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        powers.clear();
        powers.extend(scores.iter().map(|score| (score - largest).exp()));
        order.clear();
        order.extend(0..scores.len());
        order.sort_unstable_by(|&one, &other| scores[other].total_cmp(&scores[one]).then(one.cmp(&other)));
        order.truncate(chosen);
        order.sort_unstable();
        let whole: f32 =
            if normalized { order.iter().map(|&expert| powers[expert]).sum() } else { powers.iter().sum() };
        // The sum of all has what is no number; that of the chosen has it as well, since it is sorted first.
        order.iter().for_each(|&expert| each(expert, powers[expert] / whole));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(scores: &[f32], chosen: usize, normalized: bool) -> Vec<(usize, f32)> {
        let mut found = Vec::new();
        Routing::default().shares(scores, chosen, normalized, |expert, share| found.push((expert, share)));
        found
    }

    #[test]
    fn the_largest_shares_are_chosen_and_listed_by_number() {
        let scores = [0.0, 2.0, -1.0, 1.0];
        let total: f32 = scores.iter().map(|score: &f32| score.exp()).sum();
        let found = shares(&scores, 2, false);
        assert_eq!(found.iter().map(|(expert, _)| *expert).collect::<Vec<_>>(), [1, 3]);
        assert!((found[0].1 - 2f32.exp() / total).abs() < 1e-6);
        let scaled = shares(&scores, 2, true);
        assert!((scaled.iter().map(|(_, share)| share).sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((scaled[0].1 / scaled[1].1 - 1f32.exp()).abs() < 1e-5);
    }

    #[test]
    fn equals_go_to_the_first_and_what_is_no_number_is_not_hidden() {
        assert_eq!(shares(&[1.0; 5], 2, true).iter().map(|(expert, _)| *expert).collect::<Vec<_>>(), [0, 1]);
        assert!(shares(&[0.0, f32::NAN, 1.0], 2, true).iter().all(|(_, share)| share.is_nan()));
        assert_eq!(shares(&[3.0], 1, false), [(0, 1.0)]);
    }
}
