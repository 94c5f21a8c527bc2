//! A computation on a device as plain data: buffers, and the launches that fill them.

use touchstone_reference::{DType, Tensor, Tensors};

use crate::{simulator::numeric::tensor::TensorMap, variant::Unsupported};

/// What a buffer is for, which decides how an executor prepares and checks it.
#[derive(Clone, Debug, PartialEq)]
pub enum Role {
    /// Uploaded once; must be unchanged after every run.
    Input(Tensor),
    /// Poisoned before verification, downloaded after it.
    Output,
    /// Poisoned before verification; its size counts as memory that buys speed.
    Scratch,
}

/// One device allocation. Executors put canaries before and after it.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// Name, unique in the plan; inputs and outputs carry the operation's names.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Size of each axis.
    pub shape: Vec<usize>,
    /// Purpose.
    pub role: Role,
}

impl Buffer {
    /// Size in bytes, canaries not included.
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bytes()
    }
}

/// Handle of a buffer within its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BufferId(pub usize);

/// Handle of a tensor map within its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MapId(pub usize);

/// A tensor map over a buffer: the map's `address` is an offset into it, in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct BufferMap {
    /// The buffer that the copy engine reads or writes.
    pub buffer: BufferId,
    /// What it copies.
    pub map: TensorMap,
}

/// One kernel argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// Device address of a buffer, plus an offset in bytes.
    Buffer(BufferId, usize),
    /// A tensor map by value: 128 bytes, a `const __grid_constant__` parameter of the kernel.
    TensorMap(MapId),
    /// The null pointer, for optional arrays.
    Null,
    /// 32-bit signed integer.
    I32(i32),
    /// 32-bit unsigned integer.
    U32(u32),
    /// 64-bit signed integer.
    I64(i64),
    /// 64-bit unsigned integer.
    U64(u64),
    /// 32-bit float.
    F32(f32),
    /// 64-bit float.
    F64(f64),
}

impl Arg {
    /// Size of the kernel parameter it fills, in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::I32(_) | Self::U32(_) | Self::F32(_) => 4,
            Self::TensorMap(_) => 128,
            Self::Buffer(..) | Self::Null | Self::I64(_) | Self::U64(_) | Self::F64(_) => 8,
        }
    }
}

impl Arg {
    /// The bits of the kernel parameter it fills, in the low bytes of a word; `address_of` places buffers.
    /// A tensor map is no word: the executor passes it by itself.
    pub(crate) fn bits(self, address_of: impl FnOnce(BufferId) -> u64) -> u64 {
        match self {
            Self::Buffer(id, offset) => address_of(id) + offset as u64,
            Self::Null | Self::TensorMap(_) => 0,
            Self::I32(value) => u64::from(value as u32),
            Self::U32(value) => u64::from(value),
            Self::I64(value) => value as u64,
            Self::U64(value) => value,
            Self::F32(value) => u64::from(value.to_bits()),
            Self::F64(value) => value.to_bits(),
        }
    }
}

impl From<MapId> for Arg {
    fn from(id: MapId) -> Self {
        Self::TensorMap(id)
    }
}

impl From<BufferId> for Arg {
    fn from(id: BufferId) -> Self {
        Self::Buffer(id, 0)
    }
}

impl From<Option<BufferId>> for Arg {
    fn from(id: Option<BufferId>) -> Self {
        id.map_or(Self::Null, Self::from)
    }
}

impl From<i32> for Arg {
    fn from(value: i32) -> Self {
        Self::I32(value)
    }
}

impl From<u32> for Arg {
    fn from(value: u32) -> Self {
        Self::U32(value)
    }
}

impl From<i64> for Arg {
    fn from(value: i64) -> Self {
        Self::I64(value)
    }
}

impl From<f32> for Arg {
    fn from(value: f32) -> Self {
        Self::F32(value)
    }
}

impl From<f64> for Arg {
    fn from(value: f64) -> Self {
        Self::F64(value)
    }
}

impl From<usize> for Arg {
    /// Sizes and counts travel as 64-bit signed integers: `long long` in the kernel.
    fn from(value: usize) -> Self {
        Self::I64(value as i64)
    }
}

