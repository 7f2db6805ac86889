//! The `cpu` backend: our kernels over weights as they lie in mapped memory.
//!
//! Interprets the decoder description with an arena and a KV storage that are sized when it is
//! built; a step allocates nothing and copies no matrix. Only vectors (norms, biases: kilobytes)
//! are widened once, when their layer's weights have arrived (`staged`). A step is over when it was launched: collecting
//! hands out what is there. It knows no request and no text.

mod arena;
mod experts;
mod kind;
mod need;
mod operand;
mod options;
mod prepared;
mod staged;

use std::sync::Arc;
use std::time::Instant;

use self::arena::Arena;
use self::operand::{Operand, matrix, row_norm};
use self::options::{instructions, kv_float, threads};
use crate::backend::{
    Backend, Generation, Input, InstallError, Limits, Location, Logits, Makes, Part, Pooling, Prepared, Segment, Step,
    StepError, Want, check,
};
use crate::kernels::apart::{Apart, attend_apart};
use crate::kernels::attention::{Attention, attend};
use crate::kernels::buffer::Buffer;
use crate::kernels::cap::soft_cap;
use crate::kernels::linear::{Inputs, Matrix, Projection, Then, project, project_gated};
use crate::kernels::norm::{add_normed, norm, norm_in_place};
use crate::kernels::pool::Pool;
use crate::kernels::rotate::{BLOCK_TOKENS, HeadNorm, Heads, Rotation, Row, part_pairs, rotate_and_store};
use crate::kernels::stream;
use crate::kernels::tier::Instructions;
use crate::results::{self, Outbox, Results, StepTimes};
use crate::sampler::Scratch;
use tensor::{
    Activation, Added, Body, Branch, Classes, Decoder, Dense, Distances, Format, Linear, Norm, Pairs, Positions,
};

pub(crate) use self::kind::Cpu;
pub use self::options::{CpuError, CpuOptions, KV_BLOCK_TOKENS};
pub use self::staged::Staged;
pub use crate::kernels::buffer::Pages;
pub use crate::kernels::tier::Tier;

/// One model on the CPU.
pub struct CpuBackend {
    /// Generations of weights, oldest first; at least one.
    models: Vec<(Generation, Arc<Staged>)>,
    /// Index of the one that the current step uses.
    current: usize,
    limits: Limits,
    /// The format of keys and values.
    kv_float: Format,
    instructions: Instructions,
    pool: Pool,
    arena: Arena,
    storage: Buffer,
    outbox: Outbox,
    scratch: Scratch,
    location: Arc<Location>,
}

impl CpuBackend {
    /// A backend for `decoder`, sized by `options`. What has arrived of its weights is prepared here.
    ///
    /// # Errors
    /// An option is zero, the machine lacks the instructions, or the system has no threads or
    /// address space to give.
    pub fn new(decoder: &Arc<Decoder>, options: &CpuOptions) -> Result<Self, CpuError> {
        let staged = Staged::of(Arc::clone(decoder), options)?;
        staged.build_arrived();
        Self::over(Arc::new(staged), options)
    }

    /// A backend for weights that somebody else prepares meanwhile; `options` are those they are prepared by.
    ///
    /// # Errors
    /// As [`CpuBackend::new`].
    pub fn over(staged: Arc<Staged>, options: &CpuOptions) -> Result<Self, CpuError> {
        let sizes = [("max_rows", options.max_rows), ("kv_blocks", options.kv_blocks)];
        let more = [("max_logits_rows", options.max_logits_rows), ("max_position", options.max_position.unwrap_or(1))];
        if let Some((what, _)) = sizes.into_iter().chain(more).find(|(_, size)| *size == 0) {
            return Err(CpuError::Zero { what });
        }
        let instructions = instructions(options)?;
        let threads = threads(options);
        let pool = Pool::new(threads).map_err(|source| CpuError::Threads { threads, source })?;
        let decoder = staged.source();
        let kv_float = kv_float(options.kv_dtype, staged.stored(), instructions.tier());
        let limits = limits(decoder, kv_float, options);
        let bytes = limits.kv_block_bytes.saturating_mul(limits.kv_blocks);
        let blocks = options.kv_blocks;
        let storage = Buffer::zeroed(bytes).map_err(|source| CpuError::KvStorage { bytes, blocks, source })?;
        let arena =
            Arena::new(decoder, &limits).map_err(|source| CpuError::Arena { rows: options.max_rows, source })?;
        let models = vec![(Generation::default(), staged)];
        Ok(Self {
            models,
            current: 0,
            limits,
            kv_float,
            instructions,
            pool,
            arena,
            storage,
            outbox: Outbox::default(),
            scratch: Scratch::default(),
            location: Arc::default(),
        })
    }

