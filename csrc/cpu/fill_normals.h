// The op `normals`. One block of Philox calls at a time goes through a local buffer, so that every element comes out of
// the same instructions whatever its place in the batch.
#pragma once

#include <algorithm>

#include "kernels.h"
#include "normals.h"

namespace tdas_ops::cpu {
namespace {

TDAS_OPS_INLINE void store_interleaved(Real* to, Complexes g) {
  store_loose(to, shuffled(g.re, g.im, [](int i) { return i / 2 + i % 2 * lanes; }));
  store_loose(to + lanes, shuffled(g.re, g.im, [](int i) { return (lanes + i) / 2 + i % 2 * lanes; }));
}

// The elements of calls [quad, quad + count) of a sample, count <= quads_per_block, go to the rows they belong to:
// `rows` is row `first_row`.
void draw_block(const Draw& draw, Real* rows, int64_t first_row, int64_t quad, int64_t count, int64_t width,
                int64_t half) {
  static const LaneQuads quads(1);
  Real left[2 * quads_per_block], right[2 * quads_per_block];
  for (int start = 0; start < count; start += groups_at_once * lanes) {
    uint32_t first[groups_at_once];
    Complexes g[groups_at_once][2];
    for (int s = 0; s < groups_at_once; ++s) first[s] = static_cast<uint32_t>(quad + start + s * lanes);
    draw_normals<groups_at_once>(draw, first, quads, g);
    for (int s = 0; s < groups_at_once; ++s) {
      store_interleaved(left + 2 * (start + s * lanes), g[s][0]);
      store_interleaved(right + 2 * (start + s * lanes), g[s][1]);
    }
  }
  int64_t row = quad / half, column = quad % half;
  for (int64_t done = 0; done < count; ++row, column = 0) {
    const int64_t run = std::min(half - column, count - done), right_run = std::min(run, width - half - column);
    Real* target = rows + 2 * ((row - first_row) * width + column);
    std::memcpy(target, left + 2 * done, 2 * sizeof(Real) * run);
    if (right_run > 0) std::memcpy(target + 2 * half, right + 2 * done, 2 * sizeof(Real) * right_run);
    done += run;
  }
}

void fill_normals(const NormalsArgs& args, int64_t begin, int64_t end) {
  const int64_t quads = args.rows * args.half, blocks = normals_blocks_per_sample(args);
  for (int64_t index = begin; index < end;) {
    const int64_t sample = index / blocks, last = std::min(end, (sample + 1) * blocks);
    const Draw draw(args.seeds[args.seed_per_sample ? sample : 0],
                    args.seed_per_sample ? 0 : args.first_sample + sample, args.draw[0]);
    for (; index < last; ++index) {
      const int64_t quad = index % blocks * quads_per_block;
      draw_block(draw, args.out + 2 * sample * args.rows * args.width, 0, quad,
                 std::min<int64_t>(quads_per_block, quads - quad), args.width, args.half);
    }
  }
}

}  // namespace
}  // namespace tdas_ops::cpu
