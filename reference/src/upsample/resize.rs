//! Images resized by interpolation: nearest, bilinear, bicubic, and their transposes.

use std::marker::PhantomData;

use serde::{Deserialize, Serialize};

use super::{SECOND_ORDER, by_rows, check_dtype, check_sizes, sum_roundings};
use crate::{Algorithm, DType, Draw, Outputs, Tensors, Tolerance, Work};

/// Where an output pixel o lies between the input's pixels, along one axis. `step` is input pixels an
/// output pixel. Every operation here is one of f32, rounded, as PyTorch's are; so the position is part of
/// the operation's definition, and no error of it needs a tolerance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Coordinates {
    /// o · step, rounded down: PyTorch's `nearest`.
    Floor,
    /// (o + ½) · step, rounded down: PyTorch's `nearest-exact`.
    Centre,
    /// (o + ½) · step − ½: pixels are areas, `align_corners=False`. Bilinear cuts it at 0 from below.
    HalfPixel,
    /// o · step with step = (in − 1) / (out − 1), 0 for a single output: pixels are points and the corner
    /// pixels keep their places, `align_corners=True`.
    AlignCorners,
}

/// Parameters of all interpolations, forward and backward.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Images.
    pub batch: usize,
    /// Channels of an image.
    pub channels: usize,
    /// Rows of the input.
    pub in_h: usize,
    /// Columns of the input.
    pub in_w: usize,
    /// Rows of the output.
    pub out_h: usize,
    /// Columns of the output.
    pub out_w: usize,
    /// How positions are found.
    pub coordinates: Coordinates,
    /// 0: step = in / out. Otherwise step = 1 / factor, as PyTorch does when it is given a scale factor,
    /// and out must be ⌊in · factor⌋. Corners that are aligned do not ask it.
    pub factor: f64,
    /// Element type.
    pub dtype: DType,
}

impl Params {
    /// Input pixels an output pixel, along an axis of `input` and `output` pixels.
    pub fn step(&self, input: usize, output: usize) -> f32 {
        match self.coordinates {
            Coordinates::AlignCorners if output > 1 => (input - 1) as f32 / (output - 1) as f32,
            Coordinates::AlignCorners => 0.0,
            _ if self.factor > 0.0 => (1.0 / self.factor) as f32,
            _ if output > 0 => input as f32 / output as f32,
            _ => 0.0,
        }
    }

    fn shape_in(&self) -> [usize; 4] {
        [self.batch, self.channels, self.in_h, self.in_w]
    }

    fn shape_out(&self) -> [usize; 4] {
        [self.batch, self.channels, self.out_h, self.out_w]
    }

    /// Taps of every output pixel, along the rows and along the columns.
    fn taps<I: Interpolation>(&self) -> [Vec<Vec<Tap>>; 2] {
        let axis = |input: usize, output: usize| {
            let step = self.step(input, output);
            (0..output).map(|o| I::taps(position(o, step, self.coordinates), input)).collect()
        };
        [axis(self.in_h, self.out_h), axis(self.in_w, self.out_w)]
    }

    fn work<I: Interpolation>(&self) -> Work {
        let elements = |shape: [usize; 4]| shape.iter().product::<usize>() as f64;
        let (input, output) = (elements(self.shape_in()), elements(self.shape_out()));
        let products = if I::TAPS == 1 { 0.0 } else { (I::TAPS * I::TAPS) as f64 };
        Work {
            flops: 2.0 * products * output,
            bytes: (input + output) * self.dtype.bytes() as f64,
            items: output,
            matrix: false,
            eight_bit: false,
        }
    }
}

/// Position of output pixel `o` among the input's pixels.
pub fn position(o: usize, step: f32, coordinates: Coordinates) -> f32 {
    match coordinates {
        Coordinates::Floor | Coordinates::AlignCorners => o as f32 * step,
        Coordinates::Centre => (o as f32 + 0.5) * step,
        Coordinates::HalfPixel => (o as f32 + 0.5) * step - 0.5,
    }
}

