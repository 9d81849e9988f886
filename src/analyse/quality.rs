//! Quality of a scored run: means by data set, prompts that methods break beside their null, and whether longer answers make up for
//! what is lost.

use std::collections::BTreeSet;

use super::{
    RunData,
    compensation::{Compensation, compensations},
    lengths::LengthPoint,
    negatives::{Excluded, Found, Mode, Paired, Scores, found},
    score_run::{self, MeanScore, Place, ScoreRow},
};
use crate::record::manifest::CellFacts;

/// Losses that a report counts, percent of the baseline's score: those of the paper's figure 6.
pub const THETAS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 10.0, 16.0, 24.0, 32.0];

/// What the scores of a run say; empty for a run that was not scored.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Quality {
    /// Rules that scored the answers, with their versions.
    pub scorers: Vec<String>,
    /// Mean scores by method and data set.
    pub means: Vec<MeanScore>,
    /// Broken prompts by place.
    pub broken: Vec<Broken>,
    /// Free-running quality against quality at equal length; empty for a run that was not scored at equal length.
    pub compensation: Vec<Compensation>,
    /// What could not be compared, in words.
    pub told: Vec<String>,
}

/// Prompts that methods break at one place.
#[derive(Debug, Clone, PartialEq)]
pub struct Broken {
    /// Workload and load.
    pub place: Place,
    /// Counts by [`THETAS`].
    pub found: Found,
    /// Rows that could not be compared.
    pub excluded: Vec<Excluded>,
}

/// What the scores of a run say beside the lengths of its answers. What cannot be compared is told, and keeps nothing else from being
/// judged.
pub fn quality(data: &RunData, lengths: &[LengthPoint]) -> Quality {
    let rows = &data.scores;
    let mut quality = Quality {
        means: score_run::means(data, rows),
        scorers: score_run::scorers(rows).into_iter().map(str::to_owned).collect(),
        ..Quality::default()
    };
    for place in score_run::places(&data.manifest, rows) {
        match at(data, rows, place.clone()) {
            Ok((broken, told)) => {
                quality.broken.push(broken);
                quality.told.extend(told);
            }
            Err(error) => quality.told.push(told(&place, &error)),
        }
    }
    let (compensation, n_left_out) = compensations(data, rows, &data.matched, lengths);
    quality.compensation = compensation;
    if n_left_out > 0 {
        quality.told.push(format!(
            "{n_left_out} scores at equal length have no score of the same answer by the same rules beside them: `kvbench score RUN_DIR --truncate-to-baseline` makes both anew."
        ));
    }
    let scored: BTreeSet<&str> = rows.iter().map(|row| row.cell_id.as_str()).collect();
    let workloads: BTreeSet<&str> = rows.iter().map(|row| row.workload.as_str()).collect();
    let of_scored = |cell: &&CellFacts| {
        workloads.contains(cell.workload.as_str()) && data.finished.contains(&cell.id)
    };
    let cells = data.manifest.cells.iter().filter(of_scored);
    let n = cells.filter(|cell| !scored.contains(cell.id.as_str())).count();
    if n > 0 {
        quality.told.push(format!(
            "{n} finished cells have no scores: if the run has gone on since it was scored, `kvbench score RUN_DIR` again."
        ));
    }
    quality.told.extend(data.scores_unused.iter().cloned());
    quality
}

/// Counts at one place; methods that share nothing with the baseline are told and left out.
fn at(data: &RunData, rows: &[ScoreRow], place: Place) -> anyhow::Result<(Broken, Vec<String>)> {
    let mut subjects = score_run::subjects(&data.manifest, rows, &place)?;
    subjects.drop_strangers();
    let mut out = Vec::new();
    let baseline = subjects.baseline.clone();
    let mut comparable =
        |scores: &Scores| match Paired::new(&baseline, std::slice::from_ref(scores)) {
            Ok(_) => true,
            Err(error) => {
                out.push(told(&place, &error));
                false
            }
        };
    subjects.methods.retain(&mut comparable);
    subjects.again.retain(&mut comparable);
    subjects.repeats.values_mut().for_each(|repeats| repeats.retain(&mut comparable));
    subjects.repeats.retain(|_, repeats| repeats.len() > 1);
    let seed = data.manifest.scenario.seed;
    let (found, excluded) = found(&subjects, &[], &THETAS, Mode::Algorithm1, seed)?;
    Ok((Broken { place, found, excluded }, out))
}

/// The first line: the hint is for a command line.
fn told(place: &Place, error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    format!("{place}: broken prompts are not counted: {}", text.lines().next().unwrap_or_default())
}
