use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn scenario(loads: &str, grid: &str, repeats: u32) -> Scenario {
    let text = format!(
        r#"
name = "p"
baseline = "fp16"
repeats = {repeats}
[method.fp16.fp16]
[method.int8.int8]
[target.cpu.kernel]
model = "llama-3-8b"
[target.srv.engine]
url = "http://h"
endpoint = "chat"
method = "int8"
[workload.grid.shapes]
{grid}
[workload.words.synthetic]
n_requests = 10
prompt_tokens = {{ fixed = 8 }}
output_tokens = {{ fixed = 8 }}
{loads}
"#
    );
    Scenario::parse(&text, "p.toml").expect("valid")
}

const GRID: &str = "ops = [\"decode\"]\nbatch = [4]\nkv_len = [64, 8192]";
const LOADS: &str = "[load.pace.poisson]\nrate = [2.5]\n[load.closed.closed]\nconcurrency = [8]";

#[test]
fn the_order_of_cells() {
    let cells = expand(&scenario(LOADS, GRID, 1));
    let ids: Vec<_> = cells.iter().map(|cell| (cell.block, cell.id.as_str())).collect();
    assert_eq!(
        ids,
        [
            (0, "p/cpu/fp16/grid-decode-b4-kv64/launch/r0"),
            (0, "p/cpu/int8/grid-decode-b4-kv64/launch/r0"),
            (0, "p/cpu/fp16-aa/grid-decode-b4-kv64/launch/r0"),
            (1, "p/cpu/fp16/grid-decode-b4-kv8192/launch/r0"),
            (1, "p/cpu/int8/grid-decode-b4-kv8192/launch/r0"),
            (1, "p/cpu/fp16-aa/grid-decode-b4-kv8192/launch/r0"),
            (2, "p/cpu/fp16/words/closed-8/r0"),
            (2, "p/cpu/int8/words/closed-8/r0"),
            (2, "p/cpu/fp16-aa/words/closed-8/r0"),
            (3, "p/srv/int8/words/pace-2.5/r0"),
            (4, "p/srv/int8/words/closed-8/r0"),
        ]
    );
}

#[test]
fn a_filter_keeps_order_and_blocks() {
    let cells = expand(&scenario(LOADS, GRID, 2));
    let kept = filter(&cells, &Regex::new("kv8192.*/r1$").expect("regex"));
    assert_eq!(kept.len(), 3);
    assert!(kept.iter().all(|cell| cell.block == kept[0].block && cell.repeat == 1));
    assert!(filter(&cells, &Regex::new("nothing").expect("regex")).is_empty());
}

#[test]
fn methods_share_a_seed_and_repeats_do_not() {
    let cells = expand(&scenario(LOADS, GRID, 2));
    let seeds = |id: &str| {
        let cell = cells.iter().find(|cell| cell.id == id).expect("in the plan");
        cell_seed(1, cell)
    };
    assert_eq!(seeds("p/cpu/fp16/words/closed-8/r0"), seeds("p/srv/int8/words/closed-8/r0"));
    assert_ne!(seeds("p/cpu/fp16/words/closed-8/r0"), seeds("p/cpu/fp16/words/closed-8/r1"));
    assert_ne!(cell_seed(1, &cells[0]), cell_seed(2, &cells[0]));
}

#[test]
fn a_page_is_in_ids_only_where_it_is_not_the_default() {
    let plain = scenario(LOADS, GRID, 1);
    let with = |page: &str| {
        let key = format!("model = \"llama-3-8b\"\npage = {page}");
        let text = plain.text.replace("model = \"llama-3-8b\"", &key);
        expand(&Scenario::parse(&text, "p.toml").expect("valid"))
    };
    let (old, same, other) = (expand(&plain), with("16"), with("64"));
    assert_eq!(old, same);
    assert_eq!(other[0].id, "p/cpu/fp16/grid-decode-b4-kv64-page64/launch/r0");
    assert_eq!(other[6].id, "p/cpu/fp16/words-page64/closed-8/r0");
    assert_eq!(other[9].id, old[9].id, "a server's pages are its own");
    let seeds = |cells: &[Cell]| cells.iter().map(|cell| cell_seed(1, cell)).collect::<Vec<_>>();
    assert_eq!(seeds(&old), seeds(&other), "the same prompts and data");
}

