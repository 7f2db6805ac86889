//! A decoder, or an encoder, as data: which tensors it has, in which order a step meets them, and the few numbers that
//! differ.
//!
//! A family is written down as a [`Decoder`] and interpreters (backends) compute it; nothing here computes anything,
//! and nothing knows a family's name or where bytes come from. A field or a variant comes with the interpreters that
//! read it. Functions that enumerate fields take them apart without `..`, so that a new field does not compile until
//! each of them has been thought of.
//!
//! The arithmetic every interpreter performs: embed, scale and add what goes with embeddings; for each branch of each
//! layer norm the stream, apply the body, norm the result, add it to the stream and norm that, where the branch says so;
//! then the final norm, the head and its cap.

use std::convert::Infallible;

use crate::{Rope, Weight};

/// The widest head that interpreters have room for.
pub const HEAD_DIM_MAX: usize = 1 << 10;

/// A decoder whose tensors are `W`: names and shapes ([`Slot`](crate::Slot)), stored tensors ([`Weight`]), or
/// whatever an interpreter makes of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoder<W = Weight> {
    /// Rows of the embedding table; logits per position.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// The longest sequence that it is made for, in tokens.
    pub max_position: usize,
    /// Shape (vocab, hidden).
    pub embeddings: W,
    /// The factor of embeddings.
    pub embedding_scale: f32,
    /// Additions to embeddings, and the norm of the sum.
    pub added: Added<W>,
    /// The distinct rotations, by which attention names its own.
    pub rotations: Vec<Rotation<W>>,
    /// Embeddings of distances, which all attention of an encoder adds to its scores.
    pub distances: Option<Distances<W>>,
    /// The layers, first to last.
    pub layers: Vec<Layer<W>>,
    /// Before the head; none where layers end with a norm of their own.
    pub norm: Option<Norm<W>>,
    /// The end.
    pub head: Head<W>,
    /// Logits `l` become `cap · tanh(l / cap)`.
    pub logit_cap: Option<f32>,
}

/// Additions of an encoder to embeddings; none in decoders.
#[derive(Debug, Clone, PartialEq)]
pub struct Added<W> {
    /// An embedding for each position.
    pub positions: Option<Positions<W>>,
    /// Shape (types, hidden): every token is of the first type.
    pub types: Option<W>,
    /// Of the sum.
    pub norm: Option<Norm<W>>,
}

/// Learned embeddings of positions.
#[derive(Debug, Clone, PartialEq)]
pub struct Positions<W> {
    /// Shape (rows, hidden).
    pub table: W,
    /// The row of position 0.
    pub first: usize,
}

/// The end of a model, behind its final norm.
#[derive(Debug, Clone, PartialEq)]
pub enum Head<W> {
    /// Logits by the embedding table.
    Tied,
    /// Logits by a matrix of its own, (vocab, hidden).
    Own(W),
    /// There is none: hidden states are the result.
    Nothing,
    /// Scores of a few classes, of a whole sequence.
    Classes(Box<Classes<W>>),
}

/// Scores of classes: `output(norm(activation(dense(row))))`, of one row for a sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Classes<W> {
    /// True if the row is the mean of all, rather than the first.
    pub of_mean: bool,
    /// Shape (hidden, hidden).
    pub dense: Linear<W>,
    /// The function of its result.
    pub activation: Activation,
    /// Of the function's result.
    pub norm: Option<Norm<W>>,
    /// Shape (classes, hidden).
    pub output: Linear<W>,
}

/// Embeddings of how far apart two positions are (He et al. 2021, DeBERTa). For a query q at position i and a key k at j
/// of the distance d the score is q·k + q·key(d) + k·query(d), with a layer's own projections of the distance's
/// embedding, before it is scaled.
#[derive(Debug, Clone, PartialEq)]
pub struct Distances<W> {
    /// Shape (2 · span, hidden).
    pub table: W,
    /// Of the table's rows.
    pub norm: Option<Norm<W>>,
    /// The row of the distance 0.
    pub span: usize,
    /// Distances from half of the span on share rows, more of them the farther they are, up to this one; each has its own
    /// row if none.
    pub farthest: Option<usize>,
}

