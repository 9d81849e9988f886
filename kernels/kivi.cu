// Decode over a KIVI cache. The blocks of the last split attend to what is not wholly quantised: K's residual of L mod R
// tokens, V's of the last R, and between them tokens whose K is quantised while their V is not.
#include "kivi_tile.cuh"

// grid (splits + 1, Hkv, B). nk = L / R * R tokens of K are quantised and nv = max(L - R, 0) of V. q [B][Hq][D] fp16.
template<int BITS, int GS, int WARPS, int STAGES> __global__ void __launch_bounds__(WARPS * 32)
decode_kivi(const u16* __restrict__ q, const char* __restrict__ kc, const char* __restrict__ ks, const char* __restrict__ vc,
            const char* __restrict__ vs, const u16* __restrict__ kr, const u16* __restrict__ vr, const int* __restrict__ bt,
            const int* __restrict__ lens, float* po, float* pml, u32* count, u16* out, float* lse, int G, int maxp, int R, float sl2) {
  using L = Kivi<BITS, GS>;
  KVB_SMEM(shared);
  int lane = threadIdx.x & 31, w = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  int h = blockIdx.y, b = blockIdx.z, Hkv = gridDim.y, bh = b * Hkv + h, len = lens[b], nk = len / R * R, nv = max(len - R, 0);
  const int* pages = bt + (size_t)b * maxp;
  u32 qb[KS][2]; load_q<Half>(qb, q + (size_t)bh * G * D, G);
  Acc A; acc_init(A);
  float z[4] = {0.f, 0.f, 0.f, 0.f}, c0[4], r[2];
  u32 qs[KS][2];
  if (blockIdx.x + 1 < gridDim.x) {
    int parts = (gridDim.x - 1) * WARPS, chunks = nv / CHUNK, per = (chunks + parts - 1) / parts;
    int first = min(((int)blockIdx.x * WARPS + w) * per, chunks), end = min(first + per, chunks), group = -1;
    char* mine = shared + w * (STAGES * L::STAGE);
    auto page_of = [&](int chunk) { return chunk < end ? pages[chunk / CHUNKS] : 0; };
    auto load = [&](int chunk, int page, int stage) {
      if (chunk < end) {
        size_t ph = (size_t)page * Hkv + h, at = ph * CHUNKS + chunk % CHUNKS, of = ph * (128 / GS) + chunk % CHUNKS * CHUNK / GS;
        char* to = mine + stage * L::STAGE + lane * 16; int from = lane * 16;
        #pragma unroll
        for (int i = 0; i < L::CODES / 512; ++i) cp16(to + i * 512, kc + at * L::CODES + from + i * 512, 16);
        #pragma unroll
        for (int i = 0; i < L::CODES / 512; ++i) cp16(to + L::CODES + i * 512, vc + at * L::CODES + from + i * 512, 16);
        if (from < L::KSZ) cp16(to + 2 * L::CODES, ks + of * L::KSZ + from, 16);
        if (from < L::VSZ) cp16(to + 2 * L::CODES + L::KSZ, vs + at * L::VSZ + from, 16);
      }
      cp_commit();
    };
    #pragma unroll
    for (int i = 0; i < STAGES - 1; ++i) load(first + i, page_of(first + i), i);
    int page = page_of(first + STAGES - 1);
    for (int chunk = first, it = 0; chunk < end; ++chunk, ++it) {
      cp_wait<STAGES - 2>(); warp_sync();
      int loading = chunk + STAGES - 1;
      load(loading, page, (it + STAGES - 1) % STAGES);
      page = page_of(loading + 1);
      const char* kb = mine + (it % STAGES) * L::STAGE; const char* vb = kb + L::CODES;
      const char* ksz = vb + L::CODES; const char* vsz = ksz + L::KSZ;
      if (chunk * CHUNK / GS != group) { group = chunk * CHUNK / GS; k_group(ksz, qb, qs, c0); }
      float s[2][4];
      #pragma unroll
      for (int i = 0; i < 2; ++i) {
        k_tile<BITS, GS>(kb, i, qs, c0, s[i]);
        #pragma unroll
        for (int j = 0; j < 4; ++j) s[i][j] *= sl2;
      }
      u32 pb[2][2]; softmax_step<Half, 2>(A, s, pb, r);
      z[0] *= r[0]; z[1] *= r[1];
      #pragma unroll
      for (int i = 0; i < 2; ++i) v_tile<BITS, GS>(A, z, vb, vsz, i, pb[i][0], pb[i][1]);
      warp_sync();
    }
    cp_wait<0>();
  } else {
    char* kb = shared + w * (2 * 16 * D * 2); char* vb = kb + 16 * D * 2;
    for (int token = nv / CHUNK * CHUNK + w * 16; token < len; token += WARPS * 16) {
      bool k_codes = token < nk, v_codes = token < nv, v_rows = token + 16 > nv;
      int chunk = token / CHUNK, i = token / 16 % 2; size_t ph = (size_t)(k_codes || v_codes ? pages[chunk / CHUNKS] : 0) * Hkv + h, at = ph * CHUNKS + chunk % CHUNKS;
      if (!k_codes) load_ring(kb, kr + (size_t)bh * R * D, token, len, R);
      if (v_rows) load_ring(vb, vr + (size_t)bh * R * D, token, len, R);
      cp_commit();
      float s[1][4] = {{0.f, 0.f, 0.f, 0.f}};
      if (k_codes) {
        k_group(ks + (ph * (128 / GS) + chunk % CHUNKS * CHUNK / GS) * L::KSZ, qb, qs, c0);
        k_tile<BITS, GS>(kc + at * L::CODES, i, qs, c0, s[0]);
      }
      cp_wait<0>(); warp_sync();
      if (!k_codes) {
        #pragma unroll
        for (int k = 0; k < KS; ++k) { u32 a[4]; ldsm4(a, swz(kb, ((lane >> 3) & 1) * 8 + (lane & 7), k * 2 + (lane >> 4))); mma16816(s[0], a, qb[k][0], qb[k][1]); }
      }
      #pragma unroll
      for (int j = 0; j < 4; ++j) s[0][j] = token + g + (j >> 1) * 8 < len ? s[0][j] * sl2 : NEG_INF;
      u32 pb[1][2]; softmax_step<Half, 1>(A, s, pb, r);
      z[0] *= r[0]; z[1] *= r[1];
      int k0 = token + 2 * t, k1 = k0 + 8;
      if (v_codes) v_tile<BITS, GS>(A, z, vc + at * L::CODES, vs + at * L::VSZ, i, pb[0][0] & among(k0, 0, nv), pb[0][1] & among(k1, 0, nv));
      if (v_rows) {
        u32 p0 = pb[0][0] & among(k0, nv, len), p1 = pb[0][1] & among(k1, nv, len);
        #pragma unroll
        for (int f = 0; f < KS; ++f) { u32 a[4]; ldsm4t(a, swz(vb, (lane >> 4) * 8 + (lane & 7), f * 2 + ((lane >> 3) & 1))); mma16816(A.o[f], a, p0, p1); }
      }
      warp_sync();
    }
  }
  add_minima<GS>(A, z);
  finish<WARPS>(A, shared, Merge{po, pml, count, out, lse}, G);
}
