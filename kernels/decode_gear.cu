// Decode over a GEAR cache: KIVI's tiles, plus the low-rank term, plus outliers. K's low-rank term is one more product a tile:
// A times (B^T q), the latter made once a segment. V's rides in the product that sums the minima, as further rows, and meets B at
// the end of a segment. Outliers of a tile are scattered into a zeroed tile of shared memory, multiplied and taken out again:
// in a fixed order and on tensor cores.
#include "gear.cuh"
#include "kivi_tile.cuh"

constexpr int LISTED = 96;      // outliers of a chunk and side that are fetched ahead; what is beyond is read when needed

template<int BITS, int GS> struct Gear : Kivi<BITS, GS> {
  using L = Kivi<BITS, GS>;
  static constexpr int FACTORS = CHUNK * RANK_MAX * 2;
  static constexpr int KA = L::STAGE, VA = KA + FACTORS, KE = VA + FACTORS, VE = KE + LISTED * 4, STAGE = VE + LISTED * 4;
};

// B^T q of this segment as a B fragment: rank along k, heads along n.
KVB_DEV u32 project_query(const u16* kb, const u32 (&qb)[KS][2], int rank) {
  int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3; float c[4] = {0.f, 0.f, 0.f, 0.f};
  #pragma unroll
  for (int f = 0; f < KS; ++f) {
    u32 a[4] = {0u, 0u, 0u, 0u};
    if (g < rank) { a[0] = *(const u32*)(kb + g * D + f * 16 + 2 * t); a[2] = *(const u32*)(kb + g * D + f * 16 + 8 + 2 * t); }
    mma16816(c, a, qb[f][0], qb[f][1]);
  }
  return movm_t(pack_h2(c[0], c[1]));
}

// Ends a segment: rows 8 on of z, the sums of p A, times B.
KVB_DEV void end_segment(Acc& A, float (&z)[4], const u16* vb, int rank) {
  int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  u32 w = movm_t(pack_h2(z[2], z[3]));
  #pragma unroll
  for (int i = 0; i < KS; ++i) {
    u32 a[4] = {0u, 0u, 0u, 0u};
    if (2 * t < rank) { a[0] = *(const u32*)(vb + (i * 16 + g) * rank + 2 * t); a[1] = *(const u32*)(vb + (i * 16 + g + 8) * rank + 2 * t); }
    mma16816(A.o[i], a, w, 0u);
  }
  z[2] = z[3] = 0.f;
}

// Puts a tile's outliers into `tile`, or zeros where they were.
template<bool PUT> KVB_DEV void scatter(char* tile, const u32* near, const u32* far, u32 from, u32 count) {
  for (u32 i = threadIdx.x & 31; i < count; i += 32) {
    u32 at = from + i, x = at < LISTED ? near[at] : far[at], place = x & 0xFFFFu, row = place / D, d = place % D;
    *(u16*)(swz(tile, (int)row, (int)(d / 8)) + d % 8 * 2) = PUT ? (u16)(x >> 16) : (u16)0;
  }
}

