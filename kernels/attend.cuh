// What every decode kernel shares: online softmax over tiles of 16 tokens, merging of warps and of splits.
//
// Split-KV decode of one query token: grid (splits, Hkv, B), block 32 * WARPS, one warp per run of tiles and no block
// barrier in the loop. S^T[token, head] = K Q^T and O^T[d, head] = V^T P^T, with tokens (or channels) as the 16 rows and the
// query heads of a KV head as the 8 columns of m16n8k16; so a group of up to 8 heads costs what one costs.
// In a lane: g = lane / 4, t = lane % 4; a C fragment holds rows g and g + 8, heads 2t and 2t + 1.
#pragma once
#include "kvb.cuh"

constexpr int D = KVB_D;        // head dimension
constexpr int KS = D / 16;      // fragments along it

// Storage types of 16 bits.
struct Half {
  static KVB_DEV u32 pack(float lo, float hi) { return pack_h2(lo, hi); }
  static KVB_DEV void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { mma16816(d, a, b0, b1); }
  static KVB_DEV u32 query(u32 pair) { return pair; }
  static KVB_DEV u16 from_half(u16 x) { return x; }
  static KVB_DEV u16 from_float(float x) { return f2h(x); }
};
struct Brain {
  static KVB_DEV u32 pack(float lo, float hi) { return pack_b2(lo, hi); }
  static KVB_DEV void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { mma16816_bf(d, a, b0, b1); }
  static KVB_DEV u32 query(u32 pair) { return pack_b2(h2f((u16)pair), h2f((u16)(pair >> 16))); }
  static KVB_DEV u16 from_half(u16 x) { return f2b(h2f(x)); }
  static KVB_DEV u16 from_float(float x) { return f2b(x); }
};

struct Acc { float o[KS][4]; float m[2], l[2]; };   // o: d = i * 16 + g (+ 8); m: running maximum in log2 units; l: sum

KVB_DEV void acc_init(Acc& A) {
  #pragma unroll
  for (int i = 0; i < KS; ++i)
    #pragma unroll
    for (int j = 0; j < 4; ++j) A.o[i][j] = 0.f;
  A.m[0] = A.m[1] = NEG_INF; A.l[0] = A.l[1] = 0.f;
}

// Takes MT tiles of 16 scores (log2 units, -inf where masked) into the accumulator; pb becomes P^T as B fragments and r the
// factors by which everything accumulated before was scaled.
template<class T, int MT> KVB_DEV void softmax_step(Acc& A, float (&s)[MT][4], u32 (&pb)[MT][2], float (&r)[2]) {
  float mx0 = NEG_INF, mx1 = NEG_INF;
  #pragma unroll
  for (int i = 0; i < MT; ++i) { mx0 = fmaxf(mx0, fmaxf(s[i][0], s[i][2])); mx1 = fmaxf(mx1, fmaxf(s[i][1], s[i][3])); }
  #pragma unroll
  for (int k = 4; k < 32; k <<= 1) { mx0 = fmaxf(mx0, shx(mx0, k)); mx1 = fmaxf(mx1, shx(mx1, k)); }
  float n0 = fmaxf(A.m[0], mx0), n1 = fmaxf(A.m[1], mx1);
  float b0 = n0 == NEG_INF ? 0.f : n0, b1 = n1 == NEG_INF ? 0.f : n1;
  r[0] = ex2(A.m[0] - b0); r[1] = ex2(A.m[1] - b1);
  A.m[0] = n0; A.m[1] = n1; A.l[0] *= r[0]; A.l[1] *= r[1];
  #pragma unroll
  for (int i = 0; i < KS; ++i) { A.o[i][0] *= r[0]; A.o[i][2] *= r[0]; A.o[i][1] *= r[1]; A.o[i][3] *= r[1]; }
  #pragma unroll
  for (int i = 0; i < MT; ++i) {
    float p0 = ex2(s[i][0] - b0), p1 = ex2(s[i][1] - b1), p2 = ex2(s[i][2] - b0), p3 = ex2(s[i][3] - b1);
    A.l[0] += p0 + p2; A.l[1] += p1 + p3;
    pb[i][0] = movm_t(T::pack(p0, p1)); pb[i][1] = movm_t(T::pack(p2, p3));
  }
}

// B fragments of Q^T; heads from G on are 0. q: [G][D] fp16.
template<class T> KVB_DEV void load_q(u32 (&qb)[KS][2], const u16* q, int G) {
  int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  #pragma unroll
  for (int k = 0; k < KS; ++k) {
    qb[k][0] = g < G ? T::query(*(const u32*)(q + g * D + k * 16 + 2 * t)) : 0u;
    qb[k][1] = g < G ? T::query(*(const u32*)(q + g * D + k * 16 + 2 * t + 8)) : 0u;
  }
}

