//! One job after another on workers that stay.

use std::collections::BTreeSet;

use anyhow::Result;
use hodei_harness::case::{CaseEnv, CaseOptions, run_case_with};
use hodei_proto::v1::{Job, JobSpec, JobState, attempt_outcome::How, job_spec::Run};
use kube::api::DeleteParams;
use serde_json::json;

use crate::pods::{NO_RETRY, pods, pods_ever, worker_of};
use crate::pooled::{await_idle, await_waiting, clear_pool, hodei};

/// Defines `places`, which prints each directory, and each file that is mounted, where a job may write.
const PLACES: &str = r#"
places() {
  while read -r _ _ _ _ point options _; do
    case $point,$options in
      /proc*|/sys*) ;;
      *,rw*) find "$point" -xdev -writable \( -type d -o -type f -path "$point" \) 2>/dev/null || : ;;
    esac
  done </proc/self/mountinfo
}
env | sed 's/=.*//; s/^/variable /' | sort
echo "host $(cat /etc/hostname)"
"#;

/// Leaves something in each place, hidden or locked where it can be, and a process that outlives it.
const LEAVE: &str = r#"
for place in $(places); do
  echo "place $place"
  if [ -f "$place" ]; then
    echo left-behind >"$place"
  else
    touch "$place/.left-behind"
    if mkdir "$place/left-locked" 2>/dev/null; then
      touch "$place/left-locked/file"
      chmod 555 "$place/left-locked"
    fi
  fi
done
setsid sh -c 'touch /tmp/left-begun; sleep 98765' >/dev/null 2>&1 &
until [ -e /tmp/left-begun ]; do :; done
"#;

/// Prints what an earlier job has left.
const LOOK: &str = r#"
for place in $(places); do
  find "$place" -xdev -name '*left-*' 2>/dev/null || :
  if [ -f "$place" ]; then grep -l left-behind "$place" || :; fi
done | sed 's/^/left /'
grep -l '9876[5]' /proc/[0-9]*/cmdline 2>/dev/null | sed 's/^/process /' || :
"#;

/// A script in its parts, as a job that is tried once.
fn script(parts: &[&str]) -> JobSpec {
    let run = Some(Run::Script(parts.concat()));
    JobSpec { run, retry: Some(NO_RETRY), ..Default::default() }
}

/// Runs a job to its end; answers it and what it printed after `what`.
async fn run(env: &CaseEnv, spec: JobSpec) -> Result<(Job, Vec<(String, String)>)> {
    let job = env.await_job_end(&env.submit(spec).await?.id).await?;
    let output = env.job_output(&job.id).await?.stdout();
    let lines = output.lines().filter_map(|line| line.split_once(' '));
    Ok((job, lines.map(|(what, it)| (what.to_owned(), it.to_owned())).collect()))
}