/// One input pixel that an output pixel reads, along one axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tap {
    /// Index of the input pixel; pixels beyond the border are the border's.
    pub at: usize,
    /// Its weight.
    pub weight: f64,
    /// Σ|terms| of the polynomial that gives the weight: what the weight's rounding is relative to.
    pub magnitude: f64,
}

/// An interpolation: the pixels an output reads, and their weights.
pub trait Interpolation: Send + Sync + 'static {
    /// Name of the operation.
    const FORWARD: &'static str;
    /// What it does, in a sentence.
    const FORWARD_SUMMARY: &'static str;
    /// Name of its transpose.
    const BACKWARD: &'static str;
    /// What that does, in a sentence.
    const BACKWARD_SUMMARY: &'static str;
    /// Input pixels an output reads along an axis.
    const TAPS: usize;
    /// Roundings of f32 in a weight, relative to its magnitude.
    const WEIGHT_ROUNDINGS: f64;

    /// Whether it has such coordinates.
    fn takes(coordinates: Coordinates) -> bool;

    /// The taps of an output at position `p` on an axis of `input` pixels, of which there is at least one.
    fn taps(p: f32, input: usize) -> Vec<Tap>;
}

/// The pixel at the position rounded down: index = min(⌊p⌋, in − 1).
#[derive(Debug)]
pub struct Nearest;

impl Interpolation for Nearest {
    const FORWARD: &'static str = "upsample.nearest";
    const FORWARD_SUMMARY: &'static str = "an image resized by repeating its nearest pixels";
    const BACKWARD: &'static str = "upsample.nearest_backward";
    const BACKWARD_SUMMARY: &'static str =
        "gradient of a nearest resize: every pixel sums its copies";
    const TAPS: usize = 1;
    const WEIGHT_ROUNDINGS: f64 = 0.0;

    fn takes(coordinates: Coordinates) -> bool {
        matches!(coordinates, Coordinates::Floor | Coordinates::Centre)
    }

    fn taps(p: f32, input: usize) -> Vec<Tap> {
        vec![Tap { at: (p.floor() as usize).min(input - 1), weight: 1.0, magnitude: 1.0 }]
    }
}

/// A straight line between two neighbours: with i = ⌊p⌋ and λ = p − i, (1 − λ) · x\[i\] + λ · x\[i + 1\].
#[derive(Debug)]
pub struct Bilinear;

impl Interpolation for Bilinear {
    const FORWARD: &'static str = "upsample.bilinear";
    const FORWARD_SUMMARY: &'static str = "an image resized along straight lines between pixels";
    const BACKWARD: &'static str = "upsample.bilinear_backward";
    const BACKWARD_SUMMARY: &'static str = "gradient of a bilinear resize: its transpose";
    const TAPS: usize = 2;
    /// λ is exact and 1 − λ is rounded to f32 by definition.
    const WEIGHT_ROUNDINGS: f64 = 0.0;

    fn takes(coordinates: Coordinates) -> bool {
        matches!(coordinates, Coordinates::HalfPixel | Coordinates::AlignCorners)
    }

    fn taps(p: f32, input: usize) -> Vec<Tap> {
        let p = p.max(0.0);
        let first = (p.floor() as usize).min(input - 1);
        let lambda = (p - first as f32).min(1.0);
        let tap = |at: usize, weight: f32| {
            let at = at.min(input - 1);
            Tap { at, weight: weight.into(), magnitude: weight.into() }
        };
        vec![tap(first, 1.0 - lambda), tap(first + 1, lambda)]
    }
}

/// Keys' cubic convolution through four neighbours with a = −0.75. With i = ⌊p⌋, t = p − i (f32) and
/// s = 1 − t: weights a·t·s², 1 − (a+3)·t² + (a+2)·t³, the same of s, and a·s·t², of pixels i−1 … i+2.
#[derive(Debug)]
pub struct Bicubic;

impl Interpolation for Bicubic {
    const FORWARD: &'static str = "upsample.bicubic";
    const FORWARD_SUMMARY: &'static str = "an image resized by cubic convolution";
    const BACKWARD: &'static str = "upsample.bicubic_backward";
    const BACKWARD_SUMMARY: &'static str = "gradient of a bicubic resize: its transpose";
    const TAPS: usize = 4;
    /// s is rounded once and enters up to three times; four operations follow.
    const WEIGHT_ROUNDINGS: f64 = 7.0;

