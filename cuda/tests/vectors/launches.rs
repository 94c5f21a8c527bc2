//! Groups whose instructions are launches of one block each: on a device and in the simulator alike.

use std::mem::MaybeUninit;

use cudarc::{
    driver::{DevicePtrMut, DeviceRepr, LaunchConfig, PushKernelArg, sys},
    nvrtc::Ptx,
};
use libtest_mimic::Failed;
use touchstone_cuda::{
    Arg, Plan,
    simulator::{
        Simulator,
        numeric::tensor::{Swizzle, TensorMap, tensor_map::Fill},
    },
};
use touchstone_reference::{DType, Tensor};

use super::{execute, record::Device, warps::Group};

/// What a tensor map lies over; its address is an offset into that.
#[derive(Clone, Copy, PartialEq)]
pub enum Over {
    Inputs,
    Results,
}

/// Result words of input words.
pub type Expectation = Box<dyn Fn(&[u32]) -> Vec<u32> + Send>;

/// One block. Its kernel takes the map if there is one, pointers to the inputs and to the launch's results (of
/// which every byte is 0xff before), and the numbers.
pub struct Launch {
    pub entry: String,
    pub map: Option<(TensorMap, Over)>,
    pub numbers: Vec<u32>,
    /// What the results are, of the inputs.
    pub expected: Expectation,
}

/// Launches that share inputs and a PTX file.
pub struct Launches {
    pub name: &'static str,
    pub ptx: String,
    pub inputs: Vec<u32>,
    pub threads: u32,
    /// Words of a launch's results.
    pub words: usize,
    /// Each with its name.
    pub instructions: Vec<(String, Vec<Launch>)>,
}

/// The driver's 128 bytes.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Opaque([u64; 16]);

// SAFETY: plain bytes.
unsafe impl DeviceRepr for Opaque {}

fn encode(map: &TensorMap) -> Result<Opaque, String> {
    use sys::{
        CUtensorMapDataType_enum as Data, CUtensorMapFloatOOBfill_enum as Outside,
        CUtensorMapInterleave_enum as Interleave, CUtensorMapL2promotion_enum as Promotion,
        CUtensorMapSwizzle_enum as Mode,
    };
    map.validate()?;
    let element = match map.element_bytes {
        1 => Data::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        2 => Data::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        4 => Data::CU_TENSOR_MAP_DATA_TYPE_UINT32,
        _ => Data::CU_TENSOR_MAP_DATA_TYPE_UINT64,
    };
    let mode = match map.swizzle {
        Swizzle::None => Mode::CU_TENSOR_MAP_SWIZZLE_NONE,
        Swizzle::Bytes32 => Mode::CU_TENSOR_MAP_SWIZZLE_32B,
        Swizzle::Bytes64 => Mode::CU_TENSOR_MAP_SWIZZLE_64B,
        Swizzle::Bytes128 => Mode::CU_TENSOR_MAP_SWIZZLE_128B,
    };
    let outside = match map.fill {
        Fill::Zeros => Outside::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        Fill::Nan => Outside::CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA,
    };
    let mut opaque = MaybeUninit::<Opaque>::zeroed();
    // SAFETY: the arrays have as many entries as the rank says; the map is 64-byte aligned.
    unsafe {
        sys::cuTensorMapEncodeTiled(
            opaque.as_mut_ptr().cast(),
            element,
            map.dims.len() as u32,
            map.address as *mut _,
            map.dims.as_ptr(),
            map.strides_bytes.as_ptr(),
            map.box_dims.as_ptr(),
            map.element_strides.as_ptr(),
            Interleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            mode,
            Promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
            outside,
        )
    }
    .result()
    .map_err(|error| format!("{error:?}"))?;
    // SAFETY: all bytes were zeroed at least.
    Ok(unsafe { opaque.assume_init() })
}

