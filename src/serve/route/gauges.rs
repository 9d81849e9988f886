//! What engines say of their own load, from their Prometheus text: other clients may use them beside this router.

/// Requests inside an engine as it counts them; `None` where it does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Gauges {
    /// Requests that it computes.
    pub(super) running: Option<f64>,
    /// Requests in its queue.
    pub(super) waiting: Option<f64>,
    /// Share of its KV cache that is in use, of one.
    pub(super) kv_usage: Option<f64>,
    /// Requests that lost their place in the cache since it was started.
    pub(super) preempted: Option<f64>,
}

/// Names by which vLLM (`docs/usage/metrics`), llama-server (`tools/server/README.md`) and SGLang call them; the first that an
/// answer holds counts, since a family may be told under its old and its new name.
const RUNNING: [&str; 3] =
    ["vllm:num_requests_running", "llamacpp:requests_processing", "sglang:num_running_reqs"];
const WAITING: [&str; 3] =
    ["vllm:num_requests_waiting", "llamacpp:requests_deferred", "sglang:num_queue_reqs"];
const KV_USAGE: [&str; 4] = [
    "vllm:kv_cache_usage_perc",
    "vllm:gpu_cache_usage_perc",
    "llamacpp:kv_cache_usage_ratio",
    "sglang:token_usage",
];
const PREEMPTED: [&str; 1] = ["vllm:num_preemptions_total"];

/// Reads the gauges of one answer.
pub(super) fn read(text: &str) -> Gauges {
    let first = |names: &[&str]| names.iter().find_map(|name| sum(text, name));
    Gauges {
        running: first(&RUNNING),
        waiting: first(&WAITING),
        // A server of several engines tells one share each: the fullest is the one that will make requests wait.
        kv_usage: KV_USAGE.iter().find_map(|name| samples(text, name).reduce(f64::max)),
        preempted: first(&PREEMPTED),
    }
}

/// Sum over the label sets of a family; `None` without a sample.
fn sum(text: &str, family: &str) -> Option<f64> {
    samples(text, family).reduce(|a, b| a + b)
}

/// Values of a family that are numbers and not negative.
fn samples<'a>(text: &'a str, family: &'a str) -> impl Iterator<Item = f64> + 'a {
    text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(family)?;
        let value = match rest.as_bytes().first()? {
            b'{' => rest.rsplit_once('}')?.1,
            b' ' | b'\t' => rest,
            _ => return None,
        };
        let value: f64 = value.split_ascii_whitespace().next()?.parse().ok()?;
        (value.is_finite() && value >= 0.0).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_of_engines_are_found_and_others_are_unknown() {
        let vllm = "# TYPE vllm:num_requests_running gauge\n\
                    vllm:num_requests_running{engine=\"0\",model_name=\"a } b\"} 2.0\n\
                    vllm:num_requests_running{engine=\"1\"} 1.0 1700000000\n\
                    vllm:num_requests_running_by_mood 9\n\
                    vllm:kv_cache_usage_perc{engine=\"0\"} 0.25\n\
                    vllm:kv_cache_usage_perc{engine=\"1\"} 0.5\n\
                    vllm:num_preemptions_total{engine=\"0\"} 3.0\n\
                    vllm:num_preemptions_created{engine=\"0\"} 1.7e9\n";
        let gauges = read(vllm);
        assert_eq!(gauges.preempted, Some(3.0));
        assert_eq!((gauges.running, gauges.waiting, gauges.kv_usage), (Some(3.0), None, Some(0.5)));
        let llama = "llamacpp:requests_processing 4\nllamacpp:requests_deferred 7\n";
        let gauges = read(llama);
        assert_eq!((gauges.running, gauges.waiting, gauges.kv_usage), (Some(4.0), Some(7.0), None));
        assert_eq!(read("llamacpp:requests_processing NaN\n<html>"), Gauges::default());
    }
}
