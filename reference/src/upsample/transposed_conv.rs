//! Transposed convolution: every input pixel paints a learned patch into the output.

use serde::{Deserialize, Serialize};

use super::{SECOND_ORDER, by_rows, check_dtype, check_sizes, sum_roundings};
use crate::{Algorithm, DType, Draw, Expected, Outputs, Tensors, Tolerance, Work};

/// Parameters of [`Forward`] and [`Backward`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Images.
    pub batch: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Rows of the input.
    pub height: usize,
    /// Columns of the input.
    pub width: usize,
    /// Rows and columns of a patch, k.
    pub kernel: usize,
    /// Output pixels between the patches of neighbouring input pixels, s.
    pub stride: usize,
    /// Pixels cut off at every border of the output, p.
    pub padding: usize,
    /// Pixels added at the lower and right border, below s.
    pub output_padding: usize,
    /// Element type of everything; sums are f32.
    pub dtype: DType,
}

impl Params {
    /// Pixels of the output along an axis of `input`: (input − 1) · s − 2p + k + output_padding, none for
    /// no input.
    pub fn out(&self, input: usize) -> usize {
        match input {
            0 => 0,
            _ => (input - 1) * self.stride + self.kernel + self.output_padding - 2 * self.padding,
        }
    }

    /// [batch, in_channels, height, width].
    pub fn input(&self) -> [usize; 4] {
        [self.batch, self.in_channels, self.height, self.width]
    }

    /// [batch, out_channels, out(height), out(width)].
    pub fn output(&self) -> [usize; 4] {
        [self.batch, self.out_channels, self.out(self.height), self.out(self.width)]
    }

    /// [in_channels, out_channels, k, k].
    pub fn weight(&self) -> [usize; 4] {
        [self.in_channels, self.out_channels, self.kernel, self.kernel]
    }

    /// The input pixels and patch pixels that meet in output pixel `o`, along an axis of `input`.
    fn meetings(&self, o: usize, input: usize) -> Vec<(usize, usize)> {
        let taps =
            (0..self.kernel).filter_map(|k| (o + self.padding).checked_sub(k).map(|d| (d, k)));
        let met = taps.filter(|(d, _)| d % self.stride == 0 && d / self.stride < input);
        met.map(|(d, k)| (d / self.stride, k)).collect()
    }

    /// The output pixels and patch pixels that input pixel `i` reaches, along an axis of `output`.
    fn reached(&self, i: usize, output: usize) -> Vec<(usize, usize)> {
        let all = (0..self.kernel)
            .filter_map(|k| (i * self.stride + k).checked_sub(self.padding).map(|o| (o, k)));
        all.filter(|&(o, _)| o < output).collect()
    }

    fn validate(&self) -> Result<(), String> {
        check_dtype(self.dtype)?;
        check_sizes(&[self.height * self.stride, self.width * self.stride])?;
        if !(1..=64).contains(&self.kernel) || !(1..=64).contains(&self.stride) {
            return Err(format!("a kernel of {} with stride {}", self.kernel, self.stride));
        }
        if self.output_padding >= self.stride {
            return Err("the output padding must be below the stride".into());
        }
        if 2 * self.padding >= self.kernel + self.output_padding {
            return Err("the padding leaves nothing of a single pixel's patch".into());
        }
        Ok(())
    }

    /// Multiply-adds without those that the padding cuts off.
    fn products(&self) -> f64 {
        let axis = |input: usize| -> usize {
            (0..input).map(|i| self.reached(i, self.out(input)).len()).sum()
        };
        (self.batch * self.in_channels * self.out_channels) as f64
            * (axis(self.height) as f64 * axis(self.width) as f64)
    }

    fn bytes(&self) -> f64 {
        let elements = |shape: [usize; 4]| shape.iter().product::<usize>();
        let all = elements(self.input()) + elements(self.output()) + elements(self.weight());
        ((all + self.out_channels) * self.dtype.bytes()) as f64
    }

    /// Σ of `terms` products in f32, in any order; each is rounded as a product and in every later sum.
    fn tolerance(&self, terms: usize) -> Option<Tolerance> {
        let roundings = sum_roundings(terms + 1) + 1.0;
        let relative = SECOND_ORDER * roundings * DType::F32.unit_roundoff();
        Some(Tolerance { relative, storage: self.dtype })
    }
}

/// `output[n, o, y, x] = bias[o] + Σ input[n, i, h, w] · weight[i, o, y + p − h·s, x + p − w·s]` over input
/// channels i and pixels (h, w) whose patch covers (y, x).
///
/// | input | shape | type | meaning |
/// |---|---|---|---|
/// | `input` | [batch, in_channels, height, width] | f32, f16, bf16 | the image |
/// | `weight` | [in_channels, out_channels, k, k] | that of `input` | the patches |
/// | `bias` | [out_channels] | that of `input` | added to every pixel |
///
/// | output | shape | type | meaning |
/// |---|---|---|---|
/// | `output` | [batch, out_channels, (height − 1)·s − 2p + k + output_padding, …] | that of `input` | |
///
/// PyTorch's `conv_transpose2d` with dilation 1 and one group. No input channels leave the bias; an image
/// without pixels stays one. Source: Dumoulin & Visin 2016, "A guide to convolution arithmetic for deep
/// learning", chapter 4.
#[derive(Debug)]
pub struct Forward;

