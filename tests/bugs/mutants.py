"""Every planted bug, one row each. To add one: what is wrong, its source, which words to change, which check.

Rows 1 to 43 are bugs of public implementations, described in our words, with the issue or commit that reported them. If
this project has no such component (no loss scaler, no HellaSwag), the mutant is the nearest equivalent, and its name
says so. Rows from 44 on are our own.
"""

from __future__ import annotations

from tests.bugs import checks_of_models as models
from tests.bugs import checks_of_runs as runs
from tests.bugs import checks_of_text as text
from tests.bugs import checks_of_training as training
from tests.bugs.checks import Check
from tests.bugs.mutant import Constant, Edit, Mutant
from tests.bugs.sides import OPTIMIZED, REFERENCE, Side, rungs

OURS = "our own"


def real(
    row: int, name: str, source: str, part: str, trigger: str, side: Side, check: Check, *changes: Edit | Constant
) -> Mutant:
    return Mutant(row, name, source, part, trigger, side, check, changes)


def own(row: int, name: str, part: str, trigger: str, side: Side, check: Check, *changes: Edit | Constant) -> Mutant:
    return Mutant(row, name, OURS, part, trigger, side, check, changes)


WEIGHTS = "reference.functional:causal_attention_weights"
BLOCK = "reference.gpt:Block.forward"
NORM = "reference.functional:layer_norm"
STEP = "optimized.step:TrainingStep.gradients"
PIECE = "optimized.step:TrainingStep.piece"
FUSED_LOSS = "optimized.loss:HeadAndLoss.forward"
ADAMW = "reference.training.adamw:AdamW.step"
ATTEND = "optimized.cache:Cache.attend"
TRAIN = "reference.training.loop:train"
PADDED = rungs("padded_vocab", "fused_loss")

