//! The diagonal linear recurrence.

use serde::{Deserialize, Serialize};

use super::{SCAN_DEPTH, Term, View, expected, sample};
use crate::{
    algorithm::{Algorithm, Work},
    draw::Draw,
    expected::{Expected, Outputs},
    tensor::{DType, Tensors},
};

/// The numbers a recurrence runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// Real numbers.
    Real,
    /// Complex numbers: a trailing axis of real and imaginary part.
    Complex,
}

/// Which problem, of both directions of the recurrence.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Sequences.
    pub batch: usize,
    /// Time steps.
    pub seq_len: usize,
    /// Channels; each is a scan of its own.
    pub channels: usize,
    /// Real or complex numbers.
    pub field: Field,
    /// Element type of a, x and h; complex numbers only as f32.
    pub dtype: DType,
    /// Whether the recurrence starts from a given state instead of zero.
    #[serde(default)]
    pub initial_state: bool,
}

impl Params {
    /// Reals of one number.
    pub fn parts(&self) -> usize {
        if self.field == Field::Complex { 2 } else { 1 }
    }

    /// Shape of a, x and h.
    pub fn shape(&self) -> Vec<usize> {
        let mut shape = vec![self.batch, self.seq_len, self.channels];
        shape.extend((self.field == Field::Complex).then_some(2));
        shape
    }

    /// Shape of the initial state.
    pub fn state_shape(&self) -> Vec<usize> {
        let mut shape = vec![self.batch, self.channels];
        shape.extend((self.field == Field::Complex).then_some(2));
        shape
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        match (self.field, self.dtype) {
            (_, DType::F32) | (Field::Real, DType::Bf16) => Ok(()),
            (Field::Real, other) => Err(format!("dtype {} is not f32 or bf16", other.name())),
            (Field::Complex, _) => Err("complex numbers are stored as f32 only".into()),
        }
    }

    /// Factors whose memory 1/(1 − |a|) is log-uniform from 1 to about 400 steps. One real factor in
    /// eight is negative; a complex one has a uniform phase.
    pub(super) fn draw_factors(&self, draw: &mut Draw) -> crate::Tensor {
        let modulus = |d: &mut Draw| 1.0 - (-6.0 * d.unit()).exp();
        let mut imaginary = None;
        draw.real(self.dtype, &self.shape(), |d| match (self.field, imaginary.take()) {
            (Field::Real, _) => modulus(d) * if d.below(8) == 0 { -1.0 } else { 1.0 },
            (Field::Complex, Some(part)) => part,
            (Field::Complex, None) => {
                let (r, phase) = (modulus(d), std::f64::consts::TAU * d.unit());
                imaginary = Some(r * phase.sin());
                r * phase.cos()
            }
        })
    }

    /// Row-major index of a number in a, x and h, before the axis of its parts.
    pub(super) fn at(&self, batch: usize, t: usize, channel: usize) -> usize {
        (batch * self.seq_len + t) * self.channels + channel
    }

    /// The columns (batch·channels) that a reference computes.
    pub(super) fn columns(&self) -> Vec<usize> {
        sample(self.batch * self.channels, MOST_STEPS / self.seq_len.max(1))
    }

    /// The output of numbers known by their index.
    pub(super) fn expected(
        &self,
        shape: &[usize],
        known: &[(usize, Number)],
        storage: DType,
    ) -> Expected {
        let parts = self.parts();
        let term = |part: f64, n: &Number| Term::with_error(part, n.error);
        let known = known.iter().flat_map(|(i, n)| {
            let both = [(i * parts, term(n.re, n)), (i * parts + 1, term(n.im, n))];
            both.into_iter().take(parts)
        });
        expected(shape, known.collect(), storage)
    }
}

/// Steps a reference computes before it samples columns.
const MOST_STEPS: usize = 1 << 20;

/// A real or complex number as an f32 computation has it; see [`Term`]. Magnitude and error bound its
/// modulus, so each part too.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Number {
    pub(super) re: f64,
    pub(super) im: f64,
    magnitude: f64,
    error: f64,
}

impl Number {
    /// The number at an index of a tensor of this field.
    pub(super) fn read(view: View<'_>, field: Field, index: usize) -> Self {
        let (re, im) = match field {
            Field::Real => (view.get(index), 0.0),
            Field::Complex => (view.get(2 * index), view.get(2 * index + 1)),
        };
        Self { re, im, magnitude: re.hypot(im), error: 0.0 }
    }

    /// A real number, exactly.
    pub(super) fn real(value: f64) -> Self {
        Self { re: value, im: 0.0, magnitude: value.abs(), error: 0.0 }
    }

    /// The real part, which errs by no more than the number.
    pub(super) fn real_part(self) -> Term {
        Term { value: self.re, magnitude: self.magnitude, error: self.error }
    }

    pub(super) fn conj(self) -> Self {
        Self { im: -self.im, ..self }
    }

    /// The product. A real one takes one rounding, a complex one at most √5 < 3 of the modulus (Brent,
    /// Percival and Zimmermann 2007); 3 are granted to both.
    pub(super) fn times(self, other: Self) -> Self {
        let (size, other_size) = (self.re.hypot(self.im), other.re.hypot(other.im));
        Self {
            re: self.re * other.re - self.im * other.im,
            im: self.re * other.im + self.im * other.re,
            magnitude: self.magnitude * other.magnitude,
            error: size * other.error
                + other_size * self.error
                + 3.0 * self.magnitude * other.magnitude,
        }
    }

