use super::*;

/// A capture in which each event came by itself, at 10, 20, 30, ...
fn capture(body: &[u8]) -> Capture {
    let mut capture = Capture {
        http_status: Some(200),
        content_type: Some("text/event-stream".to_owned()),
        attempt: 1,
        ..Capture::default()
    };
    for (i, event) in body.split_inclusive(|byte| *byte == b'\n').enumerate() {
        capture.bytes.extend_from_slice(event);
        capture.reads.push(Read { end: capture.bytes.len(), t_ns: 10 * (i as i64 + 1) });
    }
    capture
}

fn answer(body: &str) -> Answer {
    read(&capture(body.as_bytes()))
}

fn err(body: &str) -> String {
    answer(body).err.expect("an error")
}

#[expect(
    clippy::disallowed_methods,
    reason = "tests find the recorded answers through this variable"
)]
fn recorded(name: &str) -> Option<Answer> {
    let Ok(shared) = std::env::var("KVBENCH_SHARED") else {
        let mut stderr = std::io::stderr().lock();
        std::io::Write::write_all(&mut stderr, b"skipped: KVBENCH_SHARED is not set\n").unwrap();
        return None;
    };
    let path = std::path::Path::new(&shared).join("recorded").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Some(read(&capture(&bytes)))
}

const TEXT: &str = "data: {\"choices\":[{\"index\":0,\"text\":\"a\"}]}\n\n";
const STOP: &str =
    "data: {\"choices\":[{\"index\":0,\"text\":\"\",\"finish_reason\":\"stop\"}]}\n\n";

#[test]
fn vllm_completions_with_an_empty_text_and_a_lone_usage() {
    let Some(answer) = recorded("vllm/completions.sse") else { return };
    assert_eq!(answer.err, None);
    assert_eq!(
        (answer.prompt_tokens, answer.output_tokens, answer.token_source),
        (Some(4), Some(6), Some("usage"))
    );
    assert_eq!(
        answer.chunk_ns.len(),
        5,
        "the chunk with no text is not output when nobody says that it holds a token"
    );
    assert_eq!(answer.finish_reason.as_deref(), Some("length"));
    assert_eq!((answer.chunk_tokens.len(), answer.n_events), (0, 8));
}

#[test]
fn vllm_chat_starts_with_a_role() {
    let Some(answer) = recorded("vllm/chat.sse") else { return };
    assert_eq!((answer.err, answer.text.as_str()), (None, " Ligan execute Ligan"));
    // The role is the event of lines 1 and 2, the first text is complete with line 4.
    assert_eq!(answer.chunk_ns, [40, 60, 80]);
    assert_eq!(answer.output_tokens, Some(5), "three chunks, five tokens");
}

#[test]
fn vllm_continuous_usage_and_token_ids_give_tokens_per_chunk() {
    for (name, source) in
        [("vllm/completions_continuous.sse", "usage"), ("vllm/completions_tokids.sse", "usage")]
    {
        let Some(answer) = recorded(name) else { return };
        assert_eq!((answer.err, answer.token_source), (None, Some(source)));
        assert_eq!(answer.chunk_tokens, [1, 1, 1], "{name}");
        assert_eq!(answer.chunk_ns.len(), 3);
    }
}

#[test]
fn llamacpp_puts_usage_into_the_last_choice() {
    let Some(answer) = recorded("llamacpp/completions.sse") else { return };
    assert_eq!((answer.err, answer.text.as_str()), (None, ", there was a little g"));
    assert_eq!((answer.output_tokens, answer.cached_tokens), (Some(6), Some(0)));
    assert_eq!((answer.chunk_ns.len(), answer.chunk_tokens.len()), (6, 0));
}

#[test]
fn llamacpp_chat_starts_with_null() {
    let Some(answer) = recorded("llamacpp/chat.sse") else { return };
    assert_eq!((answer.err, answer.text.as_str()), (None, ", there was a little"));
    assert_eq!((answer.chunk_ns[0], answer.cached_tokens), (40, Some(4)));
}

