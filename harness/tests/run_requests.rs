//! What `hodei-e2e run` refuses, and what it says without doing it: the program itself, in a
//! checkout and a state directory of the test's own. Needs no cluster, and finds no engine.

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};

    use hodei_harness::resume::{Inputs, Plan};
    use hodei_harness::run_dir::RunDir;

    struct Checkout {
        directory: tempfile::TempDir,
    }

    impl Checkout {
        /// With the files of this one that a request is checked against.
        fn new() -> Self {
            let checkout = Self { directory: tempfile::tempdir().unwrap() };
            let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
            for file in ["suites/catalogue.toml", "suites/quarantine.toml", ".config/nextest.toml"]
            {
                let text = std::fs::read_to_string(workspace.join(file)).unwrap();
                checkout.write(file, &text);
            }
            std::fs::create_dir(checkout.path("state")).unwrap();
            checkout
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn write(&self, file: &str, text: &str) {
            let path = self.path(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn run(&self, words: &[&str]) -> Output {
            let mut command = Command::new(env!("CARGO_BIN_EXE_hodei-e2e"));
            command.args(words).current_dir(self.directory.path()).env_clear();
            command.env("HODEI_WORKSPACE", self.directory.path()).env("HOME", self.path("home"));
            command.env("HODEI_E2E_STATE_DIR", self.path("state"));
            command.env("HODEI_E2E_CACHE_DIR", self.path("cache"));
            // No program is found, so that nothing of this machine can be touched.
            command.env("PATH", self.path("none")).output().unwrap()
        }

        fn refused(&self, words: &[&str], says: &str) {
            let output = self.run(words);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
            // miette breaks lines.
            let said = said.replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(said.contains(says), "{words:?}: {said}");
            self.assert_untouched();
        }

        fn assert_untouched(&self) {
            let left = |name: &str| {
                let entries = std::fs::read_dir(self.path(name)).into_iter().flatten().flatten();
                entries.map(|entry| entry.file_name()).collect::<Vec<_>>()
            };
            assert!(left("state/logs").is_empty() && left("state/runs").len() <= 1);
            assert!(!self.path("cache").exists() && !self.path("hodei-e2e-report").exists());
            let state = left("state");
            assert!(state.iter().all(|name| name == "logs" || name == "runs"), "{state:?}");
        }
    }

    #[test]
    fn the_history_is_shown_and_a_case_that_nobody_knows_refused() {
        let checkout = Checkout::new();
        checkout.refused(&["report", "history", "--case", "infra.quote"], "infra.quota");
        let line = |second: u32, status: &str| {
            serde_json::json!({
                "run": format!("20260131-12000{second}-aaaaaa"), "case": "infra.quota", "status": status,
                "seconds": 2.0, "started_at": format!("2026-01-31T12:00:0{second}Z"), "commit": "c0",
            })
        };
        let text = format!("{}\n{}\n{{\"run\":\"2026", line(1, "passed"), line(2, "failed"));
        checkout.write("state/history.jsonl", &text);
        for (words, says) in [
            (&["report", "history"][..], "infra.quota  flaky  2    1       50.0 %  9.5 – 90.5 %"),
            (&["report", "history", "--since", "2026-02-01"], "nothing was executed"),
            (
                &["report", "history", "--case", "infra.manifests"],
                "infra.manifests was not executed",
            ),
            (&["report", "history", "--output", "json"], r#""condition": "flaky""#),
        ] {
            let output = checkout.run(words);
            let said = String::from_utf8_lossy(&output.stdout);
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            assert!(said.contains(says), "{words:?}: {said}");
        }
    }

    #[test]
    fn a_dry_run_says_what_would_happen_and_changes_nothing() {
        let checkout = Checkout::new();
        let request =
            ["run", "--dry-run", "-E", "layer(infra) or feature(multi-node)", "--nodes", "1"];
        let output = checkout.run(&request);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        for part in [
            "▸ engine",
            "? cluster",
            "side by side, 6 at a time",
            "infra.quota",
            "lacks multi-node",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        checkout.assert_untouched();
        let two = checkout.run(&["run", "--dry-run", "--profile", "all", "--nodes", "2"]);
        assert!(!String::from_utf8_lossy(&two.stdout).contains("lacks multi-node"), "{two:?}");
    }

    #[test]
    fn an_expression_that_is_wrong_or_chooses_nothing_is_a_wrong_command_line() {
        let checkout = Checkout::new();
        for command in ["run", "list"] {
            checkout.refused(&[command, "-E", "all and"], "expected a term");
            checkout.refused(&[command, "-E", "id(=infra.qota)"], "matches no case");
            checkout
                .refused(&[command, "-E", "layer(infra)", "--layer", "cleanup"], "none of which");
        }
        let noted = checkout.run(&["list", "-E", "layer(infra) or id(=infra.qota)"]);
        let said = String::from_utf8_lossy(&noted.stderr);
        assert!(noted.status.success() && said.contains("note: id(=infra.qota) matches"), "{said}");
    }

    #[test]
    fn a_quarantine_that_is_over_or_of_an_unknown_case_ends_the_run_before_it_begins() {
        let checkout = Checkout::new();
        let entry = |case: &str, expires: &str| {
            let text = format!(
                "# known\n[[quarantine]]\ncase = \"{case}\"\nowner = \"jane\"\nreason = \"slow\"\nexpires = {expires}\n"
            );
            checkout.write("suites/quarantine.toml", &text);
        };
        let request = ["run", "--dry-run", "--case", "infra.manifests"];
        entry("infra.quota", "2026-01-01");
        checkout.refused(
            &request,
            "line 3: infra.quota was in quarantine until 2026-01-01 (jane): slow",
        );
        entry("infra.qota", "9999-12-31");
        checkout.refused(&request, "line 3: there is no case infra.qota; did you mean infra.quota");
        checkout.refused(&["list"], "line 3: there is no case infra.qota");
        entry("infra.quota", "9999-12-31");
        assert!(checkout.run(&request).status.success());
        let listed = checkout.run(&["list", "-E", "quarantined"]);
        assert!(String::from_utf8_lossy(&listed.stdout).starts_with("infra.quota "), "{listed:?}");
    }

    #[test]
    fn a_run_that_is_not_there_or_ran_on_something_else_is_not_gone_on_with() {
        let checkout = Checkout::new();
        checkout.refused(&["run", "--resume", "3fa9c1"], "there is none in");
        let (run, lock) = RunDir::create(&checkout.path("state")).unwrap();
        let plan = Plan {
            cases: vec!["infra.quota".into()],
            elsewhere: Vec::new(),
            shard: None,
            rounds: 1,
            inputs: Inputs::default().with("commit", "c0"),
            complete: true,
            earlier: None,
        };
        plan.save(&run).unwrap();
        let request = ["run", "--resume", run.id.short()];
        checkout.refused(&request, "its process lives");
        drop(lock);
        // There is no git to say of which commit this checkout is.
        checkout.refused(&request, "not known of which commit");
        checkout.refused(&[&request[..], &["--dry-run"]].concat(), "not known of which commit");
    }
}
