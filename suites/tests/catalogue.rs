//! Catalogue and tests are tied: every case has a test that names it, every test a case, and every
//! test asserts something.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use hodei_harness::catalogue::{Catalogue, EXCLUSIVE_MARK};
use hodei_harness::conformance;

/// One test, as its source has it.
struct Source {
    case: Option<String>,
    ignored: bool,
    asserts: bool,
}

/// The tests of the cluster binary by `module::function`.
fn tests() -> Result<BTreeMap<String, Source>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e_kubernetes_provider");
    let mut tests = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let module = path.file_stem().and_then(|stem| stem.to_str()).context("a file's name")?;
        let text = std::fs::read_to_string(&path)?;
        for piece in text.split("#[test]").skip(1) {
            let body = piece.split("\n}\n").next().context("a body")?;
            let signature = body.split("fn ").nth(1).context("a function after #[test]")?;
            let name = signature.split('(').next().context("a name")?;
            let case = body.split("run_case").nth(1).and_then(|call| call.split('"').nth(1));
            let source = Source {
                case: case.map(str::to_owned),
                ignored: body.contains("#[ignore = "),
                asserts: body.contains("assert"),
            };
            tests.insert(format!("{module}::{name}"), source);
        }
    }
    Ok(tests)
}

#[test]
fn every_case_has_its_test_and_every_test_its_case() {
    let catalogue = Catalogue::parse(hodei_suites::CATALOGUE).unwrap();
    let tests = tests().unwrap();
    for case in &catalogue.cases {
        let test = tests.get(&case.test);
        let named = test.and_then(|test| test.case.as_deref());
        assert_eq!(named, Some(case.id.as_str()), "{} is not what {} runs", case.id, case.test);
    }
    for name in tests.keys() {
        assert!(catalogue.cases.iter().any(|case| case.test == *name), "{name} is no case's test");
    }
}

#[test]
fn every_test_asserts_and_is_left_out_without_a_cluster() {
    for (name, test) in tests().unwrap() {
        assert!(test.asserts, "{name} asserts nothing");
        assert!(test.ignored, "{name} would run in a plain `cargo test`");
    }
}

/// That a case is exclusive and its test is named so is the catalogue's own rule; that nextest acts
/// on the name is its configuration's.
#[test]
fn nextest_runs_exclusive_cases_alone_and_last() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.config/nextest.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let wanted = format!(
        "[[profile.e2e.overrides]]\nfilter = \"test(/{EXCLUSIVE_MARK}/)\"\n\
         threads-required = \"num-test-threads\"\npriority = -100\n"
    );
    assert!(text.contains(&wanted), "{text}");
}

#[test]
fn the_document_says_what_the_catalogue_says() {
    let catalogue = Catalogue::parse(hodei_suites::CATALOGUE).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/conformance.md");
    let document = std::fs::read_to_string(path).unwrap_or_default();
    let wanted = conformance::to_markdown(&catalogue.cases.iter().collect::<Vec<_>>());
    assert!(document == wanted, "docs/conformance.md is not what the catalogue says: `make docs`");
}
