"""`compare --template FILE.py:Class`: write a wrapper for a module with another signature.

The constructor's arguments, or the fields and keys that the file reads from its config, are matched with those of our
config by name. The class is then built and called at a small size: if it returns logits in another place or shape, the
wrapper takes them from there. Lines to check are marked.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from bench.candidate.guess_layout import PROBE, LayoutUnknown, choose_layout
from bench.formatting import one_line
from bench.settings import Template
from bench.user_code.load_function import STOPS, load_function
from reference.config import GPTConfig

# Our code for a value, with its names in public GPTs.
NAMES = {
    "config.vocab_size": "vocab_size n_vocab num_tokens vocabulary_size vocab ntoken num_embeddings padded_vocab_size",
    "config.block_size": (
        "block_size context_length context_len ctx_len n_ctx max_len max_length max_seq_len max_seq_length seq_len "
        "sequence_length seq_length n_positions max_position_embeddings maxlen context_size context window"
    ),
    "config.n_layer": "n_layer n_layers num_layers num_hidden_layers depth layers nlayers num_blocks n_blocks",
    "config.n_head": "n_head n_heads num_heads num_attention_heads heads nhead nheads head_count",
    "config.n_embd": (
        "n_embd n_embed embed_dim emb_dim d_model dim hidden_size hidden_dim width model_dim embedding_dim d_embed "
        "embed_size embedding_size emb_size hidden"
    ),
    "config.n_embd // config.n_head": "head_dim d_head head_size dim_head d_k d_v",
    "4 * config.n_embd": "n_inner d_ff ff_dim ffn_dim mlp_dim intermediate_size dim_feedforward d_mlp ffn_hidden",
    "4": "mlp_ratio expansion ff_mult mult expansion_factor",
    "config.dropout": (
        "dropout drop_rate drop p dropout_rate p_drop resid_pdrop attn_pdrop embd_pdrop dropout_p attn_dropout "
        "emb_dropout ff_dropout resid_dropout"
    ),
    "config.bias": "bias qkv_bias use_bias",
    "1e-5": "eps layer_norm_eps layer_norm_epsilon norm_eps",
}
VALUES = {name: code for code, names in NAMES.items() for name in names.split()}
SHOW = "  # check"


@dataclass
class Draft:
    """A wrapper being written.

    Args:
        module: of the class, as a name that the wrapper imports
        imports: names from it
        body: lines that make `wrapped` in build(config)
        output: an expression of `out` for logits; None if the module returns them as they are
        todo: arguments without a match
    """

    module: str
    folder: Path
    imports: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    output: str | None = None
    todo: list[str] = field(default_factory=list)


def write_template(options: Template) -> int:
    """Write a wrapper to standard output or to a file. Returns 0; raises ValueError, one line, without a class."""
    options.check()
    found = load_function(options.template, "GPT", "template")
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        raise ValueError(f"template {options.template}: is a {type(found).__name__}: name a torch.nn.Module class")
    text, notes = wrapper(found, Path(options.template.rpartition(":")[0] or options.template))
    if options.out is None:
        print(text)
    else:
        try:
            options.out.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ValueError(f"cannot write {str(options.out)!r}: {error.strerror}") from None
        notes.insert(0, f"written to {options.out}; next: compare --candidate {options.out}:build")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return 0


def wrapper(kind: type[nn.Module], path: Path) -> tuple[str, list[str]]:
    """The text of a wrapper, and notes on what to check."""
    draft = Draft(path.stem if path.suffix == ".py" else str(path), path.parent)
    source = sys.modules[kind.__module__]
    construct(kind, source, draft)
    notes = [f"no match for {name}: complete the line marked TODO" for name in draft.todo]
    if not draft.todo:
        notes += try_out(draft, kind, source)
    return render(draft, path), notes


# The constructor


def construct(kind: type[nn.Module], source: Any, draft: Draft) -> None:
    """Write the call of the constructor."""
    draft.imports.append(kind.__name__)
    parameters = [
        parameter
        for name, parameter in list(inspect.signature(kind.__init__).parameters.items())[1:]
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    needed = [p for p in parameters if p.default is p.empty]
    if len(needed) == 1 and needed[0].name not in VALUES:
        settings = config_argument(needed[0], source, draft)
        if settings == "config":
            draft.body.append(f"wrapped = {kind.__name__}(config){SHOW}")
        else:
            draft.body += [f"settings = {settings}{SHOW}", f"wrapped = {kind.__name__}(settings)"]
        return
    if not parameters and (globals_set := [name for name in vars(source) if name in VALUES]):
        draft.imports.append("")
        draft.body += [f"{draft.module}.{name} = {VALUES[name]}{SHOW}" for name in globals_set]
        draft.body.append(f"wrapped = {kind.__name__}()")
        return
    given = [f"{p.name}={value_of(p.name, p.default, draft)}" for p in parameters if p in needed or p.name in VALUES]
    draft.body.append(f"wrapped = {kind.__name__}({', '.join(given)}){SHOW}")


def value_of(name: str, default: Any, draft: Draft) -> str:
    """The code for an argument or field by its name; its default, or None marked TODO, if the name is unknown."""
    if name in VALUES:
        # a factor of the width, such as mlp_ratio = 4.0, keeps its default; so does an eps
        return VALUES[name] if "config" in VALUES[name] or default is inspect.Parameter.empty else repr(default)
    if default is not inspect.Parameter.empty and default is not dataclasses.MISSING:
        return repr(default)
    draft.todo.append(name)
    return "None"


def config_argument(parameter: inspect.Parameter, source: Any, draft: Draft) -> str:
    """Code for a constructor's config argument; our own config if it has every field that is read."""
    kind = annotated_class(parameter, source)
    read = names_read(source, parameter.name)
    if kind is not None and dataclasses.is_dataclass(kind):
        draft.imports.append(kind.__name__)
        fields = [f for f in dataclasses.fields(kind) if f.init]
        given = []
        for one in fields:
            missing = one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
            if one.name in VALUES and (missing or "config" in VALUES[one.name]):
                given.append(f"{one.name}={VALUES[one.name]}")
            elif missing:
                draft.todo.append(one.name)
                given.append(f"{one.name}=None")
        return f"{kind.__name__}({', '.join(given)})"
    keys = sorted(read["keys"])
    if not keys and read["attributes"] <= {field.name for field in dataclasses.fields(GPTConfig)} | {"head_size"}:
        return "config"
    if keys and len(keys) >= len(read["attributes"]):
        pairs = [f'"{key}": {value_of(key, inspect.Parameter.empty, draft)}' for key in keys]
        return f"{{{', '.join(pairs)}}}"
    draft.imports.append("SimpleNamespace")
    pairs = [f"{name}={value_of(name, inspect.Parameter.empty, draft)}" for name in sorted(read["attributes"])]
    return f"SimpleNamespace({', '.join(pairs)})"


