//! Decoding: one new query of each sequence against its cache of keys and values.

use serde::{Deserialize, Serialize};

use super::{
    Arithmetic, Known, Lengths, Mask, Problem, Rows, attend, default_scale, draw_lengths, one,
    quantized::draw_rows, sample, uncapped,
};
use crate::{
    algorithm::{Algorithm, Work},
    draw::Draw,
    expected::Outputs,
    tensor::{DType, Tensor, Tensors},
};

/// Attention of one query a sequence against a KV cache, contiguous or in pages.
///
/// | input | shape | dtype | meaning |
/// |---|---|---|---|
/// | `q` | `[batch, heads_q, head_dim]` | `dtype` | the new queries, N(0, sd²) |
/// | `k`, `v` contiguous | `[batch, seq_k, heads_kv, head_dim]` | `dtype` | the cache |
/// | `k`, `v` paged | `[pages, page_size, heads_kv, head_dim]` | `dtype` | the pages of all sequences, shuffled |
/// | `block_table`, paged only | `[batch, ⌈seq_k / page_size⌉]` | i32 | page of each run of `page_size` keys; −1 behind a sequence's end |
/// | `lengths` | `[batch]` | i32 | keys of each sequence |
///
/// With `kv_dtype=i8` the cache holds integers, `k` and `v` drawn as above and rounded, whose scales are two more inputs:
///
/// | input | shape | dtype | meaning |
/// |---|---|---|---|
/// | `k_scale`, `v_scale` | that of `k` without `head_dim` | f32 | a row is its scale · its integers |
///
/// | output | shape | dtype | meaning |
/// |---|---|---|---|
/// | `o` | `[batch, heads_q, head_dim]` | `dtype` | `Σ_j P_j v_j`; 0 for an empty sequence |
/// | `lse` | `[batch, heads_q]` | f32 | `ln Σ_j exp(s_j)`; −∞ for an empty sequence |
///
/// Key `j` of sequence `b` lies in row `j mod page_size` of page `block_table[b, j div page_size]`.
/// Sources: Kwon et al. 2023, §4.1 (paged attention); Dao et al. 2023 (Flash-Decoding). Notation and error
/// model: see [`super`] and, of 8-bit caches, `quantized.rs`; the combination of partial results counts as one more rise of
/// the maximum.
#[derive(Debug)]
pub struct Decode;

/// Where the cache keeps its rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cache {
    /// Each sequence in one piece.
    #[default]
    Contiguous,
    /// In pages anywhere in one pool.
    Paged,
}

/// Parameters of [`Decode`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Sequences.
    pub batch: usize,
    /// Largest number of keys of a sequence.
    pub seq_k: usize,
    /// Query heads: a multiple of `heads_kv`.
    pub heads_q: usize,
    /// Key and value heads.
    pub heads_kv: usize,
    /// Values of one head.
    pub head_dim: usize,
    /// Where the cache keeps its rows.
    #[serde(default)]
    pub kv: Cache,
    /// Keys of a page with `kv=paged`, a power of two; otherwise 0.
    #[serde(default)]
    pub page_size: usize,
    /// Whether sequences have lengths of their own.
    #[serde(default)]
    pub lengths: Lengths,
    /// Factor on q · k; 1/√head_dim when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// Bound that the scores approach, `softcap · tanh(s / softcap)`; absent: none.
    #[serde(default, skip_serializing_if = "uncapped")]
    pub softcap: f64,
    /// Standard deviation of queries and keys.
    #[serde(default = "one")]
    pub sd: f64,
    /// Element type of q and o, and of k and v unless `kv_dtype` names another.
    pub dtype: DType,
    /// `i8`: k and v are 8-bit integers with a scale for each token and key head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_dtype: Option<DType>,
}

impl Params {
    /// The sizes and scale.
    pub fn problem(&self) -> Problem {
        Problem {
            batch: self.batch,
            seq_q: 1,
            seq_k: self.seq_k,
            heads_q: self.heads_q,
            heads_kv: self.heads_kv,
            head_dim: self.head_dim,
            mask: Mask::Full,
            window: 0,
            scale: self.scale.unwrap_or(default_scale(self.head_dim)),
            softcap: self.softcap,
            dtype: self.dtype,
        }
    }

    /// Entries of a sequence in the block table.
    pub fn pages_per_sequence(&self) -> usize {
        if self.kv == Cache::Paged { self.seq_k.div_ceil(self.page_size) } else { 0 }
    }

    /// Shape of k and v.
    fn cache_shape(&self) -> [usize; 4] {
        let (pieces, keys) = match self.kv {
            Cache::Contiguous => (self.batch, self.seq_k),
            Cache::Paged => (self.batch * self.pages_per_sequence(), self.page_size),
        };
        [pieces, keys, self.heads_kv, self.head_dim]
    }

