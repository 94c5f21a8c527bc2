//! Numbers rounded from one format into another.

use serde::{Deserialize, Serialize};

use super::{
    computed, element, elements, expected,
    format::{Format, Rounding},
};
use crate::{Algorithm, DType, Data, Draw, Expected, Outputs, Tensor, Tensors, Work};

/// How inputs are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Values {
    /// N(0, 1): weights and activations. All of them finite in every format.
    Normal,
    /// Magnitudes spread evenly over all exponents in which the source or the target is finite, with either
    /// sign: subnormals, overflow.
    Wide,
    /// As wide, with zeros, infinities, NaNs, largest values, and middles between neighbours of the target
    /// in between. Outputs are compared as bits.
    Special,
}

/// Parameters of [`Cast`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Numbers.
    pub elements: usize,
    /// Format of the input; tf32 and f32 are stored alike.
    pub from: Format,
    /// Format of the output.
    pub to: Format,
    /// How they are rounded.
    pub rounding: Rounding,
    /// Whether what is too large becomes the largest finite value instead of ∞ or NaN.
    pub saturate: bool,
    /// How inputs are drawn.
    pub values: Values,
}

impl Params {
    /// Numbers of wide magnitude: 2 to a uniform power, times a uniform in 1..2, with either sign.
    fn wide(&self, draw: &mut Draw) -> f64 {
        let low = |format: Format| format.min_exponent() - format.mantissa_bits() - 2;
        let low = low(self.from).max(low(self.to).max(-1000));
        let high = (self.to.max().min(self.from.max()).log2().floor() as i32).min(1020) + 2;
        let exponent = low + draw.below((high - low) as usize) as i32;
        let magnitude = (1.0 + draw.unit()) * 2f64.powi(exponent);
        if draw.below(2) == 0 { magnitude } else { -magnitude }
    }

    fn special(&self, draw: &mut Draw) -> f64 {
        let x = self.wide(draw);
        // The middle between x's neighbours in the target: a step of the next finer format.
        let below = self.to.round(x, Rounding::Stochastic, 0, true);
        let above = self.to.round(x, Rounding::Stochastic, u32::MAX, true);
        match draw.below(16) {
            0 => 0.0f64.copysign(x),
            1 => f64::INFINITY.copysign(x),
            2 => f64::NAN,
            3 => self.from.max().copysign(x),
            4 => self.to.max().copysign(x),
            5..=8 => below + (above - below) / 2.0,
            9 => below,
            _ => x,
        }
    }

    fn one(&self, draw: &mut Draw) -> f64 {
        match self.values {
            Values::Normal => draw.standard_normal(),
            Values::Wide => self.wide(draw),
            Values::Special => self.special(draw),
        }
    }

    fn draw(&self, draw: &mut Draw) -> Tensor {
        if self.from.dtype() != DType::U8 {
            return elements(self.from.dtype(), self.elements, || {
                // Finite inputs stay finite: only `Special` holds what is not.
                let x = self.one(draw);
                let saturate = self.values != Values::Special;
                self.from.round(x, Rounding::NearestEven, 0, saturate)
            });
        }
        let one = |_| loop {
            let bits = draw.below(256) as u8;
            let value = self.from.decode8(bits);
            if value.is_finite() || self.values == Values::Special {
                return bits;
            }
        };
        Tensor::new(&[self.elements], Data::U8((0..self.elements).map(one).collect()))
    }
}

/// `output[i]` = `input[i]` rounded into another format; see [`Format::round`] for the rule.
///
/// | input | shape | type | meaning |
/// |---|---|---|---|
/// | `input` | [elements] | that of `from`; 8-bit formats as u8 | the numbers |
/// | `u` | [elements] | u32 | stochastic rounding only: uniform bits |
///
/// | output | shape | type | meaning |
/// |---|---|---|---|
/// | `output` | [elements] | that of `to`; 8-bit formats as u8 | the rounded numbers |
/// | `bits` | [elements, bytes] | u8 | in place of `output` for special values: the same bits, little-endian, NaN as all bits but the sign |
///
/// Every bit must be right: rounding is decided, by the value alone or by the bits in `u`. Source: IEEE
/// 754-2019, section 4.3.1; Gupta et al. 2015, "Deep Learning with Limited Numerical Precision", section 3;
/// Micikevicius et al. 2022, "FP8 Formats for Deep Learning".
#[derive(Debug)]
pub struct Cast;

impl Algorithm for Cast {
    const NAME: &'static str = "precision.cast";
    const SUMMARY: &'static str = "numbers rounded from one format into another";
    const ITEMS: &'static str = "numbers";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        if params.from == Format::F64 && params.to == Format::F64 {
            return Err("a cast from f64 to f64 rounds nothing".into());
        }
        Ok(())
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        let tensors = Tensors::new().with("input", params.draw(draw));
        match params.rounding {
            Rounding::NearestEven => tensors,
            Rounding::Stochastic => {
                let bits = (0..params.elements).map(|_| draw.below(1 << 32) as u32).collect();
                tensors.with("u", Tensor::new(&[params.elements], Data::U32(bits)))
            }
        }
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let input = inputs.tensor("input");
        let u = inputs.get("u").map(|u| match u.data() {
            Data::U32(u) => &u[..],
            _ => unreachable!("uniform bits are u32"),
        });
        let cast = |i: usize| {
            let x = match input.data() {
                Data::U8(bits) => params.from.decode8(bits[i]),
                _ => element(input, i),
            };
            params.to.round(x, params.rounding, u.map_or(0, |u| u[i]), params.saturate)
        };
        let (n, dtype) = (params.elements, params.to.dtype());
        let as_bits = |i: usize| params.to.encode(cast(i)).into_iter().map(i64::from);
        if params.values == Values::Special {
            let bits = (0..n).flat_map(as_bits).collect();
            let bits = ndarray::Array2::from_shape_vec((n, dtype.bytes()), bits);
            let bits = bits.expect("so many bytes an element");
            return Outputs::new().with("bits", Expected::exact(DType::U8, bits));
        }
        if dtype == DType::U8 {
            let bits = ndarray::Array1::from_iter((0..n).flat_map(as_bits));
            return Outputs::new().with("output", Expected::exact(DType::U8, bits));
        }
        let known: Vec<_> = computed(n).into_iter().map(|i| (i, cast(i), 0.0)).collect();
        Outputs::new().with("output", expected(n, dtype, None, &known))
    }

    /// bytes = input + output, and four an element of uniform bits; no flops; items = numbers.
    fn work(params: &Params, inputs: &Tensors) -> Work {
        let bytes = inputs.bytes() + params.elements * params.to.dtype().bytes();
        Work {
            flops: 0.0,
            bytes: bytes as f64,
            items: params.elements as f64,
            matrix: false,
            eight_bit: false,
        }
    }
}
