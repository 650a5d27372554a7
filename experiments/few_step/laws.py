"""What laws of starts are worth without any network: `python -m experiments.few_step.laws NETWORK --data FOLDER`."""

from __future__ import annotations

import argparse

import torch

from experiments.few_step.evaluate import SAMPLES, SEEDS, Judge, add_network, load
from experiments.few_step.methods import start_law
from tdas_ops import NoiseStream, calibrate

SIGMA = 1e-3  # of the noise on what is drawn, which no figure shows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_network(parser)
    network = load(parser.parse_args())
    torch.set_num_threads(1)
    judge = Judge(network)
    for name in ("pca", "mixture"):
        drawn = calibrate.start(start_law(network, name), SIGMA, (SAMPLES, *network.data.shape), NoiseStream(SEEDS[0]))
        print(f"{network.name}, {name}: {judge(network.decode(drawn))}")


if __name__ == "__main__":
    main()