/// One kernel launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Stem of the kernel file: `attention_online` for `cuda/kernels/attention_online.cu`.
    pub module: &'static str,
    /// `extern "C"` name of the kernel in it.
    pub symbol: String,
    /// Blocks in x, y, z. A launch with a zero here is left out by executors.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block in bytes.
    pub shared_bytes: u32,
    /// Arguments in order.
    pub args: Vec<Arg>,
    /// Whether it may begin before the launch before it has ended: see [`Plan::overlap_last`].
    pub overlaps: bool,
}

/// Most blocks of a grid in x, y, z.
pub(crate) const MAX_GRID: [usize; 3] = [i32::MAX as usize, 65_535, 65_535];

/// One step of a plan; steps run in order on one stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Run a kernel.
    Launch(Launch),
    /// Set every byte of a buffer.
    Fill(BufferId, u8),
}

/// What theory says of a plan, found without making it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Scratch, in bytes.
    pub scratch_bytes: f64,
    /// Floating-point operations, those done again included.
    pub flops: f64,
}

/// Buffers and steps of one computation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// What theory says of it, where a theory predicts memory and time.
    pub prediction: Option<Prediction>,
    buffers: Vec<Buffer>,
    maps: Vec<BufferMap>,
    steps: Vec<Step>,
}

impl Plan {
    /// An empty plan.
    pub fn new() -> Self {
        Self::default()
    }

    fn buffer(&mut self, name: &str, dtype: DType, shape: &[usize], role: Role) -> BufferId {
        assert!(self.buffers.iter().all(|b| b.name != name), "two buffers are named '{name}'");
        self.buffers.push(Buffer { name: name.into(), dtype, shape: shape.to_vec(), role });
        BufferId(self.buffers.len() - 1)
    }

    /// A buffer that holds the input of that name.
    ///
    /// # Panics
    /// If there is no such input.
    pub fn input(&mut self, inputs: &Tensors, name: &str) -> BufferId {
        let tensor = inputs.tensor(name);
        self.buffer(name, tensor.dtype(), tensor.shape(), Role::Input(tensor.clone()))
    }

    /// A buffer that holds a table which the variant derived from the inputs on the host (a sorted or
    /// hashed layout, say): like an input, uploaded once, but not one of the operation's inputs.
    pub fn table(&mut self, name: &str, tensor: Tensor) -> BufferId {
        let shape = tensor.shape().to_vec();
        self.buffer(name, tensor.dtype(), &shape, Role::Input(tensor))
    }

    /// A buffer for the output of that name.
    pub fn output(&mut self, name: &str, dtype: DType, shape: &[usize]) -> BufferId {
        self.buffer(name, dtype, shape, Role::Output)
    }

    /// A buffer for intermediate values.
    pub fn scratch(&mut self, name: &str, dtype: DType, shape: &[usize]) -> BufferId {
        self.buffer(name, dtype, shape, Role::Scratch)
    }

    /// A tensor map over a buffer, whose `address` is an offset in bytes into it.
    ///
    /// # Errors
    /// The rule of the copy engine that the map breaks: the variant does not take the case.
    pub fn tensor_map(&mut self, buffer: BufferId, map: TensorMap) -> Result<MapId, Unsupported> {
        map.validate().map_err(|rule| Unsupported(format!("tensor copies: {rule}")))?;
        self.maps.push(BufferMap { buffer, map });
        Ok(MapId(self.maps.len() - 1))
    }

    /// Adds a kernel launch. `grid` and `block` are x, y, z.
    ///
    /// # Panics
    /// If a dimension is beyond what CUDA takes: the variant must refuse such a case by name.
    pub fn launch(
        &mut self,
        module: &'static str,
        symbol: impl Into<String>,
        grid: [usize; 3],
        block: [usize; 3],
        shared_bytes: usize,
        args: &[Arg],
    ) {
        assert!(
            grid.iter().zip(MAX_GRID).all(|(&n, max)| n <= max),
            "grid {grid:?} of {module} exceeds CUDA's limits"
        );
        let threads: usize = block.iter().product();
        assert!((1..=1024).contains(&threads), "block {block:?} of {module}");
        self.steps.push(Step::Launch(Launch {
            module,
            symbol: symbol.into(),
            grid: grid.map(|n| n as u32),
            block: block.map(|n| n as u32),
            shared_bytes: shared_bytes as u32,
            args: args.to_vec(),
            overlaps: false,
        }));
    }

