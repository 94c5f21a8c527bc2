//! Mamba's selective scan, forward.

use serde::{Deserialize, Serialize};

use super::{SCAN_DEPTH, Term, View, exp_error, expected, sample, silu, softplus};
use crate::{
    algorithm::{Algorithm, Work},
    draw::Draw,
    expected::Outputs,
    tensor::{DType, Tensors},
};

/// Which problem, of both directions of the selective scan.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Sequences.
    pub batch: usize,
    /// Channels; each is a scan of its own.
    pub channels: usize,
    /// Time steps.
    pub seq_len: usize,
    /// States of a channel.
    pub state: usize,
    /// Groups of adjacent channels that share their B and C; divides `channels`.
    #[serde(default = "super::one")]
    pub groups: usize,
    /// Element type of u, Δ, B, C, z and y.
    pub dtype: DType,
    /// Whether the step size is softplus(Δ + bias) rather than Δ + bias.
    #[serde(default = "super::yes")]
    pub softplus: bool,
    /// Whether there is a bias of Δ.
    #[serde(default = "super::yes")]
    pub bias: bool,
    /// Whether there is the skip weight D.
    #[serde(default = "super::yes")]
    pub skip: bool,
    /// Whether there is the gate z.
    #[serde(default = "super::yes")]
    pub gate: bool,
    /// Whether the scan starts from a given state instead of zero.
    #[serde(default)]
    pub initial_state: bool,
}

impl Params {
    /// Shape of u, Δ, z and y.
    pub fn activation_shape(&self) -> [usize; 3] {
        [self.batch, self.channels, self.seq_len]
    }

    /// Shape of B and C.
    pub fn projection_shape(&self) -> [usize; 4] {
        [self.batch, self.groups, self.state, self.seq_len]
    }

    /// The group a channel belongs to.
    pub(super) fn group(&self, channel: usize) -> usize {
        channel / (self.channels / self.groups)
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        self.dtype.check_activation()?;
        if self.groups == 0 || !self.channels.is_multiple_of(self.groups) {
            return Err(format!("{} groups do not divide {} channels", self.groups, self.channels));
        }
        Ok(())
    }

    /// The inputs both directions have.
    ///
    /// The step sizes are those of Mamba's initialization, 0.001 to 0.1 log-uniform by the channel's
    /// bias, and A that of S4D-Lin's real part, −(n + 1), each spread a little: states that remember a
    /// few steps stand beside some that remember thousands.
    pub(super) fn draw(&self, draw: &mut Draw) -> Tensors {
        let (dtype, sizes) = (self.dtype, self.activation_shape());
        let mut inputs = Tensors::new().with("u", draw.normal(dtype, &sizes, 1.0));
        let delta = match (self.softplus, self.bias) {
            (true, true) => draw.normal(dtype, &sizes, 1.0),
            (true, false) => draw.real(dtype, &sizes, |d| d.standard_normal() - 4.0),
            (false, _) => draw.uniform(dtype, &sizes, 0.001, 0.2),
        };
        inputs.insert("delta", delta);
        let mut n = 0;
        let a = draw.real(DType::F32, &[self.channels, self.state], |d| {
            n = n % self.state + 1;
            -(n as f64) * (0.2 * d.standard_normal()).exp()
        });
        inputs.insert("A", a);
        inputs.insert("B", draw.normal(dtype, &self.projection_shape(), 1.0));
        inputs.insert("C", draw.normal(dtype, &self.projection_shape(), 1.0));
        if self.skip {
            inputs.insert("D", draw.normal(DType::F32, &[self.channels], 1.0));
        }
        if self.gate {
            inputs.insert("z", draw.normal(dtype, &sizes, 1.5));
        }
        if self.bias {
            let (low, high) = if self.softplus { (-7.0, -2.2) } else { (0.0, 0.1) };
            inputs.insert("delta_bias", draw.uniform(DType::F32, &[self.channels], low, high));
        }
        if self.initial_state {
            let sizes = [self.batch, self.channels, self.state];
            inputs.insert("initial_state", draw.normal(DType::F32, &sizes, 1.0));
        }
        inputs
    }

    /// Elements of u.
    pub(super) fn steps(&self) -> usize {
        self.batch * self.channels * self.seq_len
    }
}

/// The inputs of one case, element by element.
pub(super) struct Problem<'a> {
    pub(super) params: &'a Params,
    u: View<'a>,
    delta: View<'a>,
    a: View<'a>,
    b: View<'a>,
    c: View<'a>,
    d: Option<View<'a>>,
    z: Option<View<'a>>,
    bias: Option<View<'a>>,
    initial: Option<View<'a>>,
}

impl<'a> Problem<'a> {
    pub(super) fn new(params: &'a Params, inputs: &'a Tensors) -> Self {
        let view = |name| View(inputs.tensor(name));
        let optional = |name, present: bool| present.then(|| view(name));
        Self {
            params,
            u: view("u"),
            delta: view("delta"),
            a: view("A"),
            b: view("B"),
            c: view("C"),
            d: optional("D", params.skip),
            z: optional("z", params.gate),
            bias: optional("delta_bias", params.bias),
            initial: optional("initial_state", params.initial_state),
        }
    }

