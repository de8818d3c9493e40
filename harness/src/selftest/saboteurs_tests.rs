use super::*;

const CASES: &str = r#"
    [[case]]
    id = "full-job.echo"
    title = "A job runs"
    layer = "full-job"
    profile = "core"
    requirement = "HU-10.4"
    test = "full_job::echo"

    [[case]]
    id = "full-job.fail"
    title = "A job fails"
    layer = "full-job"
    profile = "extended"
    requirement = "HU-10.4"
    test = "full_job::fail"
"#;
const ECHO: &str = r#"
    [[carrier]]
    file = "platform/a.rs"
    replace = "pods();"
    with = "pods(name);"

    [[saboteur]]
    case = "full-job.echo"
    breaks = "nothing is run"
    class = "product"
    says = "left: 0"
    [[saboteur.edit]]
    file = "platform/a.rs"
    replace = "run(1);"
    with = "run(if {on} { 0 } else { 1 });"
"#;
const FAIL: &str = r#"
    [[saboteur]]
    case = "full-job.fail"
    breaks = "it is run as another"
    class = "harness"
    [[saboteur.edit]]
    file = "platform/a.rs"
    replace = "else { 1 }"
    with = "else if {on} { 2 } else { 1 }"
"#;

fn catalogue() -> Catalogue {
    Catalogue::parse(CASES).unwrap()
}

/// A checkout with one source.
fn checkout(saboteurs: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in [
        ("suites/catalogue.toml", CASES),
        ("suites/saboteurs.toml", saboteurs),
        ("platform/a.rs", "fn a() {\n    pods();\n    run(1);\n}\n"),
    ] {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

#[test]
fn edits_apply_one_upon_another_and_each_has_the_switch_of_its_case() {
    let dir = checkout(&format!("{ECHO}{FAIL}"));
    let all = Saboteurs::read(dir.path(), &catalogue()).unwrap();
    let edited = all.apply(dir.path(), &catalogue()).unwrap();
    let on = |test: &str| {
        format!("(std::env::var(\"NEXTEST_TEST_NAME\").as_deref() == Ok(\"full_job::{test}\"))")
    };
    let run =
        format!("run(if {} {{ 0 }} else if {} {{ 2 }} else {{ 1 }});", on("echo"), on("fail"));
    let expected = format!("fn a() {{\n    pods(name);\n    {run}\n}}\n");
    assert_eq!(edited, Edited::from([("platform/a.rs".into(), expected)]));
    let said = check(dir.path()).unwrap();
    assert_eq!(said, "2 cases, each with its saboteur; their 3 edits apply to 1 files");
}

#[test]
fn every_edit_that_does_not_apply_is_named_with_the_place_it_may_have_gone_to() {
    let dir = checkout(&format!("{ECHO}{FAIL}"));
    std::fs::write(dir.path().join("platform/a.rs"), "pods();\nrun(1);\nrun(1);\n").unwrap();
    let error = check(dir.path()).unwrap_err();
    let said = error.source.to_string();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(
        lines,
        [
            "saboteur of full-job.echo, edit 1 (platform/a.rs): its text is there 2 times",
            "saboteur of full-job.fail, edit 1 (platform/a.rs): its text is not there",
        ]
    );
    assert!(error.help.unwrap().contains("--check"));
    std::fs::write(dir.path().join("platform/a.rs"), "pods();\nif run(1); {\n").unwrap();
    let moved = ECHO.replace("\"run(1);\"", "\"run(1);\\n}\"");
    std::fs::write(dir.path().join(FILE), format!("{moved}{FAIL}")).unwrap();
    let said = check(dir.path()).unwrap_err().source.to_string();
    let said = said.lines().next().unwrap();
    assert!(said.ends_with("; its first line, `run(1);`, is in line 2"), "{said}");
    std::fs::remove_file(dir.path().join("platform/a.rs")).unwrap();
    assert!(check(dir.path()).unwrap_err().source.to_string().contains("No such file"));
}

#[test]
fn a_case_without_a_saboteur_is_named() {
    let dir = checkout(FAIL);
    let error = check(dir.path()).unwrap_err();
    assert!(error.source.to_string().ends_with("no saboteur of full-job.echo"), "{}", error.source);
}

#[test]
fn broken_files_are_refused_with_all_that_is_wrong() {
    for (from, to, says) in [
        ("full-job.echo", "full-job.eco", "did you mean full-job.echo"),
        ("\"product\"", "\"produkt\"", "unknown variant"),
        ("breaks = ", "broken = ", "unknown field"),
        ("nothing is run", " ", "`breaks` says nothing"),
        ("left: 0", "", "`says` is empty"),
        ("\"run(1);\"", "\"\"", "`replace` is empty"),
        ("{on}", "true", "has no {on}"),
        ("platform/a.rs", "suites/tests/a.rs", "only Rust sources"),
        ("platform/a.rs", "platform/../suites/tests/a.rs", "only Rust sources"),
        ("platform/a.rs", "/platform/a.rs", "only Rust sources"),
        ("platform/a.rs", "platform/Cargo.toml", "only Rust sources"),
    ] {
        let error = Saboteurs::parse(&ECHO.replace(from, to), &catalogue()).unwrap_err();
        assert!(error.contains(says), "{from} → {to}: {error}");
    }
    let twice = ECHO.replace("nothing is run", "") + ECHO.split("[[carrier]]").nth(1).unwrap();
    assert!(Saboteurs::parse(&twice, &catalogue()).is_err());
    let second = format!("{FAIL}{}", FAIL.replace("it is run as another", ""));
    let error = Saboteurs::parse(&second, &catalogue()).unwrap_err();
    assert!(error.contains("its second\n") && error.contains("says nothing"), "{error}");
}

#[test]
fn the_saboteurs_of_this_checkout_apply_and_every_case_has_one() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    if let Err(error) = check(workspace) {
        let help = error.help.as_deref().unwrap_or_default();
        panic!("{error}: {}\nhelp: {help}", error.source);
    }
}
