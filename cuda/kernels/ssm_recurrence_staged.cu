// Idea: tiles of time stream into shared memory by asynchronous copies, several ahead, while the block scans: loads
//       are under way at every moment, and no register holds one.
// Source: Blelloch, Prefix Sums and Their Applications (1990), section 1.4, for the scan; the pipeline is ours.
// Shapes: a, x, h [batch, seq_len, channels]; initial_state [batch, channels]; complex numbers as pairs.
// Plan: a block walks one sequence and 32 words of a row: 32 real f32 channels, 32 complex ones, or 64 of bf16, so that
//       every copy is 16 bytes and every store a whole line of 128. Each warp reads its eight steps of a tile twice:
//       once for their sum, and, when the sums before it are known, for the states themselves.
// Numerics: f32; a state passes through the same factors as sequentially, multiplied in another order.
// Limits: rows are multiples of 16 bytes; a sequence stays with one block, so batch*channels/32 (bf16: /64) blocks
//         must fill the device.
#include "ssm_recurrence.cuh"

// What one lane holds of a row: two neighbouring channels of bf16, or one number of the other types.
struct Two {
    float x, y;
};
template <> __device__ __forceinline__ Two zero<Two>() { return {0.f, 0.f}; }
template <> __device__ __forceinline__ Two one<Two>() { return {1.f, 1.f}; }
__device__ __forceinline__ Two conj(Two a) { return a; }
__device__ __forceinline__ Two times(Two a, Two b) { return {a.x * b.x, a.y * b.y}; }
__device__ __forceinline__ Two advance(Two a, Two h, Two x) { return {fmaf(a.x, h.x, x.x), fmaf(a.y, h.y, x.y)}; }

template <typename T> struct Lane {
    typedef typename Number<T>::V V;
    typedef T Word;
    static constexpr int CHANNELS = 1;
    static __device__ __forceinline__ V load(const Word* p) { return *p; }
    static __device__ __forceinline__ void store(Word* p, V v) { __stcs(p, v); }
};
template <> struct Lane<__nv_bfloat16> {
    typedef Two V;
    typedef u32 Word;
    static constexpr int CHANNELS = 2;
    static __device__ __forceinline__ V load(const Word* p) {
        const u32 w = *p;
        return {__uint_as_float(w << 16), __uint_as_float(w & 0xffff0000u)};
    }
    static __device__ __forceinline__ void store(Word* p, V v) {
        const __nv_bfloat162 w = __floats2bfloat162_rn(v.x, v.y);
        __stcs(p, *(const u32*)&w);
    }
};

