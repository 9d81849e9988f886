#!/usr/bin/env python3
"""Times other people's attention at kvbench's shapes, on the same machine, into rows of kernels.parquet's schema.

    scripts/gpu-peers.py --out peers.parquet [--quick] [--peers torch,triton]    needs torch with CUDA, and pyarrow
    scripts/gpu-peers.py --selftest --out /tmp/peers.parquet                     rows, shapes and turns: no GPU, no torch
    scripts/gpu-peers.py --check-cpu                                             the Triton decode in Triton's interpreter

Peers: torch's SDPA back ends over contiguous keys and values (method `peer:torch-*`), a paged flash-decoding kernel in Triton
that comes with this script (`peer:triton-paged`), FlashInfer where it is installed (`peer:flashinfer`; it compiles for minutes).

Protocol, as kvbench's own: a graph of launches over rotated copies (at least five times the L2) between two events, random
data, each peer checked over all copies, sequences and heads against a float32 reference before it is timed, one sample of each
peer in turn. A peer that is missing or refuses a shape is a row with `err`. Shapes, targets, workloads and cell ids are those of
scenarios/gpu-decode.toml (and, for prefill, of fig1-prefill's `length`), so that one plot can hold both.
"""

import argparse
import contextlib
import sys
import typing

sys.dont_write_bytecode = True  # no __pycache__ in the working tree

from peers import flashinfer_decode, measure, rows, torch_sdpa, turns  # noqa: E402


class Peer(typing.NamedTuple):
    """Something to time: its method, the group that --peers selects by, the operations it has, and how it is made ready."""

    method: str
    name: str
    ops: tuple
    prepare: typing.Callable


def prepare_triton(torch, data, n_sm):
    try:
        from peers import triton_decode
    except ImportError as error:
        raise ImportError(f"expected the package triton, got: {error}\n  hint: pip install triton") from error
    return triton_decode.prepare(torch, data, n_sm)


BOTH, DECODE = ("decode", "prefill"), ("decode",)
PEERS = [
    Peer("peer:torch-flash", "torch", BOTH, torch_sdpa.prepare("FLASH_ATTENTION")),
    Peer("peer:torch-cudnn", "torch", BOTH, torch_sdpa.prepare("CUDNN_ATTENTION")),
    Peer("peer:torch-efficient", "torch", BOTH, torch_sdpa.prepare("EFFICIENT_ATTENTION")),
    Peer("peer:triton-paged", "triton", DECODE, prepare_triton),
    Peer("peer:flashinfer", "flashinfer", DECODE, flashinfer_decode.prepare),
]


def run(args):
    hint = "run this on the GPU machine, or with --selftest or --check-cpu"
    try:
        import torch
    except ImportError as error:
        sys.exit(f"torch: expected PyTorch with CUDA, got {error}\n  hint: {hint}")
    if not torch.cuda.is_available():
        sys.exit(f"torch: expected a CUDA device, got none\n  hint: {hint}")
    chosen = [peer for peer in PEERS if peer.name in args.peers]
    device, made = torch.cuda.get_device_name(0), []

    def time(shape):
        for entrant in measure.measure(torch, shape, chosen, args.samples):
            made.extend(entrant.rows(shape, device))
            print(measure.line(shape, entrant), flush=True)

    for shape in rows.shapes(args.quick):
        time(shape)
        rows.write(made, args.out)  # after every shape: a run that is cut off keeps what it has
        with contextlib.suppress(RuntimeError):  # throws if a peer has lost the device's context
            torch.cuda.empty_cache()


def check_shapes():
    """The shapes are those of the scenarios, under their names."""
    found = rows.shapes(quick=False)
    decode = [shape for shape in found if shape.op == "decode"]
    assert len(decode) >= 2 and {(1, 4096), (32, 16384)} <= {(shape.batch, shape.kv_len) for shape in decode}, decode
    assert {shape.model for shape in found} <= set(rows.MODELS), found
    assert [shape.workload for shape in rows.shapes(quick=True)] == ["decode-decode-b32-kv4096"]
    assert [shape.workload for shape in found if shape.op == "prefill"] == [f"length-prefill-b1-kv{n}" for n in rows.PREFILL_TOKENS]


def check_turns(shape):
    """Peers are sampled in alternating order, and one that throws drops out with its reason."""
    seen = []

    def sampled(name, broken_at=None):
        def replay_ns():
            seen.append(name)
            if broken_at == len(seen):
                raise RuntimeError("broken")
            return 1000.4

        return replay_ns

    found = {"max_rel_err": 1e-4, "verified": True, "launches": 3, "n_sm": 132}
    entrants = [
        turns.Entrant("peer:a", "torch-none", found, sampled("a")),
        turns.Entrant("peer:b", "torch-none", found, sampled("b", broken_at=5)),
        turns.Entrant("peer:c", "torch-none", err="none here"),
    ]
    turns.take_turns(entrants, 4)
    # Turns of three: abc, cba, bca, acb. c never takes part, and b breaks at its third sample.
    assert "".join(seen) == "abbabaa", seen
    assert [len(entrant.times_ns) for entrant in entrants] == [4, 2, 0] and entrants[1].err == "RuntimeError: broken"
    return [row for entrant in entrants for row in entrant.rows(shape, "none")]


def selftest(args):
    import pyarrow.parquet as pq

    check_shapes()
    (shape,) = rows.shapes(quick=True)
    rows.write(check_turns(shape), args.out)
    table = pq.read_table(args.out)
    assert table.column_names == [name for name, _ in rows.COLUMNS], table.column_names
    found = table.to_pylist()
    first, last = found[0], found[-1]
    assert first["bytes_moved"] == 32 * 128 * 2 * (2 * 8 * 4096 + 2 * 32) and first["kv_tokens"] == 32 * 4096
    assert first["cell_id"] == "gpu-decode/layer/peer:a/decode-decode-b32-kv4096/launch/r0", first["cell_id"]
    assert first["duration_ns"] == 1000 and first["launches"] == 3 and first["verified"] and first["err"] is None
    assert last["duration_ns"] is None and last["sample"] is None and last["err"] == "none here"
    assert measure.launches_of(10_000, 16) == 32 and measure.launches_of(700_000, 1) == 1 and measure.launches_of(100, 100) == 100
    if args.like:
        theirs = pq.read_schema(args.like).names
        assert theirs == table.column_names, f"expected the columns of {args.like}: {theirs}"
    print(f"{len(rows.COLUMNS)} columns as expected")


def check_cpu(_):
    from peers import check_cpu

    check_cpu.run()


def names(text):
    known = {peer.name for peer in PEERS}
    chosen = set(text.split(","))
    if not chosen <= known:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(sorted(known))}, got {', '.join(sorted(chosen - known))}")
    return chosen


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", help="Parquet file to write")
parser.add_argument("--samples", type=int, default=20)
parser.add_argument("--quick", action="store_true", help="one shape only")
parser.add_argument("--peers", type=names, default="torch,triton,flashinfer", help="some, with commas (default: %(default)s)")
parser.add_argument("--selftest", action="store_true", help="rows, shapes and turns without a GPU")
parser.add_argument("--check-cpu", action="store_true", help="the Triton decode in the interpreter, without a GPU")
parser.add_argument("--like", help="a kernels.parquet of kvbench whose columns must be the same (with --selftest)")
arguments = parser.parse_args()
if not arguments.check_cpu and not arguments.out:
    parser.error("expected --out FILE")
(check_cpu if arguments.check_cpu else selftest if arguments.selftest else run)(arguments)
