//! Tokenizers small enough to be written down, in the two layouts that models use.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};

/// Words that the tokenizers know whole, with the blank before them.
const WORDS: [&str; 12] = [
    "able", "above", "after", "word", "cache", "the", "once", "upon", "time", "morning", "little",
    "girl",
];

/// A template with both special tokens, a day and a prompt for the assistant.
pub(crate) const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}<u>{{ m.content }}</u>{% endfor %}\
                            {% if add_generation_prompt %}<a>{% endif %}";

/// Byte-level BPE as in GPT-2 and its followers: no BOS, every byte has a token.
pub(crate) fn byte_level(folder: &Path) {
    let mut model = Bpe::default();
    (0..=255).for_each(|byte| model.token(&shown(byte).to_string()));
    WORDS.iter().for_each(|word| model.word(&format!("Ġ{word}")));
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let file = json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": [added(1000, "<|end|>")],
        "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": model.json(false, None),
    });
    write(folder, &file, &json!({"eos_token": {"content": "<|end|>"}}));
}

/// SentencePiece as in Llama 2: BOS, blanks as `▁`, one before the first word, bytes for what it does not know.
pub(crate) fn sentence_piece(folder: &Path) {
    let mut model = Bpe::default();
    ["<unk>", "<s>", "</s>"].iter().for_each(|name| model.token(name));
    (0..=255).for_each(|byte| model.token(&format!("<0x{byte:02X}>")));
    model.token("▁");
    ('a'..='z').chain(".,!?;:<>/-\n0".chars()).for_each(|c| model.token(&c.to_string()));
    WORDS.iter().for_each(|word| model.word(&format!("▁{word}")));
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "pre_tokenizer": null,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": model.json(true, Some("<unk>")),
    });
    let config = json!({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true, "chat_template": TEMPLATE});
    write(folder, &file, &config);
}

fn write(folder: &Path, file: &Value, config: &Value) {
    for (name, value) in [("tokenizer.json", file), ("tokenizer_config.json", config)] {
        std::fs::write(folder.join(name), value.to_string()).expect("the folder is there");
    }
}

fn added(id: u32, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
}

/// GPT-2's stand-in for a byte: itself where it prints, else a letter beyond Latin-1.
fn shown(byte: u32) -> char {
    let prints = |b: u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let code =
        if prints(byte) { byte } else { 256 + (0..byte).filter(|b| !prints(*b)).count() as u32 };
    char::from_u32(code).expect("below the surrogates")
}

/// A vocabulary and the merges that make its words.
#[derive(Default)]
struct Bpe {
    vocab: BTreeMap<String, usize>,
    merges: Vec<String>,
}

impl Bpe {
    fn token(&mut self, token: &str) {
        let next = self.vocab.len();
        self.vocab.entry(token.to_owned()).or_insert(next);
    }

    /// Joins the letters from the left, one after the other.
    fn word(&mut self, word: &str) {
        let mut start = String::new();
        for c in word.chars() {
            if !start.is_empty() {
                let merge = format!("{start} {c}");
                if !self.merges.contains(&merge) {
                    self.merges.push(merge);
                }
            }
            start.push(c);
            self.token(&start);
        }
    }

    fn json(&self, byte_fallback: bool, unknown: Option<&str>) -> Value {
        json!({
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": byte_fallback, "ignore_merges": false,
            "vocab": self.vocab, "merges": self.merges,
        })
    }
}
