use proptest::prelude::*;
use tar::{Builder, Header};

use super::*;

/// A member as whoever made the archive likes it.
#[derive(Debug, Clone)]
struct Member {
    name: Vec<u8>,
    kind: u8,
    content: Vec<u8>,
    /// What its header says of its length, if that is not so.
    lie: Option<u64>,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let text = prop_oneof![
        3 => Just("report.json".to_owned()),
        3 => Just("contents.json".to_owned()),
        6 => "evidence/[a-z]{1,3}(/[a-z.]{1,4}){1,2}",
        1 => "(/|\\.\\./|evidence/\\.\\./){0,2}[a-z/.]{0,12}",
    ];
    prop_oneof![9 => text.prop_map(String::into_bytes), 1 => proptest::collection::vec(any::<u8>(), 0..99)]
}

fn member() -> impl Strategy<Value = Member> {
    let kind = prop_oneof![12 => Just(b'0'), 1 => any::<u8>(), 1 => prop::sample::select(b"125LKxgS7".to_vec())];
    let lie = proptest::option::weighted(0.05, prop_oneof![any::<u64>(), 0_u64..2000]);
    (name(), kind, proptest::collection::vec(any::<u8>(), 0..700), lie)
        .prop_map(|(name, kind, content, lie)| Member { name, kind, content, lie })
}

fn archive(members: &[Member]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for Member { name, kind, content, lie } in members {
        let mut header = Header::new_ustar();
        let length = name.len().min(100);
        header.as_old_mut().name[..length].copy_from_slice(&name[..length]);
        header.as_old_mut().linkflag = [*kind];
        header.set_size(lie.unwrap_or(content.len() as u64));
        header.set_cksum();
        tar.append(&header, content.as_slice()).unwrap();
    }
    zstd::bulk::compress(&tar.into_inner().unwrap(), 1).unwrap()
}

/// What was seen of it, or what is said of it.
fn seen(bytes: &[u8]) -> std::result::Result<Vec<(String, Vec<u8>)>, String> {
    let mut all = Vec::new();
    read(bytes, |name, content| {
        let mut text = Vec::new();
        content.read_to_end(&mut text)?;
        all.push((name.to_owned(), text));
        Ok(Next::Go)
    })?;
    Ok(all)
}

fn is_understandable(said: &str) -> bool {
    said.starts_with("it ") || said.starts_with("its ") || said.starts_with("the name of its")
}

proptest! {
    #[test]
    fn members_are_taken_as_they_are_or_named(given in proptest::collection::vec(member(), 0..6)) {
        match seen(&archive(&given)) {
            Ok(all) => {
                prop_assert_eq!(all[0].0.as_str(), REPORT);
                let mut names: Vec<_> = all.iter().map(|(name, _)| name.clone()).collect();
                for name in names.iter().skip(2) {
                    prop_assert!(is_evidence(name) && !name.split('/').any(|part| part == ".."), "{name}");
                    let path = Path::new("/into").join(name);
                    prop_assert!(path.starts_with("/into/evidence"), "{name}");
                }
                names.sort();
                names.dedup();
                prop_assert_eq!(names.len(), all.len());
                if given.iter().all(|member| member.lie.is_none()) {
                    let contents: Vec<_> = all.iter().map(|(_, content)| content).collect();
                    let expected: Vec<_> = given.iter().map(|member| &member.content).collect();
                    prop_assert_eq!(contents, expected);
                    prop_assert!(given.iter().all(|member| member.kind == b'0'));
                }
            }
            Err(said) => prop_assert!(is_understandable(&said), "{said}"),
        }
    }

    #[test]
    fn bytes_of_any_kind_are_refused_in_words(
        given in proptest::collection::vec(any::<u8>(), 0..300), is_frame in any::<bool>()
    ) {
        let bytes = if is_frame { zstd::bulk::compress(&given, 1).unwrap() } else { given };
        let said = seen(&bytes).unwrap_err();
        prop_assert!(is_understandable(&said), "{said}");
    }

    #[test]
    fn a_damaged_archive_is_refused_or_says_what_it_said(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let file = |name: &str| Member { name: name.into(), kind: b'0', content: vec![b'x'; 600], lie: None };
        let whole = [file(REPORT), file(CONTENTS), file("evidence/a/b")];
        let mut bytes = archive(&whole);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Err(said) = seen(&bytes) {
            prop_assert!(is_understandable(&said), "{said}");
        }
        let said = seen(&archive(&whole)[..at]).unwrap_err();
        prop_assert!(is_understandable(&said), "{said}");
    }
}
