"""`python -m tdas_ops` is `tdas-ops`."""

from tdas_ops.cli import main

if __name__ == "__main__":
    main()
