"""Runs lm-evaluation-harness twice and compares; see harness.py. Arguments: address, folder of the
model, folder of the tasks.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager

MAX_DIFFERENCE = 1e-4
"""Of two log-likelihoods."""
MAX_ERROR = 0.5e-4
"""Of a metric: four decimals, of a number above 1 as many figures."""


def evaluate(model: str, arguments: dict[str, Any], tasks: Path) -> dict[str, Any]:
    names = [f"local_{path.stem}" for path in sorted(tasks.glob("*.yaml"))]
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=model,
        model_args=arguments,
        tasks=names,
        task_manager=manager,
        bootstrap_iters=0,
        log_samples=True,
    )
    assert found is not None
    return found


def metrics(found: dict[str, Any]) -> dict[str, float]:
    return {
        f"{task} {name}": value
        for task, values in found["results"].items()
        for name, value in values.items()
        if isinstance(value, float)
    }


def answers(found: dict[str, Any]) -> list[Any]:
    """(log-likelihood, is greedy) or a text, of every request in order."""
    return [
        answer
        for task in sorted(found["samples"])
        for sample in sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
        for answer in (entry[0] for entry in sample["resps"])
    ]


def difference(one: Any, other: Any) -> float:
    """Of two log-likelihoods; texts and greediness must be the same."""
    if isinstance(one, str):
        return 0.0 if one == other else float("inf")
    values = [value[0] if isinstance(value, tuple | list) else value for value in (one, other)]
    if isinstance(one, tuple | list) and one[1] != other[1]:
        return float("inf")
    return abs(float(values[0]) - float(values[1]))


def main() -> int:
    url, model, tasks = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    served = evaluate(
        "local-completions",
        {
            "base_url": f"{url}/v1/completions",
            "model": model.name,
            "tokenizer_backend": "remote",
            "num_concurrent": 4,
            "batch_size": 4,
            "max_length": 1024,
        },
        tasks,
    )
    direct = evaluate("hf", {"pretrained": str(model), "dtype": "float32", "device": "cpu"}, tasks)
    mine, other = metrics(served), metrics(direct)
    failed = 0
    for name, value in mine.items():
        is_same = abs(value - other[name]) <= MAX_ERROR * max(1, abs(other[name]))
        failed += not is_same
        told = f"{name}: {value:.6f} served, {other[name]:.6f} direct"
        print("pass" if is_same else "FAIL", told)
    pairs = list(zip(answers(served), answers(direct), strict=True))
    worst = max(difference(one, two) for one, two in pairs)
    failed += worst > MAX_DIFFERENCE
    print("pass" if worst <= MAX_DIFFERENCE else "FAIL", f"{len(pairs)} answers")
    print(f"largest difference of a log-likelihood {worst:.1e}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
