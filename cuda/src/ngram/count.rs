//! Plans of `ngram.count`.

use touchstone_reference::{Case, DType, Tensors, ngram::CountParams};

use crate::{
    plan::{Arg, BufferId, Plan},
    radix_sort,
    variant::Unsupported,
};

/// Elements that a block of `ngram_compact` compacts: its `TILE`.
const TILE: usize = 4096;
/// Slots that a block of `hash_gather` looks at.
const GATHERED: usize = 4096;
/// Most bits of a packed n-gram for which `direct` has a counter each.
const DIRECT_BITS: u32 = 26;

/// Sizes that the launches of `ngram_count_partition` share with the kernels.
mod partition {
    /// Threads of a block of the passes, and bytes of the keys of its tile.
    pub const THREADS: usize = 512;
    pub const TILE_BYTES: usize = 32768;
    /// Runs of a tile at most.
    pub const DIGITS: usize = 256;
    /// Threads of a block that counts a bucket, and slots of its table.
    pub const COUNT_THREADS: usize = 512;
    pub const SLOTS: usize = 4096;
    /// Positions that a bucket holds on average, where there are buckets enough: half of its table, whose slots are half as
    /// large where they are packed.
    pub const A_BUCKET: usize = 2048;
    pub const A_PACKED_BUCKET: usize = 4096;
    /// Most bits that name a bucket.
    pub const MOST_BITS: usize = 15;
    /// Blocks of the histogram at most: as many as keep the largest device busy with one each.
    pub const HISTOGRAMS: usize = 132;

    /// Bits that name a bucket of `n` positions. A packed slot has as many for its count: a bucket holds half as many
    /// positions as that counts to.
    pub fn bucket_bits(n: usize, packed: bool) -> usize {
        let holds =
            |bits: usize| if packed { A_PACKED_BUCKET.min(1 << bits >> 1) } else { A_BUCKET };
        (2..MOST_BITS).find(|&bits| n <= holds(bits) << bits).unwrap_or(MOST_BITS)
    }

    /// How many of them the first pass looks at: half, or fewer where a part of it would be less than half a tile, since
    /// the second takes a tile's parts one after the other.
    pub fn first_bits(n: usize, bucket_bits: usize) -> usize {
        let half_tiles = (n / (TILE_BYTES / 8)).max(1).ilog2() as usize;
        half_tiles.clamp(1, bucket_bits.div_ceil(2))
    }
}

/// Buffers that all variants have.
struct Counting {
    plan: Plan,
    tokens: BufferId,
    ngrams: BufferId,
    counts: BufferId,
    unique: BufferId,
    /// n-grams of the stream, repeats included.
    capacity: usize,
    order: i32,
    bits: i32,
}

impl Counting {
    fn new(p: &CountParams, inputs: &Tensors) -> Self {
        let (mut plan, capacity) = (Plan::new(), p.capacity());
        Self {
            tokens: plan.input(inputs, "tokens"),
            ngrams: plan.output("ngrams", DType::U64, &[capacity]),
            counts: plan.output("counts", DType::U32, &[capacity]),
            unique: plan.output("unique", DType::I64, &[1]),
            capacity,
            order: p.order as i32,
            bits: p.bits() as i32,
            plan,
        }
    }

    /// A launch over all positions, `a_block` of them a block, of a kernel that reads n-grams from the tokens.
    fn over_positions(
        &mut self,
        module: &'static str,
        symbol: &str,
        threads: usize,
        a_block: usize,
        to: BufferId,
        more: &[Arg],
    ) {
        let common: [Arg; 5] = [
            self.tokens.into(),
            to.into(),
            self.capacity.into(),
            self.order.into(),
            self.bits.into(),
        ];
        let args = [&common[..], more].concat();
        let blocks = self.capacity.div_ceil(a_block);
        self.plan.launch(module, symbol, [blocks, 1, 1], [threads, 1, 1], 0, &args);
    }

    fn compact(&mut self, symbol: &str, blocks: usize, threads: usize, args: &[Arg]) {
        self.plan.launch("ngram_compact", symbol, [blocks, 1, 1], [threads, 1, 1], 0, args);
    }

    /// Starts of the tiles of `n` elements that `mark` marks, and their number in `unique`.
    fn tile_starts(&mut self, mark: &str, elements: BufferId, n: usize) -> BufferId {
        let tiles = n.div_ceil(TILE);
        let starts = self.plan.scratch("tile_starts", DType::U32, &[tiles]);
        self.compact(mark, tiles, 256, &[elements.into(), starts.into(), n.into()]);
        let args = [starts.into(), tiles.into(), self.unique.into()];
        self.compact("scan_tiles", 1, 1024, &args);
        starts
    }

