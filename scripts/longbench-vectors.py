#!/usr/bin/env python3
"""Makes random answers of every LongBench task, with the scores that the published code gives them.

    scripts/longbench-vectors.py --metrics LongBench/metrics.py --rows 420 --seed 1 --out tests/vectors/longbench.jsonl

Needs rouge==1.0.1, jieba==0.42.1, fuzzywuzzy and python-Levenshtein; metrics.py is imported as it stands. A row is what
`kvbench score --predictions` reads, with `difflib` and `levenshtein`: its score with either back end of fuzzywuzzy. Texts are drawn
from words and marks that are hard to cut: mixed scripts, full width, empty lines, numbers of other scripts.
"""
import argparse
import difflib
import importlib.util
import json
import logging
import random

FIRST_LINE = {"trec", "triviaqa", "samsum", "lsht"}
METRICS = {
    "qa_f1_score": "narrativeqa qasper multifieldqa_en hotpotqa 2wikimqa musique triviaqa",
    "qa_f1_zh_score": "multifieldqa_zh",
    "rouge_score": "gov_report qmsum multi_news samsum",
    "rouge_zh_score": "dureader vcsum",
    "classification_score": "trec lsht",
    "retrieval_score": "passage_retrieval_en",
    "retrieval_zh_score": "passage_retrieval_zh",
    "count_score": "passage_count",
    "code_sim_score": "lcc repobench-p",
}
METRIC_OF = {task: metric for metric, tasks in METRICS.items() for task in tasks.split()}

ENGLISH = "the a an The An of and in is that cat's report state-of-the-art year government city U.S. said 1,000 3.5% naïve Ünïcode İ ΟΔΟΣ".split()
CHINESE = "的 我们 清华大学 北京 研究 生命 起源 结婚 和 尚未 会议 记录 总结 乒乓球 拍卖 完 了 小明 硕士 毕业 于 他 来到 网易 杭研 大厦 龘靐 㐀 鿿 𠀀".split()
LATIN = "GPT-4.5 C++ c# AT&T 3.14% v1.2.3 a_b node.js T恤 B超 IC卡 ＡＢＣ １２ γ射线 U.S. .5 5. +1 50%".split()
MARKS = ["。", "，", "！", "《", "》", "……", "——", "“", "”", "、", ".", "..", ",", "!", "-", " ", "\u3000", "\xa0", "\n", "\r\n", "\t",
         "\x1c", "\u2028", "\u200b", "का", "Ⓐ", "²", "Ⅷ", "٣", "，\n"]
EDGES = ["", ".", "...", " ", "\n", "the", "!!", "\u3000", " . . ", ".a", "# c", "`x`"]
CODE = ["return x", "for (int i = 0; i < n; i++) {", "    self.x = y", "# comment", "// note", "`md`", "", "if err != nil {",
        "private volatile Thread currentThread;", "x = {'a': 1}  "]
CLASSES = ["Number of something", "Other number", "Number", "Date", "Definition of something", "a", "ab", "abc", "经济", "体育"]


class Texts:
    """Random texts."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def english(self):
        pick = self.random.choice
        return "".join(pick(ENGLISH) + pick([" ", " ", " ", "  ", ". ", ".", ", ", "\n"]) for _ in range(self.random.randint(1, 30)))

    def chinese(self):
        kinds = self.random.choices([CHINESE, LATIN, MARKS], [6, 2, 2], k=self.random.randint(1, 25))
        return "".join(self.random.choice(kind) for kind in kinds)

    def code(self):
        line = self.random.choice(CODE) + self.random.choice(["", " ", " abc" * self.random.randint(0, 70)])
        return line

    def changed(self, text, other):
        """The text with some parts gone, moved or replaced."""
        parts = list(text)
        for _ in range(self.random.randint(0, 3)):
            if parts:
                start = self.random.randrange(len(parts))
                end = start + self.random.randint(1, 1 + len(parts) // 3)
                insert = self.random.choice([[], list(other[: end - start]), parts[start:end][::-1], [self.random.choice(MARKS)]])
                parts[start:end] = insert
        return "".join(parts)

    def pair(self, metric):
        """An answer and what it is scored against."""
        pick = self.random.choice
        if metric == "code_sim_score":
            lines = [self.code() for _ in range(self.random.randint(1, 3))]
            return pick(["", "\n", " "]) + "\n".join(lines), self.changed(pick(lines), self.code())
        if metric in ("retrieval_score", "retrieval_zh_score", "count_score"):
            word = {"retrieval_score": "Paragraph ", "retrieval_zh_score": "段落", "count_score": ""}[metric]
            number = str(self.random.randint(1, 30))
            others = [number, word + number, "段落" + number + "。", "3.5", "１", "²", "٣4", "x" + number, "no"]
            answer = " ".join(pick(others) for _ in range(self.random.randint(0, 5)))
            return answer, word + pick([number, number, "１"])
        make = self.chinese if "zh" in metric else self.english
        reference, other = make(), make()
        return pick([self.changed(reference, other), other, reference, pick(EDGES)]), pick([reference] * 9 + [pick(EDGES)])

    def row(self, task):
        metric = METRIC_OF[task]
        if metric == "classification_score":
            classes = self.random.sample(CLASSES, self.random.randint(1, len(CLASSES)))
            named = self.random.sample(classes, self.random.randint(0, min(4, len(classes))))
            answer = self.random.choice(["", "\n\n"]) + " ".join(named) + self.random.choice(["", "\nDate", "."])
            return {"dataset": task, "prediction": answer, "answers": [self.random.choice(classes)], "all_classes": classes}
        answer, reference = self.pair(metric)
        return {"dataset": task, "prediction": answer, "answers": [reference], "all_classes": None}


def score(metrics, row):
    """As eval.py does: the best over the references."""
    prediction = row["prediction"]
    if row["dataset"] in FIRST_LINE:
        prediction = prediction.lstrip("\n").split("\n")[0]
    metric = getattr(metrics, METRIC_OF[row["dataset"]])
    return max(0.0, *(metric(prediction, answer, all_classes=row["all_classes"]) for answer in row["answers"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metrics", required=True)
    parser.add_argument("--rows", type=int, default=420)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    spec = importlib.util.spec_from_file_location("metrics", args.metrics)
    metrics = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(metrics)
    metrics.jieba.setLogLevel(logging.ERROR)
    levenshtein = metrics.fuzz.SequenceMatcher
    assert levenshtein is not difflib.SequenceMatcher, "python-Levenshtein is not installed"
    texts, tasks = Texts(args.seed), list(METRIC_OF)
    with open(args.out, "w", encoding="utf-8") as file:
        for i in range(args.rows):
            row = texts.row(tasks[i % len(tasks)])
            for name, matcher in (("difflib", difflib.SequenceMatcher), ("levenshtein", levenshtein)):
                metrics.fuzz.SequenceMatcher = matcher
                row[name] = score(metrics, row)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
