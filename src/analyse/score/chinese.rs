//! Chinese words as jieba 0.42.1 (Python, accurate mode with its hidden Markov model) cuts them, and LongBench's F1 of them.
//!
//! `jieba-rs` has the same dictionary and the same model, but from 0.11 on it keeps Latin text with marks in it, such as
//! `GPT-4.5`, as one word, and it takes more characters for Chinese. So it is asked for the two steps where both agree: the
//! best route through the dictionary, and the model's cut of a run of Chinese characters that the route left single. How text
//! is split before, between and after those is written here, by the rules of the Python package.

use std::sync::LazyLock;

use jieba_rs::Jieba;
use regex::Regex;

use super::{f1, python};

static JIEBA: LazyLock<Jieba> = LazyLock::new(Jieba::new);
/// Without a dictionary every run of Chinese characters is left to the model.
static MODEL: LazyLock<Jieba> = LazyLock::new(Jieba::empty);
/// Words and numbers of Latin text within a run that the dictionary left single.
static LATIN: LazyLock<Regex> = LazyLock::new(|| python::pattern(r"[a-zA-Z0-9]+(?:\.[0-9]+)?%?"));

/// Chinese characters, as the Python package knows them.
fn is_chinese(c: char) -> bool {
    ('\u{4e00}'..='\u{9fd5}').contains(&c)
}

/// Characters that the dictionary may join.
fn is_word(c: char) -> bool {
    is_chinese(c)
        || c.is_ascii_alphanumeric()
        || matches!(c, '+' | '#' | '&' | '.' | '_' | '%' | '-')
}

/// `jieba.cut(text, cut_all=False)`. White space and marks are words of their own.
pub(super) fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for block in runs(text, is_word) {
        if block.starts_with(is_word) {
            routed(block, &mut words);
        } else {
            characters(block, &mut words);
        }
    }
    words
}

/// Longest runs of characters that are all of one kind.
fn runs(text: &str, kind: fn(char) -> bool) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = kind(rest.chars().next()?);
        let end = rest.find(|c| kind(c) != first).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        rest = after;
        Some(run)
    })
}

fn characters<'a>(text: &'a str, words: &mut Vec<&'a str>) {
    words.extend(text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]));
}

/// Words of the dictionary's best route through a block; what lies single between them goes on to the model.
fn routed<'a>(block: &'a str, words: &mut Vec<&'a str>) {
    let (mut single, mut at) = (0, 0);
    for token in JIEBA.cut(block, false) {
        let end = at + token.word.len();
        // Without its model jieba-rs joins single Latin letters and digits; no word of the dictionary looks like that.
        let latin = token.word.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !latin && token.word.chars().nth(1).is_some() {
            unjoined(&block[single..at], words);
            words.push(&block[at..end]);
            single = end;
        }
        at = end;
    }
    unjoined(&block[single..], words);
}

/// A run that the route left single: as it is if the dictionary knows it (its characters were likelier apart), else cut by
/// the model.
fn unjoined<'a>(run: &'a str, words: &mut Vec<&'a str>) {
    if run.chars().nth(1).is_none() || JIEBA.has_word(run) {
        return characters(run, words);
    }
    for part in runs(run, is_chinese) {
        if part.starts_with(is_chinese) {
            let tokens = MODEL.cut(part, true);
            words.extend(tokens.iter().map(|token| &part[token.byte_start..token.byte_end]));
        } else {
            latin(part, words);
        }
    }
}

/// `re.split` by the pattern of Latin words, which keeps what it splits by.
fn latin<'a>(part: &'a str, words: &mut Vec<&'a str>) {
    let mut at = 0;
    for found in LATIN.find_iter(part) {
        words.extend(Some(&part[at..found.start()]).filter(|between| !between.is_empty()));
        words.push(found.as_str());
        at = found.end();
    }
    words.extend(Some(&part[at..]).filter(|after| !after.is_empty()));
}

/// `" ".join(jieba.cut(text))`.
pub(super) fn spaced(text: &str) -> String {
    words(text).join(" ")
}

/// F1 of bags of Chinese words, in lower case, without white space and the marks that LongBench lists.
pub(super) fn f1(prediction: &str, reference: &str) -> f64 {
    let bag = |text| words(text).into_iter().map(normalized).filter(|word| !word.is_empty());
    let (ours, theirs): (Vec<_>, Vec<_>) = (bag(prediction).collect(), bag(reference).collect());
    f1::of_bags(&ours, &theirs)
}

/// Full-width and Chinese marks that LongBench takes out beside ASCII's.
const MARKS: &str = "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏";

fn normalized(word: &str) -> String {
    let goes = |c: &char| c.is_ascii_punctuation() || MARKS.contains(*c) || python::is_space(*c);
    word.to_lowercase().chars().filter(|c| !goes(c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Obtained from jieba 0.42.1.
    #[test]
    fn words_are_those_of_the_python_package() {
        for expected in [
            "",
            "我/来到/北京/清华大学",
            "他用/GPT/-/4.5/和/C++/写/了/3.14%/的/代码/。",
            "小明/硕士/毕业/于/中国科学院/计算所",
            "㐀/鿿/GPT/-/4.5/-/turbo",
            "AT&T/公司/v1.2/./3/_/beta",
            "隣/の/客/は/よ/く/柿食/う/客/だ",
            "a/./b/./c#/1",
        ] {
            assert_eq!(words(&expected.replace('/', "")).join("/"), expected);
        }
    }

    #[test]
    fn white_space_and_marks_do_not_count() {
        assert!((f1("北京大学\u{3000}。", "“北京大学”") - 1.0).abs() < 1e-12);
        assert!(f1("北京 大学", "北京大学").abs() < 1e-12, "white space cuts words");
        assert!((f1("ＧＰＴ！", "ｇｐｔ") - 1.0).abs() < 1e-12, "lower case of full width");
        assert!(f1("。！", "。！").abs() < 1e-12, "nothing is left");
    }
}
