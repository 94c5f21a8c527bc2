//! `cp.async.bulk.tensor`: boxes of tensors of one to five dimensions, copied through tensor maps to shared memory
//! and back, inside and across their edges.

use std::fmt::Write;

use touchstone_cuda::simulator::numeric::tensor::{Swizzle, TensorMap, tensor_map::Fill};

use super::{
    family::Words,
    launches::{Launch, Launches, Over, bytes, words},
};

/// Words of the tensor, and of what each launch gives.
const TENSOR: usize = 1248;

/// A map, and where boxes of it begin.
struct Tile {
    name: &'static str,
    map: TensorMap,
    corners: [&'static [i32]; 4],
}

/// A tensor's sizes, the bytes between its neighbours, the box.
type Sizes<'a> = (&'a [u64], &'a [u64], &'a [u32]);

fn tile(
    name: &'static str,
    element_bytes: u32,
    (dims, strides, box_dims): Sizes<'_>,
    swizzle: Swizzle,
    corners: [&'static [i32]; 4],
) -> Tile {
    let map = TensorMap {
        address: 0,
        element_bytes,
        dims: dims.to_vec(),
        strides_bytes: strides.to_vec(),
        box_dims: box_dims.to_vec(),
        element_strides: vec![1; dims.len()],
        swizzle,
        ..TensorMap::default()
    };
    Tile { name, map, corners }
}

/// The engine reads 16 bytes at a time: a box begins at a multiple of them along dimension 0.
fn tiles() -> Vec<Tile> {
    use Swizzle::{Bytes32, Bytes64, Bytes128, None};
    const EDGES: [&[i32]; 4] = [&[8, 3], &[0, 0], &[-8, 20], &[88, -2]];
    let halves = |columns: u32| [columns, 16];
    let matrix = |name, columns: u32, swizzle| {
        tile(name, 2, (&[100, 24], &[208], &halves(columns)), swizzle, EDGES)
    };
    let mut nan = matrix("2d, nan fill", 32, None);
    nan.map.fill = Fill::Nan;
    let mut rows = matrix("2d, every other row", 32, Bytes64);
    rows.map.element_strides = vec![1, 2];
    vec![
        tile("1d", 2, (&[2400], &[], &[256]), None, [&[0], &[1296], &[-16], &[2392]]),
        matrix("2d, no swizzle", 64, None),
        matrix("2d, swizzle 32", 16, Bytes32),
        matrix("2d, swizzle 64", 32, Bytes64),
        matrix("2d, swizzle 128", 64, Bytes128),
        matrix("2d, swizzle 128, narrow", 32, Bytes128),
        nan,
        rows,
        tile(
            "2d, bytes",
            1,
            (&[200, 24], &[208], &[64, 16]),
            Bytes64,
            [&[16, 3], &[0, 0], &[-16, 20], &[192, -2]],
        ),
        tile(
            "2d, words",
            4,
            (&[50, 24], &[208], &[16, 16]),
            Bytes64,
            [&[4, 3], &[0, 0], &[-4, 20], &[44, -2]],
        ),
        tile(
            "3d, swizzle 32",
            2,
            (&[40, 6, 8], &[96, 576], &[16, 4, 4]),
            Bytes32,
            [&[8, 1, 2], &[0, 0, 0], &[-8, 4, -1], &[32, -2, 6]],
        ),
        tile(
            "4d",
            2,
            (&[24, 4, 5, 3], &[64, 256, 1280], &[8, 2, 3, 2]),
            None,
            [&[8, 1, 1, 1], &[0, 0, 0, 0], &[-8, 3, -1, 2], &[16, -1, 4, -1]],
        ),
        // As attention reads its tiles: rows of one head.
        tile(
            "4d, swizzle 128",
            2,
            (&[64, 2, 9, 2], &[128, 256, 2304], &[64, 1, 16, 1]),
            Bytes128,
            [&[0, 1, 0, 1], &[0, 0, 4, 0], &[0, 1, -3, 0], &[0, 2, 0, 1]],
        ),
        tile(
            "5d",
            2,
            (&[8, 3, 4, 5, 3], &[16, 64, 256, 1280], &[8, 2, 2, 3, 2]),
            None,
            [&[0, 1, 1, 1, 1], &[0, 0, 0, 0, 0], &[-8, 2, -1, 3, 0], &[0, -1, 3, -2, 2]],
        ),
    ]
}

/// The whole group.
pub fn group() -> Launches {
    let mut random = Words(7);
    let mut instructions = vec![];
    for stores in [false, true] {
        for tile in tiles() {
            // A stored box has no fill, and skips nothing.
            let skips = tile.map.element_strides.iter().any(|stride| *stride != 1);
            if stores && (skips || tile.map.fill == Fill::Nan) {
                continue;
            }
            let name = format!("{} {}", if stores { "store" } else { "load" }, tile.name);
            let launches = tile.corners.iter().map(|corner| launch(&tile.map, corner, stores));
            instructions.push((name, launches.collect()));
        }
    }
    Launches {
        name: "tensor_copy",
        ptx: ptx(),
        inputs: (0..TENSOR).map(|_| random.next() as u32).collect(),
        threads: 128,
        words: TENSOR,
        instructions,
    }
}

/// Stored boxes may hang over the far edges, but begin within the tensor.
fn launch(map: &TensorMap, corner: &[i32], stores: bool) -> Launch {
    let least = if stores { 0 } else { i32::MIN };
    let corner: Vec<i32> = corner.iter().map(|x| *x.max(&least)).collect();
    let mut numbers: Vec<u32> = corner.iter().map(|x| *x as u32).collect();
    let way = if stores { "store" } else { "load" };
    if !stores {
        numbers.push(map.box_bytes());
    }
    let copied = map.clone();
    Launch {
        entry: format!("{way}_{}d", corner.len()),
        map: Some((map.clone(), if stores { Over::Results } else { Over::Inputs })),
        numbers,
        expected: Box::new(move |inputs| {
            words(&if stores {
                stored(&copied, &corner, inputs)
            } else {
                loaded(&copied, &corner, inputs)
            })
        }),
    }
}

/// Results after the copy of a box into shared memory that was all ones; what follows it is not written.
fn loaded(map: &TensorMap, corner: &[i32], inputs: &[u32]) -> Vec<u8> {
    let (tensor, mut memory) = (bytes(inputs), vec![0xff; 4 * TENSOR]);
    map.traverse(corner, 0, |piece| {
        for i in 0..piece.bytes as usize {
            let outside = (map.fill_bytes() >> (8 * (i % map.element_bytes as usize))) as u8;
            let byte = piece.global.map_or(outside, |address| tensor[address as usize + i]);
            memory[piece.shared as usize + i] = byte;
        }
    });
    memory
}

/// A tensor that was all ones, after the copy of a box from shared memory that held the first inputs.
fn stored(map: &TensorMap, corner: &[i32], inputs: &[u32]) -> Vec<u8> {
    let (memory, mut tensor) = (bytes(inputs), vec![0xff; 4 * TENSOR]);
    map.traverse_stored(corner, 0, |piece| {
        if let Some(address) = piece.global {
            let (to, from, count) = (address as usize, piece.shared as usize, piece.bytes as usize);
            tensor[to..to + count].copy_from_slice(&memory[from..from + count]);
        }
    });
    tensor
}

fn ptx() -> String {
    let mut text = String::from(
        "// Boxes of tensors, copied to shared memory and back.\n\
         // Written by tests/vectors.rs; TOUCHSTONE_ACCEPT=1 writes it anew.\n\
         .version 8.4\n.target sm_90\n.address_size 64\n",
    );
    for rank in 1..=5 {
        let list = |of: &dyn Fn(usize) -> String| (0..rank).map(of).collect::<Vec<_>>().join(", ");
        let params = list(&|i| format!(".param .u32 x{i}"));
        let registers = list(&|i| format!("%x{i}"));
        let mut loads = String::new();
        for i in 0..rank {
            writeln!(loads, "    ld.param.u32 %x{i}, [x{i}];").expect("a string takes text");
        }
        for (way, more, body) in [("load", ", .param .u32 bytes", LOAD), ("store", "", STORE)] {
            let body = body.replace("COORDINATES", &registers).replace("RANK", &rank.to_string());
            write!(
                text,
                "\n.visible .entry {way}_{rank}d(.param .align 64 .b8 map[128], .param .u64 inputs, \
                 .param .u64 results, {params}{more})\n{{\n    .reg .b32 {registers};\n{HEAD}{loads}{body}}}\n"
            )
            .expect("a string takes text");
        }
    }
    text
}

const HEAD: &str = "    .reg .pred %first, %done, %more;
    .reg .b32 %lane, %index, %address, %base, %barrier, %bytes, %word;
    .reg .b64 %at, %map;
    .shared .align 1024 .b8 memory[2048];
    .shared .align 8 .b64 barrier;
    mov.u32 %lane, %tid.x;
    mov.u32 %base, memory;
    mov.u32 %barrier, barrier;
    mov.b64 %map, map;
    cvta.param.u64 %map, %map;
    setp.eq.u32 %first, %lane, 0;
    mov.u32 %index, %lane;
";

const LOAD: &str = "    ld.param.u32 %bytes, [bytes];
CLEAR:
    mad.lo.u32 %address, %index, 4, %base;
    st.shared.b32 [%address], 0xffffffff;
    add.u32 %index, %index, 128;
    setp.lt.u32 %more, %index, 512;
    @%more bra CLEAR;
    @%first mbarrier.init.shared::cta.b64 [%barrier], 1;
    fence.proxy.async;
    bar.sync 0;
    @!%first bra WAIT;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%barrier], %bytes;
    cp.async.bulk.tensor.RANKd.shared::cluster.global.mbarrier::complete_tx::bytes [%base], [%map, {COORDINATES}], [%barrier];
