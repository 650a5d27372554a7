"""Quality against network evaluations, restoration, figures of calibration: programs that stand above the package."""
