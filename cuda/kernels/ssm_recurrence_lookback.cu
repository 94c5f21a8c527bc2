// Idea: one pass over tiles of time that are scanned in parallel and take their carry from published sums.
// Source: Merrill and Garland, Single-pass Parallel Prefix Scan with Decoupled Look-back (2016).
// Shapes: a, x, h [batch, seq_len, channels]; initial_state [batch, channels]; complex numbers as pairs.
//         A chain is 32 adjacent channels of one sequence. Scratch, by tile and chain: status,
//         sum_factor, sum_value and state (32 numbers each); ticket, one counter. Status and ticket start at 0.
// Plan: a block draws a ticket, which orders tiles by time first, so every tile it waits for was drawn
//       earlier and runs: no deadlock, and with many chains the wait is over before it begins. The block
//       publishes the tile's sum at once. It looks back to the last anchor before it, tiles 0, 8, 16, ...,
//       composes the sums in between with the anchor's state, and anchors publish their own state.
// Numerics: f32. Unlike the usual look-back it never takes whichever of sum and state comes first, so two
//           runs give the same bits.
// Limits: one long chain advances 8 tiles for each wait.
#include "release.cuh"
#include "ssm_recurrence_tile.cuh"

constexpr int WINDOW = 8;

enum Status : u32 { NOTHING_YET = 0, SUM = 1, STATE = 2 };

template <typename V> struct Published {
    u32* status;
    V *factor, *value, *state;
    i64 chains;

    __device__ __forceinline__ void wait(i64 tile, i64 chain, u32 status_wanted) const {
        while (load_acquire(status + tile * chains + chain) < status_wanted) {}
    }
    // All 32 lanes have stored: let others see it.
    __device__ __forceinline__ void announce(i64 tile, i64 chain, u32 value_now) const {
        __threadfence();
        __syncwarp();
        if (threadIdx.x == 0) store_release(status + tile * chains + chain, value_now);
    }
    // The state before `tile`, of this lane's channel.
    __device__ __forceinline__ V look_back(i64 tile, i64 chain) const {
        const i64 anchor = (tile - 1) / WINDOW * WINDOW;
        V a = one<V>(), x = zero<V>();
#pragma unroll 1
        for (i64 j = tile - 1; j > anchor; --j) {
            wait(j, chain, SUM);
            const i64 i = (j * chains + chain) * 32 + threadIdx.x;
            x = advance(a, __ldcg(value + i), x);
            a = times(a, __ldcg(factor + i));
        }
        wait(anchor, chain, STATE);
        return advance(a, __ldcg(state + (anchor * chains + chain) * 32 + threadIdx.x), x);
    }
};

template <typename T, bool Backward>
__device__ void lookback(const Recurrence<T, Backward>& scan, u32* ticket, u32* status,
                         typename Number<T>::V* factor, typename Number<T>::V* value,
                         typename Number<T>::V* state) {
    typedef typename Number<T>::V V;
    constexpr int Warps = 8, Steps = !Backward && sizeof(V) == 4 ? 16 : 8;
    typedef Tile<T, Backward, Warps, Steps> Part;
    __shared__ typename Part::Sums sums;
    __shared__ V before[32];
    __shared__ u32 drawn;
    if (threadIdx.x == 0 && threadIdx.y == 0) drawn = atomicAdd(ticket, 1u);
    __syncthreads();
    const i64 columns = (scan.channels + 31) / 32, chains = scan.batch * columns;
    const i64 tile_index = drawn / chains, chain = drawn % chains;
    const i64 b = chain / columns, c = chain % columns * 32 + threadIdx.x;
    const i64 from = tile_index * (Warps * Steps);
    const Published<V> published = {status, factor, value, state, chains};

    Part tile;
    tile.load(scan, b, from, c);
    tile.reduce(sums);
    __syncthreads();
    if (threadIdx.y == 0) {
        const i64 i = (tile_index * chains + chain) * 32 + threadIdx.x;
        const bool anchor = tile_index % WINDOW == 0;
        if (!anchor) {
            V a = one<V>();
            for (int w = 0; w < Warps; ++w) a = times(sums.factor[w][threadIdx.x], a);
            factor[i] = a;
            value[i] = Part::carry(sums, zero<V>(), Warps);
            published.announce(tile_index, chain, SUM);
        }
        V carried = zero<V>();
        if (tile_index > 0) carried = published.look_back(tile_index, chain);
        else if (c < scan.channels) carried = scan.start(b, c);
        __syncwarp();
        if (anchor) {
            state[i] = Part::carry(sums, carried, Warps);
            published.announce(tile_index, chain, STATE);
        }
        before[threadIdx.x] = carried;
    }
    __syncthreads();
    tile.finish(scan, b, from, c, Part::carry(sums, before[threadIdx.x], threadIdx.y));
}

#define SCRATCH(V) , u32 *ticket, u32 *status, V *factor, V *value, V *state
#define HANDED , ticket, status, factor, value, state
RECURRENCE_KERNELS(lookback, 256, f32, float, SCRATCH(float), HANDED)
RECURRENCE_KERNELS(lookback, 256, bf16, __nv_bfloat16, SCRATCH(float), HANDED)
RECURRENCE_KERNELS(lookback, 256, c64, float2, SCRATCH(float2), HANDED)
