use super::*;
use crate::{
    analyse::lengths::{Source, points},
    record::{RequestRow, manifest, parquet::TableRow as _},
    report::svg,
};

/// Thirty prompts answered by `method`: the nth with `tokens(n)` tokens.
fn rows(method: &str, tokens: impl Fn(i64) -> i64) -> Vec<RequestRow> {
    let row = |prompt: i64| RequestRow {
        cell_id: format!("x/t/{method}/w/l/r0"),
        target: "t".to_owned(),
        method: method.to_owned(),
        workload: "w".to_owned(),
        load: "l".to_owned(),
        request_id: prompt,
        sample_id: format!("s{prompt}"),
        sent_ns: Some(1000),
        last_token_ns: Some(1000 + 20 * tokens(prompt)),
        output_tokens: Some(tokens(prompt)),
        max_tokens: 400,
        finish_reason: Some(if tokens(prompt) < 400 { "stop" } else { "length" }.to_owned()),
        output_text: format!("{} {method}", "a".repeat(prompt as usize)),
        prompt_sha256: format!("{prompt}"),
        ..RequestRow::default()
    };
    (0..30).map(row).collect()
}

fn judged(more: &[Vec<RequestRow>]) -> Vec<LengthPoint> {
    let mut manifest = manifest::example("r", &[]);
    manifest.scenario.baseline = "base".to_owned();
    let all = [rows("base", |n| 100 + 7 * (n % 5)), more.concat()].concat();
    let requests = RequestRow::frame(&all).unwrap();
    points(Source { manifest: &manifest, requests: &requests, encode: None }).unwrap()
}

#[test]
fn an_effect_is_claimed_beyond_the_controls_and_hedged_where_it_is_not() {
    let aa = rows("base-aa", |n| 100 + 7 * ((n + 2) % 5));
    let double = rows("double", |n| 200 + 14 * (n % 5));
    let same = rows("same", |n| 100 + 7 * ((n + 3) % 5));
    let points = judged(&[aa, double, same]);
    let finding = finding(&points);
    let [double, same] = &finding[..] else { panic!("controls are no findings: {finding:?}") };
    assert!(
        double.contains("answers are 2.00x [2.00, 2.00] as long as base's (30 prompts)"),
        "{double}"
    );
    assert!(double.contains("100 % longer than base's and its control's"), "{double}");
    assert!(
        double.contains("100 % of them are at least 1.5 times as long, 0 % the other way round; of base-aa's 0 %"),
        "{double}"
    );
    assert!(double.contains("2.00x the tokens at 1.00x the time a token"), "{double}");
    assert!(same.contains("no difference that the data can show"), "{same}");
    assert!(same.contains("would be found in four of five such runs"), "{same}");
    assert!(!same.contains("max_tokens"), "{same}");
}

#[test]
fn answers_at_the_cap_make_the_ratio_a_bound_and_no_control_is_said() {
    let points = judged(&[rows("capped", |n| if n % 3 == 0 { 400 } else { 150 })]);
    let said = finding(&points).concat();
    assert!(said.contains("no control ran"), "{said}");
    assert!(said.contains("33 % of its answers and 0 % of base's ended at max_tokens"), "{said}");
    let ending = &tables(&points)[1];
    assert!(ending.title.starts_with("How answers end"));
    let Value::Float(capped) = ending.rows[0][6] else { panic!("{:?}", ending.rows[0]) };
    assert!((capped - 100.0 / 3.0).abs() < 1e-9, "{capped}");
}

#[test]
fn few_prompts_say_nothing() {
    let mut few = rows("few", |_| 50);
    few.truncate(5);
    let said = finding(&judged(&[few])).concat();
    assert_eq!(
        said,
        "few at w, l: 5 prompts are too few to say anything of the length of answers."
    );
}

#[test]
fn figures_hold_every_method_and_the_null() {
    let aa = rows("base-aa", |n| 100 + 7 * ((n + 2) % 5));
    let points = judged(&[aa, rows("other", |n| 90 + 11 * (n % 7))]);
    let plots = figures_of(&points);
    let names: Vec<&str> = plots.iter().map(|plot| plot.name.as_str()).collect();
    assert_eq!(names, ["length-ratio", "length-shift-d", "first-difference"], "no bits are known");
    for plot in &plots {
        let panel = &plot.figure.panels[0];
        assert_eq!((panel.series.len(), panel.references.len()), (1, 1), "{}", plot.name);
        assert!(
            svg(&plot.figure).unwrap().contains("base-aa (compresses nothing)"),
            "{}",
            plot.name
        );
    }
}
