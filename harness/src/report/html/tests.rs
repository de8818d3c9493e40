use std::collections::BTreeSet;

use scraper::{Html, Selector};

use super::super::tests::report;
use super::*;
use crate::job_times::tests::usual;
use crate::job_times::{AttemptTimes, JobTimes};

fn parsed(page: &str) -> Html {
    let html = Html::parse_document(page);
    assert!(html.errors.is_empty(), "not HTML: {:?}", html.errors);
    html
}

fn all<'a>(html: &'a Html, selector: &str) -> Vec<scraper::ElementRef<'a>> {
    html.select(&Selector::parse(selector).unwrap()).collect()
}

fn text_of(html: &Html, selector: &str) -> Vec<String> {
    all(html, selector).iter().map(|element| element.text().collect()).collect()
}

/// Two cases with jobs: one that went the usual way, one that was tried twice, one never claimed.
fn with_jobs() -> Report {
    let mut report = report();
    let mut twice = usual(3);
    let lost = AttemptTimes { finished: Some(1.5), registered: None, ..twice.attempts[0].clone() };
    twice.attempts = vec![lost, AttemptTimes { epoch: 2, warm: true, ..AttemptTimes::default() }];
    twice.attempts_left_out = 1;
    let mut waits = usual(4);
    (waits.finished, waits.state, waits.attempts) = (None, "queued".into(), Vec::new());
    report.cases[0].jobs = Some(JobTimes { jobs: vec![usual(0)], left_out: 0 });
    report.cases[1].jobs = Some(JobTimes { jobs: vec![usual(1), twice, waits], left_out: 2 });
    report
}

/// A run's directory with evidence of the case that failed.
fn run_directory() -> tempfile::TempDir {
    let run = tempfile::tempdir().unwrap();
    let evidence = run.path().join("evidence/full-job.echo");
    std::fs::create_dir_all(&evidence).unwrap();
    let log =
        r#"{"timestamp":"2026-01-01T12:00:02.5Z","level":"WARN","message":"<late>","epoch":2}"#;
    std::fs::write(evidence.join("server.log"), log).unwrap();
    std::fs::write(evidence.join("rows-jobs.jsonl"), "{\"state\":\"running\"}\n").unwrap();
    run
}

#[test]
fn a_page_says_the_verdict_first_and_what_failed_with_its_evidence() {
    let run = run_directory();
    let page = to_html(&report(), Some(run.path())).unwrap();
    let html = parsed(&page);
    assert_eq!(text_of(&html, "h1, h2")[..2], ["non-conformant", "What failed first"]);
    let constant = [STYLE, SCRIPT, &script_digest()];
    let shown = constant.iter().fold(page, |page, part| page.replacen(part, "…", 1));
    insta::assert_snapshot!("page", shown);
}

#[test]
fn whatever_a_case_says_is_text_on_the_page() {
    let evil =
        "</script></pre><script>alert('1')</script> \"'><img src=x onerror=alert(2)> &lt; <!-- ]]>";
    let hidden = "\u{0}\u{1b}[31m\u{202e}";
    let mut report = with_jobs();
    for case in &mut report.cases {
        for job in case.jobs.iter_mut().flat_map(|jobs| &mut jobs.jobs) {
            (job.name, job.state, job.round) = (evil.into(), evil.into(), Some(evil.into()));
            job.attempts.iter_mut().for_each(|attempt| attempt.node = evil.into());
        }
        case.message = format!("{evil}{hidden}");
        case.title = evil.into();
        case.id = format!("{}.{evil}", case.layer);
        case.guards = vec![evil.into()];
        case.requirement = evil.into();
        case.evidence = evil.into();
    }
    report.run = evil.into();
    report.leaks = vec![evil.into()];
    report.environment.host = evil.into();
    report.stages[0].name = evil.into();
    report.stages[0].note = evil.into();
    let page = to_html(&report, None).unwrap();
    let html = parsed(&page);
    assert_eq!(text_of(&html, "script"), [SCRIPT]);
    assert!(all(&html, "img").is_empty());
    let attributes = all(&html, "*").into_iter().flat_map(|element| element.value().attrs());
    let handlers: Vec<_> = attributes.filter(|(name, _)| name.starts_with("on")).collect();
    assert!(handlers.is_empty(), "{handlers:?}");
    let message = format!("{evil}␀␛[31m\u{fffd}");
    assert_eq!(text_of(&html, ".first > pre"), [message.as_str()]);
    assert_eq!(text_of(&html, "tr details pre")[0], message);
    assert_eq!(text_of(&html, "#cases th > p")[0], evil);
}

