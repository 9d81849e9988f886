//! Data sets of questions with one right answer: LongBench v2, GSM8K and MATH.

use serde_json::Value;

use super::{Reference, Sample, id, kind, text};

/// A row of LongBench v2 (arXiv 2412.15204): `context`, `question`, `choice_A` to `choice_D`, `answer` (the letter), `_id`. Sent in
/// the prompt of upstream's `prompts/0shot.txt` (THUDM/LongBench, MIT), byte for byte.
pub(super) fn longbench_v2(row: &Value) -> Result<Sample, String> {
    let choice = |letter: char| text(row, &format!("choice_{letter}")).map(str::trim);
    let (context, question) = (text(row, "context")?.trim(), text(row, "question")?.trim());
    let answer = text(row, "answer")?;
    if !matches!(answer, "A" | "B" | "C" | "D") {
        return Err(format!("expected `answer` to be A, B, C or D, got `{answer}`"));
    }
    let (a, b, c, d) = (choice('A')?, choice('B')?, choice('C')?, choice('D')?);
    let prompt = format!(
        "Please read the following text and answer the question below.\n\n<text>\n{context}\n</text>\n\nWhat is the correct answer to this question: {question}\nChoices:\n(A) {a}\n(B) {b}\n(C) {c}\n(D) {d}\n\nFormat your response as follows: \"The correct answer is (insert answer here)\"."
    );
    Ok(sample(row, "longbench-v2", prompt, answer))
}

/// A row of GSM8K (arXiv 2110.14168): `question` and `answer`, a solution that ends with `#### 72`. The prompt is our own: upstream has
/// none, and others put solved examples before the question.
pub(super) fn gsm8k(row: &Value) -> Result<Sample, String> {
    let (question, answer) = (text(row, "question")?, text(row, "answer")?);
    let Some((_, number)) = answer.rsplit_once("####") else {
        return Err("expected `answer` to end with `#### ` and a number, got none".to_owned());
    };
    let prompt = format!(
        "Solve the problem step by step. End with a line that holds #### and the number alone.\n\nProblem: {}\n\nSolution:",
        question.trim()
    );
    Ok(sample(row, "gsm8k", prompt, number.trim()))
}

/// A row of MATH (arXiv 2103.03874): `problem` and `solution`, which has the answer in a `\boxed{}`. The prompt is our own.
pub(super) fn math(row: &Value) -> Result<Sample, String> {
    let (problem, solution) = (text(row, "problem")?, text(row, "solution")?);
    if !solution.contains("\\boxed") && !solution.contains("\\fbox") {
        return Err("expected `solution` to hold a \\boxed answer, got none".to_owned());
    }
    let prompt = format!(
        "Solve the problem step by step. Put the final answer into \\boxed{{}}.\n\nProblem: {}\n\nSolution:",
        problem.trim()
    );
    Ok(sample(row, "math", prompt, solution))
}

fn sample(row: &Value, dataset: &str, prompt: String, answer: &str) -> Sample {
    let own = ["_id", "id"].into_iter().map(|key| id(row, key)).find(|id| !id.is_empty());
    Sample {
        id: own.unwrap_or_default(),
        prompt,
        answer: Some(answer.to_owned()),
        reference: Some(Reference {
            dataset: dataset.to_owned(),
            answers: vec![answer.to_owned()],
            all_classes: Vec::new(),
        }),
        ..Sample::default()
    }
}

/// Reads a row by one of the functions above, which all want an object.
pub(super) fn checked(
    row: &Value,
    read: fn(&Value) -> Result<Sample, String>,
) -> Result<Sample, String> {
    if row.is_object() { read(row) } else { Err(format!("expected an object, got {}", kind(row))) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_become_prompts_with_a_reference() {
        let row = json!({"_id": "x", "context": " Text. ", "question": "Who?", "choice_A": "a", "choice_B": "b",
            "choice_C": "c", "choice_D": "d", "answer": "B"});
        let sample = longbench_v2(&row).unwrap();
        assert!(sample.prompt.contains("<text>\nText.\n</text>\n\nWhat is the correct answer to this question: Who?\nChoices:\n(A) a\n"));
        let reference = sample.reference.unwrap();
        assert_eq!(
            (reference.dataset.as_str(), reference.answers),
            ("longbench-v2", vec!["B".to_owned()])
        );
        let sample =
            gsm8k(&json!({"question": "2+2?", "answer": "2+2=<<2+2=4>>4\n#### 4"})).unwrap();
        assert_eq!((sample.id.as_str(), sample.answer.as_deref()), ("", Some("4")));
        let sample =
            math(&json!({"problem": "1/2?", "solution": "So $\\boxed{\\frac12}$."})).unwrap();
        assert_eq!(sample.reference.unwrap().dataset, "math");
    }

    #[test]
    fn rows_without_an_answer_are_refused() {
        let letter = json!({"context": "c", "question": "q", "choice_A": "a", "choice_B": "b", "choice_C": "c",
            "choice_D": "d", "answer": "E"});
        for (read, row, said) in [
            (longbench_v2 as fn(&Value) -> _, letter, "A, B, C or D"),
            (longbench_v2, json!({"context": "c"}), "`question`"),
            (gsm8k, json!({"question": "q", "answer": "4"}), "####"),
            (math, json!({"problem": "p", "solution": "4"}), "boxed"),
            (math, json!([]), "an object"),
        ] {
            let error = checked(&row, read).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
