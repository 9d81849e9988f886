//! Whether the answers of a method still read like the baseline's. An engine may accept a cache format that it does not
//! implement, report it in its metrics, and answer garbage fast: vLLM on a CPU does so with `int8_per_token_head`. Different
//! answers are no sign of it, since a compressed cache changes greedy answers as a rule; what is looked at is how they read.
//!
//! A model of characters (see [`super::ngram`]) learns the baseline's answers to all *other* prompts and tells how many bits a
//! character of an answer costs. The baseline's own answer to the prompt is the yardstick, so hard prompts weigh nothing: the
//! excess is the difference, one value a prompt, over repeats the mean. It needs no tokenizer, no reference model and no
//! greedy decoding.
//!
//! SUSPECT takes both a large effect and more than chance: a median excess of [`EXCESS_BITS`] and a one-sided sign test at 5 %
//! (five prompts that all agree). On six greedy stories each, the median excess was 2.6 bits for the garbage above, and -0.1 for
//! `fp8_e4m3` on the same engine (one of its six answers is a loop and costs 3.8 more: hence median and test), -0.1 for llama.cpp's
//! `q8_0`, 0.6 for its `q4_0`, which misspells words; the limit is the geometric middle of 0.6 and 2.6. Empty answers and
//! answers that end in a loop read cheaply, so they are counted apart: SUSPECT where a quarter of the prompts and more than
//! chance have them and the baseline has not.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{
    Estimate, Point, RunData, SummaryRow,
    compare::baseline_of,
    ngram::Counts,
    requests::Served,
    summary::{Series, single, summarise},
};
use crate::{record::RequestRow, stats};

/// Median excess that is too much.
const EXCESS_BITS: f64 = 1.25;
/// Share of prompts with a fault (empty, loop) that the baseline does not have.
const FAULT_SHARE: f64 = 0.25;
/// Chance that is taken.
const ALPHA: f64 = 0.05;
/// Prompts that are read, and characters of each answer: a run of thousands is judged by these.
const PROMPTS_MAX: usize = 256;
const CHARACTERS_MAX: usize = 4096;
/// An answer ends in a loop where its end repeats a unit at least this often, over at least so many characters.
const LOOP_TIMES: usize = 3;
const LOOP_CHARACTERS: usize = 60;
const LOOP_UNIT_MAX: usize = 64;

/// The answers of one served point beside the baseline's.
#[derive(Debug, Clone, PartialEq)]
pub struct TextPoint {
    /// Which (never the baseline).
    pub point: Point,
    /// What its answers are compared with.
    pub baseline: Point,
    /// Prompts with an answer that is not empty on both sides.
    pub n_prompts: usize,
    /// Of these, prompts whose answer costs more bits than the baseline's.
    pub n_worse: usize,
    /// Median of the excess over prompts, bits a character; `None` without a prompt to learn from.
    pub excess_bits: Option<f64>,
    /// Median cost of the method's answers.
    pub bits: Option<f64>,
    /// Median cost of the baseline's answers.
    pub baseline_bits: Option<f64>,
    /// One-sided sign test of the excess.
    pub p_value: f64,
    /// Share of words that are in no answer of the baseline to another prompt.
    pub unseen_words: Option<f64>,
    /// The same of the baseline's own answers.
    pub baseline_unseen_words: Option<f64>,
    /// Prompts with empty answers, and of the baseline.
    pub n_empty: (usize, usize),
    /// Prompts with answers that end in a loop, and of the baseline.
    pub n_loops: (usize, usize),
    /// Answers compared with the baseline's answer to the same prompt in the same repeat.
    pub n_compared: usize,
    /// Of these, equal ones.
    pub n_identical: usize,
    /// Median position of the first differing character, over those that differ.
    pub first_difference: Option<f64>,
    /// What speaks against them; empty where nothing does.
    pub reasons: Vec<String>,
}

/// What one prompt was answered, over repeats.
type Answers<'a> = BTreeMap<(&'a str, i64, i64), Vec<&'a str>>;

/// Every served point with a baseline whose answers were kept, and the summary rows of these points.
pub(super) fn points(data: &RunData, served: &Served) -> (Vec<TextPoint>, Vec<SummaryRow>) {
    let points = served.points(data);
    let (mut texts, mut summary) = (Vec::new(), Vec::new());
    for (point, rows) in &points {
        let Some((baseline, theirs)) =
            baseline_of(point, &points, &data.manifest.scenario.baseline)
        else {
            continue;
        };
        let (own, theirs) = (good(served, rows), good(served, theirs));
        // A server of nothing but empty answers, on both sides, was not asked for text.
        if own.iter().chain(&theirs).all(|row| row.output_text.is_empty()) {
            continue;
        }
        let (text, rows) = judge(data, (point, &own), (baseline, &theirs));
        texts.push(text);
        summary.extend(rows);
    }
    (texts, summary)
}

fn good<'a>(served: &'a Served, rows: &[usize]) -> Vec<&'a RequestRow> {
    // One token after a given text is no text to judge.
    let is_answer = |row: &&RequestRow| row.err.is_none() && row.forced_at.is_none();
    rows.iter().map(|&row| &served.rows[row]).filter(is_answer).collect()
}

