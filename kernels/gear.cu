// Compressing under GEAR: outliers, quantisation, a power iteration on what is left, and the lists and factors that decoding
// reads. One side (K or V) at a time; `rows` are fp16 [row][D], `mask` has a bit a value: [row][D / 16].
#include "gear.cuh"
#include "kivi_pack.cuh"

KVB_DEV size_t row_of(const Job& j, int h, int token) { return (size_t)j.base + (size_t)h * j.stride + token; }
// fp16 bits in the order of the numbers.
KVB_DEV u32 ordered16(u16 b) { return b & 0x8000u ? (u32)(u16)~b : (u32)b | 0x8000u; }

// The `count` largest and smallest of a vector, found eight bits of their order at a time. Histograms live in shared memory.
struct Ends { u32 top, bottom; int top_ties, bottom_ties; };  // values at the border, and how many of them are taken
// First digit from the top (or bottom) at which `left` are reached; `left` becomes the rank within it.
KVB_DEV u32 digit_from_top(const u32* histogram, int stride, int& left) {
  u32 digit = 255u;
  while ((int)histogram[digit * stride] < left) { left -= (int)histogram[digit * stride]; --digit; }
  return digit;
}
KVB_DEV u32 digit_from_bottom(const u32* histogram, int stride, int& left) {
  u32 digit = 0u;
  while ((int)histogram[digit * stride] < left) { left -= (int)histogram[digit * stride]; ++digit; }
  return digit;
}
KVB_DEV bool is_end(u32 key, const Ends& e, int& top_before, int& bottom_before) {
  bool top = key > e.top, bottom = key < e.bottom;
  if (key == e.top) top = top_before++ < e.top_ties;
  if (key == e.bottom) bottom = bottom_before++ < e.bottom_ties;
  return top || bottom;
}

constexpr int CHANNELS = 16, PARTS = 16, OUT_THREADS = CHANNELS * PARTS;