#[test]
fn degrees_are_blocks_of_their_own_with_the_same_prompts() {
    let plain = scenario(LOADS, GRID, 1);
    let keys = "model = \"llama-3-8b\"\npage = 64\ntensor_parallel = [1, 2]";
    let text = plain.text.replace("model = \"llama-3-8b\"", keys);
    let cells = expand(&Scenario::parse(&text, "p.toml").expect("valid"));
    let ids: Vec<_> = cells.iter().step_by(3).map(|cell| cell.id.as_str()).collect();
    assert_eq!(
        ids[..5],
        [
            "p/cpu/fp16/grid-decode-b4-kv64-page64/launch/r0",
            "p/cpu/fp16/grid-decode-b4-kv64-page64-tp2/launch/r0",
            "p/cpu/fp16/grid-decode-b4-kv8192-page64/launch/r0",
            "p/cpu/fp16/grid-decode-b4-kv8192-page64-tp2/launch/r0",
            "p/cpu/fp16/words-page64/closed-8/r0",
        ]
    );
    assert_eq!(cells[3].block, cells[0].block + 1, "methods meet at their own degree only");
    assert_eq!(cell_seed(1, &cells[0]), cell_seed(1, &cells[3]));
    assert_eq!(without_degree(&cells[3].workload, 2), cells[0].workload);
    let memory = |cell: &Cell| estimate(cell, &plain.timing).memory_bytes;
    assert!(memory(&cells[9]) < memory(&cells[6]), "a rank holds half of the heads");
}

#[test]
fn estimates_say_what_is_unknown() {
    let scenario = scenario(LOADS, GRID, 1);
    let cells = expand(&scenario);
    let fp16 = estimate(&cells[3], &scenario.timing);
    // 4 sequences of 8192 tokens, 8 heads of 128, K and V in two bytes: 128 MiB a launch, 202 launches.
    let launch_s = 4.0 * 8192.0 * 8.0 * 128.0 * 4.0 / 10e9;
    assert!((fp16.seconds.expect("known") - 202.0 * launch_s).abs() < 1e-9);
    let int8 = estimate(&cells[4], &scenario.timing);
    assert!(int8.seconds < fp16.seconds && int8.memory_bytes < fp16.memory_bytes);
    assert_eq!(estimate(&cells[6], &scenario.timing).seconds, None);
    assert_eq!(
        estimate(&cells[9], &scenario.timing),
        Estimate { seconds: Some(4.0), memory_bytes: None }
    );
    assert_eq!(estimate(&cells[10], &scenario.timing).seconds, None);
    let block: Vec<_> = cells[3..6].iter().collect();
    assert!(block_seconds(&block, &scenario.timing).expect("known") <= scenario.timing.max_seconds);
}

#[test]
fn rates_that_change_are_readable_and_estimated() {
    let loads = "[load.up.ramp]\nfrom = 0.5\nto = 10\nover_s = 1\n\
        [load.rush.burst]\nbase_rate = 0\nburst_rate = 20\nperiod_s = 4\nburst_s = 0.25\n";
    let text = scenario(loads, GRID, 1);
    let cells = expand(&text);
    let served: Vec<_> = cells.iter().filter(|cell| cell.target == "srv").collect();
    assert_eq!(served[0].id, "p/srv/int8/words/up-0.5to10/r0");
    assert_eq!(served[1].id, "p/srv/int8/words/rush-0burst20/r0");
    let seconds = |cell: &Cell| estimate(cell, &text.timing).seconds.expect("known");
    // 5.25 arrivals on the way up, the other 4.75 at 10 a second; 5 a period of 4 s.
    assert!((seconds(served[0]) - 1.475).abs() < 1e-9);
    assert!((seconds(served[1]) - 8.0).abs() < 1e-9);
}

fn values(range: std::ops::Range<u32>) -> impl Strategy<Value = BTreeSet<u32>> {
    prop::collection::btree_set(range, 1..4)
}

fn list(values: &BTreeSet<u32>) -> String {
    format!("{:?}", values.iter().collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ids_are_unique_and_blocks_complete(
        batch in values(1..64), kv_len in values(1..4096), rate in values(1..50), n in values(1..50), repeats in 1_u32..4,
    ) {
        let grid = format!("ops = [\"prefill\", \"decode\"]\nbatch = {}\nkv_len = {}", list(&batch), list(&kv_len));
        let loads = format!(
            "[load.a.poisson]\nrate = {0}\n[load.a-1.constant]\nrate = {0}\n[load.c.closed]\nconcurrency = {1}",
            list(&rate), list(&n)
        );
        let cells = expand(&scenario(&loads, &grid, repeats));
        let ids: BTreeSet<_> = cells.iter().map(|cell| &cell.id).collect();
        prop_assert_eq!(ids.len(), cells.len());
        let points = 2 * batch.len() * kv_len.len() + n.len();
        let served = 2 * rate.len() + n.len();
        prop_assert_eq!(cells.len(), repeats as usize * (3 * points + served));
        prop_assert!(cells.windows(2).all(|pair| pair[1].block == pair[0].block || pair[1].block == pair[0].block + 1));
        let mut blocks: BTreeMap<usize, Vec<&Cell>> = BTreeMap::new();
        for cell in &cells {
            blocks.entry(cell.block).or_default().push(cell);
        }
        for block in blocks.values() {
            let shared = |cell: &Cell| (cell.target.clone(), cell.workload.clone(), cell.load.clone(), cell.repeat);
            prop_assert!(block.iter().all(|cell| shared(cell) == shared(block[0])));
            let engine = matches!(block[0].task, Task::Serve { .. });
            prop_assert_eq!(block.len(), if engine { 1 } else { 3 });
        }
    }
}
