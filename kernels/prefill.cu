// kvbench's reference prefill: causal attention over a prompt, and what H2O and SnapKV add to it. Tensor cores by mma.sync,
// as FlashAttention-2 orders the work (arXiv 2307.08691, section 3); no Hopper-only instruction.
//
// q: fp16 [seq][query head][token][D], k and v: [seq][KV head][token][D], with starts[b] tokens of all sequences before.
#include "attend.cuh"

constexpr int BLOCK = 64, WARPS = 4;        // rows of a tile; 16 for each warp
constexpr int TILE_BYTES = BLOCK * D * 2;

// Rows [from, from + BLOCK) of `rows` into shared memory, zeros from row `end` on.
KVB_DEV void load_rows(char* to, const u16* rows, int from, int end) {
  #pragma unroll
  for (int i = 0; i < BLOCK * D / 8 / (WARPS * 32); ++i) {
    int c = i * WARPS * 32 + threadIdx.x, row = c / (D / 8), ch = c % (D / 8);
    cp16(swz(to, row, ch), rows + (size_t)(from + row) * D + ch * 8, from + row < end ? 16 : 0);
  }
}

// Two B fragments (n = 16 rows of shared memory, k = fragment f along D): {b[0], b[1]} and {b[2], b[3]}.
KVB_DEV void rows_as_b(u32 (&b)[4], char* base, int row, int f) {
  int lane = threadIdx.x & 31;
  ldsm4(b, swz(base, row + ((lane >> 4) & 1) * 8 + (lane & 7), f * 2 + ((lane >> 3) & 1)));
}

// grid (tiles of the longest sequence, Hq, B), block 128. out: as q; lse: [starts[b] * Hq + head * L + token], log2.
extern "C" __global__ void __launch_bounds__(WARPS * 32)
prefill(const u16* __restrict__ q, const u16* __restrict__ k, const u16* __restrict__ v, const int* __restrict__ lens,
        const int* __restrict__ starts, u16* out, float* lse, int G, float sl2) {
  KVB_SMEM(shared);
  int lane = threadIdx.x & 31, w = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  int hq = blockIdx.y, Hq = gridDim.y, b = blockIdx.z, L = lens[b];
  int m0 = ((int)gridDim.x - 1 - (int)blockIdx.x) * BLOCK;    // the longest rows begin first
  if (m0 >= L) return;
  size_t own = ((size_t)starts[b] * Hq + (size_t)hq * L) * D, kv = ((size_t)starts[b] * (Hq / G) + (size_t)(hq / G) * L) * D;
  int row = m0 + w * 16 + g;
  u32 qa[KS][4];
  #pragma unroll
  for (int f = 0; f < KS; ++f)
    #pragma unroll
    for (int i = 0; i < 4; ++i) { int r = row + (i & 1) * 8; qa[f][i] = r < L ? *(const u32*)(q + own + (size_t)r * D + f * 16 + (i >> 1) * 8 + 2 * t) : 0u; }
  float o[D / 8][4], m[2] = {NEG_INF, NEG_INF}, l[2] = {0.f, 0.f};
  #pragma unroll
  for (int i = 0; i < D / 8; ++i) o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0.f;
  int tiles = (min(L, m0 + BLOCK) + BLOCK - 1) / BLOCK;
  auto load = [&](int tile) {
    char* to = shared + (tile & 1) * 2 * TILE_BYTES;
    if (tile < tiles) { load_rows(to, k + kv, tile * BLOCK, L); load_rows(to + TILE_BYTES, v + kv, tile * BLOCK, L); }
    cp_commit();
  };
  load(0);
  for (int tile = 0; tile < tiles; ++tile) {
    load(tile + 1);
    cp_wait<1>(); __syncthreads();
    char* kb = shared + (tile & 1) * 2 * TILE_BYTES; char* vb = kb + TILE_BYTES;
    float s[BLOCK / 8][4];
    #pragma unroll
    for (int n = 0; n < BLOCK / 16; ++n) {
      #pragma unroll
      for (int i = 0; i < 4; ++i) s[2 * n][i] = s[2 * n + 1][i] = 0.f;
      #pragma unroll
      for (int f = 0; f < KS; ++f) { u32 x[4]; rows_as_b(x, kb, n * 16, f); mma16816(s[2 * n], qa[f], x[0], x[1]); mma16816(s[2 * n + 1], qa[f], x[2], x[3]); }
    }
    float mx[2] = {m[0], m[1]};
    #pragma unroll
    for (int n = 0; n < BLOCK / 8; ++n)
      #pragma unroll
      for (int i = 0; i < 4; ++i) {
        int token = tile * BLOCK + n * 8 + 2 * t + (i & 1), r = row + (i >> 1) * 8;
        s[n][i] = token <= r && token < L ? s[n][i] * sl2 : NEG_INF;
        mx[i >> 1] = fmaxf(mx[i >> 1], s[n][i]);
      }
    #pragma unroll
    for (int i = 0; i < 2; ++i) {
      mx[i] = fmaxf(mx[i], shx(mx[i], 1)); mx[i] = fmaxf(mx[i], shx(mx[i], 2));
      float base = mx[i] == NEG_INF ? 0.f : mx[i], r = ex2(m[i] - base);
      m[i] = mx[i]; l[i] *= r;
      #pragma unroll
      for (int n = 0; n < D / 8; ++n) { o[n][2 * i] *= r; o[n][2 * i + 1] *= r; }
      #pragma unroll
      for (int n = 0; n < BLOCK / 8; ++n) {
        s[n][2 * i] = ex2(s[n][2 * i] - base); s[n][2 * i + 1] = ex2(s[n][2 * i + 1] - base);
        l[i] += s[n][2 * i] + s[n][2 * i + 1];
      }
    }
    #pragma unroll
    for (int n = 0; n < BLOCK / 16; ++n) {
      u32 p[4] = {pack_h2(s[2 * n][0], s[2 * n][1]), pack_h2(s[2 * n][2], s[2 * n][3]), pack_h2(s[2 * n + 1][0], s[2 * n + 1][1]), pack_h2(s[2 * n + 1][2], s[2 * n + 1][3])};
      #pragma unroll
      for (int f = 0; f < KS; ++f) {
        u32 x[4]; ldsm4t(x, swz(vb, n * 16 + ((lane >> 3) & 1) * 8 + (lane & 7), f * 2 + (lane >> 4)));
        mma16816(o[2 * f], p, x[0], x[1]); mma16816(o[2 * f + 1], p, x[2], x[3]);
      }
    }
    __syncthreads();            // the tile has been read before it is loaded again
  }
  cp_wait<0>();
  #pragma unroll
  for (int i = 0; i < 2; ++i) {
    float sum = l[i]; sum += shx(sum, 1); sum += shx(sum, 2);
    int r = row + i * 8;
    if (r < L) {
      u32* to = (u32*)(out + own + (size_t)r * D);
      #pragma unroll
      for (int n = 0; n < D / 8; ++n) to[n * 4 + t] = pack_h2(o[n][2 * i] / sum, o[n][2 * i + 1] / sum);
      if (t == 0) lse[(size_t)starts[b] * Hq + (size_t)hq * L + r] = m[i] + log2f(sum);
    }
  }
}