// Outliers of K: of each channel over the n tokens. means: [B * Hkv][D]. grid (D / 16, Hkv, B), block 256: 16 channels, each
// by 16 threads that have a run of tokens each, so that of equals the earlier are taken.
extern "C" __global__ void __launch_bounds__(OUT_THREADS)
gear_outliers_k(const u16* __restrict__ rows, const Job* __restrict__ jobs, u16* mask, float* means) {
  KVB_SMEM(shared);
  u32* histogram = (u32*)shared; u32* second = histogram + 256 * CHANNELS; u32* border = second + 256 * CHANNELS;
  int* ties = (int*)(border + 4 * CHANNELS); float* sums = (float*)(ties + 2 * OUT_THREADS);
  int tid = threadIdx.x, c = tid % CHANNELS, part = tid / CHANNELS, h = blockIdx.y, b = blockIdx.z; Job j = jobs[b];
  int channel = blockIdx.x * CHANNELS + c, per = (j.n + PARTS - 1) / PARTS, from = min(part * per, j.n), end = min(from + per, j.n);
  if (j.n == 0) return;
  const u16* column = rows + row_of(j, h, 0) * D + channel;
  for (int i = tid; i < 2 * 256 * CHANNELS; i += OUT_THREADS) histogram[i] = 0u;
  __syncthreads();
  float sum = 0.f;
  for (int n = from; n < end; ++n) {
    u16 x = column[(size_t)n * D]; sum += h2f(x);
    if (j.keys) atomic_add(histogram + (ordered16(x) >> 8) * CHANNELS + c, 1u);
  }
  sums[tid] = sum;
  __syncthreads();
  if (part == 0) {
    float all = 0.f;
    for (int i = 0; i < PARTS; ++i) all += sums[i * CHANNELS + c];
    means[(size_t)(b * gridDim.y + h) * D + channel] = all / (float)j.n;
    if (j.keys) {
      int top = j.keys, bottom = j.keys;
      border[c] = digit_from_top(histogram + c, CHANNELS, top) << 8; border[CHANNELS + c] = digit_from_bottom(histogram + c, CHANNELS, bottom) << 8;
      border[2 * CHANNELS + c] = (u32)top; border[3 * CHANNELS + c] = (u32)bottom;
    }
  }
  __syncthreads();
  Ends e{0u, 0u, 0, 0}; int top_before = 0, bottom_before = 0;
  if (j.keys) {
    u32 top_digit = border[c] >> 8, bottom_digit = border[CHANNELS + c] >> 8;
    for (int i = tid; i < 2 * 256 * CHANNELS; i += OUT_THREADS) histogram[i] = 0u;
    __syncthreads();
    for (int n = from; n < end; ++n) {
      u32 key = ordered16(column[(size_t)n * D]);
      if (key >> 8 == top_digit) atomic_add(histogram + (key & 255u) * CHANNELS + c, 1u);
      if (key >> 8 == bottom_digit) atomic_add(second + (key & 255u) * CHANNELS + c, 1u);
    }
    __syncthreads();
    if (part == 0) {
      int top = (int)border[2 * CHANNELS + c], bottom = (int)border[3 * CHANNELS + c];
      border[c] |= digit_from_top(histogram + c, CHANNELS, top); border[CHANNELS + c] |= digit_from_bottom(second + c, CHANNELS, bottom);
      border[2 * CHANNELS + c] = (u32)top; border[3 * CHANNELS + c] = (u32)bottom;
    }
    __syncthreads();
    e = Ends{border[c], border[CHANNELS + c], (int)border[2 * CHANNELS + c], (int)border[3 * CHANNELS + c]};
    int top = 0, bottom = 0;
    for (int n = from; n < end; ++n) { u32 key = ordered16(column[(size_t)n * D]); top += key == e.top; bottom += key == e.bottom; }
    ties[tid] = top; ties[OUT_THREADS + tid] = bottom;
    __syncthreads();
    for (int i = 0; i < part; ++i) { top_before += ties[i * CHANNELS + c]; bottom_before += ties[OUT_THREADS + i * CHANNELS + c]; }
  }
  for (int n = from; n < from + per; ++n) {     // as many rounds for every thread: the warp votes
    bool out = n < end && j.keys && is_end(ordered16(column[(size_t)n * D]), e, top_before, bottom_before);
    u32 votes = ballot(out);
    if (c == 0 && n < end) mask[row_of(j, h, n) * (D / 16) + blockIdx.x] = (u16)(votes >> (part % 2 * 16));
  }
}

