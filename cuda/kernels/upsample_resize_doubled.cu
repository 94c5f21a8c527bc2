// Idea: at scale 2 an output's taps and weights are known beforehand: no positions, no tables, nothing shared; a thread
//   interpolates in registers whatever becomes its 16 bytes a row.
// Source: ours; separable filtering. The weights are those of upsample.cuh at a quarter pixel, exact in f32.
// Shapes: as upsample_resize_naive.cu, with out_h = 2 in_h and out_w = 2 in_w; an output row is whole words of 16 bytes.
// Plan: neighbouring threads have neighbouring words of a run of input rows, and the runs of a plane follow each other.
//   A thread reads 8 bytes of a row and as many pixels at either side as the taps reach, interpolates them along x, and
//   keeps a window of taps + 1 such rows, out of which come two output rows. Nearest moves bits. Runs are as short as the
//   rows read twice allow, for what is in flight at the end of a launch is the time lost: 2 rows, 4 of bicubic.
// Numerics: as naive: along x first, then along y, f32.
// Limits: half-pixel coordinates, but for nearest, where all give the same; threads below 2^31.
#include "upsample.cuh"

static constexpr int THREADS = 128;

// Weight k of an even output 2i, whose first tap is pixel i - taps / 2. An odd one's taps begin one later, its weights are
// these in reverse.
template <int TAPS> __device__ __forceinline__ constexpr float weight(int k);
template <> __device__ __forceinline__ constexpr float weight<2>(int k) { return k == 0 ? 0.25f : 0.75f; }
template <> __device__ __forceinline__ constexpr float weight<4>(int k) {
    return k == 0 ? -0.03515625f : k == 1 ? 0.26171875f : k == 2 ? 0.87890625f : -0.10546875f;
}

__device__ __forceinline__ void unpack(uint2 word, float* x, float) {
    x[0] = __uint_as_float(word.x);
    x[1] = __uint_as_float(word.y);
}
__device__ __forceinline__ void unpack(uint2 word, float* x, __half) {
    const float2 low = __half22float2(*(const __half2*)&word.x), high = __half22float2(*(const __half2*)&word.y);
    x[0] = low.x, x[1] = low.y, x[2] = high.x, x[3] = high.y;
}
__device__ __forceinline__ void unpack(uint2 word, float* x, __nv_bfloat16) {
    x[0] = __uint_as_float(word.x << 16), x[1] = __uint_as_float(word.x & 0xffff0000u);
    x[2] = __uint_as_float(word.y << 16), x[3] = __uint_as_float(word.y & 0xffff0000u);
}

// A thread's part of a plane: all rows of the pixels that become its words.
template <typename T, int TAPS> struct Strip {
    static constexpr int N = 16 / sizeof(T), PIXELS = N / 2, SIDE = TAPS / 2;
    const T* plane;
    int height, width, first;

    // Row y, or the border's, interpolated along x.
    __device__ __forceinline__ void interpolate(int y, float (&sum)[N]) const {
        const T* row = plane + (i64)max(0, min(y, height - 1)) * width;
        float x[PIXELS + 2 * SIDE];
        unpack(__ldg((const uint2*)(row + first)), x + SIDE, T());
#pragma unroll
        for (int k = 0; k < SIDE; ++k) {
            x[k] = to_float(__ldg(row + max(first - SIDE + k, 0)));
            x[SIDE + PIXELS + k] = to_float(__ldg(row + min(first + PIXELS + k, width - 1)));
        }
#pragma unroll
        for (int e = 0; e < N; ++e) {
            const int odd = e % 2;
#pragma unroll
            for (int k = 0; k < TAPS; ++k) {
                const float w = weight<TAPS>(odd ? TAPS - 1 - k : k), pixel = x[e / 2 + odd + k];
                sum[e] = k == 0 ? w * pixel : fmaf(w, pixel, sum[e]);
            }
        }
    }
};

// An output row from the first taps rows of a window, or the last.
template <typename T, int TAPS, int N>
__device__ __forceinline__ void store(uint4* to, const float (&window)[TAPS + 1][N], int odd) {
    float sum[N];
#pragma unroll
    for (int e = 0; e < N; ++e)
#pragma unroll
        for (int k = 0; k < TAPS; ++k) {
            const float w = weight<TAPS>(odd ? TAPS - 1 - k : k);
            sum[e] = k == 0 ? w * window[odd][e] : fmaf(w, window[odd + k][e], sum[e]);
        }
    __stcs(to, word_of(sum, T()));
}

