//! The canonical bytes of a described decoder: equal for equal arithmetic over equal files, in every release.
//!
//! Digests are made of them, so a byte that moves renames every published KV block. Each struct is taken apart without
//! `..`: a new field does not compile until it has a place here. A fact that the decoders before it did not have follows
//! behind all others, with its place, and only where it is there ([`Bytes::beside`]); anything else that changes the
//! bytes needs a new [`VERSION`].

use crate::{
    Activation, Added, Attention, Body, Branch, Classes, Decoder, Dense, Distances, Experts, Growth, Head, Layer,
    Linear, Norm, Normed, Pairs, Positions, Rope, RopeScaling, Rotation, Rows, Sees, Slot, Yarn,
};

/// The first byte.
const VERSION: u8 = 1;

impl Decoder<Slot> {
    /// Its canonical bytes. Numbers are little-endian in eight bytes, floats by their bits, lists and texts behind their
    /// length, variants behind their number.
    #[must_use]
    pub fn encoded(&self) -> Vec<u8> {
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
        let mut out = Bytes::default();
        out.push(VERSION);
        for size in [*vocab_size, *hidden_size, *max_position] {
            size.put(&mut out);
        }
        embeddings.put(&mut out);
        if *embedding_scale != 1.0 {
            out.beside(Fact::EmbeddingScale, embedding_scale);
        }
        added.put(&mut out);
        rotations.put(&mut out);
        if let Some(distances) = distances {
            out.beside(Fact::Distances, distances);
        }
        layers.put(&mut out);
        put_norm(norm.as_ref(), Fact::NoFinalNorm, &mut out);
        head.put(&mut out);
        if let Some(cap) = logit_cap {
            out.beside(Fact::LogitCap, cap);
        }
        out.of_all.append(&mut out.of_some);
        out.of_all
    }
}

/// Facts that only some decoders have.
#[derive(Clone, Copy)]
enum Fact {
    EmbeddingScale = 1,
    LogitCap = 2,
    Divisors = 3,
    LessOne = 4,
    After = 5,
    SoftCap = 6,
    Activation = 7,
    GrowthBy = 8,
    GrowthEvery = 9,
    NoFinalNorm = 10,
    Positions = 11,
    Types = 12,
    EmbeddingNorm = 13,
    NormOfDifferences = 14,
    NormBias = 15,
    NotBefore = 16,
    Joined = 17,
    Ungated = 18,
    Distances = 19,
}

/// Canonical bytes in the making.
#[derive(Default)]
struct Bytes {
    /// The facts that every decoder has.
    of_all: Vec<u8>,
    /// Those that only some have, each behind its number and its place among the others.
    of_some: Vec<u8>,
}

impl Bytes {
    fn push(&mut self, byte: u8) {
        self.of_all.push(byte);
    }

    fn extend(&mut self, bytes: impl IntoIterator<Item = u8>) {
        self.of_all.extend(bytes);
    }

    /// Appends a fact behind those of all decoders.
    fn beside(&mut self, fact: Fact, value: &impl Put) {
        let mut own = Self::default();
        own.push(fact as u8);
        self.of_all.len().put(&mut own);
        value.put(&mut own);
        self.of_some.append(&mut own.of_all);
        self.of_some.append(&mut own.of_some);
    }
}

/// Values with canonical bytes.
trait Put {
    /// Appends them.
    fn put(&self, out: &mut Bytes);
}

impl Put for usize {
    fn put(&self, out: &mut Bytes) {
        out.extend((*self as u64).to_le_bytes());
    }
}

impl Put for f32 {
    fn put(&self, out: &mut Bytes) {
        f64::from(*self).put(out);
    }
}

impl Put for f64 {
    fn put(&self, out: &mut Bytes) {
        out.extend(self.to_bits().to_le_bytes());
    }
}

impl Put for bool {
    fn put(&self, out: &mut Bytes) {
        out.push(u8::from(*self));
    }
}

