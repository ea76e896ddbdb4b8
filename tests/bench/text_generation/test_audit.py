"""A generator is the same as the readable one, or the mistake that makes it another is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.text_generation.audit import Audit, audit
from bench.text_generation.distribution import p_value
from bench.text_generation.known_mistakes import MISTAKES
from bench.text_generation.model import CONFIG, UserGPT
from bench.text_generation.probes import GREEDY_PROBES, SAMPLED_PROBES, SETTINGS_PROBES
from bench.text_generation.report import report
from bench.text_generation.variant import Reader, Variant, text
from bench.user_code.load_function import load_function
from optimized.generation import left_pad
from reference.gpt import GPT
from reference.sampling import generate as readable
from tests.bench.text_generation.mutants import EDITS, OTHER_STREAM, PLAIN, RIGHT
from tests.quick import quick


def audited(source: str, folder: Path) -> Audit:
    """The audit of a file with this source."""
    file = folder / "mine.py"
    file.write_text(source)
    return audit(load_function(f"{file}:generate", "generate", "generate"))


def names(found: Audit) -> list[str]:
    """The words of each explanation."""
    return ["; ".join(mistake.what for mistake in one.mistakes) for one in found.causes]


QUICK = ("padded_ids", "samples", "not_passed_on", "ties")


@pytest.mark.parametrize("name", quick(EDITS, *QUICK))
def test_a_planted_mistake_is_named_and_no_other(name: str, tmp_path: Path) -> None:
    found = audited(EDITS[name].source(), tmp_path)
    assert not found.same
    assert names(found)
    assert all(EDITS[name].cause in words for words in names(found)), names(found)


@pytest.mark.parametrize("name", quick(RIGHT, "example", "mingpt"))
def test_a_right_generator_is_the_same_however_it_is_written(name: str, tmp_path: Path) -> None:
    found = audited(RIGHT[name], tmp_path)
    assert found.same, report(found).text()
    assert not found.unjudged
    assert "The same generator: " in report(found).text()


def test_the_readable_generator_is_the_same_in_every_probe() -> None:
    found = audit(readable)
    assert found.same, report(found).text()
    assert not found.notes
    assert all(one.fits is None for one in found.outcomes)


@pytest.mark.parametrize("name", quick(OTHER_STREAM, "exponential"))
def test_another_use_of_the_random_stream_is_no_difference(name: str, tmp_path: Path) -> None:
    found = audited(PLAIN.replace(*OTHER_STREAM[name]), tmp_path)
    assert found.same, report(found).text()
    by_distribution = [one for one in found.outcomes if one.fits is not None]
    # torch.multinomial divides by exponential noise too
    assert bool(by_distribution) == (name == "noise_in_float32")
    assert any("fit the reference's distribution" in note for note in found.notes) == bool(by_distribution)


@pytest.mark.slow
def test_another_use_of_the_random_stream_hides_no_wrong_temperature(tmp_path: Path) -> None:
    wrong = PLAIN.replace(*OTHER_STREAM["noise_in_float32"]).replace("logits / temperature", "logits * temperature")
    found = audited(wrong, tmp_path)
    assert not found.same
    assert names(found) == ["the temperature multiplies"]
    assert found.explanations[0].by_distribution


PAIRS = [("wrong_end", "argmax"), ("more", "shared"), ("wrong_end", "ties")]


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS)
def test_two_mistakes_at_once_are_both_named(pair: tuple[str, str], tmp_path: Path) -> None:
    one, other = (EDITS[name] for name in pair)
    found = audited(replace(one, also=(other.before, other.after)).source(), tmp_path)
    assert not found.same
    assert names(found)
    assert all(one.cause in words and other.cause in words for words in names(found)), names(found)


def test_a_generator_that_raises_at_temperature_0_differs_by_that_alone(tmp_path: Path) -> None:
    found = audited(EDITS["divides_by_0"].source(), tmp_path)
    assert (found.same, found.same_texts) == (False, True)
    assert not found.unjudged
    assert found.raises is not None
    assert "inf" in found.raises.why
    assert "mine.py, line" in found.raises.why
    said = " ".join(report(found).text().split())
    assert "Not the same generator: it raises at temperature 0; " in said
    assert "it raises at temperature 0, where the most probable token is to be taken it raises RuntimeError" in said
    assert "- greedy text was asked for by temperature 1e-6" in said


@pytest.mark.slow
def test_a_generator_that_raises_at_temperature_0_and_has_another_mistake_has_both_named(tmp_path: Path) -> None:
    found = audited(EDITS["divides_by_0"].source().replace("logits[:, -1, :]", "logits[:, -2, :]"), tmp_path)
    assert found.raises is not None
    assert all("the position before the last" in words for words in names(found)[1:]), names(found)
    said = " ".join(report(found).text().split())
    assert "Not the same generator: every text differs. It raises at temperature 0." in said
    assert "to be taken it raises RuntimeError" in said
    assert "the logits are those of the position before the last" in said


@pytest.mark.slow
def test_a_generator_that_refuses_temperature_0_by_a_line_of_its_own_is_not_judged_there(tmp_path: Path) -> None:
    source = PLAIN.replace("if temperature == 0:", "if temperature < 0:")
    refusal = "    if temperature == 0:\n        raise ValueError('give a temperature above 0')\n    start ="
    found = audited(source.replace("    start =", refusal), tmp_path)
    assert found.same
    [one] = found.unjudged
    assert one.title == "temperature 0"
    assert one.why.startswith("ValueError: give a temperature above 0 (")
    assert "Not judged: temperature 0." in report(found).text()
    logarithm = "    import math\n    math.log(temperature)\n    start ="
    found = audited(source.replace("    start =", logarithm), tmp_path)
    assert found.raises is not None
    assert found.raises.why.startswith("ValueError: ")


def test_a_text_that_is_not_cropped_is_not_judged_and_named(tmp_path: Path) -> None:
    found = audited(PLAIN.replace("model(idx_cond)", "model(idx)"), tmp_path)
    assert found.same
    assert {one.title for one in found.unjudged} == {
        "greedy, beyond the block",
        "greedy, a prompt longer than the block",
        "sampled, beyond the block",
    }
    assert all(one.advice.startswith("it does not crop the text to the block") for one in found.unjudged)


def test_rows_that_end_where_another_ends_are_named(tmp_path: Path) -> None:
    source = RIGHT["greedy_only"].replace("idx, max_new_tokens):", "idx, max_new_tokens, eos_id=None):")
    ends = "dim=1)\n        if eos_id is not None and (idx[:, -1] == eos_id).any():\n            break\n"
    source = source.replace("dim=1)\n", ends)
    found = audited(source, tmp_path)
    assert [one.probe.title for one in found.wrong] == ["end-of-text token, three rows"]
    assert "all rows end where one of them ends" in names(found)


@pytest.mark.slow
def test_what_moves_no_token_is_a_note(tmp_path: Path) -> None:
    source = PLAIN.replace("@torch.no_grad()\n", "").replace("    start =", "    model.eval()\n    start =")
    found = audited(source.replace("top_k=None)", "top_k=None, stop_at=3)"), tmp_path)
    assert found.same
    assert "the model is called with gradients: decorate the function with @torch.no_grad()" in found.notes
    assert "it leaves a model of train mode in eval mode, without dropout: restore the mode" in found.notes
    assert "arguments left at their defaults: stop_at" in found.notes


@pytest.mark.slow
def test_a_list_of_prompts_that_grows_in_place_is_a_note(tmp_path: Path) -> None:
    found = audited(RIGHT["prompts"].replace("text = list(prompt)", "text, prompt = prompt, list(prompt)"), tmp_path)
    assert found.same
    assert "it changes the prompt that it was given, in place" in found.notes


@pytest.mark.parametrize(
    "arguments, line",
    [
        ("model, ids", "it takes model, ids: give a function of model, ids and the number of new tokens"),
        ("model, ids, max_new_tokens, a, b, c, d", "its argument 'd' is unknown: give it a default"),
    ],
)
def test_a_function_with_other_arguments_is_refused_in_one_line(arguments: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=line):
        audited(f"def generate({arguments}): ...", tmp_path)


def test_the_variant_without_a_mistake_is_the_readable_generator() -> None:
    reader, model = Reader(), UserGPT()
    some = (*GREEDY_PROBES, *SAMPLED_PROBES, *(probe for group in SETTINGS_PROBES.values() for probe in group))
    for probe in some:
        ids, settings = torch.tensor(probe.prompts), probe.settings
        generator = torch.Generator().manual_seed(probe.seed)
        right = readable(
            model, ids, probe.new, settings.temperature, settings.top_k, settings.top_p, generator
        )[:, ids.shape[1] :]  # fmt: skip
        found = torch.tensor(list(text(Variant(), reader, probe, given=True))).T
        assert torch.equal(found, right), probe.title


def test_the_model_of_the_audit_is_the_readable_one_with_cache_and_padding() -> None:
    model, ours = UserGPT(), GPT(CONFIG).double().eval()
    ours.load_state_dict(model.state_dict())
    ids = torch.randint(CONFIG.vocab_size, (2, 9), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        right = ours(ids)
        assert torch.allclose(model(ids), right, rtol=1e-12, atol=1e-12)
        first = model(ids[:, :5], use_cache=True)
        second = model(ids[:, 5:], past_key_values=first.past_key_values)
        assert torch.allclose(torch.cat([first.logits, second.logits], dim=1), right, rtol=1e-12, atol=1e-12)
        padded, padding = left_pad([ids[0].tolist(), ids[1, :4].tolist()])
        mask = (torch.arange(9) >= padding[:, None]).long()
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        found = model(padded, attention_mask=mask, position_ids=positions).logits
        assert torch.allclose(found[1, -4:], ours(ids[1:, :4])[0], rtol=1e-12, atol=1e-12)


def test_every_mistake_gives_another_text_in_some_probe() -> None:
    assert len({one.what for one in MISTAKES}) == len(MISTAKES)
    assert len({one.changes for one in MISTAKES}) == len(MISTAKES)


def test_the_chi_square_test_rejects_a_wrong_distribution_and_an_impossible_token() -> None:
    p = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.float64)
    draws = torch.multinomial(p, 4000, replacement=True, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(draws, minlength=4)
    assert p_value(counts, p) > 0.01
    assert p_value(counts, torch.tensor([0.45, 0.35, 0.2, 0.0])) < 1e-6
    assert p_value(torch.tensor([5, 3, 2, 1]), p) == 0.0