fn told<'a>(lines: &'a [(String, String)], what: &str) -> BTreeSet<&'a str> {
    lines.iter().filter(|(of, _)| of == what).map(|(_, it)| it.as_str()).collect()
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_pooled_worker_is_clean_for_each_job() {
    let options = CaseOptions::new().pool(0, 1, 3600);
    run_case_with("multi-worker.pool-reuse", options, async |env| {
        let mut leaving = script(&[PLACES, LEAVE, LOOK]);
        leaving.env.insert("LEFT_VARIABLE".into(), "left".into());
        let (first, before) = run(env, leaving).await?;
        assert_eq!(first.state(), JobState::Succeeded, "{first:?} {before:?}");
        let places = told(&before, "place");
        for place in ["/workspace", "/tmp", "/dev/shm"] {
            assert!(places.contains(place), "{place} is not of {places:?}");
        }
        // It sees itself what it leaves, so that the others would.
        assert!(told(&before, "left").len() >= places.len(), "{before:?}");
        assert!(!told(&before, "process").is_empty(), "{before:?}");
        let mut variables = told(&before, "variable");
        assert!(variables.remove("LEFT_VARIABLE"), "{before:?}");

        let (failed, seen) = run(env, script(&[PLACES, LOOK, "exit 7"])).await?;
        let (last, seen_last) = run(env, script(&[PLACES, LOOK])).await?;
        for seen in [&seen, &seen_last] {
            assert_eq!(told(seen, "left"), BTreeSet::new(), "files of the first job");
            assert_eq!(told(seen, "process"), BTreeSet::new(), "processes of the first job");
            assert_eq!(told(seen, "variable"), variables);
            assert_eq!(told(seen, "host"), told(&before, "host"));
        }
        let how = |job: &Job| job.outcome.clone().and_then(|outcome| outcome.how);
        assert_eq!((failed.state(), how(&failed)), (JobState::Failed, Some(How::ExitCode(7))));
        assert_eq!((last.state(), how(&last)), (JobState::Succeeded, Some(How::ExitCode(0))));
        let of =
            "SELECT count(*) AS workers, count(DISTINCT pod_uid) AS pods, sum(jobs_done) AS jobs
                  FROM workers";
        assert_eq!(env.rows(of).await?, [json!({"workers": 1, "pods": 1, "jobs": 3})]);
        clear_pool(env).await?;
        assert_eq!(pods_ever(env), 1);
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_pool_minimum_is_kept_warm() {
    let options = CaseOptions::new().pool(2, 4, 3600);
    run_case_with("multi-worker.pool-minimum", options, async |env| {
        let warm = await_idle(env, 2, &[]).await?;
        let at_once = DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
        pods(env).delete(&format!("hodei-worker-{}", warm[0]), &at_once).await?;
        let refilled = await_idle(env, 2, &[&warm[0]]).await?;
        assert!(refilled.contains(&warm[1]), "{refilled:?} is not {warm:?} refilled");
        let mut took = BTreeSet::new();
        for index in 0..4 {
            let job = env.submit_command(&["echo", &format!("job {index}")]).await?;
            let ended = env.await_job_state(&job.id, JobState::Succeeded).await?;
            assert_eq!(ended.attempts.len(), 1, "{ended:?}");
            took.insert(worker_of(&ended)?);
            assert_eq!(env.job_output(&job.id).await?.stdout(), format!("job {index}\n"));
        }
        assert!(took.iter().all(|worker| refilled.contains(worker)), "{took:?} of {refilled:?}");
        assert_eq!(await_idle(env, 2, &[]).await?, refilled, "they stay for the next job");
        clear_pool(env).await?;
        assert_eq!(pods_ever(env), 3, "no job made a pod, and one was lost");
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_drained_pooled_worker_takes_no_other() {
    let options = CaseOptions::new().pool(0, 1, 3600);
    run_case_with("multi-worker.pool-drain", options, async |env| {
        let mut gate = env.make_gate()?;
        let text = format!("echo begun\n{}\necho done", gate.wait());
        let begun = env.submit_script(&text).await?;
        env.await_running(&begun.id, "begun").await?;
        let first = worker_of(&env.job(&begun.id).await?)?;
        let said = hodei(env, &["worker", "drain", &first]).await?;
        assert_eq!(said, format!("worker {first} is draining\n"));
        // It waits at the moment at which the drained worker has nothing else to do.
        let next = env.submit_command(&["echo", "next"]).await?;
        await_waiting(env, &next).await?;
        gate.open().await?;
        let ended = env.await_job_state(&begun.id, JobState::Succeeded).await?;
        assert_eq!(ended.attempts.len(), 1, "{ended:?}");
        assert_eq!(env.job_output(&begun.id).await?.stdout(), "begun\ndone\n");
        let next = env.await_job_state(&next.id, JobState::Succeeded).await?;
        let second = worker_of(&next)?;
        assert!(next.attempts.len() == 1 && second != first, "{next:?}");
        // One that has nothing to do has nothing to end.
        await_idle(env, 1, &[&first]).await?;
        let said = hodei(env, &["worker", "drain", &second]).await?;
        assert_eq!(said, format!("worker {second} is terminating\n"));
        let last = env.submit_command(&["echo", "last"]).await?;
        let third = worker_of(&env.await_job_state(&last.id, JobState::Succeeded).await?)?;
        assert!(third != first && third != second, "{third} was drained");
        clear_pool(env).await?;
        let done = "SELECT jobs_done FROM workers";
        assert_eq!(env.rows(done).await?, vec![json!({"jobs_done": 1}); 3], "each took one");
        assert_eq!(pods_ever(env), 3);
        Ok(())
    });
}