impl Group for Launches {
    fn name(&self) -> &'static str {
        self.name
    }

    fn inputs(&self) -> &[u32] {
        &self.inputs
    }

    fn names(&self) -> Vec<String> {
        self.instructions.iter().map(|(name, _)| name.clone()).collect()
    }

    fn ptx(&self) -> String {
        self.ptx.clone()
    }

    fn run(&self, device: &Device) -> Result<Vec<Vec<u32>>, String> {
        let text = |error: cudarc::driver::DriverError| format!("{error:?}");
        let stream = &device.stream;
        let module = stream.context().load_module(Ptx::from_src(&self.ptx)).map_err(text)?;
        let mut inputs = stream.clone_htod(&self.inputs).map_err(text)?;
        let mut all = vec![];
        for (name, launches) in &self.instructions {
            let fresh = vec![u32::MAX; launches.len() * self.words];
            let mut results = stream.clone_htod(&fresh).map_err(text)?;
            for (i, launch) in launches.iter().enumerate() {
                let function = module.load_function(&launch.entry).map_err(text)?;
                let first = (4 * self.words * i) as u64;
                let opaque = match &launch.map {
                    None => None,
                    Some((map, over)) => {
                        let start = match over {
                            Over::Inputs => inputs.device_ptr_mut(stream).0,
                            Over::Results => results.device_ptr_mut(stream).0 + first,
                        };
                        Some(encode(&TensorMap { address: start + map.address, ..map.clone() })?)
                    }
                };
                let mut own = results.slice_mut(self.words * i..self.words * (i + 1));
                let mut builder = stream.launch_builder(&function);
                if let Some(opaque) = &opaque {
                    builder.arg(opaque);
                }
                builder.arg(&mut inputs).arg(&mut own);
                launch.numbers.iter().for_each(|number| {
                    builder.arg(number);
                });
                let config = LaunchConfig {
                    grid_dim: (1, 1, 1),
                    block_dim: (self.threads, 1, 1),
                    shared_mem_bytes: 0,
                };
                // SAFETY: the kernel stays within its inputs and the launch's results.
                unsafe { builder.launch(config) }.map_err(text)?;
            }
            all.push(stream.clone_dtoh(&results).map_err(|e| format!("{name}: {e:?}"))?);
        }
        Ok(all)
    }

    fn execute(&self) -> Option<Result<Vec<Vec<u32>>, Failed>> {
        Some(self.instructions.iter().map(|(_, launches)| self.simulate(launches)).collect())
    }

    fn objections(&self, index: usize, inputs: &[u32], device: &[u32]) -> Vec<String> {
        let (name, launches) = &self.instructions[index];
        let mut objections = vec![];
        for (launch, device) in launches.iter().zip(device.chunks(self.words)) {
            let ours = (launch.expected)(inputs);
            if let Some(word) = (0..self.words).find(|i| ours[*i] != device[*i]) {
                objections.push(format!(
                    "{name}, {:?}, word {word}: {:#x} instead of {:#x}",
                    launch.numbers, device[word], ours[word]
                ));
            }
        }
        objections
    }
}

impl Launches {
    fn simulate(&self, launches: &[Launch]) -> Result<Vec<u32>, Failed> {
        let simulator = Simulator::new().with_module(self.name, &*self.ptx);
        let tensor = Tensor::from_bytes(DType::U32, &[self.inputs.len()], &bytes(&self.inputs));
        let mut plan = Plan::new();
        let inputs = plan.table("inputs", tensor);
        let results = plan.output("results", DType::U32, &[launches.len() * self.words]);
        plan.fill(results, 0xff);
        for (i, launch) in launches.iter().enumerate() {
            let first = 4 * self.words * i;
            let mut args = vec![];
            if let Some((map, over)) = &launch.map {
                let (buffer, start) = match over {
                    Over::Inputs => (inputs, 0),
                    Over::Results => (results, first as u64),
                };
                let map = TensorMap { address: start + map.address, ..map.clone() };
                args.push(plan.tensor_map(buffer, map).map_err(|refusal| refusal.0)?.into());
            }
            args.extend([inputs.into(), Arg::Buffer(results, first)]);
            args.extend(launch.numbers.iter().map(|number| Arg::U32(*number)));
            let block = [self.threads as usize, 1, 1];
            plan.launch(self.name, &*launch.entry, [1; 3], block, 0, &args);
        }
        let results = execute::run(&simulator, &plan)?;
        Ok(words(&results))
    }
}

/// Bytes as words.
pub fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Words as bytes.
pub fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