#[test]
fn two_choices_are_a_fault() {
    let Some(answer) = recorded("vllm/n2.sse") else { return };
    assert!(answer.err.expect("n = 2").contains("one choice"));
    assert_eq!(answer.text, " upon a", "the other choice is not mixed in");
}

#[test]
fn llamacpp_native_is_not_this_protocol() {
    let Some(answer) = recorded("llamacpp/native.sse") else { return };
    assert!(answer.err.expect("no choices").contains("expected an event stream"));
}

#[test]
fn tokens_from_ids_alone() {
    let body = "data: {\"choices\":[{\"text\":\"\",\"token_ids\":[5]}]}\n\n\
        data: {\"choices\":[{\"text\":\"é\",\"token_ids\":[6,7],\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    let answer = answer(body);
    assert_eq!((answer.output_tokens, answer.token_source), (Some(3), Some("token_ids")));
    assert_eq!((answer.chunk_ns, answer.chunk_tokens), (vec![20, 40], vec![1, 2]));
}

#[test]
fn unknown_tokens_stay_unknown() {
    let answer = answer(&format!("{TEXT}{TEXT}{STOP}data: [DONE]\n\n"));
    assert_eq!((answer.err, answer.output_tokens, answer.token_source), (None, None, None));
    assert_eq!(answer.chunk_ns.len(), 2);
}

#[test]
fn an_end_needs_a_reason() {
    assert!(err(TEXT).starts_with("stream ended early"));
    assert_eq!(answer(&format!("{TEXT}{STOP}")).err, None);
    assert_eq!(answer(&format!("{TEXT}data: [DONE]\n\n")).err, None);
    assert_eq!(answer(&format!("{TEXT}data: [DONE]")).err, None, "without its blank line");
}

#[test]
fn a_failure_after_done_harms_nothing_and_before_it_does() {
    let mut done = capture(format!("{TEXT}data: [DONE]\n\n").as_bytes());
    done.failure = Some("connection lost".to_owned());
    assert_eq!(read(&done).err, None);
    let mut cut = capture(format!("{TEXT}data: {{\"cho").as_bytes());
    cut.failure = Some("connection lost".to_owned());
    let answer = read(&cut);
    assert_eq!((answer.err.as_deref(), answer.text.as_str()), (Some("connection lost"), "a"));
}

#[test]
fn a_stream_that_is_none() {
    assert!(
        err("<html>busy</html>")
            .contains("expected an event stream, got text/event-stream: \"<html>")
    );
    assert!(err("").contains("empty body"));
    assert!(
        err("data: garbage\n\ndata: [DONE]\n\n").contains("expected a JSON chunk, got \"garbage\"")
    );
    assert!(err(&format!("{TEXT}data: garbage\n\n{STOP}")).contains("garbage"));
    assert!(err(&format!("{STOP}data: [DONE]\n\n")).starts_with("no output"));
    assert!(err("data: [DONE]\n\n").starts_with("no output"));
}

#[test]
fn only_a_stop_token_is_an_answer() {
    let answer = answer(
        "data: {\"choices\":[{\"text\":\"\",\"finish_reason\":\"stop\"}],\"usage\":{\"completion_tokens\":1}}\n\n",
    );
    assert_eq!((answer.err, answer.output_tokens, answer.chunk_ns.len()), (None, Some(1), 0));
}

#[test]
fn an_error_inside_the_stream_keeps_what_came_before() {
    let answer = answer(&format!(
        "{TEXT}data: {{\"error\":{{\"message\":\"oom\",\"code\":500}}}}\n\ndata: [DONE]\n\n"
    ));
    assert_eq!(answer.err.as_deref(), Some("error inside the stream: oom (code 500)"));
    assert_eq!(answer.text, "a");
}

#[test]
fn a_refusal_is_quoted() {
    let mut refused = capture(br#"{"error":{"message":"too long","code":400}}"#);
    refused.http_status = Some(400);
    assert_eq!(read(&refused).err.as_deref(), Some("http 400: too long (code 400)"));
}
