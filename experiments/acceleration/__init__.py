"""Quality against iterations on trained networks; README.md has the commands."""
