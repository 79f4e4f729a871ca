// The few operations on rows of numbers that attention is made of, and room to do them in.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "arguments.h"

namespace {

// A dot product is summed in lanes, a vector of them at most, and the lanes of many dot products
// are added up together: one by one it would cost as much as all the products.
constexpr int64_t lanes_of(int64_t size) {
  int64_t lanes = 1;
  while (lanes < size && lanes < int64_t(64 / sizeof(A))) lanes *= 2;
  return lanes;
}

// to = the lanes of x . y, for each head; `share` heads of x meet the same head of y
template <int64_t size, int64_t share = 1, class X, class Y>
inline void multiply(const X* x, const Y* all, A* to) {
  constexpr int64_t lanes = lanes_of(size);
  for (int64_t h = 0; h < H; ++h, x += size, to += lanes) {
    const Y* y = all + h / share * size;
    A part[lanes] = {};
    for (int64_t c = 0; c < size; c += lanes)
#pragma omp simd
      for (int64_t l = 0; l < std::min(lanes, size - c); ++l)
        part[l] += A(load(x[c + l])) * A(load(y[c + l]));
    std::memcpy(to, part, sizeof(part));
  }
}

// Lanes to sums, in place: neighbors are added in pairs, again and again. Works on whole blocks
// of sums, so that there must be room for them.
constexpr int64_t BLOCK = 16;
template <int64_t lanes> inline void add_lanes(A* x, int64_t sums) {
  const int64_t blocks = (sums + BLOCK - 1) / BLOCK;
  for (int64_t half = lanes / 2; half > 0; half /= 2)
    for (int64_t block = 0; block < blocks * half; ++block) {
      A* to = x + block * BLOCK;
      const A* from = x + 2 * block * BLOCK;
      A pairs[BLOCK];
      for (int64_t i = 0; i < BLOCK; ++i) pairs[i] = from[2 * i] + from[2 * i + 1];
      std::memcpy(to, pairs, sizeof(pairs));
    }
}

template <class X, class Y> inline A dot(const X* x, const Y* y, int64_t size) {
  A total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t c = 0; c < size; ++c) total += A(load(x[c])) * A(load(y[c]));
  return total;
}

template <class X> inline void add(A factor, const X* x, A* y, int64_t size) {
#pragma omp simd
  for (int64_t c = 0; c < size; ++c) y[c] += factor * A(load(x[c]));
}

template <class X> inline void write(X* to, const A* from, A factor, int64_t size) {
  for (int64_t c = 0; c < size; ++c) store(to[c], factor * from[c]);
}

// sum_h += factor_th x_th over the rows x of a chunk: four at a time, to spare the sum. A head of
// x is for `share` heads of the sum.
template <int64_t size, int64_t share = 1>
inline void combine(int64_t count, const A* factors, const T* const* rows, A* sum) {
  int64_t t = 0;
  for (; t + 4 <= count; t += 4)
    for (int64_t h = 0; h < H; ++h) {
      const A *f = factors + t * H + h, f0 = f[0], f1 = f[H], f2 = f[2 * H], f3 = f[3 * H];
      const int64_t at = h / share * size;
      const T *x0 = rows[t] + at, *x1 = rows[t + 1] + at;
      const T *x2 = rows[t + 2] + at, *x3 = rows[t + 3] + at;
      A* y = sum + h * size;
#pragma omp simd
      for (int64_t c = 0; c < size; ++c)
        y[c] += (f0 * A(load(x0[c])) + f1 * A(load(x1[c]))) +
                (f2 * A(load(x2[c])) + f3 * A(load(x3[c])));
    }
  for (; t < count; ++t)
    for (int64_t h = 0; h < H; ++h)
      add(factors[t * H + h], rows[t] + h / share * size, sum + h * size, size);
}

// Write a row of k or v: the sum over the heads that share each of its heads.
template <int64_t size> inline void write_shared(T* to, A* sum, A factor) {
  for (int64_t h = 0; SHARE > 1 && h < H; ++h) {
    A* into = sum + h / SHARE * size;
    for (int64_t c = 0; c < size; ++c)
      into[c] = h % SHARE ? into[c] + sum[h * size + c] : sum[h * size + c];
  }
  write(to, sum, factor, K * size);
}

// Sections of a long row are added up in double: a million numbers one by one lose a percent.
inline void close_section(A* part, double* total, int64_t size) {
  for (int64_t c = 0; c < size; ++c) {
    total[c] += double(part[c]);
    part[c] = 0;
  }
}
inline void add_sections(A* part, const double* total, int64_t size) {
  for (int64_t c = 0; c < size; ++c) part[c] = A(double(part[c]) + total[c]);
}

inline void prefetch(const void* row, int64_t bytes) {
  // Into the second level: the first has too little room for rows still to come.
  for (int64_t line = 0; line < bytes; line += 64)
    __builtin_prefetch((const char*)row + line, 0, 2);
}

// Room of one thread to work in, each part in whole lines of the cache.
struct Room {
  alignas(64) A scores[CHUNK * H];  // then weights p
  alignas(64) A slopes[CHUNK * H];  // ds = p (dp - delta)
  alignas(64) A lanes[CHUNK * H * std::max(lanes_of(C), lanes_of(V))];
  alignas(64) A peak[H], total[H], shift[H];
  alignas(64) A sum[width];
  alignas(64) A inner[width];  // inside LeakyReLU
  alignas(64) A value_sum[v_width];
  alignas(64) A edge_sum[H * D + 1];
  // The same of the sections before, for long rows.
  double long_total[H], long_sum[width], long_value_sum[v_width], long_edge_sum[H * D + 1];
  // Gradients of the weights of additive scores, over all edges of a block.
  alignas(64) A weight_sum[width];
  alignas(64) A key_sum[D * width + 1];
  double long_weight_sum[width], long_key_sum[D * width + 1];
};

}  // namespace