def annotated_class(parameter: inspect.Parameter, source: Any) -> type | None:
    """The class of a config argument: its annotation, or the only dataclass of the file."""
    annotation = parameter.annotation
    if isinstance(annotation, str):
        annotation = getattr(source, annotation, None)
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return annotation
    own = [
        value
        for value in vars(source).values()
        if isinstance(value, type) and dataclasses.is_dataclass(value) and value.__module__ == source.__name__
    ]
    return own[0] if len(own) == 1 and annotation in (None, inspect.Parameter.empty) else None


def names_read(source: Any, name: str) -> dict[str, set[str]]:
    """What a file reads from variables of this name or called config or cfg: attributes, and keys."""
    named = {name, "config", "cfg", "conf", "args", "hparams"}
    found: dict[str, set[str]] = {"attributes": set(), "keys": set()}
    tree = ast.parse(Path(source.__file__).read_text(encoding="utf-8"))
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]  # not the script below them
    for node in (inner for one in classes for inner in ast.walk(one)):
        if isinstance(node, ast.Attribute) and called_by(node.value) in named and isinstance(node.ctx, ast.Load):
            found["attributes"].add(node.attr)
        if isinstance(node, ast.Subscript) and called_by(node.value) in named and isinstance(node.slice, ast.Constant):
            found["keys"].add(str(node.slice.value))
    found["attributes"] -= {"get", "items", "keys", "values", "update"}
    return found


def called_by(node: ast.expr) -> str | None:
    """The name of a variable, or of self's attribute."""
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) and called_by(node.value) == "self" else None


# The output