// Rows of D 16-bit values in shared memory, chunks of 16 bytes swizzled so that ldmatrix meets no bank twice.
KVB_DEV char* swz(char* base, int row, int chunk) { return base + row * (D * 2) + ((chunk ^ (row & 7)) << 4); }

// Where splits meet. po: [B*Hkv][S][G][D], pml: [B*Hkv][S][G][2] (maximum, sum), count: [B*Hkv], zero before the first launch.
// out: fp16 [B*Hkv][G][D]; lse: [B*Hkv][G], log2 of the sum of exponentials.
struct Merge { float* po; float* pml; u32* count; u16* out; float* lse; };

// Shared memory that finish() needs.
template<int WARPS> constexpr int finish_bytes() { return (WARPS * (8 * D + 16) + 4) * 4; }

KVB_DEV void write_out(const Merge& M, int row, int d, float o, float m, float l) {
  M.out[(size_t)row * D + d] = f2h(o / l);
  if (d == 0) M.lse[row] = m + log2f(l);
}

// Merges the warps of the block, then, in the block that comes last, the splits. All threads take part.
template<int WARPS> KVB_DEV void finish(Acc& A, char* shared, const Merge& M, int G) {
  int lane = threadIdx.x & 31, w = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  int S = gridDim.x, sp = blockIdx.x, bh = blockIdx.z * gridDim.y + blockIdx.y;
  #pragma unroll
  for (int k = 4; k < 32; k <<= 1) { A.l[0] += shx(A.l[0], k); A.l[1] += shx(A.l[1], k); }
  __syncthreads();              // the tiles that lie in this memory are no longer needed
  float* all = (float*)shared; float* ml = all + WARPS * 8 * D; u32* last = (u32*)(ml + WARPS * 16);
  float* so = all + w * (8 * D);
  #pragma unroll
  for (int i = 0; i < KS; ++i) {
    so[(2 * t) * D + i * 16 + g] = A.o[i][0]; so[(2 * t + 1) * D + i * 16 + g] = A.o[i][1];
    so[(2 * t) * D + i * 16 + g + 8] = A.o[i][2]; so[(2 * t + 1) * D + i * 16 + g + 8] = A.o[i][3];
  }
  if (g == 0) {
    float* own = ml + w * 16 + 4 * t;
    own[0] = A.m[0]; own[1] = A.l[0]; own[2] = A.m[1]; own[3] = A.l[1];
  }
  __syncthreads();
  for (int e = threadIdx.x; e < G * D; e += WARPS * 32) {
    int h = e / D, d = e % D; float m = NEG_INF;
    for (int k = 0; k < WARPS; ++k) m = fmaxf(m, ml[k * 16 + h * 2]);
    float base = m == NEG_INF ? 0.f : m, o = 0.f, l = 0.f;
    for (int k = 0; k < WARPS; ++k) { float f = ex2(ml[k * 16 + h * 2] - base); o += f * all[k * 8 * D + e]; l += f * ml[k * 16 + h * 2 + 1]; }
    if (S == 1) write_out(M, bh * G + h, d, o, m, l);
    else {
      size_t row = ((size_t)bh * S + sp) * G + h;
      M.po[row * D + d] = o;
      if (d == 0) { M.pml[row * 2] = m; M.pml[row * 2 + 1] = l; }
    }
  }
  if (S == 1) return;
  fence();                      // partials are visible before the count is
  __syncthreads();
  if (threadIdx.x == 0) *last = atomic_add(M.count + bh, 1u) == (u32)(S - 1);
  __syncthreads();
  if (!*last) return;
  fence();
  for (int e = threadIdx.x; e < G * D; e += WARPS * 32) {
    int h = e / D, d = e % D; float m = NEG_INF, o = 0.f, l = 0.f;
    const float* pml = M.pml + ((size_t)bh * S * G + h) * 2; const float* po = M.po + ((size_t)bh * S * G + h) * D + d;
    for (int s = 0; s < S; ++s) m = fmaxf(m, ldcg(pml + (size_t)s * G * 2));
    for (int s = 0; s < S; ++s) {
      float f = ex2(ldcg(pml + (size_t)s * G * 2) - m);
      o += f * ldcg(po + (size_t)s * G * D); l += f * ldcg(pml + (size_t)s * G * 2 + 1);
    }
    write_out(M, bh * G + h, d, o, m, l);
  }
  if (threadIdx.x == 0) M.count[bh] = 0u;   // ready for the next launch
}

// Tiles of this warp: [first, end) of `tiles`, divided evenly over splits and warps.
template<int WARPS> KVB_DEV void my_tiles(int tiles, int& first, int& end) {
  int parts = gridDim.x * WARPS, part = blockIdx.x * WARPS + (threadIdx.x >> 5);
  int per = (tiles + parts - 1) / parts;
  first = min(part * per, tiles); end = min(first + per, tiles);
}
