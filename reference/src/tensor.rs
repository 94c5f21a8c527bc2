//! Named, typed, dense host tensors in row-major order.

use std::sync::Arc;

use half::{bf16, f16};
use indexmap::IndexMap;
use ndarray::{Array, Dimension, IxDyn};
use serde::{Deserialize, Serialize};

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16: the upper half of an f32.
    Bf16,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 8-bit integer.
    U8,
    /// Signed 32-bit integer.
    I32,
    /// Unsigned 32-bit integer.
    U32,
    /// Signed 64-bit integer.
    I64,
    /// Unsigned 64-bit integer.
    U64,
}

impl DType {
    /// Size of one element in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::I8 | Self::U8 => 1,
        }
    }

    /// The name used in case ids and kernel symbols, for example `bf16`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::I32 => "i32",
            Self::U32 => "u32",
            Self::I64 => "i64",
            Self::U64 => "u64",
        }
    }

    /// Refuses types other than those in which activations are stored.
    pub(crate) fn check_activation(self) -> Result<(), String> {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => Ok(()),
            other => Err(format!("dtype {} is not f32, f16 or bf16", other.name())),
        }
    }

    /// Unit roundoff u: the largest relative error of one rounding to nearest. Zero for integers.
    pub const fn unit_roundoff(self) -> f64 {
        match self {
            Self::F64 => 1.0 / (1u64 << 53) as f64,
            Self::F32 => 1.0 / (1u64 << 24) as f64,
            Self::F16 => 1.0 / (1u64 << 11) as f64,
            Self::Bf16 => 1.0 / (1u64 << 8) as f64,
            _ => 0.0,
        }
    }

    /// Spacing of the subnormal numbers: the largest absolute error near zero, flush-to-zero included
    /// for f32 and bf16 (whose smallest normal it then is). Zero for integers.
    pub const fn tiny(self) -> f64 {
        match self {
            Self::F64 => f64::MIN_POSITIVE,
            Self::F32 | Self::Bf16 => f32::MIN_POSITIVE as f64,
            Self::F16 => 6.0e-8,
            _ => 0.0,
        }
    }

    /// Whether the type stores real numbers.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::Bf16)
    }
}

/// The elements of a [`Tensor`], row-major.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Data {
    F64(Vec<f64>),
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
    I8(Vec<i8>),
    U8(Vec<u8>),
    I32(Vec<i32>),
    U32(Vec<u32>),
    I64(Vec<i64>),
    U64(Vec<u64>),
}

/// Runs `$body` with `$values` bound to the typed vector inside a [`Data`].
macro_rules! each_type {
    ($data:expr, $values:ident => $body:expr) => {
        match $data {
            Data::F64($values) => $body,
            Data::F32($values) => $body,
            Data::F16($values) => $body,
            Data::Bf16($values) => $body,
            Data::I8($values) => $body,
            Data::U8($values) => $body,
            Data::I32($values) => $body,
            Data::U32($values) => $body,
            Data::I64($values) => $body,
            Data::U64($values) => $body,
        }
    };
}

/// A dense row-major tensor of one element type. Clones share the elements: a plan holds its inputs, which
/// take gigabytes, without a copy.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Arc<Data>,
}

impl Tensor {
    /// A tensor from its elements in row-major order.
    ///
    /// # Panics
    /// If the element count is not the product of `shape`.
    pub fn new(shape: &[usize], data: Data) -> Self {
        let len = each_type!(&data, values => values.len());
        assert_eq!(len, shape.iter().product::<usize>(), "{len} elements for shape {shape:?}");
        Self { shape: shape.to_vec(), data: Arc::new(data) }
    }

    /// Real `values` rounded to nearest even into `dtype`.
    ///
    /// # Panics
    /// If `dtype` is an integer type or the count does not fit `shape`.
    pub fn from_real(dtype: DType, shape: &[usize], values: &[f64]) -> Self {
        let data = match dtype {
            DType::F64 => Data::F64(values.to_vec()),
            DType::F32 => Data::F32(values.iter().map(|&v| v as f32).collect()),
            DType::F16 => Data::F16(values.iter().map(|&v| f16::from_f64(v)).collect()),
            DType::Bf16 => Data::Bf16(values.iter().map(|&v| bf16::from_f64(v)).collect()),
            other => panic!("{} holds no real numbers", other.name()),
        };
        Self::new(shape, data)
    }

