#!/usr/bin/env python3
"""What the live router adds, on a quiet machine.

    scripts/e2e/route_measure.py KVBENCH PROXY_URL DIRECT_URL PROXY_PID WORK        needs pyarrow

Latency at 200 requests/s and 500 concurrent streams, measured by kvbench's own client at the proxy and at the server behind it; then
10^4 idle connections. Prints; judges nothing.
"""

import pathlib
import resource
import socket
import subprocess
import sys
import time
import urllib.request

import pyarrow.parquet as parquet

SCENARIO = """name = "added"
seed = 1
repeats = 3
baseline = "direct"
aa_control = false
[target.direct.engine]
url = "{direct}"
endpoint = "completions"
model = "known"
version = "0"
method = "direct"
[target.proxied.engine]
url = "{proxied}"
endpoint = "completions"
model = "known"
version = "0"
method = "proxied"
[method.direct.fp16]
[method.proxied.fp16]
[workload.short.synthetic]
n_requests = 2000
prompt_tokens = {{ fixed = 64 }}
output_tokens = {{ fixed = 4 }}
[workload.long.synthetic]
n_requests = 1000
prompt_tokens = {{ fixed = 64 }}
output_tokens = {{ fixed = 100 }}
[load.steady.poisson]
rate = [200]
[load.crowd.closed]
concurrency = [500]
"""


def memory_kib(pid):
    fields = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM")}


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def run(kvbench, direct, proxied, work):
    (work / "added.toml").write_text(SCENARIO.format(direct=direct, proxied=proxied))
    # 1: a client that was starved says so, and its rows are there all the same.
    code = subprocess.run([kvbench, "run", work / "added.toml", "--out", work / "added", "--filter", "short/steady|long/crowd"], check=False).returncode
    if code not in (0, 1):
        sys.exit(f"route_measure: expected exit code 0 or 1 of the run, got {code}")
    folder = sorted((work / "added").iterdir())[-1]
    rows = parquet.read_table(folder / "requests.parquet").to_pylist()
    for load in sorted({row["load"] for row in rows}):
        by_target = {}
        for target in ("direct", "proxied"):
            own = [row for row in rows if row["target"] == target and row["load"] == load and not row["warmup"]]
            good = [row for row in own if row["err"] is None]
            ttft = [(row["first_token_ns"] - row["sent_ns"]) / 1e6 for row in good]
            e2e = [(row["done_ns"] - row["sent_ns"]) / 1e6 for row in good]
            by_target[target] = {(name, share): percentile(values, share) for name, values in (("ttft", ttft), ("e2e", e2e)) for share in (0.5, 0.99)}
            print(f"{load} {target}: {len(own)} requests, {len(own) - len(good)} failed, " + ", ".join(f"{name} p{share * 100:.0f} {value:.3f} ms" for (name, share), value in by_target[target].items()))
        added = {key: by_target["proxied"][key] - by_target["direct"][key] for key in by_target["direct"]}
        print(f"{load} added: " + ", ".join(f"{name} p{share * 100:.0f} {value:.3f} ms" for (name, share), value in added.items()))


def idle(proxied, pid, n=10_000):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    host, port = proxied.removeprefix("http://").split(":")
    before, sockets = memory_kib(pid), []
    for _ in range(min(n, hard - 64)):
        sockets.append(socket.create_connection((host, int(port))))
    time.sleep(1)
    silent = memory_kib(pid)
    for one in sockets:
        one.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
    spoken = [one.recv(4096)[9:12] for one in sockets].count(b"200")
    time.sleep(1)
    after = memory_kib(pid)
    begun = time.monotonic()
    body = b'{"prompt":"a","max_tokens":2}'
    request = urllib.request.Request(f"{proxied}/v1/completions", body, {"content-type": "application/json"})
    status = urllib.request.urlopen(request, timeout=60).status
    print(f"{len(sockets)} idle connections: RSS {before['VmRSS']} KiB before, {silent['VmRSS']} KiB with them silent, {after['VmRSS']} KiB "
          f"after {spoken} of them had asked once; another request meanwhile: {status} in {(time.monotonic() - begun) * 1e3:.1f} ms")


if __name__ == "__main__":
    binary, proxy, server, process, folder = sys.argv[1:]
    print(f"proxy's memory at the start: {memory_kib(process)}")
    run(binary, server, proxy, pathlib.Path(folder))
    print(f"proxy's memory after the loads: {memory_kib(process)}")
    idle(proxy, process)