impl Put for str {
    fn put(&self, out: &mut Bytes) {
        self.len().put(out);
        out.extend(self.bytes());
    }
}

impl<T: Put> Put for [T] {
    fn put(&self, out: &mut Bytes) {
        self.len().put(out);
        self.iter().for_each(|one| one.put(out));
    }
}

impl<T: Put> Put for Option<T> {
    fn put(&self, out: &mut Bytes) {
        self.is_some().put(out);
        if let Some(one) = self {
            one.put(out);
        }
    }
}

/// Appends a norm that nearly every decoder has; a fact where there is none.
fn put_norm(norm: Option<&Norm<Slot>>, none: Fact, out: &mut Bytes) {
    match norm {
        Some(norm) => norm.put(out),
        None => out.beside(none, &true),
    }
}

impl Put for Added<Slot> {
    fn put(&self, out: &mut Bytes) {
        let Self { positions, types, norm } = self;
        if let Some(Positions { table, first }) = positions {
            out.beside(Fact::Positions, table);
            out.beside(Fact::Positions, first);
        }
        if let Some(types) = types {
            out.beside(Fact::Types, types);
        }
        if let Some(norm) = norm {
            out.beside(Fact::EmbeddingNorm, norm);
        }
    }
}

impl Put for Distances<Slot> {
    fn put(&self, out: &mut Bytes) {
        let Self { table, norm, span, farthest } = self;
        table.put(out);
        norm.put(out);
        span.put(out);
        farthest.put(out);
    }
}

impl Put for Head<Slot> {
    fn put(&self, out: &mut Bytes) {
        match self {
            Self::Tied => out.push(0),
            Self::Own(head) => {
                out.push(1);
                head.put(out);
            }
            Self::Nothing => out.push(2),
            Self::Classes(classes) => {
                out.push(3);
                classes.put(out);
            }
        }
    }
}

impl Put for Classes<Slot> {
    fn put(&self, out: &mut Bytes) {
        let Self { of_mean, dense, activation, norm, output } = self;
        of_mean.put(out);
        dense.put(out);
        activation.put(out);
        norm.put(out);
        output.put(out);
    }
}

impl Put for Activation {
    fn put(&self, out: &mut Bytes) {
        let number: usize = match self {
            Self::Silu => 0,
            Self::GeluTanh => 1,
            Self::Gelu => 2,
            Self::Relu => 3,
            Self::Tanh => 4,
        };
        number.put(out);
    }
}

impl Put for Slot {
    fn put(&self, out: &mut Bytes) {
        let Self { name, shape, rows, less_one } = self;
        name.put(out);
        shape.put(out);
        rows.put(out);
        if *less_one {
            out.beside(Fact::LessOne, less_one);
        }
    }
}

impl Put for Rows {
    fn put(&self, out: &mut Bytes) {
        let Self { first, of } = self;
        first.put(out);
        of.put(out);
    }
}

impl Put for Rotation<Slot> {
    fn put(&self, out: &mut Bytes) {
        let Self { rope, width, divisors } = self;
        rope.put(out);
        width.put(out);
        if let Some(divisors) = divisors {
            out.beside(Fact::Divisors, divisors);
        }
    }
}

impl Put for Rope {
    fn put(&self, out: &mut Bytes) {
        let Self { theta, scaling } = self;
        theta.put(out);
        match scaling {
            RopeScaling::Default => out.push(0),
            RopeScaling::Linear { factor } => {
                out.push(1);
                factor.put(out);
            }
            RopeScaling::Dynamic { factor } => {
                out.push(2);
                factor.put(out);
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                out.push(3);
                [*factor, *low_freq_factor, *high_freq_factor].iter().for_each(|number| number.put(out));
                original_max_position_embeddings.put(out);
            }
            RopeScaling::Yarn(yarn) => {
                out.push(4);
                yarn.put(out);
            }
            RopeScaling::Divided { divisors, attention_factor } => {
                out.push(5);
                divisors.put(out);
                attention_factor.put(out);
            }
        }
    }
}

