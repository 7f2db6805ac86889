//! The `cuda` backend: our kernels on a GPU, two steps in flight.
//!
//! A step is queued and not waited for: its lists go to the device as one image, kernels follow on one stream, and what
//! was chosen comes back as ids. The next step reads tokens where this one has chosen them. Weights are copied on a stream
//! of their own, part by part, while steps wait for each part on the device.
//!
//! Rows whose logits are changed first (penalties, biases, bans, masks), or that report more than the device does, are
//! chosen by the shared sampler on the host; a step that has any is waited for when it is launched.
//!
//! It knows no request and no text.

#![expect(unsafe_code, reason = "calls of a driver, and memory that a device shares")]

mod arena;
mod arguments;
mod cubins;
mod device;
mod driver;
mod inputs;
mod launches;
mod layout;
mod outputs;
mod weights;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;

use self::arena::{Arena, Base};
use self::device::{Mark, Memory, Pinned, Stream};
use self::inputs::{Answer, Builder, Group, How, Known, Plan};
use self::launches::Recorder;
use self::outputs::Outputs;
use self::weights::{Accelerator, Resident};
use crate::backend::{
    Backend, Generation, Input, InstallError, Limits, Location, Logits, Makes, Part, Prepared, Results, Segment, Step,
    StepError, StepTimes, check,
};
use crate::kind::{Kind, Rows, Sizes};
use crate::results;
use crate::sampler::Scratch;

pub use self::device::DeviceError;
pub(crate) use self::layout::Unsupported;

/// Positions in a KV block: what the kernels are written for.
const BLOCK_TOKENS: usize = 16;
/// Steps in flight.
const DEPTH: usize = 2;
/// Rows of logits that come to the host at a time.
const HOST_ROWS: usize = 8;

/// Why a backend could not be built.
#[derive(Debug, Error)]
pub(crate) enum CudaError {
    /// A model that kernels do not compute.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The device failed, or has no room.
    #[error("building the cuda backend")]
    Device(#[from] DeviceError),
    /// A size is zero.
    #[error("building the cuda backend: {what} must be at least 1")]
    Zero {
        /// Which.
        what: &'static str,
    },
}

/// Pinned memory of one of the steps in flight.
struct Desk {
    image: Pinned,
    outputs: Pinned,
    begun: Mark,
    ended: Mark,
}

/// A step in flight.
enum Flight {
    /// It is queued; what it wants is found at its desk.
    Queued { desk: usize, answers: Vec<Answer> },
    /// It was waited for.
    Ready(Results, StepTimes),
}

/// One model on a GPU.
pub(crate) struct CudaBackend {
    on: Arc<Accelerator>,
    /// Generations of weights, oldest first; at least one.
    models: Vec<(Generation, Arc<Resident>)>,
    limits: Limits,
    group: Group,
    arena: Arena,
    activations: Memory,
    kv: Memory,
    /// The images of steps on the device, and its size.
    images: Memory,
    image_bytes: usize,
    desks: [Desk; DEPTH],
    outputs: Outputs,
    /// Logits on their way to the host.
    logits: Pinned,
    all_logits: Vec<f32>,
    builder: Builder,
    flights: VecDeque<Flight>,
    spare: Vec<Results>,
    /// The desk of the next step.
    next: usize,
    scratch: Scratch,
    location: Arc<Location>,
}

/// The kind on the device of this number. `kernels` is the directory for compiled kernels.
///
/// # Errors
/// There is no such device, or the kernels cannot be compiled for it.
pub(crate) fn open(number: usize, kernels: Option<&Path>) -> Result<Arc<dyn Kind>, DeviceError> {
    Ok(Arc::new(kind::Cuda::on(Arc::new(driver::Driver::open(number, kernels)?))?))
}

fn failed(error: DeviceError) -> StepError {
    StepError::Device { backend: "cuda", source: Box::new(error) }
}

impl CudaBackend {
    /// A backend over weights that are on their way to its device.
    fn over(resident: Arc<Resident>, on: &Arc<Accelerator>, sizes: &Sizes) -> Result<Self, CudaError> {
        let Sizes { rows, kv_blocks, max_position } = *sizes;
        let all = [("max_rows", rows.max_rows), ("max_logits_rows", rows.max_logits_rows)];
        let more = [("kv_blocks", kv_blocks), ("max_position", max_position)];
        if let Some((what, _)) = all.into_iter().chain(more).find(|(_, size)| *size == 0) {
            return Err(CudaError::Zero { what });
        }
        let decoder = Arc::clone(resident.source());
        let group = group(&decoder)?;
        let (device, arena) = (on.device(), Arena::of(&*decoder, rows));
        let kv_block_bytes = arena::kv_block_bytes(&*decoder, BLOCK_TOKENS);
        let limits = Limits {
            vocab_size: decoder.vocab_size,
            max_position,
            max_rows: rows.max_rows,
            max_logits_rows: rows.max_logits_rows,
            kv_block_tokens: BLOCK_TOKENS,
            kv_blocks,
            kv_block_bytes: usize::try_from(kv_block_bytes).unwrap_or(usize::MAX),
            hidden_size: decoder.hidden_size,
            makes: Makes::Logits,
            is_whole: false,
            sums: false,
            depth: DEPTH,
        };
        let outputs = Outputs::of(&limits);
        let image_bytes = image_bytes(rows);
        let desk = || -> Result<Desk, DeviceError> {
            Ok(Desk {
                image: Pinned::new(device, image_bytes)?,
                outputs: Pinned::new(device, outputs.bytes)?,
                begun: Mark::new(device)?,
                ended: Mark::new(device)?,
            })
        };
        let backend = Self {
            models: vec![(Generation::default(), resident)],
            activations: Memory::new(device, arena.bytes)?,
            kv: Memory::new(device, kv_block_bytes.saturating_mul(kv_blocks as u64))?,
            images: Memory::new(device, image_bytes as u64)?,
            image_bytes,
            desks: [desk()?, desk()?],
            logits: Pinned::new(device, HOST_ROWS * limits.vocab_size * size_of::<f32>())?,
            on: Arc::clone(on),
            limits,
            group,
            arena,
            outputs,
            all_logits: Vec::new(),
            builder: Builder::default(),
            flights: VecDeque::new(),
            spare: Vec::new(),
            next: 0,
            scratch: Scratch::default(),
            location: Arc::default(),
        };
        backend.send_frequencies()?;
        Ok(backend)
    }

