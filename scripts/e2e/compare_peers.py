#!/usr/bin/env python3
"""The work of scripts/compare-peers, which see. Writes into --out: server.log, prompts, scenarios, each tool's output and result,
compare.json (every number), and prints a table.

CPU time is what the kernel says a client process and its children used (wait4), start-up included. The cost of one request is the
slope between a small run and a full one, so that start-up (a second of imports, a report) is not billed to requests.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

import pyarrow.parquet

N_SMALL = 8
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_HOST_IP": "127.0.0.1",
}


def on_cores(mine):
    """Keeps a process to its cores, so that a client that needs much CPU does not slow the server down: that would be in its latencies."""
    return lambda: os.sched_setaffinity(0, mine)


CORES = sorted(os.sched_getaffinity(0))
SERVER_CORES, CLIENT_CORES = (set(CORES[:1]), set(CORES[1:])) if len(CORES) > 1 else (set(CORES), set(CORES))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(args, log):
    """llama-server on a free loopback port. Neither the cache of prompts nor sampling may differ between the two clients."""
    port = free_port()
    command = [str(args.llama_server), "-m", str(args.gguf), "--host", "127.0.0.1", "--port", str(port), "--alias", "stories"]
    command += ["--offline", "-t", "1", "-c", str(512 * args.concurrency), "-np", str(args.concurrency), "-fa", "on"]
    command += ["--no-cache-prompt", "--cache-ram", "0", "--temp", "0", "--top-k", "0", "--min-p", "0", "--no-webui"]
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True, preexec_fn=on_cores(SERVER_CORES))
    try:
        url = f"http://127.0.0.1:{port}"
        wait_ready(url, server, log)
        yield url
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def wait_ready(url, server, log):
    for _ in range(600):
        if server.poll() is not None:
            sys.exit(f"compare-peers: llama-server ended with {server.returncode}:\n{log.read_text()[-2000:]}")
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=1) as answer:
            if answer.status == 200:
                return
        time.sleep(0.1)
    sys.exit(f"compare-peers: llama-server is not ready after a minute, see {log}")


def timed(command, log, env=None):
    """Runs it; exit code, seconds, CPU seconds of it and its children, and the resident size of the largest, MB."""
    with log.open("w") as out:
        start = time.monotonic()
        env = {**os.environ, **(env or {})}
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env, preexec_fn=on_cores(CLIENT_CORES))
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "exit": process.returncode,
        "wall_s": time.monotonic() - start,
        "cpu_s": used.ru_utime + used.ru_stime,
        "rss_mb": used.ru_maxrss / 1024,
    }


def write_prompts(args, n):
    """ShareGPT rows for kvbench: the openings, once for each day of a diary, so that no two prompts are equal."""
    openings = [row["conversations"][0]["value"] for row in json.loads(pathlib.Path("datasets/story-openings.json").read_text())]
    texts = [f"Day {day}. {opening}" for day in range(1, 1 + -(-n // len(openings))) for opening in openings][:n]
    rows = [{"id": f"p{number:04}", "conversations": [{"from": "human", "value": text}]} for number, text in enumerate(texts)]
    path = args.out / f"prompts-{n}.json"
    path.write_text(json.dumps(rows))
    return path, {row["id"]: row["conversations"][0]["value"] for row in rows}


def write_scenario(args, url, n, prompts):
    path = args.out / f"compare-{n}.toml"
    path.write_text(f"""name = "compare-{n}"
seed = 1
baseline = "fp16"

[target.server.engine]
url = "{url}"
engine = "llamacpp"
endpoint = "completions"
model = "stories"
method = "fp16"

[method.fp16.fp16]

[workload.diary.dataset]
path = "{prompts}"
format = "sharegpt"
max_tokens = {args.max_tokens}

