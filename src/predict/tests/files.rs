//! Model files: what is written, what is read back, and what is refused.

use rand::RngExt as _;
use serde_json::{Value, json};

use super::*;
use crate::predict::file::Origin;

#[test]
fn a_file_comes_back_to_the_last_bit() {
    let origin = Origin { run_id: Some("r".into()), path: "results/r".into() };
    let mut file = ModelFile::new(vec![origin], fit(&with_prefill(), &Options::default()).models);
    let mut rng = stats::seeded(8);
    for _ in 0..300 {
        file.models[0].coefficients[0].value = rng.random::<f64>() * 1e-9;
        file.models[0].noise = Some(rng.random::<f64>());
        assert_eq!(ModelFile::parse(&file.text().unwrap(), "m").unwrap(), file);
    }
}

/// Each model names its own runs; files of the schema before do not tell, and are read all the same.
#[test]
fn a_model_says_which_rows_it_was_fitted_to() {
    let mut seen = with_prefill();
    for (at, one) in seen.iter_mut().enumerate() {
        let from = if one.pass.work.phase == Phase::Decode { "run-a" } else { "run-b" };
        let rows = [at as u64].into_iter().collect();
        one.rows = vec![Rows { from: from.to_owned(), rows }];
    }
    let origin = |id: &str| Origin { run_id: Some(id.to_owned()), path: format!("results/{id}") };
    let models = fit(&seen, &Options::default()).models;
    let file = ModelFile::new(vec![origin("run-a"), origin("run-b")], models);
    let said: Vec<String> = file.models.iter().filter_map(Model::origins).collect();
    assert_eq!(said, ["run-b (5 rows)", "run-a (36 rows)"], "prefill comes first");
    let text = file.text().unwrap();
    assert!(text.contains("\"rows\": \"0-35\""), "{text}");
    assert_eq!(ModelFile::parse(&text, "m").unwrap(), file);
    let stray = text.replacen("\"from\": \"run-b\"", "\"from\": \"run-c\"", 1);
    let error = ModelFile::parse(&stray, "m").unwrap_err().to_string();
    assert!(error.contains("created_from, got those of run-c"), "{error}");

    let mut older: Value = serde_json::from_str(&text).unwrap();
    older["schema"] = json!("kvbench-throughput/1");
    for model in older["models"].as_array_mut().unwrap() {
        model.as_object_mut().unwrap().remove("created_from");
        model["subject"].as_object_mut().unwrap().remove("started_with");
    }
    let read = ModelFile::parse(&older.to_string(), "m").unwrap();
    assert_eq!(read.models[0].created_from, None);
}

#[test]
fn a_broken_file_says_what_is_wrong() {
    let text = ModelFile::new(Vec::new(), fit(&with_prefill(), &Options::default()).models)
        .text()
        .unwrap();
    let error = |text: &str| format!("{:#}", ModelFile::parse(text, "m.json").unwrap_err());
    assert!(error("{").starts_with("m.json: expected a file of `kvbench predict fit`"));
    let newer = text.replace("kvbench-throughput/2", "kvbench-throughput/9");
    let said = "m.json: expected schema kvbench-throughput/2 or kvbench-throughput/1, got kvbench-throughput/9";
    assert!(error(&newer).starts_with(said), "{}", error(&newer));
    assert!(error(&text.replace("\"n_points\"", "\"points\"")).contains("n_points"));
    assert!(
        error(&text.replacen("\"term\": \"batch\"", "\"term\": \"b\"", 1))
            .contains("models[1] (fp16)")
    );
    assert!(error(&text.replacen("\"value\": 0", "\"value\": -1", 1)).contains("negative"));
}

/// Each of these alone would be printed as a prediction.
#[test]
fn an_edited_file_is_refused() {
    let models = fit(&with_prefill(), &Options::default()).models;
    let text = ModelFile::new(Vec::new(), models).text().unwrap();
    let whole: Value = serde_json::from_str(&text).unwrap();
    let error = |edit: &dyn Fn(&mut Value)| {
        let mut edited = whole.clone();
        edit(&mut edited);
        ModelFile::parse(&edited.to_string(), "m").err().map(|error| format!("{error:#}"))
    };
    assert_eq!(error(&|_| ()), None);
    let knots = |log_ratio: f64| json!({"knots": [{"x": 0.0, "y": 0.0, "log_ratio": log_ratio}]});
    // Prefill comes first, then decode.
    for (pointer, value, part) in [
        ("/models/1/budget", json!(-512.0), "expected a budget above 0, got -512"),
        ("/models/0/budget", json!(512.0), "expected no budget of a prefill, got 512"),
        ("/models/1/factor", json!(0.5), "expected a factor above 0 of a calibrated model"),
        ("/models/1/residuals", json!({"knots": []}), "expected residuals at some point"),
        ("/models/1/residuals", knots(1000.0), "log ratio up to 20, got 1000"),
        ("/models/1/coefficients/1/value", json!(1e308), "s at the end of the domain, got"),
        ("/models/1/coefficients/0/unit", json!("hours"), "got 1 in hours"),
        ("/models/1/interval", json!({"p10": 0.1, "p90": -0.1}), "an interval in ascending order"),
        ("/models/1/errors/mape_pct", json!(-1.0), "expected errors from 0 %"),
        ("/models/1/noise", json!(-3.0), "expected a noise from 0, got -3"),
        ("/models/1/n_repeats", json!(1), "n_points from 1 and as many n_repeats or more"),
        ("/models/1/domain/size/high", json!(0.5), "a domain of size in ascending order"),
        ("/models/1/domain/kv_len/low", json!(-1.0), "a domain of kv_len"),
    ] {
        let said = error(&|file| *file.pointer_mut(pointer).unwrap() = value.clone()).unwrap();
        assert!(said.contains(part) && said.starts_with("m: models["), "{pointer}: {said}");
    }
    let free = |file: &mut Value| {
        for cost in file["models"][1]["coefficients"].as_array_mut().unwrap() {
            cost["value"] = json!(0.0);
        }
    };
    assert!(error(&free).unwrap().contains("expected a coefficient above 0, got none"));
    let told = |file: &mut Value| file["models"][1]["subject"]["when"] = json!("now");
    assert!(error(&told).unwrap().contains("unknown field `when`"));
    let twice = |file: &mut Value| {
        let models = file["models"].as_array_mut().unwrap();
        models.push(models[1].clone());
    };
    assert!(error(&twice).unwrap().starts_with("m: models[2] (fp16): expected one model of"));
}

#[test]
fn a_subject_is_called_by_any_part_in_any_case() {
    let subject = Subject { target: Some("Fast".into()), ..subject(Source::Kernel) };
    for called in ["", "MODEL", "device", "Engine 1", "fast", "Kernel"] {
        assert!(subject.is_called(called), "{called}");
    }
    assert!(!subject.is_called("file"));
}
