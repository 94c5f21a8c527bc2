//! Gradients of a deep chain of residual layers.

use serde::{Deserialize, Serialize};

use crate::{Algorithm, DType, Data, Draw, Expected, Outputs, Real, Tensor, Tensors, Work};

/// Parameters of [`ChainBackward`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Layers of the chain.
    pub layers: usize,
    /// Rows of a state: batch · tokens.
    pub rows: usize,
    /// Columns of a state.
    pub width: usize,
    /// The last of every so many layers is dense, the others scale columns: 1 makes all dense.
    pub dense_every: usize,
    /// States that may be kept besides the two in work, for the policies that have a budget. Does not
    /// change the answer.
    pub slots: usize,
}

impl Params {
    /// Whether a layer is dense.
    pub fn is_dense(&self, layer: usize) -> bool {
        layer % self.dense_every == self.dense_every - 1
    }

    /// Dense layers before `layer`; scaling layers before it are the others.
    pub fn dense_before(&self, layer: usize) -> usize {
        layer / self.dense_every
    }

    /// What evaluating each layer costs, in operations an element.
    pub fn costs(&self) -> Vec<u64> {
        let cost = |layer| if self.is_dense(layer) { 2 * self.width as u64 } else { 3 };
        (0..self.layers).map(cost).collect()
    }

    /// Weight of a layer beside its input: 1/√layers, in f32.
    pub fn share(&self) -> f32 {
        (1.0 / (self.layers as f64).sqrt()) as f32
    }

    fn dense_layers(&self) -> usize {
        self.dense_before(self.layers)
    }
}

/// Gradients of y = x_L with x_{l+1} = x_l + tanh(z_l) / √L, where z_l = x_l W_l + b_l in a dense layer and
/// z_l = a_l ⊙ x_l + b_l in one that scales.
///
/// | input | shape | type | meaning |
/// |---|---|---|---|
/// | `x` | [rows, width] | f32 | x₀ |
/// | `weight` | [dense layers, width, width] | f32 | W, row k multiplies column k of x |
/// | `scale` | [scaling layers, width] | f32 | a |
/// | `bias` | [layers, width] | f32 | b |
/// | `d_output` | [rows, width] | f32 | gradient of x_L |
///
/// | output | shape | type | meaning |
/// |---|---|---|---|
/// | `d_input` | [rows, width] | f32 | gradient of x₀ |
/// | `d_weight` | as `weight` | f32 | xᵀ dz over all rows |
/// | `d_scale` | as `scale` | f32 | Σ x ⊙ dz over all rows |
/// | `d_bias` | as `bias` | f32 | Σ dz over all rows |
///
/// With dz = (1 − tanh²) dy / √L, and dx = dy + dz Wᵀ or dy + a ⊙ dz. Which states are kept, and which are
/// computed again, is the variants' matter and must not change a bit. No rows give zero gradients. Source: Chen
/// et al. 2016, "Training Deep Nets with Sublinear Memory Cost"; the residual form of He et al. 2016.
#[derive(Debug)]
pub struct ChainBackward;

