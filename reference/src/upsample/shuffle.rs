//! Channels shuffled into space, and back.

use serde::{Deserialize, Serialize};

use super::{by_rows, check_dtype, check_sizes};
use crate::{Algorithm, DType, Draw, Outputs, Tensors, Work};

/// Parameters of [`PixelShuffle`] and [`PixelUnshuffle`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Images.
    pub batch: usize,
    /// Channels of the large image.
    pub channels: usize,
    /// Rows of the small image.
    pub height: usize,
    /// Columns of the small image.
    pub width: usize,
    /// How much larger an axis becomes, r.
    pub factor: usize,
    /// Element type.
    pub dtype: DType,
}

impl Params {
    /// [batch, channels · r², height, width].
    pub fn small(&self) -> [usize; 4] {
        let channels = self.channels * self.factor * self.factor;
        [self.batch, channels, self.height, self.width]
    }

    /// [batch, channels, height · r, width · r].
    pub fn large(&self) -> [usize; 4] {
        [self.batch, self.channels, self.height * self.factor, self.width * self.factor]
    }

    fn validate(&self) -> Result<(), String> {
        check_dtype(self.dtype)?;
        check_sizes(&[self.large()[2], self.large()[3]])?;
        if !(1..=64).contains(&self.factor) {
            return Err(format!("a factor of {}", self.factor));
        }
        Ok(())
    }

    fn work(&self) -> Work {
        let elements = self.large().iter().product::<usize>() as f64;
        let bytes = 2.0 * elements * self.dtype.bytes() as f64;
        Work { flops: 0.0, bytes, items: elements, matrix: false, eight_bit: false }
    }
}

/// r² channels become r × r pixels: `output[n, c, h·r + i, w·r + j] = input[n, (c·r + i)·r + j, h, w]`.
///
/// | input | shape | type | meaning |
/// |---|---|---|---|
/// | `input` | [batch, channels · r², height, width] | f32, f16, bf16 | the small image |
///
/// | output | shape | type | meaning |
/// |---|---|---|---|
/// | `output` | [batch, channels, height · r, width · r] | that of `input` | the large image |
///
/// A permutation: every bit must be right. Source: Shi et al. 2016, "Real-Time Single Image and Video
/// Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network", equation 4, with the order
/// of channels PyTorch's `pixel_shuffle` has.
#[derive(Debug)]
pub struct PixelShuffle;

impl Algorithm for PixelShuffle {
    const NAME: &'static str = "upsample.pixel_shuffle";
    const SUMMARY: &'static str = "groups of channels laid out as blocks of pixels";
    const ITEMS: &'static str = "pixels";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        params.validate()
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        Tensors::new().with("input", draw.elements(params.dtype, &params.small()))
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let input = inputs.tensor("input").to_f64();
        let (r, plane) = (params.factor, params.height * params.width);
        let shape = params.large();
        let output = by_rows(&shape, shape[3], params.dtype, None, |row, value, _| {
            let (channel, y) = (row / shape[2], row % shape[2]);
            for (x, value) in value.iter_mut().enumerate() {
                let from = (channel * r + y % r) * r + x % r;
                *value = input[from * plane + y / r * params.width + x / r];
            }
        });
        Outputs::new().with("output", output)
    }

    /// bytes = input + output; no flops; items = pixels of all channels of the large image.
    fn work(params: &Params, _inputs: &Tensors) -> Work {
        params.work()
    }
}

/// The inverse, which is also the transpose: r × r pixels become r² channels.
///
/// | input | shape | type | meaning |
/// |---|---|---|---|
/// | `d_output` | [batch, channels, height · r, width · r] | f32, f16, bf16 | gradient of the large image |
///
/// | output | shape | type | meaning |
/// |---|---|---|---|
/// | `d_input` | [batch, channels · r², height, width] | that of `d_output` | gradient of the small image |
#[derive(Debug)]
pub struct PixelUnshuffle;

impl Algorithm for PixelUnshuffle {
    const NAME: &'static str = "upsample.pixel_shuffle_backward";
    const SUMMARY: &'static str = "blocks of pixels gathered into groups of channels";
    const ITEMS: &'static str = "pixels";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        params.validate()
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        Tensors::new().with("d_output", draw.elements(params.dtype, &params.large()))
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let gradient = inputs.tensor("d_output").to_f64();
        let (r, [.., large_h, large_w]) = (params.factor, params.large());
        let shape = params.small();
        let output = by_rows(&shape, shape[3], params.dtype, None, |row, value, _| {
            let (channel, h) = (row / params.height, row % params.height);
            let (c, i, j) = (channel / (r * r), channel / r % r, channel % r);
            for (w, value) in value.iter_mut().enumerate() {
                *value = gradient[(c * large_h + h * r + i) * large_w + w * r + j];
            }
        });
        Outputs::new().with("d_input", output)
    }

    /// As the forward operation's.
    fn work(params: &Params, _inputs: &Tensors) -> Work {
        params.work()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;

    #[test]
    fn known_shuffle_and_its_inverse() {
        let params =
            Params { batch: 1, channels: 1, height: 1, width: 2, factor: 2, dtype: DType::F32 };
        let values: Vec<f64> = (0..8).map(f64::from).collect();
        let small = Tensor::from_real(DType::F32, &params.small(), &values);
        let outputs = PixelShuffle::reference(&params, &Tensors::new().with("input", small));
        let large = outputs.output("output").values();
        assert_eq!(large, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        let large = Tensor::from_real(DType::F32, &params.large(), &large);
        let outputs = PixelUnshuffle::reference(&params, &Tensors::new().with("d_output", large));
        assert_eq!(outputs.output("d_input").values(), values);
    }
}
