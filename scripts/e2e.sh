#!/usr/bin/env bash
# End-to-end: what a user does, with the released binary. Usage: scripts/e2e.sh path/to/kvbench
set -euo pipefail
cd "$(dirname "$0")/.."
kvbench=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

expect() { # expect CODE COMMAND...
  local want=$1 got=0
  shift
  "$@" || got=$?
  if [ "$got" != "$want" ]; then
    echo "end-to-end: expected exit code $want, got $got: $*" >&2
    exit 1
  fi
}

echo "-- quickstart: under 120 s, every kernel row verified"
start=$SECONDS
expect 0 "$kvbench" run scenarios/quickstart.toml --out "$work/results"
took=$((SECONDS - start))
echo "quickstart took $took s"
run=$(ls -d "$work"/results/*-quickstart-*)
for file in manifest.json kernels.parquet telemetry.parquet summary.parquet report.md report.html; do
  test -s "$run/$file" || { echo "end-to-end: $file is missing" >&2; exit 1; }
done
ls "$run"/plots/*.svg "$run"/plots/*.png >/dev/null
expect 0 "$kvbench" report "$run" --format json >"$work/report.json"

echo "-- snippets of results/README.md: DuckDB and polars on this run"
expect 0 scripts/snippets "$kvbench" "$run"

echo "-- every scenario plans, bad input exits 2"
for scenario in scenarios/*.toml scenarios/paper/*.toml; do
  case $scenario in scenarios/engines.toml | scenarios/route-live-*) continue ;; esac
  expect 0 "$kvbench" plan "$scenario" --format json >/dev/null
done
printf 'name = "x"\nservic = 1\n' >"$work/bad.toml"
expect 2 "$kvbench" run "$work/bad.toml" 2>"$work/err"
grep -q "bad.toml:2:1" "$work/err" || { cat "$work/err" >&2; exit 1; }
expect 2 "$kvbench" report "$work/nowhere" 2>/dev/null

echo "-- route simulate: the paper's set-up at one load, and the same judged again"
expect 0 "$kvbench" route simulate scenarios/route-paper.toml --results "$work/route" --format json \
  --filter 'mixed-kivi/sharegpt/poisson-10/(as-claimed|-)/[a-z-]+/[0-1]$' >"$work/route.json"
routed=$(ls -d "$work"/route/*-route-paper-*)
ls "$routed"/route_requests-*.parquet "$routed"/report.html "$routed"/plots/*.png >/dev/null
expect 0 "$kvbench" route report "$routed" --format json >"$work/route-again.json"
cmp "$work/route.json" "$work/route-again.json"
grep -q '"speedup_vs_all_fp16"' "$work/route.json"

echo "-- CUDA kernels: every one compiles for sm_80 and sm_90a without a spill"
if [ -n "${KVBENCH_NVRTC_DIR:-}" ]; then
  expect 0 env KVBENCH_KERNEL_CACHE="$work/cubin" "$kvbench" kernels build --arch sm_80,sm_90a
else
  echo "skipped: KVBENCH_NVRTC_DIR is not set (pip install nvidia-cuda-nvrtc==13.0.88)"
fi

echo "-- peers write the columns of kvbench's own rows"
if python3 -c 'import pyarrow' 2>/dev/null; then
  expect 0 python3 scripts/gpu-peers.py --selftest --out "$work/peers.parquet" --like "$run/kernels.parquet"
else
  echo "skipped: pyarrow is not installed (pip install pyarrow)"
fi

echo "-- gpu-check lists its parts"
expect 0 scripts/gpu-check --dry-run >/dev/null

echo "-- kernels verify, kernels error, data make, doctor"
expect 0 "$kvbench" kernels verify >/dev/null
expect 0 "$kvbench" kernels error --kv-len 256 --draws 1 >/dev/null
expect 2 "$kvbench" kernels error --method gear 2>/dev/null
expect 0 "$kvbench" data make longbench --rows 8 --seed 1 --out "$work/lb.jsonl" >/dev/null
expect 0 "$kvbench" data inspect "$work/lb.jsonl" >/dev/null
expect 0 "$kvbench" doctor >/dev/null

echo "end-to-end: passed"