impl Put for Yarn {
    fn put(&self, out: &mut Bytes) {
        let Self { factor, original_max_position_embeddings, attention_factor, beta_fast, beta_slow, truncate } = self;
        factor.put(out);
        original_max_position_embeddings.put(out);
        [*attention_factor, *beta_fast, *beta_slow].iter().for_each(|number| number.put(out));
        truncate.put(out);
    }
}

impl Put for Layer<Slot> {
    fn put(&self, out: &mut Bytes) {
        let Self { branches } = self;
        branches.put(out);
    }
}

impl Put for Branch<Slot> {
    fn put(&self, out: &mut Bytes) {
        let Self { before, body, after, joined } = self;
        put_norm(before.as_ref(), Fact::NotBefore, out);
        match body {
            Body::Attention(attention) => {
                out.push(0);
                attention.put(out);
            }
            Body::Dense(dense) => {
                out.push(1);
                dense.put(out);
            }
            Body::Experts(experts) => {
                out.push(2);
                experts.put(out);
            }
        }
        if let Some(norm) = after {
            out.beside(Fact::After, norm);
        }
        if let Some(norm) = joined {
            out.beside(Fact::Joined, norm);
        }
    }
}

impl Put for Experts<Slot> {
    fn put(&self, out: &mut Bytes) {
        let Self { chosen, normalized, router, each } = self;
        chosen.put(out);
        normalized.put(out);
        router.put(out);
        each.put(out);
    }
}

impl Put for Norm<Slot> {
    fn put(&self, out: &mut Bytes) {
        let Self { of, weight, bias, eps } = self;
        weight.put(out);
        eps.put(out);
        match of {
            Normed::Row => {}
            Normed::Differences => out.beside(Fact::NormOfDifferences, &true),
        }
        if let Some(bias) = bias {
            out.beside(Fact::NormBias, bias);
        }
    }
}

impl Put for Linear<Slot> {
    fn put(&self, out: &mut Bytes) {
        let Self { weight, bias } = self;
        weight.put(out);
        bias.put(out);
    }
}

impl Put for Attention<Slot> {
    fn put(&self, out: &mut Bytes) {
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
        [*heads, *kv_heads, *head_dim].iter().for_each(|size| size.put(out));
        [query, key, value].iter().for_each(|linear| linear.put(out));
        [query_norm, key_norm].iter().for_each(|norm| norm.put(out));
        output.put(out);
        // No list is as long as that.
        rotation.unwrap_or(usize::MAX).put(out);
        out.push(match pairs {
            Pairs::Halves => 0,
            Pairs::Neighbours => 1,
        });
        scale.put(out);
        if let Some(Growth { by, every }) = growth {
            out.beside(Fact::GrowthBy, by);
            out.beside(Fact::GrowthEvery, every);
        }
        if let Some(cap) = soft_cap {
            out.beside(Fact::SoftCap, cap);
        }
        match sees {
            Sees::All => out.push(0),
            Sees::Window(positions) => {
                out.push(1);
                positions.put(out);
            }
            Sees::BothWays => out.push(2),
            Sees::Around(positions) => {
                out.push(3);
                positions.put(out);
            }
        }
    }
}

