"""Print a result of `bench compare`: tables as wide as the terminal, with a note on every number."""

from __future__ import annotations

from statistics import median
from typing import Any

from bench.compare.result_file import Result
from bench.environment import identity_in_words
from bench.formatting import NOT_THE_SAME, Fitted, interval, plain_table, scientific, significant, size, terminal
from bench.timing.ratios import confidence_of


def show(result: Result) -> None:
    """Print a result, as `bench.compare.result_file` describes it."""
    console = terminal()
    console.print()
    for line in heading(result):
        console.print(line, markup=False)
    for number, check in enumerate(result["proof"]):
        console.print()
        question = "Is it the same function?" if check["question"] == "function" else "Does it only round?"
        console.print(f"{question} In {check['precision']}, against {check['oracle']}", markup=False, style="bold")
        console.print(Fitted(proof_table(result, number)))
        console.print(proof_note(check), markup=False, style="dim")
    proven = [contender for contender in result["contenders"] if "speed" in contender]
    console.print()
    console.print("How fast is it, and how much memory does it take?", style="bold")
    if proven:
        console.print(Fitted(speed_table(proven), together=(2, 2)))
    for contender in result["contenders"]:
        if "speed" in contender:
            continue
        if contender["unlike"]:
            words = f"{contender['name']:<17}  {NOT_THE_SAME}: {contender['unlike']} ({failure(contender)})"
            console.print(words, markup=False)
        else:
            console.print(f"{contender['name']:<17}  failed: {failure(contender)}", markup=False, style="bold red")
    if proven:
        console.print(speed_note(proven), markup=False, style="dim")
    if proven and "generation" in proven[0]["speed"]:
        console.print()
        console.print("How fast does it write?", style="bold")
        console.print(Fitted(speed_table(proven, ("generation",), memory=False), together=(2,)))
        console.print(generation_note(result, proven), markup=False, style="dim")
    console.print()


