#!/usr/bin/env python3
"""Holds a run against a real engine to what must be true of it, from its rows alone.

    scripts/e2e/check_engine.py RUN --same f16,f16-aa [--same-load LOAD] [--min-preemptions N] [--suspect METHOD]    needs pyarrow

Checks: no request failed; every token count is the engine's own (`usage`) and fits what was streamed; the methods of `--same`
gave one text for each prompt, over all repeats; the report is there. Prints the lengths of the answers, prompt by prompt.
Exit code 1 with one sentence for each thing that is not so.
"""

import argparse
import collections
import json
import pathlib
import statistics
import sys

import pyarrow.parquet

REPORT = ["report.html", "report.md", "summary.parquet", "manifest.json"]


def rows_of(run, table):
    """All measured rows: those that were sent to warm the engine up are not for judging."""
    rows = pyarrow.parquet.read_table(run / f"{table}.parquet").to_pylist()
    return [row for row in rows if not row.get("warmup")]


def name_of(row):
    return f"{row['method']} {row['load']} r{row['repeat']} {row['sample_id']}"


def check_counts(rows):
    """Token counts are the engine's, and agree with the stream as far as the stream tells."""
    for row in rows:
        if row["err"] is not None:
            yield f"{name_of(row)}: expected no error, got {row['err']}"
            continue
        if row["token_source"] != "usage":
            yield f"{name_of(row)}: expected token_source usage, got {row['token_source']}"
            continue
        n_tokens, n_chunks = row["output_tokens"], len(row["chunk_ns"])
        if not 0 < n_tokens <= row["max_tokens"]:
            yield f"{name_of(row)}: expected 1 to {row['max_tokens']} output tokens, got {n_tokens}"
        if n_chunks > n_tokens:
            yield f"{name_of(row)}: expected at most {n_tokens} chunks with output, got {n_chunks}"
        if row["chunk_tokens"] and sum(row["chunk_tokens"]) != n_tokens:
            yield f"{name_of(row)}: usage says {n_tokens} tokens, the stream {sum(row['chunk_tokens'])}"
        if row["finish_reason"] == "length" and n_tokens < row["max_tokens"]:
            yield f"{name_of(row)}: cut at {n_tokens} of {row['max_tokens']} tokens: the engine's context is too short"


def check_cached(rows):
    """A prompt that came from the prefix cache was not measured."""
    n_cached = sum(1 for row in rows if row["cached_tokens"])
    if n_cached:
        yield f"expected no prompt from the prefix cache, got {n_cached} of {len(rows)}"


def check_same(rows, methods, only_load):
    """Greedy answers of these methods, one text a prompt over all repeats of a load."""
    texts = collections.defaultdict(dict)
    for row in rows:
        if row["method"] in methods and only_load in (None, row["load"]):
            key = (row["load"], row["sample_id"])
            texts[key].setdefault((row["output_text"], row["output_tokens"]), []).append(f"{row['method']} r{row['repeat']}")
    if not texts:
        yield f"expected rows of {', '.join(methods)}, got none"
    for (load, sample), found in sorted(texts.items()):
        if len(found) > 1:
            yield f"{load} {sample}: expected one greedy answer, got {len(found)}: {sorted(found.values())}"


def check_methods(rows, methods):
    missing = sorted(set(methods) - {row["method"] for row in rows})
    if missing:
        yield f"expected rows of {', '.join(missing)}, got none"


def check_pairs(rows):
    """Every method saw the same prompts in the same order."""
    cells = collections.defaultdict(list)
    for row in rows:
        cells[(row["load"], row["repeat"], row["method"])].append((row["request_id"], row["prompt_sha256"]))
    seen = collections.defaultdict(set)
    for (load, repeat, _), prompts in cells.items():
        seen[(load, repeat)].add(tuple(sorted(prompts)))
    for (load, repeat), orders in seen.items():
        if len(orders) > 1:
            yield f"{load} r{repeat}: expected the same prompts under every method, got {len(orders)} different lists"


