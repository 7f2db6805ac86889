//! The hub's answers to callers about files, for as long as they count. Pure: time is an argument.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// The hash of a question: who asked for what.
pub(super) type Question = [u8; 32];

/// Answers by question. At most `max` are kept; the oldest go first.
#[derive(Debug)]
pub(super) struct Rights<T> {
    kept: HashMap<Question, (Instant, T)>,
    /// In the order in which they were kept; one that was kept again is here more than once.
    order: VecDeque<(Instant, Question)>,
    max: usize,
    /// The age after which an answer is of no use at all.
    age_max: Duration,
}

impl<T> Rights<T> {
    pub(super) fn new(max: usize, age_max: Duration) -> Self {
        Self { kept: HashMap::new(), order: VecDeque::new(), max, age_max }
    }

    /// The answer to a question, if it is younger than `age`.
    pub(super) fn get(&self, question: &Question, age: Duration, now: Instant) -> Option<&T> {
        let (since, answer) = self.kept.get(question)?;
        (now.saturating_duration_since(*since) < age.min(self.age_max)).then_some(answer)
    }

    /// Keeps an answer.
    pub(super) fn put(&mut self, question: Question, answer: T, now: Instant) {
        self.kept.insert(question, (now, answer));
        self.order.push_back((now, question));
        while let Some((since, oldest)) = self.order.front().copied() {
            let is_superseded = self.kept.get(&oldest).is_none_or(|(latest, _)| *latest != since);
            let is_over = now.saturating_duration_since(since) >= self.age_max;
            // Questions that are asked again and again leave their earlier places behind.
            let is_crowded = self.kept.len() > self.max || self.order.len() > 2 * self.max;
            if !is_superseded && !is_over && !is_crowded {
                break;
            }
            self.order.pop_front();
            if !is_superseded {
                self.kept.remove(&oldest);
            }
        }
    }

    /// Forgets the answer to a question.
    pub(super) fn forget(&mut self, question: &Question) {
        self.kept.remove(question);
    }

    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AGE: Duration = Duration::from_secs(60);

    fn question(number: u8) -> Question {
        [number; 32]
    }

    #[test]
    fn an_answer_counts_for_its_time_and_no_longer() {
        let (mut rights, now) = (Rights::new(8, 60 * AGE), Instant::now());
        rights.put(question(1), "yes", now);
        assert_eq!(rights.get(&question(1), AGE, now + AGE / 2), Some(&"yes"));
        assert_eq!(rights.get(&question(1), AGE, now + AGE), None);
        assert_eq!(rights.get(&question(1), 60 * AGE, now + AGE), Some(&"yes"), "while the hub is away");
        assert_eq!(rights.get(&question(2), AGE, now), None);
        rights.forget(&question(1));
        assert_eq!(rights.get(&question(1), AGE, now), None);
    }

    #[test]
    fn a_new_answer_takes_the_place_of_the_old() {
        let (mut rights, now) = (Rights::new(2, AGE), Instant::now());
        rights.put(question(1), 1, now);
        rights.put(question(1), 2, now + AGE / 2);
        rights.put(question(2), 3, now + AGE);
        assert_eq!(rights.get(&question(1), AGE, now + AGE), Some(&2), "the first one's end is not the second's");
    }

    proptest! {
        #[test]
        fn what_is_kept_is_bounded_and_young(
            asked in prop::collection::vec((0_u8..20, 0_u64..30), 0..300),
            max in 1_usize..10,
        ) {
            let mut rights = Rights::new(max, AGE);
            let (start, mut seconds) = (Instant::now(), 0);
            for (number, pause) in asked {
                seconds += pause;
                let now = start + Duration::from_secs(seconds);
                rights.put(question(number), seconds, now);
                prop_assert!(rights.kept.len() <= max && rights.order.len() <= 2 * max + 1);
                prop_assert_eq!(rights.get(&question(number), AGE, now), Some(&seconds));
                for (since, _) in rights.kept.values() {
                    prop_assert!(now.saturating_duration_since(*since) < AGE);
                }
            }
        }
    }
}
