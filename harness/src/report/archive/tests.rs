use super::*;
use crate::report::tests::{repeated, report as failed};
use crate::report::{Report, to_html};
use crate::verdict::Result as Counted;

/// A run with evidence of the case that failed, in a directory of its own.
fn run() -> tempfile::TempDir {
    let run = tempfile::tempdir().unwrap();
    for case in ["full-job.echo", "infra.nodes"] {
        let directory = run.path().join("evidence").join(case);
        std::fs::create_dir_all(directory.join("sub")).unwrap();
        std::fs::write(directory.join("server.log"), format!("the server of {case}\n")).unwrap();
        std::fs::write(directory.join("sub/deeper.log"), "not right in it").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", directory.join("link.log")).unwrap();
        std::fs::write(directory.join("x".repeat(120)), "its name is too long").unwrap();
    }
    run
}

#[test]
fn a_packed_run_is_opened_without_its_directory() {
    let (run, elsewhere) = (run(), tempfile::tempdir().unwrap());
    let file = elsewhere.path().join("out/evidence.tar.zst");
    let contents = pack(&failed(), run.path(), &file).unwrap();
    let kept: Vec<_> = contents.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(kept, ["evidence/full-job.echo/server.log"], "what failed, and no link");
    let left: Vec<_> = contents.left_out.iter().map(|path| path.rsplit('/').next()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
    drop(run);
    assert_eq!(Report::read(&file).unwrap(), failed());
    let opened = crate::report::opened(&Report::read(&file).unwrap(), &file).unwrap().unwrap();
    let page = to_html(&failed(), Some(opened.path())).unwrap();
    assert!(page.contains("the server of full-job.echo"));
    assert!(crate::report::opened(&failed(), elsewhere.path()).unwrap().is_none());
}

#[test]
fn every_round_that_did_not_pass_is_kept_and_the_end_of_a_large_file() {
    let (mut report, run) = (repeated(), tempfile::tempdir().unwrap());
    report.cases[0].rounds[2].result = Counted::Failed;
    for round in 1..=4 {
        let directory = run.path().join(format!("evidence/round-{round}/full-job.echo"));
        std::fs::create_dir_all(&directory).unwrap();
        let mut text = vec![b'a'; usize::try_from(LARGEST_FILE).unwrap()];
        text.extend_from_slice(b"end");
        std::fs::write(directory.join("server.log"), text).unwrap();
    }
    let file = run.path().join(NAME);
    let contents = pack(&report, run.path(), &file).unwrap();
    let kept: Vec<_> = contents
        .files
        .iter()
        .map(|file| (file.path.as_str(), file.bytes, file.cut_bytes))
        .collect();
    let of = |round| format!("evidence/round-{round}/full-job.echo/server.log");
    assert_eq!(kept, [(of(2).as_str(), LARGEST_FILE, 3), (of(3).as_str(), LARGEST_FILE, 3)]);
    let opened = crate::report::opened(&report, &file).unwrap().unwrap();
    let text = std::fs::read(opened.path().join(of(2))).unwrap();
    assert!(text.ends_with(b"aend"));
    assert!(!opened.path().join(of(3)).exists(), "only the first failure's is taken out");
}

#[test]
fn what_is_no_archive_is_refused_with_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.tar.zst");
    let bomb = zstd::bulk::compress(&vec![0; 1 << 20], 1).unwrap();
    for (content, says) in [
        (zstd::bulk::compress(b"no tar", 1).unwrap(), "it is damaged, or no tar"),
        (bomb, "it is empty"),
        (b"\x28\xb5\x2f\xfd".to_vec(), "it is damaged, or no tar"),
    ] {
        std::fs::write(&file, content).unwrap();
        let error = Report::read(&file).unwrap_err();
        assert!(error.to_string().contains("a.tar.zst"), "{error}");
        assert!(error.source.to_string().contains(says), "{}", error.source);
    }
}

#[test]
fn names_that_lead_out_are_no_evidence() {
    for (name, is) in [
        ("evidence/a/b", true),
        ("evidence/a", true),
        ("evidence", false),
        ("evidence/", false),
        ("evidence/..", false),
        ("evidence/../x", false),
        ("evidence//a", false),
        ("evidence/./a", false),
        ("/evidence/a", false),
        ("./evidence/a", false),
        ("report.json", false),
        ("", false),
    ] {
        assert_eq!(is_evidence(name), is, "{name}");
    }
}