    /// Row-major index into u, Δ, z and y.
    pub(super) fn at(&self, batch: usize, channel: usize, t: usize) -> usize {
        (batch * self.params.channels + channel) * self.params.seq_len + t
    }

    /// Row-major index into B and C.
    pub(super) fn projection_at(&self, batch: usize, channel: usize, n: usize, t: usize) -> usize {
        let group = batch * self.params.groups + self.params.group(channel);
        (group * self.params.state + n) * self.params.seq_len + t
    }

    pub(super) fn u(&self, batch: usize, channel: usize, t: usize) -> Term {
        Term::exact(self.u.get(self.at(batch, channel, t)))
    }

    /// Weight of a state's decay.
    pub(super) fn a(&self, channel: usize, n: usize) -> Term {
        Term::exact(self.a.get(channel * self.params.state + n))
    }

    pub(super) fn b(&self, batch: usize, channel: usize, n: usize, t: usize) -> Term {
        Term::exact(self.b.get(self.projection_at(batch, channel, n, t)))
    }

    pub(super) fn c(&self, batch: usize, channel: usize, n: usize, t: usize) -> Term {
        Term::exact(self.c.get(self.projection_at(batch, channel, n, t)))
    }

    /// The skip weight, zero if there is none.
    pub(super) fn d(&self, channel: usize) -> Term {
        Term::exact(self.d.map_or(0.0, |d| d.get(channel)))
    }

    /// The gate's value, if there is a gate.
    pub(super) fn z(&self, batch: usize, channel: usize, t: usize) -> Option<f64> {
        self.z.map(|z| z.get(self.at(batch, channel, t)))
    }

    /// Δ + bias.
    pub(super) fn raw_step(&self, batch: usize, channel: usize, t: usize) -> Term {
        let delta = Term::exact(self.delta.get(self.at(batch, channel, t)));
        match self.bias {
            Some(bias) => {
                let value = delta.value + bias.get(channel);
                Term::with_error(value, value.abs())
            }
            None => delta,
        }
    }

    /// The step sizes of a channel.
    pub(super) fn step_sizes(&self, batch: usize, channel: usize) -> Vec<Term> {
        let raw = |t| self.raw_step(batch, channel, t);
        let size = |x| if self.params.softplus { softplus(x) } else { x };
        (0..self.params.seq_len).map(|t| size(raw(t))).collect()
    }

    /// exp(dt·A): the argument has dt's error, the product's rounding and 6 more: two of A·log2 e and
    /// up to 4 where a chunk's factors are taken at once, as exp(A·Σdt), from a compensated Σdt.
    pub(super) fn decay(&self, dt: Term, a: Term) -> Term {
        let argument = dt.value * a.value;
        let argument_error = a.value.abs() * dt.error + 5.0 * argument.abs();
        let value = argument.exp();
        Term::with_error(value, value * (argument_error + exp_error(argument)))
    }

    /// The state before the first step.
    pub(super) fn initial(&self, batch: usize, channel: usize, n: usize) -> Term {
        let index = (batch * self.params.channels + channel) * self.params.state + n;
        Term::exact(self.initial.map_or(0.0, |h| h.get(index)))
    }

    /// One state of a channel over time: decays and states, h_t at `t + 1` and the initial one at 0.
    pub(super) fn scan(
        &self,
        batch: usize,
        channel: usize,
        n: usize,
        dt: &[Term],
    ) -> (Vec<Term>, Vec<Term>) {
        let a = self.a(channel, n);
        let decays: Vec<Term> = dt.iter().map(|&dt| self.decay(dt, a)).collect();
        let mut h = vec![self.initial(batch, channel, n)];
        for t in 0..dt.len() {
            let x = dt[t].times(self.u(batch, channel, t)).times(self.b(batch, channel, n, t));
            h.push(decays[t].times(h[t]).plus(x));
        }
        (decays, h)
    }
}

/// `ssm.selective`: the selective scan of Mamba, with the parameters of its public interface.
///
/// For every sequence and channel, from h_0 = `initial_state` or 0, with dt_t = softplus(Δ_t + bias):
///
/// h_t\[n\] = exp(dt_t·A\[n\])·h_{t−1}\[n\] + dt_t·B_t\[n\]·u_t,  y_t = (Σ_n C_t\[n\]·h_t\[n\] + D·u_t)·silu(z_t)
///
/// | input | shape | dtype | meaning |
/// |---|---|---|---|
/// | `u` | batch, channels, seq_len | dtype | the sequence |
/// | `delta` | batch, channels, seq_len | dtype | step sizes before bias and softplus |
/// | `A` | channels, state | f32 | decay rates, negative |
/// | `B`, `C` | batch, groups, state, seq_len | dtype | into and out of the state, by time step |
/// | `D` | channels | f32 | skip weight (`skip`) |
/// | `z` | batch, channels, seq_len | dtype | gate (`gate`) |
/// | `delta_bias` | channels | f32 | bias of Δ (`bias`) |
/// | `initial_state` | batch, channels, state | f32 | h_0 (`initial_state`) |
///
/// | output | shape | dtype | meaning |
/// |---|---|---|---|
/// | `y` | batch, channels, seq_len | dtype | the answer |
/// | `last_state` | batch, channels, state | f32 | h after the last step; h_0 for an empty sequence |
///
/// Without states y is (D·u)·silu(z).
///
/// Source: Gu and Dao, *Mamba: Linear-Time Sequence Modeling with Selective State Spaces* (2023),
/// algorithm 2 and section 3.
#[derive(Debug)]
pub struct Selective;