    fn zero_tail(&mut self) {
        let blocks = self.capacity.div_ceil(256).min(2048);
        let args =
            [self.unique.into(), self.capacity.into(), self.ngrams.into(), self.counts.into()];
        self.compact("zero_tail", blocks, 256, &args);
    }
}

/// A counter for every possible n-gram.
pub fn direct(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let p = case.params::<CountParams>()?;
    let key_bits = p.order as u32 * p.bits();
    if key_bits > DIRECT_BITS {
        return Err(Unsupported(format!(
            "{key_bits}-bit n-grams: a counter for each is for at most {DIRECT_BITS} bits"
        )));
    }
    let mut c = Counting::new(&p, inputs);
    let possible = 1 << key_bits;
    let table = c.plan.scratch("table", DType::U32, &[possible]);
    c.plan.fill(table, 0);
    c.over_positions("ngram_count_direct", "count_direct", 256, 256, table, &[]);
    let starts = c.tile_starts("mark_used", table, possible);
    let args = [table.into(), starts.into(), possible.into(), c.ngrams.into(), c.counts.into()];
    c.compact("keep_used", possible.div_ceil(TILE), 256, &args);
    c.zero_tail();
    Ok(c.plan)
}

/// A hash table in global memory.
pub fn hash(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    hashed(case, inputs, "hash_insert", 512)
}

/// The same behind tables in shared memory.
pub fn hash_shared(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    hashed(case, inputs, "hash_insert_shared", 8192)
}

fn hashed(
    case: &Case,
    inputs: &Tensors,
    symbol: &str,
    a_block: usize,
) -> Result<Plan, Unsupported> {
    let p = case.params::<CountParams>()?;
    // The greatest token has all of its bits set only if there are 2^bits tokens.
    if p.order as u32 * p.bits() == 64 && p.vocab == 1 << p.bits() {
        return Err(Unsupported(
            "every 64-bit key is an n-gram: none is left to mark free slots".into(),
        ));
    }
    let mut c = Counting::new(&p, inputs);
    // At most half full, and never more than twice what the vocabulary can form.
    let possible = p.vocab.checked_pow(p.order as u32).unwrap_or(usize::MAX);
    let slots = (2 * c.capacity.min(possible)).next_power_of_two().max(2);
    let table = c.plan.scratch("slots", DType::U64, &[slots, 2]);
    c.plan.fill(table, 0xff);
    c.plan.fill(c.unique, 0);
    let mask = Arg::U64(slots as u64 - 1);
    c.over_positions("ngram_count_hash", symbol, 512, a_block, table, &[mask]);
    let args = [table.into(), slots.into(), c.ngrams.into(), c.counts.into(), c.unique.into()];
    let blocks = slots.div_ceil(GATHERED);
    c.plan.launch("ngram_count_hash", "hash_gather", [blocks, 1, 1], [512, 1, 1], 0, &args);
    c.zero_tail();
    Ok(c.plan)
}

/// Hashed n-grams, partitioned into buckets that tables in shared memory count.
pub fn partition(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    partitioned(case, inputs, false)
}

/// The same with a key and its count in one word of the tables.
pub fn packed(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let p = case.params::<CountParams>()?;
    let key_bits = p.order as u32 * p.bits();
    if key_bits > 32 {
        return Err(Unsupported(format!(
            "{key_bits}-bit n-grams: a word holds a key of at most 32 bits with its count"
        )));
    }
    partitioned(case, inputs, true)
}