// Attention that each token received from the queries of the last `window` positions (all where it is the length), mean over
// the query heads of a KV head: the probabilities are made again from the prefill's LSE. Sums run in a fixed order.
// grid (tiles of the longest sequence, Hkv, B), block 128. sums: [starts[b] * Hkv + h * L + token].
extern "C" __global__ void __launch_bounds__(WARPS * 32)
column_sums(const u16* __restrict__ q, const u16* __restrict__ k, const float* __restrict__ lse, const int* __restrict__ lens,
            const int* __restrict__ starts, float* sums, int G, int window, float sl2, float mean) {
  KVB_SMEM(shared);
  int lane = threadIdx.x & 31, w = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  int h = blockIdx.y, Hkv = gridDim.y, b = blockIdx.z, L = lens[b], n0 = blockIdx.x * BLOCK;
  if (n0 >= L) return;
  int token = n0 + w * 16 + g, from = max(L - window, 0);
  const u16* keys = k + ((size_t)starts[b] * Hkv + (size_t)h * L) * D;
  u32 ka[KS][4];
  #pragma unroll
  for (int f = 0; f < KS; ++f)
    #pragma unroll
    for (int i = 0; i < 4; ++i) { int r = token + (i & 1) * 8; ka[f][i] = r < L ? *(const u32*)(keys + (size_t)r * D + f * 16 + (i >> 1) * 8 + 2 * t) : 0u; }
  float sum[2] = {0.f, 0.f};
  int first = max(n0, from) / BLOCK, tiles = (L + BLOCK - 1) / BLOCK;
  for (int head = 0; head < G; ++head) {
    size_t rows = (size_t)starts[b] * Hkv * G + (size_t)(h * G + head) * L;
    for (int tile = first; tile < tiles; ++tile) {
      load_rows(shared, q + rows * D, tile * BLOCK, L);
      cp_commit(); cp_wait<0>(); __syncthreads();
      #pragma unroll
      for (int n = 0; n < BLOCK / 16; ++n) {
        float s[2][4] = {{0.f, 0.f, 0.f, 0.f}, {0.f, 0.f, 0.f, 0.f}};
        #pragma unroll
        for (int f = 0; f < KS; ++f) { u32 x[4]; rows_as_b(x, shared, n * 16, f); mma16816(s[0], ka[f], x[0], x[1]); mma16816(s[1], ka[f], x[2], x[3]); }
        #pragma unroll
        for (int half = 0; half < 2; ++half)
          #pragma unroll
          for (int i = 0; i < 4; ++i) {
            int r = tile * BLOCK + n * 16 + half * 8 + 2 * t + (i & 1), column = token + (i >> 1) * 8;
            if (r < L && r >= from && column <= r) sum[i >> 1] += ex2(s[half][i] * sl2 - lse[rows + r]);
          }
      }
      __syncthreads();
    }
  }
  #pragma unroll
  for (int i = 0; i < 2; ++i) {
    float all = sum[i]; all += shx(all, 1); all += shx(all, 2);
    int column = token + i * 8;
    if (t == 0 && column < L) sums[(size_t)starts[b] * Hkv + (size_t)h * L + column] = all * mean;
  }
}
