use super::*;

fn case(profile: Profile) -> Case {
    Case {
        id: "infra.x".into(),
        title: "X".into(),
        layer: Layer::Infra,
        profile,
        features: Default::default(),
        exclusive: false,
        requirement: "HU-10.1".into(),
        guards: Vec::new(),
        test: "infra::x".into(),
    }
}

fn result(profile: Profile, status: Option<Status>, class: Option<FailureClass>) -> CaseResult {
    let outcome = status.map(|status| Outcome {
        status,
        class,
        ..Outcome::running("infra.x", "/e".into(), None)
    });
    judge_case(&case(profile), outcome.as_ref(), false)
}

#[test]
fn verdicts_and_exit_codes() {
    use FailureClass::{Infrastructure, Network, Product};
    use Profile::{Core, Extended};
    use Status::{Failed, Passed, Running};
    let ok = || result(Core, Some(Passed), None);
    let none: Vec<String> = Vec::new();
    let leak = vec!["namespace x".to_owned()];
    let table = [
        (vec![ok()], &none, Verdict::Conformant, 0),
        (vec![], &none, Verdict::Inconclusive, 3),
        (vec![ok(), result(Core, None, None)], &none, Verdict::Inconclusive, 3),
        (vec![ok(), result(Extended, None, None)], &none, Verdict::Inconclusive, 3),
        (vec![result(Extended, None, None)], &none, Verdict::Inconclusive, 3),
        (vec![result(Extended, Some(Failed), Some(Product))], &none, Verdict::NonConformant, 1),
        (vec![ok(), result(Core, Some(Failed), Some(Product))], &none, Verdict::NonConformant, 1),
        (vec![ok(), result(Core, Some(Running), None)], &none, Verdict::NonConformant, 1),
        (vec![ok(), result(Core, Some(Failed), Some(Network))], &none, Verdict::NonConformant, 13),
        (
            vec![
                result(Core, Some(Failed), Some(Product)),
                result(Core, Some(Failed), Some(Infrastructure)),
            ],
            &none,
            Verdict::NonConformant,
            10,
        ),
        (vec![result(Extended, Some(Failed), Some(Product)), ok()], &none, Verdict::Partial, 1),
        (vec![ok()], &leak, Verdict::NonConformant, 1),
    ];
    for (results, leaks, verdict, code) in table {
        assert_eq!(judge(&results, leaks), verdict, "{results:?}");
        assert_eq!(exit_code(&results, leaks), code, "{results:?}");
    }
}

#[test]
fn what_is_in_quarantine_makes_nothing_red_and_nothing_green() {
    use FailureClass::Product;
    use Profile::{Core, Extended};
    use Status::{Failed, Passed};
    let known = |profile, status: Option<Status>| CaseResult {
        quarantined: Some(Quarantined {
            owner: "jane".into(),
            reason: "slow disk".into(),
            issue: None,
            expires: "2026-03-31".parse().unwrap(),
        }),
        ..result(profile, status, Some(Product))
    };
    let (ok, bad) = (result(Core, Some(Passed), None), result(Core, Some(Failed), Some(Product)));
    for (results, verdict, code) in [
        (vec![ok.clone(), known(Core, Some(Failed))], Verdict::Inconclusive, 3),
        (vec![ok.clone(), known(Core, Some(Passed))], Verdict::Inconclusive, 3),
        (vec![ok.clone(), known(Extended, Some(Failed))], Verdict::Partial, 3),
        (vec![ok.clone(), known(Extended, Some(Passed))], Verdict::Partial, 3),
        (vec![ok.clone(), known(Extended, None)], Verdict::Inconclusive, 3),
        (vec![known(Extended, Some(Passed))], Verdict::Inconclusive, 3),
        (vec![bad.clone(), known(Core, Some(Failed))], Verdict::NonConformant, 1),
    ] {
        assert_eq!(judge(&results, &[]), verdict, "{results:?}");
        assert_eq!(exit_code(&results, &[]), code, "{results:?}");
    }
    let counts = count(&[ok, bad, known(Core, Some(Failed))]);
    assert_eq!(counts.to_string(), "1 passed, 1 failed, 0 not run, 1 in quarantine");
}

#[test]
fn a_result_knows_its_case_and_when_it_began_and_keeps_a_bounded_message() {
    let outcome = Outcome {
        status: Status::Failed,
        message: "x".repeat(1 << 20),
        ..Outcome::running("infra.x", "/e".into(), None)
    };
    let judged = judge_case(&case(Profile::Core), Some(&outcome), false);
    assert_eq!(judged.started_at, Some(outcome.started_at));
    assert_eq!(judged.requirement, "HU-10.1");
    assert!(judged.message.len() < MESSAGE_LIMIT + 100, "{}", judged.message.len());
    assert!(judged.message.ends_with("more bytes]"), "{}", judged.message);
}

#[test]
fn after_a_signal_an_unfinished_case_has_not_run() {
    let outcome = Outcome::running("infra.x", "/e".into(), None);
    let judged = judge_case(&case(Profile::Core), Some(&outcome), true);
    assert_eq!(judged.result, Result::NotRun);
}
