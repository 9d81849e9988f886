#!/usr/bin/env python3
"""Times PyTorch's attention at kvbench's shapes, on the same machine, into rows of kernels.parquet's schema.

    scripts/gpu-peers.py --out peers.parquet [--quick]        needs torch with CUDA, and pyarrow
    scripts/gpu-peers.py --selftest --out /tmp/peers.parquet  rows and schema alone, no GPU, no torch

Protocol, as kvbench's own: a graph of launches over rotated copies (at least five times the L2) between two events, random
data, each back end checked against a float32 reference before it is timed. A back end that is missing or refuses a
shape is a row with `err`.
"""

import argparse
import statistics
import sys

MODELS = {"llama-2-7b": (32, 32, 128), "llama-3-8b": (32, 8, 128)}
BACKENDS = ["FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION"]
ROTATE_L2 = 5
WINDOW_NS = 200_000
MOST_LAUNCHES = 64
GATE = 1e-2  # torch's outputs are fp16: a wrong kernel is far beyond, rounding far below

# Columns of kernels.parquet, in order: (name, arrow type, may be null).
COLUMNS = [
    ("run_id", "string"), ("cell_id", "string"), ("target", "string"), ("method", "string"), ("workload", "string"),
    ("load", "string"), ("repeat", "int64"), ("device", "string"), ("backend", "string"), ("op", "string"),
    ("model_shape", "string"), ("batch", "int64"), ("q_len", "int64"), ("kv_len", "int64"), ("kv_tokens", "int64"),
    ("heads_q", "int64"), ("heads_kv", "int64"), ("head_dim", "int64"), ("dtype", "string"), ("sample", "int64"),
    ("t_ns", "int64"), ("duration_ns", "int64"), ("thread_cpu_ns", "int64"), ("bytes_moved", "int64"), ("flops", "int64"),
    ("max_rel_err", "double"), ("verified", "bool"), ("launches", "int64"), ("timer", "string"),
    ("lane_instructions", "int64"), ("n_sm", "int64"), ("sm_clock_max_mhz", "double"), ("sm_clock_mhz", "double"),
    ("power_w", "double"), ("n_discarded", "int64"), ("err", "string"),
]


def row(model, op, method, batch, kv_len, device, backend, **found):
    """One row; what is not known stays empty."""
    heads_q, heads_kv, d = MODELS[model]
    workload = f"{op}-{op}-b{batch}-kv{kv_len}"
    q_len = 1 if op == "decode" else kv_len
    pairs = kv_len if op == "decode" else kv_len * (kv_len + 1) // 2
    known = {
        "run_id": "peers", "cell_id": f"peers/{model}/{method}/{workload}/launch/r0", "target": model, "method": method,
        "workload": workload, "load": "launch", "repeat": 0, "device": device, "backend": backend, "op": op,
        "model_shape": model, "batch": batch, "q_len": q_len, "kv_len": kv_len, "kv_tokens": batch * kv_len,
        "heads_q": heads_q, "heads_kv": heads_kv, "head_dim": d, "dtype": "f16", "timer": "", "n_discarded": 0, "verified": False,
        "bytes_moved": batch * d * 2 * (2 * heads_kv * kv_len + 2 * heads_q * q_len), "flops": 4 * d * heads_q * batch * pairs,
    }
    known.update(found)
    return {name: known.get(name) for name, _ in COLUMNS}


def write(rows, path):
    """Rows to Parquet, with the types of kvbench's own file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"string": pa.string(), "int64": pa.int64(), "double": pa.float64(), "bool": pa.bool_()}
    schema = pa.schema([(name, types[kind]) for name, kind in COLUMNS])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")


def attention(torch, backend, op, q, k, v):
    """One launch of a back end."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    gqa = q.shape[1] != k.shape[1]
    with sdpa_kernel(getattr(SDPBackend, backend)):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=op == "prefill", enable_gqa=gqa)


def reference(torch, op, q, k, v):
    """Attention in float32 over the first sequence."""
    group = q.shape[1] // k.shape[1]
    q, k, v = q[:1].float(), k[:1].float().repeat_interleave(group, 1), v[:1].float().repeat_interleave(group, 1)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if op == "prefill":
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
    return torch.softmax(scores, -1) @ v


