//! Chance from a seed: the same on every machine and with every version, so nothing here depends on
//! how a library makes a number out of bits.

use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng as _, SeedableRng as _},
};

pub(crate) struct Rng(Xoshiro256PlusPlus);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// 0 to `bound` - 1.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.0.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    pub(crate) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    /// True so many times in a thousand.
    pub(crate) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// An index into something of this length.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }
}

#[test]
fn a_seed_gives_the_same_numbers_everywhere() {
    let mut rng = Rng::new(7);
    let numbers: Vec<_> = (0..4).map(|_| rng.below(1 << 32)).collect();
    assert_eq!(numbers, [237_771_264, 739_231_965, 3_081_966_003, 1_834_852_202]);
}
