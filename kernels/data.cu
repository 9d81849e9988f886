// Random q, K, V and eviction scores, bit for bit those of src/kernel/data.rs: a row is a window of one block of normals
// at a hashed place, so the CPU can make any row again to check against.
#include "kvb.cuh"

KVB_DEV u64 mix(u64 x) {
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

KVB_DEV u64 hash_of(u64 seed, int kind, int copy, int seq, int head, int token) {
  u64 place = (u64)copy << 48 | (u64)seq << 32 | (u64)head << 8 | (u64)kind;
  return mix(mix(seed ^ mix(place)) ^ (u64)token);
}

// out: [seq][head][token][d] with `starts[seq]` tokens of all sequences before; one warp a row.
// grid (rows of the longest sequence over 8, heads, sequences), block 256.
extern "C" __global__ void fill_rows(const u16* __restrict__ block, u16* __restrict__ out, const int* __restrict__ lens,
                                     const int* __restrict__ starts, u64 seed, int kind, int copy, int block_len, int d) {
  int lane = threadIdx.x & 31, token = blockIdx.x * 8 + (threadIdx.x >> 5), head = blockIdx.y, seq = blockIdx.z;
  int len = lens[seq], heads = gridDim.y;
  if (token >= len) return;
  u64 from = hash_of(seed, kind, copy, seq, head, token) % (u64)(block_len - d);
  u16* row = out + ((size_t)starts[seq] * heads + (size_t)head * len + token) * d;
  for (int i = lane; i < d; i += 32) row[i] = block[from + i];
}

// out: [seq][head][token], uniform on (0, 1). grid (tokens of the longest sequence over 256, heads, sequences), block 256.
extern "C" __global__ void fill_scores(float* __restrict__ out, const int* __restrict__ lens, const int* __restrict__ starts,
                                       u64 seed, int kind, int copy) {
  int token = blockIdx.x * 256 + threadIdx.x, head = blockIdx.y, seq = blockIdx.z, len = lens[seq], heads = gridDim.y;
  if (token >= len) return;
  u64 bits = hash_of(seed, kind, copy, seq, head, token) >> 40;
  out[(size_t)starts[seq] * heads + (size_t)head * len + token] = ((float)bits + 0.5f) / 16777216.0f;
}
