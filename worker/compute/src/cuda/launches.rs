//! The kernels of a step, one after the other, with their grids and arguments.
//!
//! It decides nothing: a model's layout, a step's plan and an arena say it all. It knows no driver.

use super::arena::{Arena, Base, SPLITS, TOP_MAX, layer_bytes};
use super::arguments::{Argument, Attend, Choose, Embed, Normalize, Product, Rotate, Score, Then, Turn};
use super::device::{Address, Device, DeviceError, Launch};
use super::inputs::Plan;
use super::layout::{AttentionAt, BodyAt, BranchAt, LinearAt, Matrix, NormAt, Numbers, Vector};
use super::weights::Resident;

/// Rows from which on a product is bound by arithmetic rather than by its weights.
const NARROW_ROWS_MAX: usize = 64;
/// Threads of every product.
const PRODUCT_THREADS: u32 = 256;
/// Threads that choose from a row.
const CHOOSE_THREADS: u32 = 512;
/// Shared memory of those threads, without the sums of 64 logits each.
pub(crate) const DESK_BYTES: usize = 19_616;
/// Logits whose weights are summed up first.
const CHUNK: usize = 64;

/// A step being queued.
pub(crate) struct Recorder<'a> {
    pub(crate) device: &'a dyn Device,
    pub(crate) model: &'a Resident,
    pub(crate) arena: &'a Arena,
    pub(crate) base: Base,
    /// Keys and values of all layers.
    pub(crate) kv: Address,
    pub(crate) kv_blocks: usize,
    pub(crate) kv_block_tokens: usize,
    /// The step's image on the device.
    pub(crate) inputs: Address,
    pub(crate) plan: &'a Plan,
}

