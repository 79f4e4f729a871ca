// What one thread does with some rows: the arithmetic of attention along their edges.
//
// A row of q, k, v or of a gradient is gathered whole, all heads at once, and prefetched some
// edges before it is needed. Each row of a result is summed in the order of its edges.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>

#include "rows.h"

namespace {

// What one thread needs for some rows of one batch entry.
class Worker {
  const Args& a;
  const int64_t b;
  const T* const q = at<T>(a.q, a.targets * width);
  const T* const k = at<T>(a.k, a.sources * k_width);
  const T* const v = at<T>(a.v, a.sources * kv_width);
  const T* const grad = at<T>(a.grad, a.targets * v_width);
  const A* const bias = at<A>(a.bias, a.bias_batch > 1 ? a.edges * H : 0);
  const A* const weight = (const A*)a.weight;
  const A* const edge_attr = (const A*)a.edge_attr;
  const A* const edge_key = (const A*)a.edge_key;
  const A* const edge_query = at<A>(a.edge_query, a.targets * H * D);
  const A* const grad_edge_out = at<A>(a.grad_edge_out, a.targets * H * D);
  const A* const grad_lse = at<A>(a.grad_lse, a.targets * H);
  T* const out = at<T>(a.out, a.targets * v_width);
  A* const edge_out = at<A>(a.edge_out, a.targets * H * D);
  A* const lse = at<A>(a.lse, a.targets * H);
  A* const stats = at<A>(a.stats, a.targets * 2 * H);
  A* const saved = at<A>(a.saved, a.edges * SAVED * H);
  A* const dbias = at<A>(a.dbias, a.edges * H);
  A* const dedge_attr = at<A>(a.dedge_attr, a.edges * D);
  const A scale = A(a.scale), slope = A(a.slope);

  const std::unique_ptr<Room> room = std::make_unique<Room>();
  A *const scores = room->scores, *const slopes = room->slopes, *const lanes = room->lanes;
  A *const peak = room->peak, *const total = room->total, *const shift = room->shift;
  A *const sum = room->sum, *const inner = room->inner, *const value_sum = room->value_sum;
  A* const edge_sum = room->edge_sum;
  bool is_long = false;  // whether the row has several sections
  const T *rows[CHUNK], *value_rows[CHUNK];

  template <class X> X* at(const void* data, int64_t stride) const {
    return data ? (X*)data + b * stride : nullptr;
  }
  int64_t id(int64_t e) const { return a.edge_id ? a.edge_id[e] : e; }

  // inner = q_i + k_j + W f_e
  void add_up(const T* qi, const T* kj, int64_t e) {
    const A* f = edge_attr + id(e) * D;
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) {
      A x = A(load(qi[c])) + A(load(kj[c]));
      for (int64_t d = 0; d < D; ++d) x += f[d] * edge_key[d * width + c];
      inner[c] = x;
    }
  }
  A leaky(A x) const { return x > 0 ? x : slope * x; }
  A leaky_slope(A x) const { return x > 0 ? A(1) : slope; }

  // Lanes of the scores of edge e from source j to target i, of the chunk's edge t.
  void multiply_for_score(const T* qi, const T* kj, int64_t e, int64_t t) {
    constexpr int64_t size = lanes_of(C);
    A* to = lanes + t * H * size;
    if (!additive) return multiply<C, SHARE>(qi, kj, to);
    add_up(qi, kj, e);
    for (int64_t c = 0; c < width; ++c) inner[c] = leaky(inner[c]);
    multiply<C>(weight, inner, to);
  }

  // Scores of a chunk from their lanes; target(t) and edge(t) are those of its edge t.
  template <class Target, class Edge>
  void complete_scores(int64_t count, Target target, Edge edge) {
    add_lanes<lanes_of(C)>(lanes, count * H);
    for (int64_t x = 0; x < count * H; ++x) scores[x] = scale * lanes[x];
    for (int64_t t = 0; featured && !additive && t < count; ++t)
      for (int64_t h = 0; h < H; ++h)
        scores[t * H + h] += scale * dot(edge_query + (target(t) * H + h) * D,
                                         edge_attr + id(edge(t)) * D, D);
    for (int64_t t = 0; bias && t < count; ++t)
      for (int64_t h = 0; h < H; ++h) scores[t * H + h] += bias[id(edge(t)) * H + h];
  }

  void ask_for_terms(int64_t e) {
    if (featured && a.edge_id) prefetch(edge_attr + id(e) * D, D * sizeof(A));
    if (bias && a.edge_id) prefetch(bias + id(e) * H, H * sizeof(A));
  }

