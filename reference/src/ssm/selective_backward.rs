//! Gradients of Mamba's selective scan.

use super::{
    SCAN_DEPTH, Term, View, expected, sample, selective::Params, selective::Problem, sigmoid_term,
    silu, silu_slope,
};
use crate::{
    algorithm::{Algorithm, Work},
    draw::Draw,
    expected::Outputs,
    tensor::{DType, Tensors},
};

/// `ssm.selective_backward`: gradients of [`Selective`](super::selective::Selective) for a given
/// gradient of y; `initial_state` must be off.
///
/// With s_t = Σ_n C·h + D·u before the gate, ds = dy·silu(z), and backwards in time
/// g_t\[n\] = C_t\[n\]·ds_t + exp(dt_{t+1}·A\[n\])·g_{t+1}\[n\] (the gradient of h_t):
///
/// dz = dy·s·silu'(z), du = D·ds + dt·Σ_n g·B, dB = Σ g·dt·u, dC = Σ ds·h (both over the channels of a
/// group), ddt = Σ_n g_t·(B_t·u_t + A·exp(dt_t·A)·h_{t−1}), ddelta = ddt·σ(Δ + bias) (or ddt without
/// softplus), dA = Σ g_t·dt_t·exp(dt_t·A)·h_{t−1}, dD = Σ ds·u, ddelta_bias = Σ ddelta (over sequences
/// and time).
///
/// Inputs are those of the forward pass and `dy` (batch, channels, seq_len; dtype).
///
/// | output | shape | dtype | there if |
/// |---|---|---|---|
/// | `du`, `ddelta` | batch, channels, seq_len | dtype | always |
/// | `dA` | channels, state | f32 | always |
/// | `dB`, `dC` | batch, groups, state, seq_len | f32 | always |
/// | `dD` | channels | f32 | `skip` |
/// | `dz` | batch, channels, seq_len | dtype | `gate` |
/// | `ddelta_bias` | channels | f32 | `bias` |
///
/// Source: the derivative of algorithm 2 of Gu and Dao (2023); recomputation as in their section 3.3.2.
#[derive(Debug)]
pub struct SelectiveBackward;

/// State updates a reference computes before it samples.
const MOST_UPDATES: usize = 1 << 22;

/// What the reference computes of a large problem: some (sequence, channel) rows, some channels with
/// all sequences (they make whole sums over sequences) and some (sequence, group, state) rows.
struct Sample {
    rows: Vec<bool>,
    channels: Vec<bool>,
    projections: Vec<bool>,
}

impl Sample {
    fn new(params: &Params) -> Self {
        let &Params { batch, channels, seq_len, state, groups, .. } = params;
        let row = (seq_len * state.max(1)).max(1);
        let mut picked = Self {
            rows: vec![false; batch * channels],
            channels: vec![false; channels],
            projections: vec![false; batch * groups * state],
        };
        let all = batch * channels * row <= MOST_UPDATES;
        let most = |cost: usize| if all { usize::MAX } else { MOST_UPDATES / 4 / cost.max(1) };
        for d in sample(channels, most(batch * row)) {
            picked.channels[d] = true;
            (0..batch).for_each(|b| picked.rows[b * channels + d] = true);
        }
        sample(batch * channels, most(row)).iter().for_each(|&i| picked.rows[i] = true);
        let projection = channels / groups * seq_len;
        let projections = sample(batch * groups * state, most(projection));
        projections.iter().for_each(|&i| picked.projections[i] = true);
        picked
    }

    /// The known elements of an output whose rows of `len` elements are picked.
    fn known(picked: &[bool], len: usize, values: &[Term], roundings: f64) -> Vec<(usize, Term)> {
        let rows = (0..picked.len()).filter(|&row| picked[row]);
        rows.flat_map(|row| row * len..(row + 1) * len)
            .map(|i| (i, values[i].summed(roundings)))
            .collect()
    }
}

/// Sums of the gradients, dense; only what the [`Sample`] picks is complete.
struct Gradients {
    rows: Vec<[(usize, Term); 3]>,
    a: Vec<Term>,
    b: Vec<Term>,
    c: Vec<Term>,
    d: Vec<Term>,
    bias: Vec<Term>,
}

