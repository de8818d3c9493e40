//! What a command finds around it, how its end is told, and how it is stopped.

use anyhow::Result;
use hodei_harness::case::{
    CaseEnv, CaseOptions, Output, command, pod_ready, run_case, run_case_with,
};
use hodei_proto::moment;
use hodei_proto::v1::{
    CancelJobRequest, Job, JobSpec, JobState, SubmitJobRequest, attempt_outcome::How, job_spec::Run,
};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::api::LogParams;
use serde_json::json;

use crate::candidate::cancel;
use crate::pods::{NO_RETRY, pods, worker_of};

/// What the servers of cases give a job that is cancelled to end by itself.
const CANCEL_GRACE: SignedDuration = SignedDuration::from_secs(3);

fn script(text: &str) -> JobSpec {
    JobSpec { run: Some(Run::Script(text.to_owned())), retry: Some(NO_RETRY), ..Default::default() }
}

async fn ended(env: &CaseEnv, spec: JobSpec) -> Result<Job> {
    Ok(env.await_job_end(&env.submit(spec).await?.id).await?)
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_exit_codes_and_signals() {
    run_case("full-job.exit-codes", async |env| {
        let table = [
            ("exit 0", JobState::Succeeded, How::ExitCode(0), 0),
            ("exit 1", JobState::Failed, How::ExitCode(1), 1),
            ("exit 137", JobState::Failed, How::ExitCode(137), 137),
            ("exit 255", JobState::Failed, How::ExitCode(255), 255),
            ("kill -TERM $$", JobState::Failed, How::Signal(15), 143),
            ("kill -KILL $$", JobState::Failed, How::Signal(9), 137),
        ];
        let jobs = table.iter().map(|(text, ..)| ended(env, script(text)));
        let jobs = futures::future::try_join_all(jobs).await?;
        for ((text, state, how, code), job) in table.into_iter().zip(&jobs) {
            assert_eq!(job.state(), state, "{text}: {job:?}");
            assert_eq!(job.attempts.len(), 1, "{text}");
            let outcome = job.outcome.clone().unwrap_or_default();
            assert_eq!((outcome.how, outcome.out_of_memory), (Some(how), false), "{text}");
            let sql = format!("SELECT exit_code FROM jobs WHERE id = '{}'", job.id);
            assert_eq!(
                env.rows(&sql).await?,
                [json!({"exit_code": code})],
                "{text}: as a shell shows it"
            );
        }
        Ok(env.await_gone().await?)
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_what_a_command_finds() {
    run_case("full-job.environment", async |env| {
        let mut spec = script(
            "pwd; printf '%s|' \"$GREETING\" \"$EMPTY\" \"$HODEI_ATTEMPT\" \"$HODEI_JOB_ID\"; env | cut -d= -f1 | sort",
        );
        spec.working_directory = "/tmp".into();
        spec.env = [("GREETING", "grüße, 世界 🚀 $HOME"), ("EMPTY", "")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let argv = ["printf", "%s\\n", "two words", "$HOME;*", "ñandú 🚀", ""];
        let (scripted, plain) = (env.submit(spec).await?, env.submit(command(&argv)).await?);
        let absent = JobSpec { working_directory: "/no/such/place".into(), ..script("true") };
        let absent = ended(env, absent).await?;
        let seen = env.job_output(&scripted.id).await?.stdout();
        let head = format!("/tmp\ngrüße, 世界 🚀 $HOME||1|{}|", scripted.id);
        let names = seen.strip_prefix(&head).unwrap_or_default();
        // PWD, OLDPWD and _ are the shell's own.
        let own = |name: &&str| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name);
        let names: Vec<_> = names.lines().filter(own).collect();
        let expected =
            ["EMPTY", "GREETING", "HODEI_ATTEMPT", "HODEI_JOB_ID", "HOME", "LANG", "PATH"];
        assert_eq!(names, expected, "nothing of the agent's own environment: {seen}");
        let printed = env.job_output(&plain.id).await?.stdout();
        assert_eq!(printed, "two words\n$HOME;*\nñandú 🚀\n\n", "no shell is in between");
        assert_eq!(absent.state(), JobState::Failed);
        let said = format!("{} {:?}", absent.reason, absent.outcome);
        assert!(said.contains("/no/such/place"), "{said}");
        env.await_job_state(&scripted.id, JobState::Succeeded).await?;
        env.await_job_state(&plain.id, JobState::Succeeded).await?;
        Ok(env.await_gone().await?)
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_secret_variable_is_shown_nowhere() {
    run_case("full-job.secret-env", async |env| {
        let secret = "sw0rdfish-4711-ünsichtbar";
        let mut spec = script("echo length ${#TOKEN}; sleep 600");
        spec.env = [("TOKEN".to_owned(), secret.to_owned())].into();
        let broken = JobSpec { working_directory: "relative".into(), ..spec.clone() };
        let request = SubmitJobRequest { spec: Some(broken), ..Default::default() };
        let refused = env.clients()?.jobs().submit(request).await.unwrap_err();
        let job = env.submit(spec).await?;
        env.await_output(&job.id, "length").await?;
        let name = format!("hodei-worker-{}", worker_of(&env.job(&job.id).await?)?);
        env.await_pod("the agent's container running", |record| {
            record.pod.name_any() == name && pod_ready(&record.pod)
        })
        .await?;
        let agent_log = pods(env).logs(&name, &LogParams::default()).await?;
        assert!(agent_log.contains(&job.id), "the agent's log: {agent_log}");
        cancel(env, &job.id).await?;
        let database = env
            .rows(
                "SELECT to_jsonb(a) AS a, to_jsonb(w) AS w, to_jsonb(e) AS e, j.reason
                 FROM attempts a JOIN workers w ON w.id = a.worker_id
                 JOIN job_events e ON e.job_id = a.job_id JOIN jobs j ON j.id = a.job_id",
            )
            .await?;
        assert!(database.len() > 2, "{database:?}");
        let places = [
            ("the server's log", env.server_log()?),
            ("the agent's log", agent_log),
            ("pods and events", std::fs::read_to_string(env.recorder().timeline())?),
            ("the database's other rows", format!("{database:?}")),
            ("the metrics", env.clients()?.text("/metrics").await?),
            ("a refusal", refused.message().to_owned()),
        ];
        for (place, text) in places {
            assert!(!text.contains("sw0rdfish"), "the secret is in {place}");
        }
        Ok(env.await_gone().await?)
    });
}

/// When a word was in a job's output, by the agent's clock.
fn heard(output: &Output, word: &str) -> Vec<Timestamp> {
    let frames = output.frames.iter().map(|(_, frame)| frame);
    let with = frames.filter(|frame| String::from_utf8_lossy(&frame.data).contains(word));
    with.filter_map(|frame| moment(frame.time.as_ref())).collect()
}

/// The command and a child that has left its group both ignore SIGTERM, and write on until they are
/// killed. An agent that left the child alive would read its output for ever.
#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_cancel_kills_the_whole_tree() {
    run_case_with("full-job.cancel-tree", CaseOptions::new(), async |env| {
        let text = "trap 'echo told' TERM
                    setsid sh -c \"trap '' TERM; while :; do echo child; sleep 0.1; done\" &
                    while :; do sleep 0.1 || true; echo parent; done";
        let job = env.submit(script(text)).await?;
        // Only then has the child set its trap; the parent set its own before.
        env.await_output(&job.id, "child").await?;
        let request = CancelJobRequest { id: job.id.clone(), reason: "enough".into() };
        env.clients()?.jobs().cancel(request).await?;
        let job = env.await_job_state(&job.id, JobState::Cancelled).await?;
        let output = env.job_output(&job.id).await?;
        let heard = |word: &str| heard(&output, word);
        let told = *heard("told").first().expect("the command was told");
        for who in ["parent", "child"] {
            let last = *heard(who).last().expect("it wrote before it was told");
            assert!(
                last.duration_since(told) >= CANCEL_GRACE / 2,
                "{who} was to live through the grace: told at {told}, last heard at {last}"
            );
        }
        let rows = env
            .rows(
                "SELECT a.state, a.failure_cause,
                    a.finished_at - e.at >= interval '3 s' AS grace_kept
                 FROM attempts a JOIN job_events e ON e.job_id = a.job_id
                 WHERE e.to_state = 'cancelling'",
            )
            .await?;
        let expected = json!({"state": "finished", "failure_cause": null, "grace_kept": true});
        assert_eq!(rows, [expected], "told when its grace was over, and not given up");
        assert_eq!(job.attempts.len(), 1);
        Ok(env.await_gone().await?)
    });
}
