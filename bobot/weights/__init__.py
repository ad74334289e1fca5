"""Make a model real: join a family's definition with the tensors of a checkpoint."""