    /// Integers stored as `dtype`; as u64, the bits of the i64.
    ///
    /// # Panics
    /// If a value does not fit `dtype`, `dtype` is a float type, or the count does not fit `shape`.
    pub fn from_integers(dtype: DType, shape: &[usize], values: &[i64]) -> Self {
        fn cast<T: TryFrom<i64>>(values: &[i64]) -> Vec<T> {
            let fit = |&v| T::try_from(v).unwrap_or_else(|_| panic!("{v} does not fit"));
            values.iter().map(fit).collect()
        }
        let data = match dtype {
            DType::I8 => Data::I8(cast(values)),
            DType::U8 => Data::U8(cast(values)),
            DType::I32 => Data::I32(cast(values)),
            DType::U32 => Data::U32(cast(values)),
            DType::I64 => Data::I64(values.to_vec()),
            // The inverse of `to_i64`: packed keys use all 64 bits.
            DType::U64 => Data::U64(values.iter().map(|&v| v as u64).collect()),
            other => panic!("{} is not an integer type", other.name()),
        };
        Self::new(shape, data)
    }

    /// A tensor of zeros.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Self {
        let len = shape.iter().product();
        let data = match dtype {
            DType::F64 => Data::F64(vec![0.0; len]),
            DType::F32 => Data::F32(vec![0.0; len]),
            DType::F16 => Data::F16(vec![f16::ZERO; len]),
            DType::Bf16 => Data::Bf16(vec![bf16::ZERO; len]),
            DType::I8 => Data::I8(vec![0; len]),
            DType::U8 => Data::U8(vec![0; len]),
            DType::I32 => Data::I32(vec![0; len]),
            DType::U32 => Data::U32(vec![0; len]),
            DType::I64 => Data::I64(vec![0; len]),
            DType::U64 => Data::U64(vec![0; len]),
        };
        Self::new(shape, data)
    }

    /// `bytes` in the host's order, which is also its devices', read as `dtype`.
    ///
    /// # Panics
    /// If the byte count does not fit `shape`.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: &[u8]) -> Self {
        let mut tensor = Self::zeros(dtype, shape);
        assert_eq!(bytes.len(), tensor.bytes(), "bytes of {} {shape:?}", dtype.name());
        tensor.as_bytes_mut().copy_from_slice(bytes);
        tensor
    }

    /// The elements as bytes in the host's order.
    pub fn as_bytes(&self) -> &[u8] {
        each_type!(&*self.data, values => bytemuck::cast_slice(values))
    }

    /// The same to be written. Clones keep what they have.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        each_type!(Arc::make_mut(&mut self.data), values => bytemuck::cast_slice_mut(values))
    }

    /// Size of each axis, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The typed elements.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match &*self.data {
            Data::F64(_) => DType::F64,
            Data::F32(_) => DType::F32,
            Data::F16(_) => DType::F16,
            Data::Bf16(_) => DType::Bf16,
            Data::I8(_) => DType::I8,
            Data::U8(_) => DType::U8,
            Data::I32(_) => DType::I32,
            Data::U32(_) => DType::U32,
            Data::I64(_) => DType::I64,
            Data::U64(_) => DType::U64,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size of the elements in bytes.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype().bytes()
    }

    /// The element at `index` of row-major order as f64, as [`Tensor::to_f64`] gives it.
    ///
    /// # Panics
    /// If there is no such element.
    pub fn real_at(&self, index: usize) -> f64 {
        match &*self.data {
            Data::F64(v) => v[index],
            Data::F32(v) => v[index].into(),
            Data::F16(v) => v[index].into(),
            Data::Bf16(v) => v[index].into(),
            Data::I8(v) => v[index].into(),
            Data::U8(v) => v[index].into(),
            Data::I32(v) => v[index].into(),
            Data::U32(v) => v[index].into(),
            Data::I64(v) => v[index] as f64,
            Data::U64(v) => v[index] as f64,
        }
    }

    /// How many elements are not a number.
    pub fn count_nan(&self) -> usize {
        match &*self.data {
            Data::F64(v) => v.iter().filter(|x| x.is_nan()).count(),
            Data::F32(v) => v.iter().filter(|x| x.is_nan()).count(),
            Data::F16(v) => v.iter().filter(|x| x.is_nan()).count(),
            Data::Bf16(v) => v.iter().filter(|x| x.is_nan()).count(),
            _ => 0,
        }
    }

    /// The elements as f64, exact for every type but 64-bit integers beyond 2⁵³.
    pub fn to_f64(&self) -> Vec<f64> {
        match &*self.data {
            Data::F64(v) => v.clone(),
            Data::F32(v) => v.iter().map(|&x| x.into()).collect(),
            Data::F16(v) => v.iter().map(|&x| x.into()).collect(),
            Data::Bf16(v) => v.iter().map(|&x| x.into()).collect(),
            Data::I8(v) => v.iter().map(|&x| x.into()).collect(),
            Data::U8(v) => v.iter().map(|&x| x.into()).collect(),
            Data::I32(v) => v.iter().map(|&x| x.into()).collect(),
            Data::U32(v) => v.iter().map(|&x| x.into()).collect(),
            Data::I64(v) => v.iter().map(|&x| x as f64).collect(),
            Data::U64(v) => v.iter().map(|&x| x as f64).collect(),
        }
    }

    /// The element at `index` of row-major order as i64; of u64, its bits.
    ///
    /// # Panics
    /// If there is no such element or the tensor stores real numbers.
    #[inline]
    pub fn integer_at(&self, index: usize) -> i64 {
        match &*self.data {
            Data::I8(v) => v[index].into(),
            Data::U8(v) => v[index].into(),
            Data::I32(v) => v[index].into(),
            Data::U32(v) => v[index].into(),
            Data::I64(v) => v[index],
            Data::U64(v) => v[index] as i64,
            _ => panic!("{} tensor read as integers", self.dtype().name()),
        }
    }

    /// The elements as i64, as [`Tensor::integer_at`] gives them.
    ///
    /// # Panics
    /// If the tensor stores real numbers.
    pub fn to_i64(&self) -> Vec<i64> {
        (0..self.len()).map(|index| self.integer_at(index)).collect()
    }
}

