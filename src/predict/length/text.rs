//! What can be seen of a prompt without a model: its size, its form, and what it asks for.
//!
//! English words are looked for, because most prompts of the public sets are English; of other languages the script is seen.
//! Of a long prompt the first and the last part are read: what is asked stands at an end, and the cost stays bounded.

/// Bytes that are read of each end of a prompt.
const END_BYTES: usize = 4096;

/// Names of the features, in the order of [`features`].
pub const NAMES: [&str; 46] = [
    "ln_bytes",
    "bytes_per_char",
    "ln_words",
    "ln_lines",
    "ln_sentences",
    "word_length",
    "digit_share",
    "ln_numbers",
    "upper_share",
    "punctuation_share",
    "question_marks",
    "exclamation_marks",
    "ends_with_question",
    "ends_with_colon",
    "code_fences",
    "backticks",
    "bracket_share",
    "bullet_lines",
    "numbered_lines",
    "table_pipes",
    "urls",
    "quotes",
    "unique_word_share",
    "asks_what",
    "asks_why_how",
    "asks_yes_no",
    "verb_write",
    "verb_explain",
    "verb_list",
    "verb_summarise",
    "verb_translate",
    "verb_classify",
    "verb_code",
    "verb_edit",
    "verb_calculate",
    "wants_detail",
    "wants_brevity",
    "wants_format",
    "has_role",
    "is_polite",
    "ln_asked_words",
    "ln_asked_sentences",
    "ln_asked_paragraphs",
    "ln_asked_items",
    "cjk_share",
    "other_script_share",
];

/// Numbers of features here.
pub const N_FEATURES: usize = NAMES.len();

/// Words that count for one feature, matched whole and in lower case.
const WORDS: [&[&str]; 14] = [
    &[
        "write", "compose", "create", "draft", "story", "poem", "essay", "article", "blog",
        "generate", "script",
    ],
    &[
        "explain",
        "describe",
        "discuss",
        "elaborate",
        "analyze",
        "analyse",
        "compare",
        "tell",
        "teach",
    ],
    &["list", "name", "enumerate", "give", "suggest", "recommend", "provide", "ideas", "examples"],
    &["summarize", "summarise", "summary", "tldr", "abstract", "outline"],
    &["translate", "translation"],
    &[
        "classify", "choose", "select", "label", "identify", "category", "true", "false", "option",
        "options",
    ],
    &[
        "code",
        "program",
        "function",
        "python",
        "java",
        "javascript",
        "sql",
        "html",
        "css",
        "implement",
        "class",
        "api",
        "bug",
    ],
    &[
        "rewrite",
        "edit",
        "paraphrase",
        "rephrase",
        "fix",
        "correct",
        "improve",
        "proofread",
        "convert",
        "change",
    ],
    &["calculate", "solve", "compute", "prove", "equation", "sum", "find", "many", "much"],
    &[
        "detailed",
        "detail",
        "details",
        "comprehensive",
        "thorough",
        "long",
        "depth",
        "step",
        "steps",
        "complete",
        "full",
    ],
    &[
        "short",
        "brief",
        "briefly",
        "concise",
        "concisely",
        "one",
        "single",
        "only",
        "just",
        "quick",
        "simple",
    ],
    &["json", "table", "csv", "xml", "yaml", "markdown", "format", "columns", "template"],
    &["act", "role", "assistant", "you", "imagine", "pretend", "expert"],
    &["please", "thanks", "thank", "kindly", "hi", "hello"],
];
/// Position of the first of them in [`NAMES`].
const FIRST_OF_WORDS: usize = 26;

const WHAT: &[&str] = &["what", "who", "when", "where", "which", "whose", "whats"];
const WHY_HOW: &[&str] = &["why", "how"];
const YES_NO: &[&str] = &[
    "is", "are", "do", "does", "did", "can", "could", "will", "would", "should", "has", "have",
    "was", "were",
];
/// Nouns of what is counted: words, sentences, paragraphs, and other things that come in lists.
const COUNTED: [&[&str]; 4] = [
    &["word", "words"],
    &["sentence", "sentences", "line", "lines"],
    &["paragraph", "paragraphs", "page", "pages", "chapter", "chapters", "section", "sections"],
    &[
        "items",
        "examples",
        "ideas",
        "questions",
        "points",
        "reasons",
        "ways",
        "tips",
        "names",
        "steps",
        "bullet",
        "things",
        "facts",
        "options",
        "titles",
        "topics",
        "tweets",
        "titles",
        "best",
        "top",
        "most",
        "different",
    ],
];
const FIRST_OF_COUNTED: usize = 40;
const SPELLED: [&str; 13] = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve",
];

