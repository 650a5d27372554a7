"""Puts the repository root on the path, so that benchmarks and tests share the baselines."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
