use miette::{GraphicalReportHandler, GraphicalTheme};
use proptest::prelude::*;

use super::*;
use crate::catalogue::Catalogue;

fn case(id: &str, layer: Layer, test: &str) -> Case {
    Case {
        id: id.into(),
        title: "X".into(),
        layer,
        profile: Profile::Core,
        features: Default::default(),
        exclusive: false,
        requirement: "HU-7.5".into(),
        guards: vec!["argo#2711".into()],
        test: test.into(),
    }
}

/// Cases that differ in all that a term asks for.
fn cases() -> Vec<(Case, bool)> {
    let node = case("lifecycle.node-stopped", Layer::Lifecycle, "node_loss::test_stopped");
    let node = Case {
        profile: Profile::Extended,
        features: [Feature::MultiNode, Feature::NodeControl].into(),
        exclusive: true,
        requirement: "HU-10.4".into(),
        guards: Vec::new(),
        ..node
    };
    vec![
        (node, false),
        (case("full-job.execution", Layer::FullJob, "full_job::test_execution"), false),
        (case("full-job.output", Layer::FullJob, "full_job_output::test_a/b"), true),
        (case("infra.quota", Layer::Infra, "infra::test_quota"), false),
    ]
}

fn chosen(expression: &Expression, cases: &[(Case, bool)]) -> Vec<String> {
    let chosen = cases.iter().filter(|(case, quarantined)| expression.chooses(case, *quarantined));
    chosen.map(|(case, _)| case.id.clone()).collect()
}

#[test]
fn each_term_and_operator_means_what_it_says() {
    let (node, run, output, quota) =
        ("lifecycle.node-stopped", "full-job.execution", "full-job.output", "infra.quota");
    let table: &[(&str, &[&str])] = &[
        ("all", &[node, run, output, quota]),
        ("not none()", &[node, run, output, quota]),
        ("layer(full-job)", &[run, output]),
        ("profile(extended)", &[node]),
        ("feature(=multi-node)", &[node]),
        ("exclusive", &[node]),
        ("quarantined ( )", &[output]),
        ("id(full-job.*)", &[run, output]),
        ("id(full-job)", &[]),
        ("id(~job)", &[run, output]),
        ("id(=infra.quota)", &[quota]),
        (r"id(/^(infra|full-job)\.[eq]/)", &[run, quota]),
        ("test(quota)", &[quota]),
        (r"test(/a\/b$/)", &[output]),
        ("test(#*::test_[eq]*)", &[run, quota]),
        ("requirement(HU-7.5)", &[run, output, quota]),
        ("requirement(HU-7)", &[]),
        ("guards(#argo#*)", &[run, output, quota]),
        ("layer(infra) or layer(full-job) and not quarantined", &[run, quota]),
        ("(layer(infra) | layer(full-job)) & ! quarantined", &[run, quota]),
        ("not layer(infra) and not exclusive", &[run, output]),
        ("not (layer(infra) or exclusive)", &[run, output]),
        ("!!exclusive", &[node]),
        (" \n( ( exclusive ) )\t", &[node]),
    ];
    for (text, wanted) in table {
        let expression = Expression::parse(text).unwrap();
        assert_eq!(chosen(&expression, &cases()), *wanted, "{text}");
    }
}

fn shown(error: &ExpressionError) -> String {
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor());
    let mut text = String::new();
    handler.with_width(100).render_report(&mut text, error).unwrap();
    text
}

#[test]
fn what_is_wrong_is_told_at_its_column() {
    let wrong = [
        "",
        "layer(full-job) and",
        "layer(full-job) id(a)",
        "(exclusive or quarantined",
        "exclusive)",
        "exclusive and layre(infra)",
        "layer(infr)",
        "feature(gpus) or all",
        "layer infra",
        "id( )",
        "id(=a",
        "id(/a",
        "test(/a(/) or all",
        "id(a[)",
        "ünd(a) or not",
        "order or or",
    ];
    let told: Vec<_> =
        wrong.iter().map(|text| shown(&Expression::parse(text).unwrap_err())).collect();
    insta::assert_snapshot!("errors", told.join("\n"));
}

#[test]
fn what_chooses_nothing_names_the_terms_that_match_nothing() {
    let cases = cases();
    let cases: Vec<_> = cases.iter().map(|(case, quarantined)| (case, *quarantined)).collect();
    let told = |text: &str| shown(&Expression::parse(text).unwrap().explain_nothing(&cases));
    let both = "layer(cleanup) or id(=infra.qota) and not test(quota)";
    insta::assert_snapshot!("nothing", [told(both), told("exclusive and layer(infra)")].join("\n"));
    let expression = Expression::parse("all or id(=infra.qota) or none").unwrap();
    assert_eq!(expression.idle_terms(&cases), ["id(=infra.qota)"]);
}

