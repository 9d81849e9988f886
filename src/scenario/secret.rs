//! What looks like a secret: a scenario that holds one is refused, since its text and the commands made from it are stored
//! with the results, and whatever is shown of a command leaves it out.

use std::collections::BTreeMap;

/// Ends of names whose value is a secret.
const ENDINGS: [&str; 13] = [
    "TOKEN",
    "API_KEY",
    "APIKEY",
    "SECRET",
    "SECRET_KEY",
    "ACCESS_KEY",
    "ACCESS_KEY_ID",
    "PRIVATE_KEY",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "CREDENTIALS",
    "AUTHORIZATION",
];
/// Ends of names that are about a model's tokens and not about access.
const OF_A_MODEL: [&str; 10] = [
    "PER_TOKEN",
    "BOS_TOKEN",
    "EOS_TOKEN",
    "PAD_TOKEN",
    "UNK_TOKEN",
    "STOP_TOKEN",
    "SPECIAL_TOKEN",
    "IMAGE_TOKEN",
    "FIRST_TOKEN",
    "NEXT_TOKEN",
];
/// Values of switches, which are no secrets whatever their name.
const SWITCHES: [&str; 8] = ["", "0", "1", "true", "false", "none", "null", "off"];
/// Beginnings of keys that are known by their look, and how many characters follow at least.
const LOOKS: [(&str, usize); 4] = [("hf_", 20), ("sk-", 20), ("ghp_", 20), ("Bearer ", 8)];
/// In the place of a secret.
const HIDDEN: &str = "***";

/// Whether a variable or flag of that name holds a secret.
pub fn is_name(name: &str) -> bool {
    let name = name.trim_matches(['-', ' ', '"', '\'', ':']).to_ascii_uppercase().replace('-', "_");
    let ends = |some: &[&str]| some.iter().any(|end| name.ends_with(end));
    ends(&ENDINGS) && !ends(&OF_A_MODEL)
}

/// Words of a command with every secret replaced by stars.
pub fn hidden(words: &[String]) -> Vec<String> {
    let mut follows = false;
    let hide = |word: &String| {
        let shown = if std::mem::take(&mut follows) {
            HIDDEN.to_owned()
        } else {
            match value_at(word) {
                Some(at) => format!("{}{HIDDEN}", &word[..at]),
                None => word.clone(),
            }
        };
        follows = is_flag(word);
        shown
    };
    words.iter().map(hide).collect()
}

/// A variable's value, or stars.
pub fn hidden_value(name: &str, value: &str) -> String {
    match value_at(value) {
        _ if is_name(name) && !is_plain(value) => HIDDEN.to_owned(),
        Some(at) => format!("{}{HIDDEN}", &value[..at]),
        None => value.to_owned(),
    }
}

/// The first secret among words, without its value.
pub(super) fn in_words<'a>(words: impl IntoIterator<Item = &'a String>) -> Option<String> {
    words.into_iter().find_map(|word| in_word(word))
}

fn in_word(word: &str) -> Option<String> {
    if is_flag(word) {
        return Some(word.to_owned());
    }
    // What stands before the first secret holds none; of a file, its line is enough.
    let line = |at: usize| word[..at].rsplit('\n').next().unwrap_or_default();
    value_at(word).map(|at| format!("{}...", line(at)))
}

/// The first secret in an environment or a table of texts, without its value.
pub(super) fn in_table(table: &BTreeMap<String, String>) -> Option<String> {
    let secret = |(name, value): (&String, &String)| {
        if is_name(name) && !is_plain(value) {
            return Some(name.clone());
        }
        value_at(value).map(|at| format!("{name}={}...", &value[..at]))
    };
    table.iter().find_map(secret)
}

/// A flag whose next word is a secret.
fn is_flag(word: &str) -> bool {
    word.starts_with('-') && !word.contains(['=', ' ']) && is_name(word)
}

