#include "large_ticket.cuh"

namespace tdas_ops::cuda {

const TicketKernels ticket_sizes[1] = {ticket_kernels<1024, 1024>()};

}  // namespace tdas_ops::cuda
