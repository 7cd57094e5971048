"""A training run in a folder: settings, recipe, checkpoints, and networks read back from them."""
