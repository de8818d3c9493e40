//! TLS between agent and server: a worker that the provider makes has the authority it needs, for as long
//! as it lives; an agent with another authority, or in plain text, gets no word through. Those are pods
//! that the case makes.

use std::time::Duration;

use anyhow::{Context, Result};
use hodei_harness::case::{
    CaseEnv, CaseOptions, PodRecord, command, make_authority, pod_terminated, run_case_with,
};
use hodei_proto::v1::{JobSpec, JobState};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::ResourceExt;
use kube::api::{ListParams, LogParams, PostParams};
use serde_json::json;

use crate::pods::{NO_RETRY, make_pod, pods};

/// A worker that the server does not know, and its password: an agent that got them through would end
/// with another exit code, as refused.
const NOBODY: &str = "0190b3a2-0000-7000-8000-00000000000a";
const PASSWORD: &str = "5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e";

/// The exit code of an agent that could not reach the server.
const UNREACHABLE: i32 = 12;

/// From an agent's start to the kubelet's word of its end, on a busy two-core machine.
const END_DEADLINE: Duration = Duration::from_secs(120);

/// Runs an agent in a pod of its own.
async fn start_agent(env: &CaseEnv, name: &str, server: &str, authority: &str) -> Result<()> {
    let maps = kube::Api::<ConfigMap>::namespaced(env.kube(), env.namespace());
    let map = serde_json::from_value(json!({
        "metadata": {"name": name}, "data": {"ca.pem": authority},
    }))?;
    maps.create(&PostParams::default(), &map).await?;
    let mut pod = make_pod(env, name, &["/usr/local/bin/hodei-worker"]);
    let variable = |name: &str, value: &str| json!({"name": name, "value": value});
    pod["spec"]["containers"][0]["env"] = json!([
        variable("HODEI_WORKER_ID", NOBODY),
        variable("HODEI_OTP_TOKEN", PASSWORD),
        variable("HODEI_SERVER_ADDRESS", server),
        variable("HODEI_CA_FILE", "/authority/ca.pem"),
        variable("HODEI_REGISTER_TIMEOUT_SECONDS", "3"),
    ]);
    pod["spec"]["containers"][0]["resources"]["limits"]["memory"] = json!("128Mi");
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "authority", "mountPath": "/authority"}, {"name": "tmp", "mountPath": "/tmp"}]);
    pod["spec"]["volumes"] = json!([
        {"name": "authority", "configMap": {"name": name}},
        {"name": "tmp", "emptyDir": {}},
    ]);
    let host = &env.environment().host;
    pod["spec"]["hostAliases"] =
        json!([{"ip": host.address.to_string(), "hostnames": [host.hostname]}]);
    let pod: Pod = serde_json::from_value(pod)?;
    pods(env).create(&PostParams::default(), &pod).await?;
    Ok(())
}

/// The exit code and the log of an agent that gives up.
async fn await_end(env: &CaseEnv, name: &str) -> Result<(i32, String)> {
    let ended = |pods: &[PodRecord]| {
        let pod = pods.iter().find(|record| record.pod.name_any() == name)?;
        pod_terminated(&pod.pod)
    };
    let code = env.await_pods("the agent's end", END_DEADLINE, ended).await?;
    Ok((code, pods(env).logs(name, &LogParams::default()).await?))
}

/// Whether the provider made it.
fn is_worker(record: &PodRecord) -> bool {
    record.pod.name_any().starts_with("hodei-worker-")
}

/// The environment of the provider's pod.
async fn worker_environment(env: &CaseEnv) -> Result<Vec<(String, Option<String>)>> {
    let spec =
        env.await_pod("the worker's pod", is_worker).await?.spec.context("a pod without spec")?;
    let container = spec.containers.into_iter().next().context("a pod without containers")?;
    let variables = container.env.unwrap_or_default().into_iter();
    Ok(variables.map(|variable| (variable.name, variable.value)).collect())
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_tls_of_the_worker_link() {
    let options = CaseOptions::new().tls().deadline(Duration::from_secs(300));
    run_case_with("registration.tls", options, async |env| {
        let encrypted = env.advertised_address()?.to_owned();
        let plain = encrypted.replacen("https://", "http://", 1);
        let (right, wrong) = (env.authority()?.to_owned(), make_authority()?);
        start_agent(env, "wrong-authority", &encrypted, &wrong).await?;
        start_agent(env, "plain-text", &plain, &right).await?;
        let (code, log) = await_end(env, "wrong-authority").await?;
        assert_eq!(code, UNREACHABLE, "{log}");
        assert!(log.contains("certificate"), "it does not say what is wrong: {log}");
        assert!(!log.contains(PASSWORD), "the password is in the agent's log");
        let (code, log) = await_end(env, "plain-text").await?;
        assert_eq!(code, UNREACHABLE, "{log}");
        assert!(!log.contains(PASSWORD), "the password is in the agent's log");

        let mut gate = env.make_gate()?;
        let text = format!("echo before; {}; echo after", gate.wait());
        let run = command(&["sh", "-c", &text]);
        let job = env.submit(JobSpec { retry: Some(NO_RETRY), ..run }).await?;
        env.await_output(&job.id, "before").await?;
        let variables = worker_environment(env).await?;
        let given = |name: &str| variables.iter().find(|(known, _)| known == name);
        let (_, address) = given("HODEI_SERVER_ADDRESS").context("no address")?;
        assert_eq!(address.as_deref(), Some(encrypted.as_str()));
        let (_, authority) = given("HODEI_CA_PEM").context("no authority")?;
        let authority = authority.as_deref().unwrap_or_default();
        assert_eq!(authority, right.replace('\r', ""));
        // With its password gone and the link lost, it comes again by what is in its pod.
        env.server()?.kill().await?;
        env.server()?.start_again().await?;
        gate.open().await?;
        let ended = env.await_job_state(&job.id, JobState::Succeeded).await?;
        assert_eq!(ended.attempts.len(), 1, "the same worker finished it");
        assert_eq!(env.job_output(&job.id).await?.stdout(), "before\nafter\n");
        let gone = |pods: &[PodRecord]| {
            pods.iter().filter(|record| is_worker(record)).all(|record| record.gone).then_some(())
        };
        env.await_pods("the worker to be gone", END_DEADLINE, gone).await?;
        let secrets = kube::Api::<Secret>::namespaced(env.kube(), env.namespace());
        let left = secrets.list(&ListParams::default()).await?.items;
        assert_eq!(left.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), [""; 0]);
        Ok(())
    });
}
