//! The canonical bytes of a described decoder: equal for equal arithmetic over equal files, in every release.
//!
//! Digests are made of them, so a byte that moves renames every published KV block. Each struct is taken apart without
//! `..`: a new field does not compile until it has a place here. A field that may be absent, and is, may be left
//! out of the bytes of all decoders that were there before it; anything else that changes them needs a new [`VERSION`].

use crate::{
    Attention, Body, Branch, Decoder, Dense, Layer, Linear, Norm, Pairs, Rope, RopeScaling, Rotation, Rows, Sees, Slot,
    Yarn,
};

/// The first byte.
const VERSION: u8 = 1;

impl Decoder<Slot> {
    /// Its canonical bytes. Numbers are little-endian in eight bytes, floats by their bits, lists and texts behind their
    /// length, variants behind their number.
    #[must_use]
    pub fn encoded(&self) -> Vec<u8> {
        let Self { vocab_size, hidden_size, max_position, embeddings, rotations, layers, norm, head } = self;
        let mut out = vec![VERSION];
        for size in [*vocab_size, *hidden_size, *max_position] {
            size.put(&mut out);
        }
        embeddings.put(&mut out);
        rotations.put(&mut out);
        layers.put(&mut out);
        norm.put(&mut out);
        head.put(&mut out);
        out
    }
}

/// Values with canonical bytes.
trait Put {
    /// Appends them.
    fn put(&self, out: &mut Vec<u8>);
}

impl Put for usize {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend((*self as u64).to_le_bytes());
    }
}

impl Put for f32 {
    fn put(&self, out: &mut Vec<u8>) {
        f64::from(*self).put(out);
    }
}

impl Put for f64 {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend(self.to_bits().to_le_bytes());
    }
}

impl Put for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

impl Put for str {
    fn put(&self, out: &mut Vec<u8>) {
        self.len().put(out);
        out.extend(self.as_bytes());
    }
}

impl<T: Put> Put for [T] {
    fn put(&self, out: &mut Vec<u8>) {
        self.len().put(out);
        self.iter().for_each(|one| one.put(out));
    }
}

impl<T: Put> Put for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(one) = self {
            one.put(out);
        }
    }
}

impl Put for Slot {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { name, shape, rows } = self;
        name.put(out);
        shape.put(out);
        rows.put(out);
    }
}

impl Put for Rows {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { first, of } = self;
        first.put(out);
        of.put(out);
    }
}

impl Put for Rotation {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { rope, width } = self;
        rope.put(out);
        width.put(out);
    }
}

impl Put for Rope {
    fn put(&self, out: &mut Vec<u8>) {
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
        }
    }
}

impl Put for Yarn {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { factor, original_max_position_embeddings, attention_factor, beta_fast, beta_slow, truncate } = self;
        factor.put(out);
        original_max_position_embeddings.put(out);
        [*attention_factor, *beta_fast, *beta_slow].iter().for_each(|number| number.put(out));
        truncate.put(out);
    }
}

impl Put for Layer<Slot> {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { branches } = self;
        branches.put(out);
    }
}

impl Put for Branch<Slot> {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { before, body } = self;
        before.put(out);
        match body {
            Body::Attention(attention) => {
                out.push(0);
                attention.put(out);
            }
            Body::Dense(dense) => {
                out.push(1);
                dense.put(out);
            }
        }
    }
}

impl Put for Norm<Slot> {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { weight, eps } = self;
        weight.put(out);
        eps.put(out);
    }
}

impl Put for Linear<Slot> {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { weight, bias } = self;
        weight.put(out);
        bias.put(out);
    }
}

impl Put for Attention<Slot> {
    fn put(&self, out: &mut Vec<u8>) {
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
            sees,
        } = self;
        [*heads, *kv_heads, *head_dim].iter().for_each(|size| size.put(out));
        [query, key, value].iter().for_each(|linear| linear.put(out));
        [query_norm, key_norm].iter().for_each(|norm| norm.put(out));
        output.put(out);
        rotation.put(out);
        out.push(match pairs {
            Pairs::Halves => 0,
            Pairs::Neighbours => 1,
        });
        scale.put(out);
        match sees {
            Sees::All => out.push(0),
            Sees::Window(positions) => {
                out.push(1);
                positions.put(out);
            }
        }
    }
}

impl Put for Dense<Slot> {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { width, gate, up, down } = self;
        width.put(out);
        [gate, up, down].iter().for_each(|linear| linear.put(out));
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
        Norm { weight: slot(name), eps: 1e-6 }
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
            rotation: 0,
            pairs: Pairs::Halves,
            scale: 0.5,
            sees: Sees::All,
        };
        let dense = Dense { width: 2, gate: linear("gate"), up: linear("up"), down: linear("down") };
        let branches = vec![
            Branch { before: norm("before"), body: Body::Attention(attention) },
            Branch { before: norm("between"), body: Body::Dense(dense) },
        ];
        Decoder {
            vocab_size: 2,
            hidden_size: 2,
            max_position: 8,
            embeddings: slot("embeddings"),
            rotations: vec![Rotation { rope: Rope { theta: 1e4, scaling: RopeScaling::Default }, width: 2 }],
            layers: vec![Layer { branches }],
            norm: norm("norm"),
            head: None,
        }
    }

    fn attention(decoder: &mut Decoder<Slot>) -> &mut Attention<Slot> {
        match &mut decoder.layers[0].branches[0].body {
            Body::Attention(attention) => attention,
            Body::Dense(_) => panic!("the first branch is attention"),
        }
    }

    /// A change of a decoder.
    type Change = fn(&mut Decoder<Slot>);

    #[test]
    fn every_fact_has_bytes_of_its_own() {
        let scale = |decoder: &mut Decoder<Slot>, scaling| decoder.rotations[0].rope.scaling = scaling;
        let changes: [Change; 20] = [
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
            |it| it.norm.eps = 1e-5,
            |it| it.head = Some(slot("head")),
            |it| drop(it.layers[0].branches.pop()),
            |it| it.layers.clear(),
            |it| attention(it).pairs = Pairs::Neighbours,
            |it| attention(it).sees = Sees::Window(4),
            |it| attention(it).scale = 0.25,
            |it| attention(it).query.bias = Some(slot("bias")),
            |it| attention(it).query_norm = Some(norm("norm of a head")),
            |it| attention(it).key_norm = Some(norm("norm of a head")),
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
