//! A plan as people read it.

use std::fmt;

use super::{Fetch, Plan};

#[expect(clippy::cast_precision_loss, reason = "printed with one decimal")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

impl Plan {
    fn wanted_by(&self, fetch: &Fetch) -> &str {
        if fetch.extents.start == 0 {
            return "(header)";
        }
        self.tensors.get(fetch.first_tensor).map_or("(no tensor)", |tensor| tensor.name.as_str())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "{} tensors in {} files: {:.1} MiB wanted, {:.1} MiB to fetch in {} fetches, read amplification {:.3}",
            self.tensors.len(),
            self.files.len(),
            mebibytes(self.wanted_bytes),
            mebibytes(self.fetched_bytes),
            self.fetches.len(),
            self.amplification(),
        )?;
        for (number, fetch) in self.fetches.iter().enumerate() {
            let file = &self.files[fetch.file];
            let range = fetch.range(file.bytes);
            writeln!(
                formatter,
                "{:>6}  {}  {}..{}  {:.1} MiB  {}",
                number + 1,
                file.name,
                range.start,
                range.end,
                mebibytes(range.end - range.start),
                self.wanted_by(fetch),
            )?;
        }
        Ok(())
    }
}
