//! The rules of a grammar that may be matched as far as they go.

use super::ast::{Atom, Choice, Part};
use super::set::Set;

/// The most passes over a grammar: each takes what is known one rule further.
const PASSES_MAX: usize = 64;

/// For each rule, true if matching it as far as it goes loses no text: it leads to no circle of rules, and no character that
/// may follow it could continue it. A grammar without circles is one expression.
pub(super) fn terminals(bodies: &[Choice], root: usize) -> Vec<bool> {
    let is_flat = flat(bodies);
    if is_flat[root] {
        return is_flat;
    }
    let facts = Facts::of(bodies);
    let Some((facts, follow)) = facts.and_then(|facts| facts.follow(bodies).map(|follow| (facts, follow))) else {
        // Where not all is known, nothing is safe.
        return vec![false; bodies.len()];
    };
    let mut continued = vec![None; bodies.len()];
    let mut is_safe = |rule: usize| !facts.rule(rule, bodies, &mut continued).meets(&follow[rule]);
    is_flat.iter().enumerate().map(|(rule, is_flat)| *is_flat && is_safe(rule)).collect()
}

/// The first characters of texts that must be read character by character, in rules that are no terminals: those that begin
/// another text, or like one, and those that a set of characters takes as well.
pub(super) fn apart(bodies: &[Choice], is_terminal: &[bool]) -> Set {
    let (mut texts, mut sets) = (Vec::new(), Set::default());
    for (body, _) in bodies.iter().zip(is_terminal).filter(|(_, is_terminal)| !**is_terminal) {
        add_words(body, &mut texts, &mut sets);
    }
    texts.sort_unstable();
    texts.dedup();
    let mut apart = Set::default();
    // A text that begins another comes right before one that it begins.
    let begins = texts.windows(2).filter(|pair| pair[1].starts_with(pair[0])).map(|pair| pair[0]);
    let taken = texts.iter().copied().filter(|text| text.starts_with(|first| sets.has(first)));
    for first in begins.chain(taken).filter_map(|text| text.chars().next()) {
        apart.add(&Set::of(first, first));
    }
    apart
}

fn add_words<'t>(choice: &'t Choice, texts: &mut Vec<&'t str>, sets: &mut Set) {
    for part in choice.iter().flatten() {
        match &part.atom {
            Atom::Text(text) => texts.push(text),
            Atom::Character(set) => {
                sets.add(set);
            }
            Atom::Group(choice) => add_words(choice, texts, sets),
            Atom::Rule(_) => {}
        }
    }
}

/// For each rule, true if it leads to no circle of rules.
fn flat(bodies: &[Choice]) -> Vec<bool> {
    let mut users = vec![Vec::new(); bodies.len()];
    let mut waiting = vec![0_usize; bodies.len()];
    for (rule, body) in bodies.iter().enumerate() {
        let mut used = Vec::new();
        add_rules(body, &mut used);
        waiting[rule] = used.len();
        used.into_iter().for_each(|used| users[used].push(rule));
    }
    let mut ready: Vec<usize> = (0..bodies.len()).filter(|&rule| waiting[rule] == 0).collect();
    let mut is_flat = vec![false; bodies.len()];
    while let Some(rule) = ready.pop() {
        is_flat[rule] = true;
        for &user in &users[rule] {
            waiting[user] -= 1;
            if waiting[user] == 0 {
                ready.push(user);
            }
        }
    }
    is_flat
}

fn add_rules(choice: &Choice, used: &mut Vec<usize>) {
    for part in choice.iter().flatten() {
        match &part.atom {
            Atom::Rule(rule) => used.push(*rule),
            Atom::Group(choice) => add_rules(choice, used),
            Atom::Text(_) | Atom::Character(_) => {}
        }
    }
}

/// For each rule: the characters that its texts begin with, and whether it has an empty one.
struct Facts {
    first: Vec<Set>,
    is_empty: Vec<bool>,
}

impl Facts {
    /// `None` where it takes too long to find out.
    fn of(bodies: &[Choice]) -> Option<Self> {
        let mut facts = Self { first: vec![Set::default(); bodies.len()], is_empty: vec![false; bodies.len()] };
        for _ in 0..PASSES_MAX {
            let mut has_news = false;
            for (rule, body) in bodies.iter().enumerate() {
                let (first, is_empty) = facts.choice(body);
                has_news |= facts.first[rule].add(&first) | (is_empty != facts.is_empty[rule]);
                facts.is_empty[rule] |= is_empty;
            }
            if !has_news {
                return Some(facts);
            }
        }
        None
    }