WAIT:
    mbarrier.try_wait.parity.shared::cta.b64 %done, [%barrier], 0;
    @!%done bra WAIT;
    mov.u32 %index, %lane;
COPY:
    mad.lo.u32 %address, %index, 4, %base;
    ld.shared.b32 %word, [%address];
    ld.param.u64 %at, [results];
    cvta.to.global.u64 %at, %at;
    mad.wide.u32 %at, %index, 4, %at;
    st.global.b32 [%at], %word;
    add.u32 %index, %index, 128;
    setp.lt.u32 %more, %index, 512;
    @%more bra COPY;
    ret;
";

const STORE: &str = "FILL:
    ld.param.u64 %at, [inputs];
    cvta.to.global.u64 %at, %at;
    mad.wide.u32 %at, %index, 4, %at;
    ld.global.b32 %word, [%at];
    mad.lo.u32 %address, %index, 4, %base;
    st.shared.b32 [%address], %word;
    add.u32 %index, %index, 128;
    setp.lt.u32 %more, %index, 512;
    @%more bra FILL;
    fence.proxy.async;
    bar.sync 0;
    @!%first bra DONE;
    cp.async.bulk.tensor.RANKd.global.shared::cta.bulk_group [%map, {COORDINATES}], [%base];
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group 0;
DONE:
    ret;
";
