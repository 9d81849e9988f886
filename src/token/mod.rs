//! Text to tokens and back, on this side of the wire: prompts of an exact length, chat templates, and a count of our own
//! beside the server's.
//!
//! What a count means:
//! - [`Tokenizer::count`] is what a server counts for `/v1/completions`: with the tokens that the tokenizer itself adds (BOS),
//!   and special tokens that stand in the text read as such, as vLLM and llama.cpp do.
//! - A prompt that a chat template was applied to holds BOS once: where the template spells it and the tokenizer adds it as
//!   well, the spelled one goes, or the server would see two.
//! - A text does not determine its tokens: a model may spell a word in pieces that the tokenizer would join. Counts of
//!   answers can therefore differ from the server's for good reasons, by a little.

mod fit;
mod load;
mod meter;
mod python;
mod template;
mod triangulate;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod tiny;

pub use fit::{Fitted, Fitter};
pub use load::{Head, Tokenizer, shared};
pub use meter::{Cut, Meter};
pub use template::{ChatTemplate, DATE_DEFAULT, Special, date, messages, user_message};
pub use triangulate::triangulate;
