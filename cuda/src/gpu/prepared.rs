//! A plan made ready on a device. Verification and timing use this very object.

mod timing;

use std::ffi::c_void;

use anyhow::{Context, anyhow, bail};
use cudarc::driver::{CudaFunction, result, sys};
use touchstone_reference::{Tensor, Tensors};

pub use timing::{Cache, Timing};

use super::{Gpu, Poison, describe, guarded::Guarded};
use crate::{
    plan::{Arg, BufferMap, Launch, Plan, Role, Step},
    simulator::numeric::tensor::{Fetch, Fill, Swizzle, TensorMap},
};

/// The device has too little memory for a plan: a reason to skip a case, not a failure.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("needs {needed_bytes} bytes of device memory, {free_bytes} are free")]
pub struct OutOfMemory {
    /// What the plan's buffers take.
    pub needed_bytes: usize,
    /// What the device had left.
    pub free_bytes: usize,
}

/// What a kernel takes of a multiprocessor, as the driver loaded it.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelResources {
    /// Name of the kernel.
    pub symbol: String,
    /// Registers of a thread.
    pub registers: usize,
    /// Local memory of a thread in bytes: spills and stack.
    pub local_bytes: usize,
    /// Static and dynamic shared memory of a block in bytes.
    pub shared_bytes: usize,
}

enum Ready {
    /// With whether it begins before the step before it has ended.
    Launch(CudaFunction, Launch, bool),
    Fill(usize, u8),
}

/// Uploaded inputs, guarded outputs and scratch, and the loaded kernels of one plan.
pub struct Prepared<'g> {
    gpu: &'g Gpu,
    plan: &'g Plan,
    buffers: Vec<Guarded>,
    maps: Vec<sys::CUtensorMap>,
    steps: Vec<Ready>,
}

impl std::fmt::Debug for Prepared<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("plan", self.plan).finish_non_exhaustive()
    }
}

/// Compute capability from which on a launch may begin before the one before it has ended.
const FIRST_TO_OVERLAP: (i32, i32) = (9, 0);

/// What is kept free for the driver, modules and the cache flush.
const RESERVE_BYTES: usize = 512 << 20;

impl Gpu {
    /// Allocates and uploads what `plan` needs and loads its kernels.
    ///
    /// # Errors
    /// [`OutOfMemory`] (to be downcast) when the device is too small, [`super::OtherDevice`] when it is of another kind
    /// than a kernel is compiled for; else the driver's error.
    pub fn prepare<'g>(&'g self, plan: &'g Plan) -> anyhow::Result<Prepared<'g>> {
        let (free_bytes, _) = self.context.mem_get_info().map_err(|e| anyhow!(describe(&e)))?;
        let needed_bytes = plan.bytes();
        if needed_bytes + RESERVE_BYTES > free_bytes {
            return Err(OutOfMemory { needed_bytes, free_bytes }.into());
        }
        let mut buffers = Vec::new();
        for (index, buffer) in plan.buffers().iter().enumerate() {
            let mut guarded = Guarded::new(&self.stream, buffer.bytes(), index)
                .map_err(|e| anyhow!(describe(&e)))
                .with_context(|| format!("allocating '{}'", buffer.name))?;
            if let Role::Input(tensor) = &buffer.role {
                guarded
                    .upload(&self.stream, tensor.as_bytes())
                    .map_err(|e| anyhow!(describe(&e)))?;
            }
            buffers.push(guarded);
        }
        let steps = (0..plan.steps().len()).filter_map(|step| self.ready(plan, step).transpose());
        let steps = steps.collect::<anyhow::Result<_>>()?;
        let encode = |m: &BufferMap| {
            encode(&m.map, buffers[m.buffer.0].address(&self.stream) + m.map.address)
        };
        let maps = plan.maps().iter().map(encode).collect::<anyhow::Result<_>>()?;
        self.synchronize()?;
        Ok(Prepared { gpu: self, plan, buffers, maps, steps })
    }

