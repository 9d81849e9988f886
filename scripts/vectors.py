#!/usr/bin/env python3
"""Regenerates tests/vectors/*.json by running the published code of KIVI, GEAR and vLLM's TurboQuant on the CPU.

    scripts/vectors.py --kivi DIR COMMIT --gear DIR COMMIT --vllm DIR RELEASE [--out tests/vectors]

Needs torch, triton, numpy, clones of jy-yuan/KIVI and opengear-project/GEAR, and an unpacked vllm wheel. Each file is imported
from its folder as it stands; its SHA-256 and the version given go into the JSON beside the numbers it gave.
"""
import argparse
import hashlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace as Stub

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported: its kernels then run on CPU tensors
import torch  # noqa: E402
import triton  # noqa: E402

KIVI = "quant/new_pack.py"
GEAR = "GenerationBench/GenerationTest/GEARLM/Simulated/compress_function.py"
VLLM = [f"vllm/model_executor/layers/quantization/turboquant/{f}.py" for f in ("config", "centroids")]
VLLM += [f"vllm/v1/attention/ops/triton_turboquant_{f}.py" for f in ("decode", "store")]  # in this order: store imports decode
GEAR_NOTES = (
    "base = fp16 of the quantised tensor with its outliers put back; out = fp16(base + low rank). Outliers: `outliers` smallest "
    "and as many largest of each vector: one channel over ALL tokens (k), one token over heads*head_dim (v); the number is "
    "floor(floor(heads*tokens*head_dim*left)/tokens/2) on both sides, so for k it does not follow the vector's length. They "
    "become the fp32 mean of the whole vector, outliers included; then groups are quantised (k: `group` tokens of one channel, "
    "tokens past the last whole group untouched; v: `group` neighbours of the token's head-major heads*head_dim), all in fp32: "
    "scale = (max-min)/(2^bits-1), code = round_half_even(relu((x-min)/scale)), no upper clamp, code*scale+min. E = fp32(x) - "
    "base, per head. P = p0; loop times: Q = E P, P = E^T Q; in the last pass P = qr(P).Q before and Q = qr(Q).Q between. Low "
    "rank = Q P^T in fp32, never rounded by itself.")
TQ_NOTES = (
    "H = Sylvester Hadamard / sqrt(head_dim), no signs. Store: norm = |k| in fp32, y = k/(norm+1e-8) @ H, code = number of "
    "midpoints <= y (a tie goes up), midpoints = halves of neighbouring fp32 centroids; k_norm = fp16(|k|), not corrected. v: "
    "scale = max((max-min)/15, 1e-8) and min in fp32, code = trunc((v-min)/scale+0.5) clamped to 0..15 with those; only then both "
    "become fp16. Read: c = centroids[code], c *= 1/sqrt(sum c^2 + 1e-16) (the norm correction is at READ), k_rot = fp16(norm*c), "
    "still rotated; k_out = fp16(k_rot @ fp16(H)) as in upstream's chunked prefill (its decode rotates q and stays in fp32); "
    "v_out = fp16(code*scale+min).")


def load(root, path):
    name = path[:-3].replace("/", ".")  # the name its siblings import it by
    spec = importlib.util.spec_from_file_location(name, Path(root) / path)
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def source(repo, version, root, paths, how, cases, **more):
    sums = {p: hashlib.sha256((Path(root) / p).read_bytes()).hexdigest() for p in paths}
    return {"source": dict(repo=repo, version=version, sha256=sums, how=how), "torch": torch.__version__, **more, "cases": cases}


def numbers(**tensors):
    """Flat lists that read back to the same values: fp16 and integers as they are, fp32 by its shortest decimal."""
    flat = {k: t.detach().contiguous().flatten().numpy() for k, t in tensors.items()}
    return {k: [float(str(v)) for v in a] if a.dtype == "float32" else a.tolist() for k, a in flat.items()}


def data(seed, tokens, head_dim, loud=()):
    """Seeded normals rounded to fp16; the channels in `loud` are far larger and off centre, as real keys have."""
    x = torch.randn(tokens, head_dim, generator=torch.Generator().manual_seed(seed))
    for i, c in enumerate(loud):
        x[:, c] = x[:, c] * 4 + (6 if i % 2 == 0 else -9)
    return x.half()


def kivi(root, version):
    up, cases = load(root, KIVI), []
    for seed, (side, bits, group) in enumerate([("k", 2, 32), ("k", 4, 32), ("k", 2, 64), ("v", 2, 32), ("v", 4, 32), ("v", 4, 64)]):
        tokens, dim = (64, 8) if side == "k" else (8, 64)  # keys need whole groups of tokens, values of channels; 512 numbers do
        x = data(100 + seed, tokens, dim, (1, 5))
        packed, scale, low = getattr(up, f"quant_and_pack_{side}cache")(x[None, None].clone(), group, bits)
        codes = up.unpack_tensor(packed, bits, pack_dim=2 if side == "k" else 3)
        out = getattr(up, f"unpack_and_dequant_{side}cache")(packed, scale, low, group, bits)
        if side == "k":  # [1, 1, groups, 1, dim] becomes one row of groups per channel
            scale, low = (t[0, 0, :, 0].T for t in (scale, low))
        cases.append({"side": side, "bits": bits, "group": group, "tokens": tokens, "head_dim": dim,
                      **numbers(x=x, scale=scale, min=low, codes=codes, out=out)})
    return source("jy-yuan/KIVI", version, root, [KIVI], "quant_and_pack_* and unpack_and_dequant_* run in fp16 on a CPU", cases)