    fn takes(coordinates: Coordinates) -> bool {
        Bilinear::takes(coordinates)
    }

    fn taps(p: f32, input: usize) -> Vec<Tap> {
        const A: f64 = -0.75;
        let floor = p.floor();
        let t = f64::from(p - floor);
        let s = 1.0 - t;
        let outer = |t: f64, s: f64| (A * t * s * s, (A * t * s * s).abs());
        let inner = |t: f64| {
            let (square, cube) = ((A + 3.0) * t * t, (A + 2.0) * t * t * t);
            (1.0 - square + cube, 1.0 + square + cube)
        };
        let weights = [outer(t, s), inner(t), inner(s), outer(s, t)];
        let tap = |(k, &(weight, magnitude)): (usize, &(f64, f64))| {
            let at = (floor as isize - 1 + k as isize).clamp(0, input as isize - 1) as usize;
            Tap { at, weight, magnitude }
        };
        weights.iter().enumerate().map(tap).collect()
    }
}

fn validate<I: Interpolation>(params: &Params) -> Result<(), String> {
    check_dtype(params.dtype)?;
    check_sizes(&[params.in_h, params.in_w, params.out_h, params.out_w])?;
    if !I::takes(params.coordinates) {
        return Err(format!("no {} with coordinates {:?}", I::FORWARD, params.coordinates));
    }
    for (input, output) in [(params.in_h, params.out_h), (params.in_w, params.out_w)] {
        if input == 0 && output > 0 {
            return Err("there are no pixels to interpolate".into());
        }
        let expected = (input as f64 * params.factor).floor() as usize;
        if params.factor > 0.0 && expected != output {
            return Err(format!("{input} pixels times {} are {expected}", params.factor));
        }
    }
    if !(params.factor >= 0.0 && params.factor.is_finite()) {
        return Err(format!("a factor of {}", params.factor));
    }
    Ok(())
}

/// An image resized: `output[n, c, y, x] = Σ wy(y, i) · wx(x, j) · input[n, c, i, j]`.
///
/// | input | shape | type | meaning |
/// |---|---|---|---|
/// | `input` | [batch, channels, in_h, in_w] | f32, f16, bf16 | the image |
///
/// | output | shape | type | meaning |
/// |---|---|---|---|
/// | `output` | [batch, channels, out_h, out_w] | that of `input` | the resized image |
///
/// Positions, weights and borders are those of PyTorch's `interpolate`: see [`Coordinates`],
/// [`Nearest`], [`Bilinear`], [`Bicubic`]. Sums are f32. An output without pixels is empty; an input without
/// pixels has only that. Source: Keys 1981, "Cubic convolution interpolation for digital image processing".
#[derive(Debug)]
pub struct Forward<I>(PhantomData<I>);

impl<I: Interpolation> Algorithm for Forward<I> {
    const NAME: &'static str = I::FORWARD;
    const SUMMARY: &'static str = I::FORWARD_SUMMARY;
    const ITEMS: &'static str = "pixels";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        validate::<I>(params)
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        Tensors::new().with("input", draw.elements(params.dtype, &params.shape_in()))
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let input = inputs.tensor("input").to_f64();
        let [ys, xs] = params.taps::<I>();
        // A term is rounded with its product and each sum it enters: I::TAPS times along either axis,
        // beside its two weights. Of a copy nothing is rounded.
        let roundings = 2.0 * (I::TAPS as f64 + I::WEIGHT_ROUNDINGS);
        let relative = SECOND_ORDER * roundings * DType::F32.unit_roundoff();
        let tolerance = (I::TAPS > 1).then_some(Tolerance { relative, storage: params.dtype });
        let cost = params.out_w * I::TAPS * I::TAPS;
        let shape = params.shape_out();
        let output = by_rows(&shape, cost, params.dtype, tolerance, |row, value, magnitude| {
            let plane = row / params.out_h * params.in_h * params.in_w;
            for y in &ys[row % params.out_h] {
                let line = &input[plane + y.at * params.in_w..][..params.in_w];
                for (x, taps) in xs.iter().enumerate() {
                    for x_tap in taps {
                        let pixel = line[x_tap.at];
                        value[x] += y.weight * x_tap.weight * pixel;
                        magnitude[x] += y.magnitude * x_tap.magnitude * pixel.abs();
                    }
                }
            }
        });
        Outputs::new().with("output", output)
    }

    /// bytes = input + output; flops = a multiply-add for each of the taps² pixels an output reads (none
    /// for nearest); items = output pixels of all channels.
    fn work(params: &Params, _inputs: &Tensors) -> Work {
        params.work::<I>()
    }
}

