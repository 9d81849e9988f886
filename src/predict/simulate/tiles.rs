//! Attention that is computed in tiles, whatever of a tile is masked.
//!
//! llama.cpp's flash attention on a CPU (`ggml-cpu/ops.cpp`, `ggml_compute_forward_flash_attn_ext_f16`) has two ways. A pass of fewer
//! rows than a tile has, or over a quantised cache, is computed row by row, and a cell that a row does not see costs nothing. A pass of
//! a tile's rows or more, over keys and values that are both f16 or both f32, is cut into tiles of rows, in the order of the pass, and
//! of cells: a tile of which any row sees any cell is multiplied whole. With one cache for all slots (`-kvu`) the rows of slots that
//! decode stand in the first tile of rows beside those of a prompt, so that all of them are held against the cells of all of these
//! sequences: a prompt costs more the more is decoded beside it, which no sum over its own tokens tells.

use serde::{Deserialize, Serialize};

use super::super::Work;

/// Rows and cells of a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tiles {
    /// Rows, which are tokens of the pass.
    pub rows: u64,
    /// Cells of the cache.
    pub cells: u64,
}

impl Tiles {
    /// llama.cpp's on a CPU: `GGML_FA_TILE_Q` and `GGML_FA_TILE_KV`.
    pub const GGML_CPU: Self = Self { rows: 64, cells: 64 };

    /// The two works of a pass of sequences that decode, over so many tokens each, and of chunks of prompts (new tokens, and those in
    /// the cache) behind them. In tiles, what prompts attend to is all that is multiplied, and decoding attends to nothing beside;
    /// else each row costs what the row of a decoding sequence does, so all of it is decoding's.
    pub fn pass(&self, decoding: &[f64], chunks: &[(f64, f64)]) -> (Work, Work) {
        let mut prefill = Work::prefill(chunks.iter().copied());
        let mut decode = Work::decode(decoding.iter().copied(), None);
        let n_rows = decode.new_tokens + prefill.new_tokens;
        if prefill.new_tokens > 0.0 && n_rows >= self.rows as f64 {
            (prefill.attended, decode.attended) = (self.multiplied(decoding, chunks), 0.0);
        } else {
            decode.attended += prefill.attended;
            prefill.attended = 0.0;
        }
        (prefill, decode)
    }

    /// Pairs of a row and a cell in all tiles that are multiplied. Where a sequence's cells lie is not known; in a row they start
    /// anywhere in a tile, and so many of them touch `cells / tile + 1` tiles on average, less one cell's part.
    fn multiplied(&self, decoding: &[f64], chunks: &[(f64, f64)]) -> f64 {
        let (rows, cells) = (self.rows as f64, self.cells as f64);
        let touched = |seen: f64| (seen - 1.0).max(0.0) / cells + 1.0;
        let mut tiles = 0.0;
        let mut room = rows;
        for kv_len in decoding {
            tiles += touched(*kv_len);
            room = if room > 1.0 { room - 1.0 } else { rows };
        }
        for (new, there) in chunks {
            let (mut left, mut seen) = (*new, *there);
            while left > 0.0 {
                let part = left.min(room);
                (left, seen) = (left - part, seen + part);
                tiles += touched(seen);
                room = if room > part { room - part } else { rows };
            }
        }
        tiles * rows * cells
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TILES: Tiles = Tiles::GGML_CPU;

    #[test]
    fn a_short_pass_is_computed_row_by_row() {
        let (prefill, decode) = TILES.pass(&[100.0, 50.0], &[(40.0, 0.0)]);
        assert!((decode.attended - (150.0 + 800.0)).abs() < 1e-9, "{decode:?}");
        assert!(prefill.attended < 1e-9 && (decode.batch - 2.0).abs() < 1e-9);
    }

    /// 65 rows are two tiles of them; whatever decodes is in the first.
    #[test]
    fn a_long_pass_pays_for_whole_tiles() {
        let tile = 64.0 * 64.0;
        let multiplied = |decoding: &[f64], chunk: f64| {
            let (prefill, decode) = TILES.pass(decoding, &[(chunk, 0.0)]);
            assert!(decode.attended < 1e-9);
            prefill.attended / tile
        };
        // 64 cells touch 63/64 + 1 tiles on average.
        let one = 63.0 / 64.0 + 1.0;
        assert!((multiplied(&[], 64.0) - one).abs() < 1e-9);
        assert!((multiplied(&[], 65.0) - (one + 2.0)).abs() < 1e-9);
        let beside = multiplied(&[129.0, 129.0], 64.0);
        // Two of 129 cells touch 3 tiles each; two rows of the prompt stand in a second tile.
        assert!((beside - (6.0 + (61.0 / 64.0 + 1.0) + one)).abs() < 1e-9, "{beside}");
    }
}
