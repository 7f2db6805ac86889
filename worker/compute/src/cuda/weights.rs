//! A model's weights on a device: copied part by part as they arrive, in the order of steps.
//!
//! Mapped bytes are put in the kernels' order into a ring of pinned memory by several threads, and go on by copies on a
//! stream of their own, which steps wait for part by part. Whoever needs a part first copies it: a step, or the thread
//! that completes them all.

use parking_lot::{Mutex, MutexGuard};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use super::device::{Device, DeviceError, Mark, Memory, Pinned, Stream};
use super::layout::{Layout, Matrix, Stack, Upload, in_order};
use crate::arrival;
use crate::error::StepError;
use crate::kernels::formats::widen;
use crate::kernels::tier::{Instructions, Tier};
use tensor::{Decoder, Part, Weight};

/// Bytes of one piece of the ring: long enough that a copy's start does not count.
const PIECE_BYTES: usize = 16 << 20;
/// One being filled, two on their way, one to come back.
const PIECES: usize = 4;
/// One thread copies some 10 GB/s out of mapped memory, and a link takes 55.
const FILLERS_MAX: usize = 8;
/// So few bytes are filled by one thread: starting others would take longer.
const ALONE_BYTES: usize = 1 << 20;

/// A device and what its models share.
pub(crate) struct Accelerator {
    device: Arc<dyn Device>,
    ring: Mutex<Ring>,
}

/// Pinned memory that is used over and over.
struct Ring {
    pieces: Vec<(Pinned, Mark)>,
    next: usize,
    fillers: usize,
}

/// Weights on a device, as far as they are there.
pub(crate) struct Resident {
    on: Arc<Accelerator>,
    source: Arc<Decoder>,
    layout: Layout,
    memory: Memory,
    /// Behind the copies of each part; none before they are queued.
    marks: Vec<OnceLock<Mark>>,
    /// True once every copy is over: then steps wait for none.
    is_complete: AtomicBool,
}

impl Accelerator {
    /// The ring is registered here, once.
    pub(crate) fn new(device: Arc<dyn Device>) -> Result<Self, DeviceError> {
        Self::with_pieces(device, PIECE_BYTES)
    }

    pub(super) fn with_pieces(device: Arc<dyn Device>, bytes: usize) -> Result<Self, DeviceError> {
        let piece = |_| Ok((Pinned::new(&device, bytes)?, Mark::new(&device)?));
        let pieces = (0..PIECES).map(piece).collect::<Result<_, DeviceError>>()?;
        let fillers = thread::available_parallelism().map_or(1, |threads| threads.get().min(FILLERS_MAX));
        Ok(Self { ring: Mutex::new(Ring { pieces, next: 0, fillers }), device })
    }

    pub(crate) fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock()
    }
}

impl Ring {
    /// The next piece, once its last copy is over.
    fn piece(&mut self) -> Result<(&mut Pinned, &Mark), DeviceError> {
        let at = self.next;
        self.next = (at + 1) % self.pieces.len();
        let (pinned, mark) = &mut self.pieces[at];
        mark.wait()?;
        Ok((pinned, mark))
    }
}

impl Resident {
    /// Takes the memory; nothing is copied yet.
    pub(crate) fn new(on: &Arc<Accelerator>, source: Arc<Decoder>, layout: Layout) -> Result<Self, DeviceError> {
        let memory = Memory::new(&on.device, layout.bytes)?;
        let marks = layout.parts().iter().map(|_| OnceLock::new()).collect();
        Ok(Self { on: Arc::clone(on), source, layout, memory, marks, is_complete: AtomicBool::new(false) })
    }

