// The kernels of planes of SIMT_HEIGHT x SIMT_WIDTH that take tickets, beside the passes of large_library.cpp. Blocks
// run at once.
#include <cstdio>

#define SIMT_THREADS
#define SIMT_TICKETS SIMT_HEIGHT, SIMT_WIDTH
#define SIMT_TICKET_KINDS SIMT_KINDS(SIMT_HEIGHT, SIMT_WIDTH)
#include "large_library.cpp"

namespace {

int update_in_tickets(const tdas_ops::cuda::UpdateArgs& args, int multiprocessors) {
  using namespace tdas_ops::cuda;
  if (!has_ticket_kernel(args)) return cudaErrorInvalidValue;
  const int64_t ring = ring_planes(args.height, args.width, multiprocessors);
  const OwnScratch own(args, 1, std::min(ring, args.batch * args.channels));
  return update_in_tickets(args, own.scratch, multiprocessors, nullptr);
}

}  // namespace

extern "C" int simt_update_in_tickets(const tdas_ops::cuda::UpdateArgs* args, int multiprocessors) {
  return update_in_tickets(*args, multiprocessors);
}

#ifdef SIMT_MAIN
// batch, multiprocessors: x + d M M^T v + n M z in place, for the thread sanitizer.
int main(int, char** arguments) {
  tdas_ops::cuda::UpdateArgs args = {};
  args.filter = tdas_ops::Filter::drift;
  args.batch = std::atoll(arguments[1]);
  args.channels = 1;
  args.height = SIMT_HEIGHT;
  args.width = SIMT_WIDTH;
  const int64_t plane = args.height * args.width, seed = 7, draw = 3;
  std::vector<float> x(args.batch * plane, 1.0f), v(x);
  const std::vector<float> freq(args.height * (args.width / 2 + 1), 1.0f);
  const auto field = [&](auto* data) {
    return tdas_ops::FieldOf<std::remove_pointer_t<decltype(data)>>{
        data, tdas_ops::Element::float32, {plane, plane, args.width, 1}};
  };
  args.out = field(static_cast<void*>(x.data()));
  args.base = tdas_ops::constant(args.out);
  args.v = field(static_cast<const void*>(v.data()));
  args.masks.freq = freq.data();
  args.d.number = args.n.number = 0.5f;
  args.seeds = &seed;
  args.draw = &draw;
  const int status = update_in_tickets(args, std::atoi(arguments[2]));
  if (status != cudaSuccess) std::fprintf(stderr, "%s\n", simt_error());
  return status;
}
#endif