impl Recorder<'_> {
    fn launch(
        &self,
        kernel: &'static str,
        grid: [usize; 3],
        threads: u32,
        shared: usize,
        argument: &impl Argument,
    ) -> Result<(), DeviceError> {
        let launch =
            Launch { kernel, grid: grid.map(number), threads, shared: number(shared), argument: argument.bytes() };
        self.device.launch(&launch)
    }

    fn list(&self, list: u64) -> u64 {
        self.base.at(list).0
    }

    fn input(&self, list: u64) -> u64 {
        self.inputs.plus(list).0
    }

    fn weight(&self, at: u64) -> u64 {
        self.model.at().plus(at).0
    }

    fn vector(&self, vector: Option<Vector>) -> u64 {
        vector.map_or(Address::NONE.0, |vector| self.weight(vector.at))
    }

    fn scales(&self, matrix: &Matrix) -> u64 {
        match matrix.numbers {
            Numbers::Bf16 => Address::NONE.0,
            Numbers::Q8 => self.weight(matrix.scales_at()),
        }
    }

    /// Every row's embedding and angles.
    pub(crate) fn embed(&self) -> Result<(), DeviceError> {
        let (decoder, table) = (self.model.source(), &self.model.layout().embeddings);
        let embed = Embed {
            tokens: self.input(self.plan.tokens_at),
            chosen: self.list(self.arena.tokens),
            table: self.weight(table.at),
            scales: self.scales(table),
            stream: self.list(self.arena.stream),
            width: number(decoder.hidden_size),
            stride: number(table.inputs),
        };
        self.launch("embed", [self.plan.rows, 1, 1], 256, 0, &embed)?;
        for (index, rotation) in decoder.rotations.iter().enumerate() {
            let turn = Turn {
                positions: self.input(self.plan.positions_at),
                frequencies: self.list(self.arena.frequencies[index]),
                angles: self.list(self.arena.angles[index]),
                pairs: number(rotation.width / 2),
                factor: rotation.rope.attention_factor(),
            };
            self.launch("turn", [self.plan.rows, 1, 1], 128, 0, &turn)?;
        }
        Ok(())
    }

    /// A layer. `attentions` counts the bodies of attention before it.
    pub(crate) fn layer(&self, branches: &[BranchAt], attentions: &mut usize) -> Result<(), DeviceError> {
        for BranchAt { before, body } in branches {
            match body {
                BodyAt::Attention(body) => {
                    self.normalize(before, None, None, body.projections.matrix.inputs)?;
                    self.attention(body, *attentions)?;
                    *attentions += 1;
                }
                BodyAt::Dense { gated, down } => {
                    self.normalize(before, None, None, gated.matrix.inputs)?;
                    let rows = self.plan.rows;
                    self.product(
                        gated,
                        self.arena.normed,
                        rows,
                        Then::Gated,
                        self.arena.inner,
                        gated.matrix.outputs / 2,
                    )?;
                    self.product(down, self.arena.inner, rows, Then::Add, self.arena.stream, down.matrix.outputs)?;
                }
            }
        }
        Ok(())
    }

    fn normalize(
        &self,
        norm: &NormAt,
        picked: Option<u64>,
        wide: Option<u64>,
        stride: usize,
    ) -> Result<(), DeviceError> {
        let normalize = Normalize {
            stream: self.list(self.arena.stream),
            picked: picked.map_or(0, |list| self.input(list)),
            weight: self.weight(norm.weight.at),
            out: self.list(self.arena.normed),
            wide: wide.map_or(0, |list| self.list(list)),
            width: number(self.model.source().hidden_size),
            stride: number(stride),
            eps: norm.eps,
            unused: 0,
        };
        let rows = if picked.is_some() { self.plan.picked_rows } else { self.plan.rows };
        self.launch("normalize", [rows, 1, 1], 256, 256 / 32 * 4, &normalize)
    }

    /// A product of rows, bf16 from `x` on.
    fn product(
        &self,
        linear: &LinearAt,
        x: u64,
        rows: usize,
        then: Then,
        out: u64,
        stride: usize,
    ) -> Result<(), DeviceError> {
        let LinearAt { matrix, bias } = linear;
        let product = Product {
            weights: self.weight(matrix.at),
            scales: self.scales(matrix),
            x: self.list(x),
            bias: self.vector(*bias),
            out: self.list(out),
            rows: number(rows),
            outputs: number(matrix.outputs),
            inputs: number(matrix.inputs),
            out_stride: number(stride),
            then: then as u32,
            unused: 0,
        };
        let Shape { kernel, grid, shared } = shape(matrix, rows, self.device.facts().processors as usize);
        self.launch(kernel, grid, PRODUCT_THREADS, shared, &product)
    }

    fn attention(&self, body: &AttentionAt, index: usize) -> Result<(), DeviceError> {
        let (plan, arena, room) = (self.plan, self.arena, body.room());
        let heads = body.heads + 2 * body.kv_heads;
        self.product(&body.projections, arena.normed, plan.rows, Then::Set, arena.projected, heads * body.dim)?;
        let (keys, values) = self.stored(index);
        let norm = |norm: &Option<NormAt>| norm.map_or((0, 0.0), |norm| (self.weight(norm.weight.at), norm.eps));
        let ((query_norm, query_eps), (key_norm, key_eps)) = (norm(&body.query_norm), norm(&body.key_norm));
        let rotate = Rotate {
            projected: self.list(arena.projected),
            angles: self.list(arena.angles[body.rotation]),
            slots: self.input(plan.slots_at),
            query_norm,
            key_norm,
            queries: self.list(arena.queries),
            keys,
            values,
            heads: number(body.heads),
            kv_heads: number(body.kv_heads),
            dim: number(body.dim),
            room: number(room),
            query_eps,
            key_eps,
            are_neighbours: u32::from(body.are_neighbours),
            unused: 0,
        };
        self.launch("rotate", [plan.rows, heads.div_ceil(4), 1], 128, 0, &rotate)?;
        self.attend(body, keys, values)?;
        self.product(&body.output, arena.mixed, plan.rows, Then::Add, arena.stream, body.output.matrix.outputs)
    }

    fn attend(&self, body: &AttentionAt, keys: u64, values: u64) -> Result<(), DeviceError> {
        let (plan, arena, room) = (self.plan, self.arena, body.room());
        let [prompt, one, join] = attention_kernels(room);
        let attend = |tiles: u64| Attend {
            queries: self.list(arena.queries),
            keys,
            values,
            tiles: self.input(tiles),
            blocks: self.input(plan.blocks_at),
            mixed: self.list(arena.mixed),
            partial: self.list(arena.partial),
            heads: number(body.heads),
            kv_heads: number(body.kv_heads),
            dim: number(body.dim),
            stride: number(body.output.matrix.inputs),
            window: number(body.window),
            scale: body.scale,
        };
        // Queries, and two tiles of 64 keys and values.
        let shared = |rows: usize| (rows + 4 * 64) * room * 2;
        if plan.tiles > 0 {
            self.launch(prompt, [plan.tiles, body.kv_heads, 1], 128, shared(64), &attend(plan.tiles_at))?;
        }
        if plan.ones > 0 {
            self.launch(one, [plan.ones, body.kv_heads, SPLITS], 128, shared(16), &attend(plan.ones_at))?;
            self.launch(join, [plan.ones, body.heads, 1], number(room), 0, &attend(plan.ones_at))?;
        }
        Ok(())
    }

    /// Where a body's keys and values are kept.
    fn stored(&self, index: usize) -> (u64, u64) {
        let mut at = self.kv;
        for (body, attention) in self.model.source().attentions().enumerate() {
            let bytes = layer_bytes(attention, self.kv_block_tokens) * self.kv_blocks as u64;
            if body == index {
                return (at.0, at.plus(bytes).0);
            }
            at = at.plus(2 * bytes);
        }
        unreachable!("attention {index} of a model that has fewer")
    }

    /// The final norm of the picked rows, their logits where any are wanted, and what is chosen and found of those.
    pub(crate) fn head(&self) -> Result<(), DeviceError> {
        let (plan, arena, layout) = (self.plan, self.arena, self.model.layout());
        let wide = plan.has_hidden.then_some(arena.wide);
        self.normalize(&layout.norm, Some(plan.picked_at), wide, layout.head.inputs)?;
        if !plan.has_logits {
            return Ok(());
        }
        let vocabulary = self.model.source().vocab_size;
        let head = LinearAt { matrix: layout.head, bias: None };
        self.product(&head, arena.normed, plan.picked_rows, Then::Set, arena.logits, vocabulary)?;
        let choose = Choose {
            logits: self.list(arena.logits),
            choices: self.input(plan.choices_at),
            tokens: self.list(arena.tokens),
            found: self.list(arena.found),
            vocabulary: number(vocabulary),
            are_scored: u32::from(plan.has_scores),
        };
        let shared = DESK_BYTES + vocabulary.div_ceil(CHUNK) * 8;
        self.launch("choose", [plan.picked_rows, 1, 1], CHOOSE_THREADS, shared, &choose)?;
        if !plan.has_scores {
            return Ok(());
        }
        let score = Score {
            logits: self.list(arena.logits),
            asked: self.input(plan.asked_at),
            chosen: self.list(arena.tokens),
            tops: self.input(plan.tops_at),
            own: self.list(arena.own),
            top_ids: self.list(arena.top_ids),
            top_logits: self.list(arena.top_logits),
            vocabulary: number(vocabulary),
            room: number(TOP_MAX),
        };
        self.launch("score", [plan.picked_rows, 1, 1], CHOOSE_THREADS, CHOOSE_THREADS as usize / 32 * 8, &score)
    }
}

