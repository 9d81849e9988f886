#!/usr/bin/env python3
"""Holds what `kvbench lengths RUN --format json` says of stopping at the same text to the rows of the run, computed anew.

    scripts/e2e/check_forced.py RUN LENGTHS.json --prompts 25 --positions 5 --methods q4-0 --controls bf16       needs pyarrow

Checks: every place of every prompt was asked of every method, with the same text; every stop token is listed, and its probability is one;
the factors at the end and before it and the ratio of stops along answers are those of the rows; the finding names its limit.
Exit code 1 with one sentence for each thing that is not so.
"""

import argparse
import json
import math
import pathlib
import sys

import pyarrow.parquet


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def by_method(run):
    out = {}
    for row in pyarrow.parquet.read_table(run / "requests.parquet").to_pylist():
        if not row["warmup"]:
            out.setdefault(row["method"], {})[row["request_id"]] = row
    return out


def factor(own, base, at_end):
    prompts = {}
    for request, row in own.items():
        if (row["forced_at"] == 1) == at_end:
            gap = row["stop_logprob"] - base[request]["stop_logprob"]
            prompts.setdefault(row["sample_id"], []).append(gap)
    return math.exp(mean(mean(gaps) for gaps in prompts.values()))


def stops(rows):
    """Probabilities of stopping along all answers, as if every token ended a word; answers with fewer than two places before their end say nothing."""
    answers = {}
    for row in rows.values():
        answers.setdefault(row["sample_id"], []).append(row)
    total = 0
    for places in answers.values():
        *before, end = sorted(places, key=lambda row: row["forced_at"])
        if len(before) >= 2:
            tokens = (end["prompt_tokens"] - before[0]["prompt_tokens"]) / (1 - before[0]["forced_at"])
            total += tokens * mean(math.exp(row["stop_logprob"]) for row in before) + math.exp(end["stop_logprob"])
    return total


def check_rows(name, rows, base, args):
    most = args.prompts * args.positions
    if not args.prompts <= len(rows) <= most:
        yield f"{name}: expected at most {most} places, got {len(rows)}"
    if {row["prompt_sha256"] for row in rows.values()} != {row["prompt_sha256"] for row in base.values()}:
        yield f"{name}: expected the texts of the baseline, got others"
    if len({row["sample_id"] for row in rows.values() if row["forced_at"] == 1}) != args.prompts:
        yield f"{name}: expected the end of {args.prompts} answers"
    for row in rows.values():
        known = row["stop_logprob"]
        if row["err"] is not None or known is None or not row["logprob_floor"] <= known <= 0:
            yield f"{name}: request {row['request_id']}: expected a listed probability, got {known} ({row['err']})"


def check_found(name, rows, base, found):
    for key, at_end in (("stop_at_end", True), ("stop_before", False)):
        expected = factor(rows, base, at_end)
        if abs(found[key] / expected - 1) > 1e-9:
            yield f"{name}: expected {key} {expected}, got {found[key]}"
        if not found[f"{key}_ci_low"] <= found[key] <= found[f"{key}_ci_high"]:
            yield f"{name}: the interval of {key} does not hold it"
    ratio = stops(rows) / stops(base)
    if abs(found["stops_ratio"] / ratio - 1) > 1e-9:
        yield f"{name}: expected stops_ratio {ratio}, got {found['stops_ratio']}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("lengths", type=pathlib.Path)
    parser.add_argument("--prompts", type=int, required=True)
    parser.add_argument("--positions", type=int, required=True)
    parser.add_argument("--methods", required=True)
    parser.add_argument("--controls", required=True)
    args = parser.parse_args()
    said = json.loads(args.lengths.read_text())
    rows = by_method(args.run)
    base = rows["f16"]
    wrong = list(check_rows("f16", base, base, args))
    for name in args.methods.split(",") + args.controls.split(","):
        found = next((row for row in said["stopping"] if row["method"] == name), None)
        if name not in rows or found is None:
            wrong.append(f"{name}: expected rows and a finding, got none")
            continue
        role = "method" if name in args.methods.split(",") else "control"
        if not found["role"].startswith(role):
            wrong.append(f"{name}: expected the role {role}, got {found['role']}")
        bad = list(check_rows(name, rows[name], base, args))
        wrong += bad or check_found(name, rows[name], base, found)
    if "vLLM within a chunk" not in " ".join(said["finding"]):
        wrong.append("expected the finding to name its limit")
    for sentence in wrong:
        print(f"check_forced: {sentence}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
