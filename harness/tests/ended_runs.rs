//! Runs that are ended before their end, on a real cluster: by SIGINT and SIGTERM, which a run
//! answers, and by SIGKILL, which it cannot. Needs a cluster that is up (`make up`) and takes some
//! ten minutes, so it is left out of a plain `cargo test`:
//!   HODEI_E2E_K8S=1 cargo test -p hodei-harness --test ended_runs -- --ignored --nocapture --test-threads=1
//!
//! It uses the state directory and the cluster of this user, as each run does, and touches nothing
//! but its own runs: a reap never touches one whose process lives.

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;
    use std::process::{ExitStatus, Stdio};
    use std::time::Duration;

    use hodei_harness::audit;
    use hodei_harness::cluster::{self, KindCluster};
    use hodei_harness::failure::FailureClass;
    use hodei_harness::journal::{Journal, Resource};
    use hodei_harness::outcome::Outcome;
    use hodei_harness::paths::Paths;
    use hodei_harness::progress::Progress;
    use hodei_harness::report::Report;
    use hodei_harness::run_dir::RunDir;
    use hodei_harness::verdict::Verdict;
    use hodei_harness::wait::{Observed, await_class};
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use tokio::process::{Child, Command};

    /// Runs that are killed.
    const KILLS: u32 = 10;
    /// The last moment at which one is: warm, its cases are under way by then or have ended.
    const LATEST: Duration = Duration::from_secs(40);
    /// A run that is left alone, with a build before it.
    const RUN_DEADLINE: Duration = Duration::from_secs(1200);
    /// A run that was told to end: its cases have ten seconds, its namespaces two minutes.
    const END_DEADLINE: Duration = Duration::from_secs(240);
    /// Between two looks at the process table.
    const LOOK: Duration = Duration::from_millis(50);
    /// All that a run starts inherits it; a run's own marks are what is being tested.
    const MARK: &str = "HODEI_E2E_ENDED_RUNS_TEST";
    /// Repeats the moments of an earlier test.
    const SEED: &str = "HODEI_E2E_KILL_SEED";
    /// Cases with servers, databases, namespaces and pods, a few at a time.
    const CASES: [&str; 4] = ["--layer", "full-job", "--layer", "registration"];

    /// Runs that this test started.
    struct Runs {
        mark: String,
        paths: Paths,
        report: tempfile::TempDir,
        pids: BTreeSet<i32>,
    }

    impl Runs {
        fn new() -> Self {
            let allowed = std::env::var("HODEI_E2E_K8S").is_ok_and(|value| value == "1");
            assert!(allowed, "it ends real runs on a real cluster: HODEI_E2E_K8S=1 allows it");
            Self {
                mark: uuid::Uuid::new_v4().to_string(),
                paths: Paths::discover().unwrap(),
                report: tempfile::tempdir().unwrap(),
                pids: BTreeSet::new(),
            }
        }

        fn start(&self) -> Child {
            let mut command = Command::new(env!("CARGO_BIN_EXE_hodei-e2e"));
            command.arg("run").args(CASES).arg("--report").arg(self.report.path());
            command.env(MARK, &self.mark).env("CI", "true").env_remove("HODEI_E2E_NODES");
            command.env_remove("HODEI_E2E_FEATURES");
            command.env_remove("HODEI_E2E_KUBERNETES");
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.kill_on_drop(true).spawn().unwrap()
        }

        /// The directory of the run that this process is, once it has one.
        fn directory(&self, pid: u32) -> Option<RunDir> {
            let is_its = |run: &RunDir| {
                let lock = std::fs::read_to_string(run.path.join("lock")).unwrap_or_default();
                lock.lines().next() == Some(pid.to_string().as_str())
            };
            RunDir::all(self.paths.state()).unwrap().into_iter().rev().find(is_its)
        }

        /// The processes that carry the mark now.
        fn look(&mut self) -> BTreeSet<i32> {
            let wanted = format!("{MARK}={}", self.mark);
            let carries = |pid: &i32| {
                let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                environ.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
            };
            let entries = std::fs::read_dir("/proc").unwrap().flatten();
            let all = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
            let found: BTreeSet<i32> = all.filter(carries).collect();
            self.pids.extend(&found);
            found
        }

        /// What is left of a run: by its journal, its labels and its marks.
        async fn left_of(&self, run: &RunDir) -> Vec<String> {
            let name = std::env::var(cluster::NAME_ENV).unwrap_or(cluster::DEFAULT_NAME.into());
            let cluster = KindCluster {
                kubeconfig: self.paths.kubeconfig(&name),
                context: format!("kind-{name}"),
                name,
                nodes: Vec::new(),
            };
            let journal = Journal::read(&run.journal_path()).unwrap();
            let stage = Progress::silent().unlisted();
            let mut left = audit::leaks(&run.id, &cluster, &journal, &stage).await.unwrap();
            left.extend(journal.outstanding().into_iter().map(|entry| entry.resource.describe()));
            for entry in &journal.entries {
                if let Resource::Directory { path } = &entry.resource
                    && path.exists()
                {
                    left.push(entry.resource.describe());
                }
            }
            left
        }

        /// Leases of ports whose owner was one of these runs' processes and is gone.
        fn leases(&self) -> Vec<String> {
            let directory =
                std::env::temp_dir().join(format!("hodei-e2e-ports-{}", nix::unistd::getuid()));
            let ports: BTreeSet<u64> = std::fs::read_dir(directory)
                .into_iter()
                .flatten()
                .filter_map(|port| Some(port.ok()?.metadata().ok()?.ino()))
                .collect();
            let locks = std::fs::read_to_string("/proc/locks").unwrap();
            let is_left = |line: &&str| {
                let fields: Vec<_> = line.split_whitespace().collect();
                let pid = fields.get(4).and_then(|pid| pid.parse::<i32>().ok());
                let file = fields.get(5).and_then(|file| file.rsplit(':').next()?.parse().ok());
                let ours = pid.is_some_and(|pid| {
                    self.pids.contains(&pid) && !PathBuf::from(format!("/proc/{pid}")).exists()
                });
                ours && file.is_some_and(|file: u64| ports.contains(&file))
            };
            locks.lines().filter(is_left).map(str::to_owned).collect()
        }

        async fn await_no_process(&mut self) {
            let what = "the runs' processes to be gone";
            await_class(FailureClass::Product, what, Duration::from_secs(20), async || {
                let left = self.look();
                Ok(if left.is_empty() {
                    Observed::Ready(())
                } else {
                    Observed::NotYet(format!("{left:?}"))
                })
            })
            .await
            .unwrap();
        }

        /// Waits until a case of the run is under way; returns the run's directory.
        async fn await_case(&self, pid: u32) -> RunDir {
            await_class(FailureClass::Harness, "a case to begin", RUN_DEADLINE, async || {
                let Some(run) = self.directory(pid) else {
                    return Ok(Observed::NotYet("no run".into()));
                };
                let begun = std::fs::read_dir(run.outcomes()).is_ok_and(|all| all.count() > 0);
                Ok(if begun { Observed::Ready(run) } else { Observed::NotYet("no outcome".into()) })
            })
            .await
            .unwrap()
        }
    }

    async fn ended(child: &mut Child, deadline: Duration) -> ExitStatus {
        tokio::time::timeout(deadline, child.wait()).await.expect("the run must end").unwrap()
    }

    fn signal(pid: u32, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }

    /// Splitmix64 (Steele, Lea, Flood 2014): the same seed, the same moments.
    struct Moments(u64);

    impl Moments {
        fn from_environment() -> Self {
            let given = std::env::var(SEED).ok().map(|seed| seed.parse().unwrap());
            let seed = given.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
            eprintln!("{SEED}={seed} repeats this");
            Self(seed)
        }

        fn next(&mut self) -> Duration {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            Duration::from_millis(
                (mixed ^ (mixed >> 31)) % u64::try_from(LATEST.as_millis()).unwrap(),
            )
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "kills real runs on a real cluster"]
    async fn what_killed_runs_leave_the_next_one_removes() {
        let (mut runs, mut moments) = (Runs::new(), Moments::from_environment());
        let (mut killed, mut written) = (Vec::new(), 0);
        for number in 1..=KILLS {
            let (moment, mut child) = (moments.next(), runs.start());
            let pid = child.id().unwrap();
            let until = tokio::time::Instant::now() + moment;
            // Which processes there were is known only from looking while they live.
            let mut looks = tokio::time::interval(LOOK);
            while tokio::time::Instant::now() < until && child.try_wait().unwrap().is_none() {
                runs.look();
                looks.tick().await;
            }
            let over = child.try_wait().unwrap().is_some();
            child.kill().await.unwrap();
            let Some(run) = runs.directory(pid) else {
                eprintln!("kill {number} after {moment:?}: before it had a directory");
                continue;
            };
            let left = Journal::read(&run.journal_path()).unwrap().outstanding().len();
            let how = if over { "it had ended" } else { "killed" };
            eprintln!(
                "kill {number} after {moment:?}: run {}, {how}, {left} thing(s) left",
                run.id
            );
            written += left;
            killed.push(run);
        }
        assert!(written > 0, "no kill left anything: this run of the test shows nothing");
        let mut last = runs.start();
        let run = runs.await_case(last.id().unwrap()).await;
        // The last run has reaped before it made its directory.
        for run in &killed {
            assert_eq!(runs.left_of(run).await, [""; 0], "run {}", run.id);
        }
        assert!(ended(&mut last, RUN_DEADLINE).await.success(), "run {}", run.id);
        assert_eq!(runs.left_of(&run).await, [""; 0]);
        runs.await_no_process().await;
        assert_eq!(runs.leases(), [""; 0]);
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "ends real runs on a real cluster"]
    async fn a_run_that_is_told_to_end_cleans_up_and_says_so_and_at_once_if_told_twice() {
        let mut runs = Runs::new();
        let mut child = runs.start();
        let pid = child.id().unwrap();
        let twice = runs.await_case(pid).await;
        signal(pid, Signal::SIGTERM);
        signal(pid, Signal::SIGINT);
        // Either may be seen first.
        let code = ended(&mut child, Duration::from_secs(5)).await.code();
        assert!([Some(130), Some(143)].contains(&code), "{code:?}");
        assert!(!twice.report().exists(), "it went on after the second signal");
        for (told, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
            let mut child = runs.start();
            let pid = child.id().unwrap();
            let run = runs.await_case(pid).await;
            signal(pid, told);
            assert_eq!(ended(&mut child, END_DEADLINE).await.code(), Some(code), "run {}", run.id);
            let report = Report::read(&run.report()).unwrap();
            assert_eq!(
                (report.verdict, report.exit_code),
                (Verdict::Inconclusive, code.try_into().unwrap())
            );
            assert_eq!(report.leaks, [""; 0]);
            let begun = report.cases.iter().filter(|case| case.started_at.is_some()).count();
            assert!(begun > 0 && report.counts.not_run > 0, "{}", report.counts);
            for case in &report.cases {
                let outcome = Outcome::read(&run.outcomes(), &case.id).unwrap();
                assert_eq!(outcome.is_some(), case.started_at.is_some(), "{}", case.id);
            }
            assert_eq!(runs.left_of(&run).await, [""; 0]);
        }
        assert_eq!(runs.left_of(&twice).await, [""; 0]);
        runs.await_no_process().await;
    }
}
