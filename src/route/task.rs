//! What a prompt is for, as far as it can be told.
//!
//! Names win: the client's, then the operator's for an endpoint. Without one the form of the prompt is looked at, by a short list of
//! cues that each speak for one task with a weight: words, and a few shapes (code, options, repeated examples). Words count
//! where instructions stand, near the start and the end: what a document in between says is not what is asked. A task is told only
//! where it has two points and leads by one; else nothing is, and a guard takes the baseline, so being silent costs speed and being
//! wrong may cost an answer.
//!
//! Cues were written with the prompts of `LongBench`, GSM8K, MATH and RULER in view; how well they do on others is what
//! `tests/it/route_task.rs` measures. A guard by task protects against accidents, not against a client that wants to be misread: such
//! a client could name any task in the header.

/// What may tell.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Signals<'a> {
    /// Task of the endpoint that was asked, where the operator has given it one.
    pub endpoint: Option<&'a str>,
    /// Task that the client names.
    pub header: Option<&'a str>,
    /// The prompt.
    pub prompt: Option<&'a str>,
}

/// Who told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Teller {
    /// The client, by a header.
    Header,
    /// The operator, by the endpoint.
    Endpoint,
    /// The prompt's form.
    Prompt,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its name: one that was given as it was given, else a group of `kvbench negatives`.
    pub name: String,
    /// Who told.
    pub teller: Teller,
}

/// Groups that a form can tell, by their names in `kvbench negatives`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    Qa,
    Summarization,
    FewShot,
    Synthetic,
    Code,
    Maths,
    Choice,
}

const GROUPS: [(Group, &str); 7] = [
    (Group::Qa, "qa"),
    (Group::Summarization, "summarization"),
    (Group::FewShot, "few_shot"),
    (Group::Synthetic, "synthetic"),
    (Group::Code, "code"),
    (Group::Maths, "maths"),
    (Group::Choice, "choice"),
];

/// Fewest points of a task that is told.
const POINTS_MIN: f64 = 2.0;
/// Fewest points by which it leads.
const LEAD_MIN: f64 = 1.0;
/// Characters of each end in which words count.
const INSTRUCTION_CHARS: usize = 700;
/// Characters of each end in which shapes are looked for.
const SHAPE_CHARS: usize = 4000;

/// Words in lower case, the task that they speak for, and how much.
const CUES: &[(&str, Group, f64)] = &[
    ("answer the question", Group::Qa, 1.5),
    ("answer the following question", Group::Qa, 1.5),
    ("question:", Group::Qa, 1.0),
    ("based on the", Group::Qa, 0.5),
    ("according to the", Group::Qa, 1.0),
    ("only give me the answer", Group::Qa, 0.5),
    ("回答下面的问题", Group::Qa, 2.0),
    ("回答下述问题", Group::Qa, 2.0),
    ("问题：", Group::Qa, 1.0),
    ("summar", Group::Summarization, 2.0),
    ("tl;dr", Group::Summarization, 2.0),
    ("key points", Group::Summarization, 1.0),
    ("meeting transcript", Group::Summarization, 2.5),
    ("总结", Group::Summarization, 2.0),
    ("some examples", Group::FewShot, 3.5),
    ("following examples", Group::FewShot, 2.0),
    ("一些例子", Group::FewShot, 3.5),
    ("which paragraph", Group::Synthetic, 2.5),
    ("unique paragraphs", Group::Synthetic, 2.5),
    ("magic number", Group::Synthetic, 3.0),
    ("assigned the value", Group::Synthetic, 2.5),
    ("common words", Group::Synthetic, 2.5),
    ("出自哪一段", Group::Synthetic, 3.0),
    ("code", Group::Code, 0.5),
    ("complete the code", Group::Code, 1.5),
    ("line of code", Group::Code, 1.5),
    ("write a function", Group::Code, 2.0),
    ("python", Group::Code, 1.0),
    ("javascript", Group::Code, 1.0),
    ("sql query", Group::Code, 1.5),
    ("step by step", Group::Maths, 1.0),
    ("solve", Group::Maths, 1.0),
    ("####", Group::Maths, 1.5),
    ("\\boxed", Group::Maths, 2.0),
    ("problem:", Group::Maths, 1.0),
    ("\\frac", Group::Maths, 1.0),
    ("calculate", Group::Maths, 1.0),
    ("equation", Group::Maths, 1.0),
    ("multiple choice", Group::Choice, 1.5),
    ("multiple-choice", Group::Choice, 1.5),
    ("correct answer is", Group::Choice, 1.0),
    ("choose the", Group::Choice, 1.0),
];

/// Labels of examples at the start of a line, lower case.
const LABELS: [&str; 16] = [
    "q:",
    "a:",
    "question:",
    "answer:",
    "input:",
    "output:",
    "type:",
    "class:",
    "label:",
    "category:",
    "dialogue:",
    "summary:",
    "text:",
    "sentence:",
    "review:",
    "sentiment:",
];
/// So many lines of one label are examples.
const EXAMPLES_MIN: usize = 3;

/// Marks that lines of code begin with.
const CODE_STARTS: [&str; 14] = [
    "def ", "class ", "import ", "from ", "return ", "if (", "for (", "public ", "private ",
    "#include", "//", "fn ", "let ", "const ",
];
/// From this share of lines on a text is code.
const CODE_SHARE: f64 = 0.3;

/// The task: what the client names, else what the endpoint is for, else what the prompt looks like. `None` where nothing tells.
pub fn classify(signals: &Signals<'_>) -> Option<Task> {
    let named = |name: Option<&str>, teller: Teller| {
        let name = name.map(str::trim).filter(|name| !name.is_empty())?;
        Some(Task { name: name.to_owned(), teller })
    };
    named(signals.header, Teller::Header)
        .or_else(|| named(signals.endpoint, Teller::Endpoint))
        .or_else(|| named(signals.prompt.and_then(of_prompt), Teller::Prompt))
}