/// Adds what one (sequence, channel) contributes; `states` are those to compute, and the row's own
/// gradients are only right if these are all.
fn channel(
    problem: &Problem<'_>,
    dy: View<'_>,
    (b, d): (usize, usize),
    states: &[usize],
    into: &mut Gradients,
) {
    let params = problem.params;
    let seq_len = params.seq_len;
    let dt = problem.step_sizes(b, d);
    let dy: Vec<Term> = (0..seq_len).map(|t| Term::exact(dy.get(problem.at(b, d, t)))).collect();
    let ds = |t: usize| problem.z(b, d, t).map_or(dy[t], |z| dy[t].times(silu(z)));
    let ds: Vec<Term> = (0..seq_len).map(ds).collect();
    let (mut s, mut gb, mut ddt) = (
        vec![Term::default(); seq_len],
        vec![Term::default(); seq_len],
        vec![Term::default(); seq_len],
    );
    for &n in states {
        let (decays, h) = problem.scan(b, d, n, &dt);
        let h: Vec<Term> = h.into_iter().map(|h| h.summed(SCAN_DEPTH)).collect();
        let a = problem.a(d, n);
        let mut g = Term::default();
        for t in (0..seq_len).rev() {
            let c = problem.c(b, d, n, t);
            let carried = if t + 1 < seq_len { decays[t + 1].times(g) } else { Term::default() };
            g = c.times(ds[t]).plus(carried);
            let gradient = g.summed(SCAN_DEPTH);
            let (u, b_t) = (problem.u(b, d, t), problem.b(b, d, n, t));
            let kept = gradient.times(decays[t]).times(h[t]);
            s[t].accumulate(c.times(h[t + 1]));
            gb[t].accumulate(gradient.times(b_t));
            ddt[t].accumulate(gradient.times(b_t).times(u));
            ddt[t].accumulate(a.times(kept));
            let at = problem.projection_at(b, d, n, t);
            into.b[at].accumulate(gradient.times(dt[t]).times(u));
            into.c[at].accumulate(ds[t].times(h[t + 1]));
            into.a[d * params.state + n].accumulate(kept.times(dt[t]));
        }
    }
    let roundings = 2.0 * params.state as f64;
    for t in 0..seq_len {
        let u = problem.u(b, d, t);
        s[t].accumulate(problem.d(d).times(u));
        let dz =
            problem.z(b, d, t).map(|z| dy[t].times(s[t].summed(roundings)).times(silu_slope(z)));
        let du = problem.d(d).times(ds[t]).plus(gb[t].summed(roundings).times(dt[t]));
        let mut ddelta = ddt[t].summed(roundings);
        if params.softplus {
            ddelta = ddelta.times(softplus_slope(problem.raw_step(b, d, t)));
        }
        into.d[d].accumulate(ds[t].times(u));
        into.bias[d].accumulate(ddelta);
        let at = problem.at(b, d, t);
        into.rows.push([(at, du), (at, ddelta), (at, dz.unwrap_or_default())]);
    }
}

/// σ(x) for an x with an error, which counts by σ' = σ(x)·σ(−x).
fn softplus_slope(x: Term) -> Term {
    let slope = sigmoid_term(x.value);
    let passed = slope.value * super::sigmoid(-x.value) * x.error;
    Term { error: slope.error + passed, ..slope }
}

