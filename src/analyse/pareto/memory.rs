//! What a cached token takes in memory.

use crate::{
    analyse::rank::{Run, Spot},
    record::KernelRow,
    scenario::Scenario,
};

/// Bytes of a cached token.
#[derive(Debug, Clone, PartialEq)]
pub struct Memory {
    /// Bytes, all heads together.
    pub bytes_per_token: f64,
    /// Who says so, in words: what is compared must be of one kind.
    pub from: String,
}

/// What a cached token of this method takes at this spot; `None` where neither the method nor the engine tells.
pub(super) fn of(runs: &[Run], spot: &Spot, method: &str, target: &str) -> Option<Memory> {
    runs.iter()
        .find_map(|run| counted(run, spot, method, target).or_else(|| told(run, method, target)))
}

/// From the method itself: one layer's cache at the length that was measured.
fn counted(run: &Run, spot: &Spot, method: &str, target: &str) -> Option<Memory> {
    let here = |row: &&KernelRow| {
        row.op == "decode"
            && row.method == method
            && row.target == target
            && row.workload == spot.workload
            && row.load == spot.load
    };
    let row = run.launches.iter().find(here)?;
    let scenario = Scenario::parse(&run.data.manifest.scenario.text, "the run's scenario").ok()?;
    let named = scenario.methods.iter().find(|named| named.name == method)?;
    let size = |n: i64| usize::try_from(n).ok().filter(|n| *n > 0);
    let (kv_len, heads, dim) = (size(row.kv_len)?, size(row.heads_kv)?, size(row.head_dim)?);
    let bytes = named.method.as_ref()?.cache_bytes(kv_len, heads, dim);
    Some(Memory {
        bytes_per_token: bytes as f64 / kv_len as f64,
        from: format!("counted from the method, one layer at {kv_len} tokens"),
    })
}

/// As the engine told, or in theory from the model's config and the engine's setting.
fn told(run: &Run, method: &str, target: &str) -> Option<Memory> {
    let proofs = run.data.manifest.engines.values().filter_map(|engine| engine.get("proof"));
    let mut own = proofs.filter(|proof| proof["method"] == method && proof["target"] == target);
    own.find_map(|proof| {
        let bytes = |key: &str| proof.get(key)?.as_f64().filter(|bytes| *bytes > 0.0);
        let told = bytes("kv_bytes_per_token").map(|bytes| (bytes, "told by the engine"));
        let theory = || {
            Some((
                bytes("kv_bytes_per_token_theory")?,
                "from the model's config and the engine's setting",
            ))
        };
        let (bytes_per_token, from) = told.or_else(theory)?;
        Some(Memory { bytes_per_token, from: from.to_owned() })
    })
}