/// What the prompt's form tells.
fn of_prompt(prompt: &str) -> Option<&'static str> {
    let points = points(prompt);
    let best = (0..GROUPS.len()).max_by(|a, b| points[*a].total_cmp(&points[*b]))?;
    let others = points.iter().enumerate().filter(|(at, _)| *at != best);
    let second = others.map(|(_, points)| *points).fold(0.0, f64::max);
    let tells = points[best] >= POINTS_MIN && points[best] - second >= LEAD_MIN;
    tells.then_some(GROUPS[best].1)
}

fn points(prompt: &str) -> [f64; GROUPS.len()] {
    let mut points = [0.0; GROUPS.len()];
    let mut add = |group: Group, weight: f64| {
        let at = GROUPS.iter().position(|(known, _)| *known == group);
        at.into_iter().for_each(|at| points[at] += weight);
    };
    let said = ends(prompt, INSTRUCTION_CHARS).to_lowercase();
    for (words, group, weight) in CUES {
        if said.contains(words) {
            add(*group, *weight);
        }
    }
    let shown = ends(prompt, SHAPE_CHARS);
    if code_share(&shown) >= CODE_SHARE {
        add(Group::Code, 2.0);
    }
    if shown.contains("```") {
        add(Group::Code, 1.0);
    }
    if has_options(&shown) {
        add(Group::Choice, 3.0);
    }
    if has_examples(&shown) {
        add(Group::FewShot, 2.5);
    }
    points
}

/// The first and the last characters, of a short prompt all, on lines apart.
fn ends(prompt: &str, n_chars: usize) -> String {
    let head = prompt.char_indices().nth(n_chars).map_or(prompt.len(), |(at, _)| at);
    let tail = prompt.char_indices().rev().nth(n_chars.saturating_sub(1)).map_or(0, |(at, _)| at);
    if tail <= head {
        return prompt.to_owned();
    }
    format!("{}\n{}", &prompt[..head], &prompt[tail..])
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty())
}

/// Share of lines that look like code.
fn code_share(text: &str) -> f64 {
    let is_code = |line: &&str| {
        line.ends_with([';', '{', '}']) || CODE_STARTS.iter().any(|start| line.starts_with(start))
    };
    let n = lines(text).count();
    if n == 0 { 0.0 } else { lines(text).filter(is_code).count() as f64 / n as f64 }
}

/// Whether lines start with the letters A to D, as options do.
fn has_options(text: &str) -> bool {
    let is_option = |line: &str, letter: char| {
        let line = line.strip_prefix('(').unwrap_or(line);
        line.strip_prefix(letter).is_some_and(|rest| rest.starts_with([')', '.', ':']))
    };
    ['A', 'B', 'C', 'D'].iter().all(|letter| lines(text).any(|line| is_option(line, *letter)))
}

/// Whether the lines of one label come again and again.
fn has_examples(text: &str) -> bool {
    let starts: Vec<String> =
        lines(text).map(|line| line.chars().take(12).collect::<String>().to_lowercase()).collect();
    LABELS
        .iter()
        .any(|label| starts.iter().filter(|start| start.starts_with(label)).count() >= EXAMPLES_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(prompt: &str) -> Option<&'static str> {
        of_prompt(prompt)
    }

    #[test]
    fn names_win_and_are_kept_as_they_are() {
        let prompt = Some("Summarize the text.\n\nSummary:");
        let signals = Signals { header: Some(" invoices "), endpoint: Some("code"), prompt };
        let task = classify(&signals).unwrap();
        assert_eq!((task.name.as_str(), task.teller), ("invoices", Teller::Header));
        let task = classify(&Signals { header: Some(" "), ..signals }).unwrap();
        assert_eq!((task.name.as_str(), task.teller), ("code", Teller::Endpoint));
        let task = classify(&Signals { header: None, endpoint: None, ..signals }).unwrap();
        assert_eq!((task.name.as_str(), task.teller), ("summarization", Teller::Prompt));
        assert_eq!(classify(&Signals::default()), None);
    }

    #[test]
    fn forms_are_told() {
        let code = "fn main() {\n    let a = 1;\n    let b = 2;\n}\n// adds\nfn add() {";
        assert_eq!(of(&format!("Please complete the code given below.\n{code}")), Some("code"));
        assert_eq!(of("Solve the problem step by step.\n\nProblem: 2 + 2?"), Some("maths"));
        let options = "Which is it?\nA. one\nB. two\nC. three\nD. four\n";
        assert_eq!(of(options), Some("choice"));
        let shots =
            "Review: good\nSentiment: +\nReview: bad\nSentiment: -\nReview: fine\nSentiment:";
        assert_eq!(of(shots), Some("few_shot"));
    }

    #[test]
    fn what_a_document_says_is_not_what_is_asked() {
        let filler = "The river was calm that day. ".repeat(200);
        let inside = format!("{filler} Please summarize this in a summary. {filler}");
        assert_eq!(of(&inside), None);
        assert_eq!(of(&format!("{inside}\n\nWrite a summary of the text.")), Some("summarization"));
    }

    #[test]
    fn nothing_is_told_of_what_has_no_form() {
        for prompt in ["", " \n", "hello", "Tell me about cats.", "🦀", "Who keeps the books?"] {
            assert_eq!(of(prompt), None, "{prompt}");
        }
        let both = "Summarize the text, then solve the equation.";
        assert_eq!(of(both), None, "two tasks are none");
    }
}
