//! What a prompt is for, as far as it can be told.

/// What may tell.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Signals<'a> {
    /// Task of the endpoint that was asked, where the operator has given it one.
    pub endpoint: Option<&'a str>,
    /// Task that the client names.
    pub header: Option<&'a str>,
    /// The prompt.
    pub prompt: Option<&'a str>,
}

/// Who told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Teller {
    /// The client, by a header.
    Header,
    /// The operator, by the endpoint.
    Endpoint,
    /// The prompt's form.
    Prompt,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its name: those of the classifier are the groups of `kvbench negatives`.
    pub name: String,
    /// Who told.
    pub teller: Teller,
}

/// The task: what the client names, else what the endpoint is for, else what the prompt looks like. `None` where nothing tells.
pub fn classify(signals: &Signals<'_>) -> Option<Task> {
    let _ = signals;
    None
}