REAL = [
    real(
        1, "attention scaled by the embedding width, not the head width",
        "karpathy/ng-video-lecture#6", "model", "more than one head", REFERENCE, models.logits,
        Edit(WEIGHTS, "math.sqrt(D)", "math.sqrt(D * q.shape[-3])"),
    ),
    real(
        2, "the fast attention path has a scale of its own",
        "huggingface/transformers#44397", "model", "the rung sdpa", rungs("sdpa"), models.logits,
        Edit("optimized.attention:FlashAttention.forward", "is_causal=True", "is_causal=True, scale=1.0"),
    ),
    real(
        3, "erf GELU under weights trained with the tanh form",
        "karpathy/nanoGPT#274", "model", "float64: it moves logits by 1e-4", REFERENCE, models.logits,
        Edit(
            "reference.functional:gelu",
            "(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)).tanh()",
            "(x / math.sqrt(2.0)).erf()",
        ),
    ),
    real(
        3, "erf GELU in the fused kernel alone",
        "karpathy/nanoGPT#274", "model", "the rung fused_kernels", rungs("fused_kernels"), models.logits,
        Edit("optimized.norm_mlp:FusedMLP.forward", 'approximate="tanh"', 'approximate="none"'),
    ),
    real(
        4, "the mask is a finite number, -1e4",
        "karpathy/minGPT#75", "model", "q and k scaled up, so that scores pass it", REFERENCE, models.causality,
        Edit(WEIGHTS, "-math.inf", "-1e4"),
    ),
    real(
        5, "the mask is dropped on one path: the fast one in train mode",
        "keras-team/keras#23038", "model", "train mode", rungs("sdpa"), models.causality,
        Edit("optimized.attention:FlashAttention.forward", "is_causal=True", "is_causal=not self.training"),
    ),
    real(
        5, "the mask is dropped on one path: the second piece of a prompt, with a cache",
        "keras-team/keras#23038", "cache", "a prompt in pieces", rungs("kv_cache"), models.causality,
        Edit("optimized.cache:Cache.mask", "if T == 1 and not self.padded", "if self.length and not self.padded"),
    ),
    real(
        6, "the mask is applied after the softmax",
        "huggingface/pytorch-image-models#2236", "model", "any attention", REFERENCE, models.logits,
        Edit(WEIGHTS, "softmax(scores.masked_fill(future, -math.inf))", "softmax(scores).masked_fill(future, 0.0)"),
    ),
    real(
        7, "the future leaks through a summary of the block, a millionth of its mean",
        "karpathy/nanochat#844", "model", "a change of later tokens", REFERENCE, models.causality,
        Edit("reference.gpt:GPT.hidden", "x = block(x)", "x = block(x) + 1e-6 * x.mean(dim=1, keepdim=True)"),
    ),
    real(
        8, "heads are merged without the transpose",
        "jsbaan/transformer-from-scratch#6", "model", "more than one head", REFERENCE, models.logits,
        Edit("reference.gpt:CausalSelfAttention.forward", "y.transpose(1, 2).reshape(x.shape)", "y.reshape(x.shape)"),
    ),
    real(
        9, "the fused projection is cut head by head, not into q, k and v",
        "awslabs/slapo#46", "model", "weights from another layout", rungs("fused_qkv"), models.logits,
        Edit("optimized.qkv:FusedQKV.forward", "3, self.n_head, C", "self.n_head, 3, C"),
        Edit("optimized.qkv:FusedQKV.forward", "permute(2, 0, 3, 1, 4)", "permute(3, 0, 2, 1, 4)"),
    ),
    real(
        9, "a Hugging Face file is read with k before q",
        "awslabs/slapo#46", "conversion", "weights of Hugging Face", REFERENCE, models.conversion,
        Edit("reference.checkpoints.huggingface:from_hf", 'zip("qkv"', 'zip("kqv"'),
    ),
    real(
        10, "the square Conv1D weight of c_proj is not transposed, either way",
        "karpathy/nanoGPT#190", "conversion", "values: shapes and the round trip are right", REFERENCE,
        models.conversion,
        Edit("reference.checkpoints.huggingface:is_conv1d", '"c_proj.weight"', '"mlp.c_proj.weight"'),
    ),
    real(
        11, "the residual adds to the normalised stream",
        "Howuhh/faster-trajectory-transformer#3", "model", "any input", REFERENCE, models.logits,
        Edit(BLOCK, "x = x + self.attn(self.ln_1(x))", "x = self.ln_1(x)\n    x = x + self.attn(x)"),
    ),
    real(
        12, "LayerNorm divides by C - 1",
        "harvardnlp/annotated-transformer#119", "model", "any input", REFERENCE, models.logits,
        Edit(NORM, "(centred * centred).mean(dim=-1, keepdim=True)", "x.var(dim=-1, keepdim=True)"),
    ),
    real(
        12, "LayerNorm adds eps outside the root",
        "harvardnlp/annotated-transformer#119", "model", "float64, or rows of low variance", REFERENCE, models.logits,
        Edit(NORM, "(variance + eps).sqrt()", "(variance.sqrt() + eps)"),
    ),
    real(
        12, "LayerNorm has an eps of 1e-6, in the fused kernel alone",
        "harvardnlp/annotated-transformer#119", "model", "float64, or rows of low variance", rungs("fused_kernels"),
        models.logits,
        Constant("optimized.norm_mlp:EPS", 1e-6),
    ),
    real(
        13, "is_causal with fewer queries than keys",
        "pytorch/pytorch#108108", "cache", "a prompt in pieces", rungs("kv_cache"), text.cache,
        Edit(ATTEND, "attn_mask=mask", "is_causal=mask is not None"),
    ),
    real(
        14, "positions begin again with each piece",
        "ml-explore/mlx-lm#93", "cache", "a prompt in pieces", rungs("kv_cache"), text.cache,
        Edit("optimized.cache:Cache.positions", "torch.arange(self.length, self.length + T", "torch.arange(0, T"),
    ),
    real(
        15, "slots of the cache that nothing was written to take part",
        "pytorch-labs/gpt-fast#233", "cache", "room for more tokens than there are", rungs("kv_cache"), text.cache,
        Edit(ATTEND, "end = self.length", "end = self.room if mask is None else self.length"),
        Edit(ATTEND, "keys[:, :, self.length : end] = k", "keys[:, :, self.length : self.length + q.shape[2]] = k"),
        Edit(ATTEND, "values[:, :, self.length : end] = v", "values[:, :, self.length : self.length + q.shape[2]] = v"),
    ),
    real(
        15, "the last value of a piece is not written",
        "pytorch-labs/gpt-fast#233", "cache", "any piece", rungs("kv_cache"), text.cache,
        Edit(ATTEND, "values[:, :, self.length : end] = v", "values[:, :, self.length : end - 1] = v[:, :, :-1]"),
    ),
    real(
        16, "dropout of the fast attention is alive in evaluation",
        "karpathy/nanoGPT#240", "model", "dropout above 0", rungs("sdpa"), models.dropout,
        Edit("optimized.attention:FlashAttention.forward", "self.dropout if self.training else 0.0", "self.dropout"),
    ),
    real(
        16, "dropout is dead for good after the first evaluation",
        "karpathy/nanoGPT#240", "evaluation", "dropout above 0; train, evaluate, train", REFERENCE, models.dropout,
        Edit("reference.training.evaluation:evaluating", "model.train(was_training)", "model.train(False)"),
    ),
    real(
        17, "residual projections are not drawn narrower",
        "huggingface/transformers#47458", "initialisation", "fresh weights", REFERENCE, models.initialisation,
        Edit("reference.gpt:GPT.initialise", 'residual if name.endswith("c_proj.weight") else 0.02', "0.02"),
    ),
    real(
        18, "targets are not shifted",
        "huggingface/transformers#404", "data", "any text", REFERENCE, runs.targets,
        Edit("reference.data.batches:Batches.at", "block[:, 1:].contiguous()", "block[:, :-1].contiguous()"),
    ),
    real(
        18, "targets are shifted twice, in the data and in the loss",
        "huggingface/transformers#404", "loss", "a loss worked out elsewhere", REFERENCE, models.loss,
        Edit("reference.gpt:GPT.loss", "logits = self(ids)", "logits, targets = self(ids)[:, :-1], targets[:, 1:]"),
    ),
    real(
        19, "the chunked loss divides by ignored targets too",
        "Lightning-AI/litgpt#751", "loss", "targets that do not count", rungs("fused_loss"), models.gradients,
        Edit(FUSED_LOSS, "count = counted.sum()", "count = torch.tensor(counted.numel())"),
    ),
    real(
        20, "accumulation averages micro-batches with unequal numbers of targets",
        "huggingface/transformers#34191", "step", "unequal numbers of targets", OPTIMIZED, training.accumulation,
        Edit(STEP, "counted = (wanted != IGNORED).sum()", "counted = (wanted != IGNORED).any() * whole / len(pieces)"),
    ),
    real(
        21, "the loss is not divided by the number of micro-batches",
        "karpathy/nanoGPT@553f949f", "step", "the gradient itself, or clipping: AdamW hides it", OPTIMIZED,
        training.accumulation,
        Edit(PIECE, "loss * (counted.to(loss.dtype) / whole)", "loss * (counted > 0)"),
    ),
    real(
        22, "gradients are cleared with every micro-batch",
        "pytorch/torchtitan#3575", "step", "more than one micro-batch", OPTIMIZED, training.accumulation,
        Edit(PIECE, "loss = self.exchange.loss", "self.optimizer.zero_grad()\n    loss = self.exchange.loss"),
    ),
    real(
        23, "a last micro-batch that is short is dropped",
        "huggingface/transformers#39659", "step", "rows that micro-batches do not divide", OPTIMIZED,
        training.accumulation,
        Edit(STEP, "torch.split(ids, rows)", "torch.split(ids, rows)[: len(ids) // rows or 1]"),
        Edit(STEP, "torch.split(targets, rows), strict=True", "torch.split(targets, rows), strict=False"),
    ),
    real(
        23, "a last micro-batch that is short weighs as much as a full one",
        "huggingface/transformers#39659", "step", "rows that micro-batches do not divide", OPTIMIZED,
        training.trajectory,
        Edit(STEP, "counted = (wanted != IGNORED).sum()", "counted = (wanted != IGNORED).sum() * rows // len(part)"),
    ),
    real(
        24, "the cross-entropy is computed in bfloat16",
        "Modalities/modalities#464", "loss", "bfloat16 and large logits", REFERENCE, models.loss_in_bfloat16,
        Edit("reference.gpt:GPT.loss", "logits.to(torch.promote_types(logits.dtype, torch.float32))", "logits"),
    ),
    real(
        24, "the softmax of the fused loss is computed in bfloat16",
        "Modalities/modalities#464", "loss", "bfloat16 and large logits", rungs("fused_loss"), models.loss_in_bfloat16,
        Edit(FUSED_LOSS, "torch.promote_types(compute, torch.float32)", "compute"),
    ),
    real(
        25, "the gradient of the tied table is doubled at the head",
        "pytorch/torchtitan#3174", "model", "gradients: the value is right", REFERENCE, models.gradients,
        Edit("reference.gpt:GPT.forward", "self.wte.weight.T", "(2 * self.wte.weight - self.wte.weight.detach()).T"),
    ),
    real(
        26, "gradients are clipped while they are still scaled up (by 1024, which the mutant brings along)",
        "Lightning-AI/pytorch-lightning#9330", "step", "moments and the gradient norm: AdamW hides the factor",
        REFERENCE, training.one_step,
        Edit(
            "reference.training.step:TrainingStep.__call__",
            "clip_gradients(gradients, self.clip)",
            "clip_gradients([g.mul_(1024) for g in gradients], self.clip) / 1024\n    for g in gradients: g.div_(1024)",
        ),
    ),
    real(
        27, "each rank clips its own gradient before they are averaged",
        "karpathy/nanochat@061f83c", "ranks", "two ranks with unequal shares", OPTIMIZED, training.two_ranks,
        Edit(
            "optimized.step:TrainingStep.__call__",
            "with self.precision.step():",
            "with self.precision.step(), self.exchange.accumulating():",
        ),
        Edit(
            "optimized.step:TrainingStep.__call__",
            "self.gradient_norm = self.optimizer.clip(self.clip)",
            "self.gradient_norm = self.optimizer.clip(self.clip)\n"
            "    for p in self.model.parameters(): p.grad = self.exchange.sum(p.grad) / self.exchange.world",
        ),
    ),
    real(
        28, "AdamW adds eps before the bias correction",
        "karpathy/nanochat@4ddc803", "optimizer", "gradients near eps", REFERENCE, training.optimizer,
        Edit(ADAMW, "(v_hat.sqrt() + self.eps)", "((v.sqrt() + self.eps) / (1.0 - beta2**self.steps) ** 0.5)"),
    ),
    real(
        29, "AdamW has no bias correction",
        "google-research/bert#153", "optimizer", "the first steps", REFERENCE, training.one_step,
        Edit(ADAMW, "m_hat = m / (1.0 - beta1**self.steps)", "m_hat = m"),
        Edit(ADAMW, "v_hat = v / (1.0 - beta2**self.steps)", "v_hat = v"),
    ),
    real(
        30, "decay is L2 in the gradient (in the source the other way round: decoupled in Adam)",
        "flagos-ai/FlagGems#4988", "optimizer", "decay above 0", REFERENCE, training.one_step,
        Edit(
            ADAMW,
            "parameter.mul_(1.0 - self.learning_rate * self.weight_decay)",
            "gradient = gradient + self.weight_decay * parameter",
        ),
    ),
    real(
        30, "the library's Adam in place of its AdamW",
        "flagos-ai/FlagGems#4988", "optimizer", "decay above 0", rungs("fused_adamw"), training.one_step,
        Edit("optimized.optimizer:FusedAdamW.__init__", "torch.optim.AdamW(", "torch.optim.Adam("),
    ),
    real(
        31, "LayerNorms and biases decay too",
        "karpathy/minGPT#23", "optimizer", "decay above 0", REFERENCE, training.one_step,
        Edit("reference.training.adamw:decays", "parameter.dim() >= 2", "parameter.dim() >= 1"),
    ),
    real(
        32, "the learning rate of the first step is 0",
        "karpathy/nanoGPT#578", "schedule", "step 0", REFERENCE, training.schedule,
        Edit("reference.training.schedule:learning_rate", "peak * (step + 1) / warmup", "peak * step / warmup"),
    ),
    real(
        33, "whether a micro-batch exchanges gradients is set after its forward pass, and so holds for the next one",
        "karpathy/build-nanogpt#30", "ranks", "two ranks, two micro-batches", OPTIMIZED, training.two_ranks,
        Edit(STEP, "if number < len(pieces):", "if number > 1:"),
    ),
    real(
        34, "each rank has an order of its own, and they overlap",
        "karpathy/llm.c#792", "data", "two ranks", REFERENCE, runs.coverage,
        Edit("reference.data.batches:Batches.at", "self._row(step, row)", "self._row(step + rank, row)"),
    ),
    real(
        35, "a resumed run begins with the first tokens again",
        "karpathy/llm.c@0bc24c3", "resume", "a stop", REFERENCE, runs.resume,
        Edit(TRAIN, "known = set(validated)", "known, first = set(validated), done"),
        Edit(TRAIN, "batches.at(done,", "batches.at(done - first,"),
    ),
    real(
        35, "a resumed run repeats the step before the stop",
        "karpathy/llm.c@0bc24c3", "resume", "a stop", REFERENCE, runs.resume,
        Edit(TRAIN, "known = set(validated)", "known, first = set(validated), done"),
        Edit(TRAIN, "batches.at(done,", "batches.at(done - (first > 0),"),
    ),
    real(
        35, "tokens come from the first shard whatever the position",
        "karpathy/llm.c@0bc24c3", "data", "more than one shard", REFERENCE, runs.resume,
        Edit(
            "reference.data.shards:TokenSequence._between",
            "self._shards[n][start - begins",
            "self._shards[0][start - begins",
        ),
    ),
    real(
        36, "top-k keeps k tokens and not those that tie with the last",
        "Lightning-AI/litgpt#729", "sampling", "ties", REFERENCE, text.support,
        Edit(
            "reference.sampling:keep_top_k",
            "logits.masked_fill(logits < kth, -math.inf)",
            "torch.full_like(logits, -math.inf).scatter(-1, (top := logits.topk(min(k, logits.shape[-1]))).indices, "
            "top.values)",
        ),
    ),
    real(
        36, "top-p keeps one more where the sum meets p exactly",
        "Lightning-AI/litgpt#729", "sampling", "a sum that is exactly p", REFERENCE, text.support,
        Edit("reference.sampling:keep_top_p", "<= 1.0 - p", "< 1.0 - p"),
    ),
    real(
        37, "temperature 0 divides by zero",
        "karpathy/nanoGPT#738", "sampling", "temperature 0", REFERENCE, text.support,
        Edit("reference.sampling:next_token_probabilities", "if temperature == 0.0:", "if temperature < 0.0:"),
    ),
    real(
        37, "ids of the padding can be drawn",
        "karpathy/build-nanogpt#81", "sampling", "a padded table", rungs("padded_vocab"), text.tokens,
        Edit("optimized.embedding:PaddedTable.logits", "[..., : self.vocab_size]", ""),
    ),
    real(
        38, "all rows of a batch share the token of the first",
        "karpathy/nanochat@8f979a8", "sampling", "several rows of one prompt", REFERENCE, text.tokens,
        Edit(
            "reference.sampling:next_token",
            "torch.multinomial(probabilities, num_samples=1, generator=generator)",
            "torch.multinomial(probabilities[:1], num_samples=1, generator=generator).expand(len(probabilities), 1)",
        ),
    ),
    real(
        39, "the mask of what is judged is off by one (of HellaSwag there; of the last window here)",
        "karpathy/llm.c@8d55c4a", "evaluation", "a text that ends inside a window", REFERENCE, runs.evaluation,
        Edit("reference.data.batches:_window_batch", "targets[row, : len(block) - 1] = block[1:]",
             "targets[row, : len(block) - 2] = block[1:-1]"),
    ),
    real(
        40, "the validation loss is the mean of the batches' means",
        "keras-team/keras-hub#2958", "evaluation", "batches of unequal size", REFERENCE, runs.evaluation,
        Edit("reference.training.evaluation:mean_loss", "total, count = 0.0, 0", "total, count, means = 0.0, 0, []"),
        Edit("reference.training.evaluation:mean_loss", "total += float(loss) * counted", "means.append(float(loss))"),
        Edit(
            "reference.training.evaluation:mean_loss",
            "sums(total, count)", "sums(count * sum(means) / len(means), count)",
        ),
    ),
    real(
        41, "the padding of the vocabulary takes part in the softmax of the loss",
        "karpathy/nanoGPT and karpathy/build-nanogpt", "loss", "a padded table", rungs("padded_vocab"),
        models.padded_vocabulary,
        Edit("optimized.loss:plain_loss", "table.logits(x)", "x @ table.weight.T"),
    ),
    real(
        41, "the padding takes part in the softmax of the fused loss",
        "karpathy/nanoGPT and karpathy/build-nanogpt", "loss", "a padded table and the fused loss", PADDED,
        models.padded_vocabulary,
        Edit("optimized.loss:to_gradient", "logits[:, :vocab_size].to(share.dtype).log_softmax(dim=-1)",
             "logits.to(share.dtype).log_softmax(dim=-1)[:, :vocab_size]"),
    ),
    real(
        42, "a resumed run draws the dropout of the first steps again",
        "karpathy/nanoGPT#467", "resume", "dropout above 0 and a stop", REFERENCE, runs.resume,
        Edit(TRAIN, "known = set(validated)", "known, first = set(validated), done"),
        Edit(TRAIN, "step_randomness(plan.seed, done,", "step_randomness(plan.seed, done - first,"),
    ),
    real(
        43, "the LayerNorms of a block are swapped",
        "measured here: no difference on default weights", "model", "gains and shifts that differ", REFERENCE,
        models.logits,
        Edit(BLOCK, "self.attn(self.ln_1(x))", "self.attn(self.ln_2(x))"),
        Edit(BLOCK, "self.mlp(self.ln_2(x))", "self.mlp(self.ln_1(x))"),
    ),
    real(
        43, "the bias of c_proj is dropped",
        "measured here: no difference on default weights", "model", "biases that are not zero", REFERENCE,
        models.logits,
        Edit("reference.gpt:CausalSelfAttention.forward", "self.c_proj(y)", "y @ self.c_proj.weight.T"),
    ),
    real(
        43, "the biases of q and v are swapped while loading",
        "measured here: no difference on default weights", "model", "biases that are not zero", rungs("fused_qkv"),
        models.logits,
        Edit("optimized.qkv:FusedQKV.from_canonical", "for part in NAMES])",
             'for part in (NAMES if kind == "weight" else NAMES[::-1])])'),
    ),
]  # fmt: skip