    /// The instructions it computes with.
    #[must_use]
    pub fn tier(&self) -> Tier {
        self.instructions.tier()
    }

    /// Number of threads that compute.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The pages of its keys and values, to be made before they are needed.
    #[must_use]
    pub fn kv_pages(&self) -> Pages {
        self.storage.pages()
    }

    /// The format of its keys and values.
    #[must_use]
    pub fn kv_float(&self) -> Format {
        self.kv_float
    }

    /// Reads all of `bytes` with the threads and the widest loads that steps use, and returns a
    /// number that depends on every byte: what decoding speed is measured against.
    pub fn read_through(&mut self, bytes: &[u8]) -> u64 {
        stream::fold(&mut self.pool, self.instructions, bytes)
    }

    fn newest(&self) -> Generation {
        self.models.last().expect("a backend has weights").0
    }

    /// Computes a step as far as its logits.
    fn compute(&mut self, step: &Step<'_>, wanted: &mut dyn FnMut(Part) -> bool) -> Result<(), StepError> {
        let segments = step.segments;
        let Some(current) = self.models.iter().position(|(own, _)| *own == step.generation) else {
            return Err(StepError::Contract(format!("there are no weights of {:?}", step.generation)));
        };
        self.current = current;
        self.lay_out(segments)?;
        self.location.enter(Some(Part::Embeddings));
        self.models[current].1.need(Part::Embeddings, wanted)?;
        self.embed(segments);
        let model = Arc::clone(&self.models[current].1);
        let mut kv_at = 0;
        for layer in 0..model.source().layers.len() {
            self.location.enter(Some(Part::Layer(layer)));
            model.need(Part::Layer(layer), wanted)?;
            for Branch { before, body, after, joined } in &model.layer(layer).branches {
                let norms = Norms { before: before.as_ref(), after: after.as_ref(), joined: joined.as_ref() };
                match body {
                    Body::Attention(body) => self.attention(norms, body, &mut kv_at, segments),
                    Body::Dense(body) => self.dense(norms, body),
                    Body::Experts(body) => self.experts(norms, body),
                }
            }
        }
        if !self.arena.wanted.is_empty() {
            self.location.enter(Some(Part::Head));
            self.models[current].1.need(Part::Head, wanted)?;
            self.head(segments);
        }
        self.location.enter(None);
        Ok(())
    }

