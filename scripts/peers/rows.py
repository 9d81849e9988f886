"""Rows of kernels.parquet's schema, and the shapes of kvbench's own scenarios. Needs no torch: the selftest runs anywhere."""

import pathlib
import typing

MODELS = {"llama-2-7b": (32, 32, 128), "llama-3-8b": (32, 8, 128)}  # query heads, KV heads, head dimension
SCENARIOS = pathlib.Path(__file__).resolve().parents[2] / "scenarios"
DECODE_SCENARIO = "gpu-decode.toml"
PREFILL_SCENARIO, PREFILL_WORKLOAD = "paper/fig1-prefill.toml", "length"
PREFILL_TOKENS = (1024, 4096)  # of the scenario's lengths: two say enough, and the window of a lent GPU is short
BYTES_PER_HALF = 2
LONGEST_ERR_CHARS = 2000  # a failed JIT build throws a whole compiler log

# Columns of kernels.parquet, in order: (name, arrow type).
COLUMNS = [
    ("run_id", "string"), ("cell_id", "string"), ("target", "string"), ("method", "string"), ("workload", "string"),
    ("load", "string"), ("repeat", "int64"), ("device", "string"), ("backend", "string"), ("op", "string"),
    ("model_shape", "string"), ("batch", "int64"), ("q_len", "int64"), ("kv_len", "int64"), ("kv_tokens", "int64"),
    ("heads_q", "int64"), ("heads_kv", "int64"), ("head_dim", "int64"), ("tensor_parallel", "int64"), ("dtype", "string"), ("sample", "int64"),
    ("t_ns", "int64"), ("duration_ns", "int64"), ("thread_cpu_ns", "int64"), ("bytes_moved", "int64"), ("flops", "int64"),
    ("max_rel_err", "double"), ("verified", "bool"), ("launches", "int64"), ("timer", "string"),
    ("lane_instructions", "int64"), ("n_sm", "int64"), ("sm_clock_max_mhz", "double"), ("sm_clock_mhz", "double"),
    ("power_w", "double"), ("n_discarded", "int64"), ("err", "string"),
]


class Shape(typing.NamedTuple):
    """A cell of a kvbench scenario without its method: rows of peers carry the same names, so that one plot holds both."""

    scenario: str
    target: str
    workload: str
    model: str
    op: str
    batch: int
    kv_len: int

    @property
    def heads(self):
        """Query heads, KV heads and head dimension."""
        return MODELS[self.model]

    @property
    def q_len(self):
        return 1 if self.op == "decode" else self.kv_len

    @property
    def bytes_moved(self):
        """Cache, queries and outputs once, as kvbench counts its fp16 kernels."""
        heads_q, heads_kv, d = self.heads
        return self.batch * d * BYTES_PER_HALF * (2 * heads_kv * self.kv_len + 2 * heads_q * self.q_len)

    @property
    def flops(self):
        heads_q, _, d = self.heads
        pairs = self.kv_len if self.op == "decode" else self.kv_len * (self.kv_len + 1) // 2
        return 4 * d * heads_q * self.batch * pairs


def of_scenario(file, op, workload=None):
    """The shapes of one operation in a scenario with one kernel target, in the order of the scenario's grid."""
    import tomllib

    scenario = tomllib.loads((SCENARIOS / file).read_text(encoding="utf-8"))
    ((target, kind),) = scenario["target"].items()
    for name, grid in scenario["workload"].items():
        if op in grid["shapes"]["ops"] and workload in (None, name):
            for batch in grid["shapes"]["batch"]:
                for kv_len in grid["shapes"]["kv_len"]:
                    cell = f"{name}-{op}-b{batch}-kv{kv_len}"
                    yield Shape(scenario["name"], target, cell, kind["kernel"]["model"], op, batch, kv_len)


def shapes(quick):
    """Decode first: it is what the project is judged by, and a run may be cut off."""
    decode = list(of_scenario(DECODE_SCENARIO, "decode"))
    if quick:
        return [shape for shape in decode if (shape.batch, shape.kv_len) == (32, 4096)]
    prefill = of_scenario(PREFILL_SCENARIO, "prefill", PREFILL_WORKLOAD)
    return decode + [shape for shape in prefill if shape.kv_len in PREFILL_TOKENS]


def row(shape, method, device, backend, **found):
    """One row; what is not known stays empty."""
    heads_q, heads_kv, d = shape.heads
    known = {
        "run_id": "peers", "cell_id": f"{shape.scenario}/{shape.target}/{method}/{shape.workload}/launch/r0",
        "target": shape.target, "method": method, "workload": shape.workload, "load": "launch", "repeat": 0, "device": device,
        "backend": backend, "op": shape.op, "model_shape": shape.model, "batch": shape.batch, "q_len": shape.q_len,
        "kv_len": shape.kv_len, "kv_tokens": shape.batch * shape.kv_len, "heads_q": heads_q, "heads_kv": heads_kv,
        "head_dim": d, "tensor_parallel": 1, "dtype": "f16", "timer": "", "n_discarded": 0, "verified": False,
        "bytes_moved": shape.bytes_moved, "flops": shape.flops,
    }
    known.update(found)
    return {name: known.get(name) for name, _ in COLUMNS}


def text(error):
    """What a row's `err` says of an exception."""
    return f"{type(error).__name__}: {error}"[:LONGEST_ERR_CHARS]


def write(rows, path):
    """Rows to Parquet, with the types of kvbench's own file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"string": pa.string(), "int64": pa.int64(), "double": pa.float64(), "bool": pa.bool_()}
    schema = pa.schema([(name, types[kind]) for name, kind in COLUMNS])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")
