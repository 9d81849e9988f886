// Decode over a KIVI cache. The blocks of the last split attend to what is not wholly quantised: K's residual of L mod R
// tokens, V's of the last R, and between them tokens whose K is quantised while their V is not.
#include "kivi.cuh"

// Codes of one word to fp16: bits into the mantissa of 1024, then times 2^-shift minus 1024 * 2^-shift, which is exact.
template<int BITS> KVB_DEV void expand(u32 w, u32 (&a)[BITS == 4 ? 1 : 2][4]) {
  constexpr u32 M = BITS == 4 ? 0x000F000Fu : 0x00030003u, MAGIC = 0x64006400u;
  constexpr u32 FACTOR[2][4] = {{0x3C003C00u, 0x34003400u, 0x2C002C00u, 0x24002400u}, {0x3C003C00u, 0x2C002C00u, 0u, 0u}};
  constexpr u32 OFFSET[2][4] = {{0xE400E400u, 0xDC00DC00u, 0xD400D400u, 0xCC00CC00u}, {0xE400E400u, 0xD400D400u, 0u, 0u}};
  constexpr int W = BITS == 4 ? 1 : 0;
  u32 hi = w >> 8;
  #pragma unroll
  for (int k = 0; k < (BITS == 4 ? 1 : 2); ++k)
    #pragma unroll
    for (int j = 0; j < 2; ++j) {
      int n = k * 2 + j; u32 m = M << (BITS * n);
      a[k][j * 2] = hfma2(lop_and_or(w, m, MAGIC), FACTOR[W][n], OFFSET[W][n]);
      a[k][j * 2 + 1] = hfma2(lop_and_or(hi, m, MAGIC), FACTOR[W][n], OFFSET[W][n]);
    }
}

// Folds a K group's scales into the query and its minima into the scores' start: qs = q * scale, c0 = sum_d q_d min_d.
KVB_DEV void k_group(const char* ksz, const u32 (&qb)[KS][2], u32 (&qs)[KS][2], float (&c0)[4]) {
  const uint4* scale = (const uint4*)ksz + (threadIdx.x & 3) * (D / 32); const uint4* low = scale + D / 8;
  c0[0] = c0[1] = c0[2] = c0[3] = 0.f;
  #pragma unroll
  for (int i = 0; i < KS / 2; ++i) {
    uint4 s = scale[i], z = low[i];
    u32 za[4] = {z.x, z.x, z.y, z.y}, zb[4] = {z.z, z.z, z.w, z.w};
    mma16816(c0, za, qb[2 * i][0], qb[2 * i][1]); mma16816(c0, zb, qb[2 * i + 1][0], qb[2 * i + 1][1]);
    qs[2 * i][0] = hmul2(qb[2 * i][0], s.x); qs[2 * i][1] = hmul2(qb[2 * i][1], s.y);
    qs[2 * i + 1][0] = hmul2(qb[2 * i + 1][0], s.z); qs[2 * i + 1][1] = hmul2(qb[2 * i + 1][1], s.w);
  }
}

// Words of tile i of a chunk.
template<int BITS, int GS> KVB_DEV void words(const char* codes, int i, u32 (&w)[Kivi<BITS, GS>::WORDS]) {
  constexpr int N = Kivi<BITS, GS>::WORDS; int lane = threadIdx.x & 31;
  if constexpr (N >= 4) {
    #pragma unroll
    for (int v = 0; v < N / 4; ++v) {
      uint4 x = ((const uint4*)codes)[(i * (N / 4) + v) * 32 + lane];
      w[v * 4] = x.x; w[v * 4 + 1] = x.y; w[v * 4 + 2] = x.z; w[v * 4 + 3] = x.w;
    }
  } else {
    uint2 x = ((const uint2*)codes)[lane * 2 + i];
    w[0] = x.x; w[1] = x.y;
  }
}

// Scores of one tile, before the softmax's scale.
template<int BITS, int GS> KVB_DEV void k_tile(const char* codes, int i, const u32 (&qs)[KS][2], const float (&c0)[4], float (&s)[4]) {
  using L = Kivi<BITS, GS>; u32 w[L::WORDS]; words<BITS, GS>(codes, i, w);
  s[0] = s[2] = c0[0]; s[1] = s[3] = c0[1];
  #pragma unroll
  for (int x = 0; x < L::WORDS; ++x) {
    u32 a[L::NK][4]; expand<BITS>(w[x], a);
    #pragma unroll
    for (int k = 0; k < L::NK; ++k) mma16816(s, a[k], qs[x * L::NK + k][0], qs[x * L::NK + k][1]);
  }
}

