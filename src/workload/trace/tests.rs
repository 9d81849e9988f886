use std::{collections::BTreeSet, io::Write as _};

use proptest::prelude::*;

use super::{read::found, *};
use crate::{
    plan::Arrival,
    scenario::{Workload, fuzz},
    workload,
};

const MOONCAKE: &str = r#"{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 7]}
{"timestamp": 3000, "input_length": 1024, "output_length": 9, "hash_ids": [0, 7]}
{"timestamp": 1500, "input_length": 512, "output_length": 1, "hash_ids": [8]}
{"timestamp": 1, "input_length": 513, "output_length": 1, "hash_ids": [8]}
{"timestamp": 1, "input_length": 5, "output_length": 0, "hash_ids": [8]}
{"timestamp": "soon", "input_length": 5, "output_length": 1}
{"timestamp": 2, "input_length": 5, "output_length": 1, "hash_ids": [-1]}
cut off
"#;
const AZURE: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:15:46.6805900,374,44\r\n\
    2023-11-16 18:15:50.9951690,396,109\r\nyesterday,1,1\r\n2023-11-16 18:15:51.2224670,879\r\n\r\n\
    2024-05-10 00:00:00.009930+00:00,2162,5\r\n";
const BURSTGPT: &str = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
    5,ChatGPT,472,18,490,Conversation log\n45.25,GPT-4,1087,230,1317,API log\n118,GPT-4,417,0,417,API log\n";
const LENGTHS: &str = "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n3772,54,3826,69.8\n\
    2015,156,2171,12.9\n9999999,1,1,1\n";

