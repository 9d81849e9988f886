// Choosing tokens by score: pooling along tokens, and the exact set of the largest, ties to the earlier token.
#include "kvb.cuh"

constexpr int THREADS = 256;

// Scores smoothed with stride 1 and width / 2 of padding: the mean counts padding as zeros, the maximum ignores it. Only the
// first L - window tokens are smoothed, over themselves. grid (tokens of the longest sequence over 256, Hkv, B).
extern "C" __global__ void pool_scores(const float* __restrict__ scores, const int* __restrict__ lens, const int* __restrict__ starts,
                                       float* out, int window, int width, int is_max) {
  int i = blockIdx.x * THREADS + threadIdx.x, h = blockIdx.y, b = blockIdx.z, Hkv = gridDim.y, L = lens[b], n = max(L - window, 0);
  if (i >= L) return;
  const float* row = scores + (size_t)starts[b] * Hkv + (size_t)h * L; float y = is_max ? NEG_INF : 0.f;
  for (int j = max(i - width / 2, 0); j < min(i + width / 2 + 1, n); ++j) y = is_max ? fmaxf(y, row[j]) : y + row[j];
  out[(size_t)starts[b] * Hkv + (size_t)h * L + i] = i < n ? (is_max ? y : y / (float)width) : 0.f;
}

// Bits in the order of the numbers.
KVB_DEV u32 ordered(float x) { u32 b = float_bits(x); return b & 0x80000000u ? ~b : b | 0x80000000u; }

// The `count` largest scores among all but the last `tail` tokens, and those: ascending token numbers to index[bh][stride].
// Everything where the prompt fits. grid (1, Hkv, B), block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
select_top(const float* __restrict__ scores, const int* __restrict__ lens, const int* __restrict__ starts, int* index, int count,
           int tail, int stride) {
  KVB_SMEM(shared);
  u32* histogram = (u32*)shared; u32* state = histogram + 256; u32* warps = state + 4;
  int tid = threadIdx.x, lane = tid & 31, h = blockIdx.y, b = blockIdx.z, Hkv = gridDim.y, L = lens[b], old = max(L - tail, 0);
  const float* row = scores + (size_t)starts[b] * Hkv + (size_t)h * L; int* to = index + (size_t)(b * Hkv + h) * stride;
  if (old <= count) {
    for (int i = tid; i < L; i += THREADS) to[i] = i;
    return;
  }
  // The key of the count-th largest, eight bits at a time; `left` is its rank among those that share the bits so far.
  u32 key = 0u, left = (u32)count;
  for (int shift = 24; shift >= 0; shift -= 8) {
    histogram[tid] = 0u;
    __syncthreads();
    for (int i = tid; i < old; i += THREADS) {
      u32 x = ordered(row[i]);
      if (shift == 24 || x >> (shift + 8) == key >> (shift + 8)) atomic_add(histogram + (x >> shift & 255u), 1u);
    }
    __syncthreads();
    if (tid == 0) {
      u32 digit = 255u;
      while (histogram[digit] < left) { left -= histogram[digit]; --digit; }
      state[0] = key | digit << shift; state[1] = left;
    }
    __syncthreads();
    key = state[0]; left = state[1];
    __syncthreads();
  }
  // `left` of the tokens with exactly this key are taken, the earliest. Tokens go out in order, 256 at a time.
  if (tid == 0) { state[2] = 0u; state[3] = 0u; }
  __syncthreads();
  for (int base = 0; base < old; base += THREADS) {
    int i = base + tid; u32 x = i < old ? ordered(row[i]) : 0u;
    bool equal = i < old && x == key;
    u32 equals = ballot(equal), before = popcount(equals & ((1u << lane) - 1u));
    if (lane == 0) warps[tid >> 5] = popcount(equals);
    __syncthreads();
    for (int w = 0; w < tid >> 5; ++w) before += warps[w];
    u32 all_equal = 0u;
    for (int w = 0; w < THREADS / 32; ++w) all_equal += warps[w];
    bool taken = i < old && (x > key || (equal && state[2] + before < left));
    u32 takes = ballot(taken), place = popcount(takes & ((1u << lane) - 1u));
    __syncthreads();
    if (lane == 0) warps[tid >> 5] = popcount(takes);
    __syncthreads();
    u32 all_taken = 0u;
    for (int w = 0; w < THREADS / 32; ++w) { if (w < tid >> 5) place += warps[w]; all_taken += warps[w]; }
    if (taken) to[state[3] + place] = i;
    __syncthreads();
    if (tid == 0) { state[2] += all_equal; state[3] += all_taken; }
    __syncthreads();
  }
  for (int i = tid; i < L - old; i += THREADS) to[count + i] = old + i;
}