#[test]
fn neither_depth_nor_length_nor_a_large_pattern_ends_the_process() {
    let told = |text: &str| Expression::parse(text).unwrap_err();
    for deep in ["(".repeat(LONGEST), "not ".repeat(LONGEST / 4), "!".repeat(LONGEST)] {
        assert!(told(&deep).labels[0].label().unwrap().contains("64 deep"), "{deep}");
    }
    let deep = |depth| format!("{}all{}", "(".repeat(depth), ")".repeat(depth));
    Expression::parse(&deep(DEEPEST)).unwrap();
    told(&deep(DEEPEST + 1));
    assert!(told(&" ".repeat(LONGEST + 1)).message.contains("4097 bytes"));
    assert!(told(r"id(/(\w{500}){500}/)").labels[0].label().unwrap().contains("size limit"));
    Expression::parse(&format!("id({})", "?".repeat(LONGEST - 4))).unwrap();
}

fn matcher() -> impl Strategy<Value = Matcher> {
    let text = || "\\PC{1,6}|[ a-z./()#=~\\\\*]{1,8}|infra.quota|full-job.*";
    let glob = text().prop_filter_map("no glob", |text| {
        let glob = globset::GlobBuilder::new(&text).backslash_escape(true).build().ok()?;
        Some(Matcher::Glob(text, GlobSet::new([glob]).ok()?))
    });
    let pattern = prop_oneof![
        text().prop_map(|text| regex::escape(&text)),
        Just(r"a\/b|^full\\?-".to_owned()),
        Just("^(infra|[^/]*out)".to_owned()),
    ];
    prop_oneof![
        text().prop_map(Matcher::Equal),
        text().prop_map(Matcher::Contains),
        glob,
        pattern.prop_map(|pattern| Matcher::Regex(Regex::new(&pattern).unwrap())),
    ]
}

fn node() -> impl Strategy<Value = Node> {
    let fields = [Field::Id, Field::Test, Field::Requirement, Field::Guards];
    let predicate = prop_oneof![
        Just(Predicate::All),
        Just(Predicate::None),
        Just(Predicate::Exclusive),
        Just(Predicate::Quarantined),
        prop::sample::select(&Layer::ALL[..]).prop_map(Predicate::Layer),
        Just(Predicate::Profile(Profile::Extended)),
        Just(Predicate::Feature(Feature::MultiNode)),
        (prop::sample::select(fields.to_vec()), matcher())
            .prop_map(|(field, matcher)| Predicate::Text(field, matcher)),
    ];
    let term = predicate.prop_map(|predicate| Node::Term(Term { span: 0..0, predicate }));
    term.prop_recursive(5, 24, 4, |inner| {
        let several = prop::collection::vec(inner.clone(), 2..4);
        prop_oneof![
            several.clone().prop_map(Node::Any),
            several.prop_map(Node::All),
            inner.prop_map(|node| Node::Not(Box::new(node))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_printed_and_read_again_means_the_same(root in node()) {
        let made = Expression { text: String::new(), root };
        let read = Expression::parse(&made.to_string()).unwrap();
        prop_assert_eq!(chosen(&made, &cases()), chosen(&read, &cases()), "{}", made);
        let again = Expression::parse(&read.to_string()).unwrap();
        prop_assert_eq!(&again, &read);
    }

    #[test]
    fn whatever_is_given_is_read_or_refused_within_it(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        signs in "([()!&|=~#/\\\\ ]|and |or |not |id|test|layer|all|é){0,40}",
    ) {
        for text in [String::from_utf8_lossy(&bytes).into_owned(), signs] {
            if let Err(error) = Expression::parse(&text) {
                let span = error.labels[0].inner();
                prop_assert!(span.offset() + span.len() <= text.len() + 1, "{:?}", error);
                prop_assert!(shown(&error).contains(error.labels[0].label().unwrap()));
            }
        }
    }
}

#[test]
fn the_catalogue_itself_is_chosen_from() {
    let workspace = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let cases = Catalogue::read(workspace).unwrap().cases;
    let chosen = |text: &str| {
        let expression = Expression::parse(text).unwrap();
        cases.iter().filter(|case| expression.chooses(case, false)).count()
    };
    assert_eq!(chosen("profile(core)") + chosen("not profile(core)"), cases.len());
    assert_eq!(chosen("exclusive"), chosen("test(_exclusive_)"));
}