/// The features of a prompt, each finite.
pub fn features(prompt: &str) -> [f32; N_FEATURES] {
    let parts: [&str; 2] = ends(prompt).into();
    let text = Text::of(&parts);
    let mut values = [0.0; N_FEATURES];
    values[0] = ln1(prompt.len() as f64);
    text.size(&mut values);
    text.form(&mut values, prompt);
    text.wants(&mut values);
    values.map(|value| value as f32)
}

fn ln1(value: f64) -> f64 {
    (1.0 + value).ln()
}

/// The two ends that are read; a prompt that is short enough is all head.
pub(super) fn ends(prompt: &str) -> (&str, &str) {
    if prompt.len() <= 2 * END_BYTES {
        return (prompt, "");
    }
    let head = prompt.floor_char_boundary(END_BYTES);
    let tail = prompt.ceil_char_boundary(prompt.len() - END_BYTES);
    (&prompt[..head], &prompt[tail..])
}

/// Lower-case words of a text: runs of letters and digits, an apostrophe within dropped (`what's` is `whats`).
pub(super) fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    for c in text.chars() {
        if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        } else if !word.is_empty() && !matches!(c, '\'' | '\u{2019}') {
            words.push(std::mem::take(&mut word));
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// What is read of a prompt.
struct Text<'a> {
    parts: &'a [&'a str],
    words: Vec<String>,
    n_chars: f64,
}

impl<'a> Text<'a> {
    fn of(parts: &'a [&'a str]) -> Self {
        let words = parts.iter().flat_map(|part| words(part)).collect();
        let n_chars = parts.iter().map(|part| part.chars().count()).sum::<usize>();
        Self { parts, words, n_chars: n_chars.max(1) as f64 }
    }

    fn count(&self, is: impl Fn(char) -> bool) -> f64 {
        self.parts.iter().map(|part| part.chars().filter(|c| is(*c)).count()).sum::<usize>() as f64
    }

    fn share(&self, is: impl Fn(char) -> bool) -> f64 {
        self.count(is) / self.n_chars
    }

    fn lines(&self, is: impl Fn(&str) -> bool) -> f64 {
        let lines = self.parts.iter().flat_map(|part| part.lines());
        lines.filter(|line| is(line.trim_start())).count() as f64
    }

    fn found(&self, what: &str) -> f64 {
        self.parts.iter().map(|part| part.matches(what).count()).sum::<usize>() as f64
    }

    fn size(&self, values: &mut [f64; N_FEATURES]) {
        let bytes: usize = self.parts.iter().map(|part| part.len()).sum();
        let n_words = self.words.len().max(1) as f64;
        let letters: usize = self.words.iter().map(|word| word.chars().count()).sum();
        let numbers = self.words.iter().filter(|word| word.bytes().all(|b| b.is_ascii_digit()));
        let mut distinct: Vec<&str> = self.words.iter().map(String::as_str).collect();
        distinct.sort_unstable();
        distinct.dedup();
        values[1] = bytes as f64 / self.n_chars;
        values[2] = ln1(self.words.len() as f64);
        values[3] = ln1(self.lines(|line| !line.is_empty()));
        values[4] = ln1(self.count(|c| matches!(c, '.' | '!' | '?' | '。' | '？' | '！')));
        values[5] = letters as f64 / n_words;
        values[6] = self.share(|c| c.is_ascii_digit());
        values[7] = ln1(numbers.count() as f64);
        values[8] = self.share(char::is_uppercase);
        values[22] = distinct.len() as f64 / n_words;
    }

    fn form(&self, values: &mut [f64; N_FEATURES], prompt: &str) {
        let last = prompt.trim_end().chars().next_back();
        let flag = |is: bool| f64::from(u8::from(is));
        values[9] = self.share(|c| c.is_ascii_punctuation());
        values[10] = ln1(self.count(|c| matches!(c, '?' | '？')));
        values[11] = ln1(self.count(|c| matches!(c, '!' | '！')));
        values[12] = flag(matches!(last, Some('?' | '？')));
        values[13] = flag(matches!(last, Some(':' | '：')));
        values[14] = ln1(self.found("```"));
        values[15] = ln1(self.count(|c| c == '`'));
        values[16] = self.share(|c| matches!(c, '{' | '}' | '(' | ')' | '[' | ']' | ';' | '='));
        values[17] = ln1(self.lines(|line| line.starts_with(['-', '*', '•'])));
        values[18] = ln1(self.lines(is_numbered));
        values[19] = ln1(self.count(|c| c == '|'));
        values[20] = ln1(self.found("://"));
        values[21] = ln1(self.count(|c| matches!(c, '"' | '“' | '”' | '«' | '»')));
        values[44] = self.share(is_cjk);
        values[45] = self.share(|c| c.is_alphabetic() && !c.is_ascii() && !is_cjk(c));
    }

    fn wants(&self, values: &mut [f64; N_FEATURES]) {
        let is_first = |set: &[&str]| {
            let first = self.words.first().is_some_and(|word| set.contains(&word.as_str()));
            f64::from(u8::from(first))
        };
        values[23] = is_first(WHAT);
        values[24] = is_first(WHY_HOW);
        values[25] = is_first(YES_NO);
        for word in &self.words {
            for (at, set) in WORDS.iter().enumerate() {
                values[FIRST_OF_WORDS + at] += f64::from(u8::from(set.contains(&word.as_str())));
            }
        }
        values[FIRST_OF_WORDS..FIRST_OF_WORDS + WORDS.len()].iter_mut().for_each(|n| *n = ln1(*n));
        for (at, word) in self.words.iter().enumerate() {
            let Some(number) = number(word) else { continue };
            // `500 words`, `3 short paragraphs`, `10 of the best ideas`.
            let after = &self.words[at + 1..self.words.len().min(at + 4)];
            let counted = after
                .iter()
                .find_map(|word| COUNTED.iter().position(|nouns| nouns.contains(&word.as_str())));
            if let Some(noun) = counted {
                let value = &mut values[FIRST_OF_COUNTED + noun];
                *value = value.max(ln1(number));
            }
        }
    }
}

