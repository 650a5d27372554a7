"""A few cases of the campaign of bad input; `python tests/campaign.py` has hundreds."""

from __future__ import annotations

from campaign import CASES, campaign


def test_bad_input_leaves_no_traceback_and_loses_no_file():
    assert campaign(10 * len(CASES)) == []
