// Decode over caches quantised per (token, KV head). K's scale multiplies a whole row of S, so it is applied after the
// product, and K's minimum through the sum of the query. V's scale goes into P, V's minimum through the sum of P.
#include "packed.cuh"

// Codes of one fragment to fp16 A registers. FP8: the exponent is shifted into place, which leaves a factor of 2^-8 that the
// caller's scale takes back; integers come out as they are.
template<class F> KVB_DEV void fragment(const u32 (&w)[Packed<F>::WORDS], int f, u32 (&a)[4]) {
  if constexpr (F::FLOAT) {
    #pragma unroll
    for (int r = 0; r < 2; ++r) {
      u32 x = w[f * 2 + r], even = x << 8;      // bytes j = 0 and j = 1 of both halves, as the high byte
      a[r] = (even & 0x80008000u) | ((even & 0x7F007F00u) >> 1);
      a[2 + r] = (x & 0x80008000u) | ((x & 0x7F007F00u) >> 1);
    }
  } else if constexpr (F::BITS == 8) {
    #pragma unroll
    for (int r = 0; r < 2; ++r) {
      u32 x = w[f * 2 + r];
      a[r] = hsub2(lop_and_or(x, 0x00FF00FFu, 0x64006400u), 0x64006400u);
      a[2 + r] = hsub2(lop_and_or(x >> 8, 0x00FF00FFu, 0x64006400u), 0x64006400u);
    }
  } else {
    u32 x = w[f], hi = x >> 8;
    a[0] = hsub2(lop_and_or(x, 0x000F000Fu, 0x64006400u), 0x64006400u);
    a[1] = hsub2(lop_and_or(hi, 0x000F000Fu, 0x64006400u), 0x64006400u);
    a[2] = hfma2(lop_and_or(x, 0x00F000F0u, 0x64006400u), 0x2C002C00u, 0xD400D400u);
    a[3] = hfma2(lop_and_or(hi, 0x00F000F0u, 0x64006400u), 0x2C002C00u, 0xD400D400u);
  }
}

// Points of one K fragment, fp16. Bytes of the eight magnitudes, low and high, are looked up four codes at a time.
KVB_DEV void turbo_fragment(u32 w, u32 (&a)[4]) {
  constexpr u32 LO[2] = {0x8A41361Cu, 0x76237906u}, HI[2] = {0x3B393630u, 0x41403E3Du}, MSB = 0x80808080u;
  u32 rank = w & 0x77777777u;
  #pragma unroll
  for (int n = 0; n < 2; ++n) {
    u32 lo = prmt(LO[0], LO[1], rank >> n * 16), hi = prmt(HI[0], HI[1], rank >> n * 16);
    // Bit 3 of a selector spreads the sign of the byte: 0x80 where it is clear, 0xFF where it is set.
    hi = lop_and_or(prmt(MSB, MSB, w >> n * 16) << 1, MSB, hi);
    a[n * 2] = prmt(lo, hi, 0x5140u); a[n * 2 + 1] = prmt(lo, hi, 0x7362u);
  }
}

template<class F> KVB_DEV void k_fragment(const u32 (&w)[Packed<F>::WORDS], int f, u32 (&a)[4]) {
  if constexpr (F::TURBO) turbo_fragment(w[f], a); else fragment<F>(w, f, a);
}

// The queries of a KV head, turned as the keys are, to shared memory.
template<int WARPS> KVB_DEV void rotate_queries(const u16* q, u16* to, int G) {
  int lane = threadIdx.x & 31;
  for (int h = threadIdx.x >> 5; h < G; h += WARPS) {
    float x[D / 32];
    #pragma unroll
    for (int i = 0; i < D / 32; ++i) x[i] = h2f(q[h * D + i * 32 + lane]);
    hadamard(x);
    #pragma unroll
    for (int i = 0; i < D / 32; ++i) to[h * D + i * 32 + lane] = f2h(x[i]);
  }
  __syncthreads();
}