/// A product's kernel and grid.
#[derive(Debug, PartialEq, Eq)]
struct Shape {
    kernel: &'static str,
    grid: [usize; 3],
    shared: usize,
}

/// How a product of so many rows is computed. Among the kernels for few rows, and among those for many, sums are the same.
fn shape(matrix: &Matrix, rows: usize, processors: usize) -> Shape {
    let is_q8 = matrix.numbers == Numbers::Q8;
    let narrow = |tiles: usize, kernels: [&'static str; 2]| Shape {
        kernel: kernels[usize::from(is_q8)],
        grid: [matrix.outputs.div_ceil(16), rows.div_ceil(8 * tiles), 1],
        shared: 8 * 8 * tiles * 17 * 4,
    };
    let tiled = |side: usize, kernels: [&'static str; 2]| Shape {
        kernel: kernels[usize::from(is_q8)],
        grid: [rows.div_ceil(side), matrix.outputs.div_ceil(side), 1],
        shared: 3 * 2 * side * 128,
    };
    match rows {
        ..=8 => narrow(1, ["narrow_1", "narrow_q8_1"]),
        9..=16 => narrow(2, ["narrow_2", "narrow_q8_2"]),
        17..=NARROW_ROWS_MAX => narrow(4, ["narrow_4", "narrow_q8_4"]),
        // Smaller tiles where larger ones would leave processors idle.
        _ if rows.div_ceil(128) * matrix.outputs.div_ceil(128) < processors => tiled(64, ["tiled_64", "tiled_q8_64"]),
        _ => tiled(128, ["tiled_128", "tiled_q8_128"]),
    }
}

/// The kernels of a room: for prompts, for single tokens, and to join what those split.
fn attention_kernels(room: usize) -> [&'static str; 3] {
    match room {
        32 => ["attend_32", "attend_one_32", "join_32"],
        64 => ["attend_64", "attend_one_64", "join_64"],
        128 => ["attend_128", "attend_one_128", "join_128"],
        _ => ["attend_256", "attend_one_256", "join_256"],
    }
}

/// Sizes of a launch fit 32 bits: the plan of memory bounds them.
fn number(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