    pub(crate) fn source(&self) -> &Arc<Decoder> {
        &self.source
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn at(&self) -> super::device::Address {
        self.memory.at()
    }

    /// Waits until a part's weights have arrived, queues their copies where nobody has, and lets steps that are queued
    /// from now on wait for those.
    pub(crate) fn need(&self, index: usize, wanted: &mut dyn FnMut(Part) -> bool) -> Result<(), StepError> {
        if self.is_complete.load(Ordering::Acquire) {
            return Ok(());
        }
        let failed = |error: DeviceError| StepError::Device { backend: "cuda", source: Box::new(error) };
        self.queue(index, wanted)?.hold(Stream::Compute).map_err(failed)
    }

    /// Copies every part. Blocks until all are queued and over.
    pub(crate) fn complete(&self, wanted: &(dyn Fn() -> bool + Sync)) -> Result<(), StepError> {
        let parts = self.layout.parts();
        for (index, &part) in parts.iter().enumerate() {
            if !wanted() {
                return Err(StepError::Unwanted { part });
            }
            self.queue(index, &mut |_| wanted())?;
        }
        let last = self.queue(parts.len() - 1, &mut |_| true)?;
        last.wait().map_err(|error| StepError::Device { backend: "cuda", source: Box::new(error) })?;
        self.is_complete.store(true, Ordering::Release);
        Ok(())
    }

    fn queue(&self, index: usize, wanted: &mut dyn FnMut(Part) -> bool) -> Result<&Mark, StepError> {
        if let Some(mark) = self.marks[index].get() {
            return Ok(mark);
        }
        let weights: Vec<&Weight> = self.layout.uploads(index).iter().flat_map(Upload::weights).collect();
        arrival::wait(self.layout.parts()[index], &weights, wanted)?;
        let mut ring = self.on.ring();
        if self.marks[index].get().is_none() {
            let mark = self.copy(index, &mut ring);
            let mark = mark.map_err(|error| StepError::Device { backend: "cuda", source: Box::new(error) })?;
            // Whoever sets it holds the ring.
            drop(self.marks[index].set(mark));
        }
        Ok(self.marks[index].get().expect("it was set under the lock"))
    }

    fn copy(&self, index: usize, ring: &mut Ring) -> Result<Mark, DeviceError> {
        for upload in self.layout.uploads(index) {
            match upload {
                Upload::Matrix { to, rows } => self.copy_matrix(to, rows, ring)?,
                Upload::Vector { to, parts, are_in_turns } => {
                    let parts: Vec<Vec<f32>> =
                        parts.iter().map(|(weight, width)| numbers(weight.as_ref(), *width)).collect();
                    let numbers = in_order(&parts, *are_in_turns);
                    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                    self.copy_bytes(&bytes, to.at, ring)?;
                }
            }
        }
        let mark = Mark::new(&self.on.device)?;
        mark.set(Stream::Copy)?;
        Ok(mark)
    }

    fn copy_matrix(&self, to: &Matrix, rows: &Stack, ring: &mut Ring) -> Result<(), DeviceError> {
        let (row, scale) = (to.row_bytes(), to.scale_bytes());
        let fillers = ring.fillers;
        let mut from = 0;
        while from < to.outputs {
            let (pinned, mark) = ring.piece()?;
            let count = (pinned.bytes / (row + scale)).max(1).min(to.outputs - from);
            let (numbers, scales) = pinned.bytes_mut()[..count * (row + scale)].split_at_mut(count * row);
            fill(to, rows, from, numbers, scales, fillers);
            let numbers_at = self.at().plus(to.at + (from * row) as u64);
            self.on.device.upload(Stream::Copy, pinned, 0, count * row, numbers_at)?;
            if scale > 0 {
                let scales_at = self.at().plus(to.scales_at() + (from * scale) as u64);
                self.on.device.upload(Stream::Copy, pinned, count * row, count * scale, scales_at)?;
            }
            mark.set(Stream::Copy)?;
            from += count;
        }
        Ok(())
    }

    fn copy_bytes(&self, bytes: &[u8], at: u64, ring: &mut Ring) -> Result<(), DeviceError> {
        let mut at = self.at().plus(at);
        let mut left = bytes;
        while !left.is_empty() {
            let (pinned, mark) = ring.piece()?;
            let (own, rest) = left.split_at(left.len().min(pinned.bytes));
            pinned.bytes_mut()[..own.len()].copy_from_slice(own);
            self.on.device.upload(Stream::Copy, pinned, 0, own.len(), at)?;
            mark.set(Stream::Copy)?;
            (at, left) = (at.plus(own.len() as u64), rest);
        }
        Ok(())
    }
}

impl Drop for Resident {
    /// Nothing may be on its way into memory that is given back.
    fn drop(&mut self) {
        if let Some(mark) = self.marks.iter().rev().find_map(OnceLock::get) {
            // A lost device copies nothing.
            drop(mark.wait());
        }
    }
}

/// A vector's numbers; zeros where there is none.
fn numbers(weight: Option<&Weight>, width: usize) -> Vec<f32> {
    let mut numbers = vec![0.0; width];
    if let Some(weight) = weight {
        let on = Instructions::of(Tier::best()).expect("the machine has its best instructions");
        widen(on, weight.bytes(), weight.format(), &mut numbers);
        if weight.slot().less_one {
            numbers.iter_mut().for_each(|number| *number += 1.0);
        }
    }
    numbers
}

/// Fills a piece with rows, on several threads where that is worth starting them.
fn fill(to: &Matrix, rows: &Stack, from: usize, numbers: &mut [u8], scales: &mut [u8], fillers: usize) {
    if numbers.len() < ALONE_BYTES || fillers == 1 {
        rows.write(to, from, numbers, scales);
        return;
    }
    let (row, scale) = (to.row_bytes(), to.scale_bytes());
    let each = (numbers.len() / row).div_ceil(fillers);
    thread::scope(|scope| {
        let mut scales = scales;
        for (index, numbers) in numbers.chunks_mut(each * row).enumerate() {
            let own;
            (own, scales) = std::mem::take(&mut scales).split_at_mut(numbers.len() / row * scale);
            scope.spawn(move || rows.write(to, from + index * each, numbers, own));
        }
    });
}
