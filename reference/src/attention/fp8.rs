//! Attention forward on 8-bit floats with a scale for every block of rows.

use serde::{Deserialize, Serialize};

use super::{
    Arithmetic, Lengths, Mask, Problem, Rows, default_scale, draw_both_lengths, forward, one,
};
use crate::{
    algorithm::{Algorithm, Work},
    draw::Draw,
    expected::Outputs,
    precision::format::{Format, Rounding},
    tensor::{DType, Data, Tensor, Tensors},
};

/// Rows that share a scale.
pub const BLOCK: usize = 128;

/// Scaled dot-product attention of all queries of a batch, its inputs e4m3 with a scale for every [`BLOCK`] rows of a head.
///
/// | input | shape | dtype | meaning |
/// |---|---|---|---|
/// | `q` | `[batch, seq_q, heads_q, head_dim]` | e4m3 as u8 | queries, N(0, sd²) divided by their block's scale |
/// | `k` | `[batch, seq_k, heads_kv, head_dim]` | e4m3 as u8 | keys, likewise |
/// | `v` | `[batch, heads_kv, head_dim, seq_k]` | e4m3 as u8 | values, N(0, 1) divided by their block's scale; transposed |
/// | `q_scale` | `[batch, heads_q, ⌈seq_q / 128⌉]` | f32 | what a block's bits are multiplied by; positive |
/// | `k_scale`, `v_scale` | `[batch, heads_kv, ⌈seq_k / 128⌉]` | f32 | likewise |
/// | `lengths_q`, `lengths_k` | `[batch]` | i32 | as in [`Forward`](forward::Forward) |
///
/// | output | shape | dtype | meaning |
/// |---|---|---|---|
/// | `o` | `[batch, seq_q, heads_q, head_dim]` | `dtype` | `Σ_j P_ij v_j`; 0 for padding and where no key is seen |
/// | `lse` | `[batch, heads_q, seq_q]` | f32 | `ln Σ_j exp(s_ij)`; −∞ for padding and where no key is seen |
///
/// The answer is that of the numbers the bits and scales stand for; what quantizing lost before is not the kernel's.
/// Values come transposed because 8-bit tensor cores want both operands contiguous along the summed dimension, and who
/// quantizes them writes them anyway.
///
/// # Error model
/// That of [`super`], with three things more:
/// - 8-bit tensor cores keep 13 binary places below the largest of 32 products and their running sum (measured on
///   sm_90, see the simulator), and cut off the rest: each term of a sum may lose 2⁻¹³ of the sum's peak, which is the
///   largest of its terms and partial sums. With signs as good as random that is `min(n, 8·√n)·2⁻¹³·peak`. The sum with V
///   may be cut into parts, none of which exceeds twice the peak.
/// - Probabilities may be rounded to e4m3 relative to the largest so far, which is 256: by 2⁻⁴ of themselves, or
///   by 2⁻¹⁸ absolutely. Many such roundings hardly agree: `min(Σ P|v|, 8·√Σ(Pv)² + |o|)·2⁻⁴`, where |o| stands for what
///   they have in common.
/// - Two scales more are multiplied into a score.
///
/// Sources: Micikevicius et al. 2022 (arXiv 2209.05433; the format), Shah et al. 2024 (arXiv 2407.08608), §3.3 (block
/// scales in attention).
#[derive(Debug)]
pub struct Fp8;

/// Parameters of [`Fp8`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Batch elements.
    pub batch: usize,
    /// Queries of a batch element, padding included.
    pub seq_q: usize,
    /// Keys of a batch element, padding included.
    pub seq_k: usize,
    /// Query heads: a multiple of `heads_kv`.
    pub heads_q: usize,
    /// Key and value heads.
    pub heads_kv: usize,
    /// Values of one head.
    pub head_dim: usize,
    /// Which keys a query sees.
    #[serde(default)]
    pub mask: Mask,
    /// Keys a query sees with `mask=window`.
    #[serde(default)]
    pub window: usize,
    /// Whether batch elements have lengths of their own, as in [`Forward`](forward::Forward).
    #[serde(default)]
    pub lengths: Lengths,
    /// Factor on q · k; 1/√head_dim when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// Standard deviation of queries and keys.
    #[serde(default = "one")]
    pub sd: f64,
    /// Element type of o: f16 or bf16.
    pub dtype: DType,
}