def heading(result: Result) -> list[str]:
    """The model, the device, the packages, and warnings."""
    work, where = result["workload"], result["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in where["packages"].items() if version)
    on = identity_in_words(where["identity"]) + (
        f" of {where['cores']['logical']} cores"
        if where["device_kind"] == "cpu"
        else f", {where['device_memory'] / 1e9:.0f} GB"
    )
    lines = [
        f"{work['size']}: {work['parameters']:,} parameters, batch {work['batch']} x time {work['time']}, "
        f"{precisions(result)}{'' if work['config']['bias'] else ', without biases'}",
        f"on {on}",
        f"with {packages}",
    ]
    return lines + warnings(result) + [f"note: {line}" for line in result["left_out"]]


def precisions(result: Result) -> str:
    """The precision, and the contenders with another one."""
    asked = result["workload"]["precision"]
    others = [c["name"] for c in result["contenders"] if c["precision"] != asked]
    return f"{asked}; {', '.join(others)}: bfloat16" if others else str(asked)


def warnings(result: Result) -> list[str]:
    """Reasons why the numbers may be worse than usual."""
    work, where = result["workload"], result["environment"]
    lines = []
    coarse = work["precision"] == "bfloat16" or any(c["precision"] == "bfloat16" for c in result["contenders"])
    if coarse and where["computes_bfloat16"] is False:
        lines.append("note: this device has no bfloat16 instructions and emulates them: expect it to be slower")
    cores = where["cores"]["logical"] or 1
    if where["device_kind"] == "cpu" and where["load"] is not None and where["load"] > 0.25 * cores:
        lines.append(
            f"note: the machine was busy before this began (load {where['load']} on {cores} cores): "
            "trust ratios, not rates"
        )
    return lines


def proof_table(result: Result, number: int) -> Any:
    """One check of the proof: each contender's errors."""
    check = result["proof"][number]
    table = plain_table()
    table.add_column("contender", no_wrap=True)
    for name in ("logits", "loss"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("worst gradient", no_wrap=True)
    steps = check["steps"]
    if steps:
        table.add_column(f"{steps} step{'s' if steps > 1 else ''}", justify="right", no_wrap=True)
    table.add_column("top-1", justify="right", no_wrap=True)
    table.add_column("error/budget", justify="right", no_wrap=True)
    for contender in result["contenders"]:
        found = contender["proof"]["checks"][number]
        if found is None:
            continue
        worst = found["worst"]
        failed = bool(found["failures"])
        word = "" if contender["unlike"] else " FAILED"
        table.add_row(
            contender["name"],
            scientific(worst["logits"]["error"]),
            scientific(worst["loss"]["error"]),
            f"{scientific(worst['gradient']['error'])} {worst['gradient']['name']}",
            *([scientific(worst["trajectory"]["error"])] if steps else []),
            f"{100 * found['top1']:.1f} %",
            f"{found['over']:.3g}{word}" if failed else f"{found['over']:.2f}",
            style="red" if failed and not contender["unlike"] else "",
        )
    return table


def proof_note(check: dict[str, Any]) -> str:
    """Weights and shapes of a check."""
    shape, small = check["shape"], check["gradient_shape"]
    steps = f"{check['steps']} AdamW steps" if check["steps"] > 1 else "1 AdamW step" if check["steps"] else "no steps"
    where = (
        f"at batch {shape[0]} x time {shape[1]}"
        if shape == small
        else f"(logits, loss: batch {shape[0]} x time {shape[1]}; the rest: batch {small[0]} x time {small[1]})"
    )
    return (
        f"relative L2 distances, with {check['weights']} random weights, {where}; {steps}.\n"
        "error/budget: the largest of all, above 1 fails; top-1: same most probable token."
    )


def speed_table(
    proven: list[dict[str, Any]], tasks: tuple[str, ...] = ("forward", "training_step"), memory: bool = True
) -> Any:
    """Speed and memory of the proven contenders."""
    base = next(iter(proven[0]["speed"]["forward"]["ratios"]))
    table = plain_table()
    table.add_column("\ncontender", no_wrap=True)
    for what in tasks:
        table.add_column(f"{what.replace('_', ' ')}\ntokens/s", justify="right", no_wrap=True)
        table.add_column(f"times\n{base}", justify="right", no_wrap=True)
    if memory:
        table.add_column("peak\nmemory", justify="right", no_wrap=True)
    for contender in proven:
        cells = []
        for what in tasks:
            speed = contender["speed"][what]
            cells.append(f"{significant(speed['tokens_per_second'])} ±{100 * speed['spread']:.0f} %")
            cells.append("1" if contender["name"] == base else interval(speed["ratios"][base]))
        if memory:
            cells.append(size(contender["memory"]["peak"]))
        table.add_row(contender["name"], *cells)
    return table


def speed_note(proven: list[dict[str, Any]]) -> str:
    """How times and memory were measured."""
    forward, step = (rounds_of(proven, what) for what in ("forward", "training_step"))
    sure = confidence_of(min(forward[0], step[0]))
    lines = [
        f"in turn, {span(forward)} rounds of forward passes and {span(step)} of training steps "
        "(forward, backward, clip, AdamW);",
        f"median ± half the distance between the quartiles; [{100 * sure:.0f} % interval of the ratio].",
    ]
    where = (
        "on the device"
        if proven[0]["memory"]["method"] == "device"
        else "without interpreter and libraries; a compiler's included"
    )
    lines.append(f"peak memory: of its process, {where}.")
    lines += first_calls(proven, "training_step")
    coarse = [c["name"] for c in proven if c["precision"] == "bfloat16"]
    if coarse and len(coarse) < len(proven):
        lines.append(f"computing in bfloat16: {', '.join(coarse)}; the others do not.")
    return "\n".join(lines)


def generation_note(result: Result, proven: list[dict[str, Any]]) -> str:
    """What was generated."""
    rounds = rounds_of(proven, "generation")
    sure, new = confidence_of(rounds[0]), result["workload"]["new_tokens"]
    lines = [
        f"one text, {new} tokens one after another, the most probable each time; {span(rounds)} rounds,",
        f"[{100 * sure:.0f} % interval of the ratio].",
    ]
    return "\n".join(lines + first_calls(proven, "generation"))


def rounds_of(proven: list[dict[str, Any]], task: str) -> tuple[int, int]:
    """The least and the most rounds of a task: contenders timed in groups may have different numbers."""
    counts = [len(contender["speed"][task]["seconds"]) for contender in proven]
    return min(counts), max(counts)


def span(ends: tuple[int, int]) -> str:
    """5, or 5 to 7."""
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def first_calls(proven: list[dict[str, Any]], task: str) -> list[str]:
    """A line with the first call's extra seconds, for contenders with at least one: they compile."""
    found = []
    for contender in proven:
        speed = contender["speed"][task]
        more = speed["first"] - median(speed["seconds"])
        if more >= 1.0:
            found.append(f"{contender['name']} {more:.0f} s")
    return [f"the first one took longer, by its compiling and allocating: {', '.join(found)}."] if found else []


def failure(contender: dict[str, Any]) -> str:
    """A contender's failure with the largest error / budget, in words."""
    failures = [found for check in filter(None, contender["proof"]["checks"]) for found in check["failures"]]
    if contender["unlike"]:  # for another function, the error of the logits is the clearest
        failures = [failure for failure in failures if failure["quantity"] == "logits"] or failures
    found = max(failures, key=lambda failure: failure["error"] / (failure["allowed"] or 1e-300))
    name = found["name"] if found["name"] != found["quantity"] else ""
    return (
        f"{found['quantity']} {name}{' ' if name else ''}{scientific(found['error'])}, "
        f"allowed {scientific(found['allowed'])}"
    )