    /// Puts the frequencies of every rotation where `turn` reads them.
    fn send_frequencies(&self) -> Result<(), DeviceError> {
        let (_, resident) = &self.models[0];
        for (index, rotation) in resident.source().rotations.iter().enumerate() {
            let mut frequencies = vec![0.0; rotation.width / 2];
            rotation.rope.frequencies(&mut frequencies);
            let bytes: Vec<u8> = frequencies.iter().flat_map(|number| number.to_le_bytes()).collect();
            let mut pinned = Pinned::new(self.on.device(), bytes.len())?;
            pinned.bytes_mut().copy_from_slice(&bytes);
            let to = self.activations.at().plus(self.arena.frequencies[index]);
            self.on.device().upload(Stream::Compute, &pinned, 0, bytes.len(), to)?;
            let mark = &self.desks[0].ended;
            mark.set(Stream::Compute)?;
            mark.wait()?;
        }
        Ok(())
    }

    fn newest(&self) -> Generation {
        self.models.last().expect("a backend has weights").0
    }

    fn resident(&self, generation: Generation) -> Result<Arc<Resident>, StepError> {
        let found = self.models.iter().find(|(own, _)| *own == generation);
        let missing = || StepError::Contract(format!("there are no weights of {generation:?}"));
        found.map(|(_, resident)| Arc::clone(resident)).ok_or_else(missing)
    }

    /// Where the token is that a segment of the step launched last chooses.
    fn previous(&self, segment: usize) -> Result<Known, StepError> {
        let none = || StepError::Contract(format!("segment {segment} of the step before chooses no token"));
        match self.flights.back().ok_or_else(none)? {
            Flight::Queued { answers, .. } => match answers.get(segment) {
                Some(Answer { rows, how: How::Device { token: true, .. } }) => Ok(Known::Row(rows.end - 1)),
                _ => Err(none()),
            },
            Flight::Ready(results, _) => match results.outcomes.get(segment) {
                Some(Ok(outcome)) => outcome.token.as_ref().map(|token| Known::Token(token.id)).ok_or_else(none),
                // The sequence ends when that step is collected: any token will do until then.
                Some(Err(_)) => Ok(Known::Token(0)),
                None => Err(none()),
            },
        }
    }

    /// Queues a step as far as its logits and what is chosen of them; its plan.
    fn queue(&mut self, step: &Step<'_>, wanted: &mut dyn FnMut(Part) -> bool) -> Result<Plan, StepError> {
        let resident = self.resident(step.generation)?;
        let mut builder = std::mem::take(&mut self.builder);
        let built = builder.build(&self.limits, self.group, step.segments, &|segment| self.previous(segment));
        let plan = built.and_then(|(plan, image)| self.send(image).map_err(failed).map(|()| plan));
        self.builder = builder;
        let plan = plan?;
        let device = Arc::clone(self.on.device());
        let recorder = Recorder {
            device: &*device,
            model: &resident,
            arena: &self.arena,
            base: Base(self.activations.at()),
            kv: self.kv.at(),
            kv_blocks: self.limits.kv_blocks,
            kv_block_tokens: BLOCK_TOKENS,
            inputs: self.images.at(),
            plan: &plan,
        };
        self.location.enter(Some(Part::Embeddings));
        resident.need(0, wanted)?;
        recorder.embed().map_err(failed)?;
        let mut attentions = 0;
        for (index, layer) in resident.layout().layers.iter().enumerate() {
            self.location.enter(Some(Part::Layer(index)));
            resident.need(index + 1, wanted)?;
            recorder.layer(layer, &mut attentions).map_err(failed)?;
        }
        if plan.picked_rows > 0 {
            self.location.enter(Some(Part::Head));
            resident.need(resident.layout().layers.len() + 1, wanted)?;
            recorder.head().map_err(failed)?;
        }
        self.location.enter(None);
        Ok(plan)
    }