impl Algorithm for ChainBackward {
    const NAME: &'static str = "checkpoint.chain_backward";
    const SUMMARY: &'static str = "gradients of a deep chain, with few or many of its states kept";
    const ITEMS: &'static str = "states of rows";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        if !(1..=512).contains(&params.layers) || params.dense_every == 0 {
            return Err(format!("{} layers, dense every {}", params.layers, params.dense_every));
        }
        if !(1..=4096).contains(&params.width) || params.rows > 1 << 20 {
            return Err(format!("states of {} × {}", params.rows, params.width));
        }
        Ok(())
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        let (w, dense) = (params.width, params.dense_layers());
        let scaling = params.layers - dense;
        let reach = (3.0 / w as f64).sqrt();
        let f32s = DType::F32;
        Tensors::new()
            .with("x", draw.uniform(f32s, &[params.rows, w], -1.0, 1.0))
            .with("weight", draw.uniform(f32s, &[dense, w, w], -reach, reach))
            .with("scale", draw.uniform(f32s, &[scaling, w], -1.0, 1.0))
            .with("bias", draw.uniform(f32s, &[params.layers, w], -0.5, 0.5))
            .with("d_output", draw.uniform(f32s, &[params.rows, w], -1.0, 1.0))
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let chain = Chain::of(params, inputs);
        let (x, g) = (inputs.tensor("x").to_f64(), inputs.tensor("d_output").to_f64());
        let mut sums = Sums::of(params);
        let mut d_input = Uncertain::zeros(params.rows * params.width);
        for row in 0..params.rows {
            let at = row * params.width..(row + 1) * params.width;
            let (states, tanhs) = chain.forward(Uncertain::exact(&x[at.clone()]));
            let gradient = chain.backward(&states, &tanhs, &g[at.clone()], &mut sums);
            d_input.value[at.clone()].copy_from_slice(&gradient.value);
            d_input.variance[at].copy_from_slice(&gradient.variance);
        }
        let shape = |name: &str| inputs.tensor(name).shape().to_vec();
        let rows = params.rows as f64;
        Outputs::new()
            .with("d_input", d_input.expected(&shape("x")))
            .with("d_weight", sums.weight.expected(&shape("weight"), rows))
            .with("d_scale", sums.scale.expected(&shape("scale"), rows))
            .with("d_bias", sums.bias.expected(&shape("bias"), rows))
    }

    /// flops = of a dense layer 8 · rows · width² (forward, again for its gradients, and both products of
    /// the gradients), of a scaling one 12 · rows · width; bytes = inputs and outputs once; items = rows ·
    /// layers.
    fn work(params: &Params, inputs: &Tensors) -> Work {
        let (rows, w, dense) =
            (params.rows as f64, params.width as f64, params.dense_layers() as f64);
        let scaling = params.layers as f64 - dense;
        Work {
            flops: rows * w * (8.0 * w * dense + 12.0 * scaling),
            // Every input but `d_output` has its gradient among the outputs.
            bytes: (2 * inputs.bytes() - inputs.tensor("d_output").bytes()) as f64,
            items: rows * params.layers as f64,
            matrix: dense > 0.0,
            eight_bit: false,
        }
    }
}

/// Unit roundoff of f32.
const U: f64 = DType::F32.unit_roundoff();

/// Values with the variance of what f32 arithmetic made of them.
///
/// Hundreds of layers make worst-case bounds meaningless: they grow like Π(1 + ‖W‖/√L). So roundings are
/// taken as independent with mean zero (Higham & Mary 2019), each of standard deviation at most u times its
/// result, and their variances are carried through the chain's derivatives: a layer's own column through its
/// whole derivative, other columns as if independent. The bound is [`LAMBDA`] standard deviations: what the
/// covariances left out may add, and a chance beyond naming.
struct Uncertain {
    value: Vec<f64>,
    variance: Vec<f64>,
}

/// Standard deviations in a bound.
const LAMBDA: f64 = 16.0;

impl Uncertain {
    fn zeros(n: usize) -> Self {
        Self { value: vec![0.0; n], variance: vec![0.0; n] }
    }

    fn exact(values: &[f64]) -> Self {
        Self { value: values.to_vec(), variance: vec![0.0; values.len()] }
    }

    fn expected(self, shape: &[usize]) -> Expected {
        let bound = self.value.iter().zip(&self.variance);
        let bound = bound.map(|(v, var)| LAMBDA * var.sqrt() + U * v.abs() + DType::F32.tiny());
        Expected::Real(Real {
            dtype: DType::F32,
            shape: shape.to_vec(),
            at: None,
            bound: bound.collect(),
            value: self.value,
        })
    }
}

/// Variance of the roundings of a sum of `n` terms with magnitude Σ|terms|: no partial sum exceeds it, and a
/// product's rounding comes with each.
fn of_sum(n: f64, magnitude: f64) -> f64 {
    (n + 1.0) * (U * magnitude).powi(2)
}

/// Sums over rows: values, variances of their terms, magnitudes.
struct RowSums {
    sum: Uncertain,
    magnitude: Vec<f64>,
}