// Adds one tile of V: the scale goes into P, the minima into z, whose row dg is the sum of p * minimum of that group.
template<int BITS, int GS> KVB_DEV void v_tile(Acc& A, float (&z)[4], const char* codes, const char* vsz, int i, u32 p0, u32 p1) {
  using L = Kivi<BITS, GS>; int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const uint2* scale = (const uint2*)vsz + i * L::DG * 4; const uint2* low = scale + 2 * L::DG * 4;
  uint2 m = g < L::DG ? low[g * 4 + t] : uint2{0u, 0u};
  u32 za[4] = {m.x, 0u, m.y, 0u}; mma16816(z, za, p0, p1);
  u32 w[L::WORDS]; words<BITS, GS>(codes, i, w);
  u32 b0 = 0u, b1 = 0u;
  #pragma unroll
  for (int x = 0; x < L::WORDS; ++x) {
    u32 a[L::NK][4]; expand<BITS>(w[x], a);
    #pragma unroll
    for (int k = 0; k < L::NK; ++k) {
      int f = x * L::NK + k;
      if (f * 16 % GS == 0) { uint2 s = scale[f * 16 / GS * 4 + t]; b0 = hmul2(p0, s.x); b1 = hmul2(p1, s.y); }
      mma16816(A.o[f], a[k], b0, b1);
    }
  }
}

// The minima's part of the output: row dg of z belongs to all channels of group dg.
template<int GS> KVB_DEV void add_minima(Acc& A, const float (&z)[4]) {
  int t = threadIdx.x & 3;
  #pragma unroll
  for (int dg = 0; dg < D / GS; ++dg) {
    float z0 = shi(z[0], dg * 4 + t), z1 = shi(z[1], dg * 4 + t);
    #pragma unroll
    for (int i = 0; i < GS / 16; ++i) { float* o = A.o[dg * (GS / 16) + i]; o[0] += z0; o[2] += z0; o[1] += z1; o[3] += z1; }
  }
}

// Sixteen rows of a ring into shared memory, zeros from token `end` on. R is a multiple of 16: a tile never wraps.
KVB_DEV void load_ring(char* to, const u16* ring, int token, int end, int R) {
  int lane = threadIdx.x & 31; const u16* rows = ring + (size_t)(token % R) * D;
  #pragma unroll
  for (int i = 0; i < 16 * D / 256; ++i) {
    int c = i * 32 + lane, row = c / (D / 8), ch = c % (D / 8);
    cp16(swz(to, row, ch), rows + c * 8, token + row < end ? 16 : 0);
  }
}

// Which of the two tokens of a B fragment's register, the first being `token`, are in [from, to).
KVB_DEV u32 among(int token, int from, int to) {
  return (token >= from && token < to ? 0xFFFFu : 0u) | (token + 1 >= from && token + 1 < to ? 0xFFFF0000u : 0u);
}

struct Pools { const char* kc; const char* ks; const char* vc; const char* vs; };

