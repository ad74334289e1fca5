"""Which files a pull takes, for repositories laid out as their publishers do."""

from __future__ import annotations

import pytest

from bobot.errors import NotFoundError
from bobot.hub.needed import is_document, is_tokenizer, needed_files, quantizations

SETTINGS = ["config.json", "generation_config.json", "special_tokens_map.json"]
TOKENIZER = ["tokenizer.json", "tokenizer_config.json"]
INDEX = "model.safetensors.index.json"


def shards(count: int, start: int = 1, digits: int = 5, last: int | None = None) -> list[str]:
    return [
        f"model-{i:0{digits}d}-of-{(last or count):0{digits}d}.safetensors"
        for i in range(start, start + count)
    ]


LLAMA_3_1 = [*SETTINGS, *TOKENIZER, INDEX, *shards(4), "LICENSE", "README.md", "USE_POLICY.md"]
GPT_OSS = [*SETTINGS, *TOKENIZER, "chat_template.jinja", INDEX, *shards(3, 0, last=2), "LICENSE"]
KIMI = [*SETTINGS, "tiktoken.model", "tokenizer_config.json", "chat_template.jinja", INDEX]
KIMI += ["model-1-of-2.safetensors", "model-2-of-2.safetensors", "LICENSE", "README.md"]
MISTRAL = [*SETTINGS, *TOKENIZER, "tokenizer.model", "tokenizer.model.v3", INDEX, *shards(3)]


@pytest.mark.parametrize(
    ("needed", "left_out"),
    [
        (LLAMA_3_1, ["original/consolidated.00.pth", "original/params.json", ".gitattributes"]),
        (
            GPT_OSS,
            [
                "original/model.safetensors",
                "original/config.json",
                "original/dtypes.json",
                "metal/model.bin",
                ".gitattributes",
            ],
        ),
        (
            KIMI,
            [
                "modeling_deepseek.py",
                "tokenization_kimi.py",
                "configuration_deepseek.py",
                "figures/banner.png",
                "docs/deploy.md",
            ],
        ),
        (MISTRAL, ["consolidated.safetensors", "params.json"]),
        (
            [*SETTINGS, *TOKENIZER, INDEX, *shards(2)],
            [
                "pytorch_model-00001-of-00002.bin",
                "pytorch_model.bin.index.json",
                "onnx/model.onnx",
                "flax_model.msgpack",
                "tf_model.h5",
                "model.fp16.safetensors",
            ],
        ),
        ([*SETTINGS, *TOKENIZER, INDEX, *shards(2)], ["model.safetensors"]),
        ([*SETTINGS, *TOKENIZER, "model.safetensors"], shards(2)),
        (["config.json", "weights.safetensors", "tekken.json"], ["adapter_model.safetensors"]),
        (
            ["params.json", "tekken.json", "consolidated.safetensors", "README.md"],
            ["SYSTEM_PROMPT.txt"],
        ),
        (
            ["params.json", "tokenizer.model", "consolidated.00.pth", "consolidated.01.pth"],
            ["checklist.chk", "tokenizer_checklist.chk"],
        ),
        (
            ["README.md", *(f"ckpt-0/tensor{i:05d}_000" for i in range(770))],
            ["ckpt-0/optimizer", "checkpoint.py"],
        ),
        (["model-Q4_K_M.gguf", "README.md"], ["model-Q8_0.gguf", "mmproj-model-f16.gguf"]),
        (["gpt-oss-20b-mxfp4.gguf"], ["imatrix.gguf", "config.json"]),
        (
            [f"Q4_K_M/big-Q4_K_M-0000{i}-of-00003.gguf" for i in (1, 2, 3)],
            [f"Q8_0/big-Q8_0-0000{i}-of-00005.gguf" for i in (1, 2, 3, 4, 5)],
        ),
    ],
)
def test_one_form_of_the_weights_is_taken_with_its_small_files(
    needed: list[str], left_out: list[str]
) -> None:
    assert sorted(needed_files([*left_out, *needed])) == sorted(needed)


def test_small_files_come_first() -> None:
    names = needed_files(LLAMA_3_1)
    assert names[-4:] == shards(4)
    assert names[0] == "LICENSE"


def test_quantization_is_chosen_by_tag_or_by_file() -> None:
    names = ["a.Q4_K_M.gguf", "a.Q8_0.gguf", "a.f16.gguf", "a-UD-Q4_K_XL.gguf", "a-IQ4_XS.gguf"]
    assert list(quantizations(names)) == ["IQ4_XS", "UD-Q4_K_XL", "Q4_K_M", "Q8_0", "F16"]
    assert needed_files(names, "q8_0") == ["a.Q8_0.gguf"]
    assert needed_files(names, "a.f16.gguf") == ["a.f16.gguf"]
    assert needed_files([*names, "config.json", "model.safetensors"], "F16") == ["a.f16.gguf"]


def test_models_with_equal_tags_are_told_apart_by_name() -> None:
    names = ["a-Q4_K_M.gguf", "b-Q4_K_M.gguf", "plain.gguf"]
    assert list(quantizations(names)) == ["a-Q4_K_M", "b-Q4_K_M", "plain"]
    with pytest.raises(NotFoundError, match=r"3 GGUF models .* a-Q4_K_M, b-Q4_K_M, plain"):
        needed_files(names)


@pytest.mark.parametrize(
    ("names", "quantization", "part"),
    [
        (["config.json", "pytorch_model.bin"], None, r"only as pytorch_model\.bin, a pickle"),
        (["adapter_config.json", "adapter_model.safetensors"], None, "adapter or a data set"),
        (["model.safetensors"], None, "no weights that bobot reads"),
        ([], None, "no weights"),
        (["a-Q8_0.gguf"], "Q4_0", "It has: Q8_0"),
        (LLAMA_3_1, "Q4_K_M", "no GGUF files"),
    ],
)
def test_repository_without_a_readable_form_says_what_it_has(
    names: list[str], quantization: str | None, part: str
) -> None:
    with pytest.raises(NotFoundError, match=part):
        needed_files(names, quantization)


def test_documents_and_tokenizers_are_known_by_name() -> None:
    assert all(map(is_document, ["LICENSE", "LICENSE.txt", "README.md", "NOTICE", "USE_POLICY.md"]))
    assert not any(map(is_document, ["config.json", "LICENSED.safetensors"]))
    assert all(map(is_tokenizer, ["tokenizer.json", "tokenizer.model.v3", "tekken.json", "a.gguf"]))
    assert not any(map(is_tokenizer, ["tokenizer_config.json", "chat_template.jinja", "a.bin"]))
