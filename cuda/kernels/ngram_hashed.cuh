// What `ngram_count_partition` reads and how it hashes: the n-grams of a stretch of the stream, four a lane side by side, and a
// bijective hash with what undoes it.
#pragma once
#include "ngram.cuh"

// An odd factor and what undoes it; each step of Newton's doubles the correct low bits, of which 3 are there.
template <typename Key> constexpr Key inverse(Key factor) {
    Key x = factor;
    for (int i = 0; i < 5; ++i) x *= 2 - factor * x;
    return x;
}
template <typename Key> struct Hash;
template <> struct Hash<u32> {
    static constexpr u32 FIRST = 0x9e3779b1u, SECOND = 0x85ebca77u;
    static constexpr int BITS = 32;
};
template <> struct Hash<u64> {
    static constexpr u64 FIRST = 0x9e3779b97f4a7c15ull, SECOND = 0xff51afd7ed558ccdull;
    static constexpr int BITS = 64;
};
template <typename Key> __device__ __forceinline__ Key hashed(Key key) {
    typedef Hash<Key> H;
    key *= H::FIRST;
    return (key ^ key >> H::BITS / 2) * H::SECOND;
}
template <typename Key> __device__ __forceinline__ Key unhashed(Key key) {
    typedef Hash<Key> H;
    constexpr Key first = inverse(H::FIRST), second = inverse(H::SECOND);
    key *= second;
    return (key ^ key >> H::BITS / 2) * first;
}

// Four tokens from `at` on, a multiple of 4; 0 beyond the stream.
__device__ __forceinline__ void four_tokens(const u32* __restrict__ tokens, i64 at, i64 n, u32* to) {
    if (at + 4 <= n) {
        const uint4 four = __ldg((const uint4*)(tokens + at));
        to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
        return;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) to[j] = at + j < n ? tokens[at + j] : 0;
}
// x << by, 0 where `by` is as wide as x or wider.
__device__ __forceinline__ u32 shifted(u32 x, u32 by) {
    asm("shl.b32 %0, %0, %1;" : "+r"(x) : "r"(by));
    return x;
}
__device__ __forceinline__ u64 shifted(u64 x, u32 by) {
    asm("shl.b64 %0, %0, %1;" : "+l"(x) : "r"(by));
    return x;
}
// Hashes of the n-grams that start at the first four of eight tokens: tokens beyond the order are shifted out. Order 2, if
// it is known, needs five tokens and no shifts that depend on the order.
template <typename Key, bool Pairs>
__device__ __forceinline__ void four_hashed(const u32 (&token)[8], int order, int bits, Key (&to)[4]) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        if (Pairs) {
            to[j] = hashed((Key)token[j] << bits | token[j + 1]);
            continue;
        }
        to[j] = 0;
#pragma unroll
        for (int k = 0; k < 5; ++k)
            if (j + k < 8) to[j] |= shifted((Key)token[j + k], k < order ? bits * (order - 1 - k) : 64);
        to[j] = hashed(to[j]);
    }
}
// The same of `Groups` times 128 positions a warp, from `start` on, a lane's four side by side; all loads come first.
template <typename Key, int Groups, bool Pairs>
__device__ __forceinline__ void warp_hashed(const u32* __restrict__ tokens, i64 start, i64 n, int order, int bits,
                                            Key (&to)[4 * Groups]) {
    u32 token[Groups][8];
#pragma unroll
    for (int group = 0; group < Groups; ++group) {
        const i64 at = start + group * 128 + threadIdx.x % 32 * 4;
        four_tokens(tokens, at, n, token[group]);
        if (Pairs)
            token[group][4] = threadIdx.x % 32 == 31 && at + 4 < n ? __ldg(tokens + at + 4) : 0u;
        else
            four_tokens(tokens, at + 4, n, token[group] + 4);
    }
#pragma unroll
    for (int group = 0; group < Groups; ++group) {
        if (Pairs) {  // the next lane holds the fifth token
            const u32 next = __shfl_down_sync(0xffffffffu, token[group][0], 1);
            if (threadIdx.x % 32 < 31) token[group][4] = next;
        }
        Key four[4];
        four_hashed<Key, Pairs>(token[group], order, bits, four);
#pragma unroll
        for (int j = 0; j < 4; ++j) to[group * 4 + j] = four[j];
    }
}