def check_report(run):
    for name in REPORT:
        path = run / name
        if not path.is_file() or path.stat().st_size == 0:
            yield f"{path}: expected a file with something in it"
    for ending in ("svg", "png"):
        if not list((run / "plots").glob(f"*.{ending}")):
            yield f"{run}/plots: expected plots as {ending}, got none"


def check_preemptions(run, least):
    """The engine's own counter, from what was scraped: the most it grew by, over all cells."""
    if least == 0:
        return
    path = run / "engine_metrics.parquet"
    if not path.is_file():
        yield f"{path}: expected the engine's metrics, got no file"
        return
    counts = collections.defaultdict(list)
    for row in pyarrow.parquet.read_table(path).to_pylist():
        if row["name"] == "preemptions_total" and row["value"] is not None:
            counts[row["cell_id"]].append(row["value"])
    grown = max((max(values) - min(values) for values in counts.values()), default=None)
    if grown is None or grown < least:
        yield f"expected at least {least} preemptions in a cell, got {grown}"
    else:
        print(f"preemptions: {grown:g} in one cell")


def check_suspect(manifest, methods):
    reasons = json.dumps(manifest.get("reasons", []))
    for method in methods:
        if manifest.get("verdict", "").lower() == "valid" or method not in reasons:
            yield f"expected the run to be suspect because of {method}, got {manifest.get('verdict')}: {reasons}"


def print_lengths(rows, baseline):
    """Answer tokens of each prompt under each method, first repeat of each load; `+` where the cap ended the answer."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for load in sorted({row["load"] for row in rows}):
        chosen = {(row["sample_id"], row["method"]): row for row in rows if row["load"] == load and row["repeat"] == 0}
        samples = sorted({sample for sample, _ in chosen})
        print(f"\nanswer tokens, {load}, first repeat (+: ended by the cap)")
        print(f"{'prompt':<14}" + "".join(f"{method:>22}" for method in methods))
        for sample in samples:
            cells = [cell(chosen.get((sample, method))) for method in methods]
            print(f"{sample:<14}" + "".join(f"{text:>22}" for text in cells))
        for method in methods:
            both = [(chosen[sample, baseline], chosen[sample, method]) for sample in samples if (sample, method) in chosen and (sample, baseline) in chosen]
            changes = [(b["output_tokens"] or 0) - (a["output_tokens"] or 0) for a, b in both]
            same = sum(1 for a, b in both if a["output_text"] == b["output_text"])
            if changes:
                print(
                    f"  {method}: {same} of {len(both)} texts as under {baseline}; tokens change by {statistics.fmean(changes):+.1f} on"
                    f" average, median {statistics.median(changes):+g}, from {min(changes):+d} to {max(changes):+d}"
                )


def cell(row):
    if row is None or row["output_tokens"] is None:
        return "-"
    return f"{row['output_tokens']}{'+' if row['finish_reason'] == 'length' else ''}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--same", required=True, help="methods whose greedy answers must be equal, the baseline first")
    parser.add_argument("--same-load", help="hold the answers equal under this load alone")
    parser.add_argument("--methods", default="", help="methods that must have rows")
    parser.add_argument("--min-preemptions", type=int, default=0)
    parser.add_argument("--suspect", action="append", default=[], help="a method that kvbench must have doubts about")
    args = parser.parse_args()
    same = args.same.split(",")
    rows = rows_of(args.run, "requests")
    manifest = json.loads((args.run / "manifest.json").read_text())
    print_lengths(rows, same[0])
    print()
    wrong = [
        *check_methods(rows, same + [name for name in args.methods.split(",") if name]),
        *check_counts(rows),
        *check_cached(rows),
        *check_same(rows, same, args.same_load),
        *check_pairs(rows),
        *check_report(args.run),
        *check_preemptions(args.run, args.min_preemptions),
        *check_suspect(manifest, args.suspect),
    ]
    for sentence in wrong[:20]:
        print(f"check: {sentence}", file=sys.stderr)
    if wrong:
        sys.exit(f"check: {len(wrong)} things are wrong in {args.run}")
    print(f"check: {len(rows)} requests are right")


if __name__ == "__main__":
    main()
