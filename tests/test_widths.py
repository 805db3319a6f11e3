"""The width of a prefill pass: measured once for a model on a machine, and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ppo_codet5.helpers.models import Request, load_generator, widths
from ppo_codet5.helpers.models.widths import CANDIDATES, prefill_tokens
from tiny import save_llama, save_t5


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PPO_CODET5_CACHE", str(tmp_path / "cache"))
    return load_generator(str(save_llama(tmp_path / "tiny")), device="cpu").model


def test_small_and_encoder_decoder_models_are_not_measured(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prefill_tokens(model, "tiny") == CANDIDATES[-1]
    monkeypatch.setattr(widths, "_WORTH_MEASURING", 0)
    t5 = load_generator(str(save_t5(tmp_path / "t5")), device="cpu").model
    assert prefill_tokens(t5, "t5") == CANDIDATES[-1]
    assert not (tmp_path / "cache" / "speed").exists()


def test_the_fastest_width_is_measured_once(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widths, "_WORTH_MEASURING", 0)
    passes: list[int] = []
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda _, ids: passes.append(ids[0].numel()))
    assert prefill_tokens(model, "tiny 1 float32") in CANDIDATES
    assert sorted(set(passes)) == list(CANDIDATES)
    hook.remove()
    seconds = {256: 1.0, 512: 1.5, 1024: 3.5}
    monkeypatch.setattr(widths, "_seconds", lambda model, width: seconds[width])
    assert prefill_tokens(model, "tiny 2 float32") == 512
    monkeypatch.setattr(widths, "_seconds", lambda model, width: pytest.fail("measured again"))
    assert prefill_tokens(model, "tiny 2 float32") == 512


@pytest.mark.parametrize("damaged", ["", "[1, 2]", '{"half": 25'])
def test_a_damaged_file_is_measured_anew(
    model: Any, damaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(widths, "_WORTH_MEASURING", 0)
    (tmp_path / "cache" / "speed").mkdir(parents=True)
    (tmp_path / "cache" / "speed" / "prefill.json").write_text(damaged)
    assert prefill_tokens(model, "tiny") == prefill_tokens(model, "tiny")


def test_a_text_does_not_depend_on_the_width(model: Any, tmp_path: Path) -> None:
    generator = load_generator(str(tmp_path / "tiny"), device="cpu", batch_size=8)
    requests = [Request("for x in text " * (i % 5) + f"number {i}", i, max_new_tokens=9) for i in range(12)]
    texts = []
    for width in (1, 40, 1024):
        generator.prefill_tokens = width
        texts.append(generator.generate(requests))
    assert texts[0] == texts[1] == texts[2]