def gear(root, version):
    up, cases, drawn, rand = load(root, GEAR), [], [], torch.rand
    # A call draws the power iteration's P, all that another implementation lacks, then a Q that it overwrites unread.
    spy = lambda *shape: drawn.append(rand(*shape)) or drawn[-1].clone()  # noqa: E731
    shapes = [("k", 36, 8, 2, 16, 0.15), ("k", 36, 8, 4, 16, 0.3), ("v", 12, 32, 2, 32, 0.04), ("v", 12, 32, 4, 16, 0.1)]
    for seed, (side, tokens, dim, bits, group, left) in enumerate(shapes):
        heads, rank, loop, kind = 2, 4, 3, "channelQ" if side == "k" else "tokenQ"
        x = torch.stack([data(200 + 10 * seed + h, tokens, dim, (1, 5)) for h in range(heads)])
        torch.manual_seed(300 + seed)
        torch.rand = spy
        out = getattr(up, f"gearslkivi_{kind}_new")(x[None].clone(), bits, group, left, rank, loop).half()
        torch.rand = rand
        base = getattr(up, f"gears_{kind}")(x[None].clone(), bits, group, left)
        cases.append({"side": side, "bits": bits, "group": group, "left": left, "rank": rank, "loop": loop, "heads": heads,
                      "tokens": tokens, "head_dim": dim, "outliers": int(int(x.numel() * left) / tokens / 2),
                      **numbers(x=x, p0=drawn[-2], base=base, out=out)})
    how = "gearslkivi_{channelQ,tokenQ}_new (out) and gears_{channelQ,tokenQ} (base) run on a CPU"
    return source("opengear-project/GEAR", version, root, [GEAR], how, cases, notes=GEAR_NOTES)


def turboquant(root, version):
    # What the kernel files import and never call here; the rest of vLLM is not needed.
    sys.modules["vllm.triton_utils"] = Stub(triton=triton, tl=triton.language)
    sys.modules["vllm.platforms"] = Stub(current_platform=Stub(is_cuda_alike=lambda: False))
    sys.modules["vllm.v1.attention.ops.triton_decode_attention"] = Stub(_fwd_kernel_stage2=None)
    config, centroids, decode, store = (load(root, p) for p in VLLM)
    cases = []
    for seed, dim, rows in ((400, 128, 4), (401, 64, 4)):
        cfg = config.TurboQuantConfig.from_cache_dtype("turboquant_4bit_nc", dim)
        k, v, half, kps = data(seed, rows, dim, (3, 17)), data(seed + 50, rows, dim), dim // 2, cfg.key_packed_size
        rot = torch.tensor([[(-1.0) ** (i & j).bit_count() for j in range(dim)] for i in range(dim)]) / dim**0.5
        cent = centroids.get_centroids(dim, cfg.centroid_bits)
        mids, y = (cent[:-1] + cent[1:]) / 2, k.double() / k.double().norm(dim=1, keepdim=True) @ rot.double()
        assert (y[..., None] - mids).abs().min() > 2e-6, "a code hangs on the order of a sum: take another seed"
        cache = torch.zeros(1, rows, 1, cfg.slot_size_aligned, dtype=torch.uint8)
        store.triton_turboquant_store(k[:, None], v[:, None], cache, torch.arange(rows, dtype=torch.int32), rot, mids,
                                      cfg.key_mse_bits, kps, cfg.effective_value_quant_bits)
        k_rot, v_out = (torch.zeros(1, 1, rows, dim, dtype=torch.float16) for _ in "kv")
        decode._tq_full_dequant_kv[(rows, 1)](
            cache, torch.zeros(1, 1, dtype=torch.int32), cent, k_rot, v_out, *k_rot.stride()[:3], *v_out.stride()[:3],
            *cache.stride()[:3], 1, HEAD_DIM=dim, BLOCK_SIZE=rows, NUM_KV_HEADS=1, MSE_BYTES=half, KPS=kps, VQB=4,
            VAL_DATA_BYTES=half, MSE_BITS=4, KEY_FP8=0, BLOCK_D=dim, NORM_CORRECTION=int(cfg.norm_correction))
        codes = lambda at: torch.stack((b := cache[0, :, 0, at : at + half], b), -1) >> torch.tensor([0, 4]) & 15  # noqa: E731
        meta = lambda at: cache[0, :, 0, at : at + 2].contiguous().view(torch.float16)  # noqa: E731
        cases.append({"head_dim": dim, "rows": rows, **numbers(
            centroids=cent, k=k, v=v, k_codes=codes(0), k_norm=meta(half), v_codes=codes(kps), v_scale=meta(kps + half),
            v_min=meta(kps + half + 2), k_rot=k_rot, k_out=k_rot[0, 0] @ rot.half(), v_out=v_out)})
    how = "store and dequant kernels run with TRITON_INTERPRET=1; Hadamard matrix, midpoints, k_rot @ H by scripts/vectors.py"
    return source("vllm-project/vllm", version, root, VLLM, how, cases, notes=TQ_NOTES, centroids=cases[0]["centroids"])


def main():
    args, makers = argparse.ArgumentParser(), {"kivi": kivi, "gear": gear, "vllm": turboquant}
    for name in makers:
        args.add_argument(f"--{name}", nargs=2, metavar=("DIR", "VERSION"), help="left out, its vectors stay as they are")
    args.add_argument("--out", default="tests/vectors")
    opts = vars(args.parse_args())
    for name in filter(opts.get, makers):
        text = json.dumps(makers[name](*opts[name]), separators=(",", ":"))
        Path(opts["out"], f"{makers[name].__name__}.json").write_text(text.replace("},{", "},\n{") + "\n")  # a line per case


if __name__ == "__main__":
    main()