/// The transpose: `d_input[n, c, i, j] = Σ wy(y, i) · wx(x, j) · d_output[n, c, y, x]`.
///
/// | input | shape | type | meaning |
/// |---|---|---|---|
/// | `d_output` | [batch, channels, out_h, out_w] | f32, f16, bf16 | gradient of the resized image |
///
/// | output | shape | type | meaning |
/// |---|---|---|---|
/// | `d_input` | [batch, channels, in_h, in_w] | that of `d_output` | gradient of the image |
///
/// Weights as in [`Forward`]; sums are f32, rounded once. Pixels that no output reads get zero.
#[derive(Debug)]
pub struct Backward<I>(PhantomData<I>);

impl<I: Interpolation> Algorithm for Backward<I> {
    const NAME: &'static str = I::BACKWARD;
    const SUMMARY: &'static str = I::BACKWARD_SUMMARY;
    const ITEMS: &'static str = "pixels";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        validate::<I>(params)
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        Tensors::new().with("d_output", draw.elements(params.dtype, &params.shape_out()))
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let gradient = inputs.tensor("d_output").to_f64();
        let [ys, xs] = params.taps::<I>();
        let (ys, xs) = (transposed(&ys, params.in_h), transposed(&xs, params.in_w));
        // A term is rounded with the product of its weights (made of taps that fall together at a border),
        // its own product, and every later sum: how many differs from pixel to pixel, so it is counted in
        // the magnitude.
        let own = if I::TAPS == 1 { 0.0 } else { 2.0 * I::WEIGHT_ROUNDINGS + 4.0 };
        let relative = SECOND_ORDER * DType::F32.unit_roundoff();
        let tolerance = Some(Tolerance { relative, storage: params.dtype });
        let longest = |axis: &[Vec<Tap>]| axis.iter().map(Vec::len).sum::<usize>();
        let cost = longest(&xs) * longest(&ys).div_ceil(params.in_h.max(1));
        let shape = params.shape_in();
        let output = by_rows(&shape, cost, params.dtype, tolerance, |row, value, magnitude| {
            let plane = row / params.in_h * params.out_h * params.out_w;
            let y_taps = &ys[row % params.in_h];
            for y in y_taps {
                let line = &gradient[plane + y.at * params.out_w..][..params.out_w];
                for (x, taps) in xs.iter().enumerate() {
                    for x_tap in taps {
                        value[x] += y.weight * x_tap.weight * line[x_tap.at];
                        magnitude[x] += y.magnitude * x_tap.magnitude * line[x_tap.at].abs();
                    }
                }
            }
            for (magnitude, taps) in magnitude.iter_mut().zip(&xs) {
                *magnitude *= own + sum_roundings(taps.len() * y_taps.len());
            }
        });
        Outputs::new().with("d_input", output)
    }

    /// bytes = input + output; flops = as forward (for nearest none: its sums are not counted); items =
    /// pixels of `d_output`.
    fn work(params: &Params, _inputs: &Tensors) -> Work {
        params.work::<I>()
    }
}