// Where a thread begins: its plane, the first row of its run of RUN, its word of 8 bytes of an input row.
template <int RUN> struct Place {
    u32 plane, words;
    int row, word;

    __device__ __forceinline__ Place(int height, u32 words) : words(words) {
        const u32 runs = (u32)(height + RUN - 1) / RUN, thread = blockIdx.x * THREADS + threadIdx.x, run = thread / words;
        plane = run / runs;
        row = (int)(run - plane * runs) * RUN;
        word = (int)(thread - run * words);
    }

    // In `output`, the first of its words of 16 bytes.
    __device__ __forceinline__ uint4* in(void* output, int height) const {
        return (uint4*)output + ((i64)plane * height + row) * 2 * words + word;
    }
};

template <typename T, int TAPS, int RUN>
__device__ __forceinline__ void doubled(const T* __restrict__ input, T* __restrict__ output, u32 planes, int height,
                                        int width) {
    typedef Strip<T, TAPS> Mine;
    constexpr int N = Mine::N;
    const Place<RUN> place(height, (u32)width / Mine::PIXELS);
    if (place.plane >= planes) return;
    const Mine mine{input + (i64)place.plane * height * width, height, width, place.word * Mine::PIXELS};
    float window[TAPS + 1][N];
#pragma unroll
    for (int k = 1; k <= TAPS; ++k) mine.interpolate(place.row - Mine::SIDE + k - 1, window[k]);
    uint4* to = place.in(output, height);
#pragma unroll
    for (int y = place.row; y < place.row + RUN; ++y, to += 2 * place.words) {
        if (y >= height) return;
#pragma unroll
        for (int k = 0; k < TAPS; ++k)
#pragma unroll
            for (int e = 0; e < N; ++e) window[k][e] = window[k + 1][e];
        mine.interpolate(y + Mine::SIDE, window[TAPS]);
        store<T, TAPS>(to, window, 0);
        store<T, TAPS>(to + place.words, window, 1);
    }
}

__device__ __forceinline__ uint4 repeated(uint2 w, u32) { return make_uint4(w.x, w.x, w.y, w.y); }
__device__ __forceinline__ uint4 repeated(uint2 w, u16) {
    return make_uint4(__byte_perm(w.x, 0, 0x1010), __byte_perm(w.x, 0, 0x3232), __byte_perm(w.y, 0, 0x1010),
                      __byte_perm(w.y, 0, 0x3232));
}

template <typename Element, int RUN>
__device__ __forceinline__ void nearest(const Element* __restrict__ input, Element* __restrict__ output, u32 planes,
                                        int height, int width) {
    const Place<RUN> place(height, (u32)width * sizeof(Element) / 8);
    if (place.plane >= planes) return;
    const uint2* from = (const uint2*)input + ((i64)place.plane * height + place.row) * place.words + place.word;
    uint4* to = place.in(output, height);
    const int rows = min(RUN, height - place.row);
    uint2 held[RUN];
#pragma unroll
    for (int r = 0; r < RUN; ++r)
        if (r < rows) held[r] = __ldg(from + r * place.words);
#pragma unroll
    for (int r = 0; r < 2 * RUN; ++r)
        if (r / 2 < rows) __stcs(to + r * place.words, repeated(held[r / 2], Element()));
}

#define DOUBLED(name, T, of)                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, 8)                                                          \
        doubled_##name(const T* input, T* output, i64 planes, i64 in_h, i64 in_w) {                                   \
        of(input, output, (u32)planes, (int)in_h, (int)in_w);                                                         \
    }
DOUBLED(4_1, u32, (nearest<u32, 2>))
DOUBLED(2_1, u16, (nearest<u16, 2>))
DOUBLED(f32_2, float, (doubled<float, 2, 2>))
DOUBLED(f32_4, float, (doubled<float, 4, 4>))
DOUBLED(f16_2, __half, (doubled<__half, 2, 2>))
DOUBLED(f16_4, __half, (doubled<__half, 4, 4>))
DOUBLED(bf16_2, __nv_bfloat16, (doubled<__nv_bfloat16, 2, 2>))
DOUBLED(bf16_4, __nv_bfloat16, (doubled<__nv_bfloat16, 4, 4>))
