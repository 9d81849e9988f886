//! Who goes first in a round.

/// The order of `n` kernels in round `round` of repeat `repeat`: a permutation of `0..n`.
///
/// Every other round runs backwards, so that a drift that is linear over two rounds hits all alike (ABBA), and every
/// second round starts one further on, so that nobody always follows the same neighbour.
pub(super) fn order(n: usize, round: usize, repeat: u32) -> Vec<usize> {
    let repeat = repeat as usize;
    let mut order: Vec<usize> = (0..n).collect();
    if n > 0 {
        order.rotate_left((round / 2 + repeat) % n);
    }
    if (round + repeat) % 2 == 1 {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_kernels_alternate_as_abba() {
        let rounds: Vec<_> = (0..4).map(|round| order(2, round, 0)).collect();
        assert_eq!(rounds, [[0, 1], [1, 0], [1, 0], [0, 1]]);
    }

    #[test]
    fn everyone_is_first_equally_often() {
        for n in 1..12 {
            let mut first = vec![0; n];
            (0..2 * n).for_each(|round| first[order(n, round, 3)[0]] += 1);
            assert_eq!(first, vec![2; n]);
        }
    }

    #[test]
    fn repeats_start_differently() {
        assert_ne!(order(3, 0, 0), order(3, 0, 1));
        assert!(order(0, 5, 5).is_empty());
    }
}