def try_out(draft: Draft, kind: type[nn.Module], source: Any) -> list[str]:
    """Build and call the class as the wrapper does; notes on what is to be checked."""
    made = evaluate(draft, source)
    try:
        with torch.random.fork_rng(devices=[]):
            model = made(PROBE)
        model.eval()
        ids = torch.arange(2 * 7).view(2, 7)
        with torch.no_grad():
            out = model(ids)
    except STOPS:
        raise
    except BaseException as error:
        return [f"not tried: {kind.__name__} raised {one_line(error)}: change the line marked check"]
    found = next(iter(logits_in(out, (2, 7, PROBE.vocab_size))), None)
    if found is None:
        return [f"its call returns {shape_in_words(out)}: no logits (batch, time, vocabulary) are in it"]
    draft.output = found if found not in ("out", "out[0]", "out.logits", "out['logits']") else None
    try:
        guess = choose_layout("auto", made, PROBE)
    except LayoutUnknown as error:
        return [f"built and called; {error}".replace(" above", " that compare prints")]
    return [f"built and called with a batch of {tuple(ids.shape)}; layout {guess.name}"]


def evaluate(draft: Draft, source: Any) -> Callable[[GPTConfig], Any]:
    """The function build(config) of a draft."""

    def build(config: GPTConfig) -> Any:
        names = {**vars(source), "SimpleNamespace": SimpleNamespace, draft.module.rpartition(".")[2]: source}
        names["config"] = config
        exec("\n".join(draft.body), names)
        return names["wrapped"]

    return build


def logits_in(out: Any, shape: tuple[int, int, int], code: str = "out") -> Iterator[str]:
    """Expressions of `out` that give logits (B, T, V), the nearest first."""
    B, T, V = shape
    if isinstance(out, Tensor):
        if tuple(out.shape) == shape:
            yield code
        elif out.dim() == 3 and sorted(out.shape) == sorted(shape):
            order = [list(out.shape).index(size) for size in shape]
            yield f"{code}.permute({', '.join(map(str, order))})"
        elif out.dim() == 3 and tuple(out.shape[:2]) == (B, T) and out.shape[2] > V:
            yield f"{code}[..., :config.vocab_size]"
        elif tuple(out.shape) == (B * T, V):
            yield f"{code}.view(*ids.shape, -1)"
    elif isinstance(out, Mapping):
        for key, value in out.items():
            yield from logits_in(value, shape, f"{code}[{str(key)!r}]")
    elif isinstance(out, tuple | list):
        for number, value in enumerate(out):
            yield from logits_in(value, shape, f"{code}[{number}]")
    elif hasattr(out, "__dict__"):
        for name, value in vars(out).items():
            yield from logits_in(value, shape, f"{code}.{name}")


def shape_in_words(out: Any) -> str:
    """What a call returns, in words."""
    return f"a tensor of shape {tuple(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"


# The text


def render(draft: Draft, path: Path) -> str:
    """The wrapper as a Python file."""
    own = ", ".join(name for name in draft.imports if name not in ("", "SimpleNamespace"))
    imports = ["from types import SimpleNamespace", ""] if "SimpleNamespace" in draft.imports else []
    imports += ["from torch import nn", ""] if draft.output else []
    if str(draft.folder) not in ("", ".") and path.suffix == ".py":
        imports = ["import sys", *imports, "", f"sys.path.insert(0, {json.dumps(str(draft.folder))})", ""]
    imports += [f"import {draft.module}"] if "" in draft.imports else []
    imports.append(f"from {draft.module} import {own}")
    escaped = json.dumps(str(path))[1:-1]  # ASCII: the terminal's encoding may lack a letter
    lines = [f'"""{draft.imports[0]} of {escaped} for compare --candidate."""', "", *imports, "", ""]
    if draft.output:
        lines += [
            "class Logits(nn.Module):",
            '    """Returns the logits alone."""',
            "",
            "    def __init__(self, model, config):",
            "        super().__init__()",
            "        self.model, self.config = model, config",
            "",
            "    def forward(self, ids):",
            "        out, config = self.model(ids), self.config",
            f"        return {draft.output}{SHOW}",
            "",
            "",
        ]
    body = [piece for line in draft.body for piece in folded(marked(line, draft))]
    lines += ["def build(config):", *(f"    {line}" for line in body)]
    lines.append(f"    return {'Logits(wrapped, config)' if draft.output else 'wrapped'}")
    return "\n".join(lines) + "\n"


def folded(line: str) -> list[str]:
    """A line, or one argument a line if it is long."""
    match = re.fullmatch(r"(\w+ = \w*[({])(.*)([)}])(  #.*)?", line)
    if len(line) <= 100 or match is None:
        return [line]
    opening, arguments, closing, comment = match.groups(default="")
    return [f"{opening}{comment}", *(f"    {one}," for one in arguments.split(", ")), closing]


def marked(line: str, draft: Draft) -> str:
    """A line, marked TODO if an argument in it has no match."""
    return line.replace(SHOW, f"  # TODO: {', '.join(draft.todo)}") if draft.todo else line
