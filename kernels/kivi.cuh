// Layout of a KIVI cache, shared by packing and decoding. Quantisation is KIVI's (arXiv 2402.02750, section 4): K per
// channel in groups of GS tokens, V per token in groups of GS channels, asymmetric, fp16 scale and minimum. Where the bits
// lie is kvbench's own: codes in the order of tensor-core fragments, so that what a lane loads is what it multiplies.
//
// A page holds 128 tokens of one KV head, four chunks of 32, each two tiles of 16:
//   kc, vc  [page][Hkv][4 chunks][CODES bytes]       word W of a lane at vector W / 4, [vector][lane] of 16 bytes
//   ks      [page][Hkv][128 / GS groups][2][D]       fp16 scales, then minima; channel d at channel_at(d)
//   vs      [page][Hkv][4 chunks][2][2 tiles][DG][16]  fp16 scales, then minima; token at token_at(token % 16)
// and of each (sequence, KV head) a ring of R fp16 rows for K and for V, token t in row t % R:
//   kr, vr  [B * Hkv][R][D]
#pragma once
#include "attend.cuh"

constexpr int CHUNK = 32, CHUNKS = 4;   // tokens of a chunk, chunks of a page

template<int BITS, int GS> struct Kivi {
  static constexpr int NK = BITS == 4 ? 1 : 2;         // fragments in one word
  static constexpr int WORDS = KS / NK;                // words a lane has of one tile
  static constexpr int CODES = CHUNK * D * BITS / 8;   // bytes of a chunk's codes
  static constexpr int KSZ = 4 * D;                    // bytes of a K group's scales and minima
  static constexpr int DG = D / GS;                    // groups of a V row
  static constexpr int VSZ = CHUNK * 4 * DG;           // bytes of a chunk's V scales and minima
  static constexpr int STAGE = 2 * CODES + KSZ + VSZ;
};

// Channel d = k * 16 + j * 8 + 2t + e: a lane (t) reads all its scales in a row.
KVB_DEV int channel_at(int d) { return ((d % 8) / 2) * (D / 4) + (d / 16) * 4 + (d % 16 / 8) * 2 + d % 2; }
// Token 2t + e + 8j of a tile.
KVB_DEV int token_at(int token) { return (token % 8 / 2) * 4 + token / 8 * 2 + token % 2; }
// Which bits of which half of a word: row r, half j of the k extent, element e, fragment f of the word.
template<int BITS> KVB_DEV int bit_at(int f, int r, int j, int e) { return r * 8 + ((f % (BITS == 4 ? 1 : 2)) * 2 + j) * BITS + e * 16; }