impl RowSums {
    fn zeros(n: usize) -> Self {
        Self { sum: Uncertain::zeros(n), magnitude: vec![0.0; n] }
    }

    fn expected(mut self, shape: &[usize], rows: f64) -> Expected {
        let sums = self.sum.variance.iter_mut().zip(&self.magnitude);
        sums.for_each(|(variance, magnitude)| *variance += of_sum(rows, *magnitude));
        self.sum.expected(shape)
    }
}

struct Sums {
    weight: RowSums,
    scale: RowSums,
    bias: RowSums,
}

impl Sums {
    fn of(params: &Params) -> Self {
        let (w, dense) = (params.width, params.dense_layers());
        Self {
            weight: RowSums::zeros(dense * w * w),
            scale: RowSums::zeros((params.layers - dense) * w),
            bias: RowSums::zeros(params.layers * w),
        }
    }
}

/// The chain's parameters as f64.
struct Chain<'p> {
    params: &'p Params,
    weight: Vec<f64>,
    scale: Vec<f64>,
    bias: Vec<f64>,
    share: f64,
}

impl<'p> Chain<'p> {
    fn of(params: &'p Params, inputs: &Tensors) -> Self {
        let real = |name: &str| match inputs.tensor(name).data() {
            Data::F32(values) => values.iter().map(|&v| v.into()).collect(),
            _ => Tensor::to_f64(inputs.tensor(name)),
        };
        let share = params.share().into();
        Self { params, weight: real("weight"), scale: real("scale"), bias: real("bias"), share }
    }

    /// W of a dense layer, [width, width].
    fn dense(&self, layer: usize) -> &[f64] {
        let size = self.params.width * self.params.width;
        &self.weight[self.params.dense_before(layer) * size..][..size]
    }

    /// Where a of a scaling layer begins.
    fn scale_at(&self, layer: usize) -> usize {
        (layer - self.params.dense_before(layer)) * self.params.width
    }

    /// tanh(z) of one row and layer.
    fn tanh(&self, layer: usize, x: &Uncertain) -> Uncertain {
        let w = self.params.width;
        let bias = &self.bias[layer * w..][..w];
        let mut z = Uncertain::exact(bias);
        let mut magnitude: Vec<f64> = bias.iter().map(|b| b.abs()).collect();
        if self.params.is_dense(layer) {
            for (k, row) in self.dense(layer).chunks(w).enumerate() {
                let (x, variance) = (x.value[k], x.variance[k]);
                for (j, weight) in row.iter().enumerate() {
                    z.value[j] += x * weight;
                    z.variance[j] += variance * weight * weight;
                    magnitude[j] += (x * weight).abs();
                }
            }
        } else {
            let scale = &self.scale[self.scale_at(layer)..][..w];
            for j in 0..w {
                z.value[j] += scale[j] * x.value[j];
                z.variance[j] += scale[j] * scale[j] * x.variance[j];
                magnitude[j] += (scale[j] * x.value[j]).abs();
            }
        }
        let terms = if self.params.is_dense(layer) { w as f64 + 1.0 } else { 2.0 };
        for (j, magnitude) in magnitude.into_iter().enumerate() {
            let t = z.value[j].tanh();
            let slope = 1.0 - t * t;
            // CUDA's tanhf is within 2 ulp, which is 4 u.
            let own = (4.0 * U * t).powi(2);
            z.variance[j] = slope * slope * (z.variance[j] + of_sum(terms, magnitude)) + own;
            z.value[j] = t;
        }
        z
    }

    /// The derivative of tanh(z_j) / √L by x_j itself.
    fn own(&self, layer: usize, j: usize, slope: f64) -> f64 {
        let w = self.params.width;
        let factor = match self.params.is_dense(layer) {
            true => self.dense(layer)[j * w + j],
            false => self.scale[self.scale_at(layer) + j],
        };
        self.share * slope * factor
    }

