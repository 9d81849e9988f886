//! Engines that cannot run here: what we read from answers that were made by hand from their documents
//! (`tests/fixtures/engines`, whose README names the document of each fact).

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{
    answer::{self, Answer, Capture, Read},
    facts,
    metrics::{self, Reading},
};
use crate::scenario::{Engine, MetricName, engine::built_in};

const ENGINES: [&str; 5] = ["lmdeploy", "sglang", "tgi", "tensorrt-llm", "ray-serve"];

fn path(engine: &str, file: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/engines");
    root.join(engine).join(file)
}

#[track_caller]
fn text(engine: &str, file: &str) -> String {
    let path = path(engine, file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[track_caller]
fn json(engine: &str, file: &str) -> Value {
    serde_json::from_str(&text(engine, file)).unwrap()
}

fn expected(engine: &str) -> Value {
    json(engine, "expected.json")
}

/// A stream whose lines came one by one.
fn stream(engine: &str, file: &str) -> Answer {
    let mut capture = Capture {
        http_status: Some(200),
        content_type: Some("text/event-stream".to_owned()),
        attempt: 1,
        ..Capture::default()
    };
    for (i, line) in
        text(engine, file).as_bytes().split_inclusive(|byte| *byte == b'\n').enumerate()
    {
        capture.bytes.extend_from_slice(line);
        capture.reads.push(Read { end: capture.bytes.len(), t_ns: i as i64 });
    }
    answer::read(&capture)
}

fn catalogued(engine: &str) -> &'static Engine {
    built_in().unwrap().iter().find(|known| known.name == engine).unwrap()
}

#[test]
fn answers_of_both_endpoints() {
    for engine in ENGINES {
        let wanted = expected(engine);
        for endpoint in ["completions", "chat"] {
            let answer = stream(engine, &format!("{endpoint}.sse"));
            let place = format!("{engine} {endpoint}");
            assert_eq!(answer.err, None, "{place}");
            assert_eq!(Some(answer.text.as_str()), wanted["text"].as_str(), "{place}");
            assert_eq!(answer.prompt_tokens, wanted["prompt_tokens"].as_i64(), "{place}");
            assert_eq!(answer.output_tokens, wanted["output_tokens"].as_i64(), "{place}");
            assert_eq!(answer.token_source, Some("usage"), "{place}");
            assert_eq!(answer.cached_tokens, wanted[endpoint]["cached_tokens"].as_i64(), "{place}");
            let reason = &wanted["finish_reason"];
            let reason = reason.as_str().or(reason[endpoint].as_str());
            assert_eq!(answer.finish_reason.as_deref(), reason, "{place}");
            let chunks = u64::try_from(answer.chunk_ns.len()).unwrap();
            assert_eq!(Some(chunks), wanted[endpoint]["chunks_with_text"].as_u64(), "{place}");
        }
    }
}

#[test]
fn variants_of_the_formats() {
    let running = stream("sglang", "completions-continuous.sse");
    assert_eq!((running.err, running.output_tokens), (None, Some(8)));
    assert_eq!(running.chunk_tokens.iter().sum::<i64>(), 8, "tokens of each chunk are known");
    assert!(stream("sglang", "completions-cache-report.sse").cached_tokens.is_some());
    let silent = stream("lmdeploy", "completions-no-usage.sse");
    assert_eq!((silent.err, silent.output_tokens, silent.token_source), (None, None, None));
    for file in ["completions-nospace.sse", "chat-usage-in-last-choice.sse"] {
        let answer = stream("tgi", file);
        assert_eq!((answer.err, answer.output_tokens), (None, Some(8)), "{file}");
    }
}

#[test]
fn a_stream_that_breaks_is_an_error_with_what_came_before() {
    for engine in ENGINES {
        let wanted = &expected(engine)["error"];
        let answer = stream(engine, "error.sse");
        let said = answer.err.unwrap_or_else(|| panic!("{engine}: expected an error"));
        let message = wanted["message"].as_str().unwrap_or("stream ended early");
        assert!(said.contains(message), "{engine}: {said}");
        assert_eq!(Some(answer.text.as_str()), wanted["text_before"].as_str(), "{engine}");
    }
}

#[test]
fn models_and_facts_stand_where_the_catalogue_looks() {
    for engine in ENGINES {
        let wanted = expected(engine);
        let models = facts::ids(&json(engine, "models.json"));
        assert_eq!(models, [wanted["model"].as_str().unwrap()], "{engine}");
        for (name, place) in &catalogued(engine).tells {
            let crate::scenario::engine::Tells::Json { path: route, pointer } = place else {
                continue;
            };
            let file = format!("{}.json", route.rsplit('/').next().unwrap());
            if !path(engine, &file).exists() {
                continue;
            }
            let told = json(engine, &file).pointer(pointer).cloned();
            // A model is told as a path or as its served name; `proof` takes both.
            let known = wanted.get(name).filter(|_| name != "model");
            let (Some(told), Some(known)) = (&told, known) else { continue };
            assert_eq!(told, known, "{engine}: {name}");
        }
    }
    let version = |engine: &str, file| json(engine, file).pointer("/version").cloned();
    for (engine, file) in
        [("sglang", "server_info.json"), ("tgi", "info.json"), ("tensorrt-llm", "version.json")]
    {
        assert!(catalogued(engine).tells.contains_key("version"));
        assert_eq!(version(engine, file), expected(engine).get("version").cloned(), "{engine}");
    }
}

/// Our metrics in an answer, the last reading of each.
fn readings(engine: &str, file: &str) -> Vec<Reading> {
    let spec = catalogued(engine).metrics.as_ref().unwrap();
    let text = text(engine, file);
    let (moments, bad) = metrics::parse(spec, &text).unwrap();
    assert_eq!(bad, metrics::Bad::default(), "{engine}");
    metrics::pick(spec, moments.last().unwrap()).0
}

#[test]
fn metrics_are_found_under_the_catalogues_names() {
    for engine in ENGINES {
        let file = if engine == "tensorrt-llm" { "metrics.json" } else { "metrics.txt" };
        let readings = readings(engine, file);
        let value = |name| readings.iter().find(|reading| reading.name == name)?.value;
        assert_eq!(value(MetricName::Running), Some(3.0), "{engine}");
        assert_eq!(value(MetricName::Waiting), Some(5.0), "{engine}");
        let usage = (engine != "tgi").then_some(0.375);
        assert_eq!(value(MetricName::KvUsage), usage, "{engine}: absent is not 0");
        let preemptions = ["sglang", "ray-serve"].contains(&engine).then_some(7.0);
        assert_eq!(value(MetricName::PreemptionsTotal), preemptions, "{engine}");
    }
}
