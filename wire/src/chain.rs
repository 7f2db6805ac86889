//! An error with its causes on one line: the one way to print errors, each cause once.

use std::error::Error;
use std::fmt;

/// Shows an error, then each of its causes, parted by colons.
///
/// ```
/// let cause = std::io::Error::other("the disk is full");
/// assert_eq!(wire::Chain(&cause).to_string(), "the disk is full");
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut cause = self.0.source();
        while let Some(next) = cause {
            let text = next.to_string();
            // Transparent errors and some libraries repeat their cause.
            if !said.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            said = text;
            cause = next.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Step(&'static str, Option<Box<Step>>);

    impl fmt::Display for Step {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Step {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|step| step as _)
        }
    }

    fn chain(words: &[&'static str]) -> String {
        let step = words.iter().rev().fold(None, |cause, word| Some(Box::new(Step(word, cause))));
        Chain(&*step.expect("a word")).to_string()
    }

    #[test]
    fn each_cause_is_said_once() {
        assert_eq!(chain(&["loading", "reading", "refused"]), "loading: reading: refused");
        assert_eq!(chain(&["loading: refused", "refused"]), "loading: refused");
        assert_eq!(chain(&["refused", "refused", "why"]), "refused: why");
    }
}
