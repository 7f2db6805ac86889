//! A model in several GGUF files, `NAME-00001-of-00003.gguf`: their names, and their headers as one.
//!
//! The first has the metadata of the model, each has its own tensors, and `split.no` and `split.count` say which is which.

use std::collections::HashSet;

use super::{Gguf, GgufError, Value};

/// The ending of a GGUF file.
const ENDING: &str = ".gguf";
/// Digits of a number in a name.
const DIGITS: usize = 5;

/// The name of one of several files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PartName<'a> {
    /// The name without numbers.
    pub(crate) stem: &'a str,
    /// The number of files.
    pub(crate) count: usize,
    /// The ending, in the file's own capitals.
    ending: &'a str,
}

impl<'a> PartName<'a> {
    /// Reads the name of a file that is one of several.
    pub(crate) fn read(name: &'a str) -> Option<Self> {
        let (rest, ending) = name.split_at_checked(name.len().checked_sub(ENDING.len())?)?;
        let (rest, count) = rest.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let is_number = |digits: &str| digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
        if stem.is_empty() || !ending.eq_ignore_ascii_case(ENDING) || !is_number(count) || !is_number(number) {
            return None;
        }
        let (number, count): (usize, usize) = (number.parse().ok()?, count.parse().ok()?);
        (1..=count).contains(&number).then_some(Self { stem, count, ending })
    }

    /// The name of a file, counted from 1.
    pub(crate) fn name(&self, number: usize) -> String {
        let Self { stem, count, ending } = self;
        format!("{stem}-{number:0DIGITS$}-of-{count:0DIGITS$}{ending}")
    }

    /// The names of all files.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        (1..=self.count).map(|number| self.name(number))
    }
}

/// The headers of all files of a model, in order, as one: the first one's metadata, and the tensors of all.
///
/// # Errors
/// The files are not those of one model, or not in order. The number is the file's, counted from 0.
pub(crate) fn join(parts: Vec<Gguf>) -> Result<Gguf, (usize, GgufError)> {
    let count = parts.len() as u64;
    let mut names = HashSet::new();
    for (at, part) in parts.iter().enumerate() {
        part.check_place(at as u64, count).map_err(|error| (at, error))?;
        if let Some(twice) = part.tensors.iter().find(|tensor| !names.insert(tensor.name.clone())) {
            return Err((at, GgufError::DuplicateTensor { tensor: twice.name.clone() }));
        }
    }
    let mut parts = parts.into_iter();
    let Some(mut whole) = parts.next() else {
        return Err((0, GgufError::Part { key: "split.count", found: 0, expected: 1 }));
    };
    whole.tensors.extend(parts.flat_map(|part| part.tensors));
    let found = whole.tensors.len() as u64;
    let expected = whole.metadata.get("split.tensors.count").and_then(Value::as_u64).unwrap_or(found);
    if found != expected {
        return Err((0, GgufError::Part { key: "split.tensors.count", found: expected, expected: found }));
    }
    Ok(whole)
}

impl Gguf {
    /// Checks that the file says that it is the one at `place`, counted from 0, of `count`.
    fn check_place(&self, place: u64, count: u64) -> Result<(), GgufError> {
        let says = |key, silent| self.metadata.get(key).map_or(Some(silent), Value::as_u64).unwrap_or(u64::MAX);
        // A file by itself need not say so.
        let is_alone = count == 1;
        for (key, expected) in [("split.count", count), ("split.no", place)] {
            let found = says(key, if is_alone { expected } else { u64::MAX });
            if found != expected {
                return Err(GgufError::Part { key, found, expected });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::GgufTensor;
    use std::collections::BTreeMap;
    use tensor::Format;

    fn part(no: u64, count: u64, tensors: &[&str]) -> Gguf {
        let keys = [("split.no", no), ("split.count", count)];
        let tensor =
            |name: &&str| GgufTensor { name: (*name).to_owned(), format: Format::F32, shape: vec![1], range: 0..4 };
        Gguf {
            metadata: keys.map(|(key, number)| (key.to_owned(), Value::Unsigned(number))).into(),
            tensors: tensors.iter().map(tensor).collect(),
            data_start: 32,
        }
    }

    #[test]
    fn names_are_read_and_written() {
        let read = PartName::read("a-b-00002-of-00003.GGUF").expect("a part");
        assert_eq!((read.stem, read.count, read.name(1).as_str()), ("a-b", 3, "a-b-00001-of-00003.GGUF"));
        assert_eq!(read.names().count(), 3);
        for other in [
            "a.gguf",
            "a-00004-of-00003.gguf",
            "a-00000-of-00003.gguf",
            "a-1-of-3.gguf",
            "-00001-of-00001.gguf",
            "é",
            "a-00001-of-00003.bin",
        ] {
            assert_eq!(PartName::read(other), None, "{other}");
        }
    }

    #[test]
    fn parts_are_one_model_in_order() {
        let whole = join(vec![part(0, 2, &["a"]), part(1, 2, &["b", "c"])]).expect("two parts");
        assert_eq!(whole.tensors.iter().map(|tensor| tensor.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        let alone = Gguf { metadata: BTreeMap::new(), ..part(0, 1, &["a"]) };
        assert_eq!(join(vec![alone.clone()]).expect("one file"), alone);
        let mut counted = part(0, 2, &["a"]);
        counted.metadata.insert("split.tensors.count".into(), Value::Signed(3));
        for (parts, at) in [
            (vec![part(1, 2, &["a"]), part(0, 2, &["b"])], 0),
            (vec![part(0, 2, &["a"]), part(1, 3, &["b"])], 1),
            (vec![part(0, 2, &["a"]), part(1, 2, &["a"])], 1),
            (vec![part(0, 2, &["a"])], 0),
            (vec![alone.clone(), alone], 0),
            (vec![counted, part(1, 2, &["b"])], 0),
            (vec![], 0),
        ] {
            assert_eq!(join(parts).map_err(|(at, _)| at), Err(at));
        }
    }
}