// grid (splits + 1, Hkv, B). nk = L / R * R tokens of K are quantised and nv = max(L - R, 0) of V. q [B][Hq][D] fp16.
template<int BITS, int GS, int WARPS, int STAGES> __global__ void __launch_bounds__(WARPS * 32)
decode_kivi(const u16* __restrict__ q, const char* __restrict__ kc, const char* __restrict__ ks, const char* __restrict__ vc,
            const char* __restrict__ vs, const u16* __restrict__ kr, const u16* __restrict__ vr, const int* __restrict__ bt,
            const int* __restrict__ lens, float* po, float* pml, u32* count, u16* out, float* lse, int G, int maxp, int R, float sl2) {
  using L = Kivi<BITS, GS>;
  KVB_SMEM(shared);
  int lane = threadIdx.x & 31, w = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  int h = blockIdx.y, b = blockIdx.z, Hkv = gridDim.y, bh = b * Hkv + h, len = lens[b], nk = len / R * R, nv = max(len - R, 0);
  const int* pages = bt + (size_t)b * maxp;
  u32 qb[KS][2]; load_q<Half>(qb, q + (size_t)bh * G * D, G);
  Acc A; acc_init(A);
  float z[4] = {0.f, 0.f, 0.f, 0.f}, c0[4], r[2];
  u32 qs[KS][2];
  if (blockIdx.x + 1 < gridDim.x) {
    int parts = (gridDim.x - 1) * WARPS, chunks = nv / CHUNK, per = (chunks + parts - 1) / parts;
    int first = min(((int)blockIdx.x * WARPS + w) * per, chunks), end = min(first + per, chunks), group = -1;
    char* mine = shared + w * (STAGES * L::STAGE);
    auto page_of = [&](int chunk) { return chunk < end ? pages[chunk / CHUNKS] : 0; };
    auto load = [&](int chunk, int page, int stage) {
      if (chunk < end) {
        size_t ph = (size_t)page * Hkv + h, at = ph * CHUNKS + chunk % CHUNKS, of = ph * (128 / GS) + chunk % CHUNKS * CHUNK / GS;
        char* to = mine + stage * L::STAGE + lane * 16; int from = lane * 16;
        #pragma unroll
        for (int i = 0; i < L::CODES / 512; ++i) cp16(to + i * 512, kc + at * L::CODES + from + i * 512, 16);
        #pragma unroll
        for (int i = 0; i < L::CODES / 512; ++i) cp16(to + L::CODES + i * 512, vc + at * L::CODES + from + i * 512, 16);
        if (from < L::KSZ) cp16(to + 2 * L::CODES, ks + of * L::KSZ + from, 16);
        if (from < L::VSZ) cp16(to + 2 * L::CODES + L::KSZ, vs + at * L::VSZ + from, 16);
      }
      cp_commit();
    };
    #pragma unroll
    for (int i = 0; i < STAGES - 1; ++i) load(first + i, page_of(first + i), i);
    int page = page_of(first + STAGES - 1);
    for (int chunk = first, it = 0; chunk < end; ++chunk, ++it) {
      cp_wait<STAGES - 2>(); warp_sync();
      int loading = chunk + STAGES - 1;
      load(loading, page, (it + STAGES - 1) % STAGES);
      page = page_of(loading + 1);
      const char* kb = mine + (it % STAGES) * L::STAGE; const char* vb = kb + L::CODES;
      const char* ksz = vb + L::CODES; const char* vsz = ksz + L::KSZ;
      if (chunk * CHUNK / GS != group) { group = chunk * CHUNK / GS; k_group(ksz, qb, qs, c0); }
      float s[2][4];
      #pragma unroll
      for (int i = 0; i < 2; ++i) {
        k_tile<BITS, GS>(kb, i, qs, c0, s[i]);
        #pragma unroll
        for (int j = 0; j < 4; ++j) s[i][j] *= sl2;
      }
      u32 pb[2][2]; softmax_step<Half, 2>(A, s, pb, r);
      z[0] *= r[0]; z[1] *= r[1];
      #pragma unroll
      for (int i = 0; i < 2; ++i) v_tile<BITS, GS>(A, z, vb, vsz, i, pb[i][0], pb[i][1]);
      warp_sync();
    }
    cp_wait<0>();
  } else {
    char* kb = shared + w * (2 * 16 * D * 2); char* vb = kb + 16 * D * 2;
    for (int token = nv / CHUNK * CHUNK + w * 16; token < len; token += WARPS * 16) {
      bool k_codes = token < nk, v_codes = token < nv, v_rows = token + 16 > nv;
      int chunk = token / CHUNK, i = token / 16 % 2; size_t ph = (size_t)(k_codes || v_codes ? pages[chunk / CHUNKS] : 0) * Hkv + h, at = ph * CHUNKS + chunk % CHUNKS;
      if (!k_codes) load_ring(kb, kr + (size_t)bh * R * D, token, len, R);
      if (v_rows) load_ring(vb, vr + (size_t)bh * R * D, token, len, R);
      cp_commit();
      float s[1][4] = {{0.f, 0.f, 0.f, 0.f}};
      if (k_codes) {
        k_group(ks + (ph * (128 / GS) + chunk % CHUNKS * CHUNK / GS) * L::KSZ, qb, qs, c0);
        k_tile<BITS, GS>(kc + at * L::CODES, i, qs, c0, s[0]);
      }
      cp_wait<0>(); warp_sync();
      if (!k_codes) {
        #pragma unroll
        for (int k = 0; k < KS; ++k) { u32 a[4]; ldsm4(a, swz(kb, ((lane >> 3) & 1) * 8 + (lane & 7), k * 2 + (lane >> 4))); mma16816(s[0], a, qb[k][0], qb[k][1]); }
      }
      #pragma unroll
      for (int j = 0; j < 4; ++j) s[0][j] = token + g + (j >> 1) * 8 < len ? s[0][j] * sl2 : NEG_INF;
      u32 pb[1][2]; softmax_step<Half, 1>(A, s, pb, r);
      z[0] *= r[0]; z[1] *= r[1];
      int k0 = token + 2 * t, k1 = k0 + 8;
      if (v_codes) v_tile<BITS, GS>(A, z, vc + at * L::CODES, vs + at * L::VSZ, i, pb[0][0] & among(k0, 0, nv), pb[0][1] & among(k1, 0, nv));
      if (v_rows) {
        u32 p0 = pb[0][0] & among(k0, nv, len), p1 = pb[0][1] & among(k1, nv, len);
        #pragma unroll
        for (int f = 0; f < KS; ++f) { u32 a[4]; ldsm4t(a, swz(vb, (lane >> 4) * 8 + (lane & 7), f * 2 + ((lane >> 3) & 1))); mma16816(A.o[f], a, p0, p1); }
      }
      warp_sync();
    }
  }
  add_minima<GS>(A, z);
  finish<WARPS>(A, shared, Merge{po, pml, count, out, lse}, G);
}
