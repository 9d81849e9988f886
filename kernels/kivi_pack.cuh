// Quantising and packing tiles of a KIVI cache: what KIVI and GEAR share.
#pragma once
#include "kivi.cuh"

constexpr int THREADS = 128;

// Scale and minimum of a group and the code of a value, as published: scale = (max - min) / (2^b - 1), code = round of the
// clamped (x - min) / scale with ties to even, scale and minimum in fp16. A constant group, which divides by zero there,
// gets scale 1.
struct Affine { u16 scale, low; };
template<int BITS> KVB_DEV Affine affine(float lo, float hi) {
  u16 scale = f2h((hi - lo) / (float)((1 << BITS) - 1));
  return Affine{h2f(scale) > 0.f ? scale : (u16)0x3C00, f2h(lo)};
}
template<int BITS> KVB_DEV u32 code(float x, Affine a) {
  float top = (float)((1 << BITS) - 1), y = (x - h2f(a.low)) / h2f(a.scale);
  return (u32)rintf(fminf(fmaxf(y, 0.f), top));
}

// Words of one tile of 16 tokens from codes [16][D] in shared memory. IS_V: tokens run along k instead of channels.
template<int BITS, int GS, bool IS_V> KVB_DEV void write_words(const u8* codes, u32* to, int i) {
  using L = Kivi<BITS, GS>;
  for (int x = threadIdx.x; x < 32 * L::WORDS; x += THREADS) {
    int lane = x % 32, word = x / 32, g = lane >> 2, t = lane & 3; u32 bits = 0u;
    #pragma unroll
    for (int k = 0; k < L::NK; ++k)
      #pragma unroll
      for (int n = 0; n < 8; ++n) {
        int r = n & 1, j = (n >> 1) & 1, e = n >> 2, f = word * L::NK + k, row = g + 8 * r, col = 2 * t + e + 8 * j;
        int token = IS_V ? col : row, d = f * 16 + (IS_V ? row : col);
        bits |= (u32)codes[token * D + d] << bit_at<BITS>(f, r, j, e);
      }
    int at = i * L::WORDS + word;
    to[(at / 4 * 32 + lane) * 4 + at % 4] = bits;
  }
}