impl<W> Distances<W> {
    /// The row of the distance from a query's position to a key's.
    #[must_use]
    pub fn row(&self, query: usize, key: usize) -> usize {
        let (near, size) = (self.span / 2, query.abs_diff(key));
        let steps = match self.farthest {
            Some(farthest) if size > near => {
                // In f32, as the reference rounds it.
                #[expect(clippy::cast_precision_loss, reason = "positions")]
                let [size, near_f, farthest] = [size as f32, near as f32, (farthest - 1) as f32];
                let logs = (size / near_f).ln() / (farthest / near_f).ln();
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small whole number")]
                let steps = (logs * (near_f - 1.0)).ceil() as usize;
                steps + near
            }
            _ => size,
        };
        let row = if query >= key { self.span + steps } else { self.span.saturating_sub(steps) };
        row.min(2 * self.span - 1)
    }

    /// The same with every tensor replaced.
    ///
    /// # Errors
    /// The first error of `make`.
    pub fn try_map<V, E>(&self, make: &mut impl FnMut(&W) -> Result<V, E>) -> Result<Distances<V>, E> {
        let Self { table, norm, span, farthest } = self;
        let table = make(table)?;
        Ok(Distances { table, norm: Norm::try_map_some(norm.as_ref(), make)?, span: *span, farthest: *farthest })
    }
}

/// One rotation of heads by position.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotation<W> {
    /// Its frequencies.
    pub rope: Rope,
    /// Numbers of a head that it turns, the first ones: an even number.
    pub width: usize,
    /// Shape (width / 2): frequencies are divided by these, where a file has the numbers rather than a rule.
    pub divisors: Option<W>,
}

/// One layer: each branch adds its result to the stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer<W> {
    /// In the order in which they are added.
    pub branches: Vec<Branch<W>>,
}

/// A computation that reads the stream and adds to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Branch<W> {
    /// Of the stream, before the body; the body reads the stream itself if none.
    pub before: Option<Norm<W>>,
    /// The computation.
    pub body: Body<W>,
    /// Of the result, before it is added.
    pub after: Option<Norm<W>>,
    /// Of the stream, after the addition: the stream goes on as this.
    pub joined: Option<Norm<W>>,
}

/// The computation of a branch.
#[derive(Debug, Clone, PartialEq)]
pub enum Body<W> {
    /// Attention.
    Attention(Attention<W>),
    /// A feed-forward part.
    Dense(Dense<W>),
    /// Several, of which each row goes to some.
    Experts(Experts<W>),
}

/// A norm of rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Norm<W> {
    /// The numbers that are normed.
    pub of: Normed,
    /// Shape (width).
    pub weight: W,
    /// Shape (width): added to the result.
    pub bias: Option<W>,
    /// Added to the mean square.
    pub eps: f32,
}

/// The numbers whose mean square a norm brings to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normed {
    /// Those of the row.
    Row,
    /// Their differences from the row's mean.
    Differences,
}

/// A matrix and, where there is one, its bias.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear<W> {
    /// Shape (outputs, inputs), row-major.
    pub weight: W,
    /// Shape (outputs).
    pub bias: Option<W>,
}

/// Attention over the keys and values of a sequence. Queries and keys are normed per head where there are
/// norms, then rotated, then scored.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention<W> {
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head, an even number up to [`HEAD_DIM_MAX`].
    pub head_dim: usize,
    /// Shape (heads · head_dim, hidden).
    pub query: Linear<W>,
    /// Shape (kv_heads · head_dim, hidden).
    pub key: Linear<W>,
    /// Shape (kv_heads · head_dim, hidden).
    pub value: Linear<W>,
    /// Norm of every query head.
    pub query_norm: Option<Norm<W>>,
    /// Norm of every key head.
    pub key_norm: Option<Norm<W>>,
    /// Shape (hidden, heads · head_dim).
    pub output: Linear<W>,
    /// Index of the decoder's rotation that turns queries and keys, at most `head_dim` wide; they stay as they are if none.
    pub rotation: Option<usize>,
    /// The two numbers of a head that turn together.
    pub pairs: Pairs,
    /// The factor of every score.
    pub scale: f32,
    /// Queries that are longer the later they come.
    pub growth: Option<Growth>,
    /// Scores `s` become `cap · tanh(s / cap)`.
    pub soft_cap: Option<f32>,
    /// The positions that a row sees.
    pub sees: Sees,
}

