//! What a user sees who writes a configuration that is none: one sentence with file and line, one remedy, exit code 2, nothing begun.

use assert_cmd::Command;

use super::*;

const GOOD: &str = r#"name = "live"
baseline = "f16"
listen = "127.0.0.1:0"
results = "RESULTS"

[engine.a]
url = "http://127.0.0.1:8081"
method = "f16"
max_num_seqs = 4

[engine.b]
url = "http://127.0.0.1:8082"
method = "q4"
max_num_seqs = 4

[policy]
rule = "join_shortest_queue"
length.constant = 64

[limits]
body_bytes = 1000
buffer_bytes = 2000

[breaker]
failures = 3
"#;

/// A place with a configuration; what `kvbench route serve` says to it.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn serve(&self, text: &[u8]) -> (String, String) {
        let file = self.0.path().join("route.toml");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvbench"));
        command.current_dir(self.0.path()).args(["route", "serve"]).arg(&file);
        for name in ["PROXY_TOKEN", "KEY"] {
            command.env_remove(name);
        }
        let out = command.timeout(GIVE_UP).assert().code(2).get_output().clone();
        assert!(out.stdout.is_empty(), "it listened");
        (file.display().to_string(), String::from_utf8(out.stderr).unwrap())
    }

    /// Sentence and remedy of an error.
    fn refused(&self, text: &[u8]) -> (String, String, String) {
        let (file, said) = self.serve(text);
        // Where few files may be open, that is noted before.
        let lines: Vec<&str> = said.lines().filter(|line| !line.starts_with("note: ")).collect();
        let [sentence, hint] = lines[..] else { panic!("a sentence and a hint, got {said}") };
        let remedy = hint.strip_prefix("  hint: ").unwrap_or_else(|| panic!("a hint, got {said}"));
        assert!(!remedy.is_empty() && !self.0.path().join("RESULTS").exists(), "{said}");
        (file, sentence.to_owned(), remedy.to_owned())
    }
}

/// What is put in the place of what, the line that is blamed, and words of the sentence and of the remedy.
type Fault = (&'static str, &'static str, u32, &'static str, &'static str);

const FAULTS: &[Fault] = &[
    ("name = \"live\"\n", "", 1, "missing key `name`", "add `name`"),
    ("\"live\"", "\"Live 1\"", 1, "`a-z`, `0-9`", "file names"),
    ("\"live\"", "live", 1, "", "scenarios/README.md"),
    ("\"live\"", "\"live", 1, "", "scenarios/README.md"),
    ("baseline = \"f16\"", "baseline = \"f8\"", 2, "got `f8`", "`f16`, `q4`"),
    ("baseline = \"f16\"", "basline = \"f16\"", 2, "unknown key `basline`", "`baseline`"),
    ("127.0.0.1:0", "127.0.0.1", 3, "an IP address and a port", "127.0.0.1:8900"),
    ("127.0.0.1:0", "0.0.0.0:0", 3, "this machine alone", "public = true"),
    ("\n\n[engine.a]", "\ntoken_env = \"sk-1 2\"\n[engine.a]", 5, "name of a variable", "variable"),
    ("[engine.a]", "[engine.a b]", 6, "", "scenarios/README.md"),
    ("[engine.a]", "[engine.A]", 6, "`a-z`", "file names"),
    ("[engine.b]", "[engine.a]", 11, "", "scenarios/README.md"),
    ("http://127.0.0.1:8081", "127.0.0.1:8081", 7, "http", ""),
    ("http://127.0.0.1:8081", "http://a:b@127.0.0.1:8081", 7, "", ""),
    ("http://127.0.0.1:8081", "file:///etc/passwd", 7, "http", ""),
    ("method = \"q4\"\n", "", 11, "missing key `method`", "add `method`"),
    ("max_num_seqs = 4", "max_num_seqs = -4", 9, "a whole number from 1", ""),
    ("max_num_seqs = 4", "max_num_seqs = 4.5", 9, "a whole number", ""),
    ("max_num_seqs = 4", "max_num_seqs = \"4\"", 9, "a whole number", ""),
    ("max_num_seqs = 4", "max_num_seqs = 4\nhealth = \"up\"", 10, "begins with a slash", "/health"),
    ("max_num_seqs = 4", "max_num_seqs = 4\nmetrics = \"/a b\"", 10, "a path", "/health"),
    (
        "max_num_seqs = 4",
        "max_num_seqs = 4\nspeed.linear = { step_s = 1 }",
        10,
        "missing key",
        "add `",
    ),
    ("join_shortest_queue", "shortest_queue", 17, "unknown name `shortest_queue`", ""),
    (
        "join_shortest_queue",
        "marginal_cost",
        17,
        "a speed for every engine",
        "[engine.a.speed.linear]",
    ),
    ("length.constant = 64\n", "", 16, "missing key `length`", "add `length`"),
    ("length.constant = 64", "length.constant = 0", 18, "a number from 1", ""),
    ("length.constant = 64", "length.constant = nan", 18, "a number", ""),
    (
        "length.constant = 64",
        "length.constant = 64\nguard = { epsilon = 0.1 }",
        19,
        "missing key `risks`",
        "add `risks`",
    ),
    (
        "length.constant = 64",
        "length.constant = 64\nguard = { risks = \"r\", epsilon = 2 }",
        19,
        "a number from 0 to 1",
        "",
    ),
    (
        "buffer_bytes = 2000",
        "buffer_bytes = 999",
        22,
        "at most `buffer_bytes`",
        "raise `buffer_bytes`",
    ),
    ("body_bytes = 1000\n", "", 21, "at most `buffer_bytes`", "raise `buffer_bytes`"),
    ("body_bytes = 1000", "header_s = 0", 21, "a number from 0.001", ""),
    ("body_bytes = 1000", "attempts = 17", 21, "a whole number from 1 to 16", ""),
    ("[breaker]", "[health]\nrecord_s = 0\n[breaker]", 25, "a number from 0.001", ""),
    ("[breaker]", "[braker]", 24, "unknown key `braker`", "`breaker`"),
    ("failures = 3", "failures = true", 25, "a whole number", ""),
];