// Outliers of V: of each token over the width of the layer, head after head. means: [base / Hkv + token].
// grid (longest n, 1, B), block 256: each thread has a run of the vector. width: Hkv * D.
extern "C" __global__ void __launch_bounds__(OUT_THREADS)
gear_outliers_v(const u16* __restrict__ rows, const Job* __restrict__ jobs, u16* mask, float* means, int heads) {
  KVB_SMEM(shared);
  u32* histogram = (u32*)shared; u32* second = histogram + 256; u32* border = second + 256; int* ties = (int*)(border + 4);
  float* sums = (float*)(ties + 2 * OUT_THREADS); u32* bits = (u32*)(sums + OUT_THREADS);
  int tid = threadIdx.x, b = blockIdx.z, token = blockIdx.x; Job j = jobs[b];
  if (token >= j.n) return;
  int width = heads * D, per = (width + OUT_THREADS - 1) / OUT_THREADS, from = min(tid * per, width), end = min(from + per, width);
  auto at = [&](int i) { return rows[row_of(j, i / D, token) * D + i % D]; };
  histogram[tid] = 0u; second[tid] = 0u;
  for (int i = tid; i < width / 16; i += OUT_THREADS) bits[i] = 0u;
  __syncthreads();
  float sum = 0.f;
  for (int i = from; i < end; ++i) { u16 x = at(i); sum += h2f(x); if (j.values) atomic_add(histogram + (ordered16(x) >> 8), 1u); }
  sums[tid] = sum;
  __syncthreads();
  if (tid == 0) {
    float all = 0.f;
    for (int i = 0; i < OUT_THREADS; ++i) all += sums[i];
    means[j.base / heads + token] = all / (float)width;
    if (j.values) {
      int top = j.values, bottom = j.values;
      border[0] = digit_from_top(histogram, 1, top) << 8; border[1] = digit_from_bottom(histogram, 1, bottom) << 8;
      border[2] = (u32)top; border[3] = (u32)bottom;
    }
  }
  __syncthreads();
  if (j.values) {
    u32 top_digit = border[0] >> 8, bottom_digit = border[1] >> 8;
    histogram[tid] = 0u;
    __syncthreads();
    for (int i = from; i < end; ++i) {
      u32 key = ordered16(at(i));
      if (key >> 8 == top_digit) atomic_add(histogram + (key & 255u), 1u);
      if (key >> 8 == bottom_digit) atomic_add(second + (key & 255u), 1u);
    }
    __syncthreads();
    if (tid == 0) {
      int top = (int)border[2], bottom = (int)border[3];
      border[0] |= digit_from_top(histogram, 1, top); border[1] |= digit_from_bottom(second, 1, bottom);
      border[2] = (u32)top; border[3] = (u32)bottom;
    }
    __syncthreads();
    Ends e{border[0], border[1], (int)border[2], (int)border[3]};
    int top = 0, bottom = 0, top_before = 0, bottom_before = 0;
    for (int i = from; i < end; ++i) { u32 key = ordered16(at(i)); top += key == e.top; bottom += key == e.bottom; }
    ties[tid] = top; ties[OUT_THREADS + tid] = bottom;
    __syncthreads();
    for (int i = 0; i < tid; ++i) { top_before += ties[i]; bottom_before += ties[OUT_THREADS + i]; }
    for (int i = from; i < end; ++i)
      if (is_end(ordered16(at(i)), e, top_before, bottom_before)) atomic_add(bits + i / 16, 1u << i % 16);
  }
  __syncthreads();
  for (int i = tid; i < width / 16; i += OUT_THREADS) mask[row_of(j, i / (D / 16), token) * (D / 16) + i % (D / 16)] = (u16)bits[i];
}

KVB_DEV bool masked(const u16* mask, size_t row, int d) { return mask[row * (D / 16) + d / 16] >> d % 16 & 1; }

// K of one group: outliers count as the channel's mean. error: [row][D], what quantising left of each value, outliers included.
// grid (groups of the longest, Hkv, B).
template<int BITS, int GS> __global__ void __launch_bounds__(THREADS, 4)
gear_pack_k(const u16* __restrict__ rows, const Job* __restrict__ jobs, const u16* __restrict__ mask, const float* __restrict__ means,
            const int* __restrict__ bt, char* kc, char* ks, u16* error, int maxp) {
  using L = Kivi<BITS, GS>;
  KVB_SMEM(shared);
  u8* codes = (u8*)shared;
  int h = blockIdx.y, b = blockIdx.z, Hkv = gridDim.y, from = blockIdx.x * GS; Job j = jobs[b];
  if (from >= j.n) return;
  int to = j.first + from; size_t ph = (size_t)bt[(size_t)b * maxp + to / 128] * Hkv + h, row = row_of(j, h, from);
  u16* scales = (u16*)(ks + (ph * (128 / GS) + to % 128 / GS) * L::KSZ);
  Affine a{0, 0};
  auto value = [&](int n, int d) { return masked(mask, row + n, d) ? means[(size_t)(b * Hkv + h) * D + d] : h2f(rows[(row + n) * D + d]); };
  int d = threadIdx.x;          // D is at most the number of threads
  if (d < D) {
    float lo = INFINITY_F, hi = NEG_INF;
    for (int n = 0; n < GS; ++n) { float x = value(n, d); lo = fminf(lo, x); hi = fmaxf(hi, x); }
    a = affine<BITS>(lo, hi);
    scales[channel_at(d)] = a.scale; scales[D + channel_at(d)] = a.low;
  }
  for (int tile = 0; tile < GS / 16; ++tile) {
    if (d < D)
      for (int n = 0; n < 16; ++n) {
        u32 q = code<BITS>(value(tile * 16 + n, d), a); size_t at = (row + tile * 16 + n) * D + d;
        codes[n * D + d] = (u8)q;
        error[at] = f2h(h2f(rows[at]) - ((float)q * h2f(a.scale) + h2f(a.low)));
      }
    __syncthreads();
    int chunk = to % 128 / CHUNK + tile / 2;
    write_words<BITS, GS, false>(codes, (u32*)(kc + (ph * CHUNKS + chunk) * L::CODES), tile % 2);
    __syncthreads();
  }
}

