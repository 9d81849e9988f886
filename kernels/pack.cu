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

// Midpoints between the positive points of the codebook, in standard deviations, and the points themselves.
__constant__ const float MIDPOINTS[7] = {0.2582827f, 0.5225089f, 0.7996641f, 1.0993529f, 1.4370697f, 1.8431644f, 2.3996847f};
__constant__ const float POINTS[8] = {0.12842766f, 0.38813779f, 0.65687992f, 0.94244824f, 1.2562576f, 1.6178818f, 2.0684471f, 2.7309222f};

// One key under TurboQuant: divided by its length, turned, each coordinate to the nearest point; the stored scale is the key's
// length over that of its points.
KVB_DEV void turbo_key(const u16* row, u8* codes, u16* scales, int token) {
  int lane = threadIdx.x & 31; float x[D / 32], square = 0.f, chosen = 0.f;
  #pragma unroll
  for (int i = 0; i < D / 32; ++i) { x[i] = row ? h2f(row[i * 32 + lane]) : 0.f; square += x[i] * x[i]; }
  #pragma unroll
  for (int m = 16; m; m >>= 1) square += shx(square, m);
  float length = sqrtf(square), unit = 1.f / (length + 1e-8f);
  #pragma unroll
  for (int i = 0; i < D / 32; ++i) x[i] *= unit;
  hadamard(x);
  constexpr float DEVIATIONS = D == 64 ? 8.f : 11.313708498984761f;
  #pragma unroll
  for (int i = 0; i < D / 32; ++i) {
    // A value on a midpoint goes up, so a negative one to the smaller magnitude.
    float y = x[i] * DEVIATIONS, size = fabsf(y); bool below = y < 0.f; int rank = 0;
    #pragma unroll
    for (int n = 0; n < 7; ++n) rank += below ? size > MIDPOINTS[n] : size >= MIDPOINTS[n];
    chosen += POINTS[rank] * POINTS[rank];
    codes[i * 32 + lane] = (u8)(rank | (below ? 8 : 0));
  }
  #pragma unroll
  for (int m = 16; m; m >>= 1) chosen += shx(chosen, m);
  if (lane == 0) scales[token] = f2h(length / sqrtf(chosen));
}

// One value under TurboQuant: codes by the exact scale and minimum, halves up; both are kept as fp16.
KVB_DEV void turbo_value(const u16* row, u8* codes, u32* scales, int token) {
  int lane = threadIdx.x & 31; float x[D / 32], lo = INFINITY_F, hi = NEG_INF;
  #pragma unroll
  for (int i = 0; i < D / 32; ++i) { x[i] = row ? h2f(row[i * 32 + lane]) : 0.f; lo = fminf(lo, x[i]); hi = fmaxf(hi, x[i]); }
  #pragma unroll
  for (int m = 16; m; m >>= 1) { lo = fminf(lo, shx(lo, m)); hi = fmaxf(hi, shx(hi, m)); }
  float step = fmaxf((hi - lo) / 15.f, 1e-8f);
  #pragma unroll
  for (int i = 0; i < D / 32; ++i) codes[i * 32 + lane] = (u8)fminf(fmaxf(floorf((x[i] - lo) / step + 0.5f), 0.f), 15.f);
  if (lane == 0) scales[token] = (u32)f2h(step) | (u32)f2h(lo) << 16;
}

// Row of K or V to codes and scales.
template<class F> KVB_DEV void any_row(const u16* row, u8* codes, char* scales, int token, bool is_v) {
  if constexpr (F::TURBO) { if (is_v) turbo_value(row, codes, (u32*)scales, token); else turbo_key(row, codes, (u16*)scales, token); }
  else quantise_row<F>(row, codes, scales, token);
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
      bits |= (u32)codes[token * D + d] << (F::TURBO && !IS_V ? turbo_bit(r, j, e) : packed_bit<BITS>(r, j, e));
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
    const u16* rows = (side ? v : k) + raw; char* scales = (side ? vs : ks) + at * 16 * (side ? P::SCALE : P::KSCALE);
    for (int n = threadIdx.x >> 5; n < 16; n += THREADS / 32)
      any_row<F>(first + n < L ? rows + (size_t)(first + n) * D : nullptr, codes + n * D, scales, n, side == 1);
    __syncthreads();
    if (side) write_tile<F, true>(codes, (u32*)(vc + at * P::BYTES)); else write_tile<F, false>(codes, (u32*)(kc + at * P::BYTES));
    __syncthreads();
  }
}

// One row of codes [D] into a tile as its token n; the first token of a tile clears the rest.
template<class F, bool IS_V> KVB_DEV void merge_row(const u8* codes, u32* to, int n) {
  constexpr int BITS = F::BITS, WORDS = Packed<F>::WORDS;
  for (int x = threadIdx.x; x < 32 * WORDS; x += THREADS) {
    int lane = x % 32, word = x / 32, g = lane >> 2, t = lane & 3, f = BITS == 4 ? word : word / 2;
    u32* place = to + (word / 4 * 32 + lane) * 4 + word % 4; u32 bits = n ? *place : 0u; bool own = n == 0;
    #pragma unroll
    for (int m = 0; m < 8; ++m) {
      int r = m & 1, j = (m >> 1) & 1, e = m >> 2, row = g + 8 * r, col = 2 * t + e + 8 * j;
      if (packed_word<BITS>(f, r) != word || (IS_V ? col : row) != n) continue;
      int shift = F::TURBO && !IS_V ? turbo_bit(r, j, e) : packed_bit<BITS>(r, j, e);
      bits = (bits & ~(((1u << BITS) - 1u) << shift)) | (u32)codes[f * 16 + (IS_V ? row : col)] << shift; own = true;
    }
    if (own) *place = bits;
  }
}

// One more token, at position lens[b]: K and V [B][Hkv][D]. grid (1, Hkv, B), block 128: a warp quantises K, another V.
template<class F, int PAGE> __global__ void __launch_bounds__(THREADS)
append_row(const u16* __restrict__ k, const u16* __restrict__ v, const int* __restrict__ lens, const int* __restrict__ bt, char* kc,
           char* ks, char* vc, char* vs, int maxp) {
  using P = Packed<F>;
  KVB_SMEM(shared);
  u8* codes = (u8*)shared;
  int h = blockIdx.y, b = blockIdx.z, Hkv = gridDim.y, token = lens[b], n = token % 16, side = threadIdx.x >> 5;
  size_t row = ((size_t)b * Hkv + h) * D, at = ((size_t)bt[(size_t)b * maxp + token / PAGE] * Hkv + h) * (PAGE / 16) + token % PAGE / 16;
  if (side < 2) any_row<F>((side ? v : k) + row, codes + side * D, (side ? vs : ks) + at * 16 * (side ? P::SCALE : P::KSCALE), n, side == 1);
  __syncthreads();
  merge_row<F, false>(codes, (u32*)(kc + at * P::BYTES), n); merge_row<F, true>(codes + D, (u32*)(vc + at * P::BYTES), n);
}
