//! What the manifest of a run says of its scenario and its cells.

use std::path::Path;

use crate::{
    execute::engine::{self, CellProof, ClientHealth, Learned},
    kernel::allreduce::Link,
    plan::{self, Arrival, Cell, Task},
    record::manifest::{
        CellFacts, ClientFacts, LinkFacts, Manifest, ProofFacts, ScenarioFacts, Verdict,
    },
    scenario::{Device, KernelTarget, Scenario, Target, TargetKind},
};

/// A device as the manifest names it.
pub(super) fn device_from_name(name: &str) -> anyhow::Result<Device> {
    clap::ValueEnum::from_str(name, false)
        .map_err(|_| anyhow::anyhow!("manifest.json: expected a device, got `{name}`"))
}

fn device_name(device: Device) -> String {
    match device {
        Device::Auto => "auto",
        Device::Cpu => "cpu",
        Device::Cuda => "cuda",
    }
    .to_owned()
}

/// A scenario as the manifest keeps it.
pub(super) fn facts(scenario: &Scenario, path: &Path, device: Option<Device>) -> ScenarioFacts {
    ScenarioFacts {
        name: scenario.name.clone(),
        path: Some(path.display().to_string()),
        text: scenario.text.clone(),
        seed: scenario.seed,
        repeats: scenario.repeats,
        baseline: scenario.baseline.clone(),
        aa_control: scenario.aa_control,
        slo: scenario.slo.map(Into::into),
        searches: plan::searches(scenario),
        links: scenario.targets.iter().filter_map(link_facts).collect(),
        device: device.map(device_name),
    }
}

/// A cell as the manifest keeps it.
pub(super) fn cell_facts(cell: &Cell) -> CellFacts {
    CellFacts {
        id: cell.id.clone(),
        target: cell.target.clone(),
        method: cell.method.name.clone(),
        workload: cell.workload.clone(),
        load: cell.load.clone(),
        repeat: cell.repeat,
        concurrency: concurrency(cell),
    }
}

fn concurrency(cell: &Cell) -> Option<u32> {
    let Task::Serve { arrival: Arrival::Closed { concurrency }, .. } = &cell.task else {
        return None;
    };
    u32::try_from(*concurrency).ok()
}

fn link_facts(target: &Target) -> Option<(String, LinkFacts)> {
    let TargetKind::Kernel(KernelTarget { link: Some(link), .. }) = &target.kind else {
        return None;
    };
    let Link { bandwidth_gb_s, latency_us } = *link;
    Some((target.name.clone(), LinkFacts { bandwidth_gb_s, latency_us }))
}

/// Whether a cell's server was what the scenario says, as the manifest keeps it.
fn proof_facts(proof: &CellProof) -> ProofFacts {
    ProofFacts {
        cell_id: proof.cell_id.clone(),
        verdict: verdict(proof.verdict),
        reasons: proof.reasons.clone(),
        salt: proof.salt.clone(),
    }
}

/// Writes into the manifest what an engine backend has learned so far; whether there was anything.
pub(super) fn learn(manifest: &mut Manifest, learned: &Learned<'_>) -> anyhow::Result<bool> {
    for (name, (facts, proof)) in learned.servers {
        let said = serde_json::json!({ "facts": facts, "proof": proof }).to_string();
        let shown = serde_json::from_str(&learned.keys.redact(&said))?;
        manifest.engines.insert(name.clone(), shown);
    }
    for proof in learned.proofs {
        manifest.proofs.retain(|known| known.cell_id != proof.cell_id);
        manifest.proofs.push(proof_facts(proof));
    }
    manifest.schedules.extend(learned.schedules.clone());
    for health in learned.health {
        // A cell that was interrupted and measured again counts as it was the last time.
        manifest.client_health.retain(|known| known.cell_id != health.cell_id);
        manifest.client_health.push(client_facts(health)?);
    }
    Ok(!learned.servers.is_empty() || !learned.schedules.is_empty())
}

fn verdict(verdict: engine::Verdict) -> Verdict {
    match verdict {
        engine::Verdict::Valid => Verdict::Valid,
        engine::Verdict::Suspect => Verdict::Suspect,
        engine::Verdict::Invalid => Verdict::Invalid,
    }
}

/// How the client fared in a cell, as the manifest keeps it.
fn client_facts(health: &ClientHealth) -> anyhow::Result<ClientFacts> {
    Ok(ClientFacts {
        cell_id: health.cell_id.clone(),
        verdict: verdict(health.verdict),
        reasons: health.reasons.clone(),
        measured: serde_json::to_value(health)?,
    })
}
