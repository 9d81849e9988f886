// Decoding tiles of a KIVI cache: what KIVI's decode step and GEAR's share.
#pragma once
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

// Adds one tile of V: the scale goes into P, the minima into z, whose row dg is the sum of p * minimum of that group; `more`
// are rows that GEAR wants summed in rows 8 on.
template<int BITS, int GS> KVB_DEV void v_tile(Acc& A, float (&z)[4], const char* codes, const char* vsz, int i, u32 p0, u32 p1, uint2 more = uint2{0u, 0u}) {
  using L = Kivi<BITS, GS>; int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const uint2* scale = (const uint2*)vsz + i * L::DG * 4; const uint2* low = scale + 2 * L::DG * 4;
  uint2 m = g < L::DG ? low[g * 4 + t] : uint2{0u, 0u};
  u32 za[4] = {m.x, more.x, m.y, more.y}; mma16816(z, za, p0, p1);
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