    /// All states x_0 … x_{L−1} of one row, and the tanh of each layer.
    fn forward(&self, x: Uncertain) -> (Vec<Uncertain>, Vec<Uncertain>) {
        let (mut states, mut tanhs) = (vec![x], Vec::new());
        for layer in 0..self.params.layers {
            let x = &states[layer];
            let t = self.tanh(layer, x);
            let mut y = Uncertain::zeros(self.params.width);
            for j in 0..self.params.width {
                let term = self.share * t.value[j];
                y.value[j] = x.value[j] + term;
                let own = self.own(layer, j, 1.0 - t.value[j].powi(2));
                // x_j also reaches y_j through tanh: (1 + own)², of which 1 + own² is in the two terms.
                let through = x.variance[j] * (1.0 + 2.0 * own).max(0.0);
                let rounding = (U * term).powi(2) + (U * y.value[j]).powi(2);
                y.variance[j] = through + self.share.powi(2) * t.variance[j] + rounding;
            }
            states.push(y);
            tanhs.push(t);
        }
        states.pop();
        (states, tanhs)
    }

    /// The gradient of x₀ of one row; gradients of parameters are added to `sums`.
    fn backward(
        &self,
        states: &[Uncertain],
        tanhs: &[Uncertain],
        d_output: &[f64],
        sums: &mut Sums,
    ) -> Uncertain {
        let w = self.params.width;
        let mut dy = Uncertain::exact(d_output);
        for layer in (0..self.params.layers).rev() {
            let (x, t) = (&states[layer], &tanhs[layer]);
            let mut dz = Uncertain::zeros(w);
            let slopes: Vec<f64> = t.value.iter().map(|t| 1.0 - t * t).collect();
            for (j, &slope) in slopes.iter().enumerate() {
                dz.value[j] = self.share * dy.value[j] * slope;
                // 1 − t² inherits the error of t and is rounded twice; the two products are.
                let of_slope = (2.0 * t.value[j]).powi(2) * t.variance[j] + 2.0 * U * U;
                let of_terms = slope * slope * dy.variance[j] + dy.value[j].powi(2) * of_slope;
                dz.variance[j] = self.share.powi(2) * of_terms + 2.0 * (U * dz.value[j]).powi(2);
            }
            let bias = &mut sums.bias;
            for j in 0..w {
                bias.sum.value[layer * w + j] += dz.value[j];
                bias.sum.variance[layer * w + j] += dz.variance[j];
                bias.magnitude[layer * w + j] += dz.value[j].abs();
            }
            dy = match self.params.is_dense(layer) {
                true => self.through_dense(layer, x, &dy, &dz, &slopes, &mut sums.weight),
                false => self.through_scale(layer, x, &dy, &dz, &slopes, &mut sums.scale),
            };
        }
        dy
    }

    fn through_dense(
        &self,
        layer: usize,
        x: &Uncertain,
        dy: &Uncertain,
        dz: &Uncertain,
        slopes: &[f64],
        sums: &mut RowSums,
    ) -> Uncertain {
        let w = self.params.width;
        let first = self.params.dense_before(layer) * w * w;
        let mut dx = Uncertain::zeros(w);
        for (k, row) in self.dense(layer).chunks(w).enumerate() {
            let (value, variance) = (x.value[k], x.variance[k]);
            let at = first + k * w..first + (k + 1) * w;
            let sum = sums.sum.value[at.clone()].iter_mut().zip(&mut sums.sum.variance[at.clone()]);
            let sum = sum.zip(&mut sums.magnitude[at]);
            let (mut total, mut spread, mut magnitude) = (0.0, 0.0, 0.0);
            for (((weight, dz), dz_variance), ((v, var), m)) in
                row.iter().zip(&dz.value).zip(&dz.variance).zip(sum)
            {
                *v += value * dz;
                *var += value * value * dz_variance + dz * dz * variance;
                *m += (value * dz).abs();
                total += weight * dz;
                spread += weight * weight * dz_variance;
                magnitude += (weight * dz).abs();
            }
            let through = dy.variance[k] * (1.0 + 2.0 * self.own(layer, k, slopes[k])).max(0.0);
            dx.value[k] = dy.value[k] + total;
            let rounding = of_sum(w as f64, magnitude) + (U * dx.value[k]).powi(2);
            dx.variance[k] = through + spread + rounding;
        }
        dx
    }

