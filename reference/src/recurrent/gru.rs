//! The gated recurrent unit, in both conventions.

use serde::{Deserialize, Serialize};

use super::{
    Backward, Cell, CellParams, Forward, Layer, Lengths,
    approx::Approx,
    sequence::{Back, Step, Weights},
};
use crate::tensor::DType;

/// Where the reset gate acts. The two are different functions; weights of one do not suit the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reset {
    /// n = tanh(W_in·x + b_in + W_hn·(r·h) + b_hn): on the state, before the product (Cho et al. 2014).
    /// The product has to wait for the gate.
    Before,
    /// n = tanh(W_in·x + b_in + r·(W_hn·h + b_hn)): on the product, after it (cuDNN, PyTorch).
    After,
}

/// Which problem.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Sequences.
    pub batch: usize,
    /// Steps of the longest sequence there may be.
    pub seq_len: usize,
    /// Size of x at one step.
    pub input: usize,
    /// Size of the state.
    pub hidden: usize,
    /// Where the reset gate acts.
    pub reset: Reset,
    /// Element type of all real inputs and outputs.
    pub dtype: DType,
    /// Whether a second layer runs from the end to the start.
    #[serde(default)]
    pub bidirectional: bool,
    /// How long the sequences are.
    #[serde(default)]
    pub lengths: Lengths,
}

