"""Weight formats that store less than 16 bits a value: one module per format, each with its
reference dequantization.

Not for reading files (checkpoints/) and not for fast matrix products (kernels/).
"""