template<class F> KVB_DEV void tile_words(const char* codes, u32 (&w)[Packed<F>::WORDS]) {
  int lane = threadIdx.x & 31;
  #pragma unroll
  for (int v = 0; v < Packed<F>::WORDS / 4; ++v) {
    uint4 x = ((const uint4*)codes)[v * 32 + lane];
    w[v * 4] = x.x; w[v * 4 + 1] = x.y; w[v * 4 + 2] = x.z; w[v * 4 + 3] = x.w;
  }
}

struct Row { float scale, low; };
template<class F> KVB_DEV Row row_of(const char* scales, int token) {
  if constexpr (Packed<F>::SCALE == 0) return Row{1.f, 0.f};
  else if constexpr (F::AFFINE) { u32 pair = ((const u32*)scales)[token]; return Row{h2f((u16)pair), h2f((u16)(pair >> 16))}; }
  else return Row{((const float*)scales)[token], 0.f};
}

template<class F> KVB_DEV Row k_row_of(const char* scales, int token) {
  if constexpr (F::TURBO) return Row{h2f(((const u16*)scales)[token]), 0.f}; else return row_of<F>(scales, token);
}

// grid (splits, Hkv, B).
template<class F, int WARPS, int STAGES, int PAGE> __global__ void __launch_bounds__(WARPS * 32)
decode_packed(const u16* __restrict__ q, const char* __restrict__ kc, const char* __restrict__ ks, const char* __restrict__ vc,
              const char* __restrict__ vs, const int* __restrict__ bt, const int* __restrict__ lens, float* po, float* pml, u32* count,
              u16* out, float* lse, int G, int maxp, float sl2) {
  using P = Packed<F>;
  constexpr int KROWS = 16 * P::KSCALE, ROWS = 16 * P::SCALE, STAGE = 2 * P::BYTES + KROWS + ROWS, TILES = PAGE / 16;
  // What a code is short of: 2^8 for FP8. GAIN keeps small P * scale clear of fp16's subnormals; the output takes it back.
  constexpr float UNSHIFT = F::FLOAT ? 256.f : 1.f, GAIN = F::FLOAT ? 256.f : 64.f;
  KVB_SMEM(shared);
  int lane = threadIdx.x & 31, w = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  int h = blockIdx.y, b = blockIdx.z, Hkv = gridDim.y, bh = b * Hkv + h, L = lens[b];
  int first, end; my_tiles<WARPS>((L + 15) / 16, first, end);
  const int* pages = bt + (size_t)b * maxp;
  char* mine = shared + w * (STAGES * STAGE);
  auto page_of = [&](int tile) { return tile < end ? pages[tile / TILES] : 0; };
  auto load = [&](int tile, int page, int stage) {
    if (tile < end) {
      size_t at = ((size_t)page * Hkv + h) * TILES + tile % TILES; int from = lane * 16;
      char* to = mine + stage * STAGE + from;
      #pragma unroll
      for (int i = 0; i < P::BYTES / 512; ++i) cp16(to + i * 512, kc + at * P::BYTES + from + i * 512, 16);
      #pragma unroll
      for (int i = 0; i < P::BYTES / 512; ++i) cp16(to + P::BYTES + i * 512, vc + at * P::BYTES + from + i * 512, 16);
      if (from < KROWS) cp16(to + 2 * P::BYTES, ks + at * KROWS + from, 16);
      if (from < ROWS) cp16(to + 2 * P::BYTES + KROWS, vs + at * ROWS + from, 16);
    }
    cp_commit();
  };
  #pragma unroll
  for (int i = 0; i < STAGES - 1; ++i) load(first + i, page_of(first + i), i);
  int page = page_of(first + STAGES - 1);
  const u16* queries = q + (size_t)bh * G * D;
  if constexpr (F::TURBO) {
    u16* turned = (u16*)(shared + WARPS * STAGES * STAGE);
    rotate_queries<WARPS>(queries, turned, G);
    queries = turned;
  }
  u32 qb[KS][2]; load_q<Half>(qb, queries, G);
  // Sum of each head's query, by a product with ones: every row of the result is the same.
  float qsum[4] = {0.f, 0.f, 0.f, 0.f};
  if constexpr (F::AFFINE && !F::TURBO) {
    u32 ones[4] = {0x3C003C00u, 0x3C003C00u, 0x3C003C00u, 0x3C003C00u};
    #pragma unroll
    for (int k = 0; k < KS; ++k) mma16816(qsum, ones, qb[k][0], qb[k][1]);
  }
  Acc A; acc_init(A);
  float low[2] = {0.f, 0.f};    // sum of p * minimum of this lane's tokens, heads 2t and 2t + 1
  for (int tile = first, it = 0; tile < end; ++tile, ++it) {
    cp_wait<STAGES - 2>(); warp_sync();
    int loading = tile + STAGES - 1;
    load(loading, page, (it + STAGES - 1) % STAGES);
    page = page_of(loading + 1);
    const char* kb = mine + (it % STAGES) * STAGE; const char* vb = kb + P::BYTES;
    const char* kr = vb + P::BYTES; const char* vr = kr + KROWS;
    float s[1][4] = {{0.f, 0.f, 0.f, 0.f}};
    u32 words[P::WORDS]; tile_words<F>(kb, words);
    #pragma unroll
    for (int f = 0; f < KS; ++f) { u32 a[4]; k_fragment<F>(words, f, a); mma16816(s[0], a, qb[f][0], qb[f][1]); }
    #pragma unroll
    for (int r = 0; r < 2; ++r) {
      Row row = k_row_of<F>(kr, g + 8 * r); bool live = tile * 16 + g + 8 * r < L;
      float scale = row.scale * sl2 * UNSHIFT, base = row.low * sl2;
      s[0][2 * r] = live ? s[0][2 * r] * scale + qsum[0] * base : NEG_INF;
      s[0][2 * r + 1] = live ? s[0][2 * r + 1] * scale + qsum[1] * base : NEG_INF;
    }
    float raw[4] = {s[0][0], s[0][1], s[0][2], s[0][3]};
    u32 pb[1][2]; float r[2]; softmax_step<Half, 1>(A, s, pb, r);
    if constexpr (F::AFFINE) {
      float b0 = A.m[0] == NEG_INF ? 0.f : A.m[0], b1 = A.m[1] == NEG_INF ? 0.f : A.m[1];
      Row v0 = row_of<F>(vr, g), v1 = row_of<F>(vr, g + 8);
      float l0 = tile * 16 + g < L ? v0.low : 0.f, l1 = tile * 16 + g + 8 < L ? v1.low : 0.f;
      low[0] = low[0] * r[0] + ex2(raw[0] - b0) * l0 + ex2(raw[2] - b0) * l1;
      low[1] = low[1] * r[1] + ex2(raw[1] - b1) * l0 + ex2(raw[3] - b1) * l1;
    }
    // V's scales of this lane's tokens along k: 2t, 2t + 1, 2t + 8, 2t + 9; zero beyond the end, where the pool may hold NaN.
    float vsc[4];
    #pragma unroll
    for (int i = 0; i < 4; ++i) { int n = 2 * t + (i & 1) + (i >> 1) * 8; vsc[i] = tile * 16 + n < L ? row_of<F>(vr, n).scale * GAIN : 0.f; }
    u32 b0 = scaled(pb[0][0], vsc[0], vsc[1]), b1 = scaled(pb[0][1], vsc[2], vsc[3]);
    tile_words<F>(vb, words);
    #pragma unroll
    for (int f = 0; f < KS; ++f) { u32 a[4]; fragment<F>(words, f, a); mma16816(A.o[f], a, b0, b1); }
    warp_sync();
  }
  cp_wait<0>();
  if constexpr (F::AFFINE) {
    #pragma unroll
    for (int k = 4; k < 32; k <<= 1) { low[0] += shx(low[0], k); low[1] += shx(low[1], k); }
    #pragma unroll
    for (int i = 0; i < KS; ++i) {
      A.o[i][0] = A.o[i][0] / GAIN + low[0]; A.o[i][2] = A.o[i][2] / GAIN + low[0];
      A.o[i][1] = A.o[i][1] / GAIN + low[1]; A.o[i][3] = A.o[i][3] / GAIN + low[1];
    }
  }
  finish<WARPS>(A, shared, Merge{po, pml, count, out, lse}, G);
}
