"""The layouts of public GPT-2s: names of their tensors, as their code gives them, and arrangements.

{i} stands for the layer, {h} for the head; arrangements as in bench/weights/axes.py.
"""

from __future__ import annotations

from bench.weights.rules import Rule

QKV = ("q", "k", "v")


def rule(own: str, ours: str, axes: str) -> Rule:
    """A rule; "qkv" stands for the three projections."""
    names = tuple(ours.replace("qkv", f"{letter}_proj") for letter in QKV) if "qkv" in ours else (ours,)
    return Rule(own, names, axes)


def pair(own: str, ours: str, weight: str, bias: str | None, names: tuple[str, str] = ("weight", "bias")) -> list[Rule]:
    """A weight and its bias."""
    found = [rule(f"{own}{names[0]}", f"{ours}.weight", weight)]
    return found + ([] if bias is None else [rule(f"{own}{names[1]}", f"{ours}.bias", bias)])


def layer(own: str, **parts: tuple[str, str, str]) -> list[Rule]:
    """The linear layers of a block: name, arrangement of weight and bias."""
    ours = {"q": "attn.q_proj", "k": "attn.k_proj", "v": "attn.v_proj", "qkv": "attn.qkv", "o": "attn.c_proj"}
    ours |= {"up": "mlp.c_fc", "down": "mlp.c_proj"}
    out = []
    for part, (name, weight, bias) in parts.items():
        out += pair(f"{own}{name}.", f"h.{{i}}.{ours[part]}", weight, bias)
    return out


def norms(first: str, second: str, last: str, names: tuple[str, str] = ("weight", "bias")) -> list[Rule]:
    """The three norms."""
    return [
        *pair(first, "h.{i}.ln_1", "c", "c", names),
        *pair(second, "h.{i}.ln_2", "c", "c", names),
        *pair(last, "ln_f", "c", "c", names),
    ]


def tables(token: str, position: str, head: str | None = None, position_axes: str = "t c") -> list[Rule]:
    """Token table, position table, head."""
    out = [rule(token, "wte.weight", "v c"), rule(position, "wpe.weight", position_axes)]
    return out + ([] if head is None else [rule(head, "wte.weight", "v c")])


def linears(**names: str) -> dict[str, tuple[str, str, str]]:
    """Linear layers by their names."""
    sizes = {"o": ("c (h d)", "c"), "up": ("f c", "f"), "down": ("c f", "c"), "qkv": ("(s h d) c", "(s h d)")}
    return {part: (name, *sizes.get(part, ("(h d) c", "(h d)"))) for part, name in names.items()}


