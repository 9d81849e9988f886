// What a decode step adds under H2O: the attention it paid joins the accumulated scores, and the next victim is found.
#include "kvb.cuh"

constexpr int THREADS = 256;

// scores: raw, log2 units, [(b * Hkv + h) * G + head][slots], and lse [(b * Hkv + h) * G + head], from decode_half;
// acc: [b * Hkv + h][slots]; pos: position in the text of the token in each slot, [b * Hkv + h][slots].
// A slot may be evicted when its token is older than the `recent` newest; newest[b] is the newest position.
// victims[b * Hkv + h]: the slot with the lowest score, of equals the older token; -1 where none may be evicted.
// mean: 1 / G. grid (1, Hkv, B), block 256.
extern "C" __global__ void __launch_bounds__(THREADS)
h2o_update(const float* __restrict__ scores, const float* __restrict__ lse, float* acc, const int* __restrict__ pos,
           const int* __restrict__ kept, const int* __restrict__ newest, int* victims, int G, int slots, int recent, float mean) {
  KVB_SMEM(shared);
  float* best = (float*)shared; int* best_pos = (int*)(best + THREADS); int* best_slot = best_pos + THREADS;
  int tid = threadIdx.x, b = blockIdx.z, bh = b * gridDim.y + blockIdx.y, n = kept[b], oldest_recent = newest[b] - recent + 1;
  float low = INFINITY_F; int low_pos = 0x7fffffff, low_slot = -1;
  for (int slot = tid; slot < n; slot += THREADS) {
    float mass = 0.f;
    for (int head = 0; head < G; ++head) {
      size_t row = (size_t)bh * G + head;
      mass += ex2(fminf(scores[row * slots + slot] - lse[row], 0.f));
    }
    size_t at = (size_t)bh * slots + slot;
    float sum = acc[at] + mass * mean; acc[at] = sum;
    int p = pos[at];
    if (p < oldest_recent && (sum < low || (sum == low && p < low_pos))) { low = sum; low_pos = p; low_slot = slot; }
  }
  best[tid] = low; best_pos[tid] = low_pos; best_slot[tid] = low_slot;
  __syncthreads();
  for (int half = THREADS / 2; half; half >>= 1) {
    if (tid < half) {
      int other = tid + half;
      if (best[other] < best[tid] || (best[other] == best[tid] && best_pos[other] < best_pos[tid])) {
        best[tid] = best[other]; best_pos[tid] = best_pos[other]; best_slot[tid] = best_slot[other];
      }
    }
    __syncthreads();
  }
  if (tid == 0) victims[bh] = best_slot[0];
}
