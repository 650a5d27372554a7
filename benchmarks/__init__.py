"""Measurements of the package. A package of this name that is installed elsewhere would win over a mere folder."""
