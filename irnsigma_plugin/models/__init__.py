import basicsr  # noqa: F401  first, so that registration finds no module of ours half imported