fn parsed(text: &str, format: TraceFormat) -> (Vec<TraceRow>, Vec<String>) {
    let found = found(&mut text.as_bytes(), format).expect("a header");
    let errors = found.errors.iter().map(|e| format!("{}: {}", e.line, e.message)).collect();
    assert_eq!(found.n_rows, found.samples.len() as u64 + found.n_bad);
    (found.samples, errors)
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("temporary file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

fn trace(path: &Path, format: TraceFormat) -> Trace {
    let path = path.to_owned();
    Trace { path, format, n_requests: None, start_s: 0.0, duration_s: None, tokens: None }
}

#[test]
fn mooncake_rows_good_and_bad() {
    let (rows, errors) = parsed(MOONCAKE, TraceFormat::Mooncake);
    let good: Vec<_> =
        rows.iter().map(|r| (r.line, r.at_ns, r.prompt_tokens, r.answer_tokens)).collect();
    let ms = |ms: i64| Some(ms * 1_000_000);
    assert_eq!(good, [(1, ms(0), 600, 5), (2, ms(3000), 1024, 9), (3, ms(1500), 512, 1)]);
    assert_eq!(rows[0].blocks, [0, 7]);
    assert_eq!(errors[0], "4: expected 2 hash_ids for 513 tokens (512 a block), got 1");
    assert_eq!(
        errors[1],
        "5: expected `output_length` to be a whole number from 1 to 1048576, got `0`"
    );
    assert_eq!(errors[2], "6: expected `timestamp` to be a number, got a text");
    assert_eq!(errors[3], "7: expected hash_ids to be whole numbers, got -1");
    assert!(errors[4].starts_with("8: expected JSON"), "{errors:?}");
}

#[test]
fn tables_good_and_bad() {
    let (rows, errors) = parsed(AZURE, TraceFormat::Azure);
    assert_eq!((rows.len(), rows[0].prompt_tokens, rows[1].answer_tokens), (3, 374, 109));
    assert_eq!(rows[1].at_ns.zip(rows[0].at_ns).map(|(b, a)| b - a), Some(4_314_579_000));
    assert_eq!(
        errors[0],
        "4: expected `TIMESTAMP` to be like 2023-11-16 18:17:03.97996, got `yesterday`"
    );
    assert_eq!(errors[1], "5: expected `GeneratedTokens` in column 3, got 2 columns");
    let (rows, errors) = parsed(BURSTGPT, TraceFormat::Burstgpt);
    assert_eq!((rows[0].at_ns, rows[1].at_ns), (Some(5_000_000_000), Some(45_250_000_000)));
    assert_eq!((rows[1].prompt_tokens, rows[1].answer_tokens, errors.len()), (1087, 230, 1));
    let (rows, errors) = parsed(LENGTHS, TraceFormat::Lengths);
    assert_eq!((rows.len(), rows[1].prompt_tokens, rows[1].at_ns), (2, 2015, None));
    assert!(errors[0].starts_with("4: expected `num_prefill_tokens`"), "{errors:?}");
    let error = found(&mut LENGTHS.as_bytes(), TraceFormat::Azure).expect_err("other columns");
    assert!(error.to_string().contains("expected a column `TIMESTAMP`"), "{error}");
}

#[test]
fn the_same_blocks_are_the_same_words() {
    let file = file(MOONCAKE);
    let (workload, replay) = (
        Workload::Trace(trace(file.path(), TraceFormat::Mooncake)),
        Arrival::Replay { speed: 2.0 },
    );
    let built = workload::build_reporting(&workload, &replay, 5).expect("built");
    let requests = &built.requests;
    assert_eq!(built.dataset.as_ref().map(|report| (report.n_rows, report.n_bad)), Some((8, 5)));
    // Sorted by time, twice as fast.
    let due: Vec<_> = requests.iter().map(|request| request.due).collect();
    assert_eq!(due, [0, 750, 1500].map(|ms| Due::AtNs(ms * 1_000_000)));
    assert_eq!(requests[1].sample_id, "line-3");
    let words: Vec<usize> = requests.iter().map(|r| r.prompt.split(' ').count()).collect();
    assert_eq!(words, [600, 512, 1024], "as many words as tokens");
    assert!(requests[2].prompt.starts_with(&requests[0].prompt), "blocks 0 and 7 are shared");
    assert_ne!(requests[0].prompt[..20], requests[1].prompt[..20]);
    let again = workload::build(&workload, &replay, 5).expect("built");
    assert_eq!(&again, requests);
    let other = workload::build(&workload, &replay, 6).expect("built");
    assert_ne!(other[0].prompt[..20], requests[0].prompt[..20], "nothing left of another cell");
}

#[test]
fn a_tokenizer_makes_prompts_as_long_as_the_trace_says() {
    let folder = tempfile::tempdir().expect("a folder");
    crate::token::tiny::byte_level(folder.path());
    let tokenizer = crate::token::Tokenizer::load(folder.path()).expect("a tokenizer");
    let tokens = Some(crate::scenario::TokenRules {
        tokenizer: folder.path().to_owned(),
        max_prompt_tokens: None,
        chat_template: None,
        template_date: crate::token::date(crate::token::DATE_DEFAULT).expect("a day"),
    });
    for (text, format) in [(MOONCAKE, TraceFormat::Mooncake), (LENGTHS, TraceFormat::Lengths)] {
        let file = file(text);
        let trace = Trace { tokens: tokens.clone(), ..trace(file.path(), format) };
        let closed = Arrival::Closed { concurrency: 1 };
        let built = workload::build_reporting(&Workload::Trace(trace), &closed, 5).expect("built");
        assert_eq!(built.notes, [""; 0]);
        let (mut rows, _) = parsed(text, format);
        rows.sort_by_key(|row| row.at_ns);
        for (request, row) in built.requests.iter().zip(&rows) {
            let tokens = tokenizer.count(&request.prompt).expect("counted") as u32;
            assert_eq!(tokens, row.prompt_tokens, "line {}", row.line);
            assert_eq!(request.counted.as_ref().map(|it| it.tokens), Some(tokens));
        }
        if format == TraceFormat::Mooncake {
            let first_block = &built.requests[2].prompt[..400];
            assert!(built.requests[0].prompt.starts_with(first_block), "block 0 is shared");
        }
    }
}

#[test]
fn prompts_without_blocks_share_nothing() {
    let file = file(LENGTHS);
    let workload = Workload::Trace(trace(file.path(), TraceFormat::Lengths));
    let built = workload::build(&workload, &Arrival::Poisson { rate: 2.0 }, 1).expect("built");
    assert_ne!(built[0].prompt[..20], built[1].prompt[..20]);
    assert_eq!((built[1].max_tokens, built[1].prompt.split(' ').count()), (156, 2015));
    let error =
        workload::build(&workload, &Arrival::Replay { speed: 1.0 }, 1).expect_err("timeless");
    assert!(error.to_string().contains("a time for each of its 2 requests, got 0"), "{error}");
}

#[test]
fn a_window_starts_its_own_clock() {
    let file = file(MOONCAKE);
    let cut =
        Trace { start_s: 1.0, duration_s: Some(1.0), ..trace(file.path(), TraceFormat::Mooncake) };
    let replay = Arrival::Replay { speed: 0.5 };
    let built = workload::build(&Workload::Trace(cut.clone()), &replay, 1).expect("built");
    assert_eq!((built.len(), built[0].due), (1, Due::AtNs(1_000_000_000)));
    let few = Trace { n_requests: Some(2), ..trace(file.path(), TraceFormat::Mooncake) };
    assert_eq!(workload::build(&Workload::Trace(few), &replay, 1).expect("built").len(), 2);
    let late = Trace { start_s: 9.0, ..cut };
    let error = workload::build(&Workload::Trace(late), &replay, 1).expect_err("nothing there");
    assert!(format!("{error:#}").contains("the last row comes at 3 s"), "{error:#}");
}

#[test]
fn formats_are_told_by_the_first_line() {
    for (text, format) in [
        (MOONCAKE, TraceFormat::Mooncake),
        (AZURE, TraceFormat::Azure),
        (BURSTGPT, TraceFormat::Burstgpt),
        (LENGTHS, TraceFormat::Lengths),
    ] {
        assert_eq!(format_of(file(text).path()), Some(format));
    }
    assert_eq!(format_of(file("{\"context\": 1}").path()), None);
}

proptest! {
    #![proptest_config(fuzz::config())]

    #[test]
    fn whatever_the_bytes(
        mooncake in fuzz::mutated(MOONCAKE), azure in fuzz::mutated(AZURE), random in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        for (bytes, format) in [
            (&mooncake, TraceFormat::Mooncake),
            (&azure, TraceFormat::Azure),
            (&random, TraceFormat::Burstgpt),
            (&random, TraceFormat::Mooncake),
        ] {
            let Ok(found) = found(&mut &bytes[..], format) else { continue };
            prop_assert_eq!(found.n_rows, found.samples.len() as u64 + found.n_bad);
            prop_assert!(found.errors.iter().all(|error| !error.message.contains('\n')));
        }
    }
}

#[test]
fn real_traces_are_read() {
    #[expect(clippy::disallowed_methods, reason = "a test finds shared data by this variable")]
    let Ok(shared) = std::env::var("KVBENCH_SHARED") else {
        skipped();
        return;
    };
    let folder = Path::new(&shared).join("datasets");
    // Rows, seconds to the last, prompt tokens; counted with another program.
    for (file, format, n_rows, last_s, tokens) in [
        (
            "traces/mooncake_conversation_6000.jsonl",
            TraceFormat::Mooncake,
            6000,
            Some(1872),
            Some(76_643_649),
        ),
        (
            "traces/mooncake_synthetic.jsonl",
            TraceFormat::Mooncake,
            3993,
            Some(1022),
            Some(61_194_628),
        ),
        (
            "traces/AzureLLMInferenceTrace_conv_2023.csv",
            TraceFormat::Azure,
            19_366,
            Some(3501),
            None,
        ),
        ("traces/AzureLLMInferenceTrace_code_2023.csv", TraceFormat::Azure, 8819, Some(3435), None),
        ("arxiv_summarization_trace.csv", TraceFormat::Lengths, 28_257, None, None::<u64>),
    ] {
        let path = folder.join(file);
        assert_eq!(format_of(&path), Some(format), "{file}");
        let (rows, report) = read(&path, format).expect(file);
        assert_eq!((rows.len(), report.n_rows, report.n_bad), (n_rows, n_rows as u64, 0), "{file}");
        let last = rows.last().and_then(|row| row.at_ns).map(|ns| ns / 1_000_000_000);
        assert_eq!(last, last_s, "{file}");
        let sum: u64 = rows.iter().map(|row| u64::from(row.prompt_tokens)).sum();
        assert!(tokens.is_none_or(|tokens| tokens == sum), "{file}: {sum}");
    }
    let cut = Trace {
        duration_s: Some(30.0),
        ..trace(&folder.join("traces/mooncake_conversation_6000.jsonl"), TraceFormat::Mooncake)
    };
    let built = build(&cut, 3).expect("a window");
    let starts: BTreeSet<_> = built.requests.iter().map(|r| r.prompt.get(..200)).collect();
    assert!(starts.len() < built.requests.len() / 2, "most conversations share their first block");
}

#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn skipped() {
    eprintln!("skipped: KVBENCH_SHARED is not set");
}
