//! A decoder as data: which tensors it has, in which order a step meets them, and the few numbers that differ.
//!
//! A family is written down as a [`Decoder`] and interpreters (backends) compute it; nothing here computes anything,
//! and nothing knows a family's name or where bytes come from. A field or a variant comes with the interpreters that
//! read it. Functions that enumerate fields take them apart without `..`, so that a new field does not compile until
//! each of them has been thought of.
//!
//! The arithmetic every interpreter performs: embed and scale; for each branch of each layer norm the stream, apply the
//! body, norm the result where the branch says so, add it to the stream; then the final norm, the head and its cap.

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
    /// The distinct rotations, by which attention names its own.
    pub rotations: Vec<Rotation<W>>,
    /// The layers, first to last.
    pub layers: Vec<Layer<W>>,
    /// Before the head.
    pub norm: Norm<W>,
    /// Shape (vocab, hidden); none if the head is the embedding table.
    pub head: Option<W>,
    /// Logits `l` become `cap · tanh(l / cap)`.
    pub logit_cap: Option<f32>,
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
    /// Of the stream, before the body.
    pub before: Norm<W>,
    /// The computation.
    pub body: Body<W>,
    /// Of the result, before it is added.
    pub after: Option<Norm<W>>,
}

/// The computation of a branch.
#[derive(Debug, Clone, PartialEq)]
pub enum Body<W> {
    /// Causal attention.
    Attention(Attention<W>),
    /// A feed-forward part.
    Dense(Dense<W>),
    /// Several, of which each row goes to some.
    Experts(Experts<W>),
}

/// A root mean square norm.
#[derive(Debug, Clone, PartialEq)]
pub struct Norm<W> {
    /// Shape (width).
    pub weight: W,
    /// Added to the mean square.
    pub eps: f32,
}

/// A matrix and, where there is one, its bias.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear<W> {
    /// Shape (outputs, inputs), row-major.
    pub weight: W,
    /// Shape (outputs).
    pub bias: Option<W>,
}

/// Causal attention over the keys and values of a sequence. Queries and keys are normed per head where there are
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
}

/// The function of gates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x / (1 + e^-x).
    Silu,
    /// The Gaussian error linear unit by its approximation with tanh.
    GeluTanh,
}

/// `down(activation(gate) · up)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Dense<W> {
    /// Its inner width.
    pub width: usize,
    /// The function of gates.
    pub activation: Activation,
    /// Shape (width, hidden).
    pub gate: Linear<W>,
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
            rotations,
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
            rotations: rotations.iter().map(|rotation| rotation.try_map(&mut make)).collect::<Result<_, E>>()?,
            layers: layers.iter().map(|layer| layer.try_map(&mut make)).collect::<Result<_, E>>()?,
            norm: norm.try_map(&mut make)?,
            head: head.as_ref().map(&mut make).transpose()?,
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
            rotations: _,
            layers,
            norm,
            head,
            logit_cap: _,
        } = self;
        let layers = layers.iter().flat_map(Layer::tensors);
        self.first_tensors().into_iter().chain(layers).chain([&norm.weight]).chain(head).collect()
    }

    /// The tensors of [`Part::Embeddings`](crate::Part::Embeddings): the embedding table, and the divisors of rotations.
    #[must_use]
    pub fn first_tensors(&self) -> Vec<&W> {
        let divisors = self.rotations.iter().filter_map(|rotation| rotation.divisors.as_ref());
        [&self.embeddings].into_iter().chain(divisors).collect()
    }

    /// The matrix that makes logits: (vocab, hidden).
    #[must_use]
    pub fn head(&self) -> &W {
        self.head.as_ref().unwrap_or(&self.embeddings)
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
            rotations,
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
            ("rms_norm_eps", norm.eps.to_bits() == theirs.norm.eps.to_bits()),
            ("tie_word_embeddings", *head == theirs.head),
            ("rope_parameters", *rotations == theirs.rotations),
            ("the factor of embeddings", *embedding_scale == theirs.embedding_scale),
            ("final_logit_softcapping", *logit_cap == theirs.logit_cap),
            ("the shape of its layers", *layers == theirs.layers),
            ("the shape of its embeddings", (embeddings, norm) == (&theirs.embeddings, &theirs.norm)),
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
        for Branch { before, body, after } in branches {
            tensors.push(&before.weight);
            match body {
                Body::Attention(attention) => attention.add_tensors(&mut tensors),
                Body::Dense(dense) => dense.add_tensors(&mut tensors),
                Body::Experts(experts) => experts.add_tensors(&mut tensors),
            }
            tensors.extend(after.as_ref().map(|norm| &norm.weight));
        }
        tensors
    }
}

impl<W> Branch<W> {
    fn try_map<V, E>(&self, make: &mut impl FnMut(&W) -> Result<V, E>) -> Result<Branch<V>, E> {
        let Self { before, body, after } = self;
        let before = before.try_map(make)?;
        let body = match body {
            Body::Attention(attention) => Body::Attention(attention.try_map(make)?),
            Body::Dense(dense) => Body::Dense(dense.try_map(make)?),
            Body::Experts(experts) => Body::Experts(experts.try_map(make)?),
        };
        let after = after.as_ref().map(|norm| norm.try_map(make)).transpose()?;
        Ok(Branch { before, body, after })
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
        let Self { weight, eps } = self;
        Ok(Norm { weight: make(weight)?, eps: *eps })
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
            query_norm: query_norm.as_ref().map(|norm| norm.try_map(make)).transpose()?,
            key_norm: key_norm.as_ref().map(|norm| norm.try_map(make)).transpose()?,
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
        tensors.extend([query_norm, key_norm].into_iter().flatten().map(|norm| &norm.weight));
        output.add_tensors(tensors);
    }
}

impl<W> Dense<W> {
    fn try_map<V, E>(&self, make: &mut impl FnMut(&W) -> Result<V, E>) -> Result<Dense<V>, E> {
        let Self { width, activation, gate, up, down } = self;
        let (gate, up, down) = (gate.try_map(make)?, up.try_map(make)?, down.try_map(make)?);
        Ok(Dense { width: *width, activation: *activation, gate, up, down })
    }

    fn add_tensors<'a>(&'a self, tensors: &mut Vec<&'a W>) {
        let Self { width: _, activation: _, gate, up, down } = self;
        for linear in [gate, up, down] {
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