  // The rows of k and v at edge e by target, and a word to memory about one to come.
  void gather_sources(int64_t e, int64_t t) {
    if (e + AHEAD < a.edges) {
      const int64_t next = a.indices[e + AHEAD];
      prefetch(k + next * k_width, k_width * sizeof(T));
      if (k != v) prefetch(v + next * kv_width, kv_width * sizeof(T));
      ask_for_terms(e + AHEAD);
    }
    rows[t] = k + int64_t(a.indices[e]) * k_width;
    value_rows[t] = v + int64_t(a.indices[e]) * kv_width;
  }

  void begin_row(int64_t edges) {
    std::fill_n(total, H, A(0));
    std::fill_n(sum, width, A(0));
    std::fill_n(value_sum, v_width, A(0));
    std::fill_n(edge_sum, H * D, A(0));
    is_long = edges > SECTION;
    if (!is_long) return;
    std::fill_n(room->long_total, H, 0.0);
    std::fill_n(room->long_sum, width, 0.0);
    std::fill_n(room->long_value_sum, v_width, 0.0);
    std::fill_n(room->long_edge_sum, H * D, 0.0);
  }
  // After the edges up to `next` of a row.
  void end_chunk(int64_t next) {
    if (!is_long || next % SECTION) return;
    close_section(total, room->long_total, H);
    close_section(sum, room->long_sum, width);
    close_section(value_sum, room->long_value_sum, v_width);
    close_section(edge_sum, room->long_edge_sum, H * D);
  }
  void end_row() {
    if (!is_long) return;
    add_sections(total, room->long_total, H);
    add_sections(sum, room->long_sum, width);
    add_sections(value_sum, room->long_value_sum, v_width);
    add_sections(edge_sum, room->long_edge_sum, H * D);
  }
  void rescale_sections(int64_t h, double factor) {
    room->long_total[h] *= factor;
    for (int64_t c = h * V; c < (h + 1) * V; ++c) room->long_value_sum[c] *= factor;
    for (int64_t d = h * D; d < (h + 1) * D; ++d) room->long_edge_sum[d] *= factor;
  }

  // Weights exp(score - peak) of a chunk; what was summed before is brought to the new peak.
  void weigh(int64_t count) {
    A highest[H];
    std::copy_n(peak, H, highest);
    for (int64_t t = 0; t < count; ++t)
      for (int64_t h = 0; h < H; ++h) highest[h] = std::max(highest[h], scores[t * H + h]);
    for (int64_t h = 0; h < H; ++h) {
      shift[h] = highest[h] == -infinity ? A(0) : highest[h];
      if (peak[h] == -infinity || highest[h] == peak[h]) continue;
      const A factor = exponential(peak[h] - shift[h]);
      total[h] *= factor;
      for (int64_t c = h * V; c < (h + 1) * V; ++c) value_sum[c] *= factor;
      for (int64_t d = h * D; d < (h + 1) * D; ++d) edge_sum[d] *= factor;
      if (is_long) rescale_sections(h, factor);
    }
    std::copy_n(highest, H, peak);
    for (int64_t t = 0; t < count; ++t)
      for (int64_t h = 0; h < H; ++h) scores[t * H + h] -= shift[h];
#pragma omp simd
    for (int64_t x = 0; x < count * H; ++x) scores[x] = exponential(scores[x]);
    for (int64_t t = 0; t < count; ++t)
      for (int64_t h = 0; h < H; ++h) total[h] += scores[t * H + h];
  }

  // The rows of q and of the gradient at edge x by source, and a word about one to come.
  void gather_targets(int64_t x, int64_t t) {
    if (x + AHEAD < a.edges) {
      const int64_t next = a.t_indices[x + AHEAD], e = a.t_order[x + AHEAD];
      prefetch(q + next * width, width * sizeof(T));
      prefetch(grad + next * v_width, v_width * sizeof(T));
      prefetch(stats + next * 2 * H, 2 * H * sizeof(A));
      __builtin_prefetch(saved + e * SAVED * H, 1, 2);  // to be written
      ask_for_terms(e);
    }
    rows[t] = q + int64_t(a.t_indices[x]) * width;
    value_rows[t] = grad + int64_t(a.t_indices[x]) * v_width;
  }