/// A number in digits or, up to twelve, spelled; more than a million is no request.
fn number(word: &str) -> Option<f64> {
    if let Some(n) = SPELLED.iter().position(|spelled| *spelled == word) {
        return Some(n as f64);
    }
    let is_number = word.len() <= 7 && word.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| word.parse().ok()).flatten().filter(|n| *n <= 1e6)
}

fn is_numbered(line: &str) -> bool {
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    digits > 0 && line[digits..].starts_with(['.', ')'])
}

/// Han, kana and hangul.
fn is_cjk(c: char) -> bool {
    matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{ac00}'..='\u{d7af}' | '\u{f900}'..='\u{faff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(prompt: &str, name: &str) -> f32 {
        features(prompt)[NAMES.iter().position(|known| *known == name).unwrap()]
    }

    fn is(value: f32, expected: f64) -> bool {
        (f64::from(value) - expected).abs() < 1e-5
    }

    #[test]
    fn what_is_asked_for_is_seen() {
        assert!(is(of("Write 500 words about cats.", "ln_asked_words"), 501_f64.ln()));
        assert!(is(of("Write three short paragraphs", "ln_asked_paragraphs"), 4_f64.ln()));
        assert!(is(of("List the 10 best ideas", "ln_asked_items"), 11_f64.ln()));
        assert!(is(of("In 1999 it rained.", "ln_asked_words"), 0.0));
        assert!(is(of("What's up?", "asks_what"), 1.0));
        assert!(is(of("Is it so?", "asks_yes_no"), 1.0) && is(of("It is", "asks_yes_no"), 0.0));
        assert!(is(of("Explain and explain", "verb_explain"), 3_f64.ln()));
        assert!(is(of("1. a\n2) b\n - c", "ln_lines"), 4_f64.ln()));
        assert!(is(of("1. a\n2) b\n - c", "numbered_lines"), 3_f64.ln()));
        assert!(is(of("写一首诗？", "ends_with_question"), 1.0));
        assert!(is(of("写一首诗。", "cjk_share"), 0.8));
        assert!(is(of("Привет", "other_script_share"), 1.0));
    }

    #[test]
    fn the_names_stand_where_the_values_do() {
        let at = |name| NAMES.iter().position(|known| *known == name);
        assert_eq!(at("verb_write"), Some(FIRST_OF_WORDS));
        assert_eq!(at("is_polite"), Some(FIRST_OF_WORDS + WORDS.len() - 1));
        assert_eq!(at("ln_asked_words"), Some(FIRST_OF_COUNTED));
        assert_eq!(at("cjk_share"), Some(FIRST_OF_COUNTED + COUNTED.len()));
        let mut names = NAMES.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), N_FEATURES);
    }

    #[test]
    fn anything_is_finite() {
        let long = "ж".repeat(100_000);
        for prompt in
            ["", " ", "\n\n", "?", "🦀🦀", "\u{0}\u{202e}", "9999999999999999999999 words", &long]
        {
            assert!(features(prompt).iter().all(|value| value.is_finite()), "{prompt:.20}");
        }
        let (head, tail) = ends(&long);
        assert!(head.len() <= END_BYTES && tail.len() <= END_BYTES && !tail.is_empty());
    }
}
