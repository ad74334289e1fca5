"""Weight files of every published form, as named lazy tensors; writers for safetensors and GGUF.

    with open_checkpoint("Llama-3.2-1B") as checkpoint:
        checkpoint.dialect                             # "hf", "meta", "xai", "gguf" ...
        checkpoint.tensors["model.norm.weight"]        # TensorInfo(name, shape, dtype, num_bytes)
        checkpoint.read("model.norm.weight", (2048,))  # mapped from the file

Files are taken for hostile: they are checked before they are used, and nothing in them is run.
"""

from bobot.checkpoints.gguf_write import write_gguf
from bobot.checkpoints.index import open_checkpoint
from bobot.checkpoints.safetensors import write_safetensors
from bobot.checkpoints.stored import Checkpoint, TensorInfo

__all__ = ["Checkpoint", "TensorInfo", "open_checkpoint", "write_gguf", "write_safetensors"]