PUBLIC: dict[str, list[Rule]] = {
    "minGPT of 2020": [
        *tables("tok_emb.weight", "pos_emb", "head.weight", "1 t c"),
        *norms("blocks.{i}.ln1.", "blocks.{i}.ln2.", "ln_f."),
        *layer("blocks.{i}.attn.", **linears(k="key", q="query", v="value", o="proj")),
        *layer("blocks.{i}.mlp.", **linears(up="0", down="2")),
    ],
    "the lecture's gpt.py, with biases": [
        *tables("token_embedding_table.weight", "position_embedding_table.weight", "lm_head.weight"),
        *layer("blocks.{i}.sa.heads.{h}.", k=("key", "d c", "d"), q=("query", "d c", "d"), v=("value", "d c", "d")),
        *layer("blocks.{i}.", **linears(o="sa.proj", up="ffwd.net.0", down="ffwd.net.2")),
        *norms("blocks.{i}.ln1.", "blocks.{i}.ln2.", "ln_f."),
    ],
    "LLMs from scratch": [
        *tables("tok_emb.weight", "pos_emb.weight", "out_head.weight"),
        *layer("trf_blocks.{i}.att.", **linears(q="W_query", k="W_key", v="W_value", o="out_proj")),
        *layer("trf_blocks.{i}.ff.layers.", **linears(up="0", down="2")),
        *norms("trf_blocks.{i}.norm1.", "trf_blocks.{i}.norm2.", "final_norm.", ("scale", "shift")),
    ],
    "TransformerLens": [
        *tables("embed.W_E", "pos_embed.W_pos"),
        rule("unembed.W_U", "wte.weight", "c v"),
        *norms("blocks.{i}.ln1.", "blocks.{i}.ln2.", "ln_final.", ("w", "b")),
        *(
            one
            for letter in "QKV"
            for one in (
                rule(f"blocks.{{i}}.attn.W_{letter}", f"h.{{i}}.attn.{letter.lower()}_proj.weight", "h c d"),
                rule(f"blocks.{{i}}.attn.b_{letter}", f"h.{{i}}.attn.{letter.lower()}_proj.bias", "h d"),
            )
        ),
        rule("blocks.{i}.attn.W_O", "h.{i}.attn.c_proj.weight", "h d c"),
        rule("blocks.{i}.attn.b_O", "h.{i}.attn.c_proj.bias", "c"),
        rule("blocks.{i}.mlp.W_in", "h.{i}.mlp.c_fc.weight", "c f"),
        rule("blocks.{i}.mlp.b_in", "h.{i}.mlp.c_fc.bias", "f"),
        rule("blocks.{i}.mlp.W_out", "h.{i}.mlp.c_proj.weight", "f c"),
        rule("blocks.{i}.mlp.b_out", "h.{i}.mlp.c_proj.bias", "c"),
    ],
    "GPT-NeoX": [
        *tables("gpt_neox.embed_in.weight", "gpt_neox.embed_pos.weight", "embed_out.weight"),
        *norms(
            "gpt_neox.layers.{i}.input_layernorm.",
            "gpt_neox.layers.{i}.post_attention_layernorm.",
            "gpt_neox.final_layer_norm.",
        ),
        *layer(
            "gpt_neox.layers.{i}.",
            qkv=("attention.query_key_value", "(h s d) c", "(h s d)"),
            o=("attention.dense", "c (h d)", "c"),
            up=("mlp.dense_h_to_4h", "f c", "f"),
            down=("mlp.dense_4h_to_h", "c f", "c"),
        ),
    ],
    "OPT, fairseq": [
        *tables("model.decoder.embed_tokens.weight", "model.decoder.embed_positions.weight", "lm_head.weight"),
        *layer("model.decoder.layers.{i}.self_attn.", **linears(k="k_proj", v="v_proj", q="q_proj", o="out_proj")),
        *layer("model.decoder.layers.{i}.", **linears(up="fc1", down="fc2")),
        *norms(
            "model.decoder.layers.{i}.self_attn_layer_norm.",
            "model.decoder.layers.{i}.final_layer_norm.",
            "model.decoder.final_layer_norm.",
        ),
    ],
    "nn.TransformerEncoderLayer": [
        *tables("embed.weight", "pos", "head.weight", "1 t c"),
        rule("encoder.layers.{i}.self_attn.in_proj_weight", "h.{i}.attn.qkv.weight", "(s h d) c"),
        rule("encoder.layers.{i}.self_attn.in_proj_bias", "h.{i}.attn.qkv.bias", "(s h d)"),
        *layer("encoder.layers.{i}.", **linears(o="self_attn.out_proj", up="linear1", down="linear2")),
        *norms("encoder.layers.{i}.norm1.", "encoder.layers.{i}.norm2.", "norm."),
    ],
    "LitGPT": [
        *tables("transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight"),
        *norms("transformer.h.{i}.norm_1.", "transformer.h.{i}.norm_2.", "transformer.ln_f."),
        *layer("transformer.h.{i}.attn.", **linears(qkv="qkv", o="proj")),
        *layer("transformer.h.{i}.mlp.", **linears(up="fc", down="proj")),
    ],
    "wq, wk, wv, wo": [
        *tables("tok_embeddings.weight", "pos_embeddings.weight", "output.weight"),
        *layer("layers.{i}.attention.", **linears(q="wq", k="wk", v="wv", o="wo")),
        *layer("layers.{i}.feed_forward.", **linears(up="w1", down="w2")),
        *norms("layers.{i}.attention_norm.", "layers.{i}.ffn_norm.", "norm."),
    ],
    "pairs of attention and feed-forward": [
        *tables("token_emb.weight", "pos_emb.weight", "to_logits.weight"),
        *pair("layers.{i}.0.norm.", "h.{i}.ln_1", "c", "c"),
        *layer("layers.{i}.0.", **linears(qkv="to_qkv", o="to_out")),
        *pair("layers.{i}.1.net.0.", "h.{i}.ln_2", "c", "c"),
        *layer("layers.{i}.1.", **linears(up="net.1", down="net.3")),
        *pair("final.", "ln_f", "c", "c"),
    ],
    "BERT's names": [
        *tables("embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"),
        *layer("encoder.layer.{i}.attention.self.", **linears(q="query", k="key", v="value")),
        *layer("encoder.layer.{i}.", **linears(o="attention.output.dense")),
        *pair("encoder.layer.{i}.attention.ln.", "h.{i}.ln_1", "c", "c"),
        *layer("encoder.layer.{i}.", **linears(up="intermediate.dense", down="output.dense")),
        *pair("encoder.layer.{i}.output.ln.", "h.{i}.ln_2", "c", "c"),
        *pair("encoder.ln.", "ln_f", "c", "c"),
    ],
    "GPT-J's names": [
        *tables("transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight"),
        *norms("transformer.h.{i}.ln_1.", "transformer.h.{i}.ln_2.", "transformer.ln_f."),
        *layer("transformer.h.{i}.attn.", **linears(q="q_proj", k="k_proj", v="v_proj", o="out_proj")),
        *layer("transformer.h.{i}.mlp.", **linears(up="fc_in", down="fc_out")),
    ],
    "Megatron": [
        *tables("embedding.word_embeddings.weight", "embedding.position_embeddings.weight"),
        *norms(
            "decoder.layers.{i}.input_layernorm.", "decoder.layers.{i}.pre_mlp_layernorm.", "decoder.final_layernorm."
        ),
        *layer(
            "decoder.layers.{i}.",
            o=("self_attention.linear_proj", "c (h d)", "c"),
            qkv=("self_attention.linear_qkv", "(h s d) c", "(h s d)"),
            up=("mlp.linear_fc1", "f c", "f"),
            down=("mlp.linear_fc2", "c f", "c"),
        ),
    ],
    "norms by hand": [
        *tables("E.weight", "P", None),
        *layer("stack.{i}.", **linears(q="Wq", k="Wk", v="Wv", o="Wo", up="W1", down="W2")),
        *norms("stack.{i}.n1.", "stack.{i}.n2.", "n.", ("a_2", "b_2")),
    ],
    "Flax's names": [
        *tables("wte.embedding", "wpe.embedding"),
        *norms("h.{i}.ln_1.", "h.{i}.ln_2.", "ln_f.", ("scale", "bias")),
        *pair("h.{i}.attn.c_attn.", "h.{i}.attn.qkv", "c (s h d)", "(s h d)", ("kernel", "bias")),
        *pair("h.{i}.attn.c_proj.", "h.{i}.attn.c_proj", "(h d) c", "c", ("kernel", "bias")),
        *pair("h.{i}.mlp.c_fc.", "h.{i}.mlp.c_fc", "c f", "f", ("kernel", "bias")),
        *pair("h.{i}.mlp.c_proj.", "h.{i}.mlp.c_proj", "f c", "c", ("kernel", "bias")),
    ],
    "blocks compiled one by one": [
        *tables("transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight"),
        *norms("transformer.h.{i}._orig_mod.ln_1.", "transformer.h.{i}._orig_mod.ln_2.", "transformer.ln_f."),
        *layer("transformer.h.{i}._orig_mod.attn.", **linears(qkv="c_attn", o="c_proj")),
        *layer("transformer.h.{i}._orig_mod.mlp.", **linears(up="c_fc", down="c_proj")),
    ],
}
