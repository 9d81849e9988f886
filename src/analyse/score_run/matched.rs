//! Scores at equal length: what is left of a difference when neither answer may be longer.
//!
//! A method that rambles, or stops early, gains or loses by its length alone. Here the answers of a method and of the baseline
//! to one prompt are both cut to the shorter of the two and scored again. Length is counted in words: runs of characters
//! without white space, and each Han character by itself, since Chinese text has no spaces. Words and not characters, so that
//! no cut leaves half a word, which F1 would count as a wrong one.

use std::collections::BTreeMap;

use super::{
    super::{Estimate, Point, RunData, compare::baseline_of, score, summary::rng_for},
    Answer, ScoreRow, Tally,
    means::{by_sample, in_points, pairs, points},
};
use crate::record::parquet::table_row;

/// One answer and the baseline's to the same prompt, both cut to the shorter of the two: a row of `scores_matched.parquet`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MatchedRow {
    /// Run the row belongs to.
    pub run_id: String,
    /// Cell the row belongs to.
    pub cell_id: String,
    /// Name of the target.
    pub target: String,
    /// Name of the method, never the baseline.
    pub method: String,
    /// Name of the workload.
    pub workload: String,
    /// Load with its parameter.
    pub load: String,
    /// Repeat, from 0.
    pub repeat: i64,
    /// Position in the workload.
    pub request_id: i64,
    /// Id of the data set's row.
    pub sample_id: String,
    /// Data set as the row names it.
    pub dataset: String,
    /// Rules that scored it, with their version.
    pub scorer: String,
    /// Words of the method's answer before the cut.
    pub words: i64,
    /// Words of the baseline's answer before the cut.
    pub baseline_words: i64,
    /// Score of the method's answer after the cut, 0 to 1.
    pub score: f64,
    /// Score of the baseline's answer after the cut, 0 to 1.
    pub baseline_score: f64,
    /// sha256 of the prompt as sent, hex.
    pub prompt_sha256: String,
}

table_row!(
    MatchedRow,
    "scores_matched",
    run_id,
    cell_id,
    target,
    method,
    workload,
    load,
    repeat,
    request_id,
    sample_id,
    dataset,
    scorer,
    words,
    baseline_words,
    score,
    baseline_score,
    prompt_sha256,
);

/// One method on one data set against the baseline, free and at equal length. In points.
#[derive(Debug, Clone, PartialEq)]
pub struct MatchedMean {
    /// Which.
    pub point: Point,
    /// Data set.
    pub dataset: String,
    /// Pairs of which the method's answer was the longer one, and so was cut.
    pub n_longer: usize,
    /// Pairs of which the baseline's answer was cut.
    pub n_shorter: usize,
    /// Mean score after the cut.
    pub mean: Estimate,
    /// Difference to the baseline after the cut.
    pub delta: Estimate,
    /// Difference to the baseline of the answers as they came, over all pairs.
    pub delta_free: Option<Estimate>,
}