template <typename T, bool Backward, int WARPS, int STEPS, int STAGES>
__device__ void staged(const Recurrence<T, Backward>& scan) {
    typedef typename Lane<T>::V V;
    typedef typename Lane<T>::Word Word;
    constexpr int CHANNELS = Lane<T>::CHANNELS, TILE = WARPS * STEPS, STREAMS = Backward ? 3 : 2;
    constexpr int CHUNKS = 2 * sizeof(Word), PER_CHUNK = 16 / sizeof(Word), THREADS = WARPS * 32,
                  APART = THREADS / CHUNKS;
    static_assert(TILE % APART == 0, "a thread copies every so many rows");
    extern __shared__ uint4 memory[];
    Word(*const tiles)[STREAMS][TILE][32] = (Word(*)[STREAMS][TILE][32])memory;
    V(*const factors)[WARPS][32] = (V(*)[WARPS][32])(tiles + STAGES);  // two of them, as of values
    V(*const values)[WARPS][32] = factors + 2;

    const int lane = threadIdx.x, warp = threadIdx.y, thread = warp * 32 + lane;
    const int words = (int)(scan.channels / CHANNELS), columns = (words + 31) / 32;
    const i64 b = blockIdx.x / columns;
    const int word = blockIdx.x % columns * 32;
    const bool mine = word + lane < words;
    const int seq_len = (int)scan.seq_len;
    const i64 sequence = b * scan.seq_len * words + word;
    const Word* const sources[3] = {(const Word*)scan.a + sequence, (const Word*)scan.x + sequence,
                                    (const Word*)scan.states + sequence};

    // Row r of a tile is step from + r: a and x of its time; backward, a one later and h one earlier.
    const int chunk = thread % CHUNKS, row = thread / CHUNKS;
    const bool there = word + chunk * PER_CHUNK < words;
    const int stride = Backward ? -words : words;
    const auto start = [&](int tile) {
#pragma unroll
        for (int k = 0; k < STREAMS; ++k) {
            const int s = tile * TILE + row, t = Backward ? seq_len - 1 - s + (k == 0) - (k == 2) : s;
            u32 to = (u32)__cvta_generic_to_shared(&tiles[tile % STAGES][k][row][chunk * PER_CHUNK]);
            const Word* from = sources[k] + (i64)t * words + chunk * PER_CHUNK;
#pragma unroll 1
            for (int r = 0; r < TILE; r += APART, from += APART * stride, to += APART * 32 * sizeof(Word)) {
                const u32 time = (u32)(Backward ? t - r : t + r);
                const bool inside = there && time < (u32)seq_len;
                asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(inside ? from : sources[k]),
                             "r"(inside ? 16 : 0)
                             : "memory");
            }
        }
    };
    V state = zero<V>();
    const V* const initial = (const V*)scan.initial;
    const i64 column = b * words + word + lane;
    if (!Backward && initial && mine) state = initial[column];
    const int count = (seq_len + TILE - 1) / TILE;
    for (int j = 0; j < STAGES - 1; ++j) {
        if (j < count) start(j);
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
#pragma unroll 1
    for (int j = 0; j < count; ++j) {
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
        __syncthreads();
        if (j + STAGES - 1 < count) start(j + STAGES - 1);
        asm volatile("cp.async.commit_group;" ::: "memory");
        const auto& tile = tiles[j % STAGES];
        const auto a = [&](int k) {
            const V factor = Lane<T>::load(&tile[0][warp * STEPS + k][lane]);
            return Backward ? conj(factor) : factor;
        };
        const auto x = [&](int k) { return Lane<T>::load(&tile[1][warp * STEPS + k][lane]); };
        V factor = one<V>(), value = zero<V>();
#pragma unroll 2
        for (int k = 0; k < STEPS; ++k) {
            factor = times(a(k), factor);
            value = advance(a(k), value, x(k));
        }
        factors[j % 2][warp][lane] = factor;
        values[j % 2][warp][lane] = value;
        __syncthreads();
        V h = state;
#pragma unroll 2
        for (int w = 0; w < WARPS; ++w) {
            if (w == warp) h = state;
            state = advance(factors[j % 2][w][lane], state, values[j % 2][w][lane]);
        }
        const int s = j * TILE + warp * STEPS, steps = min(STEPS, seq_len - s);
        if (!mine) continue;
        const i64 at = sequence + lane + (i64)(Backward ? seq_len - 1 - s : s) * words;
        Word *out = (Word*)scan.out + at, *da = (Word*)scan.da + at;
#pragma unroll 2
        for (int k = 0; k < STEPS; ++k) {
            if (k >= steps) break;
            h = advance(a(k), h, x(k));
            Lane<T>::store(out, h);
            out += stride;
            if (!Backward) continue;
            V before = Lane<T>::load(&tile[STREAMS - 1][warp * STEPS + k][lane]);
            if (initial && s + k == seq_len - 1) before = initial[column];
            Lane<T>::store(da, times(h, conj(before)));
            da += stride;
        }
        if (Backward && scan.dinitial && s + steps == seq_len && steps > 0)
            ((V*)scan.dinitial)[column] = times(conj(Lane<T>::load((const Word*)scan.a + sequence + lane)), h);
    }
}
// Warps, steps of a warp and stages, by measurement on an H200 (hgrn_layer, 2026-11-28); as a share of a copy's rate
// f32 gives 92 % in both directions, bf16 90 and 91 %. What else was tried with one shape for all: 8, 8, 3 gives 90, 86,
// 89 and 85 %; 8, 8, 2 gives 96, 87, 79 and 91 %; 4, 8, 4 gives 91, 88, 90 and 88 %.
template <typename T, bool Backward> __device__ void real_staged(const Recurrence<T, Backward>& scan) {
    constexpr bool SMALL = sizeof(T) == 2 && !Backward;
    staged<T, Backward, SMALL ? 4 : 16, 8, SMALL ? 6 : 3>(scan);
}
template <typename T, bool Backward> __device__ void complex_staged(const Recurrence<T, Backward>& scan) {
    staged<T, Backward, 8, 8, 3>(scan);
}
#define NOTHING
RECURRENCE_KERNELS(real_staged, 512, f32, float, NOTHING, NOTHING)
RECURRENCE_KERNELS(real_staged, 512, bf16, __nv_bfloat16, NOTHING, NOTHING)
RECURRENCE_KERNELS(complex_staged, 256, c64, float2, NOTHING, NOTHING)