/// For each input pixel the outputs that read it: taps whose `at` is an output's index.
fn transposed(axis: &[Vec<Tap>], input: usize) -> Vec<Vec<Tap>> {
    let mut readers = vec![Vec::new(); input];
    for (output, taps) in axis.iter().enumerate() {
        for tap in taps {
            readers[tap.at].push(Tap { at: output, ..*tap });
        }
    }
    readers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;

    fn line(
        from: &[f64],
        out_w: usize,
        coordinates: Coordinates,
        factor: f64,
    ) -> (Params, Tensors) {
        let params = Params {
            batch: 1,
            channels: 1,
            in_h: 1,
            in_w: from.len(),
            out_h: 1,
            out_w,
            coordinates,
            factor,
            dtype: DType::F32,
        };
        let tensor = Tensor::from_real(DType::F32, &params.shape_in(), from);
        (params, Tensors::new().with("input", tensor))
    }

    fn resized<I: Interpolation>(from: &[f64], out: usize, coordinates: Coordinates) -> Vec<f64> {
        let (params, inputs) = line(from, out, coordinates, 0.0);
        Forward::<I>::validate(&params).unwrap();
        Forward::<I>::reference(&params, &inputs).output("output").values()
    }

    #[test]
    fn nearest_and_nearest_exact_differ_where_pytorchs_do() {
        let from = [0.0, 1.0, 2.0];
        assert_eq!(resized::<Nearest>(&from, 5, Coordinates::Floor), [0.0, 0.0, 1.0, 1.0, 2.0]);
        assert_eq!(resized::<Nearest>(&from, 5, Coordinates::Centre), [0.0, 0.0, 1.0, 2.0, 2.0]);
    }

    #[test]
    fn known_bilinear_values() {
        let from = [0.0, 4.0];
        let half = resized::<Bilinear>(&from, 4, Coordinates::HalfPixel);
        assert_eq!(half, [0.0, 1.0, 3.0, 4.0]);
        let corners = resized::<Bilinear>(&from, 5, Coordinates::AlignCorners);
        assert_eq!(corners, [0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(resized::<Bilinear>(&from, 1, Coordinates::AlignCorners), [0.0]);
    }

    #[test]
    fn known_bicubic_values() {
        // At t = ¾ of a unit step: a·¾·(¼)², … summed by hand over the clamped neighbours.
        let got = resized::<Bicubic>(&[0.0, 1.0], 4, Coordinates::HalfPixel);
        let (a, t): (f64, f64) = (-0.75, 0.75);
        let s = 1.0 - t;
        let w = [a * t * s * s, 1.0 - 2.25 * t * t + 1.25 * t * t * t];
        let w = [w[0], w[1], 1.0 - 2.25 * s * s + 1.25 * s * s * s, a * s * t * t];
        assert!((w.iter().sum::<f64>() - 1.0).abs() < 1e-15);
        // p = −0.25: pixels −2…1, of which only the last is 1. p = 0.25: pixels −1…2, mirrored weights.
        let expected = [w[3], w[1] + w[0], w[2] + w[3], 1.0 - w[3]];
        assert!(got.iter().zip(expected).all(|(g, e)| (g - e).abs() < 1e-15), "{got:?}");
    }

    #[test]
    fn a_given_factor_changes_the_step() {
        let (params, inputs) = line(&[0.0, 1.0, 2.0, 3.0], 6, Coordinates::HalfPixel, 1.6);
        Forward::<Bilinear>::validate(&params).unwrap();
        let values = Forward::<Bilinear>::reference(&params, &inputs).output("output").values();
        assert!((values[1] - (1.5 / 1.6 - 0.5)).abs() < 1e-6);
        let (params, _) = line(&[0.0], 3, Coordinates::HalfPixel, 2.0);
        assert!(Forward::<Bilinear>::validate(&params).is_err());
    }

    #[test]
    fn known_gradient() {
        let (mut params, _) = line(&[0.0, 0.0], 4, Coordinates::HalfPixel, 0.0);
        params.channels = 2;
        let gradient = [1.0, 2.0, 3.0, 4.0, 1.0, 0.0, 0.0, 0.0];
        let gradient = Tensor::from_real(DType::F32, &params.shape_out(), &gradient);
        let inputs = Tensors::new().with("d_output", gradient);
        let outputs = Backward::<Bilinear>::reference(&params, &inputs);
        // Weights of the outputs: (1, 0), (¾, ¼), (¼, ¾), (0, 1).
        assert_eq!(outputs.output("d_input").values(), [3.25, 6.75, 1.0, 0.0]);
    }
}
