// Idea: move a row as 16-byte words, with several rows in flight a thread; the element type does not matter.
// Source: ours; the same plan serves every copy that is bound by memory latency before bandwidth.
// Shapes: table [vocab, words] 16-byte words (int8: 4-byte words), indices [tokens] → output [tokens, words] 16-byte.
// Plan: `lanes` neighbouring threads (a power of two <= 32) hold a row; a thread loads its word of the rows of 4 tokens
//       that follow each other before it stores any. Stores are streamed, so that the L2 keeps table rows. An int8
//       thread reads 4 bytes and writes 16: then the writes, four fifths of the traffic, are contiguous.
// Numerics: a copy; for int8 one product in f32, rounded once.
// Limits: a row must be whole words: dim · size % 16 == 0; int8: dim % 4 == 0. tokens < 2^31: positions of tokens have 32
//         bits, which for int8, where a thread has most to do for a byte, is a tenth of the time.
#include "embedding_row.cuh"

static constexpr int FLIGHT = 4;

// Reads word after word of the rows that this block holds, by load(row, word); store(position in the output, what was
// loaded) puts each away. A negative row is all zeros.
template <typename Held, typename Index, typename Load, typename Store>
__device__ __forceinline__ void each_row(const Index* __restrict__ indices, i64 tokens, i64 words, int lanes, Load load,
                                         Store store) {
    const int within = threadIdx.x % lanes;
    const u32 first = (blockIdx.x * (blockDim.x / lanes) + threadIdx.x / lanes) * FLIGHT;
    Index row[FLIGHT];
#pragma unroll
    for (int f = 0; f < FLIGHT; ++f) row[f] = first + f < tokens ? indices[first + f] : (Index)-1;
    for (i64 word = within; word < words; word += lanes) {
        Held held[FLIGHT];
#pragma unroll
        for (int f = 0; f < FLIGHT; ++f) held[f] = row[f] < 0 ? Held{} : load(row[f], word);
#pragma unroll
        for (int f = 0; f < FLIGHT; ++f)
            if (first + f < tokens) store((i64)(first + f) * words + word, held[f]);
    }
}

template <typename Index>
__device__ void gather_words(const uint4* __restrict__ table, const Index* __restrict__ indices,
                             uint4* __restrict__ output, i64 tokens, i64 words, int lanes) {
    each_row<uint4>(
        indices, tokens, words, lanes, [&](i64 row, i64 word) { return __ldg(table + row * words + word); },
        [&](i64 at, const uint4& word) { __stcs(output + at, word); });
}

// Four elements of an int8 row with the row's scale, which is in flight together with them.
struct Scaled {
    u32 word;
    float scale;
};

template <typename Index>
__device__ void gather_int8(const u32* __restrict__ table, const float* __restrict__ scales,
                            const Index* __restrict__ indices, float4* __restrict__ output, i64 tokens, i64 words,
                            int lanes) {
    each_row<Scaled>(
        indices, tokens, words, lanes,
        [&](i64 row, i64 word) { return Scaled{__ldg(table + row * words + word), __ldg(scales + row)}; },
        [&](i64 at, const Scaled& held) {
            const i8* q = reinterpret_cast<const i8*>(&held.word);
            __stcs(output + at, make_float4(held.scale * (float)q[0], held.scale * (float)q[1],
                                            held.scale * (float)q[2], held.scale * (float)q[3]));
        });
}

#define GATHER(Index, index)                                                                                          \
    extern "C" __global__ void __launch_bounds__(256) gather_words_##index(                                           \
        const uint4* table, const Index* indices, uint4* output, i64 tokens, i64 words, int lanes) {                  \
        gather_words<Index>(table, indices, output, tokens, words, lanes);                                            \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256)                                                                 \
        gather_int8_##index(const u32* table, const float* scales, const Index* indices, float4* output, i64 tokens,  \
                            i64 words, int lanes) {                                                                   \
        gather_int8<Index>(table, scales, indices, output, tokens, words, lanes);                                     \
    }
GATHER(int, i32)
GATHER(i64, i64)
