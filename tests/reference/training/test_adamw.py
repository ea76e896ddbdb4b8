"""AdamW and clipping by hand, against torch's: the update p1 - p0, because an error of the update is small beside p."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference import GPT, GPTConfig
from reference.training.adamw import AdamW, clip_gradients, decays

CONFIG = GPTConfig(block_size=8, vocab_size=11, n_layer=2, n_head=2, n_embd=8)
STEPS = 20


def twins(seed: int = 0) -> tuple[GPT, GPT]:
    """Two models with the same float64 weights, none of them zero or one."""
    torch.manual_seed(seed)
    ours = GPT(CONFIG).double()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(std=0.5)
    theirs = GPT(CONFIG).double()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def torch_adamw(model: nn.Module, **settings: object) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    decay = settings.pop("weight_decay")
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, **settings)  # type: ignore[arg-type]


def set_gradients(models: tuple[nn.Module, ...], seed: int, scale: float) -> None:
    """The same random gradients on every model; magnitudes over five decades around `scale`."""
    generator = torch.Generator().manual_seed(seed)
    for parameters in zip(*(model.parameters() for model in models), strict=True):
        size = 10.0 ** (4 * torch.rand(parameters[0].shape, generator=generator, dtype=torch.float64) - 2)
        gradient = scale * size * torch.randn(parameters[0].shape, generator=generator, dtype=torch.float64)
        for parameter in parameters:
            parameter.grad = gradient.clone()


def assert_same_updates(before: dict[str, Tensor], ours: nn.Module, theirs: nn.Module, budget: float) -> None:
    other = theirs.state_dict()
    for name, tensor in ours.state_dict().items():
        update, expected = tensor - before[name], other[name] - before[name]
        error = float((update - expected).norm() / expected.norm())
        assert error <= budget, f"{name}: update differs from torch's by {error:.1e} of it, allowed {budget:.0e}"


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 1e-3, "weight_decay": 0.1, "betas": (0.9, 0.95)},
        {"lr": 1e-1, "weight_decay": 0.5, "betas": (0.8, 0.999)},
        {"lr": 1e-3, "weight_decay": 0.0, "betas": (0.9, 0.99)},
        {"lr": 1e-3, "weight_decay": 0.1, "betas": (0.0, 0.0)},
    ],
    ids=["usual", "strong", "no decay", "no memory"],
)
# 1e-8 is where the root of the second moment is as small as eps: its place in the formula shows
@pytest.mark.parametrize("scale", [1.0, 1e-8], ids=["gradients of 1", "gradients near eps"])
def test_twenty_updates_equal_those_of_torch(settings: dict[str, object], scale: float) -> None:
    ours, theirs = twins()
    optimizer = AdamW(ours, settings["lr"], settings["weight_decay"], settings["betas"])  # type: ignore[arg-type]
    oracle = torch_adamw(theirs, **settings)
    for step in range(STEPS):
        before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
        set_gradients((ours, theirs), seed=step, scale=scale)
        theirs.load_state_dict(before)  # so that each step's update is compared on its own
        optimizer.step()
        oracle.step()
        assert_same_updates(before, ours, theirs, budget=1e-9)


def test_the_defaults_are_those_of_the_docs() -> None:
    ours, theirs = twins()
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    optimizer = AdamW(ours)
    library = torch_adamw(theirs, lr=3e-4, weight_decay=0.1, betas=(0.9, 0.95), eps=1e-8)
    for step in range(3):
        set_gradients((ours, theirs), step, scale=1.0)
        optimizer.step()
        library.step()
    assert_same_updates(before, ours, theirs, budget=1e-9)


def test_only_matrices_and_embeddings_decay() -> None:
    model, _ = twins()
    before = {name: p.clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)  # what moves now moves by decay alone
    AdamW(model, learning_rate=0.5, weight_decay=0.1).step()
    decayed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    expected = {name for name in before if name.endswith("weight") and "ln_" not in name}
    assert decayed == expected, f"wrongly treated: {sorted(decayed ^ expected)}"
    for name in expected:
        left = float((model.state_dict()[name] / before[name].detach()).mean())
        assert left == pytest.approx(1 - 0.5 * 0.1, rel=1e-12), f"{name}: {left} of it is left"
    assert {p.dim() for p in model.parameters() if not decays(p)} == {1}


def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    model, _ = twins()
    before = model.wpe.weight.clone()
    model.loss(torch.tensor([[1, 2]]), torch.tensor([[2, 3]])).backward()  # type: ignore[no-untyped-call]
    model.wpe.weight.grad = None
    AdamW(model, learning_rate=0.5, weight_decay=0.1).step()
    assert torch.equal(model.wpe.weight, before)


@pytest.mark.parametrize("limit", [1e-3, 1.0, 1e9, math.inf])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e6])
def test_clipping_equals_that_of_torch(limit: float, scale: float) -> None:
    ours, theirs = twins()
    set_gradients((ours, theirs), seed=0, scale=scale)
    norm = clip_gradients([p.grad for p in ours.parameters() if p.grad is not None], limit)
    expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), limit)
    assert float(norm) == pytest.approx(float(expected), rel=1e-14)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        error, allowed = float((p.grad - q.grad).abs().max()), 1e-14 * float(q.grad.abs().max())
        assert error <= allowed, f"{name}: gradient differs from torch's by {error:.1e}, allowed {allowed:.1e}"


def test_clipping_scales_all_gradients_by_one_factor_and_only_when_the_norm_is_too_large() -> None:
    gradients = [torch.tensor([3.0], dtype=torch.float64), torch.tensor([[4.0]], dtype=torch.float64)]
    assert float(clip_gradients(gradients, 10.0)) == 5.0
    assert [float(g) for g in gradients] == [3.0, 4.0]
    assert float(clip_gradients(gradients, 1.0)) == 5.0
    assert [float(g) for g in gradients] == pytest.approx([0.6, 0.8], rel=1e-6)


def test_an_optimizer_goes_on_from_its_state_dict_as_if_it_had_never_stopped() -> None:
    model, copy = twins()
    optimizer = AdamW(model, 1e-2)
    for step in range(3):
        set_gradients((model,), seed=step, scale=1.0)
        optimizer.step()
    copy.load_state_dict(model.state_dict())
    other = AdamW(copy, 1e-2)
    other.load_state_dict({name: tensor.clone() for name, tensor in optimizer.state_dict().items()})
    for step in range(3, 6):
        set_gradients((model, copy), seed=step, scale=1.0)
        optimizer.step()
        other.step()
    assert other.steps == optimizer.steps == 6
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, copy.state_dict()[name]), name


def test_the_state_dict_names_every_moment_and_counts_the_steps() -> None:
    model, _ = twins()
    optimizer = AdamW(model)
    set_gradients((model,), seed=0, scale=1.0)
    optimizer.step()
    state = optimizer.state_dict()
    names = [name for name, _ in model.named_parameters()]
    assert list(state) == ["step", *(f"exp_avg/{n}" for n in names), *(f"exp_avg_sq/{n}" for n in names)]
    assert state["step"].dtype == torch.int64
    assert int(state["step"]) == 1


def drop(state: dict[str, Tensor]) -> None:
    del state["exp_avg/wte.weight"]


def add(state: dict[str, Tensor]) -> None:
    state["exp_avg/lm_head.weight"] = torch.zeros(1)


def reshape(state: dict[str, Tensor]) -> None:
    state["exp_avg_sq/wpe.weight"] = state["exp_avg_sq/wpe.weight"].T


@pytest.mark.parametrize(
    "damage, says",
    [
        (drop, "'exp_avg/wte.weight' is missing"),
        (add, "'exp_avg/lm_head.weight' is unknown"),
        (reshape, r"'exp_avg_sq/wpe.weight' has shape \(8, 8\)"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused_by_name(
    damage: Callable[[dict[str, Tensor]], None], says: str
) -> None:
    model = GPT(GPTConfig(block_size=5, vocab_size=11, n_layer=1, n_head=2, n_embd=8))
    optimizer = AdamW(model)
    state = dict(optimizer.state_dict())
    damage(state)
    says = says.replace(r"\(8, 8\)", r"\(8, 5\)")
    with pytest.raises(ValueError, match=says):
        optimizer.load_state_dict(state)


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"weight_decay": -0.1}, "weight decay -0.1: give 0 or more"),
        ({"betas": (1.0, 0.9)}, "beta1 = 1.0: give a number from 0 up to, not including, 1"),
        ({"betas": (0.9, -0.5)}, "beta2 = -0.5: give a number from 0"),
        ({"betas": (0.9, math.nan)}, "beta2 = nan"),
        ({"eps": 0.0}, "eps = 0.0: give a number above 0"),
    ],
)
def test_settings_without_a_meaning_are_refused_with_the_value(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        AdamW(GPT(CONFIG), **settings)  # type: ignore[arg-type]
