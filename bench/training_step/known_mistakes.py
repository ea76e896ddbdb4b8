"""Mistakes that training steps are known to make, as changes of a `Variant`, with what to do about each.

The words of a wrong choice are its value in variant.py; known_schedules.py has the learning rates.
"""

from __future__ import annotations

from bench.training_step.variant import Clip, Corrected, Decay, Decayed, Eps, Exchange, Sum, Update
from bench.user_code.mistake import Mistake, choices, mistake, others

DROPPED = "train on the last micro-batch too, if it is short"
WEIGH = "weigh each micro-batch's mean loss by its number of targets / the number of all targets of the step"
DIVIDE = "divide each micro-batch's loss by the number of micro-batches before backward()"
CLEAR = "call zero_grad() once per step"
SYNC = "set require_backward_grad_sync before the forward pass, or run forward and backward in no_sync()"
WRAPPED = "call the DistributedDataParallel module, not its .module; the last micro-batch not in no_sync()"
WITHIN = "clip once, after the last backward() and before optimizer.step()"
GROUPS = "two parameter groups: weight_decay for p.dim() >= 2, 0.0 for the rest"
CORRECT = "divide both moments by 1 - beta^t"
WEIGHT_DECAYS = (0.01, 0.001, 0.05, 0.2, 1.0)
EPS = (1e-5, 1e-6, 1e-7, 1e-9, 1e-10, 1e-12)
BETAS = ((0.9, 0.999), (0.9, 0.99), (0.9, 0.98), (0.95, 0.9), (0.95, 0.95), (0.8, 0.95), (0.9, 0.9))

MISTAKES: tuple[Mistake, ...] = (
    # the gradient of a step
    *choices("sum", WEIGH, Sum.MEANS),
    *choices("sum", DIVIDE, Sum.UNDIVIDED, Sum.TWICE_DIVIDED),
    *choices("sum", CLEAR, Sum.LAST, Sum.LAST_DIVIDED, Sum.LAST_WEIGHED),
    *choices("sum", "call backward() for each micro-batch", Sum.FIRST),
    *choices("sum", DROPPED, Sum.NOT_LAST, Sum.NOT_LAST_WEIGHED),
    *choices("sum", "reduction='mean'", Sum.TARGETS),
    mistake(
        "gradients are never cleared: each step adds to those of all steps before",
        "call optimizer.zero_grad() once per step",
        clears=False,
    ),
    mistake(
        "the gradient of the tied token table counts twice",
        "give the optimizer one parameter for embedding and head",
        tied_twice=True,
    ),
    mistake(
        "gradients of tensors that the optimizer does not have are never cleared, and count when clipping",
        "give the optimizer every parameter, and call model.zero_grad()",
        clears_untrained=False,
    ),
    # what ranks exchange
    *choices("exchange", "average the gradients over the ranks first, then clip", Exchange.CLIPPED),
    *choices("exchange", SYNC, Exchange.FIRST),
    *choices("exchange", WRAPPED, Exchange.NOTHING),
    *choices("exchange", "divide by the number of ranks", Exchange.SUM),
    # clipping and weight decay
    *choices("clip", WITHIN, Clip.TRAINED, Clip.NONE, Clip.MICRO, Clip.MICRO_AND_JOINT),
    *choices("clip", "one clip_grad_norm_ over all parameters", Clip.TENSOR),
    *choices("clip", "clip_grad_norm_", Clip.VALUE),
    *choices("clip", "divide first, then clip", Clip.UNDIVIDED),
    *choices("clip", "scaler.unscale_(optimizer) before clipping", Clip.SCALED),
    *choices("clip", "check max_norm", Clip.HALF),
    *choices("decayed", GROUPS, *others(Decayed)),
    *choices("decay", "torch.optim.AdamW, which decays weights apart from the gradient", Decay.GRADIENT),
    *choices("decay", "decay by learning rate * decay", Decay.UNSCALED),
    *choices("decay", "decay first, as torch does", Decay.AFTER),
    *(mistake(f"weight decay is {value}", "pass the weight decay on", weight_decay=value) for value in WEIGHT_DECAYS),
    # the optimizer
    *choices("corrected", CORRECT, *others(Corrected)),
    mistake("bias correction begins at t = 2", "count the first step as t = 1", first_step=2),
    *choices("eps_at", "add eps to sqrt(v / (1 - beta2^t))", Eps.BEFORE),
    *choices("eps_at", "add eps to the root", Eps.INSIDE),
    *(mistake(f"eps is {value:g}", "AdamW's eps is 1e-8", eps=value) for value in EPS),
    *(mistake(f"betas are {value}", "betas=(0.9, 0.95)", betas=value) for value in BETAS),
    *choices("update", "amsgrad=False", Update.AMSGRAD),
    *choices("update", "torch.optim.AdamW", Update.NESTEROV, Update.SGD, Update.SIGN),
)


def possible(ranks: int) -> tuple[Mistake, ...]:
    """The mistakes that a step of so many ranks can make: one rank exchanges nothing."""
    return tuple(one for one in MISTAKES if ranks > 1 or "exchange" not in one.fields)