// V of one chunk. grid (chunks of the longest, Hkv, B).
template<int BITS, int GS> __global__ void __launch_bounds__(THREADS, 4)
gear_pack_v(const u16* __restrict__ rows, const Job* __restrict__ jobs, const u16* __restrict__ mask, const float* __restrict__ means,
            const int* __restrict__ bt, char* vc, char* vs, u16* error, int maxp) {
  using L = Kivi<BITS, GS>;
  KVB_SMEM(shared);
  u8* codes = (u8*)shared;
  int h = blockIdx.y, b = blockIdx.z, Hkv = gridDim.y, from = blockIdx.x * CHUNK; Job j = jobs[b];
  if (from >= j.n) return;
  int to = j.first + from; size_t at = ((size_t)bt[(size_t)b * maxp + to / 128] * Hkv + h) * CHUNKS + to % 128 / CHUNK;
  u16* scales = (u16*)(vs + at * L::VSZ);
  for (int i = 0; i < 2; ++i) {
    for (int x = threadIdx.x; x < 16 * L::DG; x += THREADS) {
      int n = x / L::DG, dg = x % L::DG; size_t row = row_of(j, h, from + i * 16 + n); float mean = means[j.base / Hkv + from + i * 16 + n];
      auto value = [&](int d) { return masked(mask, row, d) ? mean : h2f(rows[row * D + d]); };
      float lo = INFINITY_F, hi = NEG_INF;
      for (int d = dg * GS; d < (dg + 1) * GS; ++d) { float y = value(d); lo = fminf(lo, y); hi = fmaxf(hi, y); }
      Affine a = affine<BITS>(lo, hi);
      for (int d = dg * GS; d < (dg + 1) * GS; ++d) {
        u32 q = code<BITS>(value(d), a);
        codes[n * D + d] = (u8)q;
        error[row * D + d] = f2h(h2f(rows[row * D + d]) - ((float)q * h2f(a.scale) + h2f(a.low)));
      }
      int place = (i * L::DG + dg) * 16 + token_at(n);
      scales[place] = a.scale; scales[2 * L::DG * 16 + place] = a.low;
    }
    __syncthreads();
    write_words<BITS, GS, true>(codes, (u32*)(vc + at * L::CODES), i);
    __syncthreads();
  }
}

// How many outliers each tile has, to table [B * Hkv][stride]{start, count}. grid (tiles of the longest, Hkv, B), block 32.
extern "C" __global__ void gear_counts(const Job* __restrict__ jobs, const u16* __restrict__ mask, u32* table, int stride) {
  int lane = threadIdx.x & 31, h = blockIdx.y, b = blockIdx.z, from = blockIdx.x * 16; Job j = jobs[b];
  if (from >= j.n) return;
  const u16* words = mask + row_of(j, h, from) * (D / 16); u32 n = 0u;      // 16 rows of D / 16 words lie in a row
  #pragma unroll
  for (int i = 0; i < D / 32; ++i) n += popcount((u32)words[i * 32 + lane]);
  #pragma unroll
  for (int m = 16; m; m >>= 1) n += shx_u32(n, m);
  if (lane == 0) table[((size_t)(b * gridDim.y + h) * stride + (j.first + from) / 16) * 2 + 1] = n;
}

