"""The tables of a result, and the notes below and above them."""

from __future__ import annotations

from bench.suite.tables import basis, first_calls, heading, show
from tests.bench.compare.made_up_compare import NAMES, compare_result
from tests.bench.suite.made_up import case, result


def test_the_title_has_the_rounds_of_every_group_and_the_confidence_of_the_fewest() -> None:
    ours, theirs = case("reference", 1.0, 1.0), case("full", 2.0, 2.0)
    assert basis(ours, theirs) == "5 rounds of 1 launch, 94 %"
    assert basis({"rounds": [7]}, {"rounds": [7]}) == "7 rounds of 1 launch, 95 %"
    assert basis({"rounds": [7]}, {"rounds": [3]}) == "3 to 7 rounds of 1 launch, 75 %", "timed in another group"
    assert basis({"rounds": [7, 7]}) == "14 rounds of 2 launches, 50 %"


def test_a_first_call_that_took_a_second_longer_is_reported() -> None:
    calls = {"reference": (1.6, [1.0, 0.9, 1.1]), "full": (9.4, [0.5, 0.4, 0.4])}
    cases = [{"contender": name, "first": first, "seconds": seconds} for name, (first, seconds) in calls.items()]
    (line,) = first_calls(cases)
    assert line == "the first call took longer, by its compiling and allocating: full 9 s."
    assert list(first_calls(cases[:1])) == []


def test_notes_report_a_busy_machine_and_missing_instructions() -> None:
    made = result()
    made["environment"] |= {"load": 1.7, "computes_bfloat16": False}
    assert [line for line in heading(made) if line.startswith("note: ")] == [
        "note: the machine was busy before this began (load 1.7 on 2 cores): trust ratios, not rates"
    ], "nothing computes in bfloat16"
    made["cases"][0]["precision"] = "bfloat16"
    slow, busy = (line for line in heading(made) if line.startswith("note: "))
    assert "no bfloat16 instructions" in slow
    assert "the machine was busy" in busy
    made["environment"] |= {"load": 0.1, "computes_bfloat16": True}
    assert not [line for line in heading(made) if line.startswith("note: ")]


def test_the_heading_has_each_workload_and_the_precision_that_each_contender_really_has() -> None:
    made = compare_result()
    assert list(heading(made))[2] == (
        "gpt2-xl: 1,557,611,200 parameters, batch 64 x time 1024, float32; full: bfloat16"
    )
    made["workloads"][0]["config"]["bias"] = False
    assert list(heading(made))[2].endswith("; full: bfloat16, without biases")


def test_the_proofs_of_a_comparison_have_a_table_for_each_check_and_a_row_for_each_contender() -> None:
    made = compare_result()
    lines = show(made, 120)
    function, rounding = (n for n, line in enumerate(lines) if "against huggingface-eager in float64" in line)
    assert lines[function].startswith("Is it the same function? In float32")
    assert [line.split()[0] for line in lines[function + 3 : function + 8]] == [*NAMES, "x-transformers"]
    made_with = " ".join(lines[function + 8 : rounding])
    assert "sharp random weights, (logits, loss: batch 64 x time 1024; the rest: batch 2 x time 64); 20 " in made_with
    assert lines[rounding].startswith("Does it only round? In bfloat16")
    assert lines[rounding + 3].split()[0] == "full"
    assert not any("FAILED" in line for line in lines), "another function is no failure"
    made["parity"][-1]["unlike"] = ""
    (failed,) = (line for line in show(made) if "FAILED" in line)
    assert failed.startswith("x-transformers ")


def test_shares_of_the_devices_rates_have_columns_only_if_these_were_measured() -> None:
    heads = [line for line in show(compare_result()) if line.startswith("contender") and "tokens/s" in line]
    assert [head.split()[-3:] for head in heads] == [["compile", "memory", "parity"]] * 3
    assert not any("MFU" in line for line in show(compare_result()))
    rated = show(result(roofline={"floors": []}))
    assert any(line.split()[4:] == ["MFU", "sheet", "floor", "compile", "memory", "parity"] for line in rated)
    assert any("MFU: of the measured ceiling" in line for line in rated)