/// Scores pairs at equal length. `scored` are the rows of `answers` that have a score; a pair of which one has none is told.
pub(super) fn rows(
    data: &RunData,
    answers: &[Answer<'_>],
    scored: &[ScoreRow],
    left_out: &mut Tally,
) -> Vec<MatchedRow> {
    let points = points(data, scored);
    let by_request: BTreeMap<(&str, i64), &Answer<'_>> = answers
        .iter()
        .map(|answer| ((answer.row.cell_id.as_str(), answer.row.request_id), answer))
        .collect();
    let answer = |row: usize| by_request.get(&(&*scored[row].cell_id, scored[row].request_id));
    let mut found = Vec::new();
    for (point, own) in &points {
        let baseline = &data.manifest.scenario.baseline;
        let Some((_, theirs)) = baseline_of(point, &points, baseline) else { continue };
        let partner: BTreeMap<usize, usize> = pairs(scored, own, theirs).into_iter().collect();
        for row in own {
            let Some(own) = answer(*row) else { continue };
            let Some(base) = partner.get(row).and_then(|base| answer(*base)) else {
                left_out.tell(own.row, "at equal length: the baseline has no score of its sample");
                continue;
            };
            if own.row.prompt_sha256 != base.row.prompt_sha256 {
                left_out.tell(own.row, "at equal length: its prompt is not the baseline's");
                continue;
            }
            if score::stands_at_the_end(&own.reference.dataset) {
                left_out.tell(
                    own.row,
                    "at equal length: what is scored stands at the end of the answer",
                );
                continue;
            }
            match pair(own, base) {
                Ok(row) => found.push(row),
                Err(_) => left_out.tell(own.row, "at equal length: no score"),
            }
        }
    }
    found
}

fn pair(own: &Answer<'_>, base: &Answer<'_>) -> anyhow::Result<MatchedRow> {
    let (row, theirs) = (own.row, base.row);
    let (words, baseline_words) = (n_words(&row.output_text), n_words(&theirs.output_text));
    let shorter = words.min(baseline_words);
    let (score, scorer) = own.score(first_words(&row.output_text, shorter))?;
    Ok(MatchedRow {
        run_id: row.run_id.clone(),
        cell_id: row.cell_id.clone(),
        target: row.target.clone(),
        method: row.method.clone(),
        workload: row.workload.clone(),
        load: row.load.clone(),
        repeat: row.repeat,
        request_id: row.request_id,
        sample_id: row.sample_id.clone(),
        dataset: own.reference.dataset.clone(),
        scorer,
        words: i64::try_from(words)?,
        baseline_words: i64::try_from(baseline_words)?,
        score,
        baseline_score: base.score(first_words(&theirs.output_text, shorter))?.0,
        prompt_sha256: row.prompt_sha256.clone(),
    })
}

/// Means of every method and data set, in the order of the plan. `free` are the scores of the answers as they came.
pub fn matched_means(data: &RunData, rows: &[MatchedRow], free: &[ScoreRow]) -> Vec<MatchedMean> {
    let mut groups: Vec<((Point, String), Vec<&MatchedRow>)> = Vec::new();
    let mut index: BTreeMap<(Point, String), usize> = BTreeMap::new();
    for row in rows {
        let key = (row.point(), row.dataset.clone());
        let at = *index.entry(key.clone()).or_insert_with(|| {
            groups.push((key, Vec::new()));
            groups.len() - 1
        });
        groups[at].1.push(row);
    }
    groups.sort_by_key(|((point, dataset), _)| (data.rank(point), dataset.clone()));
    let all = super::means(data, free);
    let one = |((point, dataset), rows): ((Point, String), Vec<&MatchedRow>)| {
        let seed = |what| {
            rng_for(data.manifest.scenario.seed, &format!("{point} {dataset} matched {what}"))
        };
        let scores = by_sample(rows.iter().map(|row| (row.sample_id.as_str(), row.score)));
        let differences = by_sample(
            rows.iter().map(|row| (row.sample_id.as_str(), row.score - row.baseline_score)),
        );
        let free = all.iter().find(|free| free.point == point && free.dataset == dataset);
        Some(MatchedMean {
            n_longer: rows.iter().filter(|row| row.words > row.baseline_words).count(),
            n_shorter: rows.iter().filter(|row| row.words < row.baseline_words).count(),
            mean: in_points(&scores, &mut seed("mean"))?,
            delta: in_points(&differences, &mut seed("delta"))?,
            delta_free: free.and_then(|free| free.delta),
            point,
            dataset,
        })
    };
    groups.into_iter().filter_map(one).collect()
}

impl MatchedRow {
    pub(in crate::analyse) fn point(&self) -> Point {
        Point {
            target: self.target.clone(),
            workload: self.workload.clone(),
            load: self.load.clone(),
            method: self.method.clone(),
        }
    }
}

/// Where each word ends, in bytes.
fn word_ends(text: &str) -> impl Iterator<Item = usize> + '_ {
    let mut chars = text.char_indices().peekable();
    std::iter::from_fn(move || {
        let (at, first) = chars.find(|(_, c)| !c.is_whitespace())?;
        let mut end = at + first.len_utf8();
        while !is_han(first)
            && let Some((at, c)) = chars.next_if(|(_, c)| !c.is_whitespace() && !is_han(*c))
        {
            end = at + c.len_utf8();
        }
        Some(end)
    })
}

fn is_han(c: char) -> bool {
    matches!(c, '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

fn n_words(text: &str) -> usize {
    word_ends(text).count()
}

/// The text up to the end of its nth word; all of it where it has no more.
fn first_words(text: &str, n: usize) -> &str {
    match n.checked_sub(1) {
        None => "",
        Some(last) => word_ends(text).nth(last).map_or(text, |end| &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_whole_and_han_characters_are_words() {
        assert_eq!(first_words("  a bc\n d ", 2), "  a bc");
        assert_eq!(first_words("a bc", 5), "a bc");
        assert_eq!((first_words("a", 0), first_words("", 3)), ("", ""));
        assert_eq!(n_words(" x = y+1;\n"), 3);
        assert_eq!((n_words("段落 7b段"), first_words("段落7b段", 3)), (4, "段落7b"));
    }
}