impl Algorithm for Forward {
    const NAME: &'static str = "upsample.transposed_conv";
    const SUMMARY: &'static str = "every pixel paints a learned patch";
    const ITEMS: &'static str = "pixels";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        params.validate()
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        Tensors::new()
            .with("input", draw.elements(params.dtype, &params.input()))
            .with("weight", draw.elements(params.dtype, &params.weight()))
            .with("bias", draw.elements(params.dtype, &[params.out_channels]))
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let input = inputs.tensor("input").to_f64();
        let weight = inputs.tensor("weight").to_f64();
        let bias = inputs.tensor("bias").to_f64();
        let (shape, k) = (params.output(), params.kernel);
        let patch = k.div_ceil(params.stride);
        let terms = params.in_channels * patch * patch;
        let tolerance = params.tolerance(terms);
        let xs: Vec<_> = (0..shape[3]).map(|x| params.meetings(x, params.width)).collect();
        let cost = shape[3] * terms;
        let output = by_rows(&shape, cost, params.dtype, tolerance, |row, value, magnitude| {
            let (image, y) = (row / shape[2], row % shape[2]);
            let (n, o) = (image / shape[1], image % shape[1]);
            value.fill(bias[o]);
            magnitude.fill(bias[o].abs());
            for i in 0..params.in_channels {
                for (h, ky) in params.meetings(y, params.height) {
                    let line = ((n * params.in_channels + i) * params.height + h) * params.width;
                    let patch = ((i * params.out_channels + o) * k + ky) * k;
                    for (x, met) in xs.iter().enumerate() {
                        for (w, kx) in met {
                            let term = input[line + w] * weight[patch + kx];
                            value[x] += term;
                            magnitude[x] += term.abs();
                        }
                    }
                }
            }
        });
        Outputs::new().with("output", output)
    }

    /// flops = two for every pair of an input pixel and a patch pixel that lands in the output; bytes =
    /// input, weight, bias and output; items = output pixels of all channels.
    fn work(params: &Params, _inputs: &Tensors) -> Work {
        Work {
            flops: 2.0 * params.products(),
            bytes: params.bytes(),
            items: params.output().iter().product::<usize>() as f64,
            matrix: true,
            eight_bit: false,
        }
    }
}

/// Gradients of [`Forward`] with respect to input, weight and bias.
///
/// | input | shape | type | meaning |
/// |---|---|---|---|
/// | `d_output` | [batch, out_channels, …] | f32, f16, bf16 | gradient of the output |
/// | `input` | [batch, in_channels, height, width] | that of `d_output` | the image |
/// | `weight` | [in_channels, out_channels, k, k] | that of `d_output` | the patches |
///
/// | output | shape | type | meaning |
/// |---|---|---|---|
/// | `d_input` | as `input` | that of `d_output` | Σ over the patch of d_output · weight: a convolution |
/// | `d_weight` | as `weight` | that of `d_output` | Σ over images and pixels of input · d_output |
/// | `d_bias` | [out_channels] | that of `d_output` | Σ over images and pixels of d_output |
#[derive(Debug)]
pub struct Backward;

impl Algorithm for Backward {
    const NAME: &'static str = "upsample.transposed_conv_backward";
    const SUMMARY: &'static str = "gradients of image, patches and bias";
    const ITEMS: &'static str = "pixels";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        params.validate()
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        Tensors::new()
            .with("d_output", draw.elements(params.dtype, &params.output()))
            .with("input", draw.elements(params.dtype, &params.input()))
            .with("weight", draw.elements(params.dtype, &params.weight()))
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let gradient = inputs.tensor("d_output").to_f64();
        let input = inputs.tensor("input").to_f64();
        let weight = inputs.tensor("weight").to_f64();
        Outputs::new()
            .with("d_input", d_input(params, &gradient, &weight))
            .with("d_weight", d_weight(params, &gradient, &input))
            .with("d_bias", d_bias(params, &gradient))
    }

    /// flops = twice the forward's, and one a pixel of `d_output` for the bias; bytes = the three inputs
    /// and the three outputs; items = pixels of all channels of `d_output`.
    fn work(params: &Params, _inputs: &Tensors) -> Work {
        let pixels = params.output().iter().product::<usize>() as f64;
        let once = (params.output().iter().product::<usize>() * params.dtype.bytes()) as f64;
        Work {
            flops: 4.0 * params.products() + pixels,
            bytes: 2.0 * params.bytes() - once,
            items: pixels,
            matrix: true,
            eight_bit: false,
        }
    }
}