[load.users.closed]
concurrency = [{args.concurrency}]
""")
    return path


def run_kvbench(args, scenario, name):
    results = args.out / name
    row = timed([str(args.kvbench), "run", str(scenario), "--out", str(results)], args.out / f"{name}.log")
    runs = sorted(results.glob("*-compare-*"))
    if not runs:
        sys.exit(f"compare-peers: kvbench left no run folder, exit code {row['exit']}:\n{(args.out / f'{name}.log').read_text()[-2000:]}")
    requests = [r for r in pyarrow.parquet.read_table(runs[-1] / "requests.parquet").to_pylist() if not r.get("warmup")]
    good = [r for r in requests if r["err"] is None]
    span_ns = max(r["done_ns"] for r in good) - min(r["sent_ns"] for r in good)
    row |= {
        "tool": "kvbench",
        "result": str(runs[-1]),
        "ok": len(good),
        "failed": len(requests) - len(good),
        "order": [r["sample_id"] for r in sorted(requests, key=lambda r: r["request_id"])],
        "ttft_ms": [(r["first_token_ns"] - r["sent_ns"]) / 1e6 for r in good],
        "tpot_ms": [(r["last_token_ns"] - r["first_token_ns"]) / 1e6 / (r["output_tokens"] - 1) for r in good if r["output_tokens"] > 1],
        "output_tokens": sum(r["output_tokens"] for r in good),
        "tokens_per_s": sum(r["output_tokens"] for r in good) / span_ns * 1e9,
    }
    return row


def run_vllm(args, url, name, texts):
    """The peer gets the prompts in the order in which kvbench sent them."""
    data = args.out / f"{name}.jsonl"
    data.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    command = [str(args.vllm), "bench", "serve", "--backend", "openai", "--base-url", url, "--endpoint", "/v1/completions"]
    command += ["--model", "stories", "--tokenizer", str(args.tokenizer), "--dataset-name", "custom", "--dataset-path", str(data)]
    command += ["--skip-chat-template", "--disable-shuffle", "--num-prompts", str(len(texts)), "--custom-output-len", str(args.max_tokens)]
    command += ["--max-concurrency", str(args.concurrency), "--temperature", "0", "--percentile-metrics", "ttft,tpot,itl,e2el"]
    command += ["--save-result", "--save-detailed", "--result-dir", str(args.out), "--result-filename", f"{name}.json", "--disable-tqdm"]
    row = timed(command, args.out / f"{name}.log", OFFLINE)
    path = args.out / f"{name}.json"
    if not path.is_file():
        sys.exit(f"compare-peers: vllm bench serve left no result, exit code {row['exit']}:\n{(args.out / f'{name}.log').read_text()[-2000:]}")
    result = json.loads(path.read_text())
    good = [i for i, error in enumerate(result["errors"]) if not error]
    ttft, latency, tokens = result["ttfts"], result.get("latencies"), result["output_lens"]
    row |= {
        "tool": "vllm bench serve",
        "result": str(path),
        "ok": result["completed"],
        "failed": result["failed"],
        "ttft_ms": [ttft[i] * 1e3 for i in good],
        "tpot_ms": [(latency[i] - ttft[i]) * 1e3 / (tokens[i] - 1) for i in good if tokens[i] > 1] if latency else None,
        "tpot_ms_median_reported": result["median_tpot_ms"],
        "output_tokens": result["total_output_tokens"],
        "tokens_per_s": result["output_throughput"],
    }
    return row


def middle(row, key):
    values = row[key]
    if values is None:
        return row["tpot_ms_median_reported"]
    return statistics.median(values)


def slope_ms(small, full):
    """CPU time of one more request, ms."""
    return (full["cpu_s"] - small["cpu_s"]) / (full["ok"] - small["ok"]) * 1e3


def print_table(rows, small):
    heads = ["", "ok", "failed", "wall s", "CPU s", "CPU ms/request", "RSS MB", "TTFT ms", "TPOT ms", "tokens", "tokens/s"]
    print(("{:<22}" + "{:>15}" * (len(heads) - 1)).format(*heads))
    for row in rows:
        cells = [row["tool"], row["ok"], row["failed"], f"{row['wall_s']:.1f}", f"{row['cpu_s']:.2f}"]
        cells += [f"{slope_ms(small[row['tool']], row):.2f}", f"{row['rss_mb']:.0f}", f"{middle(row, 'ttft_ms'):.2f}"]
        cells += [f"{middle(row, 'tpot_ms'):.3f}", row["output_tokens"], f"{row['tokens_per_s']:.1f}"]
        print(("{:<22}" + "{:>15}" * (len(heads) - 1)).format(*map(str, cells)))
    print("TTFT and TPOT: medians over requests. CPU ms/request: slope between the small run and this one; the start-up of each is")
    for tool, row in small.items():
        print(f"  {tool}: {row['cpu_s']:.2f} s of CPU for {row['ok']} requests")


def print_ratios(rows):
    print("\nratio of kvbench to the peer, by pair of neighbours:")
    for ours, theirs in zip(rows[0::2], rows[1::2]):
        pairs = [("TTFT", middle(ours, "ttft_ms") / middle(theirs, "ttft_ms")), ("TPOT", middle(ours, "tpot_ms") / middle(theirs, "tpot_ms"))]
        pairs += [("tokens/s", ours["tokens_per_s"] / theirs["tokens_per_s"]), ("tokens", ours["output_tokens"] / theirs["output_tokens"])]
        print("  " + ", ".join(f"{name} {value:.4f}" for name, value in pairs))
    ours, theirs = rows[0::2], rows[1::2]
    for key in ("ttft_ms", "tpot_ms"):
        spread = [max(middle(r, key) for r in side) / min(middle(r, key) for r in side) - 1 for side in (ours, theirs)]
        print(f"  noise floor of {key}: rounds of one tool differ by {spread[0]:.1%} (kvbench) and {spread[1]:.1%} (peer)")


def print_import(args, ours, theirs):
    """The same through kvbench's own importer, which knows which definitions agree."""
    command = [str(args.kvbench), "import", theirs["result"], "--against", ours["result"]]
    print("\n$ " + " ".join(command))
    done = subprocess.run(command, capture_output=True, text=True)
    (args.out / "import.txt").write_text(done.stdout + done.stderr)
    print(done.stdout + done.stderr)
    return done.returncode