    fn choice(&self, choice: &Choice) -> (Set, bool) {
        let (mut set, mut has_empty) = (Set::default(), false);
        for sequence in choice {
            let (first, is_empty) = self.sequence(sequence);
            set.add(&first);
            has_empty |= is_empty;
        }
        (set, has_empty)
    }

    fn sequence(&self, sequence: &[Part]) -> (Set, bool) {
        let mut set = Set::default();
        for part in sequence {
            let (first, is_empty) = self.part(part);
            set.add(&first);
            if !is_empty {
                return (set, false);
            }
        }
        (set, true)
    }

    fn part(&self, part: &Part) -> (Set, bool) {
        if part.most == Some(0) {
            return (Set::default(), true);
        }
        let (first, is_empty) = match &part.atom {
            Atom::Text(text) => {
                text.chars().next().map_or((Set::default(), true), |first| (Set::of(first, first), false))
            }
            Atom::Character(set) => (set.clone(), false),
            Atom::Rule(rule) => (self.first[*rule].clone(), self.is_empty[*rule]),
            Atom::Group(choice) => self.choice(choice),
        };
        (first, is_empty || part.least == 0)
    }

    /// For each rule, the characters that may follow it; `None` where it takes too long to find out.
    fn follow(&self, bodies: &[Choice]) -> Option<Vec<Set>> {
        let mut follow = vec![Set::default(); bodies.len()];
        for _ in 0..PASSES_MAX {
            let mut has_news = false;
            for (rule, body) in bodies.iter().enumerate() {
                let behind = follow[rule].clone();
                has_news |= self.spread(body, &behind, &mut follow);
            }
            if !has_news {
                return Some(follow);
            }
        }
        None
    }

    /// Adds what may follow the rules in a choice, behind which these characters may come; true if anything was new.
    fn spread(&self, choice: &Choice, behind: &Set, follow: &mut [Set]) -> bool {
        let mut has_news = false;
        for sequence in choice {
            let mut behind = behind.clone();
            for part in sequence.iter().rev() {
                let (first, is_empty) = self.part(part);
                let mut next = behind.clone();
                if part.most != Some(1) {
                    next.add(&first);
                }
                match &part.atom {
                    Atom::Rule(rule) => has_news |= follow[*rule].add(&next),
                    Atom::Group(choice) => has_news |= self.spread(choice, &next, follow),
                    Atom::Text(_) | Atom::Character(_) => {}
                }
                if is_empty {
                    behind.add(&first);
                } else {
                    behind = first;
                }
            }
        }
        has_news
    }

    /// The characters by which a text of a choice may be continued to a longer one of it, or more than those.
    fn continued(&self, choice: &Choice, bodies: &[Choice], known: &mut [Option<Set>]) -> Set {
        let mut set = Set::default();
        let mut before = Set::default();
        let mut has_empty = false;
        for sequence in choice {
            let (first, is_empty) = self.sequence(sequence);
            if before.meets(&first) {
                // A text of one may be the beginning of another's.
                return Set::all();
            }
            before.add(&first);
            has_empty |= is_empty;
            let (mut is_last, mut behind) = (true, Set::default());
            for part in sequence.iter().rev() {
                let continued = self.continued_part(part, bodies, known);
                if continued.meets(&behind) {
                    // A part may take what is meant for the next.
                    return Set::all();
                }
                let (first, is_empty) = self.part(part);
                if is_last {
                    set.add(&continued);
                }
                if is_last && is_empty {
                    set.add(&first);
                }
                is_last &= is_empty;
                if is_empty {
                    behind.add(&first);
                } else {
                    behind = first;
                }
            }
        }
        if has_empty {
            set.add(&before);
        }
        set
    }

    /// The same of a rule, found out once. No circle leads from it.
    fn rule(&self, rule: usize, bodies: &[Choice], known: &mut [Option<Set>]) -> Set {
        if let Some(known) = &known[rule] {
            return known.clone();
        }
        let found = self.continued(&bodies[rule], bodies, known);
        known[rule] = Some(found.clone());
        found
    }

    fn continued_part(&self, part: &Part, bodies: &[Choice], known: &mut [Option<Set>]) -> Set {
        let mut set = match &part.atom {
            Atom::Text(_) | Atom::Character(_) => Set::default(),
            Atom::Rule(rule) => self.rule(*rule, bodies, known),
            Atom::Group(choice) => self.continued(choice, bodies, known),
        };
        if part.most != Some(part.least) {
            set.add(&self.part(part).0);
        }
        set
    }
}