    /// Loads the kernel of a step; `None` for a launch of no blocks.
    fn ready(&self, plan: &Plan, step: usize) -> anyhow::Result<Option<Ready>> {
        let launch = match &plan.steps()[step] {
            Step::Fill(buffer, byte) => return Ok(Some(Ready::Fill(buffer.0, *byte))),
            Step::Launch(launch) if launch.grid.contains(&0) => return Ok(None),
            Step::Launch(launch) => launch,
        };
        let function = self.function(launch.module, &launch.symbol)?;
        if launch.shared_bytes > 48 << 10 {
            if launch.shared_bytes as usize > self.properties().shared_bytes {
                bail!(
                    "kernel '{}' needs {} bytes of shared memory, the device has {}",
                    launch.symbol,
                    launch.shared_bytes,
                    self.properties().shared_bytes
                );
            }
            let attribute =
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function
                .set_attribute(attribute, launch.shared_bytes as i32)
                .map_err(|e| anyhow!("kernel '{}': {}", launch.symbol, describe(&e)))?;
        }
        let overlaps = plan.overlaps(step) && self.properties().compute >= FIRST_TO_OVERLAP;
        Ok(Some(Ready::Launch(function, launch.clone(), overlaps)))
    }
}

/// The driver's form of a tensor map over the memory at `address`.
fn encode(map: &TensorMap, address: u64) -> anyhow::Result<sys::CUtensorMap> {
    let mut encoded = std::mem::MaybeUninit::<sys::CUtensorMap>::uninit();
    let element = match map.element_bytes {
        1 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        2 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT16,
        4 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT32,
        _ => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT64,
    };
    let swizzle = match map.swizzle {
        Swizzle::None => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
        Swizzle::Bytes32 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B,
        Swizzle::Bytes64 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        Swizzle::Bytes128 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
    };
    let fetch = match map.fetch {
        Fetch::Bytes256 => sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        Fetch::Bytes128 => sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
    };
    if map.fill == Fill::Nan {
        bail!("tensor maps that fill with NaN need a floating-point element type");
    }
    // SAFETY: the arrays have as many elements as the rank says, which `TensorMap::validate` has checked.
    let status = unsafe {
        sys::cuTensorMapEncodeTiled(
            encoded.as_mut_ptr(),
            element,
            map.dims.len() as u32,
            address as *mut c_void,
            map.dims.as_ptr(),
            map.strides_bytes.as_ptr(),
            map.box_dims.as_ptr(),
            map.element_strides.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            fetch,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    status.result().map_err(|e| anyhow!("tensor map {map:?}: {}", describe(&e)))?;
    // SAFETY: the call succeeded, so it has written the map.
    Ok(unsafe { encoded.assume_init() })
}

impl Prepared<'_> {
    /// Poisons outputs and scratch.
    ///
    /// # Errors
    /// The driver's.
    pub fn poison(&self, poison: Poison) -> anyhow::Result<()> {
        for (buffer, guarded) in self.plan.buffers().iter().zip(&self.buffers) {
            if !matches!(buffer.role, Role::Input(_)) {
                guarded.poison(&self.gpu.stream, poison).map_err(|e| anyhow!(describe(&e)))?;
            }
        }
        Ok(())
    }

    /// Enqueues every step once.
    ///
    /// # Errors
    /// The driver's, naming the kernel.
    pub fn run(&self) -> anyhow::Result<()> {
        for step in &self.steps {
            match step {
                Ready::Fill(buffer, byte) => self.buffers[*buffer]
                    .fill(&self.gpu.stream, *byte)
                    .map_err(|e| anyhow!("fill: {}", describe(&e)))?,
                Ready::Launch(function, launch, overlaps) => self
                    .launch(function, launch, *overlaps)
                    .map_err(|e| anyhow!("kernel '{}': {}", launch.symbol, describe(&e)))?,
            }
        }
        Ok(())
    }

    fn launch(
        &self,
        function: &CudaFunction,
        launch: &Launch,
        overlaps: bool,
    ) -> Result<(), cudarc::driver::DriverError> {
        let stream = &self.gpu.stream;
        // Every argument in the low bytes of a word of its own: little-endian, so 4-byte ones fit too.
        let mut words: Vec<u64> = launch
            .args
            .iter()
            .map(|arg| arg.bits(|id| self.buffers[id.0].address(stream)))
            .collect();
        let pointer = |(word, arg): (&mut u64, &Arg)| match arg {
            Arg::TensorMap(map) => std::ptr::from_ref(&self.maps[map.0]).cast_mut().cast(),
            _ => std::ptr::from_mut(word).cast(),
        };
        let mut pointers: Vec<*mut c_void> =
            words.iter_mut().zip(&launch.args).map(pointer).collect();
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: launch.grid[0],
            gridDimY: launch.grid[1],
            gridDimZ: launch.grid[2],
            blockDimX: launch.block[0],
            blockDimY: launch.block[1],
            blockDimZ: launch.block[2],
            sharedMemBytes: launch.shared_bytes,
            hStream: stream.cu_stream(),
            attrs: &mut attribute,
            numAttrs: u32::from(overlaps),
        };
        // SAFETY: the plan states the kernel's own signature; the harness checks what it writes.
        unsafe {
            sys::cuLaunchKernelEx(
                &config,
                function.cu_function(),
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        }
        .result()
    }

    /// Downloads the outputs.
    ///
    /// # Errors
    /// The driver's, the error of a failed kernel included.
    pub fn outputs(&self) -> anyhow::Result<Tensors> {
        let mut outputs = Tensors::new();
        for buffer in self.plan.buffers().iter().filter(|buffer| buffer.role == Role::Output) {
            outputs.insert(&buffer.name, self.read(&buffer.name)?);
        }
        Ok(outputs)
    }

    /// Downloads one buffer.
    ///
    /// # Errors
    /// The driver's, the error of a failed kernel included.
    ///
    /// # Panics
    /// If there is no buffer of that name.
    pub fn read(&self, name: &str) -> anyhow::Result<Tensor> {
        let id = self.plan.buffer_named(name);
        let (buffer, guarded) = (&self.plan.buffers()[id.0], &self.buffers[id.0]);
        let mut tensor = Tensor::zeros(buffer.dtype, &buffer.shape);
        let downloaded = guarded.download(&self.gpu.stream, tensor.as_bytes_mut());
        downloaded.map_err(|e| anyhow!(describe(&e)))?;
        self.gpu.synchronize()?;
        Ok(tensor)
    }

    /// Uploads other values into a buffer, behind what was enqueued.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// If there is no buffer of that name, type and shape.
    pub fn write(&mut self, name: &str, tensor: &Tensor) -> anyhow::Result<()> {
        let id = self.plan.buffer_for(name, tensor);
        let uploaded = self.buffers[id.0].upload(&self.gpu.stream, tensor.as_bytes());
        uploaded.map_err(|e| anyhow!("writing '{name}': {}", describe(&e)))
    }

    /// What the kernels damaged: canaries overwritten and inputs changed.
    ///
    /// # Errors
    /// The driver's.
    pub fn damage(&self) -> anyhow::Result<Option<String>> {
        let stream = &self.gpu.stream;
        for (buffer, guarded) in self.plan.buffers().iter().zip(&self.buffers) {
            let breach = guarded.breach(stream).map_err(|e| anyhow!(describe(&e)))?;
            if let Some(breach) = breach {
                return Ok(Some(format!("buffer '{}': {breach}", buffer.name)));
            }
            if let Role::Input(tensor) = &buffer.role {
                let changed = guarded
                    .differs_from(stream, tensor.as_bytes())
                    .map_err(|e| anyhow!(describe(&e)))?;
                if changed {
                    return Ok(Some(format!("input '{}' was changed", buffer.name)));
                }
            }
        }
        Ok(None)
    }

    /// Registers, local and shared memory of each kernel of the plan.
    pub fn resources(&self) -> Vec<KernelResources> {
        use sys::CUfunction_attribute::*;
        let mut all: Vec<KernelResources> = Vec::new();
        for step in &self.steps {
            let Ready::Launch(function, launch, _) = step else { continue };
            if all.iter().any(|known| known.symbol == launch.symbol) {
                continue;
            }
            // SAFETY: the handle is alive as long as `function`.
            let get = |which| unsafe {
                result::function::get_function_attribute(function.cu_function(), which)
                    .map_or(0, |value| value as usize)
            };
            all.push(KernelResources {
                symbol: launch.symbol.clone(),
                registers: get(CU_FUNC_ATTRIBUTE_NUM_REGS),
                local_bytes: get(CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES),
                shared_bytes: get(CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)
                    + launch.shared_bytes as usize,
            });
        }
        all
    }
}
