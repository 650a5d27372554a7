"""What tests/unit holds every backend of a CPU to, of Triton's kernels in its interpreter.

Threads of a CPU are no matter of kernels that run on a GPU.
"""

from __future__ import annotations

import pytest
import torch

import tdas_ops
from tests.unit import test_ops
from tests.unit.test_noise import (  # noqa: F401
    test_backends_agree,
    test_draw_counter_crosses_32_bits,
    test_draws_never_overlap,
    test_moments_and_distribution,
    test_noise_equals_the_contract,
    test_normals_equal_the_contract,
    test_seed_per_sample_makes_a_picture_again_alone,
    test_split_and_offset_change_nothing,
)
from tests.unit.test_ops import (  # noqa: F401
    test_a_part_of_a_stream_is_no_noise,
    test_a_score_of_zero_makes_no_step,
    test_float32_agrees_with_float64,
    test_half_scores_are_widened_first,
    test_non_finite_scores_stay_in_their_sample,
    test_opcheck,
    test_opcheck_normals,
    test_out_and_in_place,
    test_outputs_are_fully_written,
    test_precondition_keeps_dtype,
)

pytestmark = pytest.mark.filterwarnings("ignore:(divide by zero|invalid value):RuntimeWarning:triton")  # not taken


@pytest.fixture
def backend():
    if "triton" not in tdas_ops.backend_info()["available"]:
        pytest.skip(tdas_ops.backend_info()["missing"]["triton"])
    with tdas_ops.use_backend("triton"):
        yield "triton"


@test_ops.RUNS
@pytest.mark.parametrize(
    ("dtype", "memory_format", "options"),
    [
        (torch.float32, torch.channels_last, {}),
        (torch.bfloat16, torch.contiguous_format, {"return_mean": True}),
        (torch.float16, torch.channels_last, {"in place": True}),
    ],
    ids=["float32", "bfloat16", "float16"],
)
def test_a_second_output_is_the_first_one_rounded(backend, run, dtype, memory_format, options):
    test_ops.test_a_second_output_is_the_first_one_rounded(backend, run, dtype, memory_format, options)
