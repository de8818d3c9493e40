//! A shard: one part of the chosen cases, for the jobs of a CI matrix. Which case is in which part
//! follows from the catalogue and the selection alone, not from the machine or its cluster.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::catalogue::Case;
use crate::verdict::CaseResult;

/// The most parts.
const MOST: u32 = 1000;

/// Part `index` of `of`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// From 1.
    pub index: u32,
    /// How many parts there are.
    pub of: u32,
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(index, of)| {
            Some(Self { index: index.parse().ok()?, of: of.parse().ok()? })
        });
        parts
            .filter(|shard| {
                (1..=MOST).contains(&shard.of) && shard.index >= 1 && shard.index <= shard.of
            })
            .ok_or_else(|| format!("{text:?} is not I/N with 1 ≤ I ≤ N ≤ {MOST}"))
    }
}

impl Shard {
    /// The cases of this part, and those of all others. Cases are dealt like cards, in the given
    /// order; those that run alone are dealt first, so that each part has as many of them.
    #[must_use]
    pub fn split<'a>(&self, cases: &[&'a Case]) -> (Vec<&'a Case>, Vec<&'a Case>) {
        let (alone, beside): (Vec<&Case>, Vec<&Case>) =
            cases.iter().copied().partition(|case| case.exclusive);
        let dealt = alone.into_iter().chain(beside).zip((1..=self.of).cycle());
        let mine: Vec<&str> =
            dealt.filter(|(_, to)| *to == self.index).map(|(case, _)| case.id.as_str()).collect();
        cases.iter().copied().partition(|case| mine.contains(&case.id.as_str()))
    }
}

/// What the report of a part says of the whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShardOf {
    /// Which part.
    #[serde(flatten)]
    pub shard: Shard,
    /// The chosen cases of the other parts, none of which ran here.
    pub elsewhere: Vec<CaseResult>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::catalogue::{Layer, Profile};

    fn case(number: usize, exclusive: bool) -> Case {
        Case {
            id: format!("infra.c{number}"),
            title: "X".into(),
            layer: Layer::Infra,
            profile: Profile::Core,
            features: Default::default(),
            exclusive,
            requirement: "HU-10.1".into(),
            guards: Vec::new(),
            test: format!("infra::c{number}"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn every_case_is_in_exactly_one_part_and_parts_are_even(
            exclusive in proptest::collection::vec(any::<bool>(), 1..40), of in 1_u32..12
        ) {
            let cases: Vec<_> = exclusive.iter().enumerate().map(|(n, x)| case(n, *x)).collect();
            let all: Vec<_> = cases.iter().collect();
            let parts: Vec<_> = (1..=of).map(|index| Shard { index, of }.split(&all)).collect();
            let mut seen: Vec<_> = parts.iter().flat_map(|(mine, _)| mine).map(|c| &c.id).collect();
            seen.sort();
            let mut wanted: Vec<_> = cases.iter().map(|case| &case.id).collect();
            wanted.sort();
            prop_assert_eq!(seen, wanted);
            prop_assert!(parts.iter().all(|(mine, others)| mine.len() + others.len() == all.len()));
            for alone in [true, false] {
                let sizes: Vec<_> = parts.iter().map(|(mine, _)| {
                    mine.iter().filter(|case| !alone || case.exclusive).count()
                }).collect();
                let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
                prop_assert!(most - least <= 1, "{:?}", sizes);
            }
        }
    }

    #[test]
    fn only_a_part_of_a_whole_is_understood() {
        assert_eq!("2/3".parse(), Ok(Shard { index: 2, of: 3 }));
        for wrong in ["0/3", "4/3", "1/0", "1", "a/b", "1/2/3", "-1/3", "1/1001", ""] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }
}
