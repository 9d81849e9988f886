//! Why a prompt is predicted as it is.

use super::{
    inputs::Scores,
    model::{self, Calibration, Inputs, Model, Query, Read, Trained, cut, log_of_largest_cut},
    text,
};

/// What one feature did to q50.
#[derive(Debug, Clone, PartialEq)]
pub struct Moved {
    /// The feature.
    pub feature: String,
    /// Its value.
    pub value: f64,
    /// What 1 + tokens were multiplied by.
    pub factor: f64,
}

/// A prediction with its reasons.
#[derive(Debug, Clone, PartialEq)]
pub struct Explained {
    /// Tokens at q10, q50 and q90.
    pub tokens: [f64; 3],
    /// q50 before any feature was looked at.
    pub start: f64,
    /// Features that moved q50, the strongest first; those that did nothing are left out.
    pub moved: Vec<Moved>,
    /// Words and pairs of words with what they add to the score of the words, the strongest first.
    pub grams: Vec<(String, f64)>,
    /// What the method's shift multiplied 1 + tokens by; `None` of the baseline.
    pub shift: Option<f64>,
    /// Why it may not be trusted, in words.
    pub notes: Vec<String>,
}

/// Below half a per cent a feature did nothing worth a line.
const NOTHING: f64 = 5e-3;

impl Model {
    /// Predicts, and says why: what each feature's splits did on the path through the trees of q50.
    ///
    /// # Errors
    /// As [`Model::predict`].
    pub fn explain(&self, query: &Query<'_>) -> anyhow::Result<Explained> {
        self.explain_read(query, &Read::of(query.prompt))
    }

    /// The same of a prompt that has been read, see [`Model::predict_read`].
    ///
    /// # Errors
    /// As [`Model::predict_read`].
    pub fn explain_read(&self, query: &Query<'_>, read: &Read) -> anyhow::Result<Explained> {
        self.can_see(read)?;
        let row = self.row(read, query.task, Scores::default());
        let (start, by_feature) = match self.forests.get(1) {
            Some(middle) => middle.explain(&row, row.len()),
            None => (0.0, Vec::new()),
        };
        let mut moved: Vec<(usize, f64)> = by_feature.into_iter().enumerate().collect();
        moved.retain(|(_, by)| by.abs() > NOTHING);
        moved.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        let named = |(at, by): (usize, f64)| {
            let (name, ..) = model::range_of(self, at)?;
            Some(Moved { feature: name.to_owned(), value: f64::from(row[at]), factor: by.exp() })
        };
        Ok(Explained {
            tokens: self.predict_read(query, read)?,
            start: cut(start, query.max_tokens),
            moved: moved.into_iter().filter_map(named).collect(),
            grams: self.words.as_ref().map_or_else(Vec::new, |words| words.explain(query.prompt)),
            shift: self.shift(query.method)?.map(|shift| shift.at(read).exp()),
            notes: self.notes(query, &row),
        })
    }

    fn notes(&self, query: &Query<'_>, row: &[f32]) -> Vec<String> {
        let mut notes = Vec::new();
        let outside: Vec<&str> = (0..text::N_FEATURES.min(row.len()))
            .filter_map(|at| {
                let (name, low, high) = model::range_of(self, at)?;
                (row[at] < low || row[at] > high).then_some(name)
            })
            .collect();
        if !outside.is_empty() {
            notes.push(format!("outside of what was learnt from: {}", outside.join(", ")));
        }
        if let (Inputs::PromptAndTask, Some(task)) = (self.inputs, query.task)
            && !self.groups.tasks().contains(&task)
        {
            notes.push(format!("task `{task}` was not learnt: all prompts stand in its place"));
        }
        notes.extend(self.limit_note(query, self.logs(row)[2]));
        if let Ok(Some(shift)) = self.shift(query.method)
            && !shift.is_used()
        {
            notes.push(format!(
                "{}: its shift is not shown to be more than chance and is not applied, so this is the baseline's length",
                shift.method
            ));
        }
        notes.extend(self.calibration.missing());
        notes
    }

    /// What the `max_tokens` that were learnt from hide of a prompt. Nothing where the asked limit is no larger: whatever is above it is
    /// cut there by the question itself.
    fn limit_note(&self, query: &Query<'_>, q90: f64) -> Option<String> {
        let Trained { n_censored, n_answers, max_tokens: largest, .. } = self.trained;
        if n_censored == 0 || query.max_tokens.is_some_and(|asked| asked <= largest) {
            return None;
        }
        if q90 >= log_of_largest_cut(self) - 1e-3 {
            return Some(format!(
                "q90 reaches {largest} tokens, where the longest answers it learnt from were cut: a lower bound"
            ));
        }
        let asked = query.max_tokens?;
        Some(format!(
            "max_tokens {asked} is more than the {largest} that it learnt from: {n_censored} of its {n_answers} answers were cut, and how \
             much longer they would have become is not known"
        ))
    }
}

impl Calibration {
    /// Which ends were not moved, and why; `None` where both were.
    pub fn missing(&self) -> Option<String> {
        let n = self.n_prompts;
        let ends = match (self.low, self.high) {
            (Some(_), Some(_)) => return None,
            (Some(_), None) => "q90 is not calibrated (q10 is)",
            (None, Some(_)) => "q10 is not calibrated (q90 is)",
            (None, None) => "the ends are not calibrated",
        };
        // The upper end needs prompts of which it is below max_tokens, the lower one needs prompts.
        let why = match self.low {
            None => format!("{n} held-out prompts are too few"),
            Some(_) => format!("of {n} held-out prompts too few have it below max_tokens"),
        };
        Some(format!("{ends}: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_ends_that_were_not_moved_are_said_not_to_be() {
        let said = |low, high| Calibration { n_prompts: 24, low, high }.missing();
        assert_eq!(said(Some(0.1), Some(0.1)), None);
        let one = said(Some(0.1), None).unwrap();
        assert!(one.starts_with("q90 is not calibrated (q10 is): of 24 held-out"), "{one}");
        let none = said(None, None).unwrap();
        assert!(none.starts_with("the ends are not calibrated: 24 held-out prompts"), "{none}");
    }
}
