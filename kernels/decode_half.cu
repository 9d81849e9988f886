// Decode over a paged cache of 16-bit K and V (fp16, bf16): the baseline, and every method that keeps tokens as they are.
#include "attend.cuh"

constexpr int TILE = 16;                    // tokens of a tile: 8 KiB of K and V at D 128
constexpr int TILE_BYTES = TILE * D * 2;    // of K, and as many of V

// Rotates the query's B fragments: channels d and d + D / 2 turn together and lie in the same lane.
template<class T> KVB_DEV void turn_q(u32 (&qb)[KS][2], const float2* row) {
  int t = threadIdx.x & 3;
  #pragma unroll
  for (int k = 0; k < KS / 2; ++k)
    #pragma unroll
    for (int j = 0; j < 2; ++j) {
      int d = k * 16 + j * 8 + 2 * t; float2 r0 = row[d], r1 = row[d + 1]; u32 lo = qb[k][j], hi = qb[k + KS / 2][j];
      float a0 = h2f((u16)lo), a1 = h2f((u16)(lo >> 16)), b0 = h2f((u16)hi), b1 = h2f((u16)(hi >> 16));
      qb[k][j] = T::pack(a0 * r0.x - b0 * r0.y, a1 * r1.x - b1 * r1.y);
      qb[k + KS / 2][j] = T::pack(b0 * r0.x + a0 * r0.y, b1 * r1.x + a1 * r1.y);
    }
}

// K and V pools [page][Hkv][PAGE][D]; bt: [B][maxp]; lens[b] tokens.
// SCORES: raw scores in log2 units to scores[(b * Hkv + h) * G + head][slots], for H2O.
// SINKS: StreamingLLM. K lies rotated by its position in the text. A score depends on the distance alone, so the window takes
// the query rotated by its position in the text and the first `sinks` tokens the query rotated by its position in the
// cache: the same as rotating every key by its position in the cache, without touching the keys.
template<class T, int WARPS, int STAGES, int PAGE, bool SCORES, bool SINKS>
__global__ void __launch_bounds__(WARPS * 32)
decode_half(const u16* __restrict__ q, const float2* __restrict__ rope, const int* __restrict__ text_at, const int* __restrict__ cache_at, const u16* __restrict__ kp, const u16* __restrict__ vp,
            const int* __restrict__ bt, const int* __restrict__ lens, float* po, float* pml, u32* count, u16* out, float* lse,
            float* scores, int G, int maxp, int slots, int sinks, float sl2) {
  KVB_SMEM(shared);
  int lane = threadIdx.x & 31, w = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  int h = blockIdx.y, b = blockIdx.z, Hkv = gridDim.y, bh = b * Hkv + h, L = lens[b];
  int first, end; my_tiles<WARPS>((L + TILE - 1) / TILE, first, end);
  const int* pages = bt + (size_t)b * maxp;
  char* mine = shared + w * (STAGES * 2 * TILE_BYTES);
  auto page_of = [&](int tile) { return tile < end ? pages[tile / (PAGE / TILE)] : 0; };
  auto load = [&](int tile, int page, int stage) {
    if (tile < end) {
      char* kb = mine + stage * 2 * TILE_BYTES; char* vb = kb + TILE_BYTES;
      size_t from = (((size_t)page * Hkv + h) * PAGE + (tile % (PAGE / TILE)) * TILE) * D;
      #pragma unroll
      for (int i = 0; i < TILE * D / 256; ++i) {
        int c = i * 32 + lane, row = c / (D / 8), ch = c % (D / 8), bytes = tile * TILE + row < L ? 16 : 0;
        cp16(swz(kb, row, ch), kp + from + c * 8, bytes); cp16(swz(vb, row, ch), vp + from + c * 8, bytes);
      }
    }
    cp_commit();
  };
  #pragma unroll
  for (int i = 0; i < STAGES - 1; ++i) load(first + i, page_of(first + i), i);
  int page = page_of(first + STAGES - 1);   // of the tile that is loaded next: never waited for in the loop
  u32 qb[KS][2], qs[SINKS ? KS : 1][2];
  load_q<T>(qb, q + (size_t)bh * G * D, G);
  if constexpr (SINKS) {
    #pragma unroll
    for (int k = 0; k < KS; ++k) { qs[k][0] = qb[k][0]; qs[k][1] = qb[k][1]; }
    turn_q<T>(qb, rope + (size_t)text_at[b] * (D / 2)); turn_q<T>(qs, rope + (size_t)cache_at[b] * (D / 2));
  }
  Acc A; acc_init(A);
  for (int tile = first, it = 0; tile < end; ++tile, ++it) {
    cp_wait<STAGES - 2>(); warp_sync();
    int loading = tile + STAGES - 1;
    load(loading, page, (it + STAGES - 1) % STAGES);
    page = page_of(loading + 1);
    char* kb = mine + (it % STAGES) * 2 * TILE_BYTES; char* vb = kb + TILE_BYTES;
    float s[1][4] = {{0.f, 0.f, 0.f, 0.f}};
    bool both = SINKS && tile * TILE < sinks;
    float x[4] = {0.f, 0.f, 0.f, 0.f};
    #pragma unroll
    for (int k = 0; k < KS; ++k) {
      u32 a[4]; ldsm4(a, swz(kb, ((lane >> 3) & 1) * 8 + (lane & 7), k * 2 + (lane >> 4)));
      T::mma(s[0], a, qb[k][0], qb[k][1]);
      if constexpr (SINKS) { if (both) T::mma(x, a, qs[k][0], qs[k][1]); }
    }
    int row = tile * TILE + g;
    #pragma unroll
    for (int j = 0; j < 4; ++j) {
      int token = row + (j >> 1) * 8;
      float raw = SINKS && token < sinks ? x[j] : s[0][j];
      s[0][j] = token < L ? raw * sl2 : NEG_INF;
      if constexpr (SCORES) {
        int head = 2 * t + (j & 1);
        if (head < G && token < L) scores[((size_t)bh * G + head) * slots + token] = s[0][j];
      }
    }
    u32 pb[1][2]; float r[2]; softmax_step<T, 1>(A, s, pb, r);
    #pragma unroll
    for (int i = 0; i < KS; ++i) {
      u32 a[4]; ldsm4t(a, swz(vb, (lane >> 4) * 8 + (lane & 7), i * 2 + ((lane >> 3) & 1)));
      T::mma(A.o[i], a, pb[0][0], pb[0][1]);
    }
    warp_sync();                            // all lanes have read the stage before it is loaded again
  }
  cp_wait<0>();
  finish<WARPS>(A, shared, Merge{po, pml, count, out, lse}, G);
}