// Where the outliers of each tile begin, from the counts. is_v picks the side's first entry. grid (1, 1, B), block 256: each
// thread has a run of the (head, tile) pairs.
extern "C" __global__ void __launch_bounds__(OUT_THREADS)
gear_offsets(const Job* __restrict__ jobs, u32* table, int heads, int stride, int is_v) {
  KVB_SMEM(shared);
  u32* sums = (u32*)shared;
  int tid = threadIdx.x, b = blockIdx.z; Job j = jobs[b];
  int tiles = j.n / 16, all = heads * tiles, per = (all + OUT_THREADS - 1) / OUT_THREADS, from = min(tid * per, all), end = min(from + per, all);
  auto place = [&](int i) { return ((size_t)(b * heads + i / tiles) * stride + j.first / 16 + i % tiles) * 2; };
  u32 sum = 0u;
  for (int i = from; i < end; ++i) sum += table[place(i) + 1];
  sums[tid] = sum;
  __syncthreads();
  u32 start = (u32)(is_v ? j.value_at : j.key_at);
  for (int i = 0; i < tid; ++i) start += sums[i];
  for (int i = from; i < end; ++i) { table[place(i)] = start; start += table[place(i) + 1]; }
}

// Writes a tile's outliers and takes them out of the error. grid (tiles of the longest, Hkv, B), block 32.
extern "C" __global__ void gear_entries(const Job* __restrict__ jobs, const u16* __restrict__ mask, const u32* __restrict__ table, u16* error,
                                        u32* entries, int stride) {
  int lane = threadIdx.x & 31, h = blockIdx.y, b = blockIdx.z, Hkv = gridDim.y, from = blockIdx.x * 16; Job j = jobs[b];
  if (from >= j.n) return;
  u32 at = table[((size_t)(b * Hkv + h) * stride + (j.first + from) / 16) * 2];
  for (int n = 0; n < 16; ++n) {
    size_t row = row_of(j, h, from + n);
    #pragma unroll
    for (int i = 0; i < D / 32; ++i) {
      int d = i * 32 + lane; bool out = masked(mask, row, d); u32 votes = ballot(out);
      if (out) {
        entries[at + popcount(votes & ((1u << lane) - 1u))] = (u32)(n * D + d) | (u32)error[row * D + d] << 16;
        error[row * D + d] = 0;
      }
      at += popcount(votes);
    }
  }
}