def measure(torch, model, op, backend, batch, kv_len, samples):
    """Rows of one back end at one shape."""
    heads_q, heads_kv, d = MODELS[model]
    facts = torch.cuda.get_device_properties(0)
    q_len = 1 if op == "decode" else kv_len
    one = batch * d * 2 * (2 * heads_kv * kv_len + 2 * heads_q * q_len)
    copies = max(1, -(-ROTATE_L2 * facts.L2_cache_size // one))
    make = lambda heads, length: torch.randn(batch, heads, length, d, device="cuda", dtype=torch.float16)
    data = [(make(heads_q, q_len), make(heads_kv, kv_len), make(heads_kv, kv_len)) for _ in range(copies)]
    out = attention(torch, backend, op, *data[0])
    expected = reference(torch, op, *data[0])
    error = ((out[:1].float() - expected).norm() / expected.norm()).item()
    found = {"max_rel_err": error, "verified": error <= GATE, "n_sm": facts.multi_processor_count}
    if not error <= GATE:
        return [{**found, "err": f"verification failed: expected a relative error of at most {GATE}, got {error:.3g}"}]

    def graph_of(launches):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                attention(torch, backend, op, *data[0])
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for i in range(launches):
                attention(torch, backend, op, *data[i % copies])
        return graph

    def replay_ns(graph):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) * 1e6

    probe = graph_of(copies)
    replay_ns(probe)
    each = replay_ns(probe) / copies
    # Whole turns of the rotation, so that every replay begins where its own last one left the cache coldest.
    turns = max(1, round(min(WINDOW_NS / each, MOST_LAUNCHES) / copies))
    launches = copies * turns
    graph = graph_of(launches)
    replay_ns(graph)
    times = [replay_ns(graph) / launches for _ in range(samples)]
    return [{**found, "sample": i, "duration_ns": round(t), "launches": launches, "timer": "device"} for i, t in enumerate(times)]


def shapes(quick):
    decode = [("llama-3-8b", "decode", b, n) for b, n in ([(32, 4096)] if quick else [(1, 4096), (1, 16384), (32, 4096), (32, 16384)])]
    prefill = [] if quick else [("llama-2-7b", "prefill", 1, n) for n in (1024, 4096)]
    return decode + prefill


def run(args):
    try:
        import torch
    except ImportError as error:
        sys.exit(f"torch: expected PyTorch with CUDA, got {error}\n  hint: run this on the GPU machine, or with --selftest")
    if not torch.cuda.is_available():
        sys.exit("torch: expected a CUDA device, got none\n  hint: run this on the GPU machine, or with --selftest")
    device, rows = torch.cuda.get_device_name(0), []
    for model, op, batch, kv_len in shapes(args.quick):
        for backend in BACKENDS:
            method = "peer:torch-" + backend.removesuffix("_ATTENTION").lower()
            place = (model, op, method, batch, kv_len, device, f"torch-{torch.__version__}")
            try:
                found = measure(torch, model, op, backend, batch, kv_len, args.samples)
            except Exception as error:  # whatever a back end throws belongs into its row
                found = [{"err": f"{type(error).__name__}: {error}"}]
                torch.cuda.synchronize()
            rows.extend(row(*place, **one) for one in found)
            times = [one["duration_ns"] for one in found if "duration_ns" in one]
            text = f"{statistics.median(times) / 1e3:.1f} us" if times else found[0]["err"].splitlines()[0]
            print(f"{model} {op} b{batch} kv{kv_len} {method}: {text}", flush=True)
            torch.cuda.empty_cache()
    write(rows, args.out)


def selftest(args):
    import pyarrow.parquet as pq

    place = ("llama-3-8b", "decode", "peer:torch-flash", 32, 4096, "none", "torch-none")
    rows = [row(*place, sample=0, duration_ns=1000, verified=True, launches=3, timer="device"), row(*place, err="none here")]
    write(rows, args.out)
    table = pq.read_table(args.out)
    assert table.column_names == [name for name, _ in COLUMNS], table.column_names
    first, second = table.to_pylist()
    assert first["bytes_moved"] == 32 * 128 * 2 * (2 * 8 * 4096 + 2 * 32) and first["kv_tokens"] == 32 * 4096
    assert second["duration_ns"] is None and second["err"] == "none here"
    if args.like:
        theirs = pq.read_schema(args.like).names
        assert theirs == table.column_names, f"expected the columns of {args.like}: {theirs}"
    print(f"{len(COLUMNS)} columns as expected")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", required=True, help="Parquet file to write")
parser.add_argument("--samples", type=int, default=20)
parser.add_argument("--quick", action="store_true", help="one shape only")
parser.add_argument("--selftest", action="store_true", help="rows and schema without a GPU")
parser.add_argument("--like", help="a kernels.parquet of kvbench whose columns must be the same (with --selftest)")
arguments = parser.parse_args()
selftest(arguments) if arguments.selftest else run(arguments)
