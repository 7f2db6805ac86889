//! Routed feed-forward parts: every expert computes the rows that go to it, and only the weights of experts with rows are
//! read.
//!
//! A row's results are added by the number of their expert, so that its sum does not depend on its company.

use super::arena::{Arena, Route};
use super::operand::{self, Operand, matrix};
use super::{CpuBackend, Norms, inside};
use crate::kernels::linear::{Inputs, Projection, Then, project};
use crate::kernels::norm::{add_normed, norm};
use tensor::{Dense, Experts};

impl CpuBackend {
    /// A branch of experts: reads the stream and adds to it.
    pub(super) fn experts(&mut self, norms: Norms<'_>, body: &Experts<Operand>) {
        let hidden = self.limits.hidden_size;
        let (pool, on, arena) = (&mut self.pool, self.instructions, &mut self.arena);
        let rows = arena.rows.len();
        let normed = &mut arena.normed[..rows * hidden];
        match norms.before {
            Some(before) => norm(pool, on, operand::row_norm(before), &arena.stream[..rows * hidden], normed),
            None => normed.copy_from_slice(&arena.stream[..rows * hidden]),
        }
        let scores = &mut arena.scores[..rows * body.each.len()];
        let router = Projection { matrix: matrix(&body.router), bias: None, out: scores, then: Then::Set };
        project(pool, on, &mut Inputs { x: normed, rows, room: arena.rounded.as_mut_slice() }, &mut [router]);
        route(arena, rows, body);
        arena.sum[..rows * hidden].fill(0.0);
        for group in arena.routes.chunk_by(|one, other| one.expert == other.expert) {
            let Dense { width, activation, gate, up, down } = &body.each[group[0].expert];
            let x = &mut arena.gathered[..group.len() * hidden];
            for (route, x) in group.iter().zip(x.chunks_exact_mut(hidden)) {
                x.copy_from_slice(&arena.normed[route.row * hidden..][..hidden]);
            }
            let (inner, rows) = (&mut arena.inner[..group.len() * width], group.len());
            let mut inputs = Inputs { x, rows, room: arena.rounded.as_mut_slice() };
            inside(pool, on, &mut inputs, (gate.as_ref(), up), *activation, inner);
            let results = &mut arena.results[..rows * hidden];
            let mut inputs = Inputs { x: inner, rows, room: arena.rounded.as_mut_slice() };
            project(pool, on, &mut inputs, &mut [operand::projection(down, results, Then::Set)]);
            for (route, result) in group.iter().zip(results.chunks_exact(hidden)) {
                let sum = &mut arena.sum[route.row * hidden..][..hidden];
                sum.iter_mut().zip(result).for_each(|(sum, result)| *sum += result * route.share);
            }
        }
        let (sum, stream) = (&arena.sum[..rows * hidden], &mut arena.stream[..rows * hidden]);
        match norms.after {
            None => stream.iter_mut().zip(sum).for_each(|(stream, sum)| *stream += sum),
            Some(after) => add_normed(pool, on, operand::row_norm(after), sum, stream),
        }
        norms.finish(pool, on, stream);
    }
}

/// Notes every row's experts, by expert and row.
fn route(arena: &mut Arena, rows: usize, body: &Experts<Operand>) {
    let Arena { scores, routes, routing, .. } = arena;
    routes.clear();
    let count = body.each.len();
    for (row, scores) in scores[..rows * count].chunks_exact(count).enumerate() {
        routing.shares(scores, body.chosen, body.normalized, |expert, share| routes.push(Route { expert, row, share }));
    }
    routes.sort_unstable_by_key(|route| (route.expert, route.row));
}
