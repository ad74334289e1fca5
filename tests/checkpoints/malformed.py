"""All malformed and hostile weight files, made on the fly: one function per file.

Each function writes into an empty folder and returns what to open. A pickle that would run leaves
a file named `canary` in that folder.
"""

from malformed_gguf import GGUFS
from malformed_safetensors import FOLDERS, SAFETENSORS
from malformed_torch import PICKLE_CASES, TORCH_FILES
from malformed_xai import XAI_FILES

CASES = [*SAFETENSORS, *FOLDERS, *TORCH_FILES, *PICKLE_CASES, *XAI_FILES, *GGUFS]
