// What the memory can do: the read and copy bandwidth by which all kernels are judged.
#include "kvb.cuh"

constexpr int UNROLL = 8;   // 16-byte loads in flight per thread: 128 B x 2048 threads = 256 KiB an SM

// Wrapping sum of all 32-bit words; partial[block] takes the block's share. n: 16-byte words. block 256.
extern "C" __global__ void __launch_bounds__(256) read_words(const uint4* __restrict__ in, u64 n, u32* __restrict__ partial) {
  u64 step = (u64)gridDim.x * 256 * UNROLL;
  u32 sum = 0;
  for (u64 base = (u64)blockIdx.x * 256 * UNROLL + threadIdx.x; base < n; base += step) {
    uint4 v[UNROLL];
    #pragma unroll
    for (int i = 0; i < UNROLL; ++i) { u64 at = base + (u64)i * 256; v[i] = at < n ? ldg_nc(in + at) : uint4{0u, 0u, 0u, 0u}; }
    #pragma unroll
    for (int i = 0; i < UNROLL; ++i) sum += v[i].x + v[i].y + v[i].z + v[i].w;
  }
  for (int mask = 16; mask; mask >>= 1) sum += shx_u32(sum, mask);
  KVB_SMEM(shared);
  u32* warps = (u32*)shared;
  if ((threadIdx.x & 31) == 0) warps[threadIdx.x >> 5] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    u32 total = 0;
    for (int i = 0; i < 8; ++i) total += warps[i];
    partial[blockIdx.x] = total;
  }
}

// n: 16-byte words. block 256.
extern "C" __global__ void __launch_bounds__(256) copy_words(const uint4* __restrict__ in, uint4* __restrict__ out, u64 n) {
  u64 step = (u64)gridDim.x * 256 * UNROLL;
  for (u64 base = (u64)blockIdx.x * 256 * UNROLL + threadIdx.x; base < n; base += step) {
    uint4 v[UNROLL];
    #pragma unroll
    for (int i = 0; i < UNROLL; ++i) { u64 at = base + (u64)i * 256; if (at < n) v[i] = ldg_nc(in + at); }
    #pragma unroll
    for (int i = 0; i < UNROLL; ++i) { u64 at = base + (u64)i * 256; if (at < n) out[at] = v[i]; }
  }
}