    /// Queues the copy of a step's image.
    fn send(&mut self, image: &[u8]) -> Result<(), DeviceError> {
        self.make_room(image.len())?;
        let desk = &mut self.desks[self.next];
        desk.image.bytes_mut()[..image.len()].copy_from_slice(image);
        desk.begun.set(Stream::Compute)?;
        self.on.device().upload(Stream::Compute, &desk.image, 0, image.len(), self.images.at())
    }

    /// Takes more memory for images where the tables of blocks outgrow it, which sequences of a new length may do once.
    fn make_room(&mut self, bytes: usize) -> Result<(), DeviceError> {
        if bytes <= self.image_bytes {
            return Ok(());
        }
        self.drain()?;
        let (device, bytes) = (self.on.device(), bytes.next_power_of_two());
        self.images = Memory::new(device, bytes as u64)?;
        for desk in &mut self.desks {
            desk.image = Pinned::new(device, bytes)?;
        }
        self.image_bytes = bytes;
        Ok(())
    }

    /// Waits for everything that is queued.
    fn drain(&self) -> Result<(), DeviceError> {
        let mark = Mark::new(self.on.device())?;
        mark.set(Stream::Compute)?;
        mark.wait()
    }

    /// Queues the copies of what was found, and the mark behind them.
    fn fetch(&self, plan: &Plan) -> Result<(), DeviceError> {
        let desk = &self.desks[self.next];
        let base = Base(self.activations.at());
        self.outputs.fetch(&**self.on.device(), plan, &self.arena, base, &desk.outputs)?;
        desk.ended.set(Stream::Compute)
    }