fn partitioned(case: &Case, inputs: &Tensors, packed: bool) -> Result<Plan, Unsupported> {
    use partition as of;
    const MODULE: &str = "ngram_count_partition";
    let p = case.params::<CountParams>()?;
    let width = if p.order as u32 * p.bits() <= 32 { DType::U32 } else { DType::U64 };
    let suffix = width.name();
    let mut c = Counting::new(&p, inputs);
    let n = c.capacity;
    let bucket_bits = of::bucket_bits(n, packed);
    let first_bits = of::first_bits(n, bucket_bits);
    let second_bits = bucket_bits - first_bits;
    let plan = &mut c.plan;
    let hashed = ["hashed", "partitioned"].map(|name| plan.scratch(name, width, &[n]));
    let offsets = plan.scratch("offsets", DType::U32, &[(1 << bucket_bits) + 1]);
    let first = plan.scratch("first", DType::U32, &[1 << first_bits]);
    let second = plan.scratch("second", DType::U32, &[1 << bucket_bits]);
    let hot = plan.scratch("hot", width, &[1 << bucket_bits]);
    let repeated = plan.scratch("repeated", DType::U64, &[1]);
    plan.fill(offsets, 0);
    let int = |value: usize| Arg::from(value as i32);
    let stream = [p.tokens.into(), c.order.into(), c.bits.into()];
    let mut launch =
        |symbol: String, blocks: usize, threads: usize, shared: usize, args: &[Arg]| {
            plan.launch(MODULE, symbol, [blocks, 1, 1], [threads, 1, 1], shared, args);
        };
    // A share starts on 16 bytes.
    let share = n.div_ceil(of::HISTOGRAMS).next_multiple_of(TILE).max(TILE);
    let to_offsets = [
        &[c.tokens.into(), offsets.into(), hot.into()],
        &stream[..],
        &[int(bucket_bits), share.into()],
    ];
    let symbol = |name: &str| format!("partition_{name}_{suffix}");
    // The kernels that read the stream know order 2 of narrow keys.
    let pairs = if p.order == 2 && width == DType::U32 { "pairs_" } else { "" };
    let of_stream = |name: &str| format!("partition_{name}_{pairs}{suffix}");
    launch(of_stream("histogram"), n.div_ceil(share), 1024, 4 << bucket_bits, &to_offsets.concat());
    let starts = [offsets.into(), first.into(), second.into(), c.unique.into(), repeated.into()];
    let args = [&starts[..], &[int(bucket_bits), int(second_bits)]].concat();
    launch("partition_offsets".into(), 1, 1024, 0, &args);
    let staged = of::TILE_BYTES + 4 * (2 * of::DIGITS + of::THREADS / 32 + 1);
    let tiles = n.div_ceil(of::TILE_BYTES / width.bytes());
    let args =
        [&[c.tokens.into(), hashed[0].into(), first.into()], &stream[..], &[int(first_bits)]];
    launch(of_stream("first"), tiles, of::THREADS, staged, &args.concat());
    let bits = [int(bucket_bits), int(second_bits)];
    let keys = [hashed[0].into(), hashed[1].into(), second.into(), offsets.into(), hot.into()];
    let left_out = [c.ngrams.into(), c.counts.into(), repeated.into(), n.into()];
    let args = [&keys[..], &left_out, &bits].concat();
    launch(symbol("second"), tiles, of::THREADS, staged, &args);
    let table = of::SLOTS * (width.bytes() + 4) + 4 * (6 + of::COUNT_THREADS / 32) + 16;
    let outputs = [c.ngrams.into(), c.counts.into(), c.unique.into(), repeated.into()];
    let buckets = [hashed[1].into(), offsets.into(), second.into(), hot.into()];
    let args = [&buckets[..], &outputs, &[n.into(), int(bucket_bits)]];
    let count = if packed { "partition_count_packed".into() } else { symbol("count") };
    launch(count, 1 << bucket_bits, of::COUNT_THREADS, table, &args.concat());
    Ok(c.plan)
}

/// Sorted n-grams, then run lengths.
pub fn sort(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let p = case.params::<CountParams>()?;
    let key_bits = p.order as u32 * p.bits();
    let width = if key_bits <= 32 { DType::U32 } else { DType::U64 };
    let suffix = width.name();
    let mut c = Counting::new(&p, inputs);
    let n = c.capacity;
    let keys = c.plan.scratch("keys", width, &[n]);
    c.over_positions("ngram_count_sort", &format!("pack_{suffix}"), 256, 256, keys, &[]);
    let sorted = radix_sort::append(&mut c.plan, "sort", keys, None, n, width, 0..key_bits);
    let starts = c.tile_starts(&format!("mark_heads_{suffix}"), sorted.keys, n);
    let run_starts = c.plan.scratch("run_starts", DType::U32, &[n]);
    let args = [sorted.keys.into(), starts.into(), n.into(), c.ngrams.into(), run_starts.into()];
    c.compact(&format!("keep_heads_{suffix}"), n.div_ceil(TILE), 256, &args);
    let args = [run_starts.into(), c.unique.into(), n.into(), c.ngrams.into(), c.counts.into()];
    c.compact("runs", n.div_ceil(256), 256, &args);
    Ok(c.plan)
}
