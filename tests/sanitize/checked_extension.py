"""A plugin of pytest: the extension that BOBOT_SANITIZED names in place of the installed one."""

import importlib.util
import os
import sys

_spec = importlib.util.spec_from_file_location(
    "bobot.kernels._native", os.environ["BOBOT_SANITIZED"]
)
assert _spec is not None and _spec.loader is not None
_native = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _native
_spec.loader.exec_module(_native)
