// Layout of caches quantised per (token, KV head), shared by packing and decoding. What the numbers mean is the method's;
// where they lie is kvbench's own: codes in the order of tensor-core fragments, tile by tile of 16 tokens.
//
//   kc, vc  [page][Hkv][PAGE / 16 tiles][TILE bytes]   word W of a lane at vector W / 4, [vector][lane] of 16 bytes
//   ks, vs  [page][Hkv][PAGE]  scale and minimum of the token's row as an fp16 pair (INT8, INT4: as LMDeploy), its scale as
//           f32 (FP8 per token and head: as vLLM), or nothing (FP8 with scale 1). TurboQuant: V as INT4, ks one fp16
#pragma once
#include "attend.cuh"

// Unsigned codes of 8 or 4 bits with an affine pair of fp16 (scale, minimum) per row.
struct Int8 { static constexpr int BITS = 8; static constexpr bool AFFINE = true, FLOAT = false, TURBO = false; };
struct Int4 { static constexpr int BITS = 4; static constexpr bool AFFINE = true, FLOAT = false, TURBO = false; };
// e4m3 with one f32 scale per row, or none.
struct Fp8Row { static constexpr int BITS = 8; static constexpr bool AFFINE = false, FLOAT = true, TURBO = false; };
struct Fp8 { static constexpr int BITS = 8; static constexpr bool AFFINE = false, FLOAT = true, TURBO = false; };
// TurboQuant (arXiv 2504.19874), 4 bits as in vLLM: K rotated, by codebook, one fp16 scale; V as INT4.
struct Turbo { static constexpr int BITS = 4; static constexpr bool AFFINE = true, FLOAT = false, TURBO = true; };

template<class F> struct Packed {
  static constexpr int WORDS = KS * F::BITS / 4;        // words a lane has of one tile
  static constexpr int BYTES = 16 * D * F::BITS / 8;    // of a tile
  static constexpr int SCALE = same<F, Fp8>() ? 0 : 4;  // bytes of a row's scales: fp16 pair, f32, or none
  static constexpr int KSCALE = F::TURBO ? 2 : SCALE;   // the same for K
};

// Bit of row r, half j of the k extent and element e within a lane's word: 4-bit words hold a fragment, 8-bit words a row of it.
template<int BITS> KVB_DEV int packed_bit(int r, int j, int e) { return BITS == 4 ? r * 8 + j * 4 + e * 16 : j * 8 + e * 16; }
// Word of fragment f and row r.
template<int BITS> KVB_DEV int packed_word(int f, int r) { return BITS == 4 ? f : f * 2 + r; }

// TurboQuant's codebook is symmetric: a code is the point's rank by magnitude and, in bit 3, its sign. Codes of (row r, half j,
// element e) lie so that the low and the high 16 bits of a word each give two registers of a fragment.
KVB_DEV int turbo_bit(int r, int j, int e) { return ((j * 2 + r) * 2 + e) * 4; }

// Row times the Sylvester Hadamard matrix over sqrt(D); lane l holds elements i * 32 + l.
KVB_DEV void hadamard(float (&x)[D / 32]) {
  int lane = threadIdx.x & 31;
  #pragma unroll
  for (int m = 1; m < 32; m <<= 1)
    #pragma unroll
    for (int i = 0; i < D / 32; ++i) { float y = shx(x[i], m); x[i] = lane & m ? y - x[i] : y + x[i]; }
  #pragma unroll
  for (int m = 1; m < D / 32; m <<= 1)
    #pragma unroll
    for (int i = 0; i < D / 32; ++i)
      if (!(i & m)) { float a = x[i], b = x[i | m]; x[i] = a + b; x[i | m] = a - b; }
  constexpr float SCALE = D == 64 ? 0.125f : 0.08838834764831845f;
  #pragma unroll
  for (int i = 0; i < D / 32; ++i) x[i] *= SCALE;
}
