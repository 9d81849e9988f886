use super::*;
use crate::{
    analyse::lengths::forced::points,
    record::{RequestRow, manifest, parquet::TableRow as _},
    report::svg,
};

/// Two places of thirty answers: `logprob` of place and prompt, `None` where it is not listed.
fn rows(method: &str, logprob: impl Fn(bool, i64) -> Option<f64>) -> Vec<RequestRow> {
    let row = |id: i64| {
        let (prompt, k) = (id / 3, id % 3);
        RequestRow {
            cell_id: format!("x/t/{method}/w/l/r0"),
            target: "t".to_owned(),
            method: method.to_owned(),
            workload: "w".to_owned(),
            load: "l".to_owned(),
            request_id: id,
            sample_id: format!("s{prompt}"),
            prompt_tokens: Some(20 + 30 * k),
            prompt_sha256: format!("{id}"),
            forced_at: Some((k + 1) as f64 / 3.0),
            stop_logprob: logprob(k == 2, prompt),
            logprob_floor: Some(-12.0),
            ..RequestRow::default()
        }
    };
    (0..90).map(row).collect()
}

fn judged() -> Vec<ForcedPoint> {
    let base = |end: bool, prompt: i64| if end { -0.5 } else { -5.0 - 0.1 * (prompt % 3) as f64 };
    let mut manifest = manifest::example("r", &[]);
    manifest.scenario.baseline = "base".to_owned();
    let all = [
        rows("base", |end, prompt| Some(base(end, prompt))),
        rows("base-aa", |end, prompt| Some(base(end, prompt))),
        rows("less", |end, prompt| {
            let own = base(end, prompt) - if end { 0.5 } else { 0.2 } - 0.01 * (prompt % 5) as f64;
            (end || prompt > 2).then_some(own)
        }),
        rows("same", |end, prompt| Some(base(end, prompt) + 0.1 * (prompt % 3 - 1) as f64)),
    ];
    points(&manifest, &RequestRow::frame(&all.concat()).unwrap()).unwrap()
}

#[test]
fn an_effect_is_said_with_its_null_its_limit_and_what_is_left_out() {
    let finding = finding(&judged());
    let [less, same, limit] = &finding[..] else { panic!("{finding:?}") };
    assert!(less.starts_with("less at w, l: at the end of the same answers"), "{less}");
    assert!(
        less.contains("0.595x [0.59") && less.contains("(30 prompts): less than base"),
        "{less}"
    );
    assert!(
        less.contains("its controls repeat it exactly") && less.contains("q < 0.001"),
        "{less}"
    );
    assert!(less.contains("answers with the same texts would be 1."), "{less}");
    assert!(less.contains("at ends of words") && !less.contains("an answer)"), "{less}");
    assert!(less.contains("Of 90 places 6 count with a bound"), "{less}");
    assert!(same.contains("no difference to base") && same.contains("would be found"), "{same}");
    assert!(limit.contains("vLLM within a chunk") && limit.contains("llama.cpp"), "{limit}");
}

#[test]
fn tables_and_figure_hold_every_method_and_the_control() {
    let points = judged();
    let [effects, places] = named_tables(&points).map(|(_, table)| table);
    assert_eq!(effects.rows.len(), 3, "the baseline is what others are compared with");
    assert_eq!(places.rows.len(), 12);
    // Places are ends of words and tokens are not: a number of stops an answer would be too large, and only its ratio is told.
    let named = |name: &str| effects.columns.iter().any(|column| column.name == name);
    assert!(named("stops_ratio") && !named("stops") && !named("baseline_stops"));
    let plots = figures_of(&points);
    let [plot] = &plots[..] else { panic!("{plots:?}") };
    let panel = &plot.figure.panels[0];
    assert_eq!((panel.series.len(), panel.references.len()), (3, 1));
    assert!(svg(&plot.figure).unwrap().contains("stop token"));
    assert!(tables(&[]).is_empty() && figures_of(&[]).is_empty() && finding(&[]).is_empty());
}