type Side<'a> = (&'a Point, &'a [&'a RequestRow]);

fn judge(data: &RunData, own: Side<'_>, theirs: Side<'_>) -> (TextPoint, Vec<SummaryRow>) {
    let (answers, yardstick) = (by_prompt(own.1), by_prompt(theirs.1));
    let costs = costs(&answers, &yardstick);
    let excess: Vec<f64> = costs.iter().map(|cost| cost.0 - cost.1).collect();
    let (n_worse, n_better) = (count(&excess, |e| e > 0.0), count(&excess, |e| e < 0.0));
    let differences = differences(own.1, theirs.1);
    let differing: Vec<f64> = differences.iter().flatten().map(|at| *at as f64).collect();
    let words = Words::of(&yardstick);
    let mut text = TextPoint {
        point: own.0.clone(),
        baseline: theirs.0.clone(),
        n_prompts: excess.len(),
        n_worse,
        excess_bits: stats::median(&mut excess.clone()),
        bits: stats::median(&mut costs.iter().map(|cost| cost.0).collect::<Vec<_>>()),
        baseline_bits: stats::median(&mut costs.iter().map(|cost| cost.1).collect::<Vec<_>>()),
        p_value: stats::sign_test(n_worse, n_better),
        unseen_words: words.unseen(&answers),
        baseline_unseen_words: words.unseen(&yardstick),
        n_empty: (0, 0),
        n_loops: (0, 0),
        n_compared: differences.len(),
        n_identical: differences.iter().filter(|at| at.is_none()).count(),
        first_difference: stats::median(&mut differing.clone()),
        reasons: Vec::new(),
    };
    let empty = Fault::of(&answers, &yardstick, |answer| answer.is_empty());
    let loops = Fault::of(&answers, &yardstick, ends_in_a_loop);
    (text.n_empty, text.n_loops) = (empty.n, loops.n);
    let found = [bits_reason(&text), empty.reason("are empty"), loops.reason("end in a loop")];
    text.reasons = found.into_iter().flatten().collect();
    let summary = summary(data, own.0, &text, (excess, differing));
    (text, summary)
}

fn count(values: &[f64], holds: fn(f64) -> bool) -> usize {
    values.iter().filter(|value| holds(**value)).count()
}

fn bits_reason(text: &TextPoint) -> Option<String> {
    let excess = text.excess_bits.filter(|excess| *excess >= EXCESS_BITS)?;
    (text.p_value <= ALPHA).then(|| {
        let percent = |share: Option<f64>| share.map_or(0.0, |share| 100.0 * share);
        format!(
            "answers need {excess:.1} bits a character more than the baseline's own ({} of {} prompts, sign test p = {:.3}); \
             {:.0} % of their words are in no other answer of the baseline, {:.0} % of its own",
            text.n_worse,
            text.n_prompts,
            text.p_value,
            percent(text.unseen_words),
            percent(text.baseline_unseen_words)
        )
    })
}

/// Answers by prompt: the row of the data set where it has a name, else the position in the workload.
fn by_prompt<'a>(rows: &[&'a RequestRow]) -> Answers<'a> {
    let mut answers = Answers::new();
    for row in rows {
        let position = if row.sample_id.is_empty() { row.request_id } else { 0 };
        let key = (row.sample_id.as_str(), position, row.turn);
        answers.entry(key).or_default().push(head(&row.output_text));
    }
    while answers.len() > PROMPTS_MAX {
        answers.pop_last();
    }
    answers
}

fn head(text: &str) -> &str {
    text.char_indices().nth(CHARACTERS_MAX).map_or(text, |(end, _)| &text[..end])
}

/// (method, baseline) bits a character of each prompt that both answered.
fn costs(answers: &Answers<'_>, yardstick: &Answers<'_>) -> Vec<(f64, f64)> {
    // One prompt leaves nothing to learn from.
    if yardstick.len() < 2 {
        return Vec::new();
    }
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    yardstick.values().flatten().for_each(|text| *times.entry(text).or_default() += 1);
    let learned = |texts: &mut dyn Iterator<Item = &str>| {
        let mut counts = Counts::default();
        texts.for_each(|text| (0..times[text]).for_each(|_| counts.learn(text)));
        counts
    };
    let all = learned(&mut times.keys().copied());
    let one = |(prompt, theirs): (&(&str, i64, i64), &Vec<&str>)| {
        let own = answers.get(prompt)?;
        // The same prompt may be there under another name: an answer that was seen word for word is no yardstick.
        let distinct: BTreeSet<&str> = theirs.iter().copied().collect();
        let left_out = learned(&mut distinct.into_iter());
        let others = all.without(&left_out);
        let mean = |texts: &[&str]| {
            let bits: Vec<f64> =
                texts.iter().filter_map(|text| others.bits_per_character(text)).collect();
            stats::mean(&bits)
        };
        mean(own).zip(mean(theirs))
    };
    yardstick.iter().filter_map(one).collect()
}

