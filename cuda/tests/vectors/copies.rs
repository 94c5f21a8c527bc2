//! `cp.async.bulk.tensor`: boxes of a matrix copied through tensor maps, inside and across its edges.

use std::mem::MaybeUninit;

use cudarc::{
    driver::{DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg, sys},
    nvrtc::Ptx,
};
use touchstone_cuda::simulator::numeric::tensor::{Swizzle, TensorMap, tensor_map::Fill};

use super::{family::Words, record::Device, warps::Group};

/// Copies of several boxes through several maps of one matrix of halves, which is the input.
pub struct Copies {
    matrix: Vec<u32>,
    maps: Vec<(String, TensorMap)>,
}

/// Halves between rows of the matrix, and its rows and columns.
const PITCH: usize = 104;
const ROWS: usize = 24;
const COLUMNS: usize = 100;
/// First element of each box: column, row.
const CORNERS: [[i32; 2]; 4] = [[8, 3], [0, 0], [-5, 20], [90, -2]];
/// Words that a box may take in shared memory.
const WORDS: usize = 512;

/// The whole group.
pub fn group() -> Copies {
    let mut words = Words(7);
    let matrix = (0..PITCH * ROWS / 2).map(|_| words.next() as u32).collect();
    let mut maps = vec![];
    let mut add = |name: &str, columns: u32, swizzle: Swizzle, strides: [u32; 2], fill: Fill| {
        maps.push((
            name.to_owned(),
            TensorMap {
                address: 0,
                element_bytes: 2,
                dims: vec![COLUMNS as u64, ROWS as u64],
                strides_bytes: vec![2 * PITCH as u64],
                box_dims: vec![columns, 16],
                element_strides: strides.to_vec(),
                swizzle,
                fill,
                ..TensorMap::default()
            },
        ));
    };
    add("no swizzle", 64, Swizzle::None, [1, 1], Fill::Zeros);
    add("swizzle 32", 16, Swizzle::Bytes32, [1, 1], Fill::Zeros);
    add("swizzle 64", 32, Swizzle::Bytes64, [1, 1], Fill::Zeros);
    add("swizzle 128", 64, Swizzle::Bytes128, [1, 1], Fill::Zeros);
    add("swizzle 128, narrow", 32, Swizzle::Bytes128, [1, 1], Fill::Zeros);
    add("nan fill", 32, Swizzle::None, [1, 1], Fill::Nan);
    add("every other row", 32, Swizzle::Bytes64, [1, 2], Fill::Zeros);
    add("every other column", 64, Swizzle::None, [2, 1], Fill::Zeros);
    Copies { matrix, maps }
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
            Data::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
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

impl Group for Copies {
    fn name(&self) -> &'static str {
        "tensor_copy"
    }

    fn inputs(&self) -> &[u32] {
        &self.matrix
    }

    fn names(&self) -> Vec<String> {
        self.maps.iter().map(|(name, _)| name.clone()).collect()
    }

    fn ptx(&self) -> String {
        PTX.to_owned()
    }

    fn run(&self, device: &Device) -> Result<Vec<Vec<u32>>, String> {
        let text = |error: cudarc::driver::DriverError| format!("{error:?}");
        let stream = &device.stream;
        let module = stream.context().load_module(Ptx::from_src(PTX)).map_err(text)?;
        let function = module.load_function("tensor_copy").map_err(text)?;
        let matrix = stream.clone_htod(&self.matrix).map_err(text)?;
        let corners = stream.clone_htod(&CORNERS.concat()).map_err(text)?;
        let mut all = vec![];
        for (_, map) in &self.maps {
            let address = matrix.device_ptr(stream).0;
            let opaque = encode(&TensorMap { address, ..map.clone() })?;
            let bytes = map.box_bytes();
            let mut output = stream.alloc_zeros::<u32>(CORNERS.len() * WORDS).map_err(text)?;
            let config = LaunchConfig {
                grid_dim: (CORNERS.len() as u32, 1, 1),
                block_dim: (128, 1, 1),
                shared_mem_bytes: 0,
            };
            // SAFETY: a box has at most WORDS words, which each block writes.
            unsafe {
                stream
                    .launch_builder(&function)
                    .arg(&opaque)
                    .arg(&corners)
                    .arg(&mut output)
                    .arg(&bytes)
                    .launch(config)
            }
            .map_err(text)?;
            all.push(stream.clone_dtoh(&output).map_err(text)?);
        }
        Ok(all)
    }

    fn objections(&self, index: usize, inputs: &[u32], device: &[u32]) -> Vec<String> {
        let (name, map) = &self.maps[index];
        let mut objections = vec![];
        for (corner, device) in CORNERS.iter().zip(device.chunks(WORDS)) {
            let ours = copied(map, corner, inputs);
            if let Some(word) = (0..WORDS).find(|i| ours[*i] != device[*i]) {
                objections.push(format!(
                    "{name}, box at {corner:?}, word {word}: {:#x} instead of {:#x}",
                    device[word], ours[word]
                ));
            }
        }
        objections
    }
}