/// No secret: a switch, or a variable's name in the place of its value.
fn is_plain(value: &str) -> bool {
    let value = value.trim_matches(['"', '\'', ' ', ',']);
    let reference = value.strip_prefix('$').map(|rest| {
        let inner = rest.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(rest);
        let part = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        !inner.is_empty() && inner.chars().all(part)
    });
    SWITCHES.contains(&value.to_ascii_lowercase().as_str()) || reference == Some(true)
}

/// Where a secret begins in a word such as `--api-key=x`, `HF_TOKEN=x`, `Authorization: x` or `http://me:pw@host`.
fn value_at(word: &str) -> Option<usize> {
    let assigned = word.match_indices(['=', ':']).find_map(|(at, _)| {
        let name = word[..at]
            .rsplit(['=', ' ', '\n', ',', '{', '"', '\''])
            .find(|part| !part.is_empty())?;
        let rest = word[at + 1..].trim_start_matches(' ');
        let value = rest.split([' ', '\n', ';', '&']).next().unwrap_or_default();
        (is_name(name) && !is_plain(value)).then_some(at + 1)
    });
    let looks = LOOKS.iter().filter_map(|(start, n)| {
        let at = word.find(start)?;
        let key = |c: &char| c.is_ascii_alphanumeric() || "-_.".contains(*c);
        (word[at + start.len()..].chars().take_while(key).count() >= *n).then_some(at + start.len())
    });
    assigned.into_iter().chain(looks).chain(url_password(word)).min()
}

fn url_password(word: &str) -> Option<usize> {
    let start = word.find("://")? + 3;
    let host = word[start..].split(['/', ' ']).next()?;
    let (user, _) = host.rsplit_once('@')?;
    Some(start + user.find(':')? + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn every_spelling_of_a_secret_is_found_and_hidden() {
        for given in [
            &["--api-key=s3cret"][..],
            &["--hf-token", "s3cret"],
            &["-e", "HF_TOKEN=s3cret"],
            &["-eHF_TOKEN=s3cret"],
            &["--env=HF_TOKEN=s3cret"],
            &["sh", "-c", "HF_TOKEN=s3cret vllm serve"],
            &["-H", "Authorization: Bearer s3cret"],
            &["AWS_SECRET_ACCESS_KEY=s3cret"],
            &["--proxy", "http://me:s3cret@host/"],
            &["--opts", "{\"api_key\": \"s3cret\"}"],
            &["hf_s3cretAAAAAAAAAAAAAAAAAAAA"],
        ] {
            let given = words(given);
            let named = in_words(&given).unwrap_or_else(|| panic!("not found: {given:?}"));
            assert!(!named.contains("s3cret"), "{named}");
            let shown = hidden(&given).join(" ");
            assert!(shown.contains("***") && !shown.contains("s3cret"), "{shown}");
        }
        assert_eq!(hidden(&words(&["--api-key=x", "-v"])), ["--api-key=***", "-v"]);
        assert_eq!(hidden_value("HF_TOKEN", "x"), "***");
        assert_eq!(hidden_value("HTTP_PROXY", "http://me:pw@host"), "http://me:***");
    }

    #[test]
    fn what_is_no_secret_stays() {
        for plain in [
            &["--max-num-batched-tokens", "512"][..],
            &["docker", "run", "-e", "HF_TOKEN", "IMAGE"],
            &["--env=HF_TOKEN"],
            &["HF_TOKEN=$HF_TOKEN", "HF_HUB_DISABLE_IMPLICIT_TOKEN=1"],
            &["--kv-cache-dtype=int8_per_token_head", "http://host:80/a@b"],
            &["--scale-per-token", "2", "--bos-token=3", "--risk-free"],
        ] {
            let plain = words(plain);
            assert_eq!(in_words(&plain), None, "{plain:?}");
            assert_eq!(hidden(&plain), plain);
        }
        assert_eq!(hidden_value("HF_HUB_OFFLINE", "1"), "1");
    }
}