    /// Lets the launch added last begin before the launch before it has ended (programmatic dependent launch), on
    /// devices that can (compute capability 9.0 and later). Its kernel says `griddepcontrol.wait` in every thread
    /// that reads what earlier launches write, or writes what they use, before the thread does; the simulator
    /// proves it. The kernel before may say `griddepcontrol.launch_dependents`, from where on the next one begins
    /// as soon as there is room for its blocks.
    ///
    /// # Panics
    /// If the two steps added last are not launches: the first launch of a run waits for all that came before.
    pub fn overlap_last(&mut self) {
        let [.., Step::Launch(_), Step::Launch(last)] = &mut self.steps[..] else {
            panic!("only a launch right behind another one may begin before that has ended")
        };
        last.overlaps = true;
    }

    /// Whether a step is a launch that begins before the one right before it has ended. Where one of the two has no
    /// blocks, there is nothing to overlap with.
    pub fn overlaps(&self, step: usize) -> bool {
        let launch = |step: usize| match self.steps.get(step) {
            Some(Step::Launch(launch)) if !launch.grid.contains(&0) => Some(launch),
            _ => None,
        };
        let before = step.checked_sub(1).and_then(launch);
        before.is_some() && launch(step).is_some_and(|launch| launch.overlaps)
    }

    /// Sets every byte of a buffer before the next step.
    pub fn fill(&mut self, buffer: BufferId, byte: u8) {
        self.steps.push(Step::Fill(buffer, byte));
    }

    /// The buffers, in the order of their handles.
    pub fn buffers(&self) -> &[Buffer] {
        &self.buffers
    }

    /// The buffer of that name.
    ///
    /// # Panics
    /// If there is none.
    pub fn buffer_named(&self, name: &str) -> BufferId {
        let at = self.buffers.iter().position(|buffer| buffer.name == name);
        BufferId(at.unwrap_or_else(|| panic!("no buffer named '{name}'")))
    }

    /// The buffer that a tensor fits: its name, type and shape.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn buffer_for(&self, name: &str, tensor: &Tensor) -> BufferId {
        let id = self.buffer_named(name);
        let Buffer { dtype, shape, .. } = &self.buffers[id.0];
        assert_eq!((*dtype, &shape[..]), (tensor.dtype(), tensor.shape()), "'{name}'");
        id
    }

    /// The tensor maps, in the order of their handles.
    pub fn maps(&self) -> &[BufferMap] {
        &self.maps
    }

    /// The steps in order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The steps, for the harness's own tests, which damage a good plan to see it caught.
    pub fn steps_mut(&mut self) -> &mut Vec<Step> {
        &mut self.steps
    }

    /// Device memory the plan needs in bytes: inputs, outputs and scratch.
    pub fn bytes(&self) -> usize {
        self.buffers.iter().map(Buffer::bytes).sum()
    }

    /// Bytes of scratch alone: what the variant pays for its speed.
    pub fn scratch_bytes(&self) -> usize {
        let scratch = self.buffers.iter().filter(|b| b.role == Role::Scratch);
        scratch.map(Buffer::bytes).sum()
    }
}

/// A grid of `count` blocks in a row, if CUDA takes it.
pub(crate) fn blocks(count: usize) -> Result<[usize; 3], Unsupported> {
    if count > MAX_GRID[0] {
        return Err(Unsupported(format!("{count} blocks are more than a grid takes")));
    }
    Ok([count, 1, 1])
}

/// Grid and block of `n` threads in blocks of 256.
pub(crate) fn threads(n: usize) -> ([usize; 3], [usize; 3]) {
    ([n.div_ceil(256), 1, 1], [256, 1, 1])
}

/// The number by which a kernel for several element types knows its type.
pub(crate) const fn kind_of(dtype: DType) -> i32 {
    match dtype {
        DType::F16 => 1,
        DType::Bf16 => 2,
        _ => 0,
    }
}