    fn through_scale(
        &self,
        layer: usize,
        x: &Uncertain,
        dy: &Uncertain,
        dz: &Uncertain,
        slopes: &[f64],
        sums: &mut RowSums,
    ) -> Uncertain {
        let (w, first) = (self.params.width, self.scale_at(layer));
        let mut dx = Uncertain::zeros(w);
        for (j, &slope) in slopes.iter().enumerate() {
            let (value, variance, a) = (x.value[j], x.variance[j], self.scale[first + j]);
            sums.sum.value[first + j] += value * dz.value[j];
            sums.sum.variance[first + j] +=
                value * value * dz.variance[j] + dz.value[j].powi(2) * variance;
            sums.magnitude[first + j] += (value * dz.value[j]).abs();
            let through = dy.variance[j] * (1.0 + 2.0 * self.own(layer, j, slope)).max(0.0);
            dx.value[j] = dy.value[j] + a * dz.value[j];
            let rounding = (U * a * dz.value[j]).powi(2) + (U * dx.value[j]).powi(2);
            dx.variance[j] = through + a * a * dz.variance[j] + rounding;
        }
        dx
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(dense_every: usize) -> Params {
        Params { layers: 4, rows: 2, width: 3, dense_every, slots: 1 }
    }

    /// Σ d_output ⊙ x_L.
    fn loss(params: &Params, inputs: &Tensors) -> f64 {
        let chain = Chain::of(params, inputs);
        let (x, g) = (inputs.tensor("x").to_f64(), inputs.tensor("d_output").to_f64());
        let mut total = 0.0;
        for (x, g) in x.chunks(params.width).zip(g.chunks(params.width)) {
            let (states, tanhs) = chain.forward(Uncertain::exact(x));
            let (last, t) = (&states[params.layers - 1].value, &tanhs[params.layers - 1].value);
            let y = last.iter().zip(t).map(|(x, t)| x + chain.share * t);
            total += y.zip(g).map(|(y, g)| y * g).sum::<f64>();
        }
        total
    }

    #[test]
    fn gradients_are_derivatives() {
        for dense_every in [1, 2, 9] {
            let params = params(dense_every);
            let inputs = ChainBackward::inputs(&params, &mut Draw::new(1));
            let outputs = ChainBackward::reference(&params, &inputs);
            for (input, output) in
                [("x", "d_input"), ("weight", "d_weight"), ("scale", "d_scale"), ("bias", "d_bias")]
            {
                let values = inputs.tensor(input).to_f64();
                for (at, gradient) in outputs.output(output).values().into_iter().enumerate() {
                    let moved = |step: f64| {
                        let mut values = values.clone();
                        values[at] += step;
                        let shape = inputs.tensor(input).shape();
                        let moved = Tensor::from_real(DType::F64, shape, &values);
                        loss(&params, &inputs.clone().with(input, moved))
                    };
                    let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                    assert!((difference - gradient).abs() < 1e-8, "{output}[{at}]");
                }
            }
        }
    }

    #[test]
    fn one_layer_by_hand() {
        let params = Params { layers: 1, rows: 1, width: 1, dense_every: 1, slots: 0 };
        let one = |shape: &[usize], value: f64| Tensor::from_real(DType::F32, shape, &[value]);
        let inputs = ChainBackward::inputs(&params, &mut Draw::new(1))
            .with("x", one(&[1, 1], 2.0))
            .with("weight", one(&[1, 1, 1], 0.5))
            .with("bias", one(&[1, 1], -1.0))
            .with("d_output", one(&[1, 1], 3.0));
        let outputs = ChainBackward::reference(&params, &inputs);
        // z = 0, tanh' = 1: dz = 3.
        assert_eq!(outputs.output("d_input").values(), [4.5]);
        assert_eq!(outputs.output("d_weight").values(), [6.0]);
        assert_eq!(outputs.output("d_bias").values(), [3.0]);
    }
}
