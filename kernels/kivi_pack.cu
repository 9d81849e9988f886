// Writing a KIVI cache: a prompt at prefill, a token at a decode step, a residual when it is full.
#include "kivi_pack.cuh"

// One group of GS tokens of K from rows k[token][D]: the page's group `group`, tokens `group * GS ..` of it.
template<int BITS, int GS> KVB_DEV void pack_k_group(const u16* k, size_t stride, char* kc, char* ks, size_t ph, int group, u8* codes) {
  using L = Kivi<BITS, GS>;
  u16* scales = (u16*)(ks + (ph * (128 / GS) + group) * L::KSZ);
  for (int chunk = 0; chunk < GS / CHUNK; ++chunk)
    for (int i = 0; i < 2; ++i) {
      for (int d = threadIdx.x; d < D; d += THREADS) {
        float lo = INFINITY_F, hi = NEG_INF;
        for (int n = 0; n < GS; ++n) { float x = h2f(k[n * stride + d]); lo = fminf(lo, x); hi = fmaxf(hi, x); }
        Affine a = affine<BITS>(lo, hi);
        if (chunk == 0 && i == 0) { scales[channel_at(d)] = a.scale; scales[D + channel_at(d)] = a.low; }
        for (int n = 0; n < 16; ++n) codes[n * D + d] = (u8)code<BITS>(h2f(k[(chunk * CHUNK + i * 16 + n) * stride + d]), a);
      }
      __syncthreads();
      write_words<BITS, GS, false>(codes, (u32*)(kc + (ph * CHUNKS + group * GS / CHUNK + chunk) * L::CODES), i);
      __syncthreads();
    }
}

// raw k, v: fp16 [seq][head][token][D] with starts[b] tokens before. grid (groups of GS of the longest sequence, Hkv, B).
template<int BITS, int GS> __global__ void __launch_bounds__(THREADS)
pack_kivi_k(const u16* __restrict__ k, const int* __restrict__ lens, const int* __restrict__ starts, const int* __restrict__ bt,
            char* kc, char* ks, int maxp, int R) {
  KVB_SMEM(shared);
  int h = blockIdx.y, b = blockIdx.z, Hkv = gridDim.y, len = lens[b], first = blockIdx.x * GS;
  if (first >= len / R * R) return;
  const u16* rows = k + ((size_t)starts[b] * Hkv + (size_t)h * len + first) * D;
  size_t ph = (size_t)bt[(size_t)b * maxp + first / 128] * Hkv + h;
  pack_k_group<BITS, GS>(rows, D, kc, ks, ph, first % 128 / GS, (u8*)shared);
}

// V of one chunk; tokens that are not quantised get zeros, which nothing reads but which must not be NaN.
// grid (chunks of the longest sequence, Hkv, B).
template<int BITS, int GS> __global__ void __launch_bounds__(THREADS)
pack_kivi_v(const u16* __restrict__ v, const int* __restrict__ lens, const int* __restrict__ starts, const int* __restrict__ bt,
            char* vc, char* vs, int maxp, int R) {
  using L = Kivi<BITS, GS>;
  KVB_SMEM(shared);
  u8* codes = (u8*)shared;
  int h = blockIdx.y, b = blockIdx.z, Hkv = gridDim.y, len = lens[b], nv = max(len - R, 0), first = blockIdx.x * CHUNK;
  if (first >= nv) return;
  const u16* rows = v + ((size_t)starts[b] * Hkv + (size_t)h * len) * D;
  size_t at = ((size_t)bt[(size_t)b * maxp + first / 128] * Hkv + h) * CHUNKS + first % 128 / CHUNK;
  u16* scales = (u16*)(vs + at * L::VSZ);
  for (int i = 0; i < 2; ++i) {
    for (int x = threadIdx.x; x < 16 * L::DG; x += THREADS) {
      int n = x / L::DG, dg = x % L::DG, token = first + i * 16 + n; const u16* row = rows + (size_t)token * D + dg * GS;
      Affine a{0, 0};
      if (token < nv) {
        float lo = INFINITY_F, hi = NEG_INF;
        for (int d = 0; d < GS; ++d) { float y = h2f(row[d]); lo = fminf(lo, y); hi = fmaxf(hi, y); }
        a = affine<BITS>(lo, hi);
      }
      for (int d = 0; d < GS; ++d) codes[n * D + dg * GS + d] = token < nv ? (u8)code<BITS>(h2f(row[d]), a) : (u8)0;
      int place = (i * L::DG + dg) * 16 + token_at(n);
      scales[place] = a.scale; scales[2 * L::DG * 16 + place] = a.low;
    }
    __syncthreads();
    write_words<BITS, GS, true>(codes, (u32*)(vc + at * L::CODES), i);
    __syncthreads();
  }
}

