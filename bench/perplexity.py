"""How well the kernels keep a model's predictions: bobot and llama.cpp on the same quantized files.

    python bench/perplexity.py                # bobot-mini, and stories260K of ../shared
    python bench/perplexity.py --texts 4      # a quick look
    python bench/perplexity.py --activations int8

llama.cpp's own quantizer writes the files. The text is what the model itself says at temperature 1
in float32 before it was quantized: its mean negative log-likelihood there is its entropy, and what
a file or an engine adds to that is what it loses. Both engines read the same ids: whole texts at
once, and ours also the first texts token by token, through the engine, because decode has kernels
of its own. llama.cpp runs with its defaults; it rounds activations to 8 bits, or bf16.

Not measured: other texts, other tasks, large models, whose numbers are less easily hurt.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from engines import FILES, ask_bobot, ask_llama_cpp, llama_cpp_python
from machine import ROOT, describe, table

import bobot
from bobot.engine import EngineConfig, SamplingParams

LENGTH = 256
"""Tokens of a text."""
FORMS = ("BF16", "Q8_0", "Q4_0", "Q4_K_M")
AIM = 1.002
"""At most this much of llama.cpp's negative log-likelihood."""


def sampled_texts(path: Path, count: int) -> list[list[int]]:
    """What the model says after its beginning token, in float32 at temperature 1."""
    model = bobot.load(path, dtype="float32", engine_config=EngineConfig(max_num_seqs=count))
    assert model.tokenizer is not None
    texts = {}
    for seed in range(count):
        params = SamplingParams(seed=seed, max_tokens=LENGTH - 1, ignore_eos=True)
        start = model.tokenizer.bos_id or 0
        texts[model.engine.add([start], params)] = [start]
    while model.engine.has_unfinished():
        for output in model.engine.step():
            assert output.token_id is not None
            texts[output.request_id].append(output.token_id)
    return list(texts.values())


def compare(name: str, path: Path, python: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Both engines' negative log-likelihood of one model in every form."""
    texts = sampled_texts(path, args.texts)
    asked = {"job": "nll", "texts": texts, "decoded": args.decoded, "threads": args.threads}
    exact = ask_bobot(asked | {"path": str(path), "dtype": "float32"}, args.threads)
    found = []
    for form in FORMS:
        file = FILES / f"{name}-{form}.gguf"
        file.parent.mkdir(parents=True, exist_ok=True)
        written = {"job": "quantize", "path": str(path), "out": str(file), "form": form}
        ask_llama_cpp(written | {"threads": args.threads}, args.threads, python)
        job = asked | {"path": str(file)}
        found.append(
            {
                "model": name,
                "form": form,
                "float32": exact,
                "bobot": ask_bobot(job | _rounding(form, args), args.threads),
                "llama.cpp": ask_llama_cpp(job, args.threads, python),
            }
        )
    return found


def _rounding(form: str, args: argparse.Namespace) -> dict[str, Any]:
    """Activations of 8 bits are for packed weights only."""
    activations = None if form == "BF16" else args.activations
    return {"dtype": args.dtype, "activations": activations}


def show(report: dict[str, Any]) -> str:
    head = ["", "unquantized", "llama.cpp", "bobot", "difference", "bobot, token by token", "", ""]
    rows = [head]
    for result in report["results"]:
        ours, peer = result["bobot"], result["llama.cpp"]
        whole = ours["whole"] / peer["whole"]
        decoded = ours["decoded"] / peer["whole of decoded"]
        rows.append(
            [
                f"{result['model']}, {result['form']}",
                f"{result['float32']['whole']:.4f}",
                f"{peer['whole']:.4f}",
                f"{ours['whole']:.4f}",
                f"{whole - 1:+.2%}",
                f"{ours['decoded']:.4f} of {peer['whole of decoded']:.4f}",
                f"{decoded - 1:+.2%}",
                "as good" if max(whole, decoded) <= AIM else "worse",
            ]
        )
    return "\n".join(
        [
            ", ".join(f"{name} {value}" for name, value in report["machine"].items()),
            f"{report['texts']} texts of {LENGTH} tokens, {report['decoded']} token by token; mean "
            f"negative log-likelihood, nats per token\n",
            table(rows),
        ]
    )


def main() -> None:
    """Parses the command line and prints the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--decoded", type=int, default=8, help="of them, token by token")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--dtype", help="of our activations; the file's own if not given")
    parser.add_argument("--activations", choices=("int8",), help="of ours; bobot run's option")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--python", type=Path, help="a Python that has llama-cpp-python")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    python = llama_cpp_python(args.python)
    models = {"bobot-mini": ROOT / "bobot" / "assets" / "bobot-mini.gguf"}
    stories = args.shared / "weights" / "stories260K"
    if stories.exists():
        models["stories260K"] = stories / "stories260K-f32.gguf"
    results = [r for name, path in models.items() for r in compare(name, path, python, args)]
    report = {
        "machine": describe(args.threads),
        "texts": args.texts,
        "decoded": args.decoded,
        "results": results,
    }
    print(json.dumps(report, indent=2) if args.json else show(report))


if __name__ == "__main__":
    main()
