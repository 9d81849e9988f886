//! Quality in the report of a run: means, broken prompts beside their null, and whether longer answers make up for what is lost.

use super::{
    Plot, slug,
    tables::{columns, count, estimate, text},
};
use crate::{
    analyse::{
        Estimate,
        compensation::{Answer, Compensation},
        quality::{Broken, Quality},
    },
    report::{
        negatives,
        table::{Table, Value},
    },
    units::significant,
};

/// Loss that the words speak of, percent.
const SPOKEN: f64 = 10.0;

/// Means, broken prompts and compensation, each only if there is something to say.
pub(super) fn tables(quality: &Quality) -> Vec<Table> {
    let mut tables = vec![means(quality)];
    for broken in &quality.broken {
        let named = |mut table: Table| {
            table.title = format!("{}, {}", table.title, broken.place);
            table
        };
        tables.extend(negatives::tables(&broken.found).map(named));
    }
    tables.push(compensation(&quality.compensation));
    tables.retain(|table| !table.rows.is_empty());
    tables
}

const PLACE: [(&str, &str); 4] = [("target", ""), ("workload", ""), ("load", ""), ("method", "")];

fn place(point: &crate::analyse::Point) -> Vec<Value> {
    [&point.target, &point.workload, &point.load, &point.method].map(|word| text(word)).into()
}

fn means(quality: &Quality) -> Table {
    let names = [("dataset", ""), ("answers", ""), ("mean", "%"), ("delta", "points")];
    let title = format!(
        "Quality: mean score by data set, and the difference to the baseline's, prompt by prompt; scored by {}",
        quality.scorers.join(", ")
    );
    let mut table = Table::new(&title, columns(&[&PLACE[..], &names].concat()));
    table.rows.extend(quality.means.iter().map(|mean| {
        let mut row = place(&mean.point);
        row.extend([
            text(&mean.dataset),
            count(mean.mean.n),
            estimate(Some(mean.mean)),
            estimate(mean.delta),
        ]);
        row
    }));
    table
}

fn compensation(all: &[Compensation]) -> Table {
    let names = [
        ("prompts", ""),
        ("longer", ""),
        ("delta", "points"),
        ("delta_at_equal_length", "points"),
        ("won_back_by_length", "points"),
        ("compensatory", ""),
    ];
    let title = "Is extra length compensatory? Scores as they came, and with both answers cut to the shorter one";
    let mut table = Table::new(title, columns(&[&PLACE[..], &names].concat()));
    table.rows.extend(all.iter().map(|one| {
        let mut row = place(&one.point);
        row.extend([
            count(one.n_prompts),
            count(one.n_longer),
            estimate(Some(one.free)),
            estimate(Some(one.equal)),
            estimate(Some(one.won_back)),
            text(match one.answer() {
                _ if one.is_control => "compresses nothing",
                Answer::Unknown => "not known",
                Answer::NotShownLonger => "not shown to be longer",
                Answer::Compensatory => "as if",
                Answer::NoLossShown => "no loss shown",
                Answer::NotShown => "not shown",
            }),
        ]);
        row
    }));
    table
}

/// What is said of broken prompts and of compensation.
pub(super) fn finding(quality: &Quality) -> Vec<String> {
    let mut out: Vec<String> = quality.broken.iter().flat_map(broken).collect();
    let methods = quality.compensation.iter().filter(|one| !one.is_control);
    out.extend(methods.map(compensated));
    out.extend(quality.told.iter().cloned());
    out
}

/// One sentence a method: more than the null, or not.
fn broken(broken: &Broken) -> Vec<String> {
    let found = &broken.found;
    let Some(at) = found.theta.iter().position(|theta| (theta - SPOKEN).abs() < 1e-9) else {
        return Vec::new();
    };
    let noise = found.noise.iter().filter(|counts| counts.n_benign > 0);
    let noise = noise.max_by_key(|counts| counts.negatives[at]);
    let again = noise.map_or(String::new(), |counts| {
        let (n, benign) = (counts.negatives[at], counts.n_benign);
        format!(" The baseline measured again ({}) loses as much on {n} of {benign}.", counts.name)
    });
    let one = |counts: &crate::analyse::negatives::Counts| {
        let mirror = counts.mirror.as_ref()?[at];
        let fair = counts.fair.as_ref()?;
        let q = fair.q[at];
        let (n, benign) = (counts.negatives[at], counts.n_benign);
        let judged = if fair.is_loss(at) {
            format!("more than chance does (q = {})", significant(q, 2))
        } else {
            format!(
                "no more than chance does, as far as the data can show (q = {})",
                significant(q, 2)
            )
        };
        Some(format!(
            "{} at {} loses more than 10 % of the score on {n} of {benign} prompts that the baseline does well; with the roles swapped it is {mirror}. By one bar for both it loses {} and gains {}: {judged}.{again}",
            counts.name, broken.place, fair.lost[at], fair.gained[at]
        ))
    };
    found.methods.iter().filter_map(one).collect()
}

fn compensated(one: &Compensation) -> String {
    let point = |e: &Estimate| match e.interval {
        Some((low, high)) => format!(
            "{} points [{}, {}]",
            significant(e.value, 2),
            significant(low, 2),
            significant(high, 2)
        ),
        None => format!("{} points", significant(e.value, 2)),
    };
    let place = format!("{} at {}, {}", one.point.method, one.point.workload, one.point.load);
    let scores = format!(
        "quality changes by {} as answers come and by {} at equal length",
        point(&one.free),
        point(&one.equal)
    );
    match one.answer() {
        Answer::Unknown => format!(
            "{place}: {scores}; whether answers are longer is not known, so neither is whether length makes up for anything."
        ),
        Answer::NotShownLonger => format!(
            "{place}: {scores}; that answers are longer is not shown, so there is no extra length to explain."
        ),
        Answer::Compensatory => format!(
            "{place}: {scores}: extra length wins back {}, which is what compensation would look like; what stands at the end of long answers is cut as well.",
            point(&one.won_back)
        ),
        Answer::NoLossShown => format!(
            "{place}: {scores}: answers are longer, but no loss at equal length is shown that they could make up for."
        ),
        Answer::NotShown => format!(
            "{place}: {scores}: answers are longer, but that they win anything back is not shown ({}).",
            point(&one.won_back)
        ),
    }
}

/// The paper's figures 6 and 7 with the null beside each, one a place.
pub(super) fn plots(quality: &Quality) -> Vec<Plot> {
    let alone = quality.broken.len() == 1;
    let named = |name: &str, broken: &Broken| {
        if alone { name.to_owned() } else { slug(&[name, &broken.place.to_string()]) }
    };
    let mut out = Vec::new();
    for broken in &quality.broken {
        let mut figure = negatives::figure(&broken.found);
        figure.title = format!("{}, {}", figure.title, broken.place);
        out.push(Plot { name: named("negatives", broken), figure });
        if let Some(mut figure) = negatives::by_task(&broken.found) {
            figure.title = format!("{}, {}", figure.title, broken.place);
            out.push(Plot { name: named("negatives-by-task", broken), figure });
        }
    }
    out
}