/// Tensors by name, in a fixed order. Inputs of a case and outputs of a kernel have this form; each
/// operation's documentation gives names, shapes and types.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tensors(IndexMap<String, Tensor>);

impl Tensors {
    /// No tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with one more tensor.
    #[must_use]
    pub fn with(mut self, name: &str, tensor: Tensor) -> Self {
        self.insert(name, tensor);
        self
    }

    /// Adds or replaces a tensor.
    pub fn insert(&mut self, name: &str, tensor: Tensor) {
        self.0.insert(name.to_string(), tensor);
    }

    /// The tensor of that name, if there is one.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    /// The tensor of that name.
    ///
    /// # Panics
    /// If there is none: operations only ask for what they drew.
    pub fn tensor(&self, name: &str) -> &Tensor {
        self.get(name).unwrap_or_else(|| panic!("no tensor named '{name}'"))
    }

    /// The tensor as an f64 array of `D` axes: `inputs.real::<Ix3>("x")`.
    ///
    /// # Panics
    /// If it is missing or has another number of axes.
    pub fn real<D: Dimension>(&self, name: &str) -> Array<f64, D> {
        array(name, self.tensor(name).shape(), self.tensor(name).to_f64())
    }

    /// The integer tensor as an i64 array of `D` axes.
    ///
    /// # Panics
    /// If it is missing, real, or has another number of axes.
    pub fn integer<D: Dimension>(&self, name: &str) -> Array<i64, D> {
        array(name, self.tensor(name).shape(), self.tensor(name).to_i64())
    }

    /// Names and tensors in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of all tensors together.
    pub fn bytes(&self) -> usize {
        self.0.values().map(Tensor::bytes).sum()
    }
}

fn array<T, D: Dimension>(name: &str, shape: &[usize], values: Vec<T>) -> Array<T, D> {
    Array::from_shape_vec(IxDyn(shape), values)
        .expect("a tensor's length fits its shape")
        .into_dimensionality()
        .unwrap_or_else(|_| panic!("'{name}' has shape {shape:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_round_trip_every_type() {
        let values = [0.0, 1.0, -2.5, 0.375];
        for dtype in [DType::F64, DType::F32, DType::F16, DType::Bf16] {
            let tensor = Tensor::from_real(dtype, &[2, 2], &values);
            assert_eq!(tensor.to_f64(), values);
            assert_eq!(Tensor::from_bytes(dtype, &[2, 2], tensor.as_bytes()), tensor);
        }
        let integers = [DType::I8, DType::U8, DType::I32, DType::U32, DType::I64, DType::U64];
        for dtype in integers {
            let tensor = Tensor::from_integers(dtype, &[3], &[0, 7, 127]);
            assert_eq!(tensor.to_i64(), [0, 7, 127]);
            assert_eq!(Tensor::from_bytes(dtype, &[3], tensor.as_bytes()), tensor);
            assert_eq!(tensor.bytes(), 3 * dtype.bytes());
        }
    }

    #[test]
    #[should_panic(expected = "3 elements for shape [2, 2]")]
    fn a_wrong_count_is_refused() {
        Tensor::from_real(DType::F32, &[2, 2], &[1.0; 3]);
    }
}