impl Params {
    /// The sizes, mask and scale.
    pub fn problem(&self) -> Problem {
        Problem {
            batch: self.batch,
            seq_q: self.seq_q,
            seq_k: self.seq_k,
            heads_q: self.heads_q,
            heads_kv: self.heads_kv,
            head_dim: self.head_dim,
            mask: self.mask,
            window: self.window,
            scale: self.scale.unwrap_or(default_scale(self.head_dim)),
            softcap: 0.0,
            dtype: self.dtype,
        }
    }
}

/// The bits and scales that stand for `values`. `block_of` gives the block of an index.
fn quantize(
    values: &Tensor,
    blocks: &[usize],
    block_of: impl Fn(usize) -> usize,
) -> (Tensor, Tensor) {
    let Data::F32(all) = values.data() else { unreachable!("drawn as f32") };
    let mut largest = vec![0f32; blocks.iter().product()];
    for (i, x) in all.iter().enumerate() {
        let block = &mut largest[block_of(i)];
        *block = block.max(x.abs());
    }
    let max = Format::E4m3.max() as f32;
    let scale: Vec<f32> = largest
        .iter()
        .map(|&m| if m > 0.0 { (m / max).max(f32::MIN_POSITIVE) } else { 1.0 })
        .collect();
    let bits = |(i, &x): (usize, &f32)| {
        let x = f64::from(x) / f64::from(scale[block_of(i)]);
        Format::E4m3.encode8(Format::E4m3.round(x, Rounding::NearestEven, 0, true))
    };
    let bits = all.iter().enumerate().map(bits).collect();
    (Tensor::new(values.shape(), Data::U8(bits)), Tensor::new(blocks, Data::F32(scale)))
}

/// The rows of one head that bits and scales stand for: row `r`, value `d` lies at `at(r, d)`, in block `r / 128`.
fn rows(
    inputs: &Tensors,
    [name, scale]: [&str; 2],
    [rows, dim]: [usize; 2],
    head: usize,
    at: impl Fn(usize, usize) -> usize,
) -> Rows {
    let (Data::U8(bits), Data::F32(scales)) =
        (inputs.tensor(name).data(), inputs.tensor(scale).data())
    else {
        panic!("{name} is u8 and {scale} f32")
    };
    let value = |r: usize, d: usize| {
        let scale = scales[head * rows.div_ceil(BLOCK) + r / BLOCK];
        Format::E4m3.decode8(bits[at(r, d)]) * f64::from(scale)
    };
    Rows::of(
        dim,
        (0..rows).flat_map(|r| (0..dim).map(move |d| (r, d))).map(|(r, d)| value(r, d)).collect(),
    )
}

impl Algorithm for Fp8 {
    const NAME: &'static str = "attention.fp8";
    const SUMMARY: &'static str = "softmax(scale·QKᵀ)V of 8-bit floats with block scales";
    const ITEMS: &'static str = "queries";
    type Params = Params;

    fn validate(p: &Params) -> Result<(), String> {
        if !(p.sd.is_finite() && p.sd >= 0.0) {
            return Err("sd must not be negative".into());
        }
        if p.dtype == DType::F32 {
            return Err("dtype, of o, must be f16 or bf16, not f32".into());
        }
        p.problem().validate()
    }

    fn inputs(p: &Params, draw: &mut Draw) -> Tensors {
        let head_of = |i: usize, seq: usize, heads: usize| {
            let (h, row) = (i / p.head_dim % heads, i / p.head_dim / heads);
            (row / seq * heads + h) * seq.div_ceil(BLOCK) + row % seq / BLOCK
        };
        let q = draw.normal(DType::F32, &[p.batch, p.seq_q, p.heads_q, p.head_dim], p.sd);
        let k = draw.normal(DType::F32, &[p.batch, p.seq_k, p.heads_kv, p.head_dim], p.sd);
        let v = draw.normal(DType::F32, &[p.batch, p.heads_kv, p.head_dim, p.seq_k], 1.0);
        let (q_blocks, k_blocks) = (p.seq_q.div_ceil(BLOCK), p.seq_k.div_ceil(BLOCK));
        let of_keys = [p.batch, p.heads_kv, k_blocks];
        let (q, q_scale) =
            quantize(&q, &[p.batch, p.heads_q, q_blocks], |i| head_of(i, p.seq_q, p.heads_q));
        let (k, k_scale) = quantize(&k, &of_keys, |i| head_of(i, p.seq_k, p.heads_kv));
        let (v, v_scale) =
            quantize(&v, &of_keys, |i| i / p.seq_k / p.head_dim * k_blocks + i % p.seq_k / BLOCK);
        let [lengths_q, lengths_k] =
            draw_both_lengths(p.lengths, p.batch, [p.seq_q, p.seq_k], draw);
        let tensors = Tensors::new().with("q", q).with("k", k).with("v", v);
        let tensors = tensors.with("q_scale", q_scale).with("k_scale", k_scale);
        tensors.with("v_scale", v_scale).with("lengths_q", lengths_q).with("lengths_k", lengths_k)
    }