impl Algorithm for SelectiveBackward {
    const NAME: &'static str = "ssm.selective_backward";
    const SUMMARY: &'static str = "Gradients of Mamba's selective scan";
    const ITEMS: &'static str = "tokens";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        if params.initial_state {
            return Err("the backward pass takes no initial_state".into());
        }
        params.validate()
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        let inputs = params.draw(draw);
        inputs.with("dy", draw.normal(params.dtype, &params.activation_shape(), 1.0))
    }

    /// Sums over time add up to seq_len terms in a row, then those of the sequences; sums over the
    /// channels of a group add all of them in a row: each term one rounding of at most the magnitude.
    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let problem = Problem::new(params, inputs);
        let &Params { batch, channels, seq_len, state, groups, dtype, .. } = params;
        let picked = Sample::new(params);
        let zeros = |len: usize| vec![Term::default(); len];
        let mut sums = Gradients {
            rows: Vec::new(),
            a: zeros(channels * state),
            b: zeros(batch * groups * state * seq_len),
            c: zeros(batch * groups * state * seq_len),
            d: zeros(channels),
            bias: zeros(channels),
        };
        let dy = View(inputs.tensor("dy"));
        for row in 0..batch * channels {
            let (b, d) = (row / channels, row % channels);
            let projection = (b * groups + params.group(d)) * state;
            let known = picked.rows[row];
            let states: Vec<usize> =
                (0..state).filter(|n| known || picked.projections[projection + n]).collect();
            let before = sums.rows.len();
            if known || !states.is_empty() {
                channel(&problem, dy, (b, d), &states, &mut sums);
            }
            if !known {
                sums.rows.truncate(before);
            }
        }
        let row = |i: usize| sums.rows.iter().map(|row| row[i]).collect();
        let over_time = (seq_len + batch) as f64;
        let over_channels = (channels / groups) as f64;
        let of_channels = |values: &[Term], len: usize, shape: &[usize]| {
            expected(shape, Sample::known(&picked.channels, len, values, over_time), DType::F32)
        };
        let of_projections = |values: &[Term]| {
            let known = Sample::known(&picked.projections, seq_len, values, over_channels);
            expected(&params.projection_shape(), known, DType::F32)
        };
        let mut outputs = Outputs::new()
            .with("du", expected(&params.activation_shape(), row(0), dtype))
            .with("ddelta", expected(&params.activation_shape(), row(1), dtype))
            .with("dA", of_channels(&sums.a, state, &[channels, state]))
            .with("dB", of_projections(&sums.b))
            .with("dC", of_projections(&sums.c));
        if params.skip {
            outputs = outputs.with("dD", of_channels(&sums.d, 1, &[channels]));
        }
        if params.gate {
            outputs = outputs.with("dz", expected(&params.activation_shape(), row(2), dtype));
        }
        if params.bias {
            outputs = outputs.with("ddelta_bias", of_channels(&sums.bias, 1, &[channels]));
        }
        outputs
    }

    /// flops = steps·(21·state + 24), steps = batch·channels·seq_len: a state takes dt·A, exp, dt·u·B
    /// and h (5), C·h (2), g (3), and the terms of dB, dC, du, ddt and dA (11); the gate, softplus and
    /// their slopes 24. bytes = inputs + outputs. items = batch·seq_len.
    fn work(params: &Params, inputs: &Tensors) -> Work {
        let rows = 2 + usize::from(params.gate);
        let of_channel = params.state + usize::from(params.skip) + usize::from(params.bias);
        let projections: usize = params.projection_shape().iter().product();
        let outputs = rows * params.steps() * params.dtype.bytes()
            + 4 * (params.channels * of_channel + 2 * projections);
        Work {
            flops: params.steps() as f64 * (21 * params.state + 24) as f64,
            bytes: (inputs.bytes() + outputs) as f64,
            items: (params.batch * params.seq_len) as f64,
            matrix: false,
            eight_bit: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Tensor;

    /// One step from zero: h = dt·B·u, s = C·h + D·u, no gate, so every gradient is a product.
    #[test]
    fn one_step_by_hand() {
        let params = Params {
            batch: 1,
            channels: 1,
            seq_len: 1,
            state: 1,
            groups: 1,
            dtype: DType::F32,
            softplus: false,
            bias: true,
            skip: true,
            gate: false,
            initial_state: false,
        };
        let one = |shape: &[usize], value: f64| Tensor::from_real(DType::F64, shape, &[value]);
        let inputs = Tensors::new()
            .with("u", one(&[1, 1, 1], 3.0))
            .with("delta", one(&[1, 1, 1], 0.25))
            .with("A", one(&[1, 1], -1.0))
            .with("B", one(&[1, 1, 1, 1], 2.0))
            .with("C", one(&[1, 1, 1, 1], 5.0))
            .with("D", one(&[1], 7.0))
            .with("delta_bias", one(&[1], 0.25))
            .with("dy", one(&[1, 1, 1], 11.0));
        let outputs = SelectiveBackward::reference(&params, &inputs);
        // dt = 0.5, h = 3, g = 55.
        let want = [
            ("du", 77.0 + 55.0),
            ("ddelta", 55.0 * 6.0),
            ("dA", 0.0),
            ("dB", 55.0 * 1.5),
            ("dC", 33.0),
            ("dD", 33.0),
            ("ddelta_bias", 330.0),
        ];
        for (name, value) in want {
            assert_eq!(outputs.output(name).values(), [value], "{name}");
        }
    }
}