/// The growth of queries with their position: the factor of one at position `p` is `1 + by · ln(1 + ⌊p / every⌋)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Growth {
    /// The factor of the logarithm.
    pub by: f32,
    /// Positions of one factor, at least one.
    pub every: usize,
}

impl Growth {
    /// The factor at a position.
    #[must_use]
    pub fn at(self, position: usize) -> f32 {
        1.0 + self.by * (1.0 + (position / self.every.max(1)) as f32).ln()
    }
}

/// The two numbers of a head that turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    /// One of each half, as `transformers` orders rows of queries and keys.
    Halves,
    /// Neighbours, as llama.cpp's converter orders those of Llama.
    Neighbours,
}

/// The positions that a row of attention sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sees {
    /// All up to its own.
    All,
    /// So many, its own included.
    Window(usize),
    /// Those of the whole sequence, which is computed at once; nothing is kept of it.
    BothWays,
    /// The same, but at most so many positions away.
    Around(usize),
}

impl Sees {
    /// True if a row sees positions after its own.
    #[must_use]
    pub(crate) fn is_both_ways(self) -> bool {
        match self {
            Self::All | Self::Window(_) => false,
            Self::BothWays | Self::Around(_) => true,
        }
    }
}

/// A function of single numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x / (1 + e^-x).
    Silu,
    /// The Gaussian error linear unit.
    Gelu,
    /// The same by its approximation with tanh.
    GeluTanh,
    /// The larger of x and 0.
    Relu,
    /// The hyperbolic tangent.
    Tanh,
}

/// `down(activation(gate) · up)`, or `down(activation(up))` without a gate.
#[derive(Debug, Clone, PartialEq)]
pub struct Dense<W> {
    /// Its inner width.
    pub width: usize,
    /// The function of gates.
    pub activation: Activation,
    /// Shape (width, hidden).
    pub gate: Option<Linear<W>>,
    /// Shape (width, hidden).
    pub up: Linear<W>,
    /// Shape (hidden, width).
    pub down: Linear<W>,
}

/// Feed-forward parts of which each row goes to some: the sum of their results, each times its share. Shares are a
/// softmax over the router's scores; a row's sum goes by the experts' numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Experts<W> {
    /// Number of parts that a row goes to: those of the largest shares, the first of equals.
    pub chosen: usize,
    /// True if the shares of a row's parts are scaled to a sum of one.
    pub normalized: bool,
    /// Shape (parts, hidden).
    pub router: W,
    /// The parts, all of one width.
    pub each: Vec<Dense<W>>,
}

/// The largest sizes of a decoder's bodies: activations are sized by them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Widths {
    /// Of all query heads together.
    pub queries: usize,
    /// Of all key heads together, and of all value heads.
    pub keys: usize,
    /// Inside a feed-forward part.
    pub inner: usize,
    /// Parts that rows are routed to.
    pub experts: usize,
}

