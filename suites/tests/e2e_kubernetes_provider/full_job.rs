//! One job, from submit to result and clean-up.

use hodei_harness::case::{CaseOptions, command, run_case, run_case_with};
use hodei_proto::v1::{
    CancelJobRequest, JobSpec, JobState, Resources, RetryPolicy, SubmitJobRequest,
    attempt_outcome::How,
};
use serde_json::json;
use tonic::Code;

use crate::pods::{NO_RETRY, pods_ever};

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_full_job_execution() {
    run_case("full-job.execution", async |env| {
        let job = env.submit_command(&["sh", "-c", "echo hello; echo wörld"]).await?;
        env.await_pod("a pod for the job", |record| record.pod.spec.is_some()).await?;
        let output = env.job_output(&job.id).await?;
        assert_eq!(output.stdout(), "hello\nwörld\n");
        let job = env.await_job_state(&job.id, JobState::Succeeded).await?;
        assert_eq!(job.outcome.and_then(|outcome| outcome.how), Some(How::ExitCode(0)));
        assert_eq!(job.attempts.len(), 1);
        let rows = env.rows("SELECT state, exit_code FROM jobs").await?;
        assert_eq!(rows, [json!({"state": "succeeded", "exit_code": 0})]);
        env.await_gone().await?;
        assert_eq!(pods_ever(env), 1);
        let again = env.job_output(&job.id).await?;
        assert_eq!(again, output, "the output is as it was after the pod is gone");
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_exit_code_and_streams() {
    run_case("full-job.exit-code", async |env| {
        let script = "i=0\nwhile [ $i -lt 200 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done\nexit 3\n";
        let job = env.submit_script(script).await?;
        let output = env.job_output(&job.id).await?;
        let job = env.await_job_state(&job.id, JobState::Failed).await?;
        assert_eq!(job.outcome.and_then(|outcome| outcome.how), Some(How::ExitCode(3)));
        let expected = |what: &str| (0..200).map(|i| format!("{what} {i}\n")).collect::<String>();
        assert_eq!(output.stdout(), expected("out"));
        assert_eq!(output.stderr(), expected("err"));
        let sequences = output.sequences();
        let contiguous: Vec<u64> = (1..=sequences.len() as u64).collect();
        assert_eq!(sequences, contiguous, "each frame once and in order");
        let rows = env.rows("SELECT state, exit_code FROM jobs").await?;
        assert_eq!(rows, [json!({"state": "failed", "exit_code": 3})]);
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_cancel_running() {
    run_case("full-job.cancel-running", async |env| {
        let job = env.submit_command(&["sh", "-c", "echo begun; sleep 600 & wait"]).await?;
        env.await_job_state(&job.id, JobState::Running).await?;
        let request = CancelJobRequest { id: job.id.clone(), reason: "no longer needed".into() };
        env.clients()?.jobs().cancel(request.clone()).await?;
        let job = env.await_job_state(&job.id, JobState::Cancelled).await?;
        let again = env.clients()?.jobs().cancel(request).await?.into_inner().job;
        assert_eq!(
            again.map(|job| job.version),
            Some(job.version),
            "a second cancel changes nothing"
        );
        env.await_gone().await?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_command_not_found() {
    run_case("full-job.command-not-found", async |env| {
        let spec = JobSpec { retry: Some(NO_RETRY), ..command(&["/no/such/program"]) };
        let job = env.submit(spec).await?;
        let job = env.await_job_state(&job.id, JobState::Failed).await?;
        let said = format!("{} {:?}", job.reason, job.outcome);
        assert!(said.contains("/no/such/program") || said.contains("127"), "{said}");
        assert_eq!(job.attempts.len(), 1);
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_bad_spec_refused() {
    let options = CaseOptions::new().without_provider();
    run_case_with("full-job.bad-spec", options, async |env| {
        let mut bad_env = command(&["true"]);
        bad_env.env.insert("HODEI_MINE".into(), "x".into());
        let many = RetryPolicy { infrastructure: None, command: Some(11) };
        let resources = Resources { memory_limit: "plenty".into(), ..Default::default() };
        let table = [
            ("spec: needs a command or a script", JobSpec::default()),
            ("spec.name", JobSpec { name: "Not A Label".into(), ..command(&["true"]) }),
            ("spec.env[\"HODEI_MINE\"]", bad_env),
            ("spec.retry.command", JobSpec { retry: Some(many), ..command(&["true"]) }),
            (
                "spec.resources.memory_limit",
                JobSpec { resources: Some(resources), ..command(&["true"]) },
            ),
            ("spec.command.argv", command(&[])),
            ("spec.image", JobSpec { image: "two words".into(), ..command(&["true"]) }),
            ("spec.priority", JobSpec { priority: 1001, ..command(&["true"]) }),
            (
                "spec.working_directory",
                JobSpec { working_directory: "relative".into(), ..command(&["true"]) },
            ),
        ];
        for (field, spec) in table {
            let request = SubmitJobRequest { spec: Some(spec), ..Default::default() };
            let refused = env.clients()?.jobs().submit(request).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{field}: {refused}");
            assert!(refused.message().contains(field), "{field} is not named: {refused}");
        }
        assert_eq!(env.rows("SELECT id FROM jobs").await?.len(), 0);
        Ok(())
    });
}
