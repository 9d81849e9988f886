//! What an encoder's graph takes and gives, by names and types: whether it is an encoder of text at all.

use anyhow::{Context as _, bail, ensure};
use ort::{
    session::Session,
    value::{Outlet, TensorElementType, ValueType},
};

/// One vector a text already.
const POOLED: [&str; 1] = ["sentence_embedding"];
/// One vector a token.
const HIDDEN: [&str; 2] = ["last_hidden_state", "token_embeddings"];

/// What is fed to an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feed {
    /// Ids of tokens.
    Ids,
    /// Ones: texts of one batch have as many tokens each, and none is padded.
    Mask,
    /// Numbers of segments.
    Types,
}

/// An input with its name.
pub(super) type Input = (String, Feed);

/// Inputs in the graph's order.
pub(super) fn inputs(session: &Session) -> anyhow::Result<Vec<Input>> {
    let inputs: Vec<Input> = session.inputs().iter().map(input).collect::<anyhow::Result<_>>()?;
    ensure!(
        inputs.iter().any(|(_, feed)| *feed == Feed::Ids),
        "expected an input `input_ids`, got {}",
        listed(session.inputs())
    );
    Ok(inputs)
}

fn input(outlet: &Outlet) -> anyhow::Result<Input> {
    let name = outlet.name();
    let feed = match name {
        "input_ids" => Feed::Ids,
        "attention_mask" => Feed::Mask,
        "token_type_ids" => Feed::Types,
        _ => bail!(
            "expected inputs among `input_ids`, `attention_mask` and `token_type_ids`, got `{name}`\n  hint: export the encoder part of \
             the model alone"
        ),
    };
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        bail!("expected a tensor as input `{name}`, got {}", outlet.dtype());
    };
    ensure!(*ty == TensorElementType::Int64, "expected int64 as input `{name}`, got {ty}");
    ensure!(
        shape.len() == 2 && shape.iter().all(|dimension| *dimension < 0),
        "expected an input `{name}` of any batch and any length, got the shape {shape:?}\n  hint: export the model with dynamic axes"
    );
    Ok((name.to_owned(), feed))
}

/// The output that is read.
pub(super) fn output(session: &Session) -> anyhow::Result<String> {
    let outlets = session.outputs();
    let called = |name: &&str| outlets.iter().any(|outlet| outlet.name() == *name);
    let known = POOLED.iter().chain(&HIDDEN).find(|name| called(name));
    let only = || outlets.first().filter(|_| outlets.len() == 1).map(Outlet::name);
    let name = known.copied().or_else(only).with_context(|| {
        format!(
            "expected an output `{}`, or one alone, got {}",
            POOLED.iter().chain(&HIDDEN).copied().collect::<Vec<_>>().join("`, `"),
            listed(outlets)
        )
    })?;
    Ok(name.to_owned())
}

fn listed(outlets: &[Outlet]) -> String {
    let names: Vec<String> = outlets.iter().map(|outlet| format!("`{}`", outlet.name())).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
