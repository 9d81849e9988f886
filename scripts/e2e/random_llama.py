#!/usr/bin/env python3
"""Makes a Llama with random weights in Hugging Face's layout: for measuring speed where no real weights are at hand.

    scripts/e2e/random_llama.py DIR [--shape llama-2-7b|tiny] [--dtype float16|bfloat16] [--seed N]    needs torch and safetensors

The shape `llama-2-7b` is that of its published config.json. The tokenizer is ours: it encodes bytes, and decodes each of the other ids
to a made-up word, so that every token a random model may choose is some text. Answers mean nothing.
"""

import argparse
import json
import pathlib

SHAPES = {
    "llama-2-7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
    },
    "tiny": {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
        "max_position_embeddings": 512,
    },
}
STD = 0.02  # initializer_range of the published config
SPECIAL = ["<unk>", "<s>", "</s>"]
CHAT_TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:"


def config(shape, dtype):
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **shape,
        "hidden_act": "silu",
        "initializer_range": STD,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": dtype,
        "use_cache": True,
    }


def byte_letters():
    """The printable letter that byte-level tokenizers write for each byte (GPT-2's table)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {**{byte: chr(byte) for byte in plain}, **{byte: chr(256 + n) for n, byte in enumerate(others)}}


def tokenizer(vocab_size):
    letters = byte_letters()
    words = SPECIAL + [letters[byte] for byte in range(256)]
    words += [f"Ġw{number}" for number in range(vocab_size - len(words))]
    special = [
        {"id": number, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for number, text in enumerate(SPECIAL)
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {word: number for number, word in enumerate(words)},
            "merges": [],
        },
    }


def tensors_of_layer(shape, layer):
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    kv = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    at = f"model.layers.{layer}."
    return {
        f"{at}self_attn.q_proj.weight": (hidden, hidden),
        f"{at}self_attn.k_proj.weight": (kv, hidden),
        f"{at}self_attn.v_proj.weight": (kv, hidden),
        f"{at}self_attn.o_proj.weight": (hidden, hidden),
        f"{at}mlp.gate_proj.weight": (inner, hidden),
        f"{at}mlp.up_proj.weight": (inner, hidden),
        f"{at}mlp.down_proj.weight": (hidden, inner),
        f"{at}input_layernorm.weight": (hidden,),
        f"{at}post_attention_layernorm.weight": (hidden,),
    }


def shards(shape):
    """Names and shapes, a file at a time: a layer each, and one with the rest."""
    hidden, vocab = shape["hidden_size"], shape["vocab_size"]
    yield {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,), "lm_head.weight": (vocab, hidden)}
    for layer in range(shape["num_hidden_layers"]):
        yield tensors_of_layer(shape, layer)


def write_weights(out, shape, dtype, seed):
    import torch
    from safetensors.torch import save_file

    device = "cuda" if torch.cuda.is_available() else "cpu"
    random = torch.Generator(device).manual_seed(seed)
    kind = getattr(torch, dtype)
    files = list(shards(shape))
    where, n_bytes = {}, 0
    for number, names in enumerate(files, 1):
        made = {}
        for name, size in names.items():
            # Norms are ones, as at the start of training: random ones would make the hidden states explode.
            data = torch.ones(size, device=device) if len(size) == 1 else torch.randn(size, generator=random, device=device) * STD
            made[name] = data.to(kind).cpu().contiguous()
            n_bytes += made[name].numel() * made[name].element_size()
        file = f"model-{number:05}-of-{len(files):05}.safetensors"
        save_file(made, out / file, metadata={"format": "pt"})
        where.update(dict.fromkeys(names, file))
    index = {"metadata": {"total_size": n_bytes}, "weight_map": where}
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
    return n_bytes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--shape", choices=list(SHAPES), default="llama-2-7b")
    parser.add_argument("--dtype", choices=["float16", "bfloat16"], default="float16")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    args.out.mkdir(parents=True, exist_ok=True)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokens = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": shape["max_position_embeddings"], **names}
    files = {
        "config.json": config(shape, args.dtype),
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2},
        "tokenizer.json": tokenizer(shape["vocab_size"]),
        "tokenizer_config.json": {**tokens, "chat_template": CHAT_TEMPLATE},
        "special_tokens_map.json": names,
    }
    for name, content in files.items():
        (args.out / name).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    n_bytes = write_weights(args.out, shape, args.dtype, args.seed)
    print(f"{args.out}: {n_bytes / 1e9:.2f} GB of random {args.dtype} weights, {args.shape}")


if __name__ == "__main__":
    main()
