//! Profiles by hand: two layers' worth of rows whose sums are easy.

use super::{
    evaluate::{Question, evaluate},
    *,
};
use crate::predict::measured::{self, MeasuredRow};

/// Decode attention takes `batch * kv / 1000` ms, prefill `chunk^2 / 1e6` ms. Columns of others stand between.
pub(super) fn attention() -> Columns {
    let mut text = "batch_size,extra,prefill_chunk_size,kv_cache_size,num_tensor_parallel_workers,\
                    time_stats.attn_decode.median,time_stats.attn_prefill.median\n"
        .to_owned();
    for batch in [1, 2, 4] {
        for kv in [32, 4096] {
            let ms = f64::from(batch * kv) / 1e3;
            text += &format!("{batch},x,0,{kv},1,{ms},\n{batch},x,0,{kv},2,9999,\n");
        }
    }
    for chunk in 1..=16 {
        let chunk = f64::from(chunk) * 256.0;
        text += &format!("1,x,{chunk},0,1,,{}\n1,x,{chunk},64,1,,7777\n", chunk * chunk / 1e6);
    }
    Columns::read(text.as_bytes(), "attention.csv").unwrap()
}

/// Each operation takes `tokens / 100` ms.
pub(super) fn linear() -> Columns {
    let names: Vec<String> =
        LINEAR_OPS.iter().map(|op| format!("time_stats.{op}.median")).collect();
    let mut text = format!("num_tokens,{}\n", names.join(","));
    for tokens in [8.0, 64.0, 192.0, 256.0, 320.0, 1000.0, 2500.0, 4096.0_f64] {
        text += &format!("{tokens},{}\n", vec![(tokens / 100.0).to_string(); 9].join(","));
    }
    Columns::read(text.as_bytes(), "mlp.csv").unwrap()
}

fn profile() -> Profile {
    Profile::read(&attention(), &linear()).unwrap()
}

fn row(phase: Phase, bsz: u32, prompt_len: u32, thr: f64) -> MeasuredRow {
    let (model, method) = ("m".to_owned(), "None-16".to_owned());
    MeasuredRow { model, method, bsz, prompt_len, phase, thr, pass_tokens: None, line: 1 }
}

#[test]
fn a_table_answers_between_its_rows() {
    let profile = profile();
    assert_eq!(profile.left_out.len(), 1, "rows of two ranks: {:?}", profile.left_out);
    let times = profile.interpolated();
    assert!((times.linear_ms(1000.0) - 90.0).abs() < 1e-9);
    assert!((times.decode_ms(2.0, 1000.0).unwrap() - 2.0).abs() < 1e-9);
    assert!((times.prefill_ms(512.0) - 0.262_144).abs() < 1e-9);
    assert!(times.decode_ms(3.0, 1000.0).unwrap_err().contains("no decode rows of batch 3"));
}

#[test]
fn points_by_hand() {
    let rows = [
        row(Phase::Decode, 2, 256, 10.0),
        row(Phase::Decode, 2, 256, 30.0),
        row(Phase::Prefill, 1, 3072, 1000.0),
    ];
    let question = Question { rows: &rows, layers: 10, kv_cap: Some(512.0) };
    let found = evaluate(&profile().interpolated(), &question);
    let at = |phase, bsz, len| {
        let is = |p: &&evaluate::Point| (p.phase, p.bsz, p.prompt_len) == (phase, bsz, len);
        found.points.iter().find(is).unwrap()
    };
    let decode = at(Phase::Decode, 2, 4000);
    assert!((decode.measured_s - 0.1).abs() < 1e-12, "2 tokens at a mean of 20 a second");
    // Two tokens are padded to 8: 9 operations of 0.08 ms, and 2 * 512 tokens of attention.
    assert!((decode.predicted_s - 10.0 * (0.72 + 1.024) / 1e3).abs() < 1e-9, "{decode:?}");
    let prefill = at(Phase::Prefill, 4, 3072);
    assert_eq!(prefill.sequences, 1, "two prompts of 3072 tokens do not fit into a pass");
    assert!((prefill.measured_s - 3.072).abs() < 1e-9);
    let expected = 10.0 * (9.0 * 30.72 + 3.072 * 3.072) / 1e3;
    assert!((prefill.predicted_s - expected).abs() < 1e-9, "{prefill:?}");
    assert_eq!(found.points.len() + found.left_out.len(), 36);
    assert!(found.left_out[0].contains("nothing was measured at batch 1"), "{:?}", found.left_out);
    let mape = found.mape_pct(None).unwrap();
    assert!((found.accuracy_pct(None).unwrap() + mape - 100.0).abs() < 1e-9);
}

#[test]
fn costs_that_are_linear_are_found_again() {
    let times = Roofline::fit(&profile()).unwrap();
    assert!((times.decode_ms(3.0, 1000.0).unwrap() - 3.0).abs() < 0.01);
    assert!((times.linear_ms(1000.0) - 90.0).abs() < 0.5, "{}", times.linear_ms(1000.0));
}

#[test]
fn a_file_of_something_else_is_refused() {
    let error = format!("{:#}", Profile::read(&linear(), &attention()).unwrap_err());
    assert!(error.contains("mlp.csv: expected a column `batch_size`"), "{error}");
    let empty = "batch_size,prefill_chunk_size,kv_cache_size,time_stats.attn_decode.median,time_stats.attn_prefill.median\n1,0,1,2,\n";
    let table = Columns::read(empty.as_bytes(), "a.csv").unwrap();
    let error = format!("{:#}", Profile::read(&table, &linear()).unwrap_err());
    assert!(error.contains("expected rows of prefill attention of an empty cache"), "{error}");
}

/// The published files of three methods; the other two are kept unseen.
#[test]
fn published_profiles_score_what_was_computed_elsewhere() {
    let Some(shared) = std::env::var_os("KVBENCH_SHARED") else {
        let word = b"skipped: KVBENCH_SHARED is not set\n";
        std::io::Write::write_all(&mut std::io::stderr().lock(), word).unwrap();
        return;
    };
    let folder = std::path::Path::new(&shared).join("artifact");
    let open = |name: String| {
        let path = folder.join(name);
        std::fs::File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let table = |name: &str| Columns::read(open(format!("profiles/{name}.csv.gz")), name).unwrap();
    for (method, kv_cap, expected) in
        [("fp16", None, 95.90), ("kivi", None, 95.19), ("h2o", Some(512.0), 92.78)]
    {
        let profile = Profile::read(&table(&format!("attention-{method}")), &table("mlp")).unwrap();
        let all =
            measured::rows(open(format!("throughput/llama-7b-{method}.csv")), method).unwrap();
        let rows = measured::of_model(all, method, "llama-2-7b").unwrap();
        let question = Question { rows: &rows, layers: 32, kv_cap };
        let found = evaluate(&profile.interpolated(), &question);
        let accuracy = found.accuracy_pct(None).unwrap();
        assert!((accuracy - expected).abs() < 0.02, "{method}: {accuracy}");
        assert_eq!(found.points.len(), 36);
    }
}