fn d_input(params: &Params, gradient: &[f64], weight: &[f64]) -> Expected {
    let (shape, [_, channels, out_h, out_w]) = (params.input(), params.output());
    let k = params.kernel;
    let terms = channels * k * k;
    let xs: Vec<_> = (0..params.width).map(|w| params.reached(w, out_w)).collect();
    let tolerance = params.tolerance(terms);
    by_rows(&shape, shape[3] * terms, params.dtype, tolerance, |row, value, magnitude| {
        let (image, h) = (row / params.height, row % params.height);
        let (n, i) = (image / params.in_channels, image % params.in_channels);
        for o in 0..channels {
            for (y, ky) in params.reached(h, out_h) {
                let line = ((n * channels + o) * out_h + y) * out_w;
                let patch = ((i * channels + o) * k + ky) * k;
                for (w, reached) in xs.iter().enumerate() {
                    for (x, kx) in reached {
                        let term = gradient[line + x] * weight[patch + kx];
                        value[w] += term;
                        magnitude[w] += term.abs();
                    }
                }
            }
        }
    })
}

fn d_weight(params: &Params, gradient: &[f64], input: &[f64]) -> Expected {
    let (shape, [batch, channels, out_h, out_w]) = (params.weight(), params.output());
    let (k, [_, _, height, width]) = (params.kernel, params.input());
    let terms = batch * height * width;
    let tolerance = params.tolerance(terms);
    by_rows(&shape, k * terms, params.dtype, tolerance, |row, value, magnitude| {
        let (pair, ky) = (row / k, row % k);
        let (i, o) = (pair / channels, pair % channels);
        for (n, h) in (0..batch).flat_map(|n| (0..height).map(move |h| (n, h))) {
            let Some(y) = (h * params.stride + ky).checked_sub(params.padding) else { continue };
            if y >= out_h {
                continue;
            }
            let from = ((n * params.in_channels + i) * height + h) * width;
            let line = ((n * channels + o) * out_h + y) * out_w;
            for w in 0..width {
                for (x, kx) in params.reached(w, out_w) {
                    let term = input[from + w] * gradient[line + x];
                    value[kx] += term;
                    magnitude[kx] += term.abs();
                }
            }
        }
    })
}

fn d_bias(params: &Params, gradient: &[f64]) -> Expected {
    let [batch, channels, out_h, out_w] = params.output();
    let plane = out_h * out_w;
    let tolerance = params.tolerance(batch * plane);
    by_rows(&[channels], 0, params.dtype, tolerance, |_, value, magnitude| {
        for (image, o) in (0..batch * channels).map(|image| (image, image % channels)) {
            for g in &gradient[image * plane..(image + 1) * plane] {
                value[o] += g;
                magnitude[o] += g.abs();
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;

    fn line(stride: usize, padding: usize, output_padding: usize) -> Params {
        Params {
            batch: 1,
            in_channels: 1,
            out_channels: 1,
            height: 1,
            width: 2,
            kernel: 3,
            stride,
            padding,
            output_padding,
            dtype: DType::F32,
        }
    }

    #[test]
    fn known_patches() {
        let params = line(2, 1, 1);
        assert_eq!(params.output(), [1, 1, 2, 4]);
        let real = |shape: &[usize], values: &[f64]| Tensor::from_real(DType::F32, shape, values);
        let inputs = Tensors::new()
            .with("input", real(&params.input(), &[1.0, 10.0]))
            .with("weight", real(&params.weight(), &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]))
            .with("bias", real(&[1], &[0.5]));
        let outputs = Forward::reference(&params, &inputs);
        // The patch of the first pixel begins one above and one left of the output.
        let expected = [5.5, 46.5, 50.5, 60.5, 8.5, 79.5, 80.5, 90.5];
        assert_eq!(outputs.output("output").values(), expected);
    }

    #[test]
    fn gradients_are_the_derivatives_of_a_weighted_sum() {
        let params =
            Params { batch: 2, in_channels: 2, out_channels: 3, height: 2, ..line(2, 1, 0) };
        let all = Forward::inputs(&params, &mut Draw::new(3));
        let inputs = Backward::inputs(&params, &mut Draw::new(3))
            .with("input", all.tensor("input").clone())
            .with("weight", all.tensor("weight").clone());
        let gradients = Backward::reference(&params, &inputs);
        let g = inputs.tensor("d_output").to_f64();
        let total = |name: &str, at: usize, step: f64| -> f64 {
            let mut values = all.tensor(name).to_f64();
            values[at] += step;
            let moved = Tensor::from_real(DType::F64, all.tensor(name).shape(), &values);
            let outputs = Forward::reference(&params, &all.clone().with(name, moved));
            outputs.output("output").values().iter().zip(&g).map(|(y, g)| y * g).sum()
        };
        for name in ["input", "weight", "bias"] {
            let gradient = gradients.output(&format!("d_{name}")).values();
            assert_eq!(gradient.len(), all.tensor(name).len());
            for (at, &d) in gradient.iter().enumerate() {
                // The operation is linear in each of them, so a difference is exact but for rounding.
                let difference = total(name, at, 0.5) - total(name, at, -0.5);
                assert!((difference - d).abs() < 1e-9, "{name}[{at}]: {difference} {d}");
            }
        }
    }
}
