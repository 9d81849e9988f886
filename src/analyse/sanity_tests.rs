use super::*;
use crate::{
    analyse::{Judgement, Verdict, judge as judge_run, tests::served_run},
    record::parquet::TableRow as _,
};

const CELLS: [&str; 2] = ["example/srv/base/chat/closed-2/0", "example/srv/method/chat/closed-2/0"];

/// A run of two methods whose answers are given.
fn run(base: &[&str], method: &[&str]) -> Judgement {
    let mut data = served_run(&CELLS, base.len(), |row| {
        let texts = if row.method == "base" { base } else { method };
        row.output_text = texts[row.request_id as usize].to_owned();
    });
    data.manifest.scenario.baseline = "base".to_owned();
    assert_eq!(RequestRow::rows(&data.requests).unwrap().len(), 2 * base.len());
    judge_run(&data).unwrap()
}

fn text(judgement: &Judgement) -> &TextPoint {
    let [text] = judgement.texts.as_slice() else { panic!("{:?}", judgement.texts) };
    text
}

const STORIES: [&str; 6] = [
    "The girl went to the park and played with her red ball. Her mom was happy and smiled at her.",
    "The boy saw a big dog in the park. He was happy and played with the dog and the red ball.",
    "Her mom said that the ball was in the house. The girl was happy and went to the house.",
    "A cat sat in the house with the girl. The cat saw the ball and played with it and was happy.",
    "The dog went to the house and saw the cat. The cat was not happy, but the dog smiled at her.",
    "In the park the boy and the girl saw her mom. They played with the ball and went to the house.",
];

/// Other sentences of the same language.
const RETOLD: [&str; 6] = [
    "The girl went to the house and played with the cat. Her mom was happy and smiled.",
    "The boy saw a red ball in the park. He was happy and played with the ball and the dog.",
    "Her mom said that the dog was in the park. The girl went to the park and was happy.",
    "A cat sat in the park with the boy. The cat saw the dog and was not happy with it.",
    "The dog went to the park and saw the girl. The girl was happy, and the dog played.",
    "In the house the girl and her mom saw the cat. They played with the cat and smiled.",
];

const GARBAGE: [&str; 6] = [
    "thitarrveradadaddle bomade apcictos magumped yut haddbbin owdle theirts zkel",
    "frollach fiud bealmmhess shane butteryessur vlizel ealif angasiflags qudarn",
    "ennekzellow laser locksay eoons onentul reenenence ustronbumpty vorj kwmu",
    "cliverad manks mank laterterfulcry couldntust rebs moongetles camans wxgq",
    "shast allowre astadtomhk inging buttally theathars colers everyoneld jjk",
    "gvurmp zlatik quorfen blistwyx dremk snorflat ukkul pewtrig hazzq yvonk",
];

#[test]
fn garbage_is_suspect_and_says_what_was_seen() {
    let judgement = run(&STORIES, &GARBAGE);
    let text = text(&judgement);
    assert!(text.excess_bits.unwrap() > EXCESS_BITS && text.n_worse == 6, "{text:?}");
    let reason = &text.reasons[0];
    assert!(reason.contains("6 of 6 prompts, sign test p = 0.016"), "{reason}");
    assert!(reason.contains("100 % of their words"), "{reason}");
    assert_eq!((text.n_compared, text.n_identical), (6, 0));
    assert_eq!(
        (judgement.cells[0].reasons.iter().any(|r| r.contains("bits")), judgement.cells[1].verdict),
        (false, Verdict::Suspect)
    );
    assert!(judgement.cells[1].reasons.iter().any(|r| r.contains("bits a character more")));
    let said = judgement
        .warnings
        .iter()
        .find(|w| matches!(w, crate::analyse::Warning::Garbled { .. }))
        .unwrap();
    assert!(said.to_string().contains("read some of its answers"), "{said}");
}

#[test]
fn other_words_of_the_same_language_are_fine() {
    let judgement = run(&STORIES, &RETOLD);
    assert_eq!(text(&judgement).reasons, [""; 0], "{:?}", text(&judgement));
    let equal = run(&STORIES, &STORIES);
    let equal = text(&equal);
    assert_eq!(
        (equal.n_identical, equal.first_difference, equal.excess_bits),
        (6, None, Some(0.0))
    );
    assert!((equal.p_value - 1.0).abs() < 1e-12 && equal.reasons.is_empty());
}

