// Writing caches quantised per (token, KV head).
#include "packed.cuh"

constexpr int THREADS = 128;

// The nearest e4m3 number to x as its byte: ties to even, saturating at 448, subnormals down to 2^-9.
KVB_DEV u32 e4m3(float x) {
  u32 sign = float_bits(x) >> 31 << 7; float a = fminf(fabsf(x), 448.f);
  int e = max((int)(float_bits(a) >> 23) - 127, -6);
  float step = bits_float((u32)(e - 3 + 127) << 23);
  int n = (int)rintf(a / step);             // 8 .. 16 steps for normals, below 8 for subnormals
  if (n == 16) { n = 8; ++e; }
  u32 code = n < 8 ? (u32)n : (u32)((e + 7) << 3 | (n - 8));
  return sign | code;
}

// One row of D values by one warp: codes, and the scales of token `token`. `row` is null beyond the end: zeros.
template<class F> KVB_DEV void quantise_row(const u16* row, u8* codes, char* scales, int token) {
  int lane = threadIdx.x & 31; float x[D / 32], lo = INFINITY_F, hi = NEG_INF;
  #pragma unroll
  for (int i = 0; i < D / 32; ++i) { x[i] = row ? h2f(row[i * 32 + lane]) : 0.f; lo = fminf(lo, x[i]); hi = fmaxf(hi, x[i]); }
  #pragma unroll
  for (int m = 16; m; m >>= 1) { lo = fminf(lo, shx(lo, m)); hi = fmaxf(hi, shx(hi, m)); }
  if constexpr (F::AFFINE) {
    constexpr float TOP = (float)((1 << F::BITS) - 1);
    u16 scale = f2h((hi - lo) / TOP), low = f2h(lo);
    if (!(h2f(scale) > 0.f)) scale = 0x3C00;    // a constant row: any scale gives back its minimum
    #pragma unroll
    for (int i = 0; i < D / 32; ++i) codes[i * 32 + lane] = (u8)rintf(fminf(fmaxf((x[i] - h2f(low)) / h2f(scale), 0.f), TOP));
    if (lane == 0) ((u32*)scales)[token] = (u32)scale | (u32)low << 16;
  } else {
    float scale = Packed<F>::SCALE ? fmaxf(fmaxf(hi, -lo) / 448.f, 1e-6f) : 1.f;
    #pragma unroll
    for (int i = 0; i < D / 32; ++i) codes[i * 32 + lane] = (u8)e4m3(x[i] / scale);
    if (Packed<F>::SCALE && lane == 0) ((float*)scales)[token] = scale;
  }
}

// Words of a tile from codes [16][D] in shared memory. IS_V: tokens run along k instead of channels.
template<class F, bool IS_V> KVB_DEV void write_tile(const u8* codes, u32* to) {
  constexpr int BITS = F::BITS, WORDS = Packed<F>::WORDS;
  for (int x = threadIdx.x; x < 32 * WORDS; x += THREADS) {
    int lane = x % 32, word = x / 32, g = lane >> 2, t = lane & 3, f = BITS == 4 ? word : word / 2; u32 bits = 0u;
    #pragma unroll
    for (int n = 0; n < 8; ++n) {
      int r = n & 1, j = (n >> 1) & 1, e = n >> 2;
      if (packed_word<BITS>(f, r) != word) continue;
      int row = g + 8 * r, col = 2 * t + e + 8 * j, token = IS_V ? col : row, d = f * 16 + (IS_V ? row : col);
      bits |= (u32)codes[token * D + d] << packed_bit<BITS>(r, j, e);
    }
    to[(word / 4 * 32 + lane) * 4 + word % 4] = bits;
  }
}

// raw k, v: fp16 [seq][head][token][D] with starts[b] tokens before. grid (tiles of the longest sequence, Hkv, B).
template<class F, int PAGE> __global__ void __launch_bounds__(THREADS)
pack_rows(const u16* __restrict__ k, const u16* __restrict__ v, const int* __restrict__ lens, const int* __restrict__ starts,
          const int* __restrict__ bt, char* kc, char* ks, char* vc, char* vs, int maxp) {
  using P = Packed<F>;
  KVB_SMEM(shared);
  u8* codes = (u8*)shared;
  int h = blockIdx.y, b = blockIdx.z, Hkv = gridDim.y, L = lens[b], first = blockIdx.x * 16;
  if (first >= L) return;
  size_t raw = ((size_t)starts[b] * Hkv + (size_t)h * L) * D;
  size_t at = ((size_t)bt[(size_t)b * maxp + first / PAGE] * Hkv + h) * (PAGE / 16) + first % PAGE / 16;
  for (int side = 0; side < 2; ++side) {
    const u16* rows = (side ? v : k) + raw; char* scales = (side ? vs : ks) + at * 16 * P::SCALE;
    for (int n = threadIdx.x >> 5; n < 16; n += THREADS / 32)
      quantise_row<F>(first + n < L ? rows + (size_t)(first + n) * D : nullptr, codes + n * D, scales, n);
    __syncthreads();
    if (side) write_tile<F, true>(codes, (u32*)(vc + at * P::BYTES)); else write_tile<F, false>(codes, (u32*)(kc + at * P::BYTES));
    __syncthreads();
  }
}