// grid (splits + 1, Hkv, B): the last split attends to the residual. segments: [B][4 * maxp], of each chunk. q [B][Hq][D] fp16.
template<int BITS, int GS, int WARPS, int STAGES> __global__ void __launch_bounds__(WARPS * 32, 2)
decode_gear(const u16* __restrict__ q, const char* __restrict__ kc, const char* __restrict__ ks, const char* __restrict__ vc,
            const char* __restrict__ vs, const u16* __restrict__ kr, const u16* __restrict__ vr, const u16* __restrict__ ka,
            const u16* __restrict__ va, const u16* __restrict__ kb, const u16* __restrict__ vb, const u32* __restrict__ kt,
            const u32* __restrict__ vt, const u32* __restrict__ ke, const u32* __restrict__ ve, const int* __restrict__ segments,
            const int* __restrict__ bt, const int* __restrict__ lens, float* po, float* pml, u32* count, u16* out, float* lse, int G,
            int maxp, int R, int rank, int outliers, float sl2) {
  using L = Gear<BITS, GS>;
  KVB_SMEM(shared);
  int lane = threadIdx.x & 31, w = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  int h = blockIdx.y, b = blockIdx.z, Hkv = gridDim.y, bh = b * Hkv + h, len = lens[b], nq = len / R * R;
  const int* pages = bt + (size_t)b * maxp;
  u32 qb[KS][2]; load_q<Half>(qb, q + (size_t)bh * G * D, G);
  Acc A; acc_init(A);
  float z[4] = {0.f, 0.f, 0.f, 0.f}, c0[4], r[2];
  u32 qs[KS][2];
  if (blockIdx.x + 1 < gridDim.x) {
    int parts = (gridDim.x - 1) * WARPS, chunks = nq / CHUNK, per = (chunks + parts - 1) / parts;
    int first = min(((int)blockIdx.x * WARPS + w) * per, chunks), end = min(first + per, chunks), group = -1, segment = -1;
    char* mine = shared + w * (STAGES * L::STAGE); char* tile = shared + WARPS * STAGES * L::STAGE + w * (16 * D * 2);
    const uint4* k_table = (const uint4*)kt + (size_t)bh * maxp * CHUNKS; const uint4* v_table = (const uint4*)vt + (size_t)bh * maxp * CHUNKS;
    u32 ub = 0u;
    // What fetching a chunk takes: its page, its segment and, of either side, where its outliers begin and how many the two tiles
    // have. Read three chunks ahead, so that nothing in the loop waits for it.
    struct At { int page, segment; uint4 k, v; };
    auto at_of = [&](int chunk) {
      At at{0, 0, uint4{0u, 0u, 0u, 0u}, uint4{0u, 0u, 0u, 0u}};
      if (chunk < end) {
        at.page = pages[chunk / CHUNKS]; at.segment = segments[(size_t)b * maxp * CHUNKS + chunk];
        if (outliers) { at.k = k_table[chunk]; at.v = v_table[chunk]; }
      }
      return at;
    };
    auto load = [&](int chunk, const At& a, int stage) {
      if (chunk < end) {
        size_t ph = (size_t)a.page * Hkv + h, at = ph * CHUNKS + chunk % CHUNKS, of = ph * (128 / GS) + chunk % CHUNKS * CHUNK / GS;
        char* base = mine + stage * L::STAGE; char* to = base + lane * 16; int from = lane * 16;
        #pragma unroll
        for (int i = 0; i < L::CODES / 512; ++i) cp16(to + i * 512, kc + at * L::CODES + from + i * 512, 16);
        #pragma unroll
        for (int i = 0; i < L::CODES / 512; ++i) cp16(to + L::CODES + i * 512, vc + at * L::CODES + from + i * 512, 16);
        if (from < L::KSZ) cp16(to + 2 * L::CODES, ks + of * L::KSZ + from, 16);
        if (from < L::VSZ) cp16(to + 2 * L::CODES + L::KSZ, vs + at * L::VSZ + from, 16);
        int bytes = CHUNK * rank * 2;
        if (from < bytes) { cp16(to + L::KA, (const char*)ka + at * bytes + from, 16); cp16(to + L::VA, (const char*)va + at * bytes + from, 16); }
        #pragma unroll
        for (int i = 0; i < LISTED / 32; ++i) {
          u32 n = (u32)(i * 32 + lane);
          if (n < a.k.y + a.k.w) cp4(base + L::KE + n * 4, ke + a.k.x + n);
          if (n < a.v.y + a.v.w) cp4(base + L::VE + n * 4, ve + a.v.x + n);
        }
      }
      cp_commit();
    };
    for (int i = lane; i < 16 * D * 2 / 16; i += 32) ((uint4*)tile)[i] = uint4{0u, 0u, 0u, 0u};
    static_assert(STAGES == 3, "now, then and next are the chunks in flight");
    At now = at_of(first), then = at_of(first + 1), next = at_of(first + 2);
    load(first, now, 0); load(first + 1, then, 1);
    for (int chunk = first, it = 0; chunk < end; ++chunk, ++it) {
      cp_wait<STAGES - 2>(); warp_sync();
      int loading = chunk + STAGES - 1;
      load(loading, next, (it + STAGES - 1) % STAGES);
      At after = at_of(loading + 1);
      const char* st = mine + (it % STAGES) * L::STAGE; const char* ksz = st + 2 * L::CODES; const char* vsz = ksz + L::KSZ;
      int of = now.segment;
      if (of != segment) {
        if (segment >= 0) end_segment(A, z, vb + ((size_t)segment * Hkv + h) * D * rank, rank);
        segment = of; ub = project_query(kb + ((size_t)of * Hkv + h) * D * rank, qb, rank);
      }
      if (chunk * CHUNK / GS != group) { group = chunk * CHUNK / GS; k_group(ksz, qb, qs, c0); }
      float s[2][4];
      #pragma unroll
      for (int i = 0; i < 2; ++i) {
        k_tile<BITS, GS>(st, i, qs, c0, s[i]);
        const u16* rows = (const u16*)(st + L::KA) + (i * 16 + g) * rank + 2 * t; bool in = 2 * t < rank;
        u32 fa[4] = {in ? *(const u32*)rows : 0u, in ? *(const u32*)(rows + 8 * rank) : 0u, 0u, 0u};
        mma16816(s[i], fa, ub, 0u);
        u32 from = i ? now.k.y : 0u, n = i ? now.k.w : now.k.y;
        if (n) {
          scatter<true>(tile, (const u32*)(st + L::KE), ke + now.k.x, from, n); warp_sync();
          #pragma unroll
          for (int f = 0; f < KS; ++f) { u32 a[4]; ldsm4(a, swz(tile, ((lane >> 3) & 1) * 8 + (lane & 7), f * 2 + (lane >> 4))); mma16816(s[i], a, qb[f][0], qb[f][1]); }
          warp_sync(); scatter<false>(tile, (const u32*)(st + L::KE), ke + now.k.x, from, n); warp_sync();
        }
        #pragma unroll
        for (int j = 0; j < 4; ++j) s[i][j] *= sl2;
      }
      u32 pb[2][2]; softmax_step<Half, 2>(A, s, pb, r);
      z[0] *= r[0]; z[1] *= r[1]; z[2] *= r[0]; z[3] *= r[1];
      #pragma unroll
      for (int i = 0; i < 2; ++i) {
        uint2 fa = g < rank ? *(const uint2*)((const u16*)(st + L::VA) + (i * rank + g) * 16 + t * 4) : uint2{0u, 0u};
        v_tile<BITS, GS>(A, z, st + L::CODES, vsz, i, pb[i][0], pb[i][1], fa);
        u32 from = i ? now.v.y : 0u, n = i ? now.v.w : now.v.y;
        if (n) {
          scatter<true>(tile, (const u32*)(st + L::VE), ve + now.v.x, from, n); warp_sync();
          #pragma unroll
          for (int f = 0; f < KS; ++f) { u32 a[4]; ldsm4t(a, swz(tile, (lane >> 4) * 8 + (lane & 7), f * 2 + ((lane >> 3) & 1))); mma16816(A.o[f], a, pb[i][0], pb[i][1]); }
          warp_sync(); scatter<false>(tile, (const u32*)(st + L::VE), ve + now.v.x, from, n); warp_sync();
        }
      }
      now = then; then = next; next = after;
      warp_sync();
    }
    cp_wait<0>();
    if (segment >= 0) end_segment(A, z, vb + ((size_t)segment * Hkv + h) * D * rank, rank);
  } else {
    char* kt_rows = shared + w * (2 * 16 * D * 2); char* vt_rows = kt_rows + 16 * D * 2;
    for (int token = nq + w * 16; token < len; token += WARPS * 16) {
      load_ring(kt_rows, kr + (size_t)bh * R * D, token, len, R);
      load_ring(vt_rows, vr + (size_t)bh * R * D, token, len, R);
      cp_commit(); cp_wait<0>(); warp_sync();
      float s[1][4] = {{0.f, 0.f, 0.f, 0.f}};
      #pragma unroll
      for (int f = 0; f < KS; ++f) { u32 a[4]; ldsm4(a, swz(kt_rows, ((lane >> 3) & 1) * 8 + (lane & 7), f * 2 + (lane >> 4))); mma16816(s[0], a, qb[f][0], qb[f][1]); }
      #pragma unroll
      for (int j = 0; j < 4; ++j) s[0][j] = token + g + (j >> 1) * 8 < len ? s[0][j] * sl2 : NEG_INF;
      u32 pb[1][2]; softmax_step<Half, 1>(A, s, pb, r);
      #pragma unroll
      for (int f = 0; f < KS; ++f) { u32 a[4]; ldsm4t(a, swz(vt_rows, (lane >> 4) * 8 + (lane & 7), f * 2 + ((lane >> 3) & 1))); mma16816(A.o[f], a, pb[0][0], pb[0][1]); }
      warp_sync();
    }
  }
  add_minima<GS>(A, z);
  finish<WARPS>(A, shared, Merge{po, pml, count, out, lse}, G);
}
