"""The tests of the kernels on an extension that gcc built with its checks: the first access outside
an array's memory, and the first operation without a defined result, ends them with a report.

    python tests/sanitize                                        everything below: about an hour
    python tests/sanitize --isa avx2 tests/kernels/test_tiles.py
    make sanitize

Memory is filled with not-a-numbers before it is handed out, so that a number that was never written
shows in a result. What a test does in another process runs without all this. The extension lies in
build/sanitized and is built again when its source changes (some minutes). Threads are not checked:
gcc's check of them does not know OpenMP's barriers. Exits 1 where a test fails.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "build" / "sanitized"
FLAGS = (
    "-O1 -fno-omit-frame-pointer -fsanitize=address,undefined,float-cast-overflow "
    "-fno-sanitize-recover=all -D_GLIBCXX_ASSERTIONS"
)
OF_EVERY_LEVEL = [
    "tests/kernels",
    "tests/engine/test_fused_amx.py",
    "tests/ops/test_sample_kernel.py",
    "tests/quant/test_native.py",
]
"""They force each instruction set that they need, the emulated one included."""
OF_ONE_LEVEL = [
    "tests/engine/test_fused.py",
    "tests/engine/test_fused_adapters.py",
    "tests/engine/test_fused_parts.py",
    "tests/engine/test_fused_prompts.py",
    "tests/engine/test_paged_attention.py",
    "tests/ops/test_linear.py",
    "tests/parity/test_fused_parity.py",
    "tests/quant/test_packed_formats.py",
    "tests/quant/test_tiled_weights.py",
]
"""They take the one that BOBOT_ISA names."""


def extension() -> Path:
    """The file of the extension, built if there is none or it is older than its source."""
    sources = [ROOT / "CMakeLists.txt", *(ROOT / "bobot" / "kernels" / "csrc").iterdir()]
    newest = max(source.stat().st_mtime for source in sources)
    for found in (BUILT / "bobot" / "kernels").glob("_native*.so"):
        if found.stat().st_mtime >= newest:
            return found
    print(f"Building {BUILT.relative_to(ROOT)} ...", flush=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
    command += ["--target", str(BUILT), "--config-settings", "cmake.build-type=Debug"]
    command += ["--config-settings", f"cmake.define.CMAKE_CXX_FLAGS={FLAGS}", str(ROOT)]
    subprocess.run(command, check=True)
    return next((BUILT / "bobot" / "kernels").glob("_native*.so"))


def environment(native: Path, isa: str | None) -> dict[str, str]:
    """Of a process that takes `native` for its kernels."""
    libraries = [
        subprocess.run(
            [os.environ.get("CXX", "g++"), f"-print-file-name={name}"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")  # the first finds what the second throws with
    ]
    paths = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {
        **os.environ,
        **({"BOBOT_ISA": isa} if isa else {}),
        "BOBOT_SANITIZED": str(native),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "OMP_NUM_THREADS": "2",
        "LD_PRELOAD": " ".join(libraries),
        # Python's own objects live on at its end. 0xff: floats of any size are no numbers then.
        "ASAN_OPTIONS": f"detect_leaks=0:max_malloc_fill_size={1 << 30}:malloc_fill_byte=255",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def passes(native: Path, isa: str | None, tests: list[str]) -> bool:
    print(f"BOBOT_ISA={isa or ''} {' '.join(tests)}", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "checked_extension"]
    command += ["--capture=sys", *tests]  # a report comes from below Python, right before the end
    return subprocess.run(command, cwd=ROOT, env=environment(native, isa)).returncode == 0


def levels() -> list[str]:
    from bobot import kernels

    return [name for name, usable in kernels.features().items() if usable]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/sanitize")
    parser.add_argument("tests", nargs="*", metavar="TEST", help="as pytest takes them")
    parser.add_argument("--isa", help="the only level; default: the fastest for TEST, else all")
    args = parser.parse_args()
    native = extension()
    if args.tests:
        return 0 if passes(native, args.isa, args.tests) else 1
    parts = [(None, OF_EVERY_LEVEL)] if args.isa is None else []
    parts += [(isa, OF_ONE_LEVEL) for isa in ([args.isa] if args.isa else levels())]
    return 0 if all(passes(native, isa, tests) for isa, tests in parts) else 1


if __name__ == "__main__":
    sys.exit(main())
