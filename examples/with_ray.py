"""What with_torchrun.py does, under Ray: an actor a GPU with the environment of torchrun, and a folder that all see.

pip install . ray
python examples/with_ray.py /shared/samples 8
"""

import os
import sys

import ray
from with_torchrun import sample


@ray.remote(num_gpus=1)
def run(rank, size, host, folder):
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK="0", MASTER_ADDR=host, MASTER_PORT="29500")
    sample(folder)


def launch(folder, size):
    # All on the machine of the head node; on several, rank 0 has to run at this address.
    ray.get([run.remote(rank, size, ray.util.get_node_ip_address(), folder) for rank in range(size)])


if __name__ == "__main__":
    len(sys.argv) == 3 or sys.exit(__doc__)
    launch(sys.argv[1], int(sys.argv[2]))
