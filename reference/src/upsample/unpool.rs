//! Max pooling undone: values put back where their maxima were.

use serde::{Deserialize, Serialize};

use super::{by_rows, check_dtype, check_sizes};
use crate::{Algorithm, DType, Draw, Outputs, Tensor, Tensors, Work};

/// Where the maxima were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Places {
    /// Each in its own window of k × k pixels, as a pooling with stride k leaves them.
    Windows,
    /// Anywhere in the plane, no two at one place, as poolings with padding or larger strides may leave
    /// them.
    Anywhere,
}

/// Parameters of [`Unpool`] and [`UnpoolBackward`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Images.
    pub batch: usize,
    /// Channels of an image.
    pub channels: usize,
    /// Rows of the pooled image.
    pub height: usize,
    /// Columns of the pooled image.
    pub width: usize,
    /// How much larger an axis becomes, k.
    pub window: usize,
    /// Where the maxima were.
    pub places: Places,
    /// Element type.
    pub dtype: DType,
}

impl Params {
    /// [batch, channels, height, width].
    pub fn small(&self) -> [usize; 4] {
        [self.batch, self.channels, self.height, self.width]
    }

    /// [batch, channels, height · k, width · k].
    pub fn large(&self) -> [usize; 4] {
        [self.batch, self.channels, self.height * self.window, self.width * self.window]
    }

    fn validate(&self) -> Result<(), String> {
        check_dtype(self.dtype)?;
        if !(1..=64).contains(&self.window) {
            return Err(format!("a window of {}", self.window));
        }
        // Before they are multiplied: a case id may name any size.
        check_sizes(&[self.height, self.width])?;
        check_sizes(&self.large()[2..])
    }

    fn indices(&self, draw: &mut Draw) -> Tensor {
        let [planes, channels, height, width] = self.small();
        let (k, large_w) = (self.window, width * self.window);
        let large = height * k * large_w;
        let mut indices = Vec::with_capacity(planes * channels * height * width);
        for _ in 0..planes * channels {
            match self.places {
                Places::Windows => {
                    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
                        let (i, j) = (draw.below(k), draw.below(k));
                        indices.push(((y * k + i) * large_w + x * k + j) as i64);
                    }
                }
                Places::Anywhere => {
                    // The head of a shuffle.
                    let mut all: Vec<i64> = (0..large as i64).collect();
                    for head in 0..height * width {
                        all.swap(head, head + draw.below(large - head));
                    }
                    indices.extend_from_slice(&all[..height * width]);
                }
            }
        }
        Tensor::from_integers(DType::I64, &self.small(), &indices)
    }

    fn work(&self) -> Work {
        let elements = |shape: [usize; 4]| shape.iter().product::<usize>();
        let (small, large) = (elements(self.small()), elements(self.large()));
        let bytes = (small + large) * self.dtype.bytes() + small * DType::I64.bytes();
        Work {
            flops: 0.0,
            bytes: bytes as f64,
            items: large as f64,
            matrix: false,
            eight_bit: false,
        }
    }
}

/// `output[n, c, indices[n, c, i]] = input[n, c, i]`, zero elsewhere; positions are flat in a plane.
///
/// | input | shape | type | meaning |
/// |---|---|---|---|
/// | `input` | [batch, channels, height, width] | f32, f16, bf16 | the pooled image |
/// | `indices` | as `input` | i64 | flat position of each value in its plane of the output, no two equal |
///
/// | output | shape | type | meaning |
/// |---|---|---|---|
/// | `output` | [batch, channels, height · k, width · k] | that of `input` | values at their places |
///
/// Copies: every bit must be right. What PyTorch leaves open (two values at one place) does not occur.
/// Source: Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional Networks", section 2.1.
#[derive(Debug)]
pub struct Unpool;