impl<W> Decoder<W> {
    /// The decoder with every tensor replaced; the first error ends it. Visits in execution order.
    ///
    /// # Errors
    /// The first error of `make`.
    pub fn try_map<V, E>(&self, mut make: impl FnMut(&W) -> Result<V, E>) -> Result<Decoder<V>, E> {
        let Self {
            vocab_size,
            hidden_size,
            max_position,
            embeddings,
            embedding_scale,
            added,
            rotations,
            distances,
            layers,
            norm,
            head,
            logit_cap,
        } = self;
        Ok(Decoder {
            vocab_size: *vocab_size,
            hidden_size: *hidden_size,
            max_position: *max_position,
            embeddings: make(embeddings)?,
            embedding_scale: *embedding_scale,
            added: added.try_map(&mut make)?,
            rotations: rotations.iter().map(|rotation| rotation.try_map(&mut make)).collect::<Result<_, E>>()?,
            distances: distances.as_ref().map(|distances| distances.try_map(&mut make)).transpose()?,
            layers: layers.iter().map(|layer| layer.try_map(&mut make)).collect::<Result<_, E>>()?,
            norm: Norm::try_map_some(norm.as_ref(), &mut make)?,
            head: head.try_map(&mut make)?,
            logit_cap: *logit_cap,
        })
    }

    /// Every tensor, in execution order.
    #[must_use]
    pub fn tensors(&self) -> Vec<&W> {
        let Self {
            vocab_size: _,
            hidden_size: _,
            max_position: _,
            embeddings: _,
            embedding_scale: _,
            added: _,
            rotations: _,
            distances: _,
            layers,
            norm: _,
            head: _,
            logit_cap: _,
        } = self;
        let layers = layers.iter().flat_map(Layer::tensors);
        let mut last = self.last_tensors();
        if matches!(self.head, Head::Tied) {
            // It came first.
            last.pop();
        }
        self.first_tensors().into_iter().chain(layers).chain(last).collect()
    }

    /// The tensors of [`Part::Embeddings`](crate::Part::Embeddings): the embedding table, what goes with it, and the
    /// divisors of rotations.
    #[must_use]
    pub fn first_tensors(&self) -> Vec<&W> {
        let mut tensors = vec![&self.embeddings];
        self.added.add_tensors(&mut tensors);
        tensors.extend(self.rotations.iter().filter_map(|rotation| rotation.divisors.as_ref()));
        if let Some(Distances { table, norm, span: _, farthest: _ }) = &self.distances {
            tensors.push(table);
            norm.iter().for_each(|norm| norm.add_tensors(&mut tensors));
        }
        tensors
    }

    /// The tensors of [`Part::Head`](crate::Part::Head): the final norm's and those of the head, which are shared with the
    /// embeddings where it is tied.
    #[must_use]
    pub fn last_tensors(&self) -> Vec<&W> {
        let mut tensors = Vec::new();
        self.norm.iter().for_each(|norm| norm.add_tensors(&mut tensors));
        match &self.head {
            Head::Tied => tensors.push(&self.embeddings),
            Head::Own(head) => tensors.push(head),
            Head::Nothing => {}
            Head::Classes(classes) => classes.add_tensors(&mut tensors),
        }
        tensors
    }

    /// The matrix that makes logits, (vocab, hidden); none of a model that makes none.
    #[must_use]
    pub fn logits(&self) -> Option<&W> {
        match &self.head {
            Head::Tied => Some(&self.embeddings),
            Head::Own(head) => Some(head),
            Head::Nothing | Head::Classes(_) => None,
        }
    }

    /// Number of logits of a row; 0 of a model that makes none.
    #[must_use]
    pub fn logits_width(&self) -> usize {
        if self.logits().is_some() { self.vocab_size } else { 0 }
    }

    /// True if its rows see those after them: a sequence is computed at once, and nothing is kept of it.
    #[must_use]
    pub fn is_encoder(&self) -> bool {
        let mut attentions = self.attentions().peekable();
        attentions.peek().is_some() && attentions.all(|attention| attention.sees.is_both_ways())
    }

    /// Its bodies of attention, first to last: each has keys and values of its own.
    pub fn attentions(&self) -> impl Iterator<Item = &Attention<W>> {
        let branches = self.layers.iter().flat_map(|layer| &layer.branches);
        branches.filter_map(|branch| match &branch.body {
            Body::Attention(attention) => Some(attention),
            Body::Dense(_) | Body::Experts(_) => None,
        })
    }

