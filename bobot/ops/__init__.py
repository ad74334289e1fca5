"""Pure functions on tensors: the torch reference of every operation the models are made of."""
