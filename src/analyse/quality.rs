//! Quality of a scored run: means by data set, prompts that methods break beside their null, and whether longer answers make up for
//! what is lost.

use super::{
    Judgement, RunData,
    compensation::{Compensation, compensations},
    negatives::{Excluded, Found, Mode, found},
    score_run::{self, MeanScore, Place},
};

/// Losses that a report counts, percent of the baseline's score: those of the paper's figure 6.
pub const THETAS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 10.0, 16.0, 24.0, 32.0];

/// What the scores of a run say; empty for a run that was not scored.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Quality {
    /// Mean scores by method and data set.
    pub means: Vec<MeanScore>,
    /// Broken prompts by place.
    pub broken: Vec<Broken>,
    /// Free-running quality against quality at equal length; empty for a run that was not scored at equal length.
    pub compensation: Vec<Compensation>,
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

/// What the scores of a run say beside the lengths of its answers.
///
/// # Errors
/// Two methods of a place have one name.
pub fn quality(data: &RunData, judgement: &Judgement) -> anyhow::Result<Quality> {
    let rows = &data.scores;
    let mut broken = Vec::new();
    for place in score_run::places(&data.manifest, rows) {
        // A place where nothing can be compared is in the means, with its counts.
        let Ok(mut subjects) = score_run::subjects(&data.manifest, rows, &place) else { continue };
        subjects.drop_strangers();
        let seed = data.manifest.scenario.seed;
        let (found, excluded) = found(&subjects, &[], &THETAS, Mode::Algorithm1, seed)?;
        broken.push(Broken { place, found, excluded });
    }
    Ok(Quality {
        means: score_run::means(data, rows),
        broken,
        compensation: compensations(data, rows, &data.matched, &judgement.lengths),
    })
}