    /// Waits for a queued step and makes its results. `segments` are there for those that the host chooses from.
    fn finish(
        &mut self,
        desk: usize,
        answers: &[Answer],
        segments: Option<&[Segment<'_>]>,
        known: &[Option<u32>],
    ) -> Result<(Results, StepTimes), StepError> {
        let Desk { begun, ended, .. } = &self.desks[desk];
        ended.wait().map_err(failed)?;
        let compute = Duration::from_secs_f32((ended.since(begun) / 1e3).max(0.0));
        let begun = Instant::now();
        let mut results = self.spare.pop().unwrap_or_default();
        results.outcomes.clear();
        for (index, answer) in answers.iter().enumerate() {
            let outcome = match answer.how {
                How::Host => {
                    let segment = segments.and_then(|segments| segments.get(index)).expect("it is finished at once");
                    let numbers = self.read_logits(answer.rows.clone()).map_err(failed)?;
                    let previous = known.get(index).copied().flatten();
                    results::outcome(segment, previous, &numbers, self.limits.vocab_size, &mut self.scratch)
                }
                _ => self.outputs.outcome(answer, self.desks[desk].outputs.bytes()),
            };
            results.outcomes.push(outcome);
        }
        Ok((results, StepTimes { compute, choose: begun.elapsed() }))
    }

    /// Copies rows of logits to the host, and waits for them.
    fn read_logits(&mut self, rows: std::ops::Range<usize>) -> Result<Vec<f32>, DeviceError> {
        let row_bytes = self.limits.vocab_size * size_of::<f32>();
        let mut numbers = Vec::with_capacity(rows.len() * self.limits.vocab_size);
        let mark = Mark::new(self.on.device())?;
        for begin in rows.clone().step_by(HOST_ROWS) {
            let count = HOST_ROWS.min(rows.end - begin);
            let from = self.activations.at().plus(self.arena.logits + (begin * row_bytes) as u64);
            self.on.device().download(Stream::Compute, from, count * row_bytes, &self.logits, 0)?;
            mark.set(Stream::Compute)?;
            mark.wait()?;
            numbers.extend(outputs::floats(&self.logits.bytes()[..count * row_bytes]));
        }
        Ok(numbers)
    }

    /// The tokens that are not known before the step is over, of segments that go on with one of the step before.
    fn known(&self, segments: &[Segment<'_>]) -> Vec<Option<u32>> {
        let of = |segment: &Segment<'_>| match segment.input {
            Input::Previous(index) => match self.previous(index) {
                Ok(Known::Token(token)) => Some(token),
                _ => None,
            },
            Input::Tokens(_) => None,
        };
        segments.iter().map(of).collect()
    }

    /// Makes the results of the step launched last, so that its tokens are known.
    fn finish_last(&mut self) -> Result<(), StepError> {
        let Some(Flight::Queued { .. }) = self.flights.back() else { return Ok(()) };
        let Some(Flight::Queued { desk, answers }) = self.flights.pop_back() else { return Ok(()) };
        let (results, times) = self.finish(desk, &answers, None, &[])?;
        self.flights.push_back(Flight::Ready(results, times));
        Ok(())
    }

    /// Launches a step that was checked.
    fn launch_checked(&mut self, step: &Step<'_>, wanted: &mut dyn FnMut(Part) -> bool) -> Result<(), StepError> {
        let plan = self.queue(step, wanted)?;
        self.fetch(&plan).map_err(failed)?;
        let desk = self.next;
        self.next = (desk + 1) % DEPTH;
        if plan.answers.iter().any(|answer| answer.how == How::Host) {
            // The host chooses: what is behind this step is known when it is.
            self.finish_last()?;
            let known = self.known(step.segments);
            let (results, times) = self.finish(desk, &plan.answers, Some(step.segments), &known)?;
            self.flights.push_back(Flight::Ready(results, times));
        } else {
            self.flights.push_back(Flight::Queued { desk, answers: plan.answers });
        }
        Ok(())
    }
}

/// The query heads to a key head, the same on every layer.
fn group(decoder: &tensor::Decoder) -> Result<Group, Unsupported> {
    let mut groups = decoder.attentions().map(|body| body.heads / body.kv_heads);
    let first = groups.next().unwrap_or(1);
    match groups.find(|&group| group != first) {
        Some(found) => Err(Unsupported::Shape { what: "query heads to a key head that differ between layers", found }),
        None => Ok(Group(first)),
    }
}

/// Bytes of an image without its tables of blocks, and a first guess for those.
fn image_bytes(rows: Rows) -> usize {
    (rows.max_rows * 64 + rows.max_logits_rows * 64 + 4096).next_power_of_two()
}

impl Backend for CudaBackend {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Queues the step; waits for it only where the host has to choose.
    fn launch(&mut self, step: &Step<'_>, wanted: &mut dyn FnMut(Part) -> bool) -> Result<(), StepError> {
        check(&self.limits, self.flights.len(), step.segments)?;
        self.launch_checked(step, wanted).inspect_err(|_| {
            // What it has queued reads its desk, which the next step takes. A device that is lost reads nothing.
            drop(self.drain());
        })
    }

    fn collect(&mut self, results: &mut Results) -> Result<StepTimes, StepError> {
        let (ready, times) = match self.flights.pop_front() {
            Some(Flight::Queued { desk, answers }) => self.finish(desk, &answers, None, &[])?,
            Some(Flight::Ready(ready, times)) => (ready, times),
            None => return Err(StepError::Contract("no step is in flight".into())),
        };
        self.spare.push(std::mem::replace(results, ready));
        Ok(times)
    }

    fn abandon(&mut self) {
        // A device that is lost has nothing in flight.
        drop(self.drain());
        self.flights.clear();
    }

    fn report_to(&mut self, location: &Arc<Location>) {
        self.location = Arc::clone(location);
    }

    fn install(&mut self, weights: &Arc<dyn Prepared>) -> Result<Generation, InstallError> {
        let Some(resident) = kind::resident(&**weights) else {
            return Err(InstallError::Unsupported { backend: self.name() });
        };
        let (newest, model) = self.models.last().expect("a backend has weights");
        if let Some(field) = model.source().difference(resident.source()) {
            return Err(InstallError::Differs { field });
        }
        let generation = Generation(newest.0 + 1);
        self.models.push((generation, resident));
        Ok(generation)
    }

    fn retire(&mut self, generation: Generation) {
        let newest = self.newest();
        if generation == newest {
            return;
        }
        // Memory goes back at once: nothing in flight may read it.
        drop(self.drain());
        self.models.retain(|(own, _)| *own != generation);
    }
}

impl Logits for CudaBackend {
    fn logits(&mut self, segments: &[Segment<'_>], wanted: &mut dyn FnMut(Part) -> bool) -> Result<&[f32], StepError> {
        check(&self.limits, self.flights.len(), segments)?;
        let plan = self.queue(&Step { generation: self.newest(), segments }, wanted)?;
        self.drain().map_err(failed)?;
        self.all_logits = self.read_logits(0..plan.picked_rows).map_err(failed)?;
        Ok(&self.all_logits)
    }
}

impl Drop for CudaBackend {
    /// Nothing may be queued on memory that goes back.
    fn drop(&mut self) {
        drop(self.drain());
    }
}

mod kind;
#[cfg(test)]
mod tests;