    /// Makes what each segment wanted of the rows that were picked for it.
    fn choose(&mut self, segments: &[Segment<'_>]) -> Results {
        let Self { arena, outbox, scratch, limits, .. } = self;
        let mut results = outbox.begin();
        let mut row = 0;
        for segment in segments {
            let rows = row..row + segment.picked().count();
            row = rows.end;
            results.outcomes.push(if results::wants_hidden(segment) {
                let width = limits.hidden_size;
                results::hidden(&arena.normed_picked[rows.start * width..rows.end * width])
            } else if let (Want::Classes, Makes::Classes(width)) = (segment.want, limits.makes) {
                results::hidden(&arena.logits[rows.start * width..rows.end * width])
            } else {
                let width = limits.vocab_size;
                let logits = &arena.logits[rows.start * width..rows.end * width];
                results::outcome(segment, None, logits, width, scratch)
            });
        }
        results
    }

    /// Notes which row is whose and which rows go to the head; refuses segments that would write one
    /// block at once.
    fn lay_out(&mut self, segments: &[Segment<'_>]) -> Result<(), StepError> {
        let arena = &mut self.arena;
        arena.begin();
        for (index, segment) in segments.iter().enumerate() {
            let (end, rows, picked) = (segment.end(), segment.rows(), segment.picked());
            for &block in &segment.blocks[segment.start / BLOCK_TOKENS..end.div_ceil(BLOCK_TOKENS)] {
                if !arena.claim(block) {
                    return Err(StepError::Contract(format!("block {block} is written twice in one step")));
                }
            }
            for position in segment.start..end {
                if picked.contains(position - segment.start, rows) {
                    arena.wanted.push(arena.rows.len());
                }
                arena.rows.push(Row { segment: index, position });
            }
        }
        Ok(())
    }

    /// Fills in every row's embedding and angles.
    fn embed(&mut self, segments: &[Segment<'_>]) {
        let model = &self.models[self.current].1;
        let (hidden, embeddings) = (model.source().hidden_size, matrix(model.embeddings()));
        let mut row = 0;
        for segment in segments {
            // At depth 1 every token is known.
            let Input::Tokens(tokens) = segment.input else { continue };
            for &token in tokens {
                let stream = &mut self.arena.stream[row * hidden..][..hidden];
                embeddings.widen_row(self.instructions, token as usize, stream);
                if model.source().embedding_scale != 1.0 {
                    stream.iter_mut().for_each(|number| *number *= model.source().embedding_scale);
                }
                row += 1;
            }
        }
        self.add_to_embeddings(row);
        let model = &self.models[self.current].1;
        for index in 0..model.source().rotations.len() {
            self.turn(index, segments);
        }
        self.embed_distances();
    }

    /// Fills in the embeddings of distances, where there are any.
    fn embed_distances(&mut self) {
        let Some(Distances { table, norm, .. }) = self.models[self.current].1.distances() else { return };
        let (table, hidden, arena) = (matrix(table), self.limits.hidden_size, &mut self.arena);
        for (index, row) in arena.distances.chunks_exact_mut(hidden).enumerate() {
            table.widen_row(self.instructions, index, row);
        }
        if let Some(norm) = norm {
            norm_in_place(&mut self.pool, self.instructions, row_norm(norm), &mut arena.distances);
        }
    }

    /// Adds what goes with embeddings to so many rows.
    fn add_to_embeddings(&mut self, rows: usize) {
        let Added { positions, types, norm } = self.models[self.current].1.added();
        let (hidden, on, arena) = (self.limits.hidden_size, self.instructions, &mut self.arena);
        let room = &mut arena.normed[..hidden];
        let mut add = |table: &Operand, index: usize, row: &mut [f32]| {
            matrix(table).widen_row(on, index, room);
            row.iter_mut().zip(&*room).for_each(|(sum, number)| *sum += number);
        };
        let stream = &mut arena.stream[..rows * hidden];
        for (Row { position, .. }, row) in arena.rows.iter().zip(stream.chunks_exact_mut(hidden)) {
            if let Some(types) = types {
                add(types, 0, row);
            }
            if let Some(Positions { table, first }) = positions {
                add(table, first + position, row);
            }
        }
        if let Some(norm) = norm {
            norm_in_place(&mut self.pool, on, row_norm(norm), stream);
        }
    }

    /// Fills in every row's angles of one rotation.
    fn turn(&mut self, index: usize, segments: &[Segment<'_>]) {
        let model = &self.models[self.current].1;
        let (tensor::Rotation { width, rope, .. }, frequencies) =
            (&model.source().rotations[index], &model.frequencies()[index]);
        let (width, angles) = (*width, &mut self.arena.angles[index]);
        let factor = rope.attention_factor();
        let mut rows = angles.chunks_exact_mut(width);
        for segment in segments {
            for (position, row) in (segment.start..segment.end()).zip(&mut rows) {
                let (cosines, sines) = row.split_at_mut(width / 2);
                for (pair, frequency) in frequencies.iter().enumerate() {
                    let (sine, cosine) = (position as f32 * frequency).sin_cos();
                    (cosines[pair], sines[pair]) = (cosine * factor, sine * factor);
                }
            }
        }
    }

    /// A branch of attention: reads the stream and adds to it. Its keys and values are kept from `kv_at` on in the
    /// storage; moves that behind them.
    fn attention(
        &mut self,
        norms: Norms<'_>,
        body: &tensor::Attention<Operand>,
        kv_at: &mut usize,
        segments: &[Segment<'_>],
    ) {
        let hidden = self.limits.hidden_size;
        let heads = heads(body, self.kv_float);
        let (pool, on, arena) = (&mut self.pool, self.instructions, &mut self.arena);
        let rows = arena.rows.len();
        let stream = &mut arena.stream[..rows * hidden];
        let normed = &mut arena.normed[..rows * hidden];
        let x = norms.begin(pool, on, stream, normed);
        let queries = &mut arena.queries[..rows * body.query_width()];
        let keys = &mut arena.keys[..rows * body.key_width()];
        let values = &mut arena.values[..rows * body.key_width()];
        let set = |linear, out| operand::projection(linear, out, Then::Set);
        let mut projections = [set(&body.query, queries), set(&body.key, keys), set(&body.value, values)];
        let mut inputs = Inputs { x, rows, room: arena.rounded.as_mut_slice() };
        project(pool, on, &mut inputs, &mut projections);
        match body.pairs {
            Pairs::Halves => {}
            Pairs::Neighbours => {
                [&mut *queries, &mut *keys].into_iter().for_each(|rows| part_pairs(rows, body.head_dim))
            }
        }

        if let Some(distances) = self.models[self.current].1.distances() {
            let rows_of = arena.distances.len() / hidden;
            let keys_of = operand::projection(&body.key, &mut arena.distance_keys, Then::Set);
            let queries_of = operand::projection(&body.query, &mut arena.distance_queries, Then::Set);
            let mut inputs = Inputs { x: &arena.distances, rows: rows_of, room: arena.rounded.as_mut_slice() };
            project(pool, on, &mut inputs, &mut [keys_of, queries_of]);
            let mixed = &mut arena.mixed[..rows * body.query_width()];
            let scores = Apart {
                head_dim: body.head_dim,
                scale: body.scale,
                rows: &arena.rows,
                queries,
                keys,
                values,
                distance_keys: &arena.distance_keys,
                distance_queries: &arena.distance_queries,
            };
            attend_apart(pool, on, &scores, &|query, key| distances.row(query, key), mixed);
            let mut inputs = Inputs { x: mixed, rows, room: arena.rounded.as_mut_slice() };
            return norms.join(pool, on, &mut inputs, &body.output, normed, stream);
        }
        let bytes = heads.block_bytes() * self.limits.kv_blocks;
        let storage = &mut self.storage.as_mut_slice()[*kv_at..][..bytes];
        // Of a sequence that is computed at once nothing is kept: the next layer takes the same place.
        *kv_at += if self.limits.is_whole { 0 } else { bytes };
        let width = body.rotation.map_or(0, |rotation| self.models[self.current].1.source().rotations[rotation].width);
        let rotation = Rotation {
            heads,
            query_norm: body.query_norm.as_ref().map(head_norm),
            key_norm: body.key_norm.as_ref().map(head_norm),
            scale: body.scale,
            growth: body.growth,
            width,
            angles: body.rotation.map_or(&[], |rotation| &arena.angles[rotation][..rows * width]),
            rows: &arena.rows,
            segments,
        };
        rotate_and_store(pool, on, &rotation, queries, keys, values, storage);
        let (sees, soft_cap) = (body.sees, body.soft_cap);
        let attention = Attention { heads, sees, soft_cap, rows: &arena.rows, segments, queries, storage };
        let mixed = &mut arena.mixed[..rows * body.query_width()];
        attend(pool, on, &attention, mixed);
        let mut inputs = Inputs { x: mixed, rows, room: arena.rounded.as_mut_slice() };
        norms.join(pool, on, &mut inputs, &body.output, normed, stream);
    }

    /// A feed-forward branch: reads the stream and adds to it.
    fn dense(&mut self, norms: Norms<'_>, body: &Dense<Operand>) {
        let hidden = self.limits.hidden_size;
        let (pool, on, arena) = (&mut self.pool, self.instructions, &mut self.arena);
        let rows = arena.rows.len();
        let stream = &mut arena.stream[..rows * hidden];
        let normed = &mut arena.normed[..rows * hidden];
        let x = norms.begin(pool, on, stream, normed);
        let inner = &mut arena.inner[..rows * body.width];
        let room = arena.rounded.as_mut_slice();
        let sides = (body.gate.as_ref(), &body.up);
        inside(pool, on, &mut Inputs { x, rows, room }, sides, body.activation, inner);
        norms.join(pool, on, &mut Inputs { x: inner, rows, room }, &body.down, normed, stream);
    }

    /// The final norm of the picked rows, and their logits where any are wanted.
    fn head(&mut self, segments: &[Segment<'_>]) {
        let model = &self.models[self.current].1;
        let arena = &mut self.arena;
        let (hidden, vocab, rows) = (self.limits.hidden_size, self.limits.vocab_size, arena.wanted.len());
        for (to, &from) in arena.wanted.iter().enumerate() {
            arena.picked[to * hidden..][..hidden].copy_from_slice(&arena.stream[from * hidden..][..hidden]);
        }
        let picked = &arena.picked[..rows * hidden];
        let normed = &mut arena.normed_picked[..rows * hidden];
        let (pool, on) = (&mut self.pool, self.instructions);
        match model.norm() {
            Some(of) => norm(pool, on, row_norm(of), picked, normed),
            None => normed.copy_from_slice(picked),
        }
        self.pool_rows(segments);
        if segments.iter().all(results::wants_hidden) {
            return;
        }
        let model = &self.models[self.current].1;
        let Some(head) = model.logits() else { return self.classify(rows) };
        let (pool, arena) = (&mut self.pool, &mut self.arena);
        let normed = &arena.normed_picked[..rows * hidden];
        let out = &mut arena.logits[..rows * vocab];
        let head: Matrix<'_> = matrix(head);
        let mut inputs = Inputs { x: normed, rows, room: arena.rounded.as_mut_slice() };
        project(pool, on, &mut inputs, &mut [Projection { matrix: head, bias: None, out, then: Then::Set }]);
        if let Some(cap) = model.source().logit_cap {
            soft_cap(pool, on, cap, &mut arena.logits[..rows * vocab]);
        }
    }

    /// Puts sums, and means, of a segment's rows in the place of its last row, and for classes the first where that counts.
    fn pool_rows(&mut self, segments: &[Segment<'_>]) {
        let model = &self.models[self.current].1;
        let of_mean = model.classes().map(|classes| classes.of_mean);
        let (hidden, arena) = (self.limits.hidden_size, &mut self.arena);
        let (mut first, mut to) = (0, 0);
        for segment in segments {
            let (rows, picked) = (first..first + segment.rows(), to);
            (first, to) = (rows.end, to + segment.picked().count());
            let (used, factor) = match (segment.want, of_mean) {
                (Want::Hidden(Pooling::Sum), _) => (rows, 1.0),
                #[expect(clippy::cast_precision_loss, reason = "a number of rows")]
                (Want::Classes, Some(true)) => (rows.clone(), 1.0 / rows.len() as f32),
                (Want::Classes, Some(false)) => (rows.start..rows.start + 1, 1.0),
                _ => continue,
            };
            let normed = &mut arena.normed[..used.len() * hidden];
            let stream = &arena.stream[used.start * hidden..used.end * hidden];
            match model.norm() {
                Some(of) => norm(&mut self.pool, self.instructions, row_norm(of), stream, normed),
                None => normed.copy_from_slice(stream),
            }
            let sum = &mut arena.normed_picked[picked * hidden..][..hidden];
            sum.fill(0.0);
            for row in normed.chunks_exact(hidden) {
                sum.iter_mut().zip(row).for_each(|(sum, number)| *sum += number);
            }
            sum.iter_mut().for_each(|number| *number *= factor);
        }
    }

    /// The scores of classes of so many rows.
    fn classify(&mut self, rows: usize) {
        let Some(Classes { of_mean: _, dense, activation, norm, output }) = self.models[self.current].1.classes()
        else {
            return;
        };
        let (hidden, pool, on, arena) = (self.limits.hidden_size, &mut self.pool, self.instructions, &mut self.arena);
        let (x, inner) = (&arena.normed_picked[..rows * hidden], &mut arena.picked[..rows * hidden]);
        let mut inputs = Inputs { x, rows, room: arena.rounded.as_mut_slice() };
        project(pool, on, &mut inputs, &mut [operand::projection(dense, inner, Then::Activate(*activation))]);
        if let Some(norm) = norm {
            norm_in_place(pool, on, row_norm(norm), inner);
        }
        let out = &mut arena.logits[..rows * matrix(&output.weight).outputs()];
        let mut inputs = Inputs { x: inner, rows, room: arena.rounded.as_mut_slice() };
        project(pool, on, &mut inputs, &mut [operand::projection(output, out, Then::Set)]);
    }
}

/// The inside of a feed-forward part: `activation(gate) · up`, or `activation(up)`.
fn inside(
    pool: &mut Pool,
    on: Instructions,
    inputs: &mut Inputs<'_>,
    (gate, up): (Option<&Linear<Operand>>, &Linear<Operand>),
    activation: Activation,
    out: &mut [f32],
) {
    match gate {
        Some(gate) => project_gated(pool, on, inputs, operand::parts(gate), operand::parts(up), activation, out),
        None => project(pool, on, inputs, &mut [operand::projection(up, out, Then::Activate(activation))]),
    }
}

/// The norms of a branch.
#[derive(Clone, Copy)]
struct Norms<'a> {
    /// Of the stream.
    before: Option<&'a Norm<Operand>>,
    /// Of the result.
    after: Option<&'a Norm<Operand>>,
    /// Of the stream, when the result was added.
    joined: Option<&'a Norm<Operand>>,
}

impl Norms<'_> {
    /// The rows that a branch reads: the stream, or the stream normed into `room`.
    fn begin<'x>(self, pool: &mut Pool, on: Instructions, stream: &'x [f32], room: &'x mut [f32]) -> &'x [f32] {
        let Some(before) = self.before else { return stream };
        norm(pool, on, row_norm(before), stream, room);
        room
    }

    /// Norms the stream, when the result was added.
    fn finish(self, pool: &mut Pool, on: Instructions, stream: &mut [f32]) {
        if let Some(joined) = self.joined {
            norm_in_place(pool, on, row_norm(joined), stream);
        }
    }

    /// Adds a branch's last projection to the stream; where its result is normed first, it goes through `room`.
    fn join(
        self,
        pool: &mut Pool,
        on: Instructions,
        inputs: &mut Inputs<'_>,
        last: &Linear<Operand>,
        room: &mut [f32],
        stream: &mut [f32],
    ) {
        match self.after {
            None => project(pool, on, inputs, &mut [operand::projection(last, stream, Then::Add)]),
            Some(after) => {
                project(pool, on, inputs, &mut [operand::projection(last, room, Then::Set)]);
                add_normed(pool, on, row_norm(after), room, stream);
            }
        }
        self.finish(pool, on, stream);
    }
}

impl Backend for CpuBackend {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Computes the whole step, and chooses.
    fn launch(&mut self, step: &Step<'_>, wanted: &mut dyn FnMut(Part) -> bool) -> Result<(), StepError> {
        check(&self.limits, self.outbox.len(), step.segments)?;
        if step.segments.iter().any(|segment| matches!(segment.input, Input::Previous(_))) {
            return Err(StepError::Contract("a token of a step before, at depth 1".into()));
        }
        let begun = Instant::now();
        self.compute(step, wanted)?;
        let computed = Instant::now();
        let results = self.choose(step.segments);
        self.outbox.push(results, StepTimes { compute: computed - begun, choose: computed.elapsed() });
        Ok(())
    }

    fn collect(&mut self, results: &mut Results) -> Result<StepTimes, StepError> {
        self.outbox.collect(results)
    }

    fn abandon(&mut self) {
        self.outbox.clear();
    }

    fn report_to(&mut self, location: &Arc<Location>) {
        self.location = Arc::clone(location);
    }

    fn install(&mut self, weights: &Arc<dyn Prepared>) -> Result<Generation, InstallError> {
        let Some(staged) = prepared::staged(&**weights) else {
            return Err(InstallError::Unsupported { backend: self.name() });
        };
        let (newest, model) = self.models.last().expect("a backend has weights");
        if let Some(field) = model.source().difference(staged.source()) {
            return Err(InstallError::Differs { field });
        }
        // What keys and values are kept in may follow from the weights' own format.
        if staged.stored() != model.stored() {
            return Err(InstallError::Differs { field: "the format of the weights" });
        }
        if staged.how() != model.how() {
            return Err(InstallError::Differs { field: "what becomes of the weights" });
        }
        staged.build_arrived();
        let generation = Generation(newest.0 + 1);
        self.models.push((generation, staged));
        Ok(generation)
    }

    fn retire(&mut self, generation: Generation) {
        let newest = self.newest();
        self.models.retain(|(own, _)| *own != generation || *own == newest);
    }
}

impl Logits for CpuBackend {
    fn logits(&mut self, segments: &[Segment<'_>], wanted: &mut dyn FnMut(Part) -> bool) -> Result<&[f32], StepError> {
        check(&self.limits, self.outbox.len(), segments)?;
        self.compute(&Step { generation: self.newest(), segments }, wanted)?;
        Ok(&self.arena.logits[..self.arena.wanted.len() * self.limits.vocab_size])
    }
}

fn head_norm(norm: &Norm<Operand>) -> HeadNorm<'_> {
    HeadNorm { weight: norm.weight.vector(), eps: norm.eps }
}

fn heads<W>(body: &tensor::Attention<W>, float: Format) -> Heads {
    Heads { heads: body.heads, kv_heads: body.kv_heads, head_dim: body.head_dim, float }
}

fn limits(decoder: &Decoder, kv_float: Format, options: &CpuOptions) -> Limits {
    Limits {
        vocab_size: decoder.vocab_size,
        max_position: options.max_position.unwrap_or(decoder.max_position),
        max_rows: options.max_rows,
        max_logits_rows: options.max_logits_rows,
        kv_block_tokens: BLOCK_TOKENS,
        kv_blocks: options.kv_blocks,
        kv_block_bytes: usize::try_from(need::kv_block_bytes(decoder, kv_float)).unwrap_or(usize::MAX),
        hidden_size: decoder.hidden_size,
        makes: Makes::of(decoder, |weight| weight.shape()[0]),
        is_whole: decoder.is_encoder(),
        sums: true,
        depth: 1,
    }
}

#[cfg(test)]
mod tests;