  // p = exp(score - lse) and ds = p (dp - delta) of a chunk of the edges from source j.
  void weigh_backward(int64_t j, int64_t first, int64_t count) {
    for (int64_t t = 0; t < count; ++t)
      multiply_for_score(rows[t], k + j * k_width, a.t_order[first + t], t);
    complete_scores(
        count, [&](int64_t t) { return a.t_indices[first + t]; },
        [&](int64_t t) { return a.t_order[first + t]; });
    for (int64_t t = 0; t < count; ++t)
      multiply<V, SHARE>(value_rows[t], v + j * kv_width, lanes + t * H * lanes_of(V));
    add_lanes<lanes_of(V)>(lanes, count * H);
    for (int64_t t = 0; t < count; ++t) {
      const int64_t i = a.t_indices[first + t], e = a.t_order[first + t];
      const A *lse_i = stats + i * 2 * H, *delta_i = lse_i + H;
      for (int64_t h = 0; h < H; ++h) {
        A dp = lanes[t * H + h];
        if (featured && !additive)
          dp += dot(grad_edge_out + (i * H + h) * D, edge_attr + id(e) * D, D);
        slopes[t * H + h] = dp - delta_i[h];
        scores[t * H + h] -= lse_i[h];
      }
    }
#pragma omp simd
    for (int64_t x = 0; x < count * H; ++x) {
      scores[x] = exponential(scores[x]);
      slopes[x] *= scores[x];
    }
    for (int64_t t = 0; t < count; ++t) {
      A* to = saved + a.t_order[first + t] * SAVED * H;
      std::copy_n(slopes + t * H, H, to);
      if (SAVED > 1) std::copy_n(scores + t * H, H, to + H);
    }
  }

  // Gradients of weights are summed over all rows of a block, in sections as long rows are.
  void begin_block() {
    std::fill_n(room->weight_sum, width, A(0));
    std::fill_n(room->key_sum, D * width, A(0));
    std::fill_n(room->long_weight_sum, width, 0.0);
    std::fill_n(room->long_key_sum, D * width, 0.0);
  }
  void end_section() {
    close_section(room->weight_sum, room->long_weight_sum, width);
    close_section(room->key_sum, room->long_key_sum, D * width);
  }
  void end_block(int64_t block) {
    end_section();
    const int64_t part = b * a.blocks + block;
    A *const dweight = (A*)a.dweight + part * width, *const dkey = (A*)a.dedge_key + part * D * width;
    for (int64_t c = 0; c < width; ++c) dweight[c] = A(room->long_weight_sum[c]);
    for (int64_t c = 0; c < D * width; ++c) dkey[c] = A(room->long_key_sum[c]);
  }

  // Dot product: what an edge gives to its features, if that is wanted, and they to the query.
  void features_backward(int64_t i, int64_t e, const A* p, const A* ds) {
    for (int64_t h = 0; h < H; ++h) add(ds[h], edge_attr + id(e) * D, edge_sum + h * D, D);
    if (!dedge_attr) return;
    A* df = dedge_attr + id(e) * D;
    std::fill_n(df, D, A(0));
    for (int64_t h = 0; h < H; ++h) {
      add(scale * ds[h], edge_query + (i * H + h) * D, df, D);
      add(p[h], grad_edge_out + (i * H + h) * D, df, D);
    }
  }

  void additive_backward(int64_t i, int64_t e, const T* kj, const A* ds) {
    A *const dweight = room->weight_sum, *const dkey = room->key_sum;
    add_up(q + i * width, kj, e);
    for (int64_t h = 0; h < H; ++h)
#pragma omp simd
      for (int64_t c = h * C; c < (h + 1) * C; ++c) {
        dweight[c] += scale * ds[h] * leaky(inner[c]);
        inner[c] = ds[h] * weight[c] * leaky_slope(inner[c]);
        sum[c] += inner[c];
      }
    if (featured)
      for (int64_t d = 0; d < D; ++d) {
        if (dedge_attr) dedge_attr[id(e) * D + d] = scale * dot(edge_key + d * width, inner, width);
        add(scale * edge_attr[id(e) * D + d], inner, dkey + d * width, width);
      }
  }

 public:
  Worker(const Args& args, int64_t batch) : a(args), b(batch) {}

