"""Print a layout as Python: the tensors of a model beside ours, and a layout function to complete.

The function is the recognised part as code; what has no place yet is a line marked TODO. It is runnable as printed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from bench.weights.axes import groups, letters, shape_of, sizes_of
from bench.weights.entities import templates_of
from bench.weights.recognise import Recognised
from bench.weights.rules import OURS, Rule, first_axes
from reference.config import GPTConfig

Shape = tuple[int, ...]
SIZE = {"v": "V", "t": "T", "c": "C", "f": "4 * C", "h": "H", "d": "D", "s": "3"}


def side_by_side(found: Recognised, shapes: Mapping[str, Shape], config: GPTConfig) -> list[str]:
    """Lines: a model's tensors with their shapes, beside ours; {i} is the layer, {h} the head."""
    templates, _, _ = templates_of(shapes)
    rules = {rule.own: rule for rule in found.rules}
    rows = [("yours", "shape", "ours")]
    for own, shape in templates.items():
        ours = "?"
        if own in rules:
            ours = (
                ", ".join(rules[own].ours) if len(rules[own].ours) < 3 else rules[own].ours[0].replace("q_", "q|k|v_")
            )
        rows.append((own, str(shape), ours or "zeros"))
    sizes = sizes_of(config)
    rows += [("?", str(shape_of(OURS[name], sizes)), name) for name in found.missing]
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    return [f"{a:<{first}}  {b:<{second}}  {c}" for a, b, c in rows]


def function_text(found: Recognised, shapes: Mapping[str, Shape], config: GPTConfig) -> str:
    """A Python file with the layout function."""
    templates, _, _ = templates_of(shapes)
    outside: list[tuple[str, bool, Rule]] = []
    inside: list[tuple[str, bool, Rule]] = []
    for rule in found.rules:
        line = f"out[{name_code(rule.own)}] = {expression(rule)}"
        (inside if "{i}" in rule.own else outside).append((line, rule.own.endswith("bias") or is_bias(rule), rule))
    todo = open_lines(found, templates, config)
    body = [
        "V, T, C, H = config.vocab_size, config.block_size, config.n_embd, config.n_head",
        "D = C // H",
        "out = {}",
        *block(outside),
        *(line for line in todo if "{i}" not in line),
        "for i in range(config.n_layer):",
        *(f"    {line}" for line in block(inside)),
        *(f"    {line}" for line in todo if "{i}" in line),
        "    pass" if not inside else "",
        "return out",
    ]
    lines = [f"    {line}" for line in body if line]
    if any("torch." in line for line in lines):
        head = ["import torch", "", ""]
    else:
        head = []
    return "\n".join([*head, "def layout(state, config):", '    """Our state dict -> the module\'s."""', *lines, ""])


def is_bias(rule: Rule) -> bool:
    """Whether a rule's tensor is absent without biases."""
    return any(name.endswith("bias") for name in rule.ours)


def block(lines: Sequence[tuple[str, bool, Rule]]) -> list[str]:
    """Assignments, those of biases under a condition, and a loop over heads around those of one head."""
    out = []
    for biases in (False, True):
        for per_head in (False, True):
            chosen = [line for line, bias, rule in lines if bias == biases and rule.per_head == per_head]
            if not chosen:
                continue
            indent = ""
            if biases:
                out.append("if config.bias:")
                indent = "    "
            if per_head:
                out.append(f"{indent}for h in range(H):")
                indent += "    "
            out += [f"{indent}{line}" for line in chosen]
    return out


def name_code(template: str) -> str:
    """A name as a literal: an f-string if it has a layer or head."""
    return f'f"{template}"' if "{" in template else f'"{template}"'


def expression(rule: Rule) -> str:
    """The value of a tensor."""
    if not rule.ours:
        return f'state["wte.weight"].new_zeros({product_code(groups(rule.axes)[0])})'
    if len(rule.ours) == 3:
        source = rule.ours[0].replace("q_proj", "{n}_proj")
        each = f'state[f"{source}"] for n in "qkv"'
        if "(s h d)" in rule.axes:
            joined = f"torch.cat([{each}])"
            return joined if groups(rule.axes)[0] == ["s", "h", "d"] else f"{joined}.T"
        return moved(f"torch.stack([{each}])", rule.whole, rule.axes)
    source = f"state[{name_code(rule.ours[0])}]"
    if rule.per_head:
        one = f"{source}.chunk(H)[h]"
        return one if rule.axes == first_axes(rule.whole) else f"{one}.T"
    return moved(source, rule.whole, rule.axes)


def moved(source: str, before: str, after: str) -> str:
    """A tensor from one arrangement to another, as code."""
    if before == after:
        return source
    if groups(after) == groups(before)[::-1] and len(groups(after)) == 2:
        return f"{source}.T"
    old, new = letters(before), letters(after)
    opened = "" if len(groups(before)) == len(old) else f".view({', '.join(SIZE[x] for x in old)})"
    turned = "" if old == new else f".permute({', '.join(str(old.index(x)) for x in new)})"
    closed = "" if groups(after) == [[x] for x in new] else f".reshape({', '.join(map(product_code, groups(after)))})"
    return source + opened + turned + closed


def product_code(group: Sequence[str]) -> str:
    """The size of a dimension as code."""
    return " * ".join(SIZE.get(letter, letter) for letter in group)


def open_lines(found: Recognised, templates: Mapping[str, Shape], config: GPTConfig) -> list[str]:
    """Lines for tensors without a place: one of ours of the same size if there is one, else a comment."""
    sizes, rest, out = sizes_of(config), list(found.missing), []
    for own in found.unknown:
        shape = templates[own]
        twin = next((name for name in rest if math.prod(shape_of(OURS[name], sizes)) == math.prod(shape)), None)
        source = "" if twin is None else f"state[{name_code(twin)}]"
        if twin is None or ("{i}" in twin) != ("{i}" in own):
            out.append(f"# TODO out[{name_code(own)}] = ...  # {shape}")
            continue
        rest.remove(twin)
        ours = shape_of(OURS[twin], sizes)
        turn = "" if shape == ours else ".T" if shape == ours[::-1] else f".reshape{shape}"
        out.append(f"out[{name_code(own)}] = {source}{turn}  # TODO: guessed by its size")
    out += [f"# TODO ours without a place: state[{name_code(name)}]" for name in rest]
    return out