impl CellParams for Params {
    const FORWARD: [&'static str; 2] =
        ["recurrent.gru", "gated recurrent unit over a sequence, reset before or after"];
    const BACKWARD: [&'static str; 2] =
        ["recurrent.gru_backward", "gradients of the GRU through time"];

    fn layer(&self) -> Layer {
        Layer {
            cell: Cell::Gru(self.reset),
            batch: self.batch,
            seq_len: self.seq_len,
            input: self.input,
            hidden: self.hidden,
            directions: 1 + usize::from(self.bidirectional),
            ragged: self.lengths == Lengths::Ragged,
            dtype: self.dtype,
        }
    }
}

/// `recurrent.gru`: the gated recurrent unit.
///
/// r = σ(W_ir·x + b_ir + W_hr·h + b_hr), z = σ(W_iz·x + b_iz + W_hz·h + b_hz), n by [`Reset`];
/// h_t = (1 − z)·n + z·h_{t−1}. With `before`, r·h is stored in dtype for the product.
///
/// Inputs, outputs and work: see [the module](super). Source: Cho et al., Learning phrase representations
/// using RNN encoder–decoder (2014); gates in PyTorch's order r, z, n.
pub type Gru = Forward<Params>;

/// `recurrent.gru_backward`: gradients of Σ dy·y + Σ dh_n·h_n.
///
/// dp_n = dh·(1 − z)·(1 − n²), dp_z = dh·(h_{t−1} − n)·z(1 − z). After: with q = W_hn·h + b_hn,
/// dp_r = dp_n·q·r(1 − r), and what reaches W_hn and b_hn is dp_n·r. Before: with e = W_hnᵀ·dp_n,
/// dp_r = e·h·r(1 − r), and h takes e·r. Inputs, outputs and work: see [the module](super).
pub type GruBackward = Backward<Params>;

/// One step; `side` is q = W_hn·h + b_hn (after) or the stored r·h (before).
pub(super) fn step(reset: Reset, weights: &Weights<'_>, px: &[Approx], h: &[Approx]) -> Step {
    let units = h.len();
    let ph = weights.hidden_part(0..2, h);
    let mut gates: Vec<Approx> = (0..2 * units).map(|i| (px[i] + ph[i]).sigmoid()).collect();
    let (side, product) = match reset {
        Reset::After => {
            let q = weights.hidden_part(2..3, h);
            let product = gates[..units].iter().zip(&q).map(|(&r, &q)| r * q).collect();
            (q, product)
        }
        Reset::Before => {
            let held = gates[..units].iter().zip(h).map(|(&r, &h)| r * h).collect();
            let held = weights.stored(held);
            let product: Vec<Approx> = weights.hidden_part(2..3, &held);
            (held, product)
        }
    };
    let n: Vec<Approx> = (0..units).map(|u| (px[2 * units + u] + product[u]).tanh()).collect();
    let state = |u: usize| {
        let z = gates[units + u];
        z.complement() * n[u] + z * h[u]
    };
    let h = (0..units).map(state).collect();
    gates.extend(n);
    Step { gates, side, h, ..Step::default() }
}

/// Gradients of one step.
pub(super) fn back(reset: Reset, weights: &Weights<'_>, step: &Step, dh: &[Approx]) -> Back {
    let units = dh.len();
    let h = &step.h_before;
    let [mut dr, mut dz, mut dn] = [const { Vec::<Approx>::new() }; 3];
    let mut passed = Vec::new();
    let slope = |gate: Approx| gate * gate.complement();
    for u in 0..units {
        let [r, z, n] = step.unit_gates(units, u);
        dz.push(dh[u] * (h[u] - n) * slope(z));
        dn.push(dh[u] * z.complement() * (n * n).complement());
        passed.push(dh[u] * z);
        if reset == Reset::After {
            dr.push(dn[u] * step.side[u] * slope(r));
        }
    }
    let of_product: Vec<Approx> = match reset {
        Reset::After => dn.iter().zip(&step.gates).map(|(&dn, &r)| dn * r).collect(),
        Reset::Before => {
            dn = weights.stored(dn);
            let of_held = weights.hidden_back(2..3, &dn);
            for u in 0..units {
                let r = step.gates[u];
                dr.push(of_held[u] * h[u] * slope(r));
                passed[u] = passed[u] + of_held[u] * r;
            }
            Vec::new()
        }
    };
    let of_gates = [dr, dz].concat();
    let dpx = weights.stored([&of_gates[..], &dn].concat());
    let (dph, through) = match reset {
        Reset::After => {
            let dph = weights.stored([of_gates, of_product].concat());
            let through = weights.hidden_back(0..3, &dph);
            (dph, through)
        }
        Reset::Before => (dpx.clone(), weights.hidden_back(0..2, &dpx[..2 * units])),
    };
    let dh = passed.into_iter().zip(through).map(|(a, b)| a + b).collect();
    Back { dpx, dph, dh, dc: Vec::new() }
}

#[cfg(test)]
mod tests {
    use crate::{Case, Tensor, Tensors, operation, tensor::DType};

    fn state_after(reset: &str) -> f64 {
        let real = |shape: &[usize], v: &[f64]| Tensor::from_real(DType::F32, shape, v);
        let case = format!(
            "recurrent.gru:batch=1,seq_len=1,input=1,hidden=1,reset={reset},dtype=f32,seed=0"
        );
        let case: Case = case.parse().unwrap();
        let inputs = Tensors::new()
            .with("x", real(&[1, 1, 1], &[0.0]))
            .with("W_ih", real(&[1, 3, 1], &[0.0; 3]))
            .with("W_hh", real(&[1, 3, 1], &[0.0, 0.0, 1.0]))
            .with("b_ih", real(&[1, 3], &[0.0; 3]))
            .with("b_hh", real(&[1, 3], &[0.0, 0.0, 1.0]))
            .with("h0", real(&[1, 1, 1], &[0.5]));
        operation(&case).unwrap().reference(&case, &inputs).unwrap().output("h_n").values()[0]
    }

    #[test]
    fn the_bias_of_the_candidate_is_reset_after_the_product_only() {
        // r = z = 1/2: n = tanh(1/2 · (1/2 + 1)) or tanh(1/2 · 1/2 + 1), and h = n/2 + 1/4.
        assert!((state_after("after") - (0.75f64.tanh() / 2.0 + 0.25)).abs() < 1e-15);
        assert!((state_after("before") - (1.25f64.tanh() / 2.0 + 0.25)).abs() < 1e-15);
    }
}
