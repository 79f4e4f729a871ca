// What a kernel is given, and the sizes it is compiled for. `edges.py` fills the struct, field by
// field in its order.

#pragma once

#include <cstdint>

#include "arithmetic.h"

struct Args {
  int64_t batch, targets, sources, edges, bias_batch, blocks, threads;
  double scale, slope;
  const int32_t *indptr, *indices, *edge_id;      // by target; edge_id is null where it counts up
  const int32_t *t_indptr, *t_indices, *t_order;  // by source; t_order: index of the edge by target
  const void *q, *k, *v;                          // (B, N, H, C), (B, M, K, C), (B, M, K, Cv)
  const void *bias, *weight;                      // (1 or B, E, H), (H, C)
  const void *edge_attr, *edge_query, *edge_key;  // (E, D), (B, N, H, D), (D, H, C)
  void *out, *edge_out, *lse;                     // (B, N, H, Cv), (B, N, H, D), (B, N, H)
  const void *grad, *grad_edge_out, *grad_lse;    // (B, N, H, Cv), (B, N, H, D), (B, N, H)
  void *dq, *dk, *dv;
  void *dbias, *dweight;                          // (B, E, H), (B blocks, H, C)
  void *dedge_attr, *dedge_query, *dedge_key;     // (B, E, D), (B, N, H, D), (B blocks, D, H, C)
  void *stats, *saved;                            // (B, N, 2, H), (B, E, 1 or 2, H): room to work
};

namespace {

constexpr int64_t H = HEADS, C = CHANNELS, V = VALUES, D = FEATURES;
constexpr int64_t K = KV_HEADS, SHARE = K ? H / K : 1;  // heads of k and v, and of q that share one
constexpr int64_t width = H * C, v_width = H * V, k_width = K * C, kv_width = K * V;
constexpr bool additive = ADDITIVE, featured = D > 0;
constexpr int64_t SAVED = featured && !additive ? 2 : 1;  // ds of an edge, and p
constexpr int64_t CHUNK = 32;  // edges whose scores are normalized together
constexpr int64_t SECTION = 32 * CHUNK;  // edges summed in A, before the sum is added in double
constexpr int64_t AHEAD = 12;  // edges between asking for a row and using it

}  // namespace