    /// The largest sizes of its bodies.
    #[must_use]
    pub fn widths(&self) -> Widths {
        let mut widths = Widths::default();
        for branch in self.layers.iter().flat_map(|layer| &layer.branches) {
            match &branch.body {
                Body::Attention(attention) => {
                    widths.queries = widths.queries.max(attention.query_width());
                    widths.keys = widths.keys.max(attention.key_width());
                }
                Body::Dense(dense) => widths.inner = widths.inner.max(dense.width),
                Body::Experts(experts) => {
                    widths.inner = experts.each.iter().map(|dense| dense.width).fold(widths.inner, usize::max);
                    widths.experts = widths.experts.max(experts.each.len());
                }
            }
        }
        widths
    }
}

impl Decoder {
    /// The first thing in which two decoders differ as far as a computation is concerned, tensors' numbers and
    /// formats aside; by the name it has in a `config.json`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        let (ours, theirs) = (self.shapes(), other.shapes());
        let Decoder {
            vocab_size,
            hidden_size,
            max_position,
            embeddings,
            embedding_scale,
            added,
            rotations,
            distances,
            layers,
            norm,
            head,
            logit_cap,
        } = &ours;
        let fields = [
            ("vocab_size", *vocab_size == theirs.vocab_size),
            ("hidden_size", *hidden_size == theirs.hidden_size),
            ("num_hidden_layers", layers.len() == theirs.layers.len()),
            ("max_position_embeddings", *max_position == theirs.max_position),
            ("rms_norm_eps", *norm == theirs.norm),
            ("tie_word_embeddings", *head == theirs.head),
            ("rope_parameters", *rotations == theirs.rotations),
            ("relative_attention", *distances == theirs.distances),
            ("the factor of embeddings", *embedding_scale == theirs.embedding_scale),
            ("final_logit_softcapping", *logit_cap == theirs.logit_cap),
            ("the shape of its layers", *layers == theirs.layers),
            ("the shape of its embeddings", (embeddings, added) == (&theirs.embeddings, &theirs.added)),
        ];
        fields.into_iter().find(|(_, same)| !same).map(|(field, _)| field)
    }

    fn shapes(&self) -> Decoder<Vec<usize>> {
        match self.try_map(|weight| Ok::<_, Infallible>(weight.shape().to_vec())) {
            Ok(shapes) => shapes,
        }
    }
}

impl<W> Layer<W> {
    /// The layer with every tensor replaced.
    pub fn map<V>(&self, mut make: impl FnMut(&W) -> V) -> Layer<V> {
        match self.try_map(&mut |tensor| Ok::<V, Infallible>(make(tensor))) {
            Ok(layer) => layer,
        }
    }

    fn try_map<V, E>(&self, make: &mut impl FnMut(&W) -> Result<V, E>) -> Result<Layer<V>, E> {
        let Self { branches } = self;
        Ok(Layer { branches: branches.iter().map(|branch| branch.try_map(make)).collect::<Result<_, E>>()? })
    }

    /// Every tensor of the layer, in execution order.
    #[must_use]
    pub fn tensors(&self) -> Vec<&W> {
        let Self { branches } = self;
        let mut tensors = Vec::new();
        for Branch { before, body, after, joined } in branches {
            before.iter().for_each(|norm| norm.add_tensors(&mut tensors));
            match body {
                Body::Attention(attention) => attention.add_tensors(&mut tensors),
                Body::Dense(dense) => dense.add_tensors(&mut tensors),
                Body::Experts(experts) => experts.add_tensors(&mut tensors),
            }
            [after, joined].into_iter().flatten().for_each(|norm| norm.add_tensors(&mut tensors));
        }
        tensors
    }
}

impl<W> Branch<W> {
    fn try_map<V, E>(&self, make: &mut impl FnMut(&W) -> Result<V, E>) -> Result<Branch<V>, E> {
        let Self { before, body, after, joined } = self;
        let before = Norm::try_map_some(before.as_ref(), make)?;
        let body = match body {
            Body::Attention(attention) => Body::Attention(attention.try_map(make)?),
            Body::Dense(dense) => Body::Dense(dense.try_map(make)?),
            Body::Experts(experts) => Body::Experts(experts.try_map(make)?),
        };
        let (after, joined) = (Norm::try_map_some(after.as_ref(), make)?, Norm::try_map_some(joined.as_ref(), make)?);
        Ok(Branch { before, body, after, joined })
    }
}