/// A workload that asks everything twice, under two names: the baseline's answers must not foretell themselves.
#[test]
fn prompts_that_come_twice_are_no_yardstick_for_each_other() {
    let twice = |texts: &[&'static str]| [texts, texts].concat();
    let (once, again) = (run(&STORIES, &RETOLD), run(&twice(&STORIES), &twice(&RETOLD)));
    let (once, again) = (text(&once), text(&again));
    assert!(again.reasons.is_empty(), "{again:?}");
    let apart = (once.excess_bits.unwrap() - again.excess_bits.unwrap()).abs();
    assert!(apart < 0.1, "{once:?} {again:?}");
}

/// Four prompts cannot show more than chance, however bad their answers are.
#[test]
fn too_few_prompts_are_not_judged() {
    let text = run(&STORIES[..4], &GARBAGE[..4]);
    let text = &text.texts[0];
    assert!(text.excess_bits.unwrap() > EXCESS_BITS && text.reasons.is_empty(), "{text:?}");
    let one = run(&STORIES[..1], &GARBAGE[..1]);
    assert_eq!((one.texts[0].excess_bits, one.texts[0].unseen_words), (None, None));
}

#[test]
fn empty_answers_and_loops_are_seen() {
    let reasons = |method: &[&str]| run(&STORIES, method).texts[0].reasons.join("; ");
    assert!(
        reasons(&[""; 6]).contains("answers to 6 of 6 prompts are empty, of the baseline to 0")
    );
    let looped: Vec<String> =
        STORIES.iter().map(|s| format!("{s}{}", " the ball".repeat(12))).collect();
    let looped: Vec<&str> = looped.iter().map(String::as_str).collect();
    assert!(reasons(&looped).contains("answers to 6 of 6 prompts end in a loop"));
    let one = [looped[0], STORIES[1], STORIES[2], STORIES[3], STORIES[4], STORIES[5]];
    assert_eq!(reasons(&one), "", "one loop is chance");
    assert!(run(&looped, &looped).texts[0].reasons.is_empty(), "the baseline does it too");
}

#[test]
fn the_first_difference_is_in_characters() {
    assert_eq!(first_difference("größe", "größer"), Some(5));
    assert_eq!(first_difference("größe", "größe"), None);
    assert_eq!(first_difference("", "a"), Some(0));
    assert!(!ends_in_a_loop("short short short") && ends_in_a_loop(&"sweet ".repeat(20)));
}

/// (texts, file) of `$KVBENCH_SHARED/recorded`.
fn recorded(shared: &str, file: &str) -> Vec<String> {
    let path = format!("{shared}/recorded/{file}");
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let answers: Vec<(String, i64, String)> = serde_json::from_slice(&bytes).unwrap();
    answers.into_iter().map(|(text, ..)| text).collect()
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a test is told by the environment where recordings lie"
)]
fn of_recorded_engines_only_the_false_one_is_suspect() {
    let Ok(shared) = std::env::var("KVBENCH_SHARED") else {
        let mut stderr = std::io::stderr();
        std::io::Write::write_all(&mut stderr, b"skipped: KVBENCH_SHARED is not set\n").unwrap();
        return;
    };
    let vllm = ("vllm/stories-out-auto.json", "vllm/stories-out-");
    let llama = ("llamacpp/out-f16-f16-on.json", "llamacpp/out-");
    for ((baseline, front), method, suspect, position) in [
        (vllm, "int8_per_token_head.json", true, 1.5),
        (vllm, "fp8_e4m3.json", false, 35.5),
        (llama, "q8_0-q8_0-on.json", false, f64::NAN),
        (llama, "q4_0-q4_0-on.json", false, f64::NAN),
        (llama, "bf16-bf16-on.json", false, f64::NAN),
    ] {
        let (base, own) =
            (recorded(&shared, baseline), recorded(&shared, &format!("{front}{method}")));
        let judgement = run(
            &base.iter().map(String::as_str).collect::<Vec<_>>(),
            &own.iter().map(String::as_str).collect::<Vec<_>>(),
        );
        let text = text(&judgement);
        assert_eq!(!text.reasons.is_empty(), suspect, "{method}: {text:?}");
        let at = text.first_difference.unwrap();
        // From reference/engines.md: 42 0 3 0 0 11 and 143 39 1 32 6 95.
        assert!(position.is_nan() || (at - position).abs() < 1e-12, "{method}: {at}");
        let line = format!(
            "{method}: excess {:?}, {} of {}, {:?}\n",
            text.excess_bits, text.n_worse, text.n_prompts, text.reasons
        );
        std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
    }
}
