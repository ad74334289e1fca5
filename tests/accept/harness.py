"""lm-evaluation-harness through the server and through transformers, on the same weights.

    python tests/accept/harness.py

The embedded model is exported for transformers; the server serves that folder. Multiple choice,
perplexity and free answers on made-up texts, so that nothing is downloaded but the harness. Every
metric must be equal to 4 decimals (above 1: to 1 in 20,000), every log-likelihood to 1e-4. Needs
the package registry.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from scores import Score, of_checks, show
from serving import BUILD, ROOT, clean_environment, python_with, serving

PACKAGES = ("lm-eval[api]==0.4.13", "accelerate")
WORDS = "the river runs past a small house where two old friends drink tea and count boats"
TASKS = {
    "choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{label}}",
        "doc_to_choice": "{{choices}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "perplexity": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "writing": {
        "output_type": "generate_until",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["\n", "."], "max_gen_toks": 16, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}


def write_tasks(folder: Path) -> None:
    rng, words = random.Random(1), WORDS.split()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lines = []
    for _ in range(40):
        text = " ".join(rng.choices(words, k=rng.randint(4, 30)))
        choices = [" ".join(rng.choices(words, k=rng.randint(1, 4))) for _ in range(4)]
        lines.append({"text": text, "choices": choices, "label": rng.randrange(4)})
    data = folder / "texts.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, task in TASKS.items():
        files = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
        whole = {"task": f"local_{name}", "test_split": "test", **files, **task}
        (folder / f"{name}.yaml").write_text(json.dumps(whole))  # JSON is YAML


def export(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "bobot", "export", "bobot", str(folder), "--to", "hf"]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    # In float32 both sides round so little that 1e-4 means something.
    weights = {
        name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config = {name: value for name, value in config.items() if name not in ("dtype", "torch_dtype")}
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))


def scores() -> Iterator[Score]:
    # lm-eval runs beside the torch and transformers that this Python has.
    beside = str(Path(torch.__file__).parents[1])
    python = python_with("harness", *PACKAGES, beside=beside)
    model, tasks = BUILD / "exported", BUILD / "tasks"
    export(model)
    write_tasks(tasks)
    checks = Path(__file__).with_name("harness_checks.py")
    environment = {**clean_environment(), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    environment |= {"TQDM_DISABLE": "1", "HF_HOME": str(BUILD / "hf")}
    with serving(str(model), name="harness-server") as server:
        command = [python, checks, server.url, model, tasks]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    (BUILD / "harness.log").write_text(done.stdout + done.stderr)
    score = of_checks("lm-evaluation-harness 0.4.13", "served and direct", done)
    worst = [line for line in done.stdout.splitlines() if line.startswith("largest")]
    yield dataclasses.replace(score, note="; ".join([score.note, *worst]).strip("; "))


if __name__ == "__main__":
    sys.exit(show(scores()))