impl<W> Default for Added<W> {
    /// Nothing.
    fn default() -> Self {
        Self { positions: None, types: None, norm: None }
    }
}

impl<W> Added<W> {
    /// The same with every tensor replaced.
    ///
    /// # Errors
    /// The first error of `make`.
    pub fn try_map<V, E>(&self, make: &mut impl FnMut(&W) -> Result<V, E>) -> Result<Added<V>, E> {
        let Self { positions, types, norm } = self;
        let positions = positions.as_ref().map(|Positions { table, first }| {
            let table = make(table)?;
            Ok::<_, E>(Positions { table, first: *first })
        });
        let positions = positions.transpose()?;
        let types = types.as_ref().map(&mut *make).transpose()?;
        Ok(Added { positions, types, norm: Norm::try_map_some(norm.as_ref(), make)? })
    }

    fn add_tensors<'a>(&'a self, tensors: &mut Vec<&'a W>) {
        let Self { positions, types, norm } = self;
        tensors.extend(positions.iter().map(|positions| &positions.table));
        tensors.extend(types);
        norm.iter().for_each(|norm| norm.add_tensors(tensors));
    }
}

impl<W> Head<W> {
    fn try_map<V, E>(&self, make: &mut impl FnMut(&W) -> Result<V, E>) -> Result<Head<V>, E> {
        Ok(match self {
            Self::Tied => Head::Tied,
            Self::Own(head) => Head::Own(make(head)?),
            Self::Nothing => Head::Nothing,
            Self::Classes(classes) => Head::Classes(Box::new(classes.try_map(make)?)),
        })
    }
}

impl<W> Classes<W> {
    /// The same with every tensor replaced.
    ///
    /// # Errors
    /// The first error of `make`.
    pub fn try_map<V, E>(&self, make: &mut impl FnMut(&W) -> Result<V, E>) -> Result<Classes<V>, E> {
        let Self { of_mean, dense, activation, norm, output } = self;
        let dense = dense.try_map(make)?;
        let norm = Norm::try_map_some(norm.as_ref(), make)?;
        Ok(Classes { of_mean: *of_mean, dense, activation: *activation, norm, output: output.try_map(make)? })
    }

    /// Appends its tensors, in execution order.
    pub fn add_tensors<'a>(&'a self, tensors: &mut Vec<&'a W>) {
        let Self { of_mean: _, dense, activation: _, norm, output } = self;
        dense.add_tensors(tensors);
        norm.iter().for_each(|norm| norm.add_tensors(tensors));
        output.add_tensors(tensors);
    }
}

impl<W> Rotation<W> {
    fn try_map<V, E>(&self, make: &mut impl FnMut(&W) -> Result<V, E>) -> Result<Rotation<V>, E> {
        let Self { rope, width, divisors } = self;
        let divisors = divisors.as_ref().map(make).transpose()?;
        Ok(Rotation { rope: rope.clone(), width: *width, divisors })
    }
}

impl<W> Norm<W> {
    fn try_map<V, E>(&self, make: &mut impl FnMut(&W) -> Result<V, E>) -> Result<Norm<V>, E> {
        let Self { of, weight, bias, eps } = self;
        let (weight, bias) = (make(weight)?, bias.as_ref().map(make).transpose()?);
        Ok(Norm { of: *of, weight, bias, eps: *eps })
    }

    /// The norm with its tensors replaced, where there is one.
    ///
    /// # Errors
    /// The first error of `make`.
    pub fn try_map_some<V, E>(
        norm: Option<&Self>,
        make: &mut impl FnMut(&W) -> Result<V, E>,
    ) -> Result<Option<Norm<V>>, E> {
        norm.map(|norm| norm.try_map(make)).transpose()
    }

