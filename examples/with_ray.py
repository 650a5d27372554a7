"""The same under Ray: one actor a GPU, which gets the environment of torchrun; files go to a folder that all see.

pip install tdas-ops ray
python examples/with_ray.py /shared/samples 8
"""

import os
import sys

import ray
from with_torchrun import sample


@ray.remote(num_gpus=1)
def run(rank, size, address, folder):
    names = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": 0, "MASTER_ADDR": address, "MASTER_PORT": 29500}
    os.environ.update({name: str(value) for name, value in names.items()})
    sample(folder)


def launch(folder, size):
    # All on the machine of the head node; on several, rank 0 has to run at this address.
    ray.get([run.remote(rank, size, ray.util.get_node_ip_address(), folder) for rank in range(size)])


if __name__ == "__main__":
    ray.init()
    launch(sys.argv[1], int(sys.argv[2]))
