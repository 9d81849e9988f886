//! Two counts of the same tokens, the server's and ours, and the chunks they came in. Nothing is replaced: rows keep the
//! server's count, and this says how far it can be trusted.

use std::collections::BTreeMap;

use super::Tokenizer;
use crate::record::{RequestRow, manifest::TokenFacts};

/// Counts that differ by more than this part of the server's are far apart. The same text can be spelled by other tokens, so
/// small differences are no error.
const FAR: f64 = 0.03;

/// What each cell's counts say about each other, cells in order of their first row. Failed requests are left out.
///
/// # Errors
/// The tokenizer cannot encode an answer.
pub fn triangulate(rows: &[&RequestRow], tokenizer: &Tokenizer) -> anyhow::Result<Vec<TokenFacts>> {
    let mut cells: Vec<TokenFacts> = Vec::new();
    let mut place: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows.iter().copied().filter(|row| row.err.is_none()) {
        let at = *place.entry(&row.cell_id).or_insert_with(|| {
            cells.push(TokenFacts {
                cell_id: row.cell_id.clone(),
                tokenizer_sha256: tokenizer.sha256().to_owned(),
                ..TokenFacts::default()
            });
            cells.len() - 1
        });
        answer(&mut cells[at], row, tokenizer)?;
        prompt(&mut cells[at], row);
        chunks(&mut cells[at], row);
    }
    Ok(cells)
}

fn answer(facts: &mut TokenFacts, row: &RequestRow, tokenizer: &Tokenizer) -> anyhow::Result<()> {
    facts.n_good += 1;
    let Some(server) = row.output_tokens else { return Ok(()) };
    // Bytes that are no character are gone from the text; what they were cannot be encoded again.
    if row.output_text.contains(char::REPLACEMENT_CHARACTER) {
        facts.n_garbled += 1;
        return Ok(());
    }
    let ours = i64::try_from(tokenizer.count_continued(&row.output_text)?)?;
    let difference = server - ours;
    facts.n_compared += 1;
    facts.tokens_server += server;
    facts.tokens_ours += ours;
    if difference.abs() > facts.worst.abs() {
        facts.worst = difference;
    }
    let stopped = row.finish_reason.as_deref() == Some("stop");
    match difference {
        0 => facts.n_exact += 1,
        1 if stopped => facts.n_stop_token += 1,
        _ => {
            facts.n_other += 1;
            let beyond = (difference - i64::from(stopped)).abs().min(difference.abs());
            facts.n_far += u64::from(beyond > 1 && beyond as f64 > FAR * server as f64);
        }
    }
    Ok(())
}

fn prompt(facts: &mut TokenFacts, row: &RequestRow) {
    let (Some(server), Some(ours)) = (row.prompt_tokens, row.prompt_tokens_local) else { return };
    facts.n_prompts += 1;
    facts.n_prompts_differ += u64::from(server != ours);
    if (server - ours).abs() > facts.worst_prompt.abs() {
        facts.worst_prompt = server - ours;
    }
}

/// A stop token has no text, so a whole answer can come in one chunk fewer than it has tokens.
fn chunks(facts: &mut TokenFacts, row: &RequestRow) {
    let (Some(server), Ok(chunks)) = (row.output_tokens, i64::try_from(row.chunk_ns.len())) else {
        return;
    };
    match server - chunks {
        0 => facts.n_chunk_per_token += 1,
        1 if row.finish_reason.as_deref() == Some("stop") => facts.n_chunk_per_token += 1,
        more if more > 0 => facts.n_chunks_fewer += 1,
        _ => facts.n_chunks_more += 1,
    }
    if !row.chunk_tokens.is_empty() {
        facts.n_chunk_tokens += 1;
        facts.n_chunk_tokens_differ += u64::from(row.chunk_tokens.iter().sum::<i64>() != server);
    }
}
