//! Stop strings: cut where the first to be complete begins, however the text arrives. Pure.

/// Finds stop strings in a growing text and holds back what might become one.
#[derive(Debug)]
pub(super) struct StopStrings {
    stops: Vec<String>,
    held: String,
}

impl StopStrings {
    pub(super) fn new(stops: &[String]) -> Self {
        Self { stops: stops.to_vec(), held: String::new() }
    }

    /// Takes more text; returns what is certain not to be part of a stop string, and whether one
    /// was found, after which nothing more comes.
    pub(super) fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        if let Some(at) = first_complete(&self.held, &self.stops) {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// Takes more text without looking for stops (before `min_tokens`).
    pub(super) fn pass(&mut self, text: &str) -> String {
        self.held.push_str(text);
        std::mem::take(&mut self.held)
    }

    /// The text held back, when the text has ended.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// The start of the stop string that is complete first; of those complete at the same place, the longest. Not the one
/// that begins first: whether that one will be complete may not be known yet, and text cannot be called back.
fn first_complete(text: &str, stops: &[String]) -> Option<usize> {
    let places = stops.iter().filter_map(|stop| text.find(stop.as_str()).map(|at| (at + stop.len(), at)));
    places.min().map(|(_, at)| at)
}

/// The length of the longest proper prefix of `stop` that ends `text`, in bytes.
fn overlap(text: &str, stop: &str) -> usize {
    let ends = stop.char_indices().map(|(at, _)| at).skip(1);
    ends.filter(|&at| text.ends_with(&stop[..at])).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_stop_cut_in_two_never_leaks() {
        let mut stops = StopStrings::new(&["END".into(), "§é".into()]);
        assert_eq!(stops.push("abE"), ("ab".into(), false));
        assert_eq!(stops.push("N"), (String::new(), false));
        assert_eq!(stops.push("E§"), ("ENE".into(), false));
        assert_eq!(stops.push("é tail"), (String::new(), true));
    }

    #[test]
    fn the_first_to_be_complete_wins_over_one_that_began_before() {
        for cuts in [&["aaé", "é"][..], &["aaéé"], &["a", "a", "é", "é"]] {
            let mut stops = StopStrings::new(&["é".into(), "aéé".into()]);
            let mut out = String::new();
            for cut in cuts {
                let (release, found) = stops.push(cut);
                out.push_str(&release);
                if found {
                    break;
                }
            }
            assert_eq!(out, "aa", "{cuts:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_text_does_not_depend_on_the_cuts(
            text in "[abé]{0,20}",
            stops in prop::collection::vec("[abé]{1,3}", 0..3),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let expected = first_complete(&text, &stops).map_or(text.as_str(), |at| &text[..at]);
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).filter(|&at| text.is_char_boundary(at)).collect();
            at.extend([0, text.len()]);
            at.sort_unstable();
            let mut matcher = StopStrings::new(&stops);
            let mut out = String::new();
            let mut is_over = false;
            for pair in at.windows(2) {
                if !is_over {
                    let (release, found) = matcher.push(&text[pair[0]..pair[1]]);
                    out.push_str(&release);
                    is_over = found;
                }
            }
            if !is_over {
                out.push_str(&matcher.finish());
            }
            prop_assert_eq!(out, expected);
        }
    }
}