OWN = [
    own(
        44, "k and v are swapped, on the way in and on the way out: the round trip is exact",
        "model", "the function, not the checkpoint", rungs("fused_qkv"), models.logits,
        Constant("optimized.qkv:NAMES", ("q_proj", "v_proj", "k_proj")),
    ),
    own(
        45, "keys have no gradient",
        "model", "gradients: the logits are right", REFERENCE, models.gradients,
        Edit("reference.gpt:CausalSelfAttention.weights", "self.k_proj(x)", "self.k_proj(x).detach()"),
    ),
    own(
        46, "LayerNorm's deviation is a constant to the gradient",
        "model", "gradients: the logits are right", REFERENCE, models.gradients,
        Edit(NORM, "(variance + eps).sqrt()", "(variance + eps).sqrt().detach()"),
    ),
    own(
        47, "positions are rolled by one: the first token has the last position",
        "model", "a table of positions without a pattern", REFERENCE, models.logits,
        Edit("reference.gpt:GPT.hidden", "torch.arange(ids.shape[1], device=ids.device)",
             "torch.arange(ids.shape[1], device=ids.device).roll(1)"),
    ),
    own(
        48, "the fused loss keeps the table's gradient of its last chunk only",
        "loss", "more than one chunk, which a small batch has only if chunks are small", rungs("fused_loss"),
        models.gradients,
        Edit(FUSED_LOSS, "dweight.addmm_(logits.T, x[part])", "dweight = logits.T @ x[part]"),
    ),
    own(
        49, "the fused loss gives a last chunk that is short the weight of a full one",
        "loss", "rows that chunks do not divide", rungs("fused_loss"), models.gradients,
        Edit(FUSED_LOSS, "share[part, None]", "share[part, None] * min(rows, len(x)) / len(x[part])"),
    ),
    own(
        50, "the fused loss passes its gradient on without the factor from behind",
        "loss", "a loss that is scaled before backward, as accumulation does", rungs("fused_loss"),
        training.accumulation,
        Edit("optimized.loss:HeadAndLoss.backward", "(dx * grad)", "(dx * 1.0)"),
    ),
    own(
        51, "padding rows are filled with a thousandth, not with zero",
        "conversion", "the rows beyond the vocabulary", rungs("padded_vocab"), models.padded_vocabulary,
        Edit("optimized.embedding:pad", "len(own) - module.vocab_size))", "len(own) - module.vocab_size), value=1e-3)"),
    ),
    own(
        52, "padded rows count their positions from the padding",
        "cache", "prompts of unequal length", rungs("kv_cache"), text.cache,
        Edit("optimized.cache:Cache.positions", "columns - self.padding", "columns + 0 * self.padding"),
    ),
    own(
        53, "padding is looked at",
        "cache", "prompts of unequal length", rungs("kv_cache"), text.cache,
        Edit("optimized.cache:Cache.mask", "(columns <= rows) & real |", "(columns <= rows) | real & False |"),
    ),
    own(
        54, "beyond the block size the cached text loses a token too many",
        "cache", "a text longer than the block size", rungs("kv_cache"), text.tokens,
        Edit("optimized.generation:cached_stream", "max(0, width - block)", "max(0, width - block + (width > block))"),
    ),
    own(
        55, "beyond the block size the first tokens are looked at, not the last",
        "sampling", "a text longer than the block size", REFERENCE, text.tokens,
        Edit("reference.sampling:stream", "ids[:, -model.config.block_size :]", "ids[:, : model.config.block_size]"),
    ),
    own(
        56, "the product of one row leaves the bias out",
        "cache", "a single row and biases that are not zero", rungs("kv_cache"), text.cache,
        Edit("optimized.gemv:RowLinear.forward", "y if self.bias is None else y + self.bias", "y"),
    ),
    own(
        57, "the copy that generates is kept though the weights have changed",
        "cache", "bfloat16, and a step between two texts", rungs("kv_cache"), text.text_after_a_step,
        Edit("optimized.inference_copies:InferenceCopies.of", "kept is None or kept[0] != versions", "kept is None"),
    ),
    own(
        58, "the fused AdamW updates weights without raising their version counter",
        "optimizer", "bfloat16, and a step between two texts", rungs("kv_cache", "fused_adamw"), text.text_after_a_step,
        Edit("optimized.optimizer:FusedAdamW.step", "version(self.parameters.values())", "version([])"),
    ),
    own(
        59, "a micro-batch in which nothing counts is not a number",
        "step", "a micro-batch without targets", OPTIMIZED, training.accumulation,
        Edit(PIECE, "torch.where(counted == 0, targets.clamp(min=0), targets)", "targets"),
    ),
    own(
        60, "gradients of two ranks are halved: averaged, and shared out as well",
        "ranks", "two ranks, and moments: AdamW hides it", OPTIMIZED, training.two_ranks,
        Edit(PIECE, "backward(share * self.exchange.world)", "backward(share)"),
    ),
    own(
        61, "gradients below the limit are scaled up to it",
        "step", "a gradient below the limit, and moments", REFERENCE, training.one_step,
        Edit("reference.training.adamw:clip_gradients", ".clamp(max=1.0)", ""),
    ),
    own(
        62, "the gradient norm that is reported is the one after clipping",
        "step", "a gradient above the limit", REFERENCE, training.one_step,
        Edit("reference.training.adamw:clip_gradients", "return norm", "return norm * scale"),
    ),
    own(
        63, "each tensor is clipped by itself",
        "step", "a gradient above the limit", REFERENCE, training.one_step,
        Edit("reference.training.adamw:clip_gradients", "gradient.mul_(scale)",
             "gradient.mul_((limit / torch.linalg.vector_norm(gradient)).clamp(max=1.0))"),
    ),
    own(
        64, "the fused AdamW corrects its bias from step 1 again after loading",
        "resume", "moments that are loaded", rungs("fused_adamw"), runs.resume,
        Edit("optimized.optimizer:FusedAdamW.load_state_dict", "fill_(self.steps)", "fill_(0)"),
    ),
    own(
        65, "the step count of AdamW is one too high after loading",
        "resume", "moments that are loaded", REFERENCE, runs.resume,
        Edit("reference.training.adamw:AdamW.load_state_dict", 'int(state["step"])', 'int(state["step"]) + 1'),
    ),
    own(
        66, "ignored targets count as token 0 with a weight of their own",
        "loss", "targets that do not count", REFERENCE, models.loss,
        Edit("reference.functional:cross_entropy", ".masked_fill(~counted, 0.0)", ""),
        Edit("reference.functional:cross_entropy", "losses.sum() / counted.sum()", "losses.mean()"),
    ),
    own(
        67, "validation runs with dropout",
        "evaluation", "a model that differs between its modes", REFERENCE, runs.evaluation,
        Edit("reference.training.evaluation:mean_loss", "with evaluating(model):", "if True:"),
    ),
    own(
        68, "of several ranks, one that has nothing left judges the last batch again",
        "evaluation", "batches that ranks do not divide", REFERENCE, runs.evaluation,
        Edit("reference.training.evaluation:shared", "torch.full_like(targets, IGNORED)", "targets"),
    ),
    own(
        69, "the cosine is a step ahead",
        "schedule", "the first step after warm-up", REFERENCE, training.schedule,
        Edit("reference.training.schedule:learning_rate", "(step - warmup) /", "(step - warmup + 1) /"),
    ),
    own(
        70, "the last start of a row is never drawn",
        "data", "a short text, or counting", REFERENCE, runs.coverage,
        Edit("reference.data.batches:Batches._row", "below=len(self.tokens) -", "below=len(self.tokens) - 1 -"),
    ),
    own(
        71, "the seed of a row leaves the step out: every step sees the same rows",
        "data", "two steps", REFERENCE, runs.coverage,
        Edit("reference.data.batches:_hashed", "{seed} {step} {row}", "{seed} {row}"),
    ),
    own(
        72, "a checkpoint keeps its weights in bfloat16",
        "checkpoint", "the last bits", REFERENCE, runs.checkpoint,
        Edit("reference.checkpoints.checkpoint:save", "weights = to_hf(checkpoint.model, checkpoint.config)",
             "weights = {n: t.bfloat16().to(t.dtype) for n, t in to_hf(checkpoint.model, checkpoint.config).items()}"),
    ),
    own(
        73, "the two moments are saved under one another's names, and loaded so",
        "checkpoint", "moments from elsewhere: the round trip is exact", rungs("fused_adamw"), training.one_step,
        Edit("optimized.optimizer:FusedAdamW.moments", "self.adamw.state[p][kind]",
             'self.adamw.state[p]["exp_avg_sq" if kind == "exp_avg" else "exp_avg"]'),
    ),
    own(
        74, "dropout of the fast attention is dead",
        "model", "dropout above 0, of the attention alone", rungs("sdpa"), models.dropout,
        Edit("optimized.attention:FlashAttention.forward", "self.dropout if self.training else 0.0", "0.0"),
    ),
    own(
        75, "top-p keeps nothing where p is tiny",
        "sampling", "p below rounding", REFERENCE, text.support,
        Edit("reference.sampling:keep_top_p", "dropped[..., -1] = False", "pass"),
    ),
    own(
        76, "top-p comes before the temperature",
        "sampling", "both set", REFERENCE, text.support,
        Edit("reference.sampling:next_token_probabilities", "logits = logits / temperature",
             "logits = (keep_top_p(logits, top_p) if top_p else logits) / temperature"),
    ),
    own(
        77, "the learning rate of a step is that of the next one",
        "step", "a rate that changes", OPTIMIZED, training.trajectory,
        Edit("optimized.step:TrainingStep.__call__", "rate(self.optimizer.steps)", "rate(self.optimizer.steps + 1)"),
    ),
    own(
        78, "all ranks drop the same places",
        "ranks", "two ranks and dropout above 0", REFERENCE, runs.randomness,
        Edit(
            "reference.training.loop:step_randomness", 'f"dropout of rank {rank}" if rank else "dropout"', '"dropout"'
        ),
    ),
    own(
        79, "all steps drop the same places",
        "step", "two steps and dropout above 0", REFERENCE, runs.randomness,
        Edit("reference.training.loop:derived_seed", "(start + number)", "start"),
    ),
    own(
        80, "a checkpoint too many is removed",
        "checkpoint", "more than one", REFERENCE, runs.checkpoint,
        Edit("reference.checkpoints.checkpoint:prune", "kept >= keep", "kept >= keep - 1"),
    ),
    own(
        81, "with a cache the last LayerNorm is left out where one token is asked for",
        "cache", "the path of generation, not of the whole text", rungs("kv_cache"), text.tokens,
        Edit("optimized.generation:CachedGPT.extend", "model.ln_f(x[:, -last:])",
             "model.ln_f(x[:, -last:]) if last == T else x[:, -last:]"),
    ),
    own(
        82, "q and v are swapped while saving: what runs is right, what is saved is not",
        "checkpoint", "the saved state, held against the one loaded", rungs("fused_qkv"), models.state_dict,
        Edit("optimized.qkv:FusedQKV.to_canonical", "fused.chunk(3)[third]", "fused.chunk(3)[2 - third]"),
    ),
    own(
        83, "token files of a folder are read from the last to the first",
        "data", "more than one shard", REFERENCE, runs.shards,
        Edit("reference.data.shards:open_tokens", "file.suffix in SUFFIXES)", "file.suffix in SUFFIXES)[::-1]"),
    ),
    own(
        84, "a parameter without a gradient decays all the same",
        "optimizer", "a parameter that has no part in the loss", REFERENCE, training.optimizer,
        Edit(ADAMW, "            continue", "            parameter.mul_(0.9999); continue"),
    ),
    own(
        85, "the fused loss adds up the table's gradient over its chunks in bfloat16",
        "loss", "bfloat16 and many chunks", rungs("fused_loss"), models.rounding,
        Edit(FUSED_LOSS, "torch.zeros_like(weight, dtype=exact)", "torch.zeros_like(weight, dtype=compute)"),
    ),
    own(
        86, "the residual is added in place to the branch, and so in the branch's precision",
        "model", "bfloat16: elsewhere both are the same", OPTIMIZED, models.precision,
        Edit("optimized.gpt:Block.forward", "x = x + self.mlp(self.ln_2(x))", "x = self.mlp(self.ln_2(x)).add_(x)"),
    ),
    own(
        87, "the written-out softmax runs in bfloat16",
        "model", "bfloat16", OPTIMIZED, models.precision,
        Edit("optimized.attention:ExplicitAttention.forward",
             "scores.to(torch.promote_types(scores.dtype, torch.float32))", "scores"),
    ),
]  # fmt: skip

MUTANTS = [*REAL, *OWN]
