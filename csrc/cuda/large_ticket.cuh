// The passes over large planes of one update (large.cuh) in one launch. Blocks stay on the device and take tickets, the
// tiles of all passes of all planes, in an order in which whatever a tile needs comes before it: step t of the order
// has the rows of plane t, the columns of plane t - a, and the inverse rows of plane t - b. Spectra lie in a ring of
// planes: plane p overwrites plane p - ring. A block waits until the tiles that its own needs are done, and takes its
// next ticket before it does, so that this has come by then. Of all tiles that are not done, the first in the order
// waits for none, and its block has done what it took before: some block always goes on, however many there are.
//
// How far the passes lie apart, and with that the ring, is a matter of time alone: every one of N blocks on the device
// works on a ticket, and on the next one as much later as it took that one later, so that a tile waits for none that is
// N tickets before it, if all take as long. A step has 3 T tickets, T tiles a pass. Around the ring, from the rows of a
// plane to those of the plane that overwrites it, there are 3 T ring tickets less the 3 T of the passes themselves, to
// be shared out in proportion to what each pass takes; the columns take about as long as both others together.
#pragma once

#include "large.cuh"

namespace tdas_ops::cuda {

// Which tickets there are: those of planes 0 .. planes - 1, of passes 0 .. passes - 1, the last two of which are
// columns and inverse rows. Of 2^log_tiles tiles each.
struct TicketOrder {
  uint32_t planes;
  uint32_t ring;     // planes of the scratch
  uint32_t lags[3];  // steps by which each pass comes after the first
  int passes, log_tiles;
};

struct TicketWork {
  LargeWork large;
  TicketOrder order;
  uint32_t* counters;  // tickets taken; then tiles done on every plane of the ring: zeros at first
};

// What a block knows of its ticket, in shared memory: it is read anew where it is needed, instead of holding registers.
struct Ticket {
  uint32_t pass;  // 0, 1, 2: rows, columns, inverse rows; 3: there is none left
  uint32_t tile, slot;
  uint32_t step, units;  // of the order; passes of planes in all steps before
  uint32_t next;         // its number in the order, taken ahead
};

struct TicketPlace {
  const volatile Ticket* ticket;

  static TDAS_OPS_DEVICE int thread() { return thread_index(); }
  TDAS_OPS_DEVICE uint32_t tile() const { return ticket->tile; }
  TDAS_OPS_DEVICE uint32_t slot(uint32_t) const { return ticket->slot; }
};

// Turns to the ticket that was taken ahead, takes one more, and waits until the tile can be worked on. One thread of a
// block; `ticket` is its last one.
TDAS_OPS_DEVICE void take(const TicketWork& work, volatile Ticket* ticket) {
  const TicketOrder& order = work.order;
  const auto there = [&](int pass, uint32_t step) { return step - order.lags[pass] < order.planes; };
  const uint32_t number = ticket->next, unit = number >> order.log_tiles;
  const uint32_t next = atomicAdd(work.counters, 1u);  // on its way while the tile is waited for
  uint32_t step = ticket->step, units = ticket->units;
  int pass = 0;
  for (;;) {
    if (step == order.planes + order.lags[order.passes - 1]) {
      ticket->pass = 3;
      return;
    }
    if (there(pass, step) && units++ == unit) break;
    if (++pass == order.passes) {
      pass = 0;
      ++step;
    }
  }
  const uint32_t plane = step - order.lags[pass], round = plane / order.ring, slot = plane - round * order.ring;
  ticket->pass = pass + 3 - order.passes;
  ticket->tile = plane << order.log_tiles | (number & ((1u << order.log_tiles) - 1));
  ticket->slot = slot;
  ticket->step = step;
  for (int before = 0; before < pass; ++before) units -= there(before, step);
  ticket->units = units - 1;
  // All passes of the planes that had this place in the ring, and the passes before this one.
  const uint32_t needed = (round * order.passes + pass) << order.log_tiles;
  wait_until(work.counters + 1 + slot, needed);
  ticket->next = next;
}

template <int H, int W>
struct TicketShape {
  static constexpr int tiles = H * W / (large_block * 64);  // of a pass over a plane
  static_assert(tiles > 0, "a tile is within one plane");
  static constexpr int lines_bytes = RowShape<W>::shared_bytes > ColumnShape<H>::shared_bytes
                                         ? RowShape<W>::shared_bytes
                                         : ColumnShape<H>::shared_bytes;
  static constexpr int shared_bytes = lines_bytes + static_cast<int>(sizeof(Ticket));
};

template <int H, int W, Kind kind>
__global__ void __launch_bounds__(large_block, large_blocks) ticket_kernel(TicketWork work) {
  TDAS_OPS_SHARED(float, shared);
  volatile Ticket* const ticket = reinterpret_cast<Ticket*>(shared + TicketShape<H, W>::lines_bytes / 4);
  if (thread_index() == 0) {
    ticket->step = 0;
    ticket->units = 0;
    ticket->next = atomicAdd(work.counters, 1u);
  }
  for (;;) {
    if (thread_index() == 0) take(work, ticket);
    __syncthreads();
    const TicketPlace place{ticket};
    switch (ticket->pass) {
      case 0:
        if constexpr (kind != Kind::noise) pass_rows<W, Pass::forward>(work.large, shared, place);
        break;
      case 1:
        pass_columns<H, kind>(work.large, shared, place);
        break;
      case 2:
        pass_rows<W, Pass::inverse>(work.large, shared, place);
        break;
      default:
        return;
    }
    __syncthreads();
    if (thread_index() == 0) add_release(work.counters + 1 + ticket->slot);
  }
}

// The kernels of planes of one size. Those of 1024 x 1024 are compiled.
struct TicketKernels {
  int height, width, shared_bytes;
  void (*kernels[3])(TicketWork);  // of the kinds drift, skewed_drift and noise
};

template <int H, int W>
constexpr TicketKernels ticket_kernels() {
  return {
      H,
      W,
      TicketShape<H, W>::shared_bytes,
      {ticket_kernel<H, W, Kind::drift>, ticket_kernel<H, W, Kind::skewed_drift>, ticket_kernel<H, W, Kind::noise>}};
}

extern const TicketKernels ticket_sizes[1];

}  // namespace tdas_ops::cuda