// One round of the power iteration over the rows of a block: next = E^T (E P). In the last round also q = E P of each row and
// the products of its columns. p: [D][RANK], p_stride apart a head (0: the same for all). partial: [B * Hkv][S][D * RANK + RANK
// * RANK]. q: [row][RANK]. grid (S, Hkv, B), block 128, a warp a row; lane l has channels 64 * i + 2 * l and the next.
template<int RANK> __global__ void __launch_bounds__(THREADS, 4)
gear_power(const u16* __restrict__ error, const Job* __restrict__ jobs, const float* __restrict__ p, float* partial, float* q, int p_stride, int last) {
  constexpr int PART = D * RANK + RANK * RANK, PAIRS = (RANK * RANK + 31) / 32;
  KVB_SMEM(shared);
  float* sums = (float*)shared;
  int lane = threadIdx.x & 31, w = threadIdx.x >> 5, h = blockIdx.y, b = blockIdx.z, bh = b * gridDim.y + h; Job j = jobs[b];
  float column[D / 32][RANK], next[D / 32][RANK], gram[PAIRS];
  auto channel = [&](int i) { return i / 2 * 64 + 2 * lane + i % 2; };
  #pragma unroll
  for (int i = 0; i < D / 32; ++i)
    #pragma unroll
    for (int r = 0; r < RANK; ++r) { column[i][r] = p[(size_t)bh * p_stride + channel(i) * RANK + r]; next[i][r] = 0.f; }
  #pragma unroll
  for (int i = 0; i < PAIRS; ++i) gram[i] = 0.f;
  for (int n = blockIdx.x * 4 + w; n < j.n; n += gridDim.x * 4) {
    size_t row = row_of(j, h, n); float e[D / 32], y[RANK];
    #pragma unroll
    for (int i = 0; i < D / 64; ++i) {
      u32 pair = *(const u32*)(error + row * D + i * 64 + 2 * lane);
      e[2 * i] = h2f((u16)pair); e[2 * i + 1] = h2f((u16)(pair >> 16));
    }
    #pragma unroll
    for (int r = 0; r < RANK; ++r) {
      y[r] = 0.f;
      #pragma unroll
      for (int i = 0; i < D / 32; ++i) y[r] += e[i] * column[i][r];
      #pragma unroll
      for (int m = 16; m; m >>= 1) y[r] += shx(y[r], m);
      #pragma unroll
      for (int i = 0; i < D / 32; ++i) next[i][r] += e[i] * y[r];
    }
    if (last) {
      #pragma unroll
      for (int r = 0; r < RANK; ++r) if (lane == r) q[row * RANK + r] = y[r];
      #pragma unroll
      for (int i = 0; i < PAIRS; ++i) {
        int pair = i * 32 + lane; float a = 0.f, c = 0.f;
        #pragma unroll
        for (int r = 0; r < RANK; ++r) { if (pair / RANK == r) a = y[r]; if (pair % RANK == r) c = y[r]; }
        gram[i] += a * c;
      }
    }
  }
  for (int turn = 0; turn < 4; ++turn) {        // the warps add up in order
    if (w == turn) {
      #pragma unroll
      for (int i = 0; i < D / 32; ++i)
        #pragma unroll
        for (int r = 0; r < RANK; ++r) { int at = channel(i) * RANK + r; sums[at] = turn ? sums[at] + next[i][r] : next[i][r]; }
      #pragma unroll
      for (int i = 0; i < PAIRS; ++i) { int at = D * RANK + i * 32 + lane; if (i * 32 + lane < RANK * RANK) sums[at] = turn ? sums[at] + gram[i] : gram[i]; }
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < PART; i += THREADS) partial[((size_t)bh * gridDim.x + blockIdx.x) * PART + i] = sums[i];
}

// A direction whose square is this much smaller than before the others were taken out of it counts as none.
constexpr float DEPENDENT = 1e-5f;

// Sum over the block of D values, one a thread.
KVB_DEV float block_sum(float x, float* scratch) {
  #pragma unroll
  for (int m = 16; m; m >>= 1) x += shx(x, m);
  __syncthreads();
  if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = x;
  __syncthreads();
  float sum = 0.f;
  for (int i = 0; i < THREADS / 32; ++i) sum += scratch[i];
  return sum;
}

// Adds up the blocks' parts. Rounds but the last: orthonormal columns to p. The last: with the upper triangle R of Q = A R, from the
// products of Q's columns, B = next R^-1 (to `b`, b_stride apart a segment-and-head, transposed or not) and R^-1 itself to `inverse`
// [B * Hkv][RANK][RANK]. rank: the stride of b. grid (1, Hkv, B), block 128.
template<int RANK> __global__ void __launch_bounds__(THREADS, 4)
gear_reduce(const float* __restrict__ partial, float* p, float* inverse, u16* b, int parts, int last, int segment, int rank, int transposed) {
  constexpr int PART = D * RANK + RANK * RANK;
  KVB_SMEM(shared);
  float* gram = (float*)shared; float* inv = gram + RANK * RANK; float* scratch = inv + RANK * RANK;
  int d = threadIdx.x, bh = blockIdx.z * gridDim.y + blockIdx.y; const float* mine = partial + (size_t)bh * parts * PART;
  float x[RANK];
  #pragma unroll
  for (int r = 0; r < RANK; ++r) {
    x[r] = 0.f;
    if (d < D) for (int s = 0; s < parts; ++s) x[r] += mine[(size_t)s * PART + d * RANK + r];
  }
  if (!last) {
    #pragma unroll
    for (int r = 0; r < RANK; ++r) {
      float before = block_sum(x[r] * x[r], scratch);
      #pragma unroll
      for (int twice = 0; twice < 2; ++twice)
        #pragma unroll
        for (int i = 0; i < r; ++i) x[r] -= x[i] * block_sum(x[i] * x[r], scratch);
      float length = block_sum(x[r] * x[r], scratch);
      x[r] = length > DEPENDENT * before ? x[r] / sqrtf(length) : 0.f;
      if (d < D) p[(size_t)bh * D * RANK + d * RANK + r] = x[r];
    }
    return;
  }
  for (int i = d; i < RANK * RANK; i += THREADS) {
    float sum = 0.f;
    for (int s = 0; s < parts; ++s) sum += mine[(size_t)s * PART + D * RANK + i];
    gram[i] = sum; inv[i] = 0.f;
  }
  __syncthreads();
  if (d == 0) {                 // gram = R^T R, then R^-1 column by column
    float R[RANK][RANK];
    for (int i = 0; i < RANK; ++i) {
      float pivot = gram[i * RANK + i];
      for (int k = 0; k < i; ++k) pivot -= R[k][i] * R[k][i];
      bool none = !(pivot > DEPENDENT * gram[i * RANK + i]);
      R[i][i] = none ? 0.f : sqrtf(pivot);
      for (int c = i + 1; c < RANK; ++c) {
        float y = gram[i * RANK + c];
        for (int k = 0; k < i; ++k) y -= R[k][i] * R[k][c];
        R[i][c] = none ? 0.f : y / R[i][i];
      }
    }
    for (int c = 0; c < RANK; ++c)
      for (int i = c; i >= 0; --i) {
        float y = i == c ? 1.f : 0.f;
        for (int k = i + 1; k <= c; ++k) y -= R[i][k] * inv[k * RANK + c];
        inv[i * RANK + c] = R[i][i] > 0.f && R[c][c] > 0.f ? y / R[i][i] : 0.f;
      }
  }
  __syncthreads();
  for (int i = d; i < RANK * RANK; i += THREADS) inverse[(size_t)bh * RANK * RANK + i] = inv[i];
  u16* to = b + ((size_t)segment * gridDim.y * gridDim.z + bh) * D * rank;
  if (d < D)
    for (int c = 0; c < rank; ++c) {
      float y = 0.f;
      if (c < RANK)
        #pragma unroll
        for (int i = 0; i < RANK; ++i) y += x[i] * inv[i * RANK + c];
      to[transposed ? c * D + d : d * rank + c] = f2h(y);
    }
}

// A = Q R^-1, to the pages. grid (tokens of the longest over 128, Hkv, B), block 128. rank: the stride of A.
template<int RANK> __global__ void __launch_bounds__(THREADS, 4)
gear_factors(const Job* __restrict__ jobs, const float* __restrict__ q, const float* __restrict__ inverse, const int* __restrict__ bt, u16* a,
             int maxp, int rank, int is_v) {
  int h = blockIdx.y, b = blockIdx.z, Hkv = gridDim.y, n = blockIdx.x * THREADS + threadIdx.x; Job j = jobs[b];
  if (n >= j.n) return;
  int token = j.first + n; const float* inv = inverse + (size_t)(b * Hkv + h) * RANK * RANK; const float* y = q + row_of(j, h, n) * RANK;
  u16* page = a + ((size_t)bt[(size_t)b * maxp + token / 128] * Hkv + h) * 128 * rank;
  for (int c = 0; c < rank; ++c) {
    float x = 0.f;
    if (c < RANK) for (int i = 0; i <= c; ++i) x += y[i] * inv[i * RANK + c];
    page[is_v ? (token % 128 / 16 * rank + c) * 16 + token_at(token % 16) : token % 128 * rank + c] = f2h(x);
  }
}

// A token at position lens[b] joins the residuals. k, v: [B][Hkv][D]. grid (1, Hkv, B), block 128.
extern "C" __global__ void __launch_bounds__(THREADS)
append_gear(const u16* __restrict__ k, const u16* __restrict__ v, const int* __restrict__ lens, u16* kr, u16* vr, int R) {
  size_t bh = (size_t)blockIdx.z * gridDim.y + blockIdx.y, row = (bh * R + lens[blockIdx.z] % R) * D; int d = threadIdx.x;
  if (d < D) { kr[row + d] = k[bh * D + d]; vr[row + d] = v[bh * D + d]; }
}
