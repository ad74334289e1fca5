"""One file per model family, each reading like its paper; `registry.py` finds the family of a
checkpoint.
"""