    fn reference(p: &Params, inputs: &Tensors) -> Outputs {
        let problem = p.problem();
        let (of_queries, of_keys) = ([p.seq_q, p.head_dim], [p.seq_k, p.head_dim]);
        forward::outputs(&problem, Arithmetic::E4M3, inputs, |b, h| {
            let (head, h_kv) = (b * p.heads_q + h, h / problem.group());
            let kv = b * p.heads_kv + h_kv;
            let (query, key) = (|i| problem.query(b, i, h), |j| problem.key(b, j, h_kv));
            let value = |j: usize, d: usize| (kv * p.head_dim + d) * p.seq_k + j;
            [
                rows(inputs, ["q", "q_scale"], of_queries, head, |i, d| query(i) + d),
                rows(inputs, ["k", "k_scale"], of_keys, kv, |j, d| key(j) + d),
                rows(inputs, ["v", "v_scale"], of_keys, kv, value),
            ]
        })
    }

    /// `flops = 4·head_dim` a visible query-key pair and head (two products; tensor cores do 8-bit ones twice as fast as
    /// the 16-bit ones that the device's measured matrix rate is of); `bytes`: valid rows of q, k and v and the scales
    /// read once, o and lse written once; `items`: valid queries.
    fn work(p: &Params, inputs: &Tensors) -> Work {
        let mut work = forward::work(&p.problem(), 1, inputs);
        work.eight_bit = true;
        let scales = ["q_scale", "k_scale", "v_scale"].map(|name| inputs.tensor(name).bytes());
        work.bytes += scales.iter().sum::<usize>() as f64;
        work
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params() -> Params {
        Params {
            batch: 1,
            seq_q: 1,
            seq_k: 2,
            heads_q: 1,
            heads_kv: 1,
            head_dim: 1,
            mask: Mask::Full,
            window: 0,
            lengths: Lengths::Full,
            scale: None,
            sd: 1.0,
            dtype: DType::F16,
        }
    }

    #[test]
    fn two_keys_by_hand() {
        // Bits 0x38 are 1, 0x40 are 2: scores 0 and ln 3 by k's scale, values 2·4 and 1·4.
        let bits = |shape: &[usize], bits: &[u8]| Tensor::new(shape, Data::U8(bits.to_vec()));
        let scale = |x: f32| Tensor::new(&[1, 1, 1], Data::F32(vec![x]));
        let length = |n: i32| Tensor::new(&[1], Data::I32(vec![n]));
        let inputs = Tensors::new()
            .with("q", bits(&[1, 1, 1, 1], &[0x38]))
            .with("k", bits(&[1, 2, 1, 1], &[0, 0x38]))
            .with("v", bits(&[1, 1, 1, 2], &[0x40, 0x38]))
            .with("q_scale", scale(0.5))
            .with("k_scale", scale(2.0 * 3f32.ln()))
            .with("v_scale", scale(4.0))
            .with("lengths_q", length(1))
            .with("lengths_k", length(2));
        let outputs = Fp8::reference(&params(), &inputs);
        let (o, lse) = (outputs.output("o").values()[0], outputs.output("lse").values()[0]);
        assert!((o - 5.0).abs() < 1e-6 && (lse - 4f64.ln()).abs() < 1e-6, "{o} {lse}");
    }

    #[test]
    fn a_blocks_largest_value_is_the_largest_of_the_format_and_others_are_near() {
        let mut p = Params { seq_q: 200, seq_k: 300, heads_q: 2, head_dim: 16, ..params() };
        let drawn = Fp8::inputs(&p, &mut Draw::new(1));
        let Data::U8(bits) = drawn.tensor("k").data() else { panic!("u8") };
        for block in bits.chunks(BLOCK * 16) {
            let largest = block.iter().map(|b| Format::E4m3.decode8(*b).abs()).fold(0.0, f64::max);
            assert_eq!(largest, 448.0);
        }
        let q = rows(&drawn, ["q", "q_scale"], [200, 16], 1, |i, d| (i * 2 + 1) * 16 + d);
        let values: Vec<f64> = (0..200).flat_map(|i| q.row(i).to_vec()).collect();
        let variance = values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64;
        assert!((variance - 1.0).abs() < 0.1, "{variance}");
        p.seq_k = 0;
        assert!(Fp8::inputs(&p, &mut Draw::new(1)).tensor("v").is_empty());
    }
}
