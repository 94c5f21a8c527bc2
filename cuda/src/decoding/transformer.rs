//! Launches of a Transformer's steps on rows of f32, by plain kernels or by tiles.

use super::{THREADS, Tiled, tiled};
use crate::{
    plan::{Arg, BufferId, Plan},
    variant::Unsupported,
};

/// Where the plain kernels are.
pub(super) const MODULE: &str = "decoding_mtp_naive";

/// How products are done, and of how many rows.
#[derive(Clone, Copy)]
pub(super) struct Steps {
    pub(super) rows: usize,
    /// By tiles, which take depths that are multiples of 4.
    pub(super) tiles: bool,
}

/// RMSNorm of rows into columns of others.
pub(super) struct Norm {
    pub(super) x: BufferId,
    /// Rows are not x's own but those of tokens so far ahead of each place: tokens, length of a sequence, how far.
    pub(super) of_tokens: Option<(BufferId, usize, usize)>,
    pub(super) gain: Arg,
    pub(super) to: Arg,
    /// Values between rows of `to`.
    pub(super) stride: usize,
    pub(super) hidden: usize,
}

/// Weights and scratch of x += down · (SiLU(g) ⊙ u), [g; u] = up · RMSNorm(x).
pub(super) struct Mlp {
    pub(super) gain: Arg,
    pub(super) up: Arg,
    pub(super) down: Arg,
    /// The normed rows, g beside u, and what is made of them.
    pub(super) scratch: [BufferId; 3],
    /// Values of a state and of the layer between.
    pub(super) sizes: [usize; 2],
}

impl Steps {
    pub(super) fn norm(self, plan: &mut Plan, norm: Norm) {
        let (tokens, seq_len, ahead) = match norm.of_tokens {
            Some((tokens, seq_len, ahead)) => (Some(tokens), seq_len, ahead),
            None => (None, 1, 0),
        };
        let mut args = vec![norm.x.into(), tokens.into(), norm.gain, norm.to, norm.stride.into()];
        args.extend([seq_len as i32, ahead as i32].map(Arg::from));
        args.push(norm.hidden.into());
        plan.launch(MODULE, "rms_norm", [self.rows, 1, 1], [128, 1, 1], 0, &args);
    }

    /// c = a wᵀ, plus `add`, of [columns, depth].
    pub(super) fn product(
        self,
        plan: &mut Plan,
        a: BufferId,
        w: Arg,
        add: Option<BufferId>,
        c: Arg,
        [columns, depth]: [usize; 2],
    ) -> Result<(), Unsupported> {
        let rows = self.rows;
        if self.tiles {
            let a = a.into();
            let t = Tiled { a, w, c, batches: 1, rows, columns, depth, a_shared: false };
            return match add {
                Some(add) => tiled::add(plan, t, add),
                None => tiled::store(plan, t),
            };
        }
        let mut args = vec![a.into(), w, add.into(), c];
        args.extend([columns, depth].map(Arg::from));
        let grid = [rows, columns.div_ceil(THREADS), 1];
        plan.launch(MODULE, "product", grid, [THREADS, 1, 1], 0, &args);
        Ok(())
    }

    /// Adds the MLP's output to the states in `x`.
    pub(super) fn mlp(self, plan: &mut Plan, mlp: Mlp, x: BufferId) -> Result<(), Unsupported> {
        let ([normed, both, gated], [d, ffn]) = (mlp.scratch, mlp.sizes);
        let (gain, to) = (mlp.gain, normed.into());
        self.norm(plan, Norm { x, of_tokens: None, gain, to, stride: d, hidden: d });
        self.product(plan, normed, mlp.up, None, both.into(), [2 * ffn, d])?;
        let args = [both.into(), gated.into(), ffn.into()];
        let grid = [self.rows, ffn.div_ceil(THREADS), 1];
        plan.launch(MODULE, "gate", grid, [THREADS, 1, 1], 0, &args);
        self.product(plan, gated, mlp.down, Some(x), x.into(), [d, ffn])
    }
}