impl Put for Dense<Slot> {
    fn put(&self, out: &mut Bytes) {
        let Self { width, activation, gate, up, down } = self;
        width.put(out);
        if *activation != Activation::Silu {
            out.beside(Fact::Activation, activation);
        }
        if gate.is_none() {
            out.beside(Fact::Ungated, &true);
        }
        gate.iter().chain([up, down]).for_each(|linear| linear.put(out));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(name: &str) -> Slot {
        Slot::new(name, &[2, 2])
    }

    fn linear(name: &str) -> Linear<Slot> {
        Linear { weight: slot(name), bias: None }
    }

    fn norm(name: &str) -> Norm<Slot> {
        Norm { of: Normed::Row, weight: slot(name), bias: None, eps: 1e-6 }
    }

    fn decoder() -> Decoder<Slot> {
        let attention = Attention {
            heads: 1,
            kv_heads: 1,
            head_dim: 2,
            query: linear("q"),
            key: linear("k"),
            value: linear("v"),
            query_norm: None,
            key_norm: None,
            output: linear("o"),
            rotation: Some(0),
            pairs: Pairs::Halves,
            scale: 0.5,
            growth: None,
            soft_cap: None,
            sees: Sees::All,
        };
        let (activation, gate) = (Activation::Silu, Some(linear("gate")));
        let dense = Dense { width: 2, activation, gate, up: linear("up"), down: linear("down") };
        let branches = vec![
            Branch { before: Some(norm("before")), body: Body::Attention(attention), after: None, joined: None },
            Branch { before: Some(norm("between")), body: Body::Dense(dense), after: None, joined: None },
        ];
        let rope = Rope { theta: 1e4, scaling: RopeScaling::Default };
        Decoder {
            vocab_size: 2,
            hidden_size: 2,
            max_position: 8,
            embeddings: slot("embeddings"),
            embedding_scale: 1.0,
            added: Added::default(),
            rotations: vec![Rotation { rope, width: 2, divisors: None }],
            distances: None,
            layers: vec![Layer { branches }],
            norm: Some(norm("norm")),
            head: Head::Tied,
            logit_cap: None,
        }
    }

    fn attention(decoder: &mut Decoder<Slot>) -> &mut Attention<Slot> {
        match &mut decoder.layers[0].branches[0].body {
            Body::Attention(attention) => attention,
            _ => panic!("the first branch is attention"),
        }
    }

    fn dense(decoder: &mut Decoder<Slot>) -> &mut Dense<Slot> {
        match &mut decoder.layers[0].branches[1].body {
            Body::Dense(dense) => dense,
            _ => panic!("the second branch is dense"),
        }
    }

    fn final_norm(decoder: &mut Decoder<Slot>) -> &mut Norm<Slot> {
        decoder.norm.as_mut().expect("a final norm")
    }

    fn distances(farthest: Option<usize>) -> Distances<Slot> {
        Distances { table: slot("distances"), norm: None, span: 4, farthest }
    }

    fn classes() -> Classes<Slot> {
        let (dense, output) = (linear("dense"), linear("output"));
        Classes { of_mean: false, dense, activation: Activation::Tanh, norm: None, output }
    }

    /// Makes several of the second branch.
    fn route(decoder: &mut Decoder<Slot>, chosen: usize, normalized: bool, count: usize) {
        let each = vec![dense(decoder).clone(); count];
        let experts = Experts { chosen, normalized, router: slot("router"), each };
        decoder.layers[0].branches[1].body = Body::Experts(experts);
    }

    /// A change of a decoder.
    type Change = fn(&mut Decoder<Slot>);

    #[test]
    fn every_fact_has_bytes_of_its_own() {
        let scale = |decoder: &mut Decoder<Slot>, scaling| decoder.rotations[0].rope.scaling = scaling;
        let changes: [Change; 62] = [
            |_| {},
            |it| it.vocab_size = 3,
            |it| it.hidden_size = 3,
            |it| it.max_position = 9,
            |it| it.embeddings.shape = vec![4],
            |it| it.embeddings.name = "other".into(),
            |it| it.embeddings.rows = Some(Rows { first: 0, of: 4 }),
            |it| it.embeddings.rows = Some(Rows { first: 2, of: 4 }),
            |it| it.rotations[0].width = 4,
            |it| it.rotations[0].rope.theta = 1e5,
            |it| final_norm(it).eps = 1e-5,
            |it| final_norm(it).of = Normed::Differences,
            |it| final_norm(it).bias = Some(slot("bias")),
            |it| it.norm = None,
            |it| it.head = Head::Own(slot("head")),
            |it| it.head = Head::Nothing,
            |it| it.head = Head::Classes(Box::new(classes())),
            |it| it.head = Head::Classes(Box::new(Classes { of_mean: true, ..classes() })),
            |it| it.head = Head::Classes(Box::new(Classes { norm: Some(norm("norm")), ..classes() })),
            |it| it.head = Head::Classes(Box::new(Classes { activation: Activation::Gelu, ..classes() })),
            |it| it.added.positions = Some(Positions { table: slot("positions"), first: 0 }),
            |it| it.added.positions = Some(Positions { table: slot("positions"), first: 2 }),
            |it| it.added.types = Some(slot("types")),
            |it| it.distances = Some(distances(None)),
            |it| it.distances = Some(distances(Some(8))),
            |it| it.distances = Some(Distances { norm: Some(norm("norm")), ..distances(None) }),
            |it| it.added.norm = Some(norm("embeddings")),
            |it| it.layers[0].branches[0].before = None,
            |it| it.layers[0].branches[0].joined = Some(norm("joined")),
            |it| attention(it).sees = Sees::BothWays,
            |it| attention(it).sees = Sees::Around(4),
            |it| dense(it).gate = None,
            |it| dense(it).activation = Activation::Gelu,
            |it| dense(it).activation = Activation::Relu,
            |it| dense(it).activation = Activation::Tanh,
            |it| drop(it.layers[0].branches.pop()),
            |it| it.layers.clear(),
            |it| attention(it).pairs = Pairs::Neighbours,
            |it| attention(it).sees = Sees::Window(4),
            |it| attention(it).scale = 0.25,
            |it| attention(it).query.bias = Some(slot("bias")),
            |it| attention(it).query_norm = Some(norm("norm of a head")),
            |it| attention(it).key_norm = Some(norm("norm of a head")),
            |it| attention(it).rotation = None,
            |it| attention(it).growth = Some(Growth { by: 0.1, every: 16 }),
            |it| attention(it).growth = Some(Growth { by: 0.2, every: 16 }),
            |it| attention(it).growth = Some(Growth { by: 0.1, every: 32 }),
            |it| attention(it).soft_cap = Some(50.0),
            |it| attention(it).soft_cap = Some(30.0),
            |it| it.logit_cap = Some(50.0),
            |it| it.embedding_scale = 50.0,
            |it| it.rotations[0].divisors = Some(slot("divisors")),
            |it| it.layers[0].branches[0].after = Some(norm("after")),
            |it| it.layers[0].branches[1].after = Some(norm("after")),
            |it| final_norm(it).weight.less_one = true,
            |it| it.layers[0].branches[0].before.iter_mut().for_each(|norm| norm.weight.less_one = true),
            |it| dense(it).activation = Activation::GeluTanh,
            |it| dense(it).width = 3,
            |it| route(it, 1, false, 1),
            |it| route(it, 2, false, 1),
            |it| route(it, 1, true, 1),
            |it| route(it, 1, false, 2),
        ];
        let scalings = [
            RopeScaling::Linear { factor: 2.0 },
            RopeScaling::Dynamic { factor: 2.0 },
            RopeScaling::Dynamic { factor: 4.0 },
        ];
        let changed = |change: &dyn Fn(&mut Decoder<Slot>)| {
            let mut decoder = decoder();
            change(&mut decoder);
            decoder.encoded()
        };
        let mut all: Vec<Vec<u8>> = changes.iter().map(|change| changed(change)).collect();
        all.extend(scalings.map(|scaling| changed(&|it| scale(it, scaling.clone()))));
        assert_eq!(all[0], decoder().encoded());
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count, "two decoders share their bytes");
    }

    /// Every release has made so many bytes of this decoder.
    #[test]
    fn facts_that_are_not_there_leave_no_byte() {
        let bytes = decoder().encoded();
        assert_eq!(bytes.len(), 556);
    }

    /// No text runs into its neighbour.
    #[test]
    fn names_are_kept_apart() {
        let named = |query: &str, key: &str| {
            let mut decoder = decoder();
            (attention(&mut decoder).query, attention(&mut decoder).key) = (linear(query), linear(key));
            decoder.encoded()
        };
        assert_ne!(named("ab", "c"), named("a", "bc"));
    }
}