    /// Bytes that the cache spends on one token's key or value of one head, its scale included.
    fn row_bytes(&self) -> usize {
        match self.kv_dtype {
            None => self.head_dim * self.dtype.bytes(),
            Some(_) => self.head_dim + DType::F32.bytes(),
        }
    }
}

impl Algorithm for Decode {
    const NAME: &'static str = "attention.decode";
    const SUMMARY: &'static str = "attention of one query a sequence against its KV cache";
    const ITEMS: &'static str = "sequences";
    type Params = Params;

    fn validate(p: &Params) -> Result<(), String> {
        if (p.kv == Cache::Paged) != (p.page_size > 0) {
            return Err("page_size must be positive with kv=paged and 0 otherwise".into());
        }
        if p.page_size > 0 && !p.page_size.is_power_of_two() {
            return Err("page_size must be a power of two".into());
        }
        if !(p.sd.is_finite() && p.sd >= 0.0) {
            return Err("sd must not be negative".into());
        }
        if let Some(other) = p.kv_dtype.filter(|&dtype| dtype != DType::I8) {
            let name = other.name();
            return Err(format!("kv_dtype must be i8, or absent for a cache of dtype, not {name}"));
        }
        p.problem().validate()
    }

    fn inputs(p: &Params, draw: &mut Draw) -> Tensors {
        let per_sequence = p.pages_per_sequence();
        let pages = p.batch * per_sequence;
        let q = draw.normal(p.dtype, &[p.batch, p.heads_q, p.head_dim], p.sd);
        let mut tensors = Tensors::new().with("q", q);
        for (name, scales, sd) in [("k", "k_scale", p.sd), ("v", "v_scale", 1.0)] {
            if p.kv_dtype.is_some() {
                let (integers, of_rows) = draw_rows(&p.cache_shape(), sd, draw);
                tensors.insert(name, integers);
                tensors.insert(scales, of_rows);
            } else {
                tensors.insert(name, draw.normal(p.dtype, &p.cache_shape(), sd));
            }
        }
        let lengths = draw_lengths(p.lengths, p.batch, p.seq_k, draw);
        if p.kv == Cache::Paged {
            let mut free: Vec<i64> = (0..pages as i64).collect();
            let mut table = Vec::with_capacity(pages);
            for length in lengths.to_i64() {
                let used = (length as usize).div_ceil(p.page_size);
                for entry in 0..per_sequence {
                    let page = draw.below(free.len());
                    let page = free.swap_remove(page);
                    table.push(if entry < used { page } else { -1 });
                }
            }
            let shape = [p.batch, per_sequence];
            tensors.insert("block_table", Tensor::from_integers(DType::I32, &shape, &table));
        }
        tensors.with("lengths", lengths)
    }

    fn reference(p: &Params, inputs: &Tensors) -> Outputs {
        let problem = p.problem();
        let lengths = inputs.tensor("lengths").to_i64();
        let (mut o, mut lse) = (Known::default(), Known::default());
        for (bh, queries) in sample(p.batch * p.heads_q, 1, p.seq_k * p.head_dim) {
            let (b, h) = (bh / p.heads_q, bh % p.heads_q);
            let keys = lengths[b] as usize;
            let q = Rows::new(inputs.tensor("q"), p.head_dim, [bh * p.head_dim].into_iter());
            let row = |j: usize| row_of_key(p, inputs, b, j, h / problem.group());
            let rows = |name: &str, scales: &str| {
                let (tensor, at) = (inputs.tensor(name), (0..keys).map(row));
                match inputs.get(scales) {
                    Some(scales) => Rows::scaled(tensor, scales, p.head_dim, at),
                    None => Rows::new(tensor, p.head_dim, at.map(|row| row * p.head_dim)),
                }
            };
            let (k, v) = (rows("k", "k_scale"), rows("v", "v_scale"));
            for i in queries {
                let attended = attend(&problem, Arithmetic::of(p.dtype), q.row(i), &k, &v, 0..keys);
                o.row(bh * p.head_dim, &attended.o, &attended.o_error);
                lse.row(bh, &[attended.lse], &[attended.lse_error]);
            }
        }
        Outputs::new()
            .with("o", o.expected(&[p.batch, p.heads_q, p.head_dim], p.dtype))
            .with("lse", lse.expected(&[p.batch, p.heads_q], DType::F32))
    }

