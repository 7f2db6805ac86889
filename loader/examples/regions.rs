//! The cost of filling each kind of memory that weights may land in: seconds per gigabyte, first
//! touch included. `regions DIR [GIGABYTES]`: DIR lies on the disk to measure; a tmpfs stands for
//! memory with a name (the kernel's memfd is the same kind).
//!
//! Memory that the machine itself has never touched costs a virtual one extra, once: a round that
//! is not counted goes first. Nothing here is zero.

#![expect(clippy::print_stdout, reason = "an example prints what it measures")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use loader::Region;
use loader::landing::EXTENT_BYTES;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("usage: regions DIR [GIGABYTES]")?);
    let bytes = arguments.next().map_or(Ok(1), |text| text.parse::<u64>())? * 1_000_000_000;
    // Small enough to stay in the processor's cache, as bytes from a socket do.
    let piece: Vec<u8> = (0..EXTENT_BYTES).map(|place| (place * 31 % 251) as u8 + 1).collect();
    let file = directory.join("regions.tmp");
    let shared = PathBuf::from("/dev/shm/regions.tmp");
    for round in 0..4 {
        for name in ["a file of the disk", "memory with a name (tmpfs)", "memory without, huge pages"] {
            let region: Arc<Region> = match name {
                "a file of the disk" => Region::create_file(&file, bytes)?,
                "memory with a name (tmpfs)" => Region::create_file(&shared, bytes)?,
                _ => Region::anonymous("regions", bytes)?,
            };
            let begun = Instant::now();
            for extent in 0..bytes.div_ceil(EXTENT_BYTES) {
                let length = (bytes - extent * EXTENT_BYTES).min(EXTENT_BYTES) as usize;
                region.fill_extent(extent, &piece[..length]);
            }
            let seconds = begun.elapsed().as_secs_f64() / (bytes as f64 / 1e9);
            drop(region);
            let _ = (std::fs::remove_file(&file), std::fs::remove_file(&shared));
            if round > 0 {
                println!("{name}: {seconds:.3} s/GB");
            }
        }
    }
    Ok(())
}
