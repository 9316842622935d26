"""The commands of `irnsigma`, one module each."""