#[test]
fn every_error_of_a_configuration_is_a_sentence_with_its_line_and_a_remedy() {
    let desk = Desk::new();
    for &(from, to, line, words, remedy) in FAULTS {
        assert!(GOOD.contains(from), "{from}");
        let (file, sentence, hint) = desk.refused(GOOD.replacen(from, to, 1).as_bytes());
        assert!(sentence.starts_with(&format!("error: {file}:{line}:")), "{to}: {sentence}");
        assert!(sentence.contains(words) && hint.contains(remedy), "{to}: {sentence}; {hint}");
        assert!(!sentence.contains("sk-1"), "{sentence}");
    }
}

#[test]
fn what_is_no_text_is_refused_with_its_line_too() {
    let desk = Desk::new();
    let mut bytes = GOOD.replacen("live", "l\u{e9}ve", 1).into_bytes();
    bytes.retain(|byte| *byte != 0xc3);
    let (file, sentence, _) = desk.refused(&bytes);
    assert!(sentence.starts_with(&format!("error: {file}:1:10: expected UTF-8")), "{sentence}");
    let (file, sentence, _) = desk.refused(b"");
    assert!(sentence.starts_with(&format!("error: {file}:1:1: missing key")), "{sentence}");
    let (file, sentence, _) = desk.refused(&vec![b'#'; 2 << 20]);
    assert!(sentence.starts_with(&format!("error: {file}:1:1: expected at most")), "{sentence}");
}

#[test]
fn what_a_configuration_names_and_is_not_there_is_said() {
    let desk = Desk::new();
    for (from, to, what, remedy) in [
        (
            "length.constant = 64",
            "length.model = \"none.json\"",
            "none.json: ",
            "working directory",
        ),
        (
            "length.constant = 64",
            "length.constant = 64\nguard = { risks = \"none.json\", epsilon = 0.1 }",
            "none.json: ",
            "working directory",
        ),
        (
            "\n[engine.a]",
            "token_env = \"PROXY_TOKEN\"\n[engine.a]",
            "PROXY_TOKEN: ",
            "export PROXY_TOKEN",
        ),
        ("max_num_seqs = 4", "max_num_seqs = 4\nkey_env = \"KEY\"", "KEY: ", "export KEY"),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let (_, sentence, hint) = desk.refused(GOOD.replacen(from, to, 1).as_bytes());
        assert!(sentence.starts_with(&format!("error: {what}")), "{sentence}");
        assert!(hint.contains(remedy), "{hint}");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvbench"));
    let out =
        command.args(["route", "serve", "nowhere.toml"]).assert().code(2).get_output().clone();
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(said.starts_with("error: nowhere.toml: ") && said.contains("\n  hint: "), "{said}");
}

#[test]
fn an_address_that_is_taken_is_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let desk = Desk::new();
    let (_, sentence, hint) = desk.refused(GOOD.replace("127.0.0.1:0", &address).as_bytes());
    assert!(sentence.starts_with(&format!("error: {address}: cannot listen")), "{sentence}");
    assert!(hint.contains("another proxy"), "{hint}");
}