def parse():
    shared = os.environ.get("KVBENCH_SHARED")
    default = lambda name: pathlib.Path(shared, "models", name) if shared else None  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--kvbench", "--llama-server", "--vllm"):
        parser.add_argument(name, type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("results/compare-peers"))
    parser.add_argument("--gguf", type=pathlib.Path, default=default("stories260k.gguf"))
    parser.add_argument("--tokenizer", type=pathlib.Path, default=default("stories260k"))
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--kvbench-only", action="store_true", help="without the peer, to see that this script works")
    args = parser.parse_args()
    if args.gguf is None or args.tokenizer is None:
        parser.error("expected --gguf and --tokenizer, or KVBENCH_SHARED with models")
    if args.requests <= N_SMALL:
        parser.error(f"expected more than {N_SMALL} requests, got {args.requests}")
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    return args


def measure(args, url):
    """One small run of each, then both in turns: A B A B."""
    small, rows = {}, []
    turns = [("small", N_SMALL)] + [(f"round{number}", args.requests) for number in range(args.rounds)]
    for name, n in turns:
        prompts, texts = write_prompts(args, n)
        ours = run_kvbench(args, write_scenario(args, url, n, prompts), f"kvbench-{name}")
        pair = [ours]
        if not args.kvbench_only:
            pair.append(run_vllm(args, url, f"vllm-{name}", [texts[sample] for sample in ours["order"]]))
        for row in pair:
            print(f"{name}: {row['tool']} {row['ok']} ok, {row['failed']} failed, {row['wall_s']:.1f} s", flush=True)
        if name == "small":
            small = {row["tool"]: row for row in pair}
        else:
            rows += pair
    return small, rows


def main():
    args = parse()
    with serving(args, args.out / "server.log") as url:
        small, rows = measure(args, url)
    settings = {"requests": args.requests, "concurrency": args.concurrency, "max_tokens": args.max_tokens, "rounds": args.rounds}
    text = json.dumps({"settings": settings, "small": small, "rows": rows}, indent=1)
    (args.out / "compare.json").write_text(text + "\n")
    print_table(rows, small)
    # The peer loses some requests to llama-server, which closes idle connections: that is a finding, not a fault of this script.
    failed = any(row["exit"] or (row["failed"] and row["tool"] == "kvbench") for row in rows)
    if not args.kvbench_only:
        print_ratios(rows)
        failed |= print_import(args, rows[-2], rows[-1]) != 0
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