    /// The sum, with one rounding of at most the magnitude.
    pub(super) fn plus(self, other: Self) -> Self {
        let magnitude = self.magnitude + other.magnitude;
        Self {
            re: self.re + other.re,
            im: self.im + other.im,
            magnitude,
            error: self.error + other.error + magnitude,
        }
    }

    /// The same with the roundings a parallel scan adds.
    pub(super) fn scanned(self) -> Self {
        Self { error: self.error + SCAN_DEPTH * self.magnitude, ..self }
    }
}

/// `ssm.recurrence`: the diagonal linear recurrence, the core of LRU, HGRN and other gated linear RNNs.
///
/// h_t = a_t·h_{t−1} + x_t for every sequence and channel, from h_0 = `initial_state` or 0.
///
/// | input | shape | dtype | meaning |
/// |---|---|---|---|
/// | `a` | batch, seq_len, channels (, 2) | dtype | factors |
/// | `x` | batch, seq_len, channels (, 2) | dtype | what is added |
/// | `initial_state` | batch, channels (, 2) | f32 | h_0 (`initial_state`) |
///
/// | output | shape | dtype | meaning |
/// |---|---|---|---|
/// | `h` | batch, seq_len, channels (, 2) | dtype | all states |
///
/// The axis of 2 is there for complex numbers: real and imaginary part.
///
/// Source: Orvieto et al., *Resurrecting Recurrent Neural Networks for Long Sequences* (2023),
/// section 3; Qin, Yang and Zhong, *HGRN* (2023), equation 2; the scan by Blelloch (1990), section 1.4.
#[derive(Debug)]
pub struct Recurrence;

impl Algorithm for Recurrence {
    const NAME: &'static str = "ssm.recurrence";
    const SUMMARY: &'static str = "Diagonal linear recurrence h = a·h + x, real or complex";
    const ITEMS: &'static str = "tokens";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        params.validate()
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        let mut inputs = Tensors::new().with("a", params.draw_factors(draw));
        inputs.insert("x", draw.normal(params.dtype, &params.shape(), 1.0));
        if params.initial_state {
            inputs.insert("initial_state", draw.normal(DType::F32, &params.state_shape(), 2.0));
        }
        inputs
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let (a, x) = (View(inputs.tensor("a")), View(inputs.tensor("x")));
        let initial = params.initial_state.then(|| View(inputs.tensor("initial_state")));
        let read = |view, index| Number::read(view, params.field, index);
        let mut known = Vec::new();
        for column in params.columns() {
            let (b, c) = (column / params.channels, column % params.channels);
            let mut h = initial.map_or(Number::default(), |view| read(view, column));
            for t in 0..params.seq_len {
                let at = params.at(b, t, c);
                h = read(a, at).times(h).plus(read(x, at));
                known.push((at, h.scanned()));
            }
        }
        Outputs::new().with("h", params.expected(&params.shape(), &known, params.dtype))
    }

    /// flops = 2·n for n real numbers, 8·n for complex ones. bytes = inputs + h. items =
    /// batch·seq_len.
    fn work(params: &Params, inputs: &Tensors) -> Work {
        let numbers = params.batch * params.seq_len * params.channels;
        let flops = if params.field == Field::Real { 2 } else { 8 };
        Work {
            flops: (flops * numbers) as f64,
            bytes: (inputs.bytes() + numbers * params.parts() * params.dtype.bytes()) as f64,
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

    fn params(field: Field, seq_len: usize) -> Params {
        let dtype = DType::F32;
        Params { batch: 1, seq_len, channels: 1, field, dtype, initial_state: true }
    }

    #[test]
    fn three_real_steps_by_hand() {
        let real = |shape: &[usize], values: &[f64]| Tensor::from_real(DType::F32, shape, values);
        let inputs = Tensors::new()
            .with("a", real(&[1, 3, 1], &[0.5, -1.0, 0.0]))
            .with("x", real(&[1, 3, 1], &[1.0, 2.0, 3.0]))
            .with("initial_state", real(&[1, 1], &[4.0]));
        let outputs = Recurrence::reference(&params(Field::Real, 3), &inputs);
        assert_eq!(outputs.output("h").values(), [3.0, -1.0, 3.0]);
    }

    #[test]
    fn i_turns_the_state_a_quarter() {
        let real = |shape: &[usize], values: &[f64]| Tensor::from_real(DType::F32, shape, values);
        let inputs = Tensors::new()
            .with("a", real(&[1, 2, 1, 2], &[0.0, 1.0, 0.0, 1.0]))
            .with("x", real(&[1, 2, 1, 2], &[0.0, 0.0, 5.0, 0.0]))
            .with("initial_state", real(&[1, 1, 2], &[3.0, 1.0]));
        let outputs = Recurrence::reference(&params(Field::Complex, 2), &inputs);
        assert_eq!(outputs.output("h").values(), [-1.0, 3.0, 2.0, -1.0]);
    }
}
