#!/usr/bin/env python3
"""Holds what `kvbench lengths RUN --format json` says to the rows of the run, computed anew from requests.parquet.

    scripts/e2e/check_lengths.py RUN LENGTHS.json --prompts 200 --methods q8-0,q4-0 --controls f16-aa,f16-seed,bf16       needs pyarrow

Checks: every prompt has a pair; ratios, shares and the split of the E2E latency are those of the rows; each method under test and each
control has a row of its role; the report says in words what was found, and never claims an effect without its q.
Exit code 1 with one sentence for each thing that is not so.
"""

import argparse
import json
import math
import pathlib
import sys

import pyarrow.parquet


def by_method(run):
    rows = pyarrow.parquet.read_table(run / "requests.parquet").to_pylist()
    out = {}
    for row in rows:
        if not row["warmup"]:
            out.setdefault(row["method"], {})[row["sample_id"]] = row
    return out


def mean(values):
    return sum(values) / len(values)


def e2e(row):
    return row["last_token_ns"] - row["sent_ns"]


def check_method(name, rows, base, found, prompts):
    pairs = [(row, base[sample]) for sample, row in rows.items() if row["err"] is None and base[sample]["err"] is None]
    if len(pairs) != prompts:
        yield f"{name}: expected {prompts} pairs, got {len(pairs)}"
    lengths, time = found["lengths"], found["time"]
    filled = [(own, other) for own, other in pairs if own["output_tokens"] and other["output_tokens"]]
    logs = [math.log(own["output_tokens"] / other["output_tokens"]) for own, other in filled]
    expected = {
        "length_ratio": math.exp(mean(logs)),
        "tokens": mean([own["output_tokens"] for own, _ in pairs]),
        "at_least_1.5x": 100 * mean([own["output_tokens"] >= 1.5 * other["output_tokens"] for own, other in pairs]),
        "at_most_0.5x": 100 * mean([own["output_tokens"] <= 0.5 * other["output_tokens"] for own, other in pairs]),
    }
    for key, value in expected.items():
        if abs(lengths[key] - value) > 1e-9 * max(1, abs(value)):
            yield f"{name}: expected {key} {value}, got {lengths[key]}"
    if not lengths["length_ratio_ci_low"] <= lengths["length_ratio"] <= lengths["length_ratio_ci_high"]:
        yield f"{name}: the interval of the length ratio does not hold it"
    product = time["length_ratio"] * time["time_per_token_ratio"]
    direct = math.exp(mean([math.log(e2e(own) / e2e(other)) for own, other in filled]))
    if abs(product / direct - 1) > 1e-9 or abs(time["e2e_ratio"] / direct - 1) > 1e-9:
        yield f"{name}: expected E2E {direct} = length x time a token, got {time['e2e_ratio']} and {product}"
    same = sum(own["output_text"] == other["output_text"] for own, other in pairs)
    if found["endings"]["same_text"] != f"{same} of {len(pairs)}":
        yield f"{name}: expected the same text {same} times, got {found['endings']['same_text']}"


def check_words(report, methods, lengths):
    for name in methods:
        said = [line for line in report.splitlines() if f"{name} at openings" in line and "answers are" in line]
        if len(said) != 1:
            yield f"report.md: expected one paragraph on {name}'s lengths, got {len(said)}"
            continue
        shown = lengths[name]["longer_than_chance"]
        hedged = "no difference that the data can show" in said[0]
        if hedged != (shown == "not shown") or "(q " not in said[0]:
            yield f"report.md: {name} is '{shown}' in the table, and the words are: {said[0]}"
        print(f"  {said[0]}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("lengths", type=pathlib.Path)
    parser.add_argument("--prompts", type=int, required=True)
    parser.add_argument("--methods", required=True)
    parser.add_argument("--controls", required=True)
    args = parser.parse_args()
    baseline = json.loads((args.run / "manifest.json").read_text())["scenario"]["baseline"]
    rows, told = by_method(args.run), json.loads(args.lengths.read_text())
    tables = {name: {row["method"]: row for row in told[name]} for name in ("lengths", "endings", "time")}
    wrong = []
    for names, role in ((args.methods.split(","), "method"), (args.controls.split(","), "control")):
        for name in names:
            if name not in tables["lengths"]:
                wrong.append(f"expected a row of {name}, got {sorted(tables['lengths'])}")
                continue
            if not tables["lengths"][name]["role"].startswith(role):
                wrong.append(f"{name}: expected the role {role}, got {tables['lengths'][name]['role']}")
            found = {table: by_name[name] for table, by_name in tables.items()}
            wrong += check_method(name, rows[name], rows[baseline], found, args.prompts)
    wrong += check_words((args.run / "report.md").read_text(), args.methods.split(","), tables["lengths"])
    for name in ("length-ratio", "length-shift-d", "first-difference"):
        if not (args.run / "plots" / f"{name}.svg").is_file():
            wrong.append(f"expected plots/{name}.svg, got none")
    for sentence in wrong:
        print(f"check_lengths: {sentence}", file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