/// State updates a reference computes before it samples channels.
const MOST_UPDATES: usize = 1 << 22;

impl Algorithm for Selective {
    const NAME: &'static str = "ssm.selective";
    const SUMMARY: &'static str = "Mamba's selective scan with softplus, skip and gate";
    const ITEMS: &'static str = "tokens";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        params.validate()
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        params.draw(draw)
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let problem = Problem::new(params, inputs);
        let &Params { batch, channels, seq_len, state, .. } = params;
        let (mut y, mut last) = (Vec::new(), Vec::new());
        let rows = MOST_UPDATES / (seq_len * state.max(1)).max(1);
        for row in sample(batch * channels, rows) {
            let (b, d) = (row / channels, row % channels);
            let dt = problem.step_sizes(b, d);
            let mut sums = vec![Term::default(); seq_len];
            for n in 0..state {
                let (_, h) = problem.scan(b, d, n, &dt);
                for t in 0..seq_len {
                    let h = h[t + 1].summed(SCAN_DEPTH);
                    sums[t].accumulate(problem.c(b, d, n, t).times(h));
                }
                last.push((row * state + n, h[seq_len].summed(SCAN_DEPTH)));
            }
            for (t, mut sum) in sums.into_iter().enumerate() {
                sum.accumulate(problem.d(d).times(problem.u(b, d, t)));
                let sum = sum.summed(state as f64);
                let gated = problem.z(b, d, t).map_or(sum, |z| sum.times(silu(z)));
                y.push((problem.at(b, d, t), gated));
            }
        }
        Outputs::new()
            .with("y", expected(&params.activation_shape(), y, params.dtype))
            .with("last_state", expected(&[batch, channels, state], last, DType::F32))
    }

    /// flops = steps·(7·state + 2·skip + 4·gate + 4), steps = batch·channels·seq_len: a state takes
    /// dt·A, exp, dt·u·B (1), h (2) and C·h (2); softplus 3, dt·u 1, the gate 4.
    /// bytes = inputs + y + last_state. items = batch·seq_len.
    fn work(params: &Params, inputs: &Tensors) -> Work {
        let steps = params.steps() as f64;
        let per_step =
            7 * params.state + 2 * usize::from(params.skip) + 4 * usize::from(params.gate) + 4;
        let outputs = params.steps() * params.dtype.bytes()
            + params.batch * params.channels * params.state * 4;
        Work {
            flops: steps * per_step as f64,
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

    fn params(seq_len: usize) -> Params {
        Params {
            batch: 1,
            channels: 1,
            seq_len,
            state: 1,
            groups: 1,
            dtype: DType::F32,
            softplus: false,
            bias: false,
            skip: true,
            gate: false,
            initial_state: true,
        }
    }

    /// dt = 1 and A = −ln 2 halve the state at each step.
    #[test]
    fn two_steps_by_hand() {
        let real = |shape: &[usize], values: &[f64]| Tensor::from_real(DType::F64, shape, values);
        let inputs = Tensors::new()
            .with("u", real(&[1, 1, 2], &[3.0, -1.0]))
            .with("delta", real(&[1, 1, 2], &[1.0, 1.0]))
            .with("A", real(&[1, 1], &[-(2f64.ln())]))
            .with("B", real(&[1, 1, 1, 2], &[2.0, 4.0]))
            .with("C", real(&[1, 1, 1, 2], &[1.0, 10.0]))
            .with("D", real(&[1], &[0.5]))
            .with("initial_state", real(&[1, 1, 1], &[8.0]));
        let outputs = Selective::reference(&params(2), &inputs);
        // h_1 = 8/2 + 2·3 = 10, h_2 = 10/2 − 4 = 1; y = 10 + 1.5, 10 − 0.5.
        for (got, want) in outputs.output("y").values().iter().zip([11.5, 9.5]) {
            assert!((got - want).abs() < 1e-12, "{got}");
        }
        assert!((outputs.output("last_state").values()[0] - 1.0).abs() < 1e-12);
    }

    #[test]
    fn an_empty_sequence_returns_its_initial_state() {
        let params = params(0);
        let inputs = Selective::inputs(&params, &mut Draw::new(1));
        let outputs = Selective::reference(&params, &inputs);
        assert!(outputs.output("y").values().is_empty());
        assert_eq!(outputs.output("last_state").values(), inputs.tensor("initial_state").to_f64());
    }
}
