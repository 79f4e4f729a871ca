// Attention along the edges of a graph, forward and backward, on a CPU.
//
// Edges come by target (CSR) and, for the backward pass, by source (CSC). Each row of a result
// is summed by one thread, see `worker.h`, and sums over rows go by blocks that do not depend on
// the threads: the result is the same on every run and for any number of threads.
//
// Compiled for one kind of call: SCALAR (float, double or bf16), HEADS, KV_HEADS, CHANNELS,
// VALUES, FEATURES (of an edge, or 0) and ADDITIVE are given to the compiler, so that loops have
// lengths it knows. The file knows nothing of PyTorch: one struct of sizes and pointers comes in by a C
// interface. `edges.py` fills the struct, field by field in its order.

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "worker.h"

namespace {

// First row of a block; blocks are equal in edges and rows together.
int64_t first_row(const int32_t* indptr, int64_t rows, int64_t block, int64_t blocks) {
  const int64_t wanted = (indptr[rows] + 4 * rows) * block / blocks;
  int64_t low = 0, high = rows;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (indptr[middle] + 4 * middle < wanted) low = middle + 1;
    else high = middle;
  }
  return low;
}

template <class Work>
void for_blocks(const Args& a, const int32_t* indptr, int64_t rows, Work work) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(a.threads)
  for (int64_t task = 0; task < a.batch * a.blocks; ++task) {
    const int64_t block = task % a.blocks;
    Worker worker(a, task / a.blocks);
    work(worker, first_row(indptr, rows, block, a.blocks),
         first_row(indptr, rows, block + 1, a.blocks), block);
  }
}

// Have a large array that is still to be written lie in pages of 2 MB, and have them cleared at
// once: each first touch of a page of 4 KB costs as much as attention along an edge, and clearing
// pages between edges several times as much as clearing them in a row.
void prepare(void* data, int64_t bytes, int64_t threads) {
#ifdef __linux__
  constexpr uintptr_t page = 2 << 20;
  const uintptr_t begin = (uintptr_t(data) + page - 1) / page * page;
  const uintptr_t end = (uintptr_t(data) + bytes) / page * page;
  if (!data || end <= begin) return;
  madvise((void*)begin, end - begin, MADV_HUGEPAGE);
#pragma omp parallel for num_threads(threads)
  for (uintptr_t at = begin; at < end; at += page) *(volatile char*)at = 0;
#endif
}

}  // namespace

extern "C" {

// So that the caller can tell whether the struct is still the same.
int attend_size_of_args() { return sizeof(Args); }

void attend_forward(const Args* a) {
  prepare(a->out, a->batch * a->targets * v_width * sizeof(T), a->threads);
  for_blocks(*a, a->indptr, a->targets, [](Worker& worker, int64_t begin, int64_t end, int64_t) {
    worker.forward(begin, end);
  });
}

void attend_backward(const Args* a) {
  prepare(a->dq, a->batch * a->targets * width * sizeof(T), a->threads);
  prepare(a->dk, a->batch * a->sources * k_width * sizeof(T), a->threads);
  prepare(a->dv, a->batch * a->sources * kv_width * sizeof(T), a->threads);
  prepare(a->saved, a->batch * a->edges * SAVED * H * sizeof(A), a->threads);
  for_blocks(*a, a->indptr, a->targets, [](Worker& worker, int64_t begin, int64_t end, int64_t) {
    worker.describe_targets(begin, end);
  });
  for_blocks(*a, a->t_indptr, a->sources, [](Worker& worker, int64_t begin, int64_t end, int64_t) {
    worker.backward_sources(begin, end);
  });
  for_blocks(*a, a->indptr, a->targets, [](Worker& worker, int64_t begin, int64_t end, int64_t n) {
    worker.backward_targets(begin, end, n);
  });
}
}
