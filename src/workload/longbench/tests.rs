use super::*;
use crate::workload::dataset::sha256_hex;

/// sha256 of each prompt, from `config/dataset2prompt.json` as THUDM/LongBench published it, and the longest answer.
const UPSTREAM: [(&str, u32, &str); 21] = [
    ("narrativeqa", 128, "aada7ed24b06abace5b0045ac3bcfe06fc831a6cf434f0ecfd99fb7b3d299e1c"),
    ("qasper", 128, "0fbdd123fe7f83d6d6a9c583ca28cb29d68e523bf8fec01a0cf2dcd11037775d"),
    ("multifieldqa_en", 64, "20b4666a2de8a1f701bdb6c4e015fa9f8758d64b361d841f7766df6c9ceba770"),
    ("multifieldqa_zh", 64, "344b3a4e557cd5470c661b3d6b374339717e1257a6c01f628d22322d4a554b94"),
    ("hotpotqa", 32, "9ec4ae308865bd0c62af20b3dc7b12b31f2b447f55684bd88c1aa40f2f636deb"),
    ("2wikimqa", 32, "9ec4ae308865bd0c62af20b3dc7b12b31f2b447f55684bd88c1aa40f2f636deb"),
    ("musique", 32, "9ec4ae308865bd0c62af20b3dc7b12b31f2b447f55684bd88c1aa40f2f636deb"),
    ("dureader", 128, "ae53329f51b17908e08b8c6bf366987282b8b38c0ee35275ebd7b79e9b30eff2"),
    ("gov_report", 512, "91c25d585b189ced91c9280efcb4ecb5dcff9548cd4e3bfae66c68025b569e95"),
    ("qmsum", 512, "dca23b678fe0183bbd9555b57947022aed1b85739da5ad7e1b4708dd0c71c409"),
    ("multi_news", 512, "2af3f28c40b902e6535d4910510d51653613c49de9b2fc287c5958395061101d"),
    ("vcsum", 512, "3e5d8241bc9b512eb4929c1ba80882a44f50b446bc2b1d9d79eff030dd10dc27"),
    ("trec", 64, "0eff8bebdba99d91e9d7d91b6ab39455ac74648bea92c9255c9f68c62175b2db"),
    ("triviaqa", 32, "00a802e6377e72fca39b169cf6c28893bedf23ba7286b03ecd15867c3e27a7c4"),
    ("samsum", 128, "a68d884234907eefcaa0eacf7b2997f60fa46603988dceae6a44f9b49f045b3f"),
    ("lsht", 64, "f3edabdf7fae53d6cadfa7a10f3574d114302161c46dacecd5d30763204bbbf3"),
    ("passage_count", 32, "986550b6c61009c629a4535766d94b7b51e2b2b9e1ed169e4ecb54417466e964"),
    (
        "passage_retrieval_en",
        32,
        "39b96b7fa52bdd2aa2bde34ea199158505201b9a0a2c3ce94e80249293f60431",
    ),
    (
        "passage_retrieval_zh",
        32,
        "c1e2346e245eb365bc33a1503cde2e473948a2aad51c3e4c72893e61ab074d60",
    ),
    ("lcc", 64, "6a1f24cf0bb83cd90f1fca8f0dd24801626c2aaea29db834ddc83b950e71190e"),
    ("repobench-p", 64, "ee9ec182ea5ffeb70a7140d55baea97264a8612d88226d323afa90859c36240c"),
];

#[test]
fn prompts_and_lengths_are_upstreams() {
    assert_eq!(TASKS.len(), UPSTREAM.len());
    for (name, max_new_tokens, sha256) in UPSTREAM {
        let task = task(name).expect(name);
        assert_eq!(sha256_hex(task.prompt.as_bytes()), sha256, "{name}");
        assert_eq!(task.max_new_tokens, max_new_tokens, "{name}");
    }
}

#[test]
fn what_upstream_treats_apart() {
    let named = |of: fn(&Task) -> bool| {
        let mut names: Vec<_> =
            TASKS.iter().filter(|(_, task)| of(task)).map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(
        named(|task| !task.chat_template),
        ["lcc", "lsht", "repobench-p", "samsum", "trec", "triviaqa"]
    );
    assert_eq!(named(|task| task.first_line), ["lsht", "samsum", "trec", "triviaqa"]);
    assert_eq!(named(|task| task.group == Group::Code), ["lcc", "repobench-p"]);
    assert_eq!(named(|task| task.group == Group::MultiDocQa).len(), 4);
    assert_eq!(
        named(|task| task.language == Language::Zh),
        ["dureader", "lsht", "multifieldqa_zh", "passage_retrieval_zh", "vcsum"]
    );
    // Summaries, lines of code and counts of `passage_count` are asked for by the context alone.
    assert_eq!(
        named(|task| !task.prompt.contains("{input}")),
        ["gov_report", "lcc", "multi_news", "passage_count", "vcsum"]
    );
    assert!(TASKS.values().all(|task| task.prompt.matches("{context}").count() == 1));
}

#[test]
fn names_of_longbench_e_are_the_same_tasks() {
    assert_eq!(task("qasper_e"), task("qasper"));
    assert!(task("qasper").is_some());
    assert!(task("qasper_e_e").is_none() && task("kvbench_lookup").is_none());
}

#[test]
fn braces_of_a_row_stay() {
    let task = task("repobench-p").expect("a task");
    assert_eq!(
        task.prompt("a {input} {", "{context}}\n"),
        "Please complete the code given below. \na {input} {{context}}\nNext line of code:\n"
    );
}