/// For each answer with a partner in the same repeat: where they first differ, `None` where they do not.
fn differences(own: &[&RequestRow], theirs: &[&RequestRow]) -> Vec<Option<usize>> {
    let partners: HashMap<(i64, i64), &str> =
        theirs.iter().map(|row| ((row.repeat, row.request_id), row.output_text.as_str())).collect();
    let one = |row: &&RequestRow| {
        let partner = partners.get(&(row.repeat, row.request_id))?;
        Some(first_difference(&row.output_text, partner))
    };
    own.iter().filter_map(one).collect()
}

/// Position, in characters; the end of the shorter text where it begins the longer one.
fn first_difference(a: &str, b: &str) -> Option<usize> {
    let same = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    (a != b).then_some(same)
}

/// Whether an answer ends in repetitions of a short unit.
fn ends_in_a_loop(text: &str) -> bool {
    let reversed: Vec<char> = text.chars().rev().collect();
    (1..=LOOP_UNIT_MAX).any(|unit| {
        let pairs = reversed.iter().zip(reversed.iter().skip(unit));
        let repeated = unit + pairs.take_while(|(a, b)| a == b).count();
        reversed.len() > unit && repeated >= (LOOP_TIMES * unit).max(LOOP_CHARACTERS)
    })
}

/// A fault of answers that can be seen in each by itself.
struct Fault {
    /// Prompts with it, of the method and of the baseline.
    n: (usize, usize),
    /// Prompts that only the method, and that only the baseline, has it at.
    only: (usize, usize),
    of: usize,
}

impl Fault {
    fn of(answers: &Answers<'_>, yardstick: &Answers<'_>, has: fn(&str) -> bool) -> Self {
        let any = |texts: &Vec<&str>| texts.iter().any(|text| has(text));
        let mut fault = Fault { n: (0, 0), only: (0, 0), of: 0 };
        for (prompt, theirs) in yardstick {
            let Some(own) = answers.get(prompt) else { continue };
            let (own, theirs) = (any(own), any(theirs));
            fault.of += 1;
            fault.n = (fault.n.0 + usize::from(own), fault.n.1 + usize::from(theirs));
            fault.only.0 += usize::from(own && !theirs);
            fault.only.1 += usize::from(theirs && !own);
        }
        fault
    }

    fn reason(&self, what: &str) -> Option<String> {
        let more = self.n.0 as f64 - self.n.1 as f64;
        let p = stats::sign_test(self.only.0, self.only.1);
        (more >= FAULT_SHARE * self.of as f64 && p <= ALPHA).then(|| {
            format!(
                "answers to {} of {} prompts {what}, of the baseline to {} (sign test p = {p:.3})",
                self.n.0, self.of, self.n.1
            )
        })
    }
}

/// In answers to how many prompts of the baseline a word is.
struct Words<'a> {
    prompts: HashMap<String, usize>,
    own: HashMap<&'a (&'a str, i64, i64), HashSet<String>>,
}

impl<'a> Words<'a> {
    fn of(yardstick: &'a Answers<'a>) -> Self {
        let mut words = Words { prompts: HashMap::new(), own: HashMap::new() };
        for (prompt, texts) in yardstick {
            let own: HashSet<String> = texts.iter().flat_map(|text| words_of(text)).collect();
            own.iter().for_each(|word| *words.prompts.entry(word.clone()).or_default() += 1);
            words.own.insert(prompt, own);
        }
        words
    }

    /// Share of words that are in no answer of the baseline to another prompt; `None` without words, or without others.
    fn unseen(&self, answers: &Answers<'_>) -> Option<f64> {
        let (mut unseen, mut n) = (0_usize, 0_usize);
        for (prompt, texts) in answers {
            let own = self.own.get(prompt);
            for word in texts.iter().flat_map(|text| words_of(text)) {
                let here = usize::from(own.is_some_and(|own| own.contains(&word)));
                let prompts = self.prompts.get(&word).copied().unwrap_or(0);
                unseen += usize::from(prompts == here);
                n += 1;
            }
        }
        (n > 0 && self.own.len() > 1).then(|| unseen as f64 / n as f64)
    }
}

fn words_of(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric() && c != '\'')
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
}

fn summary(
    data: &RunData,
    point: &Point,
    text: &TextPoint,
    (excess, differing): (Vec<f64>, Vec<f64>),
) -> Vec<SummaryRow> {
    let (id, seed) = (data.pooled_id(point), data.manifest.scenario.seed);
    let metrics =
        [("text_excess_bits", "bits", excess), ("text_first_difference", "characters", differing)];
    let one = |(metric, unit, values): (&str, &str, Vec<f64>)| {
        let series: Series = vec![values.into_iter().map(|value| vec![value]).collect()];
        summarise(seed, &id, metric, unit, &series)
    };
    let identical = (text.n_compared > 0).then(|| {
        let share = text.n_identical as f64 / text.n_compared as f64;
        single(&id, "text_identical_share", "1", Estimate::new(share, None, text.n_compared))
    });
    metrics.into_iter().filter_map(one).chain(identical).collect()
}

#[cfg(test)]
#[path = "sanity_tests.rs"]
mod tests;
