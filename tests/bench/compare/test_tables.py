"""The notes below the tables of a comparison."""

from __future__ import annotations

from bench.compare.tables import generation_note, speed_note
from tests.bench.compare.made_up_compare import NAMES, compare_result, contender


def test_the_notes_have_the_rounds_of_every_group_and_the_confidence_of_the_fewest() -> None:
    result, proven = compare_result(), [contender(name, number) for number, name in enumerate(NAMES)]
    assert "in turn, 7 rounds of forward passes and 7 of training steps" in speed_note(proven)
    assert "[95 % interval" in speed_note(proven)
    proven[3]["speed"]["training_step"]["seconds"] = [1.0] * 5  # timed in a group of its own
    proven[3]["speed"]["generation"]["seconds"] = [1.0] * 3
    assert "in turn, 7 rounds of forward passes and 5 to 7 of training steps" in speed_note(proven)
    assert "[94 % interval" in speed_note(proven)
    assert "3 to 7 rounds,\n[75 % interval of the ratio]." in generation_note(result, proven)
