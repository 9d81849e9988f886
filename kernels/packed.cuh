// Layout of caches quantised per (token, KV head), shared by packing and decoding. What the numbers mean is the method's;
// where they lie is kvbench's own: codes in the order of tensor-core fragments, tile by tile of 16 tokens.
//
//   kc, vc  [page][Hkv][PAGE / 16 tiles][TILE bytes]   word W of a lane at vector W / 4, [vector][lane] of 16 bytes
//   ks, vs  [page][Hkv][PAGE]  scale and minimum of the token's row as an fp16 pair (INT8, INT4: as LMDeploy), its scale as
//           f32 (FP8 per token and head: as vLLM), or nothing (FP8 with scale 1)
#pragma once
#include "attend.cuh"

// Unsigned codes of 8 or 4 bits with an affine pair of fp16 (scale, minimum) per row.
struct Int8 { static constexpr int BITS = 8; static constexpr bool AFFINE = true, FLOAT = false; };
struct Int4 { static constexpr int BITS = 4; static constexpr bool AFFINE = true, FLOAT = false; };
// e4m3 with one f32 scale per row, or none.
struct Fp8Row { static constexpr int BITS = 8; static constexpr bool AFFINE = false, FLOAT = true; };
struct Fp8 { static constexpr int BITS = 8; static constexpr bool AFFINE = false, FLOAT = true; };

template<class F> struct Packed {
  static constexpr int WORDS = KS * F::BITS / 4;        // words a lane has of one tile
  static constexpr int BYTES = 16 * D * F::BITS / 8;    // of a tile
  static constexpr int SCALE = same<F, Fp8>() ? 0 : 4;  // bytes of a row's scales: fp16 pair, f32, or none
};

// Bit of row r, half j of the k extent and element e within a lane's word: 4-bit words hold a fragment, 8-bit words a row of it.
template<int BITS> KVB_DEV int packed_bit(int r, int j, int e) { return BITS == 4 ? r * 8 + j * 4 + e * 16 : j * 8 + e * 16; }
// Word of fragment f and row r.
template<int BITS> KVB_DEV int packed_word(int f, int r) { return BITS == 4 ? f : f * 2 + r; }
