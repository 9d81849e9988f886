//! Methods of the file, and whether they fit the heads they are to run on.

use super::{
    KernelTarget, NamedMethod, Scenario, TargetKind,
    error::{Fault, SEE_README},
    value::Sp,
    wire,
};
use crate::method::{Gear, Method};

/// Method name under which bandwidth probes are recorded.
const PROBE: &str = "probe";

/// One entry of `[method]`.
pub(super) fn build(name: &Sp<String>, wire: &wire::Method) -> Result<NamedMethod, Fault> {
    if name.value == PROBE {
        let message =
            "expected another name than `probe`, under which bandwidth probes are recorded";
        return Err(Fault::new(name.at, message, "rename the method"));
    }
    let method = method(wire)?;
    // The checks of this file come first, because they know which value to point at; the method has the last word.
    if let Some(method) = &method {
        method.check().map_err(|message| Fault::new(name.at, message, SEE_README))?;
    }
    Ok(NamedMethod { name: name.value.clone(), method })
}

/// Our method; `None` for an engine's.
pub(super) fn method(wire: &wire::Method) -> Result<Option<Method>, Fault> {
    Ok(Some(match wire {
        wire::Method::Engine(_) => return Ok(None),
        wire::Method::Fp16(_) => Method::Fp16,
        wire::Method::Int8(_) => Method::Int8,
        wire::Method::Int4(_) => Method::Int4,
        wire::Method::Fp8(_) => Method::Fp8,
        wire::Method::Bf16(_) => Method::Bf16,
        wire::Method::Fp8TokenHead(_) => Method::Fp8TokenHead,
        wire::Method::Kivi(wire) => kivi(wire)?,
        wire::Method::Gear(wire) => gear(wire)?,
        wire::Method::Turboquant4(_) => Method::Turboquant4,
        wire::Method::Streaming(wire) => {
            Method::Streaming { sink: wire.sink.usize(), window: wire.window.usize() }
        }
        wire::Method::H2o(wire) => {
            Method::H2o { heavy: wire.heavy.usize(), recent: wire.recent.usize() }
        }
        wire::Method::Snapkv(wire) => snapkv(wire)?,
    }))
}

fn kivi(wire: &wire::Kivi) -> Result<Method, Fault> {
    let (bits, group, residual) = groups(&wire.bits, &wire.group, &wire.residual)?;
    Ok(Method::Kivi { bits, group, residual })
}

fn gear(wire: &wire::Gear) -> Result<Method, Fault> {
    let (bits, group, residual) = groups(&wire.bits, &wire.group, &wire.residual)?;
    for (name, rank) in [("rank", &wire.rank), ("flush_rank", &wire.flush_rank)] {
        let rank_value = rank.value.usize();
        if !rank_value.is_multiple_of(2) {
            return Err(Fault::new(
                rank.at,
                format!("expected an even `{name}`, got {rank_value}"),
                format!("try `{name} = {}`", rank_value + 1),
            ));
        }
    }
    Ok(Method::Gear(Gear {
        bits,
        group,
        residual,
        rank: wire.rank.value.usize(),
        flush_rank: wire.flush_rank.value.usize(),
        iterations: wire.iterations.usize(),
        outliers: wire.outliers.0,
    }))
}

/// Code width, group and residual of KIVI and of GEAR, which quantises as KIVI does.
fn groups(
    bits_at: &Sp<wire::Bits>,
    group_at: &Sp<wire::Group>,
    residual_at: &Sp<wire::Tokens>,
) -> Result<(u32, usize, usize), Fault> {
    let bits = bits_at.value.u32();
    let (group, residual) = (group_at.value.usize(), residual_at.value.usize());
    if bits == 3 {
        let message = "expected `bits` to be 2 or 4, got 3";
        return Err(Fault::new(bits_at.at, message, "codes are packed at 2 or 4 bits"));
    }
    if !group.is_power_of_two() {
        return Err(Fault::new(
            group_at.at,
            format!("expected `group` to be a power of two, got {group}"),
            format!("try `group = {}`", group.next_power_of_two()),
        ));
    }
    if !residual.is_multiple_of(group) {
        return Err(Fault::new(
            residual_at.at,
            format!("expected `residual` to be a multiple of `group` ({group}), got {residual}"),
            format!("try `residual = {}`", residual.next_multiple_of(group)),
        ));
    }
    Ok((bits, group, residual))
}

fn snapkv(wire: &wire::Snapkv) -> Result<Method, Fault> {
    let (window, budget) = (wire.window.usize(), wire.budget.value.usize());
    let pool_width = wire.pool_width.value.usize();
    if pool_width.is_multiple_of(2) {
        return Err(Fault::new(
            wire.pool_width.at,
            format!("expected an odd `pool_width`, got {pool_width}"),
            format!("try `pool_width = {}`", pool_width + 1),
        ));
    }
    if budget <= window {
        return Err(Fault::new(
            wire.budget.at,
            format!("expected `budget` above `window` ({window}), which it includes, got {budget}"),
            "raise `budget`, or use `streaming` to keep a window only",
        ));
    }
    Ok(Method::Snapkv { window, budget, pooling: wire.pooling, pool_width })
}

/// KIVI and GEAR group V along the head dimension, so the group must divide it at every kernel target that runs them.
pub(super) fn fit_targets(scenario: &Scenario, file: &wire::File) -> Result<(), Fault> {
    for target in &scenario.targets {
        let TargetKind::Kernel(kernel) = &target.kind else { continue };
        for ((name, wire), named) in file.method.0.iter().zip(&scenario.methods) {
            let group_at = match wire {
                wire::Method::Kivi(wire) => &wire.group,
                wire::Method::Gear(wire) => &wire.group,
                _ => {
                    fits(name, named, kernel)?;
                    continue;
                }
            };
            let group = group_at.value.usize();
            let dim = kernel.model.head_dim;
            if kernel.methods.contains(&named.name) && !dim.is_multiple_of(group) {
                return Err(Fault::new(
                    group_at.at,
                    format!(
                        "expected `group` to divide the head dimension {dim} of `{}`, got {group}",
                        kernel.model.name
                    ),
                    "32, 64 and 128 fit the usual heads of 128",
                ));
            }
        }
    }
    Ok(())
}

/// What a method without parameters asks of the head dimension.
fn fits(name: &Sp<String>, named: &NamedMethod, kernel: &KernelTarget) -> Result<(), Fault> {
    if !kernel.methods.contains(&named.name) {
        return Ok(());
    }
    let hint = "leave the method out of this target's `methods`";
    let Some(method) = &named.method else { return Ok(()) };
    let checked = method.check_head_dim(kernel.model.head_dim);
    checked.map_err(|message| Fault::new(name.at, message, hint))
}