// The half-precision residuals into their rings: K from token nk on, V from nv on. grid (R over 4, Hkv, B): one warp a token.
extern "C" __global__ void __launch_bounds__(THREADS)
pack_kivi_rings(const u16* __restrict__ k, const u16* __restrict__ v, const int* __restrict__ lens, const int* __restrict__ starts,
                u16* kr, u16* vr, int R) {
  int lane = threadIdx.x & 31, n = blockIdx.x * 4 + (threadIdx.x >> 5), h = blockIdx.y, b = blockIdx.z, Hkv = gridDim.y, len = lens[b];
  int nv = max(len - R, 0), token = nv + n;
  if (n >= R || token >= len) return;
  size_t from = ((size_t)starts[b] * Hkv + (size_t)h * len + token) * D, to = ((size_t)(b * Hkv + h) * R + token % R) * D;
  for (int d = lane; d < D; d += 32) {
    if (token >= len / R * R) kr[to + d] = k[from + d];
    vr[to + d] = v[from + d];
  }
}

// A decode step's own cost: token at position lens[b] joins the rings, and the V row it displaces, token lens[b] - R, is
// quantised. k, v: [B][Hkv][D]. grid (1, Hkv, B), block 128.
template<int BITS, int GS> __global__ void __launch_bounds__(THREADS)
append_kivi(const u16* __restrict__ k, const u16* __restrict__ v, const int* __restrict__ lens, const int* __restrict__ bt, char* vc,
            char* vs, u16* kr, u16* vr, int maxp, int R) {
  using L = Kivi<BITS, GS>;
  KVB_SMEM(shared);
  u8* codes = (u8*)shared;
  int h = blockIdx.y, b = blockIdx.z, Hkv = gridDim.y, bh = b * Hkv + h, len = lens[b], old = len - R, row = (len % R) * D;
  u16* ring = vr + (size_t)bh * R * D + row;
  if (old >= 0) {
    size_t at = ((size_t)bt[(size_t)b * maxp + old / 128] * Hkv + h) * CHUNKS + old % 128 / CHUNK;
    u16* scales = (u16*)(vs + at * L::VSZ); int i = old / 16 % 2, n = old % 16;
    if (old % CHUNK == 0)   // a new chunk: what lies there must not be NaN
      for (int x = threadIdx.x; x < L::VSZ / 2; x += THREADS) scales[x] = 0;
    __syncthreads();
    for (int dg = threadIdx.x; dg < L::DG; dg += THREADS) {
      float lo = INFINITY_F, hi = NEG_INF;
      for (int d = 0; d < GS; ++d) { float x = h2f(ring[dg * GS + d]); lo = fminf(lo, x); hi = fmaxf(hi, x); }
      Affine a = affine<BITS>(lo, hi);
      for (int d = 0; d < GS; ++d) codes[dg * GS + d] = (u8)code<BITS>(h2f(ring[dg * GS + d]), a);
      int place = (i * L::DG + dg) * 16 + token_at(n);
      scales[place] = a.scale; scales[2 * L::DG * 16 + place] = a.low;
    }
    __syncthreads();
    // The token is column n of the tile: one element (j, e) of the words of four lanes' rows.
    u32* to = (u32*)(vc + at * L::CODES); int t = n % 8 / 2, j = n / 8, e = n % 2;
    for (int x = threadIdx.x; x < 8 * L::WORDS; x += THREADS) {
      int g = x % 8, word = x / 8, lane = g * 4 + t, w = i * L::WORDS + word; u32* place = to + (w / 4 * 32 + lane) * 4 + w % 4;
      u32 bits = old % CHUNK == 0 ? 0u : *place;
      #pragma unroll
      for (int f = 0; f < L::NK; ++f)
        #pragma unroll
        for (int r = 0; r < 2; ++r) {
          int shift = bit_at<BITS>(f, r, j, e); u32 mask = ((1u << BITS) - 1u) << shift;
          bits = (bits & ~mask) | (u32)codes[(word * L::NK + f) * 16 + g + 8 * r] << shift;
        }
      *place = bits;
    }
  }
  __syncthreads();              // the displaced row has been read
  for (int d = threadIdx.x; d < D; d += THREADS) {
    kr[(size_t)bh * R * D + row + d] = k[(size_t)bh * D + d];
    ring[d] = v[(size_t)bh * D + d];
  }
}

// A full residual of K, tokens lens[b] - R .. lens[b], is quantised. grid (R / GS, Hkv, B).
template<int BITS, int GS> __global__ void __launch_bounds__(THREADS)
flush_kivi(const u16* __restrict__ kr, const int* __restrict__ lens, const int* __restrict__ bt, char* kc, char* ks, int maxp, int R) {
  KVB_SMEM(shared);
  int h = blockIdx.y, b = blockIdx.z, Hkv = gridDim.y, first = lens[b] - R + blockIdx.x * GS;
  size_t ph = (size_t)bt[(size_t)b * maxp + first / 128] * Hkv + h;
  const u16* rows = kr + ((size_t)(b * Hkv + h) * R + blockIdx.x * GS) * D;
  pack_k_group<BITS, GS>(rows, D, kc, ks, ph, first % 128 / GS, (u8*)shared);
}