  void forward(int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::fill_n(peak, H, -infinity);
      begin_row(a.indptr[i + 1] - a.indptr[i]);
      for (int64_t e = a.indptr[i]; e < a.indptr[i + 1]; e += CHUNK) {
        const int64_t count = std::min<int64_t>(CHUNK, a.indptr[i + 1] - e);
        for (int64_t t = 0; t < count; ++t) {
          gather_sources(e + t, t);
          multiply_for_score(q + i * width, rows[t], e + t, t);
        }
        complete_scores(count, [&](int64_t) { return i; }, [&](int64_t t) { return e + t; });
        weigh(count);
        combine<V, SHARE>(count, scores, value_rows, value_sum);
        for (int64_t t = 0; featured && !additive && t < count; ++t)
          for (int64_t h = 0; h < H; ++h)
            add(scores[t * H + h], edge_attr + id(e + t) * D, edge_sum + h * D, D);
        end_chunk(e + count - a.indptr[i]);
      }
      end_row();
      for (int64_t h = 0; h < H; ++h) {
        const A factor = total[h] == 0 ? A(0) : 1 / total[h];
        write(out + (i * H + h) * V, value_sum + h * V, factor, V);
        if (featured && !additive) write(edge_out + (i * H + h) * D, edge_sum + h * D, factor, D);
        lse[i * H + h] = peak[h] + std::log(total[h]);
      }
    }
  }

  // What sources must know of each target: log-sum-exp, and delta = do . o + du . u - dlse.
  void describe_targets(int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += CHUNK) {
      const int64_t count = std::min<int64_t>(CHUNK, end - first);
      // In the order that `weigh_backward` adds in: of one neighbor, dp - delta is 0 exactly.
      for (int64_t t = 0; t < count; ++t)
        multiply<V>(grad + (first + t) * v_width, out + (first + t) * v_width,
                    lanes + t * H * lanes_of(V));
      add_lanes<lanes_of(V)>(lanes, count * H);
      for (int64_t x = 0; x < count * H; ++x) {
        const int64_t ih = first * H + x;
        A delta = lanes[x];
        if (featured && !additive) delta += dot(grad_edge_out + ih * D, edge_out + ih * D, D);
        if (grad_lse) delta -= grad_lse[ih];
        A* to = stats + ih / H * 2 * H + ih % H;
        to[0] = lse[ih] == -infinity ? infinity : lse[ih];  // so that all weights are 0
        to[H] = delta;
      }
    }
  }

  // dk and dv; leaves ds of each edge, and p where features need it, for the targets.
  void backward_sources(int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      begin_row(a.t_indptr[j + 1] - a.t_indptr[j]);
      for (int64_t first = a.t_indptr[j]; first < a.t_indptr[j + 1]; first += CHUNK) {
        const int64_t count = std::min<int64_t>(CHUNK, a.t_indptr[j + 1] - first);
        for (int64_t t = 0; t < count; ++t) gather_targets(first + t, t);
        weigh_backward(j, first, count);
        combine<V>(count, scores, value_rows, value_sum);
        if (!additive) combine<C>(count, slopes, rows, sum);
        for (int64_t t = 0; additive && t < count; ++t) {
          add_up(rows[t], k + j * k_width, a.t_order[first + t]);
          for (int64_t h = 0; h < H; ++h)
#pragma omp simd
            for (int64_t c = h * C; c < (h + 1) * C; ++c)
              sum[c] += slopes[t * H + h] * weight[c] * leaky_slope(inner[c]);
        }
        end_chunk(first + count - a.t_indptr[j]);
      }
      end_row();
      write_shared<C>(at<T>(a.dk, a.sources * k_width) + j * k_width, sum, scale);
      write_shared<V>(at<T>(a.dv, a.sources * kv_width) + j * kv_width, value_sum, A(1));
    }
  }

  // dq, and all that is counted by edges.
  void backward_targets(int64_t begin, int64_t end, int64_t block) {
    int64_t in_section = 0;
    if (additive) begin_block();
    for (int64_t i = begin; i < end; ++i) {
      begin_row(a.indptr[i + 1] - a.indptr[i]);
      for (int64_t e = a.indptr[i]; e < a.indptr[i + 1]; e += CHUNK) {
        const int64_t count = std::min<int64_t>(CHUNK, a.indptr[i + 1] - e);
        for (int64_t t = 0; t < count; ++t) take_saved(e + t, t);
        if (!additive) combine<C, SHARE>(count, slopes, rows, sum);
        for (int64_t t = 0; additive && t < count; ++t)
          additive_backward(i, e + t, rows[t], slopes + t * H);
        if (additive && (in_section += count) >= SECTION) {
          end_section();
          in_section = 0;
        }
        for (int64_t t = 0; featured && !additive && t < count; ++t)
          features_backward(i, e + t, scores + t * H, slopes + t * H);
        end_chunk(e + count - a.indptr[i]);
      }
      end_row();
      write(at<T>(a.dq, a.targets * width) + i * width, sum, scale, width);
      if (featured && !additive)
        write(at<A>(a.dedge_query, a.targets * H * D) + i * H * D, edge_sum, scale, H * D);
    }
    if (additive) end_block(block);
  }

 private:
  // The row of k at edge e by target, and what the sources left there.
  void take_saved(int64_t e, int64_t t) {
    if (e + AHEAD < a.edges) {
      prefetch(k + int64_t(a.indices[e + AHEAD]) * k_width, k_width * sizeof(T));
      if (featured && a.edge_id) prefetch(edge_attr + id(e + AHEAD) * D, D * sizeof(A));
    }
    rows[t] = k + int64_t(a.indices[e]) * k_width;
    const A* from = saved + e * SAVED * H;
    std::copy_n(from, H, slopes + t * H);
    if (SAVED > 1) std::copy_n(from + H, H, scores + t * H);
    if (dbias) std::copy_n(from, H, dbias + id(e) * H);
  }
};

}  // namespace
