//! Wrong outputs made of right ones, for proving that a case can tell them apart.

use touchstone_reference::{Expected, Outputs, Tensor, Tensors};

/// Where an impostor takes an element from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pick {
    /// The right answer's element at this index.
    Element(usize),
    /// A constant.
    Constant(u8),
}

/// Outputs whose element at each index, given also their length, is what `pick` says, rounded into the
/// outputs' types. Elements of the answer outside a sample are one half.
pub fn outputs_from(expected: &Outputs, pick: impl Fn(usize, usize) -> Pick) -> Tensors {
    let mut tensors = Tensors::new();
    for (name, expected) in expected.iter() {
        let len = expected.shape().iter().product();
        let picks = (0..len).map(|i| pick(i, len));
        let tensor = match expected {
            Expected::Real(real) => {
                let mut answer = vec![0.5; len];
                match &real.at {
                    Some(at) => at.iter().zip(&real.value).for_each(|(&i, &v)| answer[i] = v),
                    None => answer.copy_from_slice(&real.value),
                }
                let values: Vec<f64> = picks
                    .map(|pick| match pick {
                        Pick::Element(i) => answer[i],
                        Pick::Constant(c) => c.into(),
                    })
                    .collect();
                Tensor::from_real(real.dtype, &real.shape, &values)
            }
            Expected::Discrete(discrete) => {
                let values: Vec<i64> = picks
                    .map(|pick| match pick {
                        Pick::Element(i) => discrete.value[i],
                        Pick::Constant(c) => c.into(),
                    })
                    .collect();
                Tensor::from_integers(discrete.dtype, &discrete.shape, &values)
            }
        };
        tensors.insert(name, tensor);
    }
    tensors
}

/// The outputs that a lazy or stale kernel would give, for proving that a case can tell them from the
/// right answer: zeros, ones, the answer shifted by one element, and the answer reversed.
pub fn impostors(expected: &Outputs) -> Vec<(&'static str, Tensors)> {
    vec![
        ("zeros", outputs_from(expected, |_, _| Pick::Constant(0))),
        ("ones", outputs_from(expected, |_, _| Pick::Constant(1))),
        ("shifted", outputs_from(expected, |i, len| Pick::Element((i + len - 1) % len))),
        ("reversed", outputs_from(expected, |i, len| Pick::Element(len - 1 - i))),
    ]
}
