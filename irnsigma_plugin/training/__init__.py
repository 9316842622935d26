"""What BasicSR runs: the model, its step, its data, its validation."""

import basicsr  # noqa: F401  first, so that registration finds no module of ours half imported