    /// `flops = 4·head_dim` a key and query head; `bytes`: q, the valid rows of k and v with their scales read once, o
    /// and lse written once; `items`: sequences. It is bound by memory, so `matrix` says nothing.
    fn work(p: &Params, inputs: &Tensors) -> Work {
        let keys: i64 = inputs.tensor("lengths").to_i64().iter().sum();
        let keys = keys as f64;
        let value = (p.head_dim * p.dtype.bytes()) as f64;
        Work {
            flops: 4.0 * (p.head_dim * p.heads_q) as f64 * keys,
            bytes: 2.0 * (p.heads_kv * p.row_bytes()) as f64 * keys
                + (2.0 * value + 4.0) * (p.batch * p.heads_q) as f64,
            items: p.batch as f64,
            matrix: true,
            eight_bit: false,
        }
    }
}

/// Row, counted in heads, in which the cache keeps key `j` of sequence `b` for key head `h`.
fn row_of_key(p: &Params, inputs: &Tensors, b: usize, j: usize, h: usize) -> usize {
    let position = match (p.kv, inputs.get("block_table").map(Tensor::data)) {
        (Cache::Paged, Some(crate::tensor::Data::I32(table))) => {
            let page = table[b * p.pages_per_sequence() + j / p.page_size] as usize;
            page * p.page_size + j % p.page_size
        }
        _ => b * p.seq_k + j,
    };
    position * p.heads_kv + h
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_followed_through_the_table() {
        let p: Params = Params {
            batch: 1,
            seq_k: 3,
            heads_q: 1,
            heads_kv: 1,
            head_dim: 1,
            kv: Cache::Paged,
            page_size: 2,
            lengths: Lengths::Full,
            scale: None,
            softcap: 0.0,
            sd: 1.0,
            dtype: DType::F32,
            kv_dtype: None,
        };
        let real = |shape: &[usize], values: &[f64]| Tensor::from_real(DType::F32, shape, values);
        // Keys in order: 0, 0, ln 2 with values 1, 2, 3; the pages hold them as [ln 2, spare], [0, 0].
        let inputs = Tensors::new()
            .with("q", real(&[1, 1, 1], &[1.0]))
            .with("k", real(&[2, 2, 1, 1], &[2f64.ln(), 99.0, 0.0, 0.0]))
            .with("v", real(&[2, 2, 1, 1], &[3.0, 99.0, 1.0, 2.0]))
            .with("block_table", Tensor::from_integers(DType::I32, &[1, 2], &[1, 0]))
            .with("lengths", Tensor::from_integers(DType::I32, &[1], &[3]));
        let outputs = Decode::reference(&p, &inputs);
        let o = outputs.output("o").values()[0];
        let lse = outputs.output("lse").values()[0];
        assert!((o - 9.0 / 4.0).abs() < 1e-7 && (lse - 4f64.ln()).abs() < 1e-7, "{o} {lse}");
    }

    #[test]
    fn integers_count_their_scales() {
        let case = "attention.decode:batch=1,seq_k=2,heads_q=1,heads_kv=1,head_dim=1,dtype=f32,kv_dtype=i8,seed=0";
        let p: Params = case.parse::<crate::Case>().unwrap().params().unwrap();
        let integers = |values: &[i64]| Tensor::from_integers(DType::I8, &[1, 2, 1, 1], values);
        let scales = |values: &[f64]| Tensor::from_real(DType::F32, &[1, 2, 1], values);
        let inputs = Tensors::new()
            .with("q", Tensor::from_real(DType::F32, &[1, 1, 1], &[1.0]))
            .with("k", integers(&[2, -4]))
            .with("k_scale", scales(&[0.5, -0.25]))
            .with("v", integers(&[1, 3]))
            .with("v_scale", scales(&[2.0, 0.5]))
            .with("lengths", Tensor::from_integers(DType::I32, &[1], &[2]));
        let outputs = Decode::reference(&p, &inputs);
        let (o, lse) = (outputs.output("o").values()[0], outputs.output("lse").values()[0]);
        assert!((o - 1.75).abs() < 1e-12 && (lse - 1.0 - 2f64.ln()).abs() < 1e-12, "{o} {lse}");
        assert_eq!(Decode::work(&p, &inputs).bytes, (2 * 2 * (1 + 4) + 2 * 4 + 4) as f64);
    }

    #[test]
    fn only_integers_of_8_bits_stand_for_another_type() {
        let case = "attention.decode:batch=1,seq_k=2,heads_q=1,heads_kv=1,head_dim=1,dtype=f32,kv_dtype=f16,seed=0";
        let p: Params = case.parse::<crate::Case>().unwrap().params().unwrap();
        assert!(Decode::validate(&p).unwrap_err().starts_with("kv_dtype must be i8"));
    }
}