// Rotary embedding at position `pos` from a table of (cos, sin) [position][D / 2]: channels i and i + D / 2 turn together.
KVB_DEV float rotated(const u16* row, int d, const float2* table, int pos) {
  float2 cs = table[(size_t)pos * (D / 2) + d % (D / 2)];
  float a = h2f(row[d % (D / 2)]), b = h2f(row[d % (D / 2) + D / 2]);
  return d < D / 2 ? a * cs.x - b * cs.y : b * cs.x + a * cs.y;
}

// Writes a prompt's K and V, raw fp16 [seq][head][token][D] with starts[b] tokens before, into pages. Kept are the first `sinks`
// and the last `window` tokens, or with an index those
// it names: index[(b * Hkv + h) * stride + slot]. kept[b] tokens are written. ROPE turns K by its position in the text.
// grid (kept tokens of the longest sequence over 8, Hkv, B), block 256: one warp a token.
template<class T, int PAGE, bool ROPE> __global__ void __launch_bounds__(256)
pack_half(const u16* __restrict__ k, const u16* __restrict__ v, const int* __restrict__ lens, const int* __restrict__ starts,
          const int* __restrict__ kept_lens, const int* __restrict__ index, const int* __restrict__ bt, u16* kp, u16* vp,
          const float2* __restrict__ rope, int maxp, int stride, int sinks) {
  int lane = threadIdx.x & 31, slot = blockIdx.x * 8 + (threadIdx.x >> 5), h = blockIdx.y, b = blockIdx.z, Hkv = gridDim.y, L = lens[b];
  int kept = kept_lens[b];
  if (slot >= kept) return;
  int token = index ? index[((size_t)b * Hkv + h) * stride + slot] : slot < sinks ? slot : L - kept + slot;
  size_t from = ((size_t)starts[b] * Hkv + (size_t)h * L + token) * D;
  size_t to = (((size_t)bt[(size_t)b * maxp + slot / PAGE] * Hkv + h) * PAGE + slot % PAGE) * D;
  for (int d = lane; d < D; d += 32) {
    if constexpr (ROPE) kp[to + d] = T::from_float(rotated(k + from, d, rope, token));
    else kp[to + d] = T::from_half(k[from + d]);
    vp[to + d] = T::from_half(v[from + d]);
  }
}

// One more token: K and V [B][Hkv][D] into slots[b * Hkv + h], which is new, or the one that the method gives up. ROPE turns K by its
// position. H2O's new token begins with the score 0. grid (1, Hkv, B), block 128.
template<class T, int PAGE, bool ROPE> __global__ void __launch_bounds__(128)
append_half(const u16* __restrict__ k, const u16* __restrict__ v, const int* __restrict__ slots, const int* __restrict__ positions,
            const int* __restrict__ bt, u16* kp, u16* vp, const float2* __restrict__ rope, float* acc, int* pos, int maxp, int stride) {
  int d = threadIdx.x, h = blockIdx.y, b = blockIdx.z, Hkv = gridDim.y; size_t bh = (size_t)b * Hkv + h; int slot = slots[bh];
  if (d >= D) return;
  size_t to = (((size_t)bt[(size_t)b * maxp + slot / PAGE] * Hkv + h) * PAGE + slot % PAGE) * D;
  if constexpr (ROPE) kp[to + d] = T::from_float(rotated(k + bh * D, d, rope, positions[b]));
  else kp[to + d] = T::from_half(k[bh * D + d]);
  vp[to + d] = T::from_half(v[bh * D + d]);
  if (acc && d == 0) { acc[bh * stride + slot] = 0.f; pos[bh * stride + slot] = positions[b]; }
}
