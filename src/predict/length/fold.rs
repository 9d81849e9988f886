//! Splits by family, never by row.

use super::family::scattered;

/// A fold from 0 to `n_folds - 1` for each row. Families are shuffled by the seed and dealt, each to the fold that is the smallest so
/// far, so that one large family does not make its fold larger than it must.
pub(super) fn deal(families: &[usize], n_folds: usize, seed: u64) -> Vec<usize> {
    let n_families = families.iter().max().map_or(0, |last| last + 1);
    let mut size = vec![0_usize; n_families];
    families.iter().for_each(|family| size[*family] += 1);
    let mut order: Vec<usize> = (0..n_families).filter(|family| size[*family] > 0).collect();
    order.sort_by_key(|family| scattered(scattered(seed) ^ *family as u64));
    let mut rows = vec![0_usize; n_folds.max(1)];
    let mut fold_of = vec![0; n_families];
    for family in order {
        let smallest = (0..rows.len()).min_by_key(|fold| rows[*fold]).unwrap_or(0);
        fold_of[family] = smallest;
        rows[smallest] += size[family];
    }
    families.iter().map(|family| fold_of[*family]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_in_one_fold_and_folds_are_even() {
        let families: Vec<usize> = (0..300).map(|row| row / 3).collect();
        let folds = deal(&families, 5, 9);
        assert!(folds.chunks(3).all(|family| family.iter().all(|fold| *fold == family[0])));
        for fold in 0..5 {
            assert_eq!(folds.iter().filter(|at| **at == fold).count(), 60);
        }
        assert_ne!(folds, deal(&families, 5, 10));
        assert!(deal(&[], 5, 1).is_empty());
    }
}
