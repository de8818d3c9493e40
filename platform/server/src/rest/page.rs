//! Pages of a list: `page_size` and `page_token` in, `next_page_token` out, as in the lists of gRPC.

use std::{fmt::Display, str::FromStr};

use super::problem::Problem;

/// Most entries of a page.
const MAX_PAGE: u32 = 500;
const DEFAULT_PAGE: u32 = 50;

/// How many entries a page has: 1 to 500; 50 if nothing, or 0, is asked for.
pub(super) fn page_size(asked: Option<u32>) -> Result<u32, Problem> {
    match asked.unwrap_or(0) {
        0 => Ok(DEFAULT_PAGE),
        size @ 1..=MAX_PAGE => Ok(size),
        size => Err(Problem::query("page_size", format!("{size} is not in 1 to {MAX_PAGE}"))),
    }
}

/// Where a page begins: after the entry of this id. Nothing, or an empty token, is the first page.
pub(super) fn page_token<Id: FromStr>(token: Option<&str>) -> Result<Option<Id>, Problem>
where
    Id::Err: Display,
{
    let token = token.filter(|token| !token.is_empty());
    let parsed = token.map(str::parse).transpose();
    parsed.map_err(|error| Problem::query("page_token", format!("not one of this list: {error}")))
}

/// Cuts a list that was read with one entry more than `size` to a page; the token of the next one.
pub(super) fn cut<T>(entries: &mut Vec<T>, size: u32, id: impl Fn(&T) -> String) -> Option<String> {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let more = entries.len() > size;
    entries.truncate(size);
    entries.last().filter(|_| more).map(id)
}

#[cfg(test)]
mod tests {
    use hodei_core::id::JobId;

    use super::*;

    #[test]
    fn sizes_have_a_default_and_a_bound() {
        for (asked, expect) in
            [(None, Some(50)), (Some(0), Some(50)), (Some(500), Some(500)), (Some(501), None)]
        {
            assert_eq!(page_size(asked).ok(), expect, "{asked:?}");
        }
    }

    #[test]
    fn an_empty_token_is_the_first_page_and_a_foreign_one_is_refused() {
        assert_eq!(page_token::<JobId>(Some("")).unwrap(), None);
        let id = JobId::new();
        assert_eq!(page_token(Some(&id.to_string())).unwrap(), Some(id));
        assert!(page_token::<JobId>(Some("x")).is_err());
    }

    #[test]
    fn only_a_page_with_more_behind_it_has_a_next_one() {
        for (read, left, next) in [(2, 2, None), (3, 2, Some("2")), (0, 0, None)] {
            let mut entries: Vec<u32> = (1..=read).collect();
            assert_eq!(cut(&mut entries, 2, ToString::to_string).as_deref(), next);
            assert_eq!(entries.len(), left);
        }
    }
}

#[cfg(test)]
mod outside_input {
    use hodei_core::id::{JobId, ProviderId};
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn any_page_is_within_bounds_or_refused(
            size in option::of(any::<u32>()),
            token in option::of(prop_oneof![any::<String>(), any::<u128>().prop_map(|n| uuid::Uuid::from_u128(n).to_string())]),
        ) {
            if let Ok(size) = page_size(size) {
                prop_assert!((1..=MAX_PAGE).contains(&size));
            }
            if let Ok(Some(id)) = page_token::<JobId>(token.as_deref()) {
                prop_assert_eq!(page_token(Some(&id.to_string())).ok(), Some(Some(id)));
            }
            if let Ok(Some(id)) = page_token::<ProviderId>(token.as_deref()) {
                prop_assert_eq!(Some(id.to_string()), token);
            }
        }

        #[test]
        fn pages_give_each_entry_once(entries in vec(any::<u8>(), 0..40), size in 1_u32..9) {
            let (mut seen, mut begin) = (Vec::new(), 0);
            loop {
                let more = entries[begin..].iter().copied().take(size as usize + 1);
                let mut page: Vec<u8> = more.collect();
                let next = cut(&mut page, size, ToString::to_string);
                prop_assert!(page.len() <= size as usize);
                begin += page.len();
                seen.extend(page);
                if next.is_none() {
                    break;
                }
            }
            prop_assert_eq!(seen, entries);
        }
    }
}
