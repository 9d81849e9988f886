//! Numbers of another tool beside those of one of our runs, by definition.

use super::PeerRow;
use crate::analyse::SummaryRow;

/// One statistic of theirs beside ours.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    /// Cell of the imported number.
    pub their_cell: String,
    /// Id of theirs.
    pub their_definition: String,
    /// Cell or point of ours.
    pub our_cell: String,
    /// Id of ours.
    pub our_definition: String,
    /// Unit of both.
    pub unit: String,
    /// (theirs, ours) mean.
    pub mean: (Option<f64>, Option<f64>),
    /// (theirs, ours) median.
    pub p50: (Option<f64>, Option<f64>),
    /// Why the numbers may differ although nothing is wrong; `None` where the definitions are the same.
    pub differs: Option<&'static str>,
}

impl Compared {
    /// Theirs over ours, of the means.
    pub fn mean_ratio(&self) -> Option<f64> {
        ratio(self.mean)
    }

    /// Theirs over ours, of the medians.
    pub fn p50_ratio(&self) -> Option<f64> {
        ratio(self.p50)
    }
}

fn ratio((theirs, ours): (Option<f64>, Option<f64>)) -> Option<f64> {
    Some(theirs? / ours.filter(|ours| *ours > 0.0)?)
}

const ROLE: &str = "theirs ends at the first message, be it empty; the same where no role message is sent (/v1/completions)";
const LAST: &str = "theirs ends at the last message, which may hold the finish reason alone";
const BOTH_ENDS: &str = "theirs runs from the first to the last message, be they empty, and its token count need not be the server's";
const COUNTED: &str = "theirs was counted by the tool, which need not agree with the server";

/// Theirs, the nearest of ours, and what tells them apart.
const NEAREST: [(&str, &str, &str); 17] = [
    ("ttft.first_choices", "ttft.first_content", ROLE),
    ("ttft.first_choices.from_due", "ttft.first_content.from_due", ROLE),
    ("ttft.first_choices.steady_state", "ttft.first_content.steady_state", ROLE),
    ("e2e.last_choices", "e2e.last_content", LAST),
    ("e2e.last_choices.from_due", "e2e.last_content.from_due", LAST),
    ("e2e.last_choices.steady_state", "e2e.last_content.steady_state", LAST),
    ("e2e.done", "e2e.last_content", "theirs waits for usage and the end of the stream"),
    ("tpot.request_mean.choices", "tpot.request_mean", BOTH_ENDS),
    ("tpot.request_mean.choices.steady_state", "tpot.request_mean.steady_state", BOTH_ENDS),
    (
        "itl.request_mean",
        "tpot.request_mean",
        "the same formula under another name; its token count need not be the server's",
    ),
    (
        "itl.request_mean.token_weighted",
        "tpot.request_mean",
        "the same formula under another name; theirs counts a request once a token",
    ),
    ("tpot.including_ttft", "tpot.request_mean", "theirs holds the time to the first token"),
    (
        "tpot.including_ttft.token_weighted",
        "tpot.request_mean",
        "theirs holds the time to the first token and counts a request once a token",
    ),
    ("itl.per_choices_chunk", "itl.per_chunk", "theirs holds messages without output: gaps near 0"),
    ("length.prompt.peer_count", "length.prompt.server_count", COUNTED),
    ("length.output.peer_count", "length.output.server_count", COUNTED),
    (
        "throughput.output_tokens_per_s.whole_run.peer_count",
        "throughput.output_tokens_per_s.whole_run",
        COUNTED,
    ),
];

/// Every imported number that has a counterpart among `ours` (summary rows of one cell or point), in the order of the import.
pub fn against(theirs: &[PeerRow], ours: &[SummaryRow]) -> Vec<Compared> {
    theirs.iter().filter_map(|theirs| compared(theirs, ours)).collect()
}

fn compared(theirs: &PeerRow, ours: &[SummaryRow]) -> Option<Compared> {
    let id = theirs.definition.as_deref()?;
    let with = |id: &str| ours.iter().find(|row| row.definition.as_deref() == Some(id));
    let nearest = || {
        let (_, our_id, why) = NEAREST.iter().find(|(their_id, ..)| *their_id == id)?;
        Some((with(our_id)?, Some(*why)))
    };
    let (ours, differs) = with(id).map(|row| (row, None)).or_else(nearest)?;
    Some(Compared {
        their_cell: theirs.cell_id.clone(),
        their_definition: id.to_owned(),
        our_cell: ours.cell_id.clone(),
        our_definition: ours.definition.clone()?,
        unit: ours.unit.clone(),
        mean: (theirs.mean, Some(ours.mean)),
        p50: (theirs.p50, ours.p50),
        differs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyse::definitions::by_id;

    #[test]
    fn relations_are_between_known_ids_of_one_unit() {
        for (theirs, ours, _) in NEAREST {
            let (theirs, ours) = (by_id(theirs).expect(theirs), by_id(ours).expect(ours));
            assert_eq!(theirs.unit, ours.unit, "{} {}", theirs.id, ours.id);
        }
    }
}