/// Shared memory after the copy of a box into 2 KiB of words that were all ones.
fn copied(map: &TensorMap, corner: &[i32], matrix: &[u32]) -> Vec<u32> {
    let matrix: Vec<u8> = matrix.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut memory = vec![0xff_u8; 4 * WORDS];
    map.traverse(corner, 0, |piece| {
        for i in 0..piece.bytes as usize {
            let outside = (map.fill_bytes() >> (8 * (i % map.element_bytes as usize))) as u8;
            let byte = piece.global.map_or(outside, |address| matrix[address as usize + i]);
            memory[piece.shared as usize + i] = byte;
        }
    });
    memory.chunks(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()
}

const PTX: &str = "// A box of a tensor, copied to shared memory at each of several corners: one block each.
// Written by tests/vectors.rs; TOUCHSTONE_ACCEPT=1 writes it anew.
.version 8.4
.target sm_90
.address_size 64

.visible .entry tensor_copy(.param .align 64 .b8 map[128], .param .u64 corners, .param .u64 results, .param .u32 bytes)
{
    .reg .pred %first, %done, %more;
    .reg .b32 %x, %y, %lane, %case, %index, %address, %base, %barrier, %bytes, %word;
    .reg .b64 %at, %out, %to, %map, %state;
    .shared .align 1024 .b8 memory[2048];
    .shared .align 8 .b64 barrier;
    mov.u32 %lane, %tid.x;
    mov.u32 %case, %ctaid.x;
    ld.param.u64 %at, [corners];
    ld.param.u64 %out, [results];
    ld.param.u32 %bytes, [bytes];
    cvta.to.global.u64 %at, %at;
    cvta.to.global.u64 %out, %out;
    mad.wide.u32 %at, %case, 8, %at;
    mad.wide.u32 %out, %case, 2048, %out;
    ld.global.v2.b32 {%x, %y}, [%at];
    mov.u32 %base, memory;
    mov.u32 %barrier, barrier;
    mov.b64 %map, map;
    cvta.param.u64 %map, %map;
    mov.u32 %index, %lane;
CLEAR:
    mad.lo.u32 %address, %index, 4, %base;
    st.shared.b32 [%address], 0xffffffff;
    add.u32 %index, %index, 128;
    setp.lt.u32 %more, %index, 512;
    @%more bra CLEAR;
    setp.eq.u32 %first, %lane, 0;
    @%first mbarrier.init.shared::cta.b64 [%barrier], 1;
    fence.proxy.async;
    bar.sync 0;
    @!%first bra WAIT;
    mbarrier.arrive.expect_tx.shared::cta.b64 %state, [%barrier], %bytes;
    cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%base], [%map, {%x, %y}], [%barrier];
WAIT:
    mbarrier.try_wait.parity.shared::cta.b64 %done, [%barrier], 0;
    @!%done bra WAIT;
    mov.u32 %index, %lane;
COPY:
    mad.lo.u32 %address, %index, 4, %base;
    ld.shared.b32 %word, [%address];
    mad.wide.u32 %to, %index, 4, %out;
    st.global.b32 [%to], %word;
    add.u32 %index, %index, 128;
    setp.lt.u32 %more, %index, 512;
    @%more bra COPY;
    ret;
}
";