#[test]
fn a_page_needs_nothing_outside_it() {
    let page = to_html(&with_jobs(), None).unwrap();
    let html = parsed(&page);
    assert!(all(&html, "link, iframe, object, embed, base, [src], [srcset]").is_empty());
    for word in ["url(", "@import", "fetch(", "innerHTML", "XMLHttpRequest"] {
        assert!(!STYLE.contains(word) && !SCRIPT.contains(word), "{word}");
    }
    let policy = all(&html, "meta[http-equiv]")[0].attr("content").unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    assert!(policy.contains(&format!("'sha256-{}'", script_digest())), "{policy}");
    let ids: Vec<_> = all(&html, "[id]").iter().filter_map(|element| element.attr("id")).collect();
    let distinct: BTreeSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len(), "{ids:?}");
    for link in all(&html, "a[href]") {
        let href = link.attr("href").unwrap();
        let known = href.strip_prefix('#').is_some_and(|id| ids.contains(&id));
        assert!(known || href.starts_with("https://github.com/"), "{href}");
    }
}

#[test]
fn tables_have_captions_and_heads_and_no_result_is_colour_alone() {
    let html = parsed(&to_html(&with_jobs(), None).unwrap());
    for table in all(&html, ".layer table, #jobs table, [aria-labelledby=latency] table") {
        let has = |selector| table.select(&Selector::parse(selector).unwrap()).next().is_some();
        assert!(has("caption") && has("thead th[scope=col]") && has("tbody th[scope=row]"));
    }
    let words = ["✓ passed", "✗ failed", "– not run"];
    assert_eq!(text_of(&html, "td .badge"), words);
    let classes: Vec<_> =
        all(&html, "tr[data-result]").iter().map(|r| r.attr("data-result").unwrap()).collect();
    assert_eq!(classes, ["passed", "failed", "not-run"]);
    let inputs: Vec<_> =
        all(&html, "#filter [name=result]").iter().map(|i| i.attr("value").unwrap()).collect();
    assert_eq!(inputs, classes, "the filter offers what rows have");
}

#[test]
fn three_hundred_long_failures_make_a_page_of_bounded_size() {
    let mut report = report();
    let mut case = report.cases[1].clone();
    case.message = "é".repeat(512 * 1024);
    let mut job = usual(1);
    (job.name, job.state) = ("n".repeat(500), "s".repeat(500));
    case.jobs = Some(JobTimes { jobs: vec![job; 20], left_out: 0 });
    report.cases =
        (0..300).map(|n| CaseResult { id: format!("full-job.{n}"), ..case.clone() }).collect();
    let page = to_html(&report, None).unwrap();
    assert!(page.len() < 3 * 1024 * 1024, "{} bytes", page.len());
    let html = parsed(&page);
    assert_eq!(all(&html, "tr[data-result]").len(), 300);
    let longest = text_of(&html, "tr details pre").iter().map(String::len).max().unwrap();
    assert!(longest < MESSAGE + 100, "{longest}");
    assert!(text_of(&html, ".first p").iter().any(|text| text.ends_with("and 279 more")));
}

#[test]
fn a_failed_stage_is_what_failed_first() {
    let mut report = report();
    report.stages[0].ok = false;
    report.stages[0].note = "no disk".into();
    let html = parsed(&to_html(&report, None).unwrap());
    assert_eq!(text_of(&html, ".first .name"), ["stage cluster"]);
    assert_eq!(text_of(&html, ".first > pre"), ["no disk"]);
}

#[test]
fn a_green_run_of_an_older_harness_has_no_failure_and_no_times() {
    let mut report = report();
    report.cases.truncate(1);
    report.leaks.clear();
    report.cases[0].started_at = None;
    report.stages[0].started_at = None;
    report.verdict = Verdict::Conformant;
    let html = parsed(&to_html(&report, None).unwrap());
    assert_eq!(text_of(&html, "h1"), ["conformant"]);
    assert!(all(&html, ".first, .lane").is_empty());
    assert_eq!(all(&html, ".stages tbody tr").len(), 1);
}

#[test]
fn jobs_are_shown_in_time_with_their_latency_and_in_tables() {
    let page = to_html(&with_jobs(), None).unwrap();
    let html = parsed(&page);
    let lanes = |id: &str| all(&html, &format!("#jobs-{id} .attempt .lane")).len();
    assert_eq!((lanes("0"), lanes("1")), (1, 4));
    assert_eq!(
        all(&html, "tr td.number").iter().filter(|cell| cell.inner_html() == "–").count(),
        7 + 11
    );
    let values = text_of(&html, "[aria-labelledby=latency] tbody tr:nth-child(2) td");
    assert_eq!(values, ["3", "3.50 s", "5.50 s", "5.50 s", "5.50 s"]);
    let section = |from: &str, to: &str| {
        let from = page.find(from).unwrap();
        page[from..][..page[from..].find(to).unwrap()].to_owned()
    };
    let (latency, jobs) = ("<section aria-labelledby=\"latency\"", "<section id=\"jobs\"");
    let shown = format!("{}{}", section(latency, "<section id"), section(jobs, "</main>"));
    insta::assert_snapshot!("jobs", shown);
}