    /// Appends its tensors.
    pub fn add_tensors<'a>(&'a self, tensors: &mut Vec<&'a W>) {
        let Self { of: _, weight, bias, eps: _ } = self;
        tensors.push(weight);
        tensors.extend(bias);
    }
}

impl<W> Linear<W> {
    fn try_map<V, E>(&self, make: &mut impl FnMut(&W) -> Result<V, E>) -> Result<Linear<V>, E> {
        let Self { weight, bias } = self;
        Ok(Linear { weight: make(weight)?, bias: bias.as_ref().map(make).transpose()? })
    }

    fn add_tensors<'a>(&'a self, tensors: &mut Vec<&'a W>) {
        let Self { weight, bias } = self;
        tensors.push(weight);
        tensors.extend(bias);
    }
}

impl<W> Attention<W> {
    /// Width of all query heads together.
    #[must_use]
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads together, and of all value heads.
    #[must_use]
    pub fn key_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    fn try_map<V, E>(&self, make: &mut impl FnMut(&W) -> Result<V, E>) -> Result<Attention<V>, E> {
        let Self {
            heads,
            kv_heads,
            head_dim,
            query,
            key,
            value,
            query_norm,
            key_norm,
            output,
            rotation,
            pairs,
            scale,
            growth,
            soft_cap,
            sees,
        } = self;
        Ok(Attention {
            heads: *heads,
            kv_heads: *kv_heads,
            head_dim: *head_dim,
            query: query.try_map(make)?,
            key: key.try_map(make)?,
            value: value.try_map(make)?,
            query_norm: Norm::try_map_some(query_norm.as_ref(), make)?,
            key_norm: Norm::try_map_some(key_norm.as_ref(), make)?,
            output: output.try_map(make)?,
            rotation: *rotation,
            pairs: *pairs,
            scale: *scale,
            growth: *growth,
            soft_cap: *soft_cap,
            sees: *sees,
        })
    }

    fn add_tensors<'a>(&'a self, tensors: &mut Vec<&'a W>) {
        let Self {
            heads: _,
            kv_heads: _,
            head_dim: _,
            query,
            key,
            value,
            query_norm,
            key_norm,
            output,
            rotation: _,
            pairs: _,
            scale: _,
            growth: _,
            soft_cap: _,
            sees: _,
        } = self;
        for linear in [query, key, value] {
            linear.add_tensors(tensors);
        }
        [query_norm, key_norm].into_iter().flatten().for_each(|norm| norm.add_tensors(tensors));
        output.add_tensors(tensors);
    }
}

impl<W> Dense<W> {
    fn try_map<V, E>(&self, make: &mut impl FnMut(&W) -> Result<V, E>) -> Result<Dense<V>, E> {
        let Self { width, activation, gate, up, down } = self;
        let gate = gate.as_ref().map(|gate| gate.try_map(make)).transpose()?;
        let (up, down) = (up.try_map(make)?, down.try_map(make)?);
        Ok(Dense { width: *width, activation: *activation, gate, up, down })
    }

    fn add_tensors<'a>(&'a self, tensors: &mut Vec<&'a W>) {
        let Self { width: _, activation: _, gate, up, down } = self;
        for linear in gate.iter().chain([up, down]) {
            linear.add_tensors(tensors);
        }
    }
}

impl<W> Experts<W> {
    fn try_map<V, E>(&self, make: &mut impl FnMut(&W) -> Result<V, E>) -> Result<Experts<V>, E> {
        let Self { chosen, normalized, router, each } = self;
        let router = make(router)?;
        let each = each.iter().map(|dense| dense.try_map(make)).collect::<Result<_, E>>()?;
        Ok(Experts { chosen: *chosen, normalized: *normalized, router, each })
    }

    fn add_tensors<'a>(&'a self, tensors: &mut Vec<&'a W>) {
        let Self { chosen: _, normalized: _, router, each } = self;
        tensors.push(router);
        each.iter().for_each(|dense| dense.add_tensors(tensors));
    }
}
