//! Seeded input generation. The stream is ChaCha8, so a case's inputs are the same on every machine.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::tensor::{DType, Data, Tensor};

/// The generator that draws one case's inputs, tensor after tensor.
#[derive(Debug)]
pub struct Draw {
    rng: ChaCha8Rng,
}

/// About `take` of the rows `0..rows`, ascending: the first and last 8, where errors gather, and some drawn by
/// `seed` between them; all rows where there are no more than that.
pub(crate) fn ends_and_between(rows: usize, take: usize, seed: u64) -> Vec<usize> {
    const ENDS: usize = 8;
    let take = take.max(2 * ENDS);
    if rows <= take {
        return (0..rows).collect();
    }
    let mut draw = Draw::new(seed);
    let mut sample: Vec<usize> = (0..ENDS).chain(rows - ENDS..rows).collect();
    sample.extend((2 * ENDS..take).map(|_| draw.below(rows)));
    sample.sort_unstable();
    sample.dedup();
    sample
}

impl Draw {
    /// A generator for `seed`.
    pub fn new(seed: u64) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// `dtype` tensor of independent N(0, `sd`²) values.
    pub fn normal(&mut self, dtype: DType, shape: &[usize], sd: f64) -> Tensor {
        self.real(dtype, shape, |draw| sd * draw.standard_normal())
    }

    /// `dtype` tensor of independent values uniform in `low..high`.
    pub fn uniform(&mut self, dtype: DType, shape: &[usize], low: f64, high: f64) -> Tensor {
        self.real(dtype, shape, |draw| low + (high - low) * draw.unit())
    }

    /// `dtype` tensor of independent values uniform in −1..1, or of the integers −127..127. They go straight into
    /// their type, without the f64 copy of [`Draw::uniform`]: large tables and images hold 10⁸ of them.
    ///
    /// # Panics
    /// If `dtype` is none of f32, f16, bf16 and i8.
    pub fn elements(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        let all = 0..shape.iter().product::<usize>();
        let mut real = |_| 2.0 * self.unit() - 1.0;
        let data = match dtype {
            DType::F32 => Data::F32(all.map(|i| real(i) as f32).collect()),
            DType::F16 => Data::F16(all.map(|i| half::f16::from_f64(real(i))).collect()),
            DType::Bf16 => Data::Bf16(all.map(|i| half::bf16::from_f64(real(i))).collect()),
            DType::I8 => Data::I8(all.map(|i| (127.5 * real(i)) as i8).collect()),
            other => panic!("no large tensors of {}", other.name()),
        };
        Tensor::new(shape, data)
    }

    /// `dtype` tensor whose elements `one` draws, in row-major order.
    pub fn real(
        &mut self,
        dtype: DType,
        shape: &[usize],
        mut one: impl FnMut(&mut Self) -> f64,
    ) -> Tensor {
        let len = shape.iter().product();
        let values: Vec<f64> = (0..len).map(|_| one(self)).collect();
        Tensor::from_real(dtype, shape, &values)
    }

    /// Integer tensor whose elements `one` draws, in row-major order.
    pub fn integers(
        &mut self,
        dtype: DType,
        shape: &[usize],
        mut one: impl FnMut(&mut Self) -> i64,
    ) -> Tensor {
        let len = shape.iter().product();
        let values: Vec<i64> = (0..len).map(|_| one(self)).collect();
        Tensor::from_integers(dtype, shape, &values)
    }

    /// One N(0, 1) value.
    pub fn standard_normal(&mut self) -> f64 {
        StandardNormal.sample(&mut self.rng)
    }

    /// One value uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        self.rng.random()
    }

    /// One integer uniform in `0..below`.
    ///
    /// # Panics
    /// If `below` is zero.
    pub fn below(&mut self, below: usize) -> usize {
        self.rng.random_range(0..below)
    }

    /// One rank in `0..n`, the r-th with probability proportional to 1/(r + 1): how words occur in text. By rejection, as
    /// `rand_distr`'s `Zipf` with exponent 1, which gives the same ranks but spends most of its time on powers of ±1.
    ///
    /// # Panics
    /// If `n` is zero.
    #[inline]
    pub fn zipf(&mut self, n: usize) -> usize {
        assert!(n > 0, "a rank below 0");
        // Where x falls has the density 1 up to 1 and 1/x from there to n.
        let mass = 1.0 + (n as f64).ln();
        loop {
            let below = self.unit() * mass;
            let x = if below <= 1.0 { below } else { (below - 1.0).exp() };
            let place = (x + 1.0) as usize;
            let kept = if place > 1 { 1.0 / place as f64 * x } else { 1.0 };
            if self.unit() < kept {
                return place - 1;
            }
        }
    }

    /// A fresh generator whose stream is independent of what this one draws next.
    pub fn fork(&mut self) -> Self {
        Self::new(self.rng.random())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_draws_the_ranks_of_the_library() {
        for n in [1, 2, 8, 1000, 4096, 50257, 1 << 20, 1 << 32] {
            let law = rand_distr::Zipf::new(n as f64, 1.0).unwrap();
            let (mut ours, mut theirs) = (Draw::new(n as u64), Draw::new(n as u64));
            for _ in 0..100_000 {
                assert_eq!(ours.zipf(n), law.sample(&mut theirs.rng) as usize - 1);
            }
        }
    }
}
