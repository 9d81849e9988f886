// Layout of what GEAR (arXiv 2403.05527) keeps beside a KIVI cache, shared by packing and decoding. Tokens are quantised in
// whole residuals, K and V alike; a segment is what was compressed together (a prompt, or one flushed residual) and has its
// own factors. RANK is the stride of the factors; a lower rank leaves the last columns 0.
//
//   ka   [page][Hkv][128 tokens][rank]              fp16, A of K
//   va   [page][Hkv][8 tiles][rank][16]             fp16, A of V; token at token_at(token % 16)
//   kb   [segment][Hkv][rank][D]                    fp16, B of K, transposed
//   vb   [segment][Hkv][D][rank]                    fp16, B of V
//   kt, vt  [B * Hkv][tiles]{start, count}          outliers of 16 tokens; the two tiles of a chunk lie one behind the other
//   ke, ve  {(token % 16) * D + channel, fp16 difference to the quantised value}, ascending within a tile
#pragma once
#include "kivi.cuh"

constexpr int RANK_MAX = 8;
// A batch of compressions: rows of sequence b and head h begin at row base + h * stride of the source, `n` of them, and become
// tokens `first` on of the cache. `keys` and `values`: outliers at either end of a vector; their entries begin at key_at, value_at.
struct Job { int base, stride, first, n, keys, values, key_at, value_at; };
