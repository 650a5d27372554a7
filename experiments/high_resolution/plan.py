"""Which pictures are made, in which order."""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"
COUNTS = {256: 4, 512: 2, 1024: 1}
FIRST = (
    ("dpmpp", "colour"),
    ("dpmpp", "white"),
    ("dpmpp", "mean"),
    ("dpmpp", "channels"),
    ("ancestral", "colour"),
    ("ancestral covariance=0.5", "colour"),
    ("ancestral covariance=1", "colour"),
    ("ancestral covariance=error", "colour"),
    ("ancestral covariance=1", "mean"),
    ("none", "colour"),
)
LARGE = (
    ("dpmpp", "colour"),
    ("ancestral covariance=0.5", "colour"),
    ("ancestral covariance=error", "colour"),
    ("ancestral", "colour"),
    ("dpmpp", "mean"),
    ("ancestral covariance=1", "mean"),
)
MORE = (
    ("dpmpp eta=1", "colour"),
    ("dpmpp eta=1 covariance=0.5", "colour"),
    ("dpmpp eta=0.5", "colour"),
    ("dpmpp lowest=2", "colour"),
    ("dpmpp lowest=10", "colour"),
    ("ancestral covariance=0.3", "colour"),
    ("ancestral lowest=2 covariance=0.5", "colour"),
    ("ancestral lowest=10 covariance=0.5", "colour"),
    ("ancestral noise=0.9 covariance=0.5", "colour"),
    ("ancestral covariance=error", "mean"),
)


def plan() -> list[tuple[int, int, str, str]]:
    """Size, evaluations, method, start: what says most comes first."""
    order = [(256, 8, FIRST), (1024, 8, LARGE[:3]), (512, 8, LARGE[:3]), (256, 20, FIRST), (256, 8, MORE)]
    order += [(1024, 8, LARGE), (512, 8, LARGE), (512, 20, LARGE), (1024, 20, LARGE), (256, 20, MORE)]
    rows = [(size, evaluations, method, start) for size, evaluations, rows in order for method, start in rows]
    return list(dict.fromkeys(rows))
