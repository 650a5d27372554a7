"""Quality against network evaluations; see README.md."""