impl Algorithm for Unpool {
    const NAME: &'static str = "upsample.unpool";
    const SUMMARY: &'static str = "pooled values put back where their maxima were";
    const ITEMS: &'static str = "pixels";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        params.validate()
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        Tensors::new()
            .with("input", draw.elements(params.dtype, &params.small()))
            .with("indices", params.indices(draw))
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let input = inputs.tensor("input").to_f64();
        let indices = inputs.tensor("indices").to_i64();
        let (small, shape) = (params.height * params.width, params.large());
        let (mut held, mut plane) = (usize::MAX, Vec::new());
        let output = by_rows(&shape, shape[3], params.dtype, None, |row, value, _| {
            let (channel, y) = (row / shape[2], row % shape[2]);
            if held != channel {
                held = channel;
                plane = vec![0.0; shape[2] * shape[3]];
                for i in channel * small..(channel + 1) * small {
                    plane[indices[i] as usize] = input[i];
                }
            }
            value.copy_from_slice(&plane[y * shape[3]..][..shape[3]]);
        });
        Outputs::new().with("output", output)
    }

    /// bytes = input + indices + output; no flops; items = pixels of all channels of the large image.
    fn work(params: &Params, _inputs: &Tensors) -> Work {
        params.work()
    }
}

/// `d_input[n, c, i] = d_output[n, c, indices[n, c, i]]`.
///
/// | input | shape | type | meaning |
/// |---|---|---|---|
/// | `d_output` | [batch, channels, height · k, width · k] | f32, f16, bf16 | gradient of the large image |
/// | `indices` | [batch, channels, height, width] | i64 | as in [`Unpool`] |
///
/// | output | shape | type | meaning |
/// |---|---|---|---|
/// | `d_input` | [batch, channels, height, width] | that of `d_output` | gradient of the pooled image |
#[derive(Debug)]
pub struct UnpoolBackward;

impl Algorithm for UnpoolBackward {
    const NAME: &'static str = "upsample.unpool_backward";
    const SUMMARY: &'static str = "gradients fetched from where the values were put";
    const ITEMS: &'static str = "pixels";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        params.validate()
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        Tensors::new()
            .with("d_output", draw.elements(params.dtype, &params.large()))
            .with("indices", params.indices(draw))
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let gradient = inputs.tensor("d_output").to_f64();
        let indices = inputs.tensor("indices").to_i64();
        let large = params.large()[2] * params.large()[3];
        let shape = params.small();
        let output = by_rows(&shape, shape[3], params.dtype, None, |row, value, _| {
            let plane = row / params.height * large;
            for (value, &at) in value.iter_mut().zip(&indices[row * params.width..]) {
                *value = gradient[plane + at as usize];
            }
        });
        Outputs::new().with("d_input", output)
    }

    /// bytes = indices + d_input written and as many values of `d_output` read; items = pixels of all
    /// channels of the pooled image.
    fn work(params: &Params, _inputs: &Tensors) -> Work {
        let small = params.small().iter().product::<usize>();
        let bytes = small * (2 * params.dtype.bytes() + DType::I64.bytes());
        Work {
            flops: 0.0,
            bytes: bytes as f64,
            items: small as f64,
            matrix: false,
            eight_bit: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_places() {
        let params = Params {
            batch: 1,
            channels: 1,
            height: 1,
            width: 2,
            window: 2,
            places: Places::Windows,
            dtype: DType::F32,
        };
        let indices = Tensor::from_integers(DType::I64, &params.small(), &[5, 2]);
        let values = Tensor::from_real(DType::F32, &params.small(), &[7.0, 9.0]);
        let inputs = Tensors::new().with("input", values).with("indices", indices.clone());
        let outputs = Unpool::reference(&params, &inputs);
        let large = [0.0, 0.0, 9.0, 0.0, 0.0, 7.0, 0.0, 0.0];
        assert_eq!(outputs.output("output").values(), large);
        let large = Tensor::from_real(DType::F32, &params.large(), &large);
        let inputs = Tensors::new().with("d_output", large).with("indices", indices);
        let outputs = UnpoolBackward::reference(&params, &inputs);
        assert_eq!(outputs.output("d_input").values(), [7.0, 9.0]);
    }
}
