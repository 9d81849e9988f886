//! Whatever the numbers in a file, it is refused with place and remedy, or its rows and statistics are numbers.

use proptest::prelude::*;
use serde_json::{Number, Value, json};

use super::{
    parse,
    tests::{AIPERF_LINE, GUIDELLM, VLLM, numbers},
};
use crate::scenario::fuzz;

/// No time of a row can be further from the start: a year, and a year after that.
const ROW_NS_MAX: i64 = 2 * 367 * 86_400 * 1_000_000_000;

const AIPERF_STATISTICS: &str = r#"{"aiperf_version": "0.13.0", "input_config": {"models": {"items": [{"name": "m"}]}, "phases":
    [{"concurrency": 4}]}, "inter_token_latency": {"unit": "ms", "avg": 3.0, "p50": 2.9, "count": 32}, "output_token_throughput":
    {"avg": 3981.5}, "output_sequence_length": {"avg": 352.0, "count": 32}, "usage_completion_tokens": {"avg": 100, "count": 32}}"#;

/// JSON pointers of all numbers.
fn numeric_places(value: &Value, at: &str, out: &mut Vec<String>) {
    match value {
        Value::Number(_) => out.push(at.to_owned()),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, item)| {
                numeric_places(item, &format!("{at}/{i}"), out);
            });
        }
        Value::Object(map) => {
            map.iter().for_each(|(key, item)| numeric_places(item, &format!("{at}/{key}"), out));
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// Any number that JSON can hold, the hostile ones often.
fn any_number() -> impl Strategy<Value = Value> {
    let real = any::<f64>()
        .prop_filter_map("JSON has no NaN", |x| Some(Value::Number(Number::from_f64(x)?)));
    prop_oneof![
        real,
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        prop::sample::select(vec![
            json!(0),
            json!(-1),
            json!(-0.0),
            json!(1e-300),
            json!(1e300),
            json!(-1e300),
            json!(1e18),
            json!(1e9),
            json!(i64::MAX),
            json!(i64::MIN),
            json!(u64::MAX),
            json!(4_294_967_296_u64),
            json!(f64::MAX),
        ]),
    ]
}

proptest! {
    #![proptest_config(fuzz::config())]

    #[test]
    fn any_number_in_any_place(
        file in 0_usize..4, changes in prop::collection::vec((any::<prop::sample::Index>(), any_number()), 1..4),
    ) {
        let seed = [VLLM, GUIDELLM, AIPERF_LINE, AIPERF_STATISTICS][file];
        let mut document: Value = serde_json::from_str(seed).expect("a valid seed");
        let mut places = Vec::new();
        numeric_places(&document, "", &mut places);
        for (place, number) in changes {
            let place = &places[place.index(places.len())];
            *document.pointer_mut(place).expect("a place of the document") = number;
        }
        let text = document.to_string();
        match parse(&text) {
            Err(error) => {
                let error = format!("{error:#}");
                prop_assert!(error.contains("\n  hint: "), "{}", error);
            }
            Ok(read) => {
                for row in read.cells.iter().flat_map(|cell| &cell.rows) {
                    let times = row.chunk_ns.iter().copied().chain(row.sent_ns).chain(row.last_token_ns).chain(row.done_ns);
                    prop_assert!(times.chain([row.due_ns]).all(|ns| ns.abs() <= ROW_NS_MAX), "{:?}", row);
                    prop_assert!(row.output_tokens.is_none_or(|n| n >= 0) && row.prompt_tokens.is_none_or(|n| n >= 0));
                }
                let (_, rows) = numbers(&text);
                prop_assert!(rows.iter().all(|row| row.mean.is_none_or(f64::is_finite)), "{:?}", rows);
            }
        }
    }
}

/// Each of these overflowed or became a number of no meaning.
#[test]
fn hostile_numbers_are_refused_with_entry_and_remedy() {
    for (seed, from, to, place) in [
        (VLLM, "\"ttfts\": [0.05,", "\"ttfts\": [-0.05,", "ttfts[0]: expected a number from 0 to"),
        (VLLM, "[100.0, 100.1,", "[100.0, 1e300,", "start_times[1]"),
        (VLLM, "[100.0, 100.1,", "[100.0, 1e9,", "start_times[1]: expected a time within"),
        (VLLM, "[[0.01, 0.01]", "[[0.01, 1e300]", "itls[0][1]"),
        (
            VLLM,
            "\"latencies\": [0.07",
            "\"latencies\": [0.01",
            "latencies[0]: expected latencies after ttfts",
        ),
        (VLLM, "\"output_lens\": [3,", "\"output_lens\": [1e300,", "output_lens[0]"),
        (
            VLLM,
            "[0.0, 0.03, 0.0]",
            "[0.0, \"x\", 0.0]",
            "queue_times[1]: expected a number, got `x`",
        ),
        (VLLM, "\"completed\": 2", "\"completed\": -2", "completed: expected a number from 0"),
        (VLLM, "\"mean_ttft_ms\": 50.0", "\"mean_ttft_ms\": -50.0", "mean_ttft_ms"),
        (
            GUIDELLM,
            "1000.155",
            "1e300",
            "benchmarks[0]: requests.successful[0]: info.timings.request_end",
        ),
        (
            GUIDELLM,
            "1000.145",
            "1000.001",
            "expected last_token_iteration after first_token_iteration",
        ),
        (
            GUIDELLM,
            "\"output_tokens\": 10",
            "\"output_tokens\": -10",
            "requests.successful[0]: output_tokens",
        ),
        (
            GUIDELLM,
            "\"count\": 9",
            "\"count\": 1e300",
            "metrics.inter_token_latency_ms.successful.count",
        ),
        (
            AIPERF_LINE,
            "1795463015306998603",
            "-9223372036854775808",
            "line 1: metadata.request_end_ns",
        ),
        (
            AIPERF_LINE,
            "1795463015306998603",
            "9223372036854775807",
            "line 1: metadata.request_end_ns",
        ),
        (AIPERF_LINE, "\"value\": 50.0", "\"value\": 1e300", "metrics.time_to_first_token.value"),
        (AIPERF_LINE, "[15.0, 25.0]", "[15.0, -25.0]", "metrics.inter_chunk_latency.value[1]"),
        (AIPERF_STATISTICS, "\"avg\": 3.0", "\"avg\": -3.0", "inter_token_latency.avg"),
    ] {
        let text = seed.replacen(from, to, 1);
        assert_ne!(text, seed, "{from} is not in the seed");
        let error = format!("{:#}", parse(&text.replace('\n', " ")).unwrap_err());
        assert!(error.contains(place), "{place:?} not in {error}");
        assert!(error.contains("\n  hint: the file is damaged"), "{error}");
    }
}
